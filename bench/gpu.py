"""One visit to a GPU: is what it records equal to what it computes plainly, and how fast is it?

First the checks: the loop in float32 against the published one (bench/reference_loop.py), padded chunks against plain
ones, CUDA graphs against none, several documents at once against one, adapters if there is peft. Then, for each shape,
the published loop, ours as a CPU runs it, and ours with graphs; one step alone; documents an hour at 1 to 64 at once;
texts embedded a second; tokens trained on a second. Each row is printed and kept as it comes. It needs torch,
transformers and this repository, no index and no corpus: document and neighbours are this package's own files. Shapes
are xs, an embedded model, and GPT-2's and SmolLM2's smallest with random weights. A step counts as 6 operations per
parameter and token.

    PYTHONPATH=. python bench/gpu.py --out gpu.jsonl
    PYTHONPATH=. python bench/gpu.py --device cpu --quick --out gpu.jsonl
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from reference_loop import Settings, clock, reference_loop
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

import tttnn
from tttnn.embedding.transformer import TransformerEmbedder
from tttnn.models import CHECKPOINTS, LanguageModel, load_model, mean_cross_entropy
from tttnn.models.graphs import GRAPHS_VARIABLE
from tttnn.together import Together
from tttnn.ttt import PRECISIONS, TTT, Switches

EMBEDDED, SMALLER = "gpt2-xs-general", "gpt2-xxs-general"
KS = 0, 1, 2, 5, 10, 20
EQUAL = 1e-4  # bits per byte
SEED = 1216
SIDE = 8192  # of the square matrices that give the card's rate
AT_ONCE = 1, 4, 16, 64
ENCODERS = {"minilm": (6, 384, 12), "roberta-large": (24, 1024, 16)}  # layers, width, heads


@dataclass
class Visit:
    """What is asked for, and what there is to work on."""

    device: str
    quick: bool
    out: Path
    end: float
    text: str
    neighbours: list[str]
    failed: int = 0

    @property
    def ks(self) -> list[int]:
        """Where to score."""
        return [k for k in KS if k <= len(self.neighbours)]

    def row(self, what: str, **values: object) -> None:
        """Print a row and keep it."""
        line = json.dumps({"what": what, "seconds_left": round(self.end - time.monotonic())} | values)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        with open(self.out, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def check(self, what: str, difference: float, limit: float = EQUAL) -> None:
        """Keep whether two ways agree."""
        self.failed += not difference <= limit
        self.row(f"check: {what}", difference=difference, limit=limit, holds=difference <= limit)


def main() -> None:
    options = parse()
    torch.manual_seed(SEED)
    options.out.unlink(missing_ok=True)
    text, neighbours = material(1 if options.quick else max(KS), 60 if options.quick else 8000)
    end = time.monotonic() + options.minutes * 60
    visit = Visit(options.device, options.quick, options.out, end, text, neighbours)
    on_gpu = options.device != "cpu"
    machine = torch.cuda.get_device_name(options.device) if on_gpu else torch.backends.cpu.get_cpu_capability()
    rates = {name: matrix_rate(visit, name) for name in precisions(visit)}
    visit.row("machine", device=machine, torch=torch.__version__, matrix_rates=rates)
    parts: list[tuple[str, Callable[[], None]]] = []
    shapes = ["xs"] if options.quick else ["xs", "gpt2", "smollm2"]
    parts += [(f"checks, {shape}", partial(with_shape, visit, shape, check_shape)) for shape in shapes]
    timing = partial(time_shape, rates=rates)
    parts += [(f"loops, {shape}", partial(with_shape, visit, shape, timing)) for shape in (*shapes[1:], "xs")]
    parts += [("documents at once", partial(with_shape, visit, "xs", documents_an_hour))]
    parts += [(f"embedder, {name}", partial(embed, visit, name)) for name in list(ENCODERS)[: 1 if visit.quick else 2]]
    parts += [("pre-training", partial(with_shape, visit, shapes[-1 if visit.quick else 1], pretraining))]
    for name, part in parts:
        run_part(visit, name, part)
    visit.row("end", failed=visit.failed)
    sys.exit(visit.failed > 0)


def run_part(visit: Visit, name: str, part: Callable[[], None]) -> None:
    """Do one part if there is time; what goes wrong in it is kept, and costs no other."""
    if time.monotonic() > visit.end:
        visit.row(f"left out: {name}")
        return
    try:
        part()
    except Exception as error:  # noqa: BLE001  (a visit is short: the next part may work)
        visit.failed += 1
        visit.row(f"failed: {name}", error=f"{type(error).__name__}: {error}")
    if visit.device != "cpu":
        torch.cuda.empty_cache()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; begun anew")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it runs")
    parser.add_argument("--minutes", type=float, default=5.5, help="after which no further part is begun")
    return parser.parse_args()


def material(count: int, characters: int) -> tuple[str, list[str]]:
    """A file of this package, and others of it as its neighbours."""
    folder = Path(tttnn.__file__).parent
    others = [path for path in sorted(folder.rglob("*.py")) if path.name != "ttt.py" and path.stat().st_size > 4000]
    texts = [path.read_text(encoding="utf-8")[:characters] for path in (folder / "ttt.py", *others[:count])]
    return texts[0], texts[1:]


def with_shape(visit: Visit, shape: str, work: Callable[[Visit, str, LanguageModel, PreTrainedModel], None]) -> None:
    """Load a shape as this package and as transformers do, and work with both."""
    with TemporaryDirectory() as name:
        embedded = SMALLER if visit.quick else EMBEDDED
        source = CHECKPOINTS / embedded if shape == "xs" else make(shape, Path(name))
        lm = load_model(embedded if shape == "xs" else source, visit.device)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).to(visit.device)
    work(visit, shape, lm, model)


def make(shape: str, folder: Path) -> Path:
    """Write a model of the published size with random weights, and the embedded tokenizer."""
    torch.manual_seed(SEED)
    if shape == "gpt2":
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0,
            eos_token_id=0,
        ))  # fmt: skip
    model.save_pretrained(folder)
    load_model(EMBEDDED).tokenizer.save_pretrained(folder)
    return folder


def precisions(visit: Visit) -> list[str]:
    return [name for name in PRECISIONS if visit.device != "cpu" or name != "tf32"]


@contextmanager
def graphs(on: bool) -> Iterator[None]:
    """Record steps or not; loops that are made meanwhile keep to it."""
    before = os.environ.get(GRAPHS_VARIABLE)
    os.environ[GRAPHS_VARIABLE] = str(int(on))
    try:
        yield
    finally:
        os.environ.pop(GRAPHS_VARIABLE) if before is None else os.environ.update({GRAPHS_VARIABLE: before})


def ours(visit: Visit, lm: LanguageModel, buckets: bool, graph: bool, **switches: object) -> TTT:
    """A loop as asked for; also its scores are recorded or not."""
    lm.__dict__.pop("_recorded", None)
    with graphs(graph):
        ttt = TTT(lm, switches=Switches(max_chunks=1, buckets=buckets, **switches))
        if visit.device != "cpu":
            _ = lm._recorded
    return ttt


def scores(visit: Visit, ttt: TTT) -> list[float]:
    """Bits per byte, of a second document: by then all that is repeated is recorded."""
    for _ in range(1 if visit.quick else 2):
        found = [
            step.score.bits_per_byte
            for step in ttt.adapt(visit.text, visit.neighbours, visit.ks, waiting=False)
            if step.score
        ]
    return found


def published(visit: Visit, ttt: TTT, model: PreTrainedModel, dropout: float) -> dict[int, float]:
    """Bits per byte of the published loop at each k."""
    settings = ttt.lm.settings
    same = Settings(
        learning_rate=settings.learning_rate, eps=settings.eps, max_length=settings.max_length,
        context=settings.context, dropout=dropout, max_chunks=1, dtype=PRECISIONS[ttt.switches.precision],
    )  # fmt: skip
    steps = reference_loop(model, ttt.lm.tokenizer, visit.text, visit.neighbours, same)
    return {step.k: step.bits_per_byte for step in steps}


def furthest(left: list[float], right: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(left, right, strict=True))


def check_shape(visit: Visit, shape: str, lm: LanguageModel, model: PreTrainedModel) -> None:
    """Compare the ways to compute the same; then what less precision changes."""
    before = lm.weight_hash()
    plain = ours(visit, lm, buckets=False, graph=False)
    exact = scores(visit, plain)
    reference = published(visit, plain, model, dropout=0.0)
    visit.check(f"{shape}: ours, published", furthest(exact, [reference[k] for k in visit.ks]))
    padded = scores(visit, ours(visit, lm, buckets=True, graph=False))
    visit.check(f"{shape}: padded, plain", furthest(padded, exact))
    recorded = ours(visit, lm, buckets=True, graph=True)
    visit.check(f"{shape}: recorded, padded", furthest(scores(visit, recorded), padded))
    visit.check(f"{shape}: again, recorded", furthest(scores(visit, recorded), padded))
    if shape == "xs":
        visit.check(f"{shape}: at once, alone", furthest(at_once(visit, recorded), exact))
        for rank in ranks()[1:]:
            tuned = ours(visit, lm, buckets=False, graph=True, lora=rank)
            visit.check(f"{shape}: adapters at once, alone", furthest(at_once(visit, tuned), scores(visit, tuned)))
    for precision in precisions(visit)[1:]:
        away = furthest(scores(visit, ours(visit, lm, buckets=True, graph=True, precision=precision)), exact)
        autocast = furthest(scores(visit, ours(visit, lm, buckets=False, graph=False, precision=precision)), exact)
        visit.row(f"deviation: {shape}, {precision}", recorded=away, plain=autocast, bits_per_byte=exact[-1])
    visit.check(f"{shape}: weights after all", float(lm.weight_hash() != before), 0)


def at_once(visit: Visit, ttt: TTT) -> list[float]:
    """Bits per byte of the document beside another one; the second time all is recorded."""
    documents = [(visit.text, visit.neighbours), (visit.neighbours[0], visit.neighbours[::-1])]
    together = Together(ttt, 2)
    for _ in range(2):
        found, _ = together.adapt(documents, visit.ks)
    return [step.score.bits_per_byte for step in found if step.score]


def ranks() -> list[int | None]:
    """No adapters, then adapters of one rank where there is the library for them."""
    try:
        import peft  # noqa: F401
    except ImportError:
        return [None]
    return [None, 8]


def time_shape(visit: Visit, shape: str, lm: LanguageModel, model: PreTrainedModel, rates: dict[str, float]) -> None:
    """Seconds of a document: published, plain, recorded; and of one step of the longest chunk."""
    for precision in precisions(visit):
        asked = {"precision": precision}
        ways = {"plain": (False, False, asked), "recorded": (True, True, asked)}
        if visit.device != "cpu" and precision != "float32":
            ways["recorded, scored in tf32"] = (True, True, asked | {"scoring": "tf32"})
        plain = ours(visit, lm, *ways["plain"][:2], **asked)
        base = timed(visit, lambda ttt=plain: published(visit, ttt, model, dropout=0.1), 1, 2)
        visit.row("loop", shape=shape, precision=precision, way="published", seconds=base)
        for way, (buckets, graph, switches) in ways.items():
            ttt = ours(visit, lm, buckets, graph, **switches)
            seconds = timed(
                visit, lambda ttt=ttt: list(ttt.adapt(visit.text, visit.neighbours, visit.ks, waiting=False)), 1 + graph
            )
            visit.row("loop", shape=shape, precision=precision, way=way, seconds=seconds, ratio=base / seconds)
            step, tokens = one_step(visit, ttt)
            share = 6 * lm.parameters * tokens / step / rates[precision]
            visit.row("step", shape=shape, precision=precision, way=way, tokens=tokens, seconds=step, share=share)


def one_step(visit: Visit, ttt: TTT) -> tuple[float, int]:
    """Seconds of one of many steps on as long a chunk as there is, and its tokens."""
    chunk = max((ttt.chunks(each)[0][0] for each in visit.neighbours), key=len)
    with ttt.session():
        ttt.train([chunk] * (1 if visit.quick else 3))
        count = 1 if visit.quick else 20
        return timed(visit, lambda: ttt.train([chunk] * count), 0, 1) / count, len(chunk)


def timed(visit: Visit, work: Callable[[], object], before: int = 2, repeats: int = 3) -> float:
    """Seconds, the median of several after some to warm up, and to record what is repeated."""
    seconds = []
    for place in range(1 if visit.quick else before + repeats):
        start = clock(torch.device(visit.device))
        work()
        if visit.quick or place >= before:
            seconds.append(clock(torch.device(visit.device)) - start)
    return median(seconds)


def matrix_rate(visit: Visit, precision: str) -> float:
    """Operations a second of the card's own matrix product."""
    side = 256 if visit.quick else SIDE
    left = torch.rand(side, side, device=visit.device, dtype=PRECISIONS[precision])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    rate = 2 * side**3 / timed(visit, lambda: left @ left)
    torch.set_float32_matmul_precision(before)
    return rate


def documents_an_hour(visit: Visit, shape: str, lm: LanguageModel, model: PreTrainedModel) -> None:
    """The loop on many documents at once; each has the neighbours in an order of its own."""
    near = visit.neighbours
    documents = [
        (near[place % len(near)], near[place % len(near) :] + near[: place % len(near)]) for place in range(64)
    ]
    for precision, rank in product(precisions(visit), ranks()):
        switches = Switches(max_chunks=1, precision=precision, lora=rank)
        for count in AT_ONCE[1:2] if visit.quick else AT_ONCE:
            together = Together(TTT(lm, switches=switches), count)
            seconds = timed(visit, lambda group=together, n=count: group.adapt(documents[:n], visit.ks))
            told = {"shape": shape, "precision": precision, "lora": rank, "at_once": count}
            visit.row("documents an hour", **told, documents=3600 * count / seconds)


def embed(visit: Visit, name: str) -> None:
    """Texts a second of an encoder of random weights, tokens in the background."""
    layers, width, heads = (1, 32, 2) if visit.quick else ENCODERS[name]
    texts = [
        text[start : start + 1500]
        for text in visit.neighbours
        for start in range(0, 6000, 3000 if visit.quick else 120)
    ]
    texts = [text for text in texts if text.strip()]
    with TemporaryDirectory() as folder:
        tokenizer = load_model(EMBEDDED).tokenizer
        config = RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * width, max_position_embeddings=514, pad_token_id=1, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for dtype in ("float32", "bfloat16"):
            for budget in (8192,) if visit.quick else (8192, 131072):
                embedder = TransformerEmbedder(folder, device=visit.device, dtype=dtype, batch_tokens=budget)
                batches = [texts[first : first + 256] for first in range(0, len(texts), 256)]
                seconds = timed(visit, lambda each=embedder, of=batches: list(each.embed_batches(of)), 1, 1)
                visit.row("embedder", shape=name, dtype=dtype, batch_tokens=budget, texts_a_second=len(texts) / seconds)


def pretraining(visit: Visit, shape: str, lm: LanguageModel, model: PreTrainedModel) -> None:
    """Tokens a second of training on batches, in the way of `tttnn.pretraining`."""
    rows, length = (2, 64) if visit.quick else (16, 1024)
    ids = torch.randint(0, 5000, (rows, length + 1), device=visit.device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16):
            hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        head = model.get_output_embeddings().weight
        loss = mean_cross_entropy(hidden.float().flatten(0, 1), head, None, ids[:, 1:].flatten(), torch.bfloat16)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    visit.row("pre-training", shape=shape, tokens_a_second=rows * length / timed(visit, step))


if __name__ == "__main__":
    main()
