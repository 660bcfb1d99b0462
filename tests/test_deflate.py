"""Deflate's bits per byte, over exactly the documents that a model was scored on."""

import gzip

import pandas as pd
import pytest

from tttnn.analysis.archive import archived_rows
from tttnn.analysis.deflate import COLUMNS, archived_deflate, beside_deflate, deflate_of, measure
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.corpus.deflate import deflated


@pytest.mark.parametrize("text", ["a", "abc" * 500, "Käse, größer als ein Haus. " * 9, "\u2028 \x00 ∑"])
def test_it_is_what_gzip_stores_without_header_and_checksum(text):
    packed = gzip.compress(text.encode(), 9, mtime=0)
    assert deflated(text) == len(packed) - 18  # 10 bytes before, 8 after


def test_a_domain_is_a_sum_over_its_documents_and_none_if_one_is_unknown():
    sizes = pd.DataFrame([("a", 1, 100, 50), ("a", 2, 300, 50), ("b", 1, 10, 10)], columns=COLUMNS)
    rows = pd.DataFrame({"domain": ["a", "a", "a", "b", "b"], "document": [1, 1, 2, 1, 9]})
    assert deflate_of(rows, sizes, ["b", "a", "c"]) == [None, 2.0, None]
    assert deflate_of(rows[:2], sizes, ["a"]) == [4.0], "only the documents that are there"
    assert deflate_of(rows, None, ["a", "b"]) == [None, None]


def test_a_corpus_is_measured_on_the_documents_that_a_run_draws(tmp_path):
    texts = [f"{n} " * (5 + n) for n in range(8)]
    write_jsonl(tmp_path / "letters.test.jsonl", [Document(text) for text in texts])
    found = measure(open_corpus(tmp_path), 3, seed=5)
    assert len(found["documents"]) == 3
    for domain, number, size, packed in found["documents"]:
        assert domain == "letters" and size == len(texts[number]) and packed == deflated(texts[number])


def test_every_document_of_the_archived_runs_is_known():
    sizes = archived_deflate("seven-domains").set_index(["domain", "document"])["bytes"]
    rows = archived_rows("seven-domains").query("k == 0 and nats.notna()")
    pairs = rows.set_index(["domain", "document"])["bytes"].groupby(level=[0, 1]).first()
    assert (sizes.loc[pairs.index] == pairs).all()
    assert archived_deflate("no-such-run") is None


def test_a_run_without_sizes_has_missing_numbers_that_can_be_compared():
    gains = pd.DataFrame({"model": ["m", "m"], "domain": ["a", "b"], "before": [2.0, 3.0]})
    rows = pd.DataFrame({"model": "m", "domain": ["a", "b"], "document": [0, 0]})
    beside = beside_deflate(gains, rows, None)
    assert beside["deflate"].isna().all() and not (beside["before"] > beside["deflate"]).any()
