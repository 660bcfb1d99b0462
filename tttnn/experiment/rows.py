"""Result rows that survive a kill: one JSON line per finished document while running, Parquet at rest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tttnn.errors import TTTNNError
from tttnn.files import lock, writing

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Key = tuple[str | int, ...]
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
        If another process is writing there, a complete line is damaged, or rows at rest have no journal.
    """

    def __init__(self, folder: Path):
        if folder.exists() and not folder.is_dir():
            raise RowsError(f"{folder} is a file: rows go into a folder, give another name")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = open(folder / JOURNAL, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self._done: dict[Key, list[Row]] = {}
            self._read()
            if not self._done and (folder / TABLE).exists():
                raise RowsError(
                    f"{folder / TABLE} holds rows, but {JOURNAL}, from which a run goes on, does not: put it back, or "
                    "give another folder; these rows can be read as they are"
                )
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

    def append(self, key: Key, rows: list[Row]) -> None:
        """Record a finished document under its key, durably; a key already there is refused with RowsError."""
        key, rows = plain(key), plain(rows)
        if key in self._done:
            raise RowsError(f"{self.folder / JOURNAL}: {key} is already there")
        line = json.dumps({"key": key, "rows": rows}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done[key] = rows

    def table(self, keys: Sequence[Key] | None = None) -> pd.DataFrame:
        """Write all rows as Parquet beside the journal; return those of `keys` (default: all), by key, then k."""
        every = self._frame(self._done)
        if len(every):
            with writing(self.folder / TABLE) as partial:
                every.to_parquet(partial, index=False)
        return every if keys is None else self._frame(map(plain, keys))

    def _frame(self, keys: Iterable[Key]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row for key in sorted(keys) for row in self._done[key]], columns=COLUMNS)

    def _lock(self) -> None:
        try:
            lock(self._file)
        except BlockingIOError as error:
            message = f"{self.folder}: another run is writing here ({error}); wait for it or give another folder"
            raise RowsError(message) from error

    def _read(self) -> None:
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # cut short by a kill
            try:
                key, rows = _entry(line)
            except (ValueError, RecursionError) as error:
                raise self._damaged(number, f"is not a result line: {error}") from error
            if key in self._done:
                raise self._damaged(number, f"holds {key}, which is in an earlier line, too")
            good += len(line)
            self._done[key] = rows
        self._file.truncate(good)

    def _damaged(self, line: int, what: str) -> RowsError:
        return RowsError(
            f"{self.folder / JOURNAL}, line {line}, {what}. Remove that line, so that its document is computed again, "
            "or give another folder"
        )


def read_rows(folder: str | Path) -> pd.DataFrame:
    """Read the rows of a finished run.

    Raises
    ------
    RowsError
        If the folder holds no `rows.parquet`, or a damaged one.
    """
    import pandas as pd
    from pyarrow import ArrowException

    path = Path(folder) / TABLE
    if not path.is_file():
        raise RowsError(f"{path}: no such file; the run is unfinished or went elsewhere")
    try:
        return pd.read_parquet(path)
    except ArrowException as error:
        message = f"{path} is damaged ({error}): the command that made it writes it again, from {JOURNAL}"
        raise RowsError(message) from error


def plain(value: Any) -> Any:
    """JSON values in which all text can be written as UTF-8: half characters, as in odd file names, become "?"."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {plain(name): plain(each) for name, each in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


def _entry(line: bytes) -> tuple[Key, list[Row]]:
    """The key and the rows of a line.

    Raises
    ------
    ValueError
        If it is not JSON, or not that of a document.
    """
    entry = json.loads(line)
    if not isinstance(entry, dict) or set(entry) != {"key", "rows"}:
        raise ValueError("it must have a key and rows, and nothing else")
    key, rows = entry["key"], entry["rows"]
    kinds = [type(part) for part in key] if isinstance(key, list) else []
    if kinds[:3] != [str, str, int] or any(kind is not str for kind in kinds[3:]):
        raise ValueError("its key must have model, domain, number and, maybe, a hash")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() <= set(COLUMNS) for row in rows):
        raise ValueError(f"its rows must be a list of rows with columns of {', '.join(COLUMNS)}")
    return tuple(key), rows
