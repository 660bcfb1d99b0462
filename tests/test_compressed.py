"""Framed Zstandard files: ours and foreign ones, read at random, against the same text in memory."""

import copy
import io
import json
import multiprocessing
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import zstandard
from forked import count_wrong, share
from hypothesis import given, settings
from hypothesis import strategies as st

from tttnn.corpus import Corpus, CorpusError, Document, TextStore, compressed, read_jsonl, store, write_jsonl
from tttnn.corpus.compressed import FRAME, LEVEL, FramedFile, NotFramed, find_frames, recompress
from tttnn.corpus.jsonl import read_blocks


def write_framed(path, documents, frame_bytes=FRAME, level=LEVEL):
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.jsonl"
        write_jsonl(plain, documents)
        assert recompress(plain, path, frame_bytes, level) == plain.stat().st_size


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=30)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 300), st.integers(1, 22), st.integers(1, 400))
def test_what_is_written_is_read_by_both_readers(texts, frame_bytes, level, span):
    documents = [Document(text, {"n": n}) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SCAN_RANGE", span)
        path = Path(folder) / "a.jsonl.zst"
        write_framed(path, documents, frame_bytes, level)
        assert list(read_jsonl(path)) == documents
        for on_error in ("raise", "skip"):
            assert list(TextStore.build(path, Path(folder) / "a.npy", on_error)) == documents
        assert list(TextStore.open(path, Path(folder) / "a.npy")) == documents


@st.composite
def framed(draw) -> tuple[bytes, bytes]:
    """A text, and a file of several frames that holds it, as other tools may write it."""
    pieces = draw(st.lists(st.binary(max_size=200), min_size=2, max_size=8))
    packed, sizes = b"", []
    for piece in pieces:
        if draw(st.booleans()):  # a frame that says something to somebody else
            skippable = struct.pack("<II", 0x184D2A50 + draw(st.integers(0, 15)), 3) + b"abc"
            packed, sizes = packed + skippable, [*sizes, (len(skippable), 0)]
        frame = _frame(piece, *(draw(st.booleans()) for _ in range(2)))
        packed, sizes = packed + frame, [*sizes, (len(frame), len(piece))]
    if draw(st.booleans()):
        packed += _seek_table(sizes, checksums=draw(st.booleans()))
    return b"".join(pieces), packed


def _frame(text: bytes, size: bool, checksum: bool) -> bytes:
    if size:
        return zstandard.ZstdCompressor(write_checksum=checksum).compress(text)
    unpacked = io.BytesIO()
    with zstandard.ZstdCompressor(write_checksum=checksum).stream_writer(unpacked, closefd=False) as file:
        file.write(text)  # a stream, whose length its first frame cannot know
    return unpacked.getvalue()


def _seek_table(sizes: list[tuple[int, int]], checksums: bool) -> bytes:
    entries = b"".join(struct.pack("<II", *each) + b"sums" * checksums for each in sizes)
    footer = struct.pack("<IBI", len(sizes), 0x80 * checksums, 0x8F92EAB1)
    return struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries + footer


@settings(deadline=None, max_examples=150)
@given(framed(), st.data())
def test_any_range_of_a_foreign_file(made, data):
    text, packed = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zst"
        path.write_bytes(packed)
        file = FramedFile(path, find_frames(path))
        assert file.size == len(text)
        for _ in range(5):
            start, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 500))
            assert file.read(start, length) == text[start : start + length]


def test_documents_that_cross_frames_and_blank_lines(tmp_path):
    lines = b'\r\n{"text": "a"}\r\n\n \n{"text": "' + b"b" * 300 + b'"}\n{"text": "c"}'
    for cut in range(1, len(lines), 7):
        path = tmp_path / f"{cut}.jsonl.zst"
        path.write_bytes(b"".join(_frame(lines[i : i + cut], True, True) for i in range(0, len(lines), cut)) + SKIP)
        texts = TextStore.build(path, path.with_suffix(".npy"))
        assert [document.text for document in texts] == ["a", "b" * 300, "c"]


SKIP = struct.pack("<II", 0x184D2A50, 0)


def test_frames_are_cut_at_line_ends_and_long_lines_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LARGEST_FRAME", 1000)
    lines = [b'{"text": "' + b"x" * n + b'"}\n' for n in (10, 30, 3000, 5, 2000, 70)]
    content = b"".join(lines)
    (tmp_path / "a.jsonl").write_bytes(content)
    assert recompress(tmp_path / "a.jsonl", tmp_path / "a.jsonl.zst", frame_bytes=50) == len(content)
    starts = find_frames(tmp_path / "a.jsonl.zst")[1].astype(int)
    assert np.diff(starts).max() == 1000
    cut_inside = [start for start in starts if start and content[start - 1 : start] != b"\n"]
    assert len(cut_inside) == 5  # three in the line of 3000, two in the line of 2000
    texts = TextStore.build(tmp_path / "a.jsonl.zst", tmp_path / "a.npy")
    assert [len(document.text) for document in texts] == [10, 30, 3000, 5, 2000, 70]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_recompressing_keeps_every_byte_and_does_not_depend_on_the_source(tmp_path, suffix, monkeypatch):
    source, target = tmp_path / f"a.jsonl{suffix}", tmp_path / "b.jsonl.zst"
    write_jsonl(source, (Document(f"text {n} " * (n % 50)) for n in range(3000)))
    recompress(source, target, frame_bytes=10_000)
    assert b"".join(read_blocks(target)) == b"".join(read_blocks(source))
    assert find_frames(target).shape[1] > 50
    monkeypatch.setattr("tttnn.corpus.jsonl.BLOCK", 777)
    recompress(source, tmp_path / "c.jsonl.zst", frame_bytes=10_000)
    assert (tmp_path / "c.jsonl.zst").read_bytes() == target.read_bytes()


def test_a_file_may_be_recompressed_in_place(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_jsonl(path, (Document(f"text {n}") for n in range(500)))
    with pytest.raises(NotFramed, match="as one frame: unpack it, or recompress it"):
        TextStore.build(path, tmp_path / "a.npy")
    recompress(path, path, frame_bytes=1000)
    assert TextStore.build(path, tmp_path / "a.npy")[499].text == "text 499"


def test_an_empty_file_can_be_read_by_all(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_framed(path, [])
    assert list(read_jsonl(path)) == []
    assert len(TextStore.build(path, tmp_path / "a.npy")) == 0


def test_frames_too_large_for_a_document_are_not_read_in_place(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.zst"
    monkeypatch.setattr(compressed, "LARGEST_FRAME", 5000)
    large = b"x" * 6000
    for frame in (_frame(large, True, False), _frame(large, False, False)):
        path.write_bytes(frame + frame)
        with pytest.raises(NotFramed, match="too large"):
            find_frames(path)
    path.write_bytes(frame + _seek_table([(len(frame), 6000)], False))
    with pytest.raises(NotFramed, match="too large"):
        find_frames(path)


def test_a_wrong_size_in_a_header_is_not_allocated(tmp_path):
    path, table, _ = _built(tmp_path)
    opened = TextStore.open(path, table)
    with open(path, "r+b") as file:  # the first frame now says that it holds 2**62 bytes
        file.write(struct.pack("<IBQ", 0xFD2FB528, 0xE4, 1 << 62))
    with pytest.raises(CorpusError, match="frame 0 at byte 0: damaged"):
        opened[0]


def test_the_corpus_reads_framed_files_in_place(tmp_path):
    folder, kept = tmp_path / "corpus", tmp_path / "kept"
    folder.mkdir()
    write_framed(folder / "a.train.jsonl.zst", (Document(f"a{n}") for n in range(400)), frame_bytes=500)
    write_jsonl(folder / "b.train.jsonl.zst", (Document(f"b{n}") for n in range(4)))  # one frame
    corpus = Corpus(folder)
    for _ in range(2):  # built, then opened
        assert list(corpus.store("train", kept)) == list(corpus.documents("train"))
        (unpacked,) = kept.glob("*.unpacked")
        assert unpacked.name == "b.train.jsonl.zst.unpacked"
        unpacked.unlink()  # done again
    write_framed(folder / "a.train.jsonl.zst", [Document("new")])
    with pytest.raises(CorpusError, match=r"a\.train\.jsonl\.zst changed since it was indexed"):
        corpus.store("train", kept)


def test_a_corrupt_line_is_named_by_its_place_in_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"text": "a"}\n\n{"text": \n{"text": "b"}\n')
    recompress(tmp_path / "a.jsonl", tmp_path / "a.jsonl.zst", frame_bytes=4)
    texts = TextStore.build(tmp_path / "a.jsonl.zst", tmp_path / "a.npy")
    with pytest.raises(CorpusError, match=r"a\.jsonl\.zst, line 4, byte 16: not JSON"):
        texts[1]
    texts = TextStore.build(tmp_path / "a.jsonl.zst", tmp_path / "a.npy", on_error="skip")
    assert ([document.text for document in texts], texts.skipped) == (["a", "b"], 1)


def test_no_flipped_bit_changes_a_text(tmp_path):
    path, table, texts = _built(tmp_path)
    content, text = path.read_bytes(), b"".join(read_blocks(path))
    rng = np.random.default_rng(1216)
    noticed = 0
    for place in rng.choice(len(content), 600, replace=False):
        opened = TextStore.open(path, table)  # its own cache, and opened before the damage
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << int(rng.integers(8))]))
        assert _text_or_none(path) in (text, None)
        try:
            assert [document.text for document in opened] == texts
        except CorpusError as error:
            noticed += 1
            assert str(path) in str(error)
            assert "at byte" in str(error)
        with pytest.raises(CorpusError, match=r"a\.jsonl\.zst changed"):  # smaller than what is hashed
            TextStore.open(path, table)
        path.write_bytes(content)
    assert noticed > 450  # the others are in the seek table, which an open store does not need


def _text_or_none(path: Path) -> bytes | None:
    try:
        return FramedFile(path, find_frames(path)).read(0, 1 << 30)
    except CorpusError:
        return None


def test_a_truncated_file_is_refused_or_ends_with_a_whole_frame(tmp_path):
    path, _, texts = _built(tmp_path)
    content = path.read_bytes()
    ends = set(find_frames(path)[0].tolist())
    for length in sorted(set(range(1, len(content), 37)) - ends):
        path.write_bytes(content[:length])
        with pytest.raises(CorpusError, match=r"a\.jsonl\.zst"):
            TextStore.build(path, tmp_path / "b.npy")
    whole = sorted(ends)[3]
    path.write_bytes(content[:whole])  # as if it had been written so: a shorter corpus
    shorter = [document.text for document in TextStore.build(path, tmp_path / "b.npy")]
    assert shorter == texts[: len(shorter)]


def test_a_replaced_frame_table_is_refused(tmp_path):
    path, table, _ = _built(tmp_path)
    np.save(store.frames_path(table), find_frames(path)[:, 1:])
    with pytest.raises(CorpusError, match=r"a\.frames\.npy is not the table"):
        TextStore.open(path, table)
    store.frames_path(table).unlink()
    with pytest.raises(CorpusError, match=r"no file .*a\.frames\.npy"):
        TextStore.open(path, table)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path, table, texts = _built(tmp_path)
    before = sorted(tmp_path.iterdir())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(compressed, "_seek_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_framed(path, [Document("new")])
    assert sorted(tmp_path.iterdir()) == before
    assert TextStore.open(path, table)[7].text == texts[7]


BUILD = """
import sys
from tttnn.corpus import Corpus, store
store.SCAN_RANGE = 5000  # many steps to be killed between
corpus = Corpus(sys.argv[1])
print("ready", flush=True)
corpus.store("train", sys.argv[2])
"""


def test_a_killed_build_is_begun_again(tmp_path):
    folder, kept = tmp_path / "corpus", tmp_path / "kept"
    folder.mkdir()
    write_framed(folder / "a.train.jsonl.zst", (Document(f"a{n}") for n in range(3000)), frame_bytes=2000)
    write_jsonl(folder / "b.train.jsonl.zst", (Document(f"b{n}") for n in range(300)))  # is unpacked first
    corpus = Corpus(folder)
    for delay in np.random.default_rng(1216).uniform(0, 0.05, 8):
        # Not forked: a killed fork may take tqdm's lock, which it shares with this process, with it.
        command = [sys.executable, "-c", BUILD, str(folder), str(kept)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as building:
            assert building.stdout.readline() == b"ready\n"
            time.sleep(delay)
            building.kill()
        assert list(corpus.store("train", kept)) == list(corpus.documents("train"))
        shutil.rmtree(kept)


@pytest.mark.parametrize("bad", [{"frame_bytes": 0}, {"frame_bytes": 1 << 25}, {"path": "a.jsonl.gz"}])
def test_bad_parameters(tmp_path, bad):
    path = tmp_path / bad.pop("path", "a.jsonl.zst")
    with pytest.raises(ValueError, match=r"frame_bytes|\.zst"):
        write_framed(path, [Document("a")], **bad)
    assert not list(tmp_path.iterdir())


def test_threads_and_processes_at_once(tmp_path):
    path, table, texts = _built(tmp_path, 3000)
    opened = TextStore.open(path, table)
    with (
        multiprocessing.get_context("fork").Pool(2, initializer=share, initargs=(opened, texts)) as forked,
        multiprocessing.get_context("spawn").Pool(1, initializer=share, initargs=(opened, texts)) as spawned,
    ):
        waiting = [pool.map_async(count_wrong, range(4)) for pool in (forked, spawned)]
        with ThreadPoolExecutor(4) as threads:
            share(opened, texts)
            assert not any(threads.map(count_wrong, range(8)))
        assert not any(any(each.get(timeout=120)) for each in waiting)
    assert copy.copy(opened)[5].text == texts[5]


def test_memory_is_bounded_whatever_is_read(tmp_path):
    line = json.dumps({"text": "a text of some length, " * 200}).encode() + b"\n"
    frame = _frame(line * 100, True, True)  # 460 kB
    path = tmp_path / "a.jsonl.zst"
    with open(path, "wb") as file:
        for _ in range(200):
            file.write(frame)
    texts = TextStore.build(path, tmp_path / "a.npy")
    texts[0]
    before = psutil.Process().memory_info().rss
    for index in range(0, len(texts), 50):
        texts[index]
    assert psutil.Process().memory_info().rss - before <= 8 * compressed.CACHE < 92_000_000  # what it holds


def _built(folder: Path, count: int = 300) -> tuple[Path, Path, list[str]]:
    rng = np.random.default_rng(1216)
    texts = [f"{n}:" + "".join(map(chr, rng.integers(32, 127, n % 61))) for n in range(count)]
    path, table = folder / "a.jsonl.zst", folder / "a.npy"
    write_framed(path, map(Document, texts), frame_bytes=1000)
    TextStore.build(path, table)
    return path, table, texts
