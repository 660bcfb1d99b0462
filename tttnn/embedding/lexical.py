"""The offline embedder: hashed words and word pairs, TF-IDF weights, a random projection.

It needs no model and no download, runs at megabytes a second on one core, and squared distances between its
vectors approximate ``2 - 2 cos`` of the TF-IDF vectors (Johnson and Lindenstrauss' lemma). Sparse projection:
Li, Hastie and Church, "Very sparse random projections", KDD 2006.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from tttnn.embedding.base import CARD, EmbeddingError, check_texts, refuse_surrogates, save_card
from tttnn.files import read_json

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

NAME = "lexical"
BATCH_CHARACTERS = 1 << 22  # text held in memory at a time, counted in characters
IDF, PROJECTION = "idf.npy", "projection.npz"
# Scripts that write no space between words: Thai, Lao, Burmese, Khmer, kana, and Chinese characters.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED_PATTERN = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"
UNSPACED_SHARE = 0.1  # of what is not white space, from which a character of these scripts is a token


@dataclass(frozen=True)
class LexicalSettings:
    """What determines a lexical embedder, apart from the texts it is fitted on.

    Attributes
    ----------
    dimension : int
        Length of the vectors.
    seed : int
        Of the random projection.
    features : int
        Buckets that words and pairs of neighbouring words are hashed into; a power of two.
    pattern : str
        Regular expression of a token: a word, or a single punctuation sign. Case is folded. Where the first texts
        are in scripts without spaces, a character of these is a token, and a pair of them stands for a word.
    min_documents : int
        Features found in fewer documents are dropped: in a projection they add more noise than likeness.
        A corpus of fewer than 6000 documents uses a 300th of their number instead.
    idf_power : float
        Exponent of the inverse document frequency. With 1/2 in both vectors their product contains it once,
        as in BM25; with 1, rare features dominate the lengths and the projection's noise covers the rest.
    nonzeros : int
        Dimensions that a feature goes to, on average.
    """

    dimension: int = 512
    seed: int = 1216
    features: int = 1 << 20
    pattern: str = r"\w+|[^\w\s]"
    min_documents: int = 20
    idf_power: float = 0.5
    nonzeros: int = 8

    def key(self) -> str:
        """The settings as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


class LexicalEmbedder:
    """Text -> TF-IDF of hashed words and word pairs -> random projection -> vector of length one.

    Make one with `fit` or `load`. A text none of whose features is known gets the zero vector.

    Attributes
    ----------
    name, dimension, fingerprint
        See `Embedder`. The fingerprint covers settings, weights and projection.
    settings : LexicalSettings
    """

    name = NAME

    def __init__(self, settings: LexicalSettings, idf: np.ndarray, projection: csr_matrix):
        self.settings = settings
        self.dimension = settings.dimension
        self._idf = idf  # (features,) float32
        self._projection = projection  # (features, dimension) float32
        self._counter = _counter(settings)
        self.fingerprint = _fingerprint(settings, idf, projection)

    @classmethod
    def fit(cls, texts: Iterable[str], dimension: int = 512, seed: int = 1216) -> LexicalEmbedder:
        """Count in one pass, with constant memory, how many texts contain each feature.

        Parameters
        ----------
        texts : iterable of str
            The texts that will be searched: they decide which features are rare.
        dimension : int
            Length of the vectors.
        seed : int
            Of the random projection.

        Raises
        ------
        EmbeddingError
            If there are no words, a text is no Unicode, or the dimension is not between 1 and the number of features.
        """
        settings = LexicalSettings(dimension=dimension, seed=seed)
        if not 1 <= dimension <= settings.features:
            raise EmbeddingError(f"dimension={dimension}: must be between 1 and {settings.features}")
        batches = _by_characters(texts)
        first = next(batches, [])
        if _is_unspaced(first):
            settings = replace(settings, pattern=UNSPACED_PATTERN)
        counter = _counter(settings)
        count, document_frequency = 0, np.zeros(settings.features, dtype=np.int64)
        for batch in chain([first] if first else [], batches):
            for number, text in enumerate(batch, count):
                refuse_surrogates(text, f"text {number} of those to fit on")
            count += len(batch)
            document_frequency += np.bincount(counter.transform(batch).indices, minlength=settings.features)
        if not count:
            raise EmbeddingError("no text to fit the lexical embedder on: is the corpus empty?")
        idf = _idf(settings, document_frequency, count)
        return cls(settings, idf, _draw_projection(settings, idf))

    def embed(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Embed texts.

        Parameters
        ----------
        texts : sequence of str
            Of any length; all of a text counts.
        progress : bool
            Show a progress bar on stderr.

        Returns
        -------
        ndarray, shape (len(texts), dimension), float32
            Vectors of length one (or zero: see the class).

        Raises
        ------
        EmbeddingError
            If a text is empty or no Unicode.
        """
        check_texts(texts)
        parts = [np.empty((0, self.dimension), dtype=np.float32)]
        for batch in _by_characters(tqdm(texts, desc="embedding", unit=" texts", disable=not progress)):
            parts.append(self._embed_batch(batch))
        return np.concatenate(parts)

    def _embed_batch(self, texts: list[str]) -> np.ndarray:
        weights = self._counter.transform(texts)  # (n, features) sparse counts
        weights.data = (1 + np.log(weights.data)) * self._idf[weights.indices]
        vectors = (weights @ self._projection).toarray()  # (n, dimension)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)

    def save(self, folder: str | Path) -> None:
        """Write weights (``.npy``), projection (``.npz``) and settings (JSON) into a new folder, atomically.

        If an embedder of the same fingerprint is there already, as another process may have saved it, it stays.

        Raises
        ------
        FileExistsError
            If anything else is there already.
        """
        from scipy.sparse import save_npz

        def files(partial: Path) -> None:
            np.save(partial / IDF, self._idf)
            save_npz(partial / PROJECTION, self._projection, compressed=False)

        save_card(folder, self, asdict(self.settings), files)

    @classmethod
    def load(cls, folder: str | Path) -> LexicalEmbedder:
        """Load what `save` wrote.

        Raises
        ------
        EmbeddingError
            If there is no embedder in `folder`, or its files are damaged: their fingerprint is not the one that was
            saved.
        """
        from scipy.sparse import csr_matrix, load_npz

        folder = Path(folder)
        try:
            card = read_json(folder / CARD)
            settings = LexicalSettings(**card["settings"])
            idf = np.load(folder / IDF, allow_pickle=False)
            embedder = cls(settings, idf, csr_matrix(load_npz(folder / PROJECTION)))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise EmbeddingError(f"{folder}: cannot read it ({error}): remove it and fit again") from error
        if embedder.fingerprint != card.get("fingerprint"):
            raise EmbeddingError(f"{folder}: files differ from what was saved: remove it and fit again")
        return embedder


def _counter(settings: LexicalSettings) -> HashingVectorizer:
    """The tokens and buckets: texts -> sparse counts (n, features), without state."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        token_pattern=settings.pattern, ngram_range=(1, 2), n_features=settings.features, lowercase=True,
        alternate_sign=False, norm=None, dtype=np.float32,
    )  # fmt: skip


def _is_unspaced(texts: Iterable[str]) -> bool:
    """Whether much of some texts is in scripts without spaces, where a sentence would be a word."""
    unspaced = sum(len(run) for text in texts for run in re.findall(f"[{UNSPACED}]+", text))
    return unspaced > UNSPACED_SHARE * sum(len(word) for text in texts for word in text.split())


def _idf(settings: LexicalSettings, document_frequency: np.ndarray, count: int) -> np.ndarray:
    """Weights (features,) float32: scikit-learn's smooth idf to a power, zero for what is too rare."""
    idf = np.log((1 + count) / (1 + document_frequency)) + 1
    least = min(settings.min_documents, max(1, count // 300))
    return np.where(document_frequency >= least, idf**settings.idf_power, 0).astype(np.float32)


def _draw_projection(settings: LexicalSettings, idf: np.ndarray) -> csr_matrix:
    """A sparse random projection (features, dimension) float32, drawn for the features that have a weight."""
    from scipy.sparse import csr_matrix
    from sklearn.random_projection import SparseRandomProjection

    kept = np.flatnonzero(idf)  # (kept,)
    if not len(kept):
        raise EmbeddingError("no words to fit the lexical embedder on: are the texts white space?")
    density = min(1, settings.nonzeros / settings.dimension)
    drawn = SparseRandomProjection(settings.dimension, density=density, random_state=settings.seed)
    # Scikit-learn warns when there are fewer features than dimensions, as in a very small corpus.
    drawn.fit(csr_matrix((1, max(len(kept), settings.dimension)), dtype=np.float32))
    rows = csr_matrix(drawn.components_.T)[: len(kept)]  # (kept, dimension)
    ones = np.ones(len(kept), dtype=np.float32)
    places = csr_matrix((ones, (kept, np.arange(len(kept)))), shape=(len(idf), len(kept)))  # (features, kept)
    projection = csr_matrix(places @ rows, dtype=np.float32)  # (features, dimension)
    projection.sort_indices()
    return projection


def _fingerprint(settings: LexicalSettings, idf: np.ndarray, projection: csr_matrix) -> str:
    digest = hashlib.sha256(f"{NAME} {settings.key()}".encode())
    for array, kind in (
        (idf, "<f4"), (projection.data, "<f4"), (projection.indices, "<i8"), (projection.indptr, "<i8")
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array, dtype=kind).data)
    return digest.hexdigest()


def _by_characters(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
