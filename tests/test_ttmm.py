"""Test-time model merging: one cluster is one LoRA, shares by hand, and a folder that goes on after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_retrieval import documents
from tiny import tiny_gpt2, tiny_qwen2

from tttnn.corpus import open_corpus, write_jsonl
from tttnn.embedding import EmbeddingError
from tttnn.errors import ParameterError
from tttnn.experiment import draw_documents, run
from tttnn.files import read_json
from tttnn.methods import find_method, ttmm
from tttnn.methods.ttmm import build, merged
from tttnn.models import load_model
from tttnn.models.lora import adapter_size
from tttnn.retrieval import open_retriever
from tttnn.ttt import TTT, Retrieved, Switches

SWITCHES = Switches(learning_rate=1e-2, max_length=32, max_chunks=1, lora=2)


def small_corpus(place):
    for domain, seed in (("europarl", 1), ("github", 2)):
        write_jsonl(place / f"{domain}.train.jsonl", documents(domain, 12, seed))
        write_jsonl(place / f"{domain}.test.jsonl", documents(domain, 2, seed + 10))
    return open_corpus(place)


def small_retriever(place):
    """Of 24 documents, with an index in a home of its own."""
    (place / "corpus").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(place / "index"))
        return open_retriever(small_corpus(place / "corpus"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ttmm")


@pytest.fixture(scope="module")
def retriever(place):
    return small_retriever(place)


@pytest.fixture(scope="module")
def drawn(place, retriever):
    return draw_documents(open_corpus(place / "corpus"), 1, 1)


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_qwen2])
def lm(request, tmp_path_factory):
    return load_model(request.param(tmp_path_factory.mktemp("model")))


@pytest.fixture
def ttt(lm, retriever, tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    return TTT(lm, retriever, SWITCHES)


@pytest.fixture
def text(drawn):
    return drawn[0].text


def scores(ttt, method, text, ks=(0, 1, 2)):
    steps = find_method(method).steps(ttt, Retrieved(text, text, (), 0.0), ks)
    return {step.k: step.score.nats for step in steps}


def test_one_cluster_is_one_lora(ttt, text):
    """Trained on the same documents in the same order: adapters beside the weights, or added to them."""
    place = build(ttt, find_method("ttmm:1"))
    order = np.random.default_rng([SWITCHES.seed, 0]).permutation(np.arange(24))
    neighbours = [ttt.retriever.store[each].text for each in order.tolist()]
    plain, *_, last = list(ttt.adapt(text, neighbours, [0, 24]))
    found = scores(ttt, "ttmm:1", text, [0, 1, 5])
    assert found[0] == plain.score.nats
    assert found[1] == found[5] == pytest.approx(last.score.nats, rel=1e-5)
    assert abs(found[1] - found[0]) > 1e-3 * found[0]
    cost = read_json(place / ttmm.RECORD)["offline"]
    assert cost["tokens"] == sum(step.tokens for step in ttt.adapt(text, neighbours, [24]))
    weights, adapter = ttt.lm.parameters, adapter_size(ttt.lm.model, 2)
    assert cost["operations"] == (4 * (weights + adapter) + 2 * adapter) * cost["tokens"] and cost["seconds"] > 0


def test_shares_are_a_softmax_over_the_nearest(ttt, text):
    place = build(ttt, find_method("ttmm:3,0.5"))
    [vector] = ttt.retriever.embedder.embed([text])
    centroids = ttmm._centroids(place)
    similar = centroids @ (vector / np.linalg.norm(vector))
    near, shares = find_method("ttmm:3,0.5")._nearest(ttt, place, text, 2)
    assert near == np.argsort(-similar)[:2].tolist()
    expected = np.exp(similar[near] / 0.5)
    assert shares == pytest.approx((expected / expected.sum()).tolist(), rel=1e-5)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(3), rel=1e-5)


def test_merging_adds_each_expert_by_its_share(ttt, text):
    place = build(ttt, find_method("ttmm:2"))
    before = ttt.lm.weight_hash()
    experts = [ttmm._expert(place, each) for each in (0, 1)]
    name = next(iter(experts[0])).removesuffix(".A").removesuffix(".B")
    weight = ttt.lm.model.get_submodule(name).weight
    kept = weight.detach().clone()
    with merged(ttt.lm, experts, [0.3, 0.7]) as operations:
        change = weight - kept
        assert operations > 0
        with pytest.raises(RuntimeError, match="unfinished"):
            next(ttt.adapt(text, [], [0]))
    by_hand = sum(
        share * 2 * each[f"{name}.B"] @ each[f"{name}.A"] for share, each in zip((0.3, 0.7), experts, strict=True)
    )
    by_hand = by_hand if by_hand.shape == change.shape and not isinstance_conv(ttt, name) else by_hand.T
    assert torch.allclose(change, by_hand, atol=1e-6) and by_hand.abs().max() > 0
    assert ttt.lm.weight_hash() == before and not ttt.lm.adapting


def isinstance_conv(ttt, name):
    return type(ttt.lm.model.get_submodule(name)).__name__ == "Conv1D"


def test_a_killed_build_goes_on_with_the_next_cluster(ttt, text, monkeypatch):
    method = find_method("ttmm:3")
    monkeypatch.setattr(ttmm.log, "info", lambda message, number, *rest: 1 / (number - 2))  # after the second
    with pytest.raises(ZeroDivisionError):
        build(ttt, method)
    with pytest.raises(ParameterError, match="train them once: python -m tttnn ttmm build --clusters 3 --lora 2"):
        scores(ttt, "ttmm:3", text)
    trained = []
    monkeypatch.setattr(ttmm.log, "info", lambda message, number, *rest: trained.append(number))
    place = build(ttt, method)
    assert trained == [3]
    assert sum(each["documents"] for each in read_json(place / ttmm.RECORD)["clusters"]) == 24
    goes_on = scores(ttt, "ttmm:3", text)
    monkeypatch.setenv("TTTNN_HOME", str(place.parents[1] / "again"))
    build(ttt, method)
    assert scores(ttt, "ttmm:3", text) == goes_on
    assert build(ttt, method) and trained == [3, 1, 2, 3]


def test_fewer_documents_are_drawn_and_another_rate_or_config_has_other_experts(ttt, monkeypatch):
    few = build(ttt, find_method("ttmm:2,0.04,5"))
    assert [each["documents"] for each in read_json(few / ttmm.RECORD)["clusters"]] == [5, 5]
    other = TTT(ttt.lm, ttt.retriever, Switches(learning_rate=2e-2, max_length=32, max_chunks=1, lora=2))
    method = find_method("ttmm:2,0.04,5")
    assert method.folder(other.lm, other.retriever, other.switches) != few
    with monkeypatch.context() as patch:
        patch.setattr(type(ttt.lm), "config_hash", lambda lm: "another")
        assert method.folder(ttt.lm, ttt.retriever, ttt.switches) != few
    assert find_method("ttmm:2,1,5").folder(ttt.lm, ttt.retriever, ttt.switches) == few  # a temperature trains nothing


def test_rows_know_the_offline_cost_and_no_retrieval(ttt, drawn, tmp_path):
    with pytest.raises(ParameterError, match=r"^method='ttmm:2': clusters=2: their experts are not in"):
        run(ttt, drawn, [0, 2], method="ttmm:2")
    place = build(ttt, find_method("ttmm:2"))
    rows = run(ttt, drawn, [0, 1, 2], tmp_path / "rows", method="ttmm:2")
    assert not rows["failure"].any() and not rows["retrieval_seconds"].any() and rows["neighbour"].isna().all()
    assert read_json(tmp_path / "rows" / "run.json")["about"]["offline"] == read_json(place / ttmm.RECORD)["offline"]


def test_a_document_without_a_vector_is_its_own_failure(ttt, drawn, monkeypatch):
    build(ttt, find_method("ttmm:2"))
    lost, embed = drawn[0].text, ttt.retriever.embedder.embed

    def without(texts, *rest):
        if lost in texts:
            raise EmbeddingError("text 0 of 1 has no token, so it has no vector: leave it out")
        return embed(texts, *rest)

    monkeypatch.setattr(ttt.retriever.embedder, "embed", without)
    rows = run(ttt, drawn, [0, 2], method="ttmm:2")
    assert [bool(failure) for failure in rows["failure"]] == [True, False, False]
    assert rows["failure"].str.contains("has no vector").sum() == 1


def test_what_cannot_be_built_is_said(ttt):
    with pytest.raises(ParameterError, match="clusters=25: the corpus has 24 documents"):
        build(ttt, find_method("ttmm:25"))
    for broken in (TTT(ttt.lm, None, SWITCHES), TTT(ttt.lm, ttt.retriever, Switches())):
        with pytest.raises(
            ParameterError, match=r"and lora .*, as --lora 8; train them once: .*--clusters \d+ --lora 8"
        ):
            build(broken, find_method("ttmm:2"))


@pytest.mark.parametrize("other", [{"loss": "suffix"}, {"reuse": 2}, {"split_query": True}])
def test_experts_are_told_apart_by_all_that_trained_them(ttt, other):
    """A folder's name does not hold these, so that others' experts would be taken for the plain ones."""
    [name] = other
    with pytest.raises(ParameterError, match=f"^{name}: experts are trained on all of a document"):
        build(TTT(ttt.lm, ttt.retriever, replace(SWITCHES, **other)), find_method("ttmm:2"))


def test_damaged_experts_are_named(ttt, text):
    place = build(ttt, find_method("ttmm:1"))
    (place / "0.safetensors").write_bytes(b"half a file")
    with pytest.raises(ParameterError, match=r"0.safetensors: damaged or gone .* build the experts again"):
        scores(ttt, "ttmm:1", text)
