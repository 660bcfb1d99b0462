"""The published figures that were carried over are the ones the book argues with."""

import re
from pathlib import Path

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


ROOT = Path(__file__).resolve().parents[1]
# What nobody could read: what the tables and the sixth figure hold, and what the body leaves out.
UNREAD = re.compile(
    r"Tables? \d[^.|]{0,20}of the report|report's Tables? \d|Fig(?:ure|\.) 6 of the report|report's Fig(?:ure|\.) 6"
    r"|report(?: itself)? (?:adds|gives|makes|has) no |report does not (?:say|describe|mention|give)"
)


def test_the_page_on_the_report_places_every_figure_and_table():
    page = (ROOT / "book" / "the_report.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (Figure \d|Table \d) \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == [f"Figure {n}" for n in range(1, 7)] + ["Table 1", "Table 2"]
    unknown = {name for name, cells in rows.items() if cells.endswith("not known")}
    assert unknown == {"Figure 6", "Table 1", "Table 2"}
    assert "generated/report_claims.md" in page


def test_every_source_label_is_explained():
    page = (ROOT / "book" / "the_report.md").read_text(encoding="utf-8")
    for label in report_claims()["source_label"].unique():
        assert f"\n{label}\n: " in page


def test_no_sentence_says_more_of_the_report_than_was_read():
    places = [*ROOT.glob("notebooks/*.md"), *ROOT.glob("book/*.md"), *ROOT.glob("tttnn/**/*.py"), ROOT / "README.md"]
    found = {path.name: hits for path in places if (hits := UNREAD.findall(path.read_text(encoding="utf-8")))}
    assert not found
