"""Low-rank adapters beside a model's frozen weights: LoRA of Hu et al. (2021), arXiv 2106.09685, by the library peft.

A layer of weight W (outside, inside) adds `SCALE` * B A x to W x. A (rank, inside) starts random and B
(outside, rank) at zero, so the adapted model starts as the model itself. Only A and B are trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from tttnn.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCALE = 2  # alpha / rank (section 4.1): the same for each rank, so that ranks can be compared at one learning rate


@contextlib.contextmanager
def adapters(model: PreTrainedModel, rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """Put adapters into all linear layers but the output head, and drop them at the end.

    Afterwards the model is what it was: modules, weights and what of them takes a gradient. No weight is written, so
    none has to be copied back.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    rank : int
        At least 1.
    seed : int
        Of the matrices A.

    Yields
    ------
    list of Parameter
        What is to be trained: for each layer A (rank, inside) and B (outside, rank), float32. All else is frozen.

    Raises
    ------
    ParameterError
        If the library has no adapters for the architecture, as for Mamba.
    """
    from peft import LoraConfig, LoraModel
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's layers
    alpha = SCALE * rank
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", fan_in_fan_out=transposed)
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with forked_rng(model):
            torch.manual_seed(seed)
            try:
                LoraModel(model, config, "default")
            except ValueError as error:  # an architecture whose layers are used in ways that peft cannot adapt
                raise ParameterError(
                    f"lora={rank}: no adapters for {type(model).__name__} ({error}); leave lora out, or give train"
                ) from error
        yield [parameter for parameter in model.parameters() if parameter.requires_grad]
    finally:
        _drop(model)
        for parameter, before in trainable:
            parameter.requires_grad_(before)


def forked_rng(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Put the random numbers of the CPU and of the GPU that a model is on back at the end; others are not touched."""
    device = next(model.parameters()).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _drop(model: PreTrainedModel) -> None:
    """Put each layer back in its adapter's place; peft's own `unload` needs adapters that were all put in."""
    from peft.tuners.lora import LoraLayer

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                while isinstance(child, LoraLayer):  # of weights that share a module, as experts do, one in another
                    child = child.base_layer
                setattr(module, name, child)
    if hasattr(model, "peft_config"):
        del model.peft_config


def adapter_size(model: PreTrainedModel, rank: int) -> int:
    """Count the numbers in a model's adapters before they are there: rank * (inside + outside) for each layer."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]
    return rank * sum(sum(layer.weight.shape) for layer in layers)
