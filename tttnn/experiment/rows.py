"""Result rows that survive a kill: one JSON line per finished document while running, Parquet at rest."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tttnn.errors import TTTNNError
from tttnn.files import writing

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
JOURNAL = "rows.jsonl"
TABLE = "rows.parquet"
COLUMNS = (
    "model", "domain", "document", "seed", "k", "neighbour", "neighbour_domain", "distance", "overlap",
    "uncertainty", "nats", "bytes", "words", "tokens", "loss", "steps", "train_tokens", "skipped", "beyond",
    "train_seconds", "evaluation_seconds", "retrieval_seconds", "failure",
)  # fmt: skip


class RowsError(TTTNNError):
    """A results folder that cannot be written to or continued; the message says why."""


class RowJournal:
    """Append-only journal of finished documents in a folder; one writer at a time.

    A line is written in one call and flushed to the disk before the document counts as done. A line cut short
    by a kill is removed at the next opening: at most the document in flight is lost, and none is there twice.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.

    Raises
    ------
    RowsError
        If another process is writing there, or a complete line is damaged.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = open(folder / JOURNAL, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self._done = {tuple(key): rows for key, rows in self._read()}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: tuple) -> bool:
        return key in self._done

    def append(self, key: tuple, rows: list[Row]) -> None:
        """Record a finished document under its key, durably; a key already there is refused with RowsError."""
        if key in self._done:
            raise RowsError(f"{self.folder / JOURNAL}: {key} is already there")
        line = json.dumps({"key": key, "rows": rows}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done[key] = rows

    def table(self, keys: Sequence[tuple] | None = None) -> pd.DataFrame:
        """Write all rows as Parquet beside the journal; return those of `keys` (default: all), by key, then k."""
        every = self._frame(self._done)
        if len(every):
            with writing(self.folder / TABLE) as partial:
                every.to_parquet(partial, index=False)
        return every if keys is None else self._frame(keys)

    def _frame(self, keys: Iterable[tuple]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row for key in sorted(keys) for row in self._done[key]], columns=COLUMNS)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"{self.folder}: another run is writing here; wait for it or give another folder"
            raise RowsError(message) from error

    def _read(self) -> Iterator[tuple[list, list[Row]]]:
        self._file.seek(0)
        good = 0
        for length, key, rows in _entries(self._file, self.folder / JOURNAL):
            good += length
            yield key, rows
        self._file.truncate(good)


def _entries(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, list, list[Row]]]:
    """The complete lines of a journal: bytes, key, rows."""
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return  # cut short by a kill, or being written
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise RowsError(f"{path}, line {number}: not a result line: {error}") from error
        yield len(line), entry["key"], entry["rows"]


def read_journal(folder: str | Path) -> pd.DataFrame:
    """Read the rows that a run has so far; a process that is adding to them is not disturbed.

    Returns
    -------
    DataFrame
        Columns COLUMNS, sorted by document, then k.

    Raises
    ------
    RowsError
        If the folder holds no `rows.jsonl`, or a complete line of it is damaged.
    """
    import pandas as pd

    path = Path(folder) / JOURNAL
    if not path.is_file():
        raise RowsError(f"{path}: no such file; give the folder that a run writes to")
    with path.open("rb") as file:
        done = {tuple(key): rows for _, key, rows in _entries(file, path)}
    return pd.DataFrame([row for key in sorted(done) for row in done[key]], columns=COLUMNS)


def read_rows(folder: str | Path) -> pd.DataFrame:
    """Read the rows of a finished run.

    Raises
    ------
    RowsError
        If the folder holds no `rows.parquet`.
    """
    import pandas as pd

    path = Path(folder) / TABLE
    if not path.is_file():
        raise RowsError(f"{path}: no such file; the run is unfinished or went elsewhere")
    return pd.read_parquet(path)
