"""Neighbours from the document's own unit: how many there are, the loss where they end, what a gain is without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tttnn.analysis.controls import effects_and_mean
from tttnn.analysis.statistics import ends
from tttnn.analysis.variant_effects import KEY, archived_variants
from tttnn.rows import FLAGS, RowsError

if TYPE_CHECKING:
    import pandas as pd

DOCUMENT = ("model", "domain", "document")  # what tells documents apart; not all rows name a model
PAIR = ["nearest", "other-units"]
COMPARED = ["domain", "documents", "same_unit", "nearest", "other_units", "difference", "low", "high"]


def sibling_shares(rows: pd.DataFrame, by: Sequence[str] = ("domain",)) -> pd.DataFrame:
    """Share of the neighbours that come from the document's own unit, and from its source.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`, or of :func:`tttnn.studies.corpus_facts.sibling_rows`; a document that has rows
        of several models counts once for each.
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
    found = rows[rows["k"] > 0].astype(dict.fromkeys(FLAGS, "Float64"))
    shares = found.groupby(list(by), sort=True)[list(FLAGS)].mean().astype(float)
    key = [name for name in DOCUMENT if name in rows]
    counts = found.drop_duplicates(list(dict.fromkeys([*by, *key]))).groupby(list(by), sort=True).size()
    return shares.assign(documents=counts).reset_index()


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


def without_siblings(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """After / before with the nearest neighbours, and with the nearest from outside the document's own unit.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`: variants "nearest" and "other-units", scored at k.
        Documents that only one of them has are left out.
    k : int

    Returns
    -------
    DataFrame
        One row per domain, and a last one for their mean (:data:`tttnn.analysis.controls.MEAN`): domain, documents,
        same_unit (share of the k nearest; missing for the mean), nearest and other_units (sum of nats after / before),
        difference (the second less the first: what siblings bring), low and high (its 95% interval over documents).
    """
    found = effects_and_mean(rows, {"other-units": "nearest"}, k)
    both = _ended(rows, "nearest", k).merge(_ended(rows, "other-units", k))
    near = rows[(rows["variant"] == "nearest") & (rows["k"] <= k)].merge(both)
    shares = sibling_shares(near).set_index("domain")["same_unit"]
    found = found.assign(same_unit=found["domain"].map(shares))
    found = found.rename(columns={"ratio": "other_units", "ratio_against": "nearest"})
    return found[COMPARED]


def _ended(rows: pd.DataFrame, variant: str, k: int) -> pd.DataFrame:
    """The documents that a variant has a score of at k."""
    return ends(rows[rows["variant"] == variant], k)[KEY]


def archived_without_siblings(runs: Iterable[tuple[str, str]], k: int) -> pd.DataFrame:
    """Of archived runs of variants, given as (run, model): :func:`without_siblings`, with a column `model` first.

    A run that does not have both variants of the model is passed over, so that there may be no row.
    """
    import pandas as pd

    parts = []
    for run, model in runs:
        try:
            rows = archived_variants(run, model, PAIR)
        except RowsError:
            continue
        parts.append(without_siblings(rows, k).assign(model=model))
    columns = ["model", *COMPARED]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
