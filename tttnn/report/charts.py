"""The book's charts: result tables in, figures out; nothing is computed here that a test would want to check.

Every chart names its units, tells series apart by shape or dash as well as by colour, and lists its numbers below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tttnn.analysis.timings import LOOPS
from tttnn.report.figures import PALETTE, Figure, colours, figure, shapes

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

CURVE_ROWS = {
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "loss": "training loss (nats/token)",
}
# Columns as headings of the data below a chart, and in what is shown beside a mark.
UNITS = {
    "before": "before (bits/byte)", "after": "after (bits/byte)", "ratio": "after / before",
    "low": "ratio, 95% low", "high": "ratio, 95% high", "better": "share of documents better",
    "bits_per_byte": "bits per byte", "byte_perplexity": "byte perplexity", "loss": "training loss (nats/token)",
    "seconds": "seconds per neighbour", "distance": "squared L2 distance",
}  # fmt: skip
SAID = UNITS | {
    "k": "neighbours, k", "rank": "rank of the neighbour", "interval": "95% interval", "same_unit": "same unit",
    "deflate": "deflate (bits/byte)", "memory": "resident memory (MB)", "latency": "median of a query (ms)",
    "recall": "recall@20", "overlap": "share of the query in the neighbour", "timed": "what is timed",
    "tokens": "tokens of the neighbour", "when": "adaptation", "size": "vectors x dimension",
    "kind": "kind of index", "task": "domain", "against": "compared with", "gain": "gain (points)",
}  # fmt: skip
COUNT = ",d"
ENOUGH = 0.95  # recall from which a kind of index is drawn as one that will do
SERIES = {"domain": "line", "series": "mark"}  # of charts whose lines and marks may be anything


def _tips(*columns: str, titles: Mapping[str, str] | None = None, **formats: str) -> list[alt.Tooltip]:
    """What is shown beside a mark: names, then numbers with their formats, each under words with its unit."""
    import altair as alt

    words = SAID | dict(titles or {})
    names = [alt.Tooltip(f"{column}:N", title=words.get(column, column)) for column in columns]
    numbers = [
        alt.Tooltip(f"{column}:Q", title=words.get(column, column), format=spec) for column, spec in formats.items()
    ]
    return names + numbers


def _interval(number: str) -> str:
    """The expression for an interval in words; a value may have none."""
    ends = f"format(datum.low, '{number}') + ' to ' + format(datum.high, '{number}')"
    return f"isValid(datum.low) ? {ends} : 'none'"


def _finer(number: str) -> str:
    """The format of a value beside its mark: one digit more than the axis has."""
    return re.sub(r"\.(\d)", lambda found: f".{int(found[1]) + 1}", number)


def _looks(field: str, names: Sequence[str], title: str | None = None) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of a series. With the names given, the two share one legend."""
    import altair as alt

    colour, shape = (alt.Scale(domain=list(names), range=each(names)) for each in (colours, shapes))
    legend = alt.Legend(symbolOpacity=1)  # also where the marks let others through
    return (
        alt.Color(f"{field}:N", scale=colour, title=title, legend=legend),
        alt.Shape(f"{field}:N", scale=shape, title=title),
    )


def _ratio_axis() -> alt.Y:
    """After / before from below to above: in percent, and not from 0."""
    import altair as alt

    return alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))


def _k_axis() -> alt.X:
    """Neighbours that were trained on, from left to right: whole numbers."""
    import altair as alt

    return alt.X("k:Q", title="neighbours trained on, k", axis=alt.Axis(tickMinStep=1, format="d"))


def _named_rules(marks: Mapping[float, str], shown: pd.Series, top: float = 2) -> list[alt.Chart]:
    """Lines at values that mean something, each with its name beside it: on the side where the picture goes on.

    The first name is `top` pixels below the upper edge.
    """
    import altair as alt
    import pandas as pd

    middle = (min(shown.min(), *marks) + max(shown.max(), *marks)) / 2 if marks else 0.0
    layers = [alt.Chart(pd.DataFrame({"at": list(marks)})).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")]
    for line, (at, meaning) in enumerate(marks.items()):
        side = {"align": "right", "dx": -4} if at > middle else {"align": "left", "dx": 4}
        name = alt.Chart(pd.DataFrame({"at": [at], "meaning": [meaning]}))
        layers.append(
            name.mark_text(baseline="top", fontSize=11, **side).encode(
                x="at:Q", y=alt.value(top + 12 * line), text="meaning:N"
            )
        )
    return layers


def _panels(chart: alt.LayerChart, domains: Sequence[str], columns: int) -> alt.FacetChart:
    """A panel for each domain, each with an axis of its own: a shared one would stand below empty places, too."""
    import altair as alt

    panels = chart.facet(alt.Facet("domain:N", sort=list(domains), title=None), columns=columns)
    return panels.resolve_axis(x="independent") if len(domains) % columns else panels


def curve_chart(curve: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Perplexity, bits per byte and training loss over the number of neighbours (Figure 3 of the report).

    Parameters
    ----------
    curve : DataFrame
        Of :func:`tttnn.analysis.statistics.curve`.
    """
    import altair as alt

    panels = [_curve_panel(curve, column) for column in CURVE_ROWS]
    chart = alt.vconcat(*panels).resolve_scale(color="shared", strokeDash="shared")
    columns = ["domain", "k", *CURVE_ROWS, "ratio"]
    return figure(chart, name, alt_text, curve[columns].rename(columns=UNITS))


def _curve_panel(curve: pd.DataFrame, column: str) -> alt.Chart:
    import altair as alt

    legend = alt.Legend(symbolType="stroke", symbolSize=200) if column == next(iter(CURVE_ROWS)) else None
    names = sorted(curve["domain"].unique())
    data = curve[["domain", "k", column]].dropna()
    return alt.Chart(data).mark_line().encode(
        x=_k_axis(),
        y=alt.Y(f"{column}:Q", title=CURVE_ROWS[column], scale=alt.Scale(zero=False)),
        color=_looks("domain", names, "domain")[0].legend(legend),
        strokeDash=alt.StrokeDash("domain:N", title="domain", legend=legend, scale=alt.Scale(domain=names)),
        tooltip=_tips("domain", titles={}, k=COUNT, **{column: ".4f"}),
    ).properties(width=540, height=190)  # fmt: skip


def gain_curve_chart(curve: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """After / before over the number of neighbours, pooled over documents, with its interval as a band.

    Parameters
    ----------
    curve : DataFrame
        Columns k, bits_per_byte, ratio, low, high.
    """
    import altair as alt

    data = curve[["k", "bits_per_byte", "ratio", "low", "high"]]
    percent, above = alt.Axis(format="%", tickCount=5), alt.Scale(zero=False)
    x = _k_axis().axis(values=data["k"].tolist(), format="d")
    y = alt.Y("ratio:Q", title="bits after / before", axis=percent, scale=above)
    band = (
        alt.Chart(data).mark_area(opacity=0.2, color=PALETTE[0]).encode(x=x, y=alt.Y("low:Q", scale=above), y2="high:Q")
    )
    line = alt.Chart(data).transform_calculate(interval=_interval(".1%")).mark_line(
        color=PALETTE[0], point={"size": 60, "color": PALETTE[0]}
    ).encode(
        x=x, y=y, tooltip=_tips("interval", k=COUNT, ratio=".1%", bits_per_byte=".3f")
    )  # fmt: skip
    chart = (band + line).properties(height=260)
    return figure(chart, name, alt_text, data.rename(columns=UNITS))


def cost_chart(cost: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Seconds per neighbour by domain: training alone, and with the scoring after it (Figure 1 of the report).

    Parameters
    ----------
    cost : DataFrame
        Of :func:`tttnn.analysis.timings.per_neighbour`.
    """
    import altair as alt

    order = cost.groupby("domain")["seconds"].max().sort_values().index.tolist()
    hue, shape = _looks("timed", cost["timed"].drop_duplicates().tolist(), "what is timed")
    chart = alt.Chart(cost).mark_point(size=90, filled=True).encode(
        x=alt.X("seconds:Q", title="mean seconds per neighbour", scale=alt.Scale(zero=True)),
        y=alt.Y("domain:N", sort=order, title=None),
        color=hue, shape=shape, tooltip=_tips("domain", "timed", seconds=".3f"),
    ).properties(height={"step": 30})  # fmt: skip
    return figure(chart, name, alt_text, cost.rename(columns=UNITS))


def distance_chart(counts: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Histogram of neighbours' distances, a small panel per domain.

    Parameters
    ----------
    counts : DataFrame
        Of :func:`tttnn.studies.neighbourhoods.distance_histogram`.
    """
    import altair as alt

    named = {"rank": "neighbour", "low": "distance from (squared L2)", "high": "to", "share": "share of queries"}
    ranks = counts["rank"].drop_duplicates().tolist()
    # Bars, and outlines over them. Vega-Lite merges the legends of channels whose scales have the same domain.
    filled = alt.Scale(domain=ranks, range=[0.8, 0.0][: len(ranks)])
    shown = {"title": "distance of the neighbour at"}
    hue = shown | {"scale": alt.Scale(domain=ranks)}
    chart = alt.Chart(counts).mark_bar(strokeWidth=1.5).encode(
        x=alt.X("low:Q", title="squared L2 distance", axis=alt.Axis(tickCount=5)), x2="high:Q",
        y=alt.Y("share:Q", title="share of queries", stack=None, axis=alt.Axis(format="%")), y2=alt.datum(0),
        fill=alt.Fill("rank:N", **hue), stroke=alt.Stroke("rank:N", **hue),
        fillOpacity=alt.FillOpacity("rank:N", scale=filled, **shown),
        facet=alt.Facet("domain:N", columns=3, title=None),
        tooltip=_tips("domain", "rank", titles=named, low=".3~f", high=".3~f", share=".0%"),
    ).properties(width=150, height=110).resolve_axis(x="independent")  # fmt: skip
    return figure(chart, name, alt_text, counts[counts["share"] > 0].rename(columns=named))


OVERLAP = "share of the query in the neighbour"


def overlap_chart(rows: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Overlap with the query over distance, a point per neighbour.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.studies.neighbourhoods.neighbourhoods`, at most 1000 of them.
    """
    import altair as alt

    hue, shape = _looks("domain", sorted(rows["domain"].unique()), "domain of the query")
    columns = ["domain", "document", "rank", "neighbour", "distance", "overlap"]
    chart = alt.Chart(rows[columns]).mark_point(size=45, filled=True, opacity=0.75).encode(
        x=alt.X("distance:Q", title="squared L2 distance", scale=alt.Scale(zero=True)),
        y=alt.Y("overlap:Q", title=OVERLAP, axis=alt.Axis(format="%")),
        color=hue, shape=shape,
        tooltip=_tips("domain", document=COUNT, rank=COUNT, distance=".3f", overlap=".0%"),
    ).properties(height=300)  # fmt: skip
    return figure(chart, name, alt_text, rows[columns].rename(columns=UNITS | {"overlap": OVERLAP}))


def index_share_chart(table: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Distance of the nearest neighbour over the share of the index that is searched, a line per domain.

    Parameters
    ----------
    table : DataFrame
        Columns domain, share, documents (in that part of the index), distance (squared L2).
    """
    import altair as alt

    hue, shape = _looks("domain", sorted(table["domain"].unique()), "domain of the query")
    named = {"share": "share of the index", "documents": "documents in it", "distance": "median squared L2 distance"}
    ticks = alt.Axis(format="%", values=sorted(table["share"].unique().tolist()))
    lines = alt.Chart(table).mark_line().encode(
        x=alt.X("share:Q", title="share of the index (logarithmic)", axis=ticks,
                scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("distance:Q", title="nearest neighbour, median squared L2", scale=alt.Scale(zero=True)),
        color=hue, tooltip=_tips("domain", titles=named, share=".0%", documents=COUNT, distance=".3f"),
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(shape=shape)
    chart = (lines + points).properties(height=280)
    return figure(chart, name, alt_text, table.rename(columns=named))


def footprint_chart(measured: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Resident memory over documents for each way to fetch texts, both axes logarithmic.

    Parameters
    ----------
    measured : DataFrame
        Of :func:`tttnn.studies.footprint.footprint`, for several numbers of documents.
    """
    import altair as alt

    # A logarithm has no place for a process that did not grow.
    data = measured.assign(megabytes=(measured["resident_bytes"] / 1e6).clip(lower=0.01))
    data = data[["kind", "documents", "megabytes"]]
    hue, shape = _looks("kind", data["kind"].unique().tolist(), "texts fetched from")
    lines = alt.Chart(data).mark_line().encode(
        x=alt.X("documents:Q", title="documents", scale=alt.Scale(type="log"), axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("megabytes:Q", title="growth of resident memory (MB)", scale=alt.Scale(type="log")),
        color=hue,
    )  # fmt: skip
    named = {"megabytes": "resident memory (MB)"}
    titles = named | {"kind": "texts fetched from"}
    points = lines.mark_point(size=90, filled=True).encode(
        shape=shape, tooltip=_tips("kind", titles=titles, documents=COUNT, megabytes=".2f")
    )
    return figure(lines + points, name, alt_text, data.rename(columns=named))


def models_chart(gains: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Bits per byte before and after adaptation, a line per model and a panel per domain (Figures 4 to 6).

    Parameters
    ----------
    gains : DataFrame
        Of :func:`tttnn.analysis.comparisons.by_model`; models from top to bottom and domains in the order of the rows.
    """
    import altair as alt

    domains, models = (gains[column].drop_duplicates().tolist() for column in ("domain", "model"))
    panels = min(len(domains), 3)
    columns = ["domain", "model", "documents", "before", "after", "ratio", "low", "high"]
    y = alt.Y("model:N", sort=models, title=None)
    when = {"scale": alt.Scale(domain=["before", "after"]), "title": None}
    bits = alt.X("bits:Q", title="bits per byte", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    points = alt.Chart().transform_fold(["before", "after"], as_=["when", "bits"]).mark_point(
        size=90, filled=True
    ).encode(
        x=bits, y=y, color=alt.Color("when:N", **when), shape=alt.Shape("when:N", **when),
        tooltip=_tips("domain", "model", "when", titles={"bits": "bits per byte"}, bits=".3f"),
    )  # fmt: skip
    lines = alt.Chart().mark_rule(strokeWidth=2, opacity=0.5).encode(x="before:Q", x2="after:Q", y=y)
    label = "format(datum.ratio, '.0%')"
    texts = alt.Chart().transform_calculate(label=label).mark_text(align="left", dx=8, dy=-9).encode(
        x="after:Q", y=y, text="label:N"
    )  # fmt: skip
    layers = alt.layer(lines, points, texts, data=gains[columns])
    chart = _panels(layers.properties(width=440 // panels, height={"step": 34}), domains, panels)
    return figure(chart, name, alt_text, gains[columns].rename(columns=UNITS))


def ratio_curves_chart(curves: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """After / before over the number of neighbours, a panel per domain, ours and published models together.

    Parameters
    ----------
    curves : DataFrame
        Columns domain, model, origin (which gives the dash of the line), k, ratio; models and domains in the order
        of the rows.
    """
    import altair as alt

    domains, models, origins = (curves[c].drop_duplicates().tolist() for c in ("domain", "model", "origin"))
    panels = min(len(domains), 3)
    columns = ["domain", "model", "origin", "k", "ratio"]
    hue, shape = _looks("model", models, "model")
    dash = {"scale": alt.Scale(domain=origins, range=[[1, 0], [6, 3]]), "title": "run"}
    lines = alt.Chart().mark_line().encode(
        x=_k_axis(), y=_ratio_axis(), color=hue, strokeDash=alt.StrokeDash("origin:N", **dash),
    )  # fmt: skip
    tooltip = _tips("domain", "model", k=COUNT, ratio=".1%")
    points = alt.Chart().mark_point(size=40, filled=True).encode(
        x="k:Q", y="ratio:Q", color=hue, shape=shape, tooltip=tooltip
    )  # fmt: skip
    layers = alt.layer(lines, points, data=curves[columns])
    chart = _panels(layers.properties(width=520 // panels, height=230), domains, panels)
    return figure(chart, name, alt_text, curves[columns].rename(columns=UNITS))


def interval_chart(
    table: pd.DataFrame, name: str, alt_text: str, title: str, marks: dict[float, str],
    panels: str | None = None, number: str = ".0%",
) -> Figure:  # fmt: skip
    """Values with their intervals, a line per domain.

    Parameters
    ----------
    table : DataFrame
        Columns domain, series, value, low, high (missing without an interval); domains in the order of the rows.
    title : str
        Of the axis.
    marks : dict
        Values to draw a line at, and what they mean.
    panels : str, optional
        Column that has a panel for each of its values.
    number : str
        How the axis shows values.
    """
    import altair as alt
    import pandas as pd

    columns = [*([panels] if panels else []), "domain", "series", "value", "low", "high"]
    data = table[columns]
    series = data["series"].drop_duplicates().tolist()
    hue, shape = _looks("series", series)
    place = {
        "y": alt.Y("domain:N", sort=data["domain"].drop_duplicates().tolist(), title=None),
        "yOffset": alt.YOffset("series:N", sort=series, scale=alt.Scale(paddingOuter=0.4)),
    }
    axis = alt.Axis(format=number, tickCount=5, labelFlush=False, labelOverlap=True)
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=False, padding=8))
    bars = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.6).encode(
        x="low:Q", x2="high:Q", color=hue, **place
    )  # fmt: skip
    points = alt.Chart().transform_calculate(interval=_interval(_finer(number))).mark_point(
        size=80, filled=True
    ).encode(
        x=x, color=hue, shape=shape, **place,
        tooltip=_tips("domain", "series", "interval", titles=SERIES | {"value": title}, value=_finer(number)),
    )  # fmt: skip
    rules = _named_rules(marks, pd.concat([data[column].dropna() for column in ("value", "low", "high")]))
    rows = {"step": max(34, 12 * len(series)), "for": "position"}
    chart = alt.layer(*rules, bars, points, data=data).properties(height=rows)
    if panels:
        order = data[panels].drop_duplicates().tolist()
        facet = alt.Facet(f"{panels}:N", sort=order, title=None)
        between = 32  # pixels, so that the last label of an axis does not touch the first of the next
        width = (480 - between * (len(order) - 1)) // len(order)
        chart = chart.properties(width=width).facet(facet, columns=len(order), spacing=between)
    named = {"value": title, "low": "95% low", "high": "95% high"}
    return figure(chart, name, alt_text, data.rename(columns=named))


def compared_chart(gains: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Bits per byte of several models before and after, a line for each in a row per domain, and deflate's.

    Parameters
    ----------
    gains : DataFrame
        Of :func:`tttnn.analysis.comparisons.by_model` with a column deflate (bits/byte); models and domains in the
        order of the rows.
    """
    import altair as alt

    columns = ["domain", "model", "documents", "deflate", "before", "after", "ratio", "low", "high"]
    data = gains[columns]
    domains, models = (data[column].drop_duplicates().tolist() for column in ("domain", "model"))
    hue, shape = _looks("model", models)
    place = {
        "y": alt.Y("domain:N", sort=domains, title=None),
        "yOffset": alt.YOffset("model:N", sort=models, scale=alt.Scale(paddingOuter=0.5)),
        "color": hue,
    }
    tooltip = _tips("domain", "model", documents=COUNT, deflate=".3f", before=".3f", after=".3f", ratio=".1%")
    x = alt.X("before:Q", title="bits per byte, before (hollow) and after (filled); grey bar: deflate",
              scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=8))  # fmt: skip
    lines = alt.Chart(data).mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, x2="after:Q", **place)
    first = alt.Chart(data).mark_point(size=70, filled=False, strokeWidth=2).encode(x=x, shape=shape, **place)
    last = alt.Chart(data).mark_point(size=70, filled=True).encode(x="after:Q", shape=shape, tooltip=tooltip, **place)
    label = "format(datum.ratio, '.0%')"
    texts = alt.Chart(data).transform_calculate(label=label, at="min(datum.before, datum.after)").mark_text(
        align="right", dx=-9
    ).encode(x="at:Q", text="label:N", **{key: place[key] for key in ("y", "yOffset")})  # fmt: skip
    floor = alt.Chart(data.drop_duplicates("domain")).mark_tick(color=PALETTE[6], thickness=3, size=34).encode(
        x="deflate:Q", y=place["y"]
    )  # fmt: skip
    rows = {"step": max(40, 20 * len(models)), "for": "position"}
    chart = alt.layer(floor, lines, first, last, texts).properties(height=rows)
    named = UNITS | {"deflate": "deflate (bits/byte)"}
    return figure(chart, name, alt_text, data.rename(columns=named))


def kinds_cost_chart(rows: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Latency over resident memory, a point per kind of index and a panel per size; both axes logarithmic.

    Parameters
    ----------
    rows : DataFrame
        Of ``tttnn.index.planner.measured_rows``. Points with less recall than `ENOUGH` are hollow.
    """
    import altair as alt
    import pandas as pd

    found = f"recall of at least {ENOUGH:.0%}"
    data = pd.DataFrame({
        "size": [f"{count:,} x {d:,}" for count, d in zip(rows["vectors"], rows["dimension"], strict=True)],
        "kind": rows["kind"], "memory": rows["resident_bytes"] / 1e6, "latency": rows["cpu_p50_ms"],
        "recall": rows["recall"], found: [("no", "yes")[recall >= ENOUGH] for recall in rows["recall"]],
    })  # fmt: skip
    # Names beside the marks would overprint each other.
    hue, shape = _looks("kind", data["kind"].drop_duplicates().tolist(), "kind")
    filled = alt.Scale(domain=["yes", "no"], range=[1.0, 0.0])
    sizes = data["size"].drop_duplicates().tolist()
    chart = alt.Chart(data).mark_point(size=90, strokeWidth=2).encode(
        x=alt.X("memory:Q", title="resident memory (MB)", scale=alt.Scale(type="log")),
        y=alt.Y("latency:Q", title="median of a query (ms)", scale=alt.Scale(type="log")),
        fill=alt.Fill("kind:N", scale=hue["scale"], title="kind"),
        stroke=alt.Stroke("kind:N", scale=hue["scale"], title="kind"), shape=shape,
        fillOpacity=alt.FillOpacity(f"{found}:N", scale=filled, legend=None),
        tooltip=_tips("kind", "size", memory=",.2f", latency=".3f", recall=".1%"),
        facet=alt.Facet("size:N", sort=sizes, title=None, columns=len(sizes)),
    ).properties(width=480 // len(sizes), height=260)  # fmt: skip
    named = {"memory": "resident memory (MB)", "latency": "median of a query (ms)", "recall": "recall@20"}
    return figure(chart, name, alt_text, data.rename(columns=named))


def kinds_effect_chart(effect: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Change of bits per byte against the flat index over the share of its neighbours that a kind finds.

    Parameters
    ----------
    effect : DataFrame
        Of ``tttnn.studies.kind_effects.kinds_effect``.
    """
    import altair as alt

    data = effect.loc[effect["way"] != "flat", ["domain", "way", "found", "change"]]
    kinds = data["way"].str.partition(",")[0]
    data = data.assign(kind=kinds, searched=["in haste" if "," in way else "as it is" for way in data["way"]])
    hue, shape = _looks("kind", kinds.drop_duplicates().tolist())
    named = {"found": "share of the neighbours found", "change": "change of bits per byte", "searched": "searched"}
    # Filled and hollow, since the shape says which kind it is.
    fill = alt.Scale(domain=["as it is", "in haste"], range=[0.8, 0.0])
    chart = alt.Chart(data.drop(columns="way")).mark_point(size=70, strokeWidth=1.5).encode(
        x=alt.X("found:Q", title=named["found"], axis=alt.Axis(format="%")),
        y=alt.Y("change:Q", title=named["change"], axis=alt.Axis(format="+.2%")),
        fill=alt.Fill("kind:N", scale=hue["scale"], title=None),
        stroke=alt.Stroke("kind:N", scale=hue["scale"], title=None), shape=shape,
        fillOpacity=alt.FillOpacity("searched:N", scale=fill, title=None),
        tooltip=_tips("domain", "kind", "searched", titles=named, found=".0%", change="+.3%"),
    )  # fmt: skip
    return figure(chart, name, alt_text, data.drop(columns="way").rename(columns=named))


def effects_chart(table: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """What variants change in after / before, with intervals: a line per variant and a panel per domain.

    Parameters
    ----------
    table : DataFrame
        Of :func:`tttnn.analysis.variant_effects.effects`; variants from top to bottom and domains in the order of the
        rows. An interval that excludes 0 has a filled mark, one that does not a hollow one.
    """
    import altair as alt
    import pandas as pd

    columns = ["domain", "variant", "against", "documents", "difference", "low", "high", "clear"]
    data = table[columns].assign(clear=table["clear"].map({True: "yes", False: "no"}))
    data[["difference", "low", "high"]] *= 100
    domains, variants = (data[column].drop_duplicates().tolist() for column in ("domain", "variant"))
    shown = {"title": "interval excludes 0", "scale": alt.Scale(domain=["yes", "no"])}
    marks, fills = (
        shown | {"scale": alt.Scale(domain=["yes", "no"], range=ends)}
        for ends in (["circle", "diamond"], [PALETTE[0], "transparent"])
    )
    named = {"difference": "change of after / before (points)", "low": "95% low", "high": "95% high",
             "clear": "excludes 0"}  # fmt: skip
    x = alt.X("difference:Q", title="change (points)", axis=alt.Axis(tickCount=5))
    y = alt.Y("variant:N", sort=variants, title=None)
    tooltip = _tips("domain", "variant", "against", "interval", titles=named, difference="+.2f")
    bars = alt.Chart().mark_rule(strokeWidth=2, opacity=0.6).encode(
        x="low:Q", x2="high:Q", y=y, stroke=alt.Stroke("clear:N", **shown)
    )  # fmt: skip
    points = alt.Chart().transform_calculate(interval=_interval("+.2f")).mark_point(size=70, strokeWidth=2).encode(
        x=x, y=y, tooltip=tooltip, stroke=alt.Stroke("clear:N", **shown), fill=alt.Fill("clear:N", **fills),
        shape=alt.Shape("clear:N", **marks),
    )  # fmt: skip
    rule = alt.Chart(pd.DataFrame({"at": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")
    panels = min(len(domains), 3)
    layers = alt.layer(rule, bars, points, data=data)
    chart = _panels(layers.properties(width=400 // panels, height={"step": 24}), domains, panels)
    return figure(chart, name, alt_text, data.rename(columns=named))


def walks_chart(table: pd.DataFrame, name: str, alt_text: str, title: str) -> Figure:
    """After / before over the number of neighbours, a line per series and a panel per domain.

    Parameters
    ----------
    table : DataFrame
        Columns domain, series, k, ratio; domains and series in the order of the rows.
    title : str
        What the series are.
    """
    import altair as alt

    columns = ["domain", "series", "k", "ratio"]
    domains, series = (table[column].drop_duplicates().tolist() for column in ("domain", "series"))
    panels = min(len(domains), 3)
    color, shape = _looks("series", series, title)
    # The legend has the points; a dash around them would mangle it.
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=series), legend=None)
    x, y = _k_axis(), _ratio_axis()
    lines = alt.Chart().mark_line().encode(x=x, y=y, color=color, strokeDash=dash)
    points = alt.Chart().mark_point(size=45, filled=True).encode(
        x=x, y=y, color=color, shape=shape,
        tooltip=_tips("domain", "series", titles={"series": title}, k=COUNT, ratio=".1%"),
    )  # fmt: skip
    layers = alt.layer(lines, points, data=table[columns])
    chart = _panels(layers.properties(width=440 // panels, height=170), domains, panels)
    chart = chart.resolve_scale(y="independent")
    return figure(chart, name, alt_text, table[columns].rename(columns=UNITS | {"series": title}))


def copying_chart(documents: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Share of bits saved over overlap and over distance, a point per document.

    Parameters
    ----------
    documents : DataFrame
        Of :func:`tttnn.analysis.controls.copying`.
    """
    import altair as alt

    hue, shape = _looks("domain", sorted(documents["domain"].unique()), "domain")
    titles = {"overlap": "largest overlap with a neighbour", "distance": "nearest distance (squared L2)"}
    axes = {"overlap": alt.Axis(format="%", tickCount=5), "distance": alt.Axis(tickCount=5)}
    saved = "share of bits saved"
    gain = alt.Y("gain:Q", title=saved, axis=alt.Axis(format="%"))
    panels = [
        alt.Chart(documents).mark_point(size=50, filled=True, opacity=0.8).encode(
            x=alt.X(f"{column}:Q", title=title, axis=axes[column]), y=gain,
            color=hue, shape=shape,
            tooltip=_tips("domain", titles=titles | {"gain": saved}, document=COUNT, gain=".1%", **{column: digits}),
        ).properties(width=230, height=240)
        for (column, title), digits in zip(titles.items(), (".1%", ".3f"), strict=True)
    ]  # fmt: skip
    return figure(alt.hconcat(*panels), name, alt_text, documents.rename(columns=titles | {"gain": saved}))


def index_gain_chart(table: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """After / before over the share of the index that is searched, a line per domain.

    Parameters
    ----------
    table : DataFrame
        Columns domain, share, ratio, low, high.
    """
    import altair as alt

    hue, shape = _looks("domain", sorted(table["domain"].unique()), "domain")
    shares = sorted(table["share"].unique().tolist())
    values = [value for value in shares if value <= 0.5 or value == 1]  # others would print over each other
    share = alt.X("share:Q", title="share of the index (logarithmic)", axis=alt.Axis(format="%", values=values),
                  scale=alt.Scale(type="log", nice=False))  # fmt: skip
    named = UNITS | {"share": "share of the index"}
    lines = alt.Chart(table).transform_calculate(interval=_interval(".1%")).mark_line().encode(
        x=share, y=_ratio_axis(), color=hue, tooltip=_tips("domain", "interval", titles=named, share=".0%", ratio=".1%")
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(shape=shape)
    return figure((lines + points).properties(height=300), name, alt_text, table.rename(columns=named))


def token_line_chart(rows: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Seconds of training over tokens, a point per neighbour, and a straight line for each loop.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/neighbours.py``.
    """
    import altair as alt

    columns = ["loop", "domain", "document", "k", "tokens", "train_seconds"]
    data = rows.loc[rows["k"] > 0, columns].rename(columns={"train_seconds": "seconds"})
    data = data.assign(loop=data["loop"].map(LOOPS))
    loops = list(LOOPS.values())
    hue, shape = _looks("loop", loops)
    dash = alt.StrokeDash("loop:N", scale=alt.Scale(domain=loops), legend=None)
    x = alt.X("tokens:Q", title="tokens of the neighbour")
    y = alt.Y("seconds:Q", title="seconds of training on it", scale=alt.Scale(domainMin=0))
    points = alt.Chart(data).mark_point(size=22, opacity=0.55).encode(
        x=x, y=y, color=hue, shape=shape,
        tooltip=_tips("loop", "domain", titles={"k": "rank of the neighbour", "seconds": "seconds of training on it"},
                      document=COUNT, k=COUNT, tokens=COUNT, seconds=".3f"),
    )  # fmt: skip
    lines = alt.Chart(data).transform_regression("tokens", "seconds", groupby=["loop"]).mark_line().encode(
        x=x, y=y, color=hue, strokeDash=dash
    )  # fmt: skip
    return figure((points + lines).properties(height=300), name, alt_text, data)


def spent_chart(table: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """After / before over the seconds of training a document takes, a line per domain; its points are scored k.

    Parameters
    ----------
    table : DataFrame
        Of :func:`tttnn.analysis.timings.spent_and_gained`.
    """
    import altair as alt

    data = table[table["k"] > 0]
    hue, shape = _looks("domain", sorted(data["domain"].unique()), "domain")
    named = UNITS | {"seconds": "seconds of training per document"}
    lines = alt.Chart(data).mark_line().encode(
        x=alt.X("seconds:Q", title="seconds of training per document (logarithmic)", scale=alt.Scale(type="log")),
        y=_ratio_axis(), color=hue,
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(
        shape=shape, tooltip=_tips("domain", titles=named, k=COUNT, seconds=".2f", ratio=".1%")
    )
    return figure((lines + points).properties(height=300), name, alt_text, table.rename(columns=named))


def dots_chart(
    table: pd.DataFrame, name: str, alt_text: str, title: str, mark: tuple[float, str], number: str = ".0%"
) -> Figure:
    """Values of several series in one line for each task, joined from the lowest to the highest.

    Parameters
    ----------
    table : DataFrame
        Columns task, series, value; tasks and series in the order of the rows.
    title : str
        Of the axis, with its unit.
    mark : tuple of float and str
        Value to draw a line at, and what it means.
    number : str
        How the axis shows values.
    """
    import altair as alt

    columns = ["task", "series", "value"]
    tasks, series = (table[column].drop_duplicates().tolist() for column in ("task", "series"))
    hue, shape = _looks("series", series)
    y = alt.Y("task:N", sort=tasks, title=None, axis=alt.Axis(labelLimit=320))
    x = alt.X("value:Q", title=title, axis=alt.Axis(format=number), scale=alt.Scale(zero=False))
    tooltip = _tips("task", "series", titles=SERIES | {"value": title}, value=_finer(number))
    points = alt.Chart(table[columns]).mark_point(size=65, filled=True).encode(
        x=x, y=y, color=hue, shape=shape, tooltip=tooltip,
        yOffset=alt.YOffset("series:N", sort=series, scale=alt.Scale(paddingOuter=1)),  # equal values stay apart
    )  # fmt: skip
    spans = table.groupby("task", sort=False)["value"].agg(["min", "max"]).reset_index()
    lines = alt.Chart(spans).mark_rule(strokeWidth=1.5, opacity=0.35).encode(x="min:Q", x2="max:Q", y=y)
    rules = _named_rules(dict([mark]), table["value"], top=-13)
    chart = alt.layer(*rules, lines, points).properties(height={"step": 24, "for": "position"})
    wide = table.pivot(index="task", columns="series", values="value").loc[tasks, series].reset_index()
    return figure(chart, name, alt_text, wide.rename_axis(columns=None).rename(columns=lambda c: _headed(c, title)))


def _headed(column: str, title: str) -> str:
    return column if column == "task" else f"{column}: {title}"


LISTED = (0, 1, 2, 5, 10, 20, 30, 40, 50)  # k in the table below the chart that follows


def chosen_curves_chart(curves: pd.DataFrame, name: str, alt_text: str, task: str, k: int) -> Figure:
    """Curves over k of the task and the model that the reader chooses, and the values at a k to choose, too.

    Parameters
    ----------
    curves : DataFrame
        Columns model, task, k, bits_per_byte, each curve from k = 0 without a gap; models in the order of the rows.
    task : str
        Shown first.
    k : int
        Shown first.
    """
    import altair as alt

    wide = curves.pivot(index=["task", "model"], columns="k", values="bits_per_byte")
    models, every = curves["model"].drop_duplicates().tolist(), "all of them"
    choices = [
        alt.param("task", value=task, bind=alt.binding_select(options=sorted(curves["task"].unique()), name="Domain")),
        alt.param("model", value=every, bind=alt.binding_select(options=[every, *models], name="Model")),
        alt.param("k", value=k, bind=alt.binding_range(min=0, max=int(wide.columns.max()), step=1, name="k")),
    ]
    # A curve travels as one list, a tenth of what a row for each of its points would take.
    lists = [{"task": key[0], "model": key[1], "bits": bits.tolist()} for key, bits in wide.iterrows()]
    data = alt.Chart(alt.InlineData(lists)).transform_filter(
        f"datum.task == task && (model == '{every}' || datum.model == model)"
    ).transform_flatten(["bits"]).transform_window(
        at="row_number()", before="first_value(bits)", groupby=["model"], frame=[None, None]
    ).transform_calculate(k="datum.at - 1", ratio="datum.bits / datum.before")  # fmt: skip
    chart = alt.vconcat(_chosen_lines(data, models), _chosen_values(data, models)).add_params(*choices)
    chart = chart.resolve_scale(color="independent", strokeDash="independent")  # the lines keep their legend
    ks = [each for each in LISTED if each in wide]
    listed = wide[ks].rename(columns=lambda each: f"k = {each} (bits/byte)").reset_index().rename_axis(columns=None)
    return figure(chart, name, alt_text, listed)


def _chosen_lines(data: alt.Chart, models: list[str]) -> alt.LayerChart:
    import altair as alt

    shown = {"title": None, "legend": alt.Legend(symbolType="stroke")}
    hue = shown | {"scale": alt.Scale(domain=models, range=colours(models))}
    dash = alt.StrokeDash("model:N", scale=alt.Scale(domain=models), **shown)
    x, y = _k_axis(), _ratio_axis()
    tooltip = _tips("model", titles={"bits": "bits per byte"}, k=COUNT, ratio=".1%", bits=".3f")
    lines = data.mark_line().encode(x=x, y=y, color=alt.Color("model:N", **hue), strokeDash=dash, tooltip=tooltip)
    points = data.transform_filter("datum.k == k").mark_point(size=70, filled=True).encode(
        x=x, y=y, color=alt.Color("model:N", **hue), tooltip=tooltip
    )  # fmt: skip
    return (lines + points).properties(width=540, height=240)


def _chosen_values(data: alt.Chart, models: list[str]) -> alt.LayerChart:
    import altair as alt

    said = "format(datum.ratio, '.1%') + ', ' + format(datum.before, '.3f') + ' to ' + format(datum.bits, '.3f')"
    chosen = data.transform_filter("datum.k == k").transform_calculate(said=f"{said} + ' bits/byte'")
    y = alt.Y("model:N", sort=models, title=None)
    hue = alt.Color("model:N", scale=alt.Scale(domain=models, range=colours(models)), legend=None)
    bars = chosen.mark_bar(opacity=0.45).encode(
        x=alt.X("ratio:Q", title="after / before at the chosen k", axis=alt.Axis(format="%", tickCount=6)),
        y=y, color=hue,
    )  # fmt: skip
    words = chosen.mark_text(align="left", dx=6).encode(x=alt.datum(0), y=y, text="said:N")
    return (bars + words).properties(width=540)


def seconds_gain_chart(table: pd.DataFrame, name: str, alt_text: str, named: Sequence[str]) -> Figure:
    """Gain over the seconds that it takes, a point for each task and model.

    Parameters
    ----------
    table : DataFrame
        Columns task, model, seconds (a document), gain (points); models in the order of the rows.
    named : sequence of str
        Tasks whose name stands beside the point of the first model.
    """
    import altair as alt

    models = table["model"].drop_duplicates().tolist()
    hue, shape = _looks("model", models)
    units = {"seconds": "seconds per document", "gain": "gain (points)", "saved": "bits saved (bits/byte)"}
    x = alt.X("seconds:Q", title="seconds per document (logarithmic)", scale=alt.Scale(type="log"))
    y = alt.Y("gain:Q", title="gain (points of after / before)")
    points = alt.Chart(table).mark_point(size=60, filled=True).encode(
        x=x, y=y, color=hue, shape=shape,
        tooltip=_tips("task", "model", titles=units, seconds=".1f", gain=".1f"),
    )  # fmt: skip
    first = table[(table["model"] == models[0]) & table["task"].isin(named)]
    labels = alt.Chart(first).mark_text(align="left", dx=7, dy=-6).encode(x=x, y=y, text="task:N")
    rule = alt.Chart(table.head(1)).mark_rule(strokeDash=[4, 4]).encode(y=alt.datum(0))
    return figure((rule + points + labels).properties(height=320), name, alt_text, table.rename(columns=units))


def frontier_chart(points: pd.DataFrame, name: str, alt_text: str, cost: str = "seconds") -> Figure:
    """Bits per byte over what a document costs, a line for each method and a point for each k, and the Pareto front.

    Parameters
    ----------
    points : DataFrame
        Of :func:`tttnn.analysis.frontier.cost_points`.
    cost : str
        "seconds" or "operations".
    """
    import altair as alt

    points = points.assign(operations=points["operations"] / 1e9)
    methods = points["method"].drop_duplicates().tolist()
    titles = {"seconds": "seconds per document", "operations": "billion floating-point operations per document"}
    hue, shape = _looks("method", methods)
    axis = alt.Axis(format="~g", labelOverlap=True)
    x = alt.X(f"{cost}:Q", title=f"{titles[cost]} (logarithmic)", scale=alt.Scale(type="log"), axis=axis)
    y = alt.Y("bits_per_byte:Q", title="bits per byte", scale=alt.Scale(zero=False))
    lines = alt.Chart(points).mark_line(point={"size": 60, "filled": True}).encode(
        x=x, y=y, color=hue, shape=shape, order="k:Q",
        tooltip=_tips("method", titles=titles, k=COUNT, bits_per_byte=".4f", **{cost: ".3s"}),
    )  # fmt: skip
    best = alt.Chart(points[points[f"front_{cost}"]])
    front = best.mark_line(strokeDash=[4, 4], strokeWidth=1, color=PALETTE[6]).encode(x=x, y=y)
    rings = best.mark_point(size=180, filled=False, color=PALETTE[6]).encode(x=x, y=y)
    columns = ["method", "k", "documents", "bits_per_byte", "ratio", "seconds", "operations", f"front_{cost}"]
    units = {"bits_per_byte": UNITS["bits_per_byte"], "ratio": "after / before", "seconds": titles["seconds"],
             "operations": titles["operations"], f"front_{cost}": "nothing better at this cost"}  # fmt: skip
    chart = (front + rings + lines).properties(height=380)
    return figure(chart, name, alt_text, points[columns].rename(columns=units))


def sibling_share_chart(table: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Share of the neighbours that come from the document's own unit over their rank, a line per domain.

    Parameters
    ----------
    table : DataFrame
        Columns corpus (a panel each), domain, k (the rank), same_unit.
    """
    import altair as alt

    columns = ["corpus", "domain", "k", "same_unit"]
    panels = []
    for corpus, part in table[columns].dropna().groupby("corpus", sort=False):
        domains = sorted(part["domain"].unique())
        legend = alt.Legend(columns=2, orient="bottom", symbolType="stroke", symbolSize=200)
        panels.append(alt.Chart(part, title=str(corpus)).mark_line().encode(
            x=alt.X("k:Q", title="rank of the neighbour", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("same_unit:Q", title="share from the same unit", axis=alt.Axis(format="%"),
                    scale=alt.Scale(domain=[0, 1])),
            color=_looks("domain", domains)[0].legend(legend),
            strokeDash=alt.StrokeDash("domain:N", legend=legend, scale=alt.Scale(domain=domains), title=None),
            tooltip=_tips("domain", titles={"k": "rank of the neighbour"}, k=COUNT, same_unit=".0%"),
        ).properties(width=500 // table["corpus"].nunique(), height=230))  # fmt: skip
    chart = alt.hconcat(*panels).resolve_scale(color="independent", strokeDash="independent")
    return figure(chart, name, alt_text, table[columns].rename(columns={"k": "rank", "same_unit": "same unit"}))


def sibling_loss_chart(shares: pd.DataFrame, losses: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """For each domain, the share of neighbours from the document's own unit over their rank, and the loss on them.

    Parameters
    ----------
    shares : DataFrame
        Of :func:`tttnn.analysis.siblings.sibling_shares` by domain and k.
    losses : DataFrame
        Of :func:`tttnn.analysis.siblings.loss_by_rank`; origins in the order of the rows.
    """
    import altair as alt

    origins = losses["origin"].drop_duplicates().tolist()
    # A rank without such neighbours is a gap in the line.
    wide = losses.pivot(index=["domain", "k"], columns="origin", values="loss")[origins]
    losses = wide.melt(var_name="origin", value_name="loss", ignore_index=False).reset_index()
    legend = alt.Legend(symbolType="stroke", symbolSize=200)
    shown = {"title": None, "scale": alt.Scale(domain=origins), "legend": legend}
    ranks = {"k": "rank of the neighbour", "origin": "neighbours", "loss": "loss (nats/token)"}
    rank = alt.X("k:Q", title="rank", axis=alt.Axis(tickMinStep=1, format="d"))
    bare = alt.X("k:Q", title=None, axis=alt.Axis(labels=False, tickMinStep=1))
    panels = []
    for domain, part in losses.groupby("domain", sort=True):
        above = alt.Chart(shares[shares["domain"] == domain], title=str(domain)).mark_area(
            color=PALETTE[6], opacity=0.5, line={"color": PALETTE[6]}
        ).encode(
            x=bare, y=alt.Y("same_unit:Q", title="same unit", axis=alt.Axis(format="%", values=[0, 0.5, 1]),
                            scale=alt.Scale(domain=[0, 1])),
            tooltip=_tips(titles=ranks, k=COUNT, same_unit=".0%"),
        ).properties(width=150, height=55)  # fmt: skip
        below = alt.Chart(part).mark_line(point=alt.OverlayMarkDef(size=18)).encode(
            x=rank, y=alt.Y("loss:Q", title="loss (nats/token)", scale=alt.Scale(zero=False)),
            color=alt.Color("origin:N", **shown), strokeDash=alt.StrokeDash("origin:N", **shown),
            tooltip=_tips("origin", titles=ranks, k=COUNT, loss=".2f"),
        ).properties(width=150, height=110)  # fmt: skip
        panels.append(alt.vconcat(above, below, spacing=6))
    data = shares[["domain", "k", "same_unit"]].merge(wide.reset_index(), on=["domain", "k"])
    named = {"k": "rank", "same_unit": "same unit"} | {origin: f"loss, {origin} (nats/token)" for origin in origins}
    return figure(alt.concat(*panels, columns=3), name, alt_text, data.rename(columns=named))
