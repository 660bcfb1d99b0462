"""What the chapter on cost shows is summed up from benchmark rows as said; cases are computed by hand."""

import json

import pandas as pd
import pytest

from tttnn.analysis import frontier, timings
from tttnn.analysis.timings import (
    FOLDER,
    bench_rows,
    by_processor,
    first_few,
    per_neighbour,
    speedups,
    spent_and_gained,
    time_by_kind,
    token_line,
)
from tttnn.report import charts


def row(loop, document, k, tokens, train, evaluation=0.0, bits=None, size=100, domain="a"):
    return {
        "loop": loop, "domain": domain, "document": document, "k": k, "tokens": tokens, "train_seconds": train,
        "evaluation_seconds": evaluation, "bits_per_byte": bits, "bytes": size,
    }  # fmt: skip


@pytest.fixture
def rows():
    return pd.DataFrame([
        row("reference", 0, 0, 0, 0.5, 9.0, 2.0),
        row("reference", 0, 1, 100, 1.0, 3.0, 1.9),
        row("reference", 0, 2, 300, 3.0, 5.0, 1.8),
        row("ours", 0, 0, 0, 0.0, 1.0, 2.0),
        row("ours", 0, 1, 100, 0.6),
        row("ours", 0, 2, 300, 1.0, 1.0, 1.0),
        row("ours", 1, 0, 0, 0.0, 1.0, 4.0, 300),
        row("ours", 1, 1, 200, 0.8),
        row("ours", 1, 2, 200, 0.8, 1.0, 3.0, 300),
    ])  # fmt: skip


def test_seconds_per_neighbour_leave_out_what_comes_before_the_first(rows):
    found = per_neighbour(rows).set_index("timed")
    assert found.seconds.to_dict() == pytest.approx({
        "published loop, with scoring": (4 + 8) / 2,
        "published loop, training": 2.0,
        "our loop, training": (0.6 + 1.0 + 0.8 + 0.8) / 4,
    })  # fmt: skip
    assert found.tokens.tolist() == [200, 200, 200]


def test_the_line_through_seconds_and_tokens(rows):
    line = token_line(rows, "ours")
    assert (line.start, line.slope, line.r_squared) == pytest.approx((0.4, 0.002, 1.0))
    bent = pd.DataFrame([row("ours", 0, k, k, seconds) for k, seconds in ((1, 0.0), (2, 3.0), (3, 0.0))])
    assert token_line(bent, "ours").r_squared == pytest.approx(0.0)


def test_spent_seconds_add_up_and_bits_weigh_by_bytes(rows):
    found = spent_and_gained(rows).set_index("k")
    assert found.seconds.to_dict() == pytest.approx({0: 0.0, 2: (1.6 + 1.6) / 2})
    assert found.ratio.to_dict() == pytest.approx({0: 1.0, 2: (100 * 1.0 + 300 * 3.0) / (100 * 2.0 + 300 * 4.0)})


def test_what_the_first_few_neighbours_take_and_bring(rows):
    early = rows.assign(bits_per_byte=rows.bits_per_byte.mask((rows.loop == "ours") & (rows.k == 1), 1.5))
    bits = {0: 100 * 2.0 + 300 * 4.0, 1: 100 * 1.5 + 100 * 1.5, 2: 100 * 1.0 + 300 * 3.0}
    k, seconds, gain = first_few(early, part=0.5)
    assert k == 1 and seconds == pytest.approx((0.6 + 0.8) / (1.6 + 1.6))
    assert gain == pytest.approx((bits[0] - bits[1]) / (bits[0] - bits[2]))


def test_operators_become_kinds_and_the_rest_is_not_lost():
    operators = {
        "aten::mm": 4.0, "mkldnn::_linear_pointwise": 2.0, "aten::gelu": 3.0, "aten::never_seen": 0.4, "aten::all": 0.1,
        "_Attention": 0.7, "_AttentionBackward": 1.8, "all": 12.5,
    }  # fmt: skip
    profile = pd.DataFrame({"operator": operators.keys(), "seconds": operators.values()})
    found = time_by_kind(profile)
    assert found.kind.tolist() == ["matrix products", "activation", "attention", "other"]
    assert found.seconds.tolist() == pytest.approx([6.0, 3.0, 2.5, 1.0])
    assert found.share.sum() == pytest.approx(1.0)


def loop_row(loop, seconds, capability="AVX2", shape="xs", **rates):
    return {
        "loop": loop, "capability": capability, "shape": shape, "parameters": 1, "seconds": seconds,
        "train_operations": 600.0, "evaluation_operations": 200.0, "train_share": 0.6, **rates,
    }  # fmt: skip


def test_speedups_and_what_bounds_them():
    rates = {"matrix_rate": 200.0, "onednn_rate": 100.0}, {"matrix_rate": 200.0, "onednn_rate": 400.0}
    found = speedups(pd.DataFrame([
        loop_row("reference", 20.0, **rates[0]), loop_row("ours", 10.0, **rates[0]),
        loop_row("reference", 24.0, "AVX512", **rates[1]), loop_row("ours", 6.0, "AVX512", **rates[1]),
        loop_row("reference", 9.0, shape="gpt2", **rates[0]), loop_row("ours", 8.0, shape="gpt2", **rates[0]),
    ]))  # fmt: skip
    assert found[["shape", "processor"]].values.tolist() == [["gpt2", "AVX2"], ["xs", "AVX2"], ["xs", "AVX512"]]
    assert found.ratio.tolist() == pytest.approx([9 / 8, 2.0, 4.0])
    assert found.most.tolist() == pytest.approx([9 / 4, 5.0, 12.0]), "800 operations at 200 or 400 a second"
    assert found.torch_share.tolist() == [0.6] * 3
    assert found.best_share.tolist() == pytest.approx([0.6, 0.6, 0.3])


def test_speedups_of_rows_from_a_gpu_which_know_one_library():
    rows = [loop_row("reference", 20.0, matrix_rate=200.0), loop_row("ours", 10.0, matrix_rate=200.0)]
    found = speedups(pd.DataFrame(rows)).iloc[0]
    assert found.most == pytest.approx(5.0) and found.best_share == pytest.approx(0.6)


def test_numbers_are_named_by_processor_where_there_are_several():
    assert by_processor(pd.Series({"AVX2": 2.34, "AVX512": 3.8}), ".1f") == "2.3 (AVX2) and 3.8 (AVX512)"
    assert by_processor(pd.Series({"AVX2": 2.34}), ".1f") == "2.3"


def test_rows_of_ones_own_take_the_place_of_those_shipped(tmp_path):
    (tmp_path / "loop.json").write_text(json.dumps([{"loop": "mine", "seconds": 1.0}]))
    assert bench_rows("loop", tmp_path).loop.tolist() == ["mine"]
    with pytest.raises(ValueError, match=r"step\.json.*make bench"):
        bench_rows("step", tmp_path)


def test_every_shipped_row_belongs_to_a_measured_run():
    loop = bench_rows("loop")
    assert set(loop["shape"]) == {"xs", "gpt2"} and (loop["repeats"] >= 5).all() and (loop["k"] == 20).all()
    for shape, pair in loop.groupby(["shape", "capability"]):
        assert pair["loop"].tolist() == ["reference", "ours"], shape
        assert pair["ratio"].tolist() == pytest.approx((pair["seconds"].iloc[0] / pair["seconds"]).tolist())
    files = {"loop", "loop_h200", "loop_intel", "step", "operators", "neighbours", "index_kinds"}
    assert {path.stem for path in FOLDER.glob("*.json")} == files


@pytest.mark.parametrize("name", ["loop", "step"])
def test_in_the_shipped_rows_onednn_is_faster_where_the_loop_takes_it(name):
    rows = bench_rows(name)
    assert set(rows["capability"]) == {"AVX2", "AVX512"}
    assert ((rows["onednn_rate"] > rows["matrix_rate"]) == (rows["capability"] == "AVX512")).all()


def test_in_the_shipped_rows_of_an_intel_processor_its_own_library_is_faster():
    rows = bench_rows("loop_intel")
    assert rows["machine"].str.contains("Intel.*AVX512").all() and set(rows["commit"]) == {"5fe68998a730"}
    assert (rows["matrix_rate"] > rows["onednn_rate"]).all() and (rows["threads"] == 1).all()
    faster = speedups(rows).set_index("shape")["ratio"]  # through oneDNN, as the loop of that commit had it
    assert faster.to_dict() == pytest.approx({"gpt2": 1.29, "xs": 1.32}, abs=0.005)


def test_charts_of_cost_name_their_units(rows):
    spent = charts.spent_chart(spent_and_gained(rows), "fig-a", "A line.")
    tokens = charts.token_line_chart(rows, "fig-b", "Points.")
    assert "seconds" in json.dumps(spent.spec) and "tokens" in json.dumps(tokens.spec)
    assert len(tokens.data) == 6


def test_what_pages_say_in_words_of_more_neighbours_holds():
    """The chapter on cost and Should I use it?: which kinds of text go on gaining to the last neighbour."""
    spent = timings.spent_and_gained(timings.bench_rows("neighbours"))
    best = spent.pivot(index="domain", columns="k", values="ratio").idxmin(axis=1)
    assert set(best.index[best == spent["k"].max()]) >= {"github", "arxiv", "europarl"}
    assert 0 < best["dm-mathematics"] <= 5


def test_what_pages_say_in_words_of_sift_holds():
    """The chapter on choices: most of the lead of a tuned SIFT is on e-mail."""
    chosen = frontier.tuned("successors-val", "gpt2-xs-pile")
    ratios = frontier.by_domain(frontier.method_costs("successors", "gpt2-xs-pile", chosen)).drop(columns=frontier.MEAN)
    lead = ratios.loc["TTT-NN"] - ratios.loc["SIFT"]
    assert lead["enron"] > lead.sum() / 2 > 0
