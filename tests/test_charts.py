"""Charts say what they show: units on the axes, a channel besides colour, alternative text, the numbers below."""

import json

import pandas as pd
import pytest

from tttnn.report import charts
from tttnn.report.text import shade

GAINS = pd.DataFrame({
    "domain": ["a", "b"], "documents": [3, 4], "before": [2.0, 3.0], "after": [1.0, 2.9], "ratio": [0.5, 0.97],
    "low": [0.4, 0.9], "high": [0.6, 1.0], "better": [1.0, 0.5],
})  # fmt: skip
CURVE = pd.DataFrame({
    "domain": ["a", "a", "b", "b"], "k": [0, 1, 0, 1], "bits_per_byte": [2.0, 1.0, 3.0, 2.5],
    "byte_perplexity": [4.0, 2.0, 8.0, 5.7], "loss": [None, 3.0, None, 2.0], "ratio": [1, 0.5, 1, 0.83],
})  # fmt: skip
COST = pd.DataFrame({"domain": ["a", "a"], "timed": ["alone", "both"], "seconds": [0.1, 0.2], "tokens": [9, 9]})


@pytest.mark.parametrize(
    ("chart", "data", "axes", "second"),
    [
        (charts.before_after_chart, GAINS, ["bits per byte (lower is better)"], "shape"),
        (charts.curve_chart, CURVE, list(charts.CURVE_ROWS.values()), "strokeDash"),
        (charts.cost_chart, COST, ["mean seconds per neighbour"], "shape"),
    ],
)
def test_charts_name_axes_and_use_a_second_channel(chart, data, axes, second):
    made = chart(data, "fig-x", "What the chart shows in words.")
    spec = json.dumps(made.spec)
    for title in axes:
        assert title in spec
    assert f'"{second}"' in spec
    bundle = made._repr_mimebundle_()
    assert 'aria-label="What the chart shows in words."' in bundle["text/html"]
    assert "<details" in bundle["text/html"] and bundle["image/png"]


def test_before_after_orders_by_gain_and_labels_it():
    spec = json.dumps(charts.before_after_chart(GAINS[::-1], "fig-x", "What it shows in words.").spec)
    assert spec.index('"a"') < spec.index('"b"')
    assert "datum.ratio * 100" in spec


def test_shaded_text_escapes_and_adds_up():
    shaded = shade(["<b>", " x"], [0.693147, 100.0], "Before")
    page = shaded._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert 'title="1.0 bits"' in page and "--cost:1.00" in page
    assert "2 tokens" in repr(shaded)
    with pytest.raises(ValueError, match="1 tokens but 0 costs"):
        shade(["x"], [], "Before")
