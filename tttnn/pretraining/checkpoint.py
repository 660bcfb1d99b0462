"""State of a run in one safetensors file, so that weights, optimizer and counters cannot disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tttnn.files import writing


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, counters: dict[str, Any]) -> None:
    """Write weights, optimizer state and counters (JSON in the file's metadata), atomically."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value.detach() for name, value in model.named_parameters()}  # tied: once
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    with writing(path) as partial:
        save_file(tensors, partial, metadata={"counters": json.dumps(counters)})


def read_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint back into model and optimizer, bit for bit, and return its counters."""
    from safetensors import safe_open

    groups = optimizer.state_dict()["param_groups"]
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(file.get_tensor(f"model.{name}"))
        state: dict[int, dict[str, torch.Tensor]] = {}
        names = file.keys()
        for name in names:
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, key = rest.split(".")
                state.setdefault(int(index), {})[key] = file.get_tensor(name)
        counters = json.loads(file.metadata()["counters"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return counters
