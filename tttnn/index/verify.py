"""Reading all of an index and comparing it with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from tttnn.files import expand, sha256_file
from tttnn.index.manifest import CARD, DamagedIndex, check_inside, check_sizes, read_card, read_manifest


def verify(folder: str | Path) -> int:
    """Read every file of an index and compare its SHA-256 with the manifest, and the manifest with its own.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    int
        Files read, all of them in order.

    Raises
    ------
    FileNotFoundError
        If there is no index in `folder`.
    DamagedIndex
        Naming every file that is not as it was written.
    """
    folder = Path(expand(folder))
    manifest = read_manifest(folder)
    problems, count = [], 1
    total = sum(file["bytes"] for card in manifest["shards"] for file in card["files"])
    with tqdm(total=total, desc="verifying", unit="B", unit_scale=True) as bar:
        for card in manifest["shards"]:
            problems.append(_card_problem(folder, card))
            for file in card["files"]:
                problems.append(_file_problem(folder, card["name"], file))
                bar.update(file["bytes"])
            count += 1 + len(card["files"])
    if found := [problem for problem in problems if problem]:
        raise DamagedIndex(f"{folder}: {len(found)} of {count} files damaged\n" + "\n".join(found))
    return count


def _card_problem(folder: Path, card: dict[str, Any]) -> str:
    path = folder / card["name"] / CARD
    try:
        check_inside(folder, path)
        fits = read_card(path.parent) == card
    except DamagedIndex as error:
        return str(error)
    return "" if fits else f"{path} is not the one that the manifest describes: copy the right shard back"


def _file_problem(folder: Path, name: str, file: dict[str, Any]) -> str:
    path = folder / name / file["file"]
    try:
        check_inside(folder, path)
        check_sizes(path.parent, {"files": [file]})
    except DamagedIndex as error:
        return str(error)
    if sha256_file(path) == file["sha256"]:
        return ""
    return f"{path} changed since it was written: build the index again, or copy it back"
