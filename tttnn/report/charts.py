"""The book's charts: result tables in, figures out; nothing is computed here that a test would want to check.

Every chart names its units, tells series apart by shape or dash as well as by colour, and lists its numbers below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tttnn.analysis.timings import LOOPS
from tttnn.report.figures import PALETTE, Figure, colours, figure

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

CURVE_ROWS = {
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "loss": "training loss (nats/token)",
}
SHAPES = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
]  # 7 and 8 colours: 56
UNITS = {
    "before": "before (bits/byte)", "after": "after (bits/byte)", "ratio": "after / before",
    "low": "ratio, 95 % low", "high": "ratio, 95 % high", "better": "share of documents better",
    "bits_per_byte": "bits per byte", "byte_perplexity": "byte perplexity", "loss": "training loss (nats/token)",
    "seconds": "seconds per neighbour", "distance": "squared L2 distance",
}  # fmt: skip


def curve_chart(curve: pd.DataFrame, name: str, alt_text: str, by: str = "domain") -> Figure:
    """Perplexity, bits per byte and training loss over the number of neighbours (Figure 3 of the report).

    Parameters
    ----------
    curve : DataFrame
        Of :func:`tttnn.analysis.statistics.curve`.
    """
    import altair as alt

    panels = [_curve_panel(curve, column, by) for column in CURVE_ROWS]
    chart = alt.vconcat(*panels).resolve_scale(color="shared", strokeDash="shared")
    columns = [by, "k", *CURVE_ROWS, "ratio"]
    return figure(chart, name, alt_text, curve[columns].rename(columns=UNITS))


def _curve_panel(curve: pd.DataFrame, column: str, by: str) -> alt.Chart:
    import altair as alt

    first = column == next(iter(CURVE_ROWS))
    shown = {"title": by, "legend": alt.Legend() if first else None}
    data = curve[[by, "k", column]].dropna()
    return alt.Chart(data).mark_line().encode(
        x=alt.X("k:Q", title="neighbours trained on, k", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y(f"{column}:Q", title=CURVE_ROWS[column], scale=alt.Scale(zero=False)),
        color=alt.Color(f"{by}:N", **shown), strokeDash=alt.StrokeDash(f"{by}:N", **shown),
        tooltip=[f"{by}:N", "k:Q", alt.Tooltip(f"{column}:Q", format=".4f")],
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
    x = alt.X("k:Q", title="neighbours trained on, k", axis=alt.Axis(values=data["k"].tolist(), format="d"))
    y = alt.Y("ratio:Q", title="bits after / before", axis=percent, scale=above)
    band = (
        alt.Chart(data).mark_area(opacity=0.2, color=PALETTE[0]).encode(x=x, y=alt.Y("low:Q", scale=above), y2="high:Q")
    )
    line = alt.Chart(data).mark_line(color=PALETTE[0], point={"size": 60, "color": PALETTE[0]}).encode(
        x=x, y=y, tooltip=["k:Q", alt.Tooltip("ratio:Q", format=".1%"), alt.Tooltip("bits_per_byte:Q", format=".3f")]
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
    shown = {"title": "what is timed"}
    chart = alt.Chart(cost).mark_point(size=90, filled=True).encode(
        x=alt.X("seconds:Q", title="mean seconds per neighbour", scale=alt.Scale(zero=True)),
        y=alt.Y("domain:N", sort=order, title=None),
        color=alt.Color("timed:N", **shown), shape=alt.Shape("timed:N", **shown),
        tooltip=["domain:N", "timed:N", alt.Tooltip("seconds:Q", format=".3f")],
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
        tooltip=["domain:N", "rank:N", "low:Q", "high:Q", alt.Tooltip("share:Q", format=".0%")],
    ).properties(width=150, height=110)  # fmt: skip
    named = {"rank": "neighbour", "low": "distance from (squared L2)", "high": "to", "share": "share of queries"}
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

    shown = {"title": "domain of the query"}
    columns = ["domain", "document", "rank", "neighbour", "distance", "overlap"]
    chart = alt.Chart(rows[columns]).mark_point(size=45, filled=True, opacity=0.75).encode(
        x=alt.X("distance:Q", title="squared L2 distance", scale=alt.Scale(zero=True)),
        y=alt.Y("overlap:Q", title=OVERLAP, axis=alt.Axis(format="%")),
        color=alt.Color("domain:N", **shown), shape=alt.Shape("domain:N", **shown),
        tooltip=["domain:N", "document:Q", "rank:Q", alt.Tooltip("distance:Q", format=".3f"),
                 alt.Tooltip("overlap:Q", format=".0%")],
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

    domains = alt.Scale(domain=sorted(table["domain"].unique()))  # stated, so that the two legends become one
    shown = {"title": "domain of the query", "scale": domains}
    ticks = alt.Axis(format="%", values=sorted(table["share"].unique().tolist()))
    lines = alt.Chart(table).mark_line().encode(
        x=alt.X("share:Q", title="share of the index (logarithmic)", axis=ticks,
                scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("distance:Q", title="nearest neighbour, median squared L2", scale=alt.Scale(zero=True)),
        color=alt.Color("domain:N", **shown),
        tooltip=["domain:N", alt.Tooltip("share:Q", format=".0%"), "documents:Q",
                 alt.Tooltip("distance:Q", format=".3f")],
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(shape=alt.Shape("domain:N", **shown))
    chart = (lines + points).properties(height=280)
    named = {"share": "share of the index", "documents": "documents in it", "distance": "median squared L2 distance"}
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
    # With the domain given, colour and shape share one legend.
    shown = {"title": "texts fetched from", "scale": alt.Scale(domain=data["kind"].unique().tolist())}
    lines = alt.Chart(data).mark_line().encode(
        x=alt.X("documents:Q", title="documents", scale=alt.Scale(type="log"), axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("megabytes:Q", title="growth of resident memory (MB)", scale=alt.Scale(type="log")),
        color=alt.Color("kind:N", **shown),
    )  # fmt: skip
    points = lines.mark_point(size=90, filled=True).encode(
        shape=alt.Shape("kind:N", **shown),
        tooltip=["kind:N", "documents:Q", alt.Tooltip("megabytes:Q", format=".2f", title="MB")],
    )
    chart = lines + points
    return figure(chart, name, alt_text, data.rename(columns={"megabytes": "resident memory (MB)"}))


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
        tooltip=["model:N", "when:N", alt.Tooltip("bits:Q", format=".3f", title="bits per byte")],
    )  # fmt: skip
    lines = alt.Chart().mark_rule(strokeWidth=2, opacity=0.5).encode(x="before:Q", x2="after:Q", y=y)
    label = "format(datum.ratio * 100, '.0f') + ' %'"
    texts = alt.Chart().transform_calculate(label=label).mark_text(align="left", dx=8, dy=-9).encode(
        x="after:Q", y=y, text="label:N"
    )  # fmt: skip
    chart = alt.layer(lines, points, texts, data=gains[columns]).properties(
        width=440 // panels, height={"step": 34}
    ).facet(alt.Facet("domain:N", sort=domains, title=None), columns=panels)  # fmt: skip
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
    shown = {"title": "model"}
    hue = shown | {"scale": alt.Scale(domain=models, range=colours(models))}
    shown |= {"scale": alt.Scale(domain=models)}
    dash = {"scale": alt.Scale(domain=origins, range=[[1, 0], [6, 3]]), "title": "run"}
    lines = alt.Chart().mark_line().encode(
        x=alt.X("k:Q", title="neighbours, k", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)),
        color=alt.Color("model:N", **hue), strokeDash=alt.StrokeDash("origin:N", **dash),
    )  # fmt: skip
    points = alt.Chart().mark_point(size=40, filled=True).encode(
        x="k:Q", y="ratio:Q", color=alt.Color("model:N", **hue), shape=alt.Shape("model:N", **shown),
        tooltip=["domain:N", "model:N", "k:Q", alt.Tooltip("ratio:Q", format=".1%", title="after / before")],
    )  # fmt: skip
    chart = alt.layer(lines, points, data=curves[columns]).properties(width=520 // panels, height=230).facet(
        alt.Facet("domain:N", sort=domains, title=None), columns=panels
    )  # fmt: skip
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
    hue = {"scale": alt.Scale(domain=series, range=colours(series)), "title": None}
    shown = {"scale": alt.Scale(domain=series), "title": None}
    place = {
        "y": alt.Y("domain:N", sort=data["domain"].drop_duplicates().tolist(), title=None),
        "yOffset": alt.YOffset("series:N", sort=series, scale=alt.Scale(paddingOuter=0.4)),
    }
    axis = alt.Axis(format=number, tickCount=5, labelFlush=False, labelOverlap=True)
    room = 6 * max(map(len, marks.values()), default=0)  # pixels
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=False, padding=room))  # for the rules' names
    bars = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.6).encode(
        x="low:Q", x2="high:Q", color=alt.Color("series:N", **hue), **place
    )  # fmt: skip
    points = alt.Chart().mark_point(size=80, filled=True).encode(
        x=x, color=alt.Color("series:N", **hue), shape=alt.Shape("series:N", **shown), **place,
        tooltip=["domain:N", "series:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "low", "high"))],
    )  # fmt: skip
    lines = pd.DataFrame({"at": list(marks), "meaning": list(marks.values())})
    rules = alt.Chart(lines).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")
    names = alt.Chart(lines).mark_text(align="left", dx=4, baseline="top", fontSize=11).encode(
        x="at:Q", y=alt.value(2), text="meaning:N"
    )  # fmt: skip
    rows = {"step": max(34, 12 * len(series)), "for": "position"}
    chart = alt.layer(rules, names, bars, points, data=data).properties(height=rows)
    if panels:
        order = data[panels].drop_duplicates().tolist()
        facet = alt.Facet(f"{panels}:N", sort=order, title=None)
        between = 32  # pixels, so that the last label of an axis does not touch the first of the next
        width = (480 - between * (len(order) - 1)) // len(order)
        chart = chart.properties(width=width).facet(facet, columns=len(order), spacing=between)
    named = {"value": title, "low": "95 % low", "high": "95 % high"}
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
    place = {
        "y": alt.Y("domain:N", sort=domains, title=None),
        "yOffset": alt.YOffset("model:N", sort=models, scale=alt.Scale(paddingOuter=0.5)),
        "color": alt.Color("model:N", scale=alt.Scale(domain=models, range=colours(models)), title=None,
                           legend=alt.Legend(symbolOpacity=1)),
    }  # fmt: skip
    shape = alt.Shape("model:N", scale=alt.Scale(domain=models), title=None)
    bits = (alt.Tooltip(f"{column}:Q", format=".3f") for column in ("deflate", "before", "after"))
    percent = alt.Tooltip("ratio:Q", format=".1%", title="after / before")
    tooltip = ["domain:N", "model:N", "documents:Q", *bits, percent]
    x = alt.X("before:Q", title="bits per byte, before (hollow) and after (filled); grey bar: deflate",
              scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=8))  # fmt: skip
    lines = alt.Chart(data).mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, x2="after:Q", **place)
    first = alt.Chart(data).mark_point(size=70, filled=False, strokeWidth=2).encode(x=x, shape=shape, **place)
    last = alt.Chart(data).mark_point(size=70, filled=True).encode(x="after:Q", shape=shape, tooltip=tooltip, **place)
    label = "format(datum.ratio * 100, '.0f') + ' %'"
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


def kinds_cost_chart(rows: pd.DataFrame, name: str, alt_text: str, enough: float = 0.95) -> Figure:
    """Latency over resident memory, a point per kind of index and a panel per size; both axes logarithmic.

    Parameters
    ----------
    rows : DataFrame
        Of ``tttnn.index.planner.measured_rows``. Points with less recall than `enough` are hollow.
    """
    import altair as alt
    import pandas as pd

    found = f"recall of at least {enough:.0%}"
    data = pd.DataFrame({
        "size": [f"{count:,} x {d:,}" for count, d in zip(rows["vectors"], rows["dimension"], strict=True)],
        "kind": rows["kind"], "memory": rows["resident_bytes"] / 1e6, "latency": rows["cpu_p50_ms"],
        "recall": rows["recall"], found: [("no", "yes")[recall >= enough] for recall in rows["recall"]],
    })  # fmt: skip
    # Names beside the marks would overprint each other; with the domain given, colours and shapes share one legend.
    shown = {"title": "kind", "scale": alt.Scale(domain=data["kind"].drop_duplicates().tolist())}
    filled = alt.Scale(domain=["yes", "no"], range=[1.0, 0.0])
    sizes = data["size"].drop_duplicates().tolist()
    chart = alt.Chart(data).mark_point(size=90, strokeWidth=2).encode(
        x=alt.X("memory:Q", title="resident memory (MB)", scale=alt.Scale(type="log")),
        y=alt.Y("latency:Q", title="median of a query (ms)", scale=alt.Scale(type="log")),
        fill=alt.Fill("kind:N", **shown), stroke=alt.Stroke("kind:N", **shown), shape=alt.Shape("kind:N", **shown),
        fillOpacity=alt.FillOpacity(f"{found}:N", scale=filled, legend=None),
        tooltip=["kind:N", "size:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("memory", "latency", "recall"))],
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
    kinds = kinds.drop_duplicates().tolist()
    chart = alt.Chart(data.drop(columns="way")).mark_point(size=70, filled=True, opacity=0.8).encode(
        x=alt.X("found:Q", title="share of the neighbours found", axis=alt.Axis(format="%")),
        y=alt.Y("change:Q", title="change of bits per byte", axis=alt.Axis(format="+.2%")),
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds), title=None),
        shape=alt.Shape("searched:N", title=None),
        tooltip=["domain:N", "kind:N", "searched:N", alt.Tooltip("change:Q", format="+.3%")],
    )  # fmt: skip
    return figure(chart, name, alt_text)


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
    shapes, fills = (
        shown | {"scale": alt.Scale(domain=["yes", "no"], range=ends)}
        for ends in (["circle", "diamond"], [PALETTE[0], "transparent"])
    )
    x = alt.X("difference:Q", title="change (points)", axis=alt.Axis(tickCount=5))
    y = alt.Y("variant:N", sort=variants, title=None)
    tooltip = ["domain:N", "variant:N", "against:N",
               *(alt.Tooltip(f"{c}:Q", format="+.2f") for c in ("difference", "low", "high"))]  # fmt: skip
    bars = alt.Chart().mark_rule(strokeWidth=2, opacity=0.6).encode(
        x="low:Q", x2="high:Q", y=y, stroke=alt.Stroke("clear:N", **shown)
    )  # fmt: skip
    points = alt.Chart().mark_point(size=70, strokeWidth=2).encode(
        x=x, y=y, tooltip=tooltip, stroke=alt.Stroke("clear:N", **shown), fill=alt.Fill("clear:N", **fills),
        shape=alt.Shape("clear:N", **shapes),
    )  # fmt: skip
    rule = alt.Chart(pd.DataFrame({"at": [0]})).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")
    panels = min(len(domains), 3)
    chart = alt.layer(rule, bars, points, data=data).properties(width=400 // panels, height={"step": 24}).facet(
        alt.Facet("domain:N", sort=domains, title=None), columns=panels
    )  # fmt: skip
    named = {"difference": "change of after / before (points)", "low": "95 % low", "high": "95 % high",
             "clear": "excludes 0"}  # fmt: skip
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
    shown = {"scale": alt.Scale(domain=series), "title": title}
    x = alt.X("k:Q", title="neighbours, k", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    color = alt.Color("series:N", **shown)
    lines = alt.Chart().mark_line().encode(x=x, y=y, color=color, strokeDash=alt.StrokeDash("series:N", **shown))
    points = alt.Chart().mark_point(size=45, filled=True).encode(
        x=x, y=y, color=color, shape=alt.Shape("series:N", **shown),
        tooltip=["domain:N", "series:N", "k:Q", alt.Tooltip("ratio:Q", format=".1%", title="after / before")],
    )  # fmt: skip
    chart = alt.layer(lines, points, data=table[columns]).properties(width=440 // panels, height=170).facet(
        alt.Facet("domain:N", sort=domains, title=None), columns=panels
    ).resolve_scale(y="independent")  # fmt: skip
    return figure(chart, name, alt_text, table[columns].rename(columns=UNITS | {"series": title}))


def copying_chart(documents: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Share of bits saved over overlap and over distance, a point per document.

    Parameters
    ----------
    documents : DataFrame
        Of :func:`tttnn.analysis.controls.copying`.
    """
    import altair as alt

    shown = {"title": "domain", "scale": alt.Scale(domain=sorted(documents["domain"].unique()))}
    titles = {"overlap": "largest overlap with a neighbour", "distance": "nearest distance (squared L2)"}
    axes = {"overlap": alt.Axis(format="%", tickCount=5), "distance": alt.Axis(tickCount=5)}
    saved = "share of bits saved"
    gain = alt.Y("gain:Q", title=saved, axis=alt.Axis(format="%"))
    panels = [
        alt.Chart(documents).mark_point(size=50, filled=True, opacity=0.8).encode(
            x=alt.X(f"{column}:Q", title=title, axis=axes[column]), y=gain,
            color=alt.Color("domain:N", **shown), shape=alt.Shape("domain:N", **shown),
            tooltip=["domain:N", "document:Q", alt.Tooltip("gain:Q", format=".1%"),
                     alt.Tooltip(f"{column}:Q", format=".3f")],
        ).properties(width=230, height=240)
        for column, title in titles.items()
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

    shown = {"title": "domain", "scale": alt.Scale(domain=sorted(table["domain"].unique()))}
    shares = sorted(table["share"].unique().tolist())
    values = [value for value in shares if value <= 0.5 or value == 1]  # others would print over each other
    share = alt.X("share:Q", title="share of the index (logarithmic)", axis=alt.Axis(format="%", values=values),
                  scale=alt.Scale(type="log", nice=False))  # fmt: skip
    ratio = alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    percentages = (alt.Tooltip(f"{column}:Q", format=".1%") for column in ("share", "ratio", "low", "high"))
    lines = alt.Chart(table).mark_line().encode(
        x=share, y=ratio, color=alt.Color("domain:N", **shown), tooltip=["domain:N", *percentages]
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(shape=alt.Shape("domain:N", **shown))
    named = UNITS | {"share": "share of the index"}
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
    shown = {"title": None, "scale": alt.Scale(domain=list(LOOPS.values()))}
    x = alt.X("tokens:Q", title="tokens of the neighbour")
    y = alt.Y("seconds:Q", title="seconds of training on it", scale=alt.Scale(domainMin=0))
    points = alt.Chart(data).mark_point(size=22, opacity=0.55).encode(
        x=x, y=y, color=alt.Color("loop:N", **shown), shape=alt.Shape("loop:N", **shown),
        tooltip=["loop:N", "domain:N", "document:Q", "k:Q", "tokens:Q", alt.Tooltip("seconds:Q", format=".3f")],
    )  # fmt: skip
    lines = alt.Chart(data).transform_regression("tokens", "seconds", groupby=["loop"]).mark_line().encode(
        x=x, y=y, color=alt.Color("loop:N", **shown), strokeDash=alt.StrokeDash("loop:N", **shown)
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
    shown = {"title": "domain", "scale": alt.Scale(domain=sorted(data["domain"].unique()))}
    lines = alt.Chart(data).mark_line().encode(
        x=alt.X("seconds:Q", title="seconds of training per document (logarithmic)", scale=alt.Scale(type="log")),
        y=alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)),
        color=alt.Color("domain:N", **shown),
    )  # fmt: skip
    points = lines.mark_point(size=55, filled=True).encode(
        shape=alt.Shape("domain:N", **shown),
        tooltip=["domain:N", "k:Q", alt.Tooltip("seconds:Q", format=".2f"), alt.Tooltip("ratio:Q", format=".1%")],
    )
    named = UNITS | {"seconds": "seconds of training per document"}
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
    import pandas as pd

    columns = ["task", "series", "value"]
    tasks, series = (table[column].drop_duplicates().tolist() for column in ("task", "series"))
    hue = {"scale": alt.Scale(domain=series, range=colours(series)), "title": None}
    y = alt.Y("task:N", sort=tasks, title=None, axis=alt.Axis(labelLimit=320))
    x = alt.X("value:Q", title=title, axis=alt.Axis(format=number), scale=alt.Scale(zero=False))
    tooltip = ["task:N", "series:N", alt.Tooltip("value:Q", format=number.replace("0", "1"), title=title)]
    points = alt.Chart(table[columns]).mark_point(size=65, filled=True).encode(
        x=x, y=y, color=alt.Color("series:N", **hue), tooltip=tooltip,
        yOffset=alt.YOffset("series:N", sort=series, scale=alt.Scale(paddingOuter=1)),  # equal values stay apart
        shape=alt.Shape("series:N", scale=alt.Scale(domain=series), title=None),
    )  # fmt: skip
    spans = table.groupby("task", sort=False)["value"].agg(["min", "max"]).reset_index()
    lines = alt.Chart(spans).mark_rule(strokeWidth=1.5, opacity=0.35).encode(x="min:Q", x2="max:Q", y=y)
    at = pd.DataFrame({"at": [mark[0]], "meaning": [mark[1]]})
    rule = alt.Chart(at).mark_rule(strokeDash=[4, 4]).encode(x="at:Q")
    label = alt.Chart(at).mark_text(align="left", dx=4, baseline="bottom", fontSize=11).encode(
        x="at:Q", y=alt.value(-2), text="meaning:N"
    )  # fmt: skip
    chart = (rule + label + lines + points).properties(height={"step": 24, "for": "position"})
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
    y = alt.Y("ratio:Q", title="after / before", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    x = alt.X("k:Q", title="neighbours trained on, k", axis=alt.Axis(format="d"))
    tooltip = ["model:N", "k:Q", alt.Tooltip("bits:Q", format=".3f", title="bits per byte")]
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
    hue = {"scale": alt.Scale(domain=models, range=colours(models)), "title": None}
    x = alt.X("seconds:Q", title="seconds per document (logarithmic)", scale=alt.Scale(type="log"))
    y = alt.Y("gain:Q", title="gain (points of after / before)")
    points = alt.Chart(table).mark_point(size=60, filled=True).encode(
        x=x, y=y, color=alt.Color("model:N", **hue),
        shape=alt.Shape("model:N", scale=alt.Scale(domain=models), title=None),
        tooltip=["task:N", "model:N", alt.Tooltip("seconds:Q", format=".1f"), alt.Tooltip("gain:Q", format=".1f")],
    )  # fmt: skip
    first = table[(table["model"] == models[0]) & table["task"].isin(named)]
    labels = alt.Chart(first).mark_text(align="left", dx=7, dy=-6).encode(x=x, y=y, text="task:N")
    rule = alt.Chart(table.head(1)).mark_rule(strokeDash=[4, 4]).encode(y=alt.datum(0))
    units = {"seconds": "seconds per document", "gain": "gain (points)", "saved": "bits saved (bits/byte)"}
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

    methods = points["method"].drop_duplicates().tolist()
    titles = {"seconds": "seconds per document", "operations": "floating-point operations per document"}
    hue = alt.Scale(domain=methods, range=[PALETTE[place % len(PALETTE)] for place in range(len(methods))])
    shape = alt.Scale(domain=methods, range=[SHAPES[place % len(SHAPES)] for place in range(len(methods))])
    x = alt.X(
        f"{cost}:Q", title=f"{titles[cost]} (logarithmic)", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g")
    )
    y = alt.Y("bits_per_byte:Q", title="bits per byte", scale=alt.Scale(zero=False))
    lines = alt.Chart(points).mark_line(point={"size": 60, "filled": True}).encode(
        x=x, y=y, color=alt.Color("method:N", scale=hue, title=None),
        shape=alt.Shape("method:N", scale=shape, title=None), order="k:Q",
        tooltip=["method:N", "k:Q", alt.Tooltip("bits_per_byte:Q", format=".4f"),
                 alt.Tooltip(f"{cost}:Q", format=".3g")],
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
        shown = {"title": None, "scale": alt.Scale(domain=sorted(part["domain"].unique()))}
        legend = alt.Legend(columns=2, orient="bottom")
        panels.append(alt.Chart(part, title=str(corpus)).mark_line().encode(
            x=alt.X("k:Q", title="rank of the neighbour", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("same_unit:Q", title="share from the same unit", axis=alt.Axis(format="%"),
                    scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("domain:N", legend=legend, **shown),
            strokeDash=alt.StrokeDash("domain:N", legend=legend, **shown),
            tooltip=["domain:N", "k:Q", alt.Tooltip("same_unit:Q", format=".0%", title="same unit")],
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
    shown = {"title": None, "scale": alt.Scale(domain=origins)}
    rank = alt.X("k:Q", title="rank", axis=alt.Axis(tickMinStep=1, format="d"))
    bare = alt.X("k:Q", title=None, axis=alt.Axis(labels=False, tickMinStep=1))
    panels = []
    for domain, part in losses.groupby("domain", sort=True):
        above = alt.Chart(shares[shares["domain"] == domain], title=str(domain)).mark_area(
            color=PALETTE[6], opacity=0.5, line={"color": PALETTE[6]}
        ).encode(
            x=bare, y=alt.Y("same_unit:Q", title="same unit", axis=alt.Axis(format="%", values=[0, 0.5, 1]),
                            scale=alt.Scale(domain=[0, 1])),
            tooltip=["k:Q", alt.Tooltip("same_unit:Q", format=".0%")],
        ).properties(width=150, height=55)  # fmt: skip
        below = alt.Chart(part).mark_line(point=alt.OverlayMarkDef(size=18)).encode(
            x=rank, y=alt.Y("loss:Q", title="loss (nats/token)", scale=alt.Scale(zero=False)),
            color=alt.Color("origin:N", **shown), strokeDash=alt.StrokeDash("origin:N", **shown),
            tooltip=["origin:N", "k:Q", alt.Tooltip("loss:Q", format=".2f")],
        ).properties(width=150, height=110)  # fmt: skip
        panels.append(alt.vconcat(above, below, spacing=6))
    data = shares[["domain", "k", "same_unit"]].merge(wide.reset_index(), on=["domain", "k"])
    named = {"k": "rank", "same_unit": "same unit"} | {origin: f"loss, {origin} (nats/token)" for origin in origins}
    return figure(alt.concat(*panels, columns=3), name, alt_text, data.rename(columns=named))
