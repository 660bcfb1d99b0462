"""Random files of a corpus and random manifests of an index: each is read as it is, or refused by name."""

import copy
import gzip
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from test_index import build

from tttnn.corpus import BadDocument, open_corpus, read_jsonl
from tttnn.errors import TTTNNError
from tttnn.files import read_json, write_json
from tttnn.index import DamagedIndex, Index, verify
from tttnn.index.manifest import write_sealed


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    """What is written here need not survive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


# Corpora

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.fixed_dictionaries(
    {"text": st.text(max_size=30) | VALUES},
    optional={"meta": st.dictionaries(st.sampled_from(["pile_set_name", "a"]), VALUES) | VALUES, "more": VALUES},
)
ODD_LINES = st.sampled_from(
    [
        b"", b"\r", b" \t", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b'{"text": "a', b'{"text": "\xff"}', b"\0" * 9,
        b'{"text": "\\ud800"}', b'{"text": "a", "meta": {"\\udfff": 1}}', b'{"text": "a", "text": "b"}',
        b'{"text": "a", "meta": {"n": ' + b"7" * 5000 + b"}}", b'{"text": "a", "meta": ' + b"[" * 5000,
        b'\xef\xbb\xbf{"text": "marked"}', b'{"text": "a", "meta": {"x": NaN}}', b'{"text": "a"} {"text": "b"}',
        '{"text": "a"}'.encode("utf-16"), b'{"text": "\\u0000\\ud83d\\ude00"}', b'{"text": "a", "meta": "web"}',
    ]
)  # fmt: skip


def _as_line(record: dict, escaped: bool) -> bytes:
    return json.dumps(record, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


LINES = st.lists(st.builds(_as_line, RECORDS, st.booleans()) | ODD_LINES | st.binary(max_size=12), max_size=6)
NAMES = st.sampled_from(["a", "ü [1] b"])
PACKINGS = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


def _as_json_says(line: bytes):
    """Text and meta of a line by Python's json alone; None if it is no document, "" if it is blank."""
    if not line.strip():
        return ""
    try:
        record = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
        text, meta = record["text"], record.get("meta")
        json.dumps([text, meta], ensure_ascii=False).encode()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return (text, meta or {}) if isinstance(text, str) and isinstance(meta, dict | None) else None


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(list(PACKINGS)), NAMES)
def test_a_corpus_is_read_as_json_says_or_refused_by_file_and_line(lines, end, last, suffix, name):
    content = end.encode().join(lines) + end.encode() * last
    expected = [_as_json_says(line) for line in content.split(b"\n")]
    if content.split(b"\n")[0].removeprefix(b"\xef\xbb\xbf").strip() == b"":
        expected[0] = ""
    expected = [each for each in expected if each != ""]
    good = [each for each in expected if each is not None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts" / f"{name}.train.jsonl{suffix}"
        path.parent.mkdir()
        path.write_bytes(PACKINGS[suffix](content))
        try:
            read = [(document.text, document.meta) for document in read_jsonl(path)]
        except TTTNNError as error:
            assert str(path) in str(error)
            assert None in expected
        else:
            assert repr(read) == repr(expected)  # by repr: NaN is not equal to itself
        _check_corpus(path, name, good, len(expected) - len(good))


def _check_corpus(path: Path, name: str, good: list, bad: int) -> None:
    """A corpus of one file, with and without its bad documents."""
    filled = [(text, {**meta, "pile_set_name": name}) for text, meta in good if text.strip()]
    kept = path.parent.with_name("kept")
    try:
        store = open_corpus(path.parent).store("train", kept)
    except TTTNNError as error:
        assert str(path) in str(error)
        assert bad or len(filled) < len(good)
    else:
        assert not bad and repr([(each.text, _sorted(each.meta)) for each in store]) == repr(
            [(text, _sorted(meta)) for text, meta in filled]
        )
    corpus = open_corpus(path.parent, skip_bad=True)
    try:
        store = corpus.store("train", kept)
    except BadDocument:
        pytest.fail("one bad document stopped a corpus that leaves them out")
    except TTTNNError as error:
        assert str(path) in str(error) or "UTF-16" in str(error)
        return
    for read in (store, corpus.documents("train")):
        assert repr([(each.text, _sorted(each.meta)) for each in read]) == repr(
            [(text, _sorted(meta)) for text, meta in filled]
        )
    assert store.skipped == bad + len(good) - len(filled)


def _sorted(meta: dict) -> list:
    return sorted(meta.items(), key=lambda item: item[0])


@given(
    st.binary(max_size=200), st.sampled_from(list(PACKINGS)), st.integers(0, 400), st.integers(0, 255), st.booleans(),
    st.sampled_from(["x.train.jsonl", "train.jsonl", "x.JSONL", "validation.jsonl", "._x.val.jsonl", "\n.test.jsonl"]),
)  # fmt: skip
def test_damaged_and_oddly_named_files(content, suffix, place, value, cut, name):
    packed = bytearray(PACKINGS[suffix](b'{"text": "a b c"}\n' * 9 + content))
    packed = packed[: place % (len(packed) + 1)] if cut else packed
    if packed:
        packed[place % len(packed)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (name + suffix)
        path.write_bytes(packed)
        try:
            corpus = open_corpus(folder)
            split = corpus.splits[0]
            list(corpus.store(split, Path(folder) / "kept"))
            assert list(corpus.sample_domains(split, 2, 1)) == corpus.domains_of(split)
        except TTTNNError as error:
            assert folder in str(error)


# Manifests

WRONG = st.sampled_from([-1, 0, 10**30, 2**63, 1.5, float("inf"), True, None, "3", [], {}, "../x", "\udc80", [[1]]])
FILE_NAMES = st.sampled_from(
    ["../shard-00001/vectors.npy", "/etc/passwd", "vectors.npy", "structure.faiss", ".", "", "a/../vectors.npy", "\0"]
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    vectors = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    return build(tmp_path_factory.mktemp("i") / "index", vectors, shard_rows=10)


# Which places of a manifest change, to what, and whether they are removed instead.
CHANGES = st.lists(st.tuples(st.integers(0, 60), WRONG | FILE_NAMES, st.booleans()), min_size=1, max_size=3)


def _places(value, path=()):
    """All entries of a nested value, outer ones first."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += _places(value[key], (*path, key))
    return found


def _changed(value, path, new, remove):
    for key in path[:-1]:
        value = value[key]
    if remove:
        del value[path[-1]]
    else:
        value[path[-1]] = copy.deepcopy(new)  # or a later change would put a value into itself


@given(CHANGES)
def test_no_manifest_is_believed_that_does_not_fit(index, changes):
    original = read_json(index.folder / "manifest.json")
    cards = {card["name"]: card for card in original["shards"]}
    manifest = json.loads(json.dumps(original))
    for number, new, remove in changes:
        places = _places(manifest)
        _changed(manifest, places[number % len(places)], new, remove)
    try:
        try:
            write_sealed(index.folder / "manifest.json", manifest)
        except ValueError:  # no JSON: NaN, or a lone surrogate
            return
        shards = manifest.get("shards")
        for number, card in enumerate(shards if isinstance(shards, list) else []):
            if isinstance(card, dict):  # the shard's own card agrees, as a forger would see to
                place = index.folder / f"shard-{number:05d}" / "shard.json"
                if place.parent.exists():
                    write_sealed(place, card)
                    card["sha256"] = read_json(place)["sha256"]
        write_sealed(index.folder / "manifest.json", manifest)
        _check_index(index)
    finally:
        write_json(index.folder / "manifest.json", original)
        for name, card in cards.items():
            write_json(index.folder / name / "shard.json", card)


def _check_index(index: Index) -> None:
    """It answers as before, or is refused by the file that is wrong."""
    queries = np.zeros((1, 3), np.float32)
    for check in (lambda: Index.open(index.folder, "a" * 64), lambda: verify(index.folder)):
        try:
            opened = check()
        except TTTNNError as error:
            assert str(index.folder) in str(error)
        else:
            if isinstance(opened, Index):
                assert opened.search(queries, 20)[1].tolist() == index.search(queries, 20)[1].tolist()


@pytest.mark.parametrize("files", [["../shard-00001/vectors.npy"], [], ["vectors.npy"] * 2, ["manifest.json"]])
def test_a_manifest_names_the_files_of_its_shard_and_all_of_them(tmp_path, files):
    folder = build(tmp_path / "i", np.eye(3, dtype=np.float32)).folder
    manifest = read_json(folder / "manifest.json")
    card = manifest["shards"][0]
    card["files"] = [{**card["files"][0], "file": name} for name in files]
    write_sealed(folder / "shard-00000" / "shard.json", card)
    manifest["shards"] = [read_json(folder / "shard-00000" / "shard.json")]
    write_sealed(folder / "manifest.json", manifest)
    for check in (lambda: Index.open(folder, "a" * 64), lambda: verify(folder)):
        with pytest.raises(DamagedIndex, match=r"manifest\.json: shard-00000 of kind .* cannot consist of"):
            check()


@pytest.mark.parametrize("linked", ["shard-00000", "shard-00000/vectors.npy", "shard-00000/shard.json"])
def test_links_out_of_an_index_are_not_followed(tmp_path, linked):
    folder = build(tmp_path / "i", np.eye(3, dtype=np.float32)).folder
    (folder / linked).rename(tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")
    for check in (lambda: Index.open(folder, "a" * 64), lambda: verify(folder)):
        with pytest.raises(DamagedIndex, match=r"leads out of"):
            check()


@pytest.mark.parametrize("content", [["a.txt"], ["vectors.npy"], ["shard.json", "a.txt"], ["b/a.npy", "shard.json"]])
@pytest.mark.parametrize("name", ["shard-00", "shard-00000", "shard-00007"])
def test_nothing_is_deleted_that_is_not_ours(tmp_path, name, content):
    place = tmp_path / "i" / name
    for each in content:
        (place / each).parent.mkdir(parents=True, exist_ok=True)
        (place / each).write_text("{}")
    with pytest.raises(TTTNNError, match=f"{name}, which this package did not write"):
        build(tmp_path / "i", np.eye(3, dtype=np.float32))
    assert all((place / each).read_text() == "{}" for each in content)
