"""What the published code does besides the method, and what each of it could change in a published ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tttnn.analysis.published import PILE_NAMES, published_curves, report_claims, tested_documents
from tttnn.analysis.scoring_effects import document_nats, dropping
from tttnn.analysis.statistics import bootstrap_ratio, ends, interval, resampled_sums
from tttnn.analysis.variant_effects import KEY, effects

if TYPE_CHECKING:
    import pandas as pd

REPORTED = {"github": "R03", "europarl": "R04", "books": "R05"}  # domain: claim with after/before in percent


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
          "has, each with an optimizer of its own that it keeps", "1 process, originally 8, 30 or 150", True),
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
    Quirk("part of the documents", f"{PAPER}: code/eval_tttlm.py", "a fifth of the test documents is drawn; results "
          "are saved after each, so that an unfinished run looks complete", "both, how far they got is unknown", True),
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """An archived variant that measures a quirk.

    Attributes
    ----------
    variant, against : str
        The variant, and the one that it is compared with.
    label : str
        What it is called in charts and tables.
    quirk : str
        Name of the quirk.
    """

    variant: str
    label: str
    quirk: str
    against: str = "nearest"


NO_EFFECT = ("logits cut", "context of the configuration", "offsets in characters")  # on GPT-2's bits per byte
CHANGES = (
    Change("kept-1", "optimizer kept", "optimizer kept"),
    Change("kept-3", "kept, 3 ranks", "optimizer kept"),
    Change("kept-reverse", "kept, other order", "ranks and order", "kept-1"),
    Change("dropout", "dropout 0.1", "dropout"),
    Change("bf16", "bf16 weights", "bf16 weights"),
    *(Change(f"shards-lost-{count}", f"{count} of 30 shards lost", "lost shards") for count in (1, 5, 15)),
)
RANKS = Change(
    "kept-1", "1 rank instead of 3", "ranks and order", "kept-3"
)  # the other way round, as the report had it
STOPPED = 5  # neighbours after which the control of the verdicts stops


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

    Models gain differently, so an effect counts by the share of the run's own gain that it costs.

    Parameters
    ----------
    effects : DataFrame
        Columns quirk (its name; missing for what is none), ratio_against (after / before without it), low, high (what
        bounds the effect on it: an interval, or a worst case) and difference.
    gap : Discrepancy

    Returns
    -------
    DataFrame
        The same with further columns. share, share_low, share_high: of the gain, what the effect costs. size: "large
        enough" (all of it costs the share that the discrepancy does), "cannot be excluded" (its upper end does), "too
        small" (none of it), "other direction" (all of it below 0), "no effect" (exactly none), "no gain to lose" or
        "nothing to explain". verdict: the size, or "same in both runs" where a quirk could not make the published runs
        differ.
    """
    gain = 1 - effects["ratio_against"]
    columns = {"share": "difference", "share_low": "low", "share_high": "high"}
    made = effects.assign(**{share: (effects[column] / gain).where(gain > 0) for share, column in columns.items()})
    bounds = zip(made["share_low"], made["share_high"], strict=True)
    made["size"] = [_size(low, high, gap.lost) for low, high in bounds]
    differs = {quirk.name: quirk.differs for quirk in QUIRKS}
    alike = made["quirk"].map(differs).eq(False) & ~made["size"].isin(["no effect", "nothing to explain"])
    return made.assign(verdict=made["size"].mask(alike, "same in both runs"))


def _size(low: float, high: float, lost: float) -> str:
    if lost <= 0:
        return "nothing to explain"
    if math.isnan(low):
        return "no gain to lose"
    if low == high == 0:
        return "no effect"
    if high < 0:
        return "other direction"
    if high < lost:
        return "too small"
    return "large enough" if low >= lost else "cannot be excluded"


def measured_effects(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """What each of `CHANGES` does to after / before, `RANKS`, and for a control to stop after `STOPPED` neighbours.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    k : int

    Returns
    -------
    DataFrame
        Of :func:`tttnn.analysis.variant_effects.effects`, with the columns change (what it is called), quirk (missing
        for the control) and kind (what bounds the effect).
    """
    import pandas as pd

    early = rows[(rows["variant"] == "nearest") & (rows["k"] <= STOPPED)].assign(variant="stopped")
    every = pd.concat([early, rows])
    control = Change("stopped", f"control: stopped after {STOPPED}", "")
    made = [
        effects(every, {change.variant: change.against}, k).assign(change=change.label, quirk=change.quirk or None)
        for change in (control, *CHANGES, RANKS)
    ]
    return pd.concat(made, ignore_index=True).assign(kind="95% interval")


def bounded_effects(rows: pd.DataFrame, domain: str, k: int) -> pd.DataFrame:
    """What the choice of documents could do to after / before of a domain, and what does nothing.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    domain : str
    k : int

    Returns
    -------
    DataFrame
        Columns change, quirk, kind, ratio_against, difference, low, high: lines for :func:`judged`.
    """
    import pandas as pd

    own = rows[rows["domain"] == domain]
    chance = sampling(own, k).iloc[0]
    ratio, half = chance["ratio_against"], chance["half_width_tested"]
    made = [
        _stated("other documents, as many", "part of the documents", ratio, 0, -half, half, "95% interval"),
    ]
    for share in (0.05, 0.1):
        line = dropping(own, k, share).iloc[0]
        spread = line["lowest"] - ratio, line["highest"] - ratio
        made.append(_stated(f"{share:.0%} of documents dropped", "documents dropped", ratio, 0, *spread, "worst case"))
    made += [_stated(name, name, ratio) for name in NO_EFFECT]
    return pd.DataFrame(made)


def _stated(
    change: str, quirk: str, ratio: float, difference: float = 0.0, low: float = 0.0, high: float = 0.0,
    kind: str = "by construction",
) -> dict[str, str | float]:  # fmt: skip
    """A line for :func:`judged` of an effect that is bounded, or is none at all.

    Parameters
    ----------
    change : str
        What is changed, for the table.
    quirk : str
        Name of the quirk.
    ratio : float
        After / before without it.
    difference, low, high : float
        Of the ratio, and what bounds it.
    kind : str
        What the bound is.
    """
    effect = {"ratio_against": ratio, "difference": difference, "low": low, "high": high}
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
        ends of its 95% interval over documents resampled in pairs (_low, _high).
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


def sampling(rows: pd.DataFrame, k: int, tested: Mapping[str, int] | None = None) -> pd.DataFrame:
    """How wide the 95% interval of after / before would be with as many documents as the published runs had.

    The width is taken to fall with the square root of the number of documents.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    k : int
    tested : mapping, optional
        Domain -> documents; default: :func:`~tttnn.analysis.published.tested_documents`.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, ratio_against, half_width (of the interval here), tested (documents there),
        half_width_tested.
    """
    import pandas as pd

    tested, made = tested or tested_documents(), []
    for domain, (before, after) in document_nats(rows, k).items():
        found = bootstrap_ratio(after, before)
        half, count = (found.high - found.low) / 2, tested.get(domain)
        made.append({
            "domain": domain, "documents": len(before), "ratio_against": found.value, "half_width": half,
            "tested": count, "half_width_tested": half * math.sqrt(len(before) / count) if count else math.nan,
        })  # fmt: skip
    return pd.DataFrame(made)
