"""Whether adapting on neighbours is worth it for someone's own documents: the rows of a trial, made an answer.

All ratios are of pooled bits (sum of nats after / sum before). Their 95% intervals are those of `jackknife`, made for
a handful of documents of unequal length; what is compared is compared on the same documents, in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.analysis.archive import FOLDER, archived, archived_models
from tttnn.analysis.controls import copying
from tttnn.analysis.statistics import Interval, curve, ends, exponential, few_ratio, jackknife
from tttnn.files import finite
from tttnn.rows import RowsError
from tttnn.studies.trial_plan import LEAST, NEAREST, RATES, most_neighbours

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.studies.trial import Trial

SMALL = 0.02  # a gain below this is called small
MOST_OF_IT = 0.9  # of the best gain, with which fewer neighbours will do
ALL = "all documents"
DOUBLINGS = 3.0  # of the steps that were made: a curve is followed no further than that
SIMPLER = {
    "dynamic-128-rate-1.0": "dynamic evaluation: steps on the text itself",
    "in-context-0.5": "neighbours in the context, no steps",
    "longest-context": "the longest context of the model",
}
COPIED = {
    "near-copies: at least half of it stands in a neighbour": (0.5, 1.01),
    "shared passages: 5 to 50% of it": (0.05, 0.5),
    "hardly anything copied: under 5%": (-1, 0.05),
}
GPU_RUNS = ("real/nearest-h200", "real/nearest-rate-1e-4-h200")
YES, SMALL_YES, SIMPLER_YES, NO, UNCLEAR, TOO_FEW = "yes", "small", "simpler", "no", "unclear", "too few"


@dataclass(frozen=True)
class Advice:
    """The answers of a trial.

    Attributes
    ----------
    verdict : str
        YES, SMALL_YES (a gain below SMALL), SIMPLER_YES (a gain that something simpler clearly exceeds), NO (it does
        harm), UNCLEAR (the interval holds 1), or TOO_FEW (documents for an interval).
    ratio : Interval
        Pooled bits after / before, at k: where those of all documents of this kind are, with these settings.
    full : Interval
        The same for a full run, with the neighbours and chunks that the trial had no time for: see `full_run`.
    k, documents, failures : int
        Neighbours, documents scored, and those that could not be.
    before, after, deflate : float
        Bits per byte, over the same documents.
    curve : DataFrame
        Columns k, bits_per_byte, ratio, low, high.
    domains : DataFrame
        Columns domain, documents, before, after, deflate (bits/byte), ratio, low, high, full_low, full_high.
    simpler : DataFrame
        Columns way, documents, ratio, ratio_nearest, difference, low, high (above 0: neighbours are better).
    origin : DataFrame
        Columns part, documents, share, points, low, high: where the gain comes from, in points of the ratio.
    copied : DataFrame
        Columns overlap, documents, ratio, share (of the bits saved).
    rates : DataFrame
        As `simpler`, for other learning rates.
    cost : dict
        Seconds: score, train, retrieval (of a document), whole (of the test part, missing where not counted), times
        (adapted / scored only), bytes (mean of a document); gpu (its name, seconds), where one was measured.
    best_k : int
        Fewest neighbours with most of the best gain.
    learning_rate : float
        To use.
    """

    verdict: str
    ratio: Interval
    full: Interval
    k: int
    documents: int
    failures: int
    before: float
    after: float
    deflate: float
    curve: pd.DataFrame
    domains: pd.DataFrame
    simpler: pd.DataFrame
    origin: pd.DataFrame
    copied: pd.DataFrame
    rates: pd.DataFrame
    cost: dict[str, Any]
    best_k: int
    learning_rate: float

    def as_json(self) -> dict[str, Any]:
        """JSON values; a number that is missing is null."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: json_values(value) for name, value in found.items()}


def json_values(value: Any) -> Any:
    """JSON values of tables, intervals and numbers; what is missing or infinite is None."""
    if isinstance(value, Interval):
        return {name: json_values(getattr(value, name)) for name in ("value", "low", "high")}
    if hasattr(value, "to_dict"):
        return json_values(value.to_dict("records"))
    if isinstance(value, (list, tuple)):
        return [json_values(each) for each in value]
    if isinstance(value, dict):
        return {name: json_values(each) for name, each in value.items()}
    return finite(value.item() if isinstance(value, np.generic) else value)


def advise(trial: Trial) -> Advice:
    """Answer from a trial.

    Raises
    ------
    RowsError
        If no document was scored before and after; the message has the first reason.
    """
    rows, k = pooled(trial.rows), trial.plan.k
    near = rows[rows["variant"] == NEAREST]
    pairs = ends(near, k)
    if not len(pairs):
        reasons = near.loc[near["failure"] != "", "failure"].tolist()
        raise RowsError(
            f"{trial.folder}: no document was scored before and after{': ' + reasons[0] if reasons else ''}"
        )
    sizes = trial.documents.assign(document=_names(trial.documents), domain=ALL)
    size = sizes.merge(pairs, on=["domain", "document"])[["bytes", "deflated"]].sum()
    ratio = few_ratio(pairs["before"], pairs["after"])
    simpler = _against(_with_longest(rows, k), list(SIMPLER), k)
    found = _curve(near)
    rates = _against(rows, list(RATES), k)
    return Advice(
        verdict=_verdict(ratio, len(pairs), simpler), ratio=ratio, full=full_run(near, k, _wanted(trial)), k=k,
        documents=len(pairs),
        failures=int((near["failure"] != "").sum()), before=_bits(pairs["before"], size["bytes"]),
        after=_bits(pairs["after"], size["bytes"]), deflate=float(8 * size["deflated"] / size["bytes"]), curve=found,
        domains=_domains(trial, k), simpler=simpler, origin=_origin(rows, k), copied=_copied(near, k), rates=rates,
        cost=_cost(trial, near, k), best_k=_enough_neighbours(found), learning_rate=_rate(trial, rates),
    )  # fmt: skip


def _wanted(trial: Trial) -> int:
    """Neighbours of a full run."""
    return most_neighbours(trial.request.k, trial.facts.get("indexed"))


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows as if all documents were of one domain."""
    return rows.assign(document=_names(rows), domain=ALL)


def _names(rows: pd.DataFrame) -> pd.Series:
    return rows["domain"] + " " + rows["document"].astype(str)


def _bits(nats: pd.Series, size: float) -> float:
    return float(nats.sum() / size / math.log(2))


def _verdict(ratio: Interval, documents: int, simpler: pd.DataFrame) -> str:
    if documents < LEAST:
        return TOO_FEW
    if ratio.low > 1 or math.isinf(ratio.value):
        return NO
    if math.isnan(ratio.low):
        return UNCLEAR
    if ratio.high >= 1:
        return UNCLEAR
    if len(surely_better(simpler)):
        return SIMPLER_YES
    return YES if ratio.value <= 1 - SMALL else SMALL_YES


def surely_better(simpler: pd.DataFrame) -> pd.DataFrame:
    """Of simpler ways those that surely gain more than the neighbours, on as many documents as an interval needs."""
    return simpler[(simpler["high"] < 0) & (simpler["documents"] >= LEAST)] if len(simpler) else simpler


def full_run(near: pd.DataFrame, k: int, wanted: int) -> Interval:
    """After / before of a full run, and where it should be found: from the trial's interval to that of more steps.

    A trial that is short of time makes fewer steps: of fewer neighbours, or on the first chunks of each. What twice the
    steps bring is taken from the curve, as what its last part brought for each doubling, up to eight times the steps.
    Where nothing was left out, this is the trial's own interval.

    Parameters
    ----------
    near : DataFrame
        Rows of the nearest neighbours.
    k, wanted : int
        Neighbours of the trial and of a full run.
    """
    scored = near[near["nats"].notna() & (near["k"] <= k)]
    earlier = int(scored.loc[scored["k"] < k, "k"].max())
    wide = scored.pivot(index=["domain", "document"], columns="k", values="nats")
    nats = wide[[0, earlier, k]].dropna().to_numpy(float)
    done = near.loc[near["k"] <= k, ["steps", "beyond"]].sum()
    doublings = math.log2(max(1.0, wanted / k * (1 + done["beyond"] / max(done["steps"], 1))))
    further = min(DOUBLINGS, doublings) / math.log2((1 + k) / (1 + earlier))

    def logarithm(sums: np.ndarray) -> np.ndarray:
        return np.log(sums[..., 2] / sums[..., 0]) + further * np.log(sums[..., 2] / sums[..., 1])

    there, beyond = few_ratio(nats[:, 0], nats[:, 2]), exponential(jackknife(nats, logarithm))
    return Interval(beyond.value, min(there.low, beyond.low), max(there.high, beyond.high))


def _against(rows: pd.DataFrame, ways: Sequence[str], k: int) -> pd.DataFrame:
    """Each way beside the nearest neighbours, on the documents that both have."""
    import pandas as pd

    names = ["way", "documents", "ratio", "ratio_nearest", "difference", "low", "high"]
    made = []
    near = ends(rows[rows["variant"] == NEAREST], k).set_index("document")
    for way in ways:
        other = ends(rows[rows["variant"] == way], k).set_index("document")
        shared = other.index.intersection(near.index)
        if not len(shared):
            continue
        columns = [each.loc[shared, name] for each in (other, near) for name in ("before", "after")]
        both = np.stack(columns, axis=1)  # (documents, 4)
        before, after, near_before, near_after = both.sum(0).tolist()
        found = jackknife(both, lambda sums: sums[..., 1] / sums[..., 0] - sums[..., 3] / sums[..., 2])
        span = found.value, found.low, found.high
        made.append([way, len(both), after / before, near_after / near_before, *span])
    return pd.DataFrame(made, columns=names)


def _shared(rows: pd.DataFrame, ways: Sequence[str], k: int) -> list[str]:
    """Documents that were scored before and after in all of these ways."""
    scored = [set(ends(rows[rows["variant"] == way], k)["document"]) for way in ways]
    return sorted(set.intersection(*scored))


def _with_longest(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The rows, in which the score in a longer context stands where one after neighbours would."""
    import pandas as pd

    first = rows[(rows["variant"] == NEAREST) & (rows["k"] == 0)].assign(variant="longest-context")
    longest = rows["variant"] == "longest-context"
    last = rows[longest & (rows["k"] == 0)].assign(k=k)
    first = first[first["document"].isin(last["document"])]
    return pd.concat([rows[~longest], first, last], ignore_index=True)


def _curve(near: pd.DataFrame) -> pd.DataFrame:
    """Pooled values at each k, of the documents scored there; its interval is of those scored at 0, too."""
    table = curve(near).sort_values("k")[["k", "bits_per_byte", "ratio"]]
    spans = [ends(near, int(k)) if k else None for k in table["k"]]
    found = [Interval(1, 1, 1) if span is None else few_ratio(span["before"], span["after"]) for span in spans]
    return table.assign(low=[each.low for each in found], high=[each.high for each in found]).reset_index(drop=True)


def _enough_neighbours(table: pd.DataFrame) -> int:
    """The fewest neighbours that bring most of the best gain; 0 where there is none."""
    gain = 1 - table["ratio"]
    return int(table.loc[gain >= MOST_OF_IT * gain.max(), "k"].min()) if gain.max() > 0 else 0


def _domains(trial: Trial, k: int) -> pd.DataFrame:
    """Each domain by itself."""
    import pandas as pd

    near = trial.rows[trial.rows["variant"] == NEAREST]
    done = ends(near, k).merge(trial.documents, on=["domain", "document"])
    made = []
    for name, part in done.groupby("domain"):
        size = part["bytes"].sum()
        ratio, full = (
            few_ratio(part["before"], part["after"]),
            full_run(near[near["domain"] == name], k, _wanted(trial)),
        )
        made.append({
            "domain": name, "documents": len(part), "before": _bits(part["before"], size),
            "after": _bits(part["after"], size), "deflate": float(8 * part["deflated"].sum() / size),
            **ratio.columns("ratio"), "full_low": full.low, "full_high": full.high,
        })  # fmt: skip
    return pd.DataFrame(made)


def _origin(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """What the gain is made of: the domain alone, then nearness, then siblings of the same unit."""
    import pandas as pd

    there = [way for way in ("random-domain", "random", "other-units") if (rows["variant"] == way).any()]
    order = [way for way in there if _shared(rows, [NEAREST, way], k)] + [NEAREST]
    shared = _shared(rows, order, k)
    if len(order) < 2 or not shared:
        return pd.DataFrame(columns=["part", "documents", "share", "points", "low", "high"])
    part = rows[rows["document"].isin(shared)]
    columns = [ends(part[part["variant"] == way], k).set_index("document").loc[shared] for way in order]
    values = np.stack([columns[-1]["before"], *(each["after"] for each in columns)], axis=1)  # (documents, 1 + ways)
    names = [*(_PARTS[way] for way in order[:-1]), _LAST[order[-2]]]
    whole = 1 - values[:, -1].sum() / values[:, 0].sum()
    made = []
    for n, name in enumerate(names):
        found = jackknife(values[:, [0, n, n + 1]], lambda sums: (sums[..., 1] - sums[..., 2]) / sums[..., 0])
        share = found.value / whole if whole > 0 else math.nan
        made.append({"part": name, "documents": len(shared), "share": share, **found.columns("points")})
    return pd.DataFrame(made)


_PARTS = {
    "random-domain": "any documents of the same domain",
    "random": "any documents of the corpus",
    "other-units": "near ones from other files, folders or repositories",
}
_LAST = {
    "random-domain": "near ones instead of any",
    "random": "near ones instead of any",
    "other-units": "other parts of the same file, folder or repository",
}


def _copied(near: pd.DataFrame, k: int) -> pd.DataFrame:
    """Ratio and share of the bits saved, by how much of a document stands in one of its neighbours."""
    import pandas as pd

    found = copying(near, k).merge(ends(near, k), on=["domain", "document"])
    saved = (found["before"] - found["after"]).sum()
    made = []
    for name, (low, high) in COPIED.items():
        part = found[(found["overlap"] >= low) & (found["overlap"] < high)]
        if len(part):
            before, after = part["before"].sum(), part["after"].sum()
            share = (before - after) / saved if saved > 0 else math.nan
            made.append({"overlap": name, "documents": len(part), "ratio": after / before, "share": share})
    return pd.DataFrame(made, columns=["overlap", "documents", "ratio", "share"])


def _cost(trial: Trial, near: pd.DataFrame, k: int) -> dict[str, Any]:
    """Seconds of a document and of the whole test part, here and on a GPU that the same model was measured on."""
    done = near[(near["failure"] == "") & (near["k"] <= k)]
    count = done["document"].nunique()
    scores = done[done["nats"].notna()]
    score = float(scores.groupby("document")["evaluation_seconds"].mean().mean())
    train, retrieval = (float(done[name].sum() / count) for name in ("train_seconds", "retrieval_seconds"))
    size = float(scores.groupby("document")["bytes"].first().mean())
    tokens = float(scores.groupby("document")["tokens"].first().mean())
    each = score + train + retrieval
    text = trial.facts.get("bytes")
    found: dict[str, Any] = {
        "score": score, "train": train, "retrieval": retrieval, "each": each,
        "times": each / score if score else math.nan,
        "bytes": size, "steps": float(done["steps"].sum() / count), "whole": each * text / size if text else math.nan,
    }  # fmt: skip
    if gpu := _on_gpu(str(trial.facts.get("model")), float(done["train_tokens"].sum() / count), tokens):
        seconds = gpu["seconds"] + retrieval
        whole = seconds * text / size if text else math.nan
        found["gpu"] = {"name": gpu["name"], "each": seconds, "whole": whole}
    return found


def _on_gpu(model: str, trained: float, scored: float) -> dict[str, Any] | None:
    """Seconds of a document with so many trained and scored tokens, from archived rows of the model on a GPU."""
    for run in GPU_RUNS:
        if model not in archived_models(FOLDER / run):
            continue
        found = archived(FOLDER / run, model)
        rows = found.rows[found.rows["failure"] == ""]
        done, scores = rows[rows["train_tokens"] > 0], rows[rows["nats"].notna()]
        train = done["train_seconds"].sum() / done["train_tokens"].sum()
        score = scores["evaluation_seconds"].sum() / scores["tokens"].sum()
        name = str(found.facts["about"]["device"]).rpartition("GPU: ")[2]
        return {"name": name, "seconds": float(trained * train + scored * score)}
    return None


def _rate(trial: Trial, rates: pd.DataFrame) -> float:
    """The learning rate of the trial, or that of another one that was clearly better on the same documents."""
    used = float(trial.facts["learning_rate"])
    better = rates[(rates["high"] < 0) & (rates["documents"] >= LEAST)]
    if better.empty:
        return used
    return used * float(str(better.loc[better["difference"].idxmin(), "way"]).removeprefix("rate-"))
