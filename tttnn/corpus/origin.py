"""Where a document comes from: its unit (a file, a novel, a repository of code) and the source that holds the unit.

Corpora that are split by random document, as the Pile is, have other parts of a test document's unit in the index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def unit(meta: Mapping[str, Any]) -> str:
    """Return the unit that a document is a part of: its ``unit``, else its ``source`` less the part's number.

    Parameters
    ----------
    meta : mapping
        A document's; `source` is ``collection:path#part``, as in the corpora described in the book.

    Returns
    -------
    str
        Empty if its meta names neither.
    """
    return str(meta.get("unit") or "") or re.sub(r"#\d+$", "", str(meta.get("source") or ""))


def source(meta: Mapping[str, Any]) -> str:
    """Return the repository or package that a document is from, version and all; empty if its meta names none.

    It is what ``source`` has before the colon; of a web address, the site.
    """
    found = str(meta.get("source") or "")
    site = re.match(r"[a-z][a-z0-9+.-]*://[^/?#]*", found, re.IGNORECASE)
    return site[0] if site else found.partition(":")[0]
