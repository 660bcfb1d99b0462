"""Which process gets which card, and what is done when one document, or one card, has not memory enough."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_experiment import DOCUMENTS, SWITCHES, FixedRetriever, timeless, ttt  # noqa: F401
from tiny import LINES, tiny_roberta

from tttnn.corpus import Document, write_jsonl
from tttnn.embedding import EmbeddingError, TransformerEmbedder
from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment import run
from tttnn.experiment.runner import side_by_side
from tttnn.memory import available, give_back
from tttnn.ray_cluster import ClusterError, gpus_for, own_card, start_workers
from tttnn.retrieval import open_retriever
from tttnn.together import Together
from tttnn.ttt import TTT

KS = [0, 1, 3]


@pytest.fixture
def ray(monkeypatch):
    """A cluster of two GPUs that starts nothing; it keeps what actors were asked to be given."""
    asked = []

    def remote(**options):
        asked.append(options)
        return lambda kind: SimpleNamespace(remote=lambda *arguments: (kind, *arguments))

    fake = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0}, remote=remote, asked=asked)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_each_worker_asks_for_a_card_of_its_own(ray):
    assert start_workers(list, [(1,), (2,)], "cuda:1") == [(list, 1), (list, 2)]
    assert start_workers(list, [(1,)] * 5) == [(list, 1)] * 5
    needs = [{name: options[name] for name in options if name.startswith("num_")} for options in ray.asked]
    assert needs == [{"num_gpus": 1, "num_cpus": 0}, {}]  # with {"num_gpus": 0} each would hold a CPU
    assert own_card("cuda:1") == "cuda" and own_card("cpu") == "cpu"


def test_more_workers_than_cards_are_refused_at_once(ray):
    with pytest.raises(ClusterError, match=r"device='cuda': 3 processes .* the cluster has 2"):
        start_workers(list, [()] * 3, "cuda")
    assert gpus_for("cuda", 2) == 1 and gpus_for("cpu", 99) == 0


def test_memory_that_torch_holds_of_a_card_and_does_not_use_is_free(monkeypatch):
    for name, value in {"memory_reserved": 70, "memory_allocated": 40, "mem_get_info": (5, 100)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert available("cuda") == 35


def test_torch_gives_a_card_s_memory_back(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    give_back("cpu")
    give_back(torch.device("cuda", 0))
    assert len(calls) == 1


def test_rows_of_documents_at_once_are_those_of_one_after_another(ttt, tmp_path):  # noqa: F811
    alone = run(ttt, DOCUMENTS, KS)
    rows = run(ttt, DOCUMENTS, KS, tmp_path, evaluate=side_by_side(3))
    pd.testing.assert_frame_equal(timeless(rows), timeless(alone), rtol=1e-4, check_dtype=False)


def test_one_document_without_memory_amid_its_steps_costs_no_other_one(ttt):  # noqa: F811
    alone, before, steps = run(ttt, DOCUMENTS[:3], KS), ttt.lm.weight_hash(), []
    second = alone[alone["document"] == 0]["steps"].sum() + 2  # of the second document, whose weights have changed

    def full(module, arguments):
        steps.extend([module] * torch.is_grad_enabled())
        if len(steps) == second and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    hook = ttt.lm.model.base_model.register_forward_pre_hook(full)
    try:
        rows = run(ttt, DOCUMENTS[:3], KS)
    finally:
        hook.remove()
    [failure] = rows[rows["document"] == 1]["failure"]
    assert "no memory" in failure and "give a smaller context, max_chunks or max_bytes" in failure
    others, expected = (timeless(each[each["document"] != 1]).reset_index(drop=True) for each in (rows, alone))
    pd.testing.assert_frame_equal(others, expected, check_dtype=False)
    assert ttt.lm.weight_hash() == before


class Choosy(FixedRetriever):
    def neighbours(self, text, k, meta=None):
        if text == DOCUMENTS[1].text:
            raise DocumentError("it has none")
        return super().neighbours(text, k)


def test_a_document_that_cannot_be_done_costs_no_other_of_its_group(ttt):  # noqa: F811
    rows = run(TTT(ttt.lm, Choosy(), SWITCHES), DOCUMENTS, KS, evaluate=side_by_side(2))
    assert rows[rows["failure"] != ""]["document"].tolist() == [1] and rows["document"].nunique() == 4


def test_a_group_that_does_not_fit_is_done_one_by_one(ttt, monkeypatch, caplog):  # noqa: F811
    def full(self, documents, ks):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Together, "adapt", full)
    rows = run(ttt, DOCUMENTS[:2], KS, evaluate=side_by_side(2))
    assert not rows["failure"].any() and "2 documents are done one by one: CUDA out of memory" in caplog.text


def test_a_baseline_is_not_done_for_several_at_once(ttt):  # noqa: F811
    with pytest.raises(ParameterError, match="documents_at_once=2, method='cache'"):
        list(side_by_side(2)(ttt, DOCUMENTS, KS, "cache"))


def test_batches_embedded_while_others_are_cut_are_the_same(tmp_path):
    embedder = TransformerEmbedder(tiny_roberta(tmp_path / "e"))
    batches = [list(LINES[:2]), list(LINES[2:])]
    expected = embedder.embed(LINES)
    for embedder._two_at_work in (False, True):
        np.testing.assert_allclose(np.concatenate(list(embedder.embed_batches(batches))), expected, atol=1e-6)
        with pytest.raises(EmbeddingError, match="text 0 of 1 is empty"):
            list(embedder.embed_batches([[""]]))


def test_type_and_batch_of_an_embedder_are_reached_from_the_retriever(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "a.train.jsonl", [Document(line, {}) for line in LINES])
    name = tiny_roberta(tmp_path / "e")
    single, half = (open_retriever(folder, name, dtype=each, batch_tokens=99) for each in ("float32", "bfloat16"))
    assert single.embedder.batch_tokens == 99 and single.embedder.fingerprint != half.embedder.fingerprint
    assert single.index.folder != half.index.folder
    with pytest.raises(EmbeddingError, match="dtype='bfloat16'"):
        open_retriever(folder, dtype="bfloat16")
