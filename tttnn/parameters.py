"""Parameters as people give them: numbers and lists that YAML, papermill or a shell handed over as text.

``learning_rate: 2e-5`` is a string to YAML, and ``papermill -p ks 0,1,5`` and ``--ks 0,1,5`` know no lists. Here such
text is understood; whatever cannot be is refused with the parameter's name, value and type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal, overload

from tttnn.errors import ParameterError

BRACKETS = {"[": "]", "(": ")"}
QUOTES = "'\""
MOST_THREADS = 2**15  # that a process is asked for
LONGEST = 60  # characters of a value that a message shows


@overload
def number(name: str, value: Any, *, least: float = ..., most: float = ..., whole: Literal[True]) -> int: ...


@overload
def number(name: str, value: Any, *, least: float = ..., most: float = ..., whole: bool = ...) -> int | float: ...


def number(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, whole: bool = False
) -> int | float:  # fmt: skip
    """Understand a number, or text that is one.

    Parameters
    ----------
    name : str
        Of the parameter, for the message.
    value : int, float or str
    least, most : float
        What it must lie between, both ends included.
    whole : bool
        Whether it must be a whole number; 3.0 is one.

    Returns
    -------
    int or float
        An int if it was written as one or `whole`.

    Raises
    ------
    ParameterError
        If it is no finite number, or out of range.
    """
    found = _finite(value)
    kind = "whole number" if whole else "number"
    if found is None or (whole and found != int(found)):
        raise ParameterError(f"{name}={_shown(value)} ({type(value).__name__}): must be a {kind}")
    if not least <= found <= most:
        raise ParameterError(f"{name}={_shown(value)}: must be {_range(least, most)}")
    return int(found) if whole else found


def numbers(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, whole: bool = False
) -> list[int | float]:  # fmt: skip
    """Understand a list of numbers: a sequence, or text such as ``"0,1,5"`` or ``"[0, 1, 5]"``.

    A number is a list of one.

    Parameters
    ----------
    name, least, most, whole
        See `number`.
    value : sequence, number or str

    Returns
    -------
    list of int or float
        At least one, in the order given.

    Raises
    ------
    ParameterError
        If it is empty, or one of them is no such number.
    """
    parts = _parts(value)
    if not parts:
        raise ParameterError(f"{name}={_shown(value)} ({type(value).__name__}): give numbers, comma-separated")
    each = name if len(parts) == 1 else f"{name}={_shown(value)}: entry"
    return [number(each, part, least=least, most=most, whole=whole) for part in parts]


def names(name: str, value: Any, known: Iterable[str] | None = None) -> list[str]:
    """Understand a list of names: a sequence, or text such as ``"python,readmes"`` or ``"[python, readmes]"``.

    Parameters
    ----------
    name : str
        Of the parameter, for the message.
    value : sequence or str
        A name that looks like a number may be one.
    known : iterable of str, optional
        What each of them must be one of. Text that is one of these is one name, commas and all.

    Returns
    -------
    list of str
        In the order given, each once; empty if none was given.

    Raises
    ------
    ParameterError
        If one is not known, or no text.
    """
    options = None if known is None else list(known)
    parts = [value] if isinstance(value, str) and value in (options or ()) else _parts(value)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (str, int, float)) or not str(part).strip():
            raise ParameterError(f"{name}={_shown(value)} ({type(value).__name__}): give names, comma-separated")
    found = list(dict.fromkeys(str(part) for part in parts))
    for each in found:
        if options is not None and each not in options:
            raise ParameterError(f"{name}={_shown(each)}: {_known(each, options)}")
    return found


def _finite(value: Any) -> int | float | None:
    """The number that a value is or spells; None if it is none."""
    if isinstance(value, str):
        value = _spelt(value.strip())
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        return None
    try:
        plain = int(value) if value == int(value) and not isinstance(value, float) else float(value)
        return plain if math.isfinite(plain) else None
    except (OverflowError, ValueError):  # infinite, not a number, or beyond all floats
        return None


def _spelt(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # also of more digits than Python reads
            continue
    return None


def _parts(value: Any) -> list[Any]:
    """The items of a list, or of text that spells one."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in BRACKETS and text.endswith(BRACKETS[text[0]]):
            text = text[1:-1].strip().removesuffix(",")
        return [_unquoted(part.strip()) for part in text.split(",")] if text else []
    if isinstance(value, (bytes, bytearray)):
        return [value]  # its items are numbers, which it does not mean
    if isinstance(value, (Sequence, set, frozenset)) or hasattr(value, "tolist"):
        plain = value.tolist() if hasattr(value, "tolist") else list(value)
        return plain if isinstance(plain, list) else [plain]
    return [value]


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] in QUOTES and text[0] == text[-1]
    return text[1:-1] if quoted else text


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return str(value) if abs(value) < 10**LONGEST else "a number of very many digits"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _range(least: float, most: float) -> str:
    if most == math.inf:
        return f"at least {least:g}"
    return f"at most {most:g}" if least == -math.inf else f"from {least:g} to {most:g}"


def _known(given: str, known: Sequence[str]) -> str:
    near = get_close_matches(given, known, 1)
    return f"must be one of {', '.join(known)}" + (f"; did you mean {near[0]!r}?" if near else "")
