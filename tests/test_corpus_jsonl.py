"""Reading and writing the Pile's JSON Lines."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tttnn.corpus import CorpusError, Document, read_jsonl, write_jsonl
from tttnn.corpus.jsonl import BLOCK, ZSTD_BLOCK

SUFFIXES = ["", ".gz", ".zst"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # every character but lone surrogates


@settings(deadline=None, max_examples=60)  # a write waits for the disk
@given(
    st.lists(st.builds(Document, TEXTS, st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS))),
    st.sampled_from(SUFFIXES),
)
def test_round_trip(documents, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"part.jsonl{suffix}"
        assert write_jsonl(path, documents) == len(documents)
        assert list(read_jsonl(path)) == documents


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_documents_give_equal_bytes(tmp_path, suffix):
    documents = [Document("Grüße\u2028\x85", {"pile_set_name": "a"})] * 3
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl{suffix}", iter(documents))
    one, two = sorted(tmp_path.iterdir())
    assert one.read_bytes() == two.read_bytes()


def test_text_is_raw_utf8_on_disk(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [Document("日本語")])
    assert "日本語".encode() in (tmp_path / "a.jsonl").read_bytes()


def test_domain_is_the_pile_set_name():
    assert Document("a", {"pile_set_name": "github"}).domain == "github"
    assert Document("a").domain == ""


def test_crlf_blank_lines_missing_meta_and_missing_final_newline(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\r\n\n{"text": "a"}\r\n \t\n{"text": "b", "meta": null}')
    assert list(read_jsonl(path)) == [Document("a", {}), Document("b", {})]


def test_an_empty_file_has_no_documents(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert list(read_jsonl(tmp_path / "a.jsonl")) == []


def test_a_line_longer_than_many_blocks(tmp_path):
    long = "é" * (3 * BLOCK)
    write_jsonl(tmp_path / "a.jsonl.zst", [Document(long), Document("b")])
    assert [document.text for document in read_jsonl(tmp_path / "a.jsonl.zst")] == [long, "b"]


CORRUPT = {
    "not UTF-8: byte 10 of the line is 0xff": b'{"text": "\xff"}',
    "not JSON: Unterminated string": b'{"text": "a',
    "no .text. in this JSON object; its keys are .'contents', 'meta'.": b'{"contents": "a", "meta": {}}',
    ".text. is not a string, but int": b'{"text": 1}',
    ".text. is not a string, but NoneType": b'{"text": null}',
    "not a JSON object with a .text., but list": b'["text"]',
    ".meta. is not a JSON object, but str": b'{"text": "a", "meta": "b"}',
    "lone surrogate": b'{"text": "\\ud800"}',
    "not JSON: maximum recursion": b'{"text": "a", "meta": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("message", CORRUPT)
def test_a_corrupt_line_is_named_by_file_line_and_offset(tmp_path, message, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    _write(path, b'{"text": "a"}\n\n' + CORRUPT[message] + b'\n{"text": "b"}\n')
    with pytest.raises(CorpusError, match=rf"a\.jsonl{suffix}, line 3, byte 15: .*{message}"):
        list(read_jsonl(path))


def test_corrupt_lines_are_skipped_and_counted_if_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"\n".join(CORRUPT.values()) + b'\n{"text": "b"}\n')
    reader = read_jsonl(path, on_error="skip")
    assert [document.text for document in reader] == ["a", "b"]
    assert reader.skipped == len(CORRUPT)


def test_a_paired_surrogate_escape_is_a_character(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\\ud83d\\ude00"}')
    assert [document.text for document in read_jsonl(tmp_path / "a.jsonl")] == ["😀"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_truncated_compressed_file_is_an_error_after_what_can_be_read(tmp_path, suffix, on_error):
    path = tmp_path / f"a.jsonl{suffix}"
    lines = b"".join(json.dumps({"text": f"{n} {n * n * n}"}).encode() + b"\n" for n in range(50_000))
    _write(path, lines)
    whole = path.read_bytes()
    assert len(whole) > 2 * ZSTD_BLOCK
    for length in (len(whole) - 1, len(whole) // 2, 3, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=rf"a\.jsonl{suffix}: ends in the middle"):
            list(read_jsonl(path, on_error))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_or_misnamed_compressed_file_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b'{"text": "plain after all"}\n' * 10)
    with pytest.raises(CorpusError, match=rf"a\.jsonl{suffix}: damaged, or not compressed as"):
        list(read_jsonl(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_frames_in_one_file(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    frames = b""
    for text in "ab":
        _write(path, json.dumps({"text": text}).encode() + b"\n")
        frames += path.read_bytes()
    path.write_bytes(frames)
    assert [document.text for document in read_jsonl(path)] == ["a", "b"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    write_jsonl(path, [Document("before")])
    with pytest.raises(CorpusError, match=r"document 1 cannot be written as UTF-8"):
        write_jsonl(path, [Document("a"), Document("\ud800")])
    assert list(read_jsonl(path)) == [Document("before")]
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_on_error_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match="on_error"):
        read_jsonl(tmp_path / "a.jsonl", on_error="ignore")
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        list(read_jsonl(tmp_path / "a.jsonl"))


def _write(path: Path, content: bytes) -> None:
    packed = {
        ".gz": gzip.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }.get(path.suffix, bytes)(content)
    path.write_bytes(packed)
