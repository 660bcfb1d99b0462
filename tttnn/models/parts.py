"""Parts of a model that can be adapted alone, to see which of its weights a gain needs: what ``train=`` takes.

Those of this package are in `PARTS`. Another package brings one as a `Part` among its entry points of the group
``tttnn.parts``, under a name that is free; its tests call `tttnn.conformance.check_part`. A notebook writes
``PARTS["mine"] = Part(...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tttnn.errors import ParameterError
from tttnn.parameters import number
from tttnn.plugins import find_plugin, plugins

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

GROUP = "tttnn.parts"  # of the entry points of other packages


@dataclass(frozen=True)
class Part:
    """A part of the weights.

    Attributes
    ----------
    about : str
        For tables.
    select : callable
        (model) -> its weights of this part in any order, also more than once: parameters of the model, or `Columns` of
        them. With `value` it is called with the number, too. It changes nothing, and selects nothing in a model that
        has no such weights, which is then refused in a sentence.
    value : tuple of int, optional
        Least and largest whole number after the colon; None: it takes none.
    """

    about: str
    select: Callable[..., Iterable[nn.Parameter]]
    value: tuple[int, int] | None = None

    def parse(self, train: str, given: str | None) -> tuple[int, ...]:
        """Return the number after the colon of a part's name, if it is in range; none where it takes none.

        Raises
        ------
        ParameterError
            If it is missing, too much, out of range, or spelt in another way than 3: rows are told apart by the name.
        """
        if self.value is None:
            if given is not None:
                raise ParameterError(f"train={train!r}: it takes no number after a colon")
            return ()
        least, most = self.value
        try:
            found = number("value", given, least=least, most=most, whole=True)
        except ParameterError:
            found = None
        if found is None or str(found) != given:
            raise ParameterError(f"train={train!r}: it needs a whole number from {least} to {most} after a colon")
        return (found,)


def part_names() -> list[str]:
    """Names of all parts; of other packages, which are not imported for it, without a sign that they take a number."""
    own = [name if part.value is None else f"{name}:N" for name, part in PARTS.items()]
    return own + [name for name in plugins(GROUP) if name not in PARTS]


def find_part(name: object) -> tuple[Part, tuple[int, ...]]:
    """Return what the switch `train` names: a part, and the number after the colon if it takes one.

    Raises
    ------
    ParameterError
        If there is no such part, or its number is missing, too much or out of range; if another package brings the part
        and cannot be loaded, or brings a name that is taken.
    """
    first, colon, given = name.partition(":") if isinstance(name, str) else ("", "", "")
    part = find_plugin(GROUP, first, Part, OWN) or PARTS.get(first)
    if part is None:
        raise ParameterError(f"train={name!r}: must be one of {', '.join(part_names())}, with a number for N")
    return part, part.parse(str(name), given if colon else None)


def select_part(model: PreTrainedModel, name: str) -> list[nn.Parameter]:
    """Return the weights of a part, tied ones once, in the model's order; of a weight that holds more, `Columns`.

    Parameters
    ----------
    model : PreTrainedModel
    name : str
        See `find_part`.

    Raises
    ------
    ParameterError
        If there is no such part, or the model has none of its weights, or fewer blocks; if it selects what is no weight
        of the model.
    """
    from tttnn.models.columns import Columns

    part, value = find_part(name)
    chosen = {id(each.whole if isinstance(each, Columns) else each): each for each in part.select(model, *value)}
    if not chosen:
        raise ParameterError(f"train={name!r}: a {model.config.model_type} model has no such weights")
    kept = [chosen.pop(id(parameter)) for parameter in model.parameters() if id(parameter) in chosen]
    if chosen:
        kinds = ", ".join(sorted({type(each).__name__ for each in chosen.values()}))
        raise ParameterError(f"train={name!r}: it selects what is no weight of the model ({kinds}): mend that part")
    return kept


def _head(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    return _parameters([model.get_input_embeddings(), model.get_output_embeddings()])


def _norms(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.dim() < 2)


def _down(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    return _parameters(_last_linear(block, model.config.hidden_size) for block in _blocks(model))


def _queries(model: PreTrainedModel) -> Iterable[nn.Parameter]:
    from transformers.pytorch_utils import Conv1D

    from tttnn.models.columns import Columns

    fused = _named(model, "c_attn")
    if all(isinstance(each, Conv1D) and each.nf == 3 * each.nx for each in fused):  # GPT-2's: as many of each
        side_by_side = [Columns(each, each.shape[-1] // 3) for each in _parameters(fused)]
        return side_by_side or _parameters(_named(model, "q_proj"))
    return []


def _last(model: PreTrainedModel, count: int) -> Iterator[nn.Parameter]:
    blocks = _blocks(model)
    if count > len(blocks):
        raise ParameterError(f"train='last:{count}': the model has {len(blocks)} blocks")
    return _parameters(blocks[-count:])


PARTS = {
    "head": Part("input embeddings and output head: which tokens there are", _head),
    "norms": Part("norms and biases: all weights of fewer than two dimensions", _norms),
    "down": Part("the last linear layer of each block's MLP", _down),
    "queries": Part("what makes the queries of attention, whose keys and values stay", _queries),
    "last": Part("the last N blocks", _last, value=(1, 999_999)),
}
OWN = frozenset(PARTS)  # others may come: from a notebook, or from a package that enters its own here when imported


def _parameters(modules: Iterable[nn.Module | None]) -> Iterator[nn.Parameter]:
    for module in modules:
        if module is not None:
            yield from module.parameters()


def _named(model: PreTrainedModel, name: str) -> list[nn.Module]:
    return [module for path, module in model.named_modules() if path.rpartition(".")[2] == name]


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The model's layers: the one list of modules that its trunk has."""
    from torch import nn

    lists = [module for module in model.base_model.children() if isinstance(module, nn.ModuleList)]
    return list(lists[0]) if len(lists) == 1 else []


def _last_linear(block: nn.Module, width: int) -> nn.Module | None:
    """The last layer of a block's MLP, if it leads back to the model's width: that of some experts is a gate."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    mlp = getattr(block, "mlp", None)
    layers = [] if mlp is None else [each for each in mlp.modules() if isinstance(each, nn.Linear | Conv1D)]
    return layers[-1] if layers and _outputs(layers[-1]) == width else None


def _outputs(layer: Any) -> int:
    return int(layer.out_features if hasattr(layer, "out_features") else layer.nf)  # Conv1D's
