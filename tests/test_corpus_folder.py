"""A corpus as a folder of JSON Lines, in both layouts."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest

from tttnn.corpus import Corpus, CorpusError, Document, jsonl, open_corpus, write_jsonl
from tttnn.corpus.overlap import seen_shares, windows
from tttnn.errors import ParameterError

DOMAINS = {"code": 12, "prose.old": 30}  # documents of each split


def _documents(domain: str, split: str) -> list[Document]:
    return [
        Document(f"{domain} {split} {n} " + "x" * n, {"pile_set_name": domain})
        for n in range(DOMAINS[domain])
    ]


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


def test_a_sample_of_short_documents_keeps_their_numbers(tmp_path):
    corpus = _by_domain(tmp_path, "")
    whole = list(corpus.documents("test", "code"))
    limit = len(whole[6].text)
    drawn = corpus.sample("test", "code", 7, seed=1, max_bytes=limit)
    assert sorted(number for number, _ in drawn) == list(range(7))
    with pytest.raises(
        CorpusError, match=rf"8 documents asked of code\.test, which has 7 of at most {limit}"
    ):
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
