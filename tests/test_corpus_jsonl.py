"""Reading and writing the Pile's JSON Lines."""

import bz2
import codecs
import gzip
import hashlib
import json
import lzma
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tttnn.corpus import CorpusError, Document, TextStore, jsonl, read_jsonl, write_jsonl
from tttnn.corpus.compressed import NotFramed
from tttnn.corpus.jsonl import BLOCK, PACKED_BLOCK, BadDocument
from tttnn.errors import ParameterError

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
    ".meta. holds a lone surrogate": b'{"text": "a", "meta": {"pile_set_name": "\\uDFFF"}}',
    "whole number of over 4300 digits": b'{"text": "a", "meta": {"n": ' + b"7" * 5000 + b"}}",
    "not JSON: Invalid control character": b'{"text": "\0"}',
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
    assert len(whole) > 2 * PACKED_BLOCK
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
    with pytest.raises(ParameterError, match="on_error='ignore'"):
        read_jsonl(tmp_path / "a.jsonl", on_error="ignore")
    with pytest.raises(CorpusError, match=r"no file .*a\.jsonl"):
        list(read_jsonl(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(CorpusError, match=r"b\.jsonl cannot be opened: Is a directory"):
        list(read_jsonl(tmp_path / "b.jsonl"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_byte_order_marks_are_no_text(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    mark = codecs.BOM_UTF8  # files that Windows programs wrote, put one after another
    _write(path, mark + b'{"text": "a"}\r\n' + mark + b'{"text": "\xef\xbb\xbfb"}\r\n')
    assert [document.text for document in read_jsonl(path)] == ["a", "\ufeffb"]
    _write(path, mark + b"\r\n")
    assert list(read_jsonl(path)) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_another_encoding_is_refused_by_name(tmp_path, encoding, on_error):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a"}\n'.encode(encoding))
    with pytest.raises(CorpusError, match=r"a\.jsonl is not UTF-8 but UTF-16 .* convert it"):
        list(read_jsonl(path, on_error))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b'{"text": "a"}\n' * 99, mtime=0), "compressed by gzip.* add .gz to its name"),
        (zstandard.ZstdCompressor().compress(b'{"text": "a"}\n' * 99), "compressed by zstandard.* add .zst"),
        (bz2.compress(b'{"text": "a"}\n'), "bunzip2"),
        (lzma.compress(b'{"text": "a"}\n'), "unxz"),
        (b"PK\3\4\n", "unzip"),
        (b"PAR1\x15\n", "read_parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
    ids=["gzip", "zstandard", "bzip2", "lzma", "zip", "parquet", "git-lfs"],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_of_another_kind_is_called_that(tmp_path, content, told, on_error):
    """Rather than a bad line, which would be left out, and all others with it."""
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"a\.jsonl is .*{told}"):
        list(read_jsonl(tmp_path / "a.jsonl", on_error))


def test_what_json_reads_is_read(tmp_path):
    lines = [
        b'{"text": "a", "text": "b"}',
        b'{"text": "NUL \\u0000", "meta": {"score": NaN, "most": -Infinity, "n": ' + b"1" * 4000 + b"}}",
        b'{"text": "c", "meta": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}",
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    read = list(read_jsonl(tmp_path / "a.jsonl"))
    records = [json.loads(line) for line in lines]
    assert [each.text for each in read] == ["b", "NUL \0", "c"]
    assert repr([each.meta for each in read]) == repr([record.get("meta", {}) for record in records])


def test_an_empty_text_is_bad_only_if_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": ""}\n')
    assert [document.text for document in read_jsonl(path)] == ["a", ""]
    with pytest.raises(BadDocument, match=r"a\.jsonl, line 2, byte 14: .*empty"):
        list(read_jsonl(path, filled=True))
    reader = read_jsonl(path, "skip", filled=True)
    assert ([document.text for document in reader], reader.skipped) == (["a"], 1)
    assert "line 2" in reader.problem


@pytest.mark.parametrize("window", [27, 28, 31])
def test_a_frame_that_looks_far_back_is_read(tmp_path, window):
    how = zstandard.ZstdCompressionParameters(window_log=window, compression_level=1, write_content_size=0)
    packer = zstandard.ZstdCompressor(compression_params=how).compressobj()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packer.compress(b'{"text": "a"}\n') + packer.flush())
    assert [document.text for document in read_jsonl(path)] == ["a"]
    with pytest.raises(NotFramed):
        TextStore.build(path, tmp_path / "a.npy")
    path.write_bytes(2 * path.read_bytes())  # two frames, so that it can be read in place
    assert [document.text for document in TextStore.build(path, tmp_path / "a.npy")] == ["a", "a"]


@pytest.mark.parametrize("piece", [1, 7, PACKED_BLOCK])
@pytest.mark.parametrize(("rest", "warns"), [(b"\0" * 600, False), (b"junk", True), (b"\0\0x", True), (b"\x1f", True)])
def test_bytes_after_gzip_are_left_out_with_a_warning(tmp_path, monkeypatch, caplog, rest, warns, piece):
    monkeypatch.setattr(jsonl, "PACKED_BLOCK", piece)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n') + b"\0" + gzip.compress(b'{"text": "b"}\n') + rest)
    digest = hashlib.sha256()
    assert [document.text for document in read_jsonl(path, digest=digest)] == ["a", "b"]
    assert ("a.jsonl.gz: bytes after the end" in caplog.text) == warns
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()


def test_bytes_after_zstandard_are_an_error(tmp_path):
    for rest in (b"j", b"junk"):
        (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "a"}\n') + rest)
        with pytest.raises(CorpusError, match=r"a\.jsonl\.zst: (damaged|ends in the middle)"):
            list(read_jsonl(tmp_path / "a.jsonl.zst"))


def test_meta_that_json_cannot_express_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"a\.jsonl: document 0 cannot be written as JSON: .*set"):
        write_jsonl(tmp_path / "a.jsonl", [Document("a", {"b": {1}})])


def _write(path: Path, content: bytes) -> None:
    packed = {
        ".gz": gzip.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }.get(path.suffix, bytes)(content)
    path.write_bytes(packed)
