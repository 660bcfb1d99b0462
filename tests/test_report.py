"""Figures, tables, glued numbers and provenance say what they should and are the same every time."""

import json
import math
import re
import subprocess

import altair as alt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tttnn.report import figure, glue_text, provenance, table
from tttnn.report.footer import commit, peak_memory
from tttnn.report.formats import format_value, readable

ROWS = pd.DataFrame({"k": [0, 1, 2], "bits per byte": [2.0, 1.7, 1.512345678901]})


@pytest.fixture(autouse=True)
def outside_jupyter(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


def line(rows=ROWS):
    return alt.Chart(rows).mark_line().encode(x="k", y="bits per byte")


def spec_of(shown) -> dict:
    return json.loads(BeautifulSoup(shown.html(), "html.parser").find("script").string)


def test_figure_is_labelled_and_carries_its_data():
    shown = figure(line(), "fig-a", 'Falls from "2.0" to <1.6')
    soup = BeautifulSoup(shown.html(), "html.parser")
    assert soup.div["role"] == "img"
    assert soup.div["aria-label"] == 'Falls from "2.0" to <1.6'
    assert soup.script["data-chart"] == soup.div["id"] == "fig-a-chart"
    assert [cell.text for cell in soup.select("details td.number")][:2] == ["0", "2"]


def test_figure_has_the_three_forms():
    bundle = figure(line(), "fig-a", "Falls.")._repr_mimebundle_()
    assert bundle["text/plain"] == "Falls."
    assert bundle["image/png"].startswith("iVBOR")
    assert set(bundle) == {"text/html", "text/plain", "image/png"}


def test_equal_charts_give_equal_bytes_and_names_do_not_depend_on_digits():
    other = ROWS.assign(**{"bits per byte": ROWS["bits per byte"] + 1e-12})
    pages = {figure(line(rows), "fig-a", "Falls.").html() for rows in (ROWS, ROWS.copy(), other)}
    assert len(pages) == 1


def test_text_in_a_chart_cannot_end_the_script():
    rows = pd.DataFrame({"k": ["</script><script>alert(1)"], "bits per byte": [1.0]})
    soup = BeautifulSoup(figure(line(rows), "fig-a", "One point.").html(), "html.parser")
    assert len(soup.find_all("script")) == 1
    assert not soup.div.get_text()


def test_only_charts_that_can_stretch_take_the_width_of_the_column():
    def width(chart):
        return spec_of(figure(chart, "fig-a", "Falls.")).get("width")

    assert width(line()) == "container"
    assert width(line() + line()) == "container"
    assert width(line().properties(width=200)) == 200
    assert width(line().encode(column="k")) is None
    assert width(line() | line()) is None


def test_a_chart_in_a_live_session_uses_altairs_own_renderer(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "chapter.ipynb")
    assert "data-chart" not in str(figure(line(), "fig-a", "Falls.")._repr_mimebundle_())


def test_too_many_rows_and_an_empty_description_are_refused():
    with pytest.raises(ValueError, match="fig-a: more than 5000 rows; aggregate"):
        figure(line(pd.DataFrame({"k": range(5001), "bits per byte": 1.0})), "fig-a", "Falls.")
    with pytest.raises(ValueError, match="alt is empty"):
        figure(line(), "fig-a", " ")


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (12345, None, "12,345"),
        (0.51234, None, "0.5123"),
        (123.0, None, "123"),
        (0.1, None, "0.1"),
        (0.001, None, "0.001"),
        (0.0001655, None, "0.0001655"),
        (0.00006881, None, "0.00006881"),
        (1e-8, None, "1e-8"),
        (2e-5, ".0e", "2e-5"),
        (-0.2, None, "−0.2"),
        (-0.0004, "+.1f", "0.0"),
        (9999.0, None, "9,999"),
        (123456.7, None, "123,457"),
        (0.5, ".1%", "50.0%"),
        (math.nan, ".3f", "–"),
        (None, None, "–"),
        (True, None, "yes"),
        (np.bool_(False), None, "no"),
        ("wheels", None, "wheels"),
    ],
)
def test_numbers_are_readable(value, spec, text):
    assert format_value(value, spec) == text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("-4.1 points (-5.9 to -2.1)", "−4.1 points (−5.9 to −2.1)"),
        ("-0.1 (-0.3 to +0.0)", "−0.1 (−0.3 to 0.0)"),
        ("learning_rate=2e-05, eps=1e-08", "learning_rate=2e-5, eps=1e-8"),
        ("2026-11-22T05:06:04Z to 2026-11-23T05:06:04+00:00", "2026-11-22 05:06 UTC to 2026-11-23 05:06 UTC"),
        ("AMD EPYC, 2 cores, 1 threads; GPU: none", "AMD EPYC, 2 cores, 1 thread; GPU: none"),
        ("11 threads, 5-10 pages of all-minilm-l6-v2", "11 threads, 5-10 pages of all-minilm-l6-v2"),
    ],
)
def test_numbers_within_texts_are_readable(written, shown):
    assert readable(written) == shown
    assert readable(shown) == shown


def test_a_table_quotes_documents_as_they_are():
    frame = pd.DataFrame({"token": [" -1"], "change": [" -1"]})
    assert table(frame, quoted=["token"]).frame.to_dict("list") == {"token": [" -1"], "change": [" −1"]}


def test_table_has_units_escapes_text_and_aligns_numbers():
    frame = pd.DataFrame({"text": ["<b>"], "before": [1.23456]})
    shown = table(frame, "One & all.", units={"before": "bits/byte"}, formats={"before": ".2f"})
    soup = BeautifulSoup(shown.html(), "html.parser")
    assert [cell.text for cell in soup.find_all("th")] == ["text", "before (bits/byte)"]
    assert [cell.text for cell in soup.find_all("td")] == ["<b>", "1.23"]
    assert [cell.get("class") for cell in soup.find_all("td")] == [None, ["number"]]
    assert soup.p.text == "One & all." == soup.div["aria-label"]
    assert soup.div["tabindex"] == "0", "who reads with the keyboard scrolls what has the focus"
    assert "1.23" in repr(shown) and "0x" not in repr(shown)


def test_long_words_of_a_table_may_break():
    frame = pd.DataFrame(
        {"path": ["real/nearest <3f9c41b0aa2e4d1c8b7f>"], "name": ["qwen2-xs-reasoning"], "n": ["2e-5"]}
    )
    page = table(frame).html()
    assert "real/<wbr>nearest &lt;3f9c41b0aa2e4<wbr>d1c8b7f&gt;" in page
    assert "<td>qwen2-<wbr>xs-<wbr>reasoning</td><td>2e-5</td>" in page


def test_a_table_is_set_in_the_largest_type_that_fits():
    def size(columns):
        frame = pd.DataFrame({f"{place:02d}": ["a word of text"] for place in range(columns)})
        return table(frame).html().split('"dataframe tttnn-table')[1].split('"')[0]

    assert [size(columns) for columns in (3, 8, 30)] == ["", " tttnn-dense", " tttnn-dense tttnn-denser"]


def test_table_refuses_unknown_columns():
    with pytest.raises(KeyError, match="bofore"):
        table(ROWS, units={"bofore": "s"})


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [(0.51234, ".3f", "0.512"), (0.5, ".2f", "0.50"), (4301, None, "4,301"), ("46% on it's", None, "46% on it's")],
)
def test_glued_text_reads_as_formatted(value, spec, shown):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from myst_nb.core.variables import format_plain_text

    InteractiveShell.instance()
    with capture_output() as captured:
        glue_text("gain", value, spec)
    (output,) = captured.outputs
    assert format_plain_text(output.data["application/papermill.record/text/plain"], "") == shown
    assert output.metadata["scrapbook"]["name"] == "gain"


def test_provenance_lists_what_a_reader_needs():
    facts = provenance({"k": 20, "corpus": "wheels"}, index_fingerprint="3fa9").facts
    assert facts["parameters"] == "k=20, corpus='wheels'"
    assert facts["index fingerprint"] == "3fa9"
    assert "thread" in facts["device"] and "torch" in facts["versions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", facts["date (UTC)"])
    assert 10e6 < peak_memory() < 1e12


def test_provenance_escapes_its_values():
    shown = provenance({"corpus": "<a|b>"})
    assert "&lt;a|b&gt;" in shown._repr_html_()
    assert r"<a\|b>" in shown._repr_markdown_()


def test_commit_tells_changed_sources_from_refreshed_outputs(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert commit(tmp_path) == "not a git checkout"
    git("init")
    (tmp_path / "notebooks").mkdir()
    for name in ("code.py", "notebooks/a.ipynb"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "notebooks/a.ipynb").write_text("2", encoding="utf-8")
    assert commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("2", encoding="utf-8")
    assert commit(tmp_path) == f"{clean}-dirty"
