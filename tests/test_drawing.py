"""The document that the chapters follow."""

from tttnn import open_corpus
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import worked_example


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
