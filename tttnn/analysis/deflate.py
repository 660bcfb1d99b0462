"""What deflate makes of the documents that models are scored on: the floor below which a base model explains nothing.

A model that needs more bits per byte than a general compressor knows less of a text than the text says about itself.
Its gain from neighbours is then mostly what any text of the kind would have brought, so that no headline rests on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tttnn.analysis.archive import place_of
from tttnn.corpus.deflate import LEVEL, deflated
from tttnn.files import read_json

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus

FILE = "deflate.json"
COLUMNS = ("domain", "document", "bytes", "deflated")


def measure(
    corpus: Corpus, per_domain: int, seed: int, split: str = "test", max_bytes: int | None = None
) -> dict[str, Any]:
    """What an archived run keeps about deflate, since a corpus's text is not in the package.

    Parameters
    ----------
    corpus, per_domain, seed, split, max_bytes
        As the run's documents were drawn: see :func:`~tttnn.experiment.drawing.draw_documents`.

    Returns
    -------
    dict
        JSON values: where the numbers come from, and `documents`, rows in the order of COLUMNS (sizes in bytes).
    """
    from tttnn.experiment import draw_documents

    drawn = draw_documents(corpus, per_domain, seed, split, max_bytes)
    return {
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "drawn": {"per_domain": per_domain, "split": split, "max_bytes": max_bytes, "seed": seed},
        "compressor": f"deflate, level {LEVEL}, one document at a time (zlib {zlib.ZLIB_RUNTIME_VERSION})",
        "documents": [[d.domain, d.number, len(d.text.encode()), deflated(d.text)] for d in drawn],
    }


def archived_deflate(run: str) -> pd.DataFrame | None:
    """Sizes of an archived run's documents before and after deflate.

    Returns
    -------
    DataFrame or None
        Columns COLUMNS; None where the run has no such table, as a folder of one's own.
    """
    import pandas as pd

    path = place_of(run) / FILE
    return pd.DataFrame(read_json(path)["documents"], columns=COLUMNS) if path.is_file() else None


def deflate_of(rows: pd.DataFrame, sizes: pd.DataFrame | None, domains: Sequence[str]) -> list[float | None]:
    """Bits per byte by deflate over the very documents of `rows`, for each of `domains`; None where not all are known.

    Parameters
    ----------
    rows : DataFrame
        Columns domain and document; a document may have several rows.
    sizes : DataFrame or None
        Of :func:`archived_deflate`.
    domains : sequence of str
    """
    if sizes is None:
        return [None] * len(domains)
    key = ["domain", "document"]
    known = rows[key].drop_duplicates().merge(sizes, on=key, how="left")
    sums = known.groupby("domain")[["bytes", "deflated"]].sum(min_count=1)
    whole = known.groupby("domain")["bytes"].apply(lambda column: column.notna().all())
    bits = (8 * sums["deflated"] / sums["bytes"]).where(whole)
    return [None if domain not in bits or bits[domain] != bits[domain] else float(bits[domain]) for domain in domains]


def beside_deflate(gains: pd.DataFrame, rows: pd.DataFrame, sizes: pd.DataFrame | None) -> pd.DataFrame:
    """Add deflate's bits per byte to a table of gains, over the documents that each line rests on.

    Parameters
    ----------
    gains : DataFrame
        Of :func:`tttnn.analysis.comparisons.by_model`.
    rows : DataFrame
        What it was made from.
    sizes : DataFrame or None
        Of :func:`archived_deflate`; None: deflate is missing everywhere.
    """
    bits = [
        deflate_of(rows[(rows["model"] == line.model) & (rows["domain"] == line.domain)], sizes, [line.domain])[0]
        for line in gains.itertuples()
    ]
    return gains.assign(deflate=bits).astype({"deflate": float})  # nothing known is a missing number, not an object
