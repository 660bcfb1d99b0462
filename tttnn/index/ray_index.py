"""An index over a Ray cluster: its shards are written by tasks and searched by actors.

Every machine must see the index's folder under the same path. Inside `tttnn.ray_cluster.cluster`::

    build_index(folder, batches, ..., count=n, options=BuildOptions(write=write_on_cluster))
    index = ClusterIndex.open(folder, embedder.fingerprint, workers=8)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tttnn.errors import ParameterError
from tttnn.files import expand
from tttnn.index.build import Batches, BuildPlan, write_shard
from tttnn.index.exact import checked_vectors
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.manifest import check_embedder, read_manifest, shard_name
from tttnn.index.search import Answer, Index
from tttnn.index.shard import Found, SearchSettings, Shard, merge
from tttnn.ray_cluster import RETRIES, gpus_for, results, start_workers


class ClusterIndex(Index):
    """An index whose shards are held by workers of a cluster; it answers what :class:`Index` answers.

    A query goes to all workers at once. One that dies is started again, elsewhere if need be, opens its shards and
    answers; an answer never lacks a shard.
    """

    _holders: list[Any]

    @classmethod
    def open(
        cls, folder: str | Path, fingerprint: str, embedder_name: str = "", threads: int | None = None,
        allow_missing: bool = False, settings: SearchSettings | None = None, workers: int = 2,
    ) -> ClusterIndex:  # fmt: skip
        """Let workers open an index, and wait until they have.

        Parameters
        ----------
        folder, fingerprint, embedder_name, settings
            See `Index.open`.
        threads : int, optional
            Threads that each worker searches with.
        allow_missing : bool
            Not to be had here: an answer never lacks a shard.
        workers : int
            Processes to spread the shards over; there are at most as many as shards.

        Raises
        ------
        ClusterError
            If a worker keeps dying.
        ParameterError
            If there is to be no worker, or a shard may be missing.
        FileNotFoundError, IndexMismatch, DamagedIndex
            See `Index.open`.
        """
        folder = Path(expand(folder)).absolute()
        manifest = read_manifest(folder)
        check_embedder(folder, manifest["embedder"], fingerprint, embedder_name)
        if allow_missing:
            raise ParameterError("allow_missing: an index over a cluster opens all of its shards; leave it out")
        if workers < 1:
            raise ParameterError(f"workers={workers}: must be at least 1")
        cards = manifest["shards"]
        portions = [cards[start::workers] for start in range(min(workers, len(cards)))]
        holders = start_workers(_Holder, [(folder, portion, settings, threads) for portion in portions])
        results([holder.names.remote() for holder in holders])
        held = {card["name"]: holder for holder, portion in zip(holders, portions, strict=True) for card in portion}
        shards: list[Any] = [_HeldShard(card, held[card["name"]]) for card in cards]  # asked for vectors alone
        index = cls(folder, manifest, shards, {}, settings)
        index._holders = holders
        return index

    def search(self, queries: np.ndarray, k: int) -> Answer:
        """Find the k nearest vectors of each query, as `Index.search` does.

        Raises
        ------
        ClusterError
            If a worker keeps dying.
        """
        import ray

        self.check_k(k)
        shared = ray.put(checked_vectors(queries, self.dimension, "queries"))
        parts = results([holder.search.remote(shared, k) for holder in self._holders])
        return Answer(*merge(parts, k), [card["name"] for card in self.manifest["shards"]])


class _Holder:
    """An actor that holds some shards. They are opened when they are first needed, also after a restart."""

    def __init__(
        self, folder: Path, cards: Sequence[dict[str, Any]], settings: SearchSettings | None, threads: int | None
    ):
        self._folder, self._cards, self._settings, self._threads = folder, cards, settings, threads

    @cached_property
    def _shards(self) -> dict[str, Shard]:
        load_faiss(self._threads)
        return {card["name"]: Shard(self._folder / card["name"], card, self._settings) for card in self._cards}

    def names(self) -> list[str]:
        return list(self._shards)

    def search(self, queries: np.ndarray, k: int) -> Found:
        return merge([shard.search(queries, k) for shard in self._shards.values()], k)

    def vectors(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self._shards[name].vectors(ids)


class _HeldShard:
    """What `Index.vectors` asks a shard for, by way of its holder."""

    def __init__(self, card: dict[str, Any], holder: Any):
        self.card, self.first, self.count, self._holder = card, card["first"], card["count"], holder

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        return results(self._holder.vectors.remote(self.card["name"], ids))


def write_on_cluster(folder: Path, known: int, batches: Batches, plan: BuildPlan) -> list[dict[str, Any]]:
    """Write the shards of a plan as tasks of a cluster: for `BuildOptions.write`.

    The files are those of a build on one machine. The task of a worker that dies is done by another, which goes on
    from what is durable.

    Parameters
    ----------
    folder, known, plan
        See `tttnn.index.build.write_shards`.
    batches : callable
        It is sent to the workers and called there, so it should open what it reads by name or path.

    Raises
    ------
    ParameterError
        If the plan has no count: where the shards begin must be known.
    ClusterError
        If a shard's workers keep dying.
    """
    import ray

    if plan.count is None:
        raise ParameterError("count=None: on a cluster the number of vectors must be given")
    placed = {"num_cpus": plan.options.threads, "num_gpus": gpus_for(plan.options.device)}
    # A process goes on to the next shard, also on a GPU, so that what it has loaded is loaded once.
    task = ray.remote(**placed, max_calls=0, max_retries=RETRIES, scheduling_strategy="SPREAD")(_write)
    firsts = range(0, plan.count, plan.options.shard_rows)
    limits = (min(plan.options.shard_rows, plan.count - first) for first in firsts)
    shards = enumerate(zip(firsts, limits, strict=True), known)
    running = [task.remote(folder.absolute(), number, *rows, batches, plan) for number, rows in shards]
    cards: list[dict[str, Any]] = []
    try:
        with tqdm(total=plan.count, desc="index", unit=" vectors") as bar:
            while running:
                [done], running = ray.wait(running)
                cards.append(results(done))
                bar.update(cards[-1]["count"])
    finally:
        for each in running:  # after an error: nobody may write once the build's lock is given back
            ray.cancel(each, force=True)
            ray.wait([each])
    return sorted(cards, key=lambda card: card["first"])


def _write(
    folder: Path, number: int, first: int, limit: int, batches: Batches, plan: BuildPlan
) -> dict[str, Any] | None:
    place, silent = folder / shard_name(number), tqdm(disable=True)
    return write_shard(place, number, plan.first + first, limit, batches, plan, silent)
