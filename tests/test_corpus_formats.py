"""Corpora as people have them: each gives documents, or one sentence that names the file, the line and the cure."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from conftest import few
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from tttnn.corpus import BadDocument, CorpusError, Document, formats, open_corpus, write_jsonl
from tttnn.corpus.held_out import draw, near_copies, sketch
from tttnn.errors import ParameterError, TTTNNError
from tttnn.files import home

WORDS = "bird sang river stone under light morning wood rain field cloud seven door winter table letter"


@pytest.fixture(autouse=True)
def at_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path_factory.mktemp("home")))


def prose(number: int, words: int = 60) -> str:
    """A text of its own."""
    drawn = random.Random(number)
    return f"{number}: " + " ".join(drawn.choice(WORDS.split()) + str(drawn.randrange(1000)) for _ in range(words))


TEXTS = [prose(number) for number in range(20)]
RECORDS = [{"content": text, "meta": {"source": f"site{n % 2}"}} for n, text in enumerate(TEXTS)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    packs = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(packs.get(path.suffix, bytes)(data))
    return path


def texts_of(corpus) -> dict[str, list[str]]:
    return {split: [document.text for document in corpus.documents(split)] for split in corpus.splits}


def all_texts(corpus) -> list[str]:
    return sorted(text for texts in texts_of(corpus).values() for text in texts)


def as_lines(records: list) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_cells(records: list, delimiter: str) -> str:
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter)
    rows.writerows([["content", "site"], *([each["content"], each["meta"]["source"]] for each in records)])
    return file.getvalue()


def as_parquet(records: list) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(records), file)
    return file.getvalue()


def as_arrow(records: list, writer) -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(records)
    with writer(file, table.schema) as opened:
        opened.write_table(table)
    return file.getvalue()


TABLES = {
    "a.jsonl": as_lines(RECORDS),
    "a.NDJSON": as_lines(RECORDS),
    "a.json": json.dumps(RECORDS, indent=1),
    "b.json": as_lines(RECORDS),
    "a.parquet": as_parquet(RECORDS),
    "a.arrow": as_arrow(RECORDS, pa.ipc.new_stream),
    "b.arrow": as_arrow(RECORDS, pa.ipc.new_file),
    "a.csv": as_cells(RECORDS, ","),
    "a.tsv": as_cells(RECORDS, "\t"),
}


# Formats


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("alone", [True, False])
def test_every_table_gives_the_same_documents(tmp_path, name, packed, alone):
    path = write(tmp_path / "data" / f"{name}{packed}", TABLES[name])
    domain_key = "site" if name.endswith("sv") else "meta.source"
    corpus = open_corpus(path if alone else path.parent, text_key="content", domain_key=domain_key)
    assert all_texts(corpus) == sorted(TEXTS)
    assert corpus.splits == ["train", "val", "test"]
    assert {document.domain for document in corpus.documents("train")} == {"site0", "site1"}
    assert corpus.name == (name.split(".")[0] if alone else "data")


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_folder_of_texts(tmp_path, packed):
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"part{number % 2}" / "deep" / f"{number}.md{packed}", text)
    write(tmp_path / "alone.txt", "a text beside the folders, long enough")
    corpus = open_corpus(tmp_path)
    assert all_texts(corpus) == sorted([*TEXTS, "a text beside the folders, long enough"])
    found = {document.meta["unit"]: document for split in corpus.splits for document in corpus.documents(split)}
    one = found[f"part1/deep/3.md{packed}"]
    assert (one.text, one.domain, one.meta["source"]) == (TEXTS[3], "part1", f"part1/deep:part1/deep/3.md{packed}")
    assert found["alone.txt"].domain == corpus.name == tmp_path.name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_of_texts_are_understood(tmp_path, encoding):
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number}.txt", f"{text} äß\r\n€".encode(encoding))
    assert all_texts(open_corpus(tmp_path)) == sorted(f"{text} äß\r\n€" for text in TEXTS)


@few
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), min_size=3, max_size=8))
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_any_text_comes_back_as_it_was(kind, tmp_path_factory, texts):
    # Lone carriage returns are what no reader of CSV agrees on.
    texts = [
        f"{number} {text}" if "\r" not in text or kind[-2:] != "sv" else str(number)
        for number, text in enumerate(texts)
    ]
    records = [{"content": text, "meta": {"source": "x"}} for text in texts]
    written = {
        "json": json.dumps(records), "jsonl": as_lines(records), "parquet": as_parquet(records),
        "csv": as_cells(records, ","), "tsv": as_cells(records, "\t"),
    }  # fmt: skip
    path = write(tmp_path_factory.mktemp("any") / f"a.{kind}", written[kind])
    assert all_texts(open_corpus(path, text_key="content")) == sorted(texts)


def test_short_columns_are_kept_beside_the_text_and_vectors_are_not(tmp_path):
    rows = [
        {
            "text": text,
            "url": f"u{n}",
            "vector": [0.5] * 4,
            "unit": "kg",
            "source": "the web",
            "meta": {"unit": f"f{n}"},
        }
        for n, text in enumerate(TEXTS)
    ]
    corpus = open_corpus(write(tmp_path / "web.parquet", as_parquet(rows)))
    for document in corpus.documents("train"):
        n = TEXTS.index(document.text)
        place = f"web.parquet, row {n + 1}"
        assert document.meta == {"url": f"u{n}", "unit": f"f{n}", "place": place, "pile_set_name": "web"}


# Splits


def test_folders_named_for_splits(tmp_path):
    for number, folder in enumerate(["train", "Validation", "test"]):
        for each in range(3):
            write(tmp_path / folder / ("letters" if each else "notes") / f"{each}.txt", prose(10 * number + each))
    corpus = open_corpus(tmp_path)
    expected = {"train": [1, 2, 0], "val": [11, 12, 10], "test": [21, 22, 20]}
    assert texts_of(corpus) == {split: [prose(n) for n in numbers] for split, numbers in expected.items()}
    assert corpus.domains == ["letters", "notes"]
    assert corpus.manifest["split"] == "train, val, test: as folders or files are named"


@pytest.mark.parametrize(
    "names",
    [
        [
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
            "validation-00000-of-00001.parquet",
            "test.parquet",
        ],
        ["train/0.parquet", "train/1.parquet", "valid/0.parquet", "test/0.parquet"],
        ["data/a_train.parquet", "data/b.train.parquet", "data/a-dev.parquet", "data/a_test_1.parquet"],
    ],
)
def test_tables_named_for_splits(tmp_path, names):
    for number, name in enumerate(names):
        write(tmp_path / name, as_parquet([{"text": prose(number)}]))
    assert texts_of(open_corpus(tmp_path)) == {
        "train": [prose(0), prose(1)], "val": [prose(2)], "test": [prose(3)]
    }  # fmt: skip


def test_words_after_the_split_count_beside_a_training_table(tmp_path):
    names = ["train.csv", "validation_matched.csv", "test_matched.csv", "test_hard-2.csv"]
    for number, name in enumerate(names):
        write(tmp_path / name, f"text\n{prose(number)}\n")
    corpus = open_corpus(tmp_path)
    assert texts_of(corpus) == {"train": [prose(0)], "val": [prose(1)], "test": [prose(3), prose(2)]}
    (tmp_path / "train.csv").rename(tmp_path / "a.csv")
    assert "drawn by seed" in open_corpus(tmp_path).manifest["split"]


@pytest.mark.parametrize("other", ["a.csv.gz", "a.csv.zst"])
def test_a_table_beside_itself_compressed_is_not_read_twice(tmp_path, other):
    for name in ("a.csv", other):
        write(tmp_path / name, TABLES["a.csv"])
    with pytest.raises(CorpusError, match=rf"a\.csv and {other} are the same part: keep one"):
        open_corpus(tmp_path, text_key="content")


def test_a_quotation_mark_does_not_swallow_rows_of_a_tsv(tmp_path):
    rows = [f"{number}\t{text}" for number, text in enumerate(TEXTS)]
    rows[5], rows[9] = '5\t"I do not know, she said', '9\tand then she left."'
    path = write(tmp_path / "a.tsv", "\n".join(["id\ttext", *rows]))
    with pytest.raises(CorpusError, match=rf"{path}, to line 11: a cell that begins with a quotation mark holds whole"):
        open_corpus(path)
    code = "".join(f'{number}\t"if a:\n\t{text}\n\tpass"\n' for number, text in enumerate(TEXTS))
    assert all("if a:\n\t" in text for text in all_texts(open_corpus(write(tmp_path / "b.tsv", "id\ttext\n" + code))))


def test_an_array_on_one_line_is_not_held_to_see_that_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_ARRAY", 1 << 20)
    monkeypatch.setattr(formats, "read_lines", None)  # which reads to the line's end
    path = write(tmp_path / "a.json", "\n [" + ", ".join([json.dumps(RECORDS[0])] * 5000) + "]")
    with pytest.raises(CorpusError, match="in one piece: jq"):
        open_corpus(path)


def test_folders_of_json_lines_for_each_split_are_no_piles_layout(tmp_path):
    for number, split in enumerate(["train", "validation", "test"]):
        write_jsonl(tmp_path / split / "00.jsonl", [Document(prose(number))])
    assert texts_of(open_corpus(tmp_path)) == {"train": [prose(0)], "val": [prose(1)], "test": [prose(2)]}


def test_a_folder_of_tests_beside_sources_is_no_split(tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / ("test" if number % 2 else "source") / f"{number}.py", text)
    corpus = open_corpus(tmp_path)
    assert set(corpus.domains) == {"source", "test"}
    assert corpus.manifest["documents"] == {"train": 16, "val": 2, "test": 2}


def test_missing_parts_are_drawn_from_train(tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / ("train" if number else "val") / f"{number}.txt", text)
    corpus = open_corpus(tmp_path)
    assert texts_of(corpus)["val"] == [TEXTS[0]]
    assert corpus.manifest["documents"] == {"train": 17, "val": 1, "test": 2}
    assert corpus.manifest["split"].startswith(
        "train, val: as folders or files are named; test: documents drawn by seed"
    )


def test_the_draw_depends_on_seed_and_content_alone(tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "one" / f"{number:02}.txt", text)
        write(tmp_path / "two" / "below" / f"{number:02}.md", text)
    one, two = texts_of(open_corpus(tmp_path / "one")), texts_of(open_corpus(tmp_path / "two"))
    assert one == two
    assert texts_of(open_corpus(tmp_path / "one", split_seed=1)) != one
    more = open_corpus(tmp_path / "one", held_out=0.3)
    assert more.manifest["documents"] == {"train": 8, "val": 6, "test": 6}
    assert set(one["test"]) < set(texts_of(more)["test"])  # a larger share extends the same draw


@few
@given(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=40), st.floats(1e-6, 0.4))
def test_every_draw_keeps_what_is_named_and_leaves_something_to_train_on(named, share):
    import numpy as np

    named = np.array(named, dtype=np.int8)
    splits = draw(named, np.arange(len(named), dtype=np.uint64)[::-1], share)
    assert (splits[named > 0] == named[named > 0]).all()
    free = int((named <= 0).sum())
    assert (splits == 0).any() or not free
    assert (splits == 2).any() or free < 2
    assert (splits == 1).any() or free < 3


@few
@given(
    st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=40), st.floats(1e-6, 0.4), st.floats(1e-6, 0.4)
)  # fmt: skip
@example([-1] * 4, 0.4, 0.1)
@example([-1] * 40, 0.1, 0.3)
def test_splits_of_two_shares_nest_and_no_document_is_in_val_of_one_and_in_test_of_the_other(named, small, large):
    import numpy as np

    named, small, large = np.array(named, dtype=np.int8), min(small, large), max(small, large)
    ranks = np.random.default_rng(0).permutation(len(named)).astype(np.uint64)
    less, more = draw(named, ranks, small), draw(named, ranks, large)
    for split, other in ((1, 2), (2, 1)):
        assert (more[less == split] == split).all()
        assert not ((less == split) & (more == other)).any()


def test_near_copies_are_kept_out_of_what_is_drawn_and_counted(tmp_path):
    changed = [f"{text} and a few words more" for text in TEXTS]
    unique = [prose(number) for number in range(100, 140)]
    for number, text in enumerate([*TEXTS, *changed, *unique]):
        write(tmp_path / f"{number:02}.txt", text)
    corpus = open_corpus(tmp_path, held_out=0.4)
    found = texts_of(corpus)
    train = [sketch(text) for text in found["train"]]
    for split in ("val", "test"):
        assert found[split] and not near_copies([sketch(text) for text in found[split]], train).any()
    moved = 32 + 32 - len(found["val"]) - len(found["test"])
    assert corpus.manifest["near_copies_moved_to_train"] == moved > 0


def test_near_copies_in_a_part_that_is_named_stay_and_are_counted(tmp_path, caplog):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "train" / f"{number}.txt", text)
        write(tmp_path / "test" / f"{number}.txt", text if number < 5 else prose(100 + number))
    corpus = open_corpus(tmp_path)
    assert len(texts_of(corpus)["test"]) == 20
    assert corpus.manifest["near_copies_held_out"] == 5
    assert "5 held-out documents are over half a copy" in caplog.text


def test_a_near_copy_is_one_of_over_half_its_windows():
    text, other = prose(1, 400), prose(2, 400)
    half = len(text) // 2
    held = [
        text,
        text[: half + 300] + other[: half - 300],
        text[: half - 300] + other[: half + 300],
        other,
        "short",
        "shorter",
    ]
    assert near_copies([sketch(each) for each in held], [sketch(text), sketch("short")]).tolist() == [
        True, True, False, False, True, False
    ]  # fmt: skip


# What is not read


def test_what_is_not_read_is_listed_with_the_reason(tmp_path, caplog):
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number}.md", text)
    strange = {
        "picture.png": (b"\x89PNG\0\0", "binary"),
        "paper.pdf": (b"%PDF-1.4 text", "a PDF: convert it (pdftotext)"),
        "old.txt": ("Grüße".encode("latin-1"), "not UTF-8 at byte 2: convert it, for example with iconv"),
        "empty.md": (b" \n", "empty"),
        "nothing.md": (b"", "empty"),
        ".secret.md": (b"hidden", "hidden"),
        "large.txt": (b"x" * (1 << 24) + b"x", "larger than 16 MiB, too much for one document: cut it into files"),
        "package.json": (b'{"name": "x"}', "a table in a folder of texts"),
        "broken.json": (b"{", "a table in a folder of texts"),
        "analysis.ipynb": (b"{}", ".ipynb files are not text that somebody wrote"),
        "archive.zip": (b"PK\3\4", "a zip archive: unpack it (unzip)"),
        "half.txt.gz": (gzip.compress(prose(1).encode())[:-9], None),
    }
    for name, (content, _) in strange.items():
        (tmp_path / name).write_bytes(content)
    for folder in ("node_modules", ".git", "results"):
        write(tmp_path / folder / "run.json", "{}")
        write(tmp_path / folder / "a.md", "x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.md").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe.md")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).touch()
    corpus = open_corpus(tmp_path)
    ignored = dict(corpus.ignored)
    assert all_texts(corpus) == sorted(TEXTS)
    for name, (_, reason) in strange.items():
        assert ignored[name] == reason or reason is None
    assert "ends in the middle of its compressed data" in ignored["half.txt.gz"]
    others = {
        ".git": "hidden", "node_modules": "a folder that programs write", "results": "results of this program",
        "loop": "a link to a folder", "gone.md": "a link to nowhere",
        "itself": "a link to nowhere", "pipe.md": "no regular file",
    }  # fmt: skip
    assert others.items() <= ignored.items()
    assert len(ignored) == len(strange) + len(others) + 1
    assert "'.git', '.secret.md': hidden" in caplog.text and "all are listed in" in caplog.text


def test_the_kind_that_holds_more_is_read(tmp_path):
    write(tmp_path / "README.md", "about this data set")
    write(tmp_path / "data.jsonl", as_lines([{"text": text} for text in TEXTS]))
    write(tmp_path / "info.json", '{"size": 3}')
    corpus = open_corpus(tmp_path)
    assert all_texts(corpus) == sorted(TEXTS)
    assert dict(corpus.ignored) == {
        "README.md": "a text in a folder of tables",
        "info.json": "'text' is not there; its keys are size: give --text-key",
    }


def test_what_this_program_keeps_is_no_document(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "kept"))
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number}.txt", text)
    first = open_corpus(tmp_path)
    assert open_corpus(tmp_path).fingerprint == first.fingerprint
    assert all_texts(open_corpus(tmp_path)) == sorted(TEXTS)


# Imported once


def test_a_corpus_is_imported_once_and_again_when_it_changed(tmp_path):
    path = write(tmp_path / "a.csv", TABLES["a.csv"])
    first = open_corpus(path, text_key="content")
    made = first.folder.stat().st_mtime_ns
    assert open_corpus(path, text_key="content").folder.stat().st_mtime_ns == made
    assert first.folder.parent == home() / "imported"
    path.write_text(as_cells(RECORDS[:-1], ","))
    again = open_corpus(path, text_key="content")
    assert len(all_texts(again)) == 19
    assert again.fingerprint != first.fingerprint


def test_what_is_imported_is_an_ordinary_corpus(tmp_path):
    path = write(tmp_path / "a.csv", TABLES["a.csv"])
    corpus = open_corpus(path, text_key="content", domain_key="site")
    assert open_corpus(corpus.folder).fingerprint == corpus.fingerprint
    assert [document.text for document in corpus.store("train", tmp_path / "kept")] == texts_of(corpus)["train"]
    assert {path.name for path in corpus.folder.iterdir()} == {
        "train.jsonl",
        "val.jsonl",
        "test.jsonl",
        "manifest.json",
    }


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", TABLES["a.csv"])
    monkeypatch.setattr("tttnn.corpus.importing._check_held_out", lambda *facts: path.write_text("content\nx\ny\n"))
    with pytest.raises(CorpusError, match=r"a\.csv changed while it was read: call again"):
        open_corpus(path, text_key="content")
    assert not [each for each in (home() / "imported").iterdir() if each.is_dir()]


def test_the_piles_layout_is_imported_only_for_other_keys(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"code.{split}.jsonl", as_lines([{"text": "a", "body": f"{split} body"}]))
    assert open_corpus(tmp_path).folder == tmp_path
    corpus = open_corpus(tmp_path, text_key="body")
    assert texts_of(corpus) == {split: [f"{split} body"] for split in corpus.splits}
    assert corpus.domains == ["code"]


# One sentence


GOOD = as_lines([{"text": text} for text in TEXTS])
BROKEN = {
    "line.jsonl": (GOOD + "{nope\n", r"line\.jsonl, line 21, byte \d+: not JSON.*--skip-bad"),
    "null.jsonl": (GOOD + '{"text": null}\n', r"null\.jsonl, line 21: 'text' is not there; its keys are text"),
    "blank.jsonl": (GOOD + '{"text": " "}\n', r"blank\.jsonl, line 21: 'text' is empty.*--skip-bad"),
    "list.jsonl": (GOOD + "[1]\n", r"list\.jsonl, line 21: not a JSON object with a 'text', but list"),
    "lone.jsonl": (GOOD + '{"text": "\\ud800"}\n', r"lone\.jsonl, line 21: holds a lone surrogate"),
    "number.jsonl": (GOOD + '{"text": 1}\n', r"number\.jsonl, line 21: 'text' is not a string, but int"),
    "few.csv": ("text,b\nx,y\nz\n", r"few\.csv, line 3: fewer cells than the 2 columns.*--skip-bad"),
    "many.csv": ("text,b\nx,y\nz,1,2\n", r"many\.csv, line 3: more cells than the 2 columns.*--skip-bad"),
}
UNREADABLE = {
    "keys.jsonl": ('{"body": "x"}\n', r"keys\.jsonl.*: 'text' is not there; its keys are body: give --text-key"),
    "semicolons.csv": ("text;b\nx;y\n", r"semicolons\.csv, line 1: its cells are parted by semicolons: convert it"),
    "bare.csv": ("x,1\ny,2\n", r"its keys are x, 1: give --text-key, or its first line the columns' names"),
    "quote.csv": ('text,b\n"x"y,z\n', r"quote\.csv, line 2: not a table of cells: .*quote the text"),
    "open.csv": ('text,b\nx,y\n"x,z\n', r"open\.csv, line 4: not a table of cells: unexpected end of data"),
    "latin.csv": ("text\nGrüße\n".encode("latin-1"), r"latin\.csv, line 2: not UTF-8: byte 2 .*iconv"),
    "wide.csv": ("text\nx\n".encode("utf-16"), r"wide\.csv is not UTF-8 but UTF-16.*iconv"),
    "wide.jsonl": (codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le"), r"wide\.jsonl is not UTF-8 but UTF-16.*iconv"),
    "array.json": ('[{"text": "x"},', r"array\.json, line 1, byte 0: not JSON: .*line 1 column 16"),
    "cut.parquet": (TABLES["a.parquet"][:-9], r"cut\.parquet, after row 0: not Parquet, or damaged"),
    "cut.jsonl.gz": (None, r"cut\.jsonl\.gz: ends in the middle of its compressed data: copy it again"),
    "empty.jsonl": ("", r"empty\.jsonl cannot be read as a corpus: empty"),
    "none.csv": ("text\n", r"none\.csv cannot be read as a corpus: empty"),
    "one.txt": ("a text", r"one\.txt holds one document.*cut it into files"),
    "binary.bin": (b"\0\1", r"binary\.bin cannot be read as a corpus: binary"),
}


def _hostile(folder: Path, name: str, content: str | bytes | None) -> Path:
    if content is None:
        (folder / name).write_bytes(gzip.compress(GOOD.encode())[:-9])
        return folder / name
    return write(folder / name, content)


@pytest.mark.parametrize("name", [*BROKEN, *UNREADABLE])
def test_each_broken_file_gets_one_sentence(tmp_path, name):
    content, message = {**BROKEN, **UNREADABLE}[name]
    path = _hostile(tmp_path, name, content)
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError):
        open_corpus(tmp_path)
    assert not [each for each in (home() / "imported").glob("*") if each.is_dir()]


@pytest.mark.parametrize("name", BROKEN)
def test_bad_documents_are_left_out_if_asked(tmp_path, name, caplog):
    path = _hostile(tmp_path, name, BROKEN[name][0].replace("x,y\n", "x,y\nw,v\n"))
    corpus = open_corpus(path, skip_bad=True)
    assert corpus.manifest["bad_documents_left_out"] == 1
    assert f"1 bad documents are left out, the first: {path}, line" in caplog.text
    assert len(all_texts(corpus)) == (20 if name.endswith("jsonl") else 2)


def test_a_domain_that_is_not_there(tmp_path):
    path = write(tmp_path / "a.jsonl", as_lines(RECORDS) + '{"content": "x", "meta": {}}\n')
    with pytest.raises(
        BadDocument, match=r"a\.jsonl, line 21: 'meta\.source' names no domain; its keys are content, meta"
    ):
        open_corpus(path, text_key="content", domain_key="meta.source")


def test_copies_of_one_text_leave_nothing_to_test_on(tmp_path):
    for number in range(10):
        write(tmp_path / f"{number}.txt", TEXTS[0])
    with pytest.raises(
        CorpusError, match=r"no document left to test on: the 2 drawn are over half a copy.*train and test"
    ):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"text_key": ""}, "text_key=''"),
        ({"domain_key": 3}, "domain_key=3"),
        ({"held_out": 0.5}, "held_out=0.5"),
        ({"held_out": 0}, "held_out=0"),
        ({"split_seed": "x"}, "split_seed='x'"),
    ],
)
def test_parameters_out_of_range(tmp_path, named, message):
    with pytest.raises(ParameterError, match=message):
        open_corpus(tmp_path, **named)


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    with pytest.raises(CorpusError, match="name is not UTF-8: rename it"):
        open_corpus(folder)


def test_a_device_is_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="no folder or file"):
        open_corpus(tmp_path / "pipe")


NAMES = st.text(st.sampled_from("abt .-_#:é"), min_size=1, max_size=6).filter(lambda name: name.strip(". "))
SUFFIXES = [".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".py", ".txt.gz", ".jsonl.zst", ".bin", ""]
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([GOOD.encode(), TABLES["a.csv"].encode(), TABLES["a.parquet"], prose(1).encode(), b"text\nx\ny\n"]),
    st.sampled_from([gzip.compress(GOOD.encode()), prose(2).encode("utf-16"), b"[]", b"{}", b'{"text": "x"}', b"\n"]),
)


@few
@given(
    st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES, st.sampled_from(SUFFIXES), CONTENTS), max_size=5),
    st.booleans(),
    st.sampled_from([{}, {"text_key": "content"}, {"domain_key": "meta.source"}]),
)
def test_any_folder_gives_a_corpus_or_one_sentence(tmp_path_factory, files, skip_bad, keys):
    folder = tmp_path_factory.mktemp("odd")
    for folders, name, suffix, content in files:
        path = folder.joinpath(*folders, name + suffix)
        if not path.exists() and not any(above.is_file() for above in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    try:
        corpus = open_corpus(folder, skip_bad, **keys)
    except TTTNNError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        found = corpus.store("train", folder.parent / f"{folder.name}-kept")
        assert len(found) and "test" in corpus.splits
        assert next(corpus.documents("test")).text


# Datasets


def test_a_dataset_saved_on_disk(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{**record, "vector": [0.1]} for record in RECORDS])
    rows.save_to_disk(tmp_path / "alone")
    datasets.DatasetDict(
        train=rows.select(range(15)), validation=rows.select(range(15, 18)), test=rows.select([18, 19])
    ).save_to_disk(tmp_path / "three")
    rows.select(range(0, 20, 2)).save_to_disk(tmp_path / "chosen", num_shards=2)
    monkeypatch.setitem(sys.modules, "datasets", None)  # what it wrote is read without it
    keys = {"text_key": "content", "domain_key": "meta.source"}
    assert all_texts(open_corpus(tmp_path / "chosen", **keys)) == sorted(TEXTS[::2])
    corpus = open_corpus(tmp_path / "alone", **keys)
    assert all_texts(corpus) == sorted(TEXTS)
    assert set(corpus.domains) <= {"site0", "site1"}
    three = open_corpus(tmp_path / "three", **keys)
    assert texts_of(three) == {"train": TEXTS[:15], "val": TEXTS[15:18], "test": TEXTS[18:]}
    with pytest.raises(
        BadDocument, match=r"alone/data-.*.arrow, row 1: 'text' is not there; its keys are content, meta: give"
    ):
        open_corpus(tmp_path / "alone")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"state.json": "{}"}, "was saved with the library datasets, but not whole: '_data_files'; save it again"),
        ({"dataset_dict.json": '{"splits": ["train"]}'}, "not whole: .*No such file"),
        ({"dataset_dict.json": "[]"}, "not whole"),
        ({"state.json": '{"_data_files": [{"filename": "a.arrow"}]}'}, "not whole: .*No such file"),
        ({"state.json": '{"_data_files": [{"filename": "../../a"}]}'}, r"state.json: names .* not in that folder"),
        ({"state.json": '{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": "no"}, "after row 0: not Arrow"),
        ({"state.json": '{"_indices_data_files": [1]}'}, "a choice of rows: save it again after flatten_indices"),
    ],
)
def test_a_dataset_that_was_not_saved_whole(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(CorpusError, match=message):
        open_corpus(tmp_path)


def test_a_dataset_of_the_hub_is_imported_by_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path, name, revision):
        asked.append((path, name, revision))
        return datasets.DatasetDict(train=datasets.Dataset.from_list([{"text": text} for text in TEXTS]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):  # the second time without a network
        corpus = open_corpus("hf:owner/name/config@v1")
        assert all_texts(corpus) == sorted(TEXTS)
        assert asked == [("owner/name", "config", "v1")]
    assert corpus.manifest["imported_from"] == "hf:owner/name/config@v1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "hf:: name a dataset as hf:owner/name"),
        ("hf:a b", "hf:a b: name a dataset"),
        ("hf:nobody/nothing", "nobody/nothing is not on this machine, and the Hugging Face hub cannot be reached: .* "
                              "save it with save_to_disk, and give that folder as the corpus"),
    ],
)  # fmt: skip
def test_no_such_dataset(name, message, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match=message):
        open_corpus(name)


def test_without_the_library_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"library datasets, which is not installed: pip install 'datasets>=4'"):
        open_corpus("hf:owner/name")


# Command line


def test_the_command_line_reads_them(tmp_path):
    path = write(tmp_path / "a.csv", TABLES["a.csv"])
    command = [sys.executable, "-m", "tttnn", "corpus", str(path), "--text-key", "content", "--domain-key", "site"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "site0 " in found.stdout and "documents" in found.stdout
    assert "a: 16 train, 2 val, 2 test documents" in found.stderr
    wrong = subprocess.run(command[:-4], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        f"error: {path} cannot be read as a corpus: 'text' is not there; its keys are content, site"
    )
