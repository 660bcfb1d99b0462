"""Models load by name, folder or hub name, in float32, and errors say what to do."""

import json

import pytest
import torch
from tiny import tiny_gpt2, tiny_gpt_neo, tiny_qwen2
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation

from tttnn.errors import TTTNNError
from tttnn.models import (
    CHECKPOINTS,
    REGISTRY,
    ModelError,
    cross_entropy,
    load_model,
    mean_cross_entropy,
    products,
    token_nats,
)

EMBEDDED = [entry.name for entry in REGISTRY.values() if entry.embedded]


@pytest.mark.parametrize("maker", [tiny_gpt2, tiny_gpt_neo, tiny_qwen2])
def test_any_folder_in_hub_format_loads(maker, tmp_path):
    lm = load_model(maker(tmp_path))
    assert lm.settings.context == 64 and lm.settings.max_length == 64
    assert all(p.dtype == torch.float32 for p in lm.model.parameters())
    assert lm.tokenizer.decode(lm.encode("Grüße, 世界!")) == "Grüße, 世界!"


def test_bf16_checkpoints_get_float32_master_weights(tmp_path):
    lm = load_model(tiny_gpt2(tmp_path / "a"))
    lm.model.to(torch.bfloat16).save_pretrained(tmp_path / "b")
    lm.tokenizer.save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b")
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("maker", [tiny_gpt2, tiny_gpt_neo, tiny_qwen2])
def test_a_continuation_takes_the_likeliest_token_each_time(maker, tmp_path):
    lm, text = load_model(maker(tmp_path)), "The quick brown fox"
    lm.model.generation_config.update(repetition_penalty=9.0, no_repeat_ngram_size=2, temperature=2.0)  # not asked for
    ids = lm.encode(text)
    for _ in range(5):
        ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    wanted = lm.tokenizer.decode(ids[-5:], skip_special_tokens=True)
    assert lm.continuation(text, 5) == wanted == lm.continuation(text, 5)


def test_a_continuation_follows_the_present_weights_and_long_texts_lose_their_beginning(tmp_path):
    lm = load_model(tiny_gpt2(tmp_path))
    long = "The quick brown fox jumps over the lazy dog. " * 20
    assert lm.continuation(long, 4) == lm.continuation("and more, " * 9 + long, 4)
    first = lm.continuation(long, 4)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.neg_()
    assert lm.continuation(long, 4) != first


@pytest.mark.parametrize(("text", "tokens"), [("", 4), ("fox", 0), ("fox", 64), ("fox", "many")])
def test_a_continuation_of_nothing_or_without_room_is_refused(text, tokens, tmp_path):
    with pytest.raises(TTTNNError, match=r"empty text|tokens="):
        load_model(tiny_gpt2(tmp_path)).continuation(text, tokens)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_checkpoints_are_small_safetensors_with_a_card(name):
    folder = CHECKPOINTS / name
    assert (folder / "README.md").is_file()
    assert (folder / "model.safetensors").stat().st_size < 45 * 2**20
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    lm = load_model(name)
    assert sum(p.numel() for p in lm.model.parameters()) == REGISTRY[name].parameters
    assert lm.settings.context == 512


@pytest.mark.parametrize("name", [name for name in EMBEDDED if (CHECKPOINTS / name / "sweep.json").is_file()])
def test_learning_rate_is_the_best_of_a_sweep_of_these_weights_on_validation_documents(name):
    sweep = json.loads((CHECKPOINTS / name / "sweep.json").read_text())
    ratios = sweep["ratio_to_k0"]
    assert REGISTRY[name].settings.learning_rate == float(min(ratios, key=lambda rate: ratios[rate]["20"]))
    assert sweep["split"] == "val" and load_model(name).weight_hash() == sweep["weights"]
    card = (CHECKPOINTS / name / "README.md").read_text(encoding="utf-8").replace("**", "")
    for rate, row in ratios.items():
        cells = [f"{row[k]:.4f}" for k in ("1", "2", "5", "10", "20")]
        assert f"| {float(rate)} | {' | '.join(cells)} |" in card


def test_the_report_s_models_are_told_from_ours():
    assert {entry.name for entry in REGISTRY.values() if entry.of_report} == {
        "gpt2", "gpt2-large", "EleutherAI/gpt-neo-1.3B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    }  # fmt: skip


def test_registry_holds_the_report_settings():
    assert REGISTRY["gpt2"].settings.learning_rate == 2e-5
    assert REGISTRY["EleutherAI/gpt-neo-1.3B"].settings.max_length == 2048
    assert REGISTRY["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"].settings.learning_rate == 5e-6


def test_unknown_name_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"cannot load model 'gpt2-xs-genral'(.|\n)*gpt2-xs-general"):
        load_model("gpt2-xs-genral")


def test_missing_folder_and_missing_weights_name_the_path(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path / "nowhere")
    folder = tiny_gpt2(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load model"):
        load_model(folder)


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_gpt2(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_model(folder)


def test_truncated_and_incomplete_weights_are_refused(tmp_path):
    from safetensors.torch import load, save_file

    folder = tiny_gpt2(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    weights = load(whole)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load model"):
        load_model(folder)
    save_file({name: w for name, w in weights.items() if "h.1.mlp" not in name}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="weights are missing"):
        load_model(folder)


def test_context_beyond_the_model_is_refused(tmp_path):
    folder = tiny_gpt2(tmp_path)
    assert load_model(folder, context=16).settings.context == 16
    with pytest.raises(ModelError, match="context=65"):
        load_model(folder, context=65)


def test_tokenizer_of_another_model_is_refused(tmp_path):
    folder = tiny_gpt2(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    other = load_model(folder)
    config["vocab_size"] = 50
    other.model.resize_token_embeddings(50)
    other.model.save_pretrained(folder)
    with pytest.raises(ModelError, match="wrong tokenizer"):
        load_model(folder).encode("The quick brown fox jumps over the lazy dog")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("block", "logits"), [(90, 1), (32, 1), (90, 90 * 700)])
def test_sliced_cross_entropy_equals_the_library(monkeypatch, bias, dtype, tolerance, block, logits):
    monkeypatch.setattr(cross_entropy, "BLOCK", block)
    monkeypatch.setattr(cross_entropy, "LOGITS", logits)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 16, generator=generator, requires_grad=True)
    weight = torch.randn(90, 16, generator=generator, requires_grad=True)
    offset = torch.randn(90, generator=generator, requires_grad=True) if bias else None
    targets = torch.randint(0, 90, (700,), generator=generator)
    inputs = [t for t in (hidden, weight, offset) if t is not None]
    expected = torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight, offset), targets)
    ours = mean_cross_entropy(hidden, weight, offset, targets, dtype)
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance / 10, rtol=tolerance * 10)
    torch.testing.assert_close(token_nats(hidden, weight, offset, targets).mean(), expected)


@pytest.mark.parametrize(("logits", "slices"), [(1, [512, 188]), (90 * 600, [600, 100])])
def test_slices_are_longer_where_the_vocabulary_is_small(monkeypatch, logits, slices):
    monkeypatch.setattr(cross_entropy, "LOGITS", logits)
    seen, real = [], cross_entropy._logits
    monkeypatch.setattr(cross_entropy, "_logits", lambda h, *rest: [seen.append(len(h)), real(h, *rest)][1])
    token_nats(torch.randn(700, 16), torch.randn(90, 16), None, torch.zeros(700, dtype=torch.int64))
    assert seen == slices


@pytest.mark.parametrize("entries", [90, 96, 1024])
@pytest.mark.parametrize("bias", [False, True])
def test_rows_of_logits_are_longer_than_the_vocabulary_by_what_is_impossible(monkeypatch, entries, bias):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    hidden, weight = torch.randn(5, 16), torch.randn(entries, 16)
    offset = torch.randn(entries) if bias else None
    logits = cross_entropy._logits(hidden, weight, offset)
    torch.testing.assert_close(logits[:, :entries], torch.nn.functional.linear(hidden, weight, offset))
    assert 0 < logits.shape[1] - entries <= cross_entropy.LINE and logits.shape[1] % cross_entropy.LINE == 0
    assert (logits[:, entries:] == -torch.inf).all()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("count", [650, 500])
def test_states_without_a_target_have_no_part_in_the_cross_entropy(monkeypatch, count):
    """With 500 targets nothing is predicted in the whole second slice."""
    monkeypatch.setattr(cross_entropy, "LOGITS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 16, generator=generator, requires_grad=True)
    weight = torch.randn(90, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 90, (count,), generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden[:count] @ weight.T, targets)
    ours = mean_cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(loss, [hidden, weight]) for loss in (ours, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.usefixtures("onednn")
def test_a_head_whose_rows_collide_in_the_cache_has_the_same_gradients(monkeypatch):
    hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(90, 16, requires_grad=True)
    alone = mean_cross_entropy(hidden, weight, None, torch.arange(9))
    monkeypatch.setattr(products, "ROWS", 1)
    monkeypatch.setattr(products, "ALIKE", 1)
    assert products.apart(weight.T, 9).shape == (16 + products.GAP, 90)
    apart = mean_cross_entropy(hidden, weight, None, torch.arange(9))
    gradients = [torch.autograd.grad(loss, [hidden, weight]) for loss in (apart, alone)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.usefixtures("library")
def test_gradients_of_the_cross_entropy_are_scaled_and_given_away_once():
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    loss = 3 * mean_cross_entropy(hidden, weight, None, torch.arange(5))
    expected = 3 * torch.nn.functional.cross_entropy(hidden @ weight.T, torch.arange(5))
    wanted = torch.autograd.grad(expected, [hidden, weight])
    for mine, theirs in zip(torch.autograd.grad(loss, [hidden, weight], retain_graph=True), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(AttributeError, match="gradients"):
        loss.backward()


@pytest.mark.usefixtures("library")
def test_sliced_cross_entropy_of_tokens_that_are_all_but_impossible():
    hidden, targets = torch.tensor([[200.0], [-200.0], [0.0]]), torch.tensor([1, 1, 1])
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    ours = mean_cross_entropy(hidden, weight, None, targets)
    assert expected > 100, "exp(-400) is 0 in float32"
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_gpt_neo])
def test_the_fused_activation_gives_the_library_s_logits(tmp_path, make):
    folder = make(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = load_model(folder).model
    kinds = [type(module) for model in (plain, ours) for module in model.modules()]
    assert kinds.count(NewGELUActivation) == kinds.count(torch.nn.GELU) == 2
    ids = torch.arange(40)[None]
    torch.testing.assert_close(ours(ids).logits, plain(ids).logits, atol=1e-6, rtol=1e-5)


def test_a_folder_below_the_home_of_nobody_is_none():
    with pytest.raises(ModelError, match="no such folder"):
        load_model("~nobody-of-this-name/model")
