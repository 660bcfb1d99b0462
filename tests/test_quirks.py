"""Quirks of the published code: the live measurements and the computations on rows, against hand-computed cases."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from nats_rows import rows
from tiny import LINES, tiny_gpt2, tiny_qwen2

from tttnn import TTT, Switches, load_model
from tttnn.analysis import quirk_effects
from tttnn.conformance import ALPHABET, TEXT, tiny_loop
from tttnn.corpus import Document
from tttnn.errors import DocumentError, ParameterError
from tttnn.report import charts
from tttnn.scoring import Scorer
from tttnn.studies.quirks import beginning_over_whole, cut_bias, misread, scored_in_ways

GAP = quirk_effects.Discrepancy("d", 20, report=0.5, original=0.4)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_model(tiny_gpt2(tmp_path_factory.mktemp("tiny") / "gpt2"))


# what is measured live


def test_cut_bias_is_what_a_cut_takes_off(tmp_path):
    lm = load_model(tiny_qwen2(tmp_path / "qwen2"))
    text = LINES[0] * 3  # more than one window
    entries = max(lm.encode(text)) + 1
    bias = cut_bias(lm, text, entries)
    nats = [Scorer(lm, text, vocabulary=kept).token_nats() for kept in (None, entries)]
    assert len(lm.encode(text)) > lm.settings.context
    torch.testing.assert_close(bias, (nats[0] - nats[1]) / math.log(2), rtol=1e-3, atol=1e-4)
    assert cut_bias(lm, text, lm.head[0].shape[0]).abs().max() < 1e-5


def test_ways_to_score_share_the_weights(tmp_path):
    lm = load_model(tiny_qwen2(tmp_path / "qwen2"))
    text = LINES[0] * 3  # more than one window
    ids = lm.encode(text)
    entries = max(ids)
    ttt = TTT(lm, switches=Switches(learning_rate=1e-3))
    made = scored_in_ways(ttt, text, LINES[1:3], entries)
    inside = torch.tensor(ids) < entries
    assert (made["tokens"], made["beyond"]) == (len(ids), ids.count(entries))
    bits = Scorer(lm, text).token_nats() / math.log(2)
    halved = Scorer(lm, text, context=lm.settings.context // 2).token_nats() / math.log(2)
    assert made["bits_before"] == pytest.approx(bits.sum().item())
    assert made["short_before"] == pytest.approx(halved.sum().item())
    assert made["short_before"] != made["bits_before"]
    assert made["inside_before"] == pytest.approx(bits[inside].sum().item())
    assert made["cut_before"] == pytest.approx((bits - cut_bias(lm, text, entries))[inside].sum().item())
    [after] = [s for s in ttt.adapt(text, LINES[1:3], ks=[2]) if s.k == 2]
    assert made["bits_after"] == pytest.approx(after.score.nats / math.log(2))
    assert made["bits_after"] < made["bits_before"]
    assert made["cut_after"] < made["inside_after"] <= made["bits_after"]


def test_a_beginning_over_the_whole_text_is_that_much_too_cheap():
    """By hand: a model whose logits are all 0, and a token is a byte."""
    lm = tiny_loop().lm
    with torch.no_grad():
        lm.head[0].zero_()
    entries, size = len(ALPHABET) + 1, len(TEXT)
    made = beginning_over_whole(lm, TEXT, 16)
    assert (made["tokens"], made["scored_bytes"], made["text_bytes"]) == (15, 15, size)
    assert made["bits"] == pytest.approx(15 * math.log2(entries))
    assert made["over_scored"] == pytest.approx(math.log2(entries))
    assert made["over_text"] == pytest.approx(15 / size * math.log2(entries))
    whole = beginning_over_whole(lm, TEXT[:9], 16)
    assert (whole["tokens"], whole["scored_bytes"], whole["text_bytes"]) == (8, 8, 9)


def test_a_beginning_is_scored_in_one_pass_without_a_token_before_it(lm):
    ids = torch.tensor([lm.encode(LINES[0])])  # (1, tokens)
    made = beginning_over_whole(lm, LINES[0], 12)
    with torch.no_grad():
        loss = lm.model(ids[:, :12], labels=ids[:, :12]).loss.item()  # the mean over the 11 tokens after the first
    assert made["bits"] == pytest.approx(11 * loss / math.log(2), rel=1e-5)
    assert made["scored_bytes"] == len(lm.tokenizer.decode(ids[0, 1:12]))


@pytest.mark.parametrize(("text", "sizes"), [("x\u20acyz", [3, 3, 3, 4, 5]), ("\u20acyz", [3, 3, 4, 5])])
def test_a_character_that_an_end_divides_counts_whole(lm, text, sizes):
    """A token is a byte here; that of the first token is not scored unless it is a part of a character."""
    assert len(lm.encode(text)) == len(sizes) + 1 == len(text.encode())
    made = [beginning_over_whole(lm, text, tokens)["scored_bytes"] for tokens in range(2, len(sizes) + 2)]
    assert made == sizes


def test_a_beginning_that_cannot_be_scored_is_refused(lm):
    with pytest.raises(ParameterError, match="tokens=65: must be from 2 to 64"):
        beginning_over_whole(lm, LINES[0], 65)
    for text in ("", "x"):
        with pytest.raises(DocumentError, match="fewer than two tokens"):
            beginning_over_whole(lm, text, 8)


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


# what is computed from rows


def test_the_discrepancy_is_the_published_one():
    gap = quirk_effects.discrepancy("github")
    assert (gap.k, gap.report) == (20, 0.51)
    assert gap.original == pytest.approx(0.409, abs=5e-4) and gap.points == pytest.approx(0.101, abs=5e-4)
    with pytest.raises(ValueError, match="github, europarl, books"):
        quirk_effects.discrepancy("enron")


def effect(low, high, ratio=0.4, quirk=None):
    return {"quirk": quirk, "ratio_against": ratio, "difference": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "size"),
    [
        (0.11, 0.2, "large enough"), (0.05, 0.11, "cannot be excluded"), (-0.05, 0.11, "cannot be excluded"),
        (0.01, 0.05, "too small"), (-0.01, 0.05, "too small"), (-0.05, -0.01, "other direction"),
        (0.0, 0.0, "no effect"),
    ],
)  # fmt: skip
def test_verdicts_follow_from_the_interval(low, high, size):
    line = quirk_effects.judged(pd.DataFrame([effect(low, high)]), GAP).iloc[0]
    assert line["size"] == line["verdict"] == size
    assert line["share_high"] == pytest.approx(high / 0.6)


def test_an_effect_counts_by_the_share_of_the_gain_it_costs():
    """The report lacks a sixth of the gain: 5 points are enough where the gain is 30, and not where it is 60."""
    lines = [effect(0.05, 0.05, ratio) for ratio in (0.7, 0.4, 1.01)]
    made = quirk_effects.judged(pd.DataFrame(lines), GAP)
    assert GAP.lost == pytest.approx(0.1 / 0.6)
    assert made["size"].tolist() == ["large enough", "too small", "no gain to lose"]


def test_a_report_below_the_curve_needs_no_explanation():
    below = quirk_effects.Discrepancy("d", 20, report=0.39, original=0.4)
    made = quirk_effects.judged(pd.DataFrame([effect(0.2, 0.3), effect(0.0, 0.0, quirk="dropout")]), below)
    assert made["verdict"].tolist() == ["nothing to explain"] * 2


def test_what_both_runs_had_explains_nothing_however_large():
    lines = [effect(0.2, 0.3, quirk=quirk) for quirk in ("dropout", "lost shards", None)]
    lines.append(effect(0.0, 0.0, quirk="logits cut"))
    made = quirk_effects.judged(pd.DataFrame(lines), GAP)
    assert made["verdict"].tolist() == ["same in both runs", "large enough", "large enough", "no effect"]


def test_every_change_is_compared_with_what_it_names():
    names = {
        name for change in [*quirk_effects.CHANGES, quirk_effects.RANKS] for name in (change.variant, change.against)
    }
    made = [rows([(100, 50 + 5 * i), (100, 40 + 5 * i)], variant=name) for i, name in enumerate(sorted(names))]
    early = rows([(100, 70), (100, 70)]).replace({"k": {2: quirk_effects.STOPPED}})
    late = [each.replace({"k": {2: 20}}) for each in made]
    table = quirk_effects.measured_effects(pd.concat([*late, early[early["k"] > 0]]), 20).set_index("change")
    ratio = {name: 0.45 + 0.05 * i for i, name in enumerate(sorted(names))}
    for change in [*quirk_effects.CHANGES, quirk_effects.RANKS]:
        assert table.loc[change.label, "difference"] == pytest.approx(ratio[change.variant] - ratio[change.against])
        assert table.loc[change.label, "quirk"] == change.quirk
    control = table.loc["control: stopped after 5"]
    assert control["ratio"] == pytest.approx(0.7) and control["quirk"] is None
    known = {quirk.name for quirk in quirk_effects.QUIRKS}
    assert {change.quirk for change in quirk_effects.CHANGES} | set(quirk_effects.NO_EFFECT) <= known


def test_a_bound_is_judged_like_a_measured_effect():
    before, after = [100] * 20, [40 + i for i in range(20)]
    table = quirk_effects.bounded_effects(rows(zip(before, after, strict=True), domain="github"), "github", 2)
    worst = table.set_index("change").loc["10% of documents dropped"]
    assert worst["low"] == pytest.approx(np.mean(after[:18]) / 100 - np.mean(after) / 100)
    assert worst["high"] == pytest.approx(np.mean(after[2:]) / 100 - np.mean(after) / 100)
    made = quirk_effects.judged(table, GAP).set_index("change")
    assert made.loc[list(quirk_effects.NO_EFFECT), "verdict"].eq("no effect").all()
    assert made.loc["10% of documents dropped", "verdict"] == "too small"


def test_changes_are_in_bits_per_byte():
    base = rows([(100, 50), (200, 120)])
    other = rows([(110, 50), (210, 140)], variant="v")
    line = quirk_effects.changes(pd.concat([base, other]), {"v": "nearest"}, 2).iloc[0]
    assert line["documents"] == 2
    assert line["before"] == pytest.approx(20 / 200 / math.log(2))
    assert line["before_low"] == pytest.approx(line["before_high"]) == pytest.approx(line["before"])
    assert line["after"] == pytest.approx(20 / 200 / math.log(2))
    assert line["after_low"] == pytest.approx(0) and line["after_high"] == pytest.approx(2 * line["after"])


def test_sampling_narrows_with_the_square_root():
    table = quirk_effects.sampling(rows([(100, 50), (100, 90), (100, 40), (100, 60)]), 2, {"d": 400})
    line = table.iloc[0]
    assert line["ratio_against"] == pytest.approx(0.6) and line["half_width"] > 0
    assert line["half_width_tested"] == pytest.approx(line["half_width"] / 10)
    assert math.isnan(quirk_effects.sampling(rows([(1, 1)]), 2, {}).iloc[0]["half_width_tested"])


def test_every_quirk_has_a_place():
    table = quirk_effects.quirks_table()
    assert table["name"].is_unique and len(table) == 11
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
