"""The index is exact, ties go by id, and whatever is wrong with its files stops it at opening."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tttnn.index.exact
from tttnn.errors import ParameterError
from tttnn.files import read_json, sha256_file
from tttnn.index import (
    BuildOptions,
    DamagedIndex,
    Index,
    IndexMismatch,
    SearchSettings,
    build_index,
    merge,
    search_shard,
    verify,
)
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.manifest import write_sealed


@dataclass
class Named:
    """As much of an embedder as an index asks for."""

    dimension: int
    name: str = "named"
    fingerprint: str = "a" * 64


def source(vectors, batch=7):
    """Row number -> batches from there on."""
    return lambda start: (vectors[row : row + batch] for row in range(start, len(vectors), batch))


def build(folder, vectors, batch=7, kind="flat-mapped", count=0, **options):
    vectors = np.asarray(vectors, dtype=np.float32)
    return build_index(
        folder, source(vectors, batch), embedder=Named(vectors.shape[1]), corpus_fingerprint="c" * 64, kind=kind,
        count=len(vectors) if count == 0 else count, options=BuildOptions(**options),
    )  # fmt: skip


def brute_force(vectors, queries, k):
    """Squared L2 by its definition, in float64, given as float32; ties by id."""
    exact = np.square(vectors[None].astype(np.float64) - queries[:, None].astype(np.float64)).sum(axis=2)
    distances = exact.astype(np.float32)
    ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, ids, axis=1), ids


def assert_exact(index, vectors, queries, k):
    distances, ids = index.search(queries, k)
    expected_distances, expected_ids = brute_force(vectors, queries, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(distances, expected_distances)
    assert (distances.dtype, ids.dtype) == (np.float32, np.int64)


@st.composite
def searches(draw):
    """Few different rows, many copies of them: ties everywhere, position k included."""
    dimension = draw(st.sampled_from([1, 3, 8, 17]))
    numbers = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, 1e-20, 1e9, -1e9])
    distinct = draw(arrays(np.float32, (draw(st.integers(1, 6)), dimension), elements=numbers))
    rows = draw(st.lists(st.integers(0, len(distinct) - 1), min_size=1, max_size=90))
    others = draw(arrays(np.float32, (draw(st.integers(0, 22)), dimension), elements=numbers))
    return distinct[rows], np.concatenate([distinct, others]), draw(st.integers(1, len(rows)))


@settings(max_examples=100, deadline=None)
@given(case=searches(), shard_rows=st.integers(1, 40), kind=st.sampled_from(["flat", "flat-mapped"]))
def test_search_of_shards_equals_brute_force(tmp_path_factory, case, shard_rows, kind):
    vectors, queries, k = case
    if len(vectors) > 20 * shard_rows:  # many shards take long to write, and test nothing more
        shard_rows = len(vectors)
    index = build(tmp_path_factory.mktemp("index") / "i", vectors, kind=kind, shard_rows=shard_rows)
    assert len(index.manifest["shards"]) == -(-len(vectors) // shard_rows)
    assert_exact(index, vectors, queries, k)


@pytest.mark.parametrize("queries", [1, 64])  # Faiss computes few and many queries in different ways
@pytest.mark.parametrize("length", [1.0, 100.0])
def test_copies_tie_and_the_lowest_ids_stay(tmp_path, queries, length):
    random = np.random.default_rng(0)
    distinct = random.normal(size=(40, 48)).astype(np.float32)
    distinct *= length / np.linalg.norm(distinct, axis=1, keepdims=True)
    vectors = distinct[random.integers(0, 40, 3000)]  # about 75 copies each, so that k falls among copies
    index = build(tmp_path / "i", vectors, batch=1000)
    for k in (1, 20, 100):
        assert_exact(index, vectors, distinct[:queries], k)


@pytest.mark.parametrize("kind", ["flat", "flat-mapped"])
def test_flat_kinds_give_the_results_of_the_published_index(tmp_path, kind):
    import faiss

    rng = np.random.default_rng(1216)
    vectors, queries = rng.standard_normal((500, 24), np.float32), rng.standard_normal((20, 24), np.float32)
    published = faiss.IndexFlatL2(24)
    published.add(vectors)
    wanted_distances, wanted = published.search(queries, 20)
    distances, ids = build(tmp_path / "i", vectors, kind=kind, shard_rows=200).search(queries, 20)
    assert np.array_equal(ids, wanted)
    np.testing.assert_allclose(distances, wanted_distances, rtol=1e-5)


def test_ties_longer_than_the_candidates(tmp_path, monkeypatch):
    """With 200 copies and k = 5, Faiss's own candidates need not hold the lowest ids."""
    knn = tttnn.index.exact._knn

    def shuffled(queries, vectors, k):
        """Ties broken at random, and distances off by a little, as Faiss's may be."""
        distances, ids = knn(queries, vectors, len(vectors))
        random = np.random.default_rng(4)
        distances = distances * np.float32(1 + 1e-7) ** random.integers(-1, 2, distances.shape)
        order = np.argsort(distances, axis=1)[:, :k]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)

    monkeypatch.setattr(tttnn.index.exact, "_knn", shuffled)
    vectors = np.repeat(np.eye(3, 48, dtype=np.float32), 200, axis=0)
    index = build(tmp_path / "i", vectors)
    assert_exact(index, vectors, vectors[::150] + np.float32(0.1), 5)
    assert_exact(index, vectors, vectors[::150] + np.float32(0.1), 203)


def test_rounding_of_near_ties_far_from_the_origin(tmp_path):
    """Here ``|q|^2 + |x|^2 - 2 q.x`` in float32 gets most of the order wrong."""
    random = np.random.default_rng(1)
    vectors = (1000 + random.normal(size=(500, 16)) * 0.01).astype(np.float32)
    assert_exact(build(tmp_path / "i", vectors), vectors, vectors[:40], 5)


def test_batches_do_not_matter_and_files_are_reproducible(tmp_path):
    vectors = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    one, two = build(tmp_path / "one", vectors, batch=50), build(tmp_path / "two", vectors, batch=3)
    assert one.manifest == two.manifest
    assert len(one) == 50 and one.dimension == 4
    np.testing.assert_array_equal(one.vectors([49, 0]), vectors[[49, 0]])


def test_manifest_describes_the_files(tmp_path):
    index = build(tmp_path / "i", np.eye(3))
    manifest = read_json(tmp_path / "i" / "manifest.json")
    (shard,) = manifest["shards"]
    (file,) = shard["files"]
    path = tmp_path / "i" / shard["name"] / file["file"]
    assert (shard["count"], file["bytes"], file["sha256"]) == (3, path.stat().st_size, sha256_file(path))
    assert manifest["embedder"] == {"name": "named", "fingerprint": "a" * 64}
    assert manifest["corpus_fingerprint"] == "c" * 64
    assert {"faiss", "numpy", "tttnn"} <= set(manifest["versions"])
    assert index.manifest == manifest
    assert verify(tmp_path / "i") == 3
    np.testing.assert_array_equal(np.load(path), np.eye(3))  # a plain .npy file


def test_a_shard_is_searched_by_itself_and_merged(tmp_path):
    """What a cluster does: one function of a shard's folder, and one that merges."""
    vectors = np.random.default_rng(7).integers(0, 3, (60, 4)).astype(np.float32)  # many copies
    index = build(tmp_path / "i", vectors, shard_rows=25)
    folders = sorted((tmp_path / "i").glob("shard-*"))
    parts = [search_shard(folder, vectors[:9], 12) for folder in reversed(folders)]
    for ours, expected in zip(merge(parts, 12), index.search(vectors[:9], 12), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert merge([search_shard(folders[2], vectors[:9], 12)], 12)[0].shape == (9, 10)  # all it has
    assert index.search(vectors[:1], 3).answered == [folder.name for folder in folders]


def test_vectors_of_several_shards(tmp_path):
    vectors = np.random.default_rng(8).normal(size=(50, 3)).astype(np.float32)
    index = build(tmp_path / "i", vectors, shard_rows=20)
    ids = np.random.default_rng(9).integers(0, 50, 80)
    np.testing.assert_array_equal(index.vectors(ids), vectors[ids])
    np.testing.assert_array_equal(np.concatenate(list(index.stream(33))), vectors[33:])


def test_vectors_stay_on_disk(tmp_path):
    """A mapped file is read by page: private memory must not grow by the size of the index."""
    build(tmp_path / "i", np.random.default_rng(3).normal(size=(40_000, 256)), batch=10_000)  # 41 MB
    program = (
        "import sys, numpy as np\n"
        "from tttnn.index import Index\n"
        "from tttnn.index.faiss_runtime import load_faiss\n"
        "def private():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line.split()[1] for line in lines if line.startswith('RssAnon')))\n"
        "load_faiss(); before = private()\n"
        "index = Index.open(sys.argv[1], 'a' * 64); index.search(np.zeros((1, 256)), 20)\n"
        "sys.stdout.write(str(private() - before))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "i")]
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to measure memory")
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 10_000  # kB


@pytest.mark.parametrize("first, second", [("torch", "faiss"), ("faiss", "torch")])
def test_torch_and_faiss_work_in_one_process(first, second):
    program = (
        f"import {first}, {second}, numpy as np\n"
        "from tttnn.index.faiss_runtime import load_faiss\n"
        "load_faiss(threads=2)\n"
        "assert faiss.omp_get_max_threads() == 2\n"
        "index = faiss.IndexFlatL2(64); index.add(np.eye(64, dtype=np.float32))\n"
        "index.search(np.eye(64, dtype=np.float32), 3); torch.ones(300, 300) @ torch.ones(300, 300)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_threads_may_be_text():
    before = load_faiss().omp_get_max_threads()
    try:
        assert load_faiss(threads="2").omp_get_max_threads() == 2
        for bad in ("x", 0, 2.5):
            with pytest.raises(ParameterError, match=r"^threads="):
                load_faiss(threads=bad)
    finally:
        load_faiss(before)


@pytest.fixture
def index(tmp_path):
    return build(tmp_path / "i", np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.mark.parametrize(
    "k, message",
    [(0, "k must be at least 1"), (-1, "at least 1"), (5, "holds 4 vectors: k can be at most 4")],
)
def test_k_out_of_range(index, k, message):
    with pytest.raises(ValueError, match=message):
        index.search(np.zeros((1, 3)), k)


@pytest.mark.parametrize(
    "queries, message",
    [
        (np.zeros((1, 4)), r"shape \(n, 3\), not \(1, 4\)"),
        (np.zeros(3), r"shape \(n, 3\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "queries, row 1"),
        (np.full((1, 3), 1e30), "queries, row 0"),
    ],
)
def test_bad_queries(index, queries, message):
    with pytest.raises(ValueError, match=message):
        index.search(queries, 1)


def test_no_queries(index):
    distances, ids = index.search(np.empty((0, 3)), 2)
    assert distances.shape == ids.shape == (0, 2)


def test_no_such_id(index):
    with pytest.raises(IndexError, match="0 to 3"):
        index.vectors([4])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_vectors_are_refused_with_their_row(tmp_path, bad):
    vectors = np.zeros((20, 3), dtype=np.float32)
    vectors[16, 1] = bad
    with pytest.raises(ValueError, match="row 16"):
        build(tmp_path / "i", vectors, shard_rows=9)
    with pytest.raises(FileNotFoundError, match="no index"):
        Index.open(tmp_path / "i", "a" * 64)
    vectors[16] = 1
    assert_exact(build(tmp_path / "i", vectors, shard_rows=9), vectors, vectors, 2)


def test_wrong_count_dimension_or_none(tmp_path):
    def attempt(vectors, count):
        build_index(tmp_path / "i", source(vectors, 2), embedder=Named(3), corpus_fingerprint="", count=count)

    with pytest.raises(ValueError, match="2 vectors were given for 3 texts"):
        attempt(np.zeros((2, 3)), 3)
    (tmp_path / "i" / "build.json").unlink()
    with pytest.raises(ValueError, match="more vectors were given than the 3 texts"):
        attempt(np.zeros((4, 3)), 3)
    (tmp_path / "i" / "build.json").unlink()
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        attempt(np.zeros((2, 4)), None)
    (tmp_path / "i" / "build.json").unlink()
    with pytest.raises(ValueError, match="no vectors"):
        attempt(np.zeros((0, 3)), None)
    with pytest.raises(FileNotFoundError, match="no index"):
        Index.open(tmp_path / "i", "a" * 64)


@pytest.mark.parametrize("options", [{"kind": "ivf"}, {"shard_rows": 0}])
def test_bad_options(tmp_path, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=.*must be"):
        build(tmp_path / "i", np.eye(3), **options)
    assert list(tmp_path.iterdir()) == []


def test_count_need_not_be_known(tmp_path):
    vectors = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
    known, unknown = (build(tmp_path / str(count), vectors, shard_rows=20, count=count) for count in (40, None))
    assert known.manifest == unknown.manifest and len(known.manifest["shards"]) == 2


def test_another_embedder_is_refused_by_name(index):
    with pytest.raises(IndexMismatch, match=r"'named' \(fingerprint aaaaaaaaaaaa\).*'other'.*bbbb"):
        Index.open(index.folder, "b" * 64, "other")


def test_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="build it with build_index"):
        Index.open(tmp_path, "a" * 64)


@pytest.mark.parametrize(
    "change",
    [{"format": 1}, {"shards": []}, {"count": 5}, {"dimension": None}, {"embedder": None}],
)
def test_a_manifest_that_does_not_fit_is_refused(index, change):
    manifest = {**read_json(index.folder / "manifest.json"), **change}
    write_sealed(index.folder / "manifest.json", {key: value for key, value in manifest.items() if value is not None})
    with pytest.raises(DamagedIndex, match=r"manifest\.json"):
        Index.open(index.folder, "a" * 64)


@pytest.mark.parametrize("name", ["candidates", "effort"])
def test_bad_settings(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        SearchSettings(**{name: 0})
