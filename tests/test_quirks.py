"""Quirks of the published code: the live measurements and the computations on rows, against hand-computed cases."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import LINES, tiny_gpt2, tiny_qwen2

from tttnn import TTT, Switches, load_model
from tttnn.analysis import quirk_effects
from tttnn.corpus import Document
from tttnn.report import charts
from tttnn.scoring import Scorer
from tttnn.studies.quirks import (
    EmptySteps,
    changed_weights,
    cut_bias,
    cut_effect,
    misread,
    one_token_last,
    step_sizes,
)

GAP = quirk_effects.Discrepancy("d", 20, report=0.5, original=0.4)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_model(tiny_gpt2(tmp_path_factory.mktemp("tiny") / "gpt2"))


def rows(nats, variant="nearest", domain="d", size=100, model="m"):
    """Nats by document: (before, after)."""
    base = {"model": model, "variant": variant, "domain": domain, "bytes": size, "failure": ""}
    return pd.DataFrame([
        base | {"document": document, "k": k, "nats": float(value)}
        for document, ends in enumerate(nats) for k, value in zip((0, 2), ends, strict=True)
    ])  # fmt: skip


# what is measured live


def test_kept_moments_shorten_the_first_step(lm):
    """AdamW's first step moves each weight by the learning rate, whatever the gradient."""
    switches = {"learning_rate": 1e-3, "weight_decay": 0.0}
    neighbours = [LINES[:3], LINES[3:], LINES[:2]]
    weights = lm.weight_hash()
    fresh = step_sizes(TTT(lm, switches=Switches(**switches)), neighbours)
    kept = step_sizes(TTT(lm, switches=Switches(**switches, keep_optimizer=True)), neighbours)
    assert [len(each) for each in fresh] == [3, 2, 2]
    firsts = [each[0] for each in fresh]
    assert all(0.5 < first <= 1.01 for first in firsts), "below 1: weights without a gradient do not move"
    assert kept[0] == fresh[0]
    assert all(k[0] < f for k, f in zip(kept[1:], firsts[1:], strict=True))
    assert lm.weight_hash() == weights


def test_small_steps_are_lost_in_bf16(lm):
    texts = list(LINES) * 2
    shares = {
        kind: changed_weights(TTT(lm, switches=Switches(learning_rate=1e-6, weights=kind)), texts)
        for kind in ("float32", "bfloat16")
    }
    assert shares["bfloat16"] < 0.5 * shares["float32"]
    assert changed_weights(TTT(lm), []) == 0


def test_cut_bias_is_what_a_cut_takes_off(tmp_path):
    lm = load_model(tiny_qwen2(tmp_path / "qwen2"))
    text = LINES[0] * 3  # more than one window
    entries = max(lm.encode(text)) + 1
    bias = cut_bias(lm, text, entries)
    nats = [Scorer(lm, text, vocabulary=kept).token_nats() for kept in (None, entries)]
    assert len(lm.encode(text)) > lm.settings.context
    torch.testing.assert_close(bias, (nats[0] - nats[1]) / math.log(2), rtol=1e-3, atol=1e-4)
    assert cut_bias(lm, text, lm.head[0].shape[0]).abs().max() < 1e-5


def test_cut_effect_leaves_out_tokens_beyond(tmp_path):
    lm = load_model(tiny_qwen2(tmp_path / "qwen2"))
    ids = lm.encode(LINES[0])
    entries = max(ids)
    ttt = TTT(lm, switches=Switches(learning_rate=1e-3))
    made = cut_effect(ttt, LINES[0], LINES[1:3], entries)
    inside = torch.tensor(ids) < entries
    assert (made["tokens"], made["beyond"]) == (len(ids), ids.count(entries))
    nats = Scorer(lm, LINES[0]).token_nats()[inside]
    assert made["bits_before"] == pytest.approx(nats.sum().item() / math.log(2))
    assert made["cut_before"] == pytest.approx(cut_bias(lm, LINES[0], entries)[inside].sum().item())
    [after] = [s for s in ttt.adapt(LINES[0], LINES[1:3], ks=[2]) if s.k == 2]
    assert made["bits_after"] < made["bits_before"] and made["bits_after"] < after.score.nats / math.log(2)
    assert 0 < made["cut_after"] != made["cut_before"]


def test_misread_counts_what_a_real_file_gives(tmp_path):
    """Oracle: the published way to read, on a file."""
    texts = ["plain", "caf\u00e9", "plain again", "\u20ac 5", "last"]
    documents = [Document(text) for text in texts]
    line = misread({"a": documents}).iloc[0]
    assert (line["documents"], line["first"], line["beyond_ascii"], line["misread"]) == (5, 3, 0.4, 0.6)

    path = tmp_path / "raw.jsonl"
    lines = [json.dumps({"text": text, "meta": {}}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    starts = [0, *itertools.accumulate(map(len, lines))]
    right = []
    for text, start in zip(texts, starts, strict=False):
        with open(path, "rb") as file:
            file.seek(start)
            right.append(file.readline() == lines[texts.index(text)].encode())
    assert right == [True, True, False, False, False]


def test_escaped_lines_are_read_right():
    line = misread({"a": [Document("caf\u00e9"), Document("b")], "b": [Document("c")]}, escaped=True)
    assert line["misread"].tolist() == [0, 0] and line["first"].isna().all()


def test_one_token_last_counts_texts(lm):
    sizes = [len(lm.encode(line)) for line in LINES]
    length = sizes[0] - 1
    expected = np.mean([size % length == 1 for size in sizes])
    assert one_token_last(lm, LINES, length) == expected > 0


def test_empty_steps_are_the_published_ones(lm):
    """After each chunk, the step that transformers' own loss gives on one token."""
    ids = [lm.encode(line) for line in LINES[:2]]
    ttt = EmptySteps(lm, switches=Switches(learning_rate=1e-3))
    with ttt.session():
        for chunk in ids:
            ttt.update(chunk)
        ours = [parameter.detach().clone() for parameter in lm.model.parameters()]

    model = lm.model
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=lm.settings.eps)
    for chunk in [part for each in ids for part in (each, each[:1])]:
        tokens = torch.tensor([chunk])
        model.zero_grad()
        loss = model(tokens, labels=tokens).loss
        assert bool(loss.isnan()) == (len(chunk) == 1)
        loss.backward()
        assert len(chunk) > 1 or all(not p.grad.any() for p in model.parameters() if p.grad is not None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        for parameter, mine, start in zip(model.parameters(), ours, initial, strict=True):
            torch.testing.assert_close(parameter, mine, rtol=1e-4, atol=1e-5)
            parameter.copy_(start)
            parameter.grad = None


# what is computed from rows


def test_the_discrepancy_is_the_published_one():
    gap = quirk_effects.discrepancy("github")
    assert (gap.k, gap.report) == (20, 0.51)
    assert gap.original == pytest.approx(0.409, abs=5e-4) and gap.points == pytest.approx(0.101, abs=5e-4)
    with pytest.raises(ValueError, match="github, europarl, books"):
        quirk_effects.discrepancy("enron")


def test_needed_is_the_same_share_of_the_gain():
    assert GAP.lost == pytest.approx(0.1 / 0.6)
    assert GAP.needed(0.4) == pytest.approx(GAP.points)
    assert GAP.needed(0.7) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.11, 0.2, "reaches it"), (0.05, 0.11, "cannot be ruled out"), (-0.05, 0.11, "cannot be ruled out"),
        (0.01, 0.05, "too small"), (-0.01, 0.05, "too small"), (-0.05, -0.01, "other direction"),
        (0.0, 0.0, "no effect"),
    ],
)  # fmt: skip
def test_verdicts_follow_from_the_interval(low, high, verdict):
    effect = pd.DataFrame([{"ratio_against": 0.4, "difference": (low + high) / 2, "low": low, "high": high}])
    line = quirk_effects.judged(effect, GAP).iloc[0]
    assert line["verdict"] == verdict and line["needed"] == pytest.approx(0.1)


def test_a_stated_bound_is_judged_like_a_measured_effect():
    lines = [quirk_effects.stated("a", "q", 0.4), quirk_effects.stated("b", "q", 0.4, -0.1, 0.2, "worst case")]
    made = quirk_effects.judged(pd.DataFrame(lines), GAP)
    assert made["verdict"].tolist() == ["no effect", "cannot be ruled out"]
    assert made["kind"].tolist() == ["by construction", "worst case"]


def test_changes_are_in_bits_per_byte():
    base = rows([(100, 50), (200, 120)])
    other = rows([(110, 50), (210, 140)], variant="v")
    line = quirk_effects.changes(pd.concat([base, other]), {"v": "nearest"}, 2).iloc[0]
    assert line["documents"] == 2
    assert line["before"] == pytest.approx(20 / 200 / math.log(2))
    assert line["before_low"] == pytest.approx(line["before_high"]) == pytest.approx(line["before"])
    assert line["after"] == pytest.approx(20 / 200 / math.log(2))
    assert line["after_low"] == pytest.approx(0) and line["after_high"] == pytest.approx(2 * line["after"])


def test_dropping_finds_the_worst_choice():
    draw = np.random.default_rng(0)
    before = draw.uniform(50, 500, 9)
    after = before * draw.uniform(0.3, 1.2, 9)
    made = quirk_effects.dropping(rows(zip(before, after, strict=True)), 2, 0.25).iloc[0]
    assert (made["documents"], made["dropped"]) == (9, 2)
    every = [after[list(kept)].sum() / before[list(kept)].sum() for kept in itertools.combinations(range(9), 7)]
    assert made["lowest"] == pytest.approx(min(every)) and made["highest"] == pytest.approx(max(every))
    assert made["ratio"] == pytest.approx(after.sum() / before.sum())
    none = quirk_effects.dropping(rows([(10, 5), (20, 30)]), 2, 0.1).iloc[0]
    assert none["dropped"] == 0
    assert none["lowest"] == pytest.approx(none["highest"]) == pytest.approx(none["ratio"])


def test_averages_differ_where_large_documents_gain_more():
    line = quirk_effects.averages(rows([(10, 10), (90, 45)]), 2).iloc[0]
    assert line["ratio_against"] == pytest.approx(0.55) and line["mean"] == pytest.approx(0.75)
    ends = line[["difference", "low", "high"]].tolist()
    assert ends == pytest.approx([0.2, 0, 0.2]), "one document drawn twice has no difference"


def test_sampling_narrows_with_the_square_root():
    table = quirk_effects.sampling(rows([(100, 50), (100, 90), (100, 40), (100, 60)]), 2, {"d": 400})
    line = table.iloc[0]
    assert line["ratio_against"] == pytest.approx(0.6) and line["half_width"] > 0
    assert line["half_width_tested"] == pytest.approx(line["half_width"] / 10)
    assert math.isnan(quirk_effects.sampling(rows([(1, 1)]), 2, {}).iloc[0]["half_width_tested"])


def test_one_token_chunks_are_counted_by_model():
    made = pd.DataFrame({
        "model": ["b", "b", "b", "a"], "k": [0, 1, 2, 1], "steps": [0, 2, 1, 3], "skipped": [0, 1, 0, 0],
    })  # fmt: skip
    table = quirk_effects.one_token_chunks(made)
    assert table["model"].tolist() == ["b", "a"]
    assert table.iloc[0][["neighbours", "chunks", "one_token", "share"]].tolist() == [2, 4, 1, 0.5]


def test_every_quirk_has_a_place():
    table = quirk_effects.quirks_table()
    assert table["name"].is_unique and len(table) == 12
    assert all(": " in place for place in table["place"])


def test_the_effects_chart_marks_intervals_that_exclude_0():
    table = pd.DataFrame({
        "domain": ["z", "z", "a"], "variant": ["one", "other", "one"], "against": "nearest", "documents": 5,
        "difference": [0.1, 0.0, -0.2], "low": [0.05, -0.1, -0.3], "high": [0.2, 0.1, -0.1],
        "clear": [True, False, True],
    })  # fmt: skip
    made = charts.effects_chart(table, "fig-x", "What it shows.")
    spec = json.dumps(made.spec)
    assert '"transparent"' in spec and '"shape"' in spec and "points" in spec and made.png()
    assert spec.index('"z"') < spec.index('"a"')
    assert made.data["change of after / before (points)"].tolist() == [10, 0, -20]
