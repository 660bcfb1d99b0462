"""How often the advice of a trial is right: archived runs of few steps, taken for trials, beside full runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tttnn.analysis.advice import full_run
from tttnn.analysis.archive import FOLDER, archived
from tttnn.analysis.statistics import bootstrap_ratio, ends, few_ratio
from tttnn.studies.trial_plan import PLACES

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.analysis.statistics import Interval

TRIALS, FULL = "variants/nearest", "seven-domains"  # a step on each neighbour, and two of them
MODELS = ("gpt2-xs-general", "gpt2-xs-pile")
DOCUMENTS, NEIGHBOURS = (4, 6, 10), (5, 10, 20)  # of the trials


def hindsight() -> pd.DataFrame:
    """Set what a trial of few documents, the first ones, would have advised for a domain beside its full run.

    Returns
    -------
    DataFrame
        One row per (model, documents, k, domain): full (the full run's ratio, 30 documents with 20 neighbours), low and
        high (of the trial's advice for it), and whether it is held by that interval (`held`), by the interval for the
        trial's own settings (`held_alone`) and by that one made by resampling (`held_resampled`); `opposite` (whether
        the trial is sure of the other side of 1).
    """
    import pandas as pd

    made = []
    for model in MODELS:
        trials, whole = archived(FOLDER / TRIALS, model).rows, ends(archived(FOLDER / FULL, model).rows, max(PLACES))
        for domain, part in whole.groupby("domain"):
            truth, rows = float(part["after"].sum() / part["before"].sum()), trials[trials["domain"] == domain]
            rows = rows.assign(nats=rows["nats"].where(rows["k"].isin(PLACES)))
            for count in DOCUMENTS:
                first = rows[rows["document"].isin(rows["document"].drop_duplicates().head(count))]
                for k in NEIGHBOURS:
                    facts = {"model": model, "documents": count, "k": k, "domain": domain, "full": truth}
                    made.append(facts | _advised(first, k, truth))
    return pd.DataFrame(made)


def _advised(rows: pd.DataFrame, k: int, truth: float) -> dict[str, float | bool]:
    pairs, advised = ends(rows, k), full_run(rows, k, max(PLACES))
    alone, resampled = few_ratio(pairs["before"], pairs["after"]), bootstrap_ratio(pairs["after"], pairs["before"])

    def holds(found: Interval) -> bool:
        return found.low <= truth <= found.high

    return {
        "low": advised.low, "high": advised.high, "held": holds(advised), "held_alone": holds(alone),
        "held_resampled": holds(resampled), "opposite": alone.low > 1 > truth or alone.high < 1 < truth,
    }  # fmt: skip
