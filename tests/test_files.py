"""Files appear whole or not at all."""

import hashlib
import json
import threading
from pathlib import Path

import pytest

from tttnn.files import (
    expand,
    home,
    read_json,
    sha256_file,
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


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"facts\.json.*build it again"):
        read_json(path)


def test_sha256_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(json.dumps([1] * 100_000).encode())
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
