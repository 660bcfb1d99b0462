"""Rows say where a document and its neighbours come from; rows of before get it from their corpus, which is checked."""

import json
import shutil

import pandas as pd
import pytest
from tiny import tiny_gpt2

from tttnn.analysis.archive import FOLDER, archived, archived_models, archived_rows
from tttnn.analysis.controls import MEAN
from tttnn.analysis.origins import ORIGIN, add_origins
from tttnn.analysis.real_model import real_rows
from tttnn.analysis.siblings import archived_without_siblings, sibling_shares, without_siblings
from tttnn.analysis.statistics import before_after, early_share
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.corpus.siblings import language, sibling_columns
from tttnn.experiment import RowsError, draw_documents, read_rows, run, run_facts
from tttnn.models import load_model
from tttnn.retrieval import open_retriever
from tttnn.rows import FLAGS, JOURNAL, read_journal
from tttnn.ttt import TTT, Switches

WORDS = ["vote", "budget", "report", "law", "madam", "president", "chamber", "debate", "member", "motion"]


def document(domain, unit, number):
    words = " ".join(WORDS[(number * 7 + place * (unit + 3)) % len(WORDS)] for place in range(30))
    source = f"ufal/europarlmin@1f:{domain}{unit}.txt#{number}"
    meta = {"pile_set_name": domain, "source": source, "unit": f"{domain}{unit}"}
    return Document(f"{domain} {unit}: {words} {number}", meta)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for domain in ("europarl", "letters"):
        for split, numbers in {"train": range(6), "test": range(6, 9)}.items():
            documents = [document(domain, number % 2, number) for number in numbers]
            write_jsonl(folder / f"{domain}.{split}.jsonl", documents)
    return open_corpus(folder)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run of this version, and the same as an earlier version would have written it."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(place))
        retriever = open_retriever(corpus, "lexical")
    loop = TTT(load_model(tiny_gpt2(place / "gpt2")), retriever, Switches(learning_rate=1e-3, max_length=16))
    facts = run_facts(corpus, retriever, per_domain=2, split="test", max_bytes=None, seed=3)
    run(loop, draw_documents(corpus, 2, 3), [0, 4], place / "now", facts)
    shutil.copytree(place / "now", place / "before")
    (place / "before" / JOURNAL).unlink()
    rows = read_rows(place / "now").drop(columns=[*ORIGIN, *FLAGS])
    rows.to_parquet(place / "before" / "rows.parquet", index=False)
    return place


def test_a_run_says_where_documents_and_neighbours_come_from(corpus, finished):
    rows = read_rows(finished / "now")
    pd.testing.assert_frame_equal(rows, read_journal(finished / "now"), check_dtype=False)
    index = list(corpus.documents("train"))
    for row in rows.itertuples():
        assert row.source == "ufal/europarlmin@1f"
        assert row.language == ("en" if row.domain == "europarl" else "")
        tested = list(corpus.documents("test", row.domain))[row.document]
        assert row.unit == tested.meta["unit"]
        if row.k:
            assert row.same_unit == (index[int(row.neighbour)].meta["unit"] == row.unit)
            assert row.same_source
        else:
            assert pd.isna(row.same_unit) and pd.isna(row.same_source)
    assert 0 < rows["same_unit"].mean() < 1


def test_rows_of_before_get_the_same_columns_from_the_corpus(corpus, finished):
    for _ in range(2):  # again: the same
        add_origins(corpus, [finished / "before"])
        pd.testing.assert_frame_equal(read_rows(finished / "before"), read_rows(finished / "now"))


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [("bytes", 7.0, "bytes instead of 7"), ("words", 3.0, "words instead of 3"),
     ("neighbour_domain", "novels", "not from novels"), ("overlap", 0.5, "not 0.5000"), ("document", 99, "range")],
)  # fmt: skip
def test_rows_that_are_not_this_corpus_are_left_alone(corpus, finished, tmp_path, column, value, says):
    shutil.copytree(finished / "before", tmp_path / "run")
    rows = read_rows(finished / "now").drop(columns=[*ORIGIN, *FLAGS])
    last = rows.index[-1]
    rows.loc[last, column] = value
    if column in ("bytes", "words"):
        assert rows.loc[last, "nats"] > 0, "a row with a score"
    rows.to_parquet(tmp_path / "run" / "rows.parquet", index=False)
    written = (tmp_path / "run" / "rows.parquet").read_bytes()
    with pytest.raises(RowsError, match=rf"run: letters \d+, k = 4 is not that of the corpus: .*{says}"):
        add_origins(corpus, [finished / "now", tmp_path / "run"])
    assert (tmp_path / "run" / "rows.parquet").read_bytes() == written


def test_rows_of_another_corpus_are_refused(corpus, finished, tmp_path):
    shutil.copytree(finished / "before", tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["about"]["corpus"]["fingerprint"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RowsError, match="made on corpus 0000000000000000, and this one is"):
        add_origins(corpus, [tmp_path / "run"])


def test_what_a_corpus_does_not_say_is_not_guessed():
    assert language({}) == language({"pile_set_name": "letters", "source": "mine"}) == ""
    assert language({"pile_set_name": "europarl"}) == "", "a domain may hold anything"
    assert language({"language": "fr", "source": "ufal/europarlmin@1f:a"}) == "fr"
    assert sibling_columns({}, {"unit": "a", "source": "b:c"}) == dict.fromkeys(FLAGS)
    one, other = ({"unit": unit, "source": f"mine:{unit}"} for unit in "ab")
    assert sibling_columns(one, other) == {"same_unit": False, "same_source": True}


def test_a_catalogue_says_its_language_by_its_folder():
    source = "Sphinx==7.4.7:sphinx/locale/pt_BR/LC_MESSAGES/sphinx.po#15"
    assert language({"pile_set_name": "catalogues", "source": source}) == "pt_BR"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_document_of_the_embedded_corpus_has_a_language(split):
    assert all(language(each.meta) for each in open_corpus("wheels").documents(split))


def test_all_archived_rows_say_where_they_come_from():
    for run_name in sorted({str(path.parents[1].relative_to(FOLDER)) for path in FOLDER.glob("**/run.json")}):
        assert archived_models(run_name)
        rows = archived_rows(run_name)
        assert rows[list(ORIGIN)].ne("").all().all() and rows[list(ORIGIN)].notna().all().all(), run_name
        assert (rows["same_unit"].notna() == rows["neighbour"].notna()).all(), run_name
        assert not (rows["same_unit"] & ~rows["same_source"]).any(), run_name
        spoken = rows[rows["domain"] == "europarl"].groupby("source")["language"].unique()
        assert set(map(len, spoken)) <= {1}


def compared_rows():
    """Two documents in two domains, adapted on one sibling and one other document, or on two others."""
    made = []
    for domain, before in (("a", 10.0), ("b", 20.0)):
        for document in (0, 1):
            for variant, after, same in (("nearest", 6.0, [True, False]), ("other-units", 9.0, [False, False])):
                flags = [None, *same]
                made += [{
                    "variant": variant, "domain": domain, "document": document, "k": k, "bytes": 8,
                    "nats": [before, None, after][k], "same_unit": flags[k], "same_source": flags[k],
                } for k in range(3)]  # fmt: skip
    return pd.DataFrame(made).astype({"same_unit": "boolean", "same_source": "boolean"})


def test_what_siblings_bring_is_the_difference_on_the_same_documents():
    found = without_siblings(compared_rows(), 2).set_index("domain")
    assert found.loc["a", ["documents", "same_unit", "nearest", "other_units"]].tolist() == [2, 0.5, 0.6, 0.9]
    assert found.loc["a", ["difference", "low", "high"]].tolist() == pytest.approx([0.3] * 3)
    assert found.loc[MEAN, "difference"] == pytest.approx((0.3 + 0.15) / 2)


def test_what_siblings_bring_rests_on_the_same_documents_as_their_share():
    """A document whose neighbours are all siblings has no row without them, so its share must not count."""
    rows = compared_rows()
    alone = (rows["domain"] == "a") & (rows["document"] == 1)
    rows.loc[alone & rows["k"].gt(0), "same_unit"] = True
    rows = rows[~(alone & (rows["variant"] == "other-units"))]
    found = without_siblings(rows, 2).set_index("domain")
    assert found.loc["a", ["documents", "same_unit"]].tolist() == [1, 0.5]


def test_runs_without_both_variants_are_passed_over(tmp_path):
    assert archived_without_siblings([(str(tmp_path), "a-model")], 20).empty
    found = archived_without_siblings([("variants", "gpt2-xs-pile"), (str(tmp_path), "a-model")], 20)
    assert set(found["model"]) == {"gpt2-xs-pile"} and len(found) == 8


def test_what_pages_say_in_words_of_siblings_holds():
    """The data, chapter 4 and chapter 9 name these without a number."""
    by_chance = sibling_shares(archived("variants/random-domain", "gpt2-xs-general").rows).set_index("domain")
    assert by_chance.same_unit["enron"] > 0.5 > 2 * by_chance.same_unit.drop("enron").max(), "one mailbox is most"
    without = before_after(archived("variants/other-units", "gpt2-xs-pile").rows, 20)
    assert (without.low > 1).any(), "without siblings the model that was pre-trained on the index gets worse"
    assert (before_after(archived("variants/nearest", "gpt2-xs-pile").rows, 20).ratio < 1).all()
    real, own = early_share(real_rows(20)), early_share(archived("seven-domains", "gpt2-xs-general").rows)
    assert real < 0.6 < 0.75 < own, "early gains differ between the two"
