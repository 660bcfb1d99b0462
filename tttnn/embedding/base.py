"""What every embedder offers, and what every embedder refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tttnn.errors import TTTNNError


class EmbeddingError(TTTNNError):
    """An embedder that cannot be loaded or fitted, or a text without a vector; the message says why."""


class Embedder(Protocol):
    """Turns texts into vectors whose squared L2 distance says how near the texts are.

    Attributes
    ----------
    name : str
        What it was asked for by, without any path.
    dimension : int
        Length of the vectors.
    fingerprint : str
        SHA-256 over all that determines the vectors: two embedders with one fingerprint agree on every text.
    """

    name: str
    dimension: int

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str], progress: bool = False) -> np.ndarray: ...

    def save(self, folder: str | Path) -> None: ...


def refuse_empty(texts: Sequence[str]) -> None:
    """Raise if a text has no characters, or if one string was given in the place of a list.

    Raises
    ------
    TypeError
        If `texts` is a string.
    EmbeddingError
        If a text is empty; the message gives its position.
    """
    if isinstance(texts, str):
        raise TypeError("embed takes a sequence of texts, not one text: embed([text])")
    for position, text in enumerate(texts):
        if not text:
            raise EmbeddingError(f"text {position} of {len(texts)} is empty: an empty text has no vector")
