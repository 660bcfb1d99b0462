"""Adapters: what they compute, by hand, and that the model is what it was once they are dropped."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny import LAYERS, NEIGHBOURS, TEXT, WIDTH, tiny_gpt2
from torch.profiler import profile
from transformers import MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.pytorch_utils import Conv1D

from tttnn import memory
from tttnn.errors import DocumentError, ParameterError
from tttnn.methods.dynamic import Dynamic
from tttnn.models import load_model
from tttnn.models.lora import SCALE, adapter_size, adapters
from tttnn.scoring import score
from tttnn.ttt import TTT, Retrieved, Switches

RANK = 4
LORA = Switches(learning_rate=1e-2, max_length=32, lora=RANK)


def bits(ttt, ks=(0, 1, 2, 4)):
    return [step.score.bits_per_byte for step in ttt.adapt(TEXT, NEIGHBOURS, ks) if step.score]


def state(lm):
    """All of a model that adapters touch, and whether it trains."""
    modules = [(name, id(module), type(module), module.training) for name, module in lm.model.named_modules()]
    parameters = [(name, id(p), p.requires_grad, p.grad) for name, p in lm.model.named_parameters()]
    return modules, parameters, sorted(vars(lm.model)), lm.weight_hash(), lm.adapting


def layers(lm):
    return {name: module for name, module in lm.model.named_modules() if isinstance(module, LoraLayer)}


def matrices(layer):
    return layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()


def test_untrained_adapters_change_nothing_and_training_helps(lm):
    steps = list(TTT(lm, switches=LORA).adapt(TEXT, [NEIGHBOURS[0]] * 4, range(5)))
    assert steps[0].score == score(lm, TEXT)
    assert steps[4].loss < steps[1].loss
    assert steps[4].score.nats < steps[0].score.nats


def test_the_model_is_what_it_was_however_a_loop_ends(lm):
    before = state(lm)
    ttt = TTT(lm, switches=LORA)
    bits(ttt)
    assert state(lm) == before
    steps = ttt.adapt(TEXT, NEIGHBOURS, [4])
    next(steps), next(steps)
    assert layers(lm) and state(lm) != before
    steps.close()
    assert state(lm) == before
    with pytest.raises(DocumentError):
        list(ttt.adapt(TEXT, [*NEIGHBOURS[:3], "half a character: \ud800"], [4]))
    assert state(lm) == before


def test_the_model_is_what_it_was_when_adapters_cannot_be_put_in(gpt2, monkeypatch):
    before = state(gpt2)
    made = []

    def fails_at_the_third(self, *args, **kwargs):
        made.append(self)
        if len(made) == 3:
            raise MemoryError("of the third")

    monkeypatch.setattr(LoraLayer, "reset_lora_parameters", fails_at_the_third)
    with pytest.raises(MemoryError):
        next(TTT(gpt2, switches=LORA).adapt(TEXT, [], [0]))
    assert state(gpt2) == before


def test_an_architecture_that_the_library_cannot_adapt_is_refused_and_left_as_it_was():
    model = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=64, state_size=4))
    before = [(name, type(module)) for name, module in model.named_modules()]
    with (
        pytest.raises(ParameterError, match=r"^lora=2: no adapters for MambaForCausalLM .*give train"),
        adapters(model, 2, 0),
    ):
        pass
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_was_frozen_before_stays_frozen(tmp_path):
    lm = load_model(tiny_gpt2(tmp_path))
    lm.model.get_input_embeddings().weight.requires_grad_(False)
    before = state(lm)
    bits(TTT(lm, switches=LORA))
    assert state(lm) == before


def test_layers_with_an_adapter_in_an_adapter_are_put_back_too(tmp_path):
    """As peft has them in a mixture of experts, whose two weights share a module."""
    model = tiny_mixtral(tmp_path)
    modules, weights = dict(model.named_modules()), {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(2):
        with adapters(model, 2, seed=1) as trained:
            assert trained
        assert dict(model.named_modules()) == modules
        assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def tiny_mixtral(folder):
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def test_runs_repeat_and_leave_other_loops_and_random_numbers_alone(gpt2):
    full = Switches(learning_rate=1e-2, max_length=32)
    plain, random = bits(TTT(gpt2, switches=full)), torch.random.get_rng_state()
    ttt = TTT(gpt2, switches=LORA)
    first = bits(ttt)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert bits(ttt) == first == bits(TTT(gpt2, switches=LORA))
    assert bits(TTT(gpt2, switches=full)) == plain != first
    other = bits(TTT(gpt2, switches=replace(LORA, seed=1)))
    assert other[0] == first[0] and other[1:] != first[1:]


def test_trained_are_the_adapters_of_all_layers_but_the_head(gpt2):
    # c_attn 32 -> 96, c_proj 32 -> 32, c_fc 32 -> 128, c_proj 128 -> 32
    by_hand = RANK * LAYERS * WIDTH * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    with adapters(gpt2.model, RANK, seed=1) as trained:
        assert sum(p.numel() for p in trained) == by_hand
        assert [p.requires_grad for p in gpt2.model.parameters()].count(True) == len(trained) == 2 * 4 * LAYERS
    assert adapter_size(gpt2.model, RANK) == by_hand


def test_size_is_known_beforehand(lm):
    expected = adapter_size(lm.model, 3)
    with adapters(lm.model, 3, seed=1) as trained:
        assert sum(p.numel() for p in trained) == expected


@torch.no_grad()
def test_scores_are_those_of_weights_with_the_adapters_added(lm):
    """W + scale * B A, put into the plain model."""
    ttt = TTT(lm, switches=LORA)
    with ttt.session(), torch.enable_grad():
        ttt.update(lm.encode(NEIGHBOURS[0])[:32])
        adapted = score(lm, TEXT).bits_per_byte
        added = {name: SCALE * torch.mm(*matrices(layer)[::-1]) for name, layer in layers(lm).items()}
    before = score(lm, TEXT).bits_per_byte
    for name, product in added.items():  # (outside, inside)
        layer = lm.model.get_submodule(name)
        layer.weight += product.T if isinstance(layer, Conv1D) else product
    merged = score(lm, TEXT).bits_per_byte
    for name, product in added.items():
        layer = lm.model.get_submodule(name)
        layer.weight -= product.T if isinstance(layer, Conv1D) else product
    assert merged == pytest.approx(adapted, abs=1e-5)
    assert abs(adapted - before) > 1e-3


def test_the_first_step_moves_b_along_the_weights_gradient(gpt2):
    """B's gradient is scale * G A^T, with G the weight's; A's is zero while B is. AdamW's first step is its sign."""
    chunk = gpt2.encode(NEIGHBOURS[0])[:32]
    ids = torch.tensor([chunk])
    gpt2.model(ids, labels=ids).loss.backward()
    gradients = {name: p.grad for name, p in gpt2.model.named_parameters()}
    gpt2.model.zero_grad()
    ttt = TTT(gpt2, switches=replace(LORA, weight_decay=0.0))
    with ttt.session():
        before = {name: matrices(layer)[0].clone() for name, layer in layers(gpt2).items()}
        ttt.update(chunk)
        for name, layer in layers(gpt2).items():
            a, b = matrices(layer)
            expected = SCALE * gradients[f"{name}.weight"].T @ before[name].T  # (outside, rank)
            assert torch.equal(a, before[name])
            moved = expected.abs() > 1e-5  # far above AdamW's eps and rounding
            assert moved.float().mean() > 0.5
            assert torch.allclose(b[moved], -LORA.learning_rate * expected.sign()[moved], rtol=0.01)


@pytest.mark.usefixtures("onednn")
def test_all_products_go_through_onednn_and_none_is_for_a_frozen_weight(gpt2):
    ttt = TTT(gpt2, switches=LORA)
    with ttt.session(), profile() as profiled:
        ttt.update(gpt2.encode(NEIGHBOURS[0])[:32])
    counts = {event.key: event.count for event in profiled.key_averages()}
    count = 4 * LAYERS
    forward = 3 * count  # W, A, B
    backward = 2 * (count - 1) + 3 * count  # inputs of W and A, but not of the first layer's; of B its inputs; A and B
    assert counts["mkldnn::_linear_pointwise"] == forward + backward + 2  # logits, and the gradient of hidden states
    assert not counts.keys() & {"aten::addmm", "aten::mm", "aten::linear"}


def test_no_copy_of_the_weights_is_held_and_no_adapter_afterwards(tmp_path):
    lm = load_model(tiny_gpt2(tmp_path))
    with TTT(lm, switches=LORA).session():
        kept = [weakref.ref(p) for p in lm.model.parameters() if p.requires_grad]
    assert not lm.has_copy
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_memory_asked_for_is_the_adapters_and_one_copy_of_the_weights_for_all_loops(tmp_path, monkeypatch):
    lm, asked = load_model(tiny_gpt2(tmp_path)), []
    monkeypatch.setattr("tttnn.ttt.require", lambda name, numbers, *rest: asked.append(numbers))
    TTT(lm, switches=LORA)
    bits(TTT(lm))
    TTT(lm)
    weights = lm.parameters
    adapter = adapter_size(lm.model, RANK)
    assert asked == [memory.ADAPTING * adapter, memory.ADAPTING * weights, (memory.ADAPTING - 1) * weights]


def test_it_works_with_autocast_dropout_and_baselines(lm):
    plain = bits(TTT(lm, switches=LORA))
    assert bits(TTT(lm, switches=replace(LORA, precision="bfloat16"))) == pytest.approx(plain, rel=0.02)
    dropped = bits(TTT(lm, switches=replace(LORA, dropout=0.3)))
    assert dropped[0] == plain[0] and dropped[1:] != plain[1:]
    before = state(lm)
    zero, last = Dynamic(16).steps(TTT(lm, switches=LORA), Retrieved(TEXT, TEXT, (), 0.0), [4])
    assert zero.score == score(lm, TEXT) and 0 < last.score.nats != zero.score.nats
    assert state(lm) == before


def test_outside_a_session_there_is_no_optimizer(gpt2):
    ttt = TTT(gpt2, None, Switches(lora=2))
    with ttt.session():
        assert ttt.optimizer.param_groups[0]["params"]
    with pytest.raises(RuntimeError, match="inside a session only"):
        _ = ttt.optimizer


def test_a_second_loop_on_the_same_model_is_refused(gpt2):
    steps = TTT(gpt2, switches=LORA).adapt(TEXT, NEIGHBOURS, [4])
    next(steps)
    with pytest.raises(RuntimeError, match="unfinished"):
        next(TTT(gpt2).adapt(TEXT, [], [0]))
    steps.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lora": 0}, "lora=0: must be at least 1"),
        ({"lora": -1}, "lora=-1: must be at least 1"),
        ({"lora": 2.5}, "lora=2.5 .*: must be a whole number"),
        ({"lora": True}, "lora=True .*: must be a whole number"),
        ({"lora": 8, "keep_optimizer": True}, "lora=8 and keep_optimizer"),
        ({"lora": 8, "weights": "bfloat16"}, "lora=8 and weights='bfloat16'"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Switches(**bad)
