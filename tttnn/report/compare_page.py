"""The page of several runs: a table, paired intervals, a chart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tttnn.report.charts import interval_chart
from tttnn.report.one_page import page, section
from tttnn.report.tables import Table, table

if TYPE_CHECKING:
    from tttnn.analysis.side_by_side import SideBySide
    from tttnn.report.figures import Figure


def compare_page(found: SideBySide) -> str:
    """Return the whole page as HTML that needs no network."""
    sections = [
        section("All documents of each run", _runs_table(found), _ratios_figure(found)),
        section("In pairs, on the documents that both have", *_pairs(found)),
        section("By domain", domains_table(found)),
    ]
    return page("Runs side by side", _lead(found), sections)


def _lead(found: SideBySide) -> str:
    best = found.table.loc[found.table["ratio"].idxmin()]
    count = len(found.table)
    if count == 1:
        return f"After {found.k} neighbours, {best['run']} needs {best['ratio']:.1%} of its bits."
    if found.unpaired:
        first, verb = found.table["run"].iloc[0], "has" if len(found.unpaired) == 1 else "have"
        return (
            f"{count} runs after {found.k} neighbours, each on its own documents: {', '.join(found.unpaired)} {verb} "
            f"none in common with {first}, so their ratios cannot be compared."
        )
    shared = found.pairs["documents"].min() if len(found.pairs) else 0
    if shared < found.table["documents"].max():
        return (
            f"{count} runs after {found.k} neighbours, on documents that differ: the pairs below tell which gains more "
            "on the documents that both have."
        )
    return (
        f"Of {count} runs, {best['run']} has the lowest ratio after {found.k} neighbours: {best['ratio']:.1%} of its "
        "bits. Whether that is more than chance, the pairs below tell."
    )


def _runs_table(found: SideBySide) -> Table:
    """Each run over all of its documents."""
    units = {"before": "bits/byte", "after": "bits/byte", "ratio": "after / before, 95% interval"}
    return table(_joined(found.table), f"Each run by itself, after {found.k} neighbours.", units, {"better": ".0%"})


def domains_table(found: SideBySide) -> Table:
    """Each run by domain."""
    shown = _joined(found.domains)[["run", "domain", "documents", "before", "after", "ratio"]]
    units = {"before": "bits/byte", "after": "bits/byte", "ratio": "after / before, 95% interval"}
    return table(shown, f"After {found.k} neighbours, by domain.", units)


def _ratios_figure(found: SideBySide) -> Figure:
    """After / before of each run and domain, with intervals."""
    data = found.domains.rename(columns={"ratio": "value"}).assign(series=found.domains["run"])
    lines = "; ".join(f"{row.run} {row.ratio:.1%}" for row in found.table.itertuples())
    alt = f"Bits after / before at k = {found.k}, by domain and run. Over all documents: {lines}."
    return interval_chart(data, "fig-compare-ratios", alt, "bits after / before", {1.0: "no change"})


def _pairs(found: SideBySide) -> list[Any]:
    alone = f"No document in common with the first run: {', '.join(found.unpaired)}." if found.unpaired else ""
    if found.pairs.empty:
        return [alone or "One run has no pair."]
    shown = found.pairs.assign(
        difference=[f"{100 * row.difference:+.1f} ({_span(row, '+.1f')})" for row in found.pairs.itertuples()]
    ).drop(columns=["low", "high"])  # fmt: skip
    units = {"difference": "points, 95% interval"}
    formats = {"ratio": ".1%", "ratio_against": ".1%"}
    caption = "Against the first run, on the same documents; a difference below 0 means that the run gains more."
    return [table(shown, caption, units, formats), *([alone] if alone else [])]


def _joined(rows: Any) -> Any:
    """Ratio and interval in one column."""
    ratio = [f"{100 * row.ratio:.1f}% ({_span(row, '.1f')})" for row in rows.itertuples()]
    return rows.assign(ratio=ratio).drop(columns=["low", "high"])


def _span(row: Any, spec: str) -> str:
    """An interval in percent, if there are documents enough for one."""
    return "–" if math.isnan(row.low) else f"{100 * row.low:{spec}} to {100 * row.high:{spec}}"
