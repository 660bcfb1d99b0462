"""Documents in the formats that people have: entries of JSON, CSV and Parquet files, and files of one text each."""

from __future__ import annotations

import codecs
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tttnn.corpus.jsonl import (
    BOMS,
    COMPRESSED,
    OTHER_KINDS,
    BadDocument,
    CorpusError,
    Document,
    Line,
    OtherEncoding,
    check_encoding,
    decode_line,
    every_line,
    read_blocks,
    read_lines,
)
from tttnn.errors import first_line

TABLES = {
    ".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": ",",
    ".tsv": "\t",
}  # fmt: skip
CELLS = (",", "\t")  # what parts them
LARGEST_TEXT = 1 << 24  # bytes of a file that is one document
LARGEST_ARRAY = 1 << 30  # bytes of JSON that must be parsed at once
LONGEST_FACT = 200  # characters of a column that is kept beside the text
# What says in `meta` where a document is from. A column of such a name may be anything: a whole collection, a measure.
ORIGIN = ("source", "unit")
BATCH = 256  # rows of a Parquet or Arrow file read at a time
ARROW_FILE = b"ARROW1"  # how Arrow's file format begins; its stream, which `datasets` saves, begins otherwise
NOT_TEXT = {**OTHER_KINDS, b"%PDF": ("a PDF", "convert it (pdftotext)")}
NOT_WRITTEN = {".ipynb", ".lock", ".map", ".svg"}  # text by its bytes, but nobody's prose or source


@dataclass(frozen=True)
class Keys:
    """Where a table's entries hold a document's text and domain; dots lead into objects."""

    text: str = "text"
    domain: str | None = None


@dataclass(frozen=True)
class Entry:
    """An entry of a table and where in the file it is; `value` is an error if it cannot be read."""

    path: Path
    where: str
    value: Any

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.path}, {self.where}"


class NotText(CorpusError):
    """A file is no document; the message is the reason alone."""


def kind_of(path: Path) -> str | None:
    """How a file's entries are read, a value of `TABLES`, by its name; None if it is no table."""
    return TABLES.get(_suffix(path))


def read_table(path: Path, keys: Keys) -> Iterator[Entry]:
    """Read the entries of a JSON, JSON Lines, CSV, Parquet or Arrow file, compressed or not, one after the other.

    Raises
    ------
    CorpusError
        While iterating: if the file is damaged, in another encoding or of another kind; bad entries are yielded.
    """
    kind = kind_of(path)
    if kind == "lines":
        return _lines(path)
    if kind == "json":
        return _json(path)
    if kind == "arrow":
        return _arrow(path, keys)
    return _parquet(path, keys) if kind == "parquet" else _cells(path, str(kind))


def read_text(path: Path) -> str:
    """Read a file that is one document: UTF-8, or UTF-16 or UTF-32 with a byte-order mark.

    Raises
    ------
    NotText
        If it is empty, too large, not text, or in another encoding.
    """
    if _suffix(path) in NOT_WRITTEN:
        raise NotText(f"{_suffix(path)} files are not text that somebody wrote")
    content = _whole(path, LARGEST_TEXT)
    if content is None:
        raise NotText(f"larger than {LARGEST_TEXT >> 20} MiB, too much for one document: cut it into files")
    text = _decoded(content)
    if not text.strip():
        raise NotText("empty")
    return text


def to_document(entry: Entry, keys: Keys, name: str, domain: str) -> Document:
    """Make a document of an entry: its text, short facts beside it, and its domain.

    Parameters
    ----------
    entry : Entry
    keys : Keys
    name : str
        Of the file within its corpus, which the document keeps with its line.
    domain : str
        Of entries that do not say one.

    Raises
    ------
    BadDocument
        If it has no text, or not the domain that is asked for; the message names the place.
    """
    value, place = entry.value, entry.place
    if isinstance(value, BadDocument):
        raise value
    if not isinstance(value, dict):
        raise BadDocument(f"{place}: not a JSON object with a {keys.text!r}, but {type(value).__name__}")
    text = _found(value, keys.text)
    if not isinstance(text, str):
        header = ", or its first line the columns' names" if kind_of(entry.path) in CELLS else ""
        problem = "is not there" if text is None else f"is not a string, but {type(text).__name__}"
        raise BadDocument(f"{place}: {keys.text!r} {problem}; its keys are {_names(value)}: give --text-key{header}")
    if not text.strip():
        raise BadDocument(f"{place}: {keys.text!r} is empty, so nothing can be found by it")
    meta = value.get("meta")
    facts = {name: each for name, each in value.items() if name not in (keys.text, *ORIGIN) and _is_fact(each)}
    facts |= meta if isinstance(meta, dict) else {}
    named = facts.get("pile_set_name") or domain
    if keys.domain is not None:
        named = _found(value, keys.domain)
        if named is None or isinstance(named, (dict, list)) or not str(named).strip():
            raise BadDocument(f"{place}: {keys.domain!r} names no domain; its keys are {_names(value)}")
    return Document(text, {**facts, "place": f"{name}, {entry.where}", "pile_set_name": str(named)})


def encode(document: Document, place: str) -> bytes:
    """Return the document as a line of our JSON Lines.

    Raises
    ------
    BadDocument
        If it holds what is no character.
    """
    record = {"text": document.text, "meta": document.meta}
    try:
        return json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise BadDocument(f"{place}: holds a lone surrogate, which is not a character") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise BadDocument(f"{place}: cannot be written as JSON: {first_line(error)}") from error


def columns_to_read(schema: Any, keys: Keys) -> list[str] | None:
    """Names of columns that are asked for, and of those that may hold facts: no vectors or pictures; None is all."""
    import pyarrow as pa

    roots = {"meta", keys.text.split(".")[0], (keys.domain or "").split(".")[0]}
    if any("." in name for name in schema.names):  # which pyarrow would take for a path
        return None
    large = pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary
    return [field.name for field in schema if field.name in roots or not any(is_it(field.type) for is_it in large)]


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix in COMPRESSED else path).suffix.lower()


def _lines(path: Path) -> Iterator[Entry]:
    for line in read_lines(path):
        try:
            value = decode_line(line)
        except BadDocument as error:
            value = error
        yield Entry(path, f"line {line.number}", value)


def _json(path: Path) -> Iterator[Entry]:
    """An array of objects, one object, or JSON Lines under another name."""
    begins = _first_byte(path)
    if not begins:
        return
    # An array may be one line that fills the memory.
    if begins == b"{" and (first := next(read_lines(path), None)) and _is_json(first):
        yield from _lines(path)
        return
    content = _whole(path, LARGEST_ARRAY)
    if content is None:
        raise CorpusError(f"{path}: over {LARGEST_ARRAY >> 30} GiB of JSON in one piece: jq -c '.[]' makes lines")
    try:
        whole = decode_line(Line(path, 1, 0, content))
    except BadDocument as error:
        raise CorpusError(str(error)) from error  # there are no others to go on with
    for number, value in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield Entry(path, f"entry {number}", value)


def _first_byte(path: Path) -> bytes:
    """What a file begins with, white space aside."""
    blocks = (block.removeprefix(codecs.BOM_UTF8).lstrip() for block in read_blocks(path))
    return next((block[:1] for block in blocks if block), b"")


def _is_json(line: Line) -> bool:
    try:
        decode_line(line)
    except BadDocument:
        return False
    return True


def _cells(path: Path, delimiter: str) -> Iterator[Entry]:
    csv.field_size_limit((1 << 31) - 1)
    rows = csv.DictReader(_decoded_lines(path), delimiter=delimiter, strict=True)
    try:
        if len(names := rows.fieldnames or ()) == 1 and ";" in names[0]:
            raise CorpusError(
                f"{path}, line 1: its cells are parted by semicolons: convert it to commas or to JSON Lines"
            )
        for row in rows:
            where, value = f"line {rows.line_num}", cast(Any, row)
            if None in row or None in row.values():
                cells, columns = "more" if None in row else "fewer", len(rows.fieldnames or ())
                value = BadDocument(f"{path}, {where}: {cells} cells than the {columns} columns of the first line")
            elif delimiter == "\t" and _holds_rows(list(row.values())):
                raise CorpusError(
                    f"{path}, to {where}: a cell that begins with a quotation mark holds whole rows; double the "
                    "quotation marks of such cells and put the cells into some, or convert the file to JSON Lines"
                )
            yield Entry(path, where, value)
    except csv.Error as error:
        # What is wrong with its quotes is wrong with all that follows.
        raise CorpusError(
            f"{path}, line {rows.reader.line_num}: not a table of cells: {error}; quote the text as CSV asks"
        ) from error


def _holds_rows(cells: list[str]) -> bool:
    """Whether a cell has swallowed what looks like rows of the same table, from its quotation mark to the next one."""
    for place, cell in enumerate(cells):
        lines = cell.split("\n")
        tabs = [len(cells) - 1 - place, *[len(cells) - 1] * (len(lines) - 2), place]
        begun = all(line.partition("\t")[0].strip() for line in lines[1:])  # unlike code that tabs indent
        if begun and len(lines) > 1 < len(cells) and [line.count("\t") for line in lines] == tabs:
            return True
    return False


def _decoded_lines(path: Path) -> Iterator[str]:
    """Lines with their ends."""
    for line in every_line(path):
        if line.number == 1:
            check_encoding(line)
        try:
            yield line.content.decode("utf-8-sig" if line.number == 1 else "utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise OtherEncoding(
                f"{path}, line {line.number}: not UTF-8: byte {error.start} of the line is "
                f"{line.content[error.start]:#04x}; convert the file, for example with iconv"
            ) from error


def _parquet(path: Path, keys: Keys) -> Iterator[Entry]:
    import pyarrow as pa
    from pyarrow import parquet

    source: Any = pa.BufferReader(b"".join(read_blocks(path))) if path.suffix in COMPRESSED else path
    number = 0
    try:
        with parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(BATCH, columns=columns_to_read(file.schema_arrow, keys)):
                for row in batch.to_pylist():
                    number += 1
                    yield Entry(path, f"row {number}", row)
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, KeyError) as error:  # of odd time zones
        raise CorpusError(f"{path}, after row {number}: not Parquet, or damaged: {first_line(error)}") from error


def _arrow(path: Path, keys: Keys) -> Iterator[Entry]:
    import pyarrow as pa

    number = 0
    try:
        packed = path.suffix in COMPRESSED
        with pa.BufferReader(b"".join(read_blocks(path))) if packed else pa.memory_map(str(path)) as source:
            is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            chosen = columns_to_read(reader.schema, keys) or reader.schema.names
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    for row in batch.select(chosen).slice(start, BATCH).to_pylist():
                        number += 1
                        yield Entry(path, f"row {number}", row)
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, KeyError) as error:  # of odd time zones
        raise CorpusError(f"{path}, after row {number}: not Arrow, or damaged: {first_line(error)}") from error


def _whole(path: Path, most: int) -> bytes | None:
    """The unpacked bytes of a file; nothing if there are more than so many, of which no more are read."""
    pieces, size = [], 0
    for block in read_blocks(path):
        pieces.append(block)
        size += len(block)
        if size > most:
            return None
    return b"".join(pieces)


def _decoded(content: bytes) -> str:
    for mark, encoding in BOMS.items():
        if content.startswith(mark):
            return _as(encoding, content)
    for begins, (kind, cure) in NOT_TEXT.items():
        if content.startswith(begins):
            raise NotText(f"{kind}: {cure}")
    if b"\0" in content:
        raise NotText("binary")
    return _as("utf-8", content)


def _as(encoding: str, content: bytes) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotText(f"not {encoding.upper()} at byte {error.start}: convert it, for example with iconv") from error


def _found(value: Any, key: str) -> Any:
    """What is under a key, or under a dotted path of them; None if nothing is."""
    if isinstance(value, dict) and key in value:
        return value[key]
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_FACT
    return isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _names(value: dict[Any, Any]) -> str:
    shown = [str(name) for name in value][:20]
    return ", ".join(shown) or "none"
