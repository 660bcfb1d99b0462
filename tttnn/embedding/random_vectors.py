"""The embedder to beat: vectors that say nothing about a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class RandomEmbedder:
    """Vectors that say nothing about a text: each is drawn at random, seeded by the text.

    Attributes
    ----------
    name, dimension, fingerprint
        See `tttnn.embedding.Embedder`.
    """

    name = "random"

    def __init__(self, dimension: int = 64, seed: int = 1216):
        self.dimension, self._seed = dimension, seed
        self.fingerprint = hashlib.sha256(f"random {dimension} {seed}".encode()).hexdigest()

    def embed(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Draw one vector per text, float32 (len(texts), dimension)."""
        drawn = [self._generator(text).standard_normal(self.dimension) for text in texts]
        return np.array(drawn, dtype=np.float32).reshape(len(texts), self.dimension)

    def save(self, folder: str | Path) -> None:
        """Write nothing: dimension and seed are all there is."""

    def _generator(self, text: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self._seed} {text}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
