"""Searching one shard, and merging what several found. A shard needs nothing outside its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tttnn.errors import ParameterError
from tttnn.index.exact import checked_vectors, rank_all, search_flat
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.kinds import KINDS, set_effort
from tttnn.index.manifest import CARD, FLAT, STRUCTURE, VECTORS, DamagedIndex, check_inside, check_sizes, read_card
from tttnn.index.vectors import VectorReader, map_vectors

Found = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SearchSettings:
    """How hard a compressed shard is searched. None: what its kind and size suggest.

    Attributes
    ----------
    candidates : int, optional
        Vectors ranked exactly for each query, at least k.
    effort : int, optional
        Inverted lists visited (ivfpq, ivfrabitq), or length of the graph's queue (hnsw).
    """

    candidates: int | None = None
    effort: int | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "effort"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(f"{name}={value}: must be at least 1")


class Shard:
    """A shard that is open. Searching is safe from several threads at once.

    Parameters
    ----------
    folder : Path
    card : dict, optional
        Its entry in the manifest, which it must equal; None if only the shard is there.
    settings : SearchSettings

    Raises
    ------
    DamagedIndex
        If a file is missing, truncated, a link to elsewhere, or not the manifest's. What does not change a size is
        found by `tttnn.index.verify`.
    """

    def __init__(self, folder: Path, card: dict[str, Any] | None = None, settings: SearchSettings | None = None):
        self.folder, self.settings = folder, settings or SearchSettings()
        for name in (CARD, VECTORS, FLAT, STRUCTURE):
            check_inside(folder, folder / name)
        self.card = read_card(folder)
        if card is not None and card != self.card:
            raise DamagedIndex(
                f"{folder} is not the shard that the manifest describes (it was built with embedder "
                f"'{self.card['embedder']['name']}', fingerprint {self.card['embedder']['fingerprint'][:12]}, "
                f"and holds {self.card['count']} vectors): copy the right one back, or build the index again"
            )
        if self.card["kind"] not in KINDS:
            raise DamagedIndex(f"{folder}: kind '{self.card['kind']}' is not known to this version")
        check_sizes(folder, self.card)
        self.first, self.count, self.dimension = (self.card[key] for key in ("first", "count", "dimension"))
        self._kind = KINDS[self.card["kind"]]
        vectors = folder / next(file["file"] for file in self.card["files"] if file["file"] != STRUCTURE)
        self._flat = map_vectors(vectors, self.count, self.dimension)
        self._take = VectorReader(vectors, self.count, self.dimension).take
        if self._kind.name == "flat":
            self._flat = np.array(self._flat)
        self._structure: Any = self._open_structure() if self._kind.factory else None

    def search(self, queries: np.ndarray, k: int) -> Found:
        """Find the nearest of this shard's vectors.

        Parameters
        ----------
        queries : ndarray, shape (n, dimension)
        k : int

        Returns
        -------
        distances : ndarray, shape (n, min(k, count)), float32
            Squared L2 to the raw vectors, increasing.
        ids : ndarray, same shape, int64
            Of the whole index; lower ones first where distances are equal.
        """
        check_sizes(self.folder, self.card)
        k = min(k, self.count)
        if self._structure is None:
            distances, rows = search_flat(self._flat, queries, k)
        else:
            distances, rows = self._search_compressed(queries, k)
        return distances, rows + self.first

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Raw vectors (len(ids), dimension) of ids of the whole index."""
        check_sizes(self.folder, self.card)
        return self._take(ids - self.first)

    def _search_compressed(self, queries: np.ndarray, k: int) -> Found:
        wanted = self.settings.candidates or max(self._kind.candidates * k, self._kind.least_candidates)
        _, found = self._structure.search(queries, min(max(wanted, k), self.count))  # (n, wanted), -1 for none
        candidates = [rows[rows >= 0] for rows in found]
        for number, rows in enumerate(candidates):
            if len(rows) < k:  # short lists, or a graph in parts: nothing is left out silently
                candidates[number] = search_flat(self._flat, queries[number : number + 1], k)[1][0]
        return rank_all(queries, candidates, self._take, k)

    def _open_structure(self) -> Any:
        faiss = load_faiss()
        path = self.folder / STRUCTURE
        try:
            # Not IO_FLAG_MMAP, which maps inverted lists only.
            structure = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise DamagedIndex(f"{path} cannot be read by Faiss: build the index again") from error
        if (structure.d, structure.ntotal) != (self.dimension, self.count):
            raise DamagedIndex(
                f"{path} holds {structure.ntotal} vectors of dimension {structure.d}, its manifest says "
                f"{self.count} of {self.dimension}: build the index again"
            )
        set_effort(structure, self.settings.effort or self._kind.effort(self.count))
        return structure


def search_shard(folder: str | Path, queries: np.ndarray, k: int, settings: SearchSettings | None = None) -> Found:
    """Open a shard by itself and search it: the part of a query that any machine with its folder can do.

    Parameters
    ----------
    folder : str or Path
        Of the shard.
    queries : ndarray, shape (n, dimension)
    k : int
        At least 1.
    settings : SearchSettings, optional

    Returns
    -------
    distances, ids : ndarray, shape (n, min(k, count))
        See `Shard.search`.

    Raises
    ------
    DamagedIndex
        Naming the file of the shard that is not as it was.
    """
    shard = Shard(Path(folder), settings=settings)
    if k < 1:
        raise ParameterError(f"k={k}: k must be at least 1")
    return shard.search(checked_vectors(queries, shard.dimension, "queries"), k)


def merge(parts: Sequence[Found], k: int) -> Found:
    """The k nearest of what several shards found.

    Parameters
    ----------
    parts : sequence of (distances, ids)
        One for each shard: arrays (n, k or fewer), distances exact.
    k : int

    Returns
    -------
    distances : ndarray, shape (n, k), float32
        Increasing. Fewer columns if the parts have fewer.
    ids : ndarray, shape (n, k), int64
        Lower ones first where distances are equal.
    """
    distances, ids = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))  # (n, sum of k)
    order = np.lexsort((ids, distances), axis=1)[:, :k]  # (n, k)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
