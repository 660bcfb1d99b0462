"""Neighbours before the text, in the model's context, instead of training on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tttnn.errors import ParameterError
from tttnn.methods.base import Method
from tttnn.scoring import Scorer, Window, rolling_windows
from tttnn.ttt import TTT, Retrieved, Step, check_ks


@dataclass(frozen=True)
class InContext(Method):
    """Put the neighbours before the text instead of training on them, the nearest one next to it.

    Each window keeps `share` of the model's context, or what the text leaves free, for the neighbours. The farthest
    ones are cut off. A text longer than the rest is scored in windows of the rest, each after the same neighbours.

    Attributes
    ----------
    share : float
        Between 0 and 1.
    """

    share: float
    about = "the neighbours before the text, the nearest next to it"
    makes_steps = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ParameterError(f"share={self.share:g}: the neighbours' share of the context is between 0 and 1")

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score after the first k neighbours; no step is made."""
        wanted = check_ks(ks, found.texts)
        scorer = ttt.scorer(found.scored)
        room = max(int(self.share * scorer.context), scorer.context - len(scorer.tokens) - 1)
        return _scored(scorer, wanted, lambda k: _after(scorer, _last(_joined(ttt, found.texts[:k][::-1]), room)))


@dataclass(frozen=True)
class InContextPublished(Method):
    """The published in-context baseline: nearest first, cut from the left, and only for texts of one window.

    What does not fit is cut from the left, so the nearest ones go first. A text longer than the context is scored
    without any (`socialfoundations/tttlm`, in our words).
    """

    about = "the published in-context baseline, which loses the nearest first"
    makes_steps = False

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score after the first k neighbours; no step is made."""
        wanted = check_ks(ks, found.texts)
        scorer = ttt.scorer(found.scored)
        room = scorer.context - len(scorer.tokens) - 1
        return _scored(scorer, wanted, lambda k: _after(scorer, _last(_joined(ttt, found.texts[:k]), room)))


def _last(tokens: list[int], count: int) -> list[int]:
    """The last so many tokens: none where there is room for none, which a slice from minus zero would not give."""
    return tokens[-count:] if count > 0 else []


def _joined(ttt: TTT, texts: Sequence[str]) -> list[int]:
    """Token ids of the texts, with the token that stands before the scored one before each."""
    return [token for text in texts for token in (ttt.prefix_id, *ttt.lm.encode(text))]


def _after(scorer: Scorer, before: list[int]) -> list[Window]:
    """Rolling windows in what `before`, which stands at the beginning of each, leaves of the context."""
    windows = rolling_windows(scorer.tokens, scorer.prefix_id, scorer.context - len(before))
    return [Window(before + window.inputs, window.targets) for window in windows]


def _scored(scorer: Scorer, wanted: set[int], windows: Callable[[int], list[Window]]) -> Iterator[Step]:
    for k in sorted({0} | wanted):
        start = time.perf_counter()
        cut = windows(k) if k else None
        score = scorer(cut)
        seconds = time.perf_counter() - start
        yield Step(k, score, evaluation_seconds=seconds, evaluation_operations=scorer.operations(cut))
