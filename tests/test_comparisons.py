"""Two models on the same documents, against hand-computed cases."""

import math

import numpy as np
import pandas as pd
import pytest

from tttnn.analysis.comparisons import STAGES, by_model, distances, paired_gains

SIZE = 1000


def rows(model, nats, domain="d"):
    """Nats by document and scored k: {document: {k: nats}}."""
    base = {"model": model, "domain": domain, "bytes": SIZE, "words": 200, "failure": "", "steps": 0, "loss": None}
    return pd.DataFrame([
        base | {"document": document, "k": k, "nats": value}
        for document, values in nats.items() for k, value in values.items()
    ])  # fmt: skip


def test_by_model_keeps_the_order_of_the_models():
    made = by_model(pd.concat([rows("z", {0: {0: 100, 2: 50}}), rows("a", {0: {0: 80, 2: 60}})]), 2)
    assert made["model"].tolist() == ["z", "a"]
    assert made["ratio"].tolist() == [0.5, 0.75]


def test_pairs_state_ratio_and_bits_apart():
    """The same share is fewer bits for the model that starts lower."""
    first = rows("first", {n: {0: 100.0 * (n + 1), 2: 80.0 * (n + 1)} for n in range(3)})
    second = rows("second", {n: {0: 50.0 * (n + 1), 2: 40.0 * (n + 1)} for n in range(3)})
    line = paired_gains(first, second, 2).iloc[0]
    assert line["documents"] == 3
    assert line[["ratio_first", "ratio_second"]].tolist() == pytest.approx([0.8, 0.8])
    assert line[["ratio_lead", "ratio_lead_low", "ratio_lead_high"]].tolist() == pytest.approx([0, 0, 0])
    assert line["gain_first"] == pytest.approx(120 / (3 * SIZE) / math.log(2))
    assert line["gain_lead"] == pytest.approx(line["gain_first"] / 2)
    assert 0 < line["gain_lead_low"] < line["gain_lead"] < line["gain_lead_high"]


def test_a_lead_is_positive_where_the_first_gains_more():
    first, second = rows("first", {0: {0: 100, 2: 50}}), rows("second", {0: {0: 100, 2: 90}})
    line = paired_gains(first, second, 2).iloc[0]
    assert line["ratio_lead"] == pytest.approx(0.4) and line["gain_lead"] > 0
    turned = paired_gains(second, first, 2).iloc[0]
    assert turned["ratio_lead"] == pytest.approx(-0.4) and turned["gain_lead"] == -line["gain_lead"]


def test_pairing_removes_the_spread_between_documents():
    """Both models gain much on one document and little on another: the difference is the same on all."""
    gains = np.geomspace(1, 100, 20)
    first = rows("first", {n: {0: 200.0, 1: 190.0 - gain} for n, gain in enumerate(gains)})
    second = rows("second", {n: {0: 200.0, 1: 200.0 - gain} for n, gain in enumerate(gains)})
    line = paired_gains(first, second, 1).iloc[0]
    assert line["gain_lead_low"] == pytest.approx(line["gain_lead"]) == pytest.approx(line["gain_lead_high"])


def test_only_documents_of_both_count():
    first = rows("first", {0: {0: 100, 2: 50}, 1: {0: 1e9, 2: 1.0}, 2: {0: 7.0}})
    second = rows("second", {0: {0: 100, 2: 90}, 2: {0: 100, 2: 90}})
    line = paired_gains(first, second, 2).iloc[0]
    assert line["documents"] == 1 and line["ratio_first"] == 0.5
    with pytest.raises(ValueError, match="at k = 0 and at k = 5"):
        paired_gains(first, second, 5)


def test_documents_of_one_name_and_two_sizes_are_not_compared():
    first = rows("first", {0: {0: 100, 2: 50}, 1: {0: 100, 2: 50}})
    second = first.assign(bytes=first["bytes"] - (first["document"] == 1))
    for compare in (paired_gains, distances):
        with pytest.raises(ValueError, match="not of the same documents: d 1 differs in size"):
            compare(first, second, 2)


def test_a_distance_is_told_before_with_one_adapted_and_with_both():
    small = rows("small", {0: {0: 300.0, 2: 250.0}, 1: {0: 500.0, 2: 450.0}, 2: {0: 400.0, 2: 350.0}, 3: {0: 9e9}})
    large = rows("large", {0: {0: 200.0, 2: 190.0}, 1: {0: 400.0, 2: 390.0}, 2: {0: 300.0, 2: 290.0}})
    found = distances(small, large, 2).set_index("stage").loc[list(STAGES)]
    assert found["documents"].tolist() == [3, 3, 3], "those that both have scored at both ends"
    bits = [nats / (3 * SIZE) / math.log(2) for nats in (300, 150, 180)]
    assert found["value"].tolist() == pytest.approx(bits)
    assert found["share"].tolist() == pytest.approx([1, 0.5, 0.6])
    assert found["share_low"].tolist() == pytest.approx(found["share_high"].tolist()), "all differ by the same share"


def test_no_share_of_a_distance_that_is_not_there():
    small = rows("small", {n: {0: 300.0, 2: 200.0} for n in range(3)})
    large = rows("large", {n: {0: nats, 2: nats} for n, nats in enumerate((310.0, 290.0, 300.0))})
    found = distances(small, large, 2).set_index("stage")
    assert found[["share", "share_low", "share_high"]].isna().all(axis=None)
    assert found.loc[STAGES[1], "high"] < 0, "the distance itself is there"
