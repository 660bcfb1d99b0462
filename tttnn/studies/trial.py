"""A trial: what test-time training on neighbours does for someone's own documents, within the minutes they have.

The same call on the same folder goes on after an interruption: the plan stays, and finished documents are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.corpus import Corpus, Document, open_corpus, write_jsonl
from tttnn.corpus.deflate import deflated
from tttnn.corpus.folder import MANIFEST
from tttnn.corpus.origin import unit
from tttnn.embedding import Embedder, LexicalEmbedder, load_embedder
from tttnn.errors import ParameterError
from tttnn.experiment import DrawnDocument, run_facts
from tttnn.experiment.checks import LARGEST_SEED, check_writable
from tttnn.files import expand, read_json, sole_writer, write_json, writing_folder
from tttnn.models import load_model
from tttnn.models.model_registry import find_entry, read_settings
from tttnn.models.products import bfloat16_is_fast
from tttnn.parameters import number
from tttnn.provenance import commit, device, versions
from tttnn.retrieval import Retriever, is_built, open_retriever
from tttnn.rows import RowsError
from tttnn.studies.cost import count_work, first_look
from tttnn.studies.trial_plan import (
    COMPARED,
    ENOUGH,
    MOST,
    PART,
    SEGMENT,
    Budget,
    Costs,
    Plan,
    Say,
    duration,
    make_plan,
    most_neighbours,
)
from tttnn.studies.trial_work import Work
from tttnn.ttt import TTT, Switches

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

RECORD, SAMPLE = "trial.json", "corpus"
INDEX_SHARE = 0.3  # of all time that an index may take; beyond it, a part of the documents is indexed
READING_SHARE = 0.05  # of all time that counting a corpus, or reading what is not taken of it, may take
READ = 2e7  # bytes a second, a careful guess
PACKED = 4  # bytes of text in a byte of a compressed file, another one
LOOKED_AT = 3  # documents whose neighbours are counted
SAMPLED = 64  # texts that an embedder is timed on
MOST_HELD_OUT = 0.25  # share for test, of few documents
LARGE = 5e7  # weights, from which steps are made in bfloat16 where a device has instructions for it

log = logging.getLogger(__name__)


@dataclass
class Request:
    """What a trial is asked for, checked when it is made.

    Attributes
    ----------
    corpus, model, embedder : str
        As the command line has them.
    minutes : float
        For everything from opening the model to the page.
    k : int
        Most neighbours.
    documents : int
        Most documents.
    learning_rate : float, optional
        Default: the one chosen for the model on validation documents, else its own.
    split, seed, threads, device
        As for a run.
    skip_bad, text_key, domain_key, held_out
        As the corpus is opened; by default more is held out of a few documents than of many.
    embedder_type : str
        What a transformer embedder computes in.
    prefix : str, optional
        The token before a text: "bos" or "eos"; default: the model's own.
    settings : str, optional
        JSON file with some of the model's settings, before which `learning_rate` and `prefix` go.

    Raises
    ------
    ParameterError
        Naming what is out of range.
    """

    corpus: str
    model: str
    embedder: str = "lexical"
    minutes: float = 10.0
    k: int = 20
    documents: int = MOST
    learning_rate: float | None = None
    split: str = "test"
    seed: int = 1216
    threads: int | None = None
    device: str = "cpu"
    skip_bad: bool = False
    text_key: str = "text"
    domain_key: str | None = None
    held_out: float | None = None
    embedder_type: str = "float32"
    prefix: str | None = None
    settings: str | None = None

    def __post_init__(self) -> None:
        if self.corpus != "wheels" and not self.corpus.startswith("hf:") and not Path(expand(self.corpus)).exists():
            raise ParameterError(f"corpus={self.corpus!r}: no such folder or file")
        self.minutes = float(number("minutes", self.minutes, least=0.05, most=60 * 24 * 7))
        self.k = number("k", self.k, least=1, whole=True)
        self.documents = number("documents", self.documents, least=1, most=10_000, whole=True)
        self.seed = number("seed", self.seed, least=0, most=LARGEST_SEED, whole=True)
        Switches(learning_rate=self.learning_rate, prefix=self.prefix)  # which checks them
        self.given()

    def given(self) -> dict[str, Any]:
        """Read the model's settings that the file gives; none without a file."""
        return read_settings(self.settings) if self.settings else {}

    def open(self) -> Corpus:
        """Open the corpus; where nobody split it and its test part is small, with a larger one."""
        opened = self._opened()
        counts = opened.manifest.get("documents", {}) if "imported_from" in opened.manifest else {}
        if self.held_out is None and 0 < counts.get(self.split, ENOUGH) < ENOUGH:
            self.held_out = round(min(MOST_HELD_OUT, 2 * ENOUGH / sum(counts.values())), 3)
            opened = self._opened()
        return opened

    def _opened(self) -> Corpus:
        return open_corpus(self.corpus, self.skip_bad, self.text_key, self.domain_key, held_out=self.held_out)

    def folder(self) -> Path:
        """A folder for it, below the one where the command is called: equal requests have the same."""
        key = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:6]
        return Path(f"try-{Path(self.corpus).name or 'corpus'}-{Path(self.model).name}-{key}")


@dataclass(frozen=True)
class Trial:
    """What a trial measured.

    Attributes
    ----------
    request : Request
    plan : Plan
    rows : DataFrame
        Of `tttnn.experiment.run`, with a column variant.
    documents : DataFrame
        Of those drawn: domain, document, bytes, deflated (bytes).
    facts : dict
        Machine, versions, corpus, index, seconds spent: JSON values.
    views : list of dict
        A document that gains and one that loses: what each token costs before and after; fewer if time was short.
    folder : Path
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    """

    request: Request
    plan: Plan
    rows: pd.DataFrame
    documents: pd.DataFrame
    facts: dict[str, Any]
    views: list[dict[str, Any]]
    folder: Path
    tokenizer: PreTrainedTokenizerBase


def run_trial(
    request: Request, corpus: Corpus, out: str | Path, budget: Budget | None = None, say: Say = log.info
) -> Trial:
    """Measure what adapting a model to the documents of a corpus brings, in the minutes asked for.

    Parameters
    ----------
    request : Request
    corpus : Corpus
        The open one.
    out : path
        Folder for rows and record; the same request goes on there.
    budget : Budget, optional
        Of a command that was started earlier; default: from now on.
    say : callable
        Takes a line about what is done.

    Raises
    ------
    ParameterError
        If the minutes are too few for one document.
    RowsError
        If the folder holds another trial.
    """
    budget = budget or Budget(60 * request.minutes)
    out = check_writable(out)
    known = _record(out, request)
    with sole_writer(out):
        given = request.given()
        lm = load_model(request.model, request.device, request.threads, settings=given)
        rate = request.learning_rate or given.get("learning_rate") or find_entry(request.model).chosen_rate
        fast = lm.parameters >= LARGE and bfloat16_is_fast(lm.device)
        precision = "bfloat16" if fast else "float32"
        switches = Switches(learning_rate=rate, prefix=request.prefix, seed=request.seed, precision=precision)
        ttt = TTT(lm, None, switches)
        used = _affordable(request, corpus, out, budget, say)
        ttt.retriever = retriever = open_retriever(
            used, request.embedder, device=request.device, dtype=request.embedder_type
        )
        drawn = _drawn(used, request)
        sizes = [(len(each.text.encode("utf-8", "replace")), len(lm.encode(each.text))) for each in drawn]
        ways = _ways(ttt, retriever, drawn)
        costs = _costs(ttt, retriever, drawn, request.k)
        if "plan" not in known:
            k = most_neighbours(request.k, len(retriever))
            known["plan"] = asdict(make_plan(costs, sizes, k, budget.left, ways, len({each.domain for each in drawn})))
            write_json(out / RECORD, known)
        plan = Plan(**known["plan"])
        say(_summary(plan, costs, lm.name, used, budget, out))
        ttt = TTT(lm, retriever, replace(ttt.switches, max_chunks=plan.max_chunks))
        work = Work(ttt, plan, costs, drawn, sizes, out, budget, say)
        work.about = run_facts(used, retriever, split=request.split, seed=request.seed, max_bytes=None)
        rows = work.all(ways)
        views = work.views(rows)
        known["facts"] = _facts(ttt, corpus, used, request, budget) | {"spent": budget.spent}
        write_json(out / RECORD, known)
    return Trial(request, plan, rows, _sizes(drawn), known["facts"], views, out, lm.tokenizer)


def _record(out: Path, request: Request) -> dict[str, Any]:
    """What the folder knows of this trial; of another one it is refused."""
    asked = json.loads(json.dumps(asdict(request)))
    path = out / RECORD
    known = read_json(path) if path.exists() else {"request": asked}
    before = {field.name: field.default for field in fields(request)} | known["request"]  # of an earlier version, too
    other = [f"{name} ({before[name]}, now {asked[name]})" for name in asked if before[name] != asked[name]]
    if other:
        raise RowsError(f"{out} holds a trial with other {', '.join(other)}; give another folder by --out")
    return known


def _affordable(request: Request, corpus: Corpus, out: Path, budget: Budget, say: Say) -> Corpus:
    """The corpus, or one in `out` that has a part of its documents, if an index of all would take too long."""
    place = out / SAMPLE
    if not place.exists() and not is_built(
        corpus, request.embedder, device=request.device, dtype=request.embedder_type
    ):
        needed = _text_bytes(corpus, "train") * _seconds_per_byte(corpus, request, budget.clock)
        share = INDEX_SHARE * budget.seconds / max(needed, 1e-9)
        if share < 1:
            say(f"an index of all documents would take {duration(needed)}, so {share:.0%} of them are indexed")
            with writing_folder(place) as partial:
                some = _Some(corpus, share, request.seed, budget)
                write_jsonl(partial / "train.jsonl", some)
                write_json(partial / MANIFEST, {"share": share, "cut_short": some.cut_short})
                drawn = _drawn(corpus, request)
                write_jsonl(partial / f"{request.split}.jsonl", (Document(each.text, each.meta) for each in drawn))
    return open_corpus(place) if place.exists() else corpus


@dataclass
class _Some:
    """A random share of the documents; of a corpus too large to be read, of the first of each file."""

    corpus: Corpus
    share: float
    seed: int
    budget: Budget
    cut_short: bool = False

    def __iter__(self) -> Iterator[Document]:
        draw, last = np.random.default_rng(self.seed), self.budget.spent + 2 * READING_SHARE * self.budget.seconds
        for document in self.corpus.documents_in_turns("train"):
            if self.budget.spent > last:
                self.cut_short = True
                return
            if draw.random() < self.share and document.text.strip():
                yield document


def _text_bytes(corpus: Corpus, split: str) -> int:
    """About how many bytes of text a split has, from the sizes of its files."""
    files = corpus.files(split)
    return sum(path.stat().st_size * (PACKED if path.suffix in (".gz", ".zst") else 1) for path in files)


def _seconds_per_byte(corpus: Corpus, request: Request, clock: Callable[[], float]) -> float:
    """Seconds that a byte of text takes on its way into an index, by the first texts."""
    texts = [each.text for each in islice(corpus.documents("train"), SAMPLED) if each.text.strip()]
    if not texts:
        return 0.0
    is_lexical = request.embedder == LexicalEmbedder.name
    embedder = LexicalEmbedder.fit(texts) if is_lexical else _transformer(request)
    start = clock()
    embedder.embed(texts)
    passes = 2 if is_lexical else 1  # it is fitted first
    return passes * (clock() - start) / sum(len(text.encode("utf-8", "replace")) for text in texts)


def _transformer(request: Request) -> Embedder:
    return load_embedder(request.embedder, device=request.device, dtype=request.embedder_type)


def _drawn(corpus: Corpus, request: Request) -> list[DrawnDocument]:
    """Documents of all domains in turn, so that the first few are as mixed as all of them."""
    domains = corpus.sample_domains(request.split, request.documents, request.seed)
    drawn = [
        (turn, DrawnDocument(domain, place, document.text, document.meta))
        for domain, sample in domains.items()
        for turn, (place, document) in enumerate(each for each in sample if each[1].text.strip())
    ]
    if not drawn:
        raise ParameterError(f"split={request.split!r}: {corpus.name} has no document with text there")
    order = np.random.default_rng(request.seed).permutation(len(domains)).tolist()
    rank = dict(zip(domains, order, strict=True))
    return [each for _, each in sorted(drawn, key=lambda pair: (pair[0], rank[pair[1].domain]))][: request.documents]


def _ways(ttt: TTT, retriever: Retriever, drawn: Sequence[DrawnDocument]) -> list[str]:
    """What the gain can be compared with on these documents."""
    ways = list(COMPARED)
    there = retriever.store.by_domain
    smallest = min(len(there.get(each.domain, ())) for each in drawn)
    if smallest < 2 * max(1, len(retriever) // PART) and smallest < 40:
        ways[ways.index("random-domain")] = "random"
    if not all(unit(each.meta) for each in drawn):
        ways.remove("other-units")
    if ttt.lm.settings.context < SEGMENT:
        ways.remove("dynamic-128-rate-1.0")
    if ttt.lm.positions <= ttt.lm.settings.context:
        ways.remove("longest-context")
    return ways


def _costs(ttt: TTT, retriever: Retriever, drawn: Sequence[DrawnDocument], k: int) -> Costs:
    """Time a step, and look at the neighbours of a few documents."""
    k = most_neighbours(k, len(retriever))
    work = count_work(ttt, drawn[:LOOKED_AT], k)
    found = work[work["k"] > 0]
    settings = ttt.lm.settings
    return Costs(
        first_look(ttt), found["steps"].to_numpy(), found["train_tokens"].to_numpy(), settings.max_length,
        settings.context, float(work.loc[work["k"] == 0, "retrieval_seconds"].mean()),
    )  # fmt: skip


def _summary(plan: Plan, costs: Costs, model: str, corpus: Corpus, budget: Budget, out: Path) -> str:
    """What will be done, and how long it takes."""
    step = costs.rates.training(1.0, float(costs.chunk))
    limit = f" of at most {plan.max_bytes:,} bytes" if plan.max_bytes else ""
    chunks = f"{plan.max_chunks} step{'s' if plan.max_chunks != 1 else ''}" if plan.max_chunks else "all steps"
    return (
        f"{model} on {corpus.name}: a step of {costs.chunk:,} tokens takes {step:.2f} s here, so the plan is "
        f"{plan.documents} documents{limit}, {plan.k} neighbours each, {chunks} a neighbour; the first {plan.compared} "
        f"also in other ways. About {duration(plan.seconds + budget.spent)} of {duration(budget.seconds)}; more "
        f"documents follow if time is left. Rows and page: {out}"
    )


def _facts(ttt: TTT, corpus: Corpus, used: Corpus, request: Request, budget: Budget) -> dict[str, Any]:
    """What the page says of machine, model and corpus."""
    settings, switches = ttt.lm.settings, ttt.switches
    reading = sum(_text_bytes(corpus, split) for split in corpus.splits) / READ
    sizes = corpus.sizes() if reading < READING_SHARE * budget.seconds else {}
    whole = [by_split[request.split] for by_split in sizes.values() if request.split in by_split]
    return {
        "machine": device(), "commit": commit(), "versions": versions(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "corpus_facts": _how_read(corpus),
        "corpus": corpus.name, "indexed": len(ttt.need_retriever()), "indexed_all": used is corpus,
        "cut_short": used.manifest.get("cut_short", False),
        "documents": sum(size.documents for size in whole) or None, "bytes": sum(size.bytes for size in whole) or None,
        "model": ttt.lm.name, "parameters": ttt.lm.parameters, "chunk": settings.max_length,
        "context": settings.context, "learning_rate": switches.learning_rate or settings.learning_rate,
        "precision": switches.precision, "settings_source": ttt.lm.settings_source,
        "saw_domains": find_entry(request.model).saw_domains,
    }  # fmt: skip


def _how_read(corpus: Corpus) -> list[str]:
    """What is known of how somebody's files became documents and were split."""
    found = corpus.manifest
    if "imported_from" not in found:
        return []
    copies, left_out = found.get("near_copies_moved_to_train", 0), len(found.get("ignored", []))
    said = [f"Split: {found['split']}.".replace("..", ".")] if found.get("split") else []
    said += [f"{copies:,} near-copies of documents in the index were kept out of the test part."] if copies else []
    if held := found.get("near_copies_held_out"):
        said.append(f"{held:,} documents of the test part are near-copies of documents in the index.")
    said += [f"{left_out:,} files were not read; `python -m tttnn corpus` lists them."] if left_out else []
    return said


def _sizes(drawn: Sequence[DrawnDocument]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([
        {"domain": each.domain, "document": each.number, "bytes": len(each.text.encode("utf-8", "replace")),
         "deflated": deflated(each.text)} for each in drawn
    ])  # fmt: skip
