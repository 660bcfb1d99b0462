"""Flat indexes that Faiss wrote, as the published one: their files become shards, linked and memory-mapped."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tttnn.embedding import Embedder
from tttnn.files import HOME_VARIABLE, StorageError, expand, writing_folder
from tttnn.index.build import BuildOptions, BuildPlan, publish, write_card
from tttnn.index.kinds import KINDS
from tttnn.index.manifest import FLAT, MANIFEST, IndexExists, IndexMismatch, shard_name
from tttnn.index.search import Index
from tttnn.index.vectors import flat_size

NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}


def import_flat(
    folder: str | Path, files: Sequence[Path], counts: Sequence[int], *, embedder: Embedder, corpus_fingerprint: str
) -> Index:
    """Make an index of flat Faiss files, one shard each, and open it. Their bytes are hashed once and stay in place.

    Each shard's file is a hard link to the given one: nothing outside an index's folder belongs to it.

    Parameters
    ----------
    folder : str or Path
        It becomes an index when it is complete.
    files : sequence of Path
        Written by ``faiss.write_index``: ``IndexFlatL2``, in the order of their documents.
    counts : sequence of int
        Documents of each of them.
    embedder : Embedder
        That queries will come from.
    corpus_fingerprint : str
        Of the texts.

    Raises
    ------
    IndexExists
        If there is an index in `folder`.
    IndexMismatch
        If a file has another dimension than the embedder, or another number of vectors than documents.
    DamagedIndex
        If a file is no flat index in squared L2.
    StorageError
        If the files lie on another file system than `folder`, so that they cannot be linked.
    """
    folder = Path(expand(folder))
    if (folder / MANIFEST).exists():
        raise IndexExists(f"{folder} holds an index already: remove it to import this one")
    for path, count in zip(files, counts, strict=True):
        check_flat(path, count, embedder)
    named = {"name": embedder.name, "fingerprint": embedder.fingerprint}
    plan = BuildPlan("flat-mapped", embedder.dimension, named, corpus_fingerprint, 0, sum(counts), BuildOptions())
    with writing_folder(folder) as partial:
        cards, first = [], 0
        for number, (path, count) in enumerate(zip(tqdm(files, desc="importing", unit="file"), counts, strict=True)):
            shard = partial / shard_name(number)
            shard.mkdir()
            _link(path, shard / FLAT)
            cards.append(write_card(shard, number, first, count, KINDS["flat-mapped"], plan))
            first += count
        publish(partial, plan, cards)
    return Index.open(folder, embedder.fingerprint, embedder.name)


def check_flat(path: Path, count: int, embedder: Embedder) -> None:
    """Raise unless a flat index holds a vector of the embedder for each document; see `import_flat`."""
    found, dimension = flat_size(path)
    if dimension != embedder.dimension:
        raise IndexMismatch(
            f"{path} holds vectors of dimension {dimension}, but embedder '{embedder.name}' makes those of "
            f"{embedder.dimension}: name the embedder that the index was built with"
        )
    if found != count:
        raise IndexMismatch(
            f"{path} holds {found:,} vectors, but its file of the corpus {count:,} documents: take the corpus that the "
            "index was built from"
        )


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path.resolve(), target)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        raise StorageError(
            f"{path} cannot be linked into {target.parent.parent} ({error.strerror}): put both on one file system, by "
            f"{HOME_VARIABLE} or by moving the files"
        ) from error
