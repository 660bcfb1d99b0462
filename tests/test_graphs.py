"""Steps on padded chunks are those on the chunks themselves, and what a GPU records is checked without one."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny import NEIGHBOURS, TEXT
from transformers import masking_utils

import tttnn.ttt as ttt_module
from tttnn.errors import ParameterError
from tttnn.models import graphs, mean_cross_entropy
from tttnn.models.graphs import BucketedSteps, Recorded, RecordedForward, ahead, bucket, one_text, unpack
from tttnn.models.precision import WorkingCopies, tf32
from tttnn.ttt import TTT, Switches

PLAIN = Switches(learning_rate=1e-2, max_length=32, max_chunks=2, buckets=False)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Buckets of 8, 12, 16, 24 and 32 tokens."""
    monkeypatch.setattr(graphs, "SHORTEST", 8)


def bits(lm, switches, neighbours=NEIGHBOURS[:2]):
    steps = list(TTT(lm, switches=switches).adapt(TEXT, neighbours, range(len(neighbours) + 1)))
    return [step.score.bits_per_byte for step in steps], [loss for step in steps for loss in step.losses]


def test_buckets_are_few_and_hold_every_length():
    sizes = [bucket(length, 1000) for length in range(1, 1001)]
    assert sorted(set(sizes)) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000]
    assert all(length <= size <= max(8, length * 3 // 2) for length, size in enumerate(sizes, start=1))
    assert bucket(1200, 1000) == 1200


@pytest.mark.parametrize("changes", [{}, {"train": "last:1"}, {"weights": "bfloat16"}, {"keep_optimizer": True}])
def test_padded_steps_equal_those_on_the_chunks(lm, changes):
    plain = replace(PLAIN, **changes)
    before = lm.weight_hash()
    scores, losses = bits(lm, plain)
    found, found_losses = bits(lm, replace(plain, buckets=True))
    assert found == pytest.approx(scores, abs=2e-5) and found_losses == pytest.approx(losses, abs=2e-4)
    assert lm.weight_hash() == before


def test_a_second_document_of_the_same_loop_begins_afresh(lm):
    ttt = TTT(lm, switches=replace(PLAIN, buckets=True))
    first, second = ([step.score.nats for step in ttt.adapt(TEXT, NEIGHBOURS, [0, 1])] for _ in range(2))
    assert first == second


def test_moments_that_are_kept_are_kept(gpt2):
    def second(buckets):
        ttt = TTT(gpt2, switches=replace(PLAIN, buckets=buckets, keep_optimizer=True))
        return [[step.score for step in ttt.adapt(TEXT, NEIGHBOURS, [2])][-1].bits_per_byte for _ in range(2)]

    first, other = second(True)
    assert first != pytest.approx(other, abs=1e-4) and [first, other] == pytest.approx(second(False), abs=2e-5)


def test_copies_in_bfloat16_give_the_numbers_of_autocast(lm):
    plain = replace(PLAIN, precision="bfloat16")
    scores, losses = bits(lm, plain)
    found, found_losses = bits(lm, replace(plain, buckets=True))
    assert found_losses == pytest.approx(losses, rel=2e-3) and found == pytest.approx(scores, rel=2e-3)
    exact = bits(lm, PLAIN)[0]
    assert found == pytest.approx(exact, rel=1e-2) and found[0] == exact[0], "scores are float32"


@pytest.mark.parametrize("part", ["head", "norms", "down", "last:1", "queries"])
def test_with_copies_a_part_is_trained_as_without(lm, part):
    """Up to rounding: a part that is not trained at all would leave scores as they were."""
    exact = bits(lm, replace(PLAIN, train=part))[0]
    found = bits(lm, replace(PLAIN, train=part, precision="bfloat16", buckets=True))[0]
    assert found == pytest.approx(exact, rel=1e-2) and found[0] == exact[0]
    gain, wanted = found[0] - found[-1], exact[0] - exact[-1]
    assert gain == pytest.approx(wanted, rel=0.1) and gain != 0


def test_gradients_with_copies_are_those_of_autocast_bit_for_bit(lm):
    ids = torch.arange(24)[None] + 5
    with torch.autocast("cpu", torch.bfloat16):
        lm.hidden(ids).float().square().sum().backward()
    expected = [None if each.grad is None else each.grad.clone() for each in lm.model.parameters()]
    lm.model.zero_grad()
    copies = WorkingCopies(lm.model, torch.bfloat16)
    copies.renew()
    with torch.autocast("cpu", torch.bfloat16):
        copies.hidden(ids).float().square().sum().backward()
    copies.give_gradients()
    found = [each.grad for each in lm.model.parameters()]
    lm.model.zero_grad()
    assert len(copies.tensors) > 4 and all(each.grad is None for each in copies.tensors)
    for gradient, wanted in zip(found, expected, strict=True):
        assert (gradient is None) == (wanted is None)
        assert wanted is None or torch.equal(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_what_fills_up_a_row_has_no_part_in_the_cross_entropy(dtype, biased):
    made = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(50, 8, generator=made), torch.randn(50, generator=made) if biased else None
    states, (_, targets, divisors) = torch.randn(12, 8, generator=made), unpack(torch.tensor([*range(12), 9]))
    values = []
    for hidden, wanted, rest in ((states, targets, divisors), (states[:8], torch.arange(1, 9), None)):
        leaves = [each.clone().requires_grad_() for each in (hidden, weight, *([bias] if biased else []))]
        loss = mean_cross_entropy(*leaves, *([] if biased else [None]), wanted, dtype, rest)
        loss.backward()
        values.append([loss.detach(), leaves[0].grad[:8], *(leaf.grad for leaf in leaves[1:])])
        assert not leaves[0].grad[8:].any()
    for ours, expected in zip(*values, strict=True):
        assert torch.allclose(ours, expected, atol=1e-6 if dtype == torch.float32 else 2e-2)


def test_a_padded_forward_pass_is_the_forward_pass(lm):
    forward = RecordedForward(lm.hidden, lm.device, lm.positions)
    with torch.no_grad():
        for texts, n in ((1, 5), (3, 12), (3, 9), (1, 5)):  # the buffers of earlier ones hold their ids still
            ids = torch.randint(5, 300, (texts, n), generator=torch.Generator().manual_seed(n))
            assert torch.allclose(forward(ids), lm.hidden(ids), atol=1e-5)


class Card:
    """As much of torch.cuda as records: what is called within `graph` is what `replay` does."""

    def __init__(self, monkeypatch, refuses=False):
        self.replays, self.recording = 0, False
        card, nothing = self, lambda *args, **names: None

        class Graph:
            def replay(self):
                card.replays += 1

        @contextlib.contextmanager
        def graph(made, pool, capture_error_mode):
            if refuses:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            card.recording = True
            yield
            card.recording = False

        class Stream:
            wait_stream = nothing

        for name, value in {
            "graph": graph, "CUDAGraph": Graph, "Stream": lambda device: Stream(), "set_stream": nothing,
            "current_stream": lambda device: Stream(), "stream": lambda stream: contextlib.nullcontext(),
            "graph_pool_handle": lambda: (0, 0),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


def test_the_second_call_is_recorded_and_later_ones_are_replayed(monkeypatch):
    card, calls, place = Card(monkeypatch), [], [1]
    made = Recorded(lambda: (calls.append(card.recording), True)[1], torch.device("cuda"), lambda: tuple(place))
    for _ in range(2):
        for _ in range(4):
            made()
        place[0] += 1  # the memory has moved
    assert calls == [False, True] * 2 and card.replays == 2 * 3


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(monkeypatch, caplog):
    Card(monkeypatch, refuses=True)
    calls = []
    made = Recorded(lambda: calls.append(1), torch.device("cuda"), lambda: (1,))
    for _ in range(4):
        made()
    assert len(calls) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "a CUDA graph cannot be made of this model, so that it is slower: operation not permitted when stream is "
        "capturing"
    ]


def test_recording_can_be_turned_off(monkeypatch):
    card, calls = Card(monkeypatch), []
    monkeypatch.setenv(graphs.GRAPHS_VARIABLE, "0")
    made = Recorded(lambda: calls.append(1), torch.device("cuda"), lambda: (1,))
    for _ in range(3):
        made()
    assert len(calls) == 3 and not card.replays


def test_a_chunk_may_be_prepared_before(gpt2):
    seen = []

    def step(ids, targets, divisors):
        seen.append((ids.tolist(), targets[:3].tolist(), divisors.tolist()))
        return torch.tensor(0.5)

    steps = BucketedSteps(step, gpt2.device, 32)
    assert steps(steps.prepare([5, 6, 7])) == steps([5, 6, 7]) == 0.5
    assert seen == [([[5, 6, 7, 0, 0, 0, 0, 0]], [6, 7, 0], [2.0, 2.0, *[torch.inf] * 6])] * 2


def test_rows_are_one_text_while_a_graph_is_recorded():
    before, starts_anew = masking_utils.find_packed_sequence_indices, torch.tensor([[0, 1, 0, 1]])
    with one_text():
        assert masking_utils.find_packed_sequence_indices(starts_anew) is None
    assert masking_utils.find_packed_sequence_indices is before and before(starts_anew) is not None


def test_what_is_made_ahead_comes_in_order_and_ends_with_who_takes_it():
    assert list(ahead(str, range(5))) == list("01234")
    assert list(islice(ahead(str, range(1000)), 2)) == ["0", "1"]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda each: 1 // each, [1, 0]))


def test_tf32_is_on_while_it_is_entered():
    before = torch.get_float32_matmul_precision()
    with tf32(False):
        assert torch.get_float32_matmul_precision() == before
    with contextlib.suppress(KeyError), tf32():
        assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"lora": 2}, {"buckets": "yes"}])
def test_steps_that_differ_each_time_cannot_be_padded(changes):
    with pytest.raises(ParameterError, match=r"^buckets"):
        Switches(**{"buckets": True} | changes)


@pytest.mark.parametrize("changes", [{"precision": "tf32"}, {"scoring": "tf32"}])
def test_a_processor_has_no_tf32(gpt2, changes):
    with pytest.raises(ParameterError, match="only a GPU has it"):
        bits(gpt2, Switches(**changes))


@pytest.mark.parametrize("waiting", [True, False])
def test_a_step_is_seen_at_its_weights_unless_all_are_wanted_at_once(gpt2, monkeypatch, waiting):
    seen, real = [], ttt_module._Begun.finish
    monkeypatch.setattr(ttt_module._Begun, "finish", lambda begun: [seen.append(begun.k), real(begun)][1])
    ttt = TTT(gpt2, switches=PLAIN)
    steps = ttt.adapt(TEXT, NEIGHBOURS, [0, 2, 3], waiting=waiting)
    found = [(step.k, list(seen), round(gpt2_now(ttt), 4)) for step in steps]
    ahead_at = [place for _, _, place in found]
    assert [k for k, _, _ in found] == [0, 1, 2, 3]
    assert (ahead_at[1] == ahead_at[2]) != waiting, "without waiting, the weights are those after the second"


def gpt2_now(ttt):
    """What the weights of this moment make of the text."""
    return ttt.scorer(TEXT)().nats


def test_what_a_failed_recording_left_is_in_no_step(gpt2):
    expected = bits(gpt2, replace(PLAIN, buckets=True))
    ttt = TTT(gpt2, switches=replace(PLAIN, buckets=True))
    steps = ttt.adapt(TEXT, NEIGHBOURS[:2], range(3))
    found = [next(steps).score.bits_per_byte]
    for parameter in gpt2.model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    found += [step.score.bits_per_byte for step in steps]
    assert found == expected[0]
