"""Ways to score and to average, computed from rows, against hand-computed cases."""

import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from nats_rows import rows
from test_retrieval import documents
from tiny import tiny_gpt2

from tttnn import TTT, Switches, load_model, open_corpus, open_retriever
from tttnn.analysis import archive, dear_tokens, deflate, scoring_effects
from tttnn.analysis.archive import archived
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import draw_documents, run, run_facts
from tttnn.files import read_json, write_json
from tttnn.rows import RowsError


def test_a_way_to_score_is_compared_on_the_same_documents():
    made = pd.DataFrame({
        "domain": ["a", "a", "b"], "bits_before": [100.0, 100, 50], "bits_after": [50.0, 60, 40],
        "short_before": [120.0, 110, 60], "short_after": [90.0, 92, 45], "inside_before": [90.0, 80, 40],
        "inside_after": [45.0, 40, 20], "cut_before": [80.0, 80, 40], "cut_after": [40.0, 40, 20],
    })  # fmt: skip
    table = scoring_effects.scoring_effects(made).set_index(["way", "domain"])
    assert table.index.get_level_values("domain").unique().tolist() == ["a", "b", "all"]
    line = table.loc["half the context", "a"]
    assert line[["ratio_against", "ratio"]].tolist() == pytest.approx([110 / 200, 182 / 230])
    assert line["difference"] == pytest.approx(182 / 230 - 0.55) and line["low"] < line["difference"] < line["high"]
    assert table.loc["half the context", "all"]["documents"] == 3
    cut = table.loc["vocabulary cut", "all"]
    assert cut[["ratio_against", "ratio", "difference"]].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_dropping_finds_the_worst_choice():
    draw = np.random.default_rng(0)
    before = draw.uniform(50, 500, 9)
    after = before * draw.uniform(0.3, 1.2, 9)
    made = scoring_effects.dropping(rows(zip(before, after, strict=True)), 2, 0.25).iloc[0]
    assert (made["documents"], made["dropped"]) == (9, 2)
    every = [after[list(kept)].sum() / before[list(kept)].sum() for kept in itertools.combinations(range(9), 7)]
    assert made["lowest"] == pytest.approx(min(every)) and made["highest"] == pytest.approx(max(every))
    assert made["ratio"] == pytest.approx(after.sum() / before.sum())
    none = scoring_effects.dropping(rows([(10, 5), (20, 30)]), 2, 0.1).iloc[0]
    assert none["dropped"] == 0
    assert none["lowest"] == pytest.approx(none["highest"]) == pytest.approx(none["ratio"])


def test_averages_differ_where_large_documents_gain_more():
    line = scoring_effects.averages(rows([(10, 10), (90, 45)]), 2).iloc[0]
    assert line["ratio_against"] == pytest.approx(0.55) and line["mean"] == pytest.approx(0.75)
    ends = line[["difference", "low", "high"]].tolist()
    assert ends == pytest.approx([0.2, 0, 0.2]), "one document drawn twice has no difference"


def test_one_token_chunks_are_counted_by_model():
    made = pd.DataFrame({
        "model": ["b", "b", "b", "a"], "k": [0, 1, 2, 1], "steps": [0, 2, 1, 3], "skipped": [0, 1, 0, 0],
    })  # fmt: skip
    table = scoring_effects.one_token_chunks(made)
    assert table["model"].tolist() == ["b", "a"]
    assert table.iloc[0][["neighbours", "chunks", "one_token", "share"]].tolist() == [2, 4, 1, 0.5]


RUN, MODEL = "seven-domains", "qwen2-xs-reasoning"


def test_archived_ways_belong_to_the_archived_scores():
    ways = scoring_effects.archived_ways(RUN, MODEL)
    rows = archived(RUN, MODEL).rows
    for k, when in ((0, "before"), (ways.attrs["k"], "after")):
        nats = rows[rows["k"] == k].set_index(["domain", "document"]).nats
        mine = ways.set_index(["domain", "document"])[f"bits_{when}"] * math.log(2)
        assert mine.to_dict() == pytest.approx(nats[mine.index].to_dict(), rel=5e-3), "the products are in bfloat16"
    assert (ways.cut_before <= ways.inside_before).all() and (ways.inside_before <= ways.bits_before).all()
    assert len(ways) == 30 and (ways.beyond < ways.tokens).all()


def test_a_run_without_other_ways_says_so():
    assert scoring_effects.archived_ways(RUN, "gpt2-xs-general") is None
    assert scoring_effects.archived_ways("/no/such/run", MODEL) is None


def test_ways_are_not_archived_beside_another_corpus(tmp_path):
    write_jsonl(tmp_path / "a.train.jsonl", [Document("other text")])
    with pytest.raises(RowsError, match="made on another corpus than"):
        scoring_effects.keep(RUN, load_model(MODEL), open_corpus(tmp_path), 1 / 3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A corpus of short and long documents, a model, and its run on the short ones."""
    place = tmp_path_factory.mktemp("ways")
    for split, seed, count in (("train", 1, 12), ("test", 2, 6)):
        several = list(documents("letters", count, seed))
        long = [Document(each.text * 3, each.meta) for each in several]
        write_jsonl(place / "corpus" / f"letters.{split}.jsonl", [*long, *several])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(place / "home"))
        corpus, lm = open_corpus(place / "corpus"), load_model(tiny_gpt2(place / "gpt2"), threads=1)
        facts = run_facts(corpus, open_retriever(corpus), per_domain=2, split="test", max_bytes=300, seed=3)
        loop = TTT(lm, open_retriever(corpus), Switches(learning_rate=1e-3, max_length=16))
        run(loop, draw_documents(corpus, 2, 3, max_bytes=300), [0, 1], place / "archive" / "mine" / lm.name, facts)
        for module in (archive, scoring_effects, dear_tokens):
            patch.setattr(module, "FOLDER", place / "archive")
        yield corpus, lm, place


def test_what_is_kept_beside_a_run_is_of_its_documents(kept):
    corpus, lm, place = kept
    rows = archived("mine", lm.name).rows
    asked = sorted(rows[["domain", "document"]].drop_duplicates().values.tolist())
    scoring_effects.keep("mine", lm, corpus, 0.5)
    ways = scoring_effects.archived_ways("mine", lm.name)
    assert sorted(ways[["domain", "document"]].values.tolist()) == asked
    first = rows[rows["k"] == 0].set_index("document")["nats"]
    assert (ways.set_index("document")["bits_before"] * math.log(2)).to_dict() == pytest.approx(first.to_dict())
    dear_tokens.keep("mine", lm, corpus)
    assert sorted(row[1:3] for row in read_json(place / "archive/mine/dear_tokens.json")[lm.name]["documents"]) == asked
    assert sorted(row[:2] for row in deflate.measure(corpus, 2, 3, max_bytes=300)["documents"]) == asked


def test_other_weights_settings_or_ways_are_not_kept_beside_a_run(kept, tmp_path):
    corpus, lm, place = kept
    scoring_effects.keep("mine", lm, corpus, 0.5)
    with pytest.raises(RowsError, match="holds gpt2 with other entries"):
        scoring_effects.keep("mine", lm, corpus, 0.25)
    other = load_model(tiny_gpt2(tmp_path / "gpt2", seed=7), threads=1)
    for keep in (dear_tokens.keep, partial(scoring_effects.keep, share=0.5)):
        with pytest.raises(RowsError, match="made with other weights of gpt2"):
            keep("mine", other, corpus)
    path = place / "archive" / "mine" / lm.name / "run.json"
    facts = read_json(path)
    drawn = facts["settings"]["retriever"] | {"strategy": "random", "seed": 1}
    for change, message in (
        ({"ks": [0, 2]}, "with other k;"), ({"retriever": drawn}, "by strategy 'random'"),
        ({"method": "unigram"}, "by method 'unigram'"),
    ):  # fmt: skip
        write_json(path, facts | {"settings": facts["settings"] | change})
        with pytest.raises(RowsError, match=message):
            scoring_effects.keep("mine", lm, corpus, 0.5)
    write_json(path, facts)
