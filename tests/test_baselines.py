"""Baselines: what they do to the windows and to the probabilities, by hand; the weights stay as they were."""

import math

import pytest
import torch
from tiny import LINES, tiny_gpt2, tiny_gpt_neo, tiny_llama, tiny_qwen2

from tttnn.baselines import _after, find_method
from tttnn.errors import ParameterError
from tttnn.models import load_model
from tttnn.scoring import Scorer, Window, score
from tttnn.ttt import TTT, Switches

TEXT = "The dog thanks Madam President, and the mean fox returns 19 values."
NEIGHBOURS = [*LINES, "A last one, far away."]
SWITCHES = Switches(learning_rate=1e-2, max_length=32)


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_gpt_neo, tiny_qwen2])
def ttt(request, tmp_path_factory):
    return TTT(load_model(request.param(tmp_path_factory.mktemp("model"))), switches=SWITCHES)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return TTT(load_model(tiny_gpt2(tmp_path_factory.mktemp("gpt2"))), switches=SWITCHES)


def nats(ttt, method, text=TEXT, ks=(0, 1, 3)):
    return {step.k: step.score.nats for step in find_method(method)(ttt, text, NEIGHBOURS, ks)}


@pytest.mark.parametrize("method", ["in-context:0.5", "in-context-published", "unigram:0.1", "dynamic:8"])
def test_every_baseline_starts_from_the_plain_score_and_leaves_the_weights(ttt, method):
    before = ttt.lm.weight_hash()
    found = nats(ttt, method)
    assert found[0] == pytest.approx(score(ttt.lm, TEXT).nats, rel=1e-6)
    assert found[3] != found[0] and math.isfinite(found[3])
    assert ttt.lm.weight_hash() == before and not ttt.lm.adapting


def test_the_windows_predict_each_token_once_after_the_neighbours(gpt2):
    prefix, scorer = gpt2.lm.prefix_id, Scorer(gpt2.lm, "any", context=4)
    scorer.tokens = [11, 12, 13, 14, 15]
    windows = _after(scorer, before=[7, 8])
    assert windows == [
        Window([7, 8, prefix, 11], [11, 12]),
        Window([7, 8, 12, 13], [13, 14]),
        Window([7, 8, 13, 14], [15]),
    ]


def test_in_context_keeps_the_nearest_and_the_published_one_loses_it(gpt2):
    """Both score the text after a window of neighbours; which end is cut off differs."""
    lm, text = gpt2.lm, "The fox."
    tokens, room = lm.encode(text), lm.settings.context - len(lm.encode(text)) - 1

    def by_hand(neighbours):
        before = [token for each in neighbours for token in (lm.prefix_id, *lm.encode(each))][-room:]
        ids = torch.tensor([[*before, lm.prefix_id, *tokens]])
        with torch.no_grad():
            log_p = lm.model(ids).logits[0].log_softmax(-1)
        return -sum(log_p[len(before) + i, token].item() for i, token in enumerate(tokens))

    assert sum(len(lm.encode(each)) for each in NEIGHBOURS[:3]) > room  # so that something is cut off
    assert nats(gpt2, "in-context:0.5", text)[3] == pytest.approx(by_hand(NEIGHBOURS[2::-1]), rel=1e-5)
    assert nats(gpt2, "in-context-published", text)[3] == pytest.approx(by_hand(NEIGHBOURS[:3]), rel=1e-5)


@pytest.mark.parametrize("method", ["in-context:0.5", "in-context-published", "unigram:0.1", "dynamic:8"])
def test_baselines_score_with_the_loop_s_context_and_token_before_the_text(method, tmp_path):
    lm = load_model(tiny_llama(tmp_path), context=16)
    for switches in (Switches(config_context=True), Switches(context=24), Switches(prefix="eos"), Switches()):
        loop = TTT(lm, switches=switches)
        expected = next(loop.adapt(TEXT * 4, [], [0])).score.nats
        assert nats(loop, method, TEXT * 4)[0] == pytest.approx(expected, rel=1e-6)


def test_a_share_too_small_for_one_token_leaves_the_text_alone(gpt2):
    text = TEXT * 4
    assert len(gpt2.lm.encode(text)) > gpt2.lm.settings.context
    found = nats(gpt2, "in-context:0.001", text)
    assert found[3] == found[0]


@pytest.mark.parametrize("method", ["in-context:0.5", "in-context-published", "unigram:0.1"])
def test_too_few_neighbours_are_no_score_after_more(gpt2, method):
    with pytest.raises(ParameterError, match="7 neighbours"):
        list(find_method(method)(gpt2, TEXT, ["a neighbour"] * 7, [0, 8]))


def test_the_published_in_context_baseline_leaves_long_texts_alone(gpt2):
    text = TEXT * 4
    assert len(gpt2.lm.encode(text)) > gpt2.lm.settings.context
    found = nats(gpt2, "in-context-published", text)
    assert found[3] == found[0] == pytest.approx(score(gpt2.lm, text).nats, rel=1e-6)
    assert nats(gpt2, "in-context:0.5", text)[3] != found[0]


def test_unigram_mixes_by_hand(gpt2):
    lm = gpt2.lm
    tokens = [token for each in NEIGHBOURS[:2] for token in lm.encode(each)]
    plain = Scorer(lm, TEXT).token_nats().tolist()
    expected = 0.0
    for token, own in zip(lm.encode(TEXT), plain, strict=True):
        expected -= math.log(0.9 * math.exp(-own) + 0.1 * tokens.count(token) / len(tokens))
    assert nats(gpt2, "unigram:0.1", ks=[2])[2] == pytest.approx(expected, rel=1e-6)


def test_dynamic_evaluation_never_trains_on_what_it_has_not_scored(gpt2):
    """Another ending changes nothing before it, and a text of one segment is only scored."""
    same, other = (list(dynamic_nats(gpt2, TEXT[:40] + end)) for end in (" and a dog", " or a fox "))
    shared = len(gpt2.lm.encode(TEXT[:40])) // 8 * 8 - 8
    assert same[:shared] == other[:shared]
    found = nats(gpt2, "dynamic:64", "The fox.")
    assert found[3] == pytest.approx(found[0], rel=1e-6)


def dynamic_nats(ttt, text):
    kept = []

    class Kept(Scorer):
        def token_nats(self, windows=None):
            found = super().token_nats(windows)
            kept.extend(found.tolist() if windows else [])
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tttnn.ttt.Scorer", Kept)
        nats(ttt, "dynamic:8", text)
    return kept


@pytest.mark.parametrize("method", ["icl", "unigram", "unigram:x", "in-context", "ttt:3"])
def test_unknown_methods_list_the_known_ones(method):
    with pytest.raises(ValueError, match=r"must be one of ttt, in-context-published, in-context:<number>"):
        find_method(method)


@pytest.mark.parametrize(
    ("method", "message"),
    [("unigram:1", "between 0 and 1"), ("in-context:0", "between"), ("dynamic:1", "from 2 to 64"),
     ("dynamic:8.5", "from 2 to 64"), ("dynamic:inf", "from 2 to 64"), ("unigram:inf", "between 0 and 1")],
)  # fmt: skip
def test_a_value_out_of_range_is_named(gpt2, method, message):
    with pytest.raises(ValueError, match=message):
        nats(gpt2, method)
