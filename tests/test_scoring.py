"""Scores equal lm-evaluation-harness's windows and formulas, and hand-computed cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import MAKERS, tiny_llama

from tttnn.errors import DocumentError, ParameterError
from tttnn.models import TTTSettings, load_model
from tttnn.scoring import Score, Scorer, rolling_windows, score
from tttnn.ttt import TTT, Switches

WITH_LLAMA = MAKERS | {"llama": tiny_llama}
TEXT = "Madam President, the dog does not mind: def mean(values) = 42.\n" * 9


@pytest.fixture(scope="module", params=WITH_LLAMA)
def lm(request, tmp_path_factory):
    return load_model(WITH_LLAMA[request.param](tmp_path_factory.mktemp(request.param)))


def test_corpus_value_is_a_sum_over_sums():
    long, short = Score(nats=80.0, bytes=100, words=20, tokens=30), Score(nats=5.0, bytes=2, words=1, tokens=1)
    both = long + short
    assert both.bits_per_byte == pytest.approx(85 / 102 / math.log(2))
    assert both.byte_perplexity == pytest.approx(math.exp(85 / 102))
    assert both.byte_perplexity == pytest.approx(2**both.bits_per_byte)
    assert both.word_perplexity == pytest.approx(math.exp(85 / 21))


def test_huge_word_perplexity_is_infinite_not_an_error():
    assert Score(nats=10_000.0, bytes=10, words=1, tokens=5).word_perplexity == math.inf


@settings(deadline=None)  # the first call imports the harness
@given(length=st.integers(0, 200), context=st.integers(1, 70))
def test_windows_are_the_harness_windows(length, context):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    tokens = list(range(1, length + 1))
    harness = [
        make_disjoint_window(pair)
        for pair in get_rolling_token_windows(tokens, prefix_token=0, max_seq_len=context, context_len=1)
    ]
    ours = list(rolling_windows(tokens, 0, context))
    assert [(w.inputs, w.targets) for w in ours] == [((a + b)[:-1], b) for a, b in harness]


def harness_log_likelihoods(lm, texts, **prefix):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(
        pretrained=lm.model, tokenizer=lm.tokenizer, max_length=lm.settings.context, batch_size=1, **prefix
    )  # fmt: skip
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    return peer.loglikelihood_rolling(requests, disable_tqdm=True)


def test_scores_equal_the_harness_with_its_choice_of_the_token_before_a_text(lm):
    texts = [TEXT, "One dog.", TEXT[: len(TEXT) // 2]]
    for text, loglikelihood in zip(texts, harness_log_likelihoods(lm, texts), strict=True):
        ours = score(lm, text)
        assert ours.nats == pytest.approx(-loglikelihood, rel=1e-6)
        assert abs(ours.nats + loglikelihood) / ours.bytes < 1e-6
        assert ours.bits_per_byte == pytest.approx(_harness_bits_per_byte(text, loglikelihood), rel=1e-6)


def test_the_published_token_before_a_text_is_the_end_of_another(tmp_path):
    """Llama's BOS and EOS differ: the switch and the model's settings change which of them is taken."""
    lm = load_model(tiny_llama(tmp_path))
    published = TTT(lm, switches=Switches(prefix="eos"))
    assert (lm.prefix_id, published.prefix_id, TTT(lm).prefix_id) == (0, 1, 0)
    (expected,) = harness_log_likelihoods(lm, [TEXT], prefix_token_id=1)
    assert published.scorer(TEXT)().nats == pytest.approx(-expected, rel=1e-6)
    assert abs(score(lm, TEXT).nats + expected) > 1e-3
    pinned = load_model(tmp_path, settings=TTTSettings(prefix="eos"))
    assert pinned.prefix_id == 1 and TTT(pinned, switches=Switches(prefix="bos")).prefix_id == 0
    with pytest.raises(ParameterError, match="prefix='EOS': must be one of bos, eos"):
        Switches(prefix="EOS")


def test_special_tokens_that_a_text_quotes_are_scored_byte_for_byte(lm):
    special = lm.tokenizer.eos_token
    assert score(lm, f"see {special} there").tokens > score(lm, "see  there").tokens + 3


def _harness_bits_per_byte(text, loglikelihood):
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.tasks import TaskManager  # noqa: F401  (the harness registers its metrics on import)

    items = [(loglikelihood, len(text.encode()))]
    assert weighted_perplexity(items) == pytest.approx(math.exp(-loglikelihood / len(text.encode())))
    return bits_per_byte(items)


def test_token_nats_add_up_and_match_a_plain_softmax(lm):
    scorer = Scorer(lm, "The quick brown fox jumps.")
    ids = torch.tensor([[lm.prefix_id, *scorer.tokens]])
    with torch.no_grad():
        log_p = lm.model(ids).logits[0, :-1].log_softmax(-1)
    expected = -log_p.gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(scorer.token_nats(), expected, atol=1e-5, rtol=1e-5)
    assert scorer().nats == pytest.approx(expected.sum().item(), rel=1e-6)


def test_shorter_context_scores_worse_or_equal_windows(lm):
    assert len(Scorer(lm, TEXT, context=16).token_nats()) == len(Scorer(lm, TEXT).token_nats())
    assert score(lm, TEXT, context=16).nats != score(lm, TEXT, context=64).nats


def test_cut_vocabulary_lowers_the_score_and_refuses_what_it_cannot_score(lm):
    text = "The dog."
    largest = max(lm.encode(text))
    assert score(lm, text, vocabulary=largest + 1).nats < score(lm, text).nats
    with pytest.raises(DocumentError, match=f"token id {largest} cannot be scored"):
        score(lm, text, vocabulary=largest)


def test_one_token_text_has_a_score(lm):
    result = score(lm, "a")
    assert (result.tokens, result.bytes, result.words) == (1, 1, 1)
    assert result.bits_per_byte > 0


def test_empty_text_is_refused(lm):
    with pytest.raises(DocumentError, match="empty text"):
        score(lm, "")


def test_scoring_leaves_the_mode_as_it_was(lm):
    lm.model.train()
    score(lm, "The dog.")
    assert lm.model.training
    lm.model.eval()
