"""What other installed packages bring: objects that they name in an entry-point group of this one."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from tttnn.errors import ParameterError, first_line

Kind = TypeVar("Kind")


@lru_cache
def plugins(group: str) -> dict[str, list[EntryPoint]]:
    """Names in a group, such as ``tttnn.strategies``, of all installed packages; nothing is imported yet."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def load_plugin(group: str, name: str, own: Collection[str] = ()) -> Any:
    """Import what a package brings under a name.

    Parameters
    ----------
    group, name : str
    own : collection of str
        Names that this package has itself; no other may bring them.

    Raises
    ------
    ParameterError
        If two packages bring it, or one brings a name of `own`; if it cannot be imported. The message names them.
    """
    points = plugins(group)[name]
    brought = sorted(_package(point) for point in points)
    if name in own or len(points) > 1:
        packages = " and by ".join([*(["tttnn itself"] if name in own else []), *brought])
        raise ParameterError(f"{name!r} of {group} is brought by {packages}: remove or rename all but one")
    try:
        return points[0].load()
    except Exception as error:  # other people's code fails in its own ways
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ParameterError(
            f"{name!r} of the package {brought[0]} cannot be loaded ({said}): mend or remove that package"
        ) from error


def find_plugin(group: str, name: str, kind: type[Kind], own: Collection[str] = ()) -> Kind | None:
    """Import what a package brings under a name; None if none does.

    Raises
    ------
    ParameterError
        As `load_plugin`; also if it is not of that kind.
    """
    if name not in plugins(group):
        return None
    value, [point] = load_plugin(group, name, own), plugins(group)[name]
    if not isinstance(value, kind):
        raise ParameterError(
            f"{name!r} of the package {_package(point)} is a {type(value).__name__}: it must be a {kind.__name__}"
        )
    return value


def package_of(group: str, name: str) -> str | None:
    """Package with its version that brings a name, on which results depend; None for what is our own."""
    if name not in plugins(group):
        return None
    point = plugins(group)[name][0]
    return f"{_package(point)} {point.dist.version if point.dist else ''}".strip()


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
