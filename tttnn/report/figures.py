"""Altair charts as numbered, accessible figures that need no network.

A :class:`Figure` carries three forms of one chart. The book shows the HTML form: a labelled container,
the Vega-Lite specification as data and the plotted numbers as a table. The book's own script
(``book/_static/charts.js``) draws it with a local copy of vegaEmbed. Static viewers get a PNG, and text
readers the alternative text.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from tttnn.report.formats import readable
from tttnn.report.tables import table

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

MAX_ROWS = 5_000  # the specification and its data travel inside the page
STATIC_WIDTH = 620  # pixels, for the PNG; in the book a chart takes the width of the column

# Okabe and Ito's colours for colour-blind readers, without black and yellow, which vanish in one of the two
# modes; then grey and brown, which need their second channel.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C6D31"]

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]


def _looks(*names: str) -> dict[str, tuple[str, str]]:
    """A colour and a shape for each name; the ninth has the first one's colour and another shape."""
    rounds = [number // len(PALETTE) for number in range(len(names))]
    return {
        name: (PALETTE[number % len(PALETTE)], SHAPES[(number + turn) % len(SHAPES)])
        for number, (name, turn) in enumerate(zip(names, rounds, strict=True))
    }


# What has a name keeps its colour and its shape through the book. Two of one line stand in a chart together, two of
# different lines do not.
LOOKS = {
    **_looks("smollm2-135m", "gpt2-xs-general", "gpt2-xs-pile", "qwen2-xs-reasoning", "gpt2-xxs-general",
             "GPT-2-large", "GPT-2", "GPT-Neo", "gpt2-s-general"),
    **_looks("TTT-NN", "without siblings", "random of the domain", "dynamic evaluation", "in context", "unigrams",
             "none", "kNN-LM", "TTMM", "TTT-NN, LoRA", "HullFT", "SIFT", "dynamic evaluation, LoRA",
             "random of the corpus", "TTT-NN, then dynamic"),
    **_looks("our loop", "published loop"),
    **_looks("flat", "flat-mapped", "fp16", "sq8", "ivfpq", "rabitq", "ivfrabitq", "hnsw"),
    **_looks("arxiv", "books", "dm-mathematics", "enron", "europarl", "github", "wikipedia"),
    **_looks("catalogues", "cpp", "docstrings", "mathematics", "python", "readmes"),
}  # fmt: skip

# No colours for text and axes here: charts.js adds those of the page's light or dark mode.
THEME: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "view": {"continuousWidth": 540, "continuousHeight": 260, "stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": 500, "gridOpacity": 0.4},
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "symbolSize": 90,
        "orient": "top",
        "columns": 4,
        "labelLimit": 0,
    },
    "header": {"labelFontSize": 12, "titleFontSize": 13},
    "title": {"fontSize": 14, "anchor": "start", "fontWeight": 600},
    "line": {"strokeWidth": 2},
    "point": {"size": 60, "filled": True, "opacity": 1},
    "bar": {"color": PALETTE[0]},
    "range": {"category": PALETTE},
}

_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor"}
INK: dict[str, dict[str, Any]] = {
    "axis": {**_TEXT, "gridColor": "currentColor", "gridOpacity": 0.15, "domainColor": "currentColor",
             "tickColor": "currentColor"},
    "legend": {**_TEXT, "symbolBaseStrokeColor": "currentColor", "columns": 2}, "header": _TEXT,
    "text": {"color": "currentColor"}, "rule": {"color": "currentColor"},
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One chart in the forms a notebook can show; made by :func:`figure`.

    Attributes
    ----------
    chart
        The Altair chart, for changing it further.
    spec
        The Vega-Lite specification that is drawn.
    name, alt
        The figure's label and its alternative text.
    data
        The numbers behind the chart, units in the headings.
    """

    chart: alt.TopLevelMixin
    spec: dict[str, Any]
    name: str
    alt: str
    data: pd.DataFrame | None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if "JPY_SESSION_NAME" in os.environ:  # a live Jupyter session: nothing there loads charts.js
            return self.chart._repr_mimebundle_(include, exclude)
        png = base64.b64encode(self.png()).decode("ascii")
        return {"text/html": self.html(), "text/plain": self.alt, "image/png": png}

    def html(self) -> str:
        """Return the container, the specification and the table behind the figure, as HTML."""
        name, alt = html.escape(self.name), html.escape(self.alt)
        spec = json.dumps(self.spec, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
        parts = [
            f'<div class="tttnn-chart" id="{name}-chart" role="img" aria-label="{alt}"></div>',
            f'<script type="application/json" data-chart="{name}-chart">{spec}</script>',
        ]
        if self.data is not None:
            rows = table(self.data).html()
            parts.append(f'<details class="tttnn-data"><summary>Data of this figure</summary>{rows}</details>')
        return "\n".join(parts)

    def png(self) -> bytes:
        """Return the chart as PNG on white, one pixel per CSS pixel."""
        import vl_convert

        return vl_convert.vegalite_to_png(self._static_spec())

    def svg(self) -> str:
        """Return the chart as an SVG document on white."""
        import vl_convert

        return vl_convert.vegalite_to_svg(self._static_spec())

    def inline_svg(self) -> str:
        """Return the chart as SVG for a page that stands by itself, in the colour of the page's text."""
        import vl_convert

        spec, config = self._static_spec(), self.spec["config"]
        inks = {part: {**config.get(part, {}), **ink} for part, ink in INK.items()}
        svg = vl_convert.vegalite_to_svg({**spec, "config": {**config, **inks, "background": "transparent"}})
        name = html.escape(self.alt, quote=True)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)

    def _static_spec(self) -> dict[str, Any]:
        spec = {**self.spec, "config": {**self.spec["config"], "background": "white"}}
        if spec.get("width") == "container":
            spec["width"] = STATIC_WIDTH
        return spec


def figure(chart: alt.TopLevelMixin, name: str, alt: str, data: pd.DataFrame | None = None) -> Figure:
    """Make `chart` a figure of the book.

    Parameters
    ----------
    chart
        Any Altair chart. One without a width takes the width of the text column. Colour must not be the
        only channel that tells series apart: add shape, stroke dash or labels.
    name
        The figure's label, the same as ``name`` in the cell's ``mystnb`` metadata, for example
        ``fig-loop-gain``.
    alt
        Alternative text: what the chart shows, in one or two sentences, with the main finding.
    data
        The numbers to list below the chart, units in the headings; default: the chart's own data.

    Returns
    -------
    Figure
        Shown when it is the last expression of a cell. Equal charts give equal bytes.

    Raises
    ------
    ValueError
        If `alt` is empty or the chart holds more than 5,000 rows.
    """
    import altair
    import pandas as pd

    alt = readable(alt)
    if not alt.strip():
        raise ValueError(f"figure {name}: alt is empty; say in words what the chart shows")
    try:
        with altair.data_transformers.enable("default", max_rows=MAX_ROWS):
            spec = chart.to_dict()
    except altair.MaxRowsError as error:
        raise ValueError(f"figure {name}: more than {MAX_ROWS} rows; aggregate before plotting") from error
    if data is None and isinstance(getattr(chart, "data", None), pd.DataFrame):
        data = chart.data
    return Figure(chart, _house_style(spec, name, alt), name, alt, data)


def colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each series: its own of ``LOOKS`` where it has one, then those of the palette that are left.

    What follows a comma, as in ``GPT-2, split query``, does not change the colour of a name that has none by itself.
    """
    own = [_own(name)[0] for name in names]
    left = cycle([c for c in PALETTE if c not in own] or PALETTE)
    return [colour or next(left) for colour in own]


def shapes(names: Sequence[str]) -> list[str]:
    """Return a shape for each series: its own of ``LOOKS``; others, and a second of one look, take what is left."""
    looks = [_own(name) for name in names]
    own = [None if look in looks[:place] else look[1] for place, look in enumerate(looks)]
    left = cycle([s for s in SHAPES if s not in own] or SHAPES)
    return [shape or next(left) for shape in own]


def _own(name: str) -> tuple[str, str] | tuple[None, None]:
    if name not in LOOKS:
        name = name.partition(",")[0]
    return LOOKS.get(name, (None, None))


def _house_style(spec: dict[str, Any], name: str, alt: str) -> dict[str, Any]:
    """Return `spec` with the book's theme, stable data names and six significant digits."""
    own = {key: value for key, value in spec.get("config", {}).items() if key != "view"}
    text = json.dumps({**spec, "config": {**THEME, **own}, "description": alt})
    # Altair names data sets by a hash of their content, which changes with the last bit of a float.
    for number, key in enumerate(spec.get("datasets", {})):
        text = text.replace(key, f"{name}-data-{number}")
    styled = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.6g}"))
    if "width" not in styled and ("mark" in styled or "layer" in styled) and "row" not in _channels(styled):
        styled["width"] = "container"
    return styled


def _channels(spec: dict[str, Any]) -> set[str]:
    """Return the encoding channels, with all facets counted as ``row``: Vega-Lite cannot stretch those."""
    names = set(spec.get("encoding", {}))
    return names | {"row"} if names & {"column", "facet"} else names
