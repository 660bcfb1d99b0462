"""Corpus-level values and their intervals, from result rows.

A corpus value is a sum of nats over a sum of bytes. Intervals are paired bootstrap intervals over documents: the
same resampled documents give the value before and after, so that the ratio's interval does not carry the spread
between documents that are easy and documents that are hard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
SEED = 1216


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Ratio of two sums over documents, with a 95 % percentile interval over resampled documents.

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
    drawn = np.random.default_rng(seed).integers(len(numerator), size=(resamples, len(numerator)))
    ratios = numerator[drawn].sum(1) / denominator[drawn].sum(1)  # (resamples,)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(numerator.sum() / denominator.sum()), float(low), float(high))


def before_after(rows: pd.DataFrame, k: int, by: str = "domain") -> pd.DataFrame:
    """Corpus values before and after k neighbours, for each domain (or model, ...).

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`, scored at 0 and k.
    k : int
    by : str
        Column to group by.

    Returns
    -------
    DataFrame
        One row a group: documents, failures, before and after (bits/byte), ratio, low, high (95 % interval of
        the ratio), better (share of documents that improved), byte and word perplexity before and after.
    """
    import pandas as pd

    return pd.DataFrame([_group(name, part, k, by) for name, part in rows.groupby(by, sort=True)])


def _group(name: str, part: pd.DataFrame, k: int, by: str) -> dict[str, float | str]:
    scored = part[part["nats"].notna()].set_index([c for c in ("model", "domain", "document") if c in part])
    last = scored[scored["k"] == k]
    first = scored[scored["k"] == 0].loc[last.index]
    ratio = bootstrap_ratio(last["nats"], first["nats"]) if len(last) else Interval(math.nan, math.nan, math.nan)
    nats = {"before": first["nats"].sum(), "after": last["nats"].sum()}
    size, words = first["bytes"].sum(), first["words"].sum()
    return {
        by: name,
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


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds per neighbour by domain, as trained and as published (Figure 1 of the report).

    The published timer ran over the training on a neighbour and the scoring of the whole test document after it.
    Here scores are taken at some k only, so a document's mean scoring time stands for each of its neighbours.

    Returns
    -------
    DataFrame
        Two rows a domain: domain, timed ("training alone", "training and scoring, as published"), seconds, tokens
        (mean trained tokens per neighbour).
    """
    import pandas as pd

    stepped = rows[rows["k"] > 0]
    scored = rows[rows["nats"].notna()]
    training = stepped.groupby("domain")["train_seconds"].mean()
    per_document = scored.groupby(["domain", "document"])["evaluation_seconds"].mean()
    scoring = per_document.groupby("domain").mean()
    tokens = stepped.groupby("domain")["train_tokens"].mean()
    kinds = {"training alone": training, "training and scoring, as published": training + scoring}
    parts = [
        pd.DataFrame({"domain": seconds.index, "timed": kind, "seconds": seconds.values, "tokens": tokens.values})
        for kind, seconds in kinds.items()
    ]
    return pd.concat(parts, ignore_index=True)
