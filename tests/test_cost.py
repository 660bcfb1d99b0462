"""What a run will cost is its counted work times measured rates; counting and calibrating leave the model as it was."""

import logging
import math

import pandas as pd
import pytest
from command_line import called
from test_cli import place  # noqa: F401 (place is a fixture)
from tiny import tiny_gpt2

from tttnn.experiment import DrawnDocument, run
from tttnn.models import load_model
from tttnn.retrieval import Neighbour
from tttnn.studies.cost import (
    Rates,
    calibrate,
    compare,
    count_work,
    describe,
    estimate,
    expected_seconds,
    first_look,
    fit,
    memory_needed,
    per_domain,
    total_hours,
)
from tttnn.ttt import TTT, Switches

RATES = Rates(2.0, 0.5, 3.0, 0.25, 10.0)


class FixedRetriever:
    """Finds the same texts for every query, of 9, 4, 1 and 13 tokens: each letter is one."""

    fingerprint = "fixed"
    texts = ("abcdefghi", "abcd", "a", "abcdefghijklm")

    def neighbours(self, text, k, meta=None):
        if k > len(self.texts):
            raise ValueError(f"k={k}: k can be at most {len(self.texts)}")
        return [Neighbour(number, 0.0, each) for number, each in enumerate(self.texts[:k])]


class Letters:
    """Tokenizer of one token per character."""

    all_special_tokens = ()

    def get_vocab(self):
        return {}

    def __call__(self, text, **options):
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    lm = load_model(tiny_gpt2(tmp_path_factory.mktemp("gpt2")))
    lm.tokenizer = Letters()
    return lm


def loop(lm, retriever=FixedRetriever, **switches):
    return TTT(lm, retriever and retriever(), Switches(**{"learning_rate": 1e-2, "max_length": 4} | switches))


def drawn(*texts, domain="code"):
    return [DrawnDocument(domain, number, text) for number, text in enumerate(texts)]


def test_work_is_counted_per_neighbour_as_the_loop_does_it(lm):
    work = count_work(loop(lm, context=8), drawn("x" * 20, "x"), k=4)
    # 9 = 4 + 4 + 1, whose last chunk is skipped; 4 is one chunk; 1 gives nothing; 13 = 4 + 4 + 4 + 1
    assert work["k"].tolist() == [0, 1, 2, 3, 4] * 2
    assert work["steps"].tolist() == [0, 2, 1, 0, 3] * 2
    assert work["train_tokens"].tolist() == [0, 8, 4, 0, 12] * 2
    # 20 tokens in windows of 8 are three of equal length in one pass, the last one reaching back
    assert work["passes"].tolist() == [1] * 10
    assert work["score_tokens"].tolist() == [24] * 5 + [1] * 5
    assert (work.loc[work["k"] > 0, "retrieval_seconds"] == 0).all() and (work["tokenize_seconds"] >= 0).all()


def test_work_is_what_rows_of_a_run_say(lm):
    for switches in ({}, {"max_chunks": 2}, {"max_chunks": 1, "split_query": True}):
        ttt = loop(lm, **switches)
        work, rows = count_work(ttt, drawn("x" * 20), k=4), run(ttt, drawn("x" * 20), [0, 4])
        pd.testing.assert_frame_equal(work[["k", "steps", "train_tokens"]], rows[["k", "steps", "train_tokens"]])


def test_more_windows_than_go_at_once_take_several_passes(lm):
    work = count_work(loop(lm, None, context=8), drawn("x" * 72, "x" * 3, "x" * 64), k=0)
    assert work["passes"].tolist() == [2, 1, 1] and work["score_tokens"].tolist() == [72, 3, 64]


def test_documents_that_a_run_cannot_evaluate_are_left_out_and_said(lm, caplog):
    with caplog.at_level(logging.WARNING):
        work = count_work(loop(lm), drawn("", "x"), k=1)
    assert work["document"].unique().tolist() == [1]
    assert "code document 0" in caplog.text and "empty" in caplog.text


def test_a_first_estimate_is_that_of_three_documents_times_all(lm, monkeypatch):
    monkeypatch.setattr("tttnn.studies.cost.first_look", lambda ttt: RATES)
    documents = drawn(*["x" * 20] * 9)
    few = estimate(count_work(loop(lm), documents[:3], k=2), RATES, [0, 2])["seconds"].mean()
    assert expected_seconds(loop(lm), documents, [0, 2]) == pytest.approx(9 * few, rel=0.2)


def test_errors_name_the_parameter(lm):
    with pytest.raises(ValueError, match="k=-1"):
        count_work(loop(lm), drawn("x"), k=-1)
    with pytest.raises(ValueError, match="retriever"):
        count_work(loop(lm, None), drawn("x"), k=1)
    with pytest.raises(ValueError, match="k=5: k can be at most 4"):
        count_work(loop(lm), drawn("x"), k=5)
    with pytest.raises(ValueError, match="seconds=-1"):
        calibrate(loop(lm), seconds=-1)
    work = count_work(loop(lm), drawn("x"), k=2)
    for ks in ([], [-1, 1], [0, 3]):
        with pytest.raises(ValueError, match=r"ks=.* from 0 to 2"):
            estimate(work, RATES, ks)


@pytest.mark.parametrize(("constant", "rate"), [(0.01, 0.002), (0.0, 0.5), (0.3, 0.0)])
def test_fit_recovers_what_made_the_times(constant, rate):
    tokens = [64, 256, 512]
    assert fit(tokens, [constant + rate * n for n in tokens]) == pytest.approx((constant, rate), abs=1e-12)


def test_fit_is_never_negative():
    assert fit([1, 2, 4], [1.0, 3.0, 7.0])[0] == 0  # the line through them meets zero tokens at -1
    constant, rate = fit([1, 2, 4], [4.0, 3.0, 1.0])
    assert constant > 0 and rate == 0


@pytest.mark.parametrize("switches", [{}, {"keep_optimizer": True}, {"lora": 2}, {"dropout": 0.1}, {"vocabulary": 200}])
def test_calibrating_leaves_the_weights_as_they_were(lm, switches):
    ttt, before = loop(lm, **switches), lm.weight_hash()
    first = [step.score.nats for step in ttt.adapt("x" * 20, ["abcdefghi"], [0, 1])]
    ttt.forget()
    rates, seen = calibrate(ttt, seconds=0), first_look(ttt)
    assert lm.weight_hash() == before and not lm.adapting
    assert seen.seconds_per_step + seen.seconds_per_trained_token > 0 and seen.seconds_per_document == 0
    assert [step.score.nats for step in ttt.adapt("x" * 20, ["abcdefghi"], [0, 1])] == first, "moments are fresh, too"
    assert all(math.isfinite(value) and value >= 0 for value in vars(rates).values())
    assert rates.seconds_per_step + rates.seconds_per_trained_token > 0


def work_of(*documents):
    """Rows of made-up work: for each document its domain, (steps, tokens) of its neighbours, (passes, tokens)."""
    rows = []
    for number, (domain, neighbours, (passes, tokens)) in enumerate(documents):
        for k, (steps, trained) in enumerate([(0, 0), *neighbours]):
            rows.append({
                "domain": domain, "document": number, "k": k, "steps": steps, "train_tokens": trained,
                "passes": passes, "score_tokens": tokens, "tokenize_seconds": 0.125 if k else 0.0,
                "retrieval_seconds": 0.0 if k else 7.0,
            })  # fmt: skip
    return pd.DataFrame(rows)


WORK = work_of(
    ("code", [(1, 10), (3, 100)], (1, 8)),  # steps 2 + 5 and 6 + 50 s, a score 5 s
    ("prose", [(1, 20), (0, 0)], (2, 40)),  # steps 2 + 10 and 0 s, a score 16 s
    ("code", [(1, 12), (1, 12)], (1, 4)),  # steps 8 and 8 s, a score 4 s
)


def test_an_estimate_sums_up_what_is_asked_for():
    found = estimate(WORK, RATES, [0, 2]).set_index("document")
    assert found["train_seconds"].to_dict() == {0: 63.25, 1: 12.25, 2: 16.25}
    assert found["evaluation_seconds"].to_dict() == {0: 10.0, 1: 32.0, 2: 8.0}
    assert found["retrieval_seconds"].tolist() == [7.0] * 3 and found["session_seconds"].tolist() == [10.0] * 3
    assert found["seconds"].to_dict() == {0: 90.25, 1: 61.25, 2: 41.25}
    assert found["steps"].to_dict() == {0: 4, 1: 1, 2: 2}
    published = estimate(WORK, RATES, range(3)).set_index("document")
    assert (published["seconds"] - found["seconds"]).to_dict() == {0: 5.0, 1: 16.0, 2: 4.0}
    shorter = estimate(WORK, RATES, [1]).set_index("document")
    assert shorter["train_seconds"].to_dict() == {0: 7.125, 1: 12.125, 2: 8.125}
    assert shorter["evaluation_seconds"].to_dict() == {0: 5.0, 1: 16.0, 2: 4.0}


def test_domains_are_averaged_and_a_run_is_added_up():
    found = estimate(WORK, RATES, [0, 2])
    table = per_domain(found)
    assert table.index.tolist() == ["code", "prose"] and table["documents"].tolist() == [2, 1]
    assert table["seconds"].tolist() == [65.75, 61.25] and table.loc["code", "train_tokens"] == 67
    assert table.loc["code", "standard_error"] == pytest.approx(24.5)  # |90.25 - 41.25| / 2
    hours, error = total_hours(found, {"code": 100, "prose": 10})
    assert hours == pytest.approx((6575 + 612.5) / 3600) and math.isnan(error)
    assert total_hours(found[found["domain"] == "code"], 100) == pytest.approx((6575 / 3600, 2450 / 3600))
    lines = describe(WORK, RATES, [0, 2], {"code": 100, "prose": 10}).splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [["code", "2", "100"], ["prose", "1", "10"]]
    assert lines[2].split()[-3:] == ["65.75", "24.50", "70.25"] and "2.0 h" in lines[4]


def test_an_estimate_is_set_against_the_rows_of_a_run(lm):
    ttt, documents = loop(lm), drawn("x" * 20, "x" * 9)
    rows = run(ttt, documents, [0, 2])
    found = estimate(count_work(ttt, documents, 2), RATES, [0, 2])
    both = compare(found, rows)
    assert both["document"].tolist() == [0, 1]
    assert both["train_seconds_measured"].tolist() == rows.groupby("document")["train_seconds"].sum().tolist()
    ratios = both["evaluation_seconds"] / both["evaluation_seconds_measured"]
    assert both["evaluation_ratio"].tolist() == ratios.tolist()


def test_memory_counts_what_is_trained(lm):
    weights = sum(parameter.numel() for parameter in lm.model.parameters())
    assert memory_needed(loop(lm)) == 4 * 5 * weights
    adapters = 2 * 2 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32)  # rank, layers, ends of GPT-2's four products
    assert memory_needed(loop(lm, lora=2)) == 4 * (weights + 4 * adapters)


def test_the_command_says_hours_and_memory(place):  # noqa: F811
    common = ["cost", "--corpus", place / "corpus", "--model", place / "model", "--per-domain", 4, "--sample", 2]
    done = called(*common, "--ks", "0,1,2", "--max-chunks", 1, "--threads", 1, home=place / "home")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("lines ")]
    assert line.split()[1:3] == ["2", "4"] and line.split()[4] == "1.0"
    for words in ("whole run: ", "as published", "up to k = 1", "memory: ", "1 thread;", "other programs"):
        assert words in done.stdout
    for wrong, message in ({"--ks": "0,x"}, "ks='0,x'"), ({"--sample": 0}, "sample=0"), ({"--max-chunks": 0}, "max_ch"):
        (option,) = wrong.items()
        done = called(*common, *option, home=place / "home")
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
