"""What is done with a text's neighbours: training on them, or one of the ways it is compared with.

A method is a small class, a `Method`, known by a name; some take numbers after a colon. Those of this package are in
`METHODS`. Another package brings one by the entry-point group ``tttnn.methods``, and a notebook by
``METHODS["mine"] = Mine``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, cast

from tttnn.errors import ParameterError
from tttnn.methods.base import Method
from tttnn.methods.dynamic import Dynamic, ThenDynamic
from tttnn.methods.in_context import InContext, InContextPublished
from tttnn.methods.knn_lm import KnnLM
from tttnn.methods.training import Training
from tttnn.methods.ttmm import TTMM
from tttnn.methods.unigram import Unigram
from tttnn.parameters import number
from tttnn.plugins import load_plugin, plugins

__all__ = ["GROUP", "METHODS", "Method", "find_method"]

GROUP = "tttnn.methods"
NO_DATACLASS = "is no dataclass: write @dataclass(frozen=True) above it"
METHODS: dict[str, type[Method]] = {
    "ttt": Training,
    "in-context-published": InContextPublished,
    "in-context": InContext,
    "unigram": Unigram,
    "knn-lm": KnnLM,
    "dynamic": Dynamic,
    "ttt-dynamic": ThenDynamic,
    "ttmm": TTMM,
}
OWN = frozenset(METHODS)  # others may come: from a notebook, or from a package that enters its own here when imported


def find_method(name: str) -> Method:
    """Return what a run does with the neighbours: "ttt", or another method by name, some with numbers after a colon.

    Raises
    ------
    ParameterError
        If there is none of that name, or a number is missing, too much, none, or out of range.
    """
    first, _, given = name.partition(":")
    known = plugins(GROUP)
    if first not in METHODS and first not in known:
        raise ParameterError(f"method={name!r}: must be one of {', '.join(_described())}")
    # A name of both is refused: nobody would see which of the two had made the rows.
    kind = load_plugin(GROUP, first, OWN) if first in known else METHODS[first]
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ParameterError(f"method={name!r}: {kind!r} is no subclass of tttnn.methods.Method")
    if not is_dataclass(kind):
        raise ParameterError(f"method={name!r}: {kind.__name__} {NO_DATACLASS}")
    values, wanted = given.split(",") if given else [], fields(cast("Any", kind))
    least = sum(_is_required(field) for field in wanted)
    if not least <= len(values) <= len(wanted):
        raise ParameterError(f"method={name!r}: must be one of {', '.join(_described())}")
    try:
        return kind(*(_number(field, value) for field, value in zip(wanted, values, strict=False)))
    except ParameterError as error:
        raise ParameterError(f"method={name!r}: {error}") from error


def _number(field: Field[Any], value: str) -> int | float:
    return number(field.name, value, whole=field.type in (int, "int"))


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _described() -> Iterator[str]:
    """Names of methods with the numbers they take; of other packages, which are not imported for it, the name."""
    for name, kind in METHODS.items():
        if not is_dataclass(kind):
            yield f"{name} ({getattr(kind, '__name__', kind)} {NO_DATACLASS})"
            continue
        each = fields(kind)
        needed = ",".join(f"<{field.name}>" for field in each if _is_required(field))
        more = "".join(f"[,<{field.name}>]" for field in each if not _is_required(field))
        yield f"{name}:{needed}{more}" if each else name
    yield from (name for name in plugins(GROUP) if name not in METHODS)
