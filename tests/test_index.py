"""The index is exact, ties go by id, and whatever is wrong with its files stops it at opening."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tttnn.index
from tttnn.files import read_json, sha256_file, write_json
from tttnn.index import DamagedIndex, Index, IndexMismatch, build_index


@dataclass
class Named:
    """As much of an embedder as an index asks for."""

    dimension: int
    name: str = "named"
    fingerprint: str = "a" * 64


def build(folder, vectors, batch=7):
    vectors = np.asarray(vectors, dtype=np.float32)
    batches = (vectors[start : start + batch] for start in range(0, len(vectors), batch))
    embedder = Named(vectors.shape[1])
    return build_index(folder, batches, embedder=embedder, corpus_fingerprint="c" * 64, count=len(vectors))


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


@settings(max_examples=150, deadline=None)
@given(case=searches())
def test_search_equals_brute_force(tmp_path_factory, case):
    vectors, queries, k = case
    index = build(tmp_path_factory.mktemp("index") / "i", vectors)
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


class Shuffled:
    """A flat index that breaks ties at random and is off by a little, as Faiss may be."""

    def __init__(self, flat):
        self.flat = flat
        self.reconstruct_batch = flat.reconstruct_batch

    def search(self, queries, k):
        distances, ids = self.flat.search(queries, self.flat.ntotal)
        distances = distances * np.float32(1 + 1e-7) ** np.random.default_rng(4).integers(
            -1, 2, distances.shape
        )
        order = np.argsort(distances, axis=1)[:, :k]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def range_search(self, queries, radius):
        return self.flat.range_search(queries, radius)


def test_ties_longer_than_the_candidates(tmp_path):
    """With 200 copies and k = 5, Faiss's own candidates need not hold the lowest ids."""
    vectors = np.repeat(np.eye(3, 48, dtype=np.float32), 200, axis=0)
    index = build(tmp_path / "i", vectors)
    index._flat = Shuffled(index._flat)
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
    file = tmp_path / "i" / shard["file"]
    assert (shard["count"], shard["bytes"], shard["sha256"]) == (3, file.stat().st_size, sha256_file(file))
    assert manifest["embedder"] == {"name": "named", "fingerprint": "a" * 64}
    assert manifest["corpus_fingerprint"] == "c" * 64
    assert {"faiss", "numpy", "tttnn"} <= set(manifest["versions"])
    assert index.manifest == manifest
    index.verify()


def test_vectors_stay_on_disk(tmp_path):
    """A mapped file is read by page: private memory must not grow by the size of the index."""
    build(tmp_path / "i", np.random.default_rng(3).normal(size=(40_000, 256)), batch=10_000)  # 41 MB
    program = (
        "import sys, numpy as np\n"
        "from tttnn.index import Index, _faiss\n"
        "def private():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line.split()[1] for line in lines if line.startswith('RssAnon')))\n"
        "_faiss(); before = private()\n"
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
        "from tttnn.index import _faiss\n"
        "_faiss(threads=2)\n"
        "assert faiss.omp_get_max_threads() == 2\n"
        "index = faiss.IndexFlatL2(64); index.add(np.eye(64, dtype=np.float32))\n"
        "index.search(np.eye(64, dtype=np.float32), 3); torch.ones(300, 300) @ torch.ones(300, 300)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


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
        build(tmp_path / "i", vectors)
    assert list(tmp_path.iterdir()) == []


def test_wrong_count_dimension_or_none(tmp_path):
    def attempt(vectors, count):
        build_index(tmp_path / "i", vectors, embedder=Named(3), corpus_fingerprint="", count=count)

    with pytest.raises(ValueError, match="2 vectors were given for 3 texts"):
        attempt([np.zeros((2, 3))], 3)
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        attempt([np.zeros((2, 4))], None)
    with pytest.raises(ValueError, match="no vectors"):
        attempt([], None)
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_not_overwritten(index):
    before = sha256_file(index.folder / "manifest.json")
    with pytest.raises(FileExistsError, match="remove it"):
        build(index.folder, np.eye(3))
    assert sha256_file(index.folder / "manifest.json") == before


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tttnn.index, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        build(tmp_path / "i", np.eye(3))
    assert list(tmp_path.iterdir()) == []


def test_another_embedder_is_refused_by_name(index):
    with pytest.raises(IndexMismatch, match=r"'named' \(fingerprint aaaaaaaaaaaa\).*'other'.*bbbb"):
        Index.open(index.folder, "b" * 64, "other")


def test_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="build it with build_index"):
        Index.open(tmp_path, "a" * 64)


@pytest.mark.parametrize("kept", [0, 10, 44, 45, -1, -4])
def test_truncation_is_seen_at_opening(index, kept):
    shard = index.folder / "shard-00000.faiss"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(DamagedIndex, match=f"{shard.name} has"):
        Index.open(index.folder, "a" * 64)


def test_a_missing_shard_is_seen_at_opening(index):
    (index.folder / "shard-00000.faiss").unlink()
    with pytest.raises(DamagedIndex, match="missing"):
        Index.open(index.folder, "a" * 64)


def test_a_shard_of_another_index_is_seen_at_opening(index, tmp_path):
    other = build(tmp_path / "other", np.arange(12, dtype=np.float32).reshape(3, 4))  # as many bytes
    shutil.copy(other.folder / "shard-00000.faiss", index.folder / "shard-00000.faiss")
    with pytest.raises(DamagedIndex, match="3 vectors of dimension 4"):
        Index.open(index.folder, "a" * 64)


def test_a_flipped_bit_is_found_by_verify(index):
    shard = index.folder / "shard-00000.faiss"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedIndex, match="changed"):
        Index.open(index.folder, "a" * 64).verify()


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"kind": "ivf"}, {"shards": []}, {"count": 5}, {"dimension": None}, {"embedder": None}],
)
def test_a_manifest_that_does_not_fit_is_refused(index, change):
    manifest = {**read_json(index.folder / "manifest.json"), **change}
    write_json(
        index.folder / "manifest.json", {key: value for key, value in manifest.items() if value is not None}
    )
    with pytest.raises(DamagedIndex):
        Index.open(index.folder, "a" * 64)
