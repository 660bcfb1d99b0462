"""The Pile's JSON Lines: one ``{"text": ..., "meta": {...}}`` a line, plain or compressed.

Lines end with ``\\n`` and nothing else (``\\r`` before it is white space to JSON), so that a text may hold
any character. Blank lines are ignored. Files are read as a stream of blocks: memory is a block and a line.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

from tttnn.errors import TTTNNError
from tttnn.files import writing

BLOCK = 1 << 20  # bytes read at a time
ZSTD_BLOCK = 1 << 14  # zstandard may expand a block a thousandfold, so its blocks are small

COMPRESSED = (".gz", ".zst")  # suffixes

OnError = Literal["raise", "skip"]


class CorpusError(TTTNNError):
    """A corpus, a file of it or a line of it cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Document:
    """One document: its text, and what the corpus says about it.

    Attributes
    ----------
    text : str
    meta : dict
        By the Pile's convention ``pile_set_name`` is the domain.
    """

    text: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        """The part of the corpus that the document belongs to, ``""`` if it does not say."""
        return str(self.meta.get("pile_set_name") or "")


@dataclass(frozen=True)
class Line:
    """A line of a file with its place: `number` counts from 1, `offset` in bytes of the unpacked file."""

    path: Path
    number: int
    offset: int
    content: bytes

    def error(self, problem: str) -> CorpusError:
        """Return the error to raise about this line."""
        return CorpusError(f"{self.path}, line {self.number}, byte {self.offset}: {problem}")


class DocumentReader(Iterator[Document]):
    """Iterator over the documents of one file; `skipped` counts the corrupt lines left out so far."""

    def __init__(self, path: str | Path, on_error: OnError = "raise"):
        check_on_error(on_error)
        self.skipped = 0
        self._lines = read_lines(path)
        self._skip = on_error == "skip"

    def __next__(self) -> Document:
        for line in self._lines:
            try:
                return parse_line(line)
            except CorpusError:
                if not self._skip:
                    raise
                self.skipped += 1
        raise StopIteration


def read_jsonl(path: str | Path, on_error: OnError = "raise") -> DocumentReader:
    """Read documents one after the other from a JSON Lines file.

    Parameters
    ----------
    path : str or Path
        Gzip if it ends with ``.gz``, Zstandard if it ends with ``.zst``, otherwise plain.
    on_error : {"raise", "skip"}
        What to do with a corrupt line. Skipped ones are counted in the iterator's ``skipped``.

    Returns
    -------
    DocumentReader
        An iterator of `Document`.

    Raises
    ------
    CorpusError
        While iterating: a line that is not UTF-8, not JSON or has no text (named by file, line and byte
        offset), or a compressed file that is damaged or ends too early (whatever `on_error` says).
    FileNotFoundError
        At the first document, if there is no such file.
    """
    return DocumentReader(path, on_error)


def write_jsonl(path: str | Path, documents: Iterable[Document]) -> int:
    """Write documents to a JSON Lines file, atomically, as raw UTF-8; the same documents give the same bytes.

    Parameters
    ----------
    path : str or Path
        Compressed by its suffix, as in `read_jsonl`.
    documents : iterable of Document
        Consumed one by one.

    Returns
    -------
    int
        The number of documents written.

    Raises
    ------
    CorpusError
        If a text holds a lone surrogate, which UTF-8 cannot express.
    """
    path = Path(path)
    count = 0
    with writing(path) as partial, _packing(partial, path.suffix) as file:
        for line in encode_lines(path, documents):
            file.write(line)
            count += 1
    return count


def encode_lines(path: Path, documents: Iterable[Document]) -> Iterator[bytes]:
    """Yield each document as a line of JSON in UTF-8, its line end included; see `write_jsonl` for the errors."""
    for number, document in enumerate(documents):
        line = json.dumps({"text": document.text, "meta": document.meta}, ensure_ascii=False)
        try:
            yield line.encode() + b"\n"
        except UnicodeEncodeError as error:
            problem = f"{path}: document {number} cannot be written as UTF-8: {error.reason}"
            raise CorpusError(problem) from error


def check_on_error(on_error: str) -> None:
    """Refuse a value of `on_error` that is not known."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")


def read_lines(path: str | Path) -> Iterator[Line]:
    """Yield the lines of a plain or compressed file that are not blank, without their line ends."""
    path = Path(path)
    number, offset, pieces = 1, 0, []
    for block in read_blocks(path):
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            pieces.append(block[start:end])
            content = b"".join(pieces)
            if content.strip():
                yield Line(path, number, offset, content)
            number, offset, pieces, start = number + 1, offset + len(content) + 1, [], end + 1
        pieces.append(block[start:])
    content = b"".join(pieces)
    if content.strip():
        yield Line(path, number, offset, content)


def read_blocks(path: str | Path) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file, block by block; see `read_jsonl` for the errors."""
    path = Path(path)
    with open(path, "rb") as file:
        try:
            if path.suffix in COMPRESSED and not path.stat().st_size:
                raise EOFError
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield from iter(lambda: unpacked.read(BLOCK), b"")
            elif path.suffix == ".zst":
                yield from _zstandard_blocks(file)
            else:
                yield from iter(lambda: file.read(BLOCK), b"")
        except EOFError as error:
            raise CorpusError(f"{path}: ends in the middle of its compressed data: copy it again") from error
        except (gzip.BadGzipFile, zlib.error, _Damaged) as error:
            raise CorpusError(f"{path}: damaged, or not compressed as {path.suffix[1:]}: {error}") from error


def parse_line(line: Line) -> Document:
    """Turn one line into a document.

    Raises
    ------
    CorpusError
        If the line is not UTF-8, not JSON, not an object, or has no ``text`` that is a string.
    """
    try:
        record = json.loads(line.content.decode())
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte {error.start} of the line is {line.content[error.start]:#04x}"
        raise line.error(problem) from error
    except (ValueError, RecursionError) as error:
        raise line.error(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise line.error(f'not a JSON object with a "text", but {type(record).__name__}')
    if "text" not in record:
        raise line.error(f'no "text" in this JSON object; its keys are {sorted(record)}')
    text, meta = record["text"], record.get("meta")
    if not isinstance(text, str):
        raise line.error(f'"text" is not a string, but {type(text).__name__}')
    if not isinstance(meta, dict | None):
        raise line.error(f'"meta" is not a JSON object, but {type(meta).__name__}')
    # Only an escape can bring a lone surrogate in, so most lines need not be encoded to find out.
    if b"\\u" in line.content and any("\ud800" <= character <= "\udfff" for character in text):
        raise line.error('"text" holds a lone surrogate, which is not a character')
    return Document(text, meta or {})


class _Damaged(Exception):
    """Stands for zstandard's own error where that package is not loaded."""


def _zstandard_blocks(file: BinaryIO) -> Iterator[bytes]:
    import zstandard

    try:
        yield from _frames(file, zstandard)
    except zstandard.ZstdError as error:
        raise _Damaged(*error.args) from error


def _frames(file: BinaryIO, zstandard: ModuleType) -> Iterator[bytes]:
    # Not zstandard's own stream reader: it takes a truncated file for a complete one.
    decompressor = None
    for packed in iter(lambda: file.read(ZSTD_BLOCK), b""):
        while packed:
            decompressor = decompressor or zstandard.ZstdDecompressor().decompressobj()
            yield decompressor.decompress(packed)
            packed = decompressor.unused_data
            if decompressor.eof:
                decompressor = None  # another frame may follow
    if decompressor is not None:
        raise EOFError


@contextmanager
def _packing(path: Path, suffix: str) -> Iterator[BinaryIO]:
    with open(path, "wb") as file:
        if suffix == ".gz":
            # Neither name nor time in the header: equal documents give equal files.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed
        elif suffix == ".zst":
            import zstandard

            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                yield packed
        else:
            yield file
