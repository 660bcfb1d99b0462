"""Mean-pooled last hidden state of a transformer, the embedding of the published work.

Hardt and Sun (2024), section 3: RoBERTa fine-tuned on the Pile, the text cut at the encoder's 512 tokens,
hidden states averaged over the tokens, vectors not normalised. Other encoders and decoders work the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tttnn.embedding.base import EmbeddingError, refuse_empty
from tttnn.files import write_json, writing_folder
from tttnn.hub import cached_folder
from tttnn.memory import announce, parameter_count

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 512  # tokens of a text that the published index looks at
CARD = "embedder.json"
POOLING = "mean of the last hidden states"
DTYPES = ("float32", "float16", "bfloat16")
# Parts of a config that do not change the vectors, or that change with the library's version.
NO_MATTER = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


class TransformerEmbedder:
    """Text -> tokens, the first `max_length` of them -> hidden states -> their mean.

    Parameters
    ----------
    name_or_folder : str or Path
        Hub name, or a folder with ``config.json``, ``*.safetensors`` and tokenizer files.
    max_length : int, optional
        Tokens of a text that count, special tokens included; the rest is cut off. By default what model and
        tokenizer allow, at most 512.
    device : str
        A torch device.
    batch_tokens : int
        Tokens in a batch, padding included.
    name : str, optional
        For manifests and tables; by default the hub name, or the folder's own name.
    dtype : str
        What the model computes in: "float32", or "float16" or "bfloat16", which a GPU does several times as
        fast. Means are float32. Vectors differ by about 1e-3, so the fingerprint is another one.
    tokenizer : str or Path, optional
        Hub name or folder of the tokenizer, where the model's own place has none.
    revision : str
        Of the hub's repository.

    Attributes
    ----------
    name, dimension, fingerprint
        See `Embedder`. The fingerprint covers weights, config, tokenizer, `max_length` and pooling.

    Raises
    ------
    EmbeddingError
        If the model cannot be loaded, lacks weights, `max_length` is more than it allows, or there is no such
        `dtype`.
    NotEnoughMemory
        If the weights do not fit. Of a large model, the memory it will take is logged first.
    """

    def __init__(
        self,
        name_or_folder: str | Path,
        max_length: int | None = None,
        device: str = "cpu",
        batch_tokens: int = 8192,
        name: str | None = None,
        dtype: str = "float32",
        tokenizer: str | Path | None = None,
        revision: str = "main",
    ):
        if dtype not in DTYPES:
            raise EmbeddingError(f"dtype='{dtype}': must be {', '.join(DTYPES)}")
        is_folder = Path(name_or_folder).is_dir()
        self.name = name or (Path(name_or_folder).resolve().name if is_folder else str(name_or_folder))
        folder = Path(name_or_folder) if is_folder else cached_folder(str(name_or_folder), revision)
        announce(self.name, parameter_count(folder) if folder else 0, device, adapting=False)
        self._tokenizer, self._model = _load(name_or_folder, tokenizer, revision)
        self._model = self._model.to(device).eval()
        self.dimension = int(self._model.config.hidden_size)
        self.max_length = _checked_length(max_length, _limit(self._model, self._tokenizer))
        if batch_tokens < 1:
            raise EmbeddingError(f"batch_tokens={batch_tokens}: must be at least 1")
        self.batch_tokens = batch_tokens
        # Before the tokenizer is first used: a call writes its truncation into it.
        self.fingerprint = _fingerprint(self._model, self._tokenizer, self.max_length, dtype)
        self._model = self._model.to(getattr(torch, dtype))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Embed texts in batches of similar length, so that little is padded.

        Parameters
        ----------
        texts : sequence of str
        progress : bool
            Show a progress bar on stderr.

        Returns
        -------
        ndarray, shape (len(texts), dimension), float32
            In the order of `texts`. A text's vector depends on the batch it falls into only by float32
            rounding, about 1e-6.

        Raises
        ------
        EmbeddingError
            If a text is empty, or has no token.
        """
        refuse_empty(texts)
        tokens = self._tokenize(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with tqdm(total=len(texts), desc="embedding", unit=" texts", disable=not progress) as bar:
            for rows in _batches([len(ids) for ids in tokens], self.batch_tokens):
                vectors[rows] = self._embed_batch([tokens[row] for row in rows])
                bar.update(len(rows))
        return vectors

    def save(self, folder: str | Path) -> None:
        """Write a card (JSON) that names this embedder into a new folder; the weights stay where they are.

        Raises
        ------
        FileExistsError
            If the folder is there already.
        """
        if Path(folder).exists():
            raise FileExistsError(f"{folder} is there already: remove it first")
        settings = {"max_length": self.max_length, "pooling": POOLING}
        card = {"name": self.name, "fingerprint": self.fingerprint, "settings": settings}
        with writing_folder(folder) as partial:
            write_json(partial / CARD, card)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for position, ids in enumerate(encoded):
            if not ids:
                raise EmbeddingError(f"text {position} of {len(texts)} has no token, so it has no vector")
        return encoded

    def _embed_batch(self, tokens: list[list[int]]) -> np.ndarray:
        longest = max(map(len, tokens))
        padding = self._tokenizer.pad_token_id or 0  # without a pad token any id will do: the mask hides it
        ids = torch.full((len(tokens), longest), padding)  # (n, longest)
        mask = torch.zeros_like(ids)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
            mask[row, : len(each)] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        return _mean(self._hidden(ids, mask), mask).cpu().numpy()

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (n, longest, dimension)."""
        # Only decoders keep a cache of keys and values, which nobody needs here.
        no_cache = {"use_cache": False} if hasattr(self._model.config, "use_cache") else {}
        return self._model(input_ids=ids, attention_mask=mask, **no_cache).last_hidden_state


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: (n, longest, dimension), (n, longest) -> (n, dimension)."""
    weights = mask.unsqueeze(-1).float()  # (n, longest, 1)
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Positions of texts in batches, longest first: rows times longest is at most `budget` (or one row)."""
    # Longest first: what does not fit into memory fails at once, not after hours.
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, budget // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _load(
    source: str | Path, tokenizer: str | Path | None, revision: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    words, version = (tokenizer, "main") if tokenizer else (source, revision)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(words, revision=version, trust_remote_code=False)
            model, info = AutoModel.from_pretrained(
                source,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EmbeddingError(
            f"cannot load the embedder '{source}': {reason}\n"
            "Give 'lexical', 'lm:<embedded model>', a folder with config.json, model.safetensors and "
            "tokenizer files, or a hub name; a hub name needs the network once."
        ) from error
    wrong = [name for name in info["missing_keys"] if not name.startswith("pooler.")]
    wrong += map(str, info["mismatched_keys"])
    if wrong:
        raise EmbeddingError(f"{source}: {len(wrong)} weights missing or misshapen, e.g. {min(wrong)}")
    if hasattr(model, "pooler"):
        model.pooler = None  # not used here, and random where the checkpoint has none
    return tokenizer, model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the report on heads that are not loaded: none is wanted, and what is missing is checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that model and tokenizer allow."""
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    limit = int(getattr(model.config, "max_position_embeddings", None) or LONGEST)
    if padding is not None:
        limit -= padding + 1  # RoBERTa counts positions from the one after its padding
    return min(limit, tokenizer.model_max_length)


def _checked_length(asked: int | None, limit: int) -> int:
    if asked is None:
        return min(limit, LONGEST)
    if not 1 <= asked <= limit:
        raise EmbeddingError(f"max_length={asked}: this model takes 1 to {limit} tokens")
    return asked


def _fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str) -> str:
    settings = {
        "pooling": POOLING,
        "max_length": max_length,
        "config": _config_facts(model.config),
        "tokenizer": _tokenizer_facts(tokenizer),
    }
    if dtype != DTYPES[0]:  # the default is not named, as it was when there was no other
        settings["dtype"] = dtype
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _config_facts(config: PretrainedConfig) -> dict:
    return {key: value for key, value in config.to_diff_dict().items() if key not in NO_MATTER}


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str()
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)
