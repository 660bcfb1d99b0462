"""What is in somebody's folder of texts: which files are read, as documents of which split and domain, and which not.

A folder is read as tables (JSON, JSON Lines, CSV, Parquet) or as files of one document each, whichever holds more
bytes; the other kind is left out and listed, as is whatever else is no text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tttnn.corpus.folder import refuse_twice
from tttnn.corpus.formats import TABLES, Keys, kind_of, read_table, read_text, to_document
from tttnn.corpus.jsonl import BadDocument, CorpusError
from tttnn.files import home

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "eval": "val", "test": "test", "testing": "test",
}  # fmt: skip
BY_STEM = re.compile(
    rf"((?P<domain>.+)[._-])?(?P<split>{'|'.join(SPLIT_NAMES)})([._-](?P<more>\w[\w.-]*))?", re.IGNORECASE | re.DOTALL
)
SUFFIXES = re.compile(rf"({'|'.join(TABLES).replace('.', r'[.]')})([.]gz|[.]zst)?$", re.IGNORECASE)
SHOWN = 3  # files that a message names for a reason; it names twice as many reasons
TOOL_FOLDERS = {"node_modules", "__pycache__"}
RESULTS = ("run.json", "trial.json")  # one of them lies in a folder of this program's results
DICT, STATE = SAVED = ("dataset_dict.json", "state.json")  # by which a dataset saved with `datasets` is known


class Seen(NamedTuple):
    """A file or folder that was come across, and why it is not read, or ""."""

    name: str  # within the folder, with slashes
    path: Path
    size: int
    changed: int  # nanoseconds
    reason: str


@dataclass(frozen=True)
class Part:
    """A file to be read, or a split of a dataset."""

    name: str
    path: Path
    is_table: bool
    size: int
    split: str | None = None  # that its place says
    domain: str = ""
    rows: Any = None  # of a dataset


@dataclass(frozen=True)
class Survey:
    """What of a folder is read, in order, and what is not: names and reasons."""

    parts: list[Part]
    ignored: list[tuple[str, str]]


def walk(source: Path) -> Iterator[Seen]:
    """Yield all files of a folder in order of their names, or a file itself; folders only if they are not entered."""
    if not source.is_dir():
        facts = source.stat()
        yield Seen(source.name, source, facts.st_size, facts.st_mtime_ns, "")
        return
    yield from _below(source, "", home().resolve())


def survey(source: Path, seen: Sequence[Seen], keys: Keys, name: str, skip_bad: bool = False) -> Survey:
    """Decide which files of a folder are documents or tables of documents.

    Parameters
    ----------
    source : Path
        A folder, or one file.
    seen : sequence of Seen
        From `walk`.
    keys : Keys
    name : str
        Of the corpus: the domain of what says no other.
    skip_bad : bool
        Whether a table whose first entry is bad is read nevertheless.

    Raises
    ------
    CorpusError
        If nothing can be read, or a table is damaged or there twice; the message says why.
    """
    read, left, broken = _sorted_out((each for each in seen if not each.reason), keys, skip_bad)
    tables = _are_tables(read)
    chosen = [part for part in read if part.is_table == tables]
    if tables:
        refuse_twice(source, (part.name for part in chosen))
    if damaged := [broken[part.name] for part in chosen if part.name in broken]:
        raise damaged[0]
    other = "a text in a folder of tables" if tables else "a table in a folder of texts"
    ignored = [(each.name.encode(errors="backslashreplace").decode(), each.reason) for each in seen if each.reason]
    ignored += [(part.name, other) for part in read if part.is_table != tables]
    # What is wrong with a table is of no interest among texts.
    ignored += [(part.name, other if chosen and part.is_table > tables else reason) for part, reason in left]
    if not chosen:
        raise CorpusError(_nothing(source, ignored))
    return Survey(_placed(chosen, name) if source.is_dir() else [replace(chosen[0], domain=name)], sorted(ignored))


def _sorted_out(
    seen: Iterable[Seen], keys: Keys, skip_bad: bool
) -> tuple[list[Part], list[tuple[Part, str]], dict[str, CorpusError]]:
    """Files that hold documents, those that do not with the reason, and what is wrong with damaged tables, by name."""
    read: list[Part] = []
    left: list[tuple[Part, str]] = []
    broken: dict[str, CorpusError] = {}
    for each in seen:
        part = Part(each.name, each.path, kind_of(each.path) is not None, each.size)
        try:
            reason = _why_not(part, keys, skip_bad)
        except CorpusError as error:
            broken[each.name], reason = error, ""
        if reason:
            left.append((part, reason))
        else:
            read.append(part)
    return read, left, broken


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of the library `datasets`."""
    return any((folder / name).is_file() for name in SAVED)


def some(ignored: list[tuple[str, str]]) -> str:
    """Name some of the files that are not read, one or more for each reason."""
    reasons = dict.fromkeys(reason for _, reason in ignored)
    named = []
    for reason in reasons:
        own = [repr(name) for name, each in ignored if each == reason]
        named.append(f"{', '.join(own[:SHOWN])}{f' and {len(own) - SHOWN} more' if len(own) > SHOWN else ''}: {reason}")
    more = len(named) - 2 * SHOWN
    return "; ".join(named[: 2 * SHOWN]) + (f"; {more} other reasons" if more > 0 else "")


def _below(folder: Path, above: str, kept: Path) -> Iterator[Seen]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not above:
            raise CorpusError(f"{folder} cannot be read: {error.strerror}") from error
        yield Seen(above, folder, 0, 0, f"cannot be read: {error.strerror}")
        return
    for entry in entries:
        name, path = f"{above}{'/' * bool(above)}{entry.name}", Path(entry.path)
        reason = _set_aside(entry, kept)
        if not reason and entry.is_dir():
            yield from _below(path, name, kept)
        else:
            facts = entry.stat(follow_symlinks=bool(not reason))
            yield Seen(name, path, facts.st_size, facts.st_mtime_ns, reason)


def _set_aside(entry: os.DirEntry[str], kept: Path) -> str:
    """Why a file or folder is not looked at, or ""."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    try:
        is_folder = entry.is_dir()
    except OSError:  # to itself, or through a file
        return "a link to nowhere"
    if is_folder:
        if entry.is_symlink():
            return "a link to a folder"
        if entry.name in TOOL_FOLDERS or Path(entry.path).resolve() == kept:
            return "a folder that programs write"
        return "results of this program" if any(Path(entry.path, name).exists() for name in RESULTS) else ""
    if entry.is_symlink() and not Path(entry.path).exists():
        return "a link to nowhere"
    return "" if entry.is_file() else "no regular file"


def _why_not(part: Part, keys: Keys, skip_bad: bool) -> str:
    """Why a file is not read, or ""; raises what is wrong with a table."""
    if not part.is_table:
        try:
            read_text(part.path)
        except CorpusError as error:
            return str(error)
        return ""
    first = next(read_table(part.path, keys), None)
    if first is None:
        return "empty"
    try:
        to_document(first, keys, part.name, "")
    except BadDocument as error:
        if isinstance(first.value, dict) and (keys.text not in first.value) and not skip_bad:
            return str(error).removeprefix(f"{first.place}: ")
        if not skip_bad:
            raise
    return ""


def _are_tables(parts: list[Part]) -> bool:
    sizes = {True: 0, False: 0}
    for part in parts:
        sizes[part.is_table] += part.size + 1
    return sizes[True] > sizes[False]


def _placed(parts: list[Part], name: str) -> list[Part]:
    """Parts with split and domain, by folders and, for tables, names of files."""
    found = [_named(part) for part in parts]
    if any(split == "train" for split, _, _ in found):  # then test_hard is a part of the test documents, too
        found = [_named(part, more=True) for part in parts]
    splits = {split for split, _, _ in found}
    if "train" not in splits or not splits - {"train", None}:  # as a folder of tests beside sources
        found = [(None, part.name.split("/")[:-1], "") for part in parts]
    shared = _shared([folders for _, folders, _ in found])
    placed = []
    for part, (split, folders, stem) in zip(parts, found, strict=True):
        domain = stem or next(iter(folders[shared:]), name)
        placed.append(replace(part, split=split, domain=domain))
    return placed


def _shared(paths: list[list[str]]) -> int:
    """How many folders all paths begin with."""
    return next(
        (depth for depth, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1), min(map(len, paths))
    )


def _named(part: Part, more: bool = False) -> tuple[str | None, list[str], str]:
    """The split that a part's place says, its other folders, and the domain before the split in its name.

    After the split there may be a number, as in train-00000-of-00002, and a word if there may be `more`.
    """
    *folders, file = part.name.split("/")
    for depth, folder in enumerate(folders[:2]):
        if split := SPLIT_NAMES.get(folder.lower()):
            return split, folders[:depth] + folders[depth + 1 :], ""
    match = BY_STEM.fullmatch(SUFFIXES.sub("", file)) if part.is_table else None
    if not match or not (more or re.match(r"\d|$", match["more"] or "")):
        return None, folders, ""
    return SPLIT_NAMES[match["split"].lower()], folders, match["domain"] or ""


def _nothing(source: Path, ignored: list[tuple[str, str]]) -> str:
    if not source.is_dir():
        return f"{source} cannot be read as a corpus: {ignored[0][1]}"
    has = f"it has {some(ignored)}" if ignored else "it is empty"
    return f"{source} is no corpus: no file of it can be read ({has})"
