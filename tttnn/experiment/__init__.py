"""Grids of test documents: resumable result rows and their provenance.

The same runner serves the small live runs of the chapters and the archived ones.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.baselines import find_method
from tttnn.corpus import CorpusError
from tttnn.corpus.overlap import seen_shares
from tttnn.experiment.provenance import commit, device, versions
from tttnn.experiment.rows import Row, RowJournal, RowsError, read_rows
from tttnn.files import read_json, write_json
from tttnn.index import DamagedIndex, IndexMismatch
from tttnn.ttt import TTT, Step, split_halves

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.retrieval import Neighbour, Retriever
    from tttnn.retrieval.strategies import Selection

__all__ = ["DrawnDocument", "RowsError", "about", "draw_documents", "read_rows", "retrieve", "run"]

log = logging.getLogger(__name__)

Evaluate = Callable[
    [TTT, "Sequence[DrawnDocument]", Sequence[int], str], Iterable[tuple["DrawnDocument", list[Row]]]
]
METHOD = "ttt"


@dataclass(frozen=True)
class DrawnDocument:
    """A document drawn from a split: `number` is its place in the domain's part of it, from 0."""

    domain: str
    number: int
    text: str
    meta: dict[str, Any] = field(default_factory=dict)


def draw_documents(
    corpus: Corpus, per_domain: int, seed: int, split: str = "test", max_bytes: int | None = None,
    domains: Sequence[str] | None = None,
) -> list[DrawnDocument]:  # fmt: skip
    """Draw documents at random, the same ones for the same seed; a larger draw extends a smaller one.

    Parameters
    ----------
    corpus : Corpus
    per_domain : int
        Documents per domain; one that has fewer gives all of them, which is logged.
    seed : int
    split : str
    max_bytes : int, optional
        Draw among documents of at most so many bytes. Say so where results are shown.
    domains : sequence of str, optional
        Default: all.

    Raises
    ------
    CorpusError
        If a domain or the split is not there.
    """
    drawn = []
    for domain in domains or corpus.domains_of(split):
        found = corpus.documents(split, domain)
        held = sum(max_bytes is None or len(document.text.encode()) <= max_bytes for document in found)
        if held < per_domain:
            log.warning("%s: %d of the %d documents asked for are in %s", domain, held, per_domain, split)
        sample = corpus.sample(split, domain, min(per_domain, held), seed, max_bytes) if held else []
        drawn += [DrawnDocument(domain, number, document.text, document.meta) for number, document in sample]
    return drawn


def about(corpus: Corpus, retriever: Retriever | Selection, **drawn: Any) -> dict[str, Any]:
    """Provenance of a run for `run.json`: commit, versions, device, corpus and index, how documents were drawn."""
    return {
        "commit": commit(),
        "versions": versions(),
        "device": device(),
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "index": {"documents": len(retriever), "embedder": retriever.embedder.name},
        "embedder fingerprint": retriever.embedder.fingerprint,
        "drawn": drawn,
    }


def run(
    ttt: TTT, documents: Iterable[DrawnDocument], ks: Sequence[int], folder: str | Path | None = None,
    about: dict[str, Any] | None = None, evaluate: Evaluate | None = None, method: str = METHOD,
) -> pd.DataFrame:  # fmt: skip
    """Evaluate documents and return one row per (document, k).

    Parameters
    ----------
    ttt : TTT
        Model, retriever and switches.
    documents : iterable of DrawnDocument
    ks : sequence of int
        Where to score; rows in between hold training loss and seconds only.
    folder : path, optional
        Where rows are kept: `rows.jsonl` while running, `rows.parquet` and `run.json` at rest. The same call on
        the same folder continues after a kill, and one with further documents adds them. Default: nothing is
        kept.
    about : dict, optional
        Provenance to write into `run.json` (corpus, commit, device, ...), JSON values.
    evaluate : callable, optional
        Model and retriever, documents, ks, method -> pairs of a document and its rows, in any order. Default: one
        document after another, here. On a cluster: see `tttnn.experiment.cluster.run_on_cluster`.
    method : str
        What is done with the neighbours: "ttt", or a baseline, see `tttnn.baselines.find_method`.

    Returns
    -------
    DataFrame
        Of the documents asked for. Columns: model, domain, document, seed, k, neighbour (id), neighbour_domain,
        distance (squared L2), overlap (share of the query's 50-byte windows in the neighbour), uncertainty (see
        `tttnn.retrieval.Neighbour`), nats, bytes, words, tokens, loss (nats/token), steps, train_tokens, skipped
        (one-token chunks), beyond (chunks left out because of `max_chunks`), train_seconds, evaluation_seconds,
        retrieval_seconds, failure. Without a score at that k, nats is missing; where the model diverged it is
        infinite. A document that could not be evaluated has one row with the reason in `failure`, which is logged,
        too; damage of corpus or index is not a document's failure, but raised.

    Raises
    ------
    RowsError
        If the folder belongs to a run with other settings, model, corpus or split, another process writes there, or
        it holds a part of a run that keeps the optimizer: its moments are not kept, so it cannot go on.
    ValueError
        If there is no such method.
    """
    find_method(method)
    split = (about or {}).get("drawn", {}).get("split")
    settings = identity(ttt) | {"method": method, "ks": sorted(set(ks)), "split": split}
    documents = list(documents)
    place = TemporaryDirectory() if folder is None else nullcontext(folder)
    with place as name, RowJournal(Path(name)) as journal:
        _claim(journal.folder / "run.json", settings, about or {})
        todo = [document for document in documents if _key(ttt, document) not in journal]
        if ttt.switches.keep_optimizer and len(todo) < len(documents):
            raise RowsError(f"{folder}: a run that keeps the optimizer cannot go on; give another folder")
        finished = (evaluate or _one_by_one)(ttt, todo, settings["ks"], method)
        for document, rows in tqdm(finished, desc=f"{ttt.lm.name}: documents", unit="doc", total=len(todo)):
            if rows[0]["failure"]:
                log.warning("%s document %d failed: %s", document.domain, document.number, rows[0]["failure"])
            journal.append(_key(ttt, document), rows)
        table = journal.table([_key(ttt, document) for document in documents])
        _finish(journal.folder / "run.json")
    if folder is not None:
        failed = (table["failure"] != "").sum()
        log.info("%d rows of %d documents are in %s; %d failed", len(table), len(documents), folder, failed)
    return table


def identity(ttt: TTT) -> dict[str, Any]:
    """Return what rows depend on besides the documents: model, weights, retriever, switches, settings."""
    return {
        "model": ttt.lm.name,
        "weights": ttt.lm.weight_hash(),
        "retriever": ttt.retriever.fingerprint if ttt.retriever else None,  # scores at k = 0 alone need none
        "switches": asdict(ttt.switches),
        "settings": asdict(ttt.lm.settings),
    }


def _one_by_one(
    ttt: TTT, documents: Sequence[DrawnDocument], ks: Sequence[int], method: str
) -> Iterator[tuple[DrawnDocument, list[Row]]]:
    for dealt in _dealt(ttt, documents):
        ttt.forget()
        for document in dealt:
            yield document, document_rows(ttt, document, ks, method)


def _dealt(ttt: TTT, documents: Sequence[DrawnDocument]) -> Iterator[Sequence[DrawnDocument]]:
    """What one process evaluates after another: where the optimizer is kept, a domain's share of documents each."""
    if not ttt.switches.keep_optimizer:
        yield documents
        return
    for domain in dict.fromkeys(document.domain for document in documents):
        own = [document for document in documents if document.domain == domain]
        yield from (own[rank :: ttt.switches.ranks] for rank in range(ttt.switches.ranks))


def _key(ttt: TTT, document: DrawnDocument) -> tuple[str, str, int, str]:
    return ttt.lm.name, document.domain, document.number, hashlib.sha256(document.text.encode()).hexdigest()[:16]


def _claim(path: Path, settings: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the settings, or check that the folder was begun with the same ones."""
    if not path.exists():
        write_json(path, {"settings": settings, "about": about, "start": _now(), "end": None})
        return
    begun = read_json(path)["settings"]
    other = sorted(name for name in settings if settings[name] != begun.get(name))
    if other:
        raise RowsError(f"{path.parent} holds a run with other {', '.join(other)}; give another folder")


def _finish(path: Path) -> None:
    write_json(path, read_json(path) | {"end": _now()})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def document_rows(ttt: TTT, document: DrawnDocument, ks: Sequence[int], method: str = METHOD) -> list[Row]:
    """Evaluate one document: a row for each k from 0 on, or one row with the reason why it could not be done."""
    base = {"model": ttt.lm.name, "domain": document.domain, "document": document.number, "seed": ttt.switches.seed}
    try:
        query, scored, neighbours, seconds = retrieve(ttt, document, max(ks))
        steps = list(find_method(method)(ttt, scored, [neighbour.text for neighbour in neighbours], ks))
    except (CorpusError, DamagedIndex, IndexMismatch):
        raise
    except ValueError as error:
        return [base | {"k": 0, "failure": str(error)}]
    return [base | _neighbour(step.k, query, neighbours) | _row(step, seconds) for step in steps]


def retrieve(ttt: TTT, document: DrawnDocument, k: int) -> tuple[str, str, Sequence[Neighbour], float]:
    """Find a document's k neighbours (0: none is looked for).

    Returns
    -------
    query, scored : str
        The whole text twice, or its halves with `split_query`.
    neighbours : sequence of Neighbour
    seconds : float
        Wall time of finding them.
    """
    query, scored = split_halves(document.text) if ttt.switches.split_query else (document.text, document.text)
    start = time.perf_counter()
    neighbours = ttt.retriever.neighbours(query, k, document.meta) if k else []
    return query, scored, neighbours, time.perf_counter() - start


def _neighbour(k: int, query: str, neighbours: Sequence[Neighbour]) -> Row:
    if not k:
        return dict.fromkeys(("neighbour", "neighbour_domain", "distance", "overlap", "uncertainty"))
    neighbour = neighbours[k - 1]
    return {
        "neighbour": neighbour.id,
        "neighbour_domain": str(neighbour.meta.get("pile_set_name") or ""),
        "distance": None if math.isnan(neighbour.distance) else neighbour.distance,
        "overlap": float(seen_shares([query], [neighbour.text])[0]),
        "uncertainty": neighbour.uncertainty,
    }


def _row(step: Step, retrieval_seconds: float) -> Row:
    score = step.score
    return {
        "k": step.k,
        "nats": (score.nats if math.isfinite(score.nats) else math.inf) if score else None,
        "bytes": score.bytes if score else None,
        "words": score.words if score else None,
        "tokens": score.tokens if score else None,
        "loss": None if math.isnan(step.loss) else step.loss,
        "steps": len(step.losses),
        "train_tokens": step.tokens,
        "skipped": step.skipped,
        "beyond": step.beyond,
        "train_seconds": step.train_seconds,
        "evaluation_seconds": step.evaluation_seconds,
        "retrieval_seconds": retrieval_seconds if step.k == 0 else 0.0,
        "failure": "",
    }
