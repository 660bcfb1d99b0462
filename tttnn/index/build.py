"""Building: a stream of vectors -> shards on disk, in constant memory, to be taken up after a kill.

What is durable at which moment:

1. ``build.json`` says what is being built; another call must want the same.
2. A shard's vectors are appended to ``vectors.partial``; its journal says how many rows are durable.
3. Full, they become ``vectors.npy``; compressed kinds then train and fill their structure, from the start.
4. ``shard.json`` ends the shard. The manifest, replaced in one step, ends the build.

A call finds out how far an earlier one came, and goes on from there. Nothing that is written depends on where
it was interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tttnn import __version__
from tttnn.errors import ParameterError, TTTNNError
from tttnn.files import expand, read_json, sha256_file, sole_writer, storing, write_json, writing
from tttnn.index.exact import checked_vectors
from tttnn.index.faiss_runtime import load_faiss
from tttnn.index.kinds import Kind, check_kind, make_structure, resolve
from tttnn.index.manifest import (
    CARD,
    FLAT,
    FORMAT,
    MANIFEST,
    STRUCTURE,
    VECTORS,
    DamagedIndex,
    IndexExists,
    IndexMismatch,
    check_embedder,
    read_card,
    read_manifest,
    shard_name,
    write_sealed,
)
from tttnn.index.search import Index
from tttnn.index.vectors import JOURNAL, PARTIAL, PartialVectors, map_vectors, open_vectors

if TYPE_CHECKING:
    from tttnn.embedding import Embedder

SHARD_ROWS = 1 << 21  # vectors of a shard: 8 GB raw at dimension 1024, and a structure that fits into memory
PLAN = "build.json"
WRITE_BYTES = 1 << 20
OF_A_SHARD = (CARD, VECTORS, FLAT, STRUCTURE, PARTIAL, JOURNAL)  # the files that are written into its folder
TORN = re.compile(rf"\.({'|'.join(map(re.escape, (*OF_A_SHARD, MANIFEST, PLAN)))})\.[0-9a-f-]+\.partial")

Batches = Callable[[int], Iterable[np.ndarray]]
Writer = Callable[[Path, int, Batches, "BuildPlan"], list[dict[str, Any]]]


@dataclass(frozen=True)
class BuildOptions:
    """How the shards of an index are written.

    Attributes
    ----------
    shard_rows : int
        Vectors of a shard, at most.
    seed : int
        Of the sample that a quantiser is trained on.
    threads : int
        For training and adding. The bytes are the same each time with one thread; with more they are, as far
        as Faiss's BLAS is reproducible.
    write : callable, optional
        By default one shard after another, as `write_shards` does; on a cluster
        `tttnn.index.ray_index.write_on_cluster`.
    device : str
        Where the vectors are made: on a cluster, a process that writes shards has a GPU for itself if that is one.

    Raises
    ------
    ParameterError
        If shards are to hold nothing.
    """

    shard_rows: int = SHARD_ROWS
    seed: int = 1216
    threads: int = 1
    write: Writer | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise ParameterError(f"shard_rows={self.shard_rows}: must be at least 1")


@dataclass(frozen=True)
class BuildPlan:
    """What is built: a call with another plan cannot take up an interrupted build.

    Attributes
    ----------
    first : int
        Vectors that the index held before.
    count : int, optional
        Vectors to come.
    options : BuildOptions
        Of them, threads and the way to write do not count: they change how long a build takes.
    """

    kind: str
    dimension: int
    embedder: dict[str, str]
    corpus_fingerprint: str
    first: int
    count: int | None
    options: BuildOptions

    def __post_init__(self) -> None:
        check_kind(self.kind)

    def identity(self) -> dict[str, Any]:
        """All that must be equal, as JSON."""
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        return facts | {"shard_rows": self.options.shard_rows, "seed": self.options.seed}


def build_index(
    folder: str | Path,
    batches: Batches,
    *,
    embedder: Embedder,
    corpus_fingerprint: str,
    kind: str = "auto",
    count: int | None = None,
    options: BuildOptions | None = None,
) -> Index:
    """Write an index and open it. Killed at any point, the same call goes on, to the same bytes.

    Memory: one batch while vectors are read; for compressed kinds then the structure of one shard and the
    sample it is trained on.

    Parameters
    ----------
    folder : str or Path
        It becomes an index when it is complete.
    batches : callable
        Row number -> the vectors from that row on, in batches of shape (any, embedder.dimension). It is
        called with 0, with the first row of each further shard, and after an interruption with the row after
        the last durable batch.
    embedder : Embedder
        What made the vectors; its name and fingerprint are recorded.
    corpus_fingerprint : str
        Of the texts.
    kind : str
        One of `tttnn.index.KINDS`, or "auto": see `default_kind`. A shard too small to train a quantiser on
        becomes "flat-mapped"; its entry in the manifest says what it is.
    count : int, optional
        How many vectors there must be; also lets the progress bar tell the time left.
    options : BuildOptions, optional
        Size of a shard, seed, threads, and on a cluster the way to write.

    Raises
    ------
    IndexExists
        If there is an index in `folder`.
    BusyError
        If another process is building there.
    IndexMismatch
        If an unfinished build of something else is there, or shards that this package did not write; if there are not
        `count` vectors.
    ParameterError
        If a vector has another dimension or is not finite (the row is named), or the kind is none.
    StorageError
        If the disk is full, for example, or the file system has no locks: make room and call again.
    """
    folder = Path(expand(folder))
    plan = _plan(kind, embedder, corpus_fingerprint, 0, count, options)
    with sole_writer(folder):
        if (folder / MANIFEST).exists() and not (folder / PLAN).exists():
            raise IndexExists(f"{folder} holds an index already: remove it to build this one again")
        _build(folder, batches, plan)
    return Index.open(folder, embedder.fingerprint, embedder.name)


def add_shard(
    folder: str | Path,
    batches: Batches,
    *,
    embedder: Embedder,
    corpus_fingerprint: str,
    kind: str | None = None,
    count: int | None = None,
    options: BuildOptions | None = None,
) -> Index:
    """Add documents to an index, as one or more new shards, and open it. Until then the old one stands.

    Parameters
    ----------
    folder : str or Path
        Of an index.
    batches : callable
        Row number among the added vectors, from 0 -> batches, as for `build_index`.
    embedder : Embedder
        The one the index was built with.
    corpus_fingerprint : str
        Of all texts, those added included.
    kind : str, optional
        By default what the index was built with.
    count : int, optional
        Of the added vectors.
    options : BuildOptions, optional

    Raises
    ------
    NoIndex
        If there is no index in `folder`.
    IndexMismatch
        If the index is of these texts already: these vectors were added before. See also `build_index`.
    DamagedIndex, BusyError, ParameterError, StorageError
        See `build_index`.
    """
    folder = Path(expand(folder))
    manifest = read_manifest(folder)
    check_embedder(folder, manifest["embedder"], embedder.fingerprint, embedder.name)
    with sole_writer(folder):
        manifest = read_manifest(folder)
        pending = _pending(folder)
        if pending is None and manifest["corpus_fingerprint"] == corpus_fingerprint:
            raise IndexMismatch(f"{folder} holds these texts already (corpus fingerprint {corpus_fingerprint[:12]})")
        first = pending["first"] if pending else manifest["count"]
        plan = _plan(kind or manifest["kind"], embedder, corpus_fingerprint, first, count, options)
        _build(folder, batches, plan)
    return Index.open(folder, embedder.fingerprint, embedder.name)


def write_shard(
    folder: Path, number: int, first: int, limit: int | None, batches: Batches, plan: BuildPlan, bar: tqdm
) -> dict[str, Any] | None:
    """Write one shard, or the rest of it; shards do not depend on one another.

    Parameters
    ----------
    folder : Path
        Of the shard.
    number, first : int
        Which shard of the index, and the id of its first vector.
    limit : int, optional
        Vectors it must have; None: as many as come, up to `plan.options.shard_rows`.
    batches : callable
        Row of the plan -> batches.
    plan : BuildPlan
    bar : tqdm
        Counts vectors.

    Returns
    -------
    dict or None
        Its card; None if no vectors came.
    """
    if folder.is_symlink():
        raise IndexMismatch(f"{folder} is a link: what it links to is not written to; remove it")
    if (folder / CARD).exists():
        card = read_card(folder)
        if (card["name"], card["first"]) != (shard_name(number), first):
            raise DamagedIndex(f"{folder / CARD} is of another shard: remove {folder} to write this one again")
        (folder / JOURNAL).unlink(missing_ok=True)
        bar.update(card["count"])
        return card
    if not (folder / VECTORS).exists():
        rows = _stream(folder, first - plan.first, limit, batches, plan, bar)
        if not rows:
            _remove_shard(folder)
            return None
    vectors = open_vectors(folder / VECTORS)
    kind = resolve(plan.kind, len(vectors))
    if kind.factory and not (folder / STRUCTURE).exists():
        _write_structure(folder / STRUCTURE, kind, map_vectors(folder / VECTORS, *vectors.shape), plan)
    card = write_card(folder, number, first, len(vectors), kind, plan)
    (folder / JOURNAL).unlink(missing_ok=True)  # last: with card or journal a shard can be told from a foreign folder
    return card


def publish(folder: Path, plan: BuildPlan, cards: list[dict[str, Any]]) -> None:
    """Make finished shards, after those that are there, part of the index."""
    shards = [card for card in _shards(folder) if card["first"] < plan.first] + cards
    manifest = {
        "format": FORMAT,
        "kind": plan.kind,
        "metric": "squared L2",
        "dimension": plan.dimension,
        "count": sum(card["count"] for card in shards),
        "embedder": plan.embedder,
        "corpus_fingerprint": plan.corpus_fingerprint,
        "shards": shards,
        "versions": _versions(),
    }
    write_sealed(folder / MANIFEST, manifest)


def write_shards(folder: Path, known: int, batches: Batches, plan: BuildPlan) -> list[dict[str, Any]]:
    """Write all shards of a plan, or the rest of them, one after another.

    Parameters
    ----------
    folder : Path
        Of the index.
    known : int
        Shards that it had before.
    batches : callable
        Row of the plan -> batches.
    plan : BuildPlan

    Returns
    -------
    list of dict
        Their cards, in order.
    """
    cards: list[dict[str, Any]] = []
    done = 0
    with tqdm(total=plan.count, desc="index", unit=" vectors") as bar:
        while plan.count is None or done < plan.count:
            number = known + len(cards)
            limit = None if plan.count is None else min(plan.options.shard_rows, plan.count - done)
            card = write_shard(folder / shard_name(number), number, plan.first + done, limit, batches, plan, bar)
            if card is None:
                break
            cards.append(card)
            done += card["count"]
    return cards


def _plan(
    kind: str, embedder: Embedder, corpus_fingerprint: str, first: int, count: int | None, options: BuildOptions | None
) -> BuildPlan:
    named = {"name": embedder.name, "fingerprint": embedder.fingerprint}
    return BuildPlan(kind, embedder.dimension, named, corpus_fingerprint, first, count, options or BuildOptions())


def _build(folder: Path, batches: Batches, plan: BuildPlan) -> None:
    with storing(folder):
        _take_up(folder, plan)
        known = sum(card["first"] < plan.first for card in _shards(folder))
        cards = (plan.options.write or write_shards)(folder, known, batches, plan)
        if not cards:
            (folder / PLAN).unlink()
            raise TTTNNError(f"{folder}: an index of no vectors was asked for; is the corpus empty?")
        _remove_torn(folder)
        publish(folder, plan, cards)
        (folder / PLAN).unlink()


def _take_up(folder: Path, plan: BuildPlan) -> None:
    """Go on with the build that is there if it is this one, or begin."""
    pending = _pending(folder)
    if pending is None:
        listed = {card["name"] for card in _shards(folder)}
        leftover = [path for path in sorted(folder.glob("shard-*")) if path.name not in listed]
        if foreign := [path.name for path in leftover if not _is_ours(path)]:
            raise IndexMismatch(
                f"{folder} holds {', '.join(foreign)}, which this package did not write: choose another folder"
            )
        for path in leftover:  # of a build that was given up
            _remove_shard(path)
        write_json(folder / PLAN, plan.identity())
    elif pending != plan.identity():
        other = [key for key, value in plan.identity().items() if pending.get(key) != value]
        raise IndexMismatch(
            f"{folder} holds an unfinished build with other {', '.join(other)}: call again as before to finish "
            f"it, or remove {folder / PLAN} to give it up"
        )
    _remove_torn(folder)


def _pending(folder: Path) -> dict[str, Any] | None:
    """The plan of an unfinished build."""
    path = folder / PLAN
    if not path.exists():
        return None
    plan = read_json(path)
    if not isinstance(plan, dict) or type(plan.get("first")) is not int or plan["first"] < 0:
        raise DamagedIndex(f"{path} is no plan of a build: remove it to give that build up")
    return plan


def _is_ours(shard: Path) -> bool:
    """Whether a folder is a shard that this package wrote, or began to write, and holds nothing else."""
    if shard.is_symlink() or not shard.is_dir() or not re.fullmatch(r"shard-\d{5,}", shard.name):
        return False
    names = {path.name for path in shard.iterdir()}
    known = {name for name in names if name in OF_A_SHARD or TORN.fullmatch(name)}
    return names == known and (not names or bool(names & {CARD, JOURNAL, PARTIAL}))


def _remove_shard(folder: Path) -> None:
    """Remove a shard's files and its folder; one with anything else in it stays."""
    for path in folder.iterdir():
        if path.name in OF_A_SHARD or TORN.fullmatch(path.name):
            path.unlink()
    folder.rmdir()


def _remove_torn(folder: Path) -> None:
    """Remove files that were being written when a process was killed."""
    for torn in [*folder.glob(".*.partial"), *folder.glob("shard-*/.*.partial")]:
        if TORN.fullmatch(torn.name):
            torn.unlink()


def _stream(folder: Path, start: int, limit: int | None, batches: Batches, plan: BuildPlan, bar: tqdm) -> int:
    """Append the vectors of a shard that begins at row `start` of the plan, and give their file its name."""
    with PartialVectors(folder, plan.dimension) as partial:
        bar.update(partial.rows)
        for vectors in _exactly(batches, start, partial.rows, limit, plan):
            partial.append(vectors)
            bar.update(len(vectors))
        if partial.rows:
            partial.finish()
        return partial.rows


def _exactly(batches: Batches, start: int, done: int, limit: int | None, plan: BuildPlan) -> Iterator[np.ndarray]:
    """Checked batches (n, d) of the rows `done` to `limit` of a shard; the last is cut where the shard ends."""
    most = plan.options.shard_rows if limit is None else limit
    is_last = plan.count is not None and start + most == plan.count
    if done == most and not is_last:
        return
    for batch in batches(start + done):
        batch = checked_vectors(batch, plan.dimension, "vectors", first_row=plan.first + start + done)
        if is_last and done + len(batch) > most:
            raise IndexMismatch(f"more vectors were given than the {plan.count} texts")
        batch = batch[: most - done]
        done += len(batch)
        yield batch
        if done == most and not is_last:
            return
    if limit is not None and done < limit:
        raise IndexMismatch(f"{start + done} vectors were given for {plan.count} texts")


def _write_structure(path: Path, kind: Kind, vectors: np.ndarray, plan: BuildPlan) -> None:
    structure = make_structure(kind, vectors, plan.options.seed, plan.options.threads)
    faiss = load_faiss()
    # Through Python's file: Faiss's own writer only prints a warning if the last block does not fit the disk.
    with writing(path) as partial, open(partial, "wb") as file:
        faiss.write_index(structure, faiss.PyCallbackIOWriter(file.write, WRITE_BYTES))


def write_card(folder: Path, number: int, first: int, count: int, kind: Kind, plan: BuildPlan) -> dict[str, Any]:
    """Hash the files of a shard and write its card, which ends it; return the card."""
    paths = [folder / name for name in (VECTORS, FLAT, STRUCTURE) if (folder / name).exists()]
    card = {
        "format": FORMAT,
        "name": shard_name(number),
        "kind": kind.name,
        "first": first,
        "count": count,
        "dimension": plan.dimension,
        "embedder": plan.embedder,
        "seed": plan.options.seed,
        "files": [{"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths],
        "versions": _versions(),
    }
    return write_sealed(folder / CARD, card)


def _shards(folder: Path) -> list[dict[str, Any]]:
    return read_manifest(folder)["shards"] if (folder / MANIFEST).exists() else []


def _versions() -> dict[str, str]:
    return {"faiss": load_faiss().__version__, "numpy": np.__version__, "tttnn": __version__}
