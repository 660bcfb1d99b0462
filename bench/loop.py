"""The loop against the published one (bench/reference_loop.py): seconds, scores, and the share of the machine used.

Both adapt equal weights on the same neighbours of the same document of the embedded corpus, in turn. The published
loop scores after every neighbour, ours at 0, 1, 2, 5, 10, 20. Ratios are of medians in one run. A step counts as
6, a score as 2 floating-point operations per parameter and token. Shapes: `xs` is an embedded model, `gpt2` a GPT-2
of 117M with random weights and the embedded tokenizer, whose texts are about as many tokens as GPT-2's own makes.

    python bench/loop.py --out rows.json
    python bench/loop.py --shape xs gpt2 --max-chunks 1 --out rows.json
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from reference_loop import Settings, clock, reference_loop
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tttnn import load_model, open_corpus, open_retriever
from tttnn.experiment import draw_documents
from tttnn.files import write_json
from tttnn.memory import keep_freed
from tttnn.models import CHECKPOINTS, LanguageModel
from tttnn.provenance import device
from tttnn.ttt import PRECISIONS, TTT, Switches

EMBEDDED = "gpt2-xs-general"
SHAPES = "xs", "gpt2"
KS = (0, 1, 2, 5, 10, 20)
WARM_UP = 3  # neighbours: by then our loop has all the memory that it keeps
SEED = 1216
SIDE, PRODUCTS = 2048, 10  # of the square matrices that give the machine's rate


@dataclass(frozen=True)
class Pass:
    """What one loop did on one document; scores are bits per byte after so many neighbours."""

    seconds: float
    train_seconds: float
    evaluation_seconds: float
    tokens: int
    scores: dict[int, float]


def main() -> None:
    options = parse()
    text, neighbours = material(options)

    def loop_rows(lm: LanguageModel, model: PreTrainedModel) -> Iterator[dict]:
        ttt = TTT(lm, switches=Switches(max_chunks=options.max_chunks, precision=options.precision))
        ways = {"reference": partial(pass_reference, ttt, model, options.dropout), "ours": partial(pass_ours, ttt)}
        same = facts(ttt, text, options)
        return (with_operations(same | row) for row in compare(ways, text, neighbours, options))

    measure_shapes(options, loop_rows)


def measure_shapes(
    options: argparse.Namespace, rows_of: Callable[[LanguageModel, PreTrainedModel], Iterable[dict]]
) -> None:
    """Measure each shape that is asked for, keep the rows of all so far in the file, and show them.

    `rows_of` gets the weights twice: as this package loads them, and as transformers has them for the reference.
    """
    torch.set_num_threads(options.threads)
    rows: list[dict] = []
    for shape in options.shape:
        with TemporaryDirectory() as name:
            loaded = load_shape(Path(name), shape, options.device)
        rows += [{"shape": shape} | row for row in rows_of(*loaded)]
        write_json(options.out, rows)
    sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))


def shapes_parser(doc: str, default: Sequence[str] = SHAPES) -> argparse.ArgumentParser:
    """What every measurement of these shapes is asked; the first line of its docstring says what it is."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=default)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.set_defaults(device="cpu", precision="float32")
    return parser


def parse() -> argparse.Namespace:
    parser = shapes_parser(__doc__, ["xs"])
    parser.add_argument("--k", type=int, default=20, help="neighbours to train on")
    parser.add_argument("--max-chunks", type=int, help="most steps from one neighbour; default: all")
    parser.add_argument("--domain", default="python", help="of the embedded corpus, where the document is drawn from")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the steps' matrix products")
    parser.add_argument("--dropout", type=float, default=0.1, help="of the reference, as published; ours has none")
    return parser.parse_args()


def load_shape(folder: Path, shape: str, device: str = "cpu") -> tuple[LanguageModel, PreTrainedModel]:
    source = CHECKPOINTS / EMBEDDED if shape == "xs" else make_gpt2(folder)
    lm = load_model(EMBEDDED if shape == "xs" else source, device)
    return lm, AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).to(device)


def make_gpt2(folder: Path) -> Path:
    """Write a GPT-2 of the smallest published size, its 50,257 entries included, with random weights."""
    torch.manual_seed(SEED)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    load_model(EMBEDDED).tokenizer.save_pretrained(folder)
    return folder


def material(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Draw a document and retrieve its neighbours."""
    corpus = open_corpus("wheels")
    text = draw_documents(corpus, 1, SEED, max_bytes=8000, domains=[options.domain])[0].text
    return text, [neighbour.text for neighbour in open_retriever(corpus).neighbours(text, options.k)]


def pass_ours(ttt: TTT, text: str, neighbours: list[str]) -> Pass:
    start = clock(ttt.lm.device)
    steps = list(ttt.adapt(text, neighbours, wanted(len(neighbours))))
    scores = {step.k: step.score.bits_per_byte for step in steps if step.score}
    return summed(clock(ttt.lm.device) - start, steps, scores)


def pass_reference(ttt: TTT, model: PreTrainedModel, dropout: float, text: str, neighbours: list[str]) -> Pass:
    keep_freed(False)  # which our loop has changed
    start = clock(model.device)
    steps = list(reference_loop(model, ttt.lm.tokenizer, text, neighbours, settings_like(ttt, dropout)))
    return summed(clock(model.device) - start, steps, {step.k: step.bits_per_byte for step in steps})


def wanted(k: int) -> list[int]:
    return sorted({*(each for each in KS if each < k), k})


def settings_like(ttt: TTT, dropout: float) -> Settings:
    """The reference's settings for the same steps and scores."""
    settings, switches = ttt.lm.settings, ttt.switches
    return Settings(
        learning_rate=settings.learning_rate, eps=settings.eps, max_length=settings.max_length,
        context=settings.context, dropout=dropout, clip=switches.clip, max_chunks=switches.max_chunks,
        dtype=PRECISIONS[switches.precision],
    )  # fmt: skip


def summed(seconds: float, steps: list, scores: dict[int, float]) -> Pass:
    """Add up the steps of either loop, which name their seconds and tokens alike."""
    train, evaluation = (sum(getattr(step, name) for step in steps) for name in ("train_seconds", "evaluation_seconds"))
    return Pass(seconds, train, evaluation, sum(step.tokens for step in steps), scores)


def compare(
    ways: dict[str, Callable[[str, list[str]], Pass]], text: str, neighbours: list[str], options: argparse.Namespace
) -> list[dict]:
    """Run the loops in turn, each pass after some neighbours to warm up, and compare their medians."""
    rates = [matrix_rates(options)]
    passes: dict[str, list[Pass]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, work in ways.items():
            work(text, neighbours[:WARM_UP])  # so that no pass begins where the other loop left off
            passes[way].append(work(text, neighbours))
        rates.append(matrix_rates(options))
    rows = [{"loop": way, **middle(taken)} for way, taken in passes.items()]
    for row in rows:
        row |= {"ratio": rows[0]["seconds"] / row["seconds"]}
        row |= {"train_ratio": rows[0]["train_seconds"] / row["train_seconds"]}
        row |= {name: max(rate[name] for rate in rates) for name in rates[0]}
        row |= {"largest_difference": largest_difference(row["scores"], rows[0]["scores"])}
    return rows


def largest_difference(scores: dict[int, float], others: dict[int, float]) -> float:
    """Bits per byte, over the k that both have; dropout alone makes one."""
    return max(abs(score - others[k]) for k, score in scores.items())


def middle(passes: list[Pass]) -> dict:
    """Medians of the seconds; tokens and scores are those of the first pass."""
    names = ("seconds", "train_seconds", "evaluation_seconds")
    medians = {name: median(getattr(each, name) for each in passes) for name in names}
    return medians | {"trained_tokens": passes[0].tokens, "scores": passes[0].scores}


def matrix_rates(options: argparse.Namespace) -> dict[str, float]:
    """Operations per second of torch's own matrix product, and on a CPU of oneDNN's, which is another library's.

    Each is the best of several, in the precision of the steps.
    """
    matrices = torch.rand(2, SIDE, SIDE, device=options.device, dtype=PRECISIONS[options.precision])
    kinds = {"matrix_rate": torch.matmul}
    if options.device == "cpu" and torch.backends.mkldnn.is_available():
        kinds["onednn_rate"] = lambda left, right: F.linear(left.to_mkldnn(), right)
    return {name: 2 * SIDE**3 / fastest(partial(product, *matrices)) for name, product in kinds.items()}


def fastest(product: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        place = product().device
        seconds.append(clock(place) - start)
    return min(seconds)


def where_and_when(threads: int, place: str = "cpu") -> dict:
    """The machine, the processor's widest instructions (as torch names them) or the GPU, the load and the date."""
    on_gpu = torch.device(place).type == "cuda"
    capability = torch.cuda.get_device_name(place) if on_gpu else torch.backends.cpu.get_cpu_capability()
    return {
        "machine": device(), "capability": capability, "threads": threads, "load": os.getloadavg()[0],
        "date": date.today().isoformat(),
    }  # fmt: skip


def facts(ttt: TTT, text: str, options: argparse.Namespace) -> dict:
    """What both rows have in common."""
    return {
        "parameters": sum(p.numel() for p in ttt.lm.model.parameters()),
        "k": options.k, "max_chunks": options.max_chunks, "max_length": ttt.lm.settings.max_length,
        "document_tokens": len(ttt.lm.encode(text)), "document_bytes": len(text.encode()),
        "device": options.device, "precision": options.precision, "dropout": options.dropout,
        "repeats": options.repeats, **where_and_when(options.threads, options.device),
    }  # fmt: skip


def with_operations(row: dict) -> dict:
    """Add operations, and the share of torch's matrix rate that the steps reach."""
    scored = row["document_tokens"] * len(row["scores"])
    train = 6 * row["parameters"] * row["trained_tokens"]
    share = train / row["train_seconds"] / row["matrix_rate"]
    return row | {
        "scored_tokens": scored, "train_operations": train, "train_share": share,
        "evaluation_operations": 2 * row["parameters"] * scored,
    }  # fmt: skip


if __name__ == "__main__":
    main()
