r"""The Pile's JSON Lines: one ``{"text": ..., "meta": {...}}`` a line, plain or compressed.

Lines end with ``\n`` and nothing else (``\r`` before it is white space to JSON), so that a text may hold
any character. Blank lines are ignored, and so is a byte-order mark. Of a key that an object has twice the last one
counts, as in Python's json. Files are read as a stream of blocks: memory is a block and a line.
"""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from tttnn.errors import BAD_INPUT, ParameterError, TTTNNError
from tttnn.files import writing

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1 << 20  # bytes read at a time
PACKED_BLOCK = 1 << 14  # what is compressed may expand a thousandfold, so its blocks are small
LARGEST_WINDOW = 1 << 31  # bytes that zstandard may look back, as with `zstd -d --long=31`: memory of the reader
GZIP_MAGIC = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"\0{", codecs.BOM_UTF32_BE, b"\0\0\0{")  # or UTF-32
BOMS = {  # the longer ones first: one begins with the other
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
OTHER_KINDS = {  # how their files begin
    GZIP_MAGIC: ("compressed by gzip", "add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstandard", "add .zst to its name"),
    b"BZh": ("compressed by bzip2", "unpack it (bunzip2)"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it (unxz)"),
    b"PK\3\4": ("a zip archive", "unpack it (unzip)"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself (git lfs pull)"),
    b"PAR1": ("a Parquet table", "convert it (pandas: read_parquet, then to_json(orient='records', lines=True))"),
}
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # escaped, the only way for one to get in

COMPRESSED = (".gz", ".zst")  # suffixes

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


class CorpusError(TTTNNError):
    """A corpus, a file of it or a line of it cannot be used; the message says which and what to do."""

    status = BAD_INPUT


class OtherEncoding(CorpusError):
    """A file is not in UTF-8, or no text at all."""


class BadDocument(CorpusError):
    """One line is no document; the others of its file can still be read."""


class NoText(BadDocument):
    """A line holds an object without a key "text": another one may be meant."""


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

    def with_domain(self, domain: str) -> Document:
        """The document as one of another domain."""
        return self if self.domain == domain else Document(self.text, {**self.meta, "pile_set_name": domain})


@dataclass(frozen=True)
class Line:
    """A line of a file with its place: `number` counts from 1, `offset` in bytes of the unpacked file."""

    path: Path
    number: int
    offset: int
    content: bytes

    def error(self, problem: str) -> BadDocument:
        """Return the error to raise about this line."""
        return BadDocument(f"{self.path}, line {self.number}, byte {self.offset}: {problem}")


class DocumentReader(Iterator[Document]):
    """Iterator over the documents of one file.

    Attributes
    ----------
    skipped : int
        Bad documents left out so far.
    problem : str
        What is wrong with the first of them; "" if there is none.
    """

    def __init__(
        self, path: str | Path, on_error: OnError = "raise", filled: bool = False, digest: _Hash | None = None
    ):
        check_on_error(on_error)
        self.skipped, self.problem = 0, ""
        self._lines = read_lines(path, digest)
        self._skip, self._filled = on_error == "skip", filled

    def __next__(self) -> Document:
        for line in self._lines:
            try:
                return parse_line(line, self._filled)
            except BadDocument as error:
                if not self._skip:
                    raise
                self.skipped, self.problem = self.skipped + 1, self.problem or str(error)
        raise StopIteration


def read_jsonl(
    path: str | Path, on_error: OnError = "raise", filled: bool = False, digest: _Hash | None = None
) -> DocumentReader:
    """Read documents one after the other from a JSON Lines file.

    Parameters
    ----------
    path : str or Path
        Gzip if it ends with ``.gz``, Zstandard if it ends with ``.zst``, otherwise plain.
    on_error : {"raise", "skip"}
        What to do with a line that is no document. Skipped ones are counted in the iterator's ``skipped``.
    filled : bool
        Whether a document with an empty or blank text counts as a line that is none.
    digest : optional
        One of `hashlib`; it has seen all bytes of the file at the end, so that hashing takes no second pass.

    Returns
    -------
    DocumentReader
        An iterator of `Document`.

    Raises
    ------
    BadDocument
        While iterating: a line that is not UTF-8, not JSON, has no text or a lone surrogate (named by file, line and
        byte offset).
    CorpusError
        While iterating: a file that is missing or cannot be opened, is UTF-16, or is compressed and damaged or ends
        too early (whatever `on_error` says).
    """
    return DocumentReader(path, on_error, filled, digest)


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
        If a text holds a lone surrogate, which UTF-8 cannot express, or `meta` what JSON cannot.
    """
    path = Path(path)
    count = 0
    with writing(path) as partial, _packing(partial, path.suffix) as file:
        for line in _encode_lines(path, documents):
            file.write(line)
            count += 1
    return count


def _encode_lines(path: Path, documents: Iterable[Document]) -> Iterator[bytes]:
    """Yield each document as a line of JSON in UTF-8, its line end included; see `write_jsonl` for the errors."""
    for number, document in enumerate(documents):
        try:
            line = json.dumps({"text": document.text, "meta": document.meta}, ensure_ascii=False)
            yield line.encode() + b"\n"
        except UnicodeEncodeError as error:
            problem = f"{path}: document {number} cannot be written as UTF-8: {error.reason}"
            raise CorpusError(problem) from error
        except (TypeError, RecursionError) as error:
            raise CorpusError(f"{path}: document {number} cannot be written as JSON: {error}") from error


def check_on_error(on_error: str) -> None:
    """Refuse a value of `on_error` that is not known."""
    if on_error not in ("raise", "skip"):
        raise ParameterError(f"on_error={on_error!r}: must be 'raise' or 'skip'")


def is_blank(content: bytes, offset: int) -> bool:
    """Whether a line holds nothing but white space; the first one of a file perhaps after a byte-order mark."""
    return not (content if offset else content.removeprefix(codecs.BOM_UTF8)).strip()


def read_lines(path: str | Path, digest: _Hash | None = None) -> Iterator[Line]:
    """Yield the lines of a plain or compressed file that are not blank, without their line ends."""
    return (line for line in every_line(path, digest) if not is_blank(line.content, line.offset))


def every_line(path: str | Path, digest: _Hash | None = None) -> Iterator[Line]:
    """Yield the lines of a plain or compressed file, blank ones too, without their line ends."""
    path = Path(path)
    number, offset, pieces = 1, 0, []
    for block in read_blocks(path, digest):
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            pieces.append(block[start:end])
            content = b"".join(pieces)
            yield Line(path, number, offset, content)
            number, offset, pieces, start = number + 1, offset + len(content) + 1, [], end + 1
        pieces.append(block[start:])
    yield Line(path, number, offset, b"".join(pieces))


def read_blocks(path: str | Path, digest: _Hash | None = None) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file, block by block; see `read_jsonl` for `digest` and the errors."""
    path = Path(path)
    unpack = {".gz": _gzip_members, ".zst": _zstandard_frames}.get(path.suffix)
    with _opened(path) as file:
        packed = _packed_blocks(file, PACKED_BLOCK if unpack else BLOCK, digest)
        try:
            yield from unpack(packed, path) if unpack else packed
        except EOFError as error:
            raise CorpusError(f"{path}: ends in the middle of its compressed data: copy it again") from error
        except (zlib.error, _Damaged) as error:
            raise CorpusError(f"{path}: damaged, or not compressed as {path.suffix[1:]}: {error}") from error
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_line(line: Line, filled: bool = False) -> Document:
    """Turn one line into a document.

    Parameters
    ----------
    line : Line
    filled : bool
        Whether an empty or blank text is an error, too.

    Raises
    ------
    BadDocument
        If the line is not UTF-8, not JSON, not an object, has no ``text`` that is a string, has a ``meta`` that is no
        object, or a lone surrogate.
    OtherEncoding
        If it begins a file in UTF-16, or of another kind.
    """
    record = decode_line(line)
    if not isinstance(record, dict):
        raise line.error(f'not a JSON object with a "text", but {type(record).__name__}')
    if "text" not in record:
        raise NoText(str(line.error(f'no "text" in this JSON object; its keys are {sorted(record)}')))
    text, meta = record["text"], record.get("meta")
    if not isinstance(text, str):
        raise line.error(f'"text" is not a string, but {type(text).__name__}')
    if not isinstance(meta, dict | None):
        raise line.error(f'"meta" is not a JSON object, but {type(meta).__name__}')
    if SURROGATE.search(line.content):
        for name, value in (("text", text), ("meta", meta)):
            if _holds_surrogate(value):
                raise line.error(f'"{name}" holds a lone surrogate, which is not a character')
    if filled and not text.strip():
        raise line.error('"text" is empty or blank, so nothing can be found by it')
    return Document(text, meta or {})


def decode_line(line: Line) -> Any:
    """Return the JSON value of a line, with the errors of `parse_line`."""
    try:
        return json.loads(line.content.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        check_encoding(line)
        problem = f"not UTF-8: byte {error.start} of the line is {line.content[error.start]:#04x}"
        raise line.error(problem) from error
    except RecursionError as error:
        raise line.error(f"not JSON: {error}") from error
    except json.JSONDecodeError as error:
        check_encoding(line)
        raise line.error(f"not JSON: {error}") from error
    except ValueError as error:  # Python's own limit, which has nothing to do with JSON
        raise line.error(f"holds a whole number of over {sys.get_int_max_str_digits()} digits") from error


def check_encoding(line: Line) -> None:
    """Refuse the first line of a file in another encoding, or of another kind."""
    if line.offset == 0 and line.content.startswith(UTF_16):
        raise OtherEncoding(
            f"{line.path} is not UTF-8 but UTF-16 or UTF-32: convert it (iconv -f UTF-16 -t UTF-8 in.jsonl > out.jsonl)"
        )
    for begins, (kind, cure) in OTHER_KINDS.items():
        if line.offset == 0 and line.content.startswith(begins):
            raise OtherEncoding(f"{line.path} is {kind}, not JSON Lines in UTF-8: {cure}")


def _holds_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise CorpusError(f"no file {path}") from error
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise CorpusError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _packed_blocks(file: BinaryIO, size: int, digest: _Hash | None) -> Iterator[bytes]:
    for block in iter(lambda: file.read(size), b""):
        if digest is not None:
            digest.update(block)
        yield block


class _Damaged(Exception):
    """Stands for zstandard's own error where that package is not loaded."""


class _Unpacking(Protocol):
    """What zlib and zstandard give to unpack one member or frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes:
        """Unpack some more."""


def _gzip_members(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """As gzip does it: zeros after a member are padding, and anything else that is none is left with a warning."""

    def goes_on(rest: bytes) -> bool:
        if rest.startswith(GZIP_MAGIC):
            return True
        log.warning("%s: bytes after the end of its compressed data are left out, as gzip does", path)
        return False

    yield from _unpacked(blocks, lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), b"\0", goes_on)


def _zstandard_frames(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    # Not zstandard's own stream reader: it takes a truncated file for a complete one.
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    try:
        yield from _unpacked(blocks, reader.decompressobj, b"", lambda rest: True)
    except zstandard.ZstdError as error:
        if "memory" not in str(error):
            raise _Damaged(*error.args) from error
        raise CorpusError(
            f"{path}: its frames look back further than memory allows ({error}): unpack it on a larger machine with "
            "zstd -d --long=31, and compress it again without --long"
        ) from error


def _unpacked(
    blocks: Iterator[bytes], begin: Callable[[], _Unpacking], padding: bytes, goes_on: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """Unpack members one after another; `goes_on` looks at what follows one, two bytes at least if there are."""
    unpacking, rest, seen = begin(), b"", False
    for block in blocks:
        rest, seen = rest + block, True
        while rest:
            if unpacking.eof:
                rest = rest.lstrip(padding) if padding else rest
                if len(rest) < 2:
                    break  # more may follow
                if not goes_on(rest):
                    for _ in blocks:
                        pass  # to the end, for whoever hashes them
                    return
                unpacking = begin()
            yield unpacking.decompress(rest)
            rest = unpacking.unused_data if unpacking.eof else b""
    if not unpacking.eof or not seen:
        raise EOFError
    if rest and goes_on(rest):
        raise EOFError


@contextmanager
def _packing(path: Path, suffix: str) -> Iterator[BinaryIO | gzip.GzipFile]:
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
