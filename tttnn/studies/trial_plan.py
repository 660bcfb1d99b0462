"""What of a trial fits into the minutes that someone has: how many documents, neighbours and steps of each.

One gradient step and one score are timed; all else is arithmetic on counts of tokens, so that it can be tested without
a clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from tttnn.errors import ParameterError

if TYPE_CHECKING:
    from tttnn.studies.cost import Rates

NEAREST = "nearest"
# What the gain is compared with, the most telling first, and then other learning rates.
COMPARED = ("random-domain", "other-units", "dynamic-128-rate-1.0", "in-context-0.5", "longest-context")
RATES = ("rate-2", "rate-0.25")
SEGMENT = 128  # tokens between two steps of dynamic evaluation
PLACES = (0, 1, 2, 5, 10, 20)  # where a curve is scored
PART = 4  # of an index, at most one part in so many is trained on
MOST_CHUNKS = (4, 2, 1)  # of a neighbour, if all of them take too long
LIMITS = (None, 32_000, 16_000, 8_000, 4_000, 2_000, 1_000)  # bytes of a document
LEAST = 4  # documents, below which no interval is believed
FEW = 8  # documents, up to which before and after come before what they are compared with
ENOUGH = 12  # documents, before more neighbours are better than more documents
MOST = 60  # documents; an interval hardly gains from more
LARGEST = 0.25  # of the time for the nearest neighbours that one document may take
NO_LIMIT = 1000  # chunks of a neighbour: no document is so long
NEAREST_SHARE = 0.5  # of the time: the nearest neighbours; then the comparisons
SCARCE_SHARE = 0.8  # the same where that is too short for enough documents: before and after come first
COMPARED_SHARE = 0.4
KEPT = 0.06  # of all time, for what comes after the last document: tokens, intervals, charts


Say = Callable[[str], None]


@dataclass
class Budget:
    """Seconds that someone has, from a start on.

    Attributes
    ----------
    seconds : float
    clock : callable
        Returns seconds.
    start : float
        What the clock showed.
    """

    seconds: float
    clock: Callable[[], float] = field(default_factory=lambda: time.monotonic)
    start: float = field(default=math.nan)

    def __post_init__(self) -> None:
        if math.isnan(self.start):
            self.start = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.start

    @property
    def left(self) -> float:
        """Seconds until all documents must be done; what comes after them has its share kept."""
        return (1 - KEPT) * self.seconds - self.spent


@dataclass(frozen=True)
class Costs:
    """What documents of a trial take on this machine.

    Attributes
    ----------
    rates : Rates
    steps, tokens : ndarray, shape (neighbours,)
        Of neighbours that were looked at, all chunks of each.
    chunk, context : int
        Tokens.
    retrieval : float
        Seconds to find a document's neighbours.
    """

    rates: Rates
    steps: np.ndarray
    tokens: np.ndarray
    chunk: int
    context: int
    retrieval: float

    def neighbour(self, most: int | None) -> float:
        """Mean seconds of training on a neighbour, on at most so many chunks of it."""
        most = most or int(self.steps.max(initial=1))
        seconds = self.rates.training(np.minimum(self.steps, most), np.minimum(self.tokens, most * self.chunk))
        return float(np.mean(seconds)) if len(self.steps) else 0.0

    def score(self, tokens: int) -> float:
        """Seconds of one score of a document."""
        return self.rates.scoring(math.ceil(tokens / self.context), tokens)

    def document(self, variant: str, tokens: int, k: int, most: int | None, curve: bool = True) -> float:
        """Seconds of a document of so many tokens, scored on the way to k neighbours or only at the end."""
        once = self.score(tokens)
        if variant.startswith("dynamic"):
            segments = math.ceil(tokens / SEGMENT)
            window = min(self.context, tokens)
            return once + segments * self.score(window) + self.rates.training(segments, tokens)
        if variant.startswith("in-context"):
            return self.retrieval + 4 * once
        if variant == "longest-context":
            return 3 * once
        scores = len(places(k, curve)) if variant == NEAREST else 2
        return self.retrieval + scores * once + k * self.neighbour(most)


Rung = tuple[int, int | None, bool]  # neighbours, most steps on each, whether there is a curve


@dataclass(frozen=True)
class Plan:
    """What a trial does.

    Attributes
    ----------
    k : int
        Neighbours.
    max_chunks : int or None
        Most steps on each.
    max_bytes : int or None
        Only documents up to this size.
    documents : int
        That are adapted on their nearest neighbours.
    compared : int
        Of these, the first so many are evaluated in other ways, too.
    seconds : float
        Expected.
    curve : bool
        Whether documents are scored on the way to k, too: with a large model a score takes as long as a step.
    """

    k: int
    max_chunks: int | None
    max_bytes: int | None
    documents: int
    compared: int
    seconds: float
    curve: bool = True


def places(k: int, curve: bool = True) -> list[int]:
    """Where documents are scored: on the way to k neighbours, or only before them and at the end."""
    return sorted({each for each in PLACES if each < k} | {k}) if curve else [0, k]


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def most_neighbours(k: int, indexed: int | None) -> int:
    """The neighbours to train on where so many documents are indexed: k, or a part of a small index."""
    return k if indexed is None else min(k, max(1, indexed // PART))


def make_plan(
    costs: Costs, sizes: Sequence[tuple[int, int]], k: int, seconds: float, variants: Sequence[str] = COMPARED,
    domains: int = 1,
) -> Plan:  # fmt: skip
    """Choose what fits: all neighbours and chunks first, then fewer, then fewer documents, then short ones.

    Parameters
    ----------
    costs : Costs
    sizes : sequence of (int, int)
        Bytes and tokens of the documents, in the order in which they are evaluated.
    k : int
        Most neighbours.
    seconds : float
        For all documents.
    variants : sequence of str
        What the gain is to be compared with.
    domains : int
        Of the documents: each is to have an answer, too.

    Raises
    ------
    ParameterError
        If not one document fits.
    """
    fewest = min(k, PLACES[3])
    chunks = [_all_chunks(costs, k, NEAREST_SHARE * seconds), *MOST_CHUNKS]
    rungs = [(k, each, True) for each in chunks] + [(fewer, 1, True) for fewer in (10, 5) if fewer < k]
    tries = [(rung, max(ENOUGH, min(LEAST * domains, MOST)), MOST, NEAREST_SHARE) for rung in rungs]
    tries += [(rung, LEAST, FEW, SCARCE_SHARE) for rung in (rungs[-1], (fewest, 1, False))]
    for limit in LIMITS:
        kept = [tokens for size, tokens in sizes if limit is None or size <= limit]
        for rung, enough, most, share in tries:
            wanted = min(enough, len(sizes))
            if len(kept) >= wanted and (found := _fitting(costs, kept[:most], rung, share * seconds)) >= wanted:
                return _plan(costs, kept[:found], rung, limit, seconds, variants)
    return _least_plan(costs, sizes, fewest, seconds, variants)


def _all_chunks(costs: Costs, k: int, seconds: float) -> int | None:
    """All chunks of a neighbour, but of a giant one no more than keep its document from taking most of the time."""
    step = max(costs.rates.training(1.0, float(costs.chunk)), 1e-9)
    most = int(LARGEST * seconds / (k * step))
    return None if most > NO_LIMIT else max(most, MOST_CHUNKS[0])


def _fitting(costs: Costs, tokens: Sequence[int], rung: Rung, seconds: float) -> int:
    """How many of the documents fit, from the first one on; none if one of them would take most of the time."""
    each = [costs.document(NEAREST, count, *rung) for count in tokens]
    if len(each) > 1 and max(each) > LARGEST * seconds and len(each) > ENOUGH // 2:
        return 0
    return _count(each, seconds)


def _count(each: Iterable[float], seconds: float) -> int:
    return min(sum(total <= seconds for total in accumulate(each)), MOST)


def _least_plan(
    costs: Costs, sizes: Sequence[tuple[int, int]], k: int, seconds: float, variants: Sequence[str]
) -> Plan:
    """The shortest documents, where time is too short for a fair choice: with as many neighbours as let in three."""
    shortest = sorted(sizes)
    for fewer in [each for each in reversed(PLACES) if 0 < each <= k] or [k]:
        each = [costs.document(NEAREST, tokens, fewer, 1, False) for _, tokens in shortest]
        found = _count(each, SCARCE_SHARE * seconds)
        if found >= min(3, len(sizes)) or (found and fewer == 1):
            largest = shortest[found - 1][0]
            kept = [tokens for size, tokens in sizes if size <= largest][:found]
            return _plan(costs, kept, (fewer, 1, False), None if found == len(sizes) else largest, seconds, variants)
    more = math.ceil((each[0] / SCARCE_SHARE - seconds) / (1 - KEPT) / 6) / 10
    raise ParameterError(
        f"minutes: {max(seconds, 0):.0f} s are left for documents, and the shortest takes about {each[0]:.1f} s with "
        f"one neighbour on this machine: give at least {more:g} minutes more, or a smaller model"
    )


def _plan(
    costs: Costs, tokens: Sequence[int], rung: Rung, limit: int | None, seconds: float, variants: Sequence[str]
) -> Plan:
    def cost(names: Iterable[str], count: int) -> float:
        return sum(costs.document(name, count, *rung) for name in names)

    near = sum(cost([NEAREST], count) for count in tokens)
    left = min(COMPARED_SHARE * seconds, (NEAREST_SHARE + COMPARED_SHARE) * seconds - near)
    compared = _count([cost(variants, count) for count in tokens], max(left, 0.0))
    k, chunks, has_curve = rung
    whole = near + sum(cost(variants, count) for count in tokens[:compared])
    return Plan(k, chunks, limit, len(tokens), compared, whole, has_curve)
