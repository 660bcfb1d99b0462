"""The page of a trial: is it worth it, what does it cost, where does the gain come from, what to use."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tttnn.analysis.advice import ALL, NO, SIMPLER, SIMPLER_YES, SMALL_YES, TOO_FEW, UNCLEAR, YES, surely_better
from tttnn.report.charts import compared_chart, gain_curve_chart
from tttnn.report.one_page import Markup, code, fold, page, section
from tttnn.report.shaded import compare, token_texts
from tttnn.report.tables import Table, table
from tttnn.studies.trial_plan import LEAST, NEAREST, most_neighbours

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.analysis.advice import Advice
    from tttnn.report.figures import Figure
    from tttnn.studies.trial import Request, Trial

KEYS = ("device", "skip_bad", "text_key", "domain_key", "held_out", "embedder_type", "prefix", "settings")
NO_TIME = "There was no time to compare; more minutes make it."
MOST_DOMAINS = 12  # in a chart
GAINS, LEAST_GAIN, LOSES = "The document that gains most", "The document that gains least", "A document that loses"
OPENING = {
    YES: "Worth it",
    SMALL_YES: "Hardly worth it",
    SIMPLER_YES: "Neighbours help, but something simpler helps more",
    NO: "Not worth it",
    UNCLEAR: "Not decided",
    TOO_FEW: "Too few documents to tell",
}
POOR_START = "Bits fall, but from a poor start"  # where deflate needs fewer before


def trial_page(trial: Trial, advice: Advice) -> str:
    """Return the whole page as HTML that needs no network."""
    facts = trial.facts
    sections = [
        section("Bits per byte, before and after", *_bits(trial, advice)),
        section("How many neighbours", *_curve(trial, advice)),
        section("What it costs", *_cost(trial, advice)),
        section("Where the gain comes from", *_origin(advice)),
        section("What simpler things bring on the same documents", *_simpler(advice)),
        section("What to use", settings_table(trial, advice), f"To evaluate the whole test part so{_instead(trial)}:",
                code(_full_command(trial, advice))),
        section("What this was measured on, and what it does not cover", *_limits(trial, advice)),
        *_views(trial),
    ]  # fmt: skip
    version = ", ".join(f"{name} {each}" for name, each in facts["versions"].items())
    foot = f"Made {facts['date']} by: {again(trial)} (commit {facts['commit']}; {facts['machine']}; {version})"
    title = f"Test-time training on neighbours: {facts['corpus']} with {facts['model']}"
    return page(title, lead(trial, advice), sections, foot)


def lead(trial: Trial, advice: Advice) -> str:
    """The answer: one sentence with its interval, and a second one where the first could mislead."""
    span = (
        ""
        if advice.verdict == TOO_FEW
        else f" (95% interval {100 * advice.ratio.low:.1f} to {100 * advice.ratio.high:.1f}%)"
    )
    documents = f"{advice.documents} document{'s' * (advice.documents != 1)}"
    poor = advice.verdict in (YES, SMALL_YES) and advice.before > advice.deflate
    opening = POOR_START if poor else OPENING[advice.verdict]
    answer = (
        f"{opening}: after training on {_neighbours(advice.k)}, {trial.facts['model']} needs "
        f"{100 * advice.ratio.value:.1f}% of its bits{span} on {documents} of {trial.facts['corpus']}."
    )
    return " ".join(filter(None, [answer, _further(trial, advice), _caution(advice)]))


def _further(trial: Trial, advice: Advice) -> str:
    """Where a full run should end, if the trial had no time for all of its steps."""
    if advice.verdict == TOO_FEW or advice.full == advice.ratio or not math.isfinite(advice.full.high):
        return ""
    k = most_neighbours(trial.request.k, trial.facts["indexed"])
    left = [_neighbours(k)] if k > advice.k else []
    left += ["all of their text"] if trial.plan.max_chunks else []
    return (
        f"A full run, on {' and '.join(left)}, should end between {100 * advice.full.low:.0f} and "
        f"{100 * advice.full.high:.0f}%."
    )


def _instead(trial: Trial) -> str:
    """What to change in the command for all neighbours and all of their text."""
    k, plan = most_neighbours(trial.request.k, trial.facts["indexed"]), trial.plan
    changes = [f"with --ks 0,{k}"] if k > plan.k else []
    changes += ["without --max-chunks"] if plan.max_chunks else []
    return f" (for a full run {' and '.join(changes)})" if changes else ""


def _neighbours(k: int) -> str:
    return f"{k} neighbour{'s' * (k != 1)}"


def _caution(advice: Advice) -> str:
    if advice.before > advice.deflate:
        return (
            f"Yet deflate, a plain compressor, needs {advice.deflate:.2f} bits per byte where this model needs "
            f"{advice.before:.2f} before: a model that knows such text better comes first."
        )
    if advice.verdict == UNCLEAR:
        return "Chance alone could explain such a difference; more minutes mean more documents."
    if advice.verdict == SIMPLER_YES:
        sure = surely_better(advice.simpler)
        best = sure.loc[sure["difference"].idxmin()]
        return (
            f"The simpler thing is {SIMPLER[best['way']]}: {100 * best['ratio']:.1f}% on the documents that had both."
        )
    return ""


def domains_figure(trial: Trial, advice: Advice) -> Figure:
    """Bits per byte before and after by domain, beside deflate's."""
    import pandas as pd

    named = advice.domains.sort_values("documents", ascending=False).head(MOST_DOMAINS)
    whole = pd.DataFrame([{
        "domain": ALL, "documents": advice.documents, "deflate": advice.deflate, "before": advice.before,
        "after": advice.after, **advice.ratio.columns("ratio"),
    }])  # fmt: skip
    rows = whole if len(named) < 2 else pd.concat([whole, named[whole.columns]], ignore_index=True)
    alt = (
        f"Bits per byte of {advice.documents} document{'s' * (advice.documents != 1)}: "
        f"{advice.before:.3f} before and {advice.after:.3f} after "
        f"{_neighbours(advice.k)}; deflate {advice.deflate:.3f}."
    )
    return compared_chart(
        rows.dropna(subset=["before", "after"]).assign(model=trial.facts["model"]), "fig-try-bits", alt
    )


def curve_figure(advice: Advice) -> Figure:
    """After / before over k."""
    last = advice.curve.iloc[-1]
    alt = (
        f"Bits after / before over the number of neighbours: {100 * last['ratio']:.1f}% at k = {int(last['k'])}; "
        f"nine tenths of the best gain at k = {advice.best_k}."
    )
    return gain_curve_chart(advice.curve, "fig-try-curve", alt)


def _bits(trial: Trial, advice: Advice) -> list[Any]:
    failed = f" {advice.failures} more could not be scored; the rows say why." if advice.failures else ""
    text = (
        f"{advice.before:.3f} bits per byte before, {advice.after:.3f} after; deflate, which knows no language, needs "
        f"{advice.deflate:.3f} for the same documents.{failed}"
    )
    return [text, domains_figure(trial, advice), *([domains_table(advice)] if len(advice.domains) > 1 else [])]


def domains_table(advice: Advice) -> Table:
    """Each domain by itself: what was measured, and where a full run should end."""
    found = advice.domains.sort_values("documents", ascending=False).head(MOST_DOMAINS)
    shown = found.assign(
        **{"after / before": _percent(found, "ratio", "low", "high")},
        full_run=_percent(found, "", "full_low", "full_high"),
    )
    more = len(advice.domains) - len(found)
    caption = (
        f"Each domain by itself{f', of the {more} others none has more documents' if more else ''}. An interval needs "
        f"{LEAST} documents; a full run has all neighbours and all of their text."
    )
    columns = ["domain", "documents", "deflate", "before", "after", "after / before", "full_run"]
    units = {"deflate": "bits/byte", "before": "bits/byte", "after": "bits/byte", "after / before": "%, 95% interval",
             "full_run": "%"}  # fmt: skip
    bits = dict.fromkeys(("deflate", "before", "after"), ".3f")
    return table(shown[columns], caption, units, bits)


def _percent(found: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """Ratios in percent with their interval, or the interval alone, where there are documents enough for one."""
    texts = []
    for row in found.to_dict("records"):
        span = f"{100 * row[low]:.1f} to {100 * row[high]:.1f}" if row["documents"] >= LEAST else ""
        mean = f"{100 * row[value]:.1f}" if value else ""
        texts.append(f"{mean} ({span})" if mean and span else mean or span or "–")
    return texts


def _part_of_index(trial: Trial) -> str:
    """What a small index allows, where fewer neighbours than asked for were taken for that alone; else nothing."""
    most = most_neighbours(trial.request.k, trial.facts["indexed"])
    if not trial.plan.k == most < trial.request.k:
        return ""
    return f"of {_counted(trial.facts['indexed'], 'indexed document')} at most a quarter is trained on"


def _counted(count: float, word: str) -> str:
    return f"{count:,.0f} {word}{'' if round(count) == 1 else 's'}"


def _curve(trial: Trial, advice: Advice) -> list[Any]:
    if len(advice.curve) < 3 and trial.plan.curve and (why := _part_of_index(trial)):
        text = f"There is no score between 0 and {advice.k}: {why}."
    elif len(advice.curve) < 3:
        text = f"Each score takes long, so there was none between 0 and {advice.k}; more minutes make the curve."
    elif advice.best_k:
        text = f"Nine tenths of the best gain, or more, are there at k = {advice.best_k}, of the places scored."
    else:
        text = "No number of neighbours brought a gain."
    return [text, curve_figure(advice)]


def cost_table(trial: Trial, advice: Advice) -> Table:
    """Seconds of a document and of the whole test part, for each machine that is known."""
    import pandas as pd

    cost = advice.cost
    rows = [
        {"machine": f"this one: {trial.facts['machine']}", "a document": _time(cost["each"]),
         "the whole test part": _time(cost["whole"])},
    ]  # fmt: skip
    if "gpu" in cost:
        rows += [{
            "machine": f"{cost['gpu']['name']} (archived rows of the same model, scaled by tokens)",
            "a document": _time(cost["gpu"]["each"]), "the whole test part": _time(cost["gpu"]["whole"]),
        }]  # fmt: skip
    return table(pd.DataFrame(rows), f"Time to adapt and score, with {_neighbours(advice.k)}, one document at a time.")


def _cost(trial: Trial, advice: Advice) -> list[Any]:
    cost, facts = advice.cost, trial.facts
    find, train, score = (_time(cost[name]) for name in ("retrieval", "train", "score"))
    text = (
        f"A document of {cost['bytes']:,.0f} bytes takes {_time(cost['each'])} here: {find} to find its neighbours, "
        f"{train} for {_counted(cost['steps'], 'step')}, {score} to score it. That is {cost['times']:,.0f} times "
        "what scoring alone takes."
    )
    if facts.get("documents"):
        documents = _counted(facts["documents"], "document")
        whole = f"The test part has {documents} with {facts['bytes'] / 1000:,.0f} kB of text."
    else:
        whole = "The corpus is too large to be counted in this time, so the time for all of it is not known."
    return [text, whole, cost_table(trial, advice)]


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def origin_table(advice: Advice) -> Table | None:
    """What the gain is made of; None where nothing was compared."""
    found = advice.origin
    if found.empty:
        return None
    share = found["share"].where(found["documents"] >= LEAST)  # of one document it would say nothing
    shown = found.assign(share=share.round(2) + 0.0, gain=_points(found, "points"))
    shown = shown.rename(columns={"part": "what is added", "share": "share_of_the_gain"})
    columns = ["what is added", "documents", "gain", "share_of_the_gain"]
    caption = "The gain, taken apart: each line is what it adds to those above it, in points of after / before."
    return table(shown[columns], caption, {"gain": "points, 95% interval"}, {"share_of_the_gain": ".0%"})


def _copied_table(advice: Advice) -> Table:
    """The gain by how much of a document stands in its neighbours."""
    shown = advice.copied.rename(columns={"overlap": "documents that are", "share": "share_of_bits_saved"})
    caption = "The same gain by how much of a document stands, letter by letter, in one of its neighbours."
    return table(shown, caption, formats={"ratio": ".1%", "share_of_bits_saved": ".0%"})


def _origin(advice: Advice) -> list[Any]:
    return [origin_table(advice) or NO_TIME, _copied_table(advice)]


def simpler_table(advice: Advice) -> Table | None:
    """What can be had without an index or without steps; None where nothing was compared."""
    found = advice.simpler
    if found.empty:
        return None
    shown = found.assign(way=found["way"].map(SIMPLER), lead=_points(found, "difference"))[
        ["way", "documents", "ratio", "ratio_nearest", "lead"]
    ]
    caption = "After / before on the same documents; a lead above 0 means that neighbours are better."
    names = {"ratio_nearest": "training_on_neighbours", "lead": "lead of neighbours"}
    percent = {"ratio": ".1%", "training_on_neighbours": ".1%"}
    return table(shown.rename(columns=names), caption, {"lead of neighbours": "points"}, percent)


def _simpler(advice: Advice) -> list[Any]:
    return [simpler_table(advice) or NO_TIME]


def _points(found: pd.DataFrame, value: str) -> list[str]:
    """A column in points with its interval, which few documents do not have."""
    points = (100 * found[[value, "low", "high"]]).round(1) + 0.0  # no minus before a zero
    return [
        f"{mean:.1f} ({low:.1f} to {high:.1f})" if count >= LEAST else f"{mean:.1f}"
        for count, mean, low, high in zip(found["documents"], *(points[name] for name in points), strict=True)
    ]


def settings_table(trial: Trial, advice: Advice) -> Table:
    """The settings to use, and why."""
    import pandas as pd

    plan, facts = trial.plan, trial.facts
    tried = ", ".join(
        f"{float(row.way.removeprefix('rate-')):g} times that: {row.ratio:.1%} against {row.ratio_nearest:.1%}"
        for row in advice.rates.itertuples()
    )
    why = "fewest neighbours with nine tenths of the best gain"
    if advice.best_k == advice.k:
        why += ", and the most that were tried" + (f": {part}" if (part := _part_of_index(trial)) else "")
    left_out = trial.rows.loc[trial.rows["variant"] == NEAREST, "beyond"].sum() > 0
    rows = [
        ("k", str(advice.best_k), why if plan.curve else "what the time allowed; fewer were not tried"),
        ("learning rate", f"{advice.learning_rate:g}",
         f"tried: {facts['learning_rate']:g}; {tried or 'no other'}; another is taken if it is surely better"),
        ("precision of steps", facts["precision"], "bfloat16 for a large model where the processor is made for it"),
        ("embedder", trial.request.embedder, "the one tried; another needs another trial"),
        ("chunks of a neighbour", f"at most {plan.max_chunks}" if plan.max_chunks and left_out else "all",
         f"of {facts['chunk']:,} tokens; {'what the time allowed' if left_out else 'no neighbour had more'}"),
    ]  # fmt: skip
    return table(pd.DataFrame(rows, columns=["setting", "use", "because"]), "Settings for this corpus and model.")


def _full_command(trial: Trial, advice: Advice) -> str:
    """The command that evaluates the whole thing."""
    asked, plan = trial.request, trial.plan
    k = advice.best_k or advice.k
    ks = ",".join(str(each) for each in sorted({0, k}))
    count = trial.facts.get("documents") or 1000
    words = ["python", "-m", "tttnn", "run", "--corpus", asked.corpus, "--model", asked.model, "--embedder",
             asked.embedder, "--ks", ks, "--learning-rate", f"{advice.learning_rate:g}", "--per-domain",
             str(count)]  # fmt: skip
    words += ["--max-chunks", str(plan.max_chunks)] if plan.max_chunks else []
    words += ["--precision", "bfloat16"] if trial.facts["precision"] == "bfloat16" else []
    words += _options(asked, ("split", *KEYS))
    return shlex.join([*words, "--out", f"{trial.folder.name}-full"])


def _options(asked: Request, names: Iterable[str]) -> list[str]:
    """Options of a command, where they are not the usual ones."""
    usual, words = type(asked)(asked.corpus, asked.model), []
    for name in names:
        if (value := getattr(asked, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


def again(trial: Trial) -> str:
    """The command that made the page."""
    asked = trial.request
    words = ["python", "-m", "tttnn", "try", asked.corpus, "--model", asked.model, "--minutes", f"{asked.minutes:g}"]
    words += _options(asked, ("embedder", "k", "documents", "learning_rate", "split", "seed", "threads", *KEYS))
    return shlex.join([*words, "--out", str(trial.folder)])


def _limits(trial: Trial, advice: Advice) -> list[Any]:
    facts, asked = trial.facts, trial.request
    skipped, longest = _longer(trial)
    limit = (
        f"; {skipped} drawn ones of more than {longest:,} bytes found no time, and may behave otherwise"
        if skipped
        else ""
    )
    which = "part of the first ones in each file" if facts["cut_short"] else "part of them"
    part = "" if facts["indexed_all"] else f", a random {which}: a full index finds nearer neighbours"
    items = [
        f"{_counted(advice.documents, 'document')} of the split {asked.split}, drawn with seed {asked.seed}{limit}.",
        f"{_counted(facts['indexed'], 'document')} in the index{part}.",
        *facts["corpus_facts"],
        f"A model of {facts['parameters'] / 1e6:,.1f} M weights; seen in its pre-training: {facts['saw_domains']}.",
        "An interval says where all documents of this kind would be, measured in the same way: 19 of 20 such trials "
        "are to hold them. It knows nothing of other corpora, models, learning rates or embedders.",
        "What a full run brings is read off the last part of the curve: each doubling of the steps is taken to bring "
        "what the last one brought.",
        "Bits per byte measure how well text is predicted. Whether answers to questions get better was not measured.",
    ]
    return [Markup("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>")]


def _longer(trial: Trial) -> tuple[int, int]:
    """How many drawn documents were longer than all that were evaluated, and the size of the longest of these."""
    key = ["domain", "document"]
    done = trial.documents.merge(trial.rows[key].drop_duplicates(), on=key)
    longest = int(done["bytes"].max())
    return int((trial.documents["bytes"] > longest).sum()), longest


def _views(trial: Trial) -> list[str]:
    made: list[str] = []
    for view in trial.views:
        kind = LOSES if view["ratio"] >= 1 else LEAST_GAIN if made else GAINS
        title = f"{kind}: {view['domain']} {view['document']}"
        made.append(section(title, *_view(trial, view)))
    return made


def _view(trial: Trial, view: dict[str, Any]) -> list[Any]:
    pieces = token_texts(trial.tokenizer, view["text"])[: len(view["before"])]
    text = f"It needs {100 * view['ratio']:.1f}% of its bits after {_neighbours(view['k'])}."
    shown = f", first {len(pieces)} of {view['tokens']:,} tokens" if len(pieces) < view["tokens"] else ""
    tokens = compare(pieces, view["before"], view["after"], f"Change of each token's cost{shown}")
    near = [
        fold(f"Neighbour {n}: {each['source'] or 'unknown source'} ({each['overlap']:.0%} of the document is in it)",
             Markup(f"<pre class='text'>{html.escape(each['text'])}</pre>"))
        for n, each in enumerate(view["neighbours"], start=1)
    ]  # fmt: skip
    return [text, Markup(f'<div class="columns"><div>{tokens._repr_html_()}</div><div>{"".join(near)}</div></div>')]
