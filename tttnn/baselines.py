"""What else can be done with a text's neighbours than training on them, scored on the same bytes.

Each baseline takes what `TTT.adapt` takes and yields what it yields, so that the runner can put it in its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from tttnn.errors import ParameterError
from tttnn.scoring import Scorer, Window, rolling_windows
from tttnn.ttt import TTT, Step, check_ks

Adapt = Callable[[TTT, str, Sequence[str], Sequence[int]], Iterator[Step]]


def in_context(ttt: TTT, text: str, neighbours: Sequence[str], ks: Sequence[int], share: float) -> Iterator[Step]:
    """Put the neighbours before the text instead of training on them, the nearest one next to it.

    Each window keeps `share` of the model's context, or what the text leaves free, for the neighbours. The farthest
    ones are cut off. A text longer than the rest is scored in windows of the rest, each after the same neighbours.

    Parameters
    ----------
    ttt : TTT
        Its model and evaluation context; no step is made.
    text : str
    neighbours : sequence of str
        Nearest first.
    ks : sequence of int
        Numbers of neighbours to score with.
    share : float
        Between 0 and 1.
    """
    if not 0 < share < 1:
        raise ParameterError(f"in-context:{share:g}: the neighbours' share of the context must be between 0 and 1")
    check_ks(ks, neighbours)
    scorer = ttt.scorer(text)
    room = max(int(share * scorer.context), scorer.context - len(scorer.tokens) - 1)
    return _scored(scorer, ks, lambda k: _after(scorer, _last(_joined(ttt, neighbours[:k][::-1]), room)))


def in_context_published(ttt: TTT, text: str, neighbours: Sequence[str], ks: Sequence[int]) -> Iterator[Step]:
    """The published in-context baseline: nearest first, cut from the left, and only for texts of one window.

    What does not fit is cut from the left, so the nearest ones go first. A text longer than the context is scored
    without any (`socialfoundations/tttlm`, in our words).
    """
    check_ks(ks, neighbours)
    scorer = ttt.scorer(text)
    room = scorer.context - len(scorer.tokens) - 1
    return _scored(scorer, ks, lambda k: _after(scorer, _last(_joined(ttt, neighbours[:k]), room)))


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


def _scored(scorer: Scorer, ks: Sequence[int], windows: Callable[[int], list[Window]]) -> Iterator[Step]:
    for k in sorted({0, *ks}):
        start = time.perf_counter()
        score = scorer(windows(k) if k else None)
        yield Step(k, score, evaluation_seconds=time.perf_counter() - start)


def unigram(ttt: TTT, text: str, neighbours: Sequence[str], ks: Sequence[int], weight: float) -> Iterator[Step]:
    """Mix the model's distribution with how often each token occurs in the neighbours.

    ``p = (1 - weight) p_model + weight count / total``, counts over all tokens of the k neighbours: the published
    interpolation baseline at a weight that is fixed beforehand.
    """
    if not 0 < weight < 1:
        raise ParameterError(f"unigram:{weight:g}: the weight must be between 0 and 1")
    check_ks(ks, neighbours)
    scorer = ttt.scorer(text)
    start = time.perf_counter()
    model = scorer.token_nats().double()  # (tokens,)
    targets = torch.tensor(scorer.tokens, device=model.device)  # (tokens,)
    encoded = [ttt.lm.encode(neighbour) for neighbour in neighbours[: max(ks)]]
    for k in sorted({0, *ks}):
        mixed = _mixed(model, targets, [token for tokens in encoded[:k] for token in tokens], weight) if k else model
        yield Step(k, scorer.total(mixed), evaluation_seconds=time.perf_counter() - start)
        start = time.perf_counter()


def _mixed(model: Tensor, targets: Tensor, tokens: list[int], weight: float) -> Tensor:
    counts = torch.bincount(torch.tensor(tokens, device=model.device), minlength=int(targets.max()) + 1)
    share = counts[targets].double() / max(len(tokens), 1)  # (tokens,)
    return -torch.log((1 - weight) * torch.exp(-model) + weight * share)


def dynamic(ttt: TTT, text: str, neighbours: Sequence[str], ks: Sequence[int], segment: float) -> Iterator[Step]:
    """Dynamic evaluation (Krause et al., 2018): score a segment of the text, make a step on it, go on to the next.

    No token is trained on before it is scored, so all of the text counts, as with everything else. No neighbour is
    used: the score stands at the largest k.

    Parameters
    ----------
    segment : float
        Tokens of a segment, a whole number from 2 to the context. A segment is scored after as much of the text before
        it as the context holds.
    """
    check_ks(ks)
    scorer = ttt.scorer(text)
    if not 2 <= segment <= scorer.context or segment != int(segment):
        raise ParameterError(f"dynamic:{segment:g}: a segment must have from 2 to {scorer.context} tokens")
    size = int(segment)
    yield Step(0, scorer())
    start = time.perf_counter()
    nats = []
    with ttt.session():
        shifted = [scorer.prefix_id, *scorer.tokens]
        for first in range(0, len(scorer.tokens), size):
            last = min(first + size, len(scorer.tokens))
            window = Window(shifted[max(0, last - scorer.context) : last], scorer.tokens[first:last])
            nats.append(scorer.token_nats([window]))
            if last - first > 1 and last < len(scorer.tokens):
                ttt.update(scorer.tokens[first:last])
    yield Step(max(ks), scorer.total(torch.cat(nats)), evaluation_seconds=time.perf_counter() - start)


METHODS: dict[str, Adapt] = {"ttt": TTT.adapt, "in-context-published": in_context_published}
VALUED: dict[str, tuple[Callable[..., Iterator[Step]], str]] = {
    "in-context": (in_context, "share"),
    "unigram": (unigram, "weight"),
    "dynamic": (dynamic, "segment"),
}


def find_method(name: str) -> Adapt:
    """Return what a run does with the neighbours: "ttt", or a baseline by name, some with a value after a colon.

    Raises
    ------
    ParameterError
        If there is none of that name, or its value is missing or no number.
    """
    first, _, value = name.partition(":")
    if name in METHODS:
        return METHODS[name]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if first not in VALUED or math.isnan(number):
        known = ", ".join([*METHODS, *(f"{each}:<number>" for each in VALUED)])
        raise ParameterError(f"method={name!r}: must be one of {known}")
    method, parameter = VALUED[first]
    return partial(method, **{parameter: number})
