"""Every kind finds what is near, gives exact distances, and is written to the same bytes each time."""

import numpy as np
import pytest
from test_index import Named, assert_exact, brute_force, build

import tttnn.index.kinds
from tttnn.files import read_json, sha256_file
from tttnn.index import KINDS, DamagedIndex, Index, SearchSettings, build_index, default_kind, verify
from tttnn.index.kinds import lists

COMPRESSED = [name for name, kind in KINDS.items() if kind.factory]
COUNT, DIMENSION, K = 3000, 32, 20


@pytest.fixture(scope="module")
def clustered():
    """Vectors as embeddings are: in clusters of unequal size, some of them copies; and queries among them."""
    random = np.random.default_rng(12)
    centres = random.normal(size=(60, DIMENSION))
    members = random.choice(60, COUNT + 50, p=random.dirichlet(np.ones(60)))
    vectors = (centres[members] + 0.5 * random.normal(size=(COUNT + 50, DIMENSION))).astype(np.float32)
    vectors[100:130] = vectors[7]
    return vectors[:COUNT], vectors[COUNT:]


@pytest.fixture(scope="module", params=COMPRESSED)
def index(request, clustered, tmp_path_factory):
    return build(tmp_path_factory.mktemp(request.param) / "i", clustered[0], batch=500, kind=request.param)


def recall(found, expected):
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, expected, strict=True)])


def test_recall_and_exact_distances(index, clustered):
    vectors, queries = clustered
    distances, ids = index.search(queries, K)
    assert recall(ids, brute_force(vectors, queries, K)[1]) >= 0.95
    exact = np.square(vectors[ids].astype(np.float64) - queries[:, None]).sum(axis=2).astype(np.float32)
    np.testing.assert_array_equal(distances, exact)
    for row, (one, other) in enumerate(zip(distances, ids, strict=True)):
        np.testing.assert_array_equal(np.lexsort((other, one)), np.arange(K), err_msg=f"query {row}")
        assert len(set(other)) == K


def test_all_candidates_are_an_exact_search(index, clustered):
    vectors, queries = clustered
    every = Index.open(index.folder, "a" * 64, settings=SearchSettings(candidates=COUNT, effort=COUNT))
    if index.manifest["kind"] == "hnsw":  # a graph may not reach everything
        assert recall(every.search(queries, K)[1], brute_force(vectors, queries, K)[1]) >= 0.99
    else:
        assert_exact(every, vectors, queries, K)


def test_few_candidates_are_still_k(index, clustered):
    """Lists too short and graphs in parts: the rest is not left out, and k may be all there is."""
    vectors, queries = clustered
    least = Index.open(index.folder, "a" * 64, settings=SearchSettings(candidates=1, effort=1))
    assert least.search(queries, K)[1].shape == (len(queries), K)
    assert_exact(least, vectors, queries[:2], COUNT)


def test_more_candidates_find_more(index, clustered):
    vectors, queries = clustered
    expected = brute_force(vectors, queries, K)[1]
    few, more = (
        Index.open(index.folder, "a" * 64, settings=SearchSettings(candidates, effort=100)).search(queries, K)[1]
        for candidates in (K, 20 * K)
    )
    assert recall(few, expected) <= recall(more, expected)


def test_the_same_bytes_each_time(index, clustered, tmp_path):
    again = build(tmp_path / "i", clustered[0], batch=301, kind=index.manifest["kind"])
    assert again.manifest == index.manifest
    assert verify(index.folder) == verify(tmp_path / "i") == 4


def test_the_structure_is_searched_from_disk(index, clustered):
    (card,) = index.manifest["shards"]
    structure = index.folder / card["name"] / "structure.faiss"
    assert card["kind"] == index.manifest["kind"]
    assert structure.stat().st_size == card["files"][1]["bytes"]
    assert sha256_file(structure) == card["files"][1]["sha256"]


def test_a_sample_trains_the_quantiser(clustered, tmp_path, monkeypatch):
    monkeypatch.setattr(tttnn.index.kinds, "SAMPLE_ROWS", 1500)
    indexes = [
        build(tmp_path / name, clustered[0], batch=1000, kind="ivfrabitq", seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    hashes = [each.manifest["shards"][0]["files"][1]["sha256"] for each in indexes]
    assert hashes[0] == hashes[1] != hashes[2]
    queries = clustered[1]
    assert recall(indexes[0].search(queries, K)[1], brute_force(clustered[0], queries, K)[1]) >= 0.95


def test_a_shard_too_small_to_train_on_is_flat_and_says_so(clustered, tmp_path):
    vectors, queries = clustered
    index = build(tmp_path / "i", vectors[:1200], batch=100, kind="ivfpq", shard_rows=1100)
    assert [card["kind"] for card in index.manifest["shards"]] == ["ivfpq", "flat-mapped"]
    assert recall(index.search(queries, K)[1], brute_force(vectors[:1200], queries, K)[1]) >= 0.95


def test_default_kinds(tmp_path, monkeypatch, clustered):
    sizes = (1, 100_000, 100_001, 500_000, 500_001, 10**9)
    chosen = [default_kind(count) for count in sizes]
    assert chosen == ["flat-mapped"] * 2 + ["rabitq"] * 2 + ["ivfrabitq"] * 2
    monkeypatch.setattr(tttnn.index.kinds, "DEFAULTS", ((1500, "flat-mapped"), (None, "sq8")))
    index = build(tmp_path / "i", clustered[0], batch=1000, kind="auto", shard_rows=2000)
    assert [card["kind"] for card in index.manifest["shards"]] == ["sq8", "flat-mapped"]
    assert read_json(tmp_path / "i" / "manifest.json")["kind"] == "auto"


@pytest.mark.parametrize("count", [1, 39, 1024, 10**5, 10**6, 2 * 10**6])
def test_lists_have_enough_to_train_on(count):
    assert lists(count) == 1 or lists(count) * 39 <= min(count, 1 << 17)


@pytest.mark.parametrize("dimension", [1, 7, 100])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_any_dimension(tmp_path, kind, dimension):
    vectors = np.random.default_rng(1).normal(size=(1100, dimension)).astype(np.float32)
    index = build(tmp_path / "i", vectors, batch=1100, kind=kind)
    assert index.search(vectors[:3], 1)[1][:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_truncated_structure_stops_the_query(index, cut, clustered, tmp_path):
    copy = build(tmp_path / "i", clustered[0][:1100], batch=1100, kind=index.manifest["kind"])
    structure = copy.folder / "shard-00000" / "structure.faiss"
    structure.write_bytes(structure.read_bytes()[:cut])
    for attempt in (lambda: copy.search(clustered[1], 1), lambda: Index.open(copy.folder, "a" * 64)):
        with pytest.raises(DamagedIndex, match=r"shard-00000/structure\.faiss has"):
            attempt()


def test_another_kind_from_an_index(index, clustered, tmp_path):
    flat = build_index(
        tmp_path / "flat", index.stream, kind="flat", embedder=Named(DIMENSION), corpus_fingerprint="c" * 64,
        count=len(index),
    )  # fmt: skip
    assert_exact(flat, *clustered, K)
