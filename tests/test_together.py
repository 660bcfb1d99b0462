"""Documents side by side have the numbers that each has alone."""

from dataclasses import replace

import pytest
from tiny import NEIGHBOURS, TEXT, VOCABULARY
from transformers import BloomConfig, BloomForCausalLM, MixtralConfig, MixtralForCausalLM

from tttnn.errors import DocumentError, ParameterError
from tttnn.together import Together
from tttnn.ttt import TTT, Switches

FAST = Switches(learning_rate=1e-2, max_length=32, max_chunks=2)
DOCUMENTS = [(TEXT, NEIGHBOURS), (TEXT[:60], [NEIGHBOURS[1], "a", "bc"]), ("x = 1\n" * 9, NEIGHBOURS[2:])]
KS = (0, 1, 2)


def facts(steps):
    return [(step.k, step.tokens, step.skipped, step.beyond) for step in steps]


def scores(steps):
    return [step.score.bits_per_byte if step.score else None for step in steps]


def test_documents_at_once_are_as_each_alone(lm):
    ttt = TTT(lm, switches=FAST)
    before, together = lm.weight_hash(), Together(ttt, 4)
    for group in (DOCUMENTS, DOCUMENTS[:1]):  # the second in the memory of the first
        for found, (text, neighbours) in zip(together.adapt(group, KS), group, strict=True):
            alone = list(ttt.adapt(text, neighbours, KS))
            assert facts(found) == facts(alone)
            assert scores(found) == pytest.approx(scores(alone), abs=5e-5)
            for ours, wanted in zip(found, alone, strict=True):
                assert ours.losses == pytest.approx(wanted.losses, abs=5e-5)
    assert lm.weight_hash() == before


@pytest.mark.parametrize("rank", [1, 4])
def test_adapters_at_once_are_as_each_alone(lm, rank):
    """One base and an adapter for each document; the second group begins with fresh ones."""
    ttt = TTT(lm, switches=replace(FAST, lora=rank))
    names, hashed, together = [*dict(lm.model.named_modules())], lm.weight_hash(), Together(ttt, 3)
    for group in (DOCUMENTS, DOCUMENTS[1:]):
        for found, (text, neighbours) in zip(together.adapt(group, KS), group, strict=True):
            alone = list(ttt.adapt(text, neighbours, KS))
            assert facts(found) == facts(alone)
            assert scores(found) == pytest.approx(scores(alone), abs=5e-5)
            assert scores(found)[-1] != pytest.approx(scores(found)[0], abs=1e-3)  # it learns
            assert [step.train_operations for step in found] == [step.train_operations for step in alone]
    assert [*dict(lm.model.named_modules())] == names and lm.weight_hash() == hashed


def test_memory_is_asked_for_what_is_trained(gpt2, monkeypatch):
    asked = []
    monkeypatch.setattr("tttnn.together.require", lambda name, numbers, *_: asked.append(numbers))
    for switches in (FAST, replace(FAST, lora=1)):
        Together(TTT(gpt2, switches=switches), 5)
    assert asked[0] == 4 * 5 * gpt2.parameters > 10 * asked[1] > 0


@pytest.mark.parametrize("lora", [None, 2])
def test_weights_that_a_loop_has_changed_are_not_begun_with(gpt2, lora):
    together = Together(TTT(gpt2, switches=replace(FAST, lora=lora)), 1)
    steps = TTT(gpt2, switches=FAST).adapt(TEXT, NEIGHBOURS, KS)
    next(steps)
    with pytest.raises(RuntimeError, match="unfinished"):
        together.adapt(DOCUMENTS[:1], KS)
    steps.close()
    assert together.adapt(DOCUMENTS[:1], [0]) and not gpt2.adapting


def test_in_bfloat16_they_are_near(gpt2):
    ttt = TTT(gpt2, switches=replace(FAST, precision="bfloat16"))
    [found] = Together(ttt, 1).adapt(DOCUMENTS[:1], KS)
    assert scores(found) == pytest.approx(scores(ttt.adapt(*DOCUMENTS[0], KS)), rel=5e-3)


def test_windows_of_long_texts_are_added_up(gpt2):
    ttt = TTT(gpt2, switches=Switches(max_length=32, context=16, learning_rate=1e-2))
    [found] = Together(ttt, 1).adapt([(TEXT, NEIGHBOURS)], [0, 1])
    assert scores(found) == pytest.approx(scores(ttt.adapt(TEXT, NEIGHBOURS, [0, 1])), abs=5e-5)


def test_what_needs_a_document_for_itself_is_refused(gpt2):
    for switches in (Switches(dropout=0.1), Switches(train="norms"), Switches(weights="bfloat16")):
        with pytest.raises(ParameterError, match="documents_at_once=2 and"):
            Together(TTT(gpt2, switches=switches), 2)
    with pytest.raises(ParameterError, match="only a GPU has it"):
        Together(TTT(gpt2, switches=Switches(precision="tf32")), 2)
    with pytest.raises(ParameterError, match="documents_at_once=0"):
        Together(TTT(gpt2), 0)


SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BLOOM = BloomConfig(**SMALL)
MIXTRAL = MixtralConfig(**SMALL, num_key_value_heads=1, intermediate_size=32, num_local_experts=2)


@pytest.mark.parametrize(
    ("made", "lora", "named"),
    [(lambda: BloomForCausalLM(BLOOM), None, "BloomForCausalLM takes"),
     (lambda: MixtralForCausalLM(MIXTRAL), 2, "MixtralForCausalLM with lora takes")],
    ids=["bloom", "mixtral"],
)  # fmt: skip
def test_layers_that_cannot_be_stacked_are_refused(gpt2, made, lora, named):
    lm = replace(gpt2, model=made().eval())
    with pytest.raises(ParameterError, match=f"^documents_at_once=2: {named} one document .*give documents_at_once=1"):
        Together(TTT(lm, switches=replace(FAST, lora=lora)), 2).adapt(DOCUMENTS[:1], KS)


def test_a_document_without_text_is_named(gpt2):
    with pytest.raises(DocumentError, match="empty text"):
        Together(TTT(gpt2, switches=FAST), 2).adapt([("", NEIGHBOURS)], [1])
