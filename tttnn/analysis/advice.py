"""Whether adapting on neighbours is worth it for someone's own documents: the rows of a trial, made an answer.

All ratios are of pooled bits (sum of nats after / sum before), with intervals over resampled documents; what is
compared is compared on the same documents, in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.analysis.archive import archived, archived_models
from tttnn.analysis.controls import copying
from tttnn.analysis.statistics import Interval, before_after, bootstrap_ratio, curve, ends, interval, resampled_sums
from tttnn.analysis.variant_effects import effects
from tttnn.rows import RowsError
from tttnn.studies.trial_plan import LEAST, NEAREST, RATES

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.studies.trial import Trial

SMALL = 0.02  # a gain below this is called small
MOST_OF_IT = 0.9  # of the best gain, with which fewer neighbours will do
ALL = "all documents"
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
        Pooled bits after / before, at k.
    k, documents, failures : int
        Neighbours, documents scored, and those that could not be.
    before, after, deflate : float
        Bits per byte, over the same documents.
    curve : DataFrame
        Columns k, bits_per_byte, ratio, low, high.
    domains : DataFrame
        Of `before_after`, with a column deflate.
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
        return {"value": value.value, "low": json_values(value.low), "high": json_values(value.high)}
    if hasattr(value, "to_dict"):
        return [{name: json_values(each) for name, each in row.items()} for row in value.to_dict("records")]
    if isinstance(value, (list, tuple)):
        return [json_values(each) for each in value]
    if isinstance(value, dict):
        return {name: json_values(each) for name, each in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    ratio = bootstrap_ratio(pairs["after"], pairs["before"])
    simpler = _against(_with_longest(rows, k), list(SIMPLER), k)
    found = _curve(near)
    rates = _against(rows, list(RATES), k)
    return Advice(
        verdict=_verdict(ratio, len(pairs), simpler), ratio=ratio, k=k, documents=len(pairs),
        failures=int((near["failure"] != "").sum()), before=_bits(pairs["before"], size["bytes"]),
        after=_bits(pairs["after"], size["bytes"]), deflate=float(8 * size["deflated"] / size["bytes"]), curve=found,
        domains=_domains(trial, k), simpler=simpler, origin=_origin(rows, k), copied=_copied(near, k), rates=rates,
        cost=_cost(trial, near, k), best_k=_enough_neighbours(found), learning_rate=_rate(trial, rates),
    )  # fmt: skip


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
    if ratio.low > 1:
        return NO
    if ratio.high >= 1:
        return UNCLEAR
    if len(simpler) and (simpler["high"] < 0).any():
        return SIMPLER_YES
    return YES if ratio.value <= 1 - SMALL else SMALL_YES


def _against(rows: pd.DataFrame, ways: Sequence[str], k: int) -> pd.DataFrame:
    """Each way beside the nearest neighbours, on the documents that both have."""
    import pandas as pd

    columns = ["way", "documents", "ratio", "ratio_nearest", "difference", "low", "high"]
    there = [way for way in ways if _shared(rows, [NEAREST, way], k)]
    if not there:
        return pd.DataFrame(columns=columns)
    found = effects(rows, dict.fromkeys(there, NEAREST), k)
    return found.rename(columns={"variant": "way", "ratio_against": "ratio_nearest"})[columns]


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
    """Pooled values at each scored k, of the documents scored everywhere."""
    table = curve(near).sort_values("k")[["k", "bits_per_byte", "ratio"]]
    spans = [ends(near, int(k)) if k else None for k in table["k"]]
    found = [Interval(1, 1, 1) if span is None else bootstrap_ratio(span["after"], span["before"]) for span in spans]
    return table.assign(low=[each.low for each in found], high=[each.high for each in found]).reset_index(drop=True)


def _enough_neighbours(table: pd.DataFrame) -> int:
    """The fewest neighbours that bring most of the best gain; 0 where there is none."""
    gain = 1 - table["ratio"]
    return int(table.loc[gain >= MOST_OF_IT * gain.max(), "k"].min()) if gain.max() > 0 else 0


def _domains(trial: Trial, k: int) -> pd.DataFrame:
    near = trial.rows[trial.rows["variant"] == NEAREST]
    found = before_after(near, k)
    done = ends(near, k)[["domain", "document"]].merge(trial.documents, on=["domain", "document"])
    sums = done.groupby("domain")[["bytes", "deflated"]].sum()
    return found.assign(deflate=found["domain"].map(8 * sums["deflated"] / sums["bytes"]))


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
    sums = resampled_sums([values])[:, 0]
    ratios = sums / sums[:, :1]  # the first is 1
    names = [*(_PARTS[way] for way in order[:-1]), _LAST[order[-2]]]
    whole = 1 - ratios[0, -1]
    made = []
    for n, name in enumerate(names):
        found = interval(ratios[:, n] - ratios[:, n + 1])
        share = found.value / whole if whole > 0 else math.nan
        made.append({"part": name, "documents": len(shared), "share": share, "points": found.value, "low": found.low,
                     "high": found.high})  # fmt: skip
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
        if model not in archived_models(run):
            continue
        found = archived(run, model)
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
