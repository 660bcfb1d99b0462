"""Unrelated texts are scored with the adapted weights, and the weights come back."""

import pytest
from tiny import tiny_gpt2

from tttnn import TTT, Switches, load_model, open_corpus, open_retriever, score
from tttnn.analysis.forgetting import FILE, forgotten, keep
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import draw_documents
from tttnn.files import read_json, write_json
from tttnn.rows import RowsError
from tttnn.studies.forgetting import forgetting


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetting")
    for domain, words in {"letters": "dear sir", "orders": "two of these"}.items():
        for split, count in (("train", 5), ("test", 2)):
            texts = (f"{words} number {i} {split} " * 8 for i in range(count))
            write_jsonl(folder / f"{domain}.{split}.jsonl", (Document(t, {"pile_set_name": domain}) for t in texts))
    lm = load_model(str(tiny_gpt2(folder / "model")))
    return TTT(lm, open_retriever(str(folder)), Switches(learning_rate=1e-2)), open_corpus(str(folder))


def test_other_texts_are_scored_with_the_adapted_weights(loop):
    ttt, corpus = loop
    documents, others = draw_documents(corpus, 1, 0), draw_documents(corpus, 1, 1)
    weights = ttt.lm.weight_hash()
    rows = list(forgetting(ttt, documents, others, ks=(0, 2)))
    assert len(rows) == 2 * 2 * 2  # documents, the text itself and one of the other domain, 0 and 2 neighbours
    first = [row for row in rows if row["domain"] == documents[0].domain]
    plain = {text.domain: score(ttt.lm, text.text).nats for text in (documents[0], others[1])}
    assert {row["other_domain"]: row["nats"] for row in first if row["k"] == 0} == pytest.approx(plain)
    changed = {row["other_domain"]: row["nats"] for row in first if row["k"] == 2}
    assert all(abs(changed[name] / plain[name] - 1) > 1e-4 for name in plain)
    assert ttt.lm.weight_hash() == weights


def test_an_interrupted_archive_goes_on_and_equals_one_in_one_go(loop, tmp_path):
    ttt, corpus = loop
    documents, others = draw_documents(corpus, 2, 0), draw_documents(corpus, 1, 1)
    keep("whole", ttt, documents, others, (0, 2), tmp_path)
    keep("parts", ttt, documents[:1], others, (0, 2), tmp_path)
    first = read_json(tmp_path / "parts" / FILE)["rows"]
    keep("parts", ttt, documents, others, (0, 2), tmp_path)
    parts, whole = (read_json(tmp_path / name / FILE) for name in ("parts", "whole"))
    assert parts == whole and parts["rows"][: len(first)] == first
    assert whole["settings"]["switches"]["learning_rate"] == 1e-2


def test_rows_of_another_loop_are_not_added(loop, tmp_path):
    ttt, corpus = loop
    documents, others = draw_documents(corpus, 2, 0), draw_documents(corpus, 1, 1)
    keep("run", ttt, documents[:1], others, (0, 1), tmp_path)
    faster = TTT(ttt.lm, ttt.retriever, Switches(learning_rate=2e-2))
    for loop_now, texts, ks in ((faster, others, (0, 1)), (ttt, others[:1], (0, 1)), (ttt, others, (0, 2))):
        with pytest.raises(RowsError, match="other settings, texts or ks"):
            keep("run", loop_now, documents, texts, ks, tmp_path)


def test_unrelated_texts_of_a_document_count_together(tmp_path):
    def row(domain, document, other, k, nats):
        return {"domain": domain, "document": document, "other_domain": other, "other": 0, "k": k, "nats": nats}

    rows = [row("a", 1, "a", 0, 10.0), row("a", 1, "b", 0, 4.0), row("a", 1, "c", 0, 6.0),
            row("a", 1, "a", 5, 8.0), row("a", 1, "b", 5, 5.0), row("a", 1, "c", 5, 7.0),
            row("b", 2, "b", 0, 10.0), row("b", 2, "c", 0, 10.0),
            row("b", 2, "b", 5, 5.0), row("b", 2, "c", 5, 10.0)]  # fmt: skip
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / FILE, {"rows": rows})
    found = forgotten("run", tmp_path).set_index(["text", "domain"])
    assert found["ratio"].to_dict() == pytest.approx({
        ("its own", "all"): 13 / 20, ("its own", "a"): 0.8, ("its own", "b"): 0.5,
        ("unrelated", "all"): 22 / 20, ("unrelated", "a"): 1.2, ("unrelated", "b"): 1.0,
    })  # fmt: skip
    assert found.loc[("unrelated", "all"), "documents"] == 2 and (found["k"] == 5).all()
