"""A large model's memory is estimated before it is loaded; where it does not fit, the error says what to do."""

import ctypes
import logging
import shutil

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_gpt2, tiny_roberta

import tttnn.memory as memory
from tttnn import TTT, load_model
from tttnn.embedding import TransformerEmbedder
from tttnn.memory import ADAPTING, LOADING, NUMBER, NotEnoughMemory, available, keep_freed, parameter_count
from tttnn.models import REGISTRY


@pytest.fixture
def folder(tmp_path):
    return tiny_gpt2(tmp_path / "tiny")


def pretend(monkeypatch, free, large=1):
    monkeypatch.setattr(memory, "LARGE", large)
    monkeypatch.setattr(memory, "available", lambda device: free)


def test_parameters_are_counted_from_the_headers_alone(folder):
    weights = sum(parameter.numel() for parameter in load_model(folder).model.parameters())
    assert parameter_count(folder) == weights
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert parameter_count(folder) == 0


def test_shards_are_added_up(folder):
    lm = load_model(folder)
    lm.model.save_pretrained(folder / "sharded", max_shard_size="50KB")
    assert (folder / "sharded" / "model.safetensors.index.json").is_file()
    assert parameter_count(folder / "sharded") == parameter_count(folder)


def test_weights_that_lie_twice_in_a_folder_count_once(folder):
    once, path = parameter_count(folder), folder / "model.safetensors"
    shutil.copy(path, folder / "consolidated.safetensors")
    save_file({"lora_A.weight": torch.ones(9, 9)}, folder / "adapter_model.safetensors")
    weights = load_file(path)
    tied = {"lm_head.weight": weights["transformer.wte.weight"].clone(), "transformer.h.0.attn.bias": torch.ones(8, 8)}
    save_file(weights | tied, path, {"format": "pt"})
    assert parameter_count(folder) == once
    save_file(weights | {"lm_head.weight": weights["transformer.wte.weight"] + 1}, path, {"format": "pt"})
    assert parameter_count(folder) == once + weights["transformer.wte.weight"].numel(), "a head of its own"


def test_of_shards_those_count_that_the_index_lists(folder):
    load_model(folder).model.save_pretrained(folder / "sharded", max_shard_size="50KB")
    shutil.copy(folder / "model.safetensors", folder / "sharded" / "consolidated.safetensors")
    assert parameter_count(folder / "sharded") == parameter_count(folder)
    (folder / "sharded" / "model.safetensors.index.json").write_text("[]")
    assert parameter_count(folder / "sharded") == 0


@pytest.mark.parametrize(
    ("version", "controllers"), [(("memory.max", "memory.current", "inactive_file"), ""),
    (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), "memory")],
)  # fmt: skip
@pytest.mark.parametrize("seen_as", ["/docker/abc", "/"])
def test_a_container_s_limit_is_seen(tmp_path, version, controllers, seen_as):
    """The nearest limit holds, pages of files are given back, and a container may see its group as the root."""
    root, groups = tmp_path / "cgroup", tmp_path / "own"
    groups.write_text(f"3:cpu:/elsewhere\n1:{controllers}:{seen_as}\n")
    top = root / controllers
    for folder, limit in ((top, 900), (top / seen_as.lstrip("/") / "inner", 10)):  # inner is not ours
        folder.mkdir(parents=True, exist_ok=True)
        (folder / version[0]).write_text(f"{limit}\n")
        (folder / version[1]).write_text("500\n")
        (folder / "memory.stat").write_text(f"cache 7\n{version[2]} 100\n")
    assert memory._left_by_groups(groups, root) == [900 - 500 + 100]
    (top / version[0]).write_text("max\n")
    assert memory._left_by_groups(groups, root) == []
    assert memory._left_by_groups(tmp_path / "none", root) == []


def test_a_limit_bounds_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_left_by_groups", lambda: [5 * 10**6])
    monkeypatch.setattr(memory, "_held_by_malloc", lambda: 7)
    assert available() == 5 * 10**6 + 7


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc of 2.33")
def test_memory_that_malloc_holds_free_is_free():
    try:
        keep_freed()
        before = available()
        block = np.ones(5 * 10**8, np.uint8)
        del block
        assert before - available() < 2 * 10**8
    finally:
        keep_freed(False)


@pytest.mark.parametrize(("device", "variable", "asked"), [
    ("cpu", "1", [(), (False,)]), ("cpu", "0", []), ("cuda", "1", []), ("cpu", None, [(), (False,)]),
])  # fmt: skip
def test_freed_memory_is_kept_until_the_outermost_session_ends(monkeypatch, device, variable, asked):
    calls = []
    monkeypatch.setattr(memory, "keep_freed", lambda *keep: calls.append(keep))
    monkeypatch.delenv("TTTNN_KEEP_FREED", raising=False)
    if variable:
        monkeypatch.setenv("TTTNN_KEEP_FREED", variable)
    with pytest.raises(KeyError), memory.keeping_freed(device):
        with memory.keeping_freed(device):
            assert calls == asked[:1]
        assert calls == asked[:1]
        raise KeyError
    assert calls == asked


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_kept_goes_back_when_the_session_ends():
    process = psutil.Process()
    with memory.keeping_freed():
        block, rest = np.ones(2**28, np.uint8), np.ones(2**20, np.uint8)  # the rest lies behind the block
        del block
        kept = process.memory_info().rss
    assert process.memory_info().rss < kept - 0.9 * 2**28 and rest.all()


def test_free_memory_is_known_on_this_machine():
    assert 0 < available("cpu") < 2**50


def test_small_models_say_nothing(folder, caplog):
    load_model(folder)
    assert not [record for record in caplog.records if record.name == "tttnn.memory"]


def test_large_models_say_what_they_take_before_they_are_loaded(folder, monkeypatch, caplog):
    pretend(monkeypatch, free=10**12)
    with caplog.at_level(logging.WARNING, "tttnn.memory"):
        load_model(folder)
    (record,) = [record for record in caplog.records if record.name == "tttnn.memory"]
    assert f"{parameter_count(folder):,} parameters" in record.message and "1000.0 GB" in record.message


def test_estimates_of_the_published_models_agree_with_the_known_ones():
    """GPT-2, large, Neo and R1-Qwen adapt in 2.5, 15.5, 26 and 36 GB: five numbers a weight."""
    names = ("gpt2", "gpt2-large", "EleutherAI/gpt-neo-1.3B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    estimates = [(LOADING + ADAPTING) * NUMBER * REGISTRY[name].parameters / 1e9 for name in names]
    assert estimates == pytest.approx([2.5, 15.5, 26.3, 35.5], abs=0.1)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(folder, monkeypatch):
    pretend(monkeypatch, free=NUMBER * parameter_count(folder) - 1)
    monkeypatch.setattr("tttnn.models.language_model.load", lambda source: pytest.fail("the weights were read"))
    with pytest.raises(NotEnoughMemory, match=r"needed to load it.*smaller model") as refused:
        load_model(folder)
    assert "tiny" in str(refused.value)


def test_a_registry_model_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    monkeypatch.setattr("tttnn.models.language_model.cached_folder", lambda name: None)
    monkeypatch.setattr("tttnn.models.language_model.load", lambda source: pytest.fail("the weights were fetched"))
    with pytest.raises(NotEnoughMemory, match=r"EleutherAI/gpt-neo-1\.3B: 5\.3 GB"):
        load_model("EleutherAI/gpt-neo-1.3B")


def test_a_model_that_can_be_scored_but_not_adapted_is_refused_by_the_loop(folder, monkeypatch):
    free = NUMBER * parameter_count(folder)
    pretend(monkeypatch, free)
    lm = load_model(folder)
    with pytest.raises(NotEnoughMemory, match="needed to adapt it"):
        TTT(lm)
    pretend(monkeypatch, 4 * free)
    assert TTT(lm)


def test_an_embedder_needs_its_weights_alone(tmp_path, monkeypatch, caplog):
    folder = tiny_roberta(tmp_path / "roberta")
    pretend(monkeypatch, free=10**12)
    TransformerEmbedder(folder)
    assert "adapt" not in caplog.text and "to load and run it" in caplog.text
    pretend(monkeypatch, free=10)
    with pytest.raises(NotEnoughMemory, match="roberta"):
        TransformerEmbedder(folder)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept_while_asked_for():
    process = psutil.Process()

    def growth_after_freeing_a_large_block():
        block = np.ones(2**26, np.uint8)
        held = process.memory_info().rss
        del block
        return process.memory_info().rss - held

    try:
        keep_freed()
        growth_after_freeing_a_large_block()
        assert growth_after_freeing_a_large_block() > -0.1 * 2**26
    finally:
        keep_freed(False)
    assert growth_after_freeing_a_large_block() < -0.9 * 2**26
