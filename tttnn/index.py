"""The index: vectors -> ids of the nearest, by Faiss, on disk as a folder of shards with one manifest.

The published index is Faiss's exact ``IndexFlatL2`` over all vectors (Hardt and Sun 2024, section 3), and so
is this one, kind "flat". It is opened memory-mapped: vectors are read from disk as they are needed, and may
leave memory again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn import __version__
from tttnn.files import read_json, sha256_file, write_json, writing_folder

if TYPE_CHECKING:
    from tttnn.embedding import Embedder

FORMAT = 1
KIND = "flat"
MANIFEST = "manifest.json"
SHARD = "shard-00000.faiss"

SPARE = 16  # neighbours fetched beyond k, so that ties at position k are seen
RANK_BLOCK = 4096  # candidates whose distances are computed at a time
LARGEST = 1e37  # squared length of a vector; distances between longer ones may overflow float32


class IndexMismatch(ValueError):
    """An index was asked for with another embedder, or other texts, than it was built for."""


class DamagedIndex(ValueError):
    """A file of an index is missing, or is not what the manifest says."""


class Index:
    """Exact nearest neighbours in squared L2 distance; made by `build_index` or `Index.open`.

    Searching is safe from several threads at once.

    Attributes
    ----------
    folder : Path
    manifest : dict
        Format, kind, dimension, count, shards, embedder, corpus fingerprint, library versions.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], flat: Any):
        self.folder, self.manifest = folder, manifest
        self._flat = flat

    @classmethod
    def open(
        cls, folder: str | Path, fingerprint: str, embedder_name: str = "", threads: int | None = None
    ) -> Index:
        """Open an index memory-mapped: this takes no memory for the vectors, and milliseconds.

        Parameters
        ----------
        folder : str or Path
        fingerprint : str
            Of the embedder that queries will come from.
        embedder_name : str, optional
            For the message if it is another one than the index was built with.
        threads : int, optional
            Threads that Faiss searches with, in the whole process; None leaves its default.

        Raises
        ------
        FileNotFoundError
            If there is no index in `folder`.
        IndexMismatch
            If it was built with another embedder.
        DamagedIndex
            If a file is missing, truncated or of another size than when it was written. What does not change
            a size is found by `verify`.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        built = manifest["embedder"]
        if built["fingerprint"] != fingerprint:
            asked = f"'{embedder_name or 'the one asked for'}' (fingerprint {fingerprint[:12]})"
            own = f"'{built['name']}' (fingerprint {built['fingerprint'][:12]})"
            raise IndexMismatch(
                f"{folder} was built with embedder {own}, not with {asked}, and distances between them mean "
                "nothing: open it with its own embedder, or build another index"
            )
        (shard,) = _checked_shards(folder, manifest)
        return cls(folder, manifest, _map_shard(folder / shard["file"], manifest, threads))

    def __len__(self) -> int:
        return self.manifest["count"]

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.manifest["dimension"]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedder it was built with."""
        return self.manifest["embedder"]["fingerprint"]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest vectors of each query.

        Faiss finds the candidates. Their distances are then computed once more, directly and in float64:
        Faiss's own may depend on how many queries are asked at once and on where a vector lies. So copies of
        a vector tie, and ties are in order of id, also where position k divides them.

        Parameters
        ----------
        queries : ndarray, shape (n, dimension)
            Finite numbers; converted to float32.
        k : int
            Between 1 and ``len(index)``.

        Returns
        -------
        distances : ndarray, shape (n, k), float32
            Squared L2, increasing.
        ids : ndarray, shape (n, k), int64
            Row numbers in the order of building.

        Raises
        ------
        ValueError
            If k is out of range, or queries have another shape or are not finite.
        """
        self.check_k(k)
        queries = _checked_vectors(queries, self.dimension, "queries")
        distances = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=np.int64)
        if len(queries):
            found = self._flat.search(queries, min(k + SPARE, len(self)))  # two (n, k + SPARE)
            for row, (query, rough, candidates) in enumerate(zip(queries, *found, strict=True)):
                candidates = self._widened(query, rough, candidates, k)
                distances[row], ids[row] = self._ranked(query, candidates, k)
        return distances, ids

    def check_k(self, k: int) -> None:
        """Raise ValueError unless k neighbours can be found."""
        if k < 1:
            raise ValueError(f"k={k}: k must be at least 1")
        if k > len(self):
            raise ValueError(f"k={k}, but the index holds {len(self)} vectors: k can be at most {len(self)}")

    def vectors(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return stored vectors, shape (len(ids), dimension), float32.

        Raises
        ------
        IndexError
            If there is no such id.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(f"ids from {ids.min()} to {ids.max()}, but the index holds 0 to {len(self) - 1}")
        return self._flat.reconstruct_batch(ids) if len(ids) else np.empty((0, self.dimension), np.float32)

    def verify(self) -> None:
        """Read all files and compare their SHA-256 with the manifest.

        Raises
        ------
        DamagedIndex
            Naming the first file that differs.
        """
        for shard in _checked_shards(self.folder, self.manifest):
            if sha256_file(self.folder / shard["file"]) != shard["sha256"]:
                raise DamagedIndex(f"{self.folder / shard['file']} changed since: build the index again")

    def _widened(self, query: np.ndarray, rough: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
        """All ids that may be among the k nearest, given Faiss's rough distances and their errors."""
        reach = rough[k - 1] + 2 * _rounding_error(query, rough[k - 1])
        if len(candidates) == len(self) or rough[-1] > reach:
            return candidates
        # The candidates end within a tie: take all of it. Faiss excludes the radius itself.
        radius = float(np.nextafter(np.float32(reach), np.float32(np.inf)))
        return self._flat.range_search(query[np.newaxis], radius)[2]

    def _ranked(self, query: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest candidates by exact distance, then id: two arrays (k,)."""
        blocks = (candidates[start : start + RANK_BLOCK] for start in range(0, len(candidates), RANK_BLOCK))
        exact = [np.square(self.vectors(block) - query.astype(np.float64)).sum(axis=1) for block in blocks]
        distances = np.concatenate(exact).astype(np.float32)  # (candidates,)
        order = np.lexsort((candidates, distances))[:k]
        return distances[order], candidates[order]


def build_index(
    folder: str | Path,
    vectors: Iterable[np.ndarray],
    *,
    embedder: Embedder,
    corpus_fingerprint: str,
    count: int | None = None,
) -> Index:
    """Write an index, whole or not at all, and open it.

    Parameters
    ----------
    folder : str or Path
        New; the index appears there when it is complete.
    vectors : iterable of ndarray, shape (any, embedder.dimension)
        Batches, read one after the other. Memory: the vectors of one shard, which today is all.
    embedder : Embedder
        What made the vectors; its name and fingerprint are recorded.
    corpus_fingerprint : str
        Of the texts.
    count : int, optional
        How many vectors there must be.

    Raises
    ------
    FileExistsError
        If `folder` is there already.
    ValueError
        If a vector has another dimension or is not finite (the row is named), or there are not `count`.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} is there already: remove it to build this index again")
    faiss = _faiss()
    flat = faiss.IndexFlatL2(embedder.dimension)
    for batch in vectors:
        flat.add(_checked_vectors(batch, embedder.dimension, "vectors", first_row=flat.ntotal))
    if count is not None and flat.ntotal != count:
        raise ValueError(f"{folder}: {flat.ntotal} vectors were given for {count} texts")
    if not flat.ntotal:
        raise ValueError(f"{folder}: an index of no vectors was asked for; is the corpus empty?")
    with writing_folder(folder) as partial:
        faiss.write_index(flat, str(partial / SHARD))
        write_json(partial / MANIFEST, _describe(partial, flat, embedder, corpus_fingerprint))
    return Index.open(folder, embedder.fingerprint, embedder.name)


def _faiss(threads: int | None = None) -> Any:
    """Import Faiss, after torch: each brings an OpenMP runtime, and the other order crashes some systems.

    The number of threads is set here and nowhere else.
    """
    with suppress(ModuleNotFoundError):  # a machine that only searches needs no torch
        import torch  # noqa: F401
    import faiss

    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads={threads}: must be at least 1")
        faiss.omp_set_num_threads(threads)
    return faiss


def _describe(folder: Path, flat: Any, embedder: Embedder, corpus_fingerprint: str) -> dict[str, Any]:
    shard = folder / SHARD
    return {
        "format": FORMAT,
        "kind": KIND,
        "metric": "squared L2",
        "dimension": flat.d,
        "count": flat.ntotal,
        "shards": [
            {"file": SHARD, "count": flat.ntotal, "bytes": shard.stat().st_size, "sha256": sha256_file(shard)}
        ],
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
        "corpus_fingerprint": corpus_fingerprint,
        "versions": {"faiss": _faiss().__version__, "numpy": np.__version__, "tttnn": __version__},
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"no index in {folder} (no {MANIFEST}): build it with build_index")
    manifest = read_json(folder / MANIFEST)
    known = (manifest.get("format"), manifest.get("kind"), len(manifest.get("shards", ())))
    if known != (FORMAT, KIND, 1):
        raise DamagedIndex(
            f"{folder / MANIFEST}: format {known[0]}, kind {known[1]!r}, {known[2]} shards, but this version "
            f"reads format {FORMAT}, kind {KIND!r}, 1 shard: build it again, or use the version that built it"
        )
    missing = {"dimension", "count", "embedder", "corpus_fingerprint", "versions"} - set(manifest)
    if missing:
        raise DamagedIndex(f"{folder / MANIFEST} lacks {', '.join(sorted(missing))}: build the index again")
    return manifest


def _checked_shards(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    # Before mapping: reading a mapped file past its end kills the process.
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise DamagedIndex(f"{path} is missing: build the index again")
        if path.stat().st_size != shard["bytes"]:
            raise DamagedIndex(
                f"{path} has {path.stat().st_size} bytes, not {shard['bytes']}: build the index again"
            )
    return manifest["shards"]


def _map_shard(path: Path, manifest: dict[str, Any], threads: int | None) -> Any:
    faiss = _faiss(threads)
    try:
        # Not IO_FLAG_MMAP: that maps inverted files only, and reads a flat index into memory.
        flat = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise DamagedIndex(f"{path} cannot be read by Faiss: build the index again") from error
    if (flat.d, flat.ntotal) != (manifest["dimension"], manifest["count"]):
        raise DamagedIndex(
            f"{path} holds {flat.ntotal} vectors of dimension {flat.d}, its manifest says "
            f"{manifest['count']} of {manifest['dimension']}: build the index again"
        )
    return flat


def _checked_vectors(vectors: np.ndarray, dimension: int, name: str, first_row: int = 0) -> np.ndarray:
    """Return vectors as contiguous float32 (n, dimension), or raise ValueError naming the first bad row."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"{name} must have shape (n, {dimension}), not {vectors.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        fine = np.einsum("nd,nd->n", vectors, vectors) < LARGEST  # false for NaN, too
    if not fine.all():
        row = first_row + int(np.argmin(fine))
        raise ValueError(f"{name}, row {row}: holds NaN or infinity, or is longer than {LARGEST**0.5:.0e}")
    return vectors


def _rounding_error(query: np.ndarray, distance: float) -> float:
    """How far Faiss's float32 distance may be from the exact one, for vectors about this far from the query.

    For many queries at once Faiss computes ``|q|^2 + |x|^2 - 2 q.x``, whose error grows with the lengths, not
    with the distance. Errors of a sum of d terms add up like a random walk: the root of d; 8 is for safety.
    """
    single = np.finfo(np.float32)
    # |x| is at most |q| plus the distance between them.
    longest = 2 * float(np.linalg.norm(query.astype(np.float64))) + float(distance) ** 0.5
    return 8 * len(query) ** 0.5 * float(single.eps) * longest**2 + float(single.tiny)
