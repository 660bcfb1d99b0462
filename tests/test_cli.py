"""The command line does what the package does, and its errors are one line without a traceback."""

import json
import os
import random
import sys

import pandas as pd
import pytest
from command_line import called, started
from tiny import LINES, tiny_gpt2, tiny_roberta

from tttnn.__main__ import _report, main
from tttnn.corpus import Document, read_jsonl, write_jsonl
from tttnn.embedding import EMBEDDERS
from tttnn.errors import ParameterError
from tttnn.experiment import read_rows
from tttnn.files import read_json, sole_writer
from tttnn.models import REGISTRY, ModelEntry, TTTSettings, load_model
from tttnn.pretraining import Settings, load_settings, pretrain
from tttnn.pretraining.card import render_card
from tttnn.pretraining.settings import Source, TokenizerSettings
from tttnn.scoring import score


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    draw = random.Random(0)
    for split, size in {"train": 30, "val": 4, "test": 4}.items():
        texts = [" ".join(draw.choices(" ".join(LINES).split(), k=40)) for _ in range(size)]
        write_jsonl(folder / "corpus" / f"lines.{split}.jsonl", [Document(text, {}) for text in texts])
    tiny_gpt2(folder / "model")
    (folder / "text.txt").write_text(LINES[0] * 4, encoding="utf-8")
    return folder


def test_models_lists_the_registry(place):
    done = started("models", home=place / "home")
    assert done.returncode == 0, done.stderr
    assert "embedded" in done.stdout
    assert [name for name in (*REGISTRY, *EMBEDDERS) if name not in done.stdout] == []
    [row] = [line for line in done.stdout.splitlines() if "gpt2-m-general" in line]
    assert "not shipped" in row


def test_index_then_evaluate_then_run_and_continue(place):
    common = ["--corpus", place / "corpus", "--model", place / "model"]
    done = called("index", "build", "--corpus", place / "corpus", home=place / "home")
    assert "30 documents" in done.stdout, done.stderr
    built = done.stdout.split(": ")[-1].strip()
    assert "files are as they were written" in called("index", "verify", built, home=place / "home").stdout
    done = called("evaluate", place / "text.txt", *common, "--k", 2, home=place / "home")
    assert "after 2 neighbours" in done.stdout, done.stderr
    run = ["run", *common, "--per-domain", 3, "--ks", "0,2", "--learning-rate", "1e-3", "--out", place / "rows"]
    for call in (called, started):
        done = call(*run, "--json", home=place / "home")
        assert done.returncode == 0, done.stderr
        assert "model: 3 of lines, scored after 0, 2 neighbours: about 0." in done.stderr
        assert json.loads(done.stdout) == {"rows": 9, "failed": 0, "folder": str(place / "rows")}
    rows = read_rows(place / "rows")
    assert len(rows) == 9 and rows["nats"].notna().sum() == 6
    about = json.loads((place / "rows" / "run.json").read_text())["about"]
    assert about["corpus"]["fingerprint"] and about["drawn"]["per_domain"] == 3
    assert str(place) not in (place / "rows" / "run.json").read_text()


def run_switches(folder):
    return json.loads((folder / "run.json").read_text())["settings"]["switches"]


def test_strategies_methods_and_variants_are_options(place):
    common = ["--corpus", place / "corpus", "--model", place / "model", "--per-domain", 1, "--ks", "0,2"]
    done = called("run", *common, "--strategy", "random", "--out", place / "random", home=place / "home")
    assert done.returncode == 0, done.stderr
    assert read_rows(place / "random")["distance"].isna().all()
    done = called("run", *common, "--method", "unigram:0.1", "--out", place / "unigram", home=place / "home")
    assert done.returncode == 0 and (read_rows(place / "unigram")["steps"] == 0).all(), done.stderr
    names = ["sift", "in-context-0.5", "rate-2"]
    done = called("variants", *names, *common, "--learning-rate", 1e-3, "--out", place / "grid", home=place / "home")
    assert done.returncode == 0, done.stderr
    rates = {name: run_switches(place / "grid" / name / "model")["learning_rate"] for name in names}
    assert rates == {"sift": 1e-3, "in-context-0.5": 1e-3, "rate-2": 2e-3}
    done = called("run", *common, "--strategy", "closest", "--out", place / "no", home=place / "home")
    assert done.returncode == 2 and "must be one of nearest" in done.stderr


def test_a_score_before_any_neighbour_is_made_where_none_was_asked_for(place):
    common = ["--corpus", place / "corpus", "--model", place / "model", "--per-domain", 1, "--ks", "1,2"]
    for words in (["run"], ["variants", "nearest"]):
        done = called(*words, *common, "--out", place / f"late-{words[0]}", home=place / "home")
        assert done.returncode == 0, done.stderr
    for folder in (place / "late-run", place / "late-variants" / "nearest" / "model"):
        rows = read_rows(folder)
        assert rows.loc[rows["nats"].notna(), "k"].tolist() == [0, 1, 2]
    done = called("cost", *common, home=place / "home")
    assert done.returncode == 0, done.stderr


def test_sweep_compares_learning_rates_on_validation_documents(place):
    arguments = ["--corpus", place / "corpus", "--model", place / "model", "--rates", "1e-3,1e-2", "--ks", "0,1"]
    done = called("sweep", *arguments, "--per-domain", 2, "--out", place / "sweep", home=place / "home")
    assert done.returncode == 0, done.stderr
    assert "0.001" in done.stdout and "0.01" in done.stdout and "1.0000" in done.stdout
    assert "best at k = 1: " in done.stdout and "its own rate is 2e-05 (GPT-2's published settings)" in done.stdout
    cure = "Give another rate with --learning-rate, or any of them with --settings, in Python with settings=."
    assert cure in done.stderr
    assert not (place / "model" / "sweep.json").exists()


def test_a_sweep_goes_into_any_model_s_folder(place, tmp_path):
    folder = tiny_gpt2(tmp_path / "mine")
    arguments = ["--corpus", place / "corpus", "--model", folder, "--rates", "1e-3", "--ks", "0,1", "--per-domain", 1]
    (tmp_path / "short.json").write_text('{"max_length": 16}')
    arguments += ["--settings", tmp_path / "short.json"]
    done = called("sweep", *arguments, "--card", "--out", tmp_path / "out", home=place / "home")
    assert done.returncode == 0 and load_model(folder).settings.learning_rate == 1e-3, done.stderr
    assert not (folder / "README.md").exists()
    assert f"keeps the learning rate alone: with this model, give --settings {tmp_path}" in done.stderr


def test_sweep_goes_into_a_model_s_card(place):
    corpus = place / "corpus"
    trained = pretrain(tiny_settings(), corpus, place / "trained", "cpu", 1)
    folder = place / "trained" / "model"
    arguments = ["--corpus", corpus, "--model", folder, "--rates", "1e-3,1e-2", "--ks", "1,2", "--card"]
    done = called("sweep", *arguments, "--per-domain", 2, "--out", place / "swept", home=place / "home")
    assert done.returncode == 0, done.stderr
    sweep = read_json(folder / "sweep.json")
    assert sweep["documents"] == 2 and sweep["split"] == "val" and sweep["ks"] == [0, 1, 2]
    assert sweep["weights"] == load_model(folder).weight_hash()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(load_settings(folder / "settings.json"), trained, sweep)
    rate, row = min(sweep["ratio_to_k0"].items(), key=lambda item: item[1]["2"])
    assert f"| **{float(rate)}** | {row['1']:.4f} | {row['2']:.4f} |" in card


ALL = {
    "index build": [], "cost": [], "evaluate": ["--k", 1], "variants": ["nearest"], "sweep": ["--rates", "1e-3"],
    "ttmm build": ["--clusters", 2, "--documents", 1], "run": [], "try": ["--minutes", 0.2, "--k", 1, "--documents", 2],
}  # fmt: skip


def line_of(command, place, corpus, out):
    """A command on few documents, with the options that each of them takes."""
    words = [*command.split(), *ALL[command]]
    words += [place / "text.txt"] if command == "evaluate" else [corpus] if command == "try" else []
    words += [] if command == "try" else ["--corpus", corpus]
    words += [] if command == "index build" else ["--model", place / "model"]
    words += ["--ks", "0,1", "--per-domain", 1] if command in ("cost", "variants", "sweep", "run") else []
    return words + (["--out", out] if command in ("variants", "sweep", "run", "try") else [])


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    """A folder of texts that nobody split."""
    folder, draw = tmp_path_factory.mktemp("unsplit") / "notes", random.Random(1)
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(" ".join(LINES).split(), k=40)), encoding="utf-8")
    return folder


def test_every_command_that_opens_a_corpus_can_read_the_same_split(place, unsplit, tmp_path):
    for command in ALL:
        words = line_of(command, place, unsplit, tmp_path / command)
        done = called(*words, "--held-out", 0.2, home=tmp_path / "home")
        assert done.returncode == 0, (command, done.stderr)
    done = called("corpus", unsplit, "--held-out", 0.2, home=tmp_path / "home")
    [imported] = (path for path in (tmp_path / "home" / "imported").iterdir() if path.is_dir())
    assert read_json(imported / "manifest.json")["documents"] == {"train": 12, "val": 4, "test": 4}
    assert done.returncode == 0 and len(list((tmp_path / "home" / "indexes").iterdir())) == 1


@pytest.mark.parametrize("command", ALL)
def test_nothing_held_out_and_unknown_types_are_refused(place, unsplit, tmp_path, command):
    roberta = tmp_path / "roberta"
    tiny_roberta(roberta)
    words = line_of(command, place, unsplit, tmp_path / "out")
    for more, message in (
        (["--held-out", 0], "held_out=0.0: must be from 1e-06 to 0.4"),
        (["--embedder", roberta, "--embedder-type", "float8"], "dtype='float8'"),
    ):
        done = called(*words, *more, home=tmp_path / "home")
        assert done.returncode != 0 and message in done.stderr, done.stderr


@pytest.mark.parametrize("command", [command for command in ALL if command != "index build"])
def test_settings_in_a_file_are_checked_before_anything_else(place, tmp_path, command):
    file = tmp_path / "mine.json"
    words = line_of(command, place, place / "corpus", tmp_path / "out")
    for content, message in (
        ('{"lr": 1e-3}', "mine.json: key='lr': must be one of learning_rate, eps, max_length, context, prefix"),
        ('{"max_lenght": 8}', "did you mean 'max_length'?"),
        ('{"eps": "small"}', "mine.json: eps='small' (str): must be a number"),
        ('{"max_length": 8, "prefix": true}', "mine.json: prefix=True: must be one of bos, eos"),
        ("[8]", "mine.json: holds a list where an object with settings by name is needed"),
        ('{"eps": ', "mine.json: "),
    ):
        file.write_text(content)
        done = called(*words, "--settings", file, home=tmp_path / "home")
        assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "home").exists() and not (tmp_path / "out").exists()
    done = called(*words, "--settings", tmp_path / "none.json", home=tmp_path / "home")
    assert done.returncode == 2 and "none.json" in done.stderr


def test_settings_in_a_file_are_those_of_the_rows_and_other_options_go_before_them(place, tmp_path):
    file, own = tmp_path / "mine.json", {"eps": 1e-6, "max_length": 16, "learning_rate": 1e-3, "prefix": "eos"}
    file.write_text(json.dumps(own))
    folders = {"run": "", "variants": "nearest/model", "sweep": "lr-0.001"}
    for command, folder in folders.items():
        line = line_of(command, place, place / "corpus", tmp_path / command)
        done = called(*line, "--settings", file, home=place / "home")
        assert done.returncode == 0, done.stderr
        used = read_json(tmp_path / command / folder / "run.json")["settings"]
        assert used["settings"] == own | {"context": 64}
    line = line_of("run", place, place / "corpus", tmp_path / "run")
    done = called(*line, home=place / "home")
    assert done.returncode == 2 and "holds a run with other settings.eps (1e-06, now 1e-08)" in done.stderr
    words = ["evaluate", place / "text.txt", "--corpus", place / "corpus", "--model", place / "model", "--k", 1]
    done = called(*words, "--settings", file, "--learning-rate", "2e-3", "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["settings"]
    assert "learning rate 0.002, chunks of 16 tokens, context 64" in said
    assert "(given: eps, max_length, learning_rate, prefix; else GPT-2's published settings, unless given)" in said
    file.write_text('{"context": 65}')
    done = called(*words, "--settings", file, home=place / "home")
    assert done.returncode == 2 and "context=65: must be from 2 to 64" in done.stderr


def test_who_uses_another_rate_than_a_sweep_chose_is_told_which(place, tmp_path, monkeypatch):
    folder = tiny_gpt2(tmp_path / "swept")
    entry = ModelEntry("swept", load_model(folder).parameters, "", "", "", TTTSettings(), chosen_rate=1e-3)
    monkeypatch.setitem(REGISTRY, "swept", entry)
    said = "swept: learning rate 2e-05; a sweep on validation documents chose 0.001, which --learning-rate 0.001 takes"
    for command in ("evaluate", "run"):
        line = line_of(command, place, place / "corpus", tmp_path / "out")
        line[line.index(place / "model")] = folder
        done = called(*line, home=place / "home")
        assert done.returncode == 0 and said in done.stderr and said not in done.stdout, done.stderr
        line = [tmp_path / "more" if each == tmp_path / "out" else each for each in line]
        done = called(*line, "--learning-rate", "1e-3", home=place / "home")
        assert done.returncode == 0 and "sweep" not in done.stderr, done.stderr


def test_the_seed_of_a_sweep_reaches_its_steps(place):
    words = line_of("sweep", place, place / "corpus", place / "seeded")
    done = called(*words, "--seed", 7, home=place / "home")
    assert done.returncode == 0 and run_switches(place / "seeded" / "lr-0.001")["seed"] == 7, done.stderr


def test_documents_side_by_side_on_a_cluster_are_refused(place, tmp_path):
    words = line_of("run", place, place / "corpus", tmp_path / "out")
    done = called(*words, "--cluster", "local", "--documents-at-once", 8, home=tmp_path / "home")
    assert done.returncode == 2 and "documents_at_once=8 and cluster='local'" in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("command", "folder"), [("sweep", "lr-0.001"), ("variants", "nearest/model")])
def test_sweep_and_variants_adapt_documents_side_by_side(place, tmp_path, command, folder):
    words = line_of(command, place, place / "corpus", tmp_path / "out")
    done = called(*words, "--documents-at-once", 2, home=place / "home")
    assert done.returncode == 0, done.stderr
    [call] = read_json(tmp_path / "out" / folder / "run.json")["calls"]
    assert call["documents_at_once"] == 2
    done = called(*words, "--documents-at-once", 0, home=tmp_path / "home")
    assert done.returncode == 2 and "documents_at_once=0" in done.stderr and not (tmp_path / "home").exists()


def test_a_rate_that_diverges_is_null_in_the_card_and_never_the_best(place):
    corpus = place / "corpus"
    pretrain(tiny_settings(), corpus, place / "wild", "cpu", 1)
    folder = place / "wild" / "model"
    for rates, best in (("1e30,1e-3", "0.001"), ("1e30", None)):
        arguments = ["--corpus", corpus, "--model", folder, "--rates", rates, "--ks", "0,1", "--card"]
        done = called("sweep", *arguments, "--per-domain", 1, "--out", place / rates, home=place / "home")
        if best is None:
            assert done.returncode == 2 and "rates: none has a finite score at k = 1" in done.stderr
            continue
        assert done.returncode == 0 and f"best at k = 1: {best}" in done.stdout, done.stderr
    assert read_json(folder / "sweep.json")["ratio_to_k0"]["1e+30"] == {"0": 1.0, "1": None}
    assert "| 1e+30 | diverged |" in (folder / "README.md").read_text(encoding="utf-8")
    assert load_model(folder).settings.learning_rate == 1e-3


def test_a_text_on_which_the_model_diverges_is_null_in_json(place):
    arguments = ["--corpus", place / "corpus", "--model", place / "model", "--k", 2, "--learning-rate", "1e30"]
    done = called("evaluate", place / "text.txt", *arguments, "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["after"] is found["ratio"] is None and found["before"] > 0


def tiny_settings():
    architecture = {"model_type": "gpt2", "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    lines = {split: [Source("lines", [f"lines.{split}.jsonl"])] for split in ("train", "val")}
    return Settings(
        "tiny", architecture, lines["train"], lines["val"], tokens=128, context=16, batch_tokens=64, micro_batch=4,
        warmup_tokens=0, tokenizer=TokenizerSettings(entries=300, every=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus", "wheeels"], "wheeels"),
        (["evaluate", "text.txt", "--k", "0"], "k=0: must be at least 1"),
        (["evaluate", "nothing.txt"], "nothing.txt"),
        (["index", "build", "--kind", "flatt"], "flatt"),
        (["run", "--out", "rows2", "--max-chunks", "0"], "max_chunks"),
    ],
)
def test_errors_are_one_message_without_traceback(place, arguments, message):
    named = {"text.txt": place / "text.txt", "rows2": place / "rows2"}
    if arguments[0] != "corpus":
        arguments = [*arguments, "--corpus", place / "corpus"]
    if arguments[0] in ("evaluate", "run"):
        arguments = [*arguments, "--model", place / "model"]
    call = started if arguments[0] == "corpus" else called
    done = call(*[named.get(a, a) for a in arguments], home=place / "home")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nothing.txt"], "nothing.txt: no such file; give a file with the text to evaluate"),
        (["evaluate", "model"], "model: a folder; give a file with the text to evaluate"),
        (["evaluate", "latin.txt"], "byte 3 is not UTF-8"),
        (["evaluate", "text.txt", "--strategy", "closest"], "strategy='closest'"),
        (["run", "--out", "o", "--ks", "0,x"], "ks='0,x'"),
        (["run", "--out", "o", "--domain", "lanes"], "domains='lanes': must be one of lines; did you mean 'lines'"),
        (["run", "--out", "o", "--split", "tst"], "no split 'tst'"),
        (["run", "--out", "o", "--method", "in-context:1.5"], "method='in-context:1.5'"),
        (
            ["run", "--out", "o", "--method", "in-context:0.5", "--learning-rate", "0.1"],
            "learning_rate=0.1: method in-context makes no steps; leave it out",
        ),
        (["run", "--out", "o", "--method", "unigram:0.1", "--lora", "2"], "lora=2: method unigram makes no steps"),
        (["run", "--out", "o", "--method", "knn-lm:0.2", "--train", "head"], "train='head': method knn-lm makes no"),
        (["run", "--out", "o", "--method", "in-context-published", "--dropout", "0.1"], "dropout=0.1: method in-"),
        (["run", "--out", "o", "--context", "5000"], "context=5000"),
        (["run", "--out", "o", "--vocabulary", "3"], "vocabulary=3"),
        (["run", "--out", "o", "--max-bytes", "1"], "no document of at most 1 bytes"),
        (["run", "--out", "text.txt"], "is a file"),
        (["variants", "nearst", "--out", "o"], "variants='nearst'"),
        (["sweep", "--out", "o", "--rates", "1e-4;2e-4"], "rates='1e-4;2e-4'"),
        (["sweep", "--out", "o", "--ks", "0"], "ks=[0]: a ratio needs the score at k = 0 and another one"),
    ],
)
def test_what_can_be_checked_is_checked_before_an_index_is_built(place, capsys, monkeypatch, arguments, message):
    files = {name: str(place / name) for name in ("nothing.txt", "latin.txt", "text.txt", "o", "model")}
    (place / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    monkeypatch.setenv("TTTNN_HOME", str(place / "empty"))
    model = ["--corpus", str(place / "corpus"), "--model", str(place / "model")]
    monkeypatch.setattr(sys, "argv", ["tttnn", *[files.get(each, each) for each in arguments], *model])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "error: " in said and message in said
    assert not (place / "empty").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--corpus", "CORPUS"],
        ["sweep", "--corpus", "CORPUS"],
        ["variants", "nearest", "--corpus", "CORPUS"],
        ["pretrain", "gpt2-xxs-general", "--data", "CORPUS"],
        ["repair", "CORPUS/lines.train.jsonl", "CORPUS/lines.val.jsonl"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_second_command_in_a_folder_is_refused_before_it_reads(place, tmp_path, capsys, monkeypatch, arguments):
    """Whoever is first writes there for hours: the second must neither mix in nor load a model before it is told."""
    for reader in ("tttnn.corpus.open_corpus", "tttnn.corpus.read_jsonl", "tttnn.pretraining.train.make_tokenizer"):
        monkeypatch.setattr(reader, lambda *_: pytest.fail("read"))
    line = ["tttnn", *(each.replace("CORPUS", str(place / "corpus")) for each in arguments), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    with sole_writer(tmp_path), pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 1 and f"error: {tmp_path}: process {os.getpid()} is writing there" in said
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_bytes_of_a_file_are_what_is_scored(place):
    words = b"the cat\r\nsat on\r\nthe mat\r\n"
    (place / "bom.txt").write_bytes(b"\xef\xbb\xbf" + words)
    done = called(
        "evaluate", place / "bom.txt", "--corpus", place / "corpus", "--model", place / "model", "--k", 1,
        "--learning-rate", "2e-5", home=place / "home",
    )  # fmt: skip
    expected = score(load_model(place / "model"), words.decode()).bits_per_byte
    assert f"bits/byte {expected:.4f} ->" in done.stdout, done.stderr
    assert "learning rate 2e-05, chunks of 64 tokens, context 64, token before the text '<|endoftext|>'" in done.stdout


def test_a_text_that_is_in_the_corpus_is_scored_with_a_warning(place):
    text = next(iter(read_jsonl(place / "corpus" / "lines.train.jsonl"))).text
    (place / "seen.txt").write_text(text, encoding="utf-8")
    common = ["--corpus", place / "corpus", "--model", place / "model", "--k", 2, "--json"]
    done = called("evaluate", place / "seen.txt", *common, home=place / "home")
    assert "neighbour 1 is this text or a near-copy, so the gain is what copying brings; score a doc" in done.stderr
    assert json.loads(done.stdout)["copies"] == 1
    done = called("evaluate", place / "seen.txt", *common, "--strategy", "distinct:0.5", home=place / "home")
    assert "near-copy" not in done.stderr and json.loads(done.stdout)["copies"] == 0, done.stderr


def test_unknown_weights_are_bad_input(tmp_path):
    done = called("fetch", "nosuch", home=tmp_path)
    assert done.returncode == 2 and "no packaged weights are called 'nosuch'" in done.stderr


def test_a_run_of_failures_only_is_an_error(capsys):
    _report(pd.DataFrame({"failure": ["", "no neighbour"]}), "rows")
    assert capsys.readouterr().out == "2 rows in rows, 1 documents failed\n"
    with pytest.raises(ParameterError, match="none of 1 documents could be evaluated; the first: no neighbour"):
        _report(pd.DataFrame({"failure": ["no neighbour"]}), "rows")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(130)])
def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys, raised):
    def interrupted():
        raise raised

    monkeypatch.setattr("tttnn.__main__.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and "the same command goes on from there" in capsys.readouterr().err
