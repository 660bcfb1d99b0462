"""Charts say what they show: units on the axes, a channel besides colour, alternative text, the numbers below."""

import json

import pandas as pd
import pytest

from tttnn.report import charts
from tttnn.report.figures import LOOKS, PALETTE, SHAPES, colours, shapes

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


MODELS = pd.concat([GAINS.assign(model=name) for name in ("small", "large")])
CURVES = pd.DataFrame({
    "domain": ["z", "z", "a", "a"], "model": ["m", "m", "n", "n"], "origin": ["here", "here", "there", "there"],
    "k": [0, 1, 0, 1], "ratio": [1.0, 0.5, 1.0, 0.9],
})  # fmt: skip
INTERVALS = pd.DataFrame({
    "domain": ["z", "a", "z"], "series": ["one", "one", "other"], "value": [0.5, 0.9, -0.2], "low": [0.4, 0.8, None],
    "high": [0.6, 1.1, None], "source": ["here", "here", "there"],
})  # fmt: skip


@pytest.mark.parametrize(
    ("made", "axis"),
    [
        (charts.models_chart(MODELS, "fig-x", "Before and after."), "bits per byte"),
        (charts.compared_chart(MODELS.assign(deflate=2.5), "fig-x", "Before and after."), "bits per byte"),
        (charts.compared_chart(MODELS.assign(deflate=None), "fig-x", "Before and after."), "bits per byte"),
        (charts.ratio_curves_chart(CURVES, "fig-x", "Curves."), "after / before"),
        (charts.interval_chart(INTERVALS, "fig-x", "Dots.", "what it is", {1.0: "no change"}), "what it is"),
        (charts.interval_chart(INTERVALS, "fig-x", "Dots.", "what it is", {}, panels="source"), "what it is"),
    ],
)
def test_charts_of_several_models_keep_the_order_of_their_rows(made, axis):
    spec = json.dumps(made.spec)
    assert axis in spec and '"shape"' in spec and made.png()
    for column in ("domain", "model", "series"):
        if column in made.data:
            order = json.dumps(made.data[column].drop_duplicates().tolist())
            assert order in spec, f"{column}s are not in the order of the rows"


def test_interval_chart_names_its_marks():
    made = charts.interval_chart(INTERVALS, "fig-x", "Dots.", "share", {0.0: "caught up", 1.0: "nothing gained"})
    assert "caught up" in json.dumps(made.spec)
    assert made.data["95% low"].isna().sum() == 1, "a value without an interval is shown all the same"


def test_a_model_keeps_its_colour_whatever_else_is_in_the_chart():
    one, other = colours(["a", "smollm2-135m", "b"]), colours(["smollm2-135m, chosen rate", "gpt2-xs-general"])
    assert one[1] == other[0] == LOOKS["smollm2-135m"][0]
    assert len(set(one)) == 3, "others take what is left"
    assert colours(["a", "b"]) == PALETTE[:2]
    assert len(colours([str(n) for n in range(20)])) == 20
    assert shapes(["a", "TTT-NN", "b"])[1] == LOOKS["TTT-NN"][1] == "circle"
    assert len(set(shapes(["GPT-2, report", "GPT-2, original authors", "GPT-Neo"]))) == 3, "one colour, two shapes"


def test_no_two_of_a_kind_look_alike():
    kinds = (
        ["smollm2-135m", "gpt2-s-general"],
        ["TTT-NN", "TTT-NN, then dynamic"],
        ["flat", "hnsw"],
        ["arxiv", "wikipedia"],
    )
    names = list(LOOKS)
    for first, last in kinds:
        looks = [LOOKS[name] for name in names[names.index(first) : names.index(last) + 1]]
        assert len(looks) > 5 and len(set(looks)) == len(looks)
    own_colours, own_shapes = (set(each) for each in zip(*LOOKS.values(), strict=True))
    assert own_colours == set(PALETTE) and own_shapes <= set(SHAPES)


def test_compared_models_have_a_row_for_each_domain_and_a_colour_for_each_model():
    gains = MODELS.assign(deflate=2.5, model=MODELS["model"].map({"small": "gpt2-xs-general", "large": "other"}))
    spec = charts.compared_chart(gains, "fig-x", "Before and after.").spec
    hues = [layer["encoding"]["color"]["scale"] for layer in spec["layer"] if "color" in layer["encoding"]]
    expected = {"domain": ["gpt2-xs-general", "other"], "range": ["#D55E00", "#0072B2"]}
    assert hues == [expected] * 3
    marks = [layer["mark"]["type"] for layer in spec["layer"]]
    assert marks.count("point") == 2 and "tick" in marks and "grey bar: deflate" in json.dumps(spec)


RELEASED = pd.DataFrame(
    [
        {"model": model, "task": task, "k": k, "bits_per_byte": start - 0.1 * k}
        for task, start in (("z", 2.0), ("a", 1.0)) for model in ("GPT-2", "GPT-Neo") for k in range(4)
    ]
)  # fmt: skip


def test_what_a_reader_may_choose_has_a_name_and_all_values():
    made = charts.chosen_curves_chart(RELEASED, "fig-x", "Curves to choose.", "z", 2)
    task, model, k = (param["bind"] for param in made.spec["params"])
    assert [bind["name"] for bind in (task, model, k)] == ["Domain", "Model", "k"]
    assert task["options"] == ["a", "z"] and model["options"] == ["all of them", "GPT-2", "GPT-Neo"]
    assert (k["min"], k["max"]) == (0, 3)
    assert [param["value"] for param in made.spec["params"]] == ["z", "all of them", 2]
    assert made.png(), "what is chosen at first is drawn without a reader, too"


def test_curves_to_choose_from_travel_as_lists_and_are_listed_below():
    made = charts.chosen_curves_chart(RELEASED, "fig-x", "Curves to choose.", "z", 2)
    (rows,) = made.spec["datasets"].values()
    assert len(rows) == 4, "one for each curve, not for each of its points"
    assert next(row["bits"] for row in rows if row["task"] == "z") == [2.0, 1.9, 1.8, 1.7]
    assert made.data.columns.tolist() == ["task", "model", *(f"k = {k} (bits/byte)" for k in (0, 1, 2))]


def test_dots_of_a_task_share_a_line_and_a_row_below():
    long = pd.DataFrame({"task": ["z", "a"] * 2, "series": ["one", "one", "other", "other"], "value": [1, 2, 3, 2]})
    made = charts.dots_chart(long, "fig-x", "Dots.", "bits", (0.0, "level"), ".1f")
    assert made.data.to_dict("list") == {"task": ["z", "a"], "one: bits": [1, 2], "other: bits": [3, 2]}
    spec = json.dumps(made.spec)
    assert '"shape"' in spec and "level" in spec and '"sort": ["z", "a"]' in spec and made.png()


def test_seconds_against_gain_name_the_tasks_that_are_asked_for():
    spent = pd.DataFrame({"task": ["z", "a"], "model": ["m", "m"], "seconds": [1.0, 90.0], "gain": [5.0, -1.0]})
    made = charts.seconds_gain_chart(spent, "fig-x", "Dots.", ["a"])
    names = next(layer for layer in made.spec["layer"] if layer["mark"]["type"] == "text")
    assert [row["task"] for row in made.spec["datasets"][names["data"]["name"]]] == ["a"]
    assert '"log"' in json.dumps(made.spec) and made.png()


def test_siblings_have_a_panel_each_and_a_gap_where_there_are_none():
    shares = pd.DataFrame({"domain": "a", "k": [1, 2, 3], "same_unit": [1.0, 0.0, 0.5], "corpus": "mine"})
    losses = pd.DataFrame({
        "domain": "a", "k": [1, 3, 1, 2, 3], "loss": [2.0, 1.5, 2.0, 3.0, 2.5],
        "origin": ["from the same unit"] * 2 + ["all"] * 3,
    })  # fmt: skip
    made = charts.sibling_loss_chart(shares, losses, "fig-x", "What it shows in words.")
    assert "loss (nats/token)" in json.dumps(made.spec) and '"strokeDash"' in json.dumps(made.spec) and made.png()
    assert made.data["loss, from the same unit (nats/token)"].isna().tolist() == [False, True, False]
    made = charts.sibling_share_chart(shares, "fig-x", "What it shows in words.")
    assert "share from the same unit" in json.dumps(made.spec) and made.png() and len(made.data) == 3
