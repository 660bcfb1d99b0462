"""What steps change where that is less than all of a model: some of its weights, or some columns of a weight."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


class Columns(nn.Parameter):
    """The first columns of a larger weight, trained alone: a copy, to be written back after each change.

    A view of them would do if torch's fused AdamW respected its strides, which it does not.
    """

    whole: nn.Parameter

    def __new__(cls, whole: nn.Parameter, count: int) -> Columns:
        """Take the first `count` columns of a weight, or numbers of a bias."""
        made = super().__new__(cls, whole.detach()[..., :count].clone())
        made.whole = whole
        return made

    def take_gradient(self) -> None:
        """Take the whole weight's gradient over, as far as it is these columns'."""
        if (gradient := self.whole.grad) is not None:
            self.grad, self.whole.grad = gradient[..., : self.shape[-1]].contiguous(), None

    @torch.no_grad()
    def read(self) -> None:
        """Begin as the whole weight's columns are."""
        self.copy_(self.whole[..., : self.shape[-1]])

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the columns into the whole weight."""
        self.whole[..., : self.shape[-1]] = self


@contextlib.contextmanager
def frozen_but(model: nn.Module, kept: Iterable[nn.Parameter]) -> Iterator[None]:
    """Only the weights to keep take a gradient while it is entered.

    `Columns` begin as the whole weight's, which takes their gradient.
    """
    kept = list(kept)
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    ids = {id(parameter.whole if isinstance(parameter, Columns) else parameter) for parameter in kept}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in ids)
        for each in kept:
            if isinstance(each, Columns):
                each.read()
        yield
    finally:
        for parameter, taken in before:
            parameter.requires_grad_(taken)
