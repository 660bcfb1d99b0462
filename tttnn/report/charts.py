"""The book's charts: result tables in, figures out; nothing is computed here that a test would want to check.

Every chart names its units, tells series apart by shape or dash as well as by colour, and lists its numbers below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tttnn.report.figures import Figure, figure

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

CURVE_ROWS = {
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "loss": "training loss (nats/token)",
}
UNITS = {
    "before": "before (bits/byte)", "after": "after (bits/byte)", "ratio": "after / before",
    "low": "ratio, 95 % low", "high": "ratio, 95 % high", "better": "share of documents better",
    "bits_per_byte": "bits per byte", "byte_perplexity": "byte perplexity", "loss": "training loss (nats/token)",
    "seconds": "seconds per neighbour", "distance": "squared L2 distance",
}  # fmt: skip


def before_after_chart(table: pd.DataFrame, name: str, alt_text: str, by: str = "domain") -> Figure:
    """Bits per byte before and after adaptation, a line per domain (Figure 2 of the report).

    Parameters
    ----------
    table : DataFrame
        Of :func:`tttnn.report.statistics.before_after`.
    name, alt_text : str
        Label and alternative text of the figure.
    by : str
        The column with one row each.
    """
    import altair as alt

    table = table.sort_values("ratio")
    order = table[by].tolist()
    y = alt.Y(f"{by}:N", sort=order, title=None)
    long = table.melt(id_vars=[by, "ratio"], value_vars=["before", "after"], var_name="when", value_name="bits")
    tooltip = [f"{by}:N", "when:N", alt.Tooltip("bits:Q", format=".3f", title="bits per byte")]
    when = {"scale": alt.Scale(domain=["before", "after"]), "title": None}
    points = alt.Chart(long).mark_point(size=90, filled=True).encode(
        x=alt.X("bits:Q", title="bits per byte (lower is better)", scale=alt.Scale(zero=True)),
        y=y, color=alt.Color("when:N", **when), shape=alt.Shape("when:N", **when), tooltip=tooltip,
    )  # fmt: skip
    lines = alt.Chart(table).mark_rule(strokeWidth=2, opacity=0.5).encode(x="before:Q", x2="after:Q", y=y)
    label = "format(datum.ratio * 100, '.0f') + ' %'"
    texts = alt.Chart(table).transform_calculate(label=label).mark_text(align="left", dx=10, dy=-9).encode(
        x="after:Q", y=y, text="label:N"
    )  # fmt: skip
    chart = (lines + points + texts).properties(height={"step": 34})
    columns = [by, "documents", "before", "after", "ratio", "low", "high", "better"]
    return figure(chart, name, alt_text, table[columns].rename(columns=UNITS))


def curve_chart(curve: pd.DataFrame, name: str, alt_text: str, by: str = "domain") -> Figure:
    """Perplexity, bits per byte and training loss over the number of neighbours (Figure 3 of the report).

    Parameters
    ----------
    curve : DataFrame
        Of :func:`tttnn.report.statistics.curve`.
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


def cost_chart(cost: pd.DataFrame, name: str, alt_text: str) -> Figure:
    """Seconds per neighbour by domain: training alone, and with the scoring after it (Figure 1 of the report).

    Parameters
    ----------
    cost : DataFrame
        Of :func:`tttnn.report.statistics.cost`.
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
        Of :func:`tttnn.experiment.neighbourhoods.distance_histogram`.
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
        Of :func:`tttnn.experiment.neighbourhoods.neighbourhoods`, at most 1000 of them.
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
        Of :func:`tttnn.experiment.footprint.footprint`, for several numbers of documents.
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
