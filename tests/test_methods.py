"""Methods: what they do to the windows and to the probabilities, by hand; the weights stay as they were."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import LINES, tiny_gpt2, tiny_gpt_neo, tiny_llama, tiny_qwen2

from tttnn.errors import ParameterError
from tttnn.experiment.record import asked_for
from tttnn.methods import GROUP, METHODS, Method, find_method
from tttnn.methods.in_context import _after
from tttnn.models import load_model
from tttnn.plugins import plugins
from tttnn.retrieval import Neighbour
from tttnn.scoring import Scorer, Window, score
from tttnn.ttt import TTT, Retrieved, Switches

TEXT = "The dog thanks Madam President, and the mean fox returns 19 values."
NEIGHBOURS = [*LINES, "A last one, far away."]
SWITCHES = Switches(learning_rate=1e-2, max_length=32)


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_gpt_neo, tiny_qwen2])
def ttt(request, tmp_path_factory):
    return TTT(load_model(request.param(tmp_path_factory.mktemp("model"))), switches=SWITCHES)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return TTT(load_model(tiny_gpt2(tmp_path_factory.mktemp("gpt2"))), switches=SWITCHES)


def found(text, neighbours=NEIGHBOURS):
    return Retrieved(text, text, [Neighbour(i, 0.0, each) for i, each in enumerate(neighbours)], 0.0)


def steps(ttt, method, text=TEXT, ks=(0, 1, 3), neighbours=NEIGHBOURS):
    return list(find_method(method).steps(ttt, found(text, neighbours), ks))


def nats(ttt, method, text=TEXT, ks=(0, 1, 3), neighbours=NEIGHBOURS):
    return {step.k: step.score.nats for step in steps(ttt, method, text, ks, neighbours) if step.score}


ALL = ["in-context:0.5", "in-context-published", "unigram:0.1", "dynamic:8", "knn-lm:0.2", "ttt-dynamic:8", "ttt"]


@pytest.mark.parametrize("method", ALL)
def test_every_method_starts_from_the_plain_score_and_leaves_the_weights(ttt, method):
    before = ttt.lm.weight_hash()
    scores = nats(ttt, method)
    assert scores[0] == pytest.approx(score(ttt.lm, TEXT).nats, rel=1e-6)
    assert scores[3] != scores[0] and math.isfinite(scores[3])
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


@pytest.mark.parametrize("method", ALL)
def test_methods_score_with_the_loop_s_context_and_token_before_the_text(method, tmp_path):
    lm = load_model(tiny_llama(tmp_path), context=16)
    for switches in (Switches(config_context=True), Switches(context=24), Switches(prefix="eos"), Switches()):
        loop = TTT(lm, switches=switches)
        expected = next(loop.adapt(TEXT * 4, [], [0])).score.nats
        assert nats(loop, method, TEXT * 4)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ALL)
def test_numbers_of_neighbours_may_be_text(gpt2, method):
    assert nats(gpt2, method, ks="0,1") == nats(gpt2, method, ks=[0, 1])


def test_a_share_too_small_for_one_token_leaves_the_text_alone(gpt2):
    text = TEXT * 4
    assert len(gpt2.lm.encode(text)) > gpt2.lm.settings.context
    scores = nats(gpt2, "in-context:0.001", text)
    assert scores[3] == scores[0]


@pytest.mark.parametrize(
    "method", ["in-context:0.5", "in-context-published", "unigram:0.1", "knn-lm:0.2", "ttt-dynamic:8"]
)
def test_too_few_neighbours_are_no_score_after_more(gpt2, method):
    with pytest.raises(ParameterError, match="7 neighbours"):
        steps(gpt2, method, ks=[0, 8], neighbours=["a neighbour"] * 7)


def test_the_published_in_context_baseline_leaves_long_texts_alone(gpt2):
    text = TEXT * 4
    assert len(gpt2.lm.encode(text)) > gpt2.lm.settings.context
    scores = nats(gpt2, "in-context-published", text)
    assert scores[3] == scores[0] == pytest.approx(score(gpt2.lm, text).nats, rel=1e-6)
    assert nats(gpt2, "in-context:0.5", text)[3] != scores[0]


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
    scores = nats(gpt2, "dynamic:64", "The fox.")
    assert scores[3] == pytest.approx(scores[0], rel=1e-6)


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


def by_hand_knn(lm, k, weight, temperature):
    """Nats under the mixture, from the model's own outputs and one distance at a time."""

    def states(text):
        ids = torch.tensor([[lm.prefix_id, *lm.encode(text)]])
        with torch.no_grad():
            return lm.hidden(ids)[0, :-1].double(), ids[0, 1:].tolist()

    keys, values = zip(*(pair for text in NEIGHBOURS[:k] for pair in zip(*states(text), strict=True)), strict=True)
    plain, total = Scorer(lm, TEXT).token_nats().tolist(), 0.0
    for own, query, token in zip(plain, *states(TEXT), strict=True):
        votes = [math.exp(-float(((key - query) ** 2).mean()) / temperature) for key in keys]
        share = sum(vote for vote, value in zip(votes, values, strict=True) if value == token) / sum(votes)
        total -= math.log(weight * share + (1 - weight) * math.exp(-own))
    return total


def test_knn_lm_mixes_by_hand(gpt2):
    assert all(len(gpt2.lm.encode(each)) < gpt2.lm.settings.context for each in [TEXT, *NEIGHBOURS])
    for k in (1, 3):
        expected = by_hand_knn(gpt2.lm, k, 0.3, 0.5)
        assert nats(gpt2, "knn-lm:0.3,0.5", ks=[k])[k] == pytest.approx(expected, rel=1e-5)


def test_knn_lm_of_weight_0_is_the_model_exactly(ttt):
    plain = score(ttt.lm, TEXT * 3).nats  # of several windows
    assert set(nats(ttt, "knn-lm:0", TEXT * 3).values()) == {plain}


def test_knn_lm_looks_up_what_would_be_trained_on(gpt2):
    """The first chunk of each neighbour with `max_chunks`, and no more operations than for that."""
    first = TTT(gpt2.lm, switches=replace(SWITCHES, max_chunks=1))
    cut = [gpt2.lm.tokenizer.decode(gpt2.lm.encode(each)[:32]) for each in NEIGHBOURS]
    assert [gpt2.lm.encode(each) for each in cut] == [gpt2.lm.encode(each)[:32] for each in NEIGHBOURS] != cut
    taken, whole = steps(first, "knn-lm:0.3"), steps(gpt2, "knn-lm:0.3", neighbours=cut)
    assert [step.score for step in taken] == [step.score for step in whole]
    assert [step.train_operations for step in taken] == [step.train_operations for step in whole]


def test_knn_lm_finds_a_text_again(gpt2):
    """Where the text is a neighbour, each context's own key is at no distance."""
    scores = nats(gpt2, "knn-lm:0.9,0.0001", ks=[1], neighbours=[TEXT])
    assert scores[1] / len(gpt2.lm.encode(TEXT)) == pytest.approx(-math.log(0.9), abs=0.05)


@pytest.mark.parametrize("neighbour", ["", "a"])
def test_knn_lm_without_keys_is_the_model(gpt2, neighbour):
    """A neighbour of one token has none: its vote must not be lost, or probabilities no longer sum to 1."""
    found = nats(gpt2, "knn-lm:0.5", ks=[0, 1], neighbours=[neighbour])
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_dynamic_evaluation_after_neighbours_goes_on_from_them(gpt2):
    """Each score is the one that a run up to its k alone gives, and training goes on as without dynamic evaluation."""
    together = nats(gpt2, "ttt-dynamic:8", ks=[0, 1, 3])
    assert [nats(gpt2, "ttt-dynamic:8", ks=[k])[k] for k in (1, 3)] == [together[1], together[3]]
    assert nats(gpt2, "ttt-dynamic:64", "The fox.")[3] == pytest.approx(nats(gpt2, "ttt", "The fox.")[3], rel=1e-6)
    assert together[3] != nats(gpt2, "ttt")[3]
    losses = [[step.losses for step in steps(gpt2, name)] for name in ("ttt-dynamic:8", "ttt")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("buckets", [False, True])
def test_what_a_neighbour_teaches_does_not_depend_on_the_text(gpt2, precision, buckets):
    """Steps along the text are undone, in the copies that steps are computed with, too."""
    loop = TTT(gpt2.lm, switches=replace(SWITCHES, precision=precision, buckets=buckets))
    losses = [[step.losses for step in steps(loop, "ttt-dynamic:8", text)] for text in (TEXT, "19 " * 30)]
    assert losses[0] == losses[1]


def test_dynamic_evaluation_of_rounded_weights_begins_with_them(gpt2):
    """Otherwise the gain would hold what rounding alone changes."""
    ttt = TTT(gpt2.lm, switches=replace(SWITCHES, weights="bfloat16"))
    found = Retrieved(TEXT, TEXT, (), 0.0)
    [alone] = find_method("dynamic:8").steps(ttt, found, [0])
    assert alone.score.nats == nats(ttt, "ttt", ks=[0])[0] != nats(gpt2, "ttt", ks=[0])[0]
    assert not gpt2.lm.adapting


def test_with_lora_dynamic_evaluation_trains_adapters(gpt2):
    lora = TTT(gpt2.lm, switches=Switches(learning_rate=1e-2, max_length=32, lora=2))
    before = gpt2.lm.weight_hash()
    for method in ("dynamic:8", "ttt-dynamic:8"):
        scores = nats(lora, method)
        assert scores[3] not in (scores[0], nats(gpt2, method)[3])
    assert gpt2.lm.weight_hash() == before


def test_operations_are_counted_by_hand(gpt2):
    """Two for each weight and token that is only passed, six where it is trained."""
    weights, tokens = gpt2.lm.parameters, len(gpt2.lm.encode(TEXT))
    near = [len(gpt2.lm.encode(each)) for each in NEIGHBOURS[:3]]
    assert tokens < gpt2.lm.settings.context
    trained = steps(gpt2, "ttt")
    assert [step.train_operations for step in trained] == [6 * weights * each for each in [0, *near]]
    assert [step.evaluation_operations for step in trained] == [2 * weights * tokens * there for there in (1, 1, 0, 1)]
    looked_up = steps(gpt2, "knn-lm:0.2")
    assert [step.train_operations for step in looked_up] == [2 * weights * each for each in [0, *near]]
    assert looked_up[3].evaluation_operations == 2 * tokens * (weights + sum(near) * gpt2.lm.head[0].shape[1])
    alone = steps(gpt2, "dynamic:64", ks=[3])[1].evaluation_operations
    assert alone == 2 * weights * tokens  # one segment, no step
    lora = TTT(gpt2.lm, switches=Switches(max_length=32, lora=2))
    added = lora.trained
    stepped = next(step for step in lora.adapt(TEXT, NEIGHBOURS, [1]) if step.k)
    assert stepped.train_operations == (4 * (weights + added) + 2 * added) * stepped.tokens


@pytest.mark.parametrize("method", ["icl", "unigram", "in-context", "ttt:3", "unigram:0.1,2", "knn-lm"])
def test_unknown_methods_list_the_known_ones(method):
    listed = r"must be one of ttt, in-context-published, in-context:<share>, .*knn-lm:<weight>\[,<temperature>\]"
    with pytest.raises(ParameterError, match=listed):
        find_method(method)


@pytest.mark.parametrize(
    ("method", "message"),
    [("unigram:1", "between 0 and 1"), ("in-context:0", "between 0 and 1"), ("unigram:x", "must be a number"),
     ("dynamic:1", "at least 2"), ("dynamic:65", "from 2 to 64"), ("dynamic:8.5", "whole number"),
     ("dynamic:inf", "whole number"), ("unigram:inf", "must be a number"), ("knn-lm:1", "from 0 to below 1"),
     ("knn-lm:0.5,0", "above 0"), ("ttmm:0", "at least 1"), ("ttmm:2,0", "above 0")],
)  # fmt: skip
def test_a_value_out_of_range_is_named(gpt2, method, message):
    with pytest.raises(ParameterError, match=message):
        nats(gpt2, method)


def test_another_package_brings_a_method_by_its_entry_point(gpt2, tmp_path, monkeypatch):
    """As it is installed: a module, and metadata beside it that names the group."""
    (tmp_path / "theirs.py").write_text(
        "from tttnn.methods.unigram import Unigram\nclass Theirs(Unigram):\n    about = 'ours, under their name'\n"
    )
    facts = tmp_path / "theirs-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        f"[{GROUP}]\ntheirs = theirs:Theirs\nbroken = theirs:Gone\nttmm = theirs:Theirs\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.cache_clear()
    try:
        assert nats(gpt2, "theirs:0.1") == nats(gpt2, "unigram:0.1")
        assert asked_for({}, "theirs:0.1", [0])["package"] == "theirs 1", "rows of another version are other rows"
        assert "package" not in asked_for({}, "unigram:0.1", [0])
        with pytest.raises(ParameterError, match="'broken' of the package theirs cannot be loaded"):
            find_method("broken")
        with pytest.raises(ParameterError, match=r"'ttmm' of tttnn\.methods is brought by tttnn itself and by theirs"):
            find_method("ttmm:2")
        with pytest.raises(ParameterError, match=r"ttmm.*, theirs, broken"):
            find_method("icl")
    finally:
        monkeypatch.undo()
        plugins.cache_clear()
    with pytest.raises(ParameterError, match="must be one of"):
        find_method("theirs:0.1")


def test_a_package_that_enters_its_method_here_when_imported_is_not_taken_for_this_one(gpt2, tmp_path, monkeypatch):
    (tmp_path / "caching.py").write_text(
        "from tttnn.methods import METHODS\nfrom tttnn.methods.unigram import Unigram\n"
        "class Cache(Unigram):\n    about = 'a cache'\nMETHODS['cache'] = Cache\n"
    )
    facts = tmp_path / "caching-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: caching\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[{GROUP}]\ncache = caching:Cache\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.cache_clear()
    try:
        assert type(find_method("cache:0.1")) is type(find_method("cache:0.2")) is METHODS["cache"]
    finally:
        METHODS.pop("cache", None)
        monkeypatch.undo()
        plugins.cache_clear()


def test_a_method_without_the_decorator_is_told_to_have_it(monkeypatch):
    class Bare(Method):
        weight: float

        def steps(self, ttt, found, ks):
            return iter(())

    monkeypatch.setitem(METHODS, "bare", Bare)
    said = r"Bare is no dataclass: write @dataclass\(frozen=True\) above it"
    with pytest.raises(ParameterError, match=rf"^method='bare:1': {said}"):
        find_method("bare:1")
    with pytest.raises(ParameterError, match=rf"must be one of ttt, .*, bare \({said}\)"):
        find_method("icl")


def test_what_is_no_method_is_refused(monkeypatch):
    monkeypatch.setitem(METHODS, "function", len)
    with pytest.raises(ParameterError, match=r"is no subclass of tttnn\.methods\.Method"):
        find_method("function")
    assert all(issubclass(kind, Method) and kind.about for name, kind in METHODS.items() if name != "function")
