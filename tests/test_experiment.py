"""Rows survive kills: none lost, none twice, none half-written; wrong continuations are refused."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_gpt2

from tttnn import memory
from tttnn.analysis.statistics import before_after
from tttnn.corpus import CorpusError
from tttnn.experiment import DrawnDocument, RowsError, read_rows, run
from tttnn.models import load_model
from tttnn.retrieval import Neighbour
from tttnn.rows import JOURNAL, RowJournal
from tttnn.ttt import TTT, Switches

LINES = ["def mean(values): return sum(values)", "the quick brown fox", "Madam President, thank you", "3, 7, 11, 15"]
DOCUMENTS = [DrawnDocument("code", i, f"{line} {i} " * 3) for i, line in enumerate(LINES)]
SWITCHES = Switches(learning_rate=1e-2, max_length=16)


class FixedRetriever:
    fingerprint = "fixed"

    def neighbours(self, text, k, meta=None):
        return [Neighbour(i, i / 10, LINES[i], {"pile_set_name": "code"}) for i in range(k)]


@pytest.fixture(scope="module")
def ttt(tmp_path_factory):
    return TTT(load_model(tiny_gpt2(tmp_path_factory.mktemp("gpt2"))), FixedRetriever(), SWITCHES)


def timeless(rows):
    return rows.drop(columns=[c for c in rows if c.endswith("seconds")])


def test_one_row_per_document_and_k(ttt, tmp_path):
    rows = run(ttt, DOCUMENTS, ks=[0, 1, 3], folder=tmp_path, about={"corpus": "x"})
    assert list(rows.groupby("document")["k"].apply(list)) == [[0, 1, 2, 3]] * 4
    assert rows["nats"].notna().tolist() == [True, True, False, True] * 4
    one = ttt.evaluate(DOCUMENTS[0].text, k=3)
    first = rows[(rows["document"] == 0) & (rows["k"] == 3)].iloc[0]
    assert first["nats"] == pytest.approx(one.after.nats)
    assert (first["bytes"], first["neighbour"], first["distance"]) == (len(DOCUMENTS[0].text), 2, 0.2)
    pd.testing.assert_frame_equal(read_rows(tmp_path), rows, check_dtype=False)
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["about"] == {"corpus": "x"} and about["end"] >= about["start"]


def test_interrupted_run_continues_with_the_same_rows(ttt, tmp_path):
    whole = run(ttt, DOCUMENTS, ks=[0, 2])

    run(ttt, DOCUMENTS[:2], ks=[0, 2], folder=tmp_path)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"key": ["gpt2", "code", 2], "rows": [{"k"')  # killed while writing
    rows = run(ttt, DOCUMENTS, ks=[0, 2], folder=tmp_path)
    pd.testing.assert_frame_equal(timeless(rows), timeless(whole), check_dtype=False)


def test_a_finished_run_computes_nothing_again(ttt, tmp_path, monkeypatch):
    first = run(ttt, DOCUMENTS, ks=[0, 1], folder=tmp_path)
    monkeypatch.setattr(TTT, "adapt", lambda *a: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(run(ttt, DOCUMENTS, ks=[0, 1], folder=tmp_path), first)


def test_sigkill_loses_at_most_the_document_in_flight(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from tttnn.rows import RowJournal
        with RowJournal(Path(sys.argv[1])) as journal:
            for number in range(100):
                if ("m", "d", number) not in journal:
                    journal.append(("m", "d", number), [{"k": 0, "document": number}])
                    if number % 7 == 6:
                        os.kill(os.getpid(), signal.SIGKILL)
    """)
    for _ in range(20):
        result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    with RowJournal(tmp_path) as journal:
        assert journal.table()["document"].tolist() == list(range(100))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_cut_of_the_last_line_is_repaired(tmp_path, cut):
    with RowJournal(tmp_path) as journal:
        for number in range(3):
            journal.append(("m", "d", number), [{"k": 0, "document": number, "failure": "ü" * 9}])
    size = (tmp_path / JOURNAL).stat().st_size
    os.truncate(tmp_path / JOURNAL, size - cut)
    with RowJournal(tmp_path) as journal:
        assert ("m", "d", 1) in journal and ("m", "d", 2) not in journal
        journal.append(("m", "d", 2), [{"k": 0, "document": 2}])
    with RowJournal(tmp_path) as journal:
        assert journal.table()["document"].tolist() == [0, 1, 2]


def test_two_writers_other_settings_and_damage_are_refused(ttt, tmp_path):
    with RowJournal(tmp_path) as journal:
        with pytest.raises(RowsError, match="another run is writing"):
            RowJournal(tmp_path)
        journal.append(("m", "d", 0), [])
        with pytest.raises(RowsError, match="already there"):
            journal.append(("m", "d", 0), [])
    (tmp_path / JOURNAL).write_text("not json\n")
    with pytest.raises(RowsError, match="line 1"):
        RowJournal(tmp_path)
    run(ttt, DOCUMENTS[:1], ks=[0], folder=tmp_path / "a")
    with pytest.raises(RowsError, match="other ks"):
        run(ttt, DOCUMENTS[:1], ks=[0, 1], folder=tmp_path / "a")
    with pytest.raises(RowsError, match="no such file"):
        read_rows(tmp_path / "b")


def test_a_failed_document_is_a_row_with_its_reason(ttt):
    rows = run(ttt, [DrawnDocument("code", 9, ""), DOCUMENTS[0]], ks=[0, 1])
    failed = rows[rows["failure"] != ""]
    assert failed["document"].tolist() == [9] and "empty text" in failed["failure"].iloc[0]
    assert rows[rows["failure"] == ""]["nats"].notna().all()


def test_other_texts_splits_and_retrievers_never_get_old_rows(ttt, tmp_path):
    drawn = {"drawn": {"split": "test"}}
    first = run(ttt, DOCUMENTS[:1], ks=[0], folder=tmp_path, about=drawn)
    other = run(ttt, [DrawnDocument("code", 0, "another text")], ks=[0], folder=tmp_path, about=drawn)
    assert other["bytes"].tolist() == [12] and first["bytes"].tolist() != [12]
    with pytest.raises(RowsError, match="other split"):
        run(ttt, DOCUMENTS[:1], ks=[0], folder=tmp_path, about={"drawn": {"split": "val"}})
    elsewhere = TTT(ttt.lm, FixedRetriever(), SWITCHES)
    elsewhere.retriever.fingerprint = "other corpus"
    with pytest.raises(RowsError, match="other retriever"):
        run(elsewhere, DOCUMENTS[:1], ks=[0], folder=tmp_path, about=drawn)


def test_memory_stays_with_the_process_from_document_to_document(ttt, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "keep_freed", lambda *keep: calls.append(keep))
    run(ttt, DOCUMENTS[:2], (0, 1), tmp_path)
    assert calls == [(), (False,)]


def test_a_diverged_document_counts_as_infinitely_bad(ttt):
    wild = TTT(ttt.lm, FixedRetriever(), Switches(learning_rate=1e30, max_length=16))
    rows = run(wild, DOCUMENTS[:2], ks=[0, 2])
    assert rows[rows["k"] == 2]["nats"].tolist() == [math.inf] * 2
    table = before_after(rows, 2).iloc[0]
    assert (table["documents"], table["ratio"], table["better"]) == (2, math.inf, 0)


def test_a_run_that_keeps_the_optimizer_is_not_continued(ttt, tmp_path):
    kept = TTT(ttt.lm, FixedRetriever(), Switches(learning_rate=1e-2, max_length=16, keep_optimizer=True))
    run(kept, DOCUMENTS[:2], ks=[0, 1], folder=tmp_path)
    with pytest.raises(RowsError, match="cannot go on"):
        run(kept, DOCUMENTS, ks=[0, 1], folder=tmp_path)
    with pytest.raises(RowsError, match="cannot go on"):  # its rows were made with the moments of the other one
        run(kept, DOCUMENTS[1:2], ks=[0, 1], folder=tmp_path)


def test_a_finished_run_that_keeps_the_optimizer_can_be_called_again(ttt, tmp_path):
    kept = TTT(ttt.lm, FixedRetriever(), Switches(learning_rate=1e-2, max_length=16, keep_optimizer=True))
    first = run(kept, DOCUMENTS[:2], ks=[0, 1], folder=tmp_path)
    journal = (tmp_path / "rows.jsonl").read_bytes()
    assert run(kept, DOCUMENTS[:2], ks=[0, 1], folder=tmp_path).equals(first)
    assert (tmp_path / "rows.jsonl").read_bytes() == journal


def test_rows_of_a_kept_optimizer_are_not_given_for_another_order(ttt, tmp_path):
    kept = TTT(ttt.lm, FixedRetriever(), Switches(learning_rate=1e-2, max_length=16, keep_optimizer=True))
    first = run(kept, DOCUMENTS, ks=[0, 1], folder=tmp_path)
    backwards = run(kept, DOCUMENTS[::-1], ks=[0, 1])
    assert not timeless(backwards).equals(timeless(first)), "so that the order is a setting"
    with pytest.raises(RowsError, match=r"a run with other order \("):
        run(kept, DOCUMENTS[::-1], ks=[0, 1], folder=tmp_path)
    run(ttt, DOCUMENTS, ks=[0, 1], folder=tmp_path / "plain")
    assert len(run(ttt, DOCUMENTS[::-1], ks=[0, 1], folder=tmp_path / "plain")) == len(first)


def test_damage_of_the_corpus_is_raised_not_recorded(ttt, tmp_path):
    class Damaged(FixedRetriever):
        def neighbours(self, text, k, meta=None):
            raise CorpusError("x.jsonl changed since it was indexed")

    with pytest.raises(CorpusError):
        run(TTT(ttt.lm, Damaged(), SWITCHES), DOCUMENTS[:1], ks=[1], folder=tmp_path)
    assert len(run(ttt, DOCUMENTS[:1], ks=[1], folder=tmp_path)) == 2, "nothing was recorded as done"


def test_a_domain_of_failures_only_has_a_row_without_values(ttt):
    rows = run(ttt, [DrawnDocument("empty", 0, ""), DOCUMENTS[0]], ks=[0, 1])
    table = before_after(rows, 1).set_index("domain")
    assert table.loc["empty", "failures"] == 1 and math.isnan(table.loc["empty", "ratio"])
    assert table.loc["code", "documents"] == 1


def test_scores_before_adapting_need_no_retriever(ttt):
    rows = run(TTT(ttt.lm), DOCUMENTS[:1], ks=[0])
    assert rows["k"].tolist() == [0] and rows["nats"].notna().all()


def test_rows_hold_what_the_metrics_need(ttt):
    rows = run(ttt, DOCUMENTS, ks=[0, 1])
    scored = rows[rows["nats"].notna()]
    assert (scored["bytes"] > 0).all() and (scored["tokens"] > 0).all() and (scored["words"] > 0).all()
    trained = rows[rows["k"] == 1]
    assert (trained["steps"] > 0).all() and np.isfinite(trained["loss"]).all()
    assert not math.isnan(rows["train_seconds"].sum())
