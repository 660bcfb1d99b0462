"""The command line does what the package does, and its errors are one line without a traceback."""

import json
import random
import subprocess
import sys

import pytest
from tiny import LINES, tiny_gpt2

from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import read_rows


def tttnn(*arguments, home):
    import os

    command = [sys.executable, "-m", "tttnn", *map(str, arguments)]
    environment = os.environ | {"TTTNN_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


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
    done = tttnn("models", home=place / "home")
    assert done.returncode == 0 and "gpt2-large" in done.stdout and "embedded" in done.stdout


def test_index_then_evaluate_then_run_and_continue(place):
    common = ["--corpus", place / "corpus", "--model", place / "model"]
    done = tttnn("index", "build", "--corpus", place / "corpus", home=place / "home")
    assert "30 documents" in done.stdout, done.stderr
    built = done.stdout.split(": ")[-1].strip()
    assert "files are as they were written" in tttnn("index", "verify", built, home=place / "home").stdout
    done = tttnn("evaluate", place / "text.txt", *common, "--k", 2, home=place / "home")
    assert "after 2 neighbours" in done.stdout, done.stderr
    run = ["run", *common, "--per-domain", 3, "--ks", "0,2", "--learning-rate", "1e-3", "--out", place / "rows"]
    for _ in range(2):
        done = tttnn(*run, home=place / "home")
        assert done.returncode == 0, done.stderr
    rows = read_rows(place / "rows")
    assert len(rows) == 9 and rows["nats"].notna().sum() == 6
    about = json.loads((place / "rows" / "run.json").read_text())["about"]
    assert about["corpus"]["fingerprint"] and about["drawn"]["per_domain"] == 3
    assert str(place) not in (place / "rows" / "run.json").read_text()


def test_sweep_compares_learning_rates_on_validation_documents(place):
    arguments = ["--corpus", place / "corpus", "--model", place / "model", "--rates", "1e-3,1e-2", "--ks", "0,1"]
    done = tttnn("sweep", *arguments, "--per-domain", 2, "--out", place / "sweep", home=place / "home")
    assert done.returncode == 0, done.stderr
    assert "0.001" in done.stdout and "0.01" in done.stdout and "1.0000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus", "wheeels"], "wheeels"),
        (["evaluate", "text.txt", "--k", "0"], "k must be at least 1"),
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
    done = tttnn(*[named.get(a, a) for a in arguments], home=place / "home")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
