"""A corpus: a folder of JSON Lines files, by domain and split."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from heapq import heappush, heappushpop
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from tttnn.corpus.compressed import NotFramed
from tttnn.corpus.jsonl import (
    COMPRESSED,
    CorpusError,
    Document,
    read_blocks,
    read_jsonl,
)
from tttnn.corpus.store import ConcatStore, TextStore, facts_path, recognise
from tttnn.errors import ParameterError
from tttnn.files import read_json, sha256_file, write_json, writing

SPLITS = ("train", "val", "test")
BY_DOMAIN = re.compile(r"(?P<domain>.+)\.(?P<split>train|val|test)\.jsonl(\.gz|\.zst)?")
BY_SPLIT = re.compile(r"(?P<split>val|test)\.jsonl(\.gz|\.zst)?")
PART = re.compile(r".+\.jsonl(\.gz|\.zst)?")
MANIFEST = "manifest.json"


class Size(NamedTuple):
    """How much text: documents, and their bytes in UTF-8."""

    documents: int
    bytes: int

    def with_text(self, text: str) -> "Size":
        """One document more."""
        return Size(self.documents + 1, self.bytes + len(text.encode()))


class Corpus:
    """Documents in a folder, by split (train, val, test) and domain.

    Two layouts are known: ``<domain>.<split>.jsonl``, and the Pile's own, ``train/*.jsonl``, ``val.jsonl``
    and ``test.jsonl``, where each document names its domain in ``meta.pile_set_name``. Files may be
    compressed (``.gz``, ``.zst``).

    Parameters
    ----------
    folder : str or Path
    name : str, optional
        For tables and titles; by default the folder's own name.

    Raises
    ------
    CorpusError
        If there is no such folder, it has neither layout (or both), or a file is there twice.
    """

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder = Path(folder).absolute()
        self.name = name or self.folder.name
        if not self.folder.is_dir():
            raise CorpusError(f"no folder {self.folder}: a corpus is a folder of .jsonl files, or 'wheels'")
        self._by_domain, self._by_split = _find_files(self.folder)

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, splits={self.splits})"

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
        return sorted({document.domain for split in read for document in self.documents(split)})

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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and SHA-256 of all files, as 64 hexadecimal digits; reads all of them once."""
        return fingerprint_files(self.folder, (path for split in self.splits for path in self.files(split)))

    @cached_property
    def manifest(self) -> dict:
        """What ``manifest.json`` beside the files says about their origin; empty if there is none."""
        path = self.folder / MANIFEST
        return read_json(path) if path.exists() else {}

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
        files = self.files(split)
        if domain is not None:
            self._check_domain(domain, split)
            if self._by_domain:
                files = [self._by_domain[domain, split]]
        return (
            document
            for path in files
            for document in read_jsonl(path)
            if domain is None or self._by_domain or document.domain == domain
        )

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
            raise CorpusError(
                f"{self.name}: {n} documents asked of {domain}.{split}, which has {len(drawn)}{limit}"
            )
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
        return {domain: _from_lowest(drawn[domain]) for domain in (drawn if domains else sorted(drawn))}

    def sizes(self) -> dict[str, dict[str, Size]]:
        """Count documents and bytes of text, in one pass over all files.

        Returns
        -------
        dict of str to dict of str to Size
            By domain, sorted, and by split (those in which it has documents).
        """
        found: dict[str, dict[str, Size]] = {}
        for split in self.splits:
            for domain, _, document in self._numbered(split):
                own = found.setdefault(domain, {})
                own[split] = own.get(split, Size(0, 0)).with_text(document.text)
        return dict(sorted(found.items()))

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
        CorpusError
            If a file changed since it was unpacked or indexed (empty `folder` to build again), or is corrupt.
        """
        return ConcatStore([self._file_store(path, Path(folder)) for path in self.files(split)])

    def _file_store(self, path: Path, folder: Path) -> TextStore:
        kept = folder / path.relative_to(self.folder)
        table = kept.with_name(kept.name + ".offsets.npy")
        if path.suffix in COMPRESSED:
            try:
                return _open_or_build(path, table)
            except NotFramed:
                path = _unpacked(path, kept.with_name(kept.name + ".unpacked"))
        return _open_or_build(path, table)

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
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return whole.hexdigest()


def _find_files(folder: Path) -> tuple[dict[tuple[str, str], Path], dict[str, list[Path]]]:
    by_domain: dict[tuple[str, str], Path] = {}
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := BY_DOMAIN.fullmatch(path.name):
            other = by_domain.setdefault((match["domain"], match["split"]), path)
            if other != path:
                raise CorpusError(f"{folder}: {other.name} and {path.name} are the same part: keep one")
        elif match := BY_SPLIT.fullmatch(path.name):
            by_split.setdefault(match["split"], []).append(path)
        elif path.name == "train" and path.is_dir():
            by_split["train"] = sorted(part for part in path.iterdir() if PART.fullmatch(part.name))
    by_split = {split: paths for split, paths in by_split.items() if paths}
    if bool(by_domain) == bool(by_split):
        raise CorpusError(
            f"{folder} is no corpus: it must hold <domain>.<split>.jsonl files (split: train, val, test), "
            "or train/*.jsonl, val.jsonl and test.jsonl; each may end with .gz or .zst"
        )
    for split in ("val", "test"):
        if len(by_split.get(split, [])) > 1:
            raise CorpusError(f"{folder}: {', '.join(path.name for path in by_split[split])}: keep one")
    return by_domain, by_split


def _open_or_build(path: Path, table: Path) -> TextStore:
    # A table without its description was left by an interrupted build; one with it must fit the file.
    return TextStore.open(path, table) if facts_path(table).exists() else TextStore.build(path, table)


def _unpacked(packed: Path, plain: Path) -> Path:
    """Unpack a file once; refuse what was unpacked from another one."""
    note = plain.with_name(plain.name + ".json")
    origin = recognise(packed)
    if plain.exists() and note.exists():
        if read_json(note) != origin:
            raise CorpusError(f"{packed} changed since it was unpacked to {plain.parent}: empty that folder")
        return plain
    with writing(plain) as partial, open(partial, "wb") as file:
        file.writelines(read_blocks(packed))
    write_json(note, origin)
    return plain


def _from_lowest(heap: list[tuple[int, int, Document]]) -> list[tuple[int, Document]]:
    """Numbers and documents of a heap of negative ranks and numbers, lowest rank first."""
    return [(-number, document) for _, number, document in sorted(heap, key=itemgetter(0, 1), reverse=True)]


def _rank(seed: int, domain: str, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{domain}:{number}".encode(), digest_size=8).digest())
