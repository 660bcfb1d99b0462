"""The published figures that were carried over are the ones the book argues with."""

import pytest

from tttnn.analysis.published import published_curves, report_claims


def test_known_points_of_the_original_curves():
    curves = published_curves("gpt2").set_index(["task", "k"])
    assert curves.loc[("github", 20), "ratio"] == pytest.approx(0.409, abs=5e-4)
    assert curves.loc[("europarl", 20), "ratio"] == pytest.approx(0.676, abs=5e-4)
    assert curves.loc[("books3", 20), "ratio"] == pytest.approx(0.962, abs=5e-4)
    assert curves.loc[("all", 50), "bits_per_byte"] == pytest.approx(0.992219)
    assert sorted(curves.index.get_level_values("k").unique()) == list(range(51))
    assert curves.index.get_level_values("task").nunique() == 23


def test_known_claims_of_the_report():
    claims = report_claims()
    assert claims.loc["R03", "value"] == 51 and claims.loc["R04", "value"] == 68
    assert claims["source_label"].notna().all()


def test_unknown_run_lists_the_known_ones():
    with pytest.raises(ValueError, match="gptneo"):
        published_curves("gpt3")
