"""What is said of a corpus can be counted by hand, and what is archived is of the corpus that the rows are from."""

import math

import pytest

from tttnn.analysis.archive import archived
from tttnn.analysis.dear_tokens import dear_shares
from tttnn.analysis.deflate import archived_deflate
from tttnn.analysis.domains import archived_domains, domain_table, source_table
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.corpus.deflate import deflated
from tttnn.experiment import draw_documents
from tttnn.models import load_model
from tttnn.retrieval import open_retriever
from tttnn.scoring import score
from tttnn.studies.corpus_facts import describe, sibling_rows
from tttnn.studies.dear_tokens import measure

RUN = "seven-domains"
TEXT = "The committee met on the third of May and took a vote on the budget of the year. "


@pytest.fixture(scope="module")
def lm():
    return load_model("gpt2-xxs-general")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")

    def document(text, unit, language):
        source = f"house/{language}@1:{unit}"
        return Document(text, {"source": source, "unit": unit, "license": "CC0", "language": language})

    train = [document(TEXT + str(n) * 60, f"sitting {n}", "en") for n in range(4)]
    write_jsonl(folder / "debates.train.jsonl", train)
    test = [document(TEXT, "sitting 1", "en"), document("0123456789" * 30, "sitting 9", "es")]
    write_jsonl(folder / "debates.test.jsonl", test)
    write_jsonl(folder / "notes.train.jsonl", [Document("one note", {})])
    write_jsonl(folder / "notes.test.jsonl", [Document("another note", {})])
    return open_corpus(folder)


def test_a_domain_is_counted_by_hand(corpus, lm):
    described = describe(corpus, lm)
    facts = described["domains"]["debates"]
    assert facts["units"] == 5 and facts["siblings"] == 0.5
    assert facts["seen"] == facts["near_duplicates"] == 0.5, "all of one test document, nothing of the other"
    texts = [document.text for document in corpus.documents("test", "debates")]
    size = sum(map(len, texts))
    assert facts["deflate"] == pytest.approx(8 * sum(map(deflated, texts)) / size)
    assert facts["uniform"] == pytest.approx(math.log2(8192) * sum(len(lm.encode(t)) for t in texts) / size)
    assert [row["source"] for row in facts["sources"]] == ["house/en@1", "house/es@1"], "most text first"
    assert described["domains"]["notes"]["siblings"] is None, "a corpus that names no units"


def test_tables_have_a_line_each(corpus, lm):
    described = describe(corpus, lm)
    line = domain_table(described).set_index("domain").loc["debates"]
    assert line.languages == "English, Spanish" and line.licences == "CC0" and line.sources == 2
    assert (line.train, line.val, line.test) == (4, 0, 2)
    assert domain_table(described).set_index("domain").loc["notes"].languages == "not stated"
    sources = source_table(described)
    assert sources[sources.domain == "debates"].documents.tolist() == [5, 1]
    assert line.megabytes == pytest.approx(sources[sources.domain == "debates"].megabytes.sum())


def test_siblings_are_found_without_training(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path))
    documents = [each for each in draw_documents(corpus, 2, 1, domains=["debates"]) if "committee" in each.text]
    rows = sibling_rows(open_retriever(corpus, "lexical"), documents, 5)
    assert rows.k.tolist() == [1, 2, 3, 4, 5] and rows.same_unit.sum() == 1
    assert rows.same_source.sum() == 4 and rows.same_source.isna().sum() == 1, "the note names no source"


def test_dear_tokens_are_those_above_a_uniform_guess(corpus, lm):
    found = measure(lm, corpus, 2, 1)
    assert found["entries"] == 8192 and len(found["documents"]) == 3
    texts = {(each.domain, each.number): each.text for each in draw_documents(corpus, 2, 1)}
    for _, domain, number, size, tokens, dear, nats, dear_nats in found["documents"]:
        whole = score(lm, texts[domain, number])
        assert (size, tokens) == (whole.bytes, whole.tokens)
        assert nats == pytest.approx(whole.nats, rel=1e-5)
        assert dear * math.log(8192) <= dear_nats <= nats and 0 <= dear <= tokens


def test_archived_facts_are_of_the_corpus_that_the_rows_are_from():
    for model in ("gpt2-xs-general", "gpt2-xs-pile"):
        about = archived(RUN, model).facts["about"]
        assert archived_domains(RUN)["corpus"]["fingerprint"] == about["corpus"]["fingerprint"]
    table = domain_table(archived_domains(RUN)).set_index("domain")
    assert table.loc["europarl"].languages == "English, Spanish, Galician"
    assert table.train.sum() == about["index"]["documents"]
    assert set(archived_deflate(RUN).domain) == set(table.index)


def test_archived_dear_tokens_belong_to_the_archived_scores():
    shares = dear_shares(RUN).set_index(["model", "domain"])
    for model in shares.index.unique("model"):
        rows = archived(RUN, model).rows.query("k == 0 and nats.notna()").groupby("domain")[["nats", "bytes"]].sum()
        bits = rows.nats / rows.bytes / math.log(2)
        assert shares.loc[model].before.to_dict() == pytest.approx(bits.to_dict(), rel=1e-4)
    assert (shares.without <= shares.before).all() and (shares.bits >= shares.tokens).all()
