"""Corpus-level values and their intervals, from result rows.

A corpus value is a sum of nats over a sum of bytes. Intervals are paired bootstrap intervals over documents: the
same resampled documents give the value before and after, so that the ratio's interval does not carry the spread
between documents that are easy and documents that are hard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
SEED = 1216


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; its ends are missing (NaN) where too few documents can tell."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if math.isnan(self.low):
            return f"{self.value:{spec}} (no interval)"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    @property
    def clear(self) -> bool:
        """Whether all of it lies on one side of 0, as an effect does whose sign is known."""
        return self.low > 0 or self.high < 0

    def columns(self, name: str) -> dict[str, float]:
        """The value as column `name` of a table, and after it the ends as low and high."""
        return {name: self.value, "low": self.low, "high": self.high}


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Ratio of two sums over documents, with a 95% percentile interval over resampled documents; of one, with none.

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
        The first entry is the sum over the documents themselves; the others are missing (NaN) for a group of a single
        document, which says nothing about how far documents differ. See :func:`interval`.
    """
    generator = np.random.default_rng(seed)
    sums = []
    for group in groups:
        drawn = generator.integers(len(group), size=(resamples, len(group)))
        resampled = group[drawn].sum(1) if len(group) > 1 else np.full((resamples, group.shape[1]), math.nan)
        sums.append(np.concatenate([group.sum(0)[None], resampled]))  # (1 + resamples, columns)
    return np.stack(sums, axis=1)


def interval(statistic: np.ndarray) -> Interval:
    """A statistic of :func:`resampled_sums`, shape (1 + resamples,), with its 95% percentile interval."""
    low, high = np.quantile(statistic[1:], [0.025, 0.975])
    return Interval(float(statistic[0]), float(low), float(high))


def jackknife(sums_of: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A statistic of sums over few documents, with its 95% interval: Student's t on the jackknife's standard error.

    The percentile interval of :func:`bootstrap_ratio` is too narrow for a handful of documents, the more so where one
    is much longer than the others. Leaving out each in turn shows how much hangs on it, and t has as many degrees of
    freedom as documents of equal length would: (sum w)^2 / sum w^2 - 1, at least 1.

    Parameters
    ----------
    sums_of : ndarray, shape (documents, columns)
        The first column tells how much a document weighs, for example its nats before.
    statistic : callable
        Sums, shape (..., columns) -> values, shape (...). For a ratio its logarithm, which is nearer to normal.

    Returns
    -------
    Interval
        Of the statistic; its ends are missing for a single document, and where a sum is infinite.

    Raises
    ------
    ValueError
        If there is no document.
    """
    from scipy.stats import t

    count = len(sums_of)
    if not count:
        raise ValueError("no document: need at least one")
    total, weights = sums_of.sum(0), sums_of[:, 0]
    value = float(statistic(total))
    if count == 1:
        return Interval(value, math.nan, math.nan)
    with np.errstate(invalid="ignore"):  # a model that diverged: infinite nats have no interval
        left_out = statistic(total - sums_of)  # (documents,)
        error = math.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    equal = weights.sum() ** 2 / (weights**2).sum()
    half = float(t.ppf(0.975, max(1.0, equal - 1))) * error
    return Interval(value, value - half, value + half)


def few_ratio(before: np.ndarray, after: np.ndarray) -> Interval:
    """After / before in sums over few documents, with the interval of :func:`jackknife` for its logarithm.

    Parameters
    ----------
    before, after : ndarray, shape (documents,)
        Above 0: nats.
    """
    found = jackknife(np.stack([before, after], axis=1), lambda sums: np.log(sums[..., 1] / sums[..., 0]))
    return exponential(found)


def exponential(found: Interval) -> Interval:
    """The interval of a ratio from that of its logarithm."""
    with np.errstate(over="ignore"):
        return Interval(*(float(np.exp(end)) for end in (found.value, found.low, found.high)))


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

    Raises
    ------
    RowsError
        If a document has several scores at the same k.
    """
    scored = rows[rows["nats"].notna()]
    _check_once(scored, key)
    wide = scored.pivot(index=list(key), columns="k", values="nats")
    return wide.reindex(columns=[0, k]).set_axis(["before", "after"], axis=1).dropna().reset_index()


def _check_once(scored: pd.DataFrame, key: Sequence[str]) -> None:
    """Refuse rows in which a document has several scores at the same k, as of two variants together."""
    twice = scored[scored.duplicated([*key, "k"])]
    if len(twice):
        which = _called(twice.iloc[0], key)
        raise RowsError(f"{which} has two scores at k = {twice['k'].iloc[0]}; give rows of one model and one variant")


def _called(row: pd.Series, key: Sequence[str]) -> str:
    return " ".join(f"{name} {row[name]}" for name in key)


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


def before_after(rows: pd.DataFrame, k: int, resamples: int = RESAMPLES, seed: int = SEED) -> pd.DataFrame:
    """Corpus values before and after k neighbours, for each domain.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, scored at 0 and k.
    k : int
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, failures, before and after (bits/byte), ratio, low, high (95% interval of
        the ratio), better (share of documents that improved), byte and word perplexity before and after.

    Raises
    ------
    RowsError
        If documents were scored after other numbers of neighbours and none at k; if one that was has no score at 0, or
        several scores at one of them.
    """
    import pandas as pd

    scored = sorted({int(place) for place in rows.loc[rows["nats"].notna(), "k"]})
    if max(scored, default=0) > 0 and k not in scored:
        raise RowsError(f"k={k}: scored at {', '.join(map(str, scored))}")
    parts = rows.groupby("domain", sort=True)
    return pd.DataFrame([{"domain": name} | _before_after(part, k, resamples, seed) for name, part in parts])


def _before_after(part: pd.DataFrame, k: int, resamples: int, seed: int) -> dict[str, float]:
    key = [name for name in ("model", "domain", "document") if name in part]
    scored = part[part["nats"].notna() & part["k"].isin([0, k])]
    _check_once(scored, key)
    scored = scored.set_index(key)
    last, first = scored[scored["k"] == k], scored[scored["k"] == 0]
    alone = last.index.difference(first.index)
    if len(alone):
        which = _called(last.loc[alone[:1]].reset_index().iloc[0], key)
        raise RowsError(f"{which} was scored at k = {k} and not at 0: give rows with a score before any neighbour")
    first = first.loc[last.index]
    ratio = Interval(math.nan, math.nan, math.nan)
    if len(last):
        ratio = bootstrap_ratio(last["nats"], first["nats"], resamples, seed)
    nats = {"before": first["nats"].sum(), "after": last["nats"].sum()}
    size, words = first["bytes"].sum(), first["words"].sum()
    return {
        "documents": len(last),
        "failures": int((part["failure"] != "").sum()),
        **{when: total / size / math.log(2) if size else math.nan for when, total in nats.items()},
        **ratio.columns("ratio"),
        "better": float((last["nats"].to_numpy() < first["nats"].to_numpy()).mean()) if len(last) else math.nan,
        **{f"byte_perplexity_{when}": _perplexity(total, size) for when, total in nats.items()},
        **{f"word_perplexity_{when}": _perplexity(total, words) for when, total in nats.items()},
    }


def _perplexity(nats: float, units: float) -> float:
    if not units:
        return math.nan
    return math.exp(nats / units) if nats / units < 709 else math.inf


def curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Corpus values at every scored k, and the mean training loss on the k-th neighbour (Figure 3 of the report).

    Returns
    -------
    DataFrame
        One row per (domain, k): bits_per_byte, byte_perplexity, word_perplexity, ratio (to k = 0), loss
        (nats/token, mean over gradient steps whose loss is known; missing at 0).
    """
    scored, key = rows[rows["nats"].notna()], ["domain", "k"]
    sums = scored.groupby(key, as_index=False)[["nats", "bytes", "words"]].sum()
    sums["bits_per_byte"] = sums["nats"] / sums["bytes"] / math.log(2)
    sums["byte_perplexity"] = np.exp(sums["nats"] / sums["bytes"])
    sums["word_perplexity"] = np.exp(np.minimum(sums["nats"] / sums["words"], 709))
    zero = sums[sums["k"] == 0].set_index("domain")["bits_per_byte"]
    sums["ratio"] = sums["bits_per_byte"] / sums["domain"].map(zero)
    stepped = rows[(rows["steps"] > 0) & rows["loss"].notna()]
    weighted = stepped.assign(total=stepped["loss"] * stepped["steps"]).groupby(key)[["total", "steps"]].sum()
    losses = (weighted["total"] / weighted["steps"]).rename("loss").reset_index()
    return sums.drop(columns=["nats", "bytes", "words"]).merge(losses, on=key, how="left")
