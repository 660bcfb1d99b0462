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

from __future__ import annotations

import hashlib
import operator
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from tttnn.corpus.compressed import FramedFile, NotFramed, find_frames, open_file, read_at
from tttnn.corpus.jsonl import (
    COMPRESSED,
    BadDocument,
    CorpusError,
    Document,
    Line,
    OnError,
    check_on_error,
    is_blank,
    parse_line,
)
from tttnn.errors import ParameterError
from tttnn.files import read_json, write_json, writing

SCAN_BLOCK = 1 << 22  # bytes scanned for line ends at a time
SCAN_RANGE = 1 << 24  # bytes that a process scans at a time
PARALLEL_FROM = 1 << 30  # bytes of text, which one process scans in a second if they are not compressed
FILLED = "no blank text"  # what a check looks for, too; a table of a version that did not is built anew
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
    domain : str or None
        Of all documents, whatever they say; None: each says it itself.
    skipped : int
        Bad documents left out when the table was built.
    problem : str
        What is wrong with the first of them.
    """

    def __init__(self, path: Path, table: Path, domain: str | None = None):
        self.path, self.table, self.domain = path, table, domain
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
        self._facts = facts
        self.skipped: int = facts["skipped"]
        self.problem: str = facts.get("problem", "")

    @classmethod
    def build(
        cls, jsonl: str | Path, table: str | Path, on_error: OnError = "raise", processes: int | None = None,
        check: bool = False, domain: str | None = None,
    ) -> TextStore:  # fmt: skip
        """Index a file in one pass and open the store.

        With ``on_error="raise"`` only line ends are looked for, which is as fast as the disk; a bad document
        then raises when it is asked for. With ``"skip"`` every line is parsed, and bad documents are left out
        and counted. Blank lines are never documents. Memory does not depend on the file, except for the
        longest line with ``"skip"`` or `check`.

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
        check : bool
            Parse every line now: the first bad document raises (with ``"raise"``), an empty or blank text is
            bad, too, and a column of domains is written beside the table, from which `by_domain` is read.
        domain : str, optional
            See the class.

        Raises
        ------
        NotFramed
            If `jsonl` is compressed and cannot be read from any place.
        BadDocument
            With `check`: naming file, line and byte.
        CorpusError
            If `jsonl` is missing, damaged, or changes while it is read.
        ParameterError
            If `table` does not end with ``.npy``, `on_error` is unknown, or `processes` is below 1.
        """
        check_on_error(on_error)
        jsonl, table = Path(jsonl), Path(table)
        if table.suffix != ".npy":
            raise ParameterError(f"table='{table}': must end with .npy")
        if processes is not None and processes < 1:
            raise ParameterError(f"processes={processes}: must be at least 1")
        facts: dict[str, Any] = {"jsonl": recognise(jsonl)}
        if jsonl.suffix in COMPRESSED:
            facts["frames"] = _write_frames(frames_path(table), find_frames(jsonl))
        scan = _Scan(jsonl, table, facts.get("frames"), skip=on_error == "skip", check=check)
        facts |= _write_columns(table, _scanned(scan, processes), check)
        if recognise(jsonl) != facts["jsonl"]:
            raise CorpusError(f"{jsonl} changed while it was indexed: build the table again")
        if check:
            facts |= {"checked": [on_error, FILLED], "domains": facts["domains"] | recognise(_domains_path(table))}
        write_json(facts_path(table), facts | {"table": recognise(table)})
        return cls(jsonl, table, domain)

    @classmethod
    def open(cls, jsonl: str | Path, table: str | Path, domain: str | None = None) -> TextStore:
        """Open a store built before.

        Raises
        ------
        CorpusError
            If either file is missing, or the JSON Lines file is not the one that was indexed: another size,
            or another SHA-256 of its first or last 64 KiB; or the table is not the one built for it.
        """
        return cls(Path(jsonl), Path(table), domain)

    @cached_property
    def by_domain(self) -> dict[str, np.ndarray]:
        """Numbers of the documents of each domain, int64, increasing; parses them all if the table was not checked."""
        if self.domain is not None:
            return {self.domain: np.arange(len(self))}
        if "domains" not in self._facts:
            numbering: dict[str, int] = {}
            domains = (self[number].domain for number in range(len(self)))
            codes = np.array([numbering.setdefault(each, len(numbering)) for each in domains], dtype="<u4")
            return _grouped(list(numbering), codes)
        names = self._facts["domains"]["names"]
        file = {key: value for key, value in self._facts["domains"].items() if key != "names"}
        return _grouped(names, _open_array(_domains_path(self.table), self.table, file))

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
            document = parse_line(Line(self.path, 0, start, content))
        except CorpusError:
            # The line number is not stored: it is counted only when it is needed.
            document = parse_line(_numbered(self._source, Line(self.path, 0, start, content)))
        return document if self.domain is None else document.with_domain(self.domain)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.table, self.domain)


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
        """Bad documents left out of all the stores."""
        return sum(store.skipped for store in self.stores)

    @cached_property
    def by_domain(self) -> dict[str, np.ndarray]:
        """Numbers of the documents of each domain, int64, increasing; domains by name."""
        found: dict[str, list[np.ndarray]] = {}
        for store, end in zip(self.stores, self._ends, strict=True):
            for domain, numbers in store.by_domain.items():
                found.setdefault(domain, []).append(numbers + (end - len(store)))
        return {domain: np.concatenate(found[domain]) for domain in sorted(found)}


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


@dataclass
class _Found:
    """Of a range of a file: where documents start, their domains (if checked), and the bad ones left out."""

    starts: np.ndarray  # (documents,) uint64
    domains: list[str] = field(default_factory=list)
    skipped: int = 0
    problem: str = ""  # of the first bad one


class _Scan:
    """Where the documents of a range of a file start; can be sent to another process.

    Called with a range that begins and ends at line starts.
    """

    def __init__(self, path: Path, table: Path, frames: dict[str, Any] | None, skip: bool, check: bool):
        self.path, self.skip, self.check = path, skip, check
        self.open = partial(_open_source, path, table, frames)

    def __call__(self, span: tuple[int, int]) -> _Found:
        source = self.open()
        starts = np.concatenate([np.empty(0, dtype=np.uint64), *_line_starts(source, *span)])
        ends = np.append(starts[1:], np.uint64(span[1]))[: len(starts)]
        if len(starts) and starts[0] == 0 and is_blank(self._line(source, 0, int(ends[0])).content, 0):
            starts, ends = starts[1:], ends[1:]
        if not (self.skip or self.check):
            return _Found(starts)
        found, kept = _Found(starts), np.ones(len(starts), dtype=bool)
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            line = self._line(source, start, end)
            try:
                document = parse_line(line, filled=self.check)
            except BadDocument:
                kept[number] = False
                self._leave_out(line, source, found)
            else:
                if self.check:
                    found.domains.append(document.domain)
        found.starts = starts[kept]
        return found

    def _line(self, source: Source, start: int, end: int) -> Line:
        return Line(self.path, 0, start, source.read(start, end - start).split(b"\n", 1)[0])

    def _leave_out(self, line: Line, source: Source, found: _Found) -> None:
        found.skipped += 1
        if self.skip and found.problem:
            return
        try:
            parse_line(_numbered(source, line), filled=self.check)
        except BadDocument as error:
            if not self.skip:
                raise
            found.problem = str(error)


def _scanned(scan: _Scan, processes: int | None) -> Iterator[_Found]:
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
def _mapping(processes: int) -> Iterator[Any]:
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


def _write_columns(table: Path, parts: Iterable[_Found], check: bool) -> dict[str, Any]:
    """Write the table of offsets, and beside it that of domains if `check`; return the facts about them."""
    numbering: dict[str, int] = {}
    skipped, problem = 0, ""
    with ExitStack() as stack:
        offsets = stack.enter_context(_column(table, "<u8"))
        domains = stack.enter_context(_column(_domains_path(table), "<u4")) if check else None
        for found in parts:
            offsets.append(found.starts)
            if domains:
                codes = [numbering.setdefault(domain, len(numbering)) for domain in found.domains]
                domains.append(np.array(codes, dtype="<u4"))
            skipped, problem = skipped + found.skipped, problem or found.problem
        facts: dict[str, Any] = {"count": offsets.count, "skipped": skipped}
    facts |= {"problem": problem} if problem else {}
    return facts | ({"domains": {"names": list(numbering)}} if check else {})


class _Column:
    """An ``.npy`` of one axis whose length is known only at the end."""

    def __init__(self, file: BinaryIO, dtype: str):
        self._file, self._dtype, self.count = file, dtype, 0
        self._begin = self._write_header()

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype).tobytes())
        self.count += len(values)

    def finish(self) -> None:
        self._file.seek(0)
        if self._write_header() != self._begin:
            raise AssertionError("numpy's header grew with the count, over the first numbers")

    def _write_header(self) -> int:
        # NumPy leaves room for the first axis to grow, so the header can be replaced in place.
        facts = {"descr": self._dtype, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, facts)
        return self._file.tell()


@contextmanager
def _column(path: Path, dtype: str) -> Iterator[_Column]:
    with writing(path) as written, open(written, "wb") as file:
        column = _Column(file, dtype)
        yield column
        column.finish()


def _grouped(names: list[str], codes: np.ndarray) -> dict[str, np.ndarray]:
    """Where each code occurs, by its name: arrays of int64, increasing."""
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    return dict(zip(names, np.split(order, ends[:-1]), strict=True)) if names else {}


def _open_table(table: Path, facts: dict[str, Any]) -> np.ndarray:
    offsets = _open_array(table, table, facts["table"])
    if offsets.dtype != np.dtype("<u8") or offsets.shape != (facts["count"],):
        problem = f"holds {offsets.shape} {offsets.dtype}, not {facts['count']} offsets"
        raise CorpusError(f"{table} {problem}: build it again")
    return offsets


def _write_frames(path: Path, frames: np.ndarray) -> dict[str, int | str]:
    with writing(path) as written, open(written, "wb") as file:
        np.save(file, frames.astype("<u8"))
    return recognise(path)


def _open_source(path: Path, table: Path, frames: dict[str, Any] | None) -> Source:
    return _PlainFile(path) if frames is None else FramedFile(path, _open_array(frames_path(table), table, frames))


def _open_array(path: Path, table: Path, expected: dict[str, Any]) -> np.ndarray:
    if recognise(path) != expected:
        raise CorpusError(f"{path} is not the table that {facts_path(table)} describes: build it again")
    return np.load(path, mmap_mode="r")


def _read_facts(table: Path) -> dict[str, Any]:
    path = facts_path(table)
    try:
        facts = read_json(path)
    except FileNotFoundError as error:
        raise CorpusError(f"no {path}: build the table with TextStore.build") from error
    kinds = {"jsonl": dict, "table": dict, "count": int, "skipped": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(facts, dict) or not isinstance(facts.get(key), kind)]
    if wrong or not {"size", "head", "tail"} <= set(facts["jsonl"]):
        raise CorpusError(f"{path} lacks {wrong or 'facts of the file'}: remove it and build the table again")
    return facts


def facts_path(table: Path) -> Path:
    """Where the facts lie by which a table and its file are recognised."""
    return table.with_name(table.name + ".json")


def frames_path(table: Path) -> Path:
    """Where the positions of the frames of a compressed file lie, beside its table."""
    return table.with_name(table.stem + ".frames.npy")


def _domains_path(table: Path) -> Path:
    """Where the domains of the documents of a checked table lie, beside it: codes, ``<u4``, shape (documents,)."""
    return table.with_name(table.stem + ".domains.npy")


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
    except OSError as error:
        raise CorpusError(f"{path} cannot be opened: {error.strerror}") from error


def _numbered(source: Source, line: Line) -> Line:
    """A line with its number, which is counted."""
    number = sum(block.count(b"\n") for block in _blocks(source, 0, line.offset)) + 1
    return Line(line.path, number, line.offset, line.content)


def _checked(index: int, length: int) -> int:
    number = operator.index(index)
    if not -length <= number < length:
        raise IndexError(f"no document {number}: there are {length}")
    return number % length
