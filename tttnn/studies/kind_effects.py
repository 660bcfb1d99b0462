"""What the kinds of index cost and find on the vectors of a real index, and what they do to the result."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tttnn.index import KINDS, Index, SearchSettings, build_index
from tttnn.index.manifest import STRUCTURE, read_manifest
from tttnn.studies.footprint import kind_footprint

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.experiment import DrawnDocument
    from tttnn.ttt import TTT


def build_kinds(index: Index, folder: str | Path, kinds: Iterable[str] = KINDS) -> pd.DataFrame:
    """Build indexes of other kinds from the vectors of one.

    Parameters
    ----------
    index : Index
    folder : str or Path
        Each kind gets a folder of its name there.
    kinds : iterable of str

    Returns
    -------
    DataFrame
        One row a kind. kind; built (the kind of its first shard, "flat-mapped" where vectors are too few to train
        on); build_seconds; structure_bytes and disk_bytes (of what a search goes through, and of all files).
    """
    import pandas as pd

    rows = []
    for kind in kinds:
        place = Path(folder) / kind
        start = time.perf_counter()
        made = build_index(
            place, index.stream, kind=kind, embedder=_embedder(index), corpus_fingerprint="copy", count=len(index)
        )
        seconds = time.perf_counter() - start
        shards = made.manifest["shards"]
        files = [file for card in shards for file in card["files"]]
        rows.append({
            "kind": kind, "built": shards[0]["kind"], "build_seconds": seconds,
            "structure_bytes": sum(file["bytes"] for file in files if file["file"] == STRUCTURE),
            "disk_bytes": sum(file["bytes"] for file in files),
        })  # fmt: skip
    return pd.DataFrame(rows)


def measure_kinds(folder: str | Path, kinds: Iterable[str], queries: np.ndarray, k: int) -> pd.DataFrame:
    """Search each kind in a process of its own, query by query.

    Parameters
    ----------
    folder : str or Path
        Where `build_kinds` put them; "flat" must be among them.
    kinds : iterable of str
    queries : ndarray, shape (n, dimension)
    k : int

    Returns
    -------
    DataFrame
        One row a kind. kind; open_ms; p50_ms and p99_ms of a query on one thread; resident_bytes (growth of the process
        from before opening to after searching); recall (share of the flat index's k nearest that are found).

    Raises
    ------
    RuntimeError
        If a measurement fails; the message ends with its error.
    """
    import pandas as pd

    place = Path(folder) / "queries.npy"
    np.save(place, queries)
    expected = _open(Path(folder) / "flat").search(queries, k)[1]
    rows = []
    for kind in kinds:
        measured = kind_footprint(Path(folder) / kind, place, k)
        found = np.array(measured.pop("ids"))  # (n, k)
        rows.append({"kind": kind} | measured | {"recall": recall(found, expected)})
    return pd.DataFrame(rows)


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """The mean share of expected ids (n, k) that were found (n, k)."""
    return float(np.mean([np.isin(*each).mean() for each in zip(expected, found, strict=True)]))


def kinds_effect(
    ttt: TTT, documents: Sequence[DrawnDocument], folder: str | Path, ways: Mapping[str, tuple[str, SearchSettings]],
    k: int,
) -> pd.DataFrame:  # fmt: skip
    """Adapt on the neighbours that each kind finds, and score.

    Documents whose neighbours are those of another way, in the same order, are not adapted again: the result depends on
    nothing else.

    Parameters
    ----------
    ttt : TTT
        With the retriever whose index the kinds were built from.
    documents : sequence of DrawnDocument
    folder : str or Path
        Of `build_kinds`; "flat" must be among them.
    ways : mapping
        Name -> kind, and how hard it is searched.
    k : int

    Returns
    -------
    DataFrame
        One row a document and way, "flat" first. domain, document, way, found (share of the flat index's neighbours),
        same (whether neighbours and order are the flat index's), before and after (bits per byte), change (of after,
        against flat's).

    Raises
    ------
    ParameterError
        If the loop has no retriever.
    """
    import pandas as pd

    retriever = ttt.need_retriever()
    searched = {"flat": _open(Path(folder) / "flat")}
    searched |= {way: _open(Path(folder) / kind, settings) for way, (kind, settings) in ways.items()}
    vectors = retriever.embedder.embed([document.text for document in documents])  # (documents, dimension)
    ids = {way: index.search(vectors, k)[1] for way, index in searched.items()}
    rows: list[dict[str, Any]] = []
    for number, document in enumerate(tqdm(documents, desc="kinds of index", unit="doc")):
        results: dict[tuple[int, ...], tuple[float, float]] = {}
        for way, found in ids.items():
            neighbours, exact = tuple(found[number].tolist()), tuple(ids["flat"][number].tolist())
            if neighbours not in results:
                texts = [retriever.store[each].text for each in neighbours]
                scores = (step.score for step in ttt.adapt(document.text, texts, [0, k]))
                first, last = (score.bits_per_byte for score in scores if score)
                results[neighbours] = first, last
            before, after = results[neighbours]
            rows.append({
                "domain": document.domain, "document": document.number, "way": way,
                "found": len(set(neighbours) & set(exact)) / k, "same": neighbours == exact, "before": before,
                "after": after, "change": after / results[exact][1] - 1,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _open(folder: Path, settings: SearchSettings | None = None) -> Index:
    return Index.open(folder, read_manifest(folder)["embedder"]["fingerprint"], settings=settings)


def _embedder(index: Index) -> SimpleNamespace:
    return SimpleNamespace(**index.manifest["embedder"], dimension=index.dimension)
