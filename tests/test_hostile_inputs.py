"""Random arguments, settings, models, texts and rows: each is used as it is, or refused by the parameter or the file.

Whatever is raised besides the package's own errors is a fault of the program.
"""

import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import few, part
from hypothesis import example, given
from hypothesis import strategies as st
from test_cli import tiny_settings
from test_experiment import DOCUMENTS, ttt  # noqa: F401
from test_hostile_files import _changed, _places
from tiny import LINES, tiny_gpt2, tiny_llama

import tttnn.device
from tttnn.__main__ import main
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.errors import ParameterError, TTTNNError
from tttnn.experiment import read_rows, run
from tttnn.files import write_json
from tttnn.models import TTTSettings, load_model
from tttnn.models.model_registry import SWEEP
from tttnn.pretraining.settings import SettingsError, load_settings, settings_as_json
from tttnn.retrieval import open_retriever
from tttnn.rows import JOURNAL, TABLE, read_journal
from tttnn.scoring import score
from tttnn.ttt import TTT, Switches


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus with its index, two models, a text."""
    folder = tmp_path_factory.mktemp("hostile")
    for split, size in {"train": 12, "val": 2, "test": 2}.items():
        texts = [f"{LINES[number % len(LINES)]} {split} {number}" for number in range(size)]
        write_jsonl(folder / "corpus" / f"lines.{split}.jsonl", [Document(text, {}) for text in texts])
    tiny_gpt2(folder / "model")
    tiny_llama(folder / "llama")
    write_json(folder / "recipe.json", settings_as_json(tiny_settings()))
    (folder / "text.txt").write_text(LINES[0], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TQDM_DISABLE", "1")
        patch.setenv("TTTNN_DEBUG", "1")  # so that what is raised is seen
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(logging, "basicConfig", lambda **named: None)
        patch.setattr("tttnn.__main__.typer.echo", lambda *said, **named: None)
        patch.setattr("psutil.cpu_percent", lambda seconds: 0.0)  # a second of waiting
        patch.setattr(tttnn.device, "use_threads", lambda threads: None)
        open_retriever(open_corpus(str(folder / "corpus")), "lexical")
        yield folder


@pytest.fixture(scope="module")
def lm(place):
    return load_model(place / "model")


@pytest.fixture(scope="module")
def retriever(place):
    return open_retriever(open_corpus(str(place / "corpus")), "lexical")


# Arguments

WRONG_TEXTS = st.sampled_from(
    ["", " ", "0", "-1", "1.5", "1e400", "nan", "9" * 30, "true", "[]", "None", "a b", "ä", "\udcff", ",", "0,0", "/"]
) | st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=6)
LOOP = ["model", "corpus", "embedder", "seed", "device", "threads", "max-chunks", "precision", "prefix"]
DRAWN = ["domain", "per-domain", "max-bytes", "split", "ks"]
OPTIONS = {
    "run": [*LOOP, *DRAWN, "learning-rate", "dropout", "context", "vocabulary", "weights", "ranks", "lora", "strategy",
            "method", "out"],
    "sweep": [*LOOP, *DRAWN[1:3], "ks", "rates", "out"],
    "evaluate": [*LOOP, "k", "learning-rate", "strategy"],
    "variants": [*LOOP, *DRAWN, "out"],
    "cost": [*LOOP, *DRAWN, "sample", "lora"],
    "index build": ["corpus", "embedder", "kind", "device"],
    "index plan": ["dimension", "kind", "machines"],
    "pretrain": ["data", "out", "device", "threads"],
    "repair": ["model", "learning-rate", "max-chunks", "precision", "every", "most", "looked-at", "seed", "threads",
               "device", "out"],
    "corpus": [], "index verify": [], "fetch": [],
}  # fmt: skip
OPTIONS["sweep"].remove("precision")
GOOD = {
    "run": ["--ks", "0,1", "--per-domain", "1", "--max-chunks", "1"],
    "sweep": ["--ks", "0,1", "--per-domain", "1", "--max-chunks", "1", "--rates", "1e-3"],
    "evaluate": ["--k", "1", "--max-chunks", "1", "TEXT"],
    "variants": ["--ks", "0,1", "--per-domain", "1", "--max-chunks", "1", "in-context-0.5"],
    "cost": ["--ks", "0,1", "--per-domain", "1", "--max-chunks", "1"],
    "index build": [], "index plan": ["1000"], "corpus": [], "index verify": [], "fetch": [],
    "pretrain": ["RECIPE", "--data", "CORPUS"],
    "repair": ["TRAIN", "TRAIN", "--every", "2", "--most", "2", "--looked-at", "1"],
}  # fmt: skip
FREE = ["TEXT", "RECIPE", "TRAIN", "1000"]  # arguments, which an odd one may replace


@st.composite
def command_lines(draw):
    """A command that would do, but for an option or argument with an odd value or two: the line, and these values."""
    command = draw(st.sampled_from(sorted(GOOD)))
    known = ["lines", "lexical", "random", "nearest", "2", "1", "0,1", "flat", "dynamic:8"]
    values = WRONG_TEXTS | st.sampled_from(known)
    takes = OPTIONS[command]
    line = [*command.split(), *GOOD[command]]
    for name in ("model", "corpus", "out"):
        line += [f"--{name}", name.upper()] if name in takes else []
    odd = {}
    for _ in range(draw(st.integers(0 if takes else 1, 2))):
        value = draw(values)
        if takes and draw(st.integers(0, 3)):
            name = draw(st.sampled_from(takes))
            line.append(f"--{name}={value}")
        else:
            place = next((place for place, each in enumerate(line) if each in FREE), len(line))
            name = "documents" if line[place:] == ["1000"] else "argument"
            line[place : place + 1] = [value]
        odd.setdefault(name, []).append(value)
    return line, odd


def _shown(value):
    """As what a value may stand in a message; nothing, as a path, is where one is."""
    return (value, repr(value), ascii(value)) if value else ("''", "'.'", "in . (")


def _blamed(message, odd):
    """Whether a message is about an odd value: names its parameter, or shows it (that of an argument or path)."""
    shown = message.replace("-", "_")
    return any(
        name.replace("-", "_") in shown or any(form in message for form in _shown(value))
        for name, values in odd.items()
        for value in values
    )


@part
@given(command_lines())
def test_command_lines(place, drawn):
    line, odd = drawn
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        given_ = {"MODEL": place / "model", "CORPUS": place / "corpus", "TEXT": place / "text.txt"}
        given_ |= {"TRAIN": place / "corpus" / "lines.train.jsonl", "RECIPE": place / "recipe.json"}
        given_["OUT"] = Path(folder) / "o"
        patch.chdir(folder)
        odd = {name: [*values, folder] for name, values in odd.items()}  # where "" and "." lead
        patch.setenv("COLUMNS", "1000")
        patch.setattr(sys, "argv", ["tttnn", *(str(given_.get(each, each)) for each in line)])
        try:
            main()
        except SystemExit as end:
            assert end.code in (None, 0, 2), line
            assert not end.code or _blamed(said.getvalue(), odd), (line, said.getvalue())
        except (TTTNNError, OSError) as error:
            assert _blamed(str(error), odd), (line, str(error))


# Settings

NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 1e-300, 1e300, 10**30, 0.5, math.inf, math.nan, True]) | st.floats()
VALUES = NUMBERS | st.sampled_from([None, "", "1", "2e-5", "bos", "eos", "float32", "bfloat16", "true", "False", "x"])
ODD = VALUES | st.sampled_from([[], {}, (), b"1", 1j, [1], {"a": 1}])


def settings_of(kind):
    return st.dictionaries(st.sampled_from([each.name for each in fields(kind)]), ODD, max_size=3)


def _typed(made):
    """Whether each field holds what its annotation says."""
    kinds = {"float": (float, int), "int": (int,), "bool": (bool,), "str": (str,), "None": (type(None),)}
    for each in fields(made):
        value = getattr(made, each.name)
        allowed = [kind for name in each.type.split(" | ") for kind in kinds[name]]
        if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
            return False
    return True


@few
@given(settings_of(Switches))
@example({"precision": []})
@example({"prefix": {}})
@example({"keep_optimizer": "False"})
def test_switches(lm, values):
    try:
        switches = Switches(**values)
    except ParameterError as error:
        assert any(name in str(error) for name in values)
        return
    assert _typed(switches), switches
    try:
        steps = list(TTT(lm, None, switches).adapt(LINES[0], [LINES[1]], [0, 1]))
    except TTTNNError as error:
        assert any(name in str(error) for name in values), error
    else:
        assert math.isfinite(steps[0].score.nats)


@given(settings_of(TTTSettings))
@example({"prefix": []})
def test_settings_of_models(values):
    try:
        made = TTTSettings(**values)
    except ParameterError as error:
        assert any(name in str(error) for name in values)
    else:
        assert _typed(made), made


RECIPE = {
    "name": "a", "architecture": {"model_type": "gpt2"}, "tokens": 4096, "warmup_tokens": 0, "batch_tokens": 2048,
    "train": [{"domain": "a", "files": ["a.jsonl"]}], "validation": [{"domain": "a", "files": ["a.jsonl"]}],
    "tokenizer": {"entries": 300, "special": ["<|endoftext|>"]}, "betas": [0.9, 0.95], "init": [], "context": 512,
    "micro_batch": 4, "learning_rate": 1e-3, "seed": 1, "compile": False, "validations": 2, "precision": "auto",
}  # fmt: skip
JSON = st.sampled_from([-1, 0, 1, 7, 1.5, 10**30, True, None, "", "3", "é", [], {}, [[]], [None], {"a": None}, ["a"]])
CHANGES = st.lists(st.tuples(st.integers(0, 300), JSON, st.booleans()), min_size=1, max_size=2)


def changed(original, changes):
    """A copy of nested values in which some places hold something else, or nothing."""
    value = json.loads(json.dumps(original))
    for number, new, remove in changes:
        if places := _places(value):
            _changed(value, places[number % len(places)], new, remove)
    return value


@given(CHANGES)
@example([(37, -1, False)])
def test_recipes(changes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(changed(RECIPE, changes)))
        try:
            load_settings(path)
        except SettingsError as error:
            assert str(path) in str(error)


# Models


def _loads(folder):
    """A model that loads can score; one that does not is refused by its folder."""
    try:
        lm = load_model(folder)
    except TTTNNError as error:
        assert folder.name in str(error) and len(str(error)) > 20
        return
    try:
        assert math.isfinite(score(lm, LINES[0]).nats)
    except TTTNNError as error:
        assert folder.name in str(error)


SMALL = st.sampled_from([-1, 0, 1, 3, 33, 1.5, 1e-9, True, False, None, "", "3", "gelu", "gpt2", [], {}, [1], {"a": 1}])


@few
@pytest.mark.parametrize("kind", ["model", "llama"])
@given(data=st.data())
def test_configurations_of_models(place, kind, data):
    config = json.loads((place / kind / "config.json").read_text())
    tokenizer = json.loads((place / kind / "tokenizer_config.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        chosen = config if data.draw(st.integers(0, 3)) else tokenizer
        chosen[data.draw(st.sampled_from(sorted(chosen)))] = data.draw(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "odd"
        shutil.copytree(place / kind, folder)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        _loads(folder)


@few
@example("tokenizer.json", 1179, b"\xd3\xa2w", "overwrite", True)
@given(
    st.sampled_from(["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"]),
    st.integers(0, 10**6), st.binary(max_size=3), st.sampled_from(["cut", "overwrite", "insert"]), st.booleans(),
)  # fmt: skip
def test_damaged_files_of_models(place, name, at, new, how, header):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "odd"
        shutil.copytree(place / "model", folder)
        content = (folder / name).read_bytes()
        at %= min(len(content), 300) if header else len(content)
        rest = {"cut": b"", "overwrite": content[at + len(new) :], "insert": content[at:]}[how]
        (folder / name).write_bytes(content[:at] + new + rest)
        _loads(folder)


@few
@given(CHANGES)
@example([(0, -1, False)])
def test_tokenizers(place, changes):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "odd"
        shutil.copytree(place / "model", folder)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(changed(json.loads(path.read_text()), changes)))
        _loads(folder)


SWEPT = {"weights": None, "ks": [0, 1], "ratio_to_k0": {"0.001": {"0": 1.0, "1": 0.9}, "0.01": {"0": 1.0, "1": 0.8}}}


@few
@given(CHANGES)
def test_sweeps_beside_models(place, changes):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "odd"
        shutil.copytree(place / "model", folder)
        (folder / SWEEP).write_text(json.dumps(changed(SWEPT, changes)))
        _loads(folder)


# Texts

TEXTS = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["<|endoftext|>", "\0", "\ufeff", "\ud800", "\r\n\r", "e\u0301" * 9, "\U0001f468\u200d\U0001f469", "\u202e", " "]
)


@few
@given(TEXTS)
@example("\ud800")
@example("\r")
def test_texts(lm, retriever, text):
    for evaluate in (lambda: score(lm, text), lambda: TTT(lm, retriever, Switches(max_chunks=1)).evaluate(text, 1)):
        try:
            found = evaluate()
        except TTTNNError as error:
            assert not text.strip() or any("\ud800" <= each <= "\udfff" for each in text), error
        else:
            scored = getattr(found, "after", found)
            assert scored.bytes == len(text.encode()) and math.isfinite(scored.nats)


# Rows


@given(st.data())
def test_journals_and_records(ttt, whole, data):  # noqa: F811
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "rows"
        shutil.copytree(whole, folder)
        name = data.draw(st.sampled_from([JOURNAL, "run.json", TABLE]))
        content = (folder / name).read_bytes()
        if name == JOURNAL and data.draw(st.booleans()):
            lines = content.splitlines(keepends=True)
            chosen = data.draw(st.integers(0, len(lines) - 1))
            entry = changed(json.loads(lines[chosen]), data.draw(CHANGES))
            lines[chosen] = json.dumps(entry).encode() + b"\n"
            content = b"".join(lines)
        else:
            at = data.draw(st.integers(0, len(content)))
            content = content[:at] + data.draw(st.binary(max_size=4)) + content[at + data.draw(st.integers(0, 9)) :]
        (folder / name).write_bytes(content)
        for read in (read_rows, read_journal, lambda place: run(ttt, DOCUMENTS[:2], [0], place)):
            try:
                read(folder)
            except TTTNNError as error:
                assert str(folder) in str(error)


@pytest.fixture(scope="module")
def whole(ttt, tmp_path_factory):  # noqa: F811
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole")
    run(ttt, DOCUMENTS[:2], [0], folder)
    return folder
