"""The byte-offset text store against a list of the same documents."""

import copy
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
from forked import count_wrong, share
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tttnn.corpus import BadDocument, ConcatStore, CorpusError, Document, TextStore, read_jsonl, store, write_jsonl
from tttnn.corpus.compressed import recompress

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
BLANK = st.sampled_from([b"", b"\r", b" ", b"\t \r", b"   "])
LINES = st.lists(TEXTS.map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()) | BLANK)


@settings(deadline=None, max_examples=60)  # a build waits for the disk
@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(1, 40), st.integers(1, 90))
@example([b'{"text": "a"}', b"", b' {"text": "b"}'], b"\n", False, 1, 1)
def test_same_documents_as_the_reader_whatever_the_blocks(lines, newline, final_newline, block, span):
    content = newline.join(lines) + newline * final_newline
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SCAN_BLOCK", block)
        patch.setattr(store, "SCAN_RANGE", span)
        path = Path(folder) / "a.jsonl"
        path.write_bytes(content)
        expected = list(read_jsonl(path))
        for on_error in ("raise", "skip"):
            texts = TextStore.build(path, Path(folder) / "a.npy", on_error)
            assert len(texts) == len(expected)
            assert list(texts) == expected
            assert [texts[i] for i in range(-len(texts), 0)] == expected
            assert texts.skipped == 0


def test_the_table_is_eight_bytes_a_document_and_opens_again(tmp_path):
    path, table = _written(tmp_path, [f"text {n}" for n in range(5000)])
    TextStore.build(path, table)
    header = len(np.lib.format.magic(1, 0)) + 2 + 118
    assert table.stat().st_size == 8 * 5000 + header
    opened = TextStore.open(path, table)
    assert opened[4321].text == "text 4321"
    assert isinstance(opened._offsets, np.memmap)


def test_more_offsets_than_one_range_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCAN_RANGE", 100)
    monkeypatch.setattr(store, "SCAN_BLOCK", 64)
    path, table = _written(tmp_path, [str(n) for n in range(100)])
    assert [document.text for document in TextStore.build(path, table)] == [str(n) for n in range(100)]


@settings(deadline=None, max_examples=100)
@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(1, 50))
def test_ranges_hold_whole_lines_and_each_byte_once(lines, newline, final_newline, span):
    content = newline.join(lines) + newline * final_newline
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SCAN_RANGE", span)
        path = Path(folder) / "a.jsonl"
        path.write_bytes(content)
        ranges = list(store._line_ranges(store._PlainFile(path)))
    assert b"".join(content[begin:end] for begin, end in ranges) == content
    assert all(begin == 0 or content[begin - 1 : begin] == b"\n" for begin, _ in ranges)
    # A range ends with the first line that ends after its share: a line longer than that is not cut.
    assert all(b"\n" not in content[begin + span - 1 : end - 1] for begin, end in ranges)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_several_processes_write_the_same_bytes(tmp_path, monkeypatch, suffix, on_error):
    lines = [f'{{"text": "{n} {"x" * (n % 200)}"}}'.encode() + b"\r" * (n % 3) for n in range(2000)]
    lines[::7] = [b""] * len(lines[::7])
    lines[3::50] = [b" \t"] * len(lines[3::50])
    lines[5::90] = [b'{"text": '] * len(lines[5::90])
    path = tmp_path / f"a.jsonl{suffix}"
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))  # no line end at the end
    if suffix:
        recompress(tmp_path / "a.jsonl", path, frame_bytes=3000)
    serial = TextStore.build(path, tmp_path / "serial.npy", on_error)
    monkeypatch.setattr(store, "SCAN_RANGE", 10_000)
    parallel = TextStore.build(path, tmp_path / "parallel.npy", on_error, processes=2)
    assert parallel.table.read_bytes() == serial.table.read_bytes()
    assert parallel.skipped == serial.skipped == (lines.count(b'{"text": ') if on_error == "skip" else 0)
    assert len(serial) == sum(bool(line.strip()) for line in lines) - serial.skipped
    if on_error == "skip":
        serial = TextStore.build(path, tmp_path / "serial.npy", on_error, processes=1, check=True)
        parallel = TextStore.build(path, tmp_path / "parallel.npy", on_error, processes=2, check=True)
        assert (tmp_path / "parallel.domains.npy").read_bytes() == (tmp_path / "serial.domains.npy").read_bytes()
        assert (parallel.problem, parallel.skipped) == (serial.problem, lines.count(b'{"text": '))
        assert "line 6, " in serial.problem
    else:
        for processes in (1, 2):
            with pytest.raises(BadDocument, match="line 6, "):
                TextStore.build(path, tmp_path / "checked.npy", processes=processes, check=True)
        assert not (tmp_path / "checked.npy").exists()


class _Dying(store._Scan):
    def __call__(self, span):
        if span[0]:
            os._exit(9)  # as if the kernel had ended it for want of memory
        return super().__call__(span)


def test_a_dead_process_ends_the_build_without_a_table(tmp_path, monkeypatch):
    path, table = _written(tmp_path, [str(n) for n in range(1000)])
    monkeypatch.setattr(store, "SCAN_RANGE", 1000)
    monkeypatch.setattr(store, "_Scan", _Dying)
    with pytest.raises(BrokenProcessPool):
        TextStore.build(path, table, processes=2)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="processes=0: must be at least 1"):
        TextStore.build(path, table, processes=0)


def test_a_text_over_100_megabytes(tmp_path):
    path, table = tmp_path / "a.jsonl", tmp_path / "a.npy"
    with open(path, "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(101):
            file.write("é".encode() * 500_000)
        file.write(b'"}\n{"text": "after"}')
    texts = TextStore.build(path, table)
    assert [texts[0].text, texts[2].text, len(texts)] == ["before", "after", 3]
    assert len(texts[1].text) == 101 * 500_000


@pytest.mark.parametrize("index", [3, -4, 10**12])
def test_no_such_document(tmp_path, index):
    texts = TextStore.build(*_written(tmp_path, "abc"))
    with pytest.raises(IndexError, match=r"there are 3"):
        texts[index]
    with pytest.raises(TypeError):
        texts[0.5]


DOMAINS = st.lists(st.sampled_from(["a", "b", "ü", "", None, 5]), max_size=12)


@settings(deadline=None, max_examples=30)
@given(DOMAINS, st.integers(1, 90))
def test_the_column_of_domains_is_what_the_documents_say(names, span):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SCAN_RANGE", span)
        path, table = Path(folder) / "a.jsonl", Path(folder) / "a.npy"
        write_jsonl(path, (Document("x", {"pile_set_name": name}) for name in names))
        checked, unchecked = TextStore.build(path, table, check=True), TextStore.build(path, Path(folder) / "b.npy")
        said = [document.domain for document in checked]
        expected = {name: [i for i, each in enumerate(said) if each == name] for name in dict.fromkeys(said)}
        for each in (checked, TextStore.open(path, table), unchecked):
            assert {name: numbers.tolist() for name, numbers in each.by_domain.items()} == expected
        joined = ConcatStore([checked, unchecked]).by_domain
        assert {name: numbers.tolist() for name, numbers in joined.items()} == {
            name: expected[name] + [i + len(names) for i in expected[name]] for name in sorted(expected)
        }


def test_facts_that_are_none_are_refused(tmp_path):
    path, table = _written(tmp_path, "abc")
    TextStore.build(path, table)
    for facts in ("[]", "{}", '{"jsonl": 1, "table": {}, "count": 1, "skipped": 0}', '{"jsonl": {}, "table": {}}'):
        (tmp_path / "a.npy.json").write_text(facts)
        with pytest.raises(CorpusError, match=r"a\.npy\.json lacks .*build the table again"):
            TextStore.open(path, table)


def test_an_empty_file_is_an_empty_store(tmp_path):
    path, table = _written(tmp_path, [])
    assert len(TextStore.build(path, table)) == 0
    with pytest.raises(IndexError):
        TextStore.open(path, table)[0]


CORRUPT = b'\n\n{"text": "a"}\r\n\n{"text": \n \n{"text": "b"}\nnull\n{"text": "c"}'


def test_a_corrupt_line_raises_on_access_with_its_place(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CORRUPT)
    texts = TextStore.build(tmp_path / "a.jsonl", tmp_path / "a.npy")
    assert len(texts) == 5
    assert [texts[i].text for i in (0, 2, 4)] == ["a", "b", "c"]
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 5, byte 18: not JSON"):
        texts[1]
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 8, byte 44: .*NoneType"):
        texts[3]


def test_corrupt_lines_are_skipped_and_counted_if_asked(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CORRUPT)
    TextStore.build(tmp_path / "a.jsonl", tmp_path / "a.npy", on_error="skip")
    texts = TextStore.open(tmp_path / "a.jsonl", tmp_path / "a.npy")
    assert [document.text for document in texts] == ["a", "b", "c"]
    assert texts.skipped == 2


def _append(content: bytes) -> bytes:
    return content + b'{"text": "new"}\n'


def _truncate(content: bytes) -> bytes:
    return content[:-20]


def _edit_head(content: bytes) -> bytes:
    return content.replace(b"text 0", b"texT 0", 1)


def _edit_tail(content: bytes) -> bytes:
    return content[:-20] + content[-20:].replace(b"t", b"T")


@pytest.mark.parametrize("change", [_append, _truncate, _edit_head, _edit_tail])
def test_a_changed_file_is_refused(tmp_path, change):
    path, table = _written(tmp_path, [f"text {n}" for n in range(20_000)])
    TextStore.build(path, table)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorpusError, match=r"a\.jsonl changed since it was indexed.*build the table again"):
        TextStore.open(path, table)
    assert len(TextStore.build(path, table)) > 0


def test_a_shift_in_the_middle_is_noticed_on_access(tmp_path):
    path, table = _written(tmp_path, [f"text {n:06}" for n in range(20_000)])
    texts = TextStore.build(path, table)
    line = path.read_bytes().index(b'{"text": "text 010000"')
    with open(path, "r+b") as file:
        file.seek(line - 1)
        file.write(b"  ")  # size, head and tail stay
    reopened = TextStore.open(path, table)
    for each in (texts, reopened):
        with pytest.raises(CorpusError, match=rf"byte {line}: no line starts here"):
            each[10_000]


def test_a_table_of_another_count_or_file_is_refused(tmp_path):
    path, table = _written(tmp_path, "abc")
    TextStore.build(path, table)
    np.save(table, np.array([0, 5], dtype="<u8"))
    with pytest.raises(CorpusError, match=r"a\.npy is not the table"):
        TextStore.open(path, table)
    table.with_name("a.npy.json").unlink()
    with pytest.raises(CorpusError, match=r"no .*a\.npy\.json: build"):
        TextStore.open(path, table)


def test_missing_compressed_and_misnamed_files(tmp_path):
    with pytest.raises(CorpusError, match=r"no file .*a\.jsonl"):
        TextStore.build(tmp_path / "a.jsonl", tmp_path / "a.npy")
    write_jsonl(tmp_path / "a.jsonl.gz", [Document("a")])
    with pytest.raises(CorpusError, match="compressed"):
        TextStore.build(tmp_path / "a.jsonl.gz", tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"\.npy"):
        TextStore.build(tmp_path / "a.jsonl", tmp_path / "a.bin")


def test_an_interrupted_build_leaves_no_table(tmp_path, monkeypatch):
    path, table = _written(tmp_path, "abc")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(store._Column, "finish", fail)
    with pytest.raises(OSError, match="disk full"):
        TextStore.build(path, table)
    assert list(tmp_path.iterdir()) == [path]


def test_threads_and_forked_processes_read_the_right_texts(tmp_path):
    texts = [f"{n}:" + "x" * (n % 997) for n in range(3000)]
    opened = TextStore.build(*_written(tmp_path, texts))
    with multiprocessing.get_context("fork").Pool(3, initializer=share, initargs=(opened, texts)) as pool:
        waiting = pool.map_async(count_wrong, range(12))
        with ThreadPoolExecutor(4) as threads:  # the parent reads through the same descriptor meanwhile
            share(opened, texts)
            assert not any(threads.map(count_wrong, range(12)))
        assert not any(waiting.get(timeout=120))


def test_a_copied_store_opens_its_files_again(tmp_path):
    opened = TextStore.build(*_written(tmp_path, "abc"))
    copied = copy.copy(opened)  # by the protocol that a spawned data loader uses
    assert copied[2].text == "c"
    assert copied._source is not opened._source


def test_files_are_closed_with_the_store(tmp_path):
    path, table = _written(tmp_path, "abc")
    TextStore.build(path, table)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        TextStore.open(path, table)
    assert len(os.listdir("/proc/self/fd")) == before


def test_resident_memory_is_at_most_16_bytes_a_document(tmp_path):
    count = 1_000_000
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        for _ in range(100):
            file.write(b'{"text": "a text of some fifty bytes, as long as a tweet"}\n' * (count // 100))
    TextStore.build(path, tmp_path / "a.npy")
    before = psutil.Process().memory_info().rss
    texts = TextStore.open(path, tmp_path / "a.npy")
    for index in range(0, count, 97):
        texts[index]
    grown = psutil.Process().memory_info().rss - before
    assert len(texts) == count
    assert grown <= 16 * count + 4_000_000


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(TEXTS, max_size=4), max_size=4))
def test_stores_in_a_row(parts):
    with tempfile.TemporaryDirectory() as folder:
        stores = []
        for number, texts in enumerate(parts):
            (Path(folder) / str(number)).mkdir()
            stores.append(TextStore.build(*_written(Path(folder) / str(number), texts)))
        joined = ConcatStore(stores)
        assert [document.text for document in joined] == list(chain.from_iterable(parts))
        assert len(joined) == sum(map(len, parts))
        if len(joined):
            assert joined[-1] == joined[len(joined) - 1]
        with pytest.raises(IndexError):
            joined[len(joined)]


def _written(folder: Path, texts) -> tuple[Path, Path]:
    write_jsonl(folder / "a.jsonl", (Document(text) for text in texts))
    return folder / "a.jsonl", folder / "a.npy"
