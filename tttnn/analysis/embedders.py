"""What an embedder's neighbours are worth: two conditions of a run that differ by the embedder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tttnn.analysis.controls import MEAN, effects_and_mean
from tttnn.analysis.siblings import sibling_shares
from tttnn.analysis.variant_effects import KEY

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["domain", "documents", "common", "same_unit", "same_unit_against", "ratio", "ratio_against",
           "difference", "low", "high"]  # fmt: skip


def compared_neighbours(rows: pd.DataFrame, other: str, against: str, k: int) -> pd.DataFrame:
    """Which neighbours two embedders have in common, and what training on each one's brings, on the same documents.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`: two variants whose indexes hold the same documents
        under the same numbers.
    other, against : str
        The variants.
    k : int
        Neighbours; a document counts if both variants scored it at 0 and k.

    Returns
    -------
    DataFrame
        One row a domain, then one with MEAN as its domain, in which every domain weighs the same: domain, documents,
        common (share of the k neighbours that both have, in any order), same_unit and same_unit_against (share of each
        one's neighbours that are siblings of the document), ratio and ratio_against (nats after / before), difference
        (above 0: `other` gains less) with the ends low and high of its 95% interval. Without a document that both
        have, no row.
    """
    import pandas as pd

    parts = {name: _scored(rows[rows["variant"] == name], k) for name in (other, against)}
    held = parts[other][KEY].merge(parts[against][KEY]).drop_duplicates()
    if held.empty:
        return pd.DataFrame(columns=COLUMNS)
    own, theirs = (part[part["k"].between(1, k)].merge(held) for part in parts.values())
    both = own.merge(theirs[[*KEY, "neighbour"]].drop_duplicates(), on=[*KEY, "neighbour"])
    sizes = own.groupby("domain").size()
    shares = pd.DataFrame({
        "common": both.groupby("domain").size().reindex(sizes.index, fill_value=0) / sizes,
        "same_unit": sibling_shares(own).set_index("domain")["same_unit"],
        "same_unit_against": sibling_shares(theirs).set_index("domain")["same_unit"],
    })  # fmt: skip
    shares.loc[MEAN] = shares.mean()
    found = effects_and_mean(pd.concat(parts.values()), {other: against}, k)
    return found.join(shares, on="domain")[COLUMNS]


def _scored(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The rows of documents that have a score at 0 and at k."""
    counts = rows[rows["k"].isin([0, k]) & rows["nats"].notna()].groupby(KEY).size()
    return rows.merge(counts[counts == 2].reset_index()[KEY])
