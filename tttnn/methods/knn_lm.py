"""kNN-LM over the neighbours' tokens: Khandelwal et al. (2020), arXiv 1911.00172."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttnn.errors import ParameterError
from tttnn.methods.base import Method
from tttnn.parameters import number
from tttnn.scoring import Scorer, rolling_windows
from tttnn.ttt import TTT, Retrieved, Step, check_ks

NEAREST = 1024  # contexts that vote, as in the paper
AT_ONCE = 256  # tokens of the text that are compared with all keys: bounds memory


@dataclass(frozen=True)
class KnnLM(Method):
    """Mix the model's distribution with one over the tokens that followed similar contexts in the neighbours.

    ``p = weight p_kNN + (1 - weight) p_model``. The key of a context is the model's last hidden state, what its output
    layer takes (the paper's is the input of the last feed-forward layer, which not every model has at one place), the
    value is the token that followed. ``p_kNN`` of a token is the share of ``exp(-distance / temperature)`` that the
    keys with this value have among the 1,024 nearest of all keys of the k neighbours, by exact search. The distance is
    squared L2 over the width of the state, so that a temperature means the same for models of different widths. Looked
    up are the tokens that would be trained on: with `max_chunks` the first chunks of each neighbour alone.

    Attributes
    ----------
    weight : float
        From 0, the model alone, to below 1: a token that no neighbour has would be impossible.
    temperature : float
        Above 0.
    """

    weight: float
    temperature: float = 1.0
    about = "the model's distribution mixed with tokens that followed similar contexts in the neighbours"
    makes_steps = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:
            raise ParameterError(f"weight={self.weight:g}: it is from 0 to below 1")
        if number("temperature", self.temperature) <= 0:
            raise ParameterError(f"temperature={self.temperature:g}: it is above 0")

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Mix in the votes of the first k neighbours' tokens; no step is made."""
        wanted = check_ks(ks, found.texts)
        scorer = ttt.scorer(found.scored)
        start = time.perf_counter()
        queries, model = scorer.states_and_nats()  # (tokens, width), (tokens,)
        passed, own = time.perf_counter() - start, scorer.operations()  # each score needs them
        yield Step(0, scorer.total(model), evaluation_seconds=passed, evaluation_operations=own)
        keys, values = queries[:0], torch.tensor([], dtype=torch.long, device=queries.device)
        for k, neighbour in enumerate(found.texts[: max(wanted)], start=1):
            start = time.perf_counter()
            more, followed, operations = _entries(ttt, scorer, neighbour)
            keys, values = torch.cat([keys, more]), torch.cat([values, followed])
            kept, start = time.perf_counter() - start, time.perf_counter()
            score = scorer.total(self._mixed(scorer, queries, model, keys, values)) if k in wanted else None
            seconds = passed + time.perf_counter() - start if score else 0.0
            search = own + 2.0 * len(queries) * keys.numel() if score else 0.0  # a product with each key
            yield Step(
                k, score, train_seconds=kept, evaluation_seconds=seconds, train_operations=operations,
                evaluation_operations=search,
            )  # fmt: skip

    def _mixed(self, scorer: Scorer, queries: Tensor, model: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Nats of each token under the mixture, float64, shape (tokens,); without keys, under the model alone."""
        if not len(keys):
            return model.double()
        targets = torch.tensor(scorer.tokens, device=queries.device)  # (tokens,)
        votes = torch.cat(
            [
                _votes(*part, keys, values, self.temperature)
                for part in zip(queries.split(AT_ONCE), targets.split(AT_ONCE), strict=True)
            ]
        )  # (tokens,)
        shares = torch.tensor([1 - self.weight, self.weight], dtype=torch.float64, device=queries.device).log()
        return -torch.logaddexp(shares[0] - model.double(), shares[1] + votes.log())


def _entries(ttt: TTT, scorer: Scorer, text: str) -> tuple[Tensor, Tensor, float]:
    """Keys (tokens, width) and values (tokens,) of a neighbour, cut into windows as the text is, and the operations."""
    tokens = [token for chunk in ttt.chunks(text)[0] for token in chunk]
    values = torch.tensor(tokens, dtype=torch.long, device=ttt.lm.device)
    if not tokens:
        return torch.empty(0, ttt.lm.head[0].shape[1], device=ttt.lm.device), values, 0.0
    windows = list(rolling_windows(tokens, scorer.prefix_id, scorer.context))
    return scorer.states(windows), values, scorer.operations(windows)


def _votes(queries: Tensor, targets: Tensor, keys: Tensor, values: Tensor, temperature: float) -> Tensor:
    """p_kNN of each target: float64, shape (tokens,)."""
    distances = torch.cdist(queries, keys).square() / queries.shape[1]  # (tokens, keys)
    near, places = distances.topk(min(NEAREST, len(keys)), largest=False)  # (tokens, nearest) each
    shares = torch.softmax(-near.double() / temperature, dim=1)
    return (shares * (values[places] == targets[:, None])).sum(1)
