"""What the published code does besides the method, and what each of it could change in a published ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from tttnn.analysis.published import PILE_NAMES, published_curves, report_claims
from tttnn.analysis.statistics import bootstrap_ratio, ends, interval, resampled_sums
from tttnn.analysis.variant_effects import KEY

if TYPE_CHECKING:
    import pandas as pd

REPORTED = {"github": "R03", "europarl": "R04", "books": "R05"}  # domain: claim with after/before in percent
# Documents in the published 20 % of each test set, each task rounded down.
TESTED = {
    "wikipedia": 3502, "arxiv": 481, "books": 53, "enron": 202, "dm-mathematics": 384, "europarl": 31, "github": 3639,
}  # fmt: skip


@dataclass(frozen=True)
class Quirk:
    """Something that the published code does, in our words.

    Attributes
    ----------
    name : str
    place : str
        Repository and file.
    what : str
    runs : str
        Which of the two published runs of GPT-2 on GitHub it was in, as far as that can be known.
    differs : bool
        Whether it could make these two runs differ.
    """

    name: str
    place: str
    what: str
    runs: str
    differs: bool


PAPER, REPORT = "socialfoundations/tttlm", "boezzz/tttlm"
QUIRKS = (
    Quirk("optimizer kept", f"{PAPER}: code/eval_tttlm.py", "AdamW is made once for a task: after each document the "
          "weights are put back, its moments and step count are not", "both", False),
    Quirk("ranks and order", f"{PAPER}: code/eval_tttlm.py", "the documents are dealt to as many processes as the job "
          "has, each with an optimizer of its own that it keeps", "1 process in the report, 8, 30 or 150 before", True),
    Quirk("dropout", f"{PAPER}: code/eval_tttlm.py", "the model trains in training mode, so that the dropout of its "
          "configuration is on, and no seed is set for it", "both", False),
    Quirk("bf16 weights", "transformers: loading of models", "later versions load a checkpoint in the type it is "
          "stored in; the code asks for none and pins no version", "neither, by their dates", False),
    Quirk("logits cut", f"{REPORT}: code/lm_eval/gpt2.py", "only the first 50,257 logits are scored, whatever the "
          "vocabulary of the model", "both, without effect on GPT-2", False),
    Quirk("context of the configuration", f"{REPORT}: code/lm_eval/gpt2.py", "scoring takes the longest context in "
          "the model's configuration, whatever the length of training chunks", "both, without effect on GPT-2", False),
    Quirk("lost shards", f"{REPORT}: code/pile_client.py", "a shard that fails, or is silent for 20 s, is logged and "
          "left out, and the search goes on without it", "unknown", True),
    Quirk("offsets in characters", f"{REPORT}: code/create_offset_file.py", "where a line begins is counted in "
          "characters and used as a position in bytes", "report", True),
    Quirk("last chunk of one token", f"{PAPER}: code/eval_tttlm.py", "it holds nothing to predict: the loss is not a "
          "number, no gradient comes of it, and the optimizer steps all the same", "both", False),
    Quirk("documents dropped", f"{PAPER}: code/process_results.py", "documents with another number of scores than the "
          "median are left out of the averages, uncounted", "both, how many is unknown", True),
    Quirk("timer", f"{PAPER}: code/eval_tttlm.py", "the training cost of a neighbour is timed over the training and "
          "the scoring of the test document after it", "both", False),
    Quirk("part of the documents", f"{PAPER}: code/eval_tttlm.py", "a fifth of the test documents is drawn; results "
          "are saved after each, so that an unfinished run looks complete", "both, how far they got is unknown", True),
)  # fmt: skip


def quirks_table() -> pd.DataFrame:
    """`QUIRKS` as a table: name, place, what, runs, differs."""
    import pandas as pd

    return pd.DataFrame([asdict(quirk) for quirk in QUIRKS])


@dataclass(frozen=True)
class Discrepancy:
    """After / before of one domain in the report and in the original data at the report's k.

    Attributes
    ----------
    domain : str
    k : int
    report, original : float
        After / before.
    """

    domain: str
    k: int
    report: float
    original: float

    @property
    def points(self) -> float:
        """How much more is left in the report, as a difference of ratios."""
        return self.report - self.original

    @property
    def lost(self) -> float:
        """The share of the original gain that the report lacks."""
        return self.points / (1 - self.original)

    def needed(self, ratio: float) -> float:
        """The difference of ratios by which a run at `ratio` loses the same share of its gain."""
        return self.lost * (1 - ratio)


def discrepancy(domain: str = "github") -> Discrepancy:
    """What a quirk has to explain: the report against the released curve of GPT-2.

    Raises
    ------
    ValueError
        If no figure of the report is known for the domain.
    """
    if domain not in REPORTED:
        raise ValueError(f"{domain}: the report's figures known to us are for {', '.join(REPORTED)}")
    claims = report_claims()["value"]
    k = int(claims["R01"])
    curve = published_curves("gpt2").set_index(["task", "k"])["ratio"]
    return Discrepancy(domain, k, claims[REPORTED[domain]] / 100, float(curve[PILE_NAMES.get(domain, domain), k]))


def judged(effects: pd.DataFrame, gap: Discrepancy) -> pd.DataFrame:
    """Say of each effect whether it could explain a discrepancy.

    Parameters
    ----------
    effects : DataFrame
        Columns ratio_against (after / before without the quirk), difference, low, high (the effect on it and what
        bounds it: an interval, or a worst case).
    gap : Discrepancy

    Returns
    -------
    DataFrame
        The same with two more columns. needed: the difference that costs the same share of the gain as the
        discrepancy. verdict: "reaches it" (all of the interval), "cannot be ruled out" (its upper end), "too small"
        (none of it), "other direction" (all of it below 0), or "no effect" (exactly none).
    """
    needed = effects["ratio_against"].map(gap.needed)
    verdicts = [_verdict(*ends) for ends in zip(effects["low"], effects["high"], needed, strict=True)]
    return effects.assign(needed=needed, verdict=verdicts)


def _verdict(low: float, high: float, needed: float) -> str:
    if low == high == 0:
        return "no effect"
    if high < 0:
        return "other direction"
    if high < needed:
        return "too small"
    return "reaches it" if low >= needed else "cannot be ruled out"


def stated(
    change: str, quirk: str, ratio: float, low: float = 0.0, high: float = 0.0, kind: str = "by construction"
) -> dict[str, str | float]:
    """A line for :func:`judged` of an effect that was not measured: a bound, or none at all.

    Parameters
    ----------
    change : str
        What is changed, for the table.
    quirk : str
        Name of the quirk.
    ratio : float
        After / before without it.
    low, high : float
        What bounds the difference.
    kind : str
        What the bound is.
    """
    effect = {"ratio_against": ratio, "difference": 0.0, "low": low, "high": high}
    return {"change": change, "quirk": quirk, "kind": kind, **effect}


def changes(rows: pd.DataFrame, pairs: Mapping[str, str], k: int) -> pd.DataFrame:
    """What each variant changes in bits per byte before and after, against another one on the same documents.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    pairs : mapping
        Variant -> the one it is compared with.
    k : int
        Neighbours.

    Returns
    -------
    DataFrame
        One row per (variant, domain): variant, domain, documents, before, after (change, bits/byte), each with the
        ends of its 95 % interval over documents resampled in pairs (_low, _high).
    """
    import pandas as pd

    made = []
    for name, against in pairs.items():
        joined = _scores(rows, name, k).merge(_scores(rows, against, k), on=KEY, suffixes=("", "_against"))
        for domain, part in joined.groupby("domain", sort=True):
            made.append({"variant": name, "domain": domain, "documents": len(part), **_changes(part)})
    return pd.DataFrame(made)


def _scores(rows: pd.DataFrame, variant: str, k: int) -> pd.DataFrame:
    """Size and nats of each document: the columns of KEY, bytes, before, after."""
    return ends(rows[rows["variant"] == variant], k, [*KEY, "bytes"])


def _changes(pairs: pd.DataFrame) -> dict[str, float]:
    columns = ["bytes", "before", "after", "before_against", "after_against"]
    size, before, after, before_against, after_against = resampled_sums([pairs[columns].to_numpy(float)])[:, 0].T
    found = {"before": before - before_against, "after": after - after_against}
    made: dict[str, float] = {}
    for when, nats in found.items():
        change = interval(nats / size / math.log(2))
        made |= {when: change.value, f"{when}_low": change.low, f"{when}_high": change.high}
    return made


def dropping(rows: pd.DataFrame, k: int, share: float) -> pd.DataFrame:
    """How far after / before can move where some documents are left out in the worst way.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    k : int
    share : float
        Of a domain's documents, rounded down, that may be left out.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, dropped (how many may be), ratio (of all), lowest and highest (of what is
        left, over all choices of that many).
    """
    import pandas as pd

    made = []
    for domain, (before, after) in _nats(rows, k).items():
        kept = len(before) - math.floor(share * len(before) + 1e-9)
        ends = {name: _extreme(before, after, kept, sign) for name, sign in (("lowest", 1), ("highest", -1))}
        ratio = after.sum() / before.sum()
        made.append({"domain": domain, "documents": len(before), "dropped": len(before) - kept, "ratio": ratio, **ends})
    return pd.DataFrame(made)


def _extreme(before: np.ndarray, after: np.ndarray, kept: int, sign: int) -> float:
    """The lowest (sign 1) or highest (sign -1) ratio of sums over `kept` documents, by Dinkelbach's method."""
    ratio = after.sum() / before.sum()
    while True:
        chosen = np.argsort(sign * (after - ratio * before), kind="stable")[:kept]
        found = after[chosen].sum() / before[chosen].sum()
        if sign * (ratio - found) < 1e-12:
            return float(found)
        ratio = found


def averages(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """After / before of a corpus, and as a mean over documents.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, ratio_against (ratio of sums), mean (of the documents' own ratios),
        difference (mean - ratio of sums) with its 95 % interval low, high over resampled documents.
    """
    import pandas as pd

    made = []
    for domain, (before, after) in _nats(rows, k).items():
        columns = np.stack([before, after, after / before, np.ones_like(before)], axis=1)
        sums = resampled_sums([columns])[:, 0].T
        ratio, mean = sums[1] / sums[0], sums[2] / sums[3]
        found = interval(mean - ratio)
        ends = {"difference": found.value, "low": found.low, "high": found.high}
        made.append({"domain": domain, "documents": len(before), "ratio_against": ratio[0], "mean": mean[0], **ends})
    return pd.DataFrame(made)


def sampling(rows: pd.DataFrame, k: int, tested: Mapping[str, int] | None = None) -> pd.DataFrame:
    """How wide the 95 % interval of after / before would be with as many documents as the published runs had.

    The width is taken to fall with the square root of the number of documents.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    k : int
    tested : mapping, optional
        Domain -> documents; default: `TESTED`.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, ratio_against, half_width (of the interval here), tested (documents there),
        half_width_tested.
    """
    import pandas as pd

    tested, made = tested or TESTED, []
    for domain, (before, after) in _nats(rows, k).items():
        found = bootstrap_ratio(after, before)
        half, count = (found.high - found.low) / 2, tested.get(domain)
        made.append({
            "domain": domain, "documents": len(before), "ratio_against": found.value, "half_width": half,
            "tested": count, "half_width_tested": half * math.sqrt(len(before) / count) if count else math.nan,
        })  # fmt: skip
    return pd.DataFrame(made)


def _nats(rows: pd.DataFrame, k: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nats of the documents before and after, by domain."""
    parts = ends(rows, k).groupby("domain", sort=True)
    return {str(name): (part["before"].to_numpy(), part["after"].to_numpy()) for name, part in parts}


def one_token_chunks(rows: pd.DataFrame) -> pd.DataFrame:
    """How often a last chunk of one token came up, by model.

    Returns
    -------
    DataFrame
        One row a model: model, neighbours, chunks (steps taken, and one-token chunks left out), one_token (how many
        were), share (of neighbours).
    """
    trained = rows[rows["k"] > 0]
    made = trained.groupby("model", sort=False).agg(
        neighbours=("k", "size"), steps=("steps", "sum"), one_token=("skipped", "sum")
    )  # fmt: skip
    made.insert(1, "chunks", made.pop("steps") + made["one_token"])
    return made.assign(share=made["one_token"] / made["neighbours"]).reset_index()
