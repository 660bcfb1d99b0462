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
        x=alt.X("k:Q", title="neighbours trained on, k"),
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
    """Histogram of nearest-neighbour distances, a small panel per domain.

    Parameters
    ----------
    counts : DataFrame
        Columns domain, rank ("1st", "20th"), low, high (squared L2, edges of the bin) and share (of queries).
    """
    import altair as alt

    shown = {"title": "neighbour"}
    chart = alt.Chart(counts).mark_bar(opacity=0.75, stroke="black", strokeWidth=0.3).encode(
        x=alt.X("low:Q", title="squared L2 distance"), x2="high:Q",
        y=alt.Y("share:Q", title="share of queries", stack=None, axis=alt.Axis(format="%")),
        color=alt.Color("rank:N", **shown), facet=alt.Facet("domain:N", columns=3, title=None),
        tooltip=["domain:N", "rank:N", "low:Q", "high:Q", alt.Tooltip("share:Q", format=".0%")],
    ).properties(width=170, height=110)  # fmt: skip
    return figure(chart, name, alt_text, counts.rename(columns=UNITS))
