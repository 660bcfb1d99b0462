"""GPT-Neo's attention: the values and gradients of transformers' own, on texts below and above the local window."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from tiny import tiny_gpt_neo
from transformers import AutoModelForCausalLM

from tttnn.models import attention, gpt_neo, load_model
from tttnn.models.products import FAST_LAYERS_VARIABLE

pytestmark = pytest.mark.usefixtures("library")

WINDOW = 16  # of the tiny checkpoint, whose context is 64
LENGTHS = (WINDOW - 7, WINDOW, WINDOW + 1, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_gpt_neo(tmp_path_factory.mktemp("gpt_neo"))


@pytest.fixture(scope="module")
def own(folder):
    """As transformers has it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def neo(folder):
    return load_model(folder)


@pytest.fixture
def calls(monkeypatch):
    """Windows of the calls that were computed in blocks, of eight positions."""
    seen, real = [], gpt_neo.causal_attention
    for name in ("ONEDNN", "TORCH"):
        monkeypatch.setattr(attention, name, replace(getattr(attention, name), size=8, shortest=4))
    monkeypatch.setattr(attention, "_mask", cache(attention._mask.__wrapped__))

    def counted(queries, keys, values, scale, window):
        seen.append(window)
        return real(queries, keys, values, scale, window)

    monkeypatch.setattr(gpt_neo, "causal_attention", counted)
    return seen


def text(n):
    return torch.randint(384, (2, n), generator=torch.Generator().manual_seed(n))


def gradients(model, hidden):
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad(hidden, list(model.base_model.parameters()), upstream)


@pytest.mark.parametrize("n", LENGTHS)
def test_hidden_states_and_gradients_are_transformers_own(neo, own, calls, n):
    found, expected = neo.hidden(text(n)), own.transformer(text(n)).last_hidden_state
    assert calls == [WINDOW] * (n > WINDOW), "of the local layer alone, where its window leaves out a position"
    assert torch.allclose(found, expected, atol=1e-5)
    for one, other in zip(gradients(neo.model, found), gradients(own, expected), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_without_fast_layers_it_is_transformers_own_code(neo, own, calls, monkeypatch):
    monkeypatch.setenv(FAST_LAYERS_VARIABLE, "0")
    exact = copy.deepcopy(neo.model)  # its activation is computed in one operation there, too
    for module in exact.modules():
        if type(module) is gpt_neo.FastAttention:
            module.__class__ = gpt_neo.GPTNeoSelfAttention
    assert torch.equal(neo.hidden(text(64)), exact.transformer(text(64)).last_hidden_state) and not calls


def test_a_text_that_is_padded_keeps_its_mask(neo, own, calls):
    given = {"input_ids": text(20), "attention_mask": torch.ones(2, 20, dtype=torch.long)}
    given["attention_mask"][0, :5] = 0
    assert torch.allclose(neo.model(**given).logits[0, 5:], own(**given).logits[0, 5:], atol=1e-5) and not calls


def test_what_follows_a_text_is_the_same(neo, own):
    expected = own.generate(text(20)[:1], max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert neo.model.generate(text(20)[:1], max_new_tokens=8, do_sample=False, pad_token_id=0).equal(expected)


def test_dropout_and_bfloat16_products_are_left_to_it(neo, calls):
    with torch.autocast("cpu", torch.bfloat16):
        neo.hidden(text(20))
    for module in neo.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    neo.model.train()
    assert not torch.equal(neo.hidden(text(20)), neo.hidden(text(20))) and not calls
