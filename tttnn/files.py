"""Files written whole or not at all, and the folder where built data is kept.

Every writer of this package writes under a temporary name in the destination's own folder, flushes it to
the disk and renames it. A reader therefore never sees half a file, and an interrupted run leaves what was
there before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tttnn.errors import TTTNNError

HOME_VARIABLE = "TTTNN_HOME"
AnyPath = TypeVar("AnyPath", str, Path)
log = logging.getLogger(__name__)


def home() -> Path:
    """Return the folder that holds corpora and indexes built on this machine.

    Returns
    -------
    Path
        ``$TTTNN_HOME`` if it is set, otherwise ``~/.cache/tttnn``. The folder need not exist yet.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "tttnn"


def expand(path: AnyPath) -> AnyPath:
    """Put the user's home folder in the place of a leading ``~``; leave every other path or name as it is.

    Shells do not do it in ``--corpus=~/pile``, and nobody does in a file of parameters.
    """
    return type(path)(os.path.expanduser(path)) if str(path).startswith("~") else path


@contextmanager
def locked(path: str | Path, waiting: str) -> Iterator[None]:
    """Be the only process in the block; wait for another one that is. A killed process leaves nothing locked.

    Parameters
    ----------
    path : str or Path
        The lock's file, made if need be and never removed: a lock on a file that was removed locks out nobody.
    waiting : str
        What to log, as a warning, if another process is in the block.

    Raises
    ------
    TTTNNError
        If the file system has no locks.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s", waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise TTTNNError(
                f"{path}: this file system has no locks ({error.strerror}); choose a folder on another one, for "
                f"example by setting {HOME_VARIABLE}"
            ) from error
        yield


def remove_partials(path: str | Path) -> None:
    """Remove what killed processes left under temporary names of `path`; only for who holds the lock on it."""
    path = Path(path)
    for each in path.parent.iterdir():
        if each.name.startswith(f".{path.name}.") and each.name.endswith(".partial"):
            # A program that outlived the killed process may still write there: what is left goes with the next call.
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)


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
    finally:
        os.close(descriptor)
