"""Training on plain text until held-out loss is flat: the repaired base, resumable and with the best weights."""

import pytest
from tiny import LINES, tiny_gpt2

from tttnn import TTT, Switches, load_model, score
from tttnn.errors import ParameterError
from tttnn.pretraining import repair as room
from tttnn.pretraining.repair import repair

TRAIN = [f"{line} {number}" for number in range(24) for line in LINES]


@pytest.fixture
def folder(tmp_path):
    return tiny_gpt2(tmp_path / "model")


def _ttt(folder, **switches):
    return TTT(load_model(folder, threads=1), switches=Switches(learning_rate=3e-3, max_chunks=1, **switches))


def test_the_repaired_model_has_the_lowest_loss_of_the_curve(folder, tmp_path):
    ttt = _ttt(folder)
    before = ttt.lm.weight_hash()
    found = repair(ttt, TRAIN, LINES, tmp_path / "out", every=8, patience=2, most=96)
    assert ttt.lm.weight_hash() == before, "the model given is left as it was"
    bits = [each for *_, each in found["curve"]]
    repaired = load_model(tmp_path / "out" / "model")
    total = sum((score(repaired, line) for line in LINES[1:]), score(repaired, LINES[0]))
    assert total.bits_per_byte == pytest.approx(min(bits), abs=1e-6)
    assert min(bits) < 0.8 * bits[0]
    assert found["end"] in ("flat", "most")


@pytest.mark.parametrize("switches", [{}, {"precision": "bfloat16", "buckets": True}])
def test_an_interrupted_repair_ends_with_the_same_bytes(folder, tmp_path, monkeypatch, switches):
    whole = repair(_ttt(folder, **switches), TRAIN, LINES, tmp_path / "whole", every=8, patience=2, most=40)

    class Stopped(Exception):
        pass

    looked, look = [], room._look

    def stop(*args):
        look(*args)
        looked.append(1)
        if len(looked) == 3:
            raise Stopped

    monkeypatch.setattr(room, "_look", stop)
    with pytest.raises(Stopped):
        repair(_ttt(folder, **switches), TRAIN, LINES, tmp_path / "cut", every=8, patience=2, most=40)
    monkeypatch.setattr(room, "_look", look)
    cut = repair(_ttt(folder, **switches), TRAIN, LINES, tmp_path / "cut", every=8, patience=2, most=40)
    assert cut == whole
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("cut", "whole")]
    assert weights[0] == weights[1]
    assert repair(_ttt(folder, **switches), TRAIN, LINES, tmp_path / "cut", every=8, patience=2, most=40) == whole


def test_a_repair_on_other_texts_is_refused_finished_or_not(folder, tmp_path, monkeypatch):
    def run(out, train=TRAIN, validation=LINES):
        return repair(_ttt(folder), train, validation, tmp_path / out, every=8, most=8)

    run("finished")
    with monkeypatch.context() as patch:
        patch.setattr(room, "_export", lambda ttt, out: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            run("begun")
    swapped = [LINES[0], *TRAIN[1:]], [TRAIN[0], *LINES[1:]]
    for out in ("finished", "begun"):
        for train, validation in ((TRAIN[::-1], LINES), (TRAIN, LINES[::-1]), swapped):
            with pytest.raises(ParameterError, match="other SHA-256 of all texts; give another folder"):
                run(out, train, validation)
    assert run("begun")["curve"] == run("finished")["curve"]


def test_a_repair_that_diverges_ends_with_the_weights_from_before(folder, tmp_path):
    ttt = TTT(load_model(folder, threads=1), switches=Switches(learning_rate=1e30, max_chunks=1))
    found = repair(ttt, TRAIN, LINES, tmp_path / "out", every=2, patience=2, most=16)
    bits = [each for *_, each in found["curve"]]
    assert found["end"] == "flat" and bits[0] > 0 and bits[1:] == [None, None]
    assert load_model(tmp_path / "out" / "model").weight_hash() == ttt.lm.weight_hash()
    assert repair(ttt, TRAIN, LINES, tmp_path / "out", every=2, patience=2, most=16) == found


def test_a_text_that_is_trained_on_is_not_looked_at(folder, tmp_path):
    with pytest.raises(ParameterError, match=r"validation: this text is trained on as well; .*lazy dog"):
        repair(_ttt(folder), [*TRAIN, LINES[0]], LINES, tmp_path / "out", every=8)
    assert not (tmp_path / "out").exists()


def test_a_flat_curve_ends_it():
    assert not room._flat([(0, 0, 2.0), (8, 8, 1.5), (16, 16, 1.4)], 2)
    assert room._flat([(0, 0, 2.0), (8, 8, 1.4), (16, 16, 1.5), (24, 24, 1.4)], 2)


@pytest.mark.parametrize("switches", [{"train": "queries"}, {"lora": 2}])
def test_parts_of_the_weights_and_adapters_are_refused(folder, tmp_path, switches):
    name = next(iter(switches))
    with pytest.raises(ParameterError, match=f"{name}=.*: repair trains all weights; leave {name} out"):
        repair(_ttt(folder, **switches), TRAIN, LINES, tmp_path / "out", every=8, most=8)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_repair_and_too_few_texts_are_refused(folder, tmp_path):
    repair(_ttt(folder), TRAIN, LINES, tmp_path / "out", every=8, most=8)
    with pytest.raises(ParameterError, match="other every"):
        repair(_ttt(folder), TRAIN, LINES, tmp_path / "out", every=4, most=8)
    with pytest.raises(ParameterError, match="every=0: must be at least 1"):
        repair(_ttt(folder), TRAIN, LINES, tmp_path / "none", every=0)
    with pytest.raises(ParameterError, match="every=8: there are 5 texts"):
        repair(_ttt(folder), TRAIN[:5], LINES, tmp_path / "few", every=8)
