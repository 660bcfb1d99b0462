"""Let ``pytest --nbval`` compare the numbers in a chapter's outputs with a tolerance, of this clone's package.

Two machines with the same lock agree in every word but not in every last digit: linear algebra libraries
pick their kernels by CPU. Decimal numbers may differ by 2 % or 0.02, whichever is more, and percentages by 2
points; everything else, whole numbers among it, must be equal, except for the amount of white space, which
depends on the width of the numbers.
"""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

BUILD = Path(__file__).resolve().parents[1] / "book" / "build.py"
RELATIVE, ABSOLUTE, POINTS = 0.02, 0.02, 2.0
# A decimal number or a percentage by itself: the digits in "fig-3a", "k20" or a hash belong to words.
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+(?:,\d{3})*(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)(?!\w)(?: ?%)?|\d+ ?%)")

LONGEST = ("try", "01_ttt_nn_loop", "05_is_it_retrieval", "index_at_scale")


class Tolerant(str):
    """A text that equals another one if only its numbers differ, and only a little."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and _close(self, other)

    def __ne__(self, other: object) -> bool:  # str defines its own
        return not self == other

    __hash__ = None  # equality within a tolerance is not transitive


def _close(one: str, other: str) -> bool:
    if _words(one) != _words(other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(math.isclose(_value(a), _value(b), rel_tol=RELATIVE, abs_tol=_slack(a)) for a, b in pairs)


def _words(text: str) -> list[str]:
    return NUMBER.sub(lambda found: "0%" if found[0].endswith("%") else "0.", text).split()


def _slack(number: str) -> float:
    return POINTS if number.endswith("%") else ABSOLUTE


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-").rstrip(" %"))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to compare another clone's package; wrap the outputs that nbval is about to compare."""
    from nbval.plugin import IPyNbCell

    if BUILD.is_file():
        build = runpy.run_path(str(BUILD))
        try:
            build["check_package"](BUILD.parents[1])
        except build["BuildError"] as error:
            raise pytest.UsageError(str(error)) from error
    plain = IPyNbCell.sanitize

    def sanitize(cell: IPyNbCell, output: Any) -> Any:
        text = plain(cell, output)
        return Tolerant(text) if isinstance(text, str) else text

    IPyNbCell.sanitize = sanitize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the chapters that take longest, so that of two processes none has a long one left at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
