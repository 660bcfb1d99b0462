"""The runner: test documents -> result rows, a row for each document and number of neighbours.

The same one serves the small live runs of the chapters and the archived ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.corpus.overlap import seen_shares
from tttnn.corpus.siblings import origin_columns, sibling_columns
from tttnn.embedding import EmbeddingError
from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment.checks import METHOD, check_run
from tttnn.experiment.drawing import DrawnDocument
from tttnn.experiment.record import asked_for, identity, recorded
from tttnn.files import expand
from tttnn.index import DamagedIndex
from tttnn.memory import give_back, keeping_freed
from tttnn.methods import find_method
from tttnn.provenance import made_here
from tttnn.retrieval import corpus_fingerprint
from tttnn.rows import NO_MEMORY, Row, RowJournal, RowsError, plain
from tttnn.scoring import IllegalScore
from tttnn.together import Together
from tttnn.ttt import TTT, Retrieved, Step

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection

log = logging.getLogger(__name__)

ADVICE = (
    "the same call tries it again, when more is free; or, in another folder, give a smaller context, max_chunks or "
    "max_bytes, precision bfloat16, or lora"
)
Evaluate = Callable[[TTT, "Sequence[DrawnDocument]", Sequence[int], str], Iterable[tuple["DrawnDocument", list[Row]]]]


def run_facts(corpus: Corpus, retriever: Retriever | Selection, **drawn: Any) -> dict[str, Any]:
    """Provenance of a run for `run.json`: commit, versions, device, corpus and index, how documents were drawn."""
    return {
        **made_here(),
        "corpus": {"name": corpus.name, "fingerprint": corpus_fingerprint(corpus)},
        "index": {
            "documents": len(retriever),
            "embedder": retriever.embedder.name,
            "split": retriever.identity["split"],
            "method": retriever.identity["index"],
        },
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
        Provenance to write into `run.json` (corpus, commit, device, ...), JSON values. Rows of another corpus, split,
        seed or limit of bytes do not go into the same folder.
    evaluate : callable, optional
        Model and retriever, documents, ks, method -> pairs of a document and its rows, in any order; it may leave
        documents out, for a later call. What its attribute `how` says, if it has one, is recorded with the call.
        Default: one document after another, here. On a cluster: see `tttnn.experiment.ray_runner.run_on_cluster`.
    method : str
        What is done with the neighbours: "ttt", or another method, see `tttnn.methods.find_method`.

    Returns
    -------
    DataFrame
        Of the documents asked for. Columns: model, domain, document, source, unit and language (empty where the
        corpus does not say), seed, k, neighbour (id), neighbour_domain, same_unit and same_source (whether the
        neighbour shares them with the document), distance (squared L2), overlap (share of the query's 50-byte windows
        in the neighbour), uncertainty (see `tttnn.retrieval.Neighbour`), nats, bytes, words, tokens, loss
        (nats/token), steps, train_tokens, skipped
        (one-token chunks), beyond (chunks left out because of `max_chunks`), train_seconds, evaluation_seconds,
        retrieval_seconds, train_operations, evaluation_operations (floating-point, see `tttnn.operations`), failure. A
        document at k costs its retrieval, its training up to k, and the evaluation at k. Without a score at that k,
        nats is missing; where the model diverged it is infinite. A document that could not be evaluated has one row
        with the reason in `failure`, which is logged, too; everything else that goes wrong is raised. One that there
        was no memory for is tried again by the next call.

    Raises
    ------
    RowsError
        If the folder belongs to a run with other settings, model, corpus or split, another process writes there, or
        it holds a part or more of a run that keeps the optimizer, or one in another order of documents: its moments are
        not kept, so it cannot go on.
    ParameterError
        If there is no document or no such method, or one of `ks` cannot be had.
    """
    places = check_run(ttt.lm, ttt.retriever, ttt.switches, ks, method)
    by_key = {_key(ttt, document): document for document in documents}
    if not by_key:
        raise ParameterError("documents: there is none to evaluate")
    offline = find_method(method).offline(ttt.lm, ttt.retriever, ttt.switches)
    about = {**(about or {}), **({"offline": offline} if offline else {})}
    how = {"model_device": str(ttt.lm.device), **getattr(evaluate, "how", {})}
    settings = identity(ttt.lm, ttt.retriever, ttt.switches) | asked_for(about, method, places)
    if ttt.switches.keep_optimizer:
        settings["order"] = hashlib.sha256(json.dumps(plain(list(by_key))).encode()).hexdigest()
    place = TemporaryDirectory() if folder is None else nullcontext(folder)
    with place as name, RowJournal(Path(expand(name))) as journal:
        # With a kept optimizer all that came after it would be other rows.
        again = set() if ttt.switches.keep_optimizer else set(filter(journal.lacked_memory, by_key))
        todo = [document for key, document in by_key.items() if key in again or key not in journal]
        if ttt.switches.keep_optimizer and len(todo) < len(by_key) and (todo or len(journal) > len(by_key)):
            raise RowsError(f"{folder}: a run that keeps the optimizer cannot go on; give another folder")
        with recorded(journal, settings, about, bool(todo), how), keeping_freed(ttt.lm.device):
            finished = (evaluate or _one_by_one)(ttt, todo, places, method)
            for document, rows in tqdm(finished, desc=f"{ttt.lm.name}: documents", unit="doc", total=len(todo)):
                if rows[0]["failure"]:
                    log.warning("%s document %d failed: %s", document.domain, document.number, rows[0]["failure"])
                journal.append(_key(ttt, document), rows)
            table = journal.table([key for key in by_key if key in journal])  # all, unless `evaluate` left some out
            count = sum(key in journal for key in by_key)
    if folder is not None:
        failed = (table["failure"] != "").sum()
        log.info("%d rows of %d documents are in %s; %d failed", len(table), count, folder, failed)
    return table


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
    text = hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return ttt.lm.name, document.domain, document.number, text


def document_rows(ttt: TTT, document: DrawnDocument, ks: Sequence[int], method: str = METHOD) -> list[Row]:
    """Evaluate one document: a row for each k from 0 on, or one row with the reason why it could not be done."""
    base = _base(ttt, document)
    try:
        way = find_method(method)
        found = retrieve(ttt, document, max(ks) if way.uses_neighbours else 0)
        steps = list(_legal(way.steps(ttt, found, ks), found))
    except DocumentError as error:
        return [base | {"k": 0, "failure": str(error)}]
    except (RuntimeError, MemoryError) as error:
        if not _memory_is_full(error):
            raise
        give_back(ttt.lm.device)
        return [base | {"k": 0, "failure": f"{NO_MEMORY}: {ADVICE}"}]
    return [base | _neighbour(step.k, document, found) | _row(step, found.seconds) for step in steps]


def _legal(steps: Iterator[Step], found: Retrieved) -> Iterator[Step]:
    """Pass a method's steps on if their scores may be compared: the text's own bytes, one pass from no neighbour on.

    That each token has one probability is seen to by `Scorer.total`; that none depends on a later token, by the tests
    of `tttnn.conformance`.
    """
    size, last = len(found.scored.encode("utf-8")), -1
    for step in steps:
        if step.k <= last or (last < 0 and step.k):
            raise IllegalScore(f"a step of k={step.k} after one of k={last}: steps go up from 0")
        if step.score and step.score.bytes != size:
            raise IllegalScore(f"k={step.k}: a score over {step.score.bytes} bytes of a text of {size}")
        last = step.k
        yield step


def side_by_side(at_once: int) -> Evaluate:
    """Return what evaluates so many documents at once, for `run`: see `tttnn.together`.

    A group with a document that cannot be done, or for which there is no memory, is done one by one.
    """
    return _SideBySide(at_once)


@dataclass(frozen=True)
class _SideBySide:
    at_once: int

    @property
    def how(self) -> dict[str, Any]:
        return {"documents_at_once": self.at_once}

    def __call__(
        self, ttt: TTT, documents: Sequence[DrawnDocument], ks: Sequence[int], method: str
    ) -> Iterator[tuple[DrawnDocument, list[Row]]]:
        if method != METHOD:
            raise ParameterError(
                f"documents_at_once={self.at_once}, method={method!r}: only {METHOD!r} does several at once"
            )
        together = Together(ttt, self.at_once)
        for first in range(0, len(documents), self.at_once):
            group = documents[first : first + self.at_once]
            yield from zip(group, _group_rows(together, ttt, group, ks), strict=True)


def _group_rows(together: Together, ttt: TTT, group: Sequence[DrawnDocument], ks: Sequence[int]) -> Iterator[list[Row]]:
    try:
        found = [retrieve(ttt, document, max(ks)) for document in group]
        stepped = together.adapt([(each.scored, each.texts) for each in found], ks)
    except (DocumentError, RuntimeError, MemoryError) as error:
        if not (isinstance(error, DocumentError) or _memory_is_full(error)):
            raise
        give_back(ttt.lm.device)
        log.warning("%d documents are done one by one: %s", len(group), str(error).partition("\n")[0])
        yield from (document_rows(ttt, document, ks) for document in group)
        return
    for document, near, steps in zip(group, found, stepped, strict=True):
        yield [_base(ttt, document) | _neighbour(step.k, document, near) | _row(step, near.seconds) for step in steps]


def _base(ttt: TTT, document: DrawnDocument) -> Row:
    """What all rows of a document have in common."""
    facts = {"model": ttt.lm.name, "domain": document.domain, "document": document.number, "seed": ttt.switches.seed}
    return facts | origin_columns(document.meta)


def _memory_is_full(error: RuntimeError | MemoryError) -> bool:
    from torch import OutOfMemoryError

    # On a CPU, torch says it in words alone.
    return isinstance(error, (OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def retrieve(ttt: TTT, document: DrawnDocument, k: int) -> Retrieved:
    """Find a document's k neighbours, as `TTT.retrieve` does, and be sure that no shard was left out unrecorded.

    Raises
    ------
    DocumentError
        If this document has no such neighbours, or no vector.
    DamagedIndex
        If a shard was lost since the index was opened: what was found then no longer is what the run's record says.
    """
    try:
        found = ttt.retrieve(document.text, k, document.meta)
    except EmbeddingError as error:
        raise DocumentError(str(error)) from error
    if answered := getattr(found.neighbours, "answered", None):
        index = ttt.need_retriever().index
        if len(answered) + len(index.missing) < len(index.manifest["shards"]):
            raise DamagedIndex(f"{index.folder}: only {', '.join(answered)} answered: a shard was lost meanwhile")
    return found


def _neighbour(k: int, document: DrawnDocument, found: Retrieved) -> Row:
    if not 0 < k <= len(found.neighbours):  # none yet, or a method that takes none
        return {}
    neighbour = found.neighbours[k - 1]
    return sibling_columns(document.meta, neighbour.meta) | {
        "neighbour": neighbour.id,
        "neighbour_domain": str(neighbour.meta.get("pile_set_name") or ""),
        "distance": None if math.isnan(neighbour.distance) else neighbour.distance,
        "overlap": float(seen_shares([found.query], [neighbour.text])[0]),
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
        "train_operations": step.train_operations,
        "evaluation_operations": step.evaluation_operations,
        "failure": "",
    }
