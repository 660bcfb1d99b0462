"""Pooled last hidden states of a transformer; by default their mean, the embedding of the published work.

Hardt and Sun (2024), section 3: RoBERTa fine-tuned on the Pile, the text cut at the encoder's 512 tokens,
hidden states averaged over the tokens, vectors not normalised. Other encoders and decoders work the same way, and
folders of the sentence-transformers library as their own files say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tttnn.embedding.base import EmbeddingError, check_texts, refuse_surrogates, save_card
from tttnn.embedding.checkpoint import load_checkpoint, longest_input
from tttnn.embedding.pooling import pool
from tttnn.embedding.sentence import Recipe, hub_folder, read_recipe
from tttnn.files import expand
from tttnn.hub import cached_folder
from tttnn.memory import announce, parameter_count
from tttnn.models.graphs import ahead
from tttnn.models.layers import fast_layers
from tttnn.models.loading import NO_MATTER

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

POOLING = "mean of the last hidden states"
DTYPES = ("float32", "float16", "bfloat16")


class TransformerEmbedder:
    """Text -> tokens, the first `max_length` of them -> hidden states -> their mean, or what the folder asks for.

    A folder with ``modules.json`` is embedded as ``SentenceTransformer(folder).encode(texts)`` does: its pooling,
    dense layers, normalising, length, lower case and default prompt. Queries and documents are embedded alike.

    Parameters
    ----------
    name_or_folder : str or Path
        Hub name, or a folder with ``config.json``, ``*.safetensors`` and tokenizer files.
    max_length : int, optional
        Tokens of a text that count, prompt and special tokens included; the rest is cut off. By default what model
        and tokenizer allow, at most 512, or what a sentence-transformers folder says.
    device : str
        A torch device.
    batch_tokens : int
        Tokens in a batch, padding included.
    name : str, optional
        For manifests and tables; by default the hub name, or the folder's own name.
    dtype : str
        What the model computes in: "float32", or "float16" or "bfloat16", which a GPU does several times as
        fast. Pooling is float32. Vectors differ by about 1e-3, so the fingerprint is another one.
    tokenizer : str or Path, optional
        Hub name or folder of the tokenizer, where the model's own place has none.
    revision : str
        Of the hub's repository.
    prompt : str, optional
        Stands before every text, for models that were trained with one (``"query: "``); by default the folder's own
        default prompt. ``""`` for none.

    Attributes
    ----------
    name, dimension, fingerprint
        See `Embedder`. The fingerprint covers weights, config, tokenizer, `max_length`, `prompt` and pooling.
    prompt : str

    Raises
    ------
    EmbeddingError
        If the model cannot be loaded, lacks weights or a tokenizer, its folder asks for what is not supported,
        `max_length` is more than it allows or no more than prompt and special tokens take, or there is no such `dtype`.
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
        prompt: str | None = None,
    ):
        if dtype not in DTYPES:
            raise EmbeddingError(f"dtype='{dtype}': must be {', '.join(DTYPES)}")
        if batch_tokens < 1:
            raise EmbeddingError(f"batch_tokens={batch_tokens}: must be at least 1")
        if not str(name_or_folder).strip():
            raise EmbeddingError("the embedder's name is empty: give one of a folder or of the hub")
        name_or_folder = expand(name_or_folder)
        is_folder = Path(name_or_folder).is_dir()
        self.name = name or (Path(name_or_folder).resolve().name if is_folder else str(name_or_folder))
        folder = Path(name_or_folder) if is_folder else hub_folder(str(name_or_folder), revision)
        self._recipe = read_recipe(folder) if folder else Recipe()
        source = folder / self._recipe.transformer if folder else name_or_folder
        place = source if folder else cached_folder(str(name_or_folder), revision)
        announce(self.name, parameter_count(place) if place else 0, device, adapting=False)
        self._tokenizer, self._model = load_checkpoint(source, tokenizer, revision)
        if self._recipe.lower_case:
            _lower_case(self._tokenizer, source)
        self._model = self._model.to(device).eval()
        self._head = self._recipe.head.to(device).eval()
        self.max_length = _checked_length(max_length, self._recipe, longest_input(self._model, self._tokenizer))
        self.batch_tokens = batch_tokens
        self._two_at_work = self._model.device.type != "cpu"  # which has to do all itself
        self.prompt = _checked_prompt(prompt, self._recipe)
        # Before the tokenizer is first used: a call writes its truncation into it.
        self.fingerprint = self._fingerprint(dtype)
        self._model = self._model.to(getattr(torch, dtype))
        # The tokens of no text at all: whatever has no others has nothing that its vector could depend on.
        self._blank = self._tokenizer([self.prompt], verbose=False)["input_ids"][0]
        if len(self._blank) >= self.max_length:
            raise EmbeddingError(
                f"max_length={self.max_length}: prompt and special tokens take {len(self._blank)}, which leaves none "
                "for the text"
            )
        self.dimension = self._pooled(torch.zeros(1, 1, self._model.config.hidden_size, device=device)).shape[1]

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
            If a text is empty, no Unicode, or has no token beside prompt and special tokens, if the tokenizer knows
            no token of any of the texts, or if a vector is not finite.
        """
        return self._embed_tokens(self._checked_tokens(texts), progress)

    def embed_batches(self, batches: Iterable[Sequence[str]]) -> Iterator[np.ndarray]:
        """Embed batches of texts as `embed` does; while a GPU computes, the next ones are cut into tokens."""
        if not self._two_at_work:
            yield from map(self.embed, batches)
            return
        for tokens in ahead(self._checked_tokens, batches):
            yield self._embed_tokens(tokens)

    def _checked_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        check_texts(texts)
        return self._tokenize(texts)

    @torch.inference_mode()
    def _embed_tokens(self, texts: list[list[int]], progress: bool = False) -> np.ndarray:
        """Token ids of texts -> their vectors, (n, dimension)."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with tqdm(total=len(texts), desc="embedding", unit=" texts", disable=not progress) as bar:
            for rows in _by_length([len(ids) for ids in texts], self.batch_tokens):
                vectors[rows] = self._embed_batch([texts[row] for row in rows])
                bar.update(len(rows))
        if not (finite := np.isfinite(vectors).all(axis=1)).all():
            raise EmbeddingError(
                f"{self.name}: the vector of text {np.argmin(finite)} of {len(texts)} is not finite: its weights are "
                "damaged, or too large for this dtype"
            )
        return vectors

    def save(self, folder: str | Path) -> None:
        """Write a card (JSON) that names this embedder into a new folder; the weights stay where they are.

        If the card of an embedder of the same fingerprint is there already, it stays.

        Raises
        ------
        FileExistsError
            If anything else is there already.
        """
        settings = {"max_length": self.max_length, **self._pooling_facts()}
        save_card(folder, self, settings, files=lambda partial: None)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            [self.prompt + text for text in texts],
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        size = self._model.get_input_embeddings().weight.shape[0]
        for position, ids in enumerate(encoded):
            if ids == self._blank:
                raise EmbeddingError(
                    f"text {position} of {len(texts)} has no token (white space or control characters only?), so it "
                    "has no vector: leave it out"
                )
            if max(ids) >= size:
                raise EmbeddingError(f"{self.name}: token {max(ids)}, but {size} are known; is it another's tokenizer?")
        silent, start = set(self._tokenizer.all_special_ids), self._prompt_length()
        if all(silent.issuperset(ids[start:]) for ids in encoded):
            raise EmbeddingError(f"{self.name}: its tokenizer knows no word of {len(texts)} texts; is it another's?")
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
        hidden = self._hidden(ids, mask)
        if not self._recipe.pool_prompt:
            mask[:, : self._prompt_length()] = 0
        return self._pooled(hidden, mask).cpu().numpy()

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (n, longest, width)."""
        # Only decoders keep a cache of keys and values, which nobody needs here.
        no_cache = {"use_cache": False} if hasattr(self._model.config, "use_cache") else {}
        with fast_layers(ids.device):
            return self._model(input_ids=ids, attention_mask=mask, **no_cache).last_hidden_state

    def _pooled(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, longest, width), (n, longest) -> (n, dimension)."""
        mask = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask
        return self._head(torch.cat([pool(hidden, mask, pooling) for pooling in self._recipe.poolings], dim=-1))

    def _prompt_length(self) -> int:
        """Tokens of the prompt, as sentence-transformers counts them: without a special one at the end."""
        if not self.prompt:
            return 0
        return len(self._blank) - (self._blank[-1] in self._tokenizer.all_special_ids)

    def _fingerprint(self, dtype: str) -> str:
        settings = {
            **self._pooling_facts(),
            "max_length": self.max_length,
            "config": _config_facts(self._model.config),
            "tokenizer": _tokenizer_facts(self._tokenizer),
        }
        if dtype != DTYPES[0]:  # the default is not named, as it was when there was no other
            settings["dtype"] = dtype
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        weights = self._model.state_dict(), self._head.state_dict(prefix="head.")
        for name, tensor in (each for part in weights for each in sorted(part.items())):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _pooling_facts(self) -> dict[str, Any]:
        """What follows the hidden states, and the prompt; defaults are not named, as when there was nothing else."""
        recipe = self._recipe
        facts: dict[str, Any] = {"pooling": POOLING if recipe.poolings == ("mean",) else recipe.poolings}
        if len(recipe.head):
            facts["head"] = [layer.key for layer in recipe.head]
        if self.prompt:
            facts |= {"prompt": self.prompt, "pool_prompt": recipe.pool_prompt}
        return facts


def _by_length(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Positions of texts in batches, longest first: rows times longest is at most `budget` (or one row)."""
    # Longest first: what does not fit into memory fails at once, not after hours.
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, budget // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _lower_case(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
    """Let a tokenizer put texts into lower case before all else, as sentence-transformers does."""
    from tokenizers import normalizers

    if not tokenizer.is_fast:
        raise EmbeddingError(f"{source}: do_lower_case is not supported without a tokenizer.json")
    backend = tokenizer.backend_tokenizer
    others = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *others])


def _checked_length(asked: int | None, recipe: Recipe, limit: int) -> int:
    if asked is None:
        return min(limit, recipe.max_length or limit)
    if not 1 <= asked <= limit:
        raise EmbeddingError(f"max_length={asked}: this model takes 1 to {limit} tokens")
    return asked


def _checked_prompt(asked: str | None, recipe: Recipe) -> str:
    if asked in recipe.prompts:
        raise EmbeddingError(f"prompt={asked!r} is a prompt's name: give its text, prompt={recipe.prompts[asked]!r}")
    if not isinstance(asked, str | None):
        raise EmbeddingError(f"prompt={asked!r}: must be a text")
    refuse_surrogates(asked or "", f"prompt={asked!r}")
    return recipe.prompt if asked is None else asked


def _config_facts(config: PretrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_diff_dict().items() if key not in NO_MATTER}


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str()
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)
