"""GPT-2's activation on a CPU by way of the logistic function, whose exponential takes half the time of a tanh."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# (1 + tanh(u)) / 2 is the logistic function of 2 u, and GELU's u is sqrt(2 / pi) (x + 0.044715 x^3).
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR


def gelu_tanh(inputs: Tensor) -> Tensor:
    """Compute `torch.nn.functional.gelu(inputs, approximate="tanh")`.

    Parameters
    ----------
    inputs : Tensor of float32

    Returns
    -------
    Tensor of float32, shape of the inputs
        Differentiable once.
    """
    return _GELU.apply(inputs)


class _GELU(torch.autograd.Function):
    """x s(x (LINEAR + CUBIC x^2)), where s is the logistic function."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        shares = torch.addcmul(inputs.new_tensor(LINEAR), inputs, inputs, value=CUBIC).mul_(inputs).sigmoid_()
        ctx.save_for_backward(inputs, shares)
        return inputs * shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        inputs, shares = ctx.saved_tensors
        slopes = torch.addcmul(inputs.new_tensor(LINEAR), inputs, inputs, value=3 * CUBIC).mul_(inputs)
        return torch.ops.aten.sigmoid_backward(slopes, shares).add_(shares).mul_(upstream)
