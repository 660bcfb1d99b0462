"""A corpus as a folder of JSON Lines, in both layouts."""

import copy
import gzip
import hashlib
import io
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tttnn.corpus import (
    BadDocument,
    Corpus,
    CorpusError,
    Document,
    TextStore,
    jsonl,
    open_corpus,
    store,
    write_jsonl,
)
from tttnn.corpus.overlap import seen_shares, windows
from tttnn.errors import ParameterError
from tttnn.files import read_json

DOMAINS = {"code": 12, "prose.old": 30}  # documents of each split


def _documents(domain: str, split: str) -> list[Document]:
    return [Document(f"{domain} {split} {n} " + "x" * n, {"pile_set_name": domain}) for n in range(DOMAINS[domain])]


def _by_domain(folder: Path, suffix: str) -> Corpus:
    for domain in DOMAINS:
        for split in ("train", "val", "test"):
            write_jsonl(folder / f"{domain}.{split}.jsonl{suffix}", _documents(domain, split))
    return open_corpus(folder)


def _by_split(folder: Path, suffix: str) -> Corpus:
    for split in ("val", "test"):
        whole = [document for domain in DOMAINS for document in _documents(domain, split)]
        write_jsonl(folder / f"{split}.jsonl{suffix}", whole)
    for number, domain in enumerate(sorted(DOMAINS)):
        write_jsonl(folder / "train" / f"0{number}.jsonl{suffix}", _documents(domain, "train"))
    return open_corpus(folder)


@pytest.fixture(params=[_by_domain, _by_split])
def make(request):
    return request.param


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_both_layouts_give_the_same_documents(tmp_path, make, suffix):
    corpus = make(tmp_path, suffix)
    assert corpus.domains == sorted(DOMAINS)
    assert corpus.splits == ["train", "val", "test"]
    assert corpus.name == tmp_path.name
    for split in corpus.splits:
        expected = [document for domain in sorted(DOMAINS) for document in _documents(domain, split)]
        assert list(corpus.documents(split)) == expected
        for domain in DOMAINS:
            assert list(corpus.documents(split, domain)) == _documents(domain, split)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_store_numbers_documents_as_they_are_read(tmp_path, make, suffix):
    corpus = make(tmp_path / "corpus", suffix)
    for split in corpus.splits:
        for _ in range(2):  # built, then opened
            assert list(corpus.store(split, tmp_path / "kept")) == list(corpus.documents(split))
    kept = Counter(path.suffix for path in (tmp_path / "kept").rglob("*"))
    assert (kept[".unpacked"] > 0) == bool(suffix)


def test_plain_files_are_read_in_place_and_the_corpus_is_left_alone(tmp_path, make):
    corpus = make(tmp_path / "corpus", "")
    before = sorted((tmp_path / "corpus").rglob("*"))
    texts = corpus.store("test", tmp_path / "kept")
    assert {each.path for each in texts.stores} == set(corpus.files("test"))
    assert sorted((tmp_path / "corpus").rglob("*")) == before


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_corpus_that_changed_is_refused_by_its_store(tmp_path, suffix):
    corpus = _by_domain(tmp_path / "corpus", suffix)
    corpus.store("test", tmp_path / "kept")
    write_jsonl(tmp_path / "corpus" / f"code.test.jsonl{suffix}", [Document("new")])
    with pytest.raises(CorpusError, match=r"code\.test\.jsonl.* changed since it was"):
        corpus.store("test", tmp_path / "kept")


def test_an_interrupted_unpacking_is_done_again(tmp_path):
    corpus = _by_domain(tmp_path / "corpus", ".gz")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "code.test.jsonl.gz.unpacked").write_text("half, without the note beside it")
    assert list(corpus.store("test", tmp_path / "kept")) == list(corpus.documents("test"))


def test_a_sample_is_seeded_and_grows_from_its_start(tmp_path, make):
    corpus = make(tmp_path, "")
    whole = list(corpus.documents("test", "prose.old"))
    ten = corpus.sample("test", "prose.old", 10, seed=1)
    assert all(document == whole[number] for number, document in ten)
    assert len({number for number, _ in ten}) == 10
    assert corpus.sample("test", "prose.old", 30, seed=1)[:10] == ten
    assert corpus.sample("test", "prose.old", 10, seed=2) != ten
    assert sorted(number for number, _ in corpus.sample("test", "prose.old", 30, seed=1)) == list(range(30))


def test_documents_in_turns_are_the_same_ones_and_each_file_has_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("tttnn.corpus.folder.OPEN_FILES", 2)
    for domain, count in (("a", 3), ("b", 1), ("c", 2)):
        write_jsonl(tmp_path / f"{domain}.train.jsonl", (Document(f"{domain}{n}") for n in range(count)))
    corpus = open_corpus(tmp_path)
    found = list(corpus.documents_in_turns("train"))
    assert [each.text for each in found] == ["a0", "b0", "a1", "a2", "c0", "c1"]
    assert {each.domain for each in found} == {"a", "b", "c"}


def test_a_sample_of_short_documents_keeps_their_numbers(tmp_path):
    corpus = _by_domain(tmp_path, "")
    whole = list(corpus.documents("test", "code"))
    limit = len(whole[6].text)
    drawn = corpus.sample("test", "code", 7, seed=1, max_bytes=limit)
    assert sorted(number for number, _ in drawn) == list(range(7))
    with pytest.raises(CorpusError, match=rf"8 documents asked of code\.test, which has 7 of at most {limit}"):
        corpus.sample("test", "code", 8, seed=1, max_bytes=limit)


@pytest.fixture
def read(monkeypatch):
    """Bytes read of each file, by name, and how often it was opened."""
    opened, read_bytes = Counter(), Counter()

    class Counted(io.FileIO):
        def __init__(self, path, mode):
            super().__init__(path, mode)
            self.called = Path(path).name
            if mode == "rb":
                opened[self.called] += 1

        def read(self, size=-1):
            data = super().read(size)
            read_bytes[self.called] += len(data)
            return data

    monkeypatch.setattr(jsonl, "open", Counted, raising=False)
    return opened, read_bytes


def _sample_by_sorting(corpus: Corpus, split: str, domain: str, n: int, seed: int, max_bytes: int | None) -> list:
    """The definition: number each domain's documents, rank them by a hash, take the lowest."""

    def rank(number):
        return hashlib.blake2b(f"{seed}:{domain}:{number}".encode(), digest_size=8).digest()

    own = list(enumerate(document for document in corpus.documents(split) if document.domain == domain))
    pool = [(number, each) for number, each in own if max_bytes is None or len(each.text.encode()) <= max_bytes]
    return sorted(pool, key=lambda each: rank(each[0]))[:n]


@pytest.mark.parametrize("max_bytes", [None, 25])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_domains_are_sampled_in_one_pass_as_each_by_itself(tmp_path, make, read, n, max_bytes):
    corpus = make(tmp_path, "")
    opened, read_bytes = read
    drawn = corpus.sample_domains("test", n, 3, max_bytes)
    assert set(opened.values()) == {1}
    assert read_bytes == {path.name: path.stat().st_size for path in corpus.files("test")}
    assert drawn == {domain: _sample_by_sorting(corpus, "test", domain, n, 3, max_bytes) for domain in sorted(DOMAINS)}
    backwards = ["prose.old", "code", "prose.old"]
    chosen = corpus.sample_domains("test", n, 3, max_bytes, backwards)
    assert (list(chosen), chosen) == (["prose.old", "code"], drawn)
    alone = corpus.sample_domains("test", n, 3, max_bytes, ["code"])
    assert alone == {"code": drawn["code"]}
    for domain, sample in drawn.items():
        if sample:
            assert corpus.sample("test", domain, len(sample), 3, max_bytes) == sample


def test_a_domain_of_another_split_gives_no_documents(tmp_path):
    _by_split(tmp_path, "")
    write_jsonl(tmp_path / "test.jsonl", _documents("code", "test"))
    drawn = open_corpus(tmp_path).sample_domains("test", 2, 1, domains=["prose.old", "code"])
    assert [len(sample) for sample in drawn.values()] == [0, 2]


def test_a_summary_reads_each_file_once(tmp_path, make, read):
    corpus = make(tmp_path, ".gz")
    opened, read_bytes = read
    sizes = corpus.sizes()
    files = [path for split in corpus.splits for path in corpus.files(split)]
    assert opened == {path.name: 1 for path in files}
    assert read_bytes == {path.name: path.stat().st_size for path in files}
    assert sizes == {
        domain: {
            split: (DOMAINS[domain], sum(len(document.text) for document in _documents(domain, split)))
            for split in corpus.splits
        }
        for domain in sorted(DOMAINS)
    }


def test_the_fingerprint_follows_content_and_names_but_not_the_place(tmp_path):
    one, two = _by_domain(tmp_path / "one", ""), _by_domain(tmp_path / "two", "")
    assert one.fingerprint == two.fingerprint
    write_jsonl(tmp_path / "two" / "code.val.jsonl", [Document("new")])
    assert open_corpus(tmp_path / "two").fingerprint != one.fingerprint


def test_the_fingerprint_is_that_of_the_files_as_they_are_now(tmp_path, make):
    corpus = make(tmp_path, "")
    first, path = corpus.fingerprint, corpus.files("train")[0]
    write_jsonl(path, [*_documents("code", "train"), Document("one more")])
    assert first != corpus.fingerprint == Corpus(tmp_path).fingerprint
    path.unlink()
    with pytest.raises(CorpusError, match=rf"{re.escape(str(path))}: No such file or directory; it was there"):
        _ = corpus.fingerprint


def test_missing_splits_and_misspelt_domains_list_what_is_there(tmp_path, make):
    corpus = make(tmp_path, "")
    with pytest.raises(CorpusError, match=r"no split 'tests': it has train, val, test"):
        corpus.documents("tests")
    with pytest.raises(CorpusError, match=r"no domain 'cod': it has code, prose\.old"):
        corpus.documents("test", "cod")
    with pytest.raises(CorpusError, match=r"no domain 'cod': it has code, prose\.old"):
        corpus.sample_domains("test", 1, seed=1, domains=["code", "cod"])
    with pytest.raises(CorpusError, match=r"no split 'tst': it has train, val, test"):
        corpus.sample_domains("tst", 1, seed=1)
    with pytest.raises(ParameterError, match="n=0: must be at least 1"):
        corpus.sample("test", "code", 0, seed=1)
    with pytest.raises(ParameterError, match="names no domain"):
        corpus.sample_domains("test", 1, seed=1, domains=[])


def test_a_domain_without_this_split(tmp_path):
    _by_domain(tmp_path, "")
    (tmp_path / "code.val.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"domain code has no split 'val': it has train, test"):
        open_corpus(tmp_path).documents("val", "code")


def test_domains_of_a_training_split_alone(tmp_path):
    write_jsonl(tmp_path / "train" / "00.jsonl", _documents("code", "train"))
    corpus = open_corpus(tmp_path)
    assert (corpus.splits, corpus.domains) == (["train"], ["code"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is no corpus"),
        (["notes.jsonl", "a.txt"], "is no corpus"),
        (["a.test.jsonl", "test.jsonl"], "is no corpus"),
        (["a.test.jsonl", "a.test.jsonl.gz"], "the same part"),
        (["test.jsonl", "test.jsonl.gz"], "keep one"),
    ],
)
def test_a_folder_that_is_no_corpus(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CorpusError, match=message):
        open_corpus(tmp_path)


def test_no_such_folder_or_name(tmp_path):
    with pytest.raises(CorpusError, match=r"no folder .*weels.*or 'wheels'"):
        open_corpus(tmp_path / "weels")


def test_windows_are_equal_exactly_where_the_bytes_are():
    text = "the cat sat on the mat, the cat sat on the hat" * 3
    for width in (1, 2, 3, 7, 16, 50):
        hashes = windows(text, width).tolist()
        parts = [text[i : i + width] for i in range(len(text) - width + 1)]
        assert len(hashes) == len(parts)
        assert len(set(hashes)) == len(set(parts)) == len(set(zip(hashes, parts, strict=True)))


def test_seen_shares():
    old, new = "abcdefghij" * 20, "0123456789" * 20
    shares = seen_shares([old, new, old[:100] + new[:100], "short"], ["other" * 20, old])
    assert shares[0] == 1 and shares[1] == 0 and shares[3] == 0
    assert shares[2] == pytest.approx(51 / 151)
    assert seen_shares([old], []).tolist() == [0]
    assert seen_shares(["short", "shorter", ""], ["a short one", old]).tolist() == [1, 0, 0]


# Files as people have them


def test_what_looks_like_a_part_and_is_none_is_named(tmp_path, caplog):
    _by_domain(tmp_path, "")
    strange = [
        "other.train.json", "more.train.ndjson", "code.train.jsonl.lock", "._code.train.jsonl",
        ".code.train.jsonl.lock", "code.train.jsonl.xz", "dev.txt",
    ]  # fmt: skip
    for name in strange:
        (tmp_path / name).write_text('{"text": "a bird sang"}\n')
    (tmp_path / "folder.train.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.train.jsonl")  # to open it would take forever
    for name in ("README.md", "manifest.json", "LICENSE", "sha256sums.txt"):
        (tmp_path / name).write_text("{}")
    corpus = open_corpus(tmp_path)
    assert (corpus.domains, corpus.sizes()["code"]["train"].documents) == (sorted(DOMAINS), DOMAINS["code"])
    for name in [*strange, "folder.train.jsonl", "pipe.train.jsonl"]:
        assert repr(name) in caplog.text
    assert not any(name in caplog.text for name in ("README", "manifest", "LICENSE", "of other names"))
    (tmp_path / "notes.md").touch()
    open_corpus(tmp_path)
    assert "1 files or folders of other names are not read" in caplog.text
    caplog.clear()
    _by_split(tmp_path / "pile", "")
    for name in ("._00.jsonl", "02.json", "notes"):
        (tmp_path / "pile" / "train" / name).touch()
    assert len(open_corpus(tmp_path / "pile").files("train")) == 2
    assert "'train/._00.jsonl', 'train/02.json', 'train/notes'" in caplog.text


def test_a_file_beside_itself_compressed_is_not_read_twice(tmp_path):
    _by_split(tmp_path, "")
    write_jsonl(tmp_path / "train" / "00.jsonl.zst", _documents("code", "train"))
    with pytest.raises(CorpusError, match=r"train/00\.jsonl and train/00\.jsonl\.zst are the same part: keep one"):
        open_corpus(tmp_path)


def test_a_folder_with_nothing_to_read_is_told_what_it_has(tmp_path):
    (tmp_path / "code.train.json").touch()
    with pytest.raises(CorpusError, match=r"is no corpus: .*it has 'code\.train\.json': empty"):
        open_corpus(tmp_path)


def test_parts_named_validation_and_in_capitals_count(tmp_path):
    for name in ("code.train.JSONL", "code.validation.jsonl", "code.test.JSONL.gz"):
        write_jsonl(tmp_path / name, [Document(name)])
    corpus = open_corpus(tmp_path)
    assert (corpus.folder, corpus.splits) == (tmp_path, ["train", "val", "test"])
    assert [next(corpus.documents(split)).text.split(".")[1] for split in corpus.splits] == [
        "train",
        "validation",
        "test",
    ]
    write_jsonl(tmp_path / "code.val.jsonl", [Document("other")])
    with pytest.raises(CorpusError, match=r"code\.val\.jsonl and code\.validation\.jsonl are the same part"):
        open_corpus(tmp_path)


def test_names_with_spaces_and_brackets(tmp_path):
    names = ["a [b] c", "*", "ü\n", "train", "x.val.jsonl"]
    for name in names:
        write_jsonl(tmp_path / f"{name}.train.jsonl", [Document(name)])
    corpus = open_corpus(tmp_path)
    assert corpus.domains == sorted(names)
    assert [document.text for document in corpus.store("train", tmp_path / "[kept]")] == sorted(names)


@pytest.mark.parametrize("target", ["gone", "code.train.jsonl"])
def test_a_link_to_nowhere_is_refused(tmp_path, target):
    (tmp_path / "code.train.jsonl").symlink_to(target)
    with pytest.raises(CorpusError, match=r"code\.train\.jsonl is a link to nowhere"):
        open_corpus(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.train.jsonl")).touch()
    with pytest.raises(CorpusError, match=r"caf.*name is not UTF-8"):
        open_corpus(tmp_path)


def test_a_training_file_beside_the_others(tmp_path):
    whole = _by_split(tmp_path / "folder", "")
    for split in whole.splits:
        write_jsonl(tmp_path / "file" / f"{split}.jsonl", whole.documents(split))
    corpus = open_corpus(tmp_path / "file")
    assert all(list(corpus.documents(split)) == list(whole.documents(split)) for split in whole.splits)
    shutil.copytree(tmp_path / "folder" / "train", tmp_path / "file" / "train")
    with pytest.raises(CorpusError, match=r"train/00\.jsonl.*train\.jsonl.*keep one"):
        open_corpus(tmp_path / "file")


def test_a_folder_below_home_and_one_without_a_name(tmp_path, monkeypatch):
    _by_domain(tmp_path / "texts", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_corpus("~/texts").domains == sorted(DOMAINS)
    (tmp_path / "texts" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "texts" / "below")
    assert open_corpus("..").name == "texts"


# Domains


def test_the_name_of_the_file_is_the_domain_of_its_documents(tmp_path):
    for split in ("train", "test"):
        documents = [Document("a", {"pile_set_name": "EuroParl", "n": 1}), Document("b")]
        write_jsonl(tmp_path / f"europarl.{split}.jsonl", documents)
    corpus = open_corpus(tmp_path)
    store = corpus.store("train", tmp_path / "kept")
    read = [*corpus.documents("train"), *corpus.documents("train", "europarl"), *store]
    assert {document.domain for document in read} == {"europarl"}
    assert read[0].meta == {"pile_set_name": "europarl", "n": 1}
    assert {domain: numbers.tolist() for domain, numbers in store.by_domain.items()} == {"europarl": [0, 1]}
    assert copy.copy(store.stores[0])[1].domain == "europarl"


def test_the_store_knows_domains_without_reading_documents(tmp_path, make, monkeypatch):
    corpus = make(tmp_path, ".gz")
    corpus.store("train", tmp_path / "kept")
    monkeypatch.setattr(store, "parse_line", None)
    by_domain = corpus.store("train", tmp_path / "kept").by_domain
    assert {domain: numbers.tolist() for domain, numbers in by_domain.items()} == {
        "code": list(range(12)),
        "prose.old": list(range(12, 42)),
    }


def test_a_table_of_an_earlier_version_is_built_again(tmp_path):
    corpus = _by_domain(tmp_path, "")
    table = tmp_path / "kept" / "code.train.jsonl.offsets.npy"
    TextStore.build(tmp_path / "code.train.jsonl", table)
    assert list(corpus.store("train", tmp_path / "kept"))[:12] == _documents("code", "train")
    assert "domains" in read_json(table.with_name(table.name + ".json"))


def test_documents_without_a_domain_are_worth_a_warning(tmp_path, caplog):
    write_jsonl(tmp_path / "test.jsonl", [Document("a", {"subset": "code"})])
    corpus = open_corpus(tmp_path)
    assert (list(corpus.sample_domains("test", 1, 1)), corpus.domains, list(corpus.sizes())) == ([""], [""], [""])
    assert caplog.text.count("without a meta.pile_set_name") == 3


# Bad documents

BAD = b'{"text": "a"}\n{"text": " \\n"}\n{"text": \n\xff\n{"text": null}\n{"text": "b"}\n'


def _with_bad(folder: Path, make, suffix: str) -> Corpus:
    """The training file 00 or code has four bad documents."""
    whole = make(folder, suffix)
    path = whole.files("train")[0]
    path.write_bytes(gzip.compress(BAD) if suffix else BAD)
    return open_corpus(folder)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_first_bad_document_is_named_before_anything_long(tmp_path, make, suffix):
    corpus = _with_bad(tmp_path, make, suffix)
    name = re.escape(str(corpus.files("train")[0]))
    for _ in range(2):
        with pytest.raises(BadDocument, match=rf"{name}, line 2, byte 14: .*empty.*skip_bad=True"):
            corpus.store("train", tmp_path / "kept")
    with pytest.raises(BadDocument, match=rf"{name}, line 3, byte 30: not JSON.*skip_bad=True"):
        list(corpus.documents("train"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_documents_are_left_out_if_asked_counted_and_logged(tmp_path, make, suffix, caplog):
    strict = _with_bad(tmp_path, make, suffix)
    path = strict.files("train")[0]
    corpus = open_corpus(tmp_path, skip_bad=True)
    read = list(corpus.documents("train"))
    assert [document.text for document in read[:2]] == ["a", "b"]
    assert f"{path}: 4 bad documents are left out, the first: {path}, line 2, byte 14:" in caplog.text
    assert corpus.sizes()["prose.old"]["train"].documents == 30
    assert caplog.text.count("bad documents") == 1
    caplog.clear()
    for _ in range(2):  # built, then opened
        again = open_corpus(tmp_path, skip_bad=True).store("train", tmp_path / "kept")
        assert (list(again), again.skipped) == (read, 4)
        assert f"{path}: 4 bad documents are left out, the first: {path}, line 2, byte 14:" in caplog.text
        caplog.clear()
    assert corpus.fingerprint != strict.fingerprint
    assert "skip_bad" in repr(corpus)
    with pytest.raises(BadDocument):  # a table that was built without them is not taken for one of all
        strict.store("train", tmp_path / "kept")


def test_a_file_that_ends_too_early_is_no_bad_document(tmp_path):
    corpus = _by_domain(tmp_path, ".gz")
    path = corpus.files("train")[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match="ends in the middle"):
        list(open_corpus(tmp_path, skip_bad=True).documents("train"))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_the_fingerprint_of_the_summary_is_that_of_the_files(tmp_path, make, skip_bad, read):
    make(tmp_path, ".gz")
    one, two = open_corpus(tmp_path, skip_bad), open_corpus(tmp_path, skip_bad)
    one.sizes()
    before = dict(read[0])
    assert one.fingerprint == two.fingerprint
    assert read[0] == before  # sha256_file opens files of its own: nothing was read here


def test_a_corpus_without_the_key_text_names_the_option_and_one_of_bad_documents_alone_is_none(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"a.{split}.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n')
    with pytest.raises(BadDocument, match=r"its keys are \['body'\]\. If another key holds the text: --text-key, or"):
        open_corpus(tmp_path).sizes()
    with pytest.raises(CorpusError, match="is no corpus: it holds no document that is not bad and left out"):
        open_corpus(tmp_path, skip_bad=True).sizes()
    with pytest.raises(
        CorpusError, match=r"it holds no document but 2 bad ones, which are left out; the first: .*body"
    ):
        open_corpus(tmp_path / "a.train.jsonl", skip_bad=True)
