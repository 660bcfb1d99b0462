"""What belongs to an index: the manifest, the shards' cards, and the checks that need no reading of vectors."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

from tttnn.errors import BAD_INPUT, TTTNNError
from tttnn.files import read_json, write_json
from tttnn.index.kinds import KINDS

FORMAT = 2
MANIFEST, CARD = "manifest.json", "shard.json"
VECTORS, STRUCTURE = "vectors.npy", "structure.faiss"
FLAT = "vectors.faiss"  # instead of VECTORS: a flat index that Faiss wrote, which holds the vectors as they are
SEAL = "sha256"  # the entry of a JSON file that holds the hash of all others

MANIFEST_ENTRIES = {"kind", "dimension", "count", "embedder", "corpus_fingerprint", "shards", "versions"}
LARGEST = {"first": 1 << 48, "count": 1 << 48, "dimension": 1 << 20}  # far beyond any index; larger ones are no numbers
CARD_ENTRIES = {"name", "kind", "first", "count", "dimension", "embedder", "files", "versions"}


class IndexMismatch(TTTNNError):
    """An index was asked for with another embedder, or other texts, than it was built for."""


class DamagedIndex(TTTNNError):
    """A file of an index is missing, or is not what the manifest says."""


class NoIndex(TTTNNError, FileNotFoundError):
    """There is no index in this folder."""

    status = BAD_INPUT


class IndexExists(TTTNNError, FileExistsError):
    """There is an index in this folder, which is not overwritten."""


def shard_name(number: int) -> str:
    """The folder of a shard inside that of its index."""
    return f"shard-{number:05d}"


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Write JSON together with the hash of its content, atomically, and return what was written."""
    sealed = {**value, SEAL: _seal(value)}
    write_json(path, sealed)
    return sealed


def _read_sealed(path: Path, entries: set[str]) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises
    ------
    DamagedIndex
        If it is missing, not JSON, changed since, of another format, or lacks one of `entries`.
    """
    try:
        value = read_json(path)
        seal = _seal(value) if isinstance(value, dict) else ""
    except FileNotFoundError as error:
        raise DamagedIndex(f"{path} is missing: build the index again, or copy the file back") from error
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedIndex(f"{path} cannot be read ({error}): build the index again") from error
    known = value.get("format") if isinstance(value, dict) else None
    if known is None or (known != FORMAT and value.get(SEAL) == seal):
        raise DamagedIndex(
            f"{path}: format {known}, but this version reads format {FORMAT}: build the index again, or use "
            "the version that built it"
        )
    if value.get(SEAL) != seal:
        raise DamagedIndex(f"{path} changed since it was written (its {SEAL} differs): build the index again")
    if missing := entries - set(value):
        raise DamagedIndex(f"{path} lacks {', '.join(sorted(missing))}: build the index again")
    return value


def read_card(folder: Path) -> dict[str, Any]:
    """Read and check the card of the shard in `folder`.

    Raises
    ------
    DamagedIndex
        If it is damaged, or says what cannot be.
    """
    card = _read_sealed(folder / CARD, CARD_ENTRIES)
    _check_card(folder / CARD, card)
    return card


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an index.

    A seal is no signature: who wants to can make one for any manifest. So nothing in it is followed or believed before
    it was looked at: it can name the files of its own shards only, must name all of them, and its numbers are numbers.

    Raises
    ------
    NoIndex
        If there is no index in `folder`.
    DamagedIndex
        If it is damaged, says what cannot be, or its shards do not follow one another.
    """
    place = folder / MANIFEST
    if not place.is_file():
        raise NoIndex(f"no index in {folder} (no {MANIFEST}): build it with build_index")
    manifest = _read_sealed(place, MANIFEST_ENTRIES)
    _check_facts(place, manifest, ("count", "dimension"))
    if not isinstance(manifest["shards"], list):
        raise _wrong(place, "its shards are no list")
    first = 0
    for number, card in enumerate(manifest["shards"]):
        if not isinstance(card, dict) or not set(card) >= CARD_ENTRIES:
            raise _wrong(place, f"shard {number} is not described")
        _check_card(place, card)
        if (card["name"], card["first"]) != (shard_name(number), first):
            raise DamagedIndex(f"{place}: {card['name']} is out of order: build the index again")
        if (card["dimension"], card["embedder"]) != (manifest["dimension"], manifest["embedder"]):
            raise _wrong(place, f"{card['name']} has another embedder or dimension")
        first += card["count"]
    if first != manifest["count"] or not first:
        raise DamagedIndex(f"{place}: {manifest['count']} vectors, but its shards have {first}: build it again")
    return manifest


def check_inside(folder: Path, path: Path) -> None:
    """Raise DamagedIndex if a path of an index leads out of its folder, by a link."""
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead to one another
        inside = False
    if not inside:
        raise DamagedIndex(f"{path} leads out of {folder}: put a copy of what it links to in its place")


def _check_card(place: Path, card: dict[str, Any]) -> None:
    """Check what a card says, wherever it is written."""
    if not isinstance(card["name"], str) or not re.fullmatch(r"shard-\d{5,9}", card["name"]):
        raise _wrong(place, f"{card['name']!r} is no name of a shard")
    _check_facts(place, card, ("first", "count", "dimension"))
    if not card["count"]:
        raise _wrong(place, f"{card['name']} has no vectors")
    files = card["files"]
    fine = isinstance(files, list) and all(
        isinstance(file, dict)
        and isinstance(file.get("file"), str)
        and _is_number(file.get("bytes"), 1 << 60)
        and re.fullmatch(r"[0-9a-f]{64}", str(file.get("sha256")))
        for file in files
    )
    names = sorted(file["file"] for file in files) if fine else []
    kind = KINDS.get(card["kind"])  # one that only another version knows has its vectors at least
    plain, packed = [VECTORS], [STRUCTURE, VECTORS]
    known = [plain, packed] if kind is None else [packed] if kind.factory else [plain, [FLAT]]
    if names not in known:
        raise _wrong(place, f"{card['name']} of kind {_short(card['kind'])} cannot consist of {_short(names or files)}")


def _check_facts(place: Path, facts: dict[str, Any], numbers: tuple[str, ...]) -> None:
    """Check the numbers, the kind and the embedder of a manifest or card."""
    for name in numbers:
        if not _is_number(facts[name], LARGEST[name]):
            raise _wrong(place, f"{name} {_short(facts[name])} cannot be")
    embedder = facts["embedder"]
    if not isinstance(embedder, dict) or not all(isinstance(embedder.get(key), str) for key in ("name", "fingerprint")):
        raise _wrong(place, "it names no embedder")
    if not isinstance(facts["kind"], str):
        raise _wrong(place, f"kind {_short(facts['kind'])} cannot be")


def _is_number(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _short(value: Any) -> str:
    return repr(value)[:40]


def _wrong(place: Path, problem: str) -> DamagedIndex:
    return DamagedIndex(f"{place}: {problem}: build the index again, and open only indexes that you trust")


def check_embedder(place: Path, built: dict[str, str], fingerprint: str, name: str = "") -> None:
    """Raise IndexMismatch unless `place`, built with embedder `built`, can be asked with this one."""
    if built["fingerprint"] != fingerprint:
        asked = f"'{name or 'the one asked for'}' (fingerprint {fingerprint[:12]})"
        own = f"'{built['name']}' (fingerprint {built['fingerprint'][:12]})"
        raise IndexMismatch(
            f"{place} was built with embedder {own}, not with {asked}, and distances between them mean "
            "nothing: open it with its own embedder, or build another index"
        )


def check_sizes(folder: Path, card: dict[str, Any]) -> None:
    """Raise DamagedIndex if a file of a shard is missing or of another size than when it was written.

    Before mapping, and again before each search: reading a mapped file past its end kills the process.
    """
    for file in card["files"]:
        path = folder / file["file"]
        try:
            facts = path.stat()
        except OSError as error:
            raise DamagedIndex(f"{path} is missing: build the index again, or copy the shard back") from error
        size = facts.st_size
        if not stat.S_ISREG(facts.st_mode):
            raise DamagedIndex(f"{path} is no file: build the index again, or copy the shard back")
        if size != file["bytes"]:
            raise DamagedIndex(
                f"{path} has {size} bytes, not {file['bytes']}: build the index again, or copy the shard back"
            )


def _seal(value: dict[str, Any]) -> str:
    content = {key: each for key, each in value.items() if key != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
