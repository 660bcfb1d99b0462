"""Dynamic evaluation: the text is trained on as it is scored, each segment after its score stands.

With the switch `lora`, adapters are trained instead of the weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tttnn.errors import ParameterError
from tttnn.methods.base import Method
from tttnn.parameters import number
from tttnn.scoring import Score, Scorer, Window
from tttnn.ttt import TTT, Retrieved, Step, check_ks

if TYPE_CHECKING:
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection
    from tttnn.ttt import Switches


@dataclass(frozen=True)
class Dynamic(Method):
    """Dynamic evaluation (Krause et al., 2018): score a segment of the text, make a step on it, go on to the next.

    No token is trained on before it is scored, so all of the text counts, as with everything else. No neighbour is
    used: the score stands at the largest k.

    Attributes
    ----------
    segment : int
        Tokens of a segment, from 2 to the context. A segment is scored after as much of the text before it as the
        context holds.
    """

    segment: int
    about = "train on the text itself, each segment once it is scored"
    uses_neighbours = False

    def __post_init__(self) -> None:
        number("segment", self.segment, least=2, whole=True)

    def check(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> None:
        """Raise ParameterError if a segment is longer than what the model takes, or dropout is asked for."""
        number("segment", self.segment, most=lm.positions)
        if switches.dropout:
            raise ParameterError(f"dropout={switches.dropout:g}: steps along the text go without; leave it out")

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score the text as it is, and along its segments."""
        wanted = check_ks(ks)
        scorer = ttt.scorer(found.scored)
        _check_segment(self.segment, scorer)
        with ttt.session():  # of weights that are rounded, these are scored
            yield Step(0, scorer(), evaluation_operations=scorer.operations())
            step = _evaluated(ttt, scorer, self.segment, max(wanted)) if max(wanted) else None
        if step:
            yield step


@dataclass(frozen=True)
class ThenDynamic(Dynamic):
    """Train on the neighbours, then go on with dynamic evaluation along the text, with the same optimizer.

    After each score the model is again as the neighbours left it.
    """

    about = "train on the neighbours, then on the text itself, each segment once it is scored"
    uses_neighbours = True

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score the text as it is, and along its segments after k neighbours."""
        wanted = check_ks(ks, found.texts)
        scorer = ttt.scorer(found.scored)
        _check_segment(self.segment, scorer)
        with ttt.session():
            yield Step(0, scorer(), evaluation_operations=scorer.operations())
            for k, neighbour in enumerate(found.texts[: max(wanted)], start=1):
                start = time.perf_counter()
                chunks, skipped, beyond = ttt.chunks(neighbour)
                losses = tuple(map(float, ttt.train(chunks, k)))
                spent, tokens = time.perf_counter() - start, sum(map(len, chunks))
                trained = losses, tokens, skipped, beyond, spent
                if k in wanted:
                    with _put_back(ttt):
                        after = _evaluated(ttt, scorer, self.segment, k)
                    score, cost = after.score, (after.evaluation_seconds, after.evaluation_operations)
                else:
                    score, cost = None, (0.0, 0.0)
                yield Step(k, score, *trained, cost[0], ttt.operations(tokens), cost[1])


def _check_segment(segment: int, scorer: Scorer) -> None:
    if segment > scorer.context:
        raise ParameterError(f"segment={segment}: must be from 2 to {scorer.context}, the tokens of the context")


def _evaluated(ttt: TTT, scorer: Scorer, segment: int, k: int) -> Step:
    """Score a text along its segments, inside a session; each is trained on once it is scored, but for the last."""
    start, shifted = time.perf_counter(), [scorer.prefix_id, *scorer.tokens]
    nats, seen = [], 0.0
    for first in range(0, len(scorer.tokens), segment):
        last = min(first + segment, len(scorer.tokens))
        window = Window(shifted[max(0, last - scorer.context) : last], scorer.tokens[first:last])
        nats.append(scorer.token_nats([window]))
        seen += scorer.operations([window])
        if last - first > 1 and last < len(scorer.tokens):
            ttt.update(scorer.tokens[first:last])
            seen += ttt.operations(last - first)
    score: Score = scorer.total(torch.cat(nats))
    return Step(k, score, evaluation_seconds=time.perf_counter() - start, evaluation_operations=seen)


@contextmanager
def _put_back(ttt: TTT) -> Iterator[None]:
    """Steps made in here are undone at its end, those before it in the session are not."""
    parameters = ttt.optimizer.param_groups[0]["params"]
    before = [parameter.detach().clone() for parameter in parameters]
    state = copy.deepcopy(ttt.optimizer.state_dict())
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        ttt.renew()
        ttt.optimizer.load_state_dict(state)
