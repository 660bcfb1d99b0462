"""Rows about neighbours against corpora made so that the answer is known."""

import numpy as np
import pandas as pd
import pytest

from tttnn.corpus import Corpus, Document, write_jsonl
from tttnn.corpus.overlap import seen_shares
from tttnn.embedding import RandomEmbedder
from tttnn.experiment import DrawnDocument, draw_documents
from tttnn.index import build_index
from tttnn.report import charts
from tttnn.retrieval import Retriever
from tttnn.studies import neighbourhoods as near

WORDS = {
    "code": ["def", "return", "import", "class", "self", "value", "list", "dict"],
    "prose": ["madam", "vote", "budget", "report", "law"],
}


def text(domain, number, words=60):
    return " ".join(np.random.default_rng(number).choice(WORDS[domain], words)) + f" {domain} {number}"


def document(domain, number, **meta):
    source = f"{domain}/{number // 4}#{number % 4}"
    return Document(text(domain, number), {"pile_set_name": domain, "source": source} | meta)


class LengthEmbedder:
    """One dimension: the number of characters. Nearness is known by heart."""

    name, dimension, fingerprint = "length", 1, "length-of-text"

    def embed(self, texts, progress=False):
        return np.array([[len(each)] for each in texts], dtype=np.float32)

    def save(self, folder):
        raise NotImplementedError


def retriever(documents, folder, embedder=None):
    embedder = embedder or LengthEmbedder()
    vectors = embedder.embed([each.text for each in documents])
    index = build_index(folder, lambda row: iter([vectors[row:]]), embedder=embedder, corpus_fingerprint="x")
    return Retriever(documents, index, embedder)


def query(characters, **meta):
    return DrawnDocument("code", 0, "q" * characters, meta)


@pytest.fixture
def corpus(tmp_path):
    for domain in WORDS:
        write_jsonl(tmp_path / "corpus" / f"{domain}.train.jsonl", (document(domain, n) for n in range(8)))
        write_jsonl(tmp_path / "corpus" / f"{domain}.test.jsonl", (document(domain, n) for n in range(6, 11)))
    return Corpus(tmp_path / "corpus")


def test_one_row_per_query_and_rank_nearest_first(tmp_path):
    documents = [Document("d" * n, {"pile_set_name": "code"}) for n in (100, 130, 90)]
    rows = near.neighbourhoods(retriever(documents, tmp_path / "i"), [query(101), query(89)], k=3)
    assert rows["rank"].tolist() == [1, 2, 3] * 2
    assert rows["neighbour"].tolist() == [0, 2, 1, 2, 0, 1]
    assert rows["distance"].tolist() == [1, 121, 841, 1, 121, 1681]


def test_overlap_is_the_share_of_the_query_and_not_of_the_neighbour(tmp_path):
    half = "".join(chr(97 + n % 26) + str(n) for n in range(60))  # no window of it occurs twice
    documents = [Document(half + "#" * 500, {})]
    rows = near.neighbourhoods(retriever(documents, tmp_path / "i"), [DrawnDocument("d", 0, half, {})], k=1)
    assert rows["overlap"].item() == 1
    other = DrawnDocument("d", 0, half + "?" * 100, {})
    rows = near.neighbourhoods(retriever(documents, tmp_path / "j"), [other], k=1)
    assert rows["overlap"].item() == seen_shares([other.text], [documents[0].text])[0]
    assert 0 < rows["overlap"].item() < 1


def test_same_domain_and_source_are_missing_where_the_corpus_does_not_say(tmp_path):
    metas = [{"pile_set_name": "code", "source": "a.py#3"}, {"pile_set_name": "prose", "source": "b.py#1"}, {}]
    documents = [Document("d" * (100 + n), meta) for n, meta in enumerate(metas)]
    found = retriever(documents, tmp_path / "i")
    rows = near.neighbourhoods(found, [query(100, pile_set_name="code", source="a.py#0")], k=3)
    for column in ("same_domain", "same_unit"):
        assert rows[column].tolist()[:2] == [True, False]
        assert rows[column].isna().tolist() == [False, False, True]
    assert (
        near.neighbourhoods(found, [query(100)], k=3)[["same_domain", "same_unit", "same_source"]].isna().all(axis=None)
    )


def test_a_domain_with_few_documents_gives_all_of_them(corpus):
    assert [each.domain for each in draw_documents(corpus, 2, seed=1)] == ["code"] * 2 + ["prose"] * 2
    everything = draw_documents(corpus, 99, seed=1)
    assert sorted(each.number for each in everything if each.domain == "code") == list(range(5))
    assert draw_documents(corpus, 2, seed=1)[0] == everything[0], "a larger sample extends the smaller one"
    assert everything[0].meta["source"] == f"code/{(6 + everything[0].number) // 4}#{(6 + everything[0].number) % 4}"


def test_histogram_counts_every_query_once_per_rank():
    rows = pd.DataFrame(
        {"domain": ["a"] * 4 + ["b"] * 2, "rank": [1, 2] * 3, "distance": [0.0, 0.9, 0.1, 1.0, 0.55, 0.55]}
    )
    counted = near.distance_histogram(rows, [1, 2], bins=10)
    assert counted.groupby(["domain", "rank"])["share"].sum().tolist() == pytest.approx([1.0] * 4)
    bars = counted[counted["share"] > 0].set_index(["domain", "rank"])
    assert bars.loc[("a", "k = 1"), "low"].tolist() == pytest.approx([0, 0.1])
    assert bars.loc[("b", "k = 2"), ["low", "high", "share"]].to_numpy(float).ravel() == pytest.approx([0.5, 0.6, 1])
    assert counted["high"].max() == 1


def test_histogram_of_copies_has_one_full_bin():
    rows = pd.DataFrame({"domain": ["a"] * 3, "rank": [1] * 3, "distance": [0.0] * 3})
    assert near.distance_histogram(rows, [1], bins=4)["share"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_growing_index_ends_at_the_nearest_neighbour_of_the_whole(tmp_path, corpus, monkeypatch, block):
    monkeypatch.setattr(near, "BATCH_VECTORS", block)
    documents = list(corpus.documents("train"))
    found = retriever(documents, tmp_path / "i", RandomEmbedder(8))
    queries = draw_documents(corpus, 5, seed=1)
    growth = near.growing_index(found, queries, [1.0, 0.1, 0.5], seed=3)
    assert growth.groupby("share")["documents"].unique().map(list).to_dict() == {0.1: [2], 0.5: [8], 1.0: [16]}
    wide = growth.pivot(index=["domain", "document"], columns="share", values="distance")
    assert (wide[0.1] >= wide[0.5]).all() and (wide[0.5] >= wide[1.0]).all() and (wide[0.1] > wide[1.0]).any()
    rows = near.neighbourhoods(found, queries, k=1).set_index(["domain", "document"])
    np.testing.assert_allclose(wide[1.0], rows["distance"].loc[wide.index], atol=1e-5)


def test_growing_index_reads_every_stored_vector_once(tmp_path, corpus, monkeypatch):
    found = retriever(list(corpus.documents("train")), tmp_path / "i")
    read, vectors = [], found.index.vectors
    monkeypatch.setattr(found.index, "vectors", lambda ids: read.extend(ids) or vectors(ids))
    near.growing_index(found, [query(100)], [0.25, 0.5, 1.0], seed=3)
    assert len(read) == 16 and set(read) == set(range(16))
    assert read != sorted(read), "in a random order, not domain after domain"


@pytest.mark.parametrize("shares", [[], [0.0, 1.0], [0.5, 1.5]])
def test_impossible_shares_are_refused(tmp_path, shares):
    found = retriever([Document("a", {})], tmp_path / "i")
    with pytest.raises(ValueError, match="above 0, up to 1"):
        near.growing_index(found, [query(3)], shares, seed=1)


def test_random_embedder_knows_copies_and_nothing_else():
    embedder = RandomEmbedder(512, seed=1)
    one, copy, other = embedder.embed(["a text", "a text", "a text."])
    assert (one == copy).all() and one.dtype == np.float32
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
    assert (RandomEmbedder(512, seed=2).embed(["a text"])[0] != one).all()
    assert RandomEmbedder(512, seed=2).fingerprint != embedder.fingerprint
    assert embedder.embed([]).shape == (0, 512)


def test_a_lexical_embedder_beats_random_ones_at_finding_the_domain(corpus, tmp_path):
    from tttnn.embedding import LexicalEmbedder

    documents = draw_documents(corpus, 8, seed=1, split="train")
    lexical = LexicalEmbedder.fit([each.text for each in documents], dimension=32)
    retrievers = near.retrievers_within([lexical, RandomEmbedder(16)], documents, tmp_path)
    assert list(retrievers) == ["lexical", "random"]
    rows = near.compare_embedders(retrievers, draw_documents(corpus, 5, seed=1), k=4)
    assert len(rows) == 2 * 10 * 4
    share = rows.groupby("embedder")["same_domain"].mean()
    assert share["lexical"] == 1 and 0.2 < share["random"] < 0.8


@pytest.mark.parametrize("ranks", [[1], [1, 2]])
def test_charts_draw_and_list_their_numbers(corpus, tmp_path, ranks):
    found = retriever(list(corpus.documents("train")), tmp_path / "i", RandomEmbedder(8))
    queries = draw_documents(corpus, 3, seed=1)
    rows = near.neighbourhoods(found, queries, k=2)
    growth = near.growing_index(found, queries, [0.5, 1.0], seed=1)
    median = growth.groupby(["domain", "share", "documents"], as_index=False)["distance"].median()
    shown = [
        charts.distance_chart(near.distance_histogram(rows, ranks), "fig-a", "Distances."),
        charts.overlap_chart(rows, "fig-b", "Overlap."),
        charts.index_share_chart(median, "fig-c", "Growth."),
    ]
    for each in shown:
        assert each.png().startswith(b"\x89PNG") and len(each.data) > 0
    assert shown[0].data["share of queries"].sum() == pytest.approx(2 * len(ranks))
    assert len(shown[1].data) == 12 and len(shown[2].data) == 4


def test_beginnings_stand_side_by_side_on_one_line(tmp_path):
    documents = [Document("one\n\n  two " + "x" * 200, {}), Document("short", {})]
    asked = [DrawnDocument("a", 0, "q\tq " * 50, {}), DrawnDocument("b", 0, "s h", {})]
    found = retriever(documents, tmp_path / "i")
    pairs = near.side_by_side(found, asked, near.neighbourhoods(found, asked, k=1))
    assert pairs["neighbour"].tolist() == ["one two " + "x" * 72, "short"]
    assert pairs["query"].tolist() == [("q " * 40), "s h"]
