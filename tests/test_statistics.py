"""Corpus values, intervals and curves against hand-computed cases."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tttnn.analysis.archive import archived
from tttnn.analysis.statistics import (
    Interval,
    before_after,
    bootstrap_ratio,
    coverage,
    curve,
    early_share,
    ends,
    few_ratio,
    jackknife,
    resampled_sums,
)
from tttnn.rows import RowsError


def rows(before, after, sizes):
    made = []
    for number, (b, a, n) in enumerate(zip(before, after, sizes, strict=True)):
        base = {"model": "m", "domain": "d", "document": number, "bytes": n, "words": n // 5, "failure": ""}
        made.append(base | {"k": 0, "nats": b, "loss": None, "steps": 0})
        made.append(base | {"k": 1, "nats": None, "loss": 3.0 + number, "steps": 1 + number})
        made.append(base | {"k": 2, "nats": a, "loss": 1.0, "steps": 1})
    return pd.DataFrame(made)


def test_corpus_value_weights_documents_by_their_bytes():
    table = before_after(rows([100.0, 10.0], [50.0, 12.0], [1000, 10]), k=2).iloc[0]
    assert table["before"] == pytest.approx(110 / 1010 / math.log(2))
    assert table["after"] == pytest.approx(62 / 1010 / math.log(2))
    assert table["ratio"] == pytest.approx(62 / 110)
    assert table["better"] == 0.5
    assert table["byte_perplexity_before"] == pytest.approx(math.exp(110 / 1010))
    assert table["word_perplexity_after"] == pytest.approx(math.exp(62 / 202))


def test_rows_without_a_score_before_or_with_two_are_refused():
    good = rows([100.0, 10.0], [50.0, 12.0], [1000, 10])
    for without in (good[good["k"] != 0], good.drop(good[(good["document"] == 1) & (good["k"] == 0)].index)):
        with pytest.raises(RowsError, match=r"model m domain d document [01] was scored at k = 2 and not at 0"):
            before_after(without, 2)
    for refuse in (before_after, ends):
        with pytest.raises(RowsError, match=r"domain d document 0 has two scores at k = 0; give rows of one"):
            refuse(pd.concat([good, good]), 2)
    with pytest.raises(RowsError, match=r"^k=7: scored at 0, 2$"):
        before_after(good, 7)
    assert before_after(good.assign(nats=good["nats"].where(good["k"] == 0)), 2)["documents"].tolist() == [0]


def test_interval_is_paired():
    """Documents differ tenfold in difficulty but all improve by the same share: the ratio is certain."""
    before = np.geomspace(10, 1000, 20)
    interval = bootstrap_ratio(before * 0.7, before)
    assert interval.low == pytest.approx(0.7) and interval.high == pytest.approx(0.7)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        sizes = generator.uniform(500, 2000, 40)
        interval = bootstrap_ratio(sizes * generator.normal(0.8, 0.1, 40), sizes, resamples=400, seed=seed)
        covered += interval.low <= 0.8 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_document_says_nothing_about_how_far_documents_differ():
    alone = bootstrap_ratio(np.array([0.7]), np.array([1.0]))
    assert alone.value == pytest.approx(0.7) and np.isnan([alone.low, alone.high]).all() and not alone.clear
    assert f"{alone:.1%}" == "70.0% (no interval)"
    sums = resampled_sums([np.ones((1, 2)), np.arange(6.0).reshape(3, 2)], resamples=50)
    assert np.isfinite(sums[0]).all() and np.isnan(sums[1:, 0]).all() and np.isfinite(sums[1:, 1]).all()


def test_interval_is_seeded_and_refuses_nothing_to_resample():
    values = np.array([1.0, 2.0, 4.0])
    assert bootstrap_ratio(values, values[::-1]) == bootstrap_ratio(values, values[::-1])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ratio(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="same number"):
        bootstrap_ratio(values, values[:2])


@pytest.mark.parametrize(
    ("low", "high", "clear"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_an_interval_is_clear_where_it_leaves_out_zero(low, high, clear):
    found = Interval((low + high) / 2, low, high)
    assert found.clear is clear
    assert list(found.columns("gain").items()) == [("gain", found.value), ("low", low), ("high", high)]


def test_curve_weights_losses_by_steps():
    table = curve(rows([100.0, 10.0], [50.0, 12.0], [1000, 10])).set_index("k")
    assert table.index.tolist() == [0, 2], "only where there is a score"
    assert table.loc[2, "ratio"] == pytest.approx(62 / 110)
    assert table.loc[2, "loss"] == pytest.approx(1.0)
    assert math.isnan(table.loc[0, "loss"])


def test_a_step_whose_loss_is_not_known_has_no_part_in_the_mean():
    """As with a gradient used again: it counted as a step of loss zero."""
    known = rows([100.0, 10.0], [50.0, 12.0], [1000, 10])
    last = known.index[(known["k"] == 2)][-1]
    known.loc[last, "loss"] = math.nan
    rest = known[(known["k"] == 2) & known["loss"].notna()]
    expected = (rest["loss"] * rest["steps"]).sum() / rest["steps"].sum()
    assert curve(known).set_index("k").loc[2, "loss"] == pytest.approx(expected)


def test_groups_are_resampled_apart_and_columns_together():
    values = np.random.default_rng(0).uniform(1, 2, (30, 1))
    sums = resampled_sums([np.hstack([values, 2 * values]), np.hstack([values, values])], resamples=2000)
    assert sums.shape == (2001, 2, 2)
    assert sums[0].tolist() == pytest.approx(np.array([[1, 2], [1, 1]]) * values.sum())
    assert sums[:, 0, 1] == pytest.approx(2 * sums[:, 0, 0])
    assert abs(np.corrcoef(sums[1:, 0, 0], sums[1:, 1, 0])[0, 1]) < 0.1


def test_intervals_of_few_documents_hold_the_ratio_less_often_than_they_say():
    generator = np.random.default_rng(0)
    before = generator.lognormal(0, 1, 200)
    values = np.stack([before, before * generator.uniform(0.3, 1.2, 200)], axis=1)
    few, many = (coverage(values, drawn, trials=300, resamples=300) for drawn in (5, 60))
    assert few < 0.92 < many + 0.02
    assert coverage(np.ones((20, 2)), 5, trials=5, resamples=5) == 1, "no spread, no miss"


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(3, 1, 7)
    found = jackknife(np.stack([np.ones(7), values], axis=1), lambda sums: sums[..., 1] / sums[..., 0])
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_one_long_document_widens_the_interval():
    ratios = np.array([0.7, 0.8, 0.75, 0.85, 0.9, 0.7])
    even, long = np.full(6, 100.0), np.array([1000.0, 20, 20, 20, 20, 20])
    first, second = few_ratio(even, even * ratios), few_ratio(long, long * ratios)
    assert first.value == pytest.approx(ratios.mean()) and second.high - second.low > first.high - first.low


def test_what_has_no_interval_has_missing_ends():
    for before, after in (([10.0], [8.0]), ([10.0, 10.0], [8.0, math.inf])):
        found = few_ratio(np.array(before), np.array(after))
        assert math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(ValueError, match="no document"):
        few_ratio(np.array([]), np.array([]))


def test_intervals_of_three_to_ten_archived_documents_hold_what_thirty_give():
    """Documents drawn from archived rows: the interval of few documents holds the ratio of all of a domain's."""
    generator, held = np.random.default_rng(0), {"few": [], "resampled": []}
    pairs = ends(archived("seven-domains", "gpt2-xs-general").rows, 20)
    for count in (3, 4, 6, 10):
        for _, part in pairs.groupby("domain"):
            values = part[["before", "after"]].to_numpy()
            truth = values[:, 1].sum() / values[:, 0].sum()
            for _ in range(40):
                before, after = values[generator.integers(len(values), size=count)].T
                resampled = bootstrap_ratio(after, before, resamples=200)
                for name, found in (("few", few_ratio(before, after)), ("resampled", resampled)):
                    held[name].append(found.low <= truth <= found.high)
    assert 0.91 < np.mean(held["few"]) < 0.97 and np.mean(held["resampled"]) < 0.85


def test_the_first_few_bring_a_share_of_the_summed_gain():
    scored = pd.DataFrame({
        "domain": "d", "document": [0, 0, 0, 1, 1, 1], "k": [0, 5, 20] * 2, "nats": [100, 60, 50, 10, 15, 10.0],
    })  # fmt: skip
    assert early_share(scored) == pytest.approx((110 - 75) / (110 - 60))
