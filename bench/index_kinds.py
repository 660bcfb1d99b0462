"""Kinds of index against the flat one: resident memory, disk, build time, latency and recall@20.

Every kind is built and searched in processes of its own, so that its resident memory is its own. Latency is compared
with the flat index in the same process, in blocks of queries that take turns. All run on one thread, and everything is
timed twice, by the clock and in processor time: the files are in the page cache, so on an idle machine the two agree,
and on a busy one only processor time means something. Each row has the load, too. A finished row is kept in the JSON
file and not measured again.

The vectors are drawn with a seed and mimic those of real embeddings in what the kinds are sensitive to. They lie in
4096 clusters whose sizes fall as ``rank ** -0.8``, variance along the principal axes falls as ``axis ** -0.6``, and a
random rotation mixes the axes. Neighbourhoods come out a little harder than real ones (100,000 x 256 here, against the
package's lexical vectors of its embedded corpus, 2,244 x 512): the 20th neighbour's squared distance is 0.58 of that
of two random vectors (0.74), the variance has 104 effective dimensions (107), the local intrinsic dimension is 32 (16).

    python bench/index_kinds.py --out rows.json
    python bench/index_kinds.py --out tttnn/measured/index_kinds.json --sizes 1000000x256  # rows for the planner
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import psutil

from tttnn.files import read_json, write_json
from tttnn.index import KINDS, BuildOptions, Index, build_index
from tttnn.provenance import cpu_model
from tttnn.studies.own_process import in_own_process

SEED = 1216
CLUSTERS = 4096
SPREAD = 0.77  # of a cluster, against 1 for all vectors
BLOCK = 4096  # vectors drawn, and given to a build, at a time
K = 20
TURN = 10  # queries of one kind before the other's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows; those in it stay")
    parser.add_argument("--sizes", nargs="+", default=["20000x256"], help="vectors x dimension")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--limit", type=float, default=360, help="seconds after which a build is given up")
    parser.add_argument("--scratch", type=Path, help="folder for vectors and indexes; default: a temporary one")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.modules["torch"] = None  # an index needs none, and importing it takes longer than most of this
        what, kind, folder = options.measure
        sys.stdout.write(json.dumps({"build": build, "search": search}[what](kind, Path(folder))))
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that measure
    with TemporaryDirectory(dir=options.scratch) as name:
        for size in options.sizes:
            count, dimension = map(int, size.split("x"))
            measure_size(Path(name) / size, count, dimension, options)
    show(read_json(options.out))


def measure_size(folder: Path, count: int, dimension: int, options: argparse.Namespace) -> None:
    """Add the rows of one size that the file lacks."""
    rows = read_json(options.out) if options.out.exists() else []
    known = {row["kind"] for row in rows if (row["vectors"], row["dimension"]) == (count, dimension)}
    missing = [kind for kind in KINDS if kind in options.kinds and kind not in known]  # flat first
    if not missing:
        return
    draw_all(folder, count, dimension, options.queries)
    if missing[0] != "flat":
        measure_alone("build", "flat", folder)  # what the others are compared with
    for kind in missing:
        row = {"kind": kind, "vectors": count, "dimension": dimension, "k": K, "queries": options.queries}
        row |= measured(kind, folder, options.limit) | where_and_when()
        rows.append(row)
        write_json(options.out, rows)
        sys.stderr.write(f"{json.dumps(row)}\n")
    shutil.rmtree(folder)


def measured(kind: str, folder: Path, limit: float) -> dict:
    """Build and search one kind, each in its own process, and remove it."""
    try:
        row = measure_alone("build", kind, folder, limit) | measure_alone("search", kind, folder)
    except subprocess.TimeoutExpired:
        row = {"outcome": f"build given up after {limit:.0f} s"}
    if kind != "flat":
        shutil.rmtree(folder / kind)
    return row


def measure_alone(what: str, kind: str, folder: Path, limit: float | None = None) -> dict:
    return in_own_process(__file__, "--measure", what, kind, folder, "--out", os.devnull, limit=limit)


def where_and_when() -> dict:
    """Where and when, and how busy the machine was."""
    return {
        "device": cpu_model(), "cores": os.cpu_count(), "threads": 1,
        "load": round(os.getloadavg()[0], 2), "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def draw_all(folder: Path, count: int, dimension: int, queries: int) -> None:
    """Write `vectors.npy` and `queries.npy`, drawn alike."""
    folder.mkdir(parents=True)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", "<f4", (count, dimension))
    for start, block in enumerate(draw(count, dimension)):
        vectors[start * BLOCK : start * BLOCK + len(block)] = block
    np.save(folder / "queries.npy", next(draw(queries, dimension, first=1 << 20)))


def draw(count: int, dimension: int, first: int = 0) -> Iterator[np.ndarray]:
    """Vectors (BLOCK or fewer, dimension) float32, see the module; `first` seeds the blocks."""
    random = np.random.default_rng(SEED)
    scale = np.arange(1, dimension + 1) ** -0.3
    scale *= (dimension / np.square(scale).sum()) ** 0.5
    rotation, _ = np.linalg.qr(random.standard_normal((dimension, dimension)))
    rotation = (scale[:, np.newaxis] * rotation).astype(np.float32)  # (dimension, dimension)
    centres = random.standard_normal((CLUSTERS, dimension), dtype=np.float32) * (1 - SPREAD**2) ** 0.5
    share = np.arange(1, CLUSTERS + 1) ** -0.8
    for number, start in enumerate(range(0, count, BLOCK)):
        own = np.random.default_rng([SEED, first + number])
        rows = min(BLOCK, count - start)
        members = own.choice(CLUSTERS, rows, p=share / share.sum())
        yield (centres[members] + SPREAD * own.standard_normal((rows, dimension), dtype=np.float32)) @ rotation


def build(kind: str, folder: Path) -> dict:
    """Build one kind from the vectors on disk, in this process."""
    shutil.rmtree(folder / kind, ignore_errors=True)  # of a build that was given up
    before = psutil.Process().memory_info().rss
    start, cpu = time.perf_counter(), time.process_time()
    write(kind, folder / kind, np.load(folder / "vectors.npy", mmap_mode="r"))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    sizes = {path.name: path.stat().st_size for path in (folder / kind).rglob("*") if path.is_file()}
    return {
        "build_seconds": seconds, "build_cpu_seconds": cpu,
        "build_resident_bytes": psutil.Process().memory_info().rss - before,
        "structure_bytes": sizes.get("structure.faiss", 0), "disk_bytes": sum(sizes.values()),
    }  # fmt: skip


def write(kind: str, folder: Path, vectors: np.ndarray) -> Index:
    def batches(start: int) -> Iterator[np.ndarray]:
        return (vectors[row : row + BLOCK] for row in range(start, len(vectors), BLOCK))

    embedder = SimpleNamespace(name="drawn", fingerprint="drawn", dimension=vectors.shape[1])
    return build_index(
        folder, batches, kind=kind, embedder=embedder, corpus_fingerprint="drawn", count=len(vectors),
        options=BuildOptions(shard_rows=len(vectors)),
    )  # fmt: skip


def search(kind: str, folder: Path) -> dict:
    """Open one kind in this process, search it, then take turns with the flat index."""
    queries = np.load(folder / "queries.npy")
    with TemporaryDirectory() as small:  # code that any use needs is in memory before counting
        vectors = next(draw(2048, 16))
        write(kind, Path(small), vectors)
        Index.open(small, "drawn", threads=1).search(vectors[:2], K)
    before = psutil.Process().memory_info()
    start = time.perf_counter()
    index = Index.open(folder / kind, "drawn", threads=1)
    row = {"open_seconds": time.perf_counter() - start}
    found = [index.search(query[np.newaxis], K)[1][0] for query in queries]
    after = psutil.Process().memory_info()
    row |= {
        "resident_bytes": after.rss - before.rss,
        "mapped_bytes": getattr(after, "shared", 0) - getattr(before, "shared", 0),
    }
    flat = index if kind == "flat" else Index.open(folder / "flat", "drawn", threads=1)
    expected = flat.search(queries, K)[1]
    row["recall"] = float(np.mean([len(np.intersect1d(*each)) / K for each in zip(found, expected, strict=True)]))
    return row | latencies(index, flat, queries)


def latencies(index: Index, flat: Index, queries: np.ndarray) -> dict:
    """Milliseconds of single queries, warm; `speedup` is the flat index's median processor time over this one's."""
    turns = {"": index} if index is flat else {"": index, "flat_": flat}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for start in range(0, len(queries), TURN):
        for name, each in turns.items():
            for query in queries[start : start + TURN]:
                begin, cpu = time.perf_counter(), time.process_time()
                each.search(query[np.newaxis], K)
                taken[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    row = {}
    for name, seconds in taken.items():
        for clock, values in zip(("", "cpu_"), 1e3 * np.transpose(seconds), strict=True):
            row |= {f"{name}{clock}p{q}_ms": float(np.percentile(values, q)) for q in (50, 99)}
    return row | {"speedup": row.get("flat_cpu_p50_ms", row["cpu_p50_ms"]) / row["cpu_p50_ms"]}


def show(rows: list[dict]) -> None:
    import pandas as pd  # only here: the measuring processes need none

    table = pd.DataFrame(rows)
    shown = {
        "resident MB": table.resident_bytes / 1e6, "disk MB": table.disk_bytes / 1e6,
        "build CPU s": table.build_cpu_seconds, "open ms": 1e3 * table.open_seconds,
        "p50 CPU ms": table.cpu_p50_ms, "p99 CPU ms": table.cpu_p99_ms, "p50 ms": table.p50_ms,
        "flat / p50 CPU": table.speedup, f"recall@{K}": table.recall, "load": table.load,
    }  # fmt: skip
    table = pd.concat([table[["vectors", "dimension", "kind"]], pd.DataFrame(shown)], axis=1)
    flat = table[table.kind == "flat"].set_index(["vectors", "dimension"])["resident MB"]
    keys = pd.MultiIndex.from_frame(table[["vectors", "dimension"]])
    table.insert(4, "flat / resident", flat.reindex(keys).to_numpy() / table["resident MB"])
    sys.stdout.write(f"{table.to_string(index=False, float_format='{:,.3g}'.format)}\n")


if __name__ == "__main__":
    main()
