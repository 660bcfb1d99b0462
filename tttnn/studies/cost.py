"""What a run will cost on this machine, before it is started.

Work is counted on a few drawn documents: their neighbours are really looked up and cut into chunks, but not trained
on. What a step and a forward pass take is timed on made-up tokens. Their product is the estimate:

>>> documents = draw_documents(corpus, per_domain=3, seed=1216)  # doctest: +SKIP
>>> rates, work = calibrate(ttt), count_work(ttt, documents, k=20)  # doctest: +SKIP
>>> asked = estimate(work, rates, ks=[0, 1, 5, 20])  # doctest: +SKIP
>>> published = estimate(work, rates, ks=range(21))  # a score after every neighbour  # doctest: +SKIP
>>> total_hours(asked, documents=1000)  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment import DrawnDocument, retrieve
from tttnn.memory import ADAPTING, LOADING, NUMBER
from tttnn.models.lora import adapter_size
from tttnn.rows import Row
from tttnn.scoring import Scorer, Window
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Rates", "calibrate", "compare", "count_work", "describe", "estimate", "expected_seconds", "first_look", "fit",
    "memory_needed", "per_domain", "total_hours",
]  # fmt: skip

log = logging.getLogger(__name__)

DOCUMENT = ["domain", "document"]
TIMED = ["train_seconds", "evaluation_seconds", "retrieval_seconds"]  # as result rows have them, too
SECONDS = [*TIMED, "session_seconds", "seconds"]
PARTS = (8, 2, 1)  # chunks and windows of an eighth, a half and the whole of the longest are timed
FEW = 3  # documents for a first estimate
LOOKED_AT = (8, 2)  # parts of a chunk and a window at a first look
BATCH = 4  # windows of the longest batch timed
MOST_TURNS = 9
SESSIONS = 3  # timed
Numbers = TypeVar("Numbers", float, np.ndarray, "pd.Series")
SHORTEST = 1e-9  # seconds: what a clock that is too coarse to see them took for none
SEED = 1216


@dataclass(frozen=True)
class Rates:
    """What this machine takes for the parts of a run with one model, switches and number of threads.

    Attributes
    ----------
    seconds_per_step, seconds_per_trained_token : float
        A gradient step on a chunk of n tokens takes the first and n times the second.
    seconds_per_pass, seconds_per_scored_token : float
        So does a forward pass over one or several windows of n tokens in all.
    seconds_per_document : float
        Beside them: a new optimizer, a first step that has to take its memory, and restoring the weights.
    """

    seconds_per_step: float
    seconds_per_trained_token: float
    seconds_per_pass: float
    seconds_per_scored_token: float
    seconds_per_document: float

    def training(self, steps: Numbers, tokens: Numbers) -> Numbers:
        """Seconds of gradient steps; a number of tokens is that of all steps together."""
        return self.seconds_per_step * steps + self.seconds_per_trained_token * tokens

    def scoring(self, passes: Numbers, tokens: Numbers) -> Numbers:
        """Seconds of forward passes; a number of tokens is that of all passes together."""
        return self.seconds_per_pass * passes + self.seconds_per_scored_token * tokens


def calibrate(ttt: TTT, seconds: float = 20.0) -> Rates:
    """Time gradient steps and scoring passes of some lengths, with this model, these switches and threads.

    The weights are the initial ones again afterwards, bit for bit, and AdamW's moments are fresh ones. Windows longer
    than the published context (`config_context`) are not timed: their estimate is a straight line's.

    Parameters
    ----------
    ttt : TTT
        No loop may be unfinished on its model. No retriever is needed.
    seconds : float
        All lengths take turns until so much time has passed: at least one turn after a warm-up, at most nine. Rates
        are fitted to the medians.

    Raises
    ------
    ParameterError
        If `seconds` is negative or not a number.
    """
    if not seconds >= 0:
        raise ParameterError(f"seconds={seconds}: must be a number from 0 on")
    steps, passes, chunk = _measured(ttt, PARTS, [*((1, part) for part in PARTS), (BATCH, 1)], seconds)
    beside = median(_seconds_beside_steps(ttt, chunk) for _ in range(SESSIONS))
    ttt.forget()
    return Rates(*fit(*zip(*steps, strict=True)), *fit(*zip(*passes, strict=True)), max(0.0, beside))


def first_look(ttt: TTT) -> Rates:
    """Time a gradient step and a score of two lengths, each once after a warm-up: the least for an estimate.

    It takes a twentieth of the time of :func:`calibrate`. What a document takes beside its steps is not timed.

    Parameters
    ----------
    ttt : TTT
        As for :func:`calibrate`.
    """
    steps, passes, _ = _measured(ttt, LOOKED_AT, [(1, part) for part in LOOKED_AT], 0.0)
    ttt.forget()
    return Rates(*fit(*zip(*steps, strict=True)), *fit(*zip(*passes, strict=True)), 0.0)


def _measured(
    ttt: TTT, parts: Sequence[int], scores: Sequence[tuple[int, int]], seconds: float
) -> tuple[list[tuple[float, float]], list[tuple[float, float]], list[int]]:
    """Tokens and seconds of steps on parts of a chunk, and of scores (windows, part of each); the chunk, made up."""
    settings, switches = ttt.lm.settings, ttt.switches
    length, context = switches.max_length or settings.max_length, switches.context or settings.context
    ids = random.Random(SEED).choices(range(switches.vocabulary or len(ttt.lm.head[0])), k=max(length, context))
    train, score = partial(_train, ttt, ids[:length]), partial(_score, ttt.scorer("a"), ids[:context])
    tasks = [*(partial(train, part) for part in parts), *(partial(score, *each) for each in scores)]
    with ttt.session():
        taken = _medians(tasks, seconds)
    return taken[: len(parts)], taken[len(parts) :], ids[:length]


# On a GPU, each of these two ends by reading a number, which waits for all that was asked of it before.
def _train(ttt: TTT, ids: list[int], part: int, turn: int) -> int:
    chunk = _part(ids, part, turn)
    float(ttt.train([chunk])[0])
    return len(chunk)


def _score(scorer: Scorer, ids: list[int], windows: int, part: int, turn: int) -> int:
    inputs = _part(ids, part, turn)
    scorer.token_nats([Window(inputs, inputs)] * windows).sum().item()
    return windows * len(inputs)


def _part(ids: list[int], part: int, turn: int) -> list[int]:
    """The whole, or a part that is a token shorter each turn: texts end in all lengths, and a first one takes longer.

    oneDNN prepares a product of a new shape before it computes it.
    """
    return ids if part == 1 else ids[: max(2, len(ids) // part - turn)]


def _seconds_beside_steps(ttt: TTT, chunk: list[int]) -> float:
    """Of a session of two steps, what it takes beyond twice the second one."""
    step = partial(_train, ttt, chunk, 1, 0)
    start = time.perf_counter()
    with ttt.session():
        step()
        _, second = _timed(step)
    return time.perf_counter() - start - 2 * second


def _medians(tasks: Sequence[Callable[[int], int]], seconds: float) -> list[tuple[float, float]]:
    """Tokens and seconds of each task. They take turns, so that a slow moment of the machine meets all of them."""
    for task in tasks:
        task(0)
    turns: list[list[tuple[int, float]]] = []
    end = time.perf_counter() + seconds
    while not turns or (time.perf_counter() < end and len(turns) < MOST_TURNS):
        turns.append([_timed(partial(task, len(turns) + 1)) for task in tasks])
    return [tuple(map(median, zip(*of_task, strict=True))) for of_task in zip(*turns, strict=True)]


def _timed(task: Callable[[], int]) -> tuple[int, float]:
    start = time.perf_counter()
    tokens = task()
    return tokens, time.perf_counter() - start


def fit(tokens: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit seconds = constant + rate * tokens by least squares of the relative deviations, neither one negative.

    Parameters
    ----------
    tokens : sequence of float
    seconds : sequence of float
        Each above 0.

    Returns
    -------
    constant, rate : float
        Seconds, and seconds per token.
    """
    from scipy.optimize import nnls

    taken = np.maximum(seconds, SHORTEST)[:, np.newaxis]
    terms = np.column_stack([np.ones(len(tokens)), tokens]) / taken  # (lengths, 2)
    constant, rate = nnls(terms, np.ones(len(tokens)))[0].tolist()
    return constant, rate


def count_work(ttt: TTT, documents: Iterable[DrawnDocument], k: int) -> pd.DataFrame:
    """Find the documents' neighbours and count what training on them and scoring will take; nothing is trained.

    Parameters
    ----------
    ttt : TTT
        Model, retriever and switches; `max_chunks` and `split_query` count.
    documents : iterable of DrawnDocument
    k : int
        Most neighbours; 0: only scoring is counted.

    Returns
    -------
    DataFrame
        One row per (domain, document, k), k from 0. steps and train_tokens (of the k-th neighbour, 0 at k = 0);
        passes and score_tokens (of one score of the document, the same in all its rows); tokenize_seconds (of this
        neighbour) and retrieval_seconds (of all, at k = 0), both measured. A document that a run could not evaluate
        is left out, which is logged.

    Raises
    ------
    ParameterError
        If k is negative, or above 0 without a retriever, or no document is left.
    CorpusError, DamagedIndex, IndexMismatch
        If corpus or index are not in order.
    """
    import pandas as pd

    if k < 0:
        raise ParameterError(f"k={k}: must not be negative")
    if k and ttt.retriever is None:
        raise ParameterError(f"k={k}: neighbours need a retriever: TTT(lm, open_retriever(...), ...)")
    rows: list[Any] = []
    reasons: list[str] = []
    for document in documents:
        try:
            if not rows:
                retrieve(ttt, document, k)  # loads what later look-ups find loaded
            rows += _document_work(ttt, document, k)
        except DocumentError as error:
            reasons.append(f"{document.domain} document {document.number}: {error}")
            log.warning("left out of the estimate: %s", reasons[-1])
    if not rows:
        raise ParameterError(f"documents: none to estimate from{'; ' + reasons[0] if reasons else ''}")
    return pd.DataFrame(rows)


def _document_work(ttt: TTT, document: DrawnDocument, k: int) -> list[Row]:
    found = retrieve(ttt, document, k)
    passes, tokens = ttt.scorer(found.scored).work
    same = {"domain": document.domain, "document": document.number, "passes": passes, "score_tokens": tokens}
    first = {"k": 0, "steps": 0, "train_tokens": 0, "tokenize_seconds": 0.0, "retrieval_seconds": found.seconds}
    work = [_neighbour_work(ttt, text) for text in found.texts]
    return [same | first, *(same | {"k": number} | each for number, each in enumerate(work, start=1))]


def _neighbour_work(ttt: TTT, text: str) -> Row:
    start = time.perf_counter()
    chunks, _, _ = ttt.chunks(text)
    seconds = time.perf_counter() - start
    return {
        "steps": len(chunks),
        "train_tokens": sum(map(len, chunks)),
        "tokenize_seconds": seconds,
        "retrieval_seconds": 0.0,
    }


def estimate(work: pd.DataFrame, rates: Rates, ks: Sequence[int]) -> pd.DataFrame:
    """Predict the seconds of each document.

    Parameters
    ----------
    work : DataFrame
        Of :func:`count_work`.
    rates : Rates
    ks : sequence of int
        Where a run is to score; its largest is the number of neighbours. With ``range(k + 1)`` it is the published
        cost, a score after every neighbour.

    Returns
    -------
    DataFrame
        One row per (domain, document): steps and train_tokens of all neighbours; train_seconds, evaluation_seconds
        and retrieval_seconds, the parts that a run's rows have; session_seconds (beginning with a document and
        restoring the weights after it); seconds (their sum).

    Raises
    ------
    ParameterError
        If `ks` is empty, negative, or beyond the k that work was counted for.
    """
    wanted, counted = set(ks), int(work["k"].max())
    if not wanted or min(wanted) < 0 or max(wanted) > counted:
        raise ParameterError(f"ks={list(ks)}: give numbers of neighbours from 0 to {counted}, those that were counted")
    done = work[work["k"] <= max(wanted)]
    parts = done[[*DOCUMENT, "steps", "train_tokens"]].assign(
        train_seconds=done["tokenize_seconds"] + rates.training(done["steps"], done["train_tokens"]),
        evaluation_seconds=rates.scoring(done["passes"], done["score_tokens"]).where(done["k"].isin(wanted), 0.0),
        retrieval_seconds=done["retrieval_seconds"],
    )
    found = parts.groupby(DOCUMENT, sort=False).sum()
    found["session_seconds"] = rates.seconds_per_document
    found["seconds"] = found[SECONDS[:-1]].sum(axis=1)
    return found.reset_index()


def expected_seconds(ttt: TTT, documents: Sequence[DrawnDocument], ks: Sequence[int]) -> float:
    """Seconds of a run, from a first look at a step and the work of three of its documents.

    Parameters
    ----------
    ttt : TTT
    documents : sequence of DrawnDocument
        Of the run.
    ks : sequence of int
        Where it is to score.

    Raises
    ------
    ParameterError
        If none of the three can be evaluated.
    """
    looked_at = documents[:: max(1, len(documents) // FEW)][:FEW]
    each = estimate(count_work(ttt, looked_at, max(ks)), first_look(ttt), ks)["seconds"]
    return float(each.mean() * len(documents))


def per_domain(estimated: pd.DataFrame) -> pd.DataFrame:
    """Average over each domain's documents.

    Returns
    -------
    DataFrame
        Index: domain, in the order given. documents (how many the mean is over), the means of all columns of
        :func:`estimate`, and standard_error, that of the mean seconds (missing for a single document).
    """
    groups = estimated.drop(columns="document").groupby("domain", sort=False)
    found = groups.mean()
    found.insert(0, "documents", groups.size())
    return found.assign(standard_error=groups["seconds"].sem())


def total_hours(estimated: pd.DataFrame, documents: int | Mapping[str, int]) -> tuple[float, float]:
    """Hours that a whole run will take.

    Parameters
    ----------
    estimated : DataFrame
        Of :func:`estimate`.
    documents : int or mapping of str to int
        Documents of the run in every domain, or in each by name.

    Returns
    -------
    hours, standard_error : float
        The second is what drawing so few documents alone leaves uncertain; nan if a domain has only one.
    """
    found = per_domain(estimated)
    counts = np.array([documents[name] if isinstance(documents, Mapping) else documents for name in found.index])
    seconds = (counts * found["seconds"]).sum()
    error = math.hypot(*(counts * found["standard_error"]))
    return float(seconds / 3600), error / 3600


def memory_needed(ttt: TTT) -> int:
    """Bytes of the weights and of what training takes beside them (see `tttnn.memory`); activations apart."""
    weights = sum(parameter.numel() for parameter in ttt.lm.model.parameters())
    rank = ttt.switches.lora
    return NUMBER * (LOADING * weights + ADAPTING * (adapter_size(ttt.lm.model, rank) if rank else weights))


def describe(work: pd.DataFrame, rates: Rates, ks: Sequence[int], planned: Mapping[str, int]) -> str:
    """Write an estimate as a table: a line per domain, then the hours of the whole run.

    Parameters
    ----------
    work, rates, ks
        See :func:`estimate`.
    planned : mapping of str to int
        Documents of the run in each domain.
    """
    k = max(ks)
    asked, published = estimate(work, rates, ks), estimate(work, rates, range(k + 1))
    every = per_domain(published)["seconds"]
    lines = [
        f"{'documents':>37s}{'per neighbour':>16s}{'seconds per document':>35s}",
        f"{'domain':20s}{'counted':>8s}{'planned':>9s}{'tokens':>8s}{'steps':>8s}{'retrieval':>11s}{'training':>10s}"
        f"{'scores':>9s}{'all':>9s}{'+-':>8s}{'as published':>14s}",
    ]
    for domain, mean in per_domain(asked).iterrows():
        tokens, steps = mean["train_tokens"] / max(k, 1), mean["steps"] / max(k, 1)
        lines.append(
            f"{domain:20s}{mean['documents']:8,.0f}{planned[domain]:9,d}{tokens:8,.0f}{steps:8,.1f}"
            f"{mean['retrieval_seconds']:11,.3f}{mean['train_seconds']:10,.2f}{mean['evaluation_seconds']:9,.2f}"
            f"{mean['seconds']:9,.2f}{mean['standard_error']:8,.2f}{every[domain]:14,.2f}"
        )
    return "\n".join([*lines, *_totals(work, rates, ks, planned)])


def _totals(work: pd.DataFrame, rates: Rates, ks: Sequence[int], planned: Mapping[str, int]) -> list[str]:
    def hours(ks: Sequence[int]) -> tuple[float, float]:
        return total_hours(estimate(work, rates, ks), planned)

    whole, error = hours(ks)
    earlier = sorted(set(ks) - {0, max(ks)})
    shorter = [f"{_duration(hours([k for k in ks if k <= last])[0])} up to k = {last}" for last in earlier]
    drawn = "not known from one document" if math.isnan(error) else _duration(error)
    return [
        f"whole run: {_duration(whole)}; standard error of counting so few documents: {drawn}",
        f"as published, with a score after every neighbour: {_duration(hours(range(max(ks) + 1))[0])}",
        *([f"if it ends earlier: {', '.join(shorter)}"] if shorter else []),
    ]


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"


def compare(estimated: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Set an estimate against the rows of a run over the same documents with the same `ks`.

    Parameters
    ----------
    estimated : DataFrame
        Of :func:`estimate`.
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.

    Returns
    -------
    DataFrame
        One row per document that is in both. For train, evaluation and retrieval: <part>_seconds (estimated),
        <part>_seconds_measured, and <part>_ratio, the first over the second.
    """
    measured = rows.groupby(DOCUMENT, sort=False)[TIMED].sum().reset_index()
    both = estimated[[*DOCUMENT, *TIMED]].merge(measured, on=DOCUMENT, suffixes=("", "_measured"))
    ratios = {name.replace("seconds", "ratio"): both[name] / both[f"{name}_measured"] for name in TIMED}
    return both.assign(**ratios)
