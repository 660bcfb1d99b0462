"""The byte-offset text store: where each document of a JSON Lines file starts, and nothing more.

The report keeps the retrieval data set on disk: one pass over the file notes the byte at which each document
starts, and a neighbour's text is fetched by seeking to it and reading one line. Eight bytes a document,
memory-mapped, replace a dictionary of all texts.
"""

import hashlib
import operator
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from tttnn.corpus.jsonl import (
    COMPRESSED,
    CorpusError,
    Document,
    Line,
    OnError,
    check_on_error,
    parse_line,
    read_lines,
)
from tttnn.files import read_json, write_json, writing

SCAN_BLOCK = 1 << 22  # bytes scanned for line ends at a time
FLUSH = 1 << 16  # offsets kept before they are written
END = 1 << 16  # bytes hashed at either end of a file to recognise it
WHITE = np.frombuffer(b" \t\r\v\f", dtype=np.uint8)  # what isspace() takes for white, the line end aside


class TextStore:
    """Random access to the documents of a plain JSON Lines file, by number.

    Make one with `build` or `open`. Reading has no shared position (``pread``), so one store may be used by
    several threads, and by processes forked from this one; a pickled store opens its files again.

    Attributes
    ----------
    path, table : Path
        The JSON Lines file, and the ``.npy`` of offsets (``<u8``, shape (documents,)). Beside the table
        lies ``<table>.json``, by which both files are recognised.
    skipped : int
        Corrupt lines left out when the table was built.
    """

    def __init__(self, path: Path, table: Path):
        self.path, self.table = path, table
        facts = _read_facts(table)
        self._descriptor = _open_file(path)
        weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        if recognise(path) != facts["jsonl"]:
            raise CorpusError(
                f"{path} changed since it was indexed (size {self._size}, was {facts['jsonl']['size']}, or "
                f"other content): remove {table} and {facts_path(table)}, and build the table again"
            )
        self._offsets = _open_table(table, facts)
        self.skipped: int = facts["skipped"]

    @classmethod
    def build(cls, jsonl: str | Path, table: str | Path, on_error: OnError = "raise") -> "TextStore":
        """Index a file in one pass and open the store.

        With ``on_error="raise"`` only line ends are looked for, which is as fast as the disk; a corrupt line
        then raises when it is asked for. With ``"skip"`` every line is parsed, and corrupt ones are left out
        and counted. Blank lines are never documents. Memory does not depend on the file, except for the
        longest line with ``"skip"``.

        Parameters
        ----------
        jsonl : str or Path
            A plain JSON Lines file; see `Corpus.store` for compressed ones.
        table : str or Path
            Where to put the offsets; ends with ``.npy``.
        on_error : {"raise", "skip"}

        Raises
        ------
        CorpusError
            If `jsonl` is compressed, missing, or changes while it is read.
        ValueError
            If `table` does not end with ``.npy``, or `on_error` is unknown.
        """
        check_on_error(on_error)
        jsonl, table = Path(jsonl), Path(table)
        if jsonl.suffix in COMPRESSED:
            raise CorpusError(f"{jsonl} is compressed and cannot be read at an offset: unpack it first")
        if table.suffix != ".npy":
            raise ValueError(f"table must end with .npy, not {table.name!r}")
        before = recognise(jsonl)
        starts = _scan_starts(jsonl) if on_error == "raise" else _ParsedStarts(jsonl)
        with writing(table) as partial:
            count = _write_offsets(partial, starts)
        if recognise(jsonl) != before:
            raise CorpusError(f"{jsonl} changed while it was indexed: build the table again")
        skipped = getattr(starts, "skipped", 0)
        facts = {"jsonl": before, "table": recognise(table), "count": count, "skipped": skipped}
        write_json(facts_path(table), facts)
        return cls(jsonl, table)

    @classmethod
    def open(cls, jsonl: str | Path, table: str | Path) -> "TextStore":
        """Open a store built before.

        Raises
        ------
        CorpusError
            If either file is missing, or the JSON Lines file is not the one that was indexed: another size,
            or another SHA-256 of its first or last 64 KiB; or the table is not the one built for it.
        """
        return cls(Path(jsonl), Path(table))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Document:
        """Read document `index` (negative counts from the end).

        Raises
        ------
        IndexError
            If there is no such document.
        CorpusError
            If its line is corrupt; the message names file, line and byte offset.
        """
        number = _checked(index, len(self))
        start = int(self._offsets[number])
        end = int(self._offsets[number + 1]) if number + 1 < len(self) else self._size
        # One byte more in front, to see that the document still starts a line; behind it there may be blank
        # and skipped lines before the next document.
        before = min(start, 1)
        content = _read_at(self._descriptor, start - before, end - start + before)
        if (before and content[:1] != b"\n") or len(content) < end - start + before:
            raise CorpusError(f"{self.path}, byte {start}: no line starts here any more, so the file changed")
        content = content[before:].split(b"\n", 1)[0]
        try:
            return parse_line(Line(self.path, 0, start, content))
        except CorpusError:
            # The line number is not stored: it is counted only when it is needed.
            return parse_line(Line(self.path, _count_lines(self._descriptor, start) + 1, start, content))

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.table)


class ConcatStore:
    """Several stores, one after the other, as one: document 0 is the first of the first store.

    Parameters
    ----------
    stores : sequence of TextStore
    """

    def __init__(self, stores: Sequence[TextStore]):
        self.stores = tuple(stores)
        self._ends = list(accumulate(len(store) for store in self.stores))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Document:
        """Read document `index`, with the errors of `TextStore`."""
        number = _checked(index, len(self))
        which = bisect_right(self._ends, number)
        return self.stores[which][number - self._ends[which] + len(self.stores[which])]

    @property
    def skipped(self) -> int:
        """Corrupt lines left out of all the stores."""
        return sum(store.skipped for store in self.stores)


class _ParsedStarts:
    """Offsets of the lines that can be parsed; `skipped` counts the others."""

    def __init__(self, path: Path):
        self.path, self.skipped = path, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for line in read_lines(self.path):
            try:
                parse_line(line)
            except CorpusError:
                self.skipped += 1
            else:
                yield np.array([line.offset], dtype=np.uint64)


def _scan_starts(path: Path) -> Iterator[np.ndarray]:
    """Yield the offsets of the lines that are not blank, some at a time, in order."""
    start, content = 0, False  # the line being read: its first byte, and whether it is not blank so far
    base = 0
    with (
        open(path, "rb") as file,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, delay=1) as bar,
    ):
        while block := file.read(SCAN_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))  # (lines,)
            if not len(ends):
                content = content or not block.isspace()
            else:
                if content or block[: ends[0]].strip():
                    yield np.array([start], dtype=np.uint64)
                yield _inner_starts(block, ends) + np.uint64(base)
                start, content = base + int(ends[-1]) + 1, bool(block[ends[-1] + 1 :].strip())
            base += len(block)
            bar.update(len(block))
    if content:
        yield np.array([start], dtype=np.uint64)


def _inner_starts(block: bytes, ends: np.ndarray) -> np.ndarray:
    """Return where the lines that lie whole between two line ends of a block start, blank ones left out."""
    starts, stops = ends[:-1] + 1, ends[1:]  # (lines - 1,)
    filled = stops > starts
    # A line that starts with white space may be blank: few do, so these are looked at one by one.
    white = np.isin(np.frombuffer(block, dtype=np.uint8)[starts], WHITE) & filled
    for line in np.flatnonzero(white):
        filled[line] = not block[starts[line] : stops[line]].isspace()
    return starts[filled].astype(np.uint64)


def _write_offsets(path: Path, starts: Iterator[np.ndarray] | _ParsedStarts) -> int:
    """Write offsets to an ``.npy`` whose length is known only at the end; return that length."""
    count, waiting, kept = 0, [], 0
    with open(path, "wb") as file:
        length = _write_header(file, 0)
        for some in starts:
            waiting.append(some)
            kept += len(some)
            if kept >= FLUSH:
                file.write(np.concatenate(waiting).astype("<u8").tobytes())
                count, waiting, kept = count + kept, [], 0
        if waiting:
            file.write(np.concatenate(waiting).astype("<u8").tobytes())
        file.seek(0)
        if _write_header(file, count + kept) != length:
            raise AssertionError("numpy's header grew with the count, over the first offsets")
    return count + kept


def _write_header(file: BinaryIO, count: int) -> int:
    # NumPy leaves room for the first axis to grow, so the header can be replaced in place.
    facts = {"descr": "<u8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.tell()


def _open_table(table: Path, facts: dict) -> np.ndarray:
    if recognise(table) != facts["table"]:
        raise CorpusError(f"{table} is not the table that {facts_path(table)} describes: build it again")
    offsets = np.load(table, mmap_mode="r")
    if offsets.dtype != np.dtype("<u8") or offsets.shape != (facts["count"],):
        raise CorpusError(
            f"{table} holds {offsets.shape} {offsets.dtype}, not {facts['count']} offsets: build it again"
        )
    return offsets


def _read_facts(table: Path) -> dict:
    try:
        facts = read_json(facts_path(table))
    except FileNotFoundError as error:
        raise CorpusError(f"no {facts_path(table)}: build the table with TextStore.build") from error
    missing = {"jsonl", "table", "count", "skipped"} - set(facts)
    if missing:
        raise CorpusError(f"{facts_path(table)} lacks {sorted(missing)}: build the table again")
    return facts


def facts_path(table: Path) -> Path:
    return table.with_name(table.name + ".json")


def recognise(path: Path) -> dict[str, int | str]:
    """Return size and SHA-256 of both ends of a file: cheap whatever its size."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(END)
        file.seek(max(0, size - END))
        tail = file.read(END)
    return {"size": size, "head": hashlib.sha256(head).hexdigest(), "tail": hashlib.sha256(tail).hexdigest()}


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise CorpusError(f"no file {path}") from error


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorpusError(f"no file {path}") from error


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes, fewer only at the end of the file; one call of pread stops at 2 GiB."""
    pieces = []
    while length and (piece := os.pread(descriptor, min(length, 1 << 30), offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


def _count_lines(descriptor: int, end: int) -> int:
    blocks = (
        _read_at(descriptor, start, min(SCAN_BLOCK, end - start)) for start in range(0, end, SCAN_BLOCK)
    )
    return sum(block.count(b"\n") for block in blocks)


def _checked(index: int, length: int) -> int:
    number = operator.index(index)
    if not -length <= number < length:
        raise IndexError(f"no document {number}: there are {length}")
    return number % length
