"""Result rows that survive a kill: one JSON line per finished document while running, Parquet at rest.

The journal says all that is known: a line for each call that adds rows, with what they depend on and where they come
from; one for each document, with its rows; one for the end of a call. Everything else in a folder is made from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tttnn.errors import BAD_INPUT, TTTNNError
from tttnn.files import expand, lock, writing

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Key = tuple[str | int, ...]
JOURNAL = "rows.jsonl"
TABLE = "rows.parquet"
COLUMNS = (
    "model", "domain", "document", "source", "unit", "language", "seed", "k", "neighbour", "neighbour_domain",
    "same_unit", "same_source", "distance", "overlap", "uncertainty", "nats", "bytes", "words", "tokens", "loss",
    "steps", "train_tokens", "skipped", "beyond", "train_seconds", "evaluation_seconds", "retrieval_seconds",
    "train_operations", "evaluation_operations", "failure",
)  # fmt: skip
TEXTS = ("model", "domain", "source", "unit", "language", "neighbour_domain", "failure")
FLAGS = ("same_unit", "same_source")  # all other columns are numbers
NO_MEMORY = "no memory for this document"  # how a failure begins that says nothing about the document itself


class RowsError(TTTNNError):
    """A results folder that cannot be written to or continued; the message says why."""

    status = BAD_INPUT


class RowJournal:
    """Append-only journal of calls and finished documents in a folder; one writer at a time.

    A line is written in one call and flushed to the disk before the document counts as done. A line cut short
    by a kill is removed at the next opening: at most the document in flight is lost. None is there twice, but for one
    that had no memory: a later line with its rows takes the place of that failure.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.

    Attributes
    ----------
    calls : list of dict
        What `begin` was given by each call, with the documents whose rows are its own (their number) and its end (None:
        killed).

    Raises
    ------
    RowsError
        If another process is writing there, a complete line is damaged, or rows at rest have no journal.
    """

    def __init__(self, folder: Path):
        if folder.exists() and not folder.is_dir():
            raise RowsError(f"{folder} is a file: rows go into a folder, give another name")
        if (folder / TABLE).exists() and not (folder / JOURNAL).exists():
            raise _without_journal(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.calls: list[dict[str, Any]] = []
        self._file = open(folder / JOURNAL, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self._done: dict[Key, list[Row]] = {}
            self._added_by: dict[Key, dict[str, Any]] = {}
            self._read()
            if not self._done and (folder / TABLE).exists():
                raise _without_journal(folder)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: Key) -> bool:
        return plain(key) in self._done

    def __len__(self) -> int:
        return len(self._done)

    def lacked_memory(self, key: Key) -> bool:
        """Whether all that is there of a document is that there was no memory for it, so that it can be tried again."""
        match self._done.get(plain(key)):
            case [{"failure": str(reason)}]:
                return reason.startswith(NO_MEMORY)
        return False

    def begin(self, call: dict[str, Any]) -> None:
        """Record that a call begins to add documents, durably: JSON values."""
        self._write({"call": call})

    def end(self, when: str) -> None:
        """Record that the call that was begun last has ended."""
        self._write({"end": when})

    def append(self, key: Key, rows: list[Row]) -> None:
        """Record a finished document under its key, durably.

        Raises
        ------
        RowsError
            If the key is already there, other than for want of memory.
        """
        if key in self and not self.lacked_memory(key):
            raise RowsError(f"{self.folder / JOURNAL}: {key} is already there")
        self._write({"key": key, "rows": rows})

    def _write(self, entry: dict[str, Any]) -> None:
        entry = plain(entry)
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        """Know what a line says.

        Raises
        ------
        ValueError
            If its document is in an earlier line, too.
        """
        if "call" in entry:
            self.calls.append({**entry["call"], "documents": 0, "end": None})
        elif "end" in entry and self.calls:
            self.calls[-1]["end"] = entry["end"]
        elif "key" in entry:
            if (key := tuple(entry["key"])) in self and not self.lacked_memory(key):
                raise ValueError(f"{key} is in an earlier line, too")
            self._done[key] = entry["rows"]
            if key in self._added_by:
                self._added_by.pop(key)["documents"] -= 1
            if self.calls:
                self._added_by[key] = self.calls[-1]
                self.calls[-1]["documents"] += 1

    def table(self, keys: Sequence[Key] | None = None) -> pd.DataFrame:
        """Write all rows as Parquet beside the journal; return those of `keys` (default: all), by key, then k."""
        every = self._frame(self._done)
        if len(every):
            with writing(self.folder / TABLE) as partial:
                every.to_parquet(partial, index=False)
        return every if keys is None else self._frame(map(plain, keys))

    def _frame(self, keys: Iterable[Key]) -> pd.DataFrame:
        return frame(row for key in sorted(keys) for row in self._done[key])

    def _lock(self) -> None:
        try:
            lock(self._file)
        except BlockingIOError as error:
            message = f"{self.folder}: another run is writing here ({error}); wait for it or give another folder"
            raise RowsError(message) from error

    def _read(self) -> None:
        self._file.seek(0)
        good = 0
        for number, length, entry in _entries(self._file, self.folder / JOURNAL):
            try:
                self._take(entry)
            except ValueError as error:
                raise _damaged(self.folder / JOURNAL, number, error) from error
            good += length
        self._file.truncate(good)


def _entries(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The complete lines of a journal: number, bytes, what it says."""
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return  # cut short by a kill, or being written
        try:
            yield number, len(line), _checked(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise _damaged(path, number, error) from error


def _without_journal(folder: Path) -> RowsError:
    return RowsError(
        f"{folder / TABLE} holds rows, but {JOURNAL}, from which a run goes on, does not: put it back, or give another "
        "folder; these rows can be read as they are"
    )


def _damaged(path: Path, number: int, error: Exception) -> RowsError:
    return RowsError(
        f"{path}, line {number}: not a result line: {error}. Remove that line, and its document is computed again; or "
        "give another folder"
    )


def read_journal(folder: str | Path) -> pd.DataFrame:
    """Read the rows that a run has so far, the last ones of each document; who is adding to them is not disturbed.

    Returns
    -------
    DataFrame
        Columns COLUMNS, sorted by document, then k.

    Raises
    ------
    RowsError
        If the folder holds no `rows.jsonl`, or a complete line of it is damaged.
    """
    path = Path(expand(folder)) / JOURNAL
    if not path.is_file():
        raise RowsError(f"{path}: no such file; give the folder that a run writes to")
    with path.open("rb") as file:
        entries = [entry for _, _, entry in _entries(file, path)]
    done = {tuple(entry["key"]): entry["rows"] for entry in entries if "key" in entry}
    return frame(row for key in sorted(done) for row in done[key])


def read_rows(folder: str | Path) -> pd.DataFrame:
    """Read the rows of a finished run.

    Raises
    ------
    RowsError
        If the folder holds no `rows.parquet`, or a damaged one.
    """
    import pandas as pd
    from pyarrow import ArrowException

    path = Path(expand(folder)) / TABLE
    if not path.is_file():
        raise RowsError(f"{path}: no such file; the run is unfinished or went elsewhere")
    try:
        return pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        message = f"{path} is damaged ({error}): the command that made it writes it again, from {JOURNAL}"
        raise RowsError(message) from error


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Put rows in a table with all columns; flags are true, false or missing."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=COLUMNS).astype(dict.fromkeys(FLAGS, "boolean"))


def plain(value: Any) -> Any:
    """JSON values in which all text can be written as UTF-8: half characters, as in odd file names, become "?"."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {plain(name): plain(each) for name, each in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


def _checked(entry: Any) -> dict[str, Any]:
    """A line's content, if it is that of a call, its end, or a document; otherwise ValueError."""
    match entry:
        case {"call": {"settings": dict(), "about": dict(), "start": str()}} | {"end": str()} if len(entry) == 1:
            return entry
        case {"key": [str(), str(), int(), *rest], "rows": list(rows)} if len(entry) == 2:
            if not all(isinstance(part, str) for part in rest):
                raise ValueError("its key must have model, domain, number and, maybe, a hash")
            if not all(isinstance(row, dict) and row.keys() <= set(COLUMNS) for row in rows):
                raise ValueError(f"its rows must have columns of {', '.join(COLUMNS)}")
            for name, value in (item for row in rows for item in row.items()):
                if not _fits(name, value):
                    raise ValueError(f"{name} cannot be {value!r:.40}")
            return entry
        case _:
            raise ValueError("it must have the key and the rows of a document")


def _fits(name: str, value: Any) -> bool:
    """Whether a column of the table takes a value: text, a flag, or a number of 64 bits."""
    if value is None or name in TEXTS:
        return value is None or isinstance(value, str)
    if name in FLAGS:
        return isinstance(value, bool)
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
