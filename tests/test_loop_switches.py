"""Switches of how a neighbour is trained on: the loss of a suffix, gradients that are used again, paced steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import NEIGHBOURS, TEXT

from tttnn.errors import ParameterError
from tttnn.experiment.checks import check_run
from tttnn.retrieval import Neighbour
from tttnn.ttt import TTT, Retrieved, Switches, split_halves

PLAIN = Switches(learning_rate=1e-2, max_length=32, max_chunks=1)


def nats(ttt, neighbours=NEIGHBOURS, ks=(0, 1, 2, 4), **more):
    return [step.score.nats for step in ttt.adapt(TEXT, neighbours, ks, **more) if step.score]


def token_losses(lm, ids):
    """Nats of each token but the first, by the library's own model and softmax."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_of_a_chunk_the_second_half_is_predicted(lm):
    ttt = TTT(lm, switches=replace(PLAIN, loss="suffix"))
    [chunk], _, _ = ttt.chunks(NEIGHBOURS[2])
    assert len(chunk) == 32
    step = list(ttt.adapt(TEXT, [NEIGHBOURS[2]], [1]))[1]
    by_hand = token_losses(lm, chunk)[15:].mean()  # tokens 16 to 31, of which the first is predicted by token 15
    assert step.loss == pytest.approx(by_hand.item(), abs=1e-4) and step.tokens == 32


def test_masked_tokens_have_no_part_in_the_gradient(gpt2):
    """One step, and the same by the library's loss with labels that are masked."""
    before = gpt2.weight_hash()
    ttt = TTT(gpt2, switches=replace(PLAIN, loss="suffix"))
    [chunk], _, _ = ttt.chunks(NEIGHBOURS[1])
    ours = nats(ttt, [NEIGHBOURS[1]], [0, 1])
    assert gpt2.weight_hash() == before
    with gpt2.restoring():
        optimizer = torch.optim.AdamW(gpt2.model.parameters(), lr=1e-2, eps=gpt2.settings.eps, weight_decay=0.01)
        labels = torch.tensor([[-100] * (len(chunk) // 2) + chunk[len(chunk) // 2 :]])
        gpt2.model(torch.tensor([chunk]), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt2.model.parameters(), 1.0)
        optimizer.step()
        assert ours[1] == pytest.approx(ttt.scorer(TEXT)().nats, rel=1e-5)
    assert ours[1] != nats(TTT(gpt2, switches=PLAIN), [NEIGHBOURS[1]], [1])[0]


def test_the_query_s_head_goes_before_the_chunk_and_is_not_predicted(gpt2):
    switches = replace(PLAIN, loss="suffix-query", split_query=True)
    query, scored = split_halves(TEXT)
    ttt = TTT(gpt2, switches=switches)
    found = Retrieved(query, scored, [Neighbour(0, 0.0, NEIGHBOURS[2])], 0.0)
    step = list(ttt.follow(found, [0, 1]))[1]
    head, chunk = gpt2.encode(query)[:8], gpt2.encode(NEIGHBOURS[2])[:24]  # a fourth of 32 tokens, and what they leave
    by_hand = token_losses(gpt2, head + chunk)[len(head) + 12 - 1 :].mean()
    assert step.loss == pytest.approx(by_hand.item(), abs=1e-4) and step.tokens == 32
    other = list(ttt.follow(replace(found, query="Madam President, " + query), [0, 1]))[1]
    assert other.loss != step.loss
    same = list(ttt.follow(replace(found, scored=scored[::-1]), [0, 1]))[1]
    assert same.loss == step.loss, "what is scored has no part in a step"


def test_a_query_that_would_be_the_scored_text_is_refused(gpt2):
    with pytest.raises(ParameterError, match="without split_query: the query would be the scored text"):
        Switches(loss="suffix-query")
    ttt = TTT(gpt2, switches=replace(PLAIN, loss="suffix-query", split_query=True))
    with pytest.raises(ParameterError, match="query: is to be given with"):
        ttt.adapt(TEXT, NEIGHBOURS, [1])
    with pytest.raises(ParameterError, match=r"query: is to be given with .* only then"):
        TTT(gpt2, switches=PLAIN).adapt(TEXT, NEIGHBOURS, [1], query="a")


def test_a_gradient_is_used_again_as_often_as_is_said(lm):
    """Twice the same neighbour: the second step has the first one's gradient; a third computes its own."""
    before, ids = lm.weight_hash(), torch.tensor([lm.encode(NEIGHBOURS[0])[:32]])
    ttt = TTT(lm, switches=replace(PLAIN, reuse=2))
    steps = list(ttt.adapt(TEXT, [NEIGHBOURS[0]] * 4, range(5)))
    assert lm.weight_hash() == before and ttt._kept == []
    assert [math.isnan(step.loss) for step in steps] == [True, False, True, False, True]
    assert [(step.tokens, len(step.losses)) for step in steps[1:]] == 2 * [(ids.shape[1], 1), (0, 1)]
    plain = [steps[0].score.nats]
    with lm.restoring():
        optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-2, eps=lm.settings.eps, weight_decay=0.01)
        for step in range(4):
            if step % 2 == 0:
                lm.model.zero_grad()
                lm.model(ids, labels=ids).loss.backward()
                torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
            optimizer.step()
            plain.append(ttt.scorer(TEXT)().nats)
    assert [step.score.nats for step in steps] == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("more", [{"lora": 4}, {"train": "queries"}, {"weights": "bfloat16"}, {"dropout": 0.1}])
def test_gradients_are_used_again_with_other_switches_too(gpt2, more):
    found = nats(TTT(gpt2, switches=replace(PLAIN, reuse=2, **more)), [NEIGHBOURS[0]] * 2, range(3))
    assert found[2] not in (found[1], nats(TTT(gpt2, switches=replace(PLAIN, **more)), [NEIGHBOURS[0]] * 2, [2])[0])


def test_other_neighbours_and_several_chunks_have_gradients_of_their_own(gpt2):
    assert nats(TTT(gpt2, switches=replace(PLAIN, reuse=2))) == nats(TTT(gpt2, switches=PLAIN))
    many = replace(PLAIN, max_length=8, max_chunks=2)
    twice = [NEIGHBOURS[3]] * 2
    assert nats(TTT(gpt2, switches=replace(many, reuse=2)), twice, [2]) == nats(TTT(gpt2, switches=many), twice, [2])


def test_paces_multiply_the_rate_and_zero_makes_no_step(gpt2):
    ttt = TTT(gpt2, switches=replace(PLAIN, pace="uncertainty"))
    assert nats(ttt, paces=[1.0] * 4) == nats(TTT(gpt2, switches=PLAIN))
    half = nats(ttt, NEIGHBOURS[:1], [1], paces=[0.5])
    assert half == nats(TTT(gpt2, switches=replace(PLAIN, learning_rate=5e-3)), NEIGHBOURS[:1], [1])
    steps = list(ttt.adapt(TEXT, NEIGHBOURS, range(5), paces=[1, 1, 0, 0]))
    assert [len(step.losses) for step in steps] == [0, 1, 1, 0, 0]
    assert steps[4].score == steps[3].score == steps[2].score != steps[1].score
    reused = TTT(gpt2, switches=replace(PLAIN, pace="uncertainty", reuse=2))
    assert nats(reused, [NEIGHBOURS[0]] * 2, [2], paces=[1, 0.5]) != nats(
        reused, [NEIGHBOURS[0]] * 2, [2], paces=[1, 1]
    )


def test_paces_come_from_what_the_strategy_says_is_uncertain(gpt2):
    left = [0.25, 0.09, 0.04, 0.01]
    neighbours = [
        Neighbour(n, 0.0, text, uncertainty=u) for n, (text, u) in enumerate(zip(NEIGHBOURS, left, strict=True))
    ]
    found = Retrieved(TEXT, TEXT, neighbours, 0.0)
    ttt = TTT(gpt2, switches=replace(PLAIN, pace="uncertainty"))
    expected = nats(ttt, ks=[4], paces=np.sqrt([1, *left[:3]]).tolist())
    assert [step.score.nats for step in ttt.follow(found, [4]) if step.score] == expected
    with pytest.raises(ParameterError, match="needs a strategy that says how uncertain"):
        ttt.follow(replace(found, neighbours=[replace(neighbours[0], uncertainty=None)]), [1])
    with pytest.raises(ParameterError, match="paces: are to be given with"):
        ttt.adapt(TEXT, NEIGHBOURS, [1])
    with pytest.raises(ParameterError, match="paces: 1 for 2"):
        ttt.adapt(TEXT, NEIGHBOURS, [2], paces=[1.0])


@pytest.mark.parametrize(
    "bad", [{"loss": "prefix"}, {"loss": 1}, {"reuse": 1}, {"reuse": "x"}, {"pace": "stop"}, {"pace": "stop:-1"}]
)
def test_bad_values_name_the_switch(bad):
    with pytest.raises(ParameterError, match=rf"^{next(iter(bad))}="):
        Switches(**bad)


@pytest.mark.parametrize("switches", [{"loss": "suffix"}, {"reuse": 2}, {"pace": "uncertainty"}, {"scoring": "tf32"}])
def test_methods_that_would_ignore_them_are_refused(gpt2, switches):
    with pytest.raises(ParameterError, match="only method 'ttt' goes by it"):
        check_run(gpt2, None, replace(PLAIN, **switches), [0], "unigram:0.1")


@pytest.mark.parametrize("method", ["dynamic:8", "ttt-dynamic:8"])
def test_dynamic_evaluation_refuses_the_dropout_that_it_would_ignore(gpt2, method):
    with pytest.raises(ParameterError, match=rf"^method='{method}': dropout=0\.1: steps along the text go without"):
        check_run(gpt2, None, replace(PLAIN, dropout=0.1), [0], method)
    assert check_run(gpt2, None, replace(PLAIN, dropout=0.1), [0], "ttt") == [0]


def test_a_small_index_is_told_with_the_places_that_it_has(gpt2):
    class Small:
        def __len__(self):
            return 4

        def check_k(self, k):
            raise ParameterError(f"k={k}: at most 4")

    with pytest.raises(ParameterError, match=r"^k=20: at most 4; give --ks 0,1,2,3$"):
        check_run(gpt2, Small(), PLAIN, [0, 1, 2, 3, 5, 20])


def test_a_pace_is_refused_before_a_run_unless_the_strategy_goes_with_it(gpt2):
    class Certain:
        uncertain = False

        def check_k(self, k):
            return k

    with pytest.raises(ParameterError, match="pace='stop:1': needs a strategy that says how uncertain"):
        check_run(gpt2, Certain(), replace(PLAIN, pace="stop:1"), [0, 1])
    assert check_run(gpt2, None, replace(PLAIN, pace="stop:1"), [0]) == [0]
