"""Where to stop, and what a gain is due to, against hand-computed cases."""

import math

import numpy as np
import pandas as pd
import pytest

from tttnn.analysis import controls, stopping
from tttnn.retrieval.sift import stop_after


def rows(nats, domain="d", variant="nearest", **columns):
    """Rows of documents: {document: {k: nats}}; other columns as {name: {k: value}} for every document."""
    made = [
        {"domain": domain, "document": document, "variant": variant, "k": k, "nats": value, "bytes": 100, "words": 20,
         "failure": "", "steps": int(k > 0), "neighbour_domain": domain if k else None,
         **{name: by_k.get(k) for name, by_k in columns.items()}}
        for document, values in nats.items() for k, value in values.items()
    ]  # fmt: skip
    return pd.DataFrame(made)


def after(ratios, **kwargs):
    """Rows of documents with 100 nats before and so many percent after one neighbour."""
    return rows({n: {0: 100.0, 1: 100.0 * ratio} for n, ratio in enumerate(ratios)}, **kwargs)


# What a gain is due to


def test_the_mean_weighs_domains_equally():
    documents = pd.DataFrame({"domain": ["a", "b"], "before": [1000.0, 10.0], "after": [500.0, 10.0]})
    assert controls.mean_ratio(documents).value == pytest.approx(0.75)
    documents = documents.assign(other=[250.0, 5.0])
    difference = controls.mean_ratio(documents, ("before", "after", "before", "other"))
    assert difference.value == pytest.approx(((0.5 - 0.25) + (1 - 0.5)) / 2)


def test_effects_come_with_their_mean():
    every = pd.concat([
        after([0.5] * 4, domain="a"), after([0.8] * 4, domain="b"),
        after([0.7] * 4, domain="a", variant="random"), after([0.7] * 4, domain="b", variant="random"),
    ])  # fmt: skip
    made = controls.effects_and_mean(every, {"random": "nearest"}, 1).set_index("domain")
    assert made["difference"].to_dict() == pytest.approx({"a": 0.2, "b": -0.1, controls.MEAN: 0.05})
    assert made["documents"].to_dict() == {"a": 4, "b": 4, controls.MEAN: 8}
    assert made.loc[controls.MEAN, ["ratio", "ratio_against"]].tolist() == pytest.approx([0.7, 0.65])
    assert made["clear"].all(), "all documents agree, so the intervals have no width"


def test_mean_ratios_list_variants_in_their_order():
    every = pd.concat([after([0.5, 0.7], variant="z"), after([0.9, 0.9], variant="a")])
    made = controls.mean_ratios(every, ["z", "a"], 1)
    assert made["variant"].tolist() == ["z", "a"] and made["ratio"].tolist() == pytest.approx([0.6, 0.9])
    assert made.loc[0, "low"] < 0.6 < made.loc[0, "high"] and made.loc[1, "low"] == pytest.approx(0.9)


def test_a_share_of_the_gain_needs_a_gain():
    every = pd.concat([
        after([0.6] * 3, domain="gains"), after([0.7] * 3, domain="gains", variant="random"),
        after([0.8, 1.3], domain="unclear"), after([0.9, 0.9], domain="unclear", variant="random"),
    ])  # fmt: skip
    made = controls.shares_of_gain(every, ["random"], 1).set_index("domain")
    assert made.loc["gains", ["share", "low", "high"]].tolist() == pytest.approx([0.75] * 3)
    assert made.loc["unclear", ["share", "low", "high"]].isna().all()


def test_copying_takes_the_largest_overlap_and_the_first_distance():
    overlap, distance = {0: None, 1: 0.1, 2: 0.4, 3: 0.9}, {0: None, 1: 0.5, 2: 0.6, 3: 0.7}
    made = controls.copying(rows({7: {0: 100.0, 1: 80.0, 2: 70.0, 3: 60.0}}, overlap=overlap, distance=distance), 2)
    assert made.to_dict("records") == [
        {"domain": "d", "document": 7, "gain": pytest.approx(0.3), "overlap": 0.4, "distance": 0.5}
    ]


def test_rank_correlation_within_groups_ignores_what_lies_between_them():
    table = pd.DataFrame({"g": ["a"] * 4 + ["b"] * 4, "x": [1, 2, 3, 4, 11, 12, 13, 14], "y": [4, 3, 2, 1, 9, 8, 7, 6]})
    assert controls.rank_correlation(table, "x", "y", "g").value == pytest.approx(-1)
    assert controls.rank_correlation(table, "x", "y").value > 0
    plain = controls.rank_correlation(table, "x", "y")
    assert plain.value == pytest.approx(table["x"].rank().corr(table["y"].rank()))
    assert -1 <= plain.low < plain.value < plain.high <= 1


def test_a_constant_group_has_no_part_in_a_rank_correlation():
    table = pd.DataFrame({"g": ["a"] * 4 + ["b"] * 4, "x": [1, 2, 3, 4, 5, 5, 5, 5], "y": [1, 2, 3, 4, 9, 8, 7, 6]})
    assert controls.rank_correlation(table, "x", "y", "g").value == pytest.approx(1)
    assert controls.rank_correlation(table[table["g"] == "b"], "x", "y", "g").value == 0


def test_runs_that_end_at_different_k_are_set_side_by_side():
    walk = rows({0: {0: 100.0, 1: 90.0, 2: 80.0, 3: 70.0}}).drop(columns="variant")
    made = controls.named_ends({"two": (walk, 2), "three": (walk, 3)})
    assert made["k"].tolist() == [0, 1, 0, 1]
    assert made.loc[made["k"] == 1, ["variant", "nats", "made"]].values.tolist() == [["two", 80, 2], ["three", 70, 3]]


def test_equal_seconds_count_the_search_in_neighbours():
    walk = {0: 100.0, 1: 90.0, 2: 80.0, 4: 60.0}
    seconds = {0: 0.0, 1: 2.0, 2: 2.0, 4: 2.0}
    slow = {0: 4.0, 1: 0.0, 2: 0.0, 4: 0.0}
    every = pd.concat([
        rows({0: walk}, train_seconds=seconds, retrieval_seconds={0: 1.0}),
        rows({0: walk | {2: 70.0}}, variant="sift", train_seconds=seconds, retrieval_seconds=slow),
    ])  # fmt: skip
    line = controls.equal_seconds(every, "sift", "nearest", 2).iloc[0]
    assert line["per_neighbour"] == 2 and line["neighbours"] == pytest.approx(2 + 3 / 2)
    assert line["ratio"] == pytest.approx(0.7) and line["ratio_against"] == pytest.approx(0.65)


# Where to stop


def test_the_oracle_stops_each_document_at_its_own_best():
    made = stopping.best_and_oracle(rows({0: {0: 100.0, 1: 50.0, 2: 60.0}, 1: {0: 100.0, 1: 120.0, 2: 130.0}})).iloc[0]
    assert made["k_best"] == 1 and made["documents"] == 2
    assert made[["ratio_last", "ratio_best", "ratio_oracle"]].tolist() == pytest.approx([0.95, 0.85, 0.75])
    assert made["lost"] == pytest.approx(0.1) and made["low"] == pytest.approx(0.1), "both documents lose 10 of 100"
    assert made["left"] == pytest.approx(0.1)


def test_variants_are_compared_at_the_k_they_share():
    often, seldom = {0: 100.0, 1: 90.0, 2: 80.0, 5: 70.0}, {0: 100.0, 1: None, 2: 80.0, 5: 70.0}
    every = pd.concat([rows({0: often}), rows({0: seldom}, variant="slow")])
    assert stopping.on_common_ks(every)["k"].tolist() == [0, 2, 5] * 2


def walk(values, document=0, domain="d", **columns):
    return rows({document: dict(enumerate(values))}, domain=domain, **columns)


def test_signals_know_only_what_is_known():
    distance, loss = {1: 0.5, 2: 0.7, 3: 0.9, 4: 1.1}, {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}
    document = walk([100.0, 90.0, None, None, 60.0], distance=distance, loss=loss)
    made = {name: stopping.signals(document, rule).iloc[0].tolist() for name, rule in stopping.RULES.items()}
    low = -math.inf
    assert made["one k"] == made["one k for a domain"] == [0, 1, 4]
    assert made["if near"] == [0.5, low, low], "only before the first step"
    assert made["while near"] == [0.5, 0.7, low], "the distance of the next neighbour"
    assert made["while the loss falls"] == [low, low, pytest.approx(1.5 / 3.5)], "no halves before two neighbours"


def test_a_document_stops_where_its_signal_reaches_the_threshold():
    signal = pd.DataFrame([[0.1, 0.5, 0.2], [0.1, 0.2, 0.3], [0.6, 0.1, 0.1]], columns=[0, 1, 5])
    assert stopping.stops(signal, 0.5).tolist() == [1, 2, 0]
    assert stopping.stops(signal, math.inf).tolist() == [2, 2, 2]
    assert stopping.stops(signal, 0.0).tolist() == [0, 0, 0]


def test_the_threshold_is_the_cheapest_and_leaves_ties_to_going_on():
    index = pd.MultiIndex.from_tuples([("a", 0), ("b", 0)], names=["domain", "document"])
    nats = pd.DataFrame([[100.0, 80.0, 90.0], [1000.0, 990.0, 700.0]], index, columns=[0, 1, 2])
    so_many = pd.DataFrame([[0.0, 1.0, 2.0]] * 2, index, columns=[0, 1, 2])
    assert stopping.choose_threshold(nats, so_many) == math.inf, "0.9 and 0.7 are better than 0.8 and 0.99"
    telling = pd.DataFrame([[0.0, 5.0, 6.0], [0.0, 1.0, 1.0]], index, columns=[0, 1, 2])
    assert stopping.choose_threshold(nats, telling) == 5, "stops the one and lets the other go on"


def test_the_uncertainty_rule_is_that_of_sift():
    variance = np.array([1.0, 0.9, 0.6, 0.5, 0.45, 0.44])
    document = walk([100.0] * 6, uncertainty=dict(enumerate(variance)))
    signal = stopping.signals(document, stopping.SIFT_RULE["uncertainty"])
    for alpha in (0.3, 0.5, 0.7, 1.0, 2.0):
        assert stopping.stops(signal, 1 / alpha).tolist() == [stop_after(variance, alpha)]


def two_domains(count=12):
    """Documents of one domain are best at 1 and of the other at the last; what a domain is can be told in advance."""
    parts = [walk([100.0, 50.0, 90.0], n, "short") for n in range(count)]
    parts += [walk([100.0, 90.0, 60.0], n, "long") for n in range(count)]
    return pd.concat(parts, ignore_index=True)


def test_thresholds_are_learned_on_the_other_half():
    made = stopping.cross_validated(two_domains(), stopping.RULES["one k for a domain"])
    assert made.groupby("domain")["k"].unique().map(list).to_dict() == {"short": [1], "long": [2]}
    assert (made["after"] == made["oracle"]).all() and (made["last"] != made["after"]).sum() == 12


def test_a_document_does_not_choose_its_own_threshold():
    """One odd document of each half would be served by another threshold than the rest."""
    every = two_domains()
    every = pd.concat([every, walk([100.0, 1.0, 200.0], 99, "long")])
    made = stopping.cross_validated(every, stopping.RULES["one k for a domain"]).set_index(["domain", "document"])
    fold = stopping._folds(made.index)
    assert np.bincount(fold).tolist() in ([12, 13], [13, 12])
    odd = made.index.get_loc(("long", 99))
    assert made["k"].iloc[odd] == 2, "its own half is not what its threshold was chosen on"
    assert (made["k"].to_numpy()[(fold != fold[odd]) & (made.index.get_level_values(0) == "long")] == 1).all()


def test_the_table_of_rules_has_its_bounds():
    rules = {name: stopping.RULES[name] for name in ("one k", "one k for a domain")}
    made = stopping.rule_table(two_domains(), rules).set_index("rule")
    assert made.index[0] == "always 2" and made.index[-1] == "oracle"
    assert made.loc["always 2", ["ratio", "gain", "neighbours", "losses", "worse"]].tolist() == [0.75, 0, 2, 0, 0]
    assert made.loc["oracle", "ratio"] == pytest.approx(0.55) == made.loc["one k for a domain", "ratio"]
    assert made.loc["oracle", "gain"] == pytest.approx(0.2) and made.loc["oracle", "neighbours"] == 1.5
    assert made.loc["one k", "gain"] == pytest.approx(0.05), "1 is the better one for both: 0.5 and 0.9"
    assert made.loc["one k", ["worst", "worst_domain"]].tolist() == [0.9, "long"]


def test_the_best_setting_of_each_baseline_is_chosen_and_an_edge_is_said():
    ratios = {"unigram-0.2": 0.9, "unigram-0.1": 0.8, "unigram-0.02": 0.95, "in-context-0.5": 0.7,
              "in-context-0.25": 0.6, "in-context-published": 0.1, "nearest": 0.2}  # fmt: skip
    every = pd.concat([after([ratio] * 3, variant=name) for name, ratio in ratios.items()])
    made = controls.chosen_settings(every, 1).set_index("method")
    assert made["variant"].to_dict() == {"in context": "in-context-0.25", "unigrams": "unigram-0.1"}
    assert made["edge"].to_dict() == {"in context": True, "unigrams": False}
    assert made.loc["unigrams", "documents"] == 3 and made.loc["unigrams", "ratio"] == pytest.approx(0.8)
