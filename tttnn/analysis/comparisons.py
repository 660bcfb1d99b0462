"""Models compared on the same documents, from result rows; intervals as in :mod:`tttnn.analysis.statistics`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tttnn.analysis.statistics import RESAMPLES, SEED, before_after, curve, ends, interval, resampled_sums
from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

DOCUMENT = ["domain", "document", "bytes"]
ENDS = ["before_first", "after_first", "before_second", "after_second"]


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
        gain_lead (bits/byte), each with its 95 % interval over resampled documents (_low, _high).

    Raises
    ------
    RowsError
        If the two share no document scored at 0 and k.
    """
    import pandas as pd

    pairs = ends(first, k, DOCUMENT).merge(ends(second, k, DOCUMENT), on=DOCUMENT, suffixes=("_first", "_second"))
    if not len(pairs):
        raise RowsError(f"no document was scored by both models at k = 0 and at k = {k}")
    return pd.DataFrame([{"domain": name} | _gains(part) for name, part in pairs.groupby("domain", sort=True)])


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


def best_k(rows: pd.DataFrame, by: str = "domain") -> pd.DataFrame:
    """Where a model is best among the scored k, and how much it loses by going on from there.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    by : str
        Column to group by.

    Returns
    -------
    DataFrame
        One row a group: k_best (the first of equal ones), k_last, ratio_best, ratio_last (bits per byte to those at
        k = 0), overstep (bits per byte at the last k / at the best - 1).
    """
    import pandas as pd

    made = []
    for name, part in curve(rows, by).sort_values("k").groupby(by, sort=True):
        best, last = part.loc[part["bits_per_byte"].idxmin()], part.iloc[-1]
        ratios = {"ratio_best": best["ratio"], "ratio_last": last["ratio"]}
        overstep = last["bits_per_byte"] / best["bits_per_byte"] - 1
        made.append({by: name, "k_best": int(best["k"]), "k_last": int(last["k"]), **ratios, "overstep": overstep})
    return pd.DataFrame(made)
