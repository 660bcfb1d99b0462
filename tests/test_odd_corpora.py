"""Corpora of odd shapes, through the command to the page: each gives an answer, or one sentence that says the cure.

A fifth of them runs by default; ``TTTNN_TESTS=all`` runs all.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from conftest import ALL
from pyarrow import parquet
from tiny import tiny_gpt2

from tttnn.__main__ import main

WORDS = [
    "bird",
    "sang",
    "river",
    "stone",
    "under",
    "light",
    "morning",
    "wood",
    "rain",
    "field",
    "cloud",
    "seven",
    "door",
    "winter",
    "table",
    "letter",
]
PACKS = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def prose(number: int, words: int = 12) -> str:
    chance = random.Random(number)
    return " ".join(chance.choice(WORDS) + str(chance.randrange(1000)) for _ in range(words))


def drawn(letters: str) -> list[str]:
    return ["".join(random.Random(number).choices(letters, k=60)) for number in range(12)]


TEXTS = [prose(number) for number in range(12)]
RECORDS = [{"text": text, "meta": {"source": f"site{n % 2}"}} for n, text in enumerate(TEXTS)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(PACKS.get(path.suffix, bytes)(data))
    return path


def texts(folder: Path, name: str = "{}.md", contents=TEXTS) -> Path:
    for number, text in enumerate(contents):
        write(folder / name.format(number), text)
    return folder


def lines(records=RECORDS) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def only(values) -> str:
    """JSON Lines with these as their text."""
    return lines([{"text": value} for value in values])


def cells(delimiter: str = ",", rows=None, end: str = "\r\n") -> str:
    file = io.StringIO()
    rows = rows or [["text", "site"], *([each["text"], each["meta"]["source"]] for each in RECORDS)]
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return file.getvalue()


def packed(writer) -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(RECORDS)
    with writer(file, table.schema) as opened:
        opened.write_table(table)
    return file.getvalue()


PARQUET = packed(parquet.ParquetWriter)
ARROW = packed(pa.ipc.new_stream)


def with_text(folder: Path, **more: str | bytes) -> Path:
    """A folder of texts with something else beside them."""
    texts(folder)
    for name, content in more.items():
        write(folder / name.replace("__", "."), content)
    return folder


def linked(folder: Path, target: str, name: str = "a link.md") -> Path:
    texts(folder)
    write(folder.parent / "outside" / "far.md", prose(99))
    (folder / name).symlink_to(target)
    return folder


def fifo(folder: Path) -> Path:
    texts(folder)
    os.mkfifo(folder / "pipe.md")
    return folder


def splits(folder: Path, *names: str) -> Path:
    for name in names:
        texts(folder / name, "{}.txt", [prose(1000 * len(name) + n) for n in range(6)])
    return folder


def pile(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / f"{name}.jsonl", only(prose(100 * len(name) + n) for n in range(6)))
    return folder


def saved(folder: Path) -> Path:
    write(folder / "data-00000-of-00001.arrow", ARROW)
    write(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


# Each makes a corpus in a folder and returns its path.
PAGES = {
    "markdown": texts,
    "three levels of folders": lambda f: texts(f, "a/b{}/c/text.txt"),
    "web pages": lambda f: texts(f, "{}.html", [f"<html><script>alert({n})</script>{t}" for n, t in enumerate(TEXTS)]),
    "json lines": lambda f: write(f / "a.jsonl", lines()),
    "array": lambda f: write(f / "a.json", json.dumps(RECORDS, indent=2)),
    "csv": lambda f: write(f / "a.csv", cells()),
    "csv with a mark and unix ends": lambda f: write(f / "a.csv", codecs.BOM_UTF8 + cells(end="\n").encode()),
    "csv with lines in cells": lambda f: write(
        f / "a.csv", cells(rows=[["text"], *([f"{text}\n\"so\", {n}"] for n, text in enumerate(TEXTS))])
    ),
    "parquet": lambda f: write(f / "a.parquet", PARQUET),
    "a dataset saved on disk": saved,
    "csv, zstandard": lambda f: write(f / "a.csv.zst", cells()),
    "markdown, gzip": lambda f: texts(f, "{}.md.gz"),
    "utf-8 with a mark": lambda f: texts(f, "{}.md", [codecs.BOM_UTF8 + text.encode() for text in TEXTS]),
    "utf-16": lambda f: texts(f, "{}.txt", [text.encode("utf-16") for text in TEXTS]),
    "utf-32": lambda f: texts(f, "{}.txt", [text.encode("utf-32") for text in TEXTS]),
    "ends of Windows": lambda f: texts(f, "{}.md", [text.replace(" ", "\r\n") for text in TEXTS]),
    "an empty file among them": lambda f: with_text(f, empty__md=""),
    "noise among them": lambda f: with_text(f, noise__bin=random.Random(0).randbytes(5000)),
    "another encoding among them": lambda f: with_text(f, latin__txt="sch\u00f6n und gut".encode("latin-1") * 9),
    "one giant line": lambda f: write(f / "a.jsonl", only([*TEXTS, prose(50, 3000)])),
    "one giant text": lambda f: with_text(f, giant__md=prose(51, 3000)),
    "three documents": lambda f: texts(f, contents=TEXTS[:3]),
    "two documents": lambda f: texts(f, contents=TEXTS[:2]),
    "names of all scripts": lambda f: texts(f, "\u00fcn\u00ef \u65e5\u672c \U0001f986 {}.md"),
    "names that shells mind": lambda f: texts(f, "-a [{}] 'b' \"c\" #%&<d>$;.md"),
    "long names": lambda f: texts(f, f"{'n' * 200}{{}}.md"),
    "a folder of odd name": lambda f: texts(f / "caf\u00e9 <b>&amp; 100 %"),
    "a link to a file": lambda f: linked(f, "../outside/far.md"),
    "a link to a folder": lambda f: linked(f, "../outside", "there"),
    "a link to nowhere": lambda f: linked(f, "gone"),
    "a link in a circle": lambda f: linked(f, ".", "circle"),
    "a pipe": fifo,
    "hidden files": lambda f: with_text(f, __hidden="x", **{"node_modules/a__md": "y"}),
    "folders of splits": lambda f: splits(f, "train", "validation", "test"),
    "no validation": lambda f: splits(f, "train", "test"),
    "the Pile's layout": lambda f: pile(f, "train", "val", "test"),
    "no domain key": lambda f: write(f / "a.jsonl", only(TEXTS)),
    "control characters": lambda f: write(f / "a.jsonl", only(f"{each}\0\x07\x1b[31m" for each in TEXTS)),
    "faces": lambda f: texts(f, contents=drawn("\U0001f600\U0001f468\u200d\U0001f469\U0001f3fd")),
    "right to left": lambda f: texts(f, contents=drawn("\u202e\u05e9\u05dc\u05d5\u05dd\u0301")),
    "texts of a letter": lambda f: write(f / "a.jsonl", only("abcdefghijkl")),
    "many tiny texts": lambda f: write(f / "a.jsonl", only(f"{n} {prose(n, 3)}" for n in range(800))),
    "a domain for each": lambda f: write(
        f / "a.jsonl", lines([{"text": prose(n), "meta": {"pile_set_name": f"<script>{n}"}} for n in range(40)])
    ),
    "copies among them": lambda f: texts(f, contents=[*TEXTS, *[prose(7, 60)] * 5]),
}  # fmt: skip

# What makes a corpus, further options, and the sentence.
SENTENCES = {
    "nothing": (lambda f: f, [], "is no corpus: no file of it can be read \\(it is empty\\)"),
    "nothing there": (lambda f: f / "gone", [], "no such folder or file"),
    "empty files": (lambda f: texts(f, contents=["", " \n"]), [], r"'0.md', '1.md': empty"),
    "noise": (lambda f: write(f / "a.bin", b"\0\1\2" * 99).parent, [], "'a.bin': binary"),
    "a PDF": (lambda f: write(f / "a.pdf", b"%PDF-1.7\n\0"), [], r"a PDF: convert it \(pdftotext\)"),
    "a notebook": (lambda f: write(f / "a.ipynb", "{}"), [], "ipynb files are not text"),
    "another encoding": (
        lambda f: texts(f, contents=["sch\u00f6n".encode("latin-1")]), [],
        "not UTF-8 at byte 3: convert",
    ),
    "one document": (lambda f: write(f / "a.md", prose(1)), [], "one document, so none can be held out: cut it"),
    "one line": (lambda f: write(f / "a.jsonl", only(TEXTS[:1])), [], "one document, so none can be held out"),
    "copies of one": (lambda f: texts(f, contents=TEXTS[:1] * 12), [], "over half a copy of others; give more"),
    "other key": (
        lambda f: write(f / "a.jsonl", lines([{"body": "x"}])), [],
        "'text' is not there; .* body: give --text-key",
    ),
    "no such domain": (
        lambda f: write(f / "a.jsonl", lines()), ["--domain-key", "meta.lang"],
        "line 1: 'meta.lang' names no",
    ),
    "a domain is missing": (
        lambda f: write(f / "a.jsonl", lines([*RECORDS, {"text": prose(77)}])), ["--domain-key", "meta.source"],
        r"a\.jsonl, line 13: 'meta\.source' names no domain; its keys are text",
    ),
    "a number": (lambda f: write(f / "a.jsonl", only([*TEXTS, 5])), [], "line 13: 'text' is not a string, but int"),
    "an empty text": (lambda f: write(f / "a.jsonl", only([*TEXTS, " "])), [], "line 13: 'text' is empty"),
    "half a character": (lambda f: write(f / "a.jsonl", only([*TEXTS, "a\ud800"])), [], "line 13.* surrogate"),
    "half a file": (lambda f: write(f / "a.jsonl", lines()[:-20]), [], r"a\.jsonl, line 12, byte \d+: not JSON"),
    "half an archive": (
        lambda f: write(f / "a.jsonl.gz", "").write_bytes(gzip.compress(lines().encode())[:-30]) and f, [],
        "ends in the middle of its compressed data: copy it again",
    ),
    "half a table": (lambda f: write(f / "a.parquet", PARQUET[:-9]), [], "not Parquet, or damaged"),
    "half an arrow": (lambda f: write(f / "a.arrow", ARROW[:300]), [], "not Arrow, or damaged"),
    "a comma too many": (
        lambda f: write(f / "a.json", json.dumps(RECORDS, indent=1)[:-1] + ",]"), [],
        r"a\.json, line \d+",
    ),
    "a cell too many": (
        lambda f: write(f / "a.csv", cells() + "x,y,z\r\n"), [],
        "line 14: more cells than the 2 columns",
    ),
    "an open quote": (lambda f: write(f / "a.csv", cells() + '"x,y\r\n'), [], "line 1[45]: not a table of cells"),
    "no test part": (lambda f: pile(f, "train"), [], "no split 'test'"),
    "a dataset not saved whole": (
        lambda f: write(f / "state.json", "{}").parent, [],
        "not whole: '_data_files'; save it",
    ),
    "a dataset by name": (
        lambda f: "hf:nobody/nothing", [],
        "hub cannot be reached|which is not installed: pip install",
    ),
    "a name of two lines": (lambda f: write(f / "a\nb.jsonl", "{"), [], r"a\\nb\.jsonl, line 1"),
}  # fmt: skip


class Read(HTMLParser):
    """What a page has: its headings, and whether something in it runs."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("model"))


@pytest.fixture
def attempt(model, tmp_path, monkeypatch, capsys):
    """Runs the command on a corpus: its status and what it said."""
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(corpus, *more: str) -> tuple[int, str, str]:
        options = ["--minutes", "1", "--documents", "1", "--k", "1", "--learning-rate", "1e-3", "--out", "out"]
        monkeypatch.setattr(sys, "argv", ["tttnn", "try", str(corpus), "--model", str(model), *options, *more])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def chosen(cases):
    return [name for n, name in enumerate(cases) if ALL or not (n + 1216) % 5]


@pytest.mark.parametrize("name", chosen(PAGES))
def test_an_odd_corpus_has_its_page(attempt, tmp_path, name):
    (tmp_path / "corpus").mkdir()
    status, said, errors = attempt(PAGES[name](tmp_path / "corpus"))
    assert status == 0, errors
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    read = Read()
    read.feed(page)
    assert {"h1", "h2", "svg", "table"} <= set(read.tags) and "script" not in read.tags
    assert not re.search(r"\bnan\b|\binf\b|None|Traceback", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    answer = json.loads((tmp_path / "out" / "advice.json").read_text(encoding="utf-8"))
    assert answer["documents"] >= 1 and answer["answer"] and answer["answer"] in said


@pytest.mark.parametrize("name", chosen(SENTENCES))
def test_what_is_no_corpus_gets_one_sentence(attempt, tmp_path, name):
    make, options, message = SENTENCES[name]
    (tmp_path / "corpus").mkdir()
    status, _, errors = attempt(make(tmp_path / "corpus"), *options)
    [last] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and re.search(message, last), errors
    assert errors.rstrip().endswith(last) and "Traceback" not in errors
    assert not (tmp_path / "out" / "page.html").exists()
