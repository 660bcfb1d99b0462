"""How many of the neighbours come from the document's own unit, by rank, and what the loss says where these end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tttnn.rows import FLAGS, RowsError

if TYPE_CHECKING:
    import pandas as pd


def sibling_shares(rows: pd.DataFrame, by: Sequence[str] = ("domain",)) -> pd.DataFrame:
    """Share of the neighbours that come from the document's own unit, and from its source.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`, or of :func:`tttnn.analysis.domains.sibling_rows`; a document that has rows of
        several models counts once for each.
    by : sequence of str
        Columns to group by, such as domain and k (the rank).

    Returns
    -------
    DataFrame
        One row a group: the columns of `by`, documents, same_unit, same_source (missing where the corpus does not
        say).

    Raises
    ------
    RowsError
        If rows of an earlier version do not have the columns.
    """
    if missing := [name for name in FLAGS if name not in rows]:
        raise RowsError(f"rows without {' and '.join(missing)}: tttnn.analysis.origins.add_origins adds the columns")
    groups = rows[rows["k"] > 0].astype(dict.fromkeys(FLAGS, "Float64")).groupby(list(by), sort=True)
    shares = groups[list(FLAGS)].mean().astype(float)
    return shares.assign(documents=groups["document"].nunique()).reset_index()


def loss_by_rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Training loss on the k-th neighbour, apart for those from the document's own unit and for all others.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`, one model.

    Returns
    -------
    DataFrame
        One row per (domain, k, origin) with origin one of "from the same unit", "from elsewhere" and "all": documents,
        loss (nats/token, mean over gradient steps, each taken before its update).
    """
    import pandas as pd

    stepped = rows[rows["steps"] > 0]
    same = stepped["same_unit"].fillna(False).astype(bool)
    parts = {"from the same unit": stepped[same], "from elsewhere": stepped[~same], "all": stepped}
    made = []
    for name, part in parts.items():
        groups = part.assign(total=part["loss"] * part["steps"]).groupby(["domain", "k"])
        sums = groups[["total", "steps"]].sum()
        found = pd.DataFrame({"documents": groups.size(), "loss": sums["total"] / sums["steps"]}).reset_index()
        made.append(found.assign(origin=name))
    return pd.concat(made, ignore_index=True)
