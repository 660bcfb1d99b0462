"""The retriever: store, index and embedder of a corpus, which are built on first use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, overload

import numpy as np
from tqdm import tqdm

from tttnn.corpus import Corpus, CorpusError, Document, open_corpus
from tttnn.embedding import Embedder, EmbeddingError, LexicalEmbedder, load_embedder
from tttnn.embedding.lexical import LexicalSettings
from tttnn.embedding.loading import BATCH_TOKENS
from tttnn.errors import DocumentError, ParameterError
from tttnn.files import StorageError, home, read_json, sole_writer, write_json
from tttnn.index import Index, IndexMismatch, build_index
from tttnn.index.build import SHARD_ROWS, BuildOptions
from tttnn.index.kinds import check_kind
from tttnn.index.manifest import MANIFEST
from tttnn.index.ray_index import ClusterIndex, write_on_cluster
from tttnn.parameters import number
from tttnn.ray_cluster import own_card

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 1 << 23  # the texts held in memory while an index is built
SHOWN = 3  # neighbours in a repr
SHOWN_CHARACTERS = 40  # of a neighbour's text in it

log = logging.getLogger(__name__)


class Store(Protocol):
    """Random access to documents: a `TextStore` or `ConcatStore`."""

    @property
    def by_domain(self) -> dict[str, np.ndarray]:
        """Numbers of the documents of each domain, int64, increasing."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Document: ...


@dataclass(frozen=True)
class Neighbour:
    """A document found for a query.

    Attributes
    ----------
    id : int
        Number of the document in the retriever's store.
    distance : float
        Squared L2 distance between its vector and the query's.
    text : str
    meta : dict
        What the corpus says about it.
    uncertainty : float, optional
        Share of the query's prior variance that is left once this and the documents before it are known; of strategies
        that know it, such as SIFT.
    """

    id: int
    distance: float
    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    uncertainty: float | None = None

    def __repr__(self) -> str:
        return f"Neighbour({self.id}, distance={self.distance:.4g}, text={_shorten(self.text)})"


class Neighbours(tuple[Neighbour, ...]):
    """What `Retriever.neighbours` returns: documents, nearest first, and which shards they come from.

    Attributes
    ----------
    answered : list of str
        Names of the shards that were searched: all of them, unless the retriever has `allow_missing`.
    """

    answered: list[str]

    def __new__(cls, found: Iterable[Neighbour], answered: list[str]) -> Neighbours:
        """Take the neighbours, nearest first, and the names of the shards that answered."""
        neighbours = super().__new__(cls, found)
        neighbours.answered = answered
        return neighbours

    def __getnewargs__(self) -> tuple[tuple[Neighbour, ...], list[str]]:
        return tuple(self), self.answered  # for copies and pickles

    @overload
    def __getitem__(self, place: SupportsIndex) -> Neighbour: ...

    @overload
    def __getitem__(self, place: slice) -> Neighbours: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Neighbour | Neighbours:
        if isinstance(place, slice):
            return Neighbours(super().__getitem__(place), self.answered)
        return super().__getitem__(place)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:SHOWN]))
        more = f", ... {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return f"Neighbours({shown}{more})"


def _shorten(text: str) -> str:
    """The beginning of a text, quoted, for a repr."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}...")


class Retriever:
    """Finds the documents of a store that are nearest to a text.

    Parameters
    ----------
    store : Store
        The texts; document i belongs to vector i.
    index : Index
        Their vectors.
    embedder : Embedder
        The one the index was built with.
    allow_missing : bool
        Must be said if the index was opened with it: neighbours may then come from a part of the shards, those that
        they list in `Neighbours.answered`.
    split : str, optional
        Of the corpus that the texts are; part of what neighbours depend on.

    Raises
    ------
    IndexMismatch
        If the index was built with another embedder, or holds more or fewer vectors than there are texts.
    ParameterError
        If the index was opened with `allow_missing` and this is not asked for here, too.
    """

    def __init__(
        self, store: Store, index: Index, embedder: Embedder, allow_missing: bool = False, split: str | None = None
    ):
        if embedder.fingerprint != index.fingerprint:
            raise IndexMismatch(
                f"{index.folder} was built with embedder '{index.manifest['embedder']['name']}', not with "
                f"this '{embedder.name}': use that one, or build another index"
            )
        if len(store) != len(index):
            raise IndexMismatch(
                f"{len(store)} texts, but {len(index)} vectors in {index.folder}: they do not belong "
                "together, so remove the index and build it again"
            )
        if index.allow_missing and not allow_missing:
            raise ParameterError(
                f"{index.folder} was opened with allow_missing: give allow_missing here, too, if neighbours may come "
                "from a part of the shards, or open it without"
            )
        self.store, self.index, self.embedder, self.split = store, index, embedder, split

    def __len__(self) -> int:
        return len(self.store)

    @property
    def identity(self) -> dict[str, Any]:
        """What neighbours depend on besides the query, as JSON: corpus, split, embedder, index, shards left out."""
        return {
            "corpus": self.index.manifest["corpus_fingerprint"],
            "split": self.split,
            "embedder": self.embedder.fingerprint,
            "index": self.index.method,
            "without": sorted(self.index.missing),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 over `identity`, as 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def check_k(self, k: int) -> int:
        """Return k, also if it is text or 5.0; raise ParameterError unless so many neighbours can be found."""
        k = int(number("k", k, least=1, whole=True))
        if k > len(self):
            raise ParameterError(f"k={k}: the index holds {len(self)} vectors, so k can be at most {len(self)}")
        return k

    def neighbours(self, text: str, k: int, meta: Mapping[str, Any] | None = None) -> Neighbours:
        """Find the k nearest documents.

        Parameters
        ----------
        text : str
            The query.
        k : int
            Between 1 and ``len(retriever)``.
        meta : mapping, optional
            What is known about the text. The nearest documents do not depend on it, other selections may: see
            `tttnn.retrieval.strategies`.

        Returns
        -------
        Neighbours
            A tuple of `Neighbour`, nearest first; at equal distance the lower id first. Its attribute `answered`
            lists the shards that were searched.

        Raises
        ------
        ParameterError
            If k is out of range.
        DocumentError
            If the query is empty or only white space, or has no vector.
        DamagedIndex
            If a shard is not in order, unless `allow_missing`; if none is.
        """
        return self.neighbours_many([text], k)[0]

    def neighbours_many(self, texts: Sequence[str], k: int) -> list[Neighbours]:
        """Find the k nearest documents of each text, embedding and searching all of them at once.

        Returns and raises what `neighbours` does, for each text in order.
        """
        k = self.check_k(k)
        for position, text in enumerate(texts):
            if not text.strip():
                raise DocumentError(f"query {position} of {len(texts)} is empty: nothing is near to it")
        vectors = self.embedder.embed(texts)  # (n, dimension)
        for place in np.flatnonzero(~vectors.any(axis=1)):
            log.warning("query %d of %d has no word that the embedder knows: no document is near", place, len(texts))
        answer = self.index.search(vectors, k)
        distances, ids = answer  # two (n, k)
        return [
            Neighbours(map(self._neighbour, found.tolist(), near.tolist()), answer.answered)
            for found, near in zip(ids, distances, strict=True)
        ]

    def _neighbour(self, id_: int, distance: float) -> Neighbour:
        document = self.store[id_]
        return Neighbour(id_, distance, document.text, document.meta)


def open_retriever(
    corpus: str | Path | Corpus = "wheels",
    embedder: str | Path | Embedder = "lexical",
    split: str = "train",
    threads: int | None = None,
    kind: str = "auto",
    device: str = "cpu",
    allow_missing: bool = False,
    workers: int | None = None,
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
) -> Retriever:
    """Open a retriever over a corpus; what it needs is built on first use, below ``home()/indexes``.

    There is one folder for each corpus (by content), split and embedder (by fingerprint), so that a changed
    corpus or embedder never meets an old index. The second time no document is read. Another kind of index is
    made from the vectors of the first. An interrupted build is taken up where it was, and one that another process
    makes is waited for.

    Parameters
    ----------
    corpus : str, Path or Corpus
        ``"wheels"``, a folder (see `tttnn.corpus.Corpus`), or an open corpus.
    embedder : str, Path or Embedder
        A name or folder (see `tttnn.embedding.load_embedder`), or an open embedder.
    split : str
        Which documents can be found.
    device : str
        A torch device, for a transformer embedder.
    threads : int, optional
        Threads that Faiss searches with, in the whole process; None leaves its default.
    kind : str
        Of the index: see `tttnn.index.KINDS`. "auto" goes by the number of documents.
    allow_missing : bool
        If a shard of an index that was built before is not in order, search the others. Each result lists the shards
        that it comes from. Otherwise such a shard is an error.
    workers : int, optional
        Embed, build and search with so many processes of a Ray cluster, inside `tttnn.ray_cluster.cluster`. An index
        that they build has at least as many shards. Each machine must see the corpus and ``home()`` under the same
        paths. With a GPU as `device` each process that embeds has one for itself.
    dtype, batch_tokens
        What a transformer embedder computes in, and how many tokens at once: see `tttnn.embedding.load_embedder`. A
        `dtype` makes an index of its own.

    Raises
    ------
    CorpusError, EmbeddingError
        If corpus or embedder cannot be opened, or a document is empty and so has no vector.
    DamagedIndex
        If the index built before is damaged.
    ClusterError
        If the workers keep dying.
    ParameterError
        If there is no such kind; with workers, if the embedder is not a name or folder, or with `allow_missing`.
    """
    check_kind(kind)
    if workers and (allow_missing or not isinstance(embedder, (str, Path))):
        raise ParameterError(
            f"workers={workers}: they open the embedder themselves, by name or folder, and all shards: no allow_missing"
        )
    if workers is not None:
        workers = int(number("workers", workers, least=1, whole=True))
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    corpus.files(split)  # names the splits there are
    opened = _open_unless_lexical(embedder, device, dtype, batch_tokens)
    fingerprint = corpus_fingerprint(corpus)
    name, key = _name_and_key(opened)
    folder = retriever_folder(corpus, split, name, fingerprint, key)
    place = folder / f"index-{kind}"
    # Nobody waits, or writes, where all is there.
    with nullcontext() if (place / MANIFEST).exists() else sole_writer(folder, wait=True):
        store = corpus.store(split, folder / "texts")
        if not len(store):
            raise CorpusError(f"{corpus.folder}: split {split!r} holds no document, so nothing can be found there")
        if opened is None:
            opened = load_embedder(LexicalEmbedder.name, lambda: _texts(store), folder / "embedder")
        if not (place / MANIFEST).exists():
            batches, spread = _stored_vectors(folder, opened) or partial(_embed, store, opened), {}
            if workers:
                assert isinstance(embedder, (str, Path))  # as is checked above
                how = str(embedder), str(folder / "embedder"), own_card(device), dtype, batch_tokens
                batches = partial(_embed_there, corpus, split, folder, how, opened.fingerprint)
                shard_rows = min(SHARD_ROWS, -(-len(store) // workers))
                spread = {"options": BuildOptions(shard_rows, write=write_on_cluster, device=device)}
            build_index(
                place, batches, kind=kind, embedder=opened, corpus_fingerprint=fingerprint, count=len(store), **spread
            )
    index: Index
    if workers:
        index = ClusterIndex.open(place, opened.fingerprint, opened.name, threads, workers=workers)
    else:
        index = Index.open(place, opened.fingerprint, opened.name, threads, allow_missing)
    return Retriever(store, index, opened, allow_missing, split)


def _open_unless_lexical(
    embedder: str | Path | Embedder, device: str, dtype: str = "float32", batch_tokens: int = BATCH_TOKENS
) -> Embedder | None:
    """Open an embedder by name or folder; None for the lexical one, which is fitted on what is to be found."""
    if not isinstance(embedder, (str, Path)):
        return embedder
    if embedder == LexicalEmbedder.name and dtype == "float32":
        return None
    return load_embedder(embedder, device=device, dtype=dtype, batch_tokens=batch_tokens)


def _stored_vectors(folder: Path, embedder: Embedder) -> Callable[[int], Iterator[np.ndarray]] | None:
    """The vectors of an index of the same texts that is there already, as a source for another kind."""
    for manifest in sorted(folder.glob(f"index-*/{MANIFEST}")):
        return Index.open(manifest.parent, embedder.fingerprint, embedder.name).stream
    return None


def is_built(
    corpus: Corpus, embedder: str | Path | Embedder = "lexical", split: str = "train", kind: str = "auto",
    device: str = "cpu", dtype: str = "float32",
) -> bool:  # fmt: skip
    """Whether `open_retriever` would find its index ready; no document is read for it."""
    fingerprint = _remembered(corpus).get("fingerprint")
    if not fingerprint:
        return False
    name, key = _name_and_key(_open_unless_lexical(embedder, device, dtype))
    return (retriever_folder(corpus, split, name, fingerprint, key) / f"index-{kind}" / MANIFEST).exists()


def _name_and_key(embedder: Embedder | None) -> tuple[str, str]:
    """What tells an embedder from others; None is the lexical one."""
    # The lexical embedder's fingerprint is known only after fitting, but settings and corpus determine it.
    return (
        (LexicalEmbedder.name, LexicalSettings().key()) if embedder is None else (embedder.name, embedder.fingerprint)
    )


def retriever_folder(corpus: Corpus, split: str, name: str, fingerprint: str, key: str) -> Path:
    """Where the index of a corpus (by content), split and embedder (by name and key) is kept, with what it needs."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{corpus.name}-{split}-{name}")
    whole = json.dumps([fingerprint, split, key])
    return home() / "indexes" / f"{readable[:80]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def corpus_fingerprint(corpus: Corpus) -> str:
    """Return the corpus's fingerprint, remembered as long as no file changes its size or modification time."""
    known = _remembered(corpus)
    if "fingerprint" in known:
        return str(known["fingerprint"])
    found = corpus.fingerprint
    try:
        write_json(_memo(corpus), {"stamps": known["stamps"], "fingerprint": found})
    except StorageError as error:
        log.warning("the fingerprint of %s is not remembered: %s", corpus.name, error)
    return found


def _memo(corpus: Corpus) -> Path:
    """The file in which a corpus's fingerprint is remembered."""
    skipping = b" without bad documents" * corpus.skip_bad
    place = hashlib.sha256(os.fsencode(corpus.folder) + skipping).hexdigest()[:16]
    return home() / "fingerprints" / f"{place}.json"


def _remembered(corpus: Corpus) -> dict[str, Any]:
    """Size and time of each file of a corpus, and its fingerprint if it was found when they were the same."""
    stamps, memo = corpus.stamps(), _memo(corpus)
    known = read_json(memo) if memo.exists() else {}
    return known if known.get("stamps") == stamps else {"stamps": stamps}


def _texts(store: Store) -> Iterator[str]:
    numbers = tqdm(range(len(store)), desc="document frequencies", unit=" documents")
    return (store[number].text for number in numbers)


def _embed(store: Store, embedder: Embedder, start: int) -> Iterator[np.ndarray]:
    """Vectors of the documents from `start` on, in order, some at a time: arrays (n, dimension)."""
    batches = _text_batches(store, start)
    many = getattr(embedder, "embed_batches", None)
    place, unknown = start, 0
    try:
        for vectors in many(batches) if many else map(embedder.embed, batches):
            known = vectors.any(axis=1, keepdims=True)  # (n, 1)
            yield vectors if known.all() else np.where(known, vectors, _away(vectors.shape[1]))
            place, unknown = place + len(vectors), unknown + int((~known).sum())
    except EmbeddingError as error:
        raise EmbeddingError(f"{error} (in the batch from document {place} on)") from error
    if unknown:
        log.warning("%d documents have no word that the embedder knows: they are kept away from all others", unknown)


def _away(dimension: int) -> np.ndarray:
    """A direction for documents of which an embedder knows nothing: a vector (dimension,) of length one.

    Zero would be at distance 1 from all vectors of length one, nearer than most documents are to each other, so that
    each query would find it. A direction drawn at random is as far as an unrelated text.
    """
    drawn = np.random.default_rng(0).standard_normal(dimension)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


@lru_cache(1)
def _load_there(name: str, folder: str, device: str, dtype: str, batch_tokens: int) -> Embedder:
    """Load an embedder once for all shards that a worker writes."""
    return load_embedder(name, folder=folder, device=device, dtype=dtype, batch_tokens=batch_tokens)


def _embed_there(
    corpus: Corpus, split: str, folder: Path, how: tuple[str, str, str, str, int], fingerprint: str, start: int
) -> Iterator[np.ndarray]:
    """What `_embed` gives, in a worker of a cluster: all is opened by its path or name."""
    opened = _load_there(*how)
    if opened.fingerprint != fingerprint:
        raise IndexMismatch(f"embedder '{how[0]}' is another one in this worker: copy the same files there")
    stored = _stored_vectors(folder, opened)
    return stored(start) if stored else _embed(corpus.store(split, folder / "texts"), opened, start)


def _text_batches(store: Store, start: int) -> Iterator[list[str]]:
    """Texts by the thousand. From where a batch began the same ones follow, whatever came before."""
    texts, characters = [], 0
    for place in range(start, len(store)):
        texts.append(store[place].text)
        characters += len(texts[-1])
        if not texts[-1].strip():
            raise EmbeddingError(f"document {place} has an empty or blank text, so it has no vector: leave it out")
        if len(texts) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts
