"""Where to stop: the best number of neighbours, an oracle, and rules that know only what is known at the time.

A rule has a signal for each scored k and stops at the first k at which the signal reaches a threshold; the last one if
it never does. Thresholds are chosen on some documents and applied to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tttnn.analysis.controls import LEAST_RANKED, mean_ratio
from tttnn.analysis.statistics import SEED, interval, resampled_sums
from tttnn.analysis.variant_effects import KEY

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = 40  # most that are tried, at even quantiles of the signal
FOLDS = 2


def scored_nats(rows: pd.DataFrame) -> pd.DataFrame:
    """Nats of each document at each scored k.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one variant.

    Returns
    -------
    DataFrame
        A row per (domain, document), a column for each k; documents that lack one are left out.
    """
    return rows[rows["nats"].notna()].pivot(index=KEY, columns="k", values="nats").dropna()


def on_common_ks(rows: pd.DataFrame) -> pd.DataFrame:
    """Only the rows at those k at which every variant was scored, so that a best k is chosen among the same ones.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    """
    scored = rows[rows["nats"].notna()].groupby("variant")["k"].unique()
    return rows[rows["k"].isin(set.intersection(*map(set, scored)))]


def best_and_oracle(rows: pd.DataFrame) -> pd.DataFrame:
    """What the last k loses against the best one of a domain, and what each document's own best k would still bring.

    Both are chosen on the documents they are measured on, so they are bounds for rules and not rules.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one variant.

    Returns
    -------
    DataFrame
        One row a domain: documents, k_best (the first of equal ones), ratio_last, ratio_best, ratio_oracle (after /
        before), lost (ratio_last - ratio_best) with low and high (95% interval over documents), left (ratio_best -
        ratio_oracle).
    """
    import pandas as pd

    made = []
    for domain, nats in scored_nats(rows).groupby("domain", sort=True):
        best, last = nats.sum().idxmin(), nats.columns[-1]
        columns = [nats[0], nats[best], nats[last], nats.min(axis=1)]
        before, at_best, at_last, oracle = resampled_sums([np.stack(columns, axis=1)])[:, 0].T
        lost = interval((at_last - at_best) / before)
        ratios = (float(sums[0] / before[0]) for sums in (at_last, at_best, oracle))
        found = dict(zip(("ratio_last", "ratio_best", "ratio_oracle"), ratios, strict=True))
        made.append({
            "domain": domain, "documents": len(nats), "k_best": int(best), **found,
            **lost.columns("lost"), "left": found["ratio_best"] - found["ratio_oracle"],
        })  # fmt: skip
    return pd.DataFrame(made)


Signal = Callable[["pd.DataFrame", np.ndarray], np.ndarray]


@dataclass(frozen=True)
class StoppingRule:
    """A way to stop.

    Attributes
    ----------
    about : str
        For tables.
    signal : callable
        (rows of a document by k, scored ks) -> a number for each scored k, from what is known before going on from it;
        minus infinity: do not stop here.
    grouped : bool
        A threshold for each domain of the nearest neighbour, and not one for all; a domain with fewer than LEAST_RANKED
        documents to learn from gets that of all.
    """

    about: str
    signal: Signal
    grouped: bool = False


def _so_many(document: pd.DataFrame, ks: np.ndarray) -> np.ndarray:
    return ks.astype(float)


def _if_near(document: pd.DataFrame, ks: np.ndarray) -> np.ndarray:
    return np.where(ks == 0, document["distance"].get(1, math.nan), -math.inf)


def _while_near(document: pd.DataFrame, ks: np.ndarray) -> np.ndarray:
    return document["distance"].reindex(ks + 1).fillna(-math.inf).to_numpy(float)


def _loss_falls(document: pd.DataFrame, ks: np.ndarray) -> np.ndarray:
    losses = document["loss"]
    halves = [(losses.loc[1 : k // 2].mean(), losses.loc[k // 2 + 1 : k].mean()) for k in ks]
    ratios = np.array([late / early for early, late in halves])  # nan where no neighbour is in a half
    return np.where(np.isnan(ratios), -math.inf, ratios)


def _uncertain(document: pd.DataFrame, ks: np.ndarray) -> np.ndarray:
    variance = document["uncertainty"].astype(float).reindex(ks).to_numpy()
    return np.where(ks == 0, -math.inf, ks * np.sqrt(variance))


RULES: Mapping[str, StoppingRule] = {
    "one k": StoppingRule("stop after so many neighbours", _so_many),
    "one k for a domain": StoppingRule(
        "stop after so many, by the domain of the nearest neighbour", _so_many, grouped=True
    ),
    "if near": StoppingRule("adapt only if the nearest neighbour is near enough", _if_near),
    "while near": StoppingRule("stop at the first neighbour that is too far", _while_near),
    "while the loss falls": StoppingRule(
        "stop when the later half of the losses is not below the earlier half", _loss_falls
    ),
}
SIFT_RULE = {"uncertainty": StoppingRule("stop where k times SIFT's standard deviation is above 1 / alpha", _uncertain)}


def signals(rows: pd.DataFrame, rule: StoppingRule) -> pd.DataFrame:
    """A rule's signal for each document and scored k, in the shape of :func:`scored_nats`."""
    import pandas as pd

    nats = scored_nats(rows)
    ks = nats.columns.to_numpy()
    by_document = dict(iter(rows.set_index("k").sort_index().groupby(KEY)))
    values = [rule.signal(by_document[key], ks) for key in nats.index]
    return pd.DataFrame(values, nats.index, nats.columns)


def stops(signal: pd.DataFrame, threshold: float) -> np.ndarray:
    """Place among the columns at which each document stops, shape (documents,): the first to reach the threshold."""
    reached = signal.to_numpy() >= threshold
    return np.where(reached.any(1), reached.argmax(1), reached.shape[1] - 1)


def choose_threshold(nats: pd.DataFrame, signal: pd.DataFrame) -> float:
    """The threshold with the lowest mean over domains of after / before; of equal ones, the one that stops last."""
    values = np.unique(signal.to_numpy()[np.isfinite(signal.to_numpy())])
    if len(values) > THRESHOLDS:
        values = np.quantile(values, np.linspace(0, 1, THRESHOLDS))
    thresholds = [math.inf, *values[::-1].tolist()]
    return min(thresholds, key=lambda threshold: _mean_ratio(nats, stops(signal, threshold)))


def _mean_ratio(nats: pd.DataFrame, places: np.ndarray) -> float:
    domains = nats.index.get_level_values("domain")
    sums = nats.assign(after=_taken(nats, places)).groupby(domains)[[0, "after"]].sum()
    return float((sums["after"] / sums[0]).mean())


def _taken(nats: pd.DataFrame, places: np.ndarray) -> np.ndarray:
    return nats.to_numpy()[np.arange(len(nats)), places]


def cross_validated(rows: pd.DataFrame, rule: StoppingRule) -> pd.DataFrame:
    """Stop each document by a threshold that was chosen on the other half of the documents.

    Each domain is split evenly.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one variant.
    rule : StoppingRule

    Returns
    -------
    DataFrame
        One row a document: domain, document, k (where it stops), before, after, last and oracle (nats at 0, there, at
        the last k, and at the best k of the document).
    """
    import pandas as pd

    nats, signal = scored_nats(rows), signals(rows, rule)
    fold = _folds(nats.index)
    groups = _groups(rows, nats.index) if rule.grouped else np.full(len(nats), "")
    places = np.empty(len(nats), dtype=int)
    for test in range(FOLDS):
        for group in np.unique(groups):
            learn = (fold != test) & (groups == group)
            learn = learn if learn.sum() >= LEAST_RANKED else fold != test
            apply = (fold == test) & (groups == group)
            places[apply] = stops(signal[apply], choose_threshold(nats[learn], signal[learn]))
    made = {"before": nats[0], "after": _taken(nats, places), "last": nats.iloc[:, -1], "oracle": nats.min(axis=1)}
    return pd.DataFrame({"k": nats.columns.to_numpy()[places], **made}, index=nats.index).reset_index()


def _folds(documents: pd.MultiIndex) -> np.ndarray:
    """The half of each document, shape (documents,)."""
    order = np.random.default_rng(SEED).permutation(len(documents))
    fold = documents.to_frame(index=False).iloc[order].groupby("domain").cumcount() % FOLDS
    return fold.sort_index().to_numpy()


def _groups(rows: pd.DataFrame, documents: pd.MultiIndex) -> np.ndarray:
    nearest = rows[rows["k"] == 1].set_index(KEY)["neighbour_domain"]
    return nearest.reindex(documents).fillna("").to_numpy(str)


def rule_table(rows: pd.DataFrame, rules: Mapping[str, StoppingRule] = RULES) -> pd.DataFrame:
    """What each rule makes of the same documents, beside going on to the last k and beside the oracle.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one variant.
    rules : mapping
        Name -> StoppingRule.

    Returns
    -------
    DataFrame
        One row for the last k, one a rule, one for the oracle: rule, neighbours (mean that are trained on), ratio (mean
        over domains of after / before), gain (ratio at the last k - ratio) with low and high (95% interval over
        documents resampled in pairs, for the thresholds as chosen), worst (ratio of the worst domain), worst_domain,
        losses (domains with a ratio above 1), worse (share of documents that get worse).
    """
    import pandas as pd

    nats = scored_nats(rows)
    fixed = pd.DataFrame({"before": nats[0], "last": nats.iloc[:, -1]}).reset_index()
    ends = {
        f"always {nats.columns[-1]}": fixed.assign(after=fixed["last"], k=nats.columns[-1]),
        "oracle": fixed.assign(after=nats.min(axis=1).to_numpy(), k=nats.idxmin(axis=1).to_numpy()),
    }
    (first, last), (oracle, best) = ends.items()
    ways = {first: last, **{name: cross_validated(rows, rule) for name, rule in rules.items()}, oracle: best}
    return pd.DataFrame([{"rule": name, **_outcome(documents)} for name, documents in ways.items()])


def _outcome(documents: pd.DataFrame) -> dict[str, float | str]:
    sums = documents.groupby("domain")[["before", "after"]].sum()
    ratios = sums["after"] / sums["before"]
    gain = mean_ratio(documents, ("before", "last", "before", "after"))
    return {
        "neighbours": float(documents["k"].mean()),
        "ratio": float(ratios.mean()),
        **gain.columns("gain"),
        "worst": float(ratios.max()),
        "worst_domain": str(ratios.idxmax()),
        "losses": int((ratios > 1).sum()),
        "worse": float((documents["after"] > documents["before"]).mean()),
    }
