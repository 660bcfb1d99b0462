"""Where the seconds of a gradient step go: operators with their own time, for the published step and ours.

Long and short neighbours, both shapes of bench/loop.py.

    python bench/operators.py --out rows.json
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from loop import measure_shapes, shapes_parser, where_and_when
from reference_loop import Settings, new_optimizer, set_dropout, update
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import PreTrainedModel

from tttnn.memory import keep_freed
from tttnn.models import LanguageModel
from tttnn.ttt import TTT

SHORT = 64  # tokens of a short neighbour; a long one fills a chunk
WARM_UP = 4096  # tokens: of short neighbours more steps, until the profiler's own memory is no longer new
OPERATORS = 40  # rows of a step at most
WHOLE = "_Attention", "_AttentionBackward", "_GELU", "_GELUBackward"  # one thing as torch's, though many operators
SEED = 1216


def main() -> None:
    options = shapes_parser(__doc__).parse_args()
    measure_shapes(options, partial(shape_rows, options.threads))


def shape_rows(threads: int, lm: LanguageModel, model: PreTrainedModel) -> Iterator[dict]:
    for length in (lm.settings.max_length, SHORT):
        yield from length_rows(lm, model, length, where_and_when(threads))


def length_rows(lm: LanguageModel, model: PreTrainedModel, length: int, same: dict) -> Iterator[dict]:
    chunk = torch.randint(len(lm.head[0]), (length,), generator=torch.Generator().manual_seed(SEED)).tolist()
    for loop, opened in (("reference", published_step(model, chunk)), ("ours", own_step(lm, chunk))):
        with opened as step:
            rows = operators(step, WARM_UP // length)
            yield from (same | {"tokens": length, "loop": loop} | row for row in rows)


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


def operators(step: Callable[[], object], warm_up: int) -> list[dict]:
    """Operators of one step, those with the most processor time of their own first; the last row is the whole step."""
    # Warm-up happens inside the profiler, whose own memory changes what the steps can take again of theirs.
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=warm_up, active=1)) as measured:
        for _ in range(warm_up):
            step()
            measured.step()
        step()
    seconds, calls = Counter(), Counter()
    for event in measured.events():
        if event.name.startswith("ProfilerStep"):  # no operator, but all of the step's own Python
            continue
        seconds[counted_as(event)] += event.self_cpu_time_total / 1e6
        calls[event.name] += 1
    rows = [(name, calls[name], own) for name, own in seconds.most_common(OPERATORS)]
    rows.append(("all", calls.total(), sum(seconds.values())))
    return [{"operator": name, "calls": count, "seconds": own} for name, count, own in rows]


def counted_as(event: FunctionEvent) -> str:
    """Its name, or that of one of `WHOLE` that it works for."""
    above = event
    while above := above.cpu_parent:
        if above.name in WHOLE:
            return above.name
    return event.name


if __name__ == "__main__":
    main()
