"""What every strategy must hold to, as one check that the tests of another package can call on its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tttnn.errors import TTTNNError
from tttnn.retrieval.strategies import Rule, Selection, find_strategy

if TYPE_CHECKING:
    from tttnn.retrieval.retriever import Neighbours, Retriever


class ConformanceError(TTTNNError):
    """A strategy does not hold to what runs rely on; the message says to what."""


def check_strategy(
    strategy: str, retriever: Retriever, texts: Sequence[tuple[str, Mapping[str, Any]]], k: int = 5, seed: int = 1216
) -> None:
    """Check a strategy on some texts.

    - It gives as many documents as it is asked for.
    - Each is a document of the retriever's store, so of the split that may be searched and never of the one that is
      scored, with its number and its text.
    - None is there twice, unless the rule says `repeats`.
    - Each says what uncertainty is left, from 1 at most and never rising, if the rule says `uncertain`.
    - They depend on the query, k, the text's meta and the seed alone. Asked again, after other texts and after the
      whole of a text whose first half is the query, it gives the same, and so does a new selection: nothing of a scored
      half that a run with `split_query` holds back finds its way into the choice.

    Parameters
    ----------
    strategy : str
        Its name, with a value after a colon if it takes one.
    retriever : Retriever
        Over a small corpus.
    texts : sequence of pairs
        Some texts of at least two characters that are not in the corpus, and what is known about each, as a document's
        `meta`.
    k, seed : int

    Raises
    ------
    ConformanceError
        Naming the strategy and what it does not hold to.
    ParameterError, DocumentError
        If there is no such strategy, or it has no k documents for one of the texts.
    """
    rule, _ = find_strategy(strategy)
    halves = [(text[: len(text) // 2], meta) for text, meta in texts]
    selection = Selection(retriever, strategy, seed)
    first = [selection.neighbours(half, k, meta) for half, meta in halves]
    for found in first:
        _check_found(strategy, retriever, found, k, rule)
    for text, meta in texts:
        _check_found(strategy, retriever, selection.neighbours(text, 1, meta), 1, rule)
    fresh = Selection(retriever, strategy, seed)
    for (half, meta), found in zip(reversed(halves), reversed(first), strict=True):
        for again in (selection, fresh):
            if _ids(again.neighbours(half, k, meta)) != _ids(found):
                raise ConformanceError(
                    f"strategy {strategy!r} chose other documents when it was asked again: its choice must depend on "
                    "the query, k, meta and the seed alone; draw from the query's `random`, and keep nothing"
                )


def _check_found(strategy: str, retriever: Retriever, found: Neighbours, k: int, rule: Rule) -> None:
    if len(found) != k:
        raise ConformanceError(f"strategy {strategy!r} gave {len(found)} documents where {k} were asked for")
    for neighbour in found:
        if not 0 <= neighbour.id < len(retriever) or retriever.store[neighbour.id].text != neighbour.text:
            raise ConformanceError(
                f"strategy {strategy!r} gave a text under number {neighbour.id} that is no document of the store: only "
                "documents of the split that is searched may be trained on"
            )
    number, times = Counter(_ids(found)).most_common(1)[0]
    if times > 1 and not rule.repeats:
        raise ConformanceError(
            f"strategy {strategy!r} gave document {number} {times} times: if that is meant, its rule says repeats=True"
        )
    left = [1.0, *(math.nan if neighbour.uncertainty is None else neighbour.uncertainty for neighbour in found), 0.0]
    if rule.uncertain and not all(after <= before for before, after in pairwise(left)):
        raise ConformanceError(
            f"strategy {strategy!r} says {left[1:-1]} is left uncertain: its rule promises shares that never rise"
        )


def _ids(found: Neighbours) -> list[int]:
    return [neighbour.id for neighbour in found]
