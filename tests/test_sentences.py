"""The sentences that depend on rows: each case reads as a sentence, none of them with a hole in it."""

import math

import pandas as pd
import pytest

from tttnn.analysis.controls import MEAN
from tttnn.report.sentences import listed, points, standing, where


def effects(**bounds):
    rows = [{"domain": name, "difference": sum(ends) / 2, "low": ends[0], "high": ends[1]}
            for name, ends in bounds.items()]  # fmt: skip
    return pd.DataFrame([*rows, {"domain": MEAN, "difference": 0.5, "low": 0.4, "high": 0.6}])


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "no domain"), (["a"], "a"), (["a", "b"], "a and b"), (iter("abc"), "a, b and c")],
)
def test_names_are_joined_as_in_a_sentence(names, said):
    assert listed(names, "no domain") == said


def test_a_difference_is_said_in_points():
    assert points({"difference": 0.056, "low": -0.0049, "high": 0.1}) == "+5.6 (-0.5 to +10.0)"
    assert points({"difference": 0.056, "low": 0.01, "high": 0.1}, ".1f") == "5.6 (1.0 to 10.0)"
    assert points({"difference": 0.056, "low": float("nan"), "high": float("nan")}) == "+5.6 (no interval)"


@pytest.mark.parametrize(("low", "high", "said"), [
    (-1, 1, "level with"), (0.1, 1, "behind"), (-1, -0.1, "ahead of"), (math.nan, math.nan, "not to be told from"),
])  # fmt: skip
def test_an_interval_says_who_is_ahead(low, high, said):
    assert standing({"low": low, "high": high}) == said


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"a": (-1, 1), "b": (-2, 1)}, "It differs in no domain by more than its interval."),
        ({"a": (1, 2), "b": (1, 3)}, "It gains less everywhere."),
        ({"a": (-2, -1), "b": (-2, 1)}, "It gains more on a; the rest is not decided."),
        ({"a": (1, 2), "b": (1, 2), "c": (-2, -1)}, "It gains less on a and b and gains more on c."),
    ],
)
def test_where_a_variant_differs_is_one_whole_sentence(bounds, said):
    assert where(effects(**bounds)) == said
