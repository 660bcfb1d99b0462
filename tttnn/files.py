"""Files written whole or not at all, and the folder where built data is kept.

Every writer of this package writes under a temporary name in the destination's own folder, flushes it to
the disk and renames it. A reader therefore never sees half a file, and an interrupted run leaves what was
there before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar
from weakref import WeakSet

from tttnn.errors import TTTNNError

HOME_VARIABLE = "TTTNN_HOME"
LOCK = "lock"  # in a folder that one process at a time writes to
PATIENCE = 60.0  # seconds that one waits for it without a warning
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
AnyPath = TypeVar("AnyPath", bound=str | Path)

# What a user can mend, by the number of the system's error, and how.
CURES = {
    errno.ENOSPC: "no space left on the disk: make room, and call again",
    errno.EDQUOT: "no space left for this user (disk quota): make room, and call again",
    errno.EFBIG: "a file is larger than the file system takes: choose a folder on another one",
    errno.EROFS: f"the file system can only be read: choose another folder ({HOME_VARIABLE} for what is built)",
    errno.EACCES: f"permission denied: choose another folder ({HOME_VARIABLE} for what is built), or its permissions",
    errno.EPERM: f"permission denied: choose another folder ({HOME_VARIABLE} for what is built), or its permissions",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EEXIST: "a part of this path is a file: choose another folder",
    errno.EISDIR: "a folder is where a file should be written: choose another name",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter one",
    errno.ELOOP: "links that lead to one another: choose another folder",
}
ABOUT_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of writing, whichever file they name
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # what NumPy says instead of the system's error
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}  # network and FUSE file systems

_locked: WeakSet[IO[Any]] = WeakSet()
log = logging.getLogger(__name__)


class StorageError(TTTNNError, OSError):
    """A file or folder cannot be written; the message names it, says why, and what helps."""


class BusyError(TTTNNError, OSError):
    """Another process is writing to a folder; the message names both."""


def home() -> Path:
    """Return the folder that holds corpora and indexes built on this machine.

    Returns
    -------
    Path
        ``$TTTNN_HOME`` if it is set, otherwise ``~/.cache/tttnn``. The folder need not exist yet.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(expand(chosen)).absolute() if chosen else Path.home() / ".cache" / "tttnn"


def expand(path: AnyPath) -> AnyPath:
    """Put the user's home folder in the place of a leading ``~``; leave every other path or name as it is.

    Shells do not do it in ``--corpus=~/pile``, and nobody does in a file of parameters.
    """
    return type(path)(os.path.expanduser(str(path))) if str(path).startswith("~") else path


@contextmanager
def storing(folder: str | Path) -> Iterator[None]:
    """Turn errors of the system that are about writing below a folder, inside the block, into `StorageError`."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno is None and SHORT_WRITE.fullmatch(str(error)):
            error.errno = errno.ENOSPC
        ours = error.errno in ABOUT_SPACE or named.startswith(str(folder)) or str(folder).startswith(named or "\0")
        if isinstance(error, TTTNNError) or error.errno not in CURES or not ours:
            raise
        mended = StorageError(f"{folder}: {CURES[error.errno]}")
        mended.errno = error.errno
        raise mended from error


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
    StorageError
        If the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
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

    Raises
    ------
    StorageError
        If the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
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


def lock(file: IO[Any], wait: bool = False) -> None:
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
    StorageError
        If the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise BlockingIOError(_holder(file)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise StorageError(
            f"{file.name}: this file system has no locks ({error.strerror}), so two processes could write there at "
            f"once: take a folder on a local disk, by --out for rows or by {HOME_VARIABLE} for corpora and indexes"
        ) from error
    _locked.add(file)


@contextmanager
def sole_writer(folder: str | Path, wait: bool = False, beside: bool = False) -> Iterator[None]:
    """Be the only process that writes to a folder; the second one is refused at once, or waits and goes on.

    The lock is a file, which stays and is empty. Whoever is killed leaves it unlocked.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there, unless `beside`.
    wait : bool
        Wait for another process, and say so, rather than raise: with a warning only if it takes long, because two
        chapters that are run side by side wait for each other in the normal course of things.
    beside : bool
        Lock a file beside the folder, which `writing_folder` is to put there whole, rather than one in it.

    Raises
    ------
    BusyError
        If another process is inside such a block, unless `wait`; the message says which.
    StorageError
        If the folder cannot be written to, or its file system has no locks.
    """
    folder = Path(folder)
    path = folder.with_name(f".{folder.name}.lock") if beside else folder / LOCK
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 (closed below)
    with file:
        try:
            lock(file)
        except BlockingIOError as holder:
            if not wait:
                text = f"{folder}: {holder} is writing there; wait until it is done, or give another folder"
                raise BusyError(text) from holder
            said = "%s: %s is writing there; waiting until it is done", folder, holder
            log.info(*said)
            reminder = threading.Timer(PATIENCE, log.warning, said)
            reminder.start()
            try:
                lock(file, wait=True)
            finally:
                reminder.cancel()
        yield


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


def finite(value: Any) -> Any:
    """Return JSON values with None in the place of NaN and infinities, which JSON has no words for."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> Any:
    """Read a UTF-8 JSON file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TTTNNError
        If it is not UTF-8 JSON or cannot be read; the message names the file and the place.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise TTTNNError(f"{path}: not JSON in UTF-8: {error}. Remove it and build it again.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TTTNNError(f"{path} cannot be read: {error.strerror}") from error


def _partial_name(path: Path) -> Path:
    # Says who writes, so that what a killed process left can be told; and is random, so that two threads that write
    # the same file do not write into each other's.
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _remove_left_behind(path: Path) -> None:
    """Remove what processes of this machine that are no more left under temporary names of `path`."""
    named = re.compile(rf"\.{re.escape(path.name)}\.{_machine()}-(\d+)-[0-9a-f]{{8}}\.partial")
    for each in path.parent.iterdir():
        match = named.fullmatch(each.name)
        if match and not _may_write(int(match[1]), each):
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Eight digits for this machine and its space of process numbers, which a container may have of its own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _may_write(pid: int, partial: Path) -> bool:
    """Whether a process of this number is there that is not younger than its file: numbers are given again."""
    try:
        import psutil
    except ImportError:  # a machine that only trains has none
        return Path(f"/proc/{pid}").exists()
    try:
        return psutil.Process(pid).create_time() <= partial.stat().st_mtime + 1
    except (psutil.NoSuchProcess, FileNotFoundError, OverflowError, ValueError):
        return False
    except psutil.AccessDenied:
        return True


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
        # The file is in its place; only that its name survives a power failure is not sure there.
        if error.errno not in NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _holder(file: IO[Any]) -> str:
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
