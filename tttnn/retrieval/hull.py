"""HullFT's selection: the query as a mix of few near documents, each of them as often as its share of the mix.

Khamis and Maalouf, "Efficient Test-Time Finetuning of LLMs via Convex Reconstruction and Gradient Caching" (arXiv
2605.30337). A copy of a document adds nothing to a mix that holds the document, so variety needs no penalty of its own.
"""

from __future__ import annotations

import numpy as np

from tttnn.errors import ParameterError
from tttnn.retrieval.sift import unit_vectors

STEPS = 250  # of Frank-Wolfe at most, as its authors' experiments have it
NEAR = 1e-5  # a mix so close to the query is the query, as there
TIE = 1e-12  # products closer than this are equal: rounding must not decide between copies


def hull(query: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Choose k candidates, some several times, whose mean lies as near to the query as may be.

    Parameters
    ----------
    query : np.ndarray
        (d,), real numbers; the embedding of the text to answer for.
    candidates : np.ndarray
        (pool, d), real numbers; usually the 200 nearest neighbours.
    k : int
        Number of choices, at least 1; may be larger than the pool. The choice for a smaller k is not its beginning.

    Returns
    -------
    chosen : np.ndarray
        (k,) int64, positions in `candidates`: those of the largest weight first, the same ones next to each other.
    error : float
        Distance between the query and the mean of the chosen ones, all of length 1.

    Raises
    ------
    ParameterError
        If shapes do not fit, the pool is empty, or k is below 1.
    DocumentError
        If an embedding is zero or not finite.
    """
    weights = mixture(query, candidates, most=k)
    counts = multiplicities(query, candidates, weights, k)
    order = np.argsort(-weights, kind="stable")
    unit = unit_vectors(query, candidates)
    return np.repeat(order, counts[order]), float(np.linalg.norm(unit[-1] - counts @ unit[:-1] / k))


def mixture(query: np.ndarray, candidates: np.ndarray, most: int, steps: int = STEPS) -> np.ndarray:
    """Weights of the candidates in a mix near to the query, by Frank-Wolfe steps with exact line search.

    Each step moves the mix toward the candidate that lies farthest in the direction of what is missing. The first mix
    is the candidate with the largest cosine.

    Parameters
    ----------
    query, candidates
        See `hull`.
    most : int
        Candidates with a weight, at least 1: the step that would bring in one more is not made.
    steps : int
        Steps at most. After n of them, half of the squared distance exceeds the least possible by 8 / (n + 2) at most,
        unless `most` stopped them.

    Returns
    -------
    np.ndarray
        (pool,) float64, none negative, sum 1.

    Raises
    ------
    ParameterError, DocumentError
        See `hull`.
    """
    if most < 1:
        raise ParameterError(f"k is {most}: choose at least 1 candidate")
    unit = unit_vectors(query, candidates)  # (pool + 1, d), the query last
    points, target = unit[:-1], unit[-1]
    weights = np.zeros(len(points))
    weights[_first_largest(points @ target)] = 1.0
    for _ in range(steps):
        mix = weights @ points  # (d,)
        missing = target - mix
        best = _first_largest(points @ missing)
        toward = points[best] - mix
        gain = missing @ toward
        if np.linalg.norm(missing) < NEAR or gain <= TIE:  # there, or as near as any mix can be
            break
        if weights[best] == 0 and np.count_nonzero(weights) >= most:
            break
        step = min(gain / (toward @ toward), 1.0)
        weights *= 1 - step
        weights[best] += step
    return weights / weights.sum()


def multiplicities(query: np.ndarray, candidates: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Round weights to whole numbers of sum k so that the mean of so many copies stays near to the query.

    Each weight is rounded down; what is missing to k is given out one by one, each to the candidate that brings the
    mean nearest to the query; then single copies are exchanged, the best exchange first, until none brings it nearer.
    (The authors' code exchanges in two passes, the first exchange that helps.) Only candidates with a weight take part.

    Parameters
    ----------
    query, candidates
        See `hull`.
    weights : np.ndarray
        (pool,), none negative, sum 1.
    k : int
        At least 1.

    Returns
    -------
    np.ndarray
        (pool,) int64, sum k.
    """
    unit, members = unit_vectors(query, candidates), np.flatnonzero(weights)
    points, target = unit[members], unit[-1]  # (members, d), (d,)
    counts = np.floor(k * weights[members] + TIE).astype(np.int64)  # (members,)
    for _ in range(k - counts.sum()):
        counts[_first_largest(points @ (k * target - counts @ points))] += 1
    apart = 2 - 2 * points @ points.T  # (members, members): squared distances
    while True:
        missing = points @ (k * target - counts @ points)  # (members,)
        change = (
            2 * (missing[:, None] - missing) + apart
        )  # of the squared error, if one of a row becomes one of a column
        change[counts == 0] = np.inf
        given, taken = np.unravel_index(np.argmin(change), change.shape)
        if change[given, taken] > -1e-9:
            break
        counts[given] -= 1
        counts[taken] += 1
    every = np.zeros(len(weights), dtype=np.int64)
    every[members] = counts
    return every


def _first_largest(values: np.ndarray) -> int:
    """Position of the largest value; of equal ones the first."""
    return int(np.flatnonzero(values >= values.max() - TIE)[0])
