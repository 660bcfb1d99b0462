"""Numbers as readers see them, one way over the whole book: in tables, sentences, alternative texts and captions."""

from __future__ import annotations

import numbers
import re
from typing import Any

MISSING = "–"
# What Python writes, and what is shown: in texts that were put together from formatted numbers, too.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)")
_ZERO = re.compile(r"(?<![\w.:/,-])[-+](0(?:\.0+)?)(?![\d.])")  # a change of nothing has no direction
_MINUS = re.compile(r"(?<![\w.:/)-])-(?=\.?\d)")  # not in 2026-11-27 or 5-10
_EXPONENT = re.compile(r"(?<=\d)e([+-])0*(\d+)\b")
_ONE = re.compile(r"(?<![\d.,])1 (thread|core|neighbour|document|step|token|server|chunk)s\b")  # archived rows say so


def format_value(value: Any, spec: str | None = None) -> str:
    """Return `value` as readers expect it.

    Parameters
    ----------
    value
        A number, a text, a truth value or nothing. A text may hold numbers; they become as :func:`readable` has them.
    spec
        A format such as ``".3f"``; default: integers with thousands separators, other numbers with at most four
        significant digits.

    Returns
    -------
    str
        ``12,345``, ``0.5123``, ``−0.2``, ``51%``, ``2e-5``, ``yes``; ``–`` for a missing value.
    """
    if value is None or (isinstance(value, numbers.Real) and value != value):
        return MISSING
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, too
        return "yes" if value else "no"
    if isinstance(value, numbers.Real) or spec is not None:
        return readable(format(value, spec) if spec is not None else _plain(value))
    return readable(str(value))


def readable(text: str) -> str:
    """Return a text with its numbers as the book writes them.

    A minus is a minus and no hyphen, zero has no sign, exponents have no padding, a moment is a date and a time in
    UTC, and one thread is no threads.
    """
    text = _ZERO.sub(r"\1", _STAMP.sub(r"\1 \2 UTC", text))
    text = _EXPONENT.sub(lambda found: f"e{found[1].replace('+', '')}{found[2]}", text)
    return _ONE.sub(r"1 \1", _MINUS.sub("−", text))


def _plain(value: Any) -> str:
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    size = abs(float(value))
    if 1e-6 <= size < 1e-3:  # as decimals, beside larger ones that are
        digits = f"{float(value):.9f}" if size < 1e-4 else f"{float(value):.7f}"
        return digits.rstrip("0")
    return f"{float(value):,.0f}" if size >= 1_000 else f"{float(value):.4g}"
