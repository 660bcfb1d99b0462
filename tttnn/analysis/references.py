"""What stands beside a model's bits per byte: deflate, a uniform guess, and how many neighbours are siblings.

A model that needs more bits than deflate has not learned that kind of text yet, one that is near a uniform guess has
learned nothing about it, and neighbours out of a document's own unit are not there for a document of a new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tttnn.analysis.deflate import beside_deflate
from tttnn.analysis.siblings import sibling_shares
from tttnn.files import read_json
from tttnn.models.model_registry import CHECKPOINTS
from tttnn.rows import FLAGS

if TYPE_CHECKING:
    import pandas as pd

# Domains that hold several languages: what their parts are called, and the codes of the languages.
PARTS = {"europarl": {"europarl (English)": ("en",), "europarl (Spanish, Galician)": ("es", "gl")}}
ENTRIES = {"smollm2-135m": 49_152}  # of the vocabularies of models that are not in the package


def vocabulary(model: str) -> int | None:
    """Entries of a model's vocabulary; None for a model that neither is in the package nor has archived rows."""
    path = CHECKPOINTS / model / "config.json"
    return read_json(path)["vocab_size"] if path.is_file() else ENTRIES.get(model)


def uniform_bits(rows: pd.DataFrame, model: str) -> float | None:
    """Bits per byte of a text whose every token costs the logarithm of the vocabulary.

    Parameters
    ----------
    rows : DataFrame
        Rows with a score, one a document: columns tokens and bytes.
    model : str
    """
    entries = vocabulary(model)
    return float(rows["tokens"].sum() / rows["bytes"].sum() * math.log2(entries)) if entries and len(rows) else None


def beside_references(gains: pd.DataFrame, rows: pd.DataFrame, sizes: pd.DataFrame | None, k: int) -> pd.DataFrame:
    """Add to a table of gains what a "before" and a gain have to be read against.

    Parameters
    ----------
    gains : DataFrame
        Of :func:`tttnn.analysis.comparisons.by_model`.
    rows : DataFrame
        What it was made from.
    sizes : DataFrame or None
        Of :func:`tttnn.analysis.deflate.archived_deflate`.
    k : int
        Neighbours trained on.

    Returns
    -------
    DataFrame
        With the columns deflate and uniform (bits/byte) and same_unit (share of the k neighbours that come from the
        document's own unit; missing for rows that do not say).
    """
    made = []
    for line in gains.itertuples():
        own = rows[(rows["model"] == line.model) & (rows["domain"] == line.domain) & (rows["k"] <= k)]
        guess = uniform_bits(own[(own["k"] == 0) & own["nats"].notna()], line.model.partition(",")[0])
        known = set(FLAGS) <= set(own) and own["same_unit"].notna().any()
        made.append((guess, sibling_shares(own)["same_unit"].iloc[0] if known else None))
    columns = dict(zip(("uniform", "same_unit"), zip(*made, strict=True), strict=True)) if made else {}
    return beside_deflate(gains, rows, sizes).assign(**{name: list(values) for name, values in columns.items()})


def worse_than_deflate(gains: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table of gains whose model, as it is, needs more bits than deflate: no headline rests on them.

    Where deflate's bits are not known, as of a run of one's own, a line is not among them.
    """
    return gains[gains["before"] > gains["deflate"]]


def with_languages(rows: pd.DataFrame, sizes: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Add the parts of domains that hold several languages, as domains of their own.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`; those without the column language have no parts.
    sizes : DataFrame or None
        Of :func:`tttnn.analysis.deflate.archived_deflate`.

    Returns
    -------
    tuple of two DataFrames
        Both with further rows, whose domain is called as in :data:`PARTS`.
    """
    import pandas as pd

    every, every_size = [rows], [sizes]
    for domain, parts in PARTS.items():
        for name, languages in parts.items() if "language" in rows else ():
            part = rows[(rows["domain"] == domain) & rows["language"].isin(languages)].assign(domain=name)
            every.append(part)
            if sizes is not None:  # the sizes of all its documents: those of the part are looked up
                every_size.append(sizes[sizes["domain"] == domain].assign(domain=name))
    return pd.concat(every, ignore_index=True), None if sizes is None else pd.concat(every_size, ignore_index=True)


def in_parts(domains: Iterable[str]) -> list[str]:
    """Names of domains without those whose parts are among them."""
    names = list(dict.fromkeys(domains))
    return [name for name in names if not set(PARTS.get(name, ())) & set(names)]


def by_language(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with the parts of a domain that holds several languages in its place.

    Parameters
    ----------
    rows : DataFrame
        As for :func:`with_languages`. One model's: where another one's rows do not say their language, its domain has
        no parts.
    """
    parted, _ = with_languages(rows, None)
    return parted[parted["domain"].isin(in_parts(parted["domain"]))]


def whole_of(domain: str) -> str:
    """The domain that a part belongs to; any other one is whole."""
    return next((name for name, parts in PARTS.items() if domain in parts), domain)
