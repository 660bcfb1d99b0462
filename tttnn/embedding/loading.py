"""Embedders by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tttnn.embedding.base import Embedder, EmbeddingError
from tttnn.embedding.embedder_registry import EMBEDDERS, EmbedderEntry
from tttnn.embedding.lexical import NAME, LexicalEmbedder
from tttnn.files import expand
from tttnn.models.model_registry import REGISTRY, check_made, find_entry

LM_PREFIX = "lm:"
BATCH_TOKENS = 8192  # padding included


def load_embedder(
    name: str | Path,
    texts: Callable[[], Iterable[str]] | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
    prompt: str | None = None,
) -> Embedder:
    """Load an embedder, or fit the lexical one.

    Parameters
    ----------
    name : str or Path
        ``"lexical"``; ``"lm:<name>"`` for the hidden states of a language model, by its name here, as
        ``"lm:gpt2-xs-general"``, or its folder or GGUF file; any other is a transformer's hub name or folder. A name
        of `EMBEDDERS` gets the settings published for it; ``"all-minilm-l6-v2"`` is fetched on first use (see
        `tttnn.fetch`).
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
        return TransformerEmbedder(*_language_model(str(name).removeprefix(LM_PREFIX)), name=str(name), **options)
    if str(name) not in EMBEDDERS:
        return TransformerEmbedder(name, **options)
    entry = EMBEDDERS[str(name)]
    return TransformerEmbedder(
        _source(entry), entry.max_length, name=entry.name, tokenizer=entry.tokenizer or None, revision=entry.revision,
        **options,
    )  # fmt: skip


def _source(entry: EmbedderEntry) -> str | Path:
    from tttnn.models.loading import check_no_folder

    if entry.packaged:
        from tttnn.fetch import fetch

        return fetch(entry.name)
    check_no_folder(entry.name, EmbeddingError)
    return entry.name


def _load_lexical(texts: Callable[[], Iterable[str]] | None, folder: str | Path | None) -> LexicalEmbedder:
    if folder is not None and Path(folder).exists():
        return LexicalEmbedder.load(folder)
    if texts is None:
        raise EmbeddingError("the lexical embedder is fitted on texts: give texts, or the folder it is in")
    embedder = LexicalEmbedder.fit(texts())
    if folder is not None:
        embedder.save(folder)
    return embedder


def _language_model(name: str) -> tuple[Path, int | None]:
    """The folder of a language model that is here, and how many tokens of a text it reads, if not as many as it can."""
    entry = find_entry(name)
    known = sorted(each.name for each in REGISTRY.values() if each.embedded or each.packaged)
    if name not in known and not Path(expand(name)).exists():
        check_made(name, EmbeddingError)
        raise EmbeddingError(
            f"no embedded language model '{name}': there is {', '.join(known)}, or give a folder or GGUF file; models "
            f"of the hub are named without '{LM_PREFIX}'"
        )
    from tttnn.models.language_model import find_source
    from tttnn.models.loading import check_no_folder

    if name in REGISTRY and name not in known:
        check_no_folder(name, EmbeddingError)
    source = find_source(entry, name if name in known else Path(name))
    return Path(source), entry.settings.context if entry.packaged else None
