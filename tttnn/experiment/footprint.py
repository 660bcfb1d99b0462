"""What holding texts costs: resident memory and latency of three ways to fetch a text by number.

Each way is measured in a process of its own, so that what one leaves in memory does not count for the next.

- ``dictionary``: all parsed texts in memory, as in the original system.
- ``offsets``: a list of line offsets in memory, as in the report.
- ``store``: the offset table on disk, memory-mapped: this project's :class:`tttnn.corpus.TextStore`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from tttnn.corpus import Document, TextStore, read_jsonl, write_jsonl

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("dictionary", "offsets", "store")


def footprint(jsonl: str | Path, table: str | Path, reads: int, seed: int) -> pd.DataFrame:
    """Measure the three ways on one plain JSON Lines file.

    Parameters
    ----------
    jsonl : path
    table : path
        Offset table of the store; built by the measurement if it is not there.
    reads : int
        Random documents to fetch, once with the file dropped from the page cache and once warm.
    seed : int
        Chooses the documents, the same for each way.

    Returns
    -------
    DataFrame
        One row a way: kind, documents, ready_seconds, resident_bytes (growth of the process after opening and
        reading), bytes_per_document, cold_us, warm_us (median microseconds a read), digest (SHA-256 of the texts
        read, so that the ways can be compared).

    Raises
    ------
    RuntimeError
        If a measurement fails; the message ends with its error.
    """
    import pandas as pd

    if not Path(table).exists():
        TextStore.build(jsonl, table)
    return pd.DataFrame([_in_own_process(kind, Path(jsonl), Path(table), reads, seed) for kind in KINDS])


def _in_own_process(kind: str, jsonl: Path, table: Path, reads: int, seed: int) -> dict:
    command = [sys.executable, "-m", __name__, kind, str(jsonl), str(table), str(reads), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {kind} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def measure(kind: str, jsonl: Path, table: Path, reads: int, seed: int) -> dict:
    """Measure one way in this process; see :func:`footprint`, which starts a process for it."""
    _warm_up(kind)
    resident = _resident_bytes()
    start = time.perf_counter()
    count, fetch = _fetcher(kind, jsonl, table)
    ready = time.perf_counter() - start
    numbers = np.random.default_rng(seed).integers(count, size=reads).tolist()
    _drop_from_page_cache(jsonl)
    cold, texts = _timed(fetch, numbers)
    warm, _ = _timed(fetch, numbers)
    grown = max(0, _resident_bytes() - resident)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return {
        "kind": kind, "documents": count, "ready_seconds": ready, "resident_bytes": grown,
        "bytes_per_document": grown / count, "cold_us": cold, "warm_us": warm, "digest": digest,
    }  # fmt: skip


def _warm_up(kind: str) -> None:
    """Fetch from a file of one document: code and buffers that any use needs are there before counting begins."""
    with TemporaryDirectory() as folder:
        jsonl, table = Path(folder) / "one.jsonl", Path(folder) / "one.npy"
        write_jsonl(jsonl, [Document("text", {})])
        TextStore.build(jsonl, table)
        _fetcher(kind, jsonl, table)[1](0)


def _fetcher(kind: str, jsonl: Path, table: Path) -> tuple[int, Callable[[int], str]]:
    """How many documents there are, and a function that fetches one by number."""
    if kind == "store":
        store = TextStore.open(jsonl, table)
        return len(store), lambda number: store[number].text
    if kind == "dictionary":
        texts = {number: document.text for number, document in enumerate(read_jsonl(jsonl))}
        return len(texts), texts.__getitem__
    if kind == "offsets":
        offsets = _line_offsets(jsonl)
        file = open(jsonl, "rb")  # noqa: SIM115  (stays open as long as the closure)

        def fetch(number: int) -> str:
            file.seek(offsets[number])
            return json.loads(file.readline())["text"]

        return len(offsets), fetch
    raise ValueError(f"kind={kind!r}: one of {', '.join(KINDS)}")


def _line_offsets(jsonl: Path) -> array:
    offsets = array("q")
    with open(jsonl, "rb") as file:
        position = 0
        for line in file:
            if line.strip():
                offsets.append(position)
            position += len(line)
    return offsets


def _timed(fetch: Callable[[int], str], numbers: list[int]) -> tuple[float, list[str]]:
    """Median microseconds a read, and the texts."""
    seconds, texts = [], []
    for number in numbers:
        start = time.perf_counter()
        text = fetch(number)
        seconds.append(time.perf_counter() - start)
        texts.append(text)
    return 1e6 * float(np.median(seconds)), texts


def _resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _drop_from_page_cache(path: Path) -> None:
    """Ask the kernel to forget the file; where it cannot (other systems), the cold reads are warm ones."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def pile_memory(documents: int, text_bytes: int, dimension: int, servers: int) -> pd.DataFrame:
    """Memory a server needs, by what it keeps there: arithmetic, not measurement.

    Parameters
    ----------
    documents : int
        Of the whole corpus; the Pile's training set has 210 million.
    text_bytes : int
        Of the whole corpus.
    dimension : int
        Of the float32 vectors.
    servers : int
        The corpus is spread evenly over so many.

    Returns
    -------
    DataFrame
        Columns what, texts, table, vectors, total, all in bytes per server.
    """
    import pandas as pd

    share = documents / servers
    vectors = 4 * dimension * share
    ways = {
        "dictionary of texts, vectors in memory": (text_bytes / servers, 0.0, vectors),
        "line offsets, vectors in memory (the report)": (0.0, 8 * share, vectors),
        "memory-mapped table and vectors (here)": (0.0, 0.0, 0.0),
    }
    rows = [{"what": way, "texts": t, "table": o, "vectors": v, "total": t + o + v} for way, (t, o, v) in ways.items()]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    _kind, _jsonl, _table, _reads, _seed = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(_kind, Path(_jsonl), Path(_table), int(_reads), int(_seed))))
