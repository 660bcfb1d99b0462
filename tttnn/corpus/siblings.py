"""What a result row says about where its document comes from, and whether a neighbour comes from there, too.

A corpus that is split by random document has siblings of most test documents in the index: other parts of the same
unit. Rows carry it, so that no gain is read without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tttnn.corpus.origin import source, unit
from tttnn.files import read_json

LANGUAGES = Path(__file__).with_name("languages.json")
CATALOGUE = re.compile(r"/([^/]+)/LC_MESSAGES/")  # gettext keeps the messages of a language in a folder of its name


def language(meta: Mapping[str, Any]) -> str:
    """Return the language of a document: what its meta says, or what is known of its source. Nothing is guessed.

    Parameters
    ----------
    meta : mapping
        A document's. The table ``languages.json`` beside this module has the sources of the corpora of the book, as
        patterns of ``domain:source``.

    Returns
    -------
    str
        As the corpus has it, or a code: "en", "es", "pt_BR", ...; "code" for program code; empty if nothing is known.
    """
    if known := meta.get("language"):
        return str(known)
    place = str(meta.get("source") or "")
    if found := CATALOGUE.search(place):
        return found.group(1)
    named = f"{meta.get('pile_set_name')}:{place}"
    return next((code for code, pattern in _patterns() if fnmatchcase(named, pattern)), "")


@cache
def _patterns() -> list[tuple[str, str]]:
    return [(code, pattern) for code, patterns in read_json(LANGUAGES).items() for pattern in patterns]


def origin_columns(meta: Mapping[str, Any]) -> dict[str, str]:
    """Source, unit and language of a document, each empty where its meta does not say."""
    return {"source": source(meta), "unit": unit(meta), "language": language(meta)}


def sibling_columns(meta: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether two documents share their unit, and their source; None where one of them does not say."""
    return {"same_unit": _same(unit(meta), unit(other)), "same_source": _same(source(meta), source(other))}


def _same(one: str, other: str) -> bool | None:
    return one == other if one and other else None
