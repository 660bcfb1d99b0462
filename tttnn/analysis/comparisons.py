"""Models compared on the same documents, from result rows; intervals as in :mod:`tttnn.analysis.statistics`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tttnn.analysis.statistics import RESAMPLES, SEED, Interval, before_after, ends, interval, resampled_sums
from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

DOCUMENT = ["domain", "document", "bytes"]
ENDS = ["before_first", "after_first", "before_second", "after_second"]
STAGES = ("before", "only the small one adapts", "both adapt")  # of the distance between two models


def by_model(rows: pd.DataFrame, k: int, resamples: int = RESAMPLES, seed: int = SEED) -> pd.DataFrame:
    """Corpus values before and after k neighbours, by domain for each model.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, of several models.
    k : int
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row per (model, domain), models in the order in which they come: model, and the columns of
        :func:`tttnn.analysis.statistics.before_after`.
    """
    import pandas as pd

    models = rows.groupby("model", sort=False)
    parts = [before_after(part, k, resamples=resamples, seed=seed).assign(model=name) for name, part in models]
    return pd.concat(parts, ignore_index=True)


def paired_gains(first: pd.DataFrame, second: pd.DataFrame, k: int) -> pd.DataFrame:
    """What two models gain from k neighbours on the same documents, as a ratio and in bits per byte.

    Parameters
    ----------
    first, second : DataFrame
        Rows of :func:`~tttnn.experiment.runner.run`, one model each. Documents that only one of them scored are left
        out.
    k : int

    Returns
    -------
    DataFrame
        One row a domain: documents, then ratio_first, ratio_second (after / before), gain_first, gain_second
        (before - after, bits/byte), and how much more the first gains: ratio_lead (ratio_second - ratio_first) and
        gain_lead (bits/byte), each with its 95% interval over resampled documents (_low, _high).

    Raises
    ------
    RowsError
        If the two share no document scored at 0 and k, or a document of theirs differs in size.
    """
    import pandas as pd

    parts = _pairs(first, second, k).groupby("domain", sort=True)
    return pd.DataFrame([{"domain": name} | _gains(part) for name, part in parts])


def distances(small: pd.DataFrame, large: pd.DataFrame, k: int) -> pd.DataFrame:
    """How far a small model is behind a large one: as they are, when it alone adapts, and when both do.

    Parameters
    ----------
    small, large : DataFrame
        As for :func:`paired_gains`.
    k : int

    Returns
    -------
    DataFrame
        One row a domain and stage, in the order of :data:`STAGES`: domain, documents, stage, the distance as value, low
        and high (bits/byte, above 0: the small model is behind; 95% interval over resampled documents), and as share,
        share_low and share_high of the distance before: 1 where nothing has changed, 0 where the two are level, below 0
        where the small model is ahead. Shares are missing where there is no distance to speak of: where the large model
        as it is is not the better one in at least 97.5% of the resamples.

    Raises
    ------
    RowsError
        As for :func:`paired_gains`.
    """
    import pandas as pd

    parts = _pairs(small, large, k).groupby("domain", sort=True)
    return pd.DataFrame([{"domain": name} | stage for name, part in parts for stage in _stages(part)])


def _pairs(first: pd.DataFrame, second: pd.DataFrame, k: int) -> pd.DataFrame:
    """Nats before and after of each document that both models scored, and its bytes."""
    key, sides = DOCUMENT[:2], ("_first", "_second")
    pairs = ends(first, k, DOCUMENT).merge(ends(second, k, DOCUMENT), on=key, suffixes=sides)
    if not len(pairs):
        raise RowsError(f"no document was scored by both models at k = 0 and at k = {k}")
    if len(differs := pairs[pairs["bytes_first"] != pairs["bytes_second"]]):
        name = "{} {}".format(*differs[key].iloc[0])
        raise RowsError(f"the runs are not of the same documents: {name} differs in size; take runs on one corpus")
    return pairs.rename(columns={"bytes_first": "bytes"})


def _stages(pairs: pd.DataFrame) -> list[dict[str, float | str]]:
    sums = resampled_sums([pairs[[*ENDS, "bytes"]].to_numpy(float)])[:, 0]  # (1 + resamples, 5)
    small, small_after, large, large_after, size = sums.T
    apart = small - large
    clear = interval(apart).low > 0
    made: list[dict[str, float | str]] = []
    for name, left in zip(STAGES, (apart, small_after - large, small_after - large_after), strict=True):
        bits = interval(left / size / math.log(2))
        share = interval(left / apart) if clear else Interval(math.nan, math.nan, math.nan)
        made.append({
            "documents": len(pairs), "stage": name, **bits.columns("value"),
            "share": share.value, "share_low": share.low, "share_high": share.high,
        })  # fmt: skip
    return made


def _gains(pairs: pd.DataFrame) -> dict[str, float]:
    sums = resampled_sums([pairs[[*ENDS, "bytes"]].to_numpy(float)])[:, 0]  # (1 + resamples, 5)
    before_first, after_first, before_second, after_second, size = sums.T
    ratios = after_first / before_first, after_second / before_second
    gains = [(nats / size / math.log(2)) for nats in (before_first - after_first, before_second - after_second)]
    made: dict[str, float] = {"documents": len(pairs)}
    for kind, (one, other), lead in (("ratio", ratios, ratios[1] - ratios[0]), ("gain", gains, gains[0] - gains[1])):
        more = interval(lead)
        made |= {f"{kind}_first": float(one[0]), f"{kind}_second": float(other[0])}
        made |= {f"{kind}_lead": more.value, f"{kind}_lead_low": more.low, f"{kind}_lead_high": more.high}
    return made
