"""The page of a trial: is it worth it, what does it cost, where does the gain come from, what to use."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tttnn.analysis.advice import ALL, NO, SIMPLER, SIMPLER_YES, SMALL_YES, TOO_FEW, UNCLEAR, YES
from tttnn.report.charts import compared_chart, gain_curve_chart
from tttnn.report.one_page import Markup, code, fold, page, section
from tttnn.report.shaded import compare, token_texts
from tttnn.report.tables import Table, table
from tttnn.studies.trial_plan import LEAST

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.analysis.advice import Advice
    from tttnn.report.figures import Figure
    from tttnn.studies.trial import Request, Trial

KEYS = ("device", "skip_bad", "text_key", "domain_key", "held_out")
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


def trial_page(trial: Trial, advice: Advice) -> str:
    """Return the whole page as HTML that needs no network."""
    facts = trial.facts
    sections = [
        section("Bits per byte, before and after", *_bits(trial, advice)),
        section("How many neighbours", *_curve(advice)),
        section("What it costs", *_cost(trial, advice)),
        section("Where the gain comes from", *_origin(advice)),
        section("What simpler things bring on the same documents", *_simpler(advice)),
        section("What to use", settings_table(trial, advice), "To evaluate the whole test part so:",
                code(full_command(trial, advice))),
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
    answer = (
        f"{OPENING[advice.verdict]}: after training on {_neighbours(advice.k)}, {trial.facts['model']} needs "
        f"{100 * advice.ratio.value:.1f}% of its bits{span} on {documents} of {trial.facts['corpus']}."
    )
    return f"{answer} {_caution(advice)}".strip()


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
        best = advice.simpler.loc[advice.simpler["difference"].idxmin()]
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
        "after": advice.after, "ratio": advice.ratio.value, "low": advice.ratio.low, "high": advice.ratio.high,
    }])  # fmt: skip
    rows = whole if len(named) < 2 else pd.concat([whole, named[whole.columns]], ignore_index=True)
    alt = (
        f"Bits per byte of {advice.documents} documents: {advice.before:.3f} before and {advice.after:.3f} after "
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
    return [text, domains_figure(trial, advice)]


def _curve(advice: Advice) -> list[Any]:
    if advice.best_k:
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
        f"{train} for {cost['steps']:.0f} steps, {score} to score it. That is {cost['times']:,.0f} times what scoring "
        "alone takes."
    )
    if facts.get("documents"):
        whole = f"The test part has {facts['documents']:,} documents with {facts['bytes'] / 1000:,.0f} kB of text."
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
    shown = found.assign(share=found["share"].round(2) + 0.0, gain=_points(found, "points"))
    shown = shown.rename(columns={"part": "what is added", "share": "share_of_the_gain"})
    columns = ["what is added", "documents", "gain", "share_of_the_gain"]
    caption = "The gain, taken apart: each line is what it adds to those above it, in points of after / before."
    return table(shown[columns], caption, {"gain": "points, 95% interval"}, {"share_of_the_gain": ".0%"})


def copied_table(advice: Advice) -> Table:
    """The gain by how much of a document stands in its neighbours."""
    shown = advice.copied.rename(columns={"overlap": "documents that are", "share": "share_of_bits_saved"})
    caption = "The same gain by how much of a document stands, letter by letter, in one of its neighbours."
    return table(shown, caption, formats={"ratio": ".1%", "share_of_bits_saved": ".0%"})


def _origin(advice: Advice) -> list[Any]:
    return [origin_table(advice) or NO_TIME, copied_table(advice)]


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
    most = ", and the most that were tried" if advice.best_k == advice.k else ""
    rows = [
        ("k", str(advice.best_k), "fewest neighbours with nine tenths of the best gain" + most),
        ("learning rate", f"{advice.learning_rate:g}",
         f"tried: {facts['learning_rate']:g}; {tried or 'no other'}; another is taken if it is surely better"),
        ("precision of steps", facts["precision"], "bfloat16 for a large model where the processor is made for it"),
        ("embedder", trial.request.embedder, "the one tried; another needs another trial"),
        ("chunks of a neighbour", f"at most {plan.max_chunks}" if plan.max_chunks else "all",
         f"of {facts['chunk']:,} tokens; what the time allowed"),
    ]  # fmt: skip
    return table(pd.DataFrame(rows, columns=["setting", "use", "because"]), "Settings for this corpus and model.")


def full_command(trial: Trial, advice: Advice) -> str:
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
    part = "" if facts["indexed_all"] else ", a random part of them: a full index finds nearer neighbours"
    items = [
        f"{advice.documents} documents of the split {asked.split}, drawn with seed {asked.seed}{limit}.",
        f"{facts['indexed']:,} documents in the index{part}.",
        *facts["corpus_facts"],
        f"A model of {facts['parameters'] / 1e6:,.1f} M weights; seen in its pre-training: {facts['saw_domains']}.",
        "Intervals are over documents: they say what other documents of the same kind would give, not other corpora, "
        "models, learning rates or embedders.",
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
