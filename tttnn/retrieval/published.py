"""The published index: Faiss files, one for each training file of the Pile, opened behind our retriever."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tttnn.corpus import Corpus, open_corpus
from tttnn.corpus.jsonl import COMPRESSED
from tttnn.corpus.store import TextStore
from tttnn.embedding import Embedder, LexicalEmbedder, load_embedder
from tttnn.errors import ParameterError
from tttnn.files import expand, sole_writer
from tttnn.index import IndexExists, IndexMismatch, NoIndex, import_flat
from tttnn.index.imported import check_flat
from tttnn.index.manifest import MANIFEST
from tttnn.index.vectors import map_flat
from tttnn.retrieval.retriever import Retriever, corpus_fingerprint, retriever_folder

SUFFIX = ".index"  # after the name of the training file
SAME = 0.05  # distance between the two vectors of a document, of their length, that another precision explains


def import_index(
    folder: str | Path, corpus: str | Path | Corpus, embedder: str | Path | Embedder, split: str = "train",
    device: str = "cpu",
) -> Retriever:  # fmt: skip
    """Open the Faiss files of an index as that of a corpus: what `open_retriever` finds from then on.

    Parameters
    ----------
    folder : str or Path
        Holds ``<file>.index``, as ``00.jsonl.index``, for each file of the split: ``IndexFlatL2`` with one vector a
        document, in their order. The files are linked, not copied.
    corpus : str, Path or Corpus
        Whose documents they are.
    embedder : str, Path or Embedder
        That made the vectors.
    split : str
    device : str
        A torch device, for the embedder.

    Returns
    -------
    Retriever

    Raises
    ------
    NoIndex
        If the folder lacks the file of a part of the corpus.
    IndexExists
        If the corpus has an index of this embedder already.
    IndexMismatch
        If counts, dimensions, or the vectors of a few documents embedded again differ.
    DamagedIndex
        If a file is no flat index in squared L2.
    StorageError
        If the files lie on another file system than ``home()``.
    """
    folder = Path(expand(folder)).absolute()
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    files = [_index_of(path, folder) for path in corpus.files(split)]
    if embedder == LexicalEmbedder.name:
        raise ParameterError("embedder='lexical': it is fitted here, so no index of others is of it; name theirs")
    opened = embedder if not isinstance(embedder, (str, Path)) else load_embedder(embedder, device=device)
    fingerprint = corpus_fingerprint(corpus)
    kept = retriever_folder(corpus, split, opened.name, fingerprint, opened.fingerprint)
    place = kept / "index-auto"
    if (place / MANIFEST).exists():
        raise IndexExists(f"{place} holds an index of this corpus and embedder already: remove it to import this one")
    with sole_writer(kept, wait=True):
        store = corpus.store(split, kept / "texts")
        counts = [len(each) for each in store.stores]
        for path, texts in zip(files, store.stores, strict=True):
            _check_vectors(path, texts, opened)
        index = import_flat(place, files, counts, embedder=opened, corpus_fingerprint=fingerprint)
    return Retriever(store, index, opened, split=split)


def _index_of(path: Path, folder: Path) -> Path:
    """The Faiss file of a file of the corpus."""
    name = path.stem if path.suffix in COMPRESSED else path.name
    found = folder / f"{name}{SUFFIX}"
    if not found.is_file():
        raise NoIndex(
            f"{folder} has no {found.name}, the index of {path}: fetch it, or leave {path.name} out of the corpus"
        )
    return found


def _check_vectors(path: Path, texts: TextStore, embedder: Embedder) -> None:
    """Embed the first, the middle and the last document again, and compare."""
    check_flat(path, len(texts), embedder)
    vectors, numbers = map_flat(path), sorted({0, len(texts) // 2, len(texts) - 1})
    again = embedder.embed([texts[number].text for number in numbers])
    for number, new in zip(numbers, again, strict=True):
        away = float(np.linalg.norm(vectors[number] - new)) / max(float(np.linalg.norm(new)), 1e-12)
        if not away <= SAME:
            raise IndexMismatch(
                f"{path}, vector {number}: embedder '{embedder.name}' makes another one of it, {away:.0%} of "
                "its length away: name the embedder that the index was built with, and take the corpus in its order"
            )
