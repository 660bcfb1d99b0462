"""Origins for rows of an earlier version: source, unit and language of each document, and which neighbours share them.

Later runs write these columns themselves. Rows that were archived before get them from the corpus, by the numbers of
the documents, after whatever the rows say about the texts was compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.analysis.archive import FOLDER
from tttnn.corpus.overlap import seen_shares
from tttnn.corpus.siblings import origin_columns, sibling_columns
from tttnn.files import expand, read_json, writing
from tttnn.rows import COLUMNS, FLAGS, TABLE, RowsError, read_rows

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus, Document

ORIGIN = ("source", "unit", "language")
ROUNDING = 1e-9  # of an overlap, which is a share


def add_origins(corpus: Corpus, folders: Iterable[str | Path] | None = None) -> list[Path]:
    """Write the columns source, unit, language, same_unit and same_source into the rows of finished runs.

    For maintainers, in a checkout: ``python -c "from tttnn import open_corpus; from tttnn.analysis.origins import
    add_origins; add_origins(open_corpus('folder/of/the/corpus'))"``. Called again it writes the same.

    Parameters
    ----------
    corpus : Corpus
        The one that the runs were made on; all its training documents are held in memory.
    folders : iterable of path, optional
        With ``rows.parquet`` and ``run.json``; default: all archived runs.

    Returns
    -------
    list of Path
        The files written; none is before all runs were checked.

    Raises
    ------
    RowsError
        If a run was made on another corpus, or a document or neighbour does not have the size, words, domain or
        overlap that its row says.
    """
    if folders is None:
        folders = sorted(path.parent for path in FOLDER.glob("**/run.json"))
    texts, made = _Texts(corpus), {}
    for folder in map(Path, map(expand, folders)):
        made[folder / TABLE] = _with_origins(folder, texts)
    for path, rows in made.items():
        with writing(path) as partial:
            rows.to_parquet(partial, index=False)
    return list(made)


class _Texts:
    """The documents that rows name by number, and overlaps that were computed once."""

    def __init__(self, corpus: Corpus) -> None:
        from tttnn.retrieval import corpus_fingerprint

        self.fingerprint = corpus_fingerprint(corpus)
        self.index = list(corpus.documents("train"))  # numbered as the store of an index is: over all files, by name
        self._corpus, self._parts = corpus, dict[tuple[str, str], list["Document"]]()
        self._overlaps = dict[tuple[str, int], float]()

    def document(self, split: str, domain: str, number: int) -> Document:
        if (split, domain) not in self._parts:
            self._parts[split, domain] = list(self._corpus.documents(split, domain))
        return self._parts[split, domain][number]

    def overlap(self, query: str, neighbour: int) -> float:
        key = query, neighbour
        if key not in self._overlaps:
            self._overlaps[key] = float(seen_shares([query], [self.index[neighbour].text])[0])
        return self._overlaps[key]


def _with_origins(folder: Path, texts: _Texts) -> pd.DataFrame:
    import pandas as pd

    from tttnn.ttt import split_halves

    facts, rows = read_json(folder / "run.json"), read_rows(folder)
    if (made_on := facts["about"]["corpus"]["fingerprint"]) != texts.fingerprint:
        raise RowsError(f"{folder}: made on corpus {made_on[:16]}, and this one is {texts.fingerprint[:16]}")
    split, halved = facts["about"]["drawn"].get("split", "test"), facts["settings"]["switches"].get("split_query")
    added = []
    for row in rows.to_dict("records"):
        try:
            document = texts.document(split, row["domain"], row["document"])
            query, scored = split_halves(document.text) if halved else (document.text, document.text)
            added.append(_checked(row, document, query, scored, texts))
        except (IndexError, ValueError) as error:
            name = f"{row['domain']} {row['document']}, k = {row['k']}"
            raise RowsError(f"{folder}: {name} is not that of the corpus: {error}") from error
    origins = pd.DataFrame(added, index=rows.index, columns=[*ORIGIN, *FLAGS]).astype(dict.fromkeys(FLAGS, "boolean"))
    joined = rows.drop(columns=list(origins.columns), errors="ignore").join(origins)
    return joined[[name for name in COLUMNS if name in joined]]


def _checked(row: dict[str, Any], document: Document, query: str, scored: str, texts: _Texts) -> dict[str, Any]:
    """The columns of one row; ValueError if its document or neighbour is not the one that it says."""
    for name, found in (("bytes", len(scored.encode())), ("words", len(re.split(r"\s+", scored)))):
        if not np.isnan(row[name]) and row[name] != found:
            raise ValueError(f"{found} {name} instead of {row[name]:.0f}")
    columns: dict[str, Any] = origin_columns(document.meta)
    if np.isnan(row["neighbour"]):
        return columns
    if (number := int(row["neighbour"])) < 0:  # trained on a part of itself
        return columns | sibling_columns(document.meta, document.meta)
    neighbour = texts.index[number]
    if row["neighbour_domain"] != neighbour.domain:
        raise ValueError(f"neighbour {number} is from {neighbour.domain}, not from {row['neighbour_domain']}")
    # The first runs did not note the overlap; a document that stands in for a neighbour has none.
    if abs((noted := row.get("overlap", np.nan)) - texts.overlap(query, number)) > ROUNDING:
        raise ValueError(f"neighbour {number} holds {texts.overlap(query, number):.4f} of it, not {noted:.4f}")
    return columns | sibling_columns(document.meta, neighbour.meta)
