"""Raw vectors on disk: a plain ``.npy`` file, written as a stream that can be taken up again, or Faiss's flat index."""

from __future__ import annotations

import os
import time
import weakref
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np

from tttnn.files import read_json, write_json
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.manifest import FLAT, VECTORS, DamagedIndex

PARTIAL, JOURNAL = "vectors.partial", "journal.json"
HEADER = 128  # bytes before the numbers; numpy leaves room for a longer count
CHECKPOINT_BYTES = 1 << 26  # what a power failure may cost: so much, or so long
CHECKPOINT_SECONDS = 30.0


def open_vectors(path: Path) -> np.ndarray:
    """Memory-map whatever array an ``.npy`` holds, read-only.

    Raises
    ------
    DamagedIndex
        If it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DamagedIndex(f"{path} cannot be read ({error}): build the index again") from error


def map_vectors(path: Path, count: int, dimension: int) -> np.ndarray:
    """Memory-map raw vectors: (count, dimension) float32, read-only.

    Raises
    ------
    DamagedIndex
        If the file does not hold just that.
    """
    vectors = map_flat(path) if path.name == FLAT else open_vectors(path)
    if vectors.shape != (count, dimension) or vectors.dtype != np.dtype("<f4"):
        raise DamagedIndex(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}, its manifest says {count} vectors of "
            f"dimension {dimension}: build the index again"
        )
    return vectors.view(np.ndarray)


def map_flat(path: Path) -> np.ndarray:
    """Memory-map the vectors of a flat index that Faiss wrote: they are what its file ends with; see `flat_size`."""
    count, dimension = flat_size(path)
    start = path.stat().st_size - 4 * count * dimension
    return np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(count, dimension)).view(np.ndarray)


def flat_size(path: Path) -> tuple[int, int]:
    """Vectors and dimension of a flat index in squared L2 that Faiss wrote; nothing of its vectors is read.

    Raises
    ------
    DamagedIndex
        If it is no such file.
    """
    faiss = load_faiss()
    try:
        found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise DamagedIndex(f"{path} cannot be read by Faiss: it is damaged, or no index; copy it again") from error
    if type(found).__name__ not in ("IndexFlatL2", "IndexFlat") or found.metric_type != faiss.METRIC_L2:
        kind = type(found).__name__
        raise DamagedIndex(f"{path} is {kind}, not a flat index in squared L2, which alone holds vectors as they were")
    return found.ntotal, found.d


class VectorReader:
    """Single vectors of a raw file, read from their places: nothing of the file stays in the process.

    A mapped file would do, but each touch makes 16 pages resident: re-ranking a few thousand queries would
    take the memory that compression saved.
    """

    def __init__(self, path: Path, count: int, dimension: int):
        self._path, self._dimension = path, dimension
        self._start = path.stat().st_size - 4 * count * dimension  # after a header of NumPy or Faiss
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of these rows, (len(rows), d) float32."""
        vectors = np.empty((len(rows), self._dimension), dtype=np.float32)
        size = vectors.itemsize * self._dimension
        places = (self._start + size * rows.astype(np.int64)).tolist()
        # Arrays are buffers; numpy's annotations say so from Python 3.12 on.
        read = list(map(os.preadv, repeat(self._file), zip(vectors), places))  # type: ignore[arg-type]
        if read.count(size) != len(read):
            row = rows[[each != size for each in read]][0]
            raise DamagedIndex(f"{self._path} ends before vector {row}: build the index again")
        return vectors


class PartialVectors:
    """A raw file in the making; opening it takes up what an interrupted run has left.

    Rows are appended, and made durable now and then; the journal says how many are. What lies beyond, a torn
    batch for example, is cut off at the next opening.

    Attributes
    ----------
    rows : int
        Rows written. After opening: where to go on. Always the end of a batch that was appended, so that
        whoever makes the batches makes the same ones again.
    """

    def __init__(self, folder: Path, dimension: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._dimension = folder, dimension
        partial, journal = folder / PARTIAL, folder / JOURNAL
        self.rows = self._durable_rows(partial, journal) if partial.exists() and journal.exists() else 0
        self._file = open(partial, "r+b" if partial.exists() else "w+b")  # noqa: SIM115 (closed by __exit__)
        self._file.truncate(HEADER + self.rows * 4 * dimension)
        self._file.seek(0, os.SEEK_END)
        self._durable, self._when = self.rows, time.monotonic()

    def __enter__(self) -> PartialVectors:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, vectors: np.ndarray) -> None:
        """Write rows (n, d) float32 after those that are there."""
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self.rows += len(vectors)
        waiting = (self.rows - self._durable) * 4 * self._dimension
        if waiting >= CHECKPOINT_BYTES or time.monotonic() - self._when >= CHECKPOINT_SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make all rows durable, then say so in the journal."""
        self._sync()
        write_json(self._folder / JOURNAL, {"rows": self.rows})
        self._durable, self._when = self.rows, time.monotonic()

    def finish(self) -> None:
        """Write the header and give the file its name."""
        self.checkpoint()
        self._file.seek(0)
        self._file.write(_header(self.rows, self._dimension))
        self._sync()
        os.replace(self._folder / PARTIAL, self._folder / VECTORS)

    def _durable_rows(self, partial: Path, journal: Path) -> int:
        facts = read_json(journal)
        rows = facts.get("rows") if isinstance(facts, dict) else None
        there = partial.stat().st_size - HEADER
        if not isinstance(rows, int) or rows < 0 or 4 * rows * self._dimension > max(there, 0):
            raise DamagedIndex(f"{journal} does not fit {partial}: remove both to write this shard again")
        return rows

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _header(count: int, dimension: int) -> bytes:
    header = BytesIO()
    entries = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(header, entries)
    if len(header.getvalue()) != HEADER:  # fixed by the format: numpy pads to 64 and reserves 21 digits
        raise AssertionError(f"an .npy header of {len(header.getvalue())} bytes, not {HEADER}")
    return header.getvalue()
