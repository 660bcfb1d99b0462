"""What goes wrong while building or afterwards: kills, full disks, second builders, damaged files."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_index import Named, assert_exact, brute_force, build, source

import tttnn.index.build
import tttnn.index.vectors
from tttnn.files import BusyError, StorageError, write_json
from tttnn.index import (
    BuildOptions,
    DamagedIndex,
    Index,
    IndexMismatch,
    add_shard,
    build_index,
    search_shard,
    verify,
)

KILLS = 50
VECTORS = np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32)
MORE = np.random.default_rng(4).normal(size=(25, 4)).astype(np.float32)
BOTH = np.concatenate([VECTORS, MORE])


def files(folder):
    """All that an index consists of: relative name -> bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def add(folder, vectors=MORE, fingerprint="d" * 64, embedder=None, batches=None, kind=None, count=0, **options):
    return add_shard(
        folder, batches or source(vectors), embedder=embedder or Named(4), corpus_fingerprint=fingerprint, kind=kind,
        count=len(vectors) if count == 0 else count, options=BuildOptions(**{"shard_rows": 10} | options),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """An index of three shards."""
    build(tmp_path / "i", VECTORS, shard_rows=12)
    return tmp_path / "i"


def opened(folder, **options):
    return Index.open(folder, "a" * 64, **options)


# Kills


def test_killed_builds_end_as_if_nothing_had_happened(tmp_path):
    """At least 50 builds and additions killed with SIGKILL at random moments, some of them repeatedly."""
    command = [sys.executable, str(Path(__file__).with_name("killed_builds.py")), str(tmp_path), str(KILLS)]
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(done.stdout.split()[0]) >= KILLS


class Stopped(Exception):
    pass


@pytest.mark.parametrize("batch", [1, 4, 7, 30])
@pytest.mark.parametrize("stop", range(0, 31, 6))
def test_a_build_goes_on_after_the_last_durable_batch(tmp_path, monkeypatch, stop, batch):
    """Checkpoints after each batch: the source is asked for nothing a second time."""
    monkeypatch.setattr(tttnn.index.vectors, "CHECKPOINT_BYTES", 1)
    asked = []

    def batches(start, until):
        asked.append(start)
        for row in range(start, len(VECTORS), batch):
            if row >= until:
                raise Stopped
            yield VECTORS[row : row + batch]

    def attempt(until, shard_rows=30):
        return build_index(
            tmp_path / "i", lambda start: batches(start, until), embedder=Named(4), corpus_fingerprint="c" * 64,
            count=30, kind="flat-mapped", options=BuildOptions(shard_rows),
        )  # fmt: skip

    if stop < 30 - 30 % batch and -(-stop // batch) * batch < 30:
        with pytest.raises(Stopped):
            attempt(stop)
        with pytest.raises(IndexMismatch, match=r"unfinished build with other shard_rows.*build\.json"):
            attempt(31, shard_rows=29)
    assert_exact(attempt(31), VECTORS, VECTORS[:3], 7)
    assert asked == [0] if len(asked) == 1 else asked == [0, -(-stop // batch) * batch]
    build(tmp_path / "whole", VECTORS)
    assert files(tmp_path / "i") == files(tmp_path / "whole")


def test_what_is_written_after_the_journal_is_cut_off(tmp_path):
    def stops(start):
        yield VECTORS[:7]
        raise Stopped

    with pytest.raises(Stopped):
        build_index(tmp_path / "i", stops, embedder=Named(4), corpus_fingerprint="c" * 64, count=30)
    partial = tmp_path / "i" / "shard-00000" / "vectors.partial"
    partial.write_bytes(partial.read_bytes() + b"torn")
    assert_exact(build(tmp_path / "i", VECTORS, kind="auto"), VECTORS, VECTORS[:3], 7)


def test_a_build_given_up_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="10 vectors were given for 30"):
        build(tmp_path / "i", VECTORS[:10], shard_rows=4, count=30)
    (tmp_path / "i" / "build.json").unlink()
    build(tmp_path / "i", VECTORS)
    build(tmp_path / "whole", VECTORS)
    assert files(tmp_path / "i") == files(tmp_path / "whole")


# Adding documents


def test_added_shards_are_found(folder):
    before = opened(folder)
    index = add(folder)
    assert [card["count"] for card in index.manifest["shards"]] == [12, 12, 6, 10, 10, 5]
    assert index.manifest["corpus_fingerprint"] == "d" * 64
    assert_exact(index, BOTH, BOTH[::5], 40)
    assert_exact(before, VECTORS, VECTORS, 5)  # who had it open goes on
    assert verify(folder) == 13
    assert_exact(add(folder, VECTORS, "e" * 64), np.concatenate([BOTH, VECTORS]), BOTH[::5], 30)


def test_adding_twice_or_with_another_embedder_is_refused(folder):
    add(folder)
    before = files(folder)
    with pytest.raises(ValueError, match="holds these texts already"):
        add(folder)
    with pytest.raises(IndexMismatch, match=r"'named'.*'other'"):
        add(folder, embedder=Named(4, "other", "b" * 64), fingerprint="e" * 64)
    with pytest.raises(FileNotFoundError, match="no index"):
        add(folder.with_name("none"))
    assert files(folder) == before


def test_an_interrupted_addition_does_not_show_and_goes_on(folder, tmp_path):
    before = opened(folder).manifest
    with pytest.raises(ValueError, match="row 47"):
        broken = MORE.copy()
        broken[17] = np.nan
        add(folder, broken)
    assert opened(folder).manifest == before and verify(folder) == 7
    with pytest.raises(IndexMismatch, match="unfinished build with other corpus_fingerprint"):
        add(folder, fingerprint="e" * 64)
    assert_exact(add(folder), BOTH, BOTH[::5], 20)
    shutil.copytree(build(tmp_path / "whole", VECTORS, shard_rows=12).folder, tmp_path / "copy")
    add(tmp_path / "copy")
    assert files(folder) == files(tmp_path / "copy")


def test_an_index_is_not_overwritten(folder):
    before = files(folder)
    with pytest.raises(FileExistsError, match="remove it"):
        build(folder, MORE)
    assert files(folder) == before


# Locks


def test_the_second_builder_is_refused(folder):
    program = (
        "import sys, time\n"
        "from tttnn.files import sole_writer\n"
        "with sole_writer(sys.argv[1]):\n"
        "    sys.stdout.write('locked'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.read(6) == b"locked"
        with pytest.raises(BusyError, match=rf"{folder}: process {other.pid} is writing there"):
            add(folder)
        assert_exact(opened(folder), VECTORS, VECTORS[:2], 3)  # reading needs no lock
    finally:
        other.kill()
        other.communicate()
    assert len(add(folder)) == 55  # a killed builder holds no lock


def test_a_builder_inside_a_builder_is_refused(tmp_path):
    def batches(start):
        with pytest.raises(BusyError):
            build(tmp_path / "i", MORE)
        yield VECTORS

    build_index(tmp_path / "i", batches, embedder=Named(4), corpus_fingerprint="c" * 64, count=30)


# Full disks


@contextmanager
def file_size_limit(size):
    """A real failure of writing: no file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["flat-mapped", "sq8", "hnsw", "rabitq"])
def test_a_full_disk_leaves_the_old_index_and_the_build_goes_on(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tttnn.index.vectors, "CHECKPOINT_BYTES", 10_000)
    random = np.random.default_rng(6)
    old, new = (random.normal(size=(count, 16)).astype(np.float32) for count in (40, 1100))
    build(tmp_path / "i", old)
    expected = add_again(tmp_path, old, new, kind)
    sizes = {name: len(content) for name, content in expected.items()}
    failures = 0
    for limit in (0, 100, 1_000, 9_999, 50_000, *(sizes[name] - 1 for name in sizes if "00001" in name)):
        try:
            with file_size_limit(limit):
                add(tmp_path / "i", new, batches=source(new, 100), embedder=Named(16), kind=kind, shard_rows=2000)
        except OSError as error:
            assert error.errno == errno.EFBIG
            failures += 1
            assert verify(tmp_path / "i") == 3
            assert_exact(opened(tmp_path / "i"), old, old[:2], 3)
    assert failures >= 5
    if len(opened(tmp_path / "i")) == 40:
        add(tmp_path / "i", new, batches=source(new, 100), embedder=Named(16), kind=kind, shard_rows=2000)
    assert files(tmp_path / "i") == expected


def add_again(tmp_path, old, new, kind):
    """The files of the same index with nothing in the way."""
    folder = build(tmp_path / "whole", old).folder
    add(folder, new, batches=source(new, 100), embedder=Named(16), kind=kind, shard_rows=2000)
    return files(folder)


@pytest.mark.parametrize("step", ["vectors", "structure", "card", "manifest"])
def test_no_space_left_at_any_step(folder, step, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(folder)
    names = {"vectors": "checkpoint", "structure": "_write_structure", "card": "write_card", "manifest": "publish"}
    with monkeypatch.context() as patch:
        place = tttnn.index.vectors.PartialVectors if step == "vectors" else tttnn.index.build
        patch.setattr(place, names[step], full)
        with pytest.raises(StorageError, match=rf"{folder}.*no space left"):
            add(folder, kind="fp16")
    assert {name: content for name, content in files(folder).items() if name in before} == before
    assert_exact(opened(folder), VECTORS, VECTORS[:3], 5)
    assert_exact(add(folder, kind="fp16"), BOTH, BOTH[:9], 5)


def test_a_full_disk_in_a_batch_is_named_by_its_folder(tmp_path):
    def batches(start):
        yield VECTORS[:5]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=rf"{tmp_path / 'i'}: no space left"):
        build_index(tmp_path / "i", batches, embedder=Named(4), corpus_fingerprint="c" * 64, count=30)
    assert_exact(build(tmp_path / "i", VECTORS, kind="auto"), VECTORS, VECTORS[:3], 7)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(tttnn.files.fcntl, "flock", flock)
    with pytest.raises(StorageError, match=rf"{tmp_path / 'i'}.*: this file system has no locks.*TTTNN_HOME"):
        build(tmp_path / "i", VECTORS)


# Plans and journals that are none


def _interrupted(folder):
    def stops(start):
        yield VECTORS[:7]
        raise Stopped

    with pytest.raises(Stopped):
        build_index(folder, stops, embedder=Named(4), corpus_fingerprint="c" * 64, count=30)


@pytest.mark.parametrize("rows", [-1, 10**30, 1000, "7", 1.5, None])
def test_a_journal_that_does_not_fit_is_refused(tmp_path, rows):
    _interrupted(tmp_path / "i")
    write_json(tmp_path / "i" / "shard-00000" / "journal.json", {"rows": rows})
    with pytest.raises(DamagedIndex, match=r"journal\.json does not fit"):
        build(tmp_path / "i", VECTORS, kind="auto", count=30)


@pytest.mark.parametrize("plan", [[], {}, {"first": -1}, {"first": "0"}, None])
def test_a_plan_that_is_none_is_refused(tmp_path, plan):
    _interrupted(tmp_path / "i")
    write_json(tmp_path / "i" / "build.json", plan)
    with pytest.raises(DamagedIndex, match=r"build\.json is no plan of a build: remove it"):
        build(tmp_path / "i", VECTORS, kind="auto", count=30)


def test_a_shard_is_not_written_where_a_link_leads(tmp_path):
    _interrupted(tmp_path / "i")
    shard = tmp_path / "i" / "shard-00000"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path / "elsewhere")
    with pytest.raises(IndexMismatch, match="shard-00000 is a link"):
        build(tmp_path / "i", VECTORS, kind="auto", count=30)
    assert files(tmp_path / "elsewhere") == before


# Damage


def test_every_flipped_bit_is_found(tmp_path):
    """In each file, at opening or by `verify`; the message names the file."""
    vectors = np.random.default_rng(5).normal(size=(300, 2)).astype(np.float32)
    folder = build(tmp_path / "i", vectors, kind="sq8", shard_rows=270, batch=100).folder
    random = np.random.default_rng(0)
    for name, content in files(folder).items():
        for place in random.integers(0, 8 * len(content), 60) if content else ():
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(DamagedIndex, match=name):
                verify(folder)
        (folder / name).write_bytes(content)
    assert verify(folder) == 6


def test_a_flipped_bit_of_manifest_or_card_is_seen_at_opening(folder):
    for name in ("manifest.json", "shard-00001/shard.json"):
        content = (folder / name).read_bytes()
        for place in np.random.default_rng(1).integers(0, 8 * len(content), 100):
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(DamagedIndex, match=name.split("/")[0]):
                opened(folder)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("kept", [0, 10, 128, -1, -4])
@pytest.mark.parametrize("name", ["manifest.json", "shard-00001/shard.json", "shard-00001/vectors.npy"])
def test_truncation_is_seen_at_opening(folder, name, kept):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] if kept == -1 else content[:kept])
    for check in (opened, verify):
        with pytest.raises(DamagedIndex, match=name):
            check(folder)


def test_verify_names_all_damaged_files(folder):
    for number in (0, 2):
        path = folder / f"shard-0000{number}" / "vectors.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedIndex, match=r"(?s)2 of 7 files.*shard-00000/vectors.*shard-00002/vectors"):
        verify(folder)
    opened(folder)  # sizes are right: only reading everything shows it


def lose(shard):
    shutil.rmtree(shard)


def truncate(shard):
    (shard / "vectors.npy").write_bytes((shard / "vectors.npy").read_bytes()[:-7])


def exchange(shard):
    """For one of the same size, of another embedder."""
    place = shard.parent.with_name("other")
    build_index(
        place, source(VECTORS), embedder=Named(4, "other", "b" * 64), corpus_fingerprint="c" * 64,
        count=30, options=BuildOptions(12), kind="flat-mapped",
    )  # fmt: skip
    shutil.rmtree(shard)
    shutil.copytree(place / shard.name, shard)


def misplace(shard):
    shutil.copytree(shard.with_name("shard-00000"), shard, dirs_exist_ok=True)


@pytest.mark.parametrize("harm", [lose, truncate, exchange, misplace])
def test_a_shard_out_of_order_stops_the_query_unless_that_is_allowed(folder, harm):
    harm(folder / "shard-00001")
    for check in (opened, verify):
        with pytest.raises(DamagedIndex, match="shard-00001"):
            check(folder)
    partly = opened(folder, allow_missing=True)
    assert len(partly) == 30 and list(partly.missing) == ["shard-00001"]
    answer = partly.search(VECTORS[:4], 10)
    assert answer.answered == ["shard-00000", "shard-00002"]
    left = np.r_[0:12, 24:30]
    distances, places = brute_force(VECTORS[left], VECTORS[:4], 10)
    np.testing.assert_array_equal(answer[1], left[places])
    np.testing.assert_array_equal(answer[0], distances)
    with pytest.raises(ValueError, match="shards that answered hold 18 vectors"):
        partly.search(VECTORS[:1], 19)
    with pytest.raises(DamagedIndex, match="vector 13 is missing"):
        partly.vectors([2, 13])


@pytest.mark.parametrize("harm", [lose, truncate])
def test_a_shard_lost_while_open(folder, harm):
    whole, partly = opened(folder), opened(folder, allow_missing=True)
    assert partly.search(VECTORS[:1], 1).answered == ["shard-00000", "shard-00001", "shard-00002"]
    harm(folder / "shard-00001")
    with pytest.raises(DamagedIndex, match="shard-00001"):
        whole.search(VECTORS[:1], 1)
    assert partly.search(VECTORS[:1], 1).answered == ["shard-00000", "shard-00002"]
    with pytest.raises(DamagedIndex, match="shard-00001"):
        search_shard(folder / "shard-00001", VECTORS[:1], 1)


def test_no_shard_at_all(folder):
    for shard in folder.glob("shard-*"):
        shutil.rmtree(shard)
    with pytest.raises(DamagedIndex, match="no shard is in order"):
        opened(folder, allow_missing=True).search(VECTORS[:1], 1)
