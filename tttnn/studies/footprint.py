"""What holding texts and vectors costs: resident memory and latency, measured.

Three ways to fetch a text by its number are compared:

- ``dictionary``: all parsed texts in memory, as in the original system.
- ``offsets``: one array of line offsets in memory, as in the report, but counted in bytes.
- ``store``: the offset table on disk, memory-mapped: this project's :class:`tttnn.corpus.TextStore`.

Each is measured in a process of its own, so that what one leaves in memory does not count for the next. This module
is also the program of that process, which loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.corpus import CorpusError, Document, TextStore, read_jsonl, write_jsonl
from tttnn.errors import ParameterError
from tttnn.files import read_json
from tttnn.studies.own_process import in_own_process

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("dictionary", "offsets", "store")
VECTOR_KINDS = ("flat", "flat-mapped")
MEASURE = ("-P", "-m", "tttnn.studies.footprint")  # this module, in a process of its own


def footprint(jsonl: str | Path, table: str | Path, reads: int, seed: int) -> pd.DataFrame:
    """Measure the three ways to fetch texts on one plain JSON Lines file.

    Parameters
    ----------
    jsonl : str or Path
    table : str or Path
        Offset table of the store; built first if it is not there.
    reads : int
        Random documents to fetch, each twice: after the kernel was asked to forget the files, and once more.
    seed : int
        Chooses the documents, the same ones for each way.

    Returns
    -------
    DataFrame
        One row a way. kind; documents; ready_seconds (to open, table built before); resident_bytes (growth of
        the process from before opening to after reading); mapped_bytes (the part of it that belongs to mapped
        files and may be evicted; Linux only, elsewhere 0); cold_us and warm_us (median microseconds a read);
        digest (SHA-256 of the texts read, by which the ways can be compared).

    Raises
    ------
    ParameterError
        If reads is less than 1.
    RuntimeError
        If a measurement fails; the message ends with its error.
    """
    import pandas as pd

    if reads < 1:
        raise ParameterError(f"reads={reads}: must be at least 1")
    if not Path(table).exists():
        TextStore.build(jsonl, table)
    return pd.DataFrame([in_own_process(*MEASURE, "texts", kind, jsonl, table, reads, seed) for kind in KINDS])


def index_footprint(folder: str | Path, searches: int, seed: int) -> pd.DataFrame:
    """Measure what opening an index and searching it add to the resident memory of a process.

    Parameters
    ----------
    folder : str or Path
        Of a :class:`tttnn.index.Index`.
    searches : int
        Random query vectors, searched one by one for the nearest vector.
    seed : int
        Draws the queries.

    Returns
    -------
    DataFrame
        Two rows a kind of index, "flat" (vectors read into memory) and "flat-mapped". kind; after ("opening" or
        "searching"); resident_bytes and mapped_bytes (as in `footprint`).

    Raises
    ------
    ParameterError
        If searches is less than 1.
    RuntimeError
        If a measurement fails; the message ends with its error.
    """
    import pandas as pd

    from tttnn.index import Index, build_index

    if searches < 1:
        raise ParameterError(f"searches={searches}: must be at least 1")
    known = SimpleNamespace(**read_json(Path(folder) / "manifest.json")["embedder"])
    index = Index.open(folder, known.fingerprint)
    known.dimension = index.dimension
    measured = []
    with TemporaryDirectory() as place:
        for kind in VECTOR_KINDS:
            build_index(
                Path(place) / kind, index.stream, kind=kind, embedder=known, corpus_fingerprint="copy", count=len(index)
            )
            measured += in_own_process(*MEASURE, "vectors", kind, Path(place) / kind, searches, seed)
    return pd.DataFrame(measured)


def kind_footprint(folder: str | Path, queries: str | Path, k: int) -> dict[str, Any]:
    """Measure opening and searching an index, in a process of its own and on one thread.

    Parameters
    ----------
    folder : str or Path
        Of a :class:`tttnn.index.Index`.
    queries : str or Path
        ``.npy`` file of query vectors (n, dimension), searched one by one: once to warm up, then timed.
    k : int
        Neighbours of each.

    Returns
    -------
    dict
        open_ms; p50_ms and p99_ms of a query; resident_bytes and mapped_bytes (as in `footprint`); ids (n lists of k).

    Raises
    ------
    RuntimeError
        If a measurement fails; the message ends with its error.
    """
    return in_own_process(*MEASURE, "kind", Path(folder).name, folder, queries, k, 0)


def per_document(measured: pd.DataFrame) -> pd.DataFrame:
    """Fit a straight line through resident memory over documents, for each way.

    Parameters
    ----------
    measured : DataFrame
        Rows of `footprint` for at least two numbers of documents.

    Returns
    -------
    DataFrame
        Columns kind, slope (bytes per document), constant (bytes).

    Raises
    ------
    ParameterError
        If there is only one number of documents.
    """
    import pandas as pd

    if measured.documents.nunique() < 2:
        raise ParameterError("a line needs two points: measure files of at least two sizes")
    lines = {
        kind: np.polyfit(rows.documents, rows.resident_bytes, 1) for kind, rows in measured.groupby("kind", sort=False)
    }
    return pd.DataFrame([{"kind": kind, "slope": line[0], "constant": line[1]} for kind, line in lines.items()])


def measure_texts(kind: str, jsonl: Path, table: Path, reads: int, seed: int) -> dict[str, Any]:
    """Measure one way in this process; see `footprint`, which starts a process for it.

    Raises
    ------
    ParameterError
        If `kind` is unknown, or the file holds no document.
    """
    with TemporaryDirectory() as folder:
        # The same on a file of one document: code and buffers that any use needs are there before counting.
        one, one_table = Path(folder) / "one.jsonl", Path(folder) / "one.npy"
        write_jsonl(one, [Document("text", {})])
        TextStore.build(one, one_table)
        _measure_texts(kind, one, one_table, 1, seed)
    return _measure_texts(kind, jsonl, table, reads, seed)


def _measure_texts(kind: str, jsonl: Path, table: Path, reads: int, seed: int) -> dict[str, Any]:
    before = _memory()
    start = time.perf_counter()
    count, fetch = _fetcher(kind, jsonl, table)
    ready = time.perf_counter() - start
    if not count:
        raise CorpusError(f"{jsonl} holds no documents: nothing to measure")
    numbers = np.random.default_rng(seed).integers(count, size=reads).tolist()
    for path in (jsonl, table):
        _drop_from_page_cache(path)
    cold, digest = _timed(fetch, numbers)
    warm, again = _timed(fetch, numbers)
    if digest != again:
        raise CorpusError(f"{jsonl} gave other texts when it was read again: another process writes to it")
    grown = {"kind": kind, "documents": count, "ready_seconds": ready} | _grown(before)
    return grown | {"cold_us": cold, "warm_us": warm, "digest": digest}


def _fetcher(kind: str, jsonl: Path, table: Path) -> tuple[int, Callable[[int], str]]:
    """How many documents there are, and a function that fetches the text of one by number."""
    if kind == "store":
        store = TextStore.open(jsonl, table)
        return len(store), lambda number: store[number].text
    if kind == "dictionary":
        texts = {number: document.text for number, document in enumerate(read_jsonl(jsonl))}
        return len(texts), texts.__getitem__
    if kind == "offsets":
        offsets = np.array(array("q", _line_starts(jsonl)))  # (documents,), int64
        file = open(jsonl, "rb")  # noqa: SIM115  (stays open as long as the closure)

        def fetch(number: int) -> str:
            file.seek(offsets[number])
            return json.loads(file.readline())["text"]

        return len(offsets), fetch
    raise ParameterError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")


def _line_starts(jsonl: Path) -> Iterator[int]:
    position = 0
    with open(jsonl, "rb") as file:
        for line in file:
            if line.strip():
                yield position
            position += len(line)


def _timed(fetch: Callable[[int], str], numbers: list[int]) -> tuple[float, str]:
    """Median microseconds a read, and a digest of the texts. No text is kept: that would count as memory."""
    seconds, digest = [], hashlib.sha256()
    for number in numbers:
        start = time.perf_counter()
        text = fetch(number)
        seconds.append(time.perf_counter() - start)
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return 1e6 * float(np.median(seconds)), digest.hexdigest()


def measure_vectors(kind: str, folder: Path, searches: int, seed: int) -> list[dict[str, Any]]:
    """Measure one way to hold an index in this process; see `index_footprint`, which starts a process for it.

    Raises
    ------
    ParameterError
        If `kind` is unknown.
    """
    from tttnn.index import Index, build_index

    if kind not in VECTOR_KINDS:
        raise ParameterError(f"kind={kind!r}: must be one of {', '.join(VECTOR_KINDS)}")
    embedder = SimpleNamespace(name="small", fingerprint="small", dimension=8)
    with TemporaryDirectory() as place:  # code that any use needs is there before counting
        small = build_index(
            Path(place) / "i", lambda row: iter([np.eye(8, dtype=np.float32)[row:]]), kind=kind, embedder=embedder,
            corpus_fingerprint="small", count=8,
        )  # fmt: skip
        small.search(np.eye(8, dtype=np.float32), 1)
    manifest = read_json(folder / "manifest.json")
    shape = (searches, 1, manifest["dimension"])
    queries = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    before = _memory()
    index = Index.open(folder, manifest["embedder"]["fingerprint"])
    opened = _grown(before)
    for query in queries:
        index.search(query, 1)
    return [{"kind": kind, "after": "opening"} | opened, {"kind": kind, "after": "searching"} | _grown(before)]


def _measure_kind(kind: str, folder: Path, queries: Path, k: int, seed: int) -> dict[str, Any]:
    """Measure one index in this process; see `kind_footprint`, which starts a process for it."""
    from tttnn.index import Index, build_index

    embedder = SimpleNamespace(name="small", fingerprint="small", dimension=8)
    vectors = np.random.default_rng(seed).standard_normal((1024, 8), dtype=np.float32)
    with TemporaryDirectory() as place:  # code that any use needs is there before counting
        small = build_index(
            Path(place) / "i", lambda row: iter([vectors[row:]]), kind=kind, embedder=embedder,
            corpus_fingerprint="small", count=len(vectors),
        )  # fmt: skip
        small.search(vectors[:1], 1)
    fingerprint = read_json(folder / "manifest.json")["embedder"]["fingerprint"]
    asked = np.load(queries)[:, np.newaxis]  # (n, 1, dimension)
    before = _memory()
    start = time.perf_counter()
    index = Index.open(folder, fingerprint, threads=1)
    ready = time.perf_counter() - start
    ids = [index.search(query, k)[1][0].tolist() for query in asked]
    grown = _grown(before)
    seconds = []
    for query in asked:
        start = time.perf_counter()
        index.search(query, k)
        seconds.append(time.perf_counter() - start)
    quantiles = {f"p{q}_ms": 1e3 * float(np.percentile(seconds, q)) for q in (50, 99)}
    return {"open_ms": 1e3 * ready} | quantiles | grown | {"ids": ids}


def _memory() -> tuple[int, int]:
    """Resident bytes of this process, and those of them that belong to files (Linux; elsewhere 0)."""
    import psutil

    memory = psutil.Process().memory_info()
    return memory.rss, getattr(memory, "shared", 0)


def _grown(before: tuple[int, int]) -> dict[str, int]:
    resident, mapped = _memory()
    return {"resident_bytes": resident - before[0], "mapped_bytes": mapped - before[1]}


def _drop_from_page_cache(path: Path) -> None:
    """Ask the kernel to forget a file; where it cannot (other systems, files in memory), cold reads are warm."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages not yet written cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _main(what: str, kind: str, *arguments: str) -> None:
    *paths, number, seed = arguments
    # None of this needs torch, and importing it takes longer than the measurement; None forbids it.
    sys.modules["torch"] = None  # type: ignore[assignment]
    measures: dict[str, Callable[..., Any]] = {
        "texts": measure_texts,
        "vectors": measure_vectors,
        "kind": _measure_kind,
    }
    json.dump(measures[what](kind, *map(Path, paths), int(number), int(seed)), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
