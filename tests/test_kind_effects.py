"""Kinds of index on real vectors: what they cost is measured, and what they find decides the result."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny import LINES, tiny_gpt2

from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.errors import ParameterError
from tttnn.experiment import draw_documents
from tttnn.index import SearchSettings
from tttnn.models import load_model
from tttnn.report import charts
from tttnn.retrieval import open_retriever
from tttnn.studies.kind_effects import build_kinds, kinds_effect, measure_kinds, recall
from tttnn.ttt import TTT, Switches

KINDS = ["flat", "fp16", "rabitq"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus of 1,100 texts, its retriever, and three kinds of index of it."""
    folder = tmp_path_factory.mktemp("kinds")
    random = np.random.default_rng(3)
    words = " ".join(LINES).split()
    for split, count in {"train": 1100, "test": 3}.items():
        texts = (Document(" ".join(random.choice(words, 30)), {}) for _ in range(count))
        write_jsonl(folder / "corpus" / f"lines.{split}.jsonl", texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(folder / "home"))
        retriever = open_retriever(folder / "corpus")
        built = build_kinds(retriever.index, folder / "kinds", KINDS)
        yield folder, retriever, built


def test_kinds_are_built_from_the_index(place):
    _, retriever, built = place
    assert built.kind.tolist() == built.built.tolist() == KINDS
    raw = 4 * len(retriever) * retriever.index.dimension
    structure = built.set_index("kind").structure_bytes
    assert structure["flat"] == 0 and raw / 2 <= structure["fp16"] < raw / 2 + 1000
    rotation = 4 * retriever.index.dimension**2
    assert rotation < structure["rabitq"] < rotation + raw / 20
    assert (built.disk_bytes - built.structure_bytes - raw).between(0, 200).all()


def test_kinds_are_measured_in_turn(place):
    folder, retriever, _ = place
    queries = retriever.index.vectors(range(0, 1100, 110))
    measured = measure_kinds(folder / "kinds", KINDS, queries, 5).set_index("kind")
    assert measured.recall["flat"] == 1 and measured.recall.min() > 0.9
    assert (measured.p99_ms >= measured.p50_ms).all() and (measured.resident_bytes > 0)["flat"]
    assert measured.columns.tolist() == ["open_ms", "p50_ms", "p99_ms", "resident_bytes", "mapped_bytes", "recall"]


def test_recall_counts_what_was_expected():
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 9]])) == 0.75


def test_charts_label_kinds_and_tell_them_apart_without_colour():
    rows = pd.DataFrame({
        "vectors": 1000, "dimension": [64, 64, 128], "kind": ["flat", "sq8", "flat"], "recall": [1.0, 0.9, 1.0],
        "resident_bytes": [256_000, 64_000, 512_000], "cpu_p50_ms": [1.0, 2.0, 3.0],
    })  # fmt: skip
    spec = json.dumps(charts.kinds_cost_chart(rows, "fig-x", "What it shows in words.").spec)
    for word in ("resident memory (MB)", "median of a query (ms)", "1,000 x 128", '"shape"', '"fillOpacity"'):
        assert word in spec
    effect = pd.DataFrame({
        "domain": "a", "way": ["flat", "sq8", "sq8, in haste"], "found": [1, 1, 0.5], "change": [0, 0, 0.01],
    })  # fmt: skip
    spec = json.dumps(charts.kinds_effect_chart(effect, "fig-x", "What it shows in words.").spec)
    for word in ("share of the neighbours found", "change of bits per byte", '"shape"', "in haste", "as it is"):
        assert word in spec
    assert '"flat"' not in spec


def test_the_result_depends_on_what_was_found_alone(place, monkeypatch):
    folder, retriever, _ = place
    ttt = TTT(load_model(tiny_gpt2(folder / "gpt2")), retriever, Switches(max_chunks=1, learning_rate=1e-3))
    documents = draw_documents(open_corpus(folder / "corpus"), 3, 1, "test")
    ways = {"fp16": ("fp16", SearchSettings()), "hasty": ("rabitq", SearchSettings(candidates=1))}
    adapted, adapt = [], ttt.adapt

    def counted(text, neighbours, ks, **rest):
        adapted.append((text, tuple(neighbours)))
        return adapt(text, neighbours, ks, **rest)

    monkeypatch.setattr(ttt, "adapt", counted)
    rows = kinds_effect(ttt, documents, folder / "kinds", ways, 2)
    assert rows.way.tolist() == 3 * ["flat", "fp16", "hasty"]
    assert len(adapted) == len(set(adapted)) == rows.groupby("document").apply(distinct, include_groups=False).sum()
    flat = rows[rows.way == "flat"]
    assert (flat.change == 0).all() and (flat.found == 1).all() and flat.same.all()
    assert (rows[rows.same].change == 0).all() and (rows[rows.found == 1].found >= rows.found.min()).all()
    expected = ttt.evaluate(documents[0].text, 2)
    assert flat.after.iloc[0] == expected.after.bits_per_byte and flat.before.iloc[0] == expected.before.bits_per_byte


def test_a_loop_without_a_retriever_is_refused_in_a_sentence(place):
    folder, _, _ = place
    with pytest.raises(ParameterError, match="need a retriever"):
        kinds_effect(TTT(load_model(tiny_gpt2(folder / "alone"))), [], folder / "kinds", {}, 1)


def distinct(rows):
    return len({(row.found, row.after) for row in rows.itertuples()})
