"""Transformer checkpoints that embed: loaded whole or refused, never with other weights or words than their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.embedding.base import EmbeddingError
from tttnn.hub import BUFFERS
from tttnn.models.loading import LOADING_ERRORS, cause, check_whole, naming_tokenizer, quiet, read_weights

if TYPE_CHECKING:
    from transformers import (
        AutoModel,
        AutoModelForTextEncoding,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )


def load_checkpoint(
    source: str | Path, tokenizer: str | Path | None = None, revision: str = "main"
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and model, of an encoder-decoder the encoder, in float32.

    Parameters
    ----------
    source : str or Path
        Hub name or folder.
    tokenizer : str or Path, optional
        Hub name or folder of the tokenizer, where `source` has none.
    revision : str
        Of the hub's repository.

    Raises
    ------
    EmbeddingError
        If a file is missing or damaged, the architecture gives no hidden states of a text, weights are missing or have
        no place in the model, or the tokenizer has no words.
    """
    from transformers import AutoConfig, AutoTokenizer

    _check_files(source)
    vocabulary, version = (tokenizer, "main") if tokenizer else (source, revision)
    try:
        with quiet(), naming_tokenizer(source, EmbeddingError):
            config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            words = AutoTokenizer.from_pretrained(vocabulary, revision=version, trust_remote_code=False)
            model, info = read_weights(_architecture(source, config), source, config, revision)
    except EmbeddingError:
        raise
    except LOADING_ERRORS as error:
        raise EmbeddingError(
            f"cannot load the embedder '{source}': {cause(error)}\n"
            "Give 'lexical', 'lm:<embedded model>', a folder with config.json, model.safetensors and "
            "tokenizer files, or a hub name; a hub name needs the network once."
        ) from error
    _check_weights(source, model, info)
    _check_words(source, words)
    if hasattr(model, "pooler"):
        model.pooler = None  # not used here, and random where the checkpoint has none
    return words, model


def _check_files(source: str | Path) -> None:
    """Raise if a folder, or what looks like one, is not there or not complete as it is."""
    folder = Path(source)
    if not folder.is_dir():
        if str(source).startswith((".", "/", "~")) or isinstance(source, Path):
            raise EmbeddingError(f"{source}: there is no such folder")
        return
    check_whole(folder, EmbeddingError)
    if (folder / "adapter_config.json").exists():
        raise EmbeddingError(f"{folder}: it holds an adapter (adapter_config.json): merge it into the weights first")
    if not any(folder.glob("*.safetensors")) and (pickled := sorted(folder.glob("pytorch_model*.bin"))):
        raise EmbeddingError(
            f"{folder}: its weights are pickled ({pickled[0].name}), which could run any code, and there is no "
            "model.safetensors: if you trust them, convert: AutoModel.from_pretrained(folder).save_pretrained(folder)"
        )


def _architecture(source: str | Path, config: PretrainedConfig) -> type[AutoModel | AutoModelForTextEncoding]:
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoModel, AutoModelForTextEncoding

    if not isinstance(getattr(config, "hidden_size", None), int):
        raise EmbeddingError(f"{source}: a {config.model_type} model gives no hidden states of a text; take an encoder")
    if not config.is_encoder_decoder:
        return AutoModel
    if type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise EmbeddingError(
            f"{source}: {config.model_type} is an encoder with a decoder, and its hidden states are the decoder's, "
            "which are no embedding: take an encoder, a decoder or a T5"
        )
    return AutoModelForTextEncoding


def _check_weights(source: str | Path, model: PreTrainedModel, info: dict[str, Iterable[Any]]) -> None:
    wrong = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
    if wrong := [name for name in wrong if not name.startswith("pooler.")]:
        prefixes = {name.partition(".")[0] for name in info["unexpected_keys"]} & {"_orig_mod", "module"}
        raise EmbeddingError(
            f"{source}: {len(wrong)} weights missing or misshapen, e.g. {min(wrong)}: "
            + (
                f"the names in the file begin with '{min(prefixes)}.', as torch.compile or DDP names them: rename them"
                if prefixes
                else "config.json is another model's, or the weights were not copied whole"
            )
        )
    if surplus := sorted(_without_place(model, info["unexpected_keys"])):
        raise EmbeddingError(
            f"{source}: config.json has no place for {len(surplus)} of the weights, e.g. {surplus[0]}: "
            "one of the two is another model's"
        )


def _without_place(model: PreTrainedModel, unexpected: Iterable[str]) -> Iterator[str]:
    """Those of the names that belong to the model's body; a head's are of no use here."""
    parts = {name.partition(".")[0] for name in model.state_dict()} - {"pooler"}
    prefix = f"{model.base_model_prefix}."
    for name in unexpected:
        inner = name.removeprefix(prefix)
        part = inner.partition(".")[0]
        if (part in parts or (inner != name and part != "pooler")) and not re.search(BUFFERS, name):
            yield name


def _check_words(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    # For a folder without tokenizer files transformers makes an empty one, by the config's architecture.
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise EmbeddingError(
            f"{source}: no tokenizer there, or one without words, so that every text would get the same vector: "
            "copy tokenizer.json of the model that it was trained from into it"
        )


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that model and tokenizer allow."""
    limit = getattr(model.config, "max_position_embeddings", None) or 0
    if limit < 1:  # positions without end, as T5's
        return int(tokenizer.model_max_length)
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    if padding is not None:
        limit -= padding + 1  # RoBERTa counts positions from the one after its padding
    return int(min(limit, tokenizer.model_max_length))
