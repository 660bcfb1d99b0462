"""SIFT: which of many near documents say the most about a query, without saying the same twice.

Hübotter, Bongni, Hakimi and Krause, "Efficiently Learning at Test-Time: Active Fine-Tuning of LLMs", ICLR 2025
(arXiv 2410.08020). Nearest neighbours choose by closeness alone and take every copy of a close document; SIFT asks
how uncertain the answer to the query still is after training on what is chosen already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tttnn.errors import DocumentError, ParameterError
from tttnn.parameters import number

NOISE = 0.01  # the default of its authors' package `activeft`
TIE = 1e-9  # gains closer than this, relative to the largest, are equal: rounding must not decide between copies


def sift(query: np.ndarray, candidates: np.ndarray, k: int, noise: float = NOISE) -> tuple[np.ndarray, np.ndarray]:
    """Choose the k candidates that leave the least uncertainty about the query, one after the other.

    The uncertainty is the posterior variance at the query x* of a Gaussian process with the linear kernel
    k(x, y) = x . y on embeddings of length 1, observed with noise at the chosen candidates X (the paper's section 3):
    variance(X) = k(x*, x*) - k_X(x*)' (K_X + noise I)^-1 k_X(x*). Each choice is the candidate that makes it smallest
    together with the choices before it. A candidate stays in the pool when it is chosen, so it may be chosen again.

    Parameters
    ----------
    query : np.ndarray
        (d,), real numbers; the embedding of the text to answer for.
    candidates : np.ndarray
        (pool, d), real numbers; usually the 200 nearest neighbours. Takes 8 (pool + 1)^2 bytes of memory.
    k : int
        Number of choices, at least 1; may be larger than the pool.
    noise : float
        Variance of the observation noise, above 0: the paper's lambda. A small one seeks variety, a large one
        closeness, up to the closest candidate again and again. To be tuned on validation documents.

    Returns
    -------
    chosen : np.ndarray
        (k,) int64, positions in `candidates` in the order of choice. Of equally good ones, the lowest position.
    variance : np.ndarray
        (k + 1,) float64, never rising; entry n is the variance after n choices, divided by that before any.

    Raises
    ------
    ParameterError
        If shapes do not fit, the pool is empty, k is below 1 or noise not above 0.
    DocumentError
        If an embedding is zero or not finite.
    """
    if k < 1:
        raise ParameterError(f"k is {k}: choose at least 1 candidate")
    if not 0 < noise < np.inf:
        raise ParameterError(f"noise is {noise}: it must be a positive number")
    unit = unit_vectors(query, candidates)  # (pool + 1, d), the query last
    kernel = unit @ unit.T  # (pool + 1, pool + 1)
    chosen = np.empty(k, dtype=np.int64)
    variance = np.ones(k + 1)
    for n in range(k):
        own = np.maximum(kernel.diagonal()[:-1], 0)  # (pool,); rounding may leave less than nothing
        gain = kernel[-1, :-1] ** 2 / (own + noise)  # (pool,): by how much each would lower the query's variance
        best = np.flatnonzero(gain >= gain.max() * (1 - TIE))[0]
        chosen[n] = best
        variance[n + 1] = max(variance[n] - gain[best], 0)
        # What is left to learn, here and at every candidate, once the best one is known.
        kernel -= np.outer(kernel[best], kernel[best]) / (own[best] + noise)
    return chosen, variance


def stop_after(variance: np.ndarray, alpha: float) -> int:
    """Number of choices after which SIFT stops training on this query.

    The paper's adaptive SIFT, which invests compute in proportion to the gain it can expect, stops at the first n with
    sigma_n(x*) > 1 / (alpha n), where sigma_n is the posterior standard deviation after n choices: it goes on while
    uncertainty stays under a curve that falls as 1 / n. Here the n choices at which the rule fires count as made;
    sigma_n is taken relative to sigma_0, which is 1 for embeddings of length 1.

    Parameters
    ----------
    variance : np.ndarray
        (k + 1,), second result of `sift`.
    alpha : float
        Above 0; the larger, the sooner the stop. With 1 / k or less, all k choices are made.

    Returns
    -------
    int
        From 1 to k; k if the rule never fires.

    Raises
    ------
    ParameterError
        If alpha is not above 0, or there is no choice to count.
    """
    if not alpha > 0:
        raise ParameterError(f"alpha is {alpha}: it must be above 0")
    variance = np.asarray(variance, dtype=np.float64)
    if variance.ndim != 1 or len(variance) < 2:
        raise ParameterError(f"variance has shape {variance.shape}: give the (k + 1,) that sift returns, k at least 1")
    made = np.arange(1, len(variance))  # (k,)
    fires = np.flatnonzero(alpha * made * np.sqrt(variance[1:] / variance[0]) > 1)
    return int(made[fires[0]] if len(fires) else made[-1])


def paces(pace: str, uncertainty: Sequence[float | None]) -> list[float]:
    """What the learning rate of each choice is multiplied by, so that steps go with the uncertainty that is left.

    Parameters
    ----------
    pace : str
        "uncertainty": the standard deviation at the query before the choice, relative to that before any, so that the
        first choice has the full rate. "stop:ALPHA": 1 up to `stop_after`, then 0.
    uncertainty : sequence of float
        `Neighbour.uncertainty` of each choice: the share of the variance that is left after it.

    Returns
    -------
    list of float
        Each from 0 to 1; 0 means no step.

    Raises
    ------
    ParameterError
        If there is no such pace, or the strategy says no uncertainty.
    """
    alpha = parse_pace(pace)
    known = [each for each in uncertainty if each is not None]
    if len(known) < len(uncertainty):
        raise ParameterError(f"pace={pace!r}: needs a strategy that says how uncertain the answer is: sift")
    variance = [1.0, *known]
    if alpha is None:
        return [each**0.5 for each in variance[:-1]]
    steps = stop_after(np.array(variance), alpha) if known else 0
    return [float(n < steps) for n in range(len(known))]


def parse_pace(pace: object) -> float | None:
    """Return the number of "stop:ALPHA", None for "uncertainty"; ParameterError if it is neither."""
    name, _, value = pace.partition(":") if isinstance(pace, str) else ("", "", "")
    if pace == "uncertainty":
        return None
    if name != "stop":
        raise ParameterError(f"pace={pace!r}: must be uncertainty or stop:ALPHA")
    return float(number(f"pace={pace!r}: the number after the colon", value, least=1e-9))


def unit_vectors(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(pool + 1, d) float64: the candidates and then the query, each of length 1."""
    query, candidates = np.asarray(query, dtype=np.float64), np.asarray(candidates, dtype=np.float64)
    if query.ndim != 1 or candidates.ndim != 2 or candidates.shape[1] != len(query) or len(candidates) == 0:
        shapes = f"query {query.shape} and candidates {candidates.shape}"
        raise ParameterError(f"{shapes} do not fit: give (d,) and (pool, d), with pool at least 1")
    vectors = np.vstack([candidates, query])  # (pool + 1, d)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)  # (pool + 1, 1)
    bad = np.flatnonzero(~((length > 0) & np.isfinite(length)))
    if len(bad):
        name = "query" if bad[0] == len(candidates) else f"candidate {bad[0]}"
        raise DocumentError(f"{name} has an embedding of length {length[bad[0], 0]}: it must be finite and not zero")
    return vectors / length
