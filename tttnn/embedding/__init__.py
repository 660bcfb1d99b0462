"""Embedders: text -> float32 vectors, each with a name, a dimension and a fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tttnn.embedding.base import Embedder, EmbeddingError
from tttnn.embedding.embedder_registry import EMBEDDERS, EmbedderEntry
from tttnn.embedding.lexical import LexicalEmbedder
from tttnn.embedding.loading import load_embedder
from tttnn.embedding.random_vectors import RandomEmbedder

if TYPE_CHECKING:
    from tttnn.embedding.transformer import TransformerEmbedder

__all__ = [
    "EMBEDDERS", "Embedder", "EmbedderEntry", "EmbeddingError", "LexicalEmbedder", "RandomEmbedder",
    "TransformerEmbedder", "load_embedder",
]  # fmt: skip


def __getattr__(name: str) -> type:
    # On first use: the lexical embedder must not need torch.
    if name == "TransformerEmbedder":
        from tttnn.embedding.transformer import TransformerEmbedder

        return TransformerEmbedder
    raise AttributeError(f"module 'tttnn.embedding' has no attribute '{name}'")
