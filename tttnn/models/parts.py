"""Parts of a model that can be adapted alone, to see which of its weights a gain needs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from tttnn.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = {
    "head": "input embeddings and output head: which tokens there are",
    "norms": "norms and biases: all weights of fewer than two dimensions",
    "down": "the last linear layer of each block's MLP",
    "queries": "what makes the queries of attention, whose keys and values stay",
    "last:N": "the last N blocks",
}
_LAST = re.compile(r"last:([1-9]\d{0,5})")


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


def check_part(name: object) -> None:
    """Raise ParameterError unless it names a part: see `PARTS`."""
    if not (isinstance(name, str) and (name in PARTS.keys() - {"last:N"} or _LAST.fullmatch(name))):
        raise ParameterError(f"train={name!r}: must be one of {', '.join(PARTS)}, with a number for N")


def find_part(model: PreTrainedModel, name: str) -> list[nn.Parameter]:
    """Return the weights of a part, tied ones once, in the model's order; of a weight that holds more, `Columns`.

    Parameters
    ----------
    model : PreTrainedModel
    name : str
        See `PARTS`.

    Raises
    ------
    ParameterError
        If there is no such part, or the model has none of its weights, or fewer blocks.
    """
    check_part(name)
    if name == "head":
        chosen = _parameters([model.get_input_embeddings(), model.get_output_embeddings()])
    elif name == "norms":
        chosen = (parameter for parameter in model.parameters() if parameter.dim() < 2)
    elif name == "down":
        chosen = _parameters(_last_linear(block) for block in _blocks(model))
    elif name == "queries":
        if columns := [Columns(each, each.shape[-1] // 3) for each in _parameters(_named(model, "c_attn"))]:
            return list(columns)  # GPT-2 has queries, keys and values side by side
        chosen = _parameters(_named(model, "q_proj"))
    else:
        count, blocks = int(name.removeprefix("last:")), _blocks(model)
        if count > len(blocks):
            raise ParameterError(f"train={name!r}: the model has {len(blocks)} blocks")
        chosen = _parameters(blocks[-count:])
    kept = {id(parameter) for parameter in chosen}
    if not kept:
        raise ParameterError(f"train={name!r}: a {model.config.model_type} model has no such weights")
    return [parameter for parameter in model.parameters() if id(parameter) in kept]


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


def _parameters(modules: Iterable[nn.Module | None]) -> Iterator[nn.Parameter]:
    for module in modules:
        if module is not None:
            yield from module.parameters()


def _named(model: PreTrainedModel, name: str) -> list[nn.Module]:
    return [module for path, module in model.named_modules() if path.rpartition(".")[2] == name]


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The model's layers: the one list of modules that its trunk has."""
    lists = [module for module in model.base_model.children() if isinstance(module, nn.ModuleList)]
    return list(lists[0]) if len(lists) == 1 else []


def _last_linear(block: nn.Module) -> nn.Module | None:
    from transformers.pytorch_utils import Conv1D

    mlp = getattr(block, "mlp", None)
    layers = [] if mlp is None else [each for each in mlp.modules() if isinstance(each, nn.Linear | Conv1D)]
    return layers[-1] if layers else None
