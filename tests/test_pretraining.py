"""The recipe: settings, held-out text, order of the data, loss, interruption, and the model card."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tttnn.corpus import Document, read_jsonl, write_jsonl
from tttnn.corpus.reasoning import PROBLEMS, solutions, write_solutions
from tttnn.errors import ParameterError
from tttnn.files import read_json, write_json
from tttnn.models import load_model
from tttnn.pretraining import (
    HeldOutError,
    Settings,
    SettingsError,
    load_settings,
    pretrain,
    validate,
)
from tttnn.pretraining import data as data_module
from tttnn.pretraining import train as train_module
from tttnn.pretraining.card import keep_sweep
from tttnn.pretraining.data import (
    Windows,
    cache_tokens,
    held_out_files,
    locate,
    make_tokenizer,
    split_of,
    training_files,
)
from tttnn.pretraining.settings import Source, TokenizerSettings
from tttnn.pretraining.train import build_model, learning_rate
from tttnn.pretraining.validation import read_validation, validate_model

SHIPPED = sorted(Path(train_module.__file__).with_name("settings").glob("*.json"))
GPT2 = {"model_type": "gpt2", "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
QWEN2 = {
    "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
}  # fmt: skip
NEO = {
    "model_type": "gpt_neo", "hidden_size": 16, "num_layers": 1, "num_heads": 2,
    "max_position_embeddings": 16, "attention_types": [[["global"], 1]],
}  # fmt: skip
ROBERTA = {
    "model_type": "roberta", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 18, "type_vocab_size": 1,
}  # fmt: skip


def sentences(seed: int, count: int) -> list[str]:
    """Texts with a little structure, so that a small model learns something."""
    words = random.Random(seed)
    nouns, verbs = ["the cat", "a dög", "our house", "the 海"], ["sees", "likes", "hears"]
    return [
        ". ".join(f"{words.choice(nouns)} {words.choice(verbs)} {words.choice(nouns)}" for _ in range(12)) + f" {i}"
        for i in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for split, seed, count in (("train", 1, 40), ("val", 2, 4), ("test", 3, 4)):
        documents = [Document(text, {"license": "CC0-1.0"}) for text in sentences(seed, count)]
        write_jsonl(root / f"toy.{split}.jsonl.gz", documents)
    return root


def tiny(**changes: object) -> Settings:
    values = {
        "name": "tiny",
        "about": "A model for a test.",
        "architecture": GPT2,
        "context": 16,
        "train": [Source("toy", ["toy.train.jsonl.gz"], "invented sentences")],
        "validation": [Source("toy", ["toy.val.jsonl.gz"], documents=2, tokens=64)],
        "tokenizer": TokenizerSettings(entries=300, every=1),
        "tokens": 12 * 64,
        "batch_tokens": 64,
        "micro_batch": 2,
        "learning_rate": 1e-2,
        "warmup_tokens": 128,
        "validations": 2,
        "final_documents": 3,
    }
    return Settings(**(values | changes))


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


# Settings


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_settings_load_and_name_only_train_files(path: Path) -> None:
    settings = load_settings(path.stem)
    assert settings.name == path.stem
    for pattern in [each for source in settings.train for each in source.files] + settings.tokenizer.extra:
        assert split_of(Path(pattern)) == "train"
    for pattern in [each for source in settings.validation for each in source.files]:
        assert split_of(Path(pattern)) == "val"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_architectures_have_the_size_of_their_rung(path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = load_settings(path)
    with torch.device("meta"):
        config = AutoConfig.for_model(**settings.architecture, vocab_size=settings.tokenizer.entries)
        model = AutoModelForCausalLM.from_config(config)
    rungs = {"xxs": (1e6, 2e6), "xs": (2e6, 4e6), "s": (8e6, 10e6), "m": (20e6, 25e6)}
    least, most = rungs[settings.name.split("-")[1]]
    assert least <= sum(parameter.numel() for parameter in model.parameters()) <= most


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rat": 1}, "learning_rat"),
        ({"tokenizer": {"entrys": 1}}, "entrys"),
        ({"train": [{"domain": "a", "files": [], "colour": 1}]}, r"train\[0\].*colour"),
        ({"train": [{"domain": "a"}]}, "files"),
        ({"train": []}, "train"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": "many"}, "tokens must be int, not 'many'"),
        ({"batch_tokens": 100}, "batch_tokens"),
        ({"precision": "float8"}, "precision"),
        ({"objective": "masked"}, "objective"),
        ({"architecture": {}}, "model_type"),
        ({"warmup_tokens": 10**9}, "warmup_tokens"),
    ],
)
def test_bad_settings_are_named_with_their_file(tmp_path: Path, change: dict, named: str) -> None:
    path = tmp_path / "bad.json"
    write_json(path, json.loads(json.dumps(dataclasses.asdict(tiny()))) | change)
    with pytest.raises(SettingsError, match=rf"bad\.json.*{named}"):
        load_settings(path)


def test_unknown_settings_name_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="gpt2-xs-general"):
        load_settings("no-such-model")


def test_learning_rate_warms_up_peaks_and_ends_at_its_floor() -> None:
    settings = tiny(tokens=64 * 1000, warmup_tokens=64 * 10, final_fraction=0.1)
    rates = [learning_rate(settings, step) for step in range(settings.steps)]
    assert 0 < rates[0] < rates[5] < rates[10] == max(rates) == settings.learning_rate
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1 * settings.learning_rate, rel=1e-3)


# Held-out text


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("a/enron.train.jsonl.gz", "train"),
        ("a/general.train.00.jsonl.gz", "train"),
        ("pile/train/00.jsonl.zst", "train"),
        ("pile/val.jsonl.zst", "val"),
        ("a/enron.test.jsonl", "test"),
        ("a/enron.jsonl", ""),
        ("a/val.train.jsonl", ""),  # the name says both: not trusted
        ("train/enron.test.jsonl", ""),
    ],
)
def test_split_of(path: str, split: str) -> None:
    assert split_of(Path(path)) == split


@given(st.lists(st.text()), st.lists(st.text()))
def test_exactly_the_shared_texts_are_refused(train: list[str], heldout: list[str]) -> None:
    hashes = {data_module._hash(text) for text in heldout}
    shared = set(train) & set(heldout)
    with pytest.raises(HeldOutError, match=r"a\.jsonl: this training text") if shared else nullcontext():
        data_module._refuse_known(train, hashes, Path("a.jsonl"))


@pytest.mark.parametrize(
    ("values", "named"),
    [({"device": "gpu"}, "device='gpu'"), ({"device": ""}, "device=''"), ({"threads": 0}, "threads=0")],
)
def test_where_it_computes_is_checked_before_anything_is_read(tmp_path: Path, values: dict, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        pretrain(tiny(), tmp_path / "nothing", tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["toy.val.jsonl.gz", "toy.test.jsonl.gz", "toy.*.jsonl.gz"])
def test_held_out_files_are_refused_by_name(data: Path, name: str) -> None:
    with pytest.raises(HeldOutError, match=r"toy\.(val|test)"):
        training_files([name], data)


def test_held_out_files_are_found_behind_links(data: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "elsewhere" / "far.test.jsonl", [Document("x", {})])
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    names = {path.name for path in held_out_files(data)}
    assert names == {"toy.val.jsonl.gz", "toy.test.jsonl.gz", "far.test.jsonl"}


@pytest.mark.parametrize("path", ["/etc/passwd", "../toy.train.jsonl.gz", "a/../../*.train.jsonl.gz", "**/../x", ""])
def test_paths_that_lead_out_of_the_data_are_refused(data: Path, path: str) -> None:
    shutil.copy(data / "toy.train.jsonl.gz", data.parent)
    for find in (lambda: training_files([path], data), lambda: locate(path, data)):
        with pytest.raises(ParameterError, match="relative to --data and stay below it"):
            find()
    with pytest.raises(ParameterError, match="no pattern of files"):
        training_files(["**.gz/a"], data)


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_texts_are_refused_by_hash(data: Path, tmp_path: Path, split: str) -> None:
    # A held-out text under a train file's name, and in another folder: only its hash can tell.
    leaked = sentences({"val": 2, "test": 3}[split], 4)[-1]
    write_jsonl(data / "more" / "leak.train.jsonl", [Document("harmless", {}), Document(leaked, {})])
    settings = tiny(train=[Source("toy", ["toy.train.jsonl.gz"]), Source("leak", ["more/leak.train.jsonl"])])
    with pytest.raises(HeldOutError, match=r"more/leak\.train\.jsonl: .*validation or test"):
        pretrain(settings, data, tmp_path / "run", "cpu", 1)
    assert not (tmp_path / "run" / "tokens.npy").exists()


def test_missing_file_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        pretrain(tiny(train=[Source("toy", ["absent.train.jsonl"])]), data, tmp_path / "run", "cpu", 1)


# Tokens and their order


@given(st.integers(40, 400), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9))
def test_windows_are_a_function_of_seed_and_step_and_disjoint_in_an_epoch(
    count: int, context: int, batch: int, seed: int
) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    windows, again = (Windows(tokens, context, batch, seed) for _ in range(2))
    steps = windows.per_epoch // batch
    forward = [windows[step] for step in range(steps + 2)]
    for step in reversed(range(steps + 2)):
        assert np.array_equal(forward[step], again[step])
    assert all(rows.shape == (batch, context + 1) for rows in forward)
    assert all((np.diff(rows) == 1).all() for rows in forward)  # text in its order, targets one ahead
    inputs = np.concatenate([rows[:, :-1].ravel() for rows in forward[:steps]] or [np.empty(0)])
    assert len(np.unique(inputs)) == len(inputs)


def test_another_seed_is_another_order() -> None:
    tokens = np.arange(10_000, dtype=np.uint16)
    assert not np.array_equal(Windows(tokens, 8, 4, seed=1)[0], Windows(tokens, 8, 4, seed=2)[0])


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer than two windows"):
        Windows(np.arange(20, dtype=np.uint16), 16, 1, 0)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("bpe")
    write_jsonl(root / "toy.train.jsonl", [Document(text, {}) for text in sentences(1, 20)])
    source = [Source("toy", ["toy.train.jsonl"])]
    return make_tokenizer(TokenizerSettings(entries=300, every=1), source, root, root / "tokenizer.json")


@given(text=st.text())
def test_tokenizer_round_trips_any_text(bpe, text: str) -> None:
    assert bpe.decode(bpe.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_validation_counts_the_bytes_of_the_tokens_it_scores(bpe, tmp_path: Path, cut: int) -> None:
    texts = ["naïve 海 café 🦆🦆", "plain text " * 20]
    write_jsonl(tmp_path / "toy.val.jsonl", [Document(text, {}) for text in texts])
    found = read_validation(Source("toy", ["toy.val.jsonl"], documents=2, tokens=cut), tmp_path, bpe, tiny())
    ids = [bpe.encode(text).ids[:cut] for text in texts]
    assert (found.targets >= 0).sum() == sum(map(len, ids))
    whole = cut >= max(len(bpe.encode(text).ids) for text in texts)
    limit = sum(len(text.encode()) for text in texts)
    assert found.size == limit if whole else 0 < found.size < limit


def cutting(tokenizer) -> None:
    tokenizer.enable_truncation(8)


def padding(tokenizer) -> None:
    tokenizer.enable_padding(length=500, pad_id=1)


def beginning(tokenizer) -> None:
    from tokenizers import processors

    begin = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[begin])


@pytest.mark.parametrize("change", [cutting, padding, beginning], ids=lambda change: change.__name__)
def test_a_tokenizer_that_cuts_pads_or_adds_reads_the_text_itself(bpe, data: Path, tmp_path: Path, change) -> None:
    """Files of finished models do so by themselves; what is trained on and measured is the whole text alone."""
    plain, odd = tmp_path / "plain.json", data / "odd.json"
    bpe.save(str(plain))
    changed = type(bpe).from_file(str(plain))
    change(changed)
    changed.save(str(odd))
    copied = make_tokenizer(TokenizerSettings(file="odd.json"), [], data, tmp_path / "tokenizer.json")
    settings = tiny(tokenizer=TokenizerSettings(file="odd.json"))
    tokens = [
        cache_tokens(settings, data, each, plain, tmp_path / name)[0]
        for each, name in ((copied, "odd"), (bpe, "plain"))
    ]
    assert np.array_equal(*tokens)
    model = build_model(settings, data, bpe)
    assert validate_model(model, settings, data, odd) == validate_model(model, settings, data, plain)


# The whole run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", [GPT2, QWEN2 | {"tie_word_embeddings": True}, QWEN2, NEO])
def test_every_architecture_learns(data: Path, tmp_path: Path, architecture: dict, precision: str) -> None:
    settings = tiny(architecture=architecture, precision=precision, tokens=40 * 64)
    figures = pretrain(settings, data, tmp_path / "run", "cpu", 1)
    before = figures["curve"][0]["validation_bits_per_byte"]["toy"]
    assert figures["validation_bits_per_byte"]["toy"] < 0.8 * before


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the run die in the middle of a step, before the optimizer moves."""
    real = train_module.learning_rate

    def dying(settings: Settings, current: int) -> float:
        if current == step:
            raise Killed
        return real(settings, current)

    monkeypatch.setattr(train_module, "learning_rate", dying)


CAUSAL = tiny(architecture=GPT2 | {"resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1})


@pytest.mark.parametrize(("started", "kills"), [(CAUSAL, [1]), (CAUSAL, [7]), (CAUSAL, [3, 4, 11])])
def test_killed_and_resumed_run_ends_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Settings, kills: list[int]
) -> None:
    settings = dataclasses.replace(started, checkpoint_minutes=1e-9)  # a checkpoint after every step
    whole = pretrain(settings, data, tmp_path / "whole", "cpu", 1)
    real = train_module.save_checkpoint

    def every_other(path: Path, model, optimizer, counters: dict) -> None:
        if counters["step"] % 2 == 0:  # so that a kill also loses steps
            real(path, model, optimizer, counters)

    monkeypatch.setattr(train_module, "save_checkpoint", every_other)
    for step in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step)
            pretrain(settings, data, tmp_path / "killed", "cpu", 1)
    resumed = pretrain(settings, data, tmp_path / "killed", "cpu", 1)
    state = [(tmp_path / run / "state.safetensors").read_bytes() for run in ("whole", "killed")]
    tensors = [torch_state(each) for each in state]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert weights_hash(tmp_path / "whole") == weights_hash(tmp_path / "killed")
    assert resumed["curve"] == whole["curve"]  # nothing logged twice


def torch_state(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


def test_failed_checkpoint_leaves_the_last_one(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    settings = tiny(checkpoint_minutes=1e-9)
    real, calls = safetensors.torch.save_file, []

    def full_disk(tensors: dict, path: Path, metadata: dict) -> None:
        calls.append(path)
        if len(calls) == 4:
            Path(path).write_bytes(b"half a file")
            raise OSError("no space left on device")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        pretrain(settings, data, tmp_path / "run", "cpu", 1)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "state.safetensors",
        "tokens.npy",
        "data.json",
        "tokenizer.json",
        "settings.json",
        "log.jsonl",
        "lock",
    }
    assert pretrain(settings, data, tmp_path / "run", "cpu", 1)["steps"] == settings.steps
    assert len(calls) > 4


def test_finished_run_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pretrain(tiny(), data, tmp_path / "run", "cpu", 1)
    monkeypatch.setattr(train_module.Run, "_step", lambda *_: pytest.fail("a step was taken"))
    assert pretrain(tiny(), data, tmp_path / "run", "cpu", 1) == first


def test_a_sweep_survives_a_finished_run_that_is_called_again(data: Path, tmp_path: Path) -> None:
    """Its rate is the model's; without it the model would adapt at GPT-2's, without a word."""
    call = (tiny(), data, tmp_path / "run", "cpu", 1)
    pretrain(*call)
    folder = tmp_path / "run" / "model"
    ratios = {"0.002": {"0": 1.0, "1": 0.9}, "0.001": {"0": 1.0, "1": 0.95}}
    sweep = {"weights": load_model(folder).weight_hash(), "corpus": "toy", "corpus_fingerprint": "a", "split": "val",
             "documents": 2, "per_domain": 2, "max_bytes": None, "seed": 1, "max_chunks": None, "ks": [0, 1],
             "ratio_to_k0": ratios}  # fmt: skip
    keep_sweep(folder, sweep)
    card = (folder / "README.md").read_text(encoding="utf-8")
    pretrain(*call)
    assert load_model(folder).settings.learning_rate == 0.002
    assert (folder / "README.md").read_text(encoding="utf-8") == card and "0.9000" in card


@pytest.mark.parametrize("name", ["toy.train.jsonl.gz", "held.jsonl.gz", "toy.validation.jsonl.gz"])
def test_training_text_is_no_validation_text(data: Path, tmp_path: Path, name: str) -> None:
    """Whatever its file is called: the card would say that the figure is of text that was not trained on."""
    if not (data / name).exists():
        shutil.copy(data / "toy.train.jsonl.gz", data / name)
    settings = tiny(validation=[Source("toy", [name], documents=2, tokens=64)])
    with pytest.raises(
        HeldOutError, match=r"toy\.train\.jsonl\.gz: this training text is in a validation or test file"
    ):
        pretrain(settings, data, tmp_path / "run", "cpu", 1)


def test_files_without_documents_are_named(data: Path, tmp_path: Path) -> None:
    write_jsonl(data / "none.train.jsonl", [])
    write_jsonl(data / "none.val.jsonl", [])
    train = [Source("toy", ["toy.train.jsonl.gz"]), Source("none", ["none.train.jsonl"])]
    with pytest.raises(SettingsError, match=r"train: .*none\.train\.jsonl hold no document"):
        pretrain(tiny(train=train), data, tmp_path / "run", "cpu", 1)
    empty = [Source("none", ["none.val.jsonl"], documents=2, tokens=64)]
    with pytest.raises(SettingsError, match=r"validation: none\.val\.jsonl of none hold no document"):
        pretrain(tiny(validation=empty), data, tmp_path / "other", "cpu", 1)


def test_a_tokenizer_whose_tokens_do_not_tell_their_bytes_is_refused(data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), *((each, -1.0) for each in "▁abcdefghijklmnopqrstuvwxyz")], 0)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>"])
    tokenizer.save(str(data / "pieces.json"))
    with pytest.raises(SettingsError, match=r"tokenizer\.file: pieces\.json is not byte-level"):
        pretrain(tiny(tokenizer=TokenizerSettings(file="pieces.json")), data, tmp_path / "run", "cpu", 1)


def test_a_start_whose_tokens_are_others_is_refused(data: Path, tmp_path: Path) -> None:
    """Each row of its embeddings would stand for another token."""
    write_jsonl(data / "other.train.jsonl", [Document("QJXZ WKVY " * 20 + text, {}) for text in sentences(9, 40)])
    other = tiny(train=[Source("other", ["other.train.jsonl"])])
    pretrain(other, data, data / "first", "cpu", 1)
    with pytest.raises(SettingsError, match=r"init: .*first/model/tokenizer\.json has other tokens than this run"):
        pretrain(tiny(init=["first/model"]), data, tmp_path / "second", "cpu", 1)


def test_run_folder_of_other_settings_or_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    pretrain(tiny(), data, tmp_path / "run", "cpu", 1)
    with pytest.raises(SettingsError, match="seed"):
        pretrain(tiny(seed=7), data, tmp_path / "run", "cpu", 1)
    better = tiny(about="Better words.")
    pretrain(better, data, tmp_path / "run", "cpu", 1)  # words may change
    assert "Better words." in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    write_jsonl(data / "toy.train.jsonl.gz", [Document(text, {}) for text in sentences(9, 40)])
    with pytest.raises(SettingsError, match="data changed"):
        pretrain(tiny(), data, tmp_path / "run", "cpu", 1)


def test_run_starts_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    first = pretrain(tiny(), data, data / "first", "cpu", 1)
    reuse = TokenizerSettings(file="first/model/tokenizer.json")
    settings = tiny(init=["first/model"], tokenizer=reuse, learning_rate=1e-9, final_documents=2)
    second = pretrain(settings, data, tmp_path / "second", "cpu", 1)
    start = second["curve"][0]["validation_bits_per_byte"]["toy"]
    assert start == pytest.approx(second["validation_bits_per_byte"]["toy"], abs=1e-4)
    assert start < 0.9 * first["curve"][0]["validation_bits_per_byte"]["toy"]
    assert (tmp_path / "second/model/tokenizer.json").read_bytes() == (data / "first/model/tokenizer.json").read_bytes()
    wider = dataclasses.replace(settings, architecture=GPT2 | {"n_embd": 32})
    with pytest.raises(SettingsError, match="init"):
        pretrain(wider, data, tmp_path / "third", "cpu", 1)


def test_run_starts_from_the_mean_of_checkpoints(data: Path) -> None:
    tokenizer = make_tokenizer(tiny().tokenizer, tiny().train, data, data / "tokenizer.json")
    shared = {"tokenizer": TokenizerSettings(file="tokenizer.json")}
    models = [build_model(tiny(seed=seed, **shared), data, tokenizer) for seed in (1, 2)]
    for number, model in enumerate(models):
        model.save_pretrained(data / f"start-{number}")
    mean = build_model(tiny(init=["start-0", "start-1"], **shared), data, tokenizer)
    for found, *parts in zip(*(model.parameters() for model in (mean, *models)), strict=True):
        assert torch.equal(found, (parts[0] + parts[1]) / 2)
    with pytest.raises(SettingsError, match="init must be a list"):
        tiny(init="start-0")


def test_model_folder_loads_and_its_card_tells_the_run(data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = pretrain(tiny(), data, tmp_path / "run", "cpu", 1)
    folder = tmp_path / "run" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert tokenizer.decode(tokenizer("the 海 sees").input_ids) == "the 海 sees"
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    assert read_json(folder / "training.json") == figures
    again = validate(load_settings(folder / "settings.json"), data, folder)
    assert again == pytest.approx(figures["validation_bits_per_byte"], abs=1e-6)
    card = (folder / "README.md").read_text(encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for wanted in (
        f"{parameters:,}",
        f"{again['toy']:.4f}",
        "CC0-1.0 (40)",
        "768 in 12 steps",
        "1216",
        "--threads 1",
    ):
        assert wanted in card
    assert str(tmp_path) not in card + (folder / "training.json").read_text() + (folder / "config.json").read_text()
    assert figures["data"]["held_out_texts_compared"] == 8


def test_an_encoder_is_refused(data: Path, bpe) -> None:
    """Transformers builds a causal language model of any encoder, which then sees what it has to predict."""
    with pytest.raises(SettingsError, match="a roberta model sees the tokens that follow; take a decoder"):
        build_model(tiny(architecture=ROBERTA), data, bpe)


SCALED = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "cohere"},
        {"model_type": "granite", "logits_scaling": 8.0},
        {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 30.0},
    ],
    ids=lambda architecture: architecture["model_type"],
)
def test_scaled_and_capped_logits_are_refused(data: Path, bpe, architecture: dict) -> None:
    """The loss applies the head to hidden states itself, and no other command would take the model either."""
    with pytest.raises(SettingsError, match=f"architecture: a {architecture['model_type']} model scales or caps"):
        build_model(tiny(architecture=SCALED | architecture), data, bpe)


def test_logits_that_could_be_scaled_and_are_not_are_taken(data: Path, bpe) -> None:
    build_model(tiny(architecture=SCALED | {"model_type": "granite", "logits_scaling": 1.0}), data, bpe)


def test_settings_of_before_with_an_objective_are_read(tmp_path: Path) -> None:
    """Files of models that are there already name the only objective."""
    old = json.loads(json.dumps(dataclasses.asdict(tiny()))) | {"objective": "causal", "masked_share": 0.15}
    write_json(tmp_path / "settings.json", old)
    assert load_settings(tmp_path / "settings.json") == tiny()


def test_same_seed_same_start(data: Path, bpe) -> None:
    first, second, other = (build_model(tiny(seed=seed), data, bpe).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_training_process_needs_no_retrieval_or_chart_library() -> None:
    heavy = ["zstandard", "faiss", "sklearn", "pandas", "pyarrow", "altair", "typer", "rich", "matplotlib"]
    code = f"import sys, tttnn.pretraining; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Worked solutions


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
@given(seed=st.integers(0, 10**6))
def test_worked_solutions_are_right(kind, seed: int) -> None:
    question, working, answer = kind(random.Random(seed))
    numbers = [int(each) for each in re.findall(r"-?\d+", question)]
    calculated = {
        "addition": lambda: str(numbers[0] + numbers[1]),
        "multiplication": lambda: str(numbers[0] * numbers[1]),
        "greatest_common_divisor": lambda: str(math.gcd(*numbers)),
        "fraction_sum": lambda: str(Fraction(numbers[0], numbers[1]) + Fraction(numbers[2], numbers[3])),
        "sorting": lambda: ", ".join(map(str, sorted(numbers))),
    }
    if kind.__name__ in calculated:
        assert answer == calculated[kind.__name__]()
    elif kind.__name__ == "linear_equation":
        a, b, c, d = numbers
        assert a * int(answer) + b == c * int(answer) + d
    elif kind.__name__ == "prime_factors":
        factors = [int(each) for each in answer.split(", ")]
        assert math.prod(factors) == numbers[0]
        assert all(n > 1 and all(n % m for m in range(2, math.isqrt(n) + 1)) for n in factors)
    else:
        formula = question.removeprefix("Let f(x) = ").partition(". What")[0]
        assert int(answer) == eval(formula, {"x": numbers[-1]})
    # Every equation in the working holds.
    for left, right in re.findall(r"([-\d(][-\d +*/()]*) = (-?\d+)(?=[.:,])", " ; ".join(working)):
        if "/" not in left:
            assert eval(left) == int(right), (left, right)


def test_worked_solutions_end_when_a_kind_has_run_out(monkeypatch) -> None:
    five = (lambda rng: (f"What is {rng.randint(1, 5)}?", [], "1"),)
    monkeypatch.setattr("tttnn.corpus.reasoning.PROBLEMS", five)
    with pytest.raises(ValueError, match="no more than 5 problems"):
        list(solutions(6))


def test_worked_solutions_are_split_without_overlap(tmp_path: Path) -> None:
    counts = write_solutions(tmp_path, 400)
    assert counts == {"val": 8, "test": 8, "train": 384}
    found = {name: [d.text for d in read_jsonl(tmp_path / f"solutions.{name}.jsonl.gz")] for name in counts}
    held_out = set(found["val"] + found["test"])
    assert len(held_out) == 16 and held_out.isdisjoint(found["train"])
    assert all("<think>" in text and text.count("</think>") == 1 for text in found["train"])
    assert len(set(found["train"])) == 384
    again = tmp_path / "again"
    write_solutions(again, 400)
    assert [d.text for d in read_jsonl(again / "solutions.train.jsonl.gz")] == found["train"]


def test_special_tokens_of_a_reasoning_tokenizer_are_single(tmp_path: Path) -> None:
    write_solutions(tmp_path, 200)
    special = ["<|endoftext|>", "<|User|>", "<|Assistant|>", "<think>", "</think>"]
    settings = TokenizerSettings(entries=400, every=1, special=special)
    source = [Source("reasoning", ["solutions.train.jsonl.gz"])]
    tokenizer = make_tokenizer(settings, source, tmp_path, tmp_path / "tokenizer.json")
    assert [tokenizer.token_to_id(token) for token in special] == [0, 1, 2, 3, 4]
    text = next(iter(read_jsonl(tmp_path / "solutions.val.jsonl.gz"))).text
    ids = tokenizer.encode(text).ids
    assert [i for i in ids if i < 5] == [1, 2, 3, 4]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
