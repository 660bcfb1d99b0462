"""What each method brings for what it costs: bits per byte against seconds and floating-point operations a document.

A document at k costs its retrieval, its training up to k, and the evaluation at k. Operations are those of the language
model and of looking keys up or merging, by the formula of `tttnn.operations`; choosing neighbours counts in seconds.
What was done once for all documents (the experts of TTMM) is kept apart, or shared among as many documents as one says.

>>> costs = method_costs("variants", "gpt2-xs-pile", tuned("variants-val", "gpt2-xs-pile"))  # doctest: +SKIP
>>> points = cost_points(costs)  # doctest: +SKIP
>>> gaps, table = at_equal_operations(costs), winners(costs)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn import operations
from tttnn.analysis.archive import archived, place_of
from tttnn.analysis.controls import MEAN, effects_and_mean, mean_ratios, on_common_documents
from tttnn.analysis.statistics import Interval, interval, resampled_sums
from tttnn.analysis.variant_effects import KEY, archived_variants
from tttnn.models.model_registry import find_entry
from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

PLAIN = "TTT-NN"
BUDGETS = (1.0, 10.0, 60.0)  # seconds a document
SPENT = ("seconds", "operations")
WINNERS = ("budget", "rank", "method", "k", "documents", *SPENT, "bits_per_byte", "difference", "low", "high", "clear",
           "domains")  # fmt: skip


def tuned(run: str, model: str, grid: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """The best setting of each method on validation documents, by the mean over domains of after / before.

    Parameters
    ----------
    run : str
        Archived variants on validation documents, or a folder of one's own.
    model : str
    grid : mapping, optional
        Method -> variants that were tried. Default: `tttnn.experiment.variants.GRID`.

    Returns
    -------
    dict of str
        Method -> variant; methods without rows are left out.
    """
    from tttnn.experiment.variants import GRID  # loads torch

    rows = archived_variants(run, model)
    there, found = set(rows["variant"]), {}
    for method, names in (grid or GRID).items():
        tried = [name for name in names if name in there]
        if tried:
            part = rows[rows["variant"].isin(tried)]
            k = int(part.loc[part["nats"].notna(), "k"].max())
            means = mean_ratios(on_common_documents(part, k), tried, k)
            found[method] = str(means.loc[means["ratio"].idxmin(), "variant"])
    return found


def at_edge(chosen: Mapping[str, str]) -> list[str]:
    """The methods whose chosen setting is the smallest or largest that was tried, so that one beyond might do better.

    Parameters
    ----------
    chosen : mapping
        Of :func:`tuned`, by the default grid.
    """
    from tttnn.experiment.variants import GRID, TWO_BY_TWO  # loads torch

    inside = {method: () if method in TWO_BY_TWO else names[1:-1] for method, names in GRID.items()}
    return [method for method, variant in chosen.items() if method in GRID and variant not in inside[method]]


def tuned_gap(run: str, validation_run: str, model: str, method: str, k: int) -> pd.DataFrame:
    """How far a method is behind TTT-NN, each at the setting that was best on the same validation documents.

    Parameters
    ----------
    run, validation_run : str
        Archived variants on test and on validation documents, or folders of one's own.
    model, method : str
    k : int

    Returns
    -------
    DataFrame
        Of :func:`tttnn.analysis.controls.effects_and_mean`: domains, and their mean last; above 0 TTT-NN gains more.
    """
    chosen = {PLAIN: "nearest"} | tuned(validation_run, model)  # one without trials has its own rate
    pair = {chosen[method]: chosen[PLAIN]}
    return effects_and_mean(archived_variants(run, model, [*pair, *pair.values()]), pair, k)


def method_costs(run: str, model: str, methods: Mapping[str, str], served: int | None = None) -> pd.DataFrame:
    """What each document has cost and gained at every scored k, for each method.

    Parameters
    ----------
    run : str
        Archived variants, or a folder of one's own.
    model : str
    methods : mapping
        What a method is called -> its variant, such as `tuned` gives; "TTT-NN" is what others are compared with.
        Variants without rows are left out.
    served : int, optional
        Documents that share what was done once for all of them. Default: that is left out.

    Returns
    -------
    DataFrame
        One row per (method, domain, document, k) that was scored: method, domain, document, k, nats, bytes, seconds,
        operations, only of documents that all methods have. Operations of rows of earlier versions, which did not
        count them, are estimated from tokens, method and switches.

    Raises
    ------
    RowsError
        If none of the variants has rows.
    """
    import pandas as pd

    parts = []
    for method, variant in methods.items():
        try:
            found = archived(place_of(run) / variant, model)
        except RowsError:
            continue
        parts.append(_spent(found.rows, found.facts, served).assign(method=method))
    if not parts:
        raise RowsError(f"no rows of {model!r} in {run!r} for {', '.join(methods.values())}")
    rows = pd.concat(parts, ignore_index=True)
    common = rows.groupby(KEY)["method"].transform("nunique") == rows["method"].nunique()
    return rows.loc[common, ["method", *KEY, "k", "nats", "bytes", *SPENT]].reset_index(drop=True)


def _spent(rows: pd.DataFrame, facts: Mapping[str, Any], served: int | None) -> pd.DataFrame:
    import pandas as pd

    rows = rows[rows["failure"] == ""].sort_values([*KEY, "k"])
    counts = rows.get("train_operations", pd.Series(index=rows.index, dtype=float))
    lacking = counts.isna().groupby([rows[name] for name in KEY]).transform("any")  # a run's parts may be of two
    if lacking.any():
        rows = pd.concat([rows[~lacking], _estimated(rows[lacking], facts)]).sort_values([*KEY, "k"])
    once = facts["about"].get("offline") or {}
    kept = rows.assign(
        seconds=rows["retrieval_seconds"] + rows["train_seconds"], operations=rows["train_operations"]
    ).groupby(KEY)[[*SPENT]].cumsum()  # fmt: skip
    for each in SPENT:
        alone = rows[f"evaluation_{each}"].fillna(0)
        rows = rows.assign(**{each: kept[each] + alone + (once.get(each, 0) / served if served else 0)})
    return rows[rows["nats"].notna()]


def _estimated(rows: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of an earlier version, with the operations that they do not have."""
    settings = facts["settings"]
    name, _, value = settings["method"].partition(":")
    context = settings["switches"].get("context") or settings["settings"]["context"]
    weights, adapters = find_entry(settings["model"]).parameters, bool(settings["switches"].get("lora"))
    first = rows[rows["k"] == 0].set_index(KEY)  # the one row that all methods score
    of_text = rows[KEY].merge(first[["tokens", "evaluation_seconds"]].reset_index(), on=KEY, how="left")
    seen = of_text["tokens"].map(lambda tokens: _passed(tokens, context)).to_numpy()
    after = (rows["k"] > 0).to_numpy()
    if name.startswith("in-context"):
        share = float(value) if value else 0.0
        seen = np.where(after, of_text["tokens"].map(lambda tokens: _beside(tokens, context, share)), seen)
    evaluation = operations.forward(weights, 1) * seen
    if name == "dynamic":
        along = of_text["tokens"].map(lambda tokens: _along(tokens, context, int(float(value)), weights))
        evaluation = np.where(after, along, evaluation)
        rows = rows.assign(retrieval_seconds=0.0)  # they were looked up, but not used
    if name == "unigram":  # its seconds at k were those of mixing alone
        passed = np.where(after, of_text["evaluation_seconds"], 0.0)
        rows = rows.assign(evaluation_seconds=rows["evaluation_seconds"] + passed)
    trained = 0 if adapters else weights
    train = rows["train_tokens"] * operations.training(weights, 1, trained)
    return rows.assign(train_operations=train, evaluation_operations=np.where(rows["nats"].notna(), evaluation, 0.0))


def _passed(tokens: float, context: int) -> float:
    """Tokens that a text's rolling windows put through the model: all windows of a long text are full."""
    return tokens if tokens <= context else math.ceil(tokens / context) * context


def _beside(tokens: float, context: int, share: float) -> float:
    """The same with neighbours that fill what is kept for them before each window."""
    room = max(int(share * context), context - tokens - 1)
    if room <= 0 or math.isnan(tokens):
        return _passed(tokens, context)
    return math.ceil(tokens / (context - room)) * room + _passed(tokens, int(context - room))


def _along(tokens: float, context: int, segment: int, weights: int) -> float:
    """Operations of dynamic evaluation: a window for each segment, and a step on each but the last."""
    ends = [min(first + segment, tokens) for first in range(0, int(tokens), segment)]
    seen = sum(min(end, context) for end in ends)
    return operations.forward(weights, seen) + operations.training(weights, segment * (len(ends) - 1), weights)


def cost_points(costs: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte and mean cost of each method at each k, and which of them nothing beats.

    Parameters
    ----------
    costs : DataFrame
        Of `method_costs`.

    Returns
    -------
    DataFrame
        One row per (method, k > 0), in the order given, and one of the model alone (method "none", k = 0): method, k,
        documents, bits_per_byte (sums over documents), ratio (to k = 0), seconds, operations (means a document),
        front_seconds, front_operations (whether no other point has fewer bits at that cost or less).
    """
    import pandas as pd

    alone = costs[(costs["method"] == costs["method"].iloc[0]) & (costs["k"] == 0)].assign(method="none")
    every = pd.concat([alone, costs[costs["k"] > 0]])
    sums = every.groupby(["method", "k"], sort=False).agg(
        documents=("nats", "size"), nats=("nats", "sum"), bytes=("bytes", "sum"), seconds=("seconds", "mean"),
        operations=("operations", "mean"),
    ).reset_index()  # fmt: skip
    complete = sums[sums["documents"] == len(alone)].reset_index(drop=True)
    bits = complete["nats"] / complete["bytes"] / math.log(2)
    found = complete.assign(bits_per_byte=bits, ratio=complete["nats"] / alone["nats"].sum())
    fronts = {f"front_{each}": on_front(found[each].to_numpy(), bits.to_numpy()) for each in SPENT}
    columns = ["method", "k", "documents", "bits_per_byte", "ratio", *SPENT, *fronts]
    return found.assign(**fronts)[columns]


def on_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Whether no other point is better in one and at least as good in the other: bool, shape (points,)."""
    worse = (cost[None] <= cost[:, None]) & (value[None] <= value[:, None])
    better = (cost[None] < cost[:, None]) | (value[None] < value[:, None])
    return np.asarray(~(worse & better).any(axis=1))


def by_domain(costs: pd.DataFrame) -> pd.DataFrame:
    """How far each method brings each domain at its last k.

    Parameters
    ----------
    costs : DataFrame
        Of `method_costs`.

    Returns
    -------
    DataFrame
        After/before (sums over documents), methods by domains, with a last column MEAN, which counts each domain once.
    """
    ends = costs[costs["k"] == costs.groupby("method")["k"].transform("max")]
    before, after = (part.pivot_table(index="method", columns="domain", values="nats", aggfunc="sum", sort=False)
                     for part in (costs[costs["k"] == 0], ends))  # fmt: skip
    ratio = after.sort_index(axis=1) / before
    return ratio.assign(**{MEAN: ratio.mean(axis=1)}).rename_axis(columns=None)


def at_equal_operations(costs: pd.DataFrame, against: str = PLAIN) -> pd.DataFrame:
    """Each method at each k against plain TTT-NN with as many operations.

    That one's nats of each document are interpolated between the two scored k whose mean costs lie around; below the
    model alone and beyond its last k it is taken at that end.

    Parameters
    ----------
    costs : DataFrame
        Of `method_costs`.
    against : str
        Method.

    Returns
    -------
    DataFrame
        One row per (method, k > 0): method, k, documents, operations (mean), bits_per_byte, against_k (may lie
        between two), against_bits_per_byte, difference (below 0 the method is ahead) with the ends low and high of its
        95% interval over documents resampled within domains in pairs, clear (whether that excludes 0), within (whether
        the other one has been run with as many).

    Raises
    ------
    RowsError
        If there are no rows of the other one.
    """
    import pandas as pd

    plain = costs[costs["method"] == against]
    if not len(plain):
        raise RowsError(f"no rows of {against!r}: there are {', '.join(costs['method'].unique())}")
    nats, curve = plain.pivot(index=KEY, columns="k", values="nats"), plain.groupby("k")["operations"].mean()
    places, spent = nats.columns.to_numpy(float), curve.to_numpy()
    made = []
    for (method, k), part in costs[(costs["k"] > 0) & (costs["method"] != against)].groupby(
        ["method", "k"], sort=False
    ):
        mean = float(part["operations"].mean())
        between = float(np.interp(mean, spent, places))
        right = int(np.searchsorted(places, between))
        left = max(right - 1, 0)
        share = (places[right] - between) / (places[right] - places[left]) if right != left else 0.0
        other = nats.iloc[:, left] * share + nats.iloc[:, right] * (1 - share)
        pairs = part.merge(other.rename("other").reset_index(), on=KEY)
        facts = {"method": method, "k": k, "documents": len(pairs), "operations": mean}
        within = bool(spent[0] <= mean <= spent[-1])
        made.append(facts | _gap(pairs) | {"against_k": between, "within": within})
    return pd.DataFrame(made)


def _gap(pairs: pd.DataFrame) -> dict[str, Any]:
    """Difference in bits per byte of `nats` and `other`, sums over documents."""
    groups = [part[["nats", "other", "bytes"]].to_numpy(float) for _, part in pairs.groupby("domain")]
    own, other, size = resampled_sums(groups).sum(1).T / np.array([[math.log(2)], [math.log(2)], [1.0]])
    found: Interval = interval((own - other) / size)
    return {
        "bits_per_byte": float(own[0] / size[0]), "against_bits_per_byte": float(other[0] / size[0]),
        **found.columns("difference"), "clear": found.clear,
    }  # fmt: skip


def winners(costs: pd.DataFrame, budgets: Sequence[float] = BUDGETS, against: str = PLAIN) -> pd.DataFrame:
    """Which method to use for so many seconds a document.

    Of each method the largest k is taken whose mean cost is within the budget: it is not chosen by what is compared.

    Parameters
    ----------
    costs : DataFrame
        Of `method_costs`; of one domain, to ask for that one.
    budgets : sequence of float
        Seconds.
    against : str
        Method that the gaps are to. Where it does not fit into a budget, that is the model alone.

    Returns
    -------
    DataFrame
        One row per (budget, method that fits into it), the fewest bits first: budget, rank (from 1), method, k,
        documents, seconds, operations, bits_per_byte, difference (to `against`; below 0 the method is ahead), low, high
        (95% interval over documents resampled within domains in pairs), clear, domains (in how many of them it has the
        fewest bits).
    """
    import pandas as pd

    tables = [table for budget in budgets if len(table := _ranked(costs, budget, against))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=WINNERS)


def _ranked(costs: pd.DataFrame, budget: float, against: str) -> pd.DataFrame:
    """The table of one budget."""
    import pandas as pd

    means = costs[costs["k"] > 0].groupby(["method", "k"], sort=False)["seconds"].mean().reset_index()
    chosen = means[means["seconds"] <= budget].groupby("method", sort=False)["k"].max().to_dict()
    parts = {name: costs[(costs["method"] == name) & (costs["k"] == k)] for name, k in chosen.items()}
    base = parts.get(against, costs[(costs["method"] == costs["method"].iloc[0]) & (costs["k"] == 0)])
    other, made = base.set_index(KEY)["nats"].rename("other").reset_index(), []
    by_domain = pd.DataFrame({name: part.groupby("domain")["nats"].sum() for name, part in parts.items()})
    best = by_domain.idxmin(axis=1).value_counts() if len(by_domain) else {}
    for name, part in parts.items():
        pairs = part.merge(other, on=KEY)
        spent = {each: float(part[each].mean()) for each in SPENT}
        gap = {key: value for key, value in _gap(pairs).items() if key != "against_bits_per_byte"}
        made.append({"budget": budget, "method": name, "k": chosen[name], "documents": len(pairs), **spent, **gap,
                     "domains": int(best.get(name, 0))})  # fmt: skip
    if not made:
        return pd.DataFrame()
    found = pd.DataFrame(made).sort_values("bits_per_byte", ignore_index=True)
    found.insert(1, "rank", np.arange(1, len(found) + 1))
    return found
