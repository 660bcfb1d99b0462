"""Text by number: the text store, plain and compressed, against a dictionary in memory.

Ratios of one run on one machine. The corpus is the embedded one, repeated; repetitions lie further apart than Zstandard
looks back. Four tables: what it costs to read a document and to keep it on disk; resident memory a document, as the
slope between two corpora of short documents, so that what any process holds does not count; how much building gains
from processes; 8 bytes an offset against 5.

    python bench/text_store.py --out rows.json
"""

import argparse
import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import zstandard

from tttnn.corpus import Document, TextStore, open_corpus, read_jsonl, write_jsonl
from tttnn.corpus.compressed import FRAME, LEVEL, recompress
from tttnn.corpus.store import frames_path
from tttnn.files import write_json
from tttnn.studies.own_process import in_own_process

FRAMES = (FRAME // 2, FRAME, 2 * FRAME)  # bytes
REPEATS = 3
SEED = 1216
PILE = 210_000_000  # documents
PILE_BYTES = 6200  # mean length of a document

Fetch = Callable[[int], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--bytes", type=int, default=200_000_000, help="size of the corpus")
    parser.add_argument("--reads", type=int, default=2000, help="documents to fetch")
    parser.add_argument("--offsets", type=int, default=10_000_000, help="length of the bare tables")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "FILE", "TABLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure_one(*options.measure, options.reads)))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = reads(folder, options) + memory(folder, options) + builds(folder) + tables(folder, options)
    write_json(options.out, rows)
    for benchmark, some in pd.DataFrame(rows).groupby("benchmark", sort=False):
        some = some.dropna(axis=1, how="all").drop(columns="benchmark")
        sys.stdout.write(f"{benchmark}\n{some.to_string(index=False, float_format='{:,.2f}'.format)}\n\n")


def reads(folder: Path, options: argparse.Namespace) -> list[dict]:
    """Latency and disk of each way, with ratios to the dictionary and to the plain file."""
    plain = folder / "plain.jsonl"
    write_jsonl(plain, repeated(documents(), options.bytes))
    rows = measured(plain, FRAMES, options)
    for row in rows:
        row |= {
            "benchmark": "reads",
            "warm_ratio": row["warm_us"] / rows[0]["warm_us"],
            "disk_ratio": row["disk_bytes"] / plain.stat().st_size,
        }
    size = one_frame(plain)
    whole = {"benchmark": "reads", "kind": "one frame, unreadable at random", "disk_bytes": size}
    return [*rows, whole | {"disk_ratio": size / plain.stat().st_size}]


def memory(folder: Path, options: argparse.Namespace) -> list[dict]:
    """Resident bytes a document: what more documents add, not what a process holds anyway."""
    short = [Document(line) for document in documents() for line in document.text.splitlines()]
    sizes = []
    for size in (options.bytes // 8, options.bytes // 4):
        plain = folder / f"short-{size}.jsonl"
        write_jsonl(plain, repeated(short, size))
        sizes.append(measured(plain, (FRAME,), options))
    rows = []
    for small, large in zip(*sizes, strict=True):
        grown, more = (large[each] - small[each] for each in ("resident_bytes", "documents"))
        kept = {each: large[each] for each in ("kind", "documents", "resident_bytes")}
        rows.append(kept | {"benchmark": "memory", "bytes_per_document": grown / more})
    for row in rows:
        row["ratio"] = rows[0]["bytes_per_document"] / row["bytes_per_document"]
    return rows


def measured(plain: Path, frames: tuple[int, ...], options: argparse.Namespace) -> list[dict]:
    """Measure each way on one corpus, the compressed ones with each size of frame."""
    files = dict.fromkeys(("dictionary", "offsets in an array", "text store"), plain)
    for size in frames:
        files[f"text store, frames of {size >> 10} kB"] = packed = plain.with_name(f"{plain.stem}-{size}.jsonl.zst")
        recompress(plain, packed, frame_bytes=size)
    rows = []
    for kind, path in files.items():
        table = path.with_suffix(".npy")
        TextStore.build(path, table)
        disk = path.stat().st_size
        if kind.startswith("text store"):
            disk += sum(each.stat().st_size for each in (table, frames_path(table)) if each.exists())
        rows.append({"kind": kind, "disk_bytes": disk} | measure_alone(kind.split(",")[0], path, table, options))
    if len({row.pop("digest") for row in rows}) != 1:
        raise SystemExit("the ways do not return the same texts")
    return rows


def documents() -> list[Document]:
    corpus = open_corpus("wheels")
    return [document for split in corpus.splits for document in corpus.documents(split)]


def repeated(some: list[Document], size: int) -> Iterator[Document]:
    """Yield documents over and over, up to `size` bytes of text."""
    for document in cycle(some):
        size -= len(document.text.encode())
        if size < 0:
            return
        yield document


def one_frame(plain: Path) -> int:
    packed = plain.with_suffix(".zst")
    with open(plain, "rb") as source, open(packed, "wb") as target:
        zstandard.ZstdCompressor(level=LEVEL).copy_stream(source, target, size=plain.stat().st_size)
    return packed.stat().st_size


def measure_alone(kind: str, path: Path, table: Path, options: argparse.Namespace) -> dict:
    return in_own_process(__file__, "--measure", kind, path, table, "--reads", options.reads, "--out", os.devnull)


def measure_one(kind: str, path: str, table: str, count: int) -> dict:
    if kind in TABLES:
        return measure_table(TABLES[kind], Path(path), count)
    opener = {"dictionary": open_dictionary, "offsets in an array": open_array, "text store": open_store}[kind]
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    length, fetch = opener(Path(path), Path(table))
    row = {"documents": length, "open_ms": 1e3 * (time.perf_counter() - start)}
    numbers = np.random.default_rng(SEED).integers(length, size=count).tolist()
    for each in (path, table):
        forget(Path(each))
    row["cold_us"], _ = timed(fetch, numbers)
    row["warm_us"], digest = timed(fetch, numbers)
    return row | {"resident_bytes": psutil.Process().memory_info().rss - before, "digest": digest}


def open_dictionary(path: Path, table: Path) -> tuple[int, Fetch]:
    texts = {number: document.text for number, document in enumerate(read_jsonl(path))}
    return len(texts), texts.__getitem__


def open_array(path: Path, table: Path) -> tuple[int, Fetch]:
    offsets, position = array("q"), 0
    file = open(path, "rb")  # noqa: SIM115  (stays open as long as the function)
    for line in file:
        offsets.append(position)
        position += len(line)

    def fetch(number: int) -> str:
        file.seek(offsets[number])
        return json.loads(file.readline())["text"]

    return len(offsets), fetch


def open_store(path: Path, table: Path) -> tuple[int, Fetch]:
    store = TextStore.open(path, table)
    return len(store), lambda number: store[number].text


def forget(path: Path) -> None:
    """Ask the kernel to drop a file from its page cache; where it cannot, cold reads are warm."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(fetch: Fetch, numbers: list[int]) -> tuple[float, str]:
    """Median microseconds, and a digest of the texts; none is kept, as it would count as memory."""
    seconds, digest = [], hashlib.sha256()
    for number in numbers:
        start = time.perf_counter()
        text = fetch(number)
        seconds.append(time.perf_counter() - start)
        digest.update(text.encode() + b"\0")
    return 1e6 * float(np.median(seconds)), digest.hexdigest()


def builds(folder: Path) -> list[dict]:
    """Seconds to build a table in one process and in one a core; the best of some, taken in turn."""
    rows = []
    for path in (folder / "plain.jsonl", folder / f"plain-{FRAME}.jsonl.zst"):
        for on_error in ("raise", "skip"):
            seconds = {1: [], os.cpu_count() or 1: []}
            for _ in range(REPEATS):
                for processes, taken in seconds.items():
                    start = time.perf_counter()
                    TextStore.build(path, folder / "built.npy", on_error, processes)
                    taken.append(time.perf_counter() - start)
            rows += [
                {
                    "benchmark": "builds", "kind": path.name, "on_error": on_error, "processes": processes,
                    "seconds": min(taken), "speedup": min(seconds[1]) / min(taken), "load": os.getloadavg()[0],
                }
                for processes, taken in seconds.items()
            ]  # fmt: skip
    return rows


def tables(folder: Path, options: argparse.Namespace) -> list[dict]:
    """Bare tables of 8 and of 5 bytes an offset, as many documents as asked."""
    lengths = np.random.default_rng(SEED).geometric(1 / PILE_BYTES, options.offsets).astype(np.uint64)
    offsets = np.cumsum(lengths)
    np.save(folder / "8.npy", offsets)
    np.save(folder / "5.npy", offsets.view(np.uint8).reshape(-1, 8)[:, :5])
    rows = []
    for kind in TABLES:
        path = folder / f"{kind[0]}.npy"
        measured = measure_alone(kind, path, path, options) | {"benchmark": "tables", "kind": kind}
        rows.append(measured | {"disk_bytes": path.stat().st_size, "pile_disk_gb": int(kind[0]) * PILE / 1e9})
    return rows


def measure_table(lookup: Callable[[np.ndarray, int], int], path: Path, count: int) -> dict:
    """Latency of lookups, and resident memory after them: of `count`, and of a pass over all."""
    before = psutil.Process().memory_info().rss
    offsets = np.load(path, mmap_mode="r")
    row: dict = {"documents": len(offsets)}
    numbers = np.random.default_rng(SEED).integers(len(offsets), size=count).tolist()
    for state in ("cold", "warm"):
        start = time.perf_counter()
        for number in numbers:
            lookup(offsets, number)
        row[f"{state}_us"] = 1e6 * (time.perf_counter() - start) / count
    grown = psutil.Process().memory_info().rss - before
    np.asarray(offsets).sum()  # the most that can be resident: all of it
    most = psutil.Process().memory_info().rss - before
    return row | {"resident_bytes": grown, "bytes_per_document": most / len(offsets)}


TABLES: dict[str, Callable[[np.ndarray, int], int]] = {
    "8 bytes": lambda offsets, number: int(offsets[number]),
    "5 bytes": lambda offsets, number: int.from_bytes(offsets[number].tobytes(), "little"),
}


if __name__ == "__main__":
    main()
