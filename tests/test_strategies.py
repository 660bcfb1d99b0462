"""Selections: each gives the documents its name says, the same ones for the same seed, or an error that says why."""

import numpy as np
import pytest

from tttnn.corpus import Document, write_jsonl
from tttnn.corpus.overlap import seen_shares
from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment.checks import warn_of_beginnings
from tttnn.retrieval import open_retriever
from tttnn.retrieval.conformance import ConformanceError, check_strategy
from tttnn.retrieval.hull import hull
from tttnn.retrieval.sift import sift
from tttnn.retrieval.strategies import SHARDS, STRATEGIES, Rule, Selection

WORDS = ["parliament", "report", "commission", "budget", "member", "vote", "debate", "amendment", "council"]
K = 6


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    """100 documents of two domains; document 4 of the first is there twice."""
    place = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(3)
    for domain in ("europarl", "github"):
        texts = [" ".join(random.choice(WORDS, 40)) + f" {domain} {number}" for number in range(50)]
        texts[9] = texts[4]
        write_jsonl(place / f"{domain}.train.jsonl", (Document(text, {"pile_set_name": domain}) for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(place / "home"))
        return open_retriever(place)


@pytest.fixture(scope="module")
def query(retriever):
    return retriever.store[4].text


@pytest.mark.parametrize("strategy", ["nearest", "farthest-first", "shuffled", "repeated", "distinct:0.9", "share:0.9",
                                      "shards-lost:2", "sift", "sift-absolute", "hullft"])  # fmt: skip
def test_whether_fewer_documents_begin_more_of_them_is_known(retriever, strategy):
    queries = [retriever.store[number].text + retriever.store[number + 20].text for number in range(8)]
    begin = [ids(retriever, strategy, query, 3) for query in queries]
    same = begin == [ids(retriever, strategy, query)[:3] for query in queries]
    assert same == STRATEGIES[strategy.partition(":")[0]].nested


@pytest.mark.parametrize(
    ("strategy", "places", "said"),
    [("shuffled", [0, 1, 3], True), ("shuffled", [0, 3], False), ("sift", [1, 3], False)],
)
def test_scores_that_are_not_what_a_strategy_says_are_said(retriever, strategy, places, said, caplog):
    warn_of_beginnings(Selection(retriever, strategy), places)
    known = "strategy='shuffled' chooses 3 documents together: scores at fewer are of the first of them"
    assert (known in caplog.text) == said


def test_one_strategy_at_a_time(retriever):
    """The outer one's identity would stand for both."""
    with pytest.raises(ParameterError, match=r"strategy='farthest-first': the retriever has 'distinct:0\.2' already"):
        Selection(Selection(retriever, "distinct:0.2"), "farthest-first")


def ids(retriever, strategy, query, k=K, seed=1, meta=None):
    return [each.id for each in Selection(retriever, strategy, seed).neighbours(query, k, meta)]


def test_orders_of_the_nearest(retriever, query):
    nearest = [each.id for each in retriever.neighbours(query, K)]
    assert ids(retriever, "nearest", query) == nearest
    assert ids(retriever, "farthest-first", query) == nearest[::-1]
    shuffled = ids(retriever, "shuffled", query)
    assert sorted(shuffled) == sorted(nearest) and shuffled != nearest
    assert ids(retriever, "repeated", query) == [nearest[0]] * K
    assert ids(retriever, "share:1", query) == ids(retriever, "shards-lost:0", query) == nearest


def test_random_documents_come_from_everywhere_or_from_the_domain(retriever, query):
    drawn = ids(retriever, "random", query, 40)
    assert len(set(drawn)) == 40 and min(drawn) < 50 <= max(drawn)
    own = ids(retriever, "random-domain", query, 40, meta={"pile_set_name": "github"})
    assert len(set(own)) == 40 and min(own) >= 50


@pytest.mark.parametrize("strategy", ["random", "shuffled", "share:0.3"])
def test_the_same_seed_draws_the_same_whatever_came_before(retriever, query, strategy):
    selection = Selection(retriever, strategy, 7)
    selection.neighbours("something else " + query, K)
    again = [each.id for each in selection.neighbours(query, K)]
    assert again == ids(retriever, strategy, query, seed=7)
    assert again != ids(retriever, strategy, query, seed=8)


def test_copies_are_left_out_and_the_next_ones_move_up(retriever, query):
    nearest = retriever.neighbours(query, len(retriever))
    kept = Selection(retriever, "distinct:0.5").neighbours(query, K)
    expected = [each.id for each in nearest if seen_shares([query], [each.text])[0] <= 0.5]
    assert nearest[0].id == 4 and nearest[1].id == 9  # the document itself and its copy
    assert [each.id for each in kept] == expected[:K]


def test_neighbours_from_elsewhere_leave_out_the_own_unit_or_the_own_source(tmp_path, monkeypatch):
    """Ten files of two repositories, each in three parts, all alike: what is nearest is the text's own file."""
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    texts = [(f"{repository}:{file}", part) for repository in ("a/x@1", "b/y@1") for file in range(5) for part in "123"]
    documents = [
        Document(f"{place} {place} parliament {part}", {"pile_set_name": "github", "source": f"{place}#{part}"})
        for place, part in texts
    ]
    write_jsonl(tmp_path / "corpus" / "github.train.jsonl", documents)
    retriever = open_retriever(tmp_path / "corpus")
    own = documents[4]  # of a/x@1:1

    def sources(strategy: str) -> list[str]:
        found = Selection(retriever, strategy).neighbours(own.text, 10, own.meta)
        return [each.meta["source"] for each in found]

    assert [each[:7] for each in sources("nearest")[:3]] == ["a/x@1:1"] * 3
    others = [each.meta["source"] for each in retriever.neighbours(own.text, 30)]
    assert sources("other-units") == [each for each in others if not each.startswith("a/x@1:1#")][:10]
    assert sources("other-sources") == [each for each in others if not each.startswith("a/x@1:")][:10]


@pytest.mark.parametrize("strategy", ["other-units", "other-sources"])
def test_a_text_from_nowhere_has_no_elsewhere(retriever, query, strategy):
    with pytest.raises(DocumentError, match=f"{strategy} needs to know where the text is from"):
        Selection(retriever, strategy).neighbours(query, K, {"pile_set_name": "github"})


def test_a_share_of_the_corpus_holds_the_nearest_of_that_share_only(retriever, query):
    small, large = (set(ids(retriever, f"share:{share}", query, 10)) for share in (0.1, 0.5))
    assert len(small) == 10
    places = Selection(retriever, "share:0.1", 1).places
    assert all(places[number] < 10 for number in small) and all(places[number] < 50 for number in large)
    lost = ids(retriever, "shards-lost:15", query, 20)
    assert all(places[number] % SHARDS >= 15 for number in lost)


def test_sift_passes_over_the_copy_and_says_what_is_left(retriever, query):
    chosen = Selection(retriever, "sift").neighbours(query, K)
    assert chosen[0].id == 4
    left = [each.uncertainty for each in chosen]
    assert left == sorted(left, reverse=True) and 0 <= left[-1] < left[0] < 1


OTHER = "a report of a member, a vote on the budget, github and europarl"  # near to several documents, equal to none


def test_sift_takes_its_noise_after_a_colon_and_the_authors_without(retriever):
    vector = retriever.embedder.embed([OTHER])[0]
    pool = retriever.neighbours(OTHER, len(retriever))
    vectors = retriever.index.vectors([each.id for each in pool])
    for strategy, noise in (("sift", 0.01), ("sift:0.01", 0.01), ("sift:10", 10.0)):
        expected = [pool[i].id for i in sift(vector, vectors, K, noise)[0]]
        assert ids(retriever, strategy, OTHER) == expected
    assert ids(retriever, "sift:10", OTHER) != ids(retriever, "sift", OTHER)


def test_sift_absolute_prefers_what_is_opposite_to_what_is_unrelated(retriever, query, monkeypatch):
    """With a pool of 10, the documents of the largest absolute cosine, some of them below zero."""
    monkeypatch.setattr("tttnn.retrieval.strategies.POOL", 10)
    vectors = retriever.index.vectors(range(len(retriever)))
    turned = vectors[90] - 0.1 * vectors[4]  # a query that some documents are opposite to
    monkeypatch.setattr(retriever.embedder, "embed", lambda texts: turned[None].astype(np.float32))
    cosines = vectors @ turned / np.linalg.norm(vectors, axis=1)
    pool = np.argsort(-np.abs(cosines), kind="stable")[:10]
    found = Selection(retriever, "sift-absolute").neighbours(query, K)
    chosen, left = sift(turned, vectors[pool], K)
    assert [each.id for each in found] == pool[chosen].tolist()
    assert [each.uncertainty for each in found] == pytest.approx(left[1:].tolist())
    for each in found:
        assert each.distance == pytest.approx(((vectors[each.id] - turned) ** 2).sum(), rel=1e-3, abs=1e-4)


def test_hullft_chooses_among_the_nearest_and_repeats_in_a_row(retriever, query):
    vector = retriever.embedder.embed([OTHER])[0]
    pool = retriever.neighbours(OTHER, len(retriever))
    expected, _ = hull(vector, retriever.index.vectors([each.id for each in pool]), K)
    assert ids(retriever, "hullft", OTHER) == [pool[i].id for i in expected]
    assert len(set(expected)) > 1
    assert ids(retriever, "hullft", query) == [4] * K  # the text itself is there: nothing mixes better


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"itself"}))
def test_every_strategy_holds_to_what_runs_rely_on(retriever, query, strategy):
    value = {"distinct": ":0.9", "share": ":0.5", "shards-lost": ":3"}.get(strategy, "")
    meta = {"pile_set_name": "github", "source": "elsewhere"}
    texts = [(f"{query} and more {word}", meta) for word in WORDS[:3]]
    check_strategy(strategy + value, retriever, texts)


def test_what_does_not_hold_is_named(retriever, query, monkeypatch):
    seen = []

    def forgetful(selection, asked):
        seen.append(asked.text)
        return selection.retriever.neighbours(asked.text, asked.k + len(seen))[-asked.k :]

    bad = {
        "fewer": Rule("", lambda selection, asked: selection.retriever.neighbours(asked.text, asked.k)[1:]),
        "twice": Rule("", lambda selection, asked: [selection.document(3)] * asked.k),
        "memory": Rule("", forgetful),
        "certain": Rule(
            "", lambda selection, asked: selection.retriever.neighbours(asked.text, asked.k), uncertain=True
        ),
    }
    for name, rule in bad.items():
        monkeypatch.setitem(STRATEGIES, name, rule)
    texts = [(query + each, {}) for each in WORDS[:2]]
    said = {"fewer": "gave 4 documents where 5", "twice": "document 3 5 times", "itself": "number -1",
            "certain": "says .nan, nan", "memory": "other documents when it was asked again"}  # fmt: skip
    for name, message in said.items():
        with pytest.raises(ConformanceError, match=f"{name}.*{message}"):
            check_strategy(name, retriever, texts)
    with pytest.raises(ParameterError, match="must be one of"):
        check_strategy("nobody", retriever, texts)


def test_the_query_itself(retriever, query):
    found = Selection(retriever, "itself").neighbours(query, 3)
    assert [each.text for each in found] == [query] * 3 and found[0].id == -1


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("closest", "must be one of nearest"),
        ("distinct", "needs a value"),
        ("random:3", "takes no value"),
        ("share:0", "from 1e-09 to 1"),
        ("share:many", "from 1e-09 to 1"),
        ("shards-lost:30", "from 0 to 29"),
        ("sift:0", "from 1e-06 to 1e[+]06"),
        ("hullft:2", "takes no value"),
    ],
)
def test_a_bad_name_or_value_is_named(retriever, strategy, message):
    with pytest.raises(ValueError, match=message):
        Selection(retriever, strategy)


def test_too_few_documents_are_an_error(retriever, query):
    with pytest.raises(ValueError, match=r"only 10 of 100 documents qualify for share:0.1"):
        ids(retriever, "share:0.1", query, 11)
    with pytest.raises(ValueError, match="domain 'arxiv'"):
        ids(retriever, "random-domain", query, meta={"pile_set_name": "arxiv"})
    with pytest.raises(ValueError, match="at most 100"):
        ids(retriever, "random", query, 101)


def test_half_a_character_stops_no_strategy_that_does_not_embed_it(retriever):
    assert len(ids(retriever, "random", "half a \ud800", "3")) == 3


def test_each_strategy_has_a_fingerprint_of_its_own(retriever):
    named = [name if rule.value is None else f"{name}:1" for name, rule in STRATEGIES.items()]
    prints = {Selection(retriever, name).fingerprint for name in named}
    assert len(prints) == len(STRATEGIES)
