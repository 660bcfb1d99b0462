"""Unrelated texts are scored with the adapted weights, and the weights come back."""

import pytest
from tiny import tiny_gpt2

from tttnn import TTT, Switches, load_model, open_corpus, open_retriever, score
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import draw_documents
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
