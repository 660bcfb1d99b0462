"""An index: shards behind one search."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tttnn.errors import ParameterError
from tttnn.files import expand
from tttnn.index.exact import checked_vectors
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.kinds import KINDS
from tttnn.index.manifest import STRUCTURE, DamagedIndex, check_embedder, check_inside, read_manifest
from tttnn.index.shard import SearchSettings, Shard, merge

STREAM_ROWS = 4096

log = logging.getLogger(__name__)


class Answer(tuple[np.ndarray, np.ndarray]):
    """What `Index.search` returns: the pair ``(distances, ids)``, and which shards it comes from.

    Attributes
    ----------
    answered : list of str
        Names of the shards.
    """

    answered: list[str]

    def __new__(cls, distances: np.ndarray, ids: np.ndarray, answered: list[str]) -> Answer:
        """Take distances and ids (n, k), and the names of the shards that answered."""
        answer = super().__new__(cls, (distances, ids))
        answer.answered = answered
        return answer

    def __getnewargs__(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        return *self, self.answered  # for copies and pickles

    def __repr__(self) -> str:
        queries, k = self[1].shape
        return f"Answer({queries} queries, k={k}, answered={self.answered})"


class Index:
    """Nearest neighbours in squared L2 distance; made by `build_index` or `Index.open`.

    Searching is safe from several threads at once.

    Attributes
    ----------
    folder : Path
    manifest : dict
        Format, kind, dimension, count, shards, embedder, corpus fingerprint, library versions.
    missing : dict of str to str
        Shards left out at opening, and why; empty unless opened with `allow_missing`.
    settings : SearchSettings
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], shards: list[Shard], missing: dict[str, str],
        settings: SearchSettings | None = None,
    ):  # fmt: skip
        self.folder, self.manifest, self.missing = folder, manifest, missing
        self.settings = settings or SearchSettings()
        self._shards = shards
        self._allow_missing = False

    @classmethod
    def open(
        cls,
        folder: str | Path,
        fingerprint: str,
        embedder_name: str = "",
        threads: int | None = None,
        allow_missing: bool = False,
        settings: SearchSettings | None = None,
    ) -> Index:
        """Open an index memory-mapped: milliseconds, and memory only for kind "flat".

        Parameters
        ----------
        folder : str or Path
        fingerprint : str
            Of the embedder that queries will come from.
        embedder_name : str, optional
            For the message if it is another one than the index was built with.
        threads : int, optional
            Threads that Faiss searches with, in the whole process; None leaves its default.
        allow_missing : bool
            Search the shards that are in order, and list them with each answer. Otherwise a shard that is
            not in order is an error.
        settings : SearchSettings, optional
            How hard compressed shards are searched.

        Raises
        ------
        NoIndex
            If there is no index in `folder`.
        IndexMismatch
            If it was built with another embedder.
        DamagedIndex
            If a shard's file is missing, truncated or foreign; the message names it. What does not change a
            size is found by `tttnn.index.verify`.
        """
        folder = Path(expand(folder))
        load_faiss(threads)
        manifest = read_manifest(folder)
        check_embedder(folder, manifest["embedder"], fingerprint, embedder_name)
        shards: list[Shard] = []
        missing: dict[str, str] = {}
        for card in manifest["shards"]:
            try:
                check_inside(folder, folder / card["name"])
                shards.append(Shard(folder / card["name"], card, settings))
            except DamagedIndex as error:
                if not allow_missing:
                    raise
                missing[card["name"]] = str(error)
                log.warning("%s is left out: %s", card["name"], error)
        index = cls(folder, manifest, shards, missing, settings)
        index._allow_missing = allow_missing
        return index

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

    @property
    def method(self) -> str | dict[str, Any]:
        """How neighbours are found, as far as they depend on it: "exact", or kind, effort and structures, as JSON."""
        opened = [card for card in self.manifest["shards"] if card["name"] not in self.missing]
        cards = [card for card in opened if KINDS[card["kind"]].factory]
        if not cards:
            return "exact"
        structures = [each["sha256"] for card in cards for each in card["files"] if each["file"] == STRUCTURE]
        kinds = sorted({card["kind"] for card in opened})
        efforts = {self.settings.effort or KINDS[card["kind"]].effort(card["count"]) for card in cards}
        usual = {(KINDS[kind].candidates, KINDS[kind].least_candidates) for kind in kinds if KINDS[kind].factory}
        return {
            "kinds": kinds,
            "effort": sorted(efforts),
            "candidates": self.settings.candidates or [f"{each} k, at least {least}" for each, least in sorted(usual)],
            "structures": hashlib.sha256("".join(structures).encode()).hexdigest()[:16],
        }

    @property
    def allow_missing(self) -> bool:
        """Whether answers may come from a part of the shards."""
        return self._allow_missing

    def search(self, queries: np.ndarray, k: int) -> Answer:
        """Find the k nearest vectors of each query.

        Flat kinds: exactly, as if all shards were one. Compressed kinds: exactly among the candidates.

        Parameters
        ----------
        queries : ndarray, shape (n, dimension)
            Finite numbers; converted to float32.
        k : int
            Between 1 and ``len(index)``.

        Returns
        -------
        distances : ndarray, shape (n, k), float32
            Squared L2 to the raw vectors, increasing.
        ids : ndarray, shape (n, k), int64
            Row numbers in the order of building; lower ones first where distances are equal.

        The pair has an attribute `answered`, the names of the shards that were searched.

        Raises
        ------
        ParameterError
            If k is out of range, or queries have another shape or are not finite.
        DamagedIndex
            If a shard is not as it was at opening, unless `allow_missing`; if no shard answers.
        """
        self.check_k(k)
        queries = checked_vectors(queries, self.dimension, "queries")
        parts, answered = [], []
        for shard in self._shards:
            try:
                parts.append(shard.search(queries, k))
                answered.append(shard.card["name"])
            except DamagedIndex:
                if not self._allow_missing:
                    raise
        if not parts:
            raise DamagedIndex(f"{self.folder}: no shard is in order: build the index again")
        distances, ids = merge(parts, k)
        if distances.shape[1] < k:
            raise ParameterError(f"k={k}, but the shards that answered hold {distances.shape[1]} vectors")
        return Answer(distances, ids, answered)

    def check_k(self, k: int) -> None:
        """Raise ParameterError unless k neighbours can be found."""
        if k < 1:
            raise ParameterError(f"k={k}: k must be at least 1")
        if k > len(self):
            raise ParameterError(f"k={k}, but the index holds {len(self)} vectors: k can be at most {len(self)}")

    def vectors(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return raw vectors, shape (len(ids), dimension), float32.

        Raises
        ------
        IndexError
            If there is no such id.
        DamagedIndex
            If its shard is missing.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(f"ids from {ids.min()} to {ids.max()}, but the index holds 0 to {len(self) - 1}")
        vectors, found = np.empty((len(ids), self.dimension), dtype=np.float32), np.zeros(len(ids), dtype=bool)
        for shard in self._shards:
            here = (ids >= shard.first) & (ids < shard.first + shard.count)
            if here.any():
                vectors[here], found[here] = shard.vectors(ids[here]), True
        if not found.all():
            raise DamagedIndex(f"{self.folder}: the shard with vector {ids[~found][0]} is missing")
        return vectors

    def stream(self, start: int = 0) -> Iterator[np.ndarray]:
        """Raw vectors from row `start` on, in blocks (n, dimension): to build another kind from."""
        for first in range(start, len(self), STREAM_ROWS):
            yield self.vectors(np.arange(first, min(first + STREAM_ROWS, len(self))))
