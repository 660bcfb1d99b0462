"""Matrix products in less than float32, while the weights themselves stay in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def tf32(on: bool = True) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 (10 bits after the point) while it is entered."""
    if not on:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class WorkingCopies:
    """The weights of a model's linear layers in another type, from which float32 masters take their gradients.

    Under autocast each layer casts its weight in each step, and its gradient back, a kernel for each. Here all are
    cast at once, after the step. The numbers are the same.

    Parameters
    ----------
    model : PreTrainedModel
        Its parameters are the masters; norms, embeddings and output head have no copy.
    dtype : torch.dtype
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype):
        self._trunk = model.base_model
        named = {
            id(parameter): (name, parameter) for name, parameter in _linear_weights(self._trunk)
        }  # shared ones once
        self._masters = dict(named.values())
        self._copies = {name: parameter.detach().to(dtype) for name, parameter in named.values()}

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states, (texts, n) -> (texts, n, width), computed with the copies."""
        return functional_call(self._trunk, self._copies, (), {"input_ids": ids, "use_cache": False}).last_hidden_state

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the masters, and which of them are trained."""
        torch._foreach_copy_(list(self._copies.values()), list(self._masters.values()))
        for name, copy in self._copies.items():
            copy.requires_grad_(self._masters[name].requires_grad)

    @torch.no_grad()
    def give_gradients(self) -> None:
        """Give the copies' gradients to the masters in their own type; the copies have none afterwards."""
        taken = {name: copy.grad for name, copy in self._copies.items() if copy.grad is not None}
        if not taken:  # of a part of the model that has no copy
            return
        gradients = [torch.empty_like(self._masters[name]) for name in taken]
        torch._foreach_copy_(gradients, list(taken.values()))
        for name, gradient in zip(taken, gradients, strict=True):
            self._masters[name].grad, self._copies[name].grad = gradient, None

    @property
    def tensors(self) -> list[Tensor]:
        """The copies."""
        return list(self._copies.values())


def _linear_weights(trunk: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    from transformers.pytorch_utils import Conv1D

    for place, module in trunk.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{place}.{name}", parameter
