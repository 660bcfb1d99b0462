"""Which documents are held out: drawn at random by a seed, and none that is mostly a copy of what is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from tttnn.corpus.overlap import windows

SHARE = 0.1  # of the documents, for each of val and test
MOST = 10_000  # documents a split: what near-copies are looked for of is held in memory
SAMPLED = np.uint64(1 << 60)  # windows whose hash is below: one in 16
COPIED = 0.5  # share of a document's windows that make it a near-copy

TRAIN, VAL, TEST = range(3)
SPLITS = ("train", "val", "test")  # by these numbers


def rank(text: str, seed: int) -> int:
    """A pseudo-random number of a text; equal ones have the same."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest())


def draw(named: np.ndarray, ranks: np.ndarray, share: float) -> np.ndarray:
    """Give each document a split: the one its place names; what has no test or val documents gets some by rank.

    Test documents are the first by rank and val documents the last, so that up to a share of 0.4 no document is in val
    at one share and in test at another: what is chosen on val may be tested at any.

    Parameters
    ----------
    named : ndarray of int8, shape (documents,)
        Number of the split that a document's place says, or -1.
    ranks : ndarray of uint64, shape (documents,)
    share : float
        Of the documents not yet held out, for each split that is drawn: at least one, at most 10,000.

    Returns
    -------
    ndarray of int8, shape (documents,)
        0 for train, 1 for val, 2 for test. Of two documents one is for test, of one none.
    """
    splits = np.where(named < 0, TRAIN, named).astype(np.int8)
    free = np.flatnonzero(splits == TRAIN)
    free = free[np.argsort(ranks[free], kind="stable")]
    count = min(MOST, max(1, round(share * len(free))))
    for split in (TEST, VAL):
        if split not in named and (drawn := min(count, len(free) - 1)) > 0:
            splits[free[:drawn]] = split
            free = free[drawn:]
        free = free[::-1]
    return splits


def near_copies(held: Sequence[np.ndarray], others: Iterable[np.ndarray]) -> np.ndarray:
    """Tell of which held-out documents over half of the windows of 50 bytes occur in others.

    Parameters
    ----------
    held : sequence of ndarray of uint64
        Sketches, see `sketch`.
    others : iterable of ndarray of uint64
        Read once.

    Returns
    -------
    ndarray of bool, shape (held,)
    """
    known = np.unique(np.concatenate([np.empty(0, np.uint64), *held]))
    seen = np.zeros(len(known), dtype=bool)
    for each in others:
        if len(known):
            places = np.minimum(np.searchsorted(known, each), len(known) - 1)
            seen[places[known[places] == each]] = True
    return np.array([seen[np.searchsorted(known, each)].mean() > COPIED for each in held], dtype=bool)


def sketch(text: str) -> np.ndarray:
    """A sixteenth of the hashes of a text's windows of 50 bytes, the same of every text; of a short one, its own hash.

    Returns
    -------
    ndarray of uint64, shape (at least 1,)
    """
    hashes = windows(text)
    sampled = np.unique(hashes[hashes < SAMPLED])
    return sampled if len(sampled) else np.array([rank(text, 0)], dtype=np.uint64)
