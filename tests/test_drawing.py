"""The document that the chapters follow."""

import pytest
from command_line import called

from tttnn import open_corpus
from tttnn.corpus import Document, write_jsonl
from tttnn.errors import ParameterError
from tttnn.experiment import draw_documents, worked_example


def corpus_of(folder, texts):
    """A corpus of one test document per domain, from texts by domain."""
    for domain, text in texts.items():
        for split in ("train", "test"):
            write_jsonl(folder / f"{domain}.{split}.jsonl", [Document(text, {"pile_set_name": domain})])
    return open_corpus(str(folder))


def test_the_example_is_of_the_catalogues_where_there_are_some(tmp_path):
    corpus = corpus_of(tmp_path, {"letters": "short", "catalogues": "a longer text than that"})
    assert worked_example(corpus, seed=0).domain == "catalogues"
    assert worked_example(corpus, seed=0, domain="letters").text == "short", "another kind, where one is asked for"


def test_elsewhere_it_is_the_shortest_drawn(tmp_path):
    corpus = corpus_of(tmp_path, {"letters": "a longer text than that", "orders": "short"})
    assert worked_example(corpus, seed=0).text == "short"


def test_a_corpus_of_long_documents_has_one_too(tmp_path):
    corpus = corpus_of(tmp_path, {"letters": "x" * 50, "orders": "x" * 60})
    assert worked_example(corpus, seed=0, max_bytes=10).domain == "letters"


def lopsided(folder):
    """Many letters, and one order, which is not held out."""
    for number in range(30):
        path = folder / "mine" / "letters" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(f"{number} pages and {each} lines" for each in range(number, 1000, 30 + number)))
    (folder / "mine" / "orders").mkdir()
    (folder / "mine" / "orders" / "1.txt").write_text("a single order of twenty lamps")
    return folder / "mine"


def in_files(folder):
    """The same in the Pile's layout, by domain."""
    for name in ("letters.train", "letters.test", "letters.val", "orders.train"):
        write_jsonl(folder / "mine" / f"{name}.jsonl", [Document(name, {})])
    return folder / "mine"


@pytest.mark.parametrize("make", [lopsided, in_files])
def test_a_domain_without_a_document_in_the_split_is_named_with_the_cure(tmp_path, monkeypatch, caplog, make):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    corpus = open_corpus(make(tmp_path))
    said = r"documents in train, but none in test: hold out more of them \(--held-out\), or give a part test"
    with pytest.raises(ParameterError, match=f"^domains='orders': {said}"):
        draw_documents(corpus, 1, 0, domains=["letters", "orders"])
    assert not caplog.records or "left out" not in caplog.text
    assert {each.domain for each in draw_documents(corpus, 1, 0)} == {"letters"}
    assert "mine: left out: orders: documents in train, but none in test" in caplog.text
    with pytest.raises(ParameterError, match="must be one of letters, orders; did you mean 'orders'"):
        draw_documents(corpus, 1, 0, domains=["ordres"])
    caplog.clear()
    draw_documents(corpus, 1, 0, domains="letters")
    assert "left out" not in caplog.text
    shown = called("corpus", tmp_path / "mine", home=tmp_path / "home").stdout
    assert [line.rpartition(": ")[2] for line in shown.splitlines() if line.startswith("orders")] == [
        "1 train, 0 val, 0 test"
    ]
