"""Retrieval: query text -> its nearest documents, nearest first."""

from tttnn.retrieval.retriever import (
    Neighbour,
    Neighbours,
    Retriever,
    Store,
    corpus_fingerprint,
    is_built,
    open_retriever,
)

__all__ = ["Neighbour", "Neighbours", "Retriever", "Store", "corpus_fingerprint", "is_built", "open_retriever"]
