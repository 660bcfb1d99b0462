"""How much memory, disk and time an index takes: a model of few terms, fitted to measured rows.

The rows lie in ``measured/index_kinds.json``. ``bench/index_kinds.py`` writes them: each is a kind at a size, on
one thread of the machine that it names, with processor times. For each kind and each measure the model is a sum of
work that grows as the algorithm's does (a scan: vectors times dimension; k-means: sample times lists times dimension),
with coefficients that are not negative and make the squared *relative* errors smallest. Few rows allow few terms.
Sizes in bytes are known from the formats: of them only a constant is fitted, which a process holds beside the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.errors import ParameterError
from tttnn.files import read_json
from tttnn.index.build import SHARD_ROWS
from tttnn.index.kinds import (
    KINDS,
    LIST_ROUNDS,
    OPQ_ROUNDS,
    OPQ_ROWS,
    SAMPLE_ROWS,
    check_kind,
    code_bytes,
    lists,
    resolve,
)
from tttnn.parameters import number

if TYPE_CHECKING:
    import pandas as pd

MEASURED = Path(__file__).parents[1] / "measured" / "index_kinds.json"
PQ_CODES, PQ_ROUNDS, PQ_ROWS = 256, 25, 1 << 16  # Faiss's product quantiser, and the vectors it is trained on
GRAPH_LINKS = 32  # of a vector in the graph, and twice as many at its base
NEIGHBOURS = 20  # k of the measured queries
LARGEST = 10**15  # documents, far beyond any index

Rows = Sequence[dict[str, Any]]
RESIDENT, DISK, BUILD, LATENCY = "resident_bytes", "disk_bytes", "build_cpu_seconds", "cpu_p50_ms"


@dataclass(frozen=True)
class IndexPlan:
    """What an index takes, on each of its machines.

    Attributes
    ----------
    kind : str
    documents, dimension, machines, shards : int
        Shards are those of one machine.
    ram : float
        Bytes resident after searching. Mapped files among them may be evicted: then a query reads them again.
    disk : float
        Bytes of raw vectors and structures.
    build_hours : float
        On one thread, without embedding; machines build at the same time.
    p50_ms : float
        Of one query with k = 20, on one thread, from first to last shard.
    reads : int
        Raw vectors that a query reads from their places, to rank candidates exactly.
    """

    kind: str
    documents: int
    dimension: int
    machines: int
    shards: int
    ram: float
    disk: float
    build_hours: float
    p50_ms: float
    reads: int


def plan(
    documents: int,
    dimension: int,
    kind: str = "auto",
    machines: int = 1,
    shard_rows: int = SHARD_ROWS,
    read_us: float = 0.0,
    rows: Rows | None = None,
) -> IndexPlan:
    """Predict what an index takes, from measured rows.

    Parameters
    ----------
    documents : int
        Spread evenly over the machines.
    dimension : int
    kind : str
        One of `tttnn.index.KINDS`, or "auto": see `tttnn.index.default_kind`.
    machines : int
        They search and build at the same time; what the network between them takes does not count.
    shard_rows : int
        Vectors of a shard, at most.
    read_us : float
        Microseconds to read one raw vector that is not in the page cache. 0: all of them are.
    rows : sequence of dict, optional
        To fit to; by default `measured_rows()`.

    Raises
    ------
    ParameterError
        If a number is less than 1 or beyond any index, there is no such kind, or there are no rows of it.
    """
    documents, dimension, machines, shard_rows = (
        int(number(name, value, least=1, most=LARGEST, whole=True))
        for name, value in {
            "documents": documents, "dimension": dimension, "machines": machines, "shard_rows": shard_rows,
        }.items()
    )  # fmt: skip
    check_kind(kind)
    here = ceil(documents / machines)
    shards = ceil(here / shard_rows)
    chosen = resolve(kind, min(here, shard_rows))
    sizes = {shard_rows: here // shard_rows, here % shard_rows: 1}  # rows of a shard -> how many shards have them
    cost = dict.fromkeys((RESIDENT, DISK, BUILD, LATENCY), 0.0)
    models = _fitted(chosen.name) if rows is None else fit(chosen.name, rows)
    for size, count in ((size, count) for size, count in sizes.items() if size and count):
        work = _work(chosen.name, size, dimension)
        for measure in cost:
            cost[measure] += count * float(models[measure] @ work[measure])
    reads = shards * max(chosen.candidates * NEIGHBOURS, chosen.least_candidates) if chosen.factory else 0
    return IndexPlan(
        chosen.name, documents, dimension, machines, shards, cost[RESIDENT], cost[DISK], cost[BUILD] / 3600,
        cost[LATENCY] + 1e-3 * reads * read_us, reads,
    )  # fmt: skip


def machines_needed(documents: int, dimension: int, kind: str, ram: float) -> int:
    """How many machines hold an index of which each may keep `ram` bytes resident.

    Raises
    ------
    ParameterError
        If no number of machines is enough: a constant part of the index is larger.
    """
    few, many = 0, 1
    while plan(documents, dimension, kind, many).ram > ram:
        if many >= documents:
            raise ParameterError(f"ram={ram:,.0f} bytes: too little for any part of this index")
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if plan(documents, dimension, kind, middle).ram > ram else (few, middle)
    return many


def pile_memory(documents: int, text_bytes: int, dimension: int, servers: int) -> pd.DataFrame:
    """What a server must hold in memory, by what is kept there: arithmetic, not measurement.

    Parameters
    ----------
    documents : int
        Of the whole corpus; the Pile's training split has 210 million (paper, section 3).
    text_bytes : int
        Of the whole corpus.
    dimension : int
        Of the float32 vectors.
    servers : int
        The corpus is spread evenly over so many.

    Returns
    -------
    DataFrame
        Columns kept; texts, offsets, vectors and their sum memory (bytes per server that memory must hold);
        disk (bytes per server that are read in place, and cached as far as memory allows).
    """
    import pandas as pd

    texts, offsets, vectors = (size / servers for size in (text_bytes, 8 * documents, 4 * dimension * documents))
    ways = [
        ("texts and vectors, vectors twice", texts, 0.0, 2 * vectors, 0.0),
        ("texts and vectors", texts, 0.0, vectors, 0.0),
        ("line offsets and vectors", 0.0, offsets, vectors, texts),
        ("nothing: all is mapped", 0.0, 0.0, 0.0, texts + offsets + vectors),
    ]
    table = pd.DataFrame(ways, columns=["kept", "texts", "offsets", "vectors", "disk"])
    table.insert(4, "memory", table[["texts", "offsets", "vectors"]].sum(axis=1))
    return table


@cache
def measured_rows() -> tuple[dict[str, Any], ...]:
    """The rows that the package has: see ``bench/index_kinds.py`` for their entries."""
    return tuple(read_json(MEASURED))


def measured_kinds() -> list[str]:
    """The kinds that the package has rows of, in the order of `tttnn.index.KINDS`."""
    known = {row["kind"] for row in measured_rows() if LATENCY in row}
    return [kind for kind in KINDS if kind in known]


def held_out(kind: str, rows: Rows | None = None) -> tuple[dict[str, Any], IndexPlan]:
    """The largest size at which a kind was measured, and what its other rows predict for it.

    Returns
    -------
    row : dict
    predicted : IndexPlan
        Fitted without that row.

    Raises
    ------
    ParameterError
        If the kind was measured at one size only, or not at all.
    """
    known = _known(kind, measured_rows() if rows is None else rows)
    largest = max(known, key=lambda row: row["vectors"] * row["dimension"])
    count, dimension = size = largest["vectors"], largest["dimension"]
    rest = [row for row in known if (row["vectors"], row["dimension"]) != size]
    return largest, plan(count, dimension, kind, shard_rows=count, rows=rest)


def fit(kind: str, rows: Rows) -> dict[str, np.ndarray]:
    """Coefficients of the work that a kind's measures are made of, by measure.

    Raises
    ------
    ParameterError
        If no row has been measured of that kind.
    """
    from scipy.optimize import nnls

    known = _known(kind, rows)
    work = [_work(kind, row["vectors"], row["dimension"]) for row in known]
    models = {}
    for measure in (RESIDENT, DISK, BUILD, LATENCY):
        values = np.array([row[measure] for row in known], dtype=float)  # (rows,)
        terms = np.array([each[measure] for each in work], dtype=float)  # (rows, terms)
        if measure in (RESIDENT, DISK):
            models[measure] = _beside_arithmetic(values, terms[:, 0])
            continue
        scale = np.maximum(terms.max(axis=0), 1.0)
        models[measure] = nnls(terms / scale / values[:, np.newaxis], np.ones(len(known)))[0] / scale
    return models


def _known(kind: str, rows: Rows) -> list[dict[str, Any]]:
    """The rows of a kind, without those of builds that were given up."""
    known = [row for row in rows if row["kind"] == kind and LATENCY in row]
    if not known:
        raise ParameterError(f"kind='{kind}' was not measured: run bench/index_kinds.py, and give its rows")
    return known


def _beside_arithmetic(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Coefficients of computed sizes (rows,), which is 1, and of a constant, fitted to what lies beyond them."""
    weights = values**-2.0
    return np.array([1.0, max(0.0, float(weights @ (values - sizes) / weights.sum()))])


@cache
def _fitted(kind: str) -> dict[str, np.ndarray]:
    return fit(kind, measured_rows())


def _work(kind: str, count: int, dimension: int) -> dict[str, list[float]]:
    """What each measure of one shard is a sum of."""
    numbers = count * dimension
    structure, tables = _structure_bytes(kind, count, dimension)
    build = [numbers, _training(kind, count, dimension) if KINDS[kind].factory else 1.0]
    return {
        RESIDENT: [structure + tables if KINDS[kind].factory else 4 * numbers, 1.0],
        DISK: [4 * numbers + structure, 1.0],
        BUILD: build,
        LATENCY: _visited(kind, count, dimension),
    }


def _structure_bytes(kind: str, count: int, dimension: int) -> tuple[float, float]:
    """Bytes of what a search goes through, and of the tables that are computed when it is opened."""
    inverted, code, rotation = lists(count), code_bytes(dimension), 4 * dimension**2
    match kind:
        case "fp16":
            return 2 * count * dimension, 0
        case "sq8":
            return count * dimension, 0
        case "ivfpq":
            return count * (code + 8) + rotation + 4 * inverted * dimension, 4 * inverted * PQ_CODES * code
        case "rabitq":
            return count * (dimension / 8 + 8) + rotation, 0
        case "ivfrabitq":
            return count * (dimension / 8 + 16) + rotation + 4 * inverted * dimension, 0
        case "hnsw":
            return count * (dimension + 4 * 2 * GRAPH_LINKS), 0
    return 0, 0


def _training(kind: str, count: int, dimension: int) -> float:
    """Multiplications of training and adding, beyond those that read the vectors."""
    sample, inverted = min(count, SAMPLE_ROWS), lists(count)
    clusters = (LIST_ROUNDS * min(sample, 256 * inverted) + count) * inverted * dimension
    rotated = count * dimension**2
    if kind == "rabitq":
        return rotated
    if kind == "ivfrabitq":
        return rotated + clusters
    if kind == "ivfpq":
        codes = (PQ_ROUNDS * min(sample, PQ_ROWS) + OPQ_ROUNDS**2 * OPQ_ROWS + count) * PQ_CODES * dimension
        return rotated + clusters + codes
    if kind == "hnsw":
        return count * log2(count + 1) * dimension
    return count


def _visited(kind: str, count: int, dimension: int) -> list[float]:
    """What a query goes through: a constant, then what the scan, the lists or the graph cost."""
    if kind in ("ivfpq", "ivfrabitq"):
        seen = count * KINDS[kind].effort(count) / lists(count)
        return [1.0, dimension, lists(count) * dimension, seen]
    if kind == "rabitq":
        return [1.0, dimension, count, count * dimension]
    if kind == "hnsw":
        # A queue of fixed length visits few vectors, but the larger the index, the fewer of them are in a cache. The
        # root is what the rows show; it was chosen with all of them known, the largest one included.
        return [1.0, dimension * log2(count + 1), dimension * count**0.5]
    return [1.0, count * dimension]
