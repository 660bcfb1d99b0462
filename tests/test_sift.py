"""SIFT against arithmetic by hand, its definition and its authors' package."""

import faiss
import numpy as np
import pytest
import torch
from activeft.acquisition_functions.vtl import VTL
from activeft.sift import Retriever as TheirRetriever
from hypothesis import given
from hypothesis import strategies as st

from tttnn.errors import ParameterError
from tttnn.retrieval.sift import paces, sift, stop_after


def closed_form(query: np.ndarray, candidates: np.ndarray, chosen: list[int], noise: float) -> float:
    """Posterior variance at the query given the chosen candidates, from the definition."""
    query = query / np.linalg.norm(query)
    seen = candidates[chosen] / np.linalg.norm(candidates[chosen], axis=1, keepdims=True)
    cross = seen @ query
    return float(1 - cross @ np.linalg.solve(seen @ seen.T + noise * np.eye(len(seen)), cross))


def nearest(query: np.ndarray, candidates: np.ndarray, k: int) -> list[int]:
    cosine = candidates @ query / np.linalg.norm(candidates, axis=1)
    return np.argsort(-cosine)[:k].tolist()


def test_two_dimensions_by_hand():
    # The query is 0.8 of the first and 0.6 of the second candidate, which are at right angles.
    chosen, variance = sift(np.array([3.0, 0.0]), np.array([[0.8, 0.6], [6.0, -8.0]]), k=3, noise=0.25)
    assert chosen.tolist() == [0, 1, 0] and chosen.dtype == np.int64
    # 1 - 0.64 / 1.25; less 0.36 / 1.25; the first again: only 0.25 / 1.25 of its own variance is left.
    again = (0.8 * 0.2) ** 2 / (0.2 + 0.25)
    np.testing.assert_allclose(variance, [1, 0.488, 0.2, 0.2 - again], rtol=1e-12)


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 6), st.integers(1, 10), st.sampled_from([1e-3, 0.1, 4])
)
def test_each_choice_leaves_the_least_variance(seed, pool, dimension, k, noise):
    random = np.random.default_rng(seed)
    query, candidates = random.normal(size=dimension), random.normal(size=(pool, dimension))
    chosen, variance = sift(query, candidates, k, noise)
    assert variance[0] == 1 and (np.diff(variance) <= 0).all()
    for n in range(k):
        after = [closed_form(query, candidates, [*chosen[:n], j], noise) for j in range(pool)]
        assert variance[n + 1] == pytest.approx(after[chosen[n]], abs=1e-9)
        assert variance[n + 1] == pytest.approx(min(after), abs=1e-9)


def test_copies_are_passed_over():
    query = np.array([1.0, 0.0, 0.0])
    close, other = np.array([0.8, 0.6, 0.0]), np.array([0.5, -0.8, 0.3])
    candidates = np.stack([other, close, close + np.array([0.0, 0.0, 1e-3])])
    assert nearest(query, candidates, 2) == [1, 2]
    assert sift(query, candidates, 2, noise=0.01)[0].tolist() == [1, 0]


def test_equal_copies_go_to_the_lowest_position():
    copies = np.tile(np.random.default_rng(0).normal(size=37), (50, 1))
    chosen, variance = sift(copies[0], copies, 4, noise=0.5)
    assert chosen.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(variance, [0.5 / (0.5 + n) for n in range(5)])


def test_the_first_choice_has_the_largest_cosine_of_either_sign():
    query, candidates = np.array([1.0, 0.0]), np.array([[0.5, 0.8], [-0.9, 0.4], [0.0, 1.0]])
    assert sift(query, candidates, 1)[0].tolist() == [1]


@pytest.mark.parametrize("dimension, noise", [(32, 0.01), (32, 1.0), (4, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_same_choices_as_the_authors_package(seed, dimension, noise):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(41, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # the package does not do it
    candidates, query = vectors[:-1], vectors[-1]
    chosen, variance = sift(query, candidates, 12, noise)
    reference = VTL(target=torch.tensor(query[None], dtype=torch.float32), noise_std=noise**0.5)
    with torch.random.fork_rng():  # it shuffles the candidates
        theirs, values = reference.select(12, None, torch.tensor(candidates, dtype=torch.float32))
    assert chosen.tolist() == theirs.tolist()
    np.testing.assert_allclose(variance[1:], -values.numpy(), atol=1e-5)  # it works in float32 only
    if dimension == 4:
        assert len(set(chosen.tolist())) < 12  # both choose a candidate more than once


@pytest.mark.parametrize("noise", [0.01, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_same_choices_as_the_authors_retriever_which_preselects_by_absolute_inner_product(seed, noise):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(201, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    documents, query = vectors[:-1], vectors[-1]
    index = faiss.IndexFlatIP(16)
    index.add(documents)
    with torch.random.fork_rng():
        _, theirs, _, _ = TheirRetriever(index, llambda=noise).search(query[None], N=10, K=20)
    pool = np.argsort(-np.abs(documents @ query))[:20]
    assert (documents[pool] @ query < 0).any()
    assert pool[sift(query, documents[pool], 10, noise)[0]].tolist() == theirs.tolist()


def test_paces_go_with_what_is_left_before_each_choice():
    assert paces("uncertainty", [0.25, 0.09, 0.09]) == pytest.approx([1, 0.5, 0.3])
    left = [0.81, 0.36, 0.25, 0.16, 0.16]
    for alpha in (0.5, 0.65, 2):
        stop = stop_after(np.array([1, *left]), alpha)
        assert paces(f"stop:{alpha}", left) == [1.0] * stop + [0.0] * (5 - stop)
    assert paces("stop:1", []) == paces("uncertainty", []) == []


@pytest.mark.parametrize(
    ("pace", "left", "message"),
    [("slow", [0.5], "pace='slow': must be"), ("stop:0", [0.5], "number after the colon=.0"), (3, [0.5], "pace=3"),
     ("stop:", [0.5], "number after the colon"), ("uncertainty", [0.5, None], "needs a strategy that says")],
)  # fmt: skip
def test_a_pace_that_cannot_be_had_is_named(pace, left, message):
    with pytest.raises(ParameterError, match=message):
        paces(pace, left)


def test_stops_when_uncertainty_falls_slower_than_the_rule():
    sigma = np.array([1.0, 0.9, 0.6, 0.5, 0.4, 0.4])
    # alpha n sigma_n for alpha = 0.5: 0.45, 0.6, 0.75, 0.8, 1.0: 1 is not above 1.
    assert stop_after(sigma**2, 0.5) == 5
    assert stop_after(sigma**2, 0.6) == 5
    assert stop_after(sigma**2, 0.65) == 4
    assert stop_after(sigma**2, 2) == 1
    assert stop_after(4 * sigma**2, 0.65) == 4


@pytest.mark.parametrize(
    "query, candidates, k, noise, message",
    [
        ([1, 0], [[1, 0], [0, 0]], 1, 0.1, "candidate 1 has an embedding of length 0.0"),
        ([0, 0], [[1, 0]], 1, 0.1, "query has an embedding of length 0.0"),
        ([1, 0], [[np.nan, 0]], 1, 0.1, "candidate 0 has an embedding of length nan"),
        ([1, 0], [[1, 0, 0]], 1, 0.1, r"\(2,\) and candidates \(1, 3\) do not fit"),
        ([1, 0], np.empty((0, 2)), 1, 0.1, "pool at least 1"),
        ([1, 0], [[1, 0]], 0, 0.1, "k is 0"),
        ([1, 0], [[1, 0]], 1, 0.0, "noise is 0.0"),
    ],
)
def test_bad_input_is_named(query, candidates, k, noise, message):
    with pytest.raises(ValueError, match=message):
        sift(np.array(query), np.array(candidates), k, noise)


@pytest.mark.parametrize("variance, alpha, message", [([1, 0.5], 0, "alpha is 0"), ([1], 1, "shape")])
def test_bad_stopping_input_is_named(variance, alpha, message):
    with pytest.raises(ValueError, match=message):
        stop_after(np.array(variance), alpha)
