"""The byte-offset text store: where each document of a JSON Lines file starts, and nothing more.

The report keeps the retrieval data set on disk: one pass over the file notes the byte at which each document
starts, and a neighbour's text is fetched by seeking to it and reading one line. Eight bytes a document,
memory-mapped, replace a dictionary of all texts.

Why eight: five would do for files of a terabyte, and save the Pile's 210 million documents 0.6 of 1.7 GB on disk,
beside texts of 1.3 TB. In memory a table can take no more than its own size (8.0 or 5.0 bytes a document once every
page is touched, both below the 16 that are wanted), and the kernel may drop that again. In return, a plain array of
``<u8`` can be searched, compared and loaded by anything that knows NumPy, and a look-up takes 0.3 microseconds where
unpacking five bytes takes 1 to 5. Measured by ``bench/text_store.py``, which prints all of these numbers; a table
packed more tightly still saves what is not scarce.
"""

import hashlib
import operator
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from tttnn.corpus.compressed import FramedFile, NotFramed, find_frames, open_file, read_at
from tttnn.corpus.jsonl import (
    COMPRESSED,
    CorpusError,
    Document,
    Line,
    OnError,
    check_on_error,
    parse_line,
)
from tttnn.files import read_json, write_json, writing

SCAN_BLOCK = 1 << 22  # bytes scanned for line ends at a time
SCAN_RANGE = 1 << 24  # bytes that a process scans at a time
PARALLEL_FROM = 1 << 30  # bytes of text, which one process scans in a second if they are not compressed
END = 1 << 16  # bytes hashed at either end of a file to recognise it
WHITE = np.frombuffer(b" \t\r\v\f", dtype=np.uint8)  # what isspace() takes for white, the line end aside


class TextStore:
    """Random access to the documents of a JSON Lines file, by number; plain, or ``.zst`` of independent frames.

    Make one with `build` or `open`. Reading has no shared position (``pread``), so one store may be used by
    several threads, and by processes forked from this one; a pickled store opens its files again.

    Attributes
    ----------
    path, table : Path
        The JSON Lines file, and the ``.npy`` of offsets into its text (``<u8``, shape (documents,)). Beside the
        table lies ``<table>.json``, by which both files are recognised, and of a compressed file
        ``<table>.frames.npy`` (see `tttnn.corpus.compressed.find_frames`).
    skipped : int
        Corrupt lines left out when the table was built.
    """

    def __init__(self, path: Path, table: Path):
        self.path, self.table = path, table
        facts = _read_facts(table)
        if path.suffix in COMPRESSED and "frames" not in facts:
            raise NotFramed(f"{table} was built for what {path} unpacks to: open that, or build the table again")
        if recognise(path) != facts["jsonl"]:
            raise CorpusError(
                f"{path} changed since it was indexed (size {path.stat().st_size}, was {facts['jsonl']['size']}, or "
                f"other content): remove {table} and {facts_path(table)}, and build the table again"
            )
        self._source = _open_source(path, table, facts.get("frames"))
        self._offsets = _open_table(table, facts)
        self.skipped: int = facts["skipped"]

    @classmethod
    def build(
        cls, jsonl: str | Path, table: str | Path, on_error: OnError = "raise", processes: int | None = None
    ) -> "TextStore":
        """Index a file in one pass and open the store.

        With ``on_error="raise"`` only line ends are looked for, which is as fast as the disk; a corrupt line
        then raises when it is asked for. With ``"skip"`` every line is parsed, and corrupt ones are left out
        and counted. Blank lines are never documents. Memory does not depend on the file, except for the
        longest line with ``"skip"``.

        Parameters
        ----------
        jsonl : str or Path
            A JSON Lines file, plain or ``.zst`` of several frames; see `Corpus.store` for others.
        table : str or Path
            Where to put the offsets; ends with ``.npy``.
        on_error : {"raise", "skip"}
        processes : int, optional
            Scan in so many processes, with the same result: the file is cut into ranges of whole lines. By default
            in this one, and from 1 GiB of text in one a core.

        Raises
        ------
        NotFramed
            If `jsonl` is compressed and cannot be read from any place.
        CorpusError
            If `jsonl` is missing, damaged, or changes while it is read.
        ValueError
            If `table` does not end with ``.npy``, `on_error` is unknown, or `processes` is below 1.
        """
        check_on_error(on_error)
        jsonl, table = Path(jsonl), Path(table)
        if table.suffix != ".npy":
            raise ValueError(f"table must end with .npy, not {table.name!r}")
        if processes is not None and processes < 1:
            raise ValueError(f"processes must be at least 1, not {processes}")
        facts = {"jsonl": recognise(jsonl)}
        if jsonl.suffix in COMPRESSED:
            facts["frames"] = _write_frames(frames_path(table), find_frames(jsonl))
        scan = _Scan(jsonl, table, facts.get("frames"), skip=on_error == "skip")
        with writing(table) as written:
            facts["count"], facts["skipped"] = _write_offsets(written, _scanned(scan, processes))
        if recognise(jsonl) != facts["jsonl"]:
            raise CorpusError(f"{jsonl} changed while it was indexed: build the table again")
        write_json(facts_path(table), facts | {"table": recognise(table)})
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
        end = int(self._offsets[number + 1]) if number + 1 < len(self) else self._source.size
        # One byte more in front, to see that the document still starts a line; behind it there may be blank
        # and skipped lines before the next document.
        before = 0 if self._source.is_edge(start) else 1
        content = self._source.read(start - before, end - start + before)
        if (before and content[:1] != b"\n") or len(content) < end - start + before:
            raise CorpusError(f"{self.path}, byte {start}: no line starts here any more, so the file changed")
        content = content[before:].split(b"\n", 1)[0]
        try:
            return parse_line(Line(self.path, 0, start, content))
        except CorpusError:
            # The line number is not stored: it is counted only when it is needed.
            return parse_line(Line(self.path, _count_lines(self._source, start) + 1, start, content))

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


class _PlainFile:
    """The text of a file that is not compressed; as `FramedFile`."""

    def __init__(self, path: Path):
        self._descriptor = open_file(path)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        return read_at(self._descriptor, start, length)

    def is_edge(self, start: int) -> bool:
        return start == 0


Source = _PlainFile | FramedFile


class _Scan:
    """Where the documents of a range of a file start; can be sent to another process.

    Called with a range that begins and ends at line starts, it returns the offsets and the number of lines skipped.
    """

    def __init__(self, path: Path, table: Path, frames: dict | None, skip: bool):
        self.path, self.skip = path, skip
        self.open = partial(_open_source, path, table, frames)

    def __call__(self, span: tuple[int, int]) -> tuple[np.ndarray, int]:
        source = self.open()
        starts = np.concatenate([np.empty(0, dtype=np.uint64), *_line_starts(source, *span)])
        if not self.skip:
            return starts, 0
        ends = np.append(starts[1:], np.uint64(span[1])).tolist()
        parses = [self._parses(source, *line) for line in zip(starts.tolist(), ends, strict=False)]
        return starts[np.array(parses, dtype=bool)], parses.count(False)

    def _parses(self, source: Source, start: int, end: int) -> bool:
        try:
            parse_line(Line(self.path, 0, start, source.read(start, end - start).split(b"\n", 1)[0]))
        except CorpusError:
            return False
        return True


def _scanned(scan: _Scan, processes: int | None) -> Iterator[tuple[np.ndarray, int]]:
    """Scan a whole file range by range, in order, in this process or in several."""
    source = scan.open()
    if processes is None:
        processes = (os.cpu_count() or 1) if source.size >= PARALLEL_FROM else 1
    spans = list(_line_ranges(source))
    with (
        _mapping(min(processes, len(spans))) as mapped,
        tqdm(total=source.size, unit="B", unit_scale=True, desc=scan.path.name, delay=1) as bar,
    ):
        for (begin, end), found in zip(spans, mapped(scan, spans), strict=False):
            yield found
            bar.update(end - begin)


@contextmanager
def _mapping(processes: int) -> Iterator:
    if processes <= 1:
        yield map
        return
    # Forked where that is the custom: to spawn takes seconds, as each process imports what the caller's script does.
    with ProcessPoolExecutor(processes) as pool:
        yield pool.map


def _line_ranges(source: Source) -> Iterator[tuple[int, int]]:
    """Cut a file into ranges of whole lines."""
    begin = 0
    while begin < source.size:
        end = _line_start(source, begin + SCAN_RANGE)
        yield begin, end
        begin = end


def _line_start(source: Source, offset: int) -> int:
    """Return where the first line at or after `offset` starts, or the end of the file."""
    position, length = offset - 1, 1 << 16  # a line that starts at the offset has its line end before it
    while block := source.read(position, length):
        if (found := block.find(b"\n")) >= 0:
            return position + found + 1
        position, length = position + len(block), SCAN_BLOCK
    return source.size


def _blocks(source: Source, begin: int, end: int) -> Iterator[bytes]:
    for start in range(begin, end, SCAN_BLOCK):
        yield source.read(start, min(SCAN_BLOCK, end - start))


def _line_starts(source: Source, base: int, stop: int) -> Iterator[np.ndarray]:
    """Yield the offsets of the lines of a range that are not blank, some at a time, in order."""
    start, content = base, False  # the line being read: its first byte, and whether it is not blank so far
    for block in _blocks(source, base, stop):
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))  # (lines,)
        if not len(ends):
            content = content or bool(block.strip())
        else:
            if content or block[: ends[0]].strip():
                yield np.array([start], dtype=np.uint64)
            yield _inner_starts(block, ends) + np.uint64(base)
            start, content = base + int(ends[-1]) + 1, bool(block[ends[-1] + 1 :].strip())
        base += len(block)
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


def _write_offsets(path: Path, found: Iterable[tuple[np.ndarray, int]]) -> tuple[int, int]:
    """Write offsets to an ``.npy`` whose length is known only at the end; return that length and the lines skipped."""
    count, skipped = 0, 0
    with open(path, "wb") as file:
        length = _write_header(file, 0)
        for starts, left_out in found:
            file.write(starts.astype("<u8").tobytes())
            count, skipped = count + len(starts), skipped + left_out
        file.seek(0)
        if _write_header(file, count) != length:
            raise AssertionError("numpy's header grew with the count, over the first offsets")
    return count, skipped


def _write_header(file: BinaryIO, count: int) -> int:
    # NumPy leaves room for the first axis to grow, so the header can be replaced in place.
    facts = {"descr": "<u8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.tell()


def _open_table(table: Path, facts: dict) -> np.ndarray:
    offsets = _open_array(table, table, facts["table"])
    if offsets.dtype != np.dtype("<u8") or offsets.shape != (facts["count"],):
        problem = f"holds {offsets.shape} {offsets.dtype}, not {facts['count']} offsets"
        raise CorpusError(f"{table} {problem}: build it again")
    return offsets


def _write_frames(path: Path, frames: np.ndarray) -> dict[str, int | str]:
    with writing(path) as written, open(written, "wb") as file:
        np.save(file, frames.astype("<u8"))
    return recognise(path)


def _open_source(path: Path, table: Path, frames: dict | None) -> Source:
    return _PlainFile(path) if frames is None else FramedFile(path, _open_array(frames_path(table), table, frames))


def _open_array(path: Path, table: Path, expected: dict) -> np.ndarray:
    if recognise(path) != expected:
        raise CorpusError(f"{path} is not the table that {facts_path(table)} describes: build it again")
    return np.load(path, mmap_mode="r")


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
    """Where the facts lie by which a table and its file are recognised."""
    return table.with_name(table.name + ".json")


def frames_path(table: Path) -> Path:
    """Where the positions of the frames of a compressed file lie, beside its table."""
    return table.with_name(table.stem + ".frames.npy")


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


def _count_lines(source: Source, end: int) -> int:
    return sum(block.count(b"\n") for block in _blocks(source, 0, end))


def _checked(index: int, length: int) -> int:
    number = operator.index(index)
    if not -length <= number < length:
        raise IndexError(f"no document {number}: there are {length}")
    return number % length
