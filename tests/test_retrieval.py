"""Retrieval: query text in, ordered documents out; what was built once is found again and never mixed up."""

import copy
import gzip
import logging
import pickle
import shutil
import threading
from functools import partial

import numpy as np
import pytest
from tiny import LINES, tiny_gpt2, tiny_roberta

import tttnn.index.vectors
import tttnn.retrieval
import tttnn.retrieval.retriever
from tttnn.corpus import Corpus, CorpusError, Document, open_corpus, write_jsonl
from tttnn.embedding import LexicalEmbedder, TransformerEmbedder
from tttnn.experiment import run_facts
from tttnn.files import sole_writer
from tttnn.index import BuildOptions, DamagedIndex, Index, IndexMismatch, SearchSettings, build_index
from tttnn.models import load_model
from tttnn.retrieval import Neighbour, Retriever, corpus_fingerprint, is_built, open_retriever
from tttnn.ttt import TTT

WORDS = ["parliament", "report", "commission", "budget", "member", "vote", "debate", "amendment", "council"]


def documents(domain, count, seed):
    random = np.random.default_rng(seed)
    for number in range(count):
        text = " ".join(random.choice(WORDS, 30)) + f" {domain} {number % 5}"
        yield Document(text, {"pile_set_name": domain, "number": number, "source": f"{domain}-{seed}:{number % 3}"})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path, home):
    """A corpus of two domains, one file compressed; document 7 of the first domain is there three times."""
    first = list(documents("europarl", 30, 1))
    write_jsonl(tmp_path / "corpus" / "europarl.train.jsonl", [*first, first[7], first[7]])
    write_jsonl(tmp_path / "corpus" / "github.train.jsonl.gz", documents("github", 20, 2))
    write_jsonl(tmp_path / "corpus" / "github.val.jsonl", documents("github", 3, 3))
    return tmp_path / "corpus"


def test_neighbours_are_ordered_documents_of_the_corpus(folder):
    retriever = open_retriever(folder)
    everything = list(Corpus(folder).documents("train"))
    assert len(retriever) == len(everything) == 52
    neighbours = retriever.neighbours(everything[7].text, 52)
    assert [each.id for each in neighbours[:3]] == [7, 30, 31]  # copies, ties by id
    assert [each.distance for each in neighbours[:3]] == [0, 0, 0]
    keys = [(each.distance, each.id) for each in neighbours]
    assert keys == sorted(keys) and {each.id for each in neighbours} == set(range(52))
    for each in neighbours:
        assert each == Neighbour(each.id, each.distance, everything[each.id].text, everything[each.id].meta)


def test_distances_are_squared_l2(folder):
    retriever = open_retriever(folder)
    query, stored = retriever.embedder.embed(["a vote on the budget", retriever.store[40].text]).astype(np.float64)
    found = {each.id: each.distance for each in retriever.neighbours("a vote on the budget", 52)}
    assert found[40] == pytest.approx(np.square(query - stored).sum(), abs=1e-6)


def test_many_queries_are_as_one_by_one(folder):
    retriever = open_retriever(folder)
    queries = [document.text for document in Corpus(folder).documents("val")]
    assert retriever.neighbours_many(queries, 4) == [retriever.neighbours(query, 4) for query in queries]


@pytest.mark.parametrize("k, message", [(0, "k=0: must be at least 1"), (53, "52 vectors, so k can be at most 52")])
def test_k_out_of_range(folder, k, message):
    with pytest.raises(ValueError, match=message):
        open_retriever(folder).neighbours("vote", k)


@pytest.mark.parametrize("k", ["3", 3.0])
def test_a_number_of_neighbours_may_be_text(folder, k):
    assert len(open_retriever(folder).neighbours("vote", k)) == 3


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_empty_query(folder, query):
    with pytest.raises(ValueError, match="query 0 of 1 is empty"):
        open_retriever(folder).neighbours(query, 1)


def test_a_query_without_known_words_has_defined_neighbours_and_a_warning(folder, caplog):
    neighbours = open_retriever(folder).neighbours("zzyzx", 3)
    assert "query 0 of 1 has no word that the embedder knows" in caplog.text
    assert all(each.distance == pytest.approx(1, abs=1e-6) for each in neighbours)


def test_an_index_is_known_to_be_there_once_it_is_built(folder):
    corpus = open_corpus(folder)
    assert not is_built(corpus)
    open_retriever(corpus)
    assert is_built(open_corpus(folder)) and not is_built(corpus, split="val") and not is_built(corpus, kind="fp16")
    write_jsonl(folder / "github.val.jsonl", documents("github", 4, 4))
    assert not is_built(open_corpus(folder)), "of another corpus"


def test_the_second_opening_builds_and_reads_nothing(folder, monkeypatch):
    expected = open_retriever(folder).neighbours("a vote on the budget", 5)

    def read(*_, **__):
        raise AssertionError("read the corpus again")

    monkeypatch.setattr(LexicalEmbedder, "fit", read)
    monkeypatch.setattr(tttnn.retrieval.retriever, "build_index", read)
    monkeypatch.setattr(Corpus, "fingerprint", property(read))
    monkeypatch.setattr(Corpus, "documents", read)
    assert open_retriever(folder).neighbours("a vote on the budget", 5) == expected


def test_a_changed_corpus_gets_its_own_index(folder, home):
    before = open_retriever(folder)
    write_jsonl(folder / "europarl.train.jsonl", documents("europarl", 9, 4))
    after = open_retriever(folder)
    assert (len(before), len(after)) == (52, 29)
    assert after.neighbours(after.store[3].text, 1)[0].text == after.store[3].text
    assert len(list((home / "indexes").iterdir())) == 2


def test_splits_and_embedders_have_their_own_indexes(folder, home, tmp_path):
    roberta = tiny_roberta(tmp_path / "roberta")
    retrievers = [
        open_retriever(folder),
        open_retriever(folder, split="val"),
        open_retriever(folder, roberta),
        open_retriever(folder, TransformerEmbedder(roberta, max_length=16)),
        open_retriever(folder, LexicalEmbedder.fit(LINES, dimension=32)),
    ]
    assert [len(each) for each in retrievers] == [52, 3, 52, 52, 52]
    assert len({each.index.folder for each in retrievers}) == len(list((home / "indexes").iterdir())) == 5
    text = retrievers[0].store[44].text
    for each in retrievers[2:4]:
        assert each.neighbours(text, 1)[0].id == 44


def test_the_manifest_names_corpus_and_embedder_but_no_place(folder, tmp_path):
    index = open_retriever(folder).index
    assert index.manifest["corpus_fingerprint"] == Corpus(folder).fingerprint
    assert index.manifest["embedder"]["name"] == "lexical"
    assert str(tmp_path) not in (index.folder / "manifest.json").read_text()


def test_texts_vectors_and_embedder_must_belong_together(folder):
    retriever = open_retriever(folder)
    shorter = open_retriever(folder, split="val").store
    with pytest.raises(IndexMismatch, match="3 texts, but 52 vectors"):
        Retriever(shorter, retriever.index, retriever.embedder)
    other = LexicalEmbedder.fit(LINES)
    with pytest.raises(IndexMismatch, match="built with embedder 'lexical', not with"):
        Retriever(retriever.store, retriever.index, other)


def test_a_damaged_index_is_not_opened(folder):
    vectors = open_retriever(folder).index.folder / "shard-00000" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(DamagedIndex, match="build the index again"):
        open_retriever(folder)


def test_an_interrupted_build_goes_on(folder, home, tmp_path, monkeypatch):
    """Also one of a transformer, whose vectors depend on the batch: the same batches come again."""
    roberta = TransformerEmbedder(tiny_roberta(tmp_path / "roberta"))
    monkeypatch.setattr(tttnn.retrieval.retriever, "BATCH_DOCUMENTS", 9)
    monkeypatch.setattr(tttnn.index.vectors, "CHECKPOINT_BYTES", 1)
    whole = open_retriever(folder, roberta).index
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "other"))
    embed, embedded = roberta.embed, []

    def interrupted(texts):
        if len(embedded) == 3:
            raise KeyboardInterrupt
        embedded.append(len(texts))
        return embed(texts)

    with monkeypatch.context() as patch:
        patch.setattr(roberta, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_retriever(folder, roberta)
        embedded.clear()
        embedded.append(0)
        patch.setattr(roberta, "embed", lambda texts: (embedded.append(len(texts)), embed(texts))[1])
        assert open_retriever(folder, roberta).index.manifest == whole.manifest
        assert embedded == [0, 9, 9, 7]
    assert not list((tmp_path / "other").rglob("*.partial"))


def test_kinds_have_their_own_indexes_of_the_same_vectors(folder, monkeypatch):
    exact = open_retriever(folder)

    def embed(*_, **__):
        raise AssertionError("embedded the corpus again")

    monkeypatch.setattr(tttnn.retrieval.retriever, "_embed", embed)
    half = open_retriever(folder, kind="fp16")
    assert half.index.folder.parent == exact.index.folder.parent
    assert [card["kind"] for card in half.index.manifest["shards"]] == ["fp16"]
    assert half.neighbours("a vote on the budget", 52) == exact.neighbours("a vote on the budget", 52)
    with pytest.raises(ValueError, match="kind='pq': must be auto, flat"):
        open_retriever(folder, kind="pq")


def test_a_retriever_never_searches_a_part_silently(folder):
    retriever = open_retriever(folder)
    partly = Index.open(retriever.index.folder, retriever.embedder.fingerprint, allow_missing=True)
    with pytest.raises(ValueError, match="allow_missing"):
        Retriever(retriever.store, partly, retriever.embedder)
    assert Retriever(retriever.store, partly, retriever.embedder, allow_missing=True).index is partly


@pytest.fixture
def sharded(folder, monkeypatch):
    """A retriever over three shards of 20, 20 and 12 documents."""
    monkeypatch.setattr(tttnn.retrieval.retriever, "build_index", partial(build_index, options=BuildOptions(20)))
    return open_retriever(folder)


def test_neighbours_list_the_shards_that_answered(sharded, folder):
    for each in sharded.neighbours_many(["a vote on the budget", "council"], 3):
        assert each.answered == ["shard-00000", "shard-00001", "shard-00002"]
    allowed = open_retriever(folder, allow_missing=True)
    assert allowed.fingerprint == sharded.fingerprint
    assert allowed.neighbours("council", 52) == sharded.neighbours("council", 52)


def test_neighbours_of_the_shards_that_are_left(sharded, folder, caplog):
    expected = [each for each in sharded.neighbours("a vote on the budget", 52) if not 20 <= each.id < 40]
    shutil.rmtree(sharded.index.folder / "shard-00001")
    for attempt in (lambda: sharded.neighbours("a vote on the budget", 1), lambda: open_retriever(folder)):
        with pytest.raises(DamagedIndex, match="shard-00001"):
            attempt()
    partly = open_retriever(folder, allow_missing=True)
    assert "shard-00001 is left out" in caplog.text
    found = partly.neighbours("a vote on the budget", 32)
    assert found == tuple(expected) and found.answered == ["shard-00000", "shard-00002"]
    assert partly.fingerprint != sharded.fingerprint and len(partly) == 52
    with pytest.raises(ValueError, match="shards that answered hold 32 vectors"):
        partly.neighbours("a vote on the budget", 33)


def test_an_evaluation_lists_the_shards_that_answered(sharded, folder, tmp_path):
    shutil.rmtree(sharded.index.folder / "shard-00000")
    ttt = TTT(load_model(tiny_gpt2(tmp_path / "gpt2")), open_retriever(folder, allow_missing=True))
    assert ttt.evaluate("a vote on the budget", 2).neighbours.answered == ["shard-00001", "shard-00002"]


def test_batches_of_documents_do_not_matter(folder, tmp_path, monkeypatch):
    whole = open_retriever(folder).index
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(tttnn.retrieval.retriever, "BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(tttnn.retrieval.retriever, "BATCH_CHARACTERS", 700)
    assert open_retriever(folder).index.manifest == whole.manifest


def test_a_document_without_a_known_word_is_near_to_no_other(folder, caplog):
    write_jsonl(folder / "more.train.jsonl", [Document("0x7f3a9c"), *documents("more", 20, 5)])
    embedder = LexicalEmbedder.fit(document.text for document in Corpus(folder).documents("val"))
    retriever = open_retriever(folder, embedder)
    [unknown] = [number for number in range(len(retriever)) if retriever.store[number].text == "0x7f3a9c"]
    assert "1 documents have no word that the embedder knows" in caplog.text
    for query in documents("github", 10, 6):
        assert retriever.neighbours(query.text, len(retriever))[-1].id == unknown


def test_a_corpus_that_is_mended_while_it_is_open_gets_an_index_of_its_own(folder):
    corpus = Corpus(folder)
    before = corpus_fingerprint(corpus)
    write_jsonl(folder / "github.train.jsonl.gz", documents("github", 21, 2))
    after = corpus_fingerprint(corpus)
    assert before != after == corpus_fingerprint(Corpus(folder)) == Corpus(folder).fingerprint
    assert len(open_retriever(corpus)) == 53


def test_an_empty_document_stops_the_build_by_file_and_line(tmp_path, home):
    (tmp_path / "corpus").mkdir()
    with gzip.open(tmp_path / "corpus" / "x.train.jsonl.gz", "wt") as file:
        file.write('{"text": "a", "meta": {}}\n{"text": "", "meta": {}}\n')
    with pytest.raises(ValueError, match=r"x\.train\.jsonl\.gz, line 2, byte 26: .*empty.*skip_bad=True"):
        open_retriever(tmp_path / "corpus")


def test_what_neighbours_depend_on_is_in_the_identity(tmp_path, home):
    write_jsonl(tmp_path / "corpus" / "a.train.jsonl", documents("a", 1100, 1))
    write_jsonl(tmp_path / "corpus" / "a.val.jsonl", documents("a", 5, 2))
    exact, mapped = (open_retriever(tmp_path / "corpus", kind=kind) for kind in ("flat", "flat-mapped"))
    coarse = open_retriever(tmp_path / "corpus", kind="rabitq")
    assert exact.identity == mapped.identity and exact.identity["index"] == "exact"
    assert coarse.identity["index"]["kinds"] == ["rabitq"] and exact.fingerprint != coarse.fingerprint
    harder = Index.open(coarse.index.folder, coarse.embedder.fingerprint, settings=SearchSettings(candidates=900))
    assert Retriever(coarse.store, harder, coarse.embedder, split="train").fingerprint != coarse.fingerprint
    held_out = open_retriever(tmp_path / "corpus", split="val")
    assert (exact.identity["split"], held_out.identity["split"]) == ("train", "val")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])  # noqa: S301
def test_neighbours_and_answers_can_be_copied(folder, copied):
    retriever = open_retriever(folder)
    found = retriever.neighbours("a vote on the budget", 5)
    again = copied(found)
    assert again == found and again.answered == found.answered and type(again) is type(found)
    answer = retriever.index.search(retriever.embedder.embed(["a vote"]), 3)
    distances, ids = copied(answer)
    assert (distances == answer[0]).all() and (ids == answer[1]).all() and copied(answer).answered == answer.answered


def test_neighbours_are_short_to_look_at_and_slices_know_their_shards(folder):
    retriever = open_retriever(folder)
    found = retriever.neighbours("a vote on the budget", 9)
    assert found[1:3].answered == found.answered and len(found[1:3]) == 2 and isinstance(found[1], Neighbour)
    assert len(repr(found)) < 400 and "6 more" in repr(found) and found[0].text not in repr(found)
    answer = retriever.index.search(retriever.embedder.embed(["a vote"]), 3)
    assert repr(answer) == "Answer(1 queries, k=3, answered=['shard-00000'])"


def test_the_second_first_use_waits_for_the_first(folder, home, monkeypatch, caplog):
    place = open_retriever(folder).index.folder.parent
    shutil.rmtree(place)
    place.mkdir()
    found = []
    with sole_writer(place), caplog.at_level(logging.INFO):
        second = threading.Thread(target=lambda: found.append(open_retriever(folder)))
        second.start()
        while "waiting until it is done" not in caplog.text and second.is_alive():
            second.join(0.05)
        assert not found and not (place / "texts").exists(), "it reads and writes nothing"
    second.join()
    assert len(found[0]) == 52


def test_a_split_that_is_not_there_is_said_before_the_corpus_is_read(folder, monkeypatch):
    monkeypatch.setattr(Corpus, "fingerprint", property(lambda _: pytest.fail("read")))
    with pytest.raises(ValueError, match="no split 'tst'"):
        open_retriever(folder, split="tst")


def test_a_corpus_is_read_once_for_its_fingerprint(folder, home, monkeypatch):
    known = corpus_fingerprint(Corpus(folder))
    retriever = open_retriever(folder)
    monkeypatch.setattr(Corpus, "fingerprint", property(lambda _: pytest.fail("read again")))
    assert run_facts(Corpus(folder), retriever)["corpus"]["fingerprint"] == known


def test_a_fingerprint_that_cannot_be_remembered_is_one(folder, home, monkeypatch, caplog):
    """As where an administrator keeps indexes that others may only read."""
    home.mkdir(exist_ok=True)
    (home / "fingerprints").touch()
    assert corpus_fingerprint(Corpus(folder)) == Corpus(folder).fingerprint
    assert "is not remembered" in caplog.text


@pytest.mark.parametrize("content", ["", '{"text": ""}\n'])
@pytest.mark.parametrize("embedder", ["lexical", "lm:gpt2-xxs-general"])
def test_a_split_without_documents_is_named(folder, content, embedder):
    for path in folder.glob("*.train.*"):
        path.unlink()
    (folder / "github.train.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=rf"{folder}: split 'train' holds no document"):
        open_retriever(open_corpus(folder, skip_bad=True), embedder)
