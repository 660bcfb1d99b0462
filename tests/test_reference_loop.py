"""The loop gives the scores of bench/reference_loop.py, which does as published and shares no step with it."""

import sys
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny import MAKERS
from transformers import AutoModelForCausalLM, AutoTokenizer

from tttnn.models import attention, gpt_neo, layers, load_model
from tttnn.ttt import TTT, Switches

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from reference_loop import Settings, reference_loop, set_dropout

LINE = "def mean(values):\n    return sum(values) / len(values)\n"
LENGTH, CONTEXT = 32, 48  # tokens of a chunk, and of a scored window
SETTINGS = Settings(learning_rate=1e-2, max_length=LENGTH, context=CONTEXT, dropout=0)
SWITCHES = Switches(learning_rate=1e-2, max_length=LENGTH, context=CONTEXT, prefix="eos")  # as published


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def lm(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def text(lm):
    """Longer than a window, and not a whole number of them."""
    return lm.tokenizer.decode(lm.encode(LINE * 8)[: 2 * CONTEXT + 7])


@pytest.fixture(scope="module")
def neighbours(lm):
    """Shorter than a chunk, whole chunks, a last chunk of one token, several chunks and a rest."""
    sizes = (LENGTH - 5, 2 * LENGTH, LENGTH + 1, 3 * LENGTH + 9)
    tokens = lm.encode(LINE * 12)
    return [lm.tokenizer.decode(tokens[i : i + size]) for i, size in enumerate(sizes)]


def reference(folder, text, neighbours, settings=SETTINGS):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return list(reference_loop(model, AutoTokenizer.from_pretrained(folder), text, neighbours, settings))


def ours(lm, text, neighbours, switches=SWITCHES):
    return list(TTT(lm, switches=switches).adapt(text, neighbours, range(len(neighbours) + 1)))


def bits(steps):
    return [step.score.bits_per_byte for step in steps]


def published_bits(steps):
    return [step.bits_per_byte for step in steps]


def test_the_cases_are_those_that_matter(lm, text, neighbours):
    assert len(lm.encode(text)) > 2 * CONTEXT
    steps = ours(lm, text, neighbours)[1:]
    assert [(len(step.losses), step.skipped) for step in steps] == [(1, 0), (2, 0), (1, 1), (4, 0)]


@pytest.mark.parametrize("max_chunks", [None, 1])
def test_float32_gives_the_published_score_at_every_k(folder, lm, text, neighbours, max_chunks):
    plain = reference(folder, text, neighbours, replace(SETTINGS, max_chunks=max_chunks))
    fast = ours(lm, text, neighbours, replace(SWITCHES, max_chunks=max_chunks))
    assert [step.k for step in plain] == [0, 1, 2, 3, 4]
    assert bits(fast) == pytest.approx(published_bits(plain), abs=1e-4)
    assert bits(fast)[-1] < bits(fast)[0] - 0.5, "the steps are large enough to tell a wrong one"
    assert [step.tokens for step in fast] == [step.tokens for step in plain]


def test_either_library_and_attention_in_blocks_give_the_same_scores(
    folder, lm, text, neighbours, library, monkeypatch
):
    plain = published_bits(reference(folder, text, neighbours))
    calls, real = [], layers.causal_attention
    for name in ("ONEDNN", "TORCH"):
        monkeypatch.setattr(attention, name, replace(getattr(attention, name), size=8, shortest=4))
    for module in (layers, gpt_neo):
        monkeypatch.setattr(module, "causal_attention", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr(attention, "_mask", cache(attention._mask.__wrapped__))
    assert bits(ours(lm, text, neighbours)) == pytest.approx(plain, abs=1e-4)
    assert calls


@pytest.mark.parametrize("folder", ["gpt2", "qwen2"], indirect=True)
def test_bfloat16_products_move_a_score_by_at_most_two_hundredths_of_a_bit(folder, lm, text, neighbours):
    exact = published_bits(reference(folder, text, neighbours))
    rounded = bits(ours(lm, text, neighbours, replace(SWITCHES, precision="bfloat16")))
    assert rounded[0] == pytest.approx(exact[0], abs=1e-4)
    assert rounded[1:] != pytest.approx(exact[1:], abs=1e-6)
    assert rounded == pytest.approx(exact, abs=0.02)


def test_the_reference_restores_its_weights_also_when_it_is_dropped(folder, lm, text, neighbours):
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    steps = reference_loop(lm.model, lm.tokenizer, text, neighbours, SETTINGS)
    list(islice(steps, 2))
    assert any(not torch.equal(before[name], value) for name, value in lm.model.state_dict().items())
    steps.close()
    assert all(torch.equal(before[name], value) for name, value in lm.model.state_dict().items())
    assert not lm.model.training


def test_the_reference_trains_with_dropout_and_scores_without(folder, text, neighbours):
    dropped = published_bits(reference(folder, text, neighbours, replace(SETTINGS, dropout=0.3)))
    exact = published_bits(reference(folder, text, neighbours))
    assert dropped[0] == exact[0] and dropped[1] != exact[1]


def test_dropout_reaches_every_architecture(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    ids = torch.arange(8)[None]
    set_dropout(model, 0)
    assert torch.equal(model(ids).logits, model(ids).logits)
    set_dropout(model, 0.3)
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_the_published_timer_holds_training_and_evaluation(folder, text, neighbours):
    first, second = reference(folder, text, neighbours[:1])
    assert first.tokens == 0
    assert second.published_seconds == second.train_seconds + second.evaluation_seconds
    assert min(second.train_seconds, second.evaluation_seconds) > 0
