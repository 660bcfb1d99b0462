"""Language models: name -> causal LM, tokenizer, published test-time-training settings."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tttnn.errors import TTTNNError
from tttnn.hub import cached_folder
from tttnn.memory import announce, parameter_count
from tttnn.models.cross_entropy import mean_cross_entropy, token_nats
from tttnn.models.layers import FastLayers
from tttnn.models.registry import CHECKPOINTS, REGISTRY, ModelEntry, TTTSettings, find_entry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CHECKPOINTS", "REGISTRY", "LanguageModel", "ModelEntry", "ModelError", "TTTSettings",
    "find_entry", "load_model", "mean_cross_entropy", "token_nats",
]  # fmt: skip


class ModelError(TTTNNError):
    """A model that cannot be loaded or used; the message says what to do."""


@dataclass
class LanguageModel:
    """A causal language model with all that adapting and scoring it needs.

    Attributes
    ----------
    name : str
        The name it was loaded by (for a folder: the folder's own name).
    model : PreTrainedModel
        Float32 weights, in evaluation mode.
    tokenizer : PreTrainedTokenizerBase
    settings : TTTSettings
        Published settings; `context` is always a number here.
    prefix_id : int
        Id of the token that conditions the first one of a text: see `TTTSettings.prefix`.
    adapting : bool
        Whether a loop is under way, so that the weights are not the initial ones.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: TTTSettings
    prefix_id: int
    adapting: bool = False

    @property
    def positions(self) -> int:
        """The longest input the model takes, in tokens."""
        return _positions(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token.

        Raises
        ------
        ModelError
            If an id falls outside the model's vocabulary (tokenizer and weights do not belong together).
        """
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        size = self.model.get_output_embeddings().weight.shape[0]
        if ids and max(ids) >= size:
            message = f"token id {max(ids)}, but the model has {size} entries; wrong tokenizer?"
            raise ModelError(f"{self.name}: {message}")
        return ids

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states, (batch, tokens) -> (batch, tokens, width)."""
        with FastLayers():
            return self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (vocabulary, width) and bias (vocabulary,) or None of the output layer."""
        head = self.model.get_output_embeddings()
        return head.weight, head.bias

    def weight_hash(self) -> str:
        """SHA-256 over every weight's bytes: equal before and after a document, or the loop is wrong."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def load_model(
    name: str | Path, device: str = "cpu", threads: int | None = None, context: int | None = None
) -> LanguageModel:
    """Load a causal language model in float32.

    Parameters
    ----------
    name : str or Path
        A registry name (``gpt2-xs-general``, ``gpt2``, ...), a folder in Hugging Face format, or a hub name.
    device : str
        A torch device.
    threads : int, optional
        CPU threads for torch; None leaves its default.
    context : int, optional
        Evaluation context in tokens; default: the published one.

    Returns
    -------
    LanguageModel
        Weights in float32 whatever the checkpoint holds: in bf16 most steps of 2e-5 round to nothing.

    Raises
    ------
    ModelError
        If the name is unknown, a file is missing, the hub cannot be reached, or the context is too long.
    NotEnoughMemory
        If the weights do not fit. Of a large model, the memory it will take is logged first.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    entry = find_entry(str(name))
    source = CHECKPOINTS / entry.name if entry.embedded else name
    announce(_short_name(name), _parameters(source, entry), device)
    model, tokenizer = _load(source)
    settings = replace(entry.settings, context=_context(entry, model, context))
    settings = replace(settings, max_length=min(settings.max_length, _positions(model)))
    prefix_id = _prefix_id(name, tokenizer, settings.prefix)
    lm = LanguageModel(_short_name(name), model.to(device).eval(), tokenizer, settings, prefix_id)
    _require_linear_head(lm)
    return lm


def _prefix_id(name: str | Path, tokenizer: PreTrainedTokenizerBase, wanted: str) -> int:
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    found = [number for number in (ids[wanted], *ids.values()) if number is not None]
    if not found:
        raise ModelError(f"{name}: its tokenizer has no token for the beginning or end of a text to stand before one")
    return found[0]


def _parameters(source: str | Path, entry: ModelEntry) -> int:
    folder = Path(source) if _looks_like_folder(source) else cached_folder(str(source))
    return (parameter_count(folder) if folder else 0) or entry.parameters


def _load(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if _looks_like_folder(source) and not (Path(source) / "config.json").is_file():
        raise ModelError(f"{source}: no config.json there; give a folder in Hugging Face format, or a name")
    safe = {"trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        model, found = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safe
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        known = ", ".join(REGISTRY)
        raise ModelError(
            f"cannot load model '{source}': {_first_line(error)}\n"
            f"Known names: {known}. Any folder with config.json, model.safetensors and tokenizer files works, "
            "too; a hub name needs the network once."
        ) from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random ones in their place
        raise ModelError(f"{source}: {len(missing)} weights are missing, the first is {missing[0]}; copy it again")
    _fuse_activations(model)
    return model, tokenizer


def _fuse_activations(model: PreTrainedModel) -> None:
    """Replace GPT-2's and GPT-Neo's activation, written as eight small operations, by the same one in a single one."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def _looks_like_folder(source: str | Path) -> bool:
    return isinstance(source, Path) or os.path.isdir(source) or str(source).startswith((".", "/", "~"))


def _short_name(name: str | Path) -> str:
    return Path(name).name if _looks_like_folder(name) else str(name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _positions(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", 0) or 2**31)


def _context(entry: ModelEntry, model: PreTrainedModel, asked: int | None) -> int:
    longest = _positions(model)
    if asked is not None and not 2 <= asked <= longest:
        raise ModelError(f"context={asked}: this model takes 2 to {longest} tokens")
    return asked or min(entry.settings.context, longest)


@torch.no_grad()
def _require_linear_head(lm: LanguageModel) -> None:
    """Scores and losses apply the head to hidden states themselves; refuse models that do more than that."""
    ids = torch.tensor([[lm.prefix_id] * 4], device=lm.device)  # (1, 4)
    expected = lm.model(input_ids=ids, use_cache=False).logits
    ours = torch.nn.functional.linear(lm.hidden(ids), *lm.head)  # (1, 4, vocabulary)
    if not torch.allclose(ours, expected, rtol=1e-3, atol=1e-3):
        raise ModelError(f"{lm.name}: its logits are not a linear layer on the hidden states; not supported")
