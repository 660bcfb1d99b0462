"""What a run would take, from measured rates: the numbers behind the calculator of the book, and its coefficients.

`predict` is the same arithmetic as ``python -m tttnn cost`` (`tttnn.studies.cost.estimate`) and ``python -m tttnn index
plan`` (`tttnn.index.planner.plan`). A page cannot call Python, so `coefficients` has what the script of the page
multiplies: seconds a byte, and the plan of an index at the sizes between which it is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tttnn.analysis.archive import FOLDER, archived
from tttnn.analysis.timings import bench_rows
from tttnn.errors import ParameterError
from tttnn.index.build import SHARD_ROWS
from tttnn.index.kinds import DEFAULTS
from tttnn.index.planner import plan
from tttnn.memory import ADAPTING, LOADING, NUMBER
from tttnn.models.model_registry import find_entry
from tttnn.parameters import names, number

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.studies.cost import Rates

SCORES = 2  # of a document: before and after
OFFSET = 8  # bytes of a document's place in its file
DIMENSIONS = {"lexical": 512, "all-minilm-l6-v2": 384, "roberta-large": 1024}
DEVICES = {
    "CPU with AVX2, 2 threads": ("loop", "AVX2"),
    "CPU with AVX-512, 2 threads": ("loop", "AVX512"),
    "NVIDIA H200, float32, loop before CUDA graphs": ("loop_h200", "NVIDIA H200"),
}
# Each with the shape that its rate was measured on; a larger model takes as much more as it has more weights.
MODELS = {
    "gpt2-xs-general": "xs", "smollm2-135m": "smollm2", "gpt2": "gpt2", "gpt2-large": "gpt2",
    "EleutherAI/gpt-neo-1.3B": "gpt2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "gpt2",
}  # fmt: skip
ELSEWHERE = "gpt2"  # for shapes that were not measured on a device
TOKENIZED = {"gpt2-xs-general": "seven-domains"}  # archived rows that say how many bytes a token has
OTHERS = ("real/nearest", "smollm2-135m")  # for all models without rows of their own


@dataclass(frozen=True)
class Job:
    """What a reader plans.

    Attributes
    ----------
    model : str
        One of `MODELS`.
    device : str
        One of `DEVICES`.
    documents, document_bytes : float
        To adapt to and to score, and their mean size.
    neighbours : float
        For each document.
    indexed, indexed_bytes : float
        Documents that neighbours are looked up among, and their mean size, which is a neighbour's, too.
    dimension : float
        Of the embedding.

    Raises
    ------
    ParameterError
        If a name is not known, or a number less than 1.
    """

    model: str = "smollm2-135m"
    device: str = "CPU with AVX2, 2 threads"
    documents: float = 100
    document_bytes: float = 6_000
    neighbours: float = 20
    indexed: float = 1_000_000
    indexed_bytes: float = 6_000
    dimension: float = 384

    def __post_init__(self) -> None:
        names("model", [self.model], MODELS)
        names("device", [self.device], DEVICES)
        for name in ("documents", "document_bytes", "neighbours", "indexed", "indexed_bytes", "dimension"):
            number(name, getattr(self, name), least=1)


def predict(job: Job) -> dict[str, float]:
    """What a run takes.

    Returns
    -------
    dict
        train_hours, score_hours, search_hours and hours, their sum; seconds (of one document); model_memory,
        index_memory, index_disk, text_disk (bytes; texts with their offsets); build_hours (of the index on one thread,
        without embedding).
    """
    rate, token = rates(job.model, job.device), bytes_per_token(job.model)
    found = plan(int(job.indexed), int(job.dimension))
    train = job.neighbours * job.indexed_bytes / token * rate.seconds_per_trained_token
    score = SCORES * job.document_bytes / token * rate.seconds_per_scored_token
    search = found.p50_ms / 1000
    seconds = {"train": train, "score": score, "search": search}
    hours = {f"{name}_hours": job.documents * each / 3600 for name, each in seconds.items()}
    return hours | {
        "hours": sum(hours.values()),
        "seconds": sum(seconds.values()),
        "model_memory": model_memory(job.model),
        "index_memory": found.ram,
        "index_disk": found.disk,
        "text_disk": job.indexed * (job.indexed_bytes + OFFSET),
        "build_hours": found.build_hours,
    }


def rates(model: str, device: str) -> Rates:
    """Seconds a token on a device, as our loop was measured there: by tokens alone, with no constant.

    Raises
    ------
    ParameterError
        If the model or the device is not one of those that were measured or derived from them.
    """
    from tttnn.studies.cost import Rates  # which loads torch

    names("model", [model], MODELS)
    file, capability = DEVICES[names("device", [device], DEVICES)[0]]
    measured = _measured(file, capability)
    line = measured.get(MODELS[model], measured[ELSEWHERE])
    weights = find_entry(model).parameters / line["parameters"]
    return Rates(
        0.0,
        weights * line["train_seconds"] / line["trained_tokens"],
        0.0,
        weights * line["evaluation_seconds"] / line["scored_tokens"],
        0.0,
    )


@cache
def _measured(file: str, capability: str) -> dict[str, Mapping[str, Any]]:
    """The rows of our loop on one kind of device, by shape."""
    rows = bench_rows(file)
    ours = rows[(rows["loop"] == "ours") & (rows["capability"] == capability)]
    if ours.empty:
        raise ParameterError(f"device={capability!r}: no rows of it in {file}.json")
    return {line["shape"]: line for line in ours.to_dict("records")}


@cache
def bytes_per_token(model: str) -> float:
    """Bytes of a token over the archived documents; of a model without rows, those of the pre-trained one."""
    run, name = (TOKENIZED[model], model) if model in TOKENIZED else OTHERS
    rows: pd.DataFrame = archived(FOLDER / run, name).rows
    first = rows[(rows["k"] == 0) & rows["tokens"].notna()]
    return float(first["bytes"].sum() / first["tokens"].sum())


def model_memory(model: str) -> int:
    """Bytes of the weights and of what adapting all of them takes, as `tttnn.studies.cost.memory_needed` counts."""
    return NUMBER * (LOADING + ADAPTING) * find_entry(model).parameters


def coefficients() -> dict[str, Any]:
    """What the script of the page multiplies, ready for JSON.

    Returns
    -------
    dict
        offset (bytes); memory (model -> bytes); seconds (device -> model -> [of training, of all scores], a byte);
        index (dimension -> one and rest: rows of documents, bytes in memory, bytes on disk, hours to build and
        milliseconds of a query, straight lines in between; rest is what a last, smaller shard adds to full ones);
        shard_rows.
    """
    return {
        "offset": OFFSET,
        "shard_rows": SHARD_ROWS,
        "memory": {model: model_memory(model) for model in MODELS},
        "seconds": {device: {model: _seconds_per_byte(model, device) for model in MODELS} for device in DEVICES},
        "index": {str(dimension): _knots(dimension) for dimension in DIMENSIONS.values()},
    }


def _seconds_per_byte(model: str, device: str) -> list[float]:
    rate, token = rates(model, device), bytes_per_token(model)
    return [rate.seconds_per_trained_token / token, SCORES * rate.seconds_per_scored_token / token]


def _knots(dimension: int) -> dict[str, list[list[float]]]:
    """An index's plan where its kind or its number of lists changes: in between it is a straight line."""
    powers = [2**power for power in range(SHARD_ROWS.bit_length())]
    turns = [size for most, _ in DEFAULTS if most for size in (most, most + 1)]
    sizes = sorted({*powers, *(size + 1 for size in powers[:-1]), *turns})
    full = _planned(SHARD_ROWS, dimension)
    rest = [[size, *_difference(_planned(SHARD_ROWS + size, dimension), full)] for size in sizes]
    return {"one": [[size, *_planned(size, dimension)] for size in sizes], "rest": rest}


def _planned(documents: int, dimension: int) -> list[float]:
    found = plan(documents, dimension)
    return [found.ram, found.disk, found.build_hours, found.p50_ms]


def _difference(more: list[float], less: list[float]) -> list[float]:
    return [one - other for one, other in zip(more, less, strict=True)]
