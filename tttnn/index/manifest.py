"""What belongs to an index: the manifest, the shards' cards, and the checks that need no reading of vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tttnn.errors import TTTNNError
from tttnn.files import read_json, write_json

FORMAT = 2
MANIFEST, CARD = "manifest.json", "shard.json"
VECTORS, STRUCTURE = "vectors.npy", "structure.faiss"
SEAL = "sha256"  # the entry of a JSON file that holds the hash of all others

MANIFEST_ENTRIES = {"kind", "dimension", "count", "embedder", "corpus_fingerprint", "shards", "versions"}
CARD_ENTRIES = {"name", "kind", "first", "count", "dimension", "embedder", "files", "versions"}


class IndexMismatch(TTTNNError):
    """An index was asked for with another embedder, or other texts, than it was built for."""


class DamagedIndex(TTTNNError):
    """A file of an index is missing, or is not what the manifest says."""


class IndexBusy(OSError):
    """Another process is writing to this index."""


def shard_name(number: int) -> str:
    """The folder of a shard inside that of its index."""
    return f"shard-{number:05d}"


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Write JSON together with the hash of its content, atomically, and return what was written."""
    sealed = {**value, SEAL: _seal(value)}
    write_json(path, sealed)
    return sealed


def read_sealed(path: Path, entries: set[str]) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises
    ------
    DamagedIndex
        If it is missing, not JSON, changed since, of another format, or lacks one of `entries`.
    """
    try:
        value = read_json(path)
    except FileNotFoundError as error:
        raise DamagedIndex(f"{path} is missing: build the index again, or copy the file back") from error
    except (ValueError, OSError) as error:
        raise DamagedIndex(f"{path} cannot be read ({error}): build the index again") from error
    known = value.get("format") if isinstance(value, dict) else None
    if known is None or (known != FORMAT and value.get(SEAL) == _seal(value)):
        raise DamagedIndex(
            f"{path}: format {known}, but this version reads format {FORMAT}: build the index again, or use "
            "the version that built it"
        )
    if value.get(SEAL) != _seal(value):
        raise DamagedIndex(f"{path} changed since it was written (its {SEAL} differs): build the index again")
    if missing := entries - set(value):
        raise DamagedIndex(f"{path} lacks {', '.join(sorted(missing))}: build the index again")
    return value


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an index.

    Raises
    ------
    FileNotFoundError
        If there is no index in `folder`.
    DamagedIndex
        If it is damaged, or its shards do not follow one another.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"no index in {folder} (no {MANIFEST}): build it with build_index")
    manifest = read_sealed(folder / MANIFEST, MANIFEST_ENTRIES)
    first = 0
    for number, card in enumerate(manifest["shards"]):
        if (card["name"], card["first"]) != (shard_name(number), first):
            raise DamagedIndex(f"{folder / MANIFEST}: {card['name']} is out of order: build the index again")
        first += card["count"]
    if first != manifest["count"] or not first:
        raise DamagedIndex(
            f"{folder / MANIFEST}: {manifest['count']} vectors, but its shards have {first}: build it again"
        )
    return manifest


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
            size = path.stat().st_size
        except OSError as error:
            raise DamagedIndex(f"{path} is missing: build the index again, or copy the shard back") from error
        if size != file["bytes"]:
            raise DamagedIndex(
                f"{path} has {size} bytes, not {file['bytes']}: build the index again, or copy the shard back"
            )


def _seal(value: dict[str, Any]) -> str:
    content = {key: each for key, each in value.items() if key != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
