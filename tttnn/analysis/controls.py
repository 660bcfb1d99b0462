"""What the gain of nearest neighbours is due to: shares of it, copying, steps, settings, seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tttnn.analysis.statistics import RESAMPLES, SEED, Interval, ends, interval, resampled_sums
from tttnn.analysis.variant_effects import KEY, effects

if TYPE_CHECKING:
    import pandas as pd

LEAST_RANKED = 3  # documents a domain must have for a rank to mean anything


def mean_ratio(documents: pd.DataFrame, columns: Sequence[str] = ("before", "after")) -> Interval:
    """After / before of a domain, mean over domains, so that long documents of one domain do not decide.

    Parameters
    ----------
    documents : DataFrame
        Column domain, and `columns` with nats.
    columns : sequence of str
        Before and after. Two more are those of what this is compared with: then the value is the mean difference of
        the two ratios over documents resampled in pairs.
    """
    sums = resampled_sums([part[[*columns]].to_numpy(float) for _, part in documents.groupby("domain", sort=True)])
    ratios = sums[:, :, 1::2] / sums[:, :, ::2]  # (1 + resamples, domains, 1 or 2)
    values = ratios[:, :, 0] - (ratios[:, :, 1] if len(columns) > 2 else 0)
    return interval(values.mean(1))


def mean_ratios(rows: pd.DataFrame, names: Iterable[str], k: int) -> pd.DataFrame:
    """Mean over domains of after / before, for each variant.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    names : iterable of str
        Variants.
    k : int

    Returns
    -------
    DataFrame
        One row a variant, in the order of `names`: variant, documents, ratio, low, high (95% interval).
    """
    import pandas as pd

    made = []
    for name in names:
        documents = ends(rows[rows["variant"] == name], k)
        mean = mean_ratio(documents)
        made.append({"variant": name, "documents": len(documents), **mean.columns("ratio")})
    return pd.DataFrame(made)


def on_common_documents(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Rows of documents that all variants scored at 0 and k: one that failed with a single one would favour it."""
    import pandas as pd

    scored = pd.concat([ends(part, k)[KEY] for _, part in rows.groupby("variant", sort=False)])
    times = scored.value_counts()
    common = times[times == rows["variant"].nunique()].index
    return rows[pd.MultiIndex.from_frame(rows[KEY]).isin(common)]


FAMILIES = {"in context": "in-context-0", "unigrams": "unigram-", "dynamic evaluation": "dynamic-"}


def chosen_settings(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The setting of each baseline with the lowest mean over domains of after / before.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`, on validation documents.
    k : int

    Returns
    -------
    DataFrame
        One row a baseline that has rows: method (of FAMILIES), and of its best setting variant, documents, ratio, low,
        high, and edge: whether it is the smallest or largest that was tried, so that one beyond might do better.
    """
    import pandas as pd

    made = []
    for method, start in FAMILIES.items():
        names = [name for name in rows["variant"].unique() if name.startswith(start)]
        if names:
            tried = on_common_documents(rows[rows["variant"].isin(names)], k)
            tries = mean_ratios(tried, sorted(names, key=_setting), k)
            best = tries["ratio"].idxmin()
            made.append({"method": method, **tries.loc[best], "edge": best in (0, len(tries) - 1)})
    return pd.DataFrame(made)


def _setting(variant: str) -> float:
    """What stands last in the name of a baseline: ``dynamic-128-rate-0.3``."""
    return float(variant.rpartition("-")[2])


MEAN = "mean of the domains"


def effects_and_mean(rows: pd.DataFrame, pairs: Mapping[str, str], k: int) -> pd.DataFrame:
    """Effects by domain, and their mean, in which every domain weighs the same.

    Parameters
    ----------
    rows, pairs, k
        As in :func:`tttnn.analysis.variant_effects.effects`; every variant must be scored at k.

    Returns
    -------
    DataFrame
        The rows of `effects`, and after them one per variant with MEAN as its domain.
    """
    import pandas as pd

    found, made = effects(rows, pairs, k), []
    for name, against in pairs.items():
        own, other = (ends(rows[rows["variant"] == each], k) for each in (name, against))
        both = own.merge(other, on=KEY, suffixes=("", "_against"))
        mean = mean_ratio(both, ("before", "after", "before_against", "after_against"))
        ratios = found[found["variant"] == name][["ratio", "ratio_against"]].mean()
        made.append({
            "variant": name, "against": against, "domain": MEAN, "documents": len(both), **ratios,
            **mean.columns("difference"), "clear": mean.clear,
        })  # fmt: skip
    return pd.concat([found, pd.DataFrame(made)], ignore_index=True)


def shares_of_gain(rows: pd.DataFrame, names: Iterable[str], k: int) -> pd.DataFrame:
    """How much of the gain of nearest neighbours other variants bring, too.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    names : iterable of str
        Variants.
    k : int

    Returns
    -------
    DataFrame
        One row per (variant, domain): variant, domain, documents, share ((1 - ratio) / (1 - ratio of nearest)), low,
        high (95% interval over documents resampled in pairs). Missing where nearest has no clear gain: where it is
        not better after than before in at least 97.5% of the resamples.
    """
    import pandas as pd

    whole, made = ends(rows[rows["variant"] == "nearest"], k), []
    for name in names:
        pairs = ends(rows[rows["variant"] == name], k).merge(whole, on=KEY, suffixes=("", "_of"))
        for domain, part in pairs.groupby("domain", sort=True):
            made.append({"variant": name, "domain": domain, "documents": len(part), **_share(part)})
    return pd.DataFrame(made)


def _share(pairs: pd.DataFrame) -> dict[str, float]:
    columns = ["before", "after", "before_of", "after_of"]
    before, after, before_of, after_of = resampled_sums([pairs[columns].to_numpy(float)])[:, 0].T
    gain = 1 - after_of / before_of
    if interval(gain).low <= 0:
        return dict.fromkeys(("share", "low", "high"), math.nan)
    return interval((1 - after / before) / gain).columns("share")


def copying(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """What each document gains, beside how much of it stands in its neighbours and how near the nearest one is.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model and one variant.
    k : int

    Returns
    -------
    DataFrame
        One row a document: domain, document, gain (1 - after / before), overlap (largest share of its 50-byte windows
        that stand in one of the k neighbours), distance (squared L2, of the first neighbour).
    """
    taken = rows[(rows["k"] > 0) & (rows["k"] <= k)]
    most = taken.groupby(KEY)["overlap"].max().reset_index()
    first = taken.loc[taken["k"] == 1, [*KEY, "distance"]]
    documents = ends(rows, k).assign(gain=lambda table: 1 - table["after"] / table["before"])
    return documents[[*KEY, "gain"]].merge(most, on=KEY).merge(first, on=KEY)


def rank_correlation(table: pd.DataFrame, first: str, second: str, by: str | None = None) -> Interval:
    """Spearman's rank correlation of two columns, with a 95% interval over resampled rows.

    Parameters
    ----------
    table : DataFrame
    first, second : str
        Columns with numbers.
    by : str, optional
        Rank within the groups of this column, so that differences between groups do not count. A group that is
        constant in a column, or has fewer than LEAST_RANKED rows, is left out.
    """
    groups = [part for _, part in table.groupby(by, sort=True) if len(part) >= LEAST_RANKED] if by else [table]
    generator, resamples = np.random.default_rng(SEED), RESAMPLES // 10
    sums = np.zeros((3, 1 + resamples))  # of products and of both squares, over groups
    for part in groups:
        drawn = generator.integers(len(part), size=(len(part), resamples))
        rows = np.column_stack([np.arange(len(part)), drawn])  # (rows, 1 + resamples)
        one, two = (_centred_ranks(part[column].to_numpy(float)[rows]) for column in (first, second))
        varied = one.any(0) & two.any(0)
        sums += np.stack([(one * two).sum(0), (one**2).sum(0), (two**2).sum(0)]) * varied
    spread = np.sqrt(sums[1] * sums[2])
    return interval(np.divide(sums[0], spread, out=np.zeros_like(spread), where=spread > 0))


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each column, in units of their number and around 0, shape (rows, columns); ties share theirs."""
    from scipy.stats import rankdata

    return (rankdata(values, axis=0) - (len(values) + 1) / 2) / len(values)


def named_ends(parts: Mapping[str, tuple[pd.DataFrame, int]]) -> pd.DataFrame:
    """Runs that end at different k, side by side, for :func:`tttnn.analysis.variant_effects.effects` to compare.

    Parameters
    ----------
    parts : mapping
        Name -> rows of one model and variant, and the k at which they end.

    Returns
    -------
    DataFrame
        The rows at 0 and at that k, which is called 1, with the name as `variant` and a column made: gradient steps
        made on the document until then.
    """
    import pandas as pd

    made = []
    for name, (rows, k) in parts.items():
        steps = rows[rows["k"] <= k].groupby(KEY)["steps"].sum().rename("made").reset_index()
        last = rows[rows["k"].isin([0, k])].assign(variant=name)
        made.append(last.assign(k=(last["k"] > 0).astype(int)).merge(steps, on=KEY))
    return pd.concat(made, ignore_index=True)


def equal_seconds(rows: pd.DataFrame, variant: str, against: str, k: int) -> pd.DataFrame:
    """How far another variant comes in the time that one takes for k neighbours.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`; `against` scored at 0, at k and beyond.
    variant, against : str
    k : int

    Returns
    -------
    DataFrame
        One row a domain: retrieval, retrieval_against (seconds a document), per_neighbour (seconds of training on one,
        mean of both), neighbours (that `against` is trained on in the same time: k and what the difference in retrieval
        is worth), ratio (after / before of `variant` at k), ratio_against (at that number, on a straight line between
        the scored ones).
    """
    import pandas as pd

    both = rows[rows["variant"].isin([variant, against])]
    made = []
    for domain, part in both.groupby("domain", sort=True):
        searched = part[part["k"] == 0].groupby("variant")["retrieval_seconds"].mean()
        step = part.loc[part["k"] > 0, "train_seconds"].mean()
        afford = k + (searched[variant] - searched[against]) / step
        ratios = part.groupby(["variant", "k"])["nats"].sum(min_count=1).dropna()
        own, other = (ratios[name] / ratios[name, 0] for name in (variant, against))
        made.append({
            "domain": domain, "retrieval": searched[variant], "retrieval_against": searched[against],
            "per_neighbour": step, "neighbours": afford, "ratio": own[k],
            "ratio_against": float(np.interp(afford, other.index, other)),
        })  # fmt: skip
    return pd.DataFrame(made)
