"""Exact distances: the flat search, and the ranking of candidates, in float64 and with ties by id."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tttnn.errors import ParameterError
from tttnn.index.faiss_runtime import load_faiss

SPARE = 16  # neighbours fetched beyond k, so that ties at position k are seen
WIDER = 8  # times as many are fetched if all of these may tie
RANK_BLOCK = 4096  # candidates whose distances are computed at a time
LARGEST = 1e37  # squared length of a vector; distances between longer ones may overflow float32

Take = Callable[[np.ndarray], np.ndarray]  # row numbers (n,) -> vectors (n, d) float32


def checked_vectors(vectors: np.ndarray, dimension: int, name: str, first_row: int = 0) -> np.ndarray:
    """Return vectors as contiguous float32 (n, dimension), or raise ParameterError naming the first bad row."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ParameterError(f"{name} must have shape (n, {dimension}), not {vectors.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        fine = np.einsum("nd,nd->n", vectors, vectors) < LARGEST  # false for NaN, too
    if not fine.all():
        row = first_row + int(np.argmin(fine))
        raise ParameterError(f"{name}, row {row}: holds NaN or infinity, or is longer than {LARGEST**0.5:.0e}")
    return vectors


def search_flat(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of `vectors` for each query, exactly.

    Faiss finds the candidates. Their distances are then computed once more, directly and in float64: Faiss's
    own may depend on how many queries are asked at once and on where a vector lies. So copies of a vector
    tie, and ties are in order of row number, also where position k divides them.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
        May be memory-mapped.
    queries : ndarray, shape (q, d), float32
    k : int
        At most n.

    Returns
    -------
    distances : ndarray, shape (q, k), float32
    rows : ndarray, shape (q, k), int64
    """
    found = _knn(queries, vectors, min(k + SPARE, len(vectors)))  # two (q, k + SPARE)
    rough = zip(queries, *found, strict=True)
    candidates = [_widened(vectors, query, distances, rows, k) for query, distances, rows in rough]
    return rank_all(queries, candidates, vectors.__getitem__, k)


def rank_all(queries: np.ndarray, candidates: list[np.ndarray], take: Take, k: int) -> tuple[np.ndarray, np.ndarray]:
    """For each query the k nearest of its candidates, by exact distance and then row number.

    Parameters
    ----------
    queries : ndarray, shape (q, d), float32
    candidates : list of q ndarrays of int64
        Row numbers, at least k for each query.
    take : callable
        Row numbers (n,) -> their vectors (n, d).
    k : int

    Returns
    -------
    distances : ndarray, shape (q, k), float32
        Squared L2, increasing.
    rows : ndarray, shape (q, k), int64
    """
    distances = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    for number, (query, each) in enumerate(zip(queries, candidates, strict=True)):
        blocks = (each[start : start + RANK_BLOCK] for start in range(0, len(each), RANK_BLOCK))
        exact, left = map(np.concatenate, zip(*(_exact(query, block, take, k) for block in blocks), strict=True))
        order = np.lexsort((left, exact))[:k]
        distances[number], rows[number] = exact[order], left[order]
    return distances, rows


def _exact(query: np.ndarray, rows: np.ndarray, take: Take, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances of those of `rows` that may be among the k nearest of them, and which these are."""
    vectors = take(rows)  # (rows, d)
    if len(rows) > 2 * k:  # in float32 first, which is faster; a difference is rounded once, a sum d times
        differences = vectors - query
        rough = np.einsum("nd,nd->n", differences, differences)  # (rows,)
        single = np.finfo(np.float32)
        reach = np.partition(rough, k - 1)[k - 1] * (1 + 4 * (len(query) + 4) * single.eps) + len(query) * single.tiny
        vectors, rows = vectors[rough <= reach], rows[rough <= reach]
    return np.square(vectors - query.astype(np.float64)).sum(axis=1).astype(np.float32), rows


def _widened(vectors: np.ndarray, query: np.ndarray, rough: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """All rows that may be among the k nearest, given Faiss's rough distances and their errors."""
    reach = rough[k - 1] + 2 * _rounding_error(query, rough[k - 1])
    while len(candidates) < len(vectors) and rough[-1] <= reach:  # they end within a tie: take all of it
        wanted = min(WIDER * len(candidates), len(vectors))
        rough, candidates = (each[0] for each in _knn(query[np.newaxis], vectors, wanted))
    return candidates


def _knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return load_faiss().knn(queries, vectors, k)


def _rounding_error(query: np.ndarray, distance: float) -> float:
    """How far Faiss's float32 distance may be from the exact one, for vectors about this far from the query.

    For many queries at once Faiss computes ``|q|^2 + |x|^2 - 2 q.x``, whose error grows with the lengths, not
    with the distance. Errors of a sum of d terms add up like a random walk: the root of d; 8 is for safety.
    """
    single = np.finfo(np.float32)
    # |x| is at most |q| plus the distance between them.
    longest = 2 * float(np.linalg.norm(query.astype(np.float64))) + float(distance) ** 0.5
    return 8 * len(query) ** 0.5 * float(single.eps) * longest**2 + float(single.tiny)
