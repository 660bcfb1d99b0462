"""Folders of LoRA adapters, as peft saves them: loaded merged into the model that they were trained beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tttnn.models.loading import LOADING_ERRORS, ModelError, cause, is_path, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Ways to begin training that leave the model's own weights as they are; PiSSA, OLoRA, CorDA, LoftQ and others do not.
BESIDE = frozenset({"gaussian", "eva", "orthogonal", "mica"})
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ELSEWHERE = "merge them into it (peft's merge_and_unload, then save_pretrained) and give that folder"
ROUNDING = 1e-4  # of the largest logit: float32 through many layers, W x + B A x in place of (W + B A) x


def base_of(folder: Path) -> str | None:
    """Return the name or path of the model that a folder's adapters belong to; None if it holds a model itself.

    Raises
    ------
    ModelError
        If they are no LoRA adapters in safetensors, were trained beside weights other than those of the model's files,
        or name no model that is there.
    """
    path = folder / CONFIG
    if not path.is_file() or ((folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))):
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON in UTF-8 ({error}); copy it again") from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{folder}: holds adapters without the model they were trained beside; name it in {CONFIG} "
            f"(base_model_name_or_path), or {ELSEWHERE}"
        )
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{folder}: holds adapters of type {config.get('peft_type')}, and LORA alone is read; {ELSEWHERE}"
        )
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower() not in BESIDE:
        raise ModelError(
            f"{folder}: init_lora_weights={begun} changes the weights of the model before adapters are trained beside "
            f"it, and its files hold those from before; {ELSEWHERE}"
        )
    if not (folder / WEIGHTS).is_file():
        found = f"in {PICKLED}, whose format can hold programs" if (folder / PICKLED).is_file() else "not there"
        raise ModelError(f"{folder}: its adapters' weights are {found}; save them again with peft, as {WEIGHTS}")
    beside = folder / base
    if beside.is_dir():
        return str(beside)
    if is_path(base) and not Path(base).expanduser().exists():
        raise ModelError(f"{path}: there is no {base}, the model that the adapters belong to; correct the path there")
    return base


def merge(model: PreTrainedModel, folder: Path) -> None:
    """Add a folder's adapters to a model's weights, in place; all of them can be trained on.

    Raises
    ------
    ModelError
        If they are damaged, of another model, or make another model of it merged than beside it.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.init_lora_weights = False  # all are replaced; some ways to begin would change the model's own weights
        with quiet():
            wrapped = PeftModel(model, config)
            found: Any = set_peft_model_state_dict(wrapped, load_file(folder / WEIGHTS))
            missing = [name for name in found.missing_keys if "lora_" in name]
            if not missing and not found.unexpected_keys:
                beside = _logits(wrapped.eval())  # dropout is for training
                wrapped.merge_and_unload(safe_merge=True)
                same = _alike(_logits(model), beside)
    except LOADING_ERRORS as error:
        raise ModelError(f"{folder}: its adapters do not fit the model named in {CONFIG}: {cause(error)}") from error
    if wrong := [*found.unexpected_keys, *missing]:
        raise ModelError(
            f"{folder}: its adapters are of another model than {CONFIG} names; the first of them is {wrong[0]}"
        )
    if not same:
        raise ModelError(
            f"{folder}: merged, its adapters make another model than was trained, as they do on an output layer tied "
            f"to the embeddings; load that model with tie_word_embeddings=False, {ELSEWHERE}"
        )
    model.requires_grad_(True)  # peft freezes what it puts adapters beside


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Logits after a few tokens from all over the vocabulary, (4, vocabulary)."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(1, size - 1, 4).long()
    logits: Tensor = model(input_ids=ids[None].to(model.device), use_cache=False).logits  # (1, 4, vocabulary)
    return logits[0]


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether logits differ by rounding alone; numbers that are none are refused later, with all of the model."""
    largest = float(theirs.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=ROUNDING * largest, equal_nan=True)
