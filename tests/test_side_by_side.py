"""Runs side by side: archived ones by name, one's own by folder, paired on the documents they share."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tttnn.analysis.archive import archived, archived_models
from tttnn.analysis.side_by_side import side_by_side
from tttnn.analysis.statistics import ends
from tttnn.analysis.variant_effects import archived_variants, variant_models
from tttnn.errors import ParameterError
from tttnn.files import write_json
from tttnn.report.compare_page import compare_page
from tttnn.rows import RowsError

REAL = ["real/nearest", "real/random"]
MODEL = "smollm2-135m"


def test_runs_are_paired_on_the_documents_that_both_have():
    found = side_by_side(REAL)
    first, second = (ends(archived(run, MODEL).rows, found.k) for run in REAL)
    both = first.merge(second, on=["domain", "document"])
    [pair] = found.pairs.to_dict("records")
    assert pair["documents"] == len(both) and pair["run"] == f"real/random: {MODEL}"
    ratios = [both[f"after_{side}"].sum() / both[f"before_{side}"].sum() for side in "yx"]
    assert [pair["ratio"], pair["ratio_against"]] == pytest.approx(ratios)
    assert (
        pair["difference"] == pytest.approx(ratios[0] - ratios[1]) and pair["low"] < pair["difference"] < pair["high"]
    )
    assert found.table["ratio"].tolist()[0] == pytest.approx(first["after"].sum() / first["before"].sum())


def test_runs_of_other_documents_stand_beside_each_other_and_are_not_paired():
    found = side_by_side(["real/nearest", "variants-val/nearest"])
    assert found.pairs.empty and all(name.startswith("variants-val/nearest: ") for name in found.unpaired)
    assert "No document in common with the first run: variants-val/nearest" in compare_page(found)


def test_no_run_is_the_best_of_runs_without_a_document_in_common():
    other = side_by_side(["real/nearest", "variants-val/nearest"])
    page = compare_page(other)
    assert "has the lowest ratio" not in page and "so their ratios cannot be compared" in page
    first = f"real/nearest: {MODEL}"
    assert other.as_text().splitlines()[-1].endswith(f" against {first}: no document in common: not comparable")
    assert "has the lowest ratio" in compare_page(side_by_side(["real/nearest", "real/other-units"]))


def test_no_run_is_the_best_where_one_lacks_documents_of_the_other():
    page = compare_page(side_by_side(REAL))
    assert "has the lowest ratio" not in page and "on documents that differ: the pairs below tell" in page


def test_the_terminal_says_how_many_neighbours_and_what_differs_on_common_documents():
    found = side_by_side(REAL)
    said = found.as_text().splitlines()
    [pair] = found.pairs.to_dict("records")
    assert f"after {found.k} neighbours (k = {found.k})" in said
    assert said[-1] == (
        f"real/random: {MODEL} against real/nearest: {MODEL}: {100 * pair['difference']:+.1f} points "
        f"({100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}) on the {pair['documents']} documents that both have; "
        "below 0 it gains more"
    )


def test_all_models_of_a_run_are_lines():
    found, models = side_by_side(["seven-domains"], k=20), archived_models("seven-domains")
    assert len(found.table) == len(models) == len(found.pairs) + 1 and np.isfinite(found.pairs["low"]).all()
    assert set(found.domains["domain"]) == set(archived("seven-domains", "gpt2-xs-general").rows["domain"])


def test_the_command_writes_one_page_and_json(tmp_path):
    command = [sys.executable, "-m", "tttnn", "compare", *REAL, "--out", str(tmp_path / "page.html"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page and "<script" not in page and "In pairs" in page
    assert json.loads(done.stdout)["pairs"][0]["run"] == f"real/random: {MODEL}"


HUB = "EleutherAI/gpt-neo-1.3B"


def own_run(folder, after=1.0, model=HUB, documents=2, ks=(0, 1)):
    """A finished run of one's own with a few documents."""
    write_json(folder / "run.json", {"settings": {"model": model}, "about": {"corpus": "c"}})
    rows = [
        {"model": model, "domain": "letters", "document": document, "k": k, "nats": after if k else 2.0}
        for document in range(documents) for k in ks
    ]  # fmt: skip
    pd.DataFrame(rows).assign(bytes=9, words=2, steps=0, failure="").to_parquet(folder / "rows.parquet")


def test_variants_of_a_hub_s_model_are_found(tmp_path):
    for variant in ("nearest", "rate-2"):
        own_run(tmp_path / "v" / variant / HUB)
    (tmp_path / "v" / "plots").mkdir()
    assert archived_variants(str(tmp_path / "v"), HUB)["variant"].unique().tolist() == ["nearest", "rate-2"]
    assert variant_models(str(tmp_path / "v")) == [HUB]
    assert side_by_side([tmp_path / "v"]).table["run"].tolist() == [f"v/nearest: {HUB}", f"v/rate-2: {HUB}"]


@pytest.mark.parametrize("documents", [3, 4])
def test_no_interval_is_made_of_too_few_documents(tmp_path, documents):
    for name in "ab":
        own_run(tmp_path / name, documents=documents)
    found = side_by_side([tmp_path / "a", tmp_path / "b"])
    values, page = found.as_json(), compare_page(found)
    spans = [row[end] for part in ("table", "domains", "pairs") for row in values[part] for end in ("low", "high")]
    assert len(spans) == 10 and all((span is None) == (documents < 4) for span in spans)
    assert ("50.0% (–)" in page) == ("(–)" in page) == ("–" in found.as_text()) == (documents < 4)
    assert "nan" not in page and "NaN" not in found.as_text() and "nan" not in found.as_text()


def test_the_rates_of_a_sweep_are_lines(tmp_path):
    for rate in ("1e-05", "0.001"):
        own_run(tmp_path / "s" / f"lr-{rate}")
    assert side_by_side([tmp_path / "s"]).table["run"].tolist() == [f"s/lr-0.001: {HUB}", f"s/lr-1e-05: {HUB}"]


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_run(tmp_path / "a" / "nearest")
    own_run(tmp_path / "b" / "nearest", after=0.5)
    own_run(tmp_path / "b" / "random", after=1.5)
    found = side_by_side(["a/nearest", "b/nearest", "b/random"])
    assert found.table[["run", "ratio"]].values.tolist() == [
        [f"a/nearest: {HUB}", 0.5], [f"b/nearest: {HUB}", 0.25], [f"random: {HUB}", 0.75],
    ]  # fmt: skip
    for twice in (["a/nearest", tmp_path / "b" / ".." / "a" / "nearest"], ["b", "b/random"]):
        with pytest.raises(ParameterError, match="is there twice; give each run once"):
            side_by_side(twice)


def test_variants_are_compared_with_the_nearest_where_there_is_one(tmp_path):
    for variant in ("in-context-0.5", "nearest", "random"):
        own_run(tmp_path / "v" / variant / HUB)
    found = side_by_side([tmp_path / "v"])
    assert found.pairs["against"].unique().tolist() == [f"v/nearest: {HUB}"]
    assert found.pairs["run"].tolist() == [f"v/in-context-0.5: {HUB}", f"v/random: {HUB}"]


def test_runs_without_a_common_place_are_told_apart_by_what_they_lack(tmp_path):
    for name, ks in {"a": (0, 1, 2), "b": (0, 2), "c": (0, 3), "late": (1, 2), "none": (0,)}.items():
        own_run(tmp_path / name, ks=ks)

    def refused(*names):
        with pytest.raises(RowsError) as error:
            side_by_side([tmp_path / name for name in names])
        return str(error.value)

    assert refused("a", "b", "c") == f"c: {HUB} (at 0, 3): not scored at k = 2, as 2 of 3 runs are"
    assert refused("a", "late") == f"late: {HUB}: no score before any neighbour (k = 0), so nothing to compare with"
    assert refused("a", "none").startswith(f"none: {HUB} (at 0): not scored at k = 2")
    assert refused("none") == f"none: {HUB}: scored at 0 alone, so nothing to compare"


@pytest.mark.parametrize(
    ("runs", "k", "error", "message"),
    [
        (["nowhere"], None, RowsError, "no archived run 'nowhere'"),
        (["real/nearest", "real/nearest"], None, ParameterError, "is there twice"),
        (["real/nearest"], 4, ParameterError, "k=4: all of them were scored at"),
        (["real/nearest"], 0, ParameterError, "k=0: must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, k, error, message):
    with pytest.raises(error, match=message):
        side_by_side(runs, k)
