"""Corpora as people have them, rewritten once in the Pile's layout below `home`, so that everything behind is one path.

The folder's name is a hash of the source's place, the names, sizes and times of its files, and how they are read: a
source that changed is imported again. Documents keep the order of the files, and the result depends on their content
only, so the fingerprint of the corpus does, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tttnn.corpus.folder import CURE, LACKING, MANIFEST, Corpus
from tttnn.corpus.formats import Entry, Keys, columns_to_read, encode, read_table, read_text, to_document
from tttnn.corpus.held_out import SPLITS, TEST, TRAIN, VAL, draw, near_copies, rank, sketch
from tttnn.corpus.jsonl import BadDocument, CorpusError, Document
from tttnn.corpus.survey import DICT, SPLIT_NAMES, STATE, Part, Seen, Survey, is_saved_dataset, some, survey, walk
from tttnn.errors import first_line
from tttnn.files import home, read_json, sole_writer, storing, write_json, writing_folder

VERSION = 3  # of what is written; another one is imported again
HUB = "hf:"  # before the name of a dataset
HUB_NAME = re.compile(r"hf:(?P<path>[\w.-]+(/[\w.-]+)?)(/(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
UNNAMED = -1
INSTALL = "pip install 'datasets>=4', or export it as Parquet or JSON Lines"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a corpus is read that is not in the Pile's layout; see `tttnn.corpus.open_corpus`."""

    keys: Keys = field(default_factory=Keys)
    seed: int = 1216
    share: float = 0.1
    skip_bad: bool = False


@dataclass
class _Taken:
    """What is known of the documents written so far."""

    named: list[int] = field(default_factory=list)  # numbers of splits
    ranks: list[int] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    bad: int = 0
    problem: str = ""  # of the first bad one


def import_corpus(source: str | Path, reading: Reading) -> Corpus:
    """Open a folder or file of documents, or a dataset of the library `datasets`, importing it on first use.

    Parameters
    ----------
    source : str or Path
        A folder, a file, or ``hf:owner/name``, perhaps with ``/config`` and ``@revision``.
    reading : Reading

    Returns
    -------
    Corpus
        In a folder below ``home()/"imported"``. Its `manifest` says what was read, and how it was split.

    Raises
    ------
    CorpusError
        If nothing can be read, a file is damaged, or no document can be held out.
    BadDocument
        If a document is none, unless they are left out: naming file and line.
    """
    if str(source).startswith(HUB):
        name, seen, find = str(source).removeprefix(HUB), [], partial(_hub_parts, str(source))
    else:
        path = Path(source).resolve()
        if os.fsencode(path) != str(path).encode(errors="replace"):
            raise CorpusError(f"{str(path)!r}: its name is not UTF-8: rename it")
        name = path.name if path.is_dir() else path.name.split(".")[0] or path.name
        seen = list(walk(path))
        find = partial(_disk_parts, path, seen, name, reading)
    folder = home() / "imported" / f"{_letters(name)}-{_identity(source, seen, reading)}"
    if not folder.exists():
        with sole_writer(folder, wait=True, beside=True):
            if not folder.exists():  # the other process may have been at it
                with writing_folder(folder) as partial_folder:
                    _write(partial_folder, find(), reading, {"corpus": name, "imported_from": str(source)})
                    if seen and _identity(source, list(walk(path)), reading) not in folder.name:
                        raise CorpusError(f"{source} changed while it was read: call again when it is complete")
    corpus = Corpus(folder, name=name, skip_bad=reading.skip_bad)
    _report(corpus)
    return corpus


def _identity(source: str | Path, seen: list[Seen], reading: Reading) -> str:
    """A hash of all that the import depends on, and of the place."""
    place = str(source) if not seen else str(Path(source).resolve())
    files = [[each.name, each.size, each.changed] for each in seen if not each.reason]
    facts = [VERSION, place, reading.keys.text, reading.keys.domain, reading.seed, reading.share, reading.skip_bad]
    return hashlib.sha256(json.dumps([*facts, files]).encode()).hexdigest()[:16]


def _letters(name: str) -> str:
    """A name without what a shell minds."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:40].lstrip(".") or "corpus"


def _disk_parts(path: Path, seen: list[Seen], name: str, reading: Reading) -> Survey:
    if path.is_dir() and is_saved_dataset(path):
        return Survey(list(_saved_parts(path, name)), [])
    return survey(path, seen, reading.keys, name, reading.skip_bad)


def _saved_parts(path: Path, name: str) -> Iterator[Part]:
    """The Arrow files of a dataset that ``save_to_disk`` wrote, by its own lists of splits and files."""
    try:
        splits = read_json(path / DICT)["splits"] if (path / DICT).is_file() else []
        for split in splits or ["train"]:
            folder = path / split if splits else path
            state = read_json(folder / STATE)
            if state.get("_indices_data_files"):
                raise CorpusError(f"{folder} holds a choice of rows: save it again after flatten_indices()")
            for file in (folder / each["filename"] for each in state["_data_files"]):
                if not file.resolve().is_relative_to(path.resolve()):
                    raise CorpusError(f"{folder / STATE}: names {str(file)!r}, which is not in that folder")
                named = SPLIT_NAMES.get(split.lower()) if len(splits) > 1 else None
                yield Part(str(file.relative_to(path)), file, True, file.stat().st_size, named, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = first_line(error) or type(error).__name__
        raise CorpusError(
            f"{path} was saved with the library datasets, but not whole: {said}; save it again"
        ) from error


def _hub_parts(source: str) -> Survey:
    match = HUB_NAME.fullmatch(source)
    if match is None:
        raise CorpusError(f"{source}: name a dataset as hf:owner/name, hf:owner/name/config or hf:owner/name@revision")
    datasets = _datasets(f"{source} is read by the library datasets")
    found = _loaded(partial(datasets.load_dataset, name=match["config"], revision=match["revision"]), match["path"])
    return Survey(_dataset_parts(found, Path(source), match["path"]), [])


def _datasets(why: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"{why}, which is not installed: {INSTALL}") from error
    return datasets


def _loaded(load: Any, place: str | Path) -> dict[str, Any]:
    """The splits of a dataset, by name."""
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    try:
        found = load(str(place))
    except ConnectionError as error:
        raise CorpusError(
            f"{place} is not on this machine, and the Hugging Face hub cannot be reached: where there is a network, "
            f"save it with save_to_disk, and give that folder as the corpus"
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise CorpusError(f"{place} cannot be read as a dataset: {first_line(error)}") from error
    return {"train": found} if isinstance(found, Dataset) else dict(found)


def _dataset_parts(splits: dict[str, Any], path: Path, name: str) -> list[Part]:
    alone = len(splits) == 1
    return [
        Part(each, path, True, 0, None if alone else SPLIT_NAMES.get(each.lower()), name, rows)
        for each, rows in splits.items()
    ]


def _write(folder: Path, found: Survey, reading: Reading, facts: dict[str, Any]) -> None:
    """Write the documents in a first file, decide on their splits, and deal them out."""
    everything, taken = folder / "all", _Taken()
    with storing(folder), open(everything, "wb") as file:
        for part in tqdm(found.parts, desc=f"corpus {facts['corpus']}", unit="file", delay=1):
            for document, line in _documents(part, reading, taken):
                file.write(line)
                taken.named.append(SPLITS.index(part.split) if part.split else UNNAMED)
                taken.ranks.append(rank(document.text, reading.seed))
                taken.domains.append(sys.intern(document.domain))
    named = np.array(taken.named, dtype=np.int8)
    splits = draw(named, np.array(taken.ranks, dtype=np.uint64), reading.share)
    drawn = np.flatnonzero((splits != TRAIN) & (named != splits))
    moved, stayed = _move_copies(everything, splits, drawn)
    source = facts["imported_from"]
    _check_held_out(source, splits, moved, taken)
    _deal(everything, folder, splits)
    everything.unlink()
    facts |= {
        "text_key": reading.keys.text, "domain_key": reading.keys.domain, "split": _how_split(named, splits, reading),
        "split_seed": reading.seed, "documents": {name: int((splits == n).sum()) for n, name in enumerate(SPLITS)},
        LACKING: _lacking(taken.domains, splits), "near_copies_moved_to_train": moved, "near_copies_held_out": stayed,
        "bad_documents_left_out": taken.bad, "first_bad_document": taken.problem, "ignored": found.ignored,
    }  # fmt: skip
    write_json(folder / MANIFEST, facts)


def _lacking(domains: list[str], splits: np.ndarray) -> dict[str, list[str]]:
    """The domains that have documents in train, but none in val or test, by these."""
    found = [{domain for domain, each in zip(domains, splits, strict=True) if each == n} for n in range(len(SPLITS))]
    return {SPLITS[n]: sorted(found[TRAIN] - found[n]) for n in (VAL, TEST)}


def _documents(part: Part, reading: Reading, taken: _Taken) -> Iterator[tuple[Document, bytes]]:
    """The documents of a part, each with the line that is written of it."""
    if not part.is_table:
        above = part.name.rpartition("/")[0] or part.domain
        meta = {"source": f"{above}:{part.name}", "unit": part.name, "pile_set_name": part.domain}
        document = Document(read_text(part.path), meta)
        yield document, encode(document, str(part.path))
        return
    for entry in _entries(part, reading.keys):
        try:
            document = to_document(entry, reading.keys, part.name, part.domain)
            line = encode(document, entry.place)
        except BadDocument as error:
            if not reading.skip_bad:
                raise BadDocument(f"{error}. {CURE}") from error
            taken.bad, taken.problem = taken.bad + 1, taken.problem or str(error)
        else:
            yield document, line


def _entries(part: Part, keys: Keys) -> Iterator[Entry]:
    if part.rows is None:
        return read_table(part.path, keys)
    rows = part.rows.select_columns(columns_to_read(part.rows.features.arrow_schema, keys) or part.rows.column_names)
    return (Entry(part.path, f"{part.name}, row {number}", row) for number, row in enumerate(rows, 1))


def _texts(everything: Path) -> Iterator[str]:
    with open(everything, "rb") as file:
        for line in file:
            yield json.loads(line)["text"]


def _move_copies(everything: Path, splits: np.ndarray, drawn: np.ndarray) -> tuple[int, int]:
    """Move drawn documents that are near-copies of training documents there; count them, and those that stay held out.

    Parameters
    ----------
    everything : Path
        All documents, in order.
    splits : ndarray of int8, shape (documents,)
        Changed in place.
    drawn : ndarray of int
        Numbers of documents whose place did not name their split.
    """
    numbers = np.flatnonzero(splits != TRAIN)
    held = [sketch(text) for text, split in zip(_texts(everything), splits, strict=True) if split != TRAIN]
    others = (sketch(text) for text, split in zip(_texts(everything), splits.copy(), strict=True) if split == TRAIN)
    may_move = np.isin(numbers, drawn)
    copied = near_copies(held, others)
    stayed, moved = int((copied & ~may_move).sum()), 0
    leaving = copied & may_move
    while leaving.any():  # what is moved may have copies of its own
        moved += int(leaving.sum())
        splits[numbers[leaving]] = TRAIN
        gone = [each for each, left in zip(held, leaving, strict=True) if left]
        may_move &= ~leaving
        leaving = near_copies(held, gone) & may_move
    return moved, stayed


def _check_held_out(source: str, splits: np.ndarray, moved: int, taken: _Taken) -> None:
    if not len(splits):
        bad = f" but {taken.bad} bad ones, which are left out; the first: {taken.problem}" if taken.bad else ""
        raise CorpusError(f"{source} is no corpus: it holds no document{bad}")
    if len(splits) == 1:
        raise CorpusError(f"{source} holds one document, so none can be held out: cut it into files, one a document")
    if TEST not in splits:
        copies = f": the {moved} drawn are over half a copy of others" if moved else ""
        raise CorpusError(f"{source} has no document left to test on{copies}; give more, or folders train and test")
    if TRAIN not in splits:
        raise CorpusError(f"{source}: all documents are held out, so there is nothing to train on: give a train part")


def _deal(everything: Path, folder: Path, splits: np.ndarray) -> None:
    with storing(folder):
        files = {n: open(folder / f"{name}.jsonl", "wb") for n, name in enumerate(SPLITS) if n in splits}  # noqa: SIM115
        try:
            with open(everything, "rb") as lines:
                for split, line in zip(splits.tolist(), lines, strict=True):
                    files[split].write(line)
        finally:
            for file in files.values():
                file.close()


def _how_split(named: np.ndarray, splits: np.ndarray, reading: Reading) -> str:
    """One sentence."""
    by_name = [name for number, name in enumerate(SPLITS) if number in named]
    by_seed = [SPLITS[n] for n in (1, 2) if n in splits and n not in named]
    drawn = f"{' and '.join(by_seed)}: documents drawn by seed {reading.seed}, {reading.share:g} of them each"
    said = f"{', '.join(by_name)}: as folders or files are named" if by_name else ""
    return "; ".join(filter(None, [said, drawn if by_seed else ""]))


def _report(corpus: Corpus) -> None:
    """Say how the documents were split, and what was left out."""
    facts, ignored = corpus.manifest, corpus.ignored
    counts = ", ".join(f"{n:,d} {name}" for name, n in facts["documents"].items())
    log.info("%s: %s documents (%s)", corpus.name, counts, facts["split"])
    copies = "are over half a copy of a training document"
    if moved := facts["near_copies_moved_to_train"]:
        log.info("%s: %d drawn documents %s: moved to train", corpus.name, moved, copies)
    if stayed := facts["near_copies_held_out"]:
        log.warning("%s: %d held-out documents %s", corpus.name, stayed, copies)
    if bad := facts["bad_documents_left_out"]:
        log.warning("%s: %d bad documents are left out, the first: %s", corpus.name, bad, facts["first_bad_document"])
    if ignored:
        what, where = f"{len(ignored)} files or folders are not read: {some(ignored)}", corpus.folder / MANIFEST
        log.warning("%s: %s; all are listed in %s", corpus.name, what, where)
