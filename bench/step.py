"""What each change to the published gradient step brings: seconds of one step, the changes added one after another.

Then what else was tried: bfloat16 products, adapters instead of all weights, torch.compile in the place of our layers,
and the gradients of several documents at once. All take turns in one process; each is warmed up by a step before it is
timed. Shapes are those of bench/loop.py.

    python bench/step.py --out rows.json
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from loop import matrix_rates, measure_shapes, shapes_parser, where_and_when
from reference_loop import Settings, set_dropout, update
from torch import Tensor
from torch.func import functional_call, grad, vmap
from tqdm import tqdm
from transformers import PreTrainedModel

from tttnn.memory import keep_freed
from tttnn.models import LanguageModel
from tttnn.models.layers import FastLayers
from tttnn.models.products import bfloat16_is_fast
from tttnn.ttt import TTT, Switches

SEED = 1216
RANK = 8  # of the adapters
DOCUMENTS = 4  # at once, each with its own weights
WARM_UP = 2  # steps after the first one: by then a way has all the memory that it keeps
SMALL = 10**8  # parameters: a larger model fills a machine with one document
Way = Callable[[], AbstractContextManager[Callable[[], object]]]  # opens, gives a step to time, closes


@dataclass(frozen=True)
class Rung:
    """A step between the published one and this package's; the fields are the changes."""

    dropout: float = 0.1
    fused_optimizer: bool = False
    fused_activation: bool = False
    kept_memory: bool = False
    fast_layers: bool = False


CHANGES = {
    "no dropout": {"dropout": 0.0},
    "fused AdamW": {"fused_optimizer": True},
    "activation in one operation": {"fused_activation": True},
    "memory kept between steps": {"kept_memory": True},
    "products, attention and activation the faster way": {"fast_layers": True},
}


def main() -> None:
    parser = shapes_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measure_shapes(options, partial(shape_rows, options))


def shape_rows(options: argparse.Namespace, lm: LanguageModel, model: PreTrainedModel) -> list[dict]:
    length = lm.settings.max_length
    chunk = torch.randint(len(lm.head[0]), (length,), generator=torch.Generator().manual_seed(SEED)).tolist()
    rates, seconds = take_turns(ways(lm, model, chunk), options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    same = {
        "parameters": parameters, "tokens": length, "repeats": options.repeats, "documents": DOCUMENTS,
        **where_and_when(options.threads), **rates,
    }  # fmt: skip
    return [same | row for row in compared(seconds, 6 * parameters * length / rates["matrix_rate"])]


def ways(lm: LanguageModel, model: PreTrainedModel, chunk: list[int]) -> dict[str, Way]:
    """Name every step: the ladder from the published one to the package's own, then what else was tried."""
    rung, models = Rung(), {False: model, True: lm.model}
    found = {"as published": partial(open_rung, rung, models, chunk)}
    for name, change in CHANGES.items():
        rung = replace(rung, **change)
        found[name] = partial(open_rung, rung, models, chunk)
    compiled = {True: torch.compile(lm.model)}
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    found["cross-entropy in slices (ours)"] = partial(open_ours, lm, Switches(), chunk)
    if small or bfloat16_is_fast("cpu"):
        found["ours, bfloat16 products"] = partial(open_ours, lm, Switches(precision="bfloat16"), chunk)
    found[f"ours, LoRA of rank {RANK}"] = partial(open_ours, lm, Switches(lora=RANK), chunk)
    found["torch.compile, layers as they come"] = partial(open_rung, replace(rung, fast_layers=False), compiled, chunk)
    if small:
        found["documents at once, gradients alone"] = partial(open_many, lm, chunk, DOCUMENTS)
    return found


@contextmanager
def open_rung(rung: Rung, models: dict[bool, torch.nn.Module], chunk: list[int]) -> Iterator[Callable[[], object]]:
    model = models[rung.fused_activation]
    set_dropout(model, rung.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=Settings.learning_rate, fused=rung.fused_optimizer or None)
    model.train()
    keep_freed(rung.kept_memory)
    with FastLayers() if rung.fast_layers else nullcontext():
        yield partial(update, model, optimizer, chunk, Settings())
    model.eval()
    optimizer.zero_grad()


@contextmanager
def open_ours(lm: LanguageModel, switches: Switches, chunk: list[int]) -> Iterator[Callable[[], object]]:
    ttt = TTT(lm, switches=switches)
    with ttt.session():
        yield lambda: ttt.update(chunk).item()


@contextmanager
def open_many(lm: LanguageModel, chunk: list[int], documents: int) -> Iterator[Callable[[], object]]:
    """The gradients of several documents' steps, each under weights of its own."""
    weights = {name: torch.stack([value.detach()] * documents) for name, value in lm.model.named_parameters()}
    ids = torch.tensor([chunk] * documents)  # (documents, tokens)

    def loss(own: dict[str, Tensor], tokens: Tensor) -> Tensor:
        logits = functional_call(lm.model, own, kwargs={"input_ids": tokens[None], "use_cache": False}).logits
        return F.cross_entropy(logits[0, :-1], tokens[1:])

    keep_freed()
    yield partial(vmap(grad(loss)), weights, ids)


def take_turns(found: dict[str, Way], options: argparse.Namespace) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Time every way as often as asked, in turns; the first number of a way is its very first step's."""
    rates, seconds = [matrix_rates(options)], {}
    for _ in tqdm(range(options.repeats), desc="turns"):
        for name, way in found.items():
            with way() as step:
                first, *_, last = (timed(step) for _ in range(1 + WARM_UP + 1))
            seconds.setdefault(name, [first]).append(last)
        rates.append(matrix_rates(options))
    return {name: max(rate[name] for rate in rates) for name in rates[0]}, seconds


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compared(seconds: dict[str, list[float]], floor: float) -> list[dict]:
    """Medians, as ratios to the published step's, and shares of the machine's rate (`floor`: seconds at all of it)."""
    rows = [
        {"step": name, "first_seconds": first, "seconds": median(timed)} for name, (first, *timed) in seconds.items()
    ]
    return [row | {"ratio": rows[0]["seconds"] / row["seconds"], "share": floor / row["seconds"]} for row in rows]


if __name__ == "__main__":
    main()
