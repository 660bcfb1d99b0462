"""What holding texts and vectors costs, measured in processes of their own."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from tttnn.corpus import Document, TextStore, write_jsonl
from tttnn.index import build_index
from tttnn.index.planner import pile_memory
from tttnn.studies import footprint as module
from tttnn.studies.footprint import (
    KINDS,
    footprint,
    index_footprint,
    measure_texts,
    measure_vectors,
    per_document,
)

TEXTS = ["plain", "déjà vu", "два слова", "two\nlines", "", "\U0001f642", "a\u2028b", "last"]


def digest(texts):
    parts = [text.encode() for text in texts]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "texts.jsonl"
    write_jsonl(path, [Document(text) for text in TEXTS])
    return path


def test_every_way_fetches_the_same_texts(jsonl, tmp_path):
    rows = footprint(jsonl, tmp_path / "texts.npy", reads=20, seed=3)
    assert rows.kind.tolist() == list(KINDS)
    assert set(rows.documents) == {len(TEXTS)}
    numbers = np.random.default_rng(3).integers(len(TEXTS), size=20)
    assert set(rows.digest) == {digest(TEXTS[number] for number in numbers)}
    assert (rows[["ready_seconds", "cold_us", "warm_us"]] > 0).all(axis=None)


def test_blank_lines_and_crlf_count_for_no_way(tmp_path):
    path, table = tmp_path / "blank.jsonl", tmp_path / "blank.npy"
    lines = [b"", *(json.dumps({"text": text}, ensure_ascii=False).encode() for text in TEXTS), b" ", b""]
    path.write_bytes(b"\r\n".join(lines))
    rows = footprint(path, table, reads=30, seed=0)
    assert set(rows.documents) == {len(TEXTS)}
    assert rows.digest.nunique() == 1


def test_the_digest_tells_where_one_text_ends():
    assert module._timed(["ab", "c"].__getitem__, [0, 1])[1] != module._timed(["a", "bc"].__getitem__, [0, 1])[1]


def test_other_texts_on_the_second_reading_are_an_error(jsonl, tmp_path, monkeypatch):
    texts = iter(["first", "second"])
    monkeypatch.setattr(module, "_fetcher", lambda *_: (1, lambda number: next(texts)))
    with pytest.raises(ValueError, match="other texts"):
        module._measure_texts("store", jsonl, jsonl, 1, 0)


def test_memory_of_store_and_dictionary(tmp_path):
    """On 20 MB the dictionary holds the texts; the store stays within 16 bytes a document and a constant."""
    path, text_bytes, documents = tmp_path / "large.jsonl", 10_000, 2_000
    write_jsonl(path, (Document(f"{number:06d}" * (text_bytes // 6)) for number in range(documents)))
    rows = footprint(path, tmp_path / "large.npy", reads=200, seed=1).set_index("kind")
    grown = rows.resident_bytes
    assert grown["dictionary"] > 0.9 * text_bytes * documents
    assert grown["store"] < 16 * documents + 5e6
    assert grown["offsets"] < 16 * documents + 5e6
    assert (rows.mapped_bytes <= grown.clip(lower=0) + 1e6).all()
    assert rows.digest.nunique() == 1


def test_an_existing_table_is_used_and_must_fit(jsonl, tmp_path):
    table = tmp_path / "texts.npy"
    TextStore.build(jsonl, table)
    write_jsonl(jsonl, [Document("other")])
    with pytest.raises(RuntimeError, match=r"footprint texts store .* failed: .*changed since it was indexed"):
        footprint(jsonl, table, reads=1, seed=0)


def test_bad_input_is_named(jsonl, tmp_path):
    table = tmp_path / "texts.npy"
    TextStore.build(jsonl, table)
    with pytest.raises(ValueError, match=r"kind='list': must be one of dictionary, offsets, store"):
        measure_texts("list", jsonl, table, 1, 0)
    with pytest.raises(ValueError, match=r"reads=0: must be at least 1"):
        footprint(jsonl, table, reads=0, seed=0)
    jsonl.write_bytes(b"\n\n")
    with pytest.raises(RuntimeError, match=r"holds no documents"):
        footprint(jsonl, tmp_path / "none.npy", reads=1, seed=0)
    with pytest.raises(ValueError, match=r"kind='disk': must be one of flat, flat-mapped"):
        measure_vectors("disk", tmp_path, 1, 0)
    with pytest.raises(ValueError, match=r"searches=0"):
        index_footprint(tmp_path, searches=0, seed=0)


class Embedder:
    name, dimension, fingerprint = "random", 128, "f" * 64


def test_a_mapped_index_takes_memory_only_when_it_is_searched(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((20_000, Embedder.dimension), dtype=np.float32)
    build_index(tmp_path / "index", lambda row: iter([vectors[row:]]), embedder=Embedder(), corpus_fingerprint="0" * 64)
    rows = index_footprint(tmp_path / "index", searches=2, seed=0).set_index(["kind", "after"])
    resident, mapped = rows.resident_bytes, rows.mapped_bytes
    assert resident["flat", "opening"] > 0.9 * vectors.nbytes
    assert resident["flat-mapped", "opening"] < 0.2 * vectors.nbytes
    assert resident["flat-mapped", "searching"] > 0.9 * vectors.nbytes
    if mapped.any():  # Linux says what belongs to files
        assert mapped["flat-mapped", "searching"] > 0.9 * vectors.nbytes
        assert mapped["flat", "searching"] < 0.2 * vectors.nbytes


def test_line_through_two_sizes():
    measured = pd.DataFrame({
        "kind": ["store", "dictionary"] * 2,
        "documents": [100, 100, 300, 300],
        "resident_bytes": [1_800, 50_000, 3_400, 150_000],
    })  # fmt: skip
    line = per_document(measured).set_index("kind")
    assert line.index.tolist() == ["store", "dictionary"]
    assert line.slope.tolist() == pytest.approx([8, 500])
    assert line.constant.tolist() == pytest.approx([1_000, 0], abs=1e-6)
    with pytest.raises(ValueError, match="two sizes"):
        per_document(measured[:2])


def test_arithmetic_of_the_pile():
    table = pile_memory(documents=210_000_000, text_bytes=1_300_000_000_000, dimension=1024, servers=30)
    gigabytes = table.set_index("kept") / 1e9
    texts, vectors, offsets = 43 + 1 / 3, 28.672, 0.056  # 7 million documents a server
    expected = {
        "texts and vectors, vectors twice": (texts, 0, 2 * vectors, texts + 2 * vectors, 0),
        "texts and vectors": (texts, 0, vectors, texts + vectors, 0),
        "line offsets and vectors": (0, offsets, vectors, 28.728, texts),
        "nothing: all is mapped": (0, 0, 0, 0, texts + offsets + vectors),
    }
    assert gigabytes.index.tolist() == list(expected)
    columns = ["texts", "offsets", "vectors", "memory", "disk"]
    for kept, values in expected.items():
        assert gigabytes.loc[kept, columns].tolist() == pytest.approx(values)
