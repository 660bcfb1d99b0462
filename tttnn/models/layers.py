"""A model's layers computed the fastest way while it runs on a CPU, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tttnn.models.activation import gelu_tanh
from tttnn.models.attention import causal_attention, in_blocks
from tttnn.models.products import layers_are_fast, linear, on_cpu, through_onednn


def fast_layers(device: torch.device) -> AbstractContextManager[object]:
    """Enter `FastLayers` where they are of use: on a CPU, unless ``TTTNN_FAST_LAYERS=0``."""
    return FastLayers() if device.type == "cpu" and layers_are_fast() else nullcontext()


class FastLayers(TorchFunctionMode):
    """While it is entered, what a model calls on a CPU is computed another way; gradients also after it was left.

    Products (Linear, Conv1D) go through oneDNN where that is faster, causal attention is computed in blocks (GPT-Neo's:
    see `tttnn.models.gpt_neo`), GPT-2's activation by way of the logistic function.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and not kwargs and through_onednn(*args[:2]):
            return linear(*args)
        if func is torch.addmm and not kwargs and through_onednn(*args[1:3]) and args[0].dim() == 1:
            return linear(args[1], args[2].T, args[0])
        if func is F.scaled_dot_product_attention and len(args) >= 3 and in_blocks(*args, **kwargs):
            return causal_attention(args[0], args[1], args[2], kwargs.get("scale"))
        if func is F.gelu and kwargs == {"approximate": "tanh"} and on_cpu(*args):
            return gelu_tanh(*args)
        return func(*args, **kwargs)
