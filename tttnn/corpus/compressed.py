"""Zstandard files that can be read from any place: independent frames, and a table of where they start.

A corpus of 1.3 TB need not lie unpacked: its text is cut at line ends into frames of 256 kB, each compressed by
itself, and a document is read by unpacking one of them. Such a file is an ordinary ``.zst`` to every other tool. It
ends with the seek table of Zstandard's seekable format, a frame that other tools skip. Files of several frames that
something else wrote can be read too, with or without a seek table, wherever their frames are cut.

A frame of 256 kB, from measurements on the embedded corpus (``bench/text_store.py``): 128 kB packs to 0.26 of the
text and takes 0.13 ms a read, 256 kB 0.25 and 0.22 ms, 512 kB 0.24 and 0.39 ms; one single frame packs to 0.21, and the
plain file takes 0.02 ms. Twenty neighbours then take 5 ms, before seconds of training. Level 9 packs 10% smaller than
level 3 at a fifth of the speed (65 MB/s a core), level 15 another 5% at 10 MB/s; unpacking is as fast for all.
"""

import os
import struct
import weakref
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from tttnn.corpus.jsonl import LARGEST_WINDOW, CorpusError, read_blocks
from tttnn.errors import ParameterError
from tttnn.files import writing

FRAME = 1 << 18  # bytes of text a frame
LEVEL = 9
LARGEST_FRAME = 1 << 24  # bytes of text that one read may unpack
CACHE = 1 << 20  # bytes of unpacked frames that an open file keeps

SKIPPABLE = 0x184D2A50  # and the 15 numbers after it
SEEK_TABLE = 0x184D2A5E
SEEKABLE = 0x8F92EAB1
CHECKSUMS = 0x80  # flag: the seek table has a third column
RESERVED = 0x7C  # flags that must be 0
PIECE = 1 << 9  # bytes unpacked at a time where the result is unknown: four of them may hold 128 kB
HEADER = 18  # bytes, at most, of a frame's header
RLE, UNKNOWN_KIND = 1, 3  # kinds of block


class NotFramed(CorpusError):
    """A compressed file that can only be read from its beginning."""


def recompress(source: str | Path, target: str | Path, frame_bytes: int = FRAME, level: int = LEVEL) -> int:
    """Rewrite a plain or compressed JSON Lines file as a ``.zst`` of independent frames: the same text, byte for byte.

    The Pile's own files are single frames of 15 GB. Rewritten once, they are read in place; otherwise `Corpus.store`
    unpacks them. `target` may be `source`: it is replaced when the new file is complete.

    Parameters
    ----------
    source, target : str or Path
        `target` ends with ``.zst``.
    frame_bytes : int
        A frame ends with the first line that fills it so far, or in the middle of a line of over 16 MiB.
    level : int
        Of compression, 1 to 22.

    Returns
    -------
    int
        Bytes of text.

    Raises
    ------
    CorpusError
        If `source` is damaged or ends too early.
    ParameterError
        If `target` has another suffix, or `frame_bytes` is not in 1 ... 16 MiB.
    """
    return _write_frames(Path(target), read_blocks(source), frame_bytes, level)


def find_frames(path: str | Path) -> np.ndarray:
    """Return where the frames of a ``.zst`` file start, from its seek table or by walking from frame to frame.

    Walking reads only headers, except of frames that do not say how much they hold: these are unpacked.

    Returns
    -------
    ndarray of uint64, shape (2, frames + 1)
        Row 0 in bytes of the file, row 1 in bytes of its text; the last column is the end. Empty frames, and those
        that hold no text, are left out.

    Raises
    ------
    NotFramed
        If the file is one single frame, one frame holds more than 16 MiB, or it is a ``.gz``.
    CorpusError
        If the file is damaged; the message names the byte.
    """
    path = Path(path)
    if path.suffix != ".zst":
        raise NotFramed(f"{path} is compressed in one piece: unpack it, or recompress it to .zst")
    descriptor = open_file(path)
    try:
        size = os.fstat(descriptor).st_size
        sizes = _read_seek_table(descriptor, path, size)
        if sizes is None:
            sizes = np.array(list(_walk(descriptor, path, size)), dtype=np.uint64).reshape(-1, 2).T  # (2, frames)
            if sizes.shape[1] < 2:
                raise NotFramed(f"{path} is compressed as one frame: unpack it, or recompress it")
    finally:
        os.close(descriptor)
    if sizes.shape[1] and sizes[1].max() > LARGEST_FRAME:
        raise _too_large(path)
    ends = np.cumsum(sizes, axis=1, dtype=np.uint64)
    starts = ends - sizes
    filled = sizes[1] > 0  # the others cannot be found by a position in the text
    last = ends[:, -1:] if sizes.shape[1] else np.zeros((2, 1), dtype=np.uint64)
    return np.concatenate([starts[:, filled], last], axis=1)


class FramedFile:
    """The text of a framed ``.zst`` file, from any place of it.

    Reading has no shared position and no lock, so threads and forked processes may use the same object. Up to 1 MiB
    of unpacked frames is kept (at least one frame).

    Parameters
    ----------
    path : Path
    frames : ndarray of uint64, shape (2, frames + 1)
        From `find_frames`.

    Attributes
    ----------
    size : int
        Bytes of text.
    """

    def __init__(self, path: Path, frames: np.ndarray):
        self.path, self._starts = path, frames[1]
        self.size = int(self._starts[-1])
        descriptor = open_file(path)
        weakref.finalize(self, os.close, descriptor)
        largest = int(np.diff(self._starts).max(initial=1))
        # functools' cache is safe to call from threads, and holds no lock that a fork could leave taken.
        self._unpack = lru_cache(max(1, CACHE // largest))(partial(_unpack_frame, descriptor, path, frames))

    def read(self, start: int, length: int) -> bytes:
        """Read `length` bytes of text from byte `start`, fewer only at the end.

        Raises
        ------
        CorpusError
            If a frame is damaged or is not the one that was there; the message names it and its byte in the file.
        """
        pieces = []
        while length > 0 and start < self.size:
            number = self._frame_at(start)
            skipped = start - int(self._starts[number])
            pieces.append(self._unpack(number)[skipped : skipped + length])
            start, length = start + len(pieces[-1]), length - len(pieces[-1])
        return b"".join(pieces)

    def is_edge(self, start: int) -> bool:
        """Whether what lies before `start` is in another frame, or nothing."""
        return start == int(self._starts[self._frame_at(start)])

    def _frame_at(self, start: int) -> int:
        # As uint64: for a Python integer, NumPy would convert the whole row to float64.
        return int(np.searchsorted(self._starts, np.uint64(start), side="right")) - 1


def open_file(path: Path) -> int:
    """Open a file for `read_at`; return its descriptor."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorpusError(f"no file {path}") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be opened: {error.strerror}") from error


def read_at(descriptor: int, start: int, length: int) -> bytes:
    """Read `length` bytes, fewer only at the end of the file; one call of pread stops at 2 GiB."""
    pieces = []
    while length and (piece := os.pread(descriptor, min(length, 1 << 30), start)):
        pieces.append(piece)
        start, length = start + len(piece), length - len(piece)
    return b"".join(pieces)


def _unpack_frame(descriptor: int, path: Path, frames: np.ndarray, number: int) -> bytes:
    import zstandard

    start, end = (int(each) for each in frames[0, number : number + 2])
    expected = int(frames[1, number + 1]) - int(frames[1, number])
    packed = read_at(descriptor, start, end - start)
    try:
        # Looked at first: what a damaged header says would be allocated.
        if zstandard.frame_content_size(packed) not in (-1, expected):
            raise zstandard.ZstdError(f"does not hold {expected} bytes")
        reader = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        text = reader.decompress(packed, max_output_size=expected)
        if len(text) != expected:
            raise zstandard.ZstdError(f"holds {len(text)} bytes, not {expected}")
    except zstandard.ZstdError as error:
        raise CorpusError(
            f"{path}, frame {number} at byte {start}: damaged, or the file changed: {error}. Copy it again; if it was "
            "changed on purpose, remove its table and build that again"
        ) from error
    return text


def _write_frames(path: Path, blocks: Iterable[bytes], frame_bytes: int, level: int) -> int:
    import zstandard

    if path.suffix != ".zst":
        raise ParameterError(f"path='{path}': must end with .zst")
    if not 1 <= frame_bytes <= LARGEST_FRAME:
        raise ParameterError(f"frame_bytes={frame_bytes}: must be in 1 ... {LARGEST_FRAME}")
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    sizes = []
    with writing(path) as partial_path, open(partial_path, "wb") as file:
        for text in _cut(blocks, frame_bytes):
            sizes.append((file.write(compressor.compress(text)), len(text)))
        file.write(_seek_table(sizes))
    return sum(size for _, size in sizes)


def _cut(blocks: Iterable[bytes], frame_bytes: int) -> Iterator[bytes]:
    """Join blocks and cut them after lines; the cuts do not depend on the blocks."""
    waiting = bytearray()
    for block in blocks:
        waiting += block
        while len(waiting) >= frame_bytes:
            end = waiting.find(b"\n", frame_bytes - 1, LARGEST_FRAME) + 1
            if not end and len(waiting) < LARGEST_FRAME:
                break
            yield bytes(waiting[: end or LARGEST_FRAME])
            del waiting[: end or LARGEST_FRAME]
    # A file that holds only a seek table is no Zstandard file to some tools: an empty one gets an empty frame.
    yield bytes(waiting)


def _seek_table(sizes: list[tuple[int, int]]) -> bytes:
    """Return the last frame: packed and unpacked size of each frame before it, then their number and a magic."""
    entries = np.array(sizes, dtype="<u4").tobytes()
    head = struct.pack("<II", SEEK_TABLE, len(entries) + 9)
    return head + entries + struct.pack("<IBI", len(sizes), 0, SEEKABLE)


def _read_seek_table(descriptor: int, path: Path, size: int) -> np.ndarray | None:
    """Return packed and unpacked sizes, shape (2, frames), or None if there is no seek table."""
    footer = read_at(descriptor, max(0, size - 9), 9)
    if len(footer) < 9 or not footer.endswith(struct.pack("<I", SEEKABLE)):
        return None
    count, flags, _ = struct.unpack("<IBI", footer)
    columns = 3 if flags & CHECKSUMS else 2
    length = 8 + 4 * columns * count + 9
    if length <= size and not flags & RESERVED:
        table = read_at(descriptor, size - length, length)
        sizes = np.frombuffer(table[8:-9], dtype="<u4").reshape(count, columns)[:, :2].T.astype(np.uint64)
        if struct.unpack("<II", table[:8]) == (SEEK_TABLE, length - 8) and sizes[0].sum() == size - length:
            return sizes
    raise CorpusError(f"{path}: the seek table at its end does not fit the file: copy it again, or recompress it")


def _walk(descriptor: int, path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield packed and unpacked size of each frame."""
    start = 0
    while start < size:
        header = read_at(descriptor, start, HEADER)
        if int.from_bytes(header[:4], "little") & ~0xF == SKIPPABLE:
            end, unpacked = start + 8 + int.from_bytes(header[4:8], "little"), 0
        else:
            end, unpacked = _measure(descriptor, path, start, header)
        if end > size:
            raise CorpusError(f"{path}: ends in the middle of the frame at byte {start}: copy it again")
        yield end - start, unpacked
        start = end


def _measure(descriptor: int, path: Path, start: int, header: bytes) -> tuple[int, int]:
    """Return where a frame ends, and how much text it holds."""
    import zstandard

    try:
        facts = zstandard.get_frame_parameters(header)
        end = start + zstandard.frame_header_size(header)
    except zstandard.ZstdError as error:
        raise CorpusError(f"{path}, byte {start}: damaged, no frame starts here: {error}") from error
    known = facts.content_size != zstandard.CONTENTSIZE_UNKNOWN
    last = False
    while not last:
        if (facts.content_size if known else end - start) > LARGEST_FRAME:
            raise _too_large(path)
        block = int.from_bytes(read_at(descriptor, end, 3), "little")
        last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == UNKNOWN_KIND:
            raise CorpusError(f"{path}, byte {end}: damaged, no block of a frame starts here")
        end += 3 + (1 if kind == RLE else length)
        if end > os.fstat(descriptor).st_size:
            return end, 0
    end += 4 * facts.has_checksum
    return end, facts.content_size if known else _count_text(path, start, read_at(descriptor, start, end - start))


def _count_text(path: Path, start: int, packed: bytes) -> int:
    import zstandard

    unpacking, count = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj(), 0
    try:
        for first in range(0, len(packed), PIECE):
            count += len(unpacking.decompress(packed[first : first + PIECE]))
            if count > LARGEST_FRAME:
                raise _too_large(path)
    except zstandard.ZstdError as error:
        raise CorpusError(f"{path}, frame at byte {start}: damaged: {error}") from error
    return count


def _too_large(path: Path) -> NotFramed:
    return NotFramed(
        f"{path} is compressed in frames too large to unpack one for a document (limit {LARGEST_FRAME} bytes): "
        "unpack it, or recompress it"
    )
