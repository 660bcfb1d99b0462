"""Folders of LoRA adapters, as peft saves them: loaded merged into the model that they were trained beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.models.loading import LOADING_ERRORS, ModelError, cause, is_path, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ELSEWHERE = "merge them into it (peft's merge_and_unload, then save_pretrained) and give that folder"


def base_of(folder: Path) -> str | None:
    """Return the name or path of the model that a folder's adapters belong to; None if it holds a model itself.

    Raises
    ------
    ModelError
        If they are no LoRA adapters in safetensors, or name no model that is there.
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
        If they are damaged, or of another model.
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
                wrapped.merge_and_unload(safe_merge=True)
    except LOADING_ERRORS as error:
        raise ModelError(f"{folder}: its adapters do not fit the model named in {CONFIG}: {cause(error)}") from error
    if wrong := [*found.unexpected_keys, *missing]:
        raise ModelError(
            f"{folder}: its adapters are of another model than {CONFIG} names; the first of them is {wrong[0]}"
        )
    model.requires_grad_(True)  # peft freezes what it puts adapters beside
