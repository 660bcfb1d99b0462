"""Files appear whole or not at all."""

import errno
import hashlib
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tttnn import files
from tttnn.errors import TTTNNError
from tttnn.files import (
    BusyError,
    StorageError,
    expand,
    home,
    lock,
    read_json,
    sha256_file,
    sole_writer,
    write_json,
    writing,
    writing_folder,
)


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "kept"))
    assert home() == tmp_path / "kept"
    monkeypatch.delenv("TTTNN_HOME")
    assert home().parts[-2:] == (".cache", "tttnn")


def test_a_tilde_is_the_users_home_whatever_kind_of_path(monkeypatch):
    monkeypatch.setenv("HOME", "/data/me")
    assert expand("~/pile") == "/data/me/pile"
    assert expand(Path("~/pile")) == Path("/data/me/pile")
    for name in ("gpt2-xs-general", "EleutherAI/gpt-neo-1.3B", "folder/~", "", "~nobody-of-this-name/x"):
        assert expand(name) == name
        assert isinstance(expand(name), str)


def test_writing_puts_the_file_in_place_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with writing(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(type(error)), writing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "file.txt"):
        pass


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk full"), writing_folder(tmp_path / "folder") as partial:
        (partial / "part").write_text("half")
        raise OSError("disk full")
    assert not list(tmp_path.iterdir())


def test_two_builders_of_a_folder_leave_one_whole_folder(tmp_path):
    both_wrote = threading.Barrier(2)

    def build(name: str) -> None:
        with writing_folder(tmp_path / "folder") as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "who").write_text(name)
            both_wrote.wait(timeout=30)

    threads = [threading.Thread(target=build, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "folder" / "sub" / "who").read_text() in ("a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tttnn import files
block = files.writing_folder if sys.argv[2] == "folder" else files.writing
with block(Path(sys.argv[1])) as partial:
    (partial / "half" if partial.is_dir() else partial).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, kind):
    path, block = tmp_path / "a[1].jsonl", writing_folder if kind == "folder" else writing
    subprocess.run([sys.executable, "-c", KILLED, str(path), kind], check=False)
    [left] = tmp_path.iterdir()
    others = [  # of another file, another machine, an earlier version; and no partial file at all
        left.name.replace("a[1]", "a1"),
        f".a[1].jsonl.{'0' * 8}-1-{'0' * 8}.partial",
        f".a[1].jsonl.{'0' * 12}.partial",
        ".a[1].jsonl.lock",
    ]
    for name in others:
        (tmp_path / name).touch()
    with block(path) as partial:
        assert not left.exists()
        with block(path) as second:  # of a process that is there: this one
            assert partial.exists() == (kind == "folder")
            (second / "b" if kind == "folder" else second).write_text("b")
        (partial / "a" if kind == "folder" else partial).write_text("a")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*others, path.name])


def test_a_process_number_that_was_given_again_keeps_nothing(tmp_path):
    path = tmp_path / "a"
    with writing(path) as partial:
        partial.write_text("a")
        left = partial.with_name(partial.name.replace(partial.name.split("-")[-1], f"{'0' * 8}.partial"))
        left.touch()
        os.utime(left, (1, 1))  # older than this process, whose number it bears
    with writing(path) as partial:
        assert not left.exists()
        partial.write_text("b")


def test_what_a_killed_one_left_is_removed_without_psutil_too(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    subprocess.run([sys.executable, "-c", KILLED, str(path), "file"], check=False)
    [left] = tmp_path.iterdir()
    monkeypatch.setitem(sys.modules, "psutil", None)  # as on a machine that only trains
    with writing(path) as partial:
        assert not left.exists()
        partial.write_text("a")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("block", [writing, writing_folder])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "quota"), OSError("1024 requested and 12 written")],
)
def test_a_full_disk_is_named_by_its_folder(tmp_path, block, error):
    with pytest.raises(StorageError, match=rf"{tmp_path}: no space left"), block(tmp_path / "a"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with pytest.raises(StorageError, match=rf"{below}: a part of this path is a file"), writing(below / "a"):
        pass
    with pytest.raises(StorageError, match="name is too long"), writing(tmp_path / ("a" * 250)) as partial:
        partial.write_text("")

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("tttnn.files.Path.mkdir", refuse)
    with pytest.raises(StorageError, match=rf"{tmp_path}: permission denied.*TTTNN_HOME"), writing(tmp_path / "a"):
        pass


def test_an_error_about_another_place_is_left_as_it_is(tmp_path):
    with pytest.raises(PermissionError) as caught, writing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/b")
    assert not isinstance(caught.value, TTTNNError)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_flush_a_folder(tmp_path, monkeypatch, number):
    flush = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "not here")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    write_json(tmp_path / "a.json", 1)
    with writing_folder(tmp_path / "folder") as partial:
        (partial / "sub").mkdir()
    assert read_json(tmp_path / "a.json") == 1 and (tmp_path / "folder" / "sub").is_dir()

    def never(_):
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "fsync", never)
    with pytest.raises(OSError, match="not here"):  # of the file itself: then it is not written
        write_json(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1


def test_json_round_trip_keeps_text_readable(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"name": "Grüße", "values": [1, 2.5, None]})
    assert read_json(path) == {"name": "Grüße", "values": [1, 2.5, None]}
    assert "Grüße" in path.read_text(encoding="utf-8")


def test_json_refuses_what_is_not_json(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, 1)
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert read_json(path) == 1


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"7" * 5000, b"[" * 100_000])
def test_a_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(TTTNNError, match=r"facts\.json.*build it again"):
        read_json(path)


def test_sha256_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(json.dumps([1] * 100_000).encode())
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_lock_is_held_by_one_and_says_by_whom(tmp_path):
    with open(tmp_path / "lock", "a") as first, open(tmp_path / "lock", "a") as second:
        lock(first)
        with pytest.raises(BlockingIOError, match=rf"process {os.getpid()}|another process"):
            lock(second)
        first.close()
        lock(second)


def test_processes_forked_meanwhile_lock_nobody_out(tmp_path):
    with open(tmp_path / "lock", "a") as first, open(tmp_path / "lock", "a") as second:
        lock(first)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        try:
            time.sleep(0.5)
            first.close()
            lock(second)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_file_system_without_locks_is_named_as_that(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with open(tmp_path / "lock", "a") as file, pytest.raises(StorageError, match="this file system has no locks"):
        lock(file)


WRITES = """
import sys, time
from tttnn.files import sole_writer
with sole_writer(sys.argv[1], beside=sys.argv[2] == "beside"):
    sys.stdout.write("inside")
    sys.stdout.flush()
    time.sleep(60)
"""


@pytest.fixture(params=["in it", "beside"])
def written(tmp_path, request):
    """A folder that another process writes to: folder, process, and where its lock is, as an option."""
    folder = tmp_path / "new" / "folder"
    other = subprocess.Popen([sys.executable, "-c", WRITES, str(folder), request.param], stdout=subprocess.PIPE)
    assert other.stdout.read(6) == b"inside"
    yield folder, other, {"beside": request.param == "beside"}
    other.kill()
    other.communicate()


def test_a_second_writer_is_told_who_writes_and_a_killed_one_locks_nobody_out(written):
    folder, other, where = written
    told = rf"{folder}: process {other.pid} is writing there"
    with pytest.raises(BusyError, match=told), sole_writer(folder, **where):
        pytest.fail("two at once")
    other.kill()
    other.wait()
    with sole_writer(folder, **where):
        assert folder.exists() != where["beside"]


@pytest.mark.parametrize("patience, told", [(60, ["INFO"]), (0.01, ["INFO", "WARNING"])])
def test_a_second_writer_can_wait_and_warns_if_that_takes_long(written, caplog, monkeypatch, patience, told):
    folder, other, where = written
    monkeypatch.setattr(files, "PATIENCE", patience)
    threading.Timer(0.5, other.kill).start()
    with caplog.at_level(logging.INFO), sole_writer(folder, wait=True, **where):
        assert other.wait(timeout=10) == -signal.SIGKILL
    said = f"{folder}: process {other.pid} is writing there; waiting until it is done"
    assert [(record.levelname, record.message) for record in caplog.records] == [(level, said) for level in told]


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_without_a_place_for_the_lock_is_named(tmp_path, wait, beside):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with pytest.raises(StorageError, match="a part of this path is a file"), sole_writer(below, wait, beside):
        pytest.fail("written to")
