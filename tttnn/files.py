"""Files written whole or not at all, and the folder where built data is kept.

Every writer of this package writes under a temporary name in the destination's own folder, flushes it to
the disk and renames it. A reader therefore never sees half a file, and an interrupted run leaves what was
there before.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from tttnn.errors import TTTNNError

HOME_VARIABLE = "TTTNN_HOME"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_locked: WeakSet[IO] = WeakSet()


def home() -> Path:
    """Return the folder that holds corpora and indexes built on this machine.

    Returns
    -------
    Path
        ``$TTTNN_HOME`` if it is set, otherwise ``~/.cache/tttnn``. The folder need not exist yet.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "tttnn"


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to; put it in the place of `path` once the block succeeds.

    Parameters
    ----------
    path : str or Path
        The file to create or replace. Missing parent folders are made.

    Yields
    ------
    Path
        A name that does not exist yet, in the same folder as `path`. If the block raises, whatever was
        written there is removed and `path` is left as it was.

    Raises
    ------
    FileNotFoundError
        If the block ends without having written the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder to fill; rename it to `path` once the block succeeds.

    Parameters
    ----------
    path : str or Path
        The folder to create. If it exists when the block ends, for example because another process built
        it meanwhile, that one stays and this one is thrown away: remove a folder first to rebuild it.

    Yields
    ------
    Path
        An empty folder beside `path`, removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    partial.mkdir()
    try:
        yield partial
        for each in sorted(partial.rglob("*"), reverse=True):
            _sync(each)
        _sync(partial)
        if not path.exists():
            _rename_unless_taken(partial, path)
    finally:
        # After a successful rename there is nothing left under the temporary name.
        shutil.rmtree(partial, ignore_errors=True)
    _sync(path.parent)


def lock(file: IO, wait: bool = False) -> None:
    """Lock an open file for this process. The kernel gives the lock back when it is closed or the process is killed.

    Processes that are forked meanwhile do not inherit it: what they leave behind locks nobody out.

    Parameters
    ----------
    file : file object
        Open for writing.
    wait : bool
        Whether to wait for another process that has it.

    Raises
    ------
    BlockingIOError
        If another process has it, unless `wait`; the message is its number, if the system tells it.
    TTTNNError
        If the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise BlockingIOError(_holder(file)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise TTTNNError(
            f"{file.name}: this file system has no locks ({error.strerror}), so two processes could write there at "
            f"once: take a folder on a local disk, by --out for rows or by {HOME_VARIABLE} for corpora and indexes"
        ) from error
    _locked.add(file)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, reading it in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. NaN and infinities are refused: they are not JSON.

    Raises
    ------
    TypeError, ValueError
        If `value` cannot be written as JSON; `path` is then left as it was.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a UTF-8 JSON file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not UTF-8 JSON; the message names the file and the place.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON in UTF-8: {error}. Remove it and build it again.") from error


def _partial_name(path: Path) -> Path:
    # Random, so that two processes writing the same file do not write into each other's.
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")


def _rename_unless_taken(partial: Path, path: Path) -> None:
    try:
        os.rename(partial, path)
    except OSError:
        # POSIX refuses to rename onto a folder that is not empty: another process was first.
        if not path.is_dir():
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems flush folders by themselves and know no request for it.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _holder(file: IO) -> str:
    """Which process has a file locked, as Linux lists it."""
    try:
        entries = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return "another process"
    place = os.fstat(file.fileno())
    for entry in map(str.split, entries):  # 1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF
        if len(entry) > 5 and entry[4].isdecimal() and entry[5].endswith(f":{place.st_ino}"):
            return f"process {entry[4]}"
    return "another process"


def _let_go() -> None:
    """In a forked process: a lock lasts until all who share it have closed the file."""
    for file in list(_locked):
        if not file.closed:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, file.fileno(), inheritable=False)
            os.close(nothing)


os.register_at_fork(after_in_child=_let_go)
