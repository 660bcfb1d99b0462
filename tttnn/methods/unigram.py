"""The model's distribution mixed with how often each token occurs in the neighbours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttnn.errors import ParameterError
from tttnn.methods.base import Method
from tttnn.ttt import TTT, Retrieved, Step, check_ks


@dataclass(frozen=True)
class Unigram(Method):
    """Mix the model's distribution with how often each token occurs in the neighbours.

    ``p = (1 - weight) p_model + weight count / total``, counts over all tokens of the k neighbours: the published
    interpolation baseline at a weight that is fixed beforehand.

    Attributes
    ----------
    weight : float
        Between 0 and 1.
    """

    weight: float
    about = "the model's distribution mixed with the neighbours' unigrams"
    makes_steps = False

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ParameterError(f"weight={self.weight:g}: it is between 0 and 1")

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Mix in the unigrams of the first k neighbours; no step is made."""
        wanted = check_ks(ks, found.texts)
        scorer = ttt.scorer(found.scored)
        start = time.perf_counter()
        model = scorer.token_nats().double()  # (tokens,)
        passed = time.perf_counter() - start  # each score needs it
        targets = torch.tensor(scorer.tokens, device=model.device)  # (tokens,)
        for k in sorted({0} | wanted):
            start = time.perf_counter()
            tokens = [token for text in found.texts[:k] for token in ttt.lm.encode(text)]
            score = scorer.total(_mixed(model, targets, tokens, self.weight) if k else model)
            seconds = passed + time.perf_counter() - start
            yield Step(k, score, evaluation_seconds=seconds, evaluation_operations=scorer.operations())


def _mixed(model: Tensor, targets: Tensor, tokens: list[int], weight: float) -> Tensor:
    counts = torch.bincount(torch.tensor(tokens, device=model.device), minlength=int(targets.max()) + 1)
    share = counts[targets].double() / max(len(tokens), 1)  # (tokens,)
    return -torch.log((1 - weight) * torch.exp(-model) + weight * share)
