"""Where the seconds of a gradient step go: operators with their own time, for the published step and ours.

Long and short neighbours, both shapes of bench/loop.py.

    python bench/operators.py --out rows.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from loop import SHAPES, load_shape, where_and_when
from reference_loop import Settings, new_optimizer, set_dropout, update
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from tttnn.files import write_json
from tttnn.memory import keep_freed
from tttnn.models import LanguageModel
from tttnn.ttt import TTT

SHORT = 64  # tokens of a short neighbour; a long one fills a chunk
WARM_UP = 2  # steps
OPERATORS = 40  # rows of a step at most
SEED = 1216


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = []
    for shape in options.shape:
        with TemporaryDirectory() as name:
            lm, model = load_shape(Path(name), shape)
        for length in (lm.settings.max_length, SHORT):
            rows += shape_rows(lm, model, length, {"shape": shape, **where_and_when(options.threads)})
            write_json(options.out, rows)
    sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=SHAPES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def shape_rows(lm: LanguageModel, model: PreTrainedModel, length: int, same: dict) -> Iterator[dict]:
    chunk = torch.randint(len(lm.head[0]), (length,), generator=torch.Generator().manual_seed(SEED)).tolist()
    for loop, opened in (("reference", published_step(model, chunk)), ("ours", own_step(lm, chunk))):
        with opened as step:
            yield from (same | {"tokens": length, "loop": loop} | row for row in operators(step))


@contextmanager
def published_step(model: PreTrainedModel, chunk: list[int]) -> Iterator[Callable[[], object]]:
    keep_freed(False)  # which our loop has changed
    set_dropout(model, Settings.dropout)
    yield partial(update, model.train(), new_optimizer(model, Settings()), chunk, Settings())
    model.zero_grad()


@contextmanager
def own_step(lm: LanguageModel, chunk: list[int]) -> Iterator[Callable[[], object]]:
    ttt = TTT(lm)
    with ttt.session():
        yield partial(ttt.update, chunk)


def operators(step: Callable[[], object]) -> list[dict]:
    """Operators of one step, those with the most processor time of their own first; the last row is the whole step."""
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        step()
    events = sorted(measured.key_averages(), key=own_seconds, reverse=True)
    rows = [(event.key, event.count, own_seconds(event)) for event in events]
    rows = [*rows[:OPERATORS], ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))]
    return [{"operator": name, "calls": calls, "seconds": seconds} for name, calls, seconds in rows]


def own_seconds(event: FunctionEventAvg) -> float:
    return event.self_cpu_time_total / 1e6


if __name__ == "__main__":
    main()
