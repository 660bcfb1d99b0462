"""The kinds of index, their defaults by size, and how their Faiss structures are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from tttnn.errors import ParameterError
from tttnn.index.faiss_runtime import faiss_threads, load_faiss

SAMPLE_ROWS = 1 << 17  # vectors a quantiser is trained on, at most: 0.5 GB at dimension 1024
PER_LIST = 39  # training vectors for each inverted list that Faiss asks for
LEAST_ROWS = 1024  # four for each of the 256 codes of a product quantiser
ADD_ROWS = 1 << 14  # vectors compressed at a time
LEAST_PROBES = 128  # inverted lists that a search visits, if there are so many
LIST_ROUNDS = 10  # of k-means for the inverted lists, instead of Faiss's own 25
OPQ_ROUNDS, OPQ_ROWS = 8, 1 << 14  # Faiss's own 50 rounds on 65,536 vectors take many times as long


@dataclass(frozen=True)
class Kind:
    """A way to find candidates.

    Attributes
    ----------
    name : str
    about : str
        For tables.
    factory : callable, optional
        (count, dimension) -> Faiss's factory string; None: no structure, the raw vectors are searched.
    candidates : int
        How many candidates for each of k are ranked exactly; at least `least_candidates` in all.
    least_candidates : int
    effort : callable
        count -> inverted lists visited (IVF) or length of the graph's queue; 0 where neither exists.
    least_rows : int
        A shard with fewer vectors is "flat-mapped" instead.
    one_thread : bool
        Whether the same bytes need one thread, as a graph does.
    """

    name: str
    about: str
    factory: Callable[[int, int], str] | None = None
    candidates: int = 1
    least_candidates: int = 0
    effort: Callable[[int], int] = lambda count: 0
    least_rows: int = 1
    one_thread: bool = False


def lists(count: int) -> int:
    """Inverted lists for so many vectors: the power of two next above their square root, if there are enough."""
    wanted = 2 ** int(np.ceil(np.log2(max(count, 1)) / 2))
    return int(max(1, min(wanted, min(count, SAMPLE_ROWS) // PER_LIST)))


def _probes(count: int) -> int:
    """Lists that a search visits: an eighth, which suffices at a million vectors, but 128 of fewer lists.

    Few vectors have many of their neighbours in other lists, and a scan of them takes little time in any case.
    """
    return min(lists(count), max(LEAST_PROBES, lists(count) // 8))


def code_bytes(dimension: int) -> int:
    """Bytes of a product-quantised vector: one for 8 dimensions, but from 8 to 64."""
    return min(max(8, dimension // 8), 64)


def _ivfpq(count: int, dimension: int) -> str:
    code = code_bytes(dimension)
    rotated = max(code, dimension // code * code)  # a multiple, as the product quantiser needs
    # "np": without the training for Hamming distances, which nobody uses here and which takes nearly all the time.
    return f"OPQ{code}_{rotated},IVF{lists(count)},PQ{code}np"


def _rabitq(count: int, dimension: int) -> str:
    # The random rotation is what RaBitQ's error bound rests on: Gao and Long, SIGMOD 2024, section 3.1.
    return f"RR{dimension},RaBitQfs"


def _ivfrabitq(count: int, dimension: int) -> str:
    # Not "RaBitQfs", whose lists cannot be memory-mapped and take twice their size in memory.
    return f"RR{dimension},IVF{lists(count)},RaBitQ"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("flat", "exact, raw vectors in memory"),
        Kind("flat-mapped", "exact, raw vectors memory-mapped"),
        Kind("fp16", "16-bit floats, all scanned", lambda count, d: "SQfp16", 2, 32),
        Kind("sq8", "8-bit integers, all scanned", lambda count, d: "SQ8", 4, 64, least_rows=256),
        Kind("ivfpq", "rotated, inverted lists, product quantiser", _ivfpq, 10, 400, _probes, LEAST_ROWS),
        Kind("rabitq", "rotated, one bit a dimension, all scanned", _rabitq, 10, 400, least_rows=LEAST_ROWS),
        Kind("ivfrabitq", "rotated, inverted lists, one bit a dimension", _ivfrabitq, 10, 300, _probes, LEAST_ROWS),
        Kind("hnsw", "graph over 8-bit integers", lambda count, d: "HNSW32,SQ8", 4, 64, lambda count: 128,
             least_rows=256, one_thread=True),
    )
}  # fmt: skip

# A shard of at most so many vectors, and its kind if none is asked for.
DEFAULTS = ((100_000, "flat-mapped"), (500_000, "rabitq"), (None, "ivfrabitq"))


def default_kind(count: int) -> str:
    """The kind for a shard of so many vectors.

    ============  ===========  =======================================================================
    vectors       kind         why
    ============  ===========  =======================================================================
    to 100,000    flat-mapped  exact, nothing to train, and a scan takes milliseconds
    to 500,000    rabitq       about d / 8 + 8 bytes of memory a vector, no lists to train or to miss
    more          ivfrabitq    d / 8 + 16 bytes, and only a part of the vectors is visited
    ============  ===========  =======================================================================

    The rows that this rests on are `tttnn.index.planner.measured_rows`, written by ``bench/index_kinds.py``. At 100,000
    vectors of dimension 256 a flat scan takes about 4 ms, less than one training step on a neighbour, of which a query
    has many. At 250,000 both kinds with one bit a dimension answer in about 2 ms and find over 95% of the 20 nearest;
    the one without lists is built in a quarter of the time. At 1,000,000 it still scans everything, while the one with
    lists visits an eighth: it is faster and finds more. How large a part is enough depends on the data: whoever has
    others can measure it as the page on the index at scale does, and ask for another kind or effort (`SearchSettings`).
    The graph is fastest, but the slowest to build, and keeps half of the vectors' size in memory.
    """
    return next(kind for most, kind in DEFAULTS if most is None or count <= most)


def resolve(kind: str, count: int) -> Kind:
    """The kind that a shard of so many vectors gets: see `default_kind` and `Kind.least_rows`."""
    chosen = KINDS[default_kind(count) if kind == "auto" else kind]
    return chosen if count >= chosen.least_rows else KINDS["flat-mapped"]


def check_kind(kind: str) -> None:
    """Raise ParameterError if there is no such kind."""
    if kind != "auto" and kind not in KINDS:
        raise ParameterError(f"kind='{kind}': must be auto, {', '.join(KINDS)}")


def make_structure(kind: Kind, vectors: np.ndarray, seed: int, threads: int) -> Any:
    """Train a kind's Faiss structure on a sample of the vectors, and add all of them.

    Parameters
    ----------
    kind : Kind
        One with a factory.
    vectors : ndarray, shape (n, d), float32
        Memory-mapped: read in blocks.
    seed : int
        Of the sample. Equal vectors, seed, threads and Faiss give an equal structure.
    threads : int

    Returns
    -------
    faiss.Index
    """
    assert kind.factory is not None
    with faiss_threads(1 if kind.one_thread else threads) as faiss:
        structure = faiss.index_factory(vectors.shape[1], kind.factory(*vectors.shape))
        _tune(structure)
        with tqdm(total=len(vectors), desc=f"training {kind.name}", unit=" vectors") as bar:
            structure.train(_sample(vectors, seed))
            bar.set_description(f"adding to {kind.name}")
            for start in range(0, len(vectors), ADD_ROWS):
                structure.add(np.ascontiguousarray(vectors[start : start + ADD_ROWS]))
                bar.update(min(ADD_ROWS, len(vectors) - start))
    return structure


def set_effort(structure: Any, effort: int) -> None:
    """Say how many inverted lists a search visits, or how long the graph's queue is."""
    faiss = load_faiss()
    if hasattr(faiss.downcast_index(structure), "hnsw"):
        faiss.downcast_index(structure).hnsw.efSearch = effort
        return
    inverted = faiss.try_extract_index_ivf(structure)
    if inverted is not None:
        inverted.nprobe = effort


def _sample(vectors: np.ndarray, seed: int) -> np.ndarray:
    """At most SAMPLE_ROWS rows, drawn without repetition, in their order: (m, d)."""
    if len(vectors) <= SAMPLE_ROWS:
        return np.ascontiguousarray(vectors)
    rows = np.random.default_rng(seed).choice(len(vectors), SAMPLE_ROWS, replace=False)
    return vectors[np.sort(rows)]


def _tune(structure: Any) -> None:
    """Shorten the training of a rotation, and silence warnings of small samples: see LEAST_ROWS."""
    faiss = load_faiss()
    inverted = faiss.try_extract_index_ivf(structure)
    if inverted is None:
        return
    inverted = faiss.downcast_index(inverted)
    inverted.cp.min_points_per_centroid, inverted.cp.niter = 1, LIST_ROUNDS
    rotation = faiss.downcast_VectorTransform(structure.chain.at(0))
    if isinstance(rotation, faiss.OPQMatrix):
        inverted.pq.cp.min_points_per_centroid = 1
        rotation.niter, rotation.niter_pq_0, rotation.max_train_points = OPQ_ROUNDS, OPQ_ROUNDS, OPQ_ROWS
        quantizer = faiss.ProductQuantizer(rotation.d_out, rotation.M, 8)
        quantizer.cp.min_points_per_centroid = 1
        rotation.pq = quantizer
        structure.referenced_objects = [quantizer]  # Faiss has a pointer to it, and does not own it
