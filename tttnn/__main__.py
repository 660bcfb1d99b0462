"""Command line: ``python -m tttnn COMMAND``; every command is a thin call into the package."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Test-time training on nearest neighbours.", no_args_is_help=True, add_completion=False)

index = typer.Typer(help="Build and verify indexes.", no_args_is_help=True)
app.add_typer(index, name="index")

Model = Annotated[str, typer.Option(help="Registry name, folder in Hugging Face format, GGUF file, or hub name.")]
Corpus = Annotated[str, typer.Option(help="'wheels' or a folder of JSON Lines in the Pile's layout.")]
Embedder = Annotated[str, typer.Option(help="'lexical', 'lm:<model>', or a transformer's hub name or folder.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads for torch.")]
Device = Annotated[str, typer.Option(help="A torch device.")]
Cluster = Annotated[
    str | None, typer.Option(help="Spread over a Ray cluster: 'local' starts one here, 'auto' or host:port finds one.")
]
Workers = Annotated[int, typer.Option(help="Processes on the cluster.")]


@app.command()
def models() -> None:
    """List the registered language models and embedders, and what of them is on this machine."""
    from rich.console import Console
    from rich.table import Column, Table

    from tttnn.embedding import EMBEDDERS
    from tttnn.hub import cached_folder
    from tttnn.models import REGISTRY

    def here(embedded: bool, name: str, revision: str = "main") -> str:
        return "embedded" if embedded else "cached" if cached_folder(name, revision) else "no"

    def name() -> Column:
        return Column("name", no_wrap=True)  # to be copied whole

    columns = "parameters", "learning rate", "chosen", "eps", "chunk", "context", "saw the domains", "licence", "here"
    lms = Table(name(), *columns)
    lms.title = "language models"
    for entry in REGISTRY.values():
        tts = entry.settings
        chosen = f"{entry.chosen_rate:g}" if entry.chosen_rate else ""  # by a sweep, beside the published rate
        numbers = f"{tts.learning_rate:g}", chosen, f"{tts.eps:g}", str(tts.max_length), str(tts.context)
        words = entry.saw_domains, entry.licence, here(entry.embedded, entry.name)
        lms.add_row(entry.name, f"{entry.parameters / 1e6:,.1f} M", *numbers, *words)
    embedders = Table(name(), "parameters", "dimension", "tokens of a text", "licence", "here")
    embedders.title = "embedders, beside 'lexical', which is fitted on a corpus, and 'lm:<embedded language model>'"
    for entry in EMBEDDERS.values():
        numbers = f"{entry.parameters / 1e6:,.1f} M", str(entry.dimension), str(entry.max_length)
        embedders.add_row(entry.name, *numbers, entry.licence, here(entry.embedded, entry.name, entry.revision))
    Console(width=None if sys.stdout.isatty() else 160).print(lms, embedders)


@app.command()
def corpus(name: Annotated[str, typer.Argument(help="'wheels' or a folder.")] = "wheels") -> None:
    """Build or open a corpus and show its domains."""
    from tttnn.corpus import open_corpus

    opened = open_corpus(name)
    for domain in opened.domains:
        splits = [split for split in opened.splits if domain in opened.domains_of(split)]
        sizes = [len(d.text.encode()) for split in splits for d in opened.documents(split, domain)]
        typer.echo(f"{domain:20s} {len(sizes):8,d} documents {sum(sizes):14,d} bytes")
    typer.echo(f"fingerprint {opened.fingerprint}")


@index.command()
def build(
    corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    kind: Annotated[str, typer.Option(help="Kind of index; 'auto' chooses by the number of documents.")] = "auto",
    device: Device = "cpu", cluster: Cluster = None, workers: Workers = 2,
) -> None:  # fmt: skip
    """Build the index of a corpus' train split, or open the one that is there; an interrupted build goes on."""
    from tttnn.cluster import cluster as connected
    from tttnn.retrieval import open_retriever

    with connected(cluster, workers) if cluster else nullcontext():
        retriever = open_retriever(corpus, embedder, kind=kind, device=device, workers=workers if cluster else None)
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


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="UTF-8 text to evaluate.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical", k: int = 20,
    threads: Threads = None, device: Device = "cpu",
) -> None:  # fmt: skip
    """Score one text before and after adapting on its k nearest neighbours."""
    from tttnn import TTT, load_model, open_retriever

    ttt = TTT(load_model(model, device, threads), open_retriever(corpus, embedder, device=device))
    result = ttt.evaluate(file.read_text(encoding="utf-8"), k)
    before, after = result.before.bits_per_byte, result.after.bits_per_byte
    typer.echo(f"bits/byte {before:.4f} -> {after:.4f} ({100 * result.ratio:.1f} %) after {k} neighbours")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for rows and provenance; the same call continues there.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    domains: Annotated[list[str] | None, typer.Option("--domain", help="Default: all.")] = None,
    per_domain: Annotated[int, typer.Option(help="Test documents drawn per domain.")] = 30,
    max_bytes: Annotated[int | None, typer.Option(help="Draw among documents up to this size.")] = None,
    split: str = "test",
    ks: Annotated[str, typer.Option(help="Where to score, comma-separated.")] = "0,1,2,3,5,7,10,15,20",
    learning_rate: float | None = None, max_chunks: int | None = None, dropout: float = 0.0,
    keep_optimizer: bool = False, split_query: bool = False, context: int | None = None,
    config_context: bool = False, vocabulary: int | None = None, precision: str = "float32",
    weights: str = "float32", ranks: int = 1, seed: int = 1216,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead of the weights.")] = None,
    strategy: Annotated[str, typer.Option(help="Which documents are adapted on: see tttnn.retrieval.strategies.")]
    = "nearest",
    method: Annotated[str, typer.Option(help="What is done with them: see tttnn.baselines.")] = "ttt",
    threads: Threads = None, device: Device = "cpu", cluster: Cluster = None, workers: Workers = 2,
) -> None:  # fmt: skip
    """Evaluate test documents of a corpus; resumable, rows end as Parquet."""
    from tttnn import TTT, Switches, load_model, open_corpus, open_retriever
    from tttnn.cluster import cluster as connected
    from tttnn.experiment import about, draw_documents
    from tttnn.experiment import run as run_documents
    from tttnn.experiment.cluster import run_on_cluster
    from tttnn.retrieval.strategies import Selection

    opened = open_corpus(corpus)
    switches = Switches(
        learning_rate=learning_rate, max_chunks=max_chunks, dropout=dropout, keep_optimizer=keep_optimizer,
        split_query=split_query, context=context, config_context=config_context, vocabulary=vocabulary,
        precision=precision, weights=weights, ranks=ranks, lora=lora, seed=seed,
    )  # fmt: skip

    def make() -> TTT:
        retriever = open_retriever(corpus, embedder, device=device)
        chosen = retriever if strategy == "nearest" else Selection(retriever, strategy, seed)
        return TTT(load_model(model, device, threads), chosen, switches)

    ttt = make()
    documents = draw_documents(opened, per_domain, seed, split, max_bytes, domains)
    wanted = [int(k) for k in ks.split(",")]
    origin = about(opened, ttt.retriever, per_domain=per_domain, split=split, max_bytes=max_bytes, seed=seed)
    if cluster:
        with connected(cluster, workers):
            rows = run_on_cluster(ttt, make, documents, wanted, out, origin, workers, method)
    else:
        rows = run_documents(ttt, documents, wanted, out, origin, method=method)
    typer.echo(f"{len(rows):,d} rows in {out}, {(rows['failure'] != '').sum()} documents failed")


@app.command()
def cost(
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    domains: Annotated[list[str] | None, typer.Option("--domain", help="Default: all.")] = None,
    per_domain: Annotated[int, typer.Option(help="Documents per domain that the run is to have.")] = 30,
    sample: Annotated[int, typer.Option(help="The first so many of them, per domain, are counted.")] = 3,
    max_bytes: Annotated[int | None, typer.Option(help="Draw among documents up to this size.")] = None,
    split: str = "test",
    ks: Annotated[str, typer.Option(help="Where to score, comma-separated.")] = "0,1,2,3,5,7,10,15,20",
    max_chunks: int | None = None, precision: str = "float32",
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead of the weights.")] = None,
    seed: int = 1216, threads: Threads = None, device: Device = "cpu",
) -> None:  # fmt: skip
    """Estimate hours and memory of a run on this machine; nothing is trained on the documents counted."""
    from collections import Counter
    from itertools import groupby, islice

    from psutil import cpu_percent

    from tttnn import TTT, Switches, load_model, open_corpus, open_retriever
    from tttnn.experiment import draw_documents
    from tttnn.experiment.cost import calibrate, count_work, describe, memory_needed
    from tttnn.experiment.provenance import device as machine
    from tttnn.experiment.provenance import peak_memory

    busy = cpu_percent(1)  # this process sleeps meanwhile
    wanted = _whole_numbers("ks", ks)
    for name, value in {"per_domain": per_domain, "sample": sample}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    opened = open_corpus(corpus)
    switches = Switches(max_chunks=max_chunks, precision=precision, lora=lora, seed=seed)
    documents = draw_documents(opened, per_domain, seed, split, max_bytes, domains)
    ttt = TTT(load_model(model, device, threads), open_retriever(opened, embedder, device=device), switches)
    by_domain = groupby(documents, key=lambda document: document.domain)
    work = count_work(ttt, [document for _, own in by_domain for document in islice(own, sample)], max(wanted))
    typer.echo(describe(work, calibrate(ttt), wanted, Counter(document.domain for document in documents)))
    typer.echo(
        f"memory: {memory_needed(ttt) / 1e9:,.2f} GB for the weights and to adapt them, activations apart; this "
        f"estimate took {peak_memory() / 1e9:,.2f} GB of main memory with all it needs"
    )
    typer.echo(
        f"an estimate for {ttt.lm.name} on this machine as it is now ({machine()}; other programs kept {busy:.0f} % of "
        "its cores busy at the start)"
    )


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}={text!r}: give whole numbers, comma-separated") from None


@app.command()
def variants(
    out: Annotated[Path, typer.Option(help="Folder for rows, one below it for each variant and model; continues.")],
    names: Annotated[list[str] | None, typer.Argument(help="Of variants; default: all.")] = None,
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    domains: Annotated[list[str] | None, typer.Option("--domain", help="Default: all.")] = None,
    per_domain: Annotated[int, typer.Option(help="Documents drawn per domain.")] = 10,
    max_bytes: Annotated[int | None, typer.Option(help="Draw among documents up to this size.")] = None,
    split: str = "test", ks: Annotated[str, typer.Option(help="Where to score, comma-separated.")] = "0,1,5,20",
    max_chunks: int | None = 1, precision: str = "float32", seed: int = 1216, threads: Threads = None,
    device: Device = "cpu",
) -> None:  # fmt: skip
    """Evaluate test documents in named ways: controls, baselines and quirks of the published code."""
    from tttnn import TTT, Switches, load_model, open_corpus, open_retriever
    from tttnn.experiment import about, draw_documents
    from tttnn.experiment.variants import VARIANTS, run_variants

    opened = open_corpus(corpus)
    switches = Switches(max_chunks=max_chunks, precision=precision, seed=seed)
    ttt = TTT(load_model(model, device, threads), open_retriever(opened, embedder, device=device), switches)
    documents = draw_documents(opened, per_domain, seed, split, max_bytes, domains)
    origin = about(opened, ttt.retriever, per_domain=per_domain, split=split, max_bytes=max_bytes, seed=seed)
    rows = run_variants(ttt, documents, [int(k) for k in ks.split(",")], names or VARIANTS, out, origin)
    failed = rows[rows["failure"] != ""].groupby("variant").size()
    typer.echo(f"{len(rows):,d} rows in {out}" + "".join(f", {n} of {name} failed" for name, n in failed.items()))


@app.command()
def sweep(
    out: Annotated[Path, typer.Option(help="Folder for rows; the same call continues there.")],
    model: Model = "gpt2-xs-general", corpus: Corpus = "wheels", embedder: Embedder = "lexical",
    rates: Annotated[str, typer.Option(help="Learning rates, comma-separated.")] = "1e-4,2e-4,5e-4,1e-3,2e-3",
    per_domain: Annotated[int, typer.Option(help="Validation documents drawn per domain.")] = 3,
    max_bytes: Annotated[int | None, typer.Option(help="Draw among documents up to this size.")] = 6000,
    ks: Annotated[str, typer.Option(help="Where to score, comma-separated.")] = "0,1,5,20",
    max_chunks: int | None = None, seed: int = 1216, threads: Threads = None, device: Device = "cpu",
    card: Annotated[bool, typer.Option("--card", help="Write sweep.json and the table of the model's card.")] = False,
) -> None:  # fmt: skip
    """Compare test-time learning rates on validation documents."""
    from tttnn import TTT, Switches, load_model, open_corpus, open_retriever
    from tttnn.experiment import draw_documents
    from tttnn.experiment.sweep import record
    from tttnn.experiment.sweep import sweep as compare
    from tttnn.models import CHECKPOINTS, find_entry
    from tttnn.pretraining.card import best_rate, write_card

    opened = open_corpus(corpus)
    retriever = open_retriever(opened, embedder, device=device)
    ttt = TTT(load_model(model, device, threads), retriever, Switches(max_chunks=max_chunks))
    documents = draw_documents(opened, per_domain, seed, "val", max_bytes)
    table = compare(ttt, documents, [float(r) for r in rates.split(",")], [int(k) for k in ks.split(",")], out)
    typer.echo(table.pivot(index="learning_rate", columns="k", values="ratio").to_string(float_format="%.4f"))
    found = record(table, ttt, opened, documents, per_domain=per_domain, max_bytes=max_bytes, seed=seed)
    best, known = best_rate(found), ttt.lm.settings.learning_rate
    typer.echo(f"best at k = {max(found['ks'])}: {best:g}; the registry has {known:g} for this model")
    if card:
        write_card(CHECKPOINTS / model if find_entry(model).embedded else Path(model), found)


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


def main() -> None:
    """Run the command line; errors of the package end it with their message, and a traceback if ``TTTNN_DEBUG=1``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it reports each variant it tries
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("TTTNN_DEBUG") == "1":
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
