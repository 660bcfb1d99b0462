"""Corpus-level values and their intervals, from result rows.

A corpus value is a sum of nats over a sum of bytes. Intervals are paired bootstrap intervals over documents: the
same resampled documents give the value before and after, so that the ratio's interval does not carry the spread
between documents that are easy and documents that are hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
SEED = 1216


@dataclass(frozen=True)
class Interval:
    """A value with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Ratio of two sums over documents, with a 95% percentile interval over resampled documents.

    Parameters
    ----------
    numerator, denominator : ndarray, shape (documents,)
        Per document: for example nats after and nats before, or nats and bytes.
    resamples : int
    seed : int

    Raises
    ------
    ValueError
        If there is no document, or the lengths differ.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    if not len(numerator) or len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} documents: need the same number, at least one")
    sums = resampled_sums([np.stack([numerator, denominator], axis=1)], resamples, seed)  # (1 + resamples, 1, 2)
    return interval(sums[:, 0, 0] / sums[:, 0, 1])


def resampled_sums(groups: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Sums over documents, as they are and over resampled documents.

    Documents are drawn within their group and keep their columns together: what is computed from two columns is
    paired, what is computed from two groups is not.

    Parameters
    ----------
    groups : sequence of ndarray, each of shape (documents, columns)
        For example a group per domain, with the nats of a document at 0 and at k.
    resamples : int
    seed : int

    Returns
    -------
    ndarray, float64, shape (1 + resamples, groups, columns)
        The first entry is the sum over the documents themselves. See :func:`interval`.
    """
    generator = np.random.default_rng(seed)
    sums = []
    for group in groups:
        drawn = generator.integers(len(group), size=(resamples, len(group)))
        sums.append(np.concatenate([group.sum(0)[None], group[drawn].sum(1)]))  # (1 + resamples, columns)
    return np.stack(sums, axis=1)


def interval(statistic: np.ndarray) -> Interval:
    """A statistic of :func:`resampled_sums`, shape (1 + resamples,), with its 95% percentile interval."""
    low, high = np.quantile(statistic[1:], [0.025, 0.975])
    return Interval(float(statistic[0]), float(low), float(high))


def coverage(values: np.ndarray, drawn: int, trials: int = 400, resamples: int = 1000, seed: int = SEED) -> float:
    """How often the 95% interval of a ratio of sums holds the ratio, on few documents.

    The documents given stand for all there are: of these, sets are drawn with replacement, and each set gets the
    percentile interval that the book would give it.

    Parameters
    ----------
    values : ndarray, shape (documents, 2)
        Denominator and numerator: for example nats before and after.
    drawn : int
        Documents in a set.
    trials, resamples : int
        Sets, and resamples of each.
    seed : int

    Returns
    -------
    float
        Share of the sets.
    """
    generator = np.random.default_rng(seed)
    truth = values[:, 1].sum() / values[:, 0].sum()
    held = 0
    for _ in range(trials):
        chosen = values[generator.integers(len(values), size=drawn)]
        before, after = chosen[generator.integers(drawn, size=(resamples, drawn))].sum(1).T
        low, high = np.quantile(after / before, [0.025, 0.975])
        held += low <= truth <= high
    return held / trials


def ends(rows: pd.DataFrame, k: int, key: Sequence[str] = ("domain", "document")) -> pd.DataFrame:
    """Nats of each document before and after k neighbours.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one way to evaluate.
    k : int
    key : sequence of str
        Columns that tell documents apart.

    Returns
    -------
    DataFrame
        One row per document scored at both: the columns of `key`, before, after.
    """
    wide = rows[rows["nats"].notna()].pivot(index=list(key), columns="k", values="nats")
    return wide.reindex(columns=[0, k]).set_axis(["before", "after"], axis=1).dropna().reset_index()


def early_share(rows: pd.DataFrame, few: int = 5, k: int = 20) -> float:
    """Share of the gain of k neighbours that the first few bring: of nats summed over the documents that were scored.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one way to evaluate, scored at 0, `few` and `k`.
    few, k : int
        Neighbours.
    """
    nats = rows[rows["nats"].notna()].groupby("k")["nats"].sum()
    return float((nats[0] - nats[few]) / (nats[0] - nats[k]))


def before_after(
    rows: pd.DataFrame, k: int, by: str = "domain", resamples: int = RESAMPLES, seed: int = SEED
) -> pd.DataFrame:
    """Corpus values before and after k neighbours, for each domain (or model, ...).

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, scored at 0 and k.
    k : int
    by : str
        Column to group by.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row a group: documents, failures, before and after (bits/byte), ratio, low, high (95% interval of
        the ratio), better (share of documents that improved), byte and word perplexity before and after.
    """
    import pandas as pd

    parts = rows.groupby(by, sort=True)
    return pd.DataFrame([{by: name} | _before_after(part, k, resamples, seed) for name, part in parts])


def _before_after(part: pd.DataFrame, k: int, resamples: int, seed: int) -> dict[str, float]:
    scored = part[part["nats"].notna()].set_index([c for c in ("model", "domain", "document") if c in part])
    last = scored[scored["k"] == k]
    first = scored[scored["k"] == 0].loc[last.index]
    ratio = Interval(math.nan, math.nan, math.nan)
    if len(last):
        ratio = bootstrap_ratio(last["nats"], first["nats"], resamples, seed)
    nats = {"before": first["nats"].sum(), "after": last["nats"].sum()}
    size, words = first["bytes"].sum(), first["words"].sum()
    return {
        "documents": len(last),
        "failures": int((part["failure"] != "").sum()),
        **{when: total / size / math.log(2) if size else math.nan for when, total in nats.items()},
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "better": float((last["nats"].to_numpy() < first["nats"].to_numpy()).mean()) if len(last) else math.nan,
        **{f"byte_perplexity_{when}": _perplexity(total, size) for when, total in nats.items()},
        **{f"word_perplexity_{when}": _perplexity(total, words) for when, total in nats.items()},
    }


def _perplexity(nats: float, units: float) -> float:
    if not units:
        return math.nan
    return math.exp(nats / units) if nats / units < 709 else math.inf


def curve(rows: pd.DataFrame, by: str = "domain") -> pd.DataFrame:
    """Corpus values at every scored k, and the mean training loss on the k-th neighbour (Figure 3 of the report).

    Returns
    -------
    DataFrame
        One row per (group, k): bits_per_byte, byte_perplexity, word_perplexity, ratio (to k = 0), loss
        (nats/token, mean over gradient steps; missing at 0).
    """
    scored = rows[rows["nats"].notna()]
    sums = scored.groupby([by, "k"], as_index=False)[["nats", "bytes", "words"]].sum()
    sums["bits_per_byte"] = sums["nats"] / sums["bytes"] / math.log(2)
    sums["byte_perplexity"] = np.exp(sums["nats"] / sums["bytes"])
    sums["word_perplexity"] = np.exp(np.minimum(sums["nats"] / sums["words"], 709))
    zero = sums[sums["k"] == 0].set_index(by)["bits_per_byte"]
    sums["ratio"] = sums["bits_per_byte"] / sums[by].map(zero)
    stepped = rows[rows["steps"] > 0]
    weighted = stepped.assign(total=stepped["loss"] * stepped["steps"]).groupby([by, "k"])[["total", "steps"]].sum()
    losses = (weighted["total"] / weighted["steps"]).rename("loss").reset_index()
    return sums.drop(columns=["nats", "bytes", "words"]).merge(losses, on=[by, "k"], how="left")
