"""Findings in words: a chapter's sentences that depend on what its rows show, each whole and with a case for none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tttnn.analysis.controls import MEAN

if TYPE_CHECKING:
    import pandas as pd


def listed(names: Iterable[str], none: str = "none") -> str:
    """Join names as a sentence does: ``arxiv, books and github``; `none` if there is no name."""
    *first, last = [*names] or [none]
    return f"{', '.join(first)} and {last}" if first else str(last)


def points(effect: Mapping[str, Any], spec: str = "+.1f") -> str:
    """A difference of two ratios in percentage points, with its interval: ``+5.6 (+3.4 to +8.9)``.

    Parameters
    ----------
    effect : mapping
        A row of :func:`tttnn.analysis.controls.effects_and_mean`: difference, low, high.
    spec : str
        Of each number; ``".1f"`` after a verb that says the direction, such as "costs".

    Returns
    -------
    str
        Of a single document, which has no interval: ``+5.6 (no interval)``.
    """
    value, low, high = (format(100 * effect[column], spec) for column in ("difference", "low", "high"))
    return f"{value} (no interval)" if math.isnan(effect["low"]) else f"{value} ({low} to {high})"


def standing(effect: Mapping[str, Any]) -> str:
    """Where a variant stands by its interval: ``level with``, ``ahead of`` or ``behind`` what it is compared with.

    Of a single document, which has no interval, it is ``not to be told from`` that.

    Parameters
    ----------
    effect : mapping
        As for :func:`points`: a difference above 0 is a smaller gain.
    """
    if math.isnan(effect["low"]):
        return "not to be told from"
    return "behind" if effect["low"] > 0 else "ahead of" if effect["high"] < 0 else "level with"


def where(effects: pd.DataFrame, subject: str = "It") -> str:
    """Say in which domains a variant gains less and in which more, by intervals that exclude zero.

    Parameters
    ----------
    effects : DataFrame
        Rows of one variant of :func:`tttnn.analysis.controls.effects_and_mean`; that of the mean is passed over.
    subject : str
        What the sentence is about.

    Returns
    -------
    str
        One sentence, such as "It gains less on books and github; the rest is not decided."
    """
    own = effects[effects["domain"] != MEAN]
    named = {"gains less": own["domain"][own["low"] > 0], "gains more": own["domain"][own["high"] < 0]}
    found = {verb: list(domains) for verb, domains in named.items() if len(domains)}
    if not found:
        return f"{subject} differs in no domain by more than its interval."
    parts = [f"{verb} {'everywhere' if len(at) == len(own) else 'on ' + listed(at)}" for verb, at in found.items()]
    rest = len(own) > sum(map(len, found.values()))
    return f"{subject} {' and '.join(parts)}{'; the rest is not decided' if rest else ''}."
