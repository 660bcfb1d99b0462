"""HullFT's selection against a quadratic solver, by hand, and by what it promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from tttnn.errors import DocumentError, ParameterError
from tttnn.retrieval.hull import hull, mixture, multiplicities

SHAPES = st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 6)


def drawn(seed, pool, dimension):
    """A query and candidates around it, of length 1."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(pool + 1, dimension)) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[-1], vectors[:-1]


def error(query, candidates, weights):
    return float(((query - weights @ candidates) ** 2).sum())


def solved(query, candidates):
    """Least squares with weights that are not negative and sum to one, by a row that weighs a million."""
    heavy = 1e6 * np.ones(len(candidates))
    weights, _ = nnls(np.vstack([candidates.T, heavy]), np.append(query, 1e6))
    return weights / weights.sum()


@given(*SHAPES)
def test_the_mix_comes_as_near_as_a_quadratic_solver_says_it_can(seed, pool, dimension):
    query, candidates = drawn(seed, pool, dimension)
    least = error(query, candidates, solved(query, candidates))
    for steps, most in ((50, 16 / 52), (2000, 16 / 2002)):
        weights = mixture(query, candidates, most=pool, steps=steps)
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
        assert least - 1e-6 <= error(query, candidates, weights) <= least + most


@given(*SHAPES, st.integers(1, 30))
def test_multiplicities_sum_to_k_and_no_exchange_brings_them_nearer(seed, pool, dimension, k):
    query, candidates = drawn(seed, pool, dimension)
    weights = mixture(query, candidates, most=k)
    counts = multiplicities(query, candidates, weights, k)
    assert counts.sum() == k and counts.min() >= 0 and not counts[weights == 0].any()
    assert np.count_nonzero(weights) <= k
    reached = error(query, candidates, counts / k)
    for given_, taken in itertools.permutations(np.flatnonzero(weights), 2):
        if counts[given_]:
            other = counts.copy()
            other[[given_, taken]] += -1, 1
            assert error(query, candidates, other / k) >= reached - 1e-8
    chosen, said = hull(query, candidates, k)
    assert chosen.dtype == np.int64 and np.bincount(chosen, minlength=pool).tolist() == counts.tolist()
    assert said**2 == pytest.approx(reached, abs=1e-9)
    assert len(list(itertools.groupby(chosen))) == len(set(chosen)), "copies of one stand next to each other"


def test_many_copies_come_as_near_as_weights():
    query, candidates = drawn(3, 12, 6)
    weights = mixture(query, candidates, most=12, steps=2000)
    counts = multiplicities(query, candidates, weights, 500)
    assert error(query, candidates, counts / 500) <= error(query, candidates, weights) + 1e-4


@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_query_that_is_a_candidate_selects_it(k):
    query, candidates = drawn(1, 9, 4)
    chosen, left = hull(3 * candidates[6], candidates, k)
    assert chosen.tolist() == [6] * k and left == pytest.approx(0, abs=1e-7)
    assert hull(query, np.vstack([candidates, candidates]), k)[0].max() < 9, "of equal ones the first"


def test_two_dimensions_by_hand():
    # The query lies in the middle between two of the candidates, a little outside of the line between them.
    query = np.array([1.0, 1.0])
    candidates = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    assert mixture(query, candidates, most=3) == pytest.approx([0.5, 0, 0.5])
    chosen, left = hull(query, candidates, 4)
    assert chosen.tolist() == [0, 0, 2, 2] and left == pytest.approx(1 - np.sqrt(0.5))
    assert hull(query, candidates, 3)[0].tolist() == [0, 0, 2]  # the third goes to the first of two that are equal


def test_variety_comes_from_the_mix():
    """A copy of what is chosen is no help: the nearest two are alike, and the third is the one that is missing."""
    query = np.array([1.0, 0.0, 0.0])
    close, other = np.array([0.8, 0.6, 0.0]), np.array([0.5, -0.8, 0.3])
    candidates = np.stack([other, close, close + np.array([0.0, 0.0, 1e-3])])
    assert set(hull(query, candidates, 2)[0]) == {0, 1}


def test_it_is_the_same_each_time_and_whatever_the_lengths():
    query, candidates = drawn(5, 200, 32)
    first, left = hull(query, candidates, 20)
    lengths = np.random.default_rng(0).uniform(0.1, 9, (200, 1))
    again, also = hull(7 * query, lengths * candidates, 20)
    assert first.tolist() == again.tolist() == hull(query, candidates, 20)[0].tolist() and left == pytest.approx(also)


@pytest.mark.parametrize(
    ("query", "candidates", "k", "kind", "message"),
    [
        ([1, 0], [[1, 0], [0, 0]], 1, DocumentError, "candidate 1 has an embedding of length 0.0"),
        ([1, 0], [[1, 0, 0]], 1, ParameterError, "do not fit"),
        ([1, 0], [[1, 0]], 0, ParameterError, "k is 0"),
    ],
)
def test_bad_input_is_named(query, candidates, k, kind, message):
    with pytest.raises(kind, match=message):
        hull(np.array(query), np.array(candidates), k)
