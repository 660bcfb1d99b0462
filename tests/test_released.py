"""What the released curves say, on curves small enough to do by hand, and the facts the chapter rests on."""

import pandas as pd
import pytest

from tttnn.analysis import released
from tttnn.analysis.published import SEVEN, published_curves, published_runs, scored_documents
from tttnn.errors import TTTNNError

BITS = {  # k = 0, 1, 2, 3
    ("small", "falls"): [2.0, 1.6, 1.4, 1.2],
    ("small", "turns"): [1.0, 0.8, 0.85, 0.9],
    ("small", "all"): [1.5, 1.2, 1.1, 1.0],
    ("large", "falls"): [1.6, 1.5, 1.3, 1.0],
    ("large", "turns"): [0.98, 1.0, 0.99, 1.0],
    ("large", "all"): [1.2, 1.1, 1.0, 0.9],
}


@pytest.fixture
def curves():
    rows = [
        {"run": run, "task": task, "k": k, "bits_per_byte": bits[k], "ratio": bits[k] / bits[0],
         "seconds_per_neighbour": 0.5 + k if k else None}
        for (run, task), bits in BITS.items() for k in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ratios_are_tasks_by_runs(curves):
    found = released.ratios(curves, 2)
    assert found.loc["falls", "small"] == pytest.approx(0.7)
    assert found.loc["all", "large"] == pytest.approx(1 / 1.2)
    assert found.shape == (3, 2)


def test_the_gap_is_shared_out_both_ways(curves):
    found = released.gap_left(curves, "small", "large", 3)
    falls = found.loc["falls"]
    assert falls.gap == pytest.approx(0.4)
    assert falls.one_adapts == pytest.approx((1.2 - 1.6) / 0.4)  # overtaken
    assert falls.both_adapt == pytest.approx((1.2 - 1.0) / 0.4)  # still behind
    assert found.loc["turns", ["one_adapts", "both_adapt"]].isna().all(), "a gap of 0.02 says nothing"
    assert released.gap_left(curves, "small", "large", 3, margin=0.01).loc["turns", "both_adapt"] == pytest.approx(-5)


def test_no_neighbours_leave_all_of_the_gap(curves):
    found = released.gap_left(curves, "small", "large", 0).dropna()
    assert (found[["one_adapts", "both_adapt"]] == 1).all(axis=None)


def test_a_curve_that_ends_above_its_minimum_has_turned(curves):
    found = released.turns(curves, 3)
    assert "all" not in found.index.get_level_values("task")
    falls, turned, worse = (found.loc[key] for key in (("small", "falls"), ("small", "turns"), ("large", "turns")))
    assert (falls.best, falls.rises, falls.turned, falls.worse) == (3, 0, False, False)
    assert falls.lost == 0
    assert (turned.best, turned.rises, turned.turned, turned.worse) == (1, 2, True, False)
    assert turned.lost == pytest.approx(10)
    assert (worse.best, worse.rises, worse.turned, worse.worse) == (0, 2, True, True)
    assert released.turns(curves, 1).loc[("small", "turns"), "best"] == 1, "no k after the asked one counts"


def test_less_than_half_a_point_is_no_turn(curves):
    flat = curves.assign(ratio=[0.5 if k == 1 else 0.5049 for k in curves.k])
    assert not released.turns(flat, 3).turned.any()
    assert released.turns(flat.assign(ratio=flat.ratio + (flat.k == 3) * 0.001), 3).turned.all()


def test_the_first_few_bring_a_share_of_the_gain(curves):
    found = released.early_shares(curves, 1, 3)
    assert found["small", "falls"] == pytest.approx(0.5)
    assert found["small", "turns"] == pytest.approx(2.0), "more than is left of it at k"
    assert pd.isna(found["large", "turns"]), "nothing gained, nothing to share"


def test_a_ratio_is_crossed_at_the_first_k_that_reaches_it(curves):
    assert released.crossing(curves, "small", "falls", 0.75) == 2
    assert released.crossing(curves, "small", "falls", 0.8) == 1, "at it counts"
    assert released.crossing(curves.iloc[::-1], "small", "turns", 0.86) == 1, "whatever the order of the rows"
    assert released.crossing(curves, "large", "turns", 0.5) is None


def test_fewer_neighbours_have_their_price_or_lead(curves):
    found = released.price_of_fewer(curves, 1, 3)
    assert found.loc["falls", "small"] == pytest.approx(20)
    assert found.loc["turns", "small"] == pytest.approx(-10)


def test_seconds_add_up_to_k(curves):
    found = released.seconds_and_gain(curves, 2).set_index(["run", "task"])
    assert len(found) == 4
    line = found.loc[("small", "falls")]
    assert line.seconds == pytest.approx(1.5 + 2.5)
    assert line.gain == pytest.approx(30)
    assert line.saved == pytest.approx(0.6)


def test_a_quarter_of_the_documents_doubles_the_width():
    found = released.relative_width(pd.Series({"many": 400, "few": 100, "one": 1}))
    assert found.tolist() == [1, 2, 20]


@pytest.mark.parametrize("call", [released.ratios, released.turns, released.seconds_and_gain])
def test_a_k_that_is_not_there_is_named(curves, call):
    with pytest.raises(TTTNNError, match=r"k=4: .* k = 0 to 3"):
        call(curves, 4)


# The facts


def test_the_published_runs_are_whole():
    runs = published_runs()
    assert len(runs) == 4 * 23 * 51
    assert set(runs.run) == set(released.RUNS) and set(released.WHOLE) < set(released.RUNS)
    assert runs.groupby(["run", "task"]).k.apply(list).map(lambda ks: ks == list(range(51))).all()
    assert runs.bits_per_byte.notna().all()
    assert (runs.seconds_per_neighbour.isna() == (runs.k == 0)).all()
    assert (runs.loc[runs.k == 0, "ratio"] == 1).all()


@pytest.mark.parametrize(
    ("run", "task", "k", "bits"),
    [
        ("gpt2", "github", 0, 1.9184), ("gpt2", "github", 50, 0.6907), ("gpt2", "all", 0, 1.2079),
        ("gpt2-split", "github", 0, 2.0753), ("gpt2-split", "all", 50, 1.0242), ("gpt2-large", "all", 50, 0.8537),
        ("gpt2-large", "github", 0, 1.9538), ("gptneo", "github", 50, 0.3270), ("gptneo", "all", 0, 0.7385),
    ],
)  # fmt: skip
def test_spot_values_are_those_of_the_source(run, task, k, bits):
    (found,) = published_runs().query("run == @run and task == @task and k == @k").bits_per_byte
    assert found == pytest.approx(bits, abs=5.1e-5)


def test_every_task_has_its_documents():
    documents = scored_documents()
    assert set(documents.index) == set(published_runs().task) - {"all"}
    assert documents.sum() == 42_910
    assert documents[["europarl", "books3", "github"]].tolist() == [31, 53, 3639]


@pytest.mark.parametrize(
    ("task", "both"), [("europarl", 0.80), ("dm-mathematics", 0.96), ("arxiv", 0.78), ("books3", 0.92),
                       ("wikipedia", 1.14)]
)  # fmt: skip
def test_size_keeps_most_of_its_lead_when_both_adapt(task, both):
    left = released.gap_left(published_runs(), "gpt2", "gpt2-large", 20)
    assert left.both_adapt[task] == pytest.approx(both, abs=5e-3)
    assert pd.isna(left.both_adapt["github"]), "GPT-2-large starts behind there"


def test_the_report_s_figure_on_github_is_passed_at_the_seventh_neighbour():
    runs = published_runs()
    assert released.crossing(runs, "gpt2", "github", 0.51) == 7
    curve = runs.query("run == 'gpt2' and task == 'github'").set_index("k").ratio
    assert curve[[6, 7]].tolist() == pytest.approx([0.513, 0.499], abs=5e-4)


def test_where_the_released_curves_turn():
    found = released.turns(published_runs(), 50)
    assert found.worse.groupby("run").sum().to_dict() == {"gpt2": 1, "gpt2-split": 1, "gpt2-large": 1, "gptneo": 5}
    assert (found.best < 45).groupby("run").sum().to_dict() == {
        "gpt2": 3, "gpt2-split": 4, "gpt2-large": 7, "gptneo": 15,
    }  # fmt: skip


def test_what_pages_say_in_words_of_the_released_curves_holds():
    """Page one: GPT-2 is best after the last neighbours on most domains, GPT-Neo worse on EuroParl and mathematics."""
    bits = {name: published_curves(name).query("k <= 20 and task != 'all'") for name in ("gpt2", "gptneo")}
    best = bits["gpt2"].pivot(index="task", columns="k", values="bits_per_byte").idxmin(axis=1)
    assert (best == 20).mean() > 0.75
    ends = bits["gptneo"].query("k == 20").set_index("task").ratio
    assert set(ends.index[ends > 1]) & {*SEVEN} == {"europarl", "dm-mathematics"}
