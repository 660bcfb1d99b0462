"""A corpus: a folder of JSON Lines files, by domain and split."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from heapq import heappush, heappushpop
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tttnn.corpus.compressed import NotFramed
from tttnn.corpus.jsonl import (
    COMPRESSED,
    BadDocument,
    CorpusError,
    Document,
    NoText,
    OnError,
    OtherEncoding,
    read_blocks,
    read_jsonl,
)
from tttnn.corpus.store import FILLED, ConcatStore, TextStore, facts_path, recognise
from tttnn.errors import ParameterError
from tttnn.files import expand, read_json, sha256_file, write_json, writing

if TYPE_CHECKING:
    from hashlib import _Hash

SPLITS = ("train", "val", "test")
PACKED = r"\.(jsonl|JSONL)(\.gz|\.zst)?"
SPLIT = r"(?P<split>train|val|validation|test)"
BY_DOMAIN = re.compile(rf"(?P<domain>.+)\.{SPLIT}{PACKED}", re.DOTALL)
BY_SPLIT = re.compile(rf"{SPLIT}{PACKED}")
PART = re.compile(rf".+{PACKED}", re.DOTALL)
OTHER_FOLDERS = {"val", "valid", "validation", "dev", "test"}  # which the Pile does not have beside train
LIKE_A_PART = re.compile(r"json|(^|[._-])(train|val|valid|validation|dev|test)([._-]|$)", re.IGNORECASE)
MANIFEST = "manifest.json"
OPEN_FILES = 64  # at a time, where files are read in turns
ABOUT = re.compile(r"\.|manifest\.json|README|LICEN[CS]E|SOURCES|CITATION|NOTICE|dataset_info|sha|md5", re.IGNORECASE)
LACKING = "domains_in_train_alone"  # in the manifest of an imported corpus: by val and test
LAYOUT = (
    "<domain>.<split>.jsonl files (split: train, val, test), or train/*.jsonl (or train.jsonl), val.jsonl and "
    "test.jsonl; each may end with .gz or .zst"
)
OTHER_KEY = "If another key holds the text: --text-key, or open_corpus(..., text_key=...). "
CURE = "Correct the line, or leave bad documents out: --skip-bad, or open_corpus(..., skip_bad=True)"

log = logging.getLogger(__name__)


class Size(NamedTuple):
    """How much text: documents, and their bytes in UTF-8."""

    documents: int
    bytes: int

    def with_text(self, text: str) -> Size:
        """One document more."""
        return Size(self.documents + 1, self.bytes + len(text.encode()))


class Corpus:
    """Documents in a folder, by split (train, val, test) and domain.

    Two layouts are known: ``<domain>.<split>.jsonl``, where the file's name is the domain of its documents, whatever
    they say themselves; and the Pile's own, ``train/*.jsonl`` (or ``train.jsonl``), ``val.jsonl`` and ``test.jsonl``,
    where each document names its domain in ``meta.pile_set_name``. Files may be compressed (``.gz``, ``.zst``). Files
    that look like a part and are none, by name or kind, are left out with a warning; hidden files are never parts.

    Parameters
    ----------
    folder : str or Path
    name : str, optional
        For tables and titles; by default the folder's own name.
    skip_bad : bool
        Leave out bad documents, with a warning that counts them: lines that are no document (see `read_jsonl`), and
        empty or blank texts. It is another corpus then, with other numbers and another `fingerprint`. Otherwise the
        first such line is an error; an empty or blank text only in a `store`, as nothing can be found by it.

    Raises
    ------
    CorpusError
        If there is no such folder, it has neither layout (or both), a file is there twice, is a link to nowhere, or
        has a name that is not UTF-8.
    """

    def __init__(self, folder: str | Path, name: str | None = None, skip_bad: bool = False):
        self.folder = Path(expand(folder)).absolute()
        self.name = name or (self.folder.resolve() if self.folder.name == ".." else self.folder).name
        self.skip_bad = skip_bad
        self._warned: set[Path] = set()
        self._known: tuple[list[list[Any]], str] | None = None  # a fingerprint, and the stamps of the files it is of
        if not self.folder.is_dir():
            raise CorpusError(f"no folder {self.folder}: a corpus is a folder of .jsonl files, or 'wheels'")
        self._by_domain, self._by_split = _find_files(self.folder)

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, splits={self.splits}{', skip_bad=True' if self.skip_bad else ''})"

    @property
    def splits(self) -> list[str]:
        """The splits that are there, of train, val and test."""
        found = {split for _, split in self._by_domain} or set(self._by_split)
        return [split for split in SPLITS if split in found]

    @cached_property
    def domains(self) -> list[str]:
        """The domains, sorted. In the Pile's layout: those in val and test, or in train if it is alone."""
        if self._by_domain:
            return sorted({domain for domain, _ in self._by_domain})
        read = [split for split in self.splits if split != "train"] or ["train"]
        return self._sorted({document.domain for split in read for document in self.documents(split)})

    def domains_of(self, split: str) -> list[str]:
        """The domains that have a file of this split; in the Pile's layout all of them.

        Raises
        ------
        CorpusError
            If the corpus has no such split.
        """
        self._check_split(split)
        if self._by_domain:
            return sorted(domain for domain, each in self._by_domain if each == split)
        return self.domains

    def domains_without(self, split: str) -> list[str]:
        """The domains with documents in train and none in this split, as far as files or the manifest say so, sorted.

        In the Pile's layout none is known, unless the corpus was imported: train would have to be read.
        """
        if self._by_domain:
            return sorted(
                each for each, part in self._by_domain if part == "train" and (each, split) not in self._by_domain
            )
        return list(self.manifest.get(LACKING, {}).get(split, []))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names and SHA-256 of all files, as 64 hexadecimal digits; reads all of them when one changed.

        Another one with `skip_bad`.
        """
        stamps = self.stamps()
        if self._known is None or self._known[0] != stamps:
            self._known = stamps, self._identity(fingerprint_files(self.folder, self._all_files()))
        return self._known[1]

    def stamps(self) -> list[list[Any]]:
        """Name, size and modification time in nanoseconds of each file, by which a change is noticed.

        Raises
        ------
        CorpusError
            If a file is gone.
        """
        try:
            facts = [(path, path.stat()) for path in self._all_files()]
        except OSError as error:
            raise CorpusError(f"{error.filename}: {error.strerror}; it was there when the corpus was opened") from error
        return [[ascii(str(path)), found.st_size, found.st_mtime_ns] for path, found in facts]

    def _all_files(self) -> list[Path]:
        return [path for split in self.splits for path in self.files(split)]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` beside the files says about their origin; empty if there is none."""
        path = self.folder / MANIFEST
        facts = read_json(path) if path.exists() else {}
        if not isinstance(facts, dict) or not isinstance(facts.get("domains", {}), dict):
            raise CorpusError(f"{path} is no description of a corpus: it must be a JSON object; correct or remove it")
        return facts

    @property
    def ignored(self) -> list[tuple[str, str]]:
        """Files and folders of the source that were not read when it was imported, each with the reason."""
        return [(name, reason) for name, reason in self.manifest.get("ignored", [])]

    def files(self, split: str) -> list[Path]:
        """Return the files of a split, sorted by name; documents are numbered in this order.

        Raises
        ------
        CorpusError
            If the corpus has no such split.
        """
        self._check_split(split)
        if self._by_split:
            return self._by_split[split]
        return [path for (_, each), path in sorted(self._by_domain.items()) if each == split]

    def documents(self, split: str, domain: str | None = None) -> Iterator[Document]:
        """Read the documents of a split, or of one domain of it, one after the other.

        Raises
        ------
        CorpusError
            If the corpus has no such split or domain, or a file is corrupt (see `read_jsonl`).
        """
        parts = self._parts(split)
        if domain is not None:
            self._check_domain(domain, split)
            if self._by_domain:
                parts = [(domain, self._by_domain[domain, split])]
        return (
            document
            for named, path in parts
            for document in self._read(path, named)
            if domain is None or document.domain == domain
        )

    def documents_in_turns(self, split: str) -> Iterator[Document]:
        """Read the documents of a split, the next one of each file in turn: the first ones are of all its files.

        Raises
        ------
        CorpusError
            As :meth:`documents` does.
        """
        parts = self._parts(split)
        for first in range(0, len(parts), OPEN_FILES):
            readers = [self._read(path, named) for named, path in parts[first : first + OPEN_FILES]]
            while readers:
                turns = [(reader, next(reader, None)) for reader in readers]
                readers = [reader for reader, document in turns if document is not None]
                yield from (document for _, document in turns if document is not None)

    def sample(
        self, split: str, domain: str, n: int, seed: int, max_bytes: int | None = None
    ) -> list[tuple[int, Document]]:
        """Draw documents at random without replacement, in one pass and with memory for `n` of them.

        Each document is ranked by a hash of seed and number, and the `n` lowest are taken in this order: a
        larger `n` extends the same sample.

        Parameters
        ----------
        split, domain : str
        n : int
            How many to draw.
        seed : int
        max_bytes : int, optional
            Draw only among documents of at most so many bytes. This changes the population: say so beside
            any result.

        Returns
        -------
        list of (int, Document)
            With the number of the document within the domain's split, counted from 0.

        Raises
        ------
        CorpusError
            If there are fewer than `n` such documents, or no such split or domain.
        """
        drawn = self.sample_domains(split, n, seed, max_bytes, [domain])[domain]
        if len(drawn) < n:
            limit = "" if max_bytes is None else f" of at most {max_bytes} bytes"
            raise CorpusError(f"{self.name}: {n} documents asked of {domain}.{split}, which has {len(drawn)}{limit}")
        return drawn

    def sample_domains(
        self, split: str, n: int, seed: int, max_bytes: int | None = None, domains: Sequence[str] | None = None
    ) -> dict[str, list[tuple[int, Document]]]:
        """Draw what `sample` draws of each domain, in one pass over the split for all of them.

        Parameters
        ----------
        split : str
        n : int
            How many to draw of each domain. One that has fewer gives all that it has.
        seed : int
        max_bytes : int, optional
            Draw only among documents of at most so many bytes.
        domains : sequence of str, optional
            Default: all that the split has.

        Returns
        -------
        dict of str to list of (int, Document)
            By domain, in the order of `domains` or of their names.

        Raises
        ------
        CorpusError
            If there is no such split or domain, or a file is corrupt (see `read_jsonl`).
        ParameterError
            If `n` is below 1, or `domains` is empty.
        """
        if n < 1:
            raise ParameterError(f"n={n}: must be at least 1")
        if domains is not None and not domains:
            raise ParameterError("domains=[]: names no domain; leave it out for all of them")
        if domains is None and self._by_domain:
            domains = self.domains_of(split)
        drawn: dict[str, list[tuple[int, int, Document]]] = {domain: [] for domain in domains or ()}
        for domain, number, document in self._numbered(split, domains):
            lowest = drawn.setdefault(domain, [])
            if max_bytes is None or len(document.text.encode()) <= max_bytes:
                # A heap of the n lowest ranks, its root the highest of them; no two numbers are equal.
                entry = (-_rank(seed, domain, number), -number, document)
                (heappush if len(lowest) < n else heappushpop)(lowest, entry)
        return {domain: _from_lowest(drawn[domain]) for domain in (drawn if domains else self._sorted(drawn))}

    def sizes(self) -> dict[str, dict[str, Size]]:
        """Count documents and bytes of text, and find the fingerprint, in one pass over all files.

        Returns
        -------
        dict of str to dict of str to Size
            By domain, sorted, and by split (those in which it has documents).

        Raises
        ------
        CorpusError
            If there is no document, or none but bad ones, which are left out; if a file is corrupt.
        """
        found: dict[str, dict[str, Size]] = {}
        digests: dict[Path, str] = {}
        stamps = self.stamps()
        for split in self.splits:
            for named, path in self._parts(split):
                digest = hashlib.sha256()
                for document in self._read(path, named, digest):
                    own = found.setdefault(document.domain, {})
                    own[split] = own.get(split, Size(0, 0)).with_text(document.text)
                digests[path] = digest.hexdigest()
        if not found:
            bad = " that is not bad and left out" if self.skip_bad else ""
            raise CorpusError(f"{self.folder} is no corpus: it holds no document{bad}")
        self._known = stamps, self._identity(_combine(self.folder, digests))
        return {domain: found[domain] for domain in self._sorted(found)}

    def _numbered(self, split: str, domains: Sequence[str] | None = None) -> Iterator[tuple[str, int, Document]]:
        """Read a split once: each document with its domain and its number within that, from 0."""
        if self._by_domain:
            for domain in dict.fromkeys(domains or self.domains_of(split)):
                yield from ((domain, number, each) for number, each in enumerate(self.documents(split, domain)))
            return
        counts, wanted = Counter[str](), set(domains or ())
        for document in self.documents(split):
            domain = document.domain
            if not wanted or domain in wanted:
                yield domain, counts[domain], document
                counts[domain] += 1
        for domain in sorted(wanted - set(counts)):  # it may be one of another split
            self._check_domain(domain, split)

    def store(self, split: str, folder: str | Path) -> ConcatStore:
        """Open random access to the documents of a split, numbered over all its files.

        Plain files, and ``.zst`` files of several frames, are read in place; anything else compressed is unpacked
        once, which is the fastest to read. A corpus too large for that is rewritten first, file by file, with
        `tttnn.corpus.compressed.recompress`: it takes a quarter of the disk, and a read a fifth of a millisecond.

        Parameters
        ----------
        split : str
        folder : str or Path
            Where the tables are kept, and files unpacked; built on the first call. Not inside the corpus if that is
            read-only.

        Raises
        ------
        BadDocument
            If a line is no document, or its text is empty or blank, unless `skip_bad`: on the first call, which reads
            them all.
        CorpusError
            If a file changed since it was unpacked or indexed (empty `folder` to build again), or is corrupt.
        """
        stores = []
        for named, path in self._parts(split):
            with _with_cure():
                store = self._file_store(path, Path(expand(folder)), named)
            self._warn_of_skipped(path, store.skipped, store.problem.replace(str(store.path), str(path)))
            stores.append(store)
        return ConcatStore(stores)

    def _file_store(self, path: Path, folder: Path, named: str | None) -> TextStore:
        kept = folder / path.relative_to(self.folder)
        table = kept.with_name(kept.name + ".offsets.npy")
        if path.suffix in COMPRESSED:
            try:
                return self._open_or_build(path, table, named)
            except NotFramed:
                return self._unpacked_store(path, kept.with_name(kept.name + ".unpacked"), table, named)
        return self._open_or_build(path, table, named)

    def _unpacked_store(self, packed: Path, plain: Path, table: Path, named: str | None) -> TextStore:
        _unpack(packed, plain)
        try:
            return self._open_or_build(plain, table, named)
        except (BadDocument, OtherEncoding) as error:  # to be mended in the corpus, where lines are the same
            raise type(error)(str(error).replace(str(plain), str(packed))) from error

    def _open_or_build(self, path: Path, table: Path, named: str | None) -> TextStore:
        on_error: OnError = "skip" if self.skip_bad else "raise"
        facts = facts_path(table)
        # A table without its description was left by an interrupted build; one with it must fit the file.
        if facts.exists():
            known = read_json(facts)
            if isinstance(known, dict) and known.get("checked") == [on_error, FILLED]:
                return TextStore.open(path, table, named)
            facts.unlink()  # of an earlier version, or of a call with another skip_bad
        return TextStore.build(path, table, on_error, check=True, domain=named)

    def _sorted(self, domains: Iterable[str]) -> list[str]:
        """Domains by name; one without a name is worth a warning."""
        found = sorted(domains)
        if "" in found:
            log.warning("%s: documents without a meta.pile_set_name are taken for one domain, ''", self.folder)
        return found

    def _parts(self, split: str) -> list[tuple[str | None, Path]]:
        """The files of a split, in order, each with the domain that its name says, if it does."""
        names = {path: domain for (domain, _), path in self._by_domain.items()}
        return [(names.get(path), path) for path in self.files(split)]

    def _read(self, path: Path, named: str | None, digest: _Hash | None = None) -> Iterator[Document]:
        reader = read_jsonl(path, "skip" if self.skip_bad else "raise", self.skip_bad, digest)
        with _with_cure():
            for document in reader:
                yield document if named is None else document.with_domain(named)
        self._warn_of_skipped(path, reader.skipped, reader.problem)

    def _warn_of_skipped(self, path: Path, skipped: int, problem: str) -> None:
        if skipped and path not in self._warned:
            self._warned.add(path)
            log.warning("%s: %d bad documents are left out, the first: %s", path, skipped, problem)

    def _identity(self, files: str) -> str:
        """The fingerprint of the corpus by that of its files."""
        return hashlib.sha256(f"{files} without bad documents".encode()).hexdigest() if self.skip_bad else files

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise CorpusError(f"{self.folder} has no split {split!r}: it has {', '.join(self.splits)}")

    def _check_domain(self, domain: str, split: str) -> None:
        if domain not in self.domains:
            raise CorpusError(f"{self.folder} has no domain {domain!r}: it has {', '.join(self.domains)}")
        if self._by_domain and (domain, split) not in self._by_domain:
            has = ", ".join(each for each in SPLITS if (domain, each) in self._by_domain)
            raise CorpusError(f"{self.folder}: domain {domain} has no split {split!r}: it has {has}")


def fingerprint_files(folder: Path, files: Iterable[Path]) -> str:
    """Return one SHA-256 for files, by their names within `folder` and their contents."""
    return _combine(folder, {path: sha256_file(path) for path in files})


def _combine(folder: Path, digests: dict[Path, str]) -> str:
    lines = (f"{path.relative_to(folder).as_posix()} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _find_files(folder: Path) -> tuple[dict[tuple[str, str], Path], dict[str, list[Path]]]:
    by_domain: dict[tuple[str, str], Path] = {}
    by_split: dict[str, list[Path]] = {}
    strange: list[Path] = []
    others = 0
    for path in _listed(folder):
        if path.name == "train" and path.is_dir():
            parts = {part: bool(PART.fullmatch(part.name)) and _is_part(part) for part in _listed(path)}
            by_split.setdefault("train", []).extend(part for part, taken in parts.items() if taken)
            strange += [part for part, taken in parts.items() if not taken]
        elif (match := BY_SPLIT.fullmatch(path.name)) and _is_part(path):
            by_split.setdefault(_split(match), []).append(path)
        elif (match := BY_DOMAIN.fullmatch(path.name)) and _is_part(path):
            other = by_domain.setdefault((match["domain"], _split(match)), path)
            if other != path:
                raise CorpusError(f"{folder}: {other.name} and {path.name} are the same part: keep one")
        elif path.name != MANIFEST and LIKE_A_PART.search(path.name):
            strange.append(path)
        else:
            others += not ABOUT.match(path.name)
    if others and (by_split or by_domain):
        log.warning("%s: %d files or folders of other names are not read; a corpus holds %s", folder, others, LAYOUT)
    by_split = {split: paths for split, paths in by_split.items() if paths}
    _check_layout(folder, by_domain, by_split, ", ".join(repr(str(path.relative_to(folder))) for path in strange))
    return by_domain, by_split


def in_piles_layout(folder: Path) -> bool:
    """Whether a folder holds a file that `Corpus` takes for a part; with train alone, no folder of another split."""
    if not folder.is_dir():
        return False
    entries = _listed(folder)
    if any((BY_SPLIT.fullmatch(path.name) or BY_DOMAIN.fullmatch(path.name)) and _is_part(path) for path in entries):
        return True
    folders = {path.name: path for path in entries if path.is_dir()}
    return (
        "train" in folders
        and not OTHER_FOLDERS & {name.lower() for name in folders}
        and any(PART.fullmatch(part.name) and _is_part(part) for part in _listed(folders["train"]))
    )


def _split(match: re.Match[str]) -> str:
    return "val" if match["split"] == "validation" else match["split"]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(f"{folder} cannot be read: {error.strerror}") from error


def _is_part(path: Path) -> bool:
    """Whether a file of a part's name is one: not hidden (as a Mac's ._ files), no folder and no device."""
    if path.name.startswith("."):
        return False
    if path.is_symlink() and not path.exists():
        raise CorpusError(f"{path} is a link to nowhere: copy the file that it should be, or remove it")
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{str(path)!r}: the file's name is not UTF-8: rename it") from error
    return path.is_file()


def _check_layout(
    folder: Path, by_domain: dict[tuple[str, str], Path], by_split: dict[str, list[Path]], strange: str
) -> None:
    if by_domain and by_split:
        one, other = next(iter(by_domain.values())).name, next(iter(by_split.values()))[0].name
        raise CorpusError(f"{folder} is no corpus: {one} and {other} are of two layouts; keep one: {LAYOUT}")
    if not by_domain and not by_split:
        raise CorpusError(f"{folder} is no corpus: it must hold {LAYOUT}{f'; it has {strange}' if strange else ''}")
    for paths in by_split.values():
        refuse_twice(folder, (str(path.relative_to(folder)) for path in paths))
        if len(paths) > 1 and any(path.parent == folder for path in paths):
            raise CorpusError(f"{folder}: {', '.join(str(path.relative_to(folder)) for path in paths)}: keep one")
    if strange:
        log.warning("%s: not read, as no part by name or kind: %s; a corpus holds %s", folder, strange, LAYOUT)


def refuse_twice(folder: Path, names: Iterable[str]) -> None:
    """Raise CorpusError if a file lies beside itself compressed, as ``unzstd`` leaves it: it would be read twice."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(re.sub(r"\.(gz|zst)$", "", name), name)
        if other != name:
            raise CorpusError(f"{folder}: {other} and {name} are the same part: keep one")


@contextmanager
def _with_cure() -> Iterator[None]:
    """Say what can be done about a bad document."""
    try:
        yield
    except BadDocument as error:
        raise BadDocument(f"{error}. {OTHER_KEY if isinstance(error, NoText) else ''}{CURE}") from error


def _unpack(packed: Path, plain: Path) -> None:
    """Unpack a file once; refuse what was unpacked from another one."""
    note = plain.with_name(plain.name + ".json")
    origin = recognise(packed)
    if plain.exists() and note.exists():
        if read_json(note) != origin:
            raise CorpusError(f"{packed} changed since it was unpacked to {plain.parent}: empty that folder")
        return
    with writing(plain) as partial, open(partial, "wb") as file:
        file.writelines(read_blocks(packed))
    write_json(note, origin)


def _from_lowest(heap: list[tuple[int, int, Document]]) -> list[tuple[int, Document]]:
    """Numbers and documents of a heap of negative ranks and numbers, lowest rank first."""
    return [(-number, document) for _, number, document in sorted(heap, key=itemgetter(0, 1), reverse=True)]


def _rank(seed: int, domain: str, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{domain}:{number}".encode(), digest_size=8).digest())
