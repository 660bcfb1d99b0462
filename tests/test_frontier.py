"""Costs summed up by hand, estimates of rows that did not count, fronts, equal operations, and who wins at a budget."""

import math

import numpy as np
import pandas as pd
import pytest

from tttnn.analysis import frontier
from tttnn.analysis.controls import chosen_settings, effects_and_mean
from tttnn.analysis.frontier import at_equal_operations, cost_points, method_costs, on_front, tuned, winners
from tttnn.analysis.real_model import real_rows
from tttnn.analysis.variant_effects import archived_variants
from tttnn.experiment.variants import GRID, TRIALS, TWO_BY_TWO
from tttnn.files import write_json
from tttnn.models.model_registry import find_entry
from tttnn.report import charts
from tttnn.rows import RowsError

MODEL = "gpt2-xs-pile"
WEIGHTS = find_entry(MODEL).parameters
BASE = {
    "model": MODEL, "failure": "", "seed": 1, "steps": 0, "train_tokens": 0, "words": 1, "tokens": 100, "bytes": 500,
    "train_seconds": 0.0, "evaluation_seconds": 0.5, "retrieval_seconds": 0.0, "neighbour_domain": "",
}  # fmt: skip


def written(run, variant, rows, method="ttt", offline=None, **switches):
    place = run / variant / MODEL
    place.mkdir(parents=True)
    pd.DataFrame([BASE | row for row in rows]).to_parquet(place / "rows.parquet")
    settings = {"model": MODEL, "method": method, "switches": switches, "settings": {"context": 512}}
    write_json(place / "run.json", {"settings": settings, "about": {"offline": offline} if offline else {}})


def counted(document, nats, seconds, domain="a", operations=100.0):
    """A row at 0 and one at each k: training of that many seconds and operations before each."""
    first = {"domain": domain, "document": document, "k": 0, "nats": nats[0], "retrieval_seconds": 0.25,
             "train_operations": 0.0, "evaluation_operations": 10.0}  # fmt: skip
    spent = {"train_seconds": seconds, "train_operations": operations}
    return [first] + [
        first | spent | {"k": k, "nats": each, "retrieval_seconds": 0.0} for k, each in enumerate(nats[1:], start=1)
    ]


@pytest.fixture
def run(tmp_path):
    """TTT-NN with two places to score, and a method that is better for half of what they take."""
    written(tmp_path, "nearest", counted(0, [300, 200, 150], 1.0) + counted(1, [400, 300, 250], 1.0, "b"))
    cheap = counted(0, [300, 100], 0.5, operations=50.0) + counted(1, [400, 350], 0.5, "b", operations=50.0)
    written(tmp_path, "cheap", cheap, offline={"seconds": 100.0, "operations": 1000.0, "tokens": 5})
    return tmp_path


@pytest.fixture
def costs(run):
    return method_costs(str(run), MODEL, {"TTT-NN": "nearest", "cheap": "cheap", "gone": "gone"})


def test_each_domain_counts_once_in_the_mean(costs):
    found = frontier.by_domain(costs)
    assert found.loc["TTT-NN"].tolist() == pytest.approx([150 / 300, 250 / 400, (150 / 300 + 250 / 400) / 2])
    assert found.loc["cheap"].tolist() == pytest.approx([100 / 300, 350 / 400, (100 / 300 + 350 / 400) / 2])
    assert found.columns.tolist() == ["a", "b", frontier.MEAN] and found.index.tolist() == ["TTT-NN", "cheap"]


def test_a_document_costs_its_retrieval_its_training_so_far_and_one_evaluation(costs):
    first = costs[(costs["method"] == "TTT-NN") & (costs["document"] == 0)]
    assert first["seconds"].tolist() == [0.75, 1.75, 2.75]
    assert first["operations"].tolist() == [10, 110, 210]


def test_offline_cost_is_apart_unless_it_is_shared(run, costs):
    shared = method_costs(str(run), MODEL, {"TTT-NN": "nearest", "cheap": "cheap"}, served=10)
    more = shared["seconds"] - costs["seconds"]
    assert more[shared["method"] == "cheap"].tolist() == pytest.approx([10.0] * 4)
    assert not more[shared["method"] == "TTT-NN"].any()
    assert (shared["operations"] - costs["operations"]).max() == pytest.approx(100)


def test_only_documents_that_all_have_are_compared(run):
    written(run, "one", counted(0, [300, 100], 0.5))
    found = method_costs(str(run), MODEL, {"TTT-NN": "nearest", "one": "one"})
    assert set(found["document"]) == {0}
    with pytest.raises(RowsError, match="no rows of 'gpt2-xs-pile' in"):
        method_costs(str(run), MODEL, {"gone": "gone"})


def test_points_are_sums_over_documents_and_know_what_nothing_beats(costs):
    points = cost_points(costs).set_index(["method", "k"])
    assert points.loc[("TTT-NN", 2), "bits_per_byte"] == pytest.approx(400 / 1000 / math.log(2))
    assert points.loc[("none", 0), "ratio"] == 1 and points.loc[("cheap", 1), "ratio"] == pytest.approx(450 / 700)
    front = points[points["front_seconds"]].index.tolist()
    assert front == [("none", 0), ("TTT-NN", 2), ("cheap", 1)]  # one neighbour costs more than cheap and brings less


def test_a_front_by_hand():
    assert on_front(np.array([1, 2, 2, 3]), np.array([5, 4, 3, 3])).tolist() == [True, False, True, False]


def test_plain_training_is_taken_between_its_places(costs):
    [line] = at_equal_operations(costs).to_dict("records")
    assert (line["method"], line["k"], line["operations"], line["within"]) == ("cheap", 1, 60, True)
    assert line["against_k"] == pytest.approx(0.5)  # 60 lies half way from 10 to 110
    assert line["against_bits_per_byte"] == pytest.approx((250 + 350) / 1000 / math.log(2))
    assert line["difference"] == pytest.approx((450 - 600) / 1000 / math.log(2))
    assert math.isnan(line["low"]) and math.isnan(line["high"])  # of a single document in each domain
    with pytest.raises(RowsError, match="no rows of 'SIFT': there are TTT-NN, cheap"):
        at_equal_operations(costs, "SIFT")


def test_beyond_its_last_place_it_is_taken_there_and_that_is_said(run):
    dear = counted(0, [300, 100], 9.0, operations=900.0) + counted(1, [400, 200], 9.0, "b", operations=900.0)
    written(run, "dear", dear)
    both = method_costs(str(run), MODEL, {"TTT-NN": "nearest", "dear": "dear"})
    [line] = at_equal_operations(both).to_dict("records")
    assert (line["against_k"], line["within"]) == (2, False)
    assert line["against_bits_per_byte"] == pytest.approx(400 / 1000 / math.log(2))


def test_who_wins_within_a_budget(costs):
    assert list(winners(costs, [0.0])) == list(winners(costs, [2.0])), "no method fits: the same columns, without lines"
    table = winners(costs, [1.3, 2.0, 60.0])
    first = table[table["rank"] == 1].set_index("budget")
    assert first["method"].to_dict() == {1.3: "cheap", 2.0: "cheap", 60.0: "TTT-NN"}
    assert table[table["budget"] == 1.3]["method"].tolist() == ["cheap"]  # training takes longer: the model is the base
    assert first.loc[1.3, "difference"] == pytest.approx((450 - 700) / 1000 / math.log(2))
    last = table[table["budget"] == 60.0].set_index("method")
    assert last["k"].to_dict() == {"TTT-NN": 2, "cheap": 1} and last["domains"].to_dict() == {"TTT-NN": 1, "cheap": 1}


def test_documents_of_an_earlier_version_are_estimated_beside_later_ones(run):
    """Their mean would be that of the others alone."""
    whole = method_costs(str(run), MODEL, {"TTT-NN": "nearest"})
    path = run / "nearest" / MODEL / "rows.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["document"] == 0, ["train_operations", "evaluation_operations"]] = math.nan
    rows.loc[rows["k"] > 0, "train_tokens"] = 3
    rows.to_parquet(path)
    found = method_costs(str(run), MODEL, {"TTT-NN": "nearest"}).set_index("document")["operations"]
    assert found[1].tolist() == whole.set_index("document")["operations"][1].tolist()
    assert found[0].tolist() == [2 * WEIGHTS * 100 + n * 6 * WEIGHTS * 3 for n in range(3)]


@pytest.mark.parametrize(
    ("method", "switches", "train", "evaluation"),
    [
        ("ttt", {}, 6 * WEIGHTS * 40, 2 * WEIGHTS * 1024),  # 600 tokens are two windows of 512
        ("ttt", {"lora": 8}, 4 * WEIGHTS * 40, 2 * WEIGHTS * 1024),
        ("ttt", {"context": 1024}, 6 * WEIGHTS * 40, 2 * WEIGHTS * 600),
        ("unigram:0.1", {}, 6 * WEIGHTS * 40, 2 * WEIGHTS * 1024),
        ("in-context:0.5", {}, 6 * WEIGHTS * 40, 2 * WEIGHTS * (3 * 256 + 768)),
        ("in-context-published", {}, 6 * WEIGHTS * 40, 2 * WEIGHTS * 1024),
        ("dynamic:300", {}, 6 * WEIGHTS * 40, 2 * WEIGHTS * (300 + 512) + 6 * WEIGHTS * 300),
    ],
)
def test_operations_of_earlier_rows_are_estimated(tmp_path, method, switches, train, evaluation):
    rows = [{"domain": "a", "document": 0, "k": k, "nats": 1.0, "tokens": 600, "train_tokens": 40 * k} for k in (0, 1)]
    written(tmp_path, "old", rows, method, **switches)
    found = method_costs(str(tmp_path), MODEL, {"old": "old"})
    assert found["operations"].tolist() == [2 * WEIGHTS * frontier._passed(600, switches.get("context", 512)),
                                            train + evaluation]  # fmt: skip
    assert found["seconds"].tolist() == [0.5, 1.0 if method.startswith("unigram") else 0.5]


def test_the_best_setting_on_validation_documents_is_taken(run):
    written(run, "other", counted(0, [300, 290, 280], 1.0) + counted(1, [400, 390, 380], 1.0, "b"))
    grid = {"TTT-NN": ["other", "nearest"], "none of it": ["gone"]}
    assert tuned(str(run), MODEL, grid) == {"TTT-NN": "nearest"}


def test_settings_are_chosen_on_the_documents_that_all_of_them_have(run):
    failed = [counted(1, [400, math.nan, math.nan], 1.0, "b")[0] | {"nats": math.nan, "failure": "no memory"}]
    written(run, "failing", counted(0, [300, 200, 160], 1.0) + failed)
    assert tuned(str(run), MODEL, {"TTT-NN": ["failing", "nearest"]}) == {"TTT-NN": "nearest"}


def test_archived_variants_are_read_and_drawn():
    """The rows that the package has, of an earlier version."""
    chosen = tuned("variants-val", "gpt2-xs-general")
    assert chosen["TTT-NN"] == "nearest" and len(chosen) >= 4
    points = cost_points(method_costs("variants", "gpt2-xs-general", {**chosen, "SIFT": "sift"}))
    assert points["documents"].nunique() == 1 and (points["operations"] > 0).all()
    for cost in ("seconds", "operations"):
        chart = charts.frontier_chart(points, "fig-frontier", "Bits over cost.", cost)
        assert chart.svg().count("<svg") == 1 and len(chart.data) == len(points)
        assert all(method in chart.svg() for method in points["method"])


def test_what_other_pages_say_of_the_methods_is_what_the_rows_say():
    """Pages say in words which method leads, without a number that their own code computes."""
    costs = method_costs("successors", MODEL, tuned("successors-val", MODEL))
    equal = at_equal_operations(costs).query("method == 'kNN-LM'")
    assert equal.loc[equal["k"].idxmax(), "high"] < 0, "kNN-LM is ahead of training at equal operations"
    assert frontier.by_domain(costs)[frontier.MEAN].idxmin() == "SIFT", "a tuned SIFT leads in the mean over domains"
    real = real_rows(20)
    ends = real[real["k"].isin([0, 20])].pivot_table(index="domain", columns="k", values="nats", aggfunc="sum")
    assert set((ends[20] / ends[0]).nsmallest(2).index) == {"enron", "dm-mathematics"}, (
        "they gain most with the real model"
    )


def test_dynamic_evaluation_is_level_with_neighbours_for_the_model_that_knows_its_text():
    """So says the answer of *Should I use it?*, with the loop tuned as little as it came, and as well as its rival."""
    tried = chosen_settings(archived_variants("variants-val", MODEL), 20).set_index("method")
    dynamic = tried.loc["dynamic evaluation", "variant"]
    found = effects_and_mean(archived_variants("variants", MODEL, ["nearest", dynamic]), {dynamic: "nearest"}, 20)
    for effect in (found, frontier.tuned_gap("successors", "successors-val", MODEL, "dynamic evaluation", 20)):
        mean = effect[effect["domain"] == frontier.MEAN].iloc[0]
        assert mean["low"] < 0 < mean["high"]
    assert effect["against"].iloc[0] == "rate-2", "the loop's own rate was tried on the same documents"


def test_a_setting_with_nothing_tried_beyond_it_is_at_the_edge():
    assert GRID["TTT-NN"] == ("rate-0.25", "nearest", "rate-2", "rate-4")
    assert [frontier.at_edge({"TTT-NN": name}) for name in GRID["TTT-NN"]] == [["TTT-NN"], [], [], ["TTT-NN"]]
    for method in TWO_BY_TWO:
        assert all(frontier.at_edge({method: name}) == [method] for name in GRID[method])
        assert len(GRID[method]) == TRIALS
    assert frontier.at_edge({"of one's own": "nearest"}) == []
