"""The loop: adapt a model on a text's neighbours, score along the way, restore the weights.

Section 3 of Hardt & Sun (2024): take the neighbours nearest first, and on each make one gradient step per chunk
of `max_length` tokens. The defaults are clean; each deviation of the published code is a field of `Switches`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tttnn import operations
from tttnn.errors import DocumentError, ParameterError
from tttnn.memory import ADAPTING, COPY, keeping_freed, require
from tttnn.models import LanguageModel, mean_cross_entropy
from tttnn.models.columns import Columns, frozen_but
from tttnn.models.graphs import BucketedSteps, ahead
from tttnn.models.lora import adapter_size, adapters, forked_rng
from tttnn.models.model_registry import check_prefix, understand
from tttnn.models.parts import find_part, select_part
from tttnn.models.precision import WorkingCopies, tf32
from tttnn.models.products import bfloat16_is_fast, has_amx
from tttnn.parameters import number, numbers
from tttnn.scoring import Score, Scorer

if TYPE_CHECKING:
    from tttnn.retrieval import Neighbour, Neighbours, Retriever
    from tttnn.retrieval.strategies import Selection

log = logging.getLogger(__name__)
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHTS = "float32", "bfloat16"
LOSSES = ("suffix", "suffix-query")
HEAD = 4  # with the loss suffix-query, the query's head takes a fourth of a chunk at most
DIFFERENT = ("dropout", "lora", "loss", "reuse", "pace")  # switches with which no step is like the one before
Cut = tuple[Sequence[list[int] | Tensor], int, int, int]  # chunks of a neighbour, their tokens, skipped, beyond


@dataclass(frozen=True)
class Switches:
    """What a run may change; the defaults are the clean semantics.

    Attributes
    ----------
    learning_rate, eps, max_length, context : float or int, optional
        Override the model's published settings (tokens for the last two).
    clip : float
        Largest gradient norm.
    weight_decay : float
        AdamW's default, which the published code leaves on.
    max_chunks : int, optional
        Most chunks (steps) taken from one neighbour; None: all.
    keep_optimizer : bool
        Published quirk: AdamW's moments survive from one document to the next.
    ranks : int
        With `keep_optimizer`: processes that a domain's documents are dealt to, each with moments of its own. Published
        are 1 (report), 8, 30 and 150 (paper).
    dropout : float
        Dropout rate while training; the published code trains GPT-2 with 0.1.
    config_context : bool
        Published quirk: score with the longest context the model's config allows (131,072 tokens for R1-Qwen).
    prefix : str, optional
        The token before a text: "bos" (beginning of sequence) or, as in the published code, "eos" (end of sequence).
        Default: as the model's settings say.
    split_query : bool
        The first half of the text is the query, only the second half is scored.
    vocabulary : int, optional
        Score over the first so many entries of the vocabulary (the report's R1-Qwen run: 50,257).
    precision : str
        Of the matrix products of the gradient steps: "float32", "tf32" (float32 whose factors a GPU rounds to 10 bits
        after the point), or "bfloat16" (autocast). Weights and optimizer stay float32.
    scoring : str, optional
        Of the matrix products of the scores: "tf32" on a GPU. None: float32.
    buckets : bool, optional
        Whether chunks are padded to a few lengths, which changes nothing but rounding, so that a GPU can repeat a
        step as one CUDA graph: see `tttnn.models.graphs`. None: on a GPU, but not with dropout, lora, loss,
        reuse or pace.
    weights : str
        "float32", or "bfloat16" for the quirk of a model that is loaded in its checkpoint's type: weights are rounded
        to it at the start and after each step, so that small steps are lost.
    lora : int, optional
        Rank of low-rank adapters (LoRA: Hu et al., 2021, arXiv 2106.09685), which are trained instead of the weights
        and dropped after each document. They sit on all linear layers but the output head, with alpha twice the rank
        and no dropout of their own. The model's learning rate is meant for its weights; adapters may want another.
        None: all weights are trained.
    train : str, optional
        The part of the weights that is trained, by its name in `tttnn.models.parts.PARTS` ("head", "norms", "down",
        "queries" or "last:N") or of another package. None: all weights, as published.
    loss : str, optional
        What of a chunk is predicted. "suffix": its second half, given its first. "suffix-query": the same, with the
        query's head before the chunk, as many tokens as a fourth of `max_length`, by which chunks are shorter. The
        query is known text only where another text is scored, so that loss needs `split_query`: without it the scored
        text would be seen before it is scored. (TTARAG, arXiv 2601.11443: its formula has the query, its public code
        trains without.) None: all of the chunk but its first token, as published.
    reuse : int, optional
        Of a neighbour that comes several times in a row, compute the gradient at every so many of its steps and make
        the others with the last one computed (HullFT, arXiv 2605.30337: 2). Only where one chunk of it is taken, as one
        gradient is kept. A step with an old gradient has no loss (nan) and no tokens. None: compute all.
    pace : str, optional
        Multiply a neighbour's learning rate by what `tttnn.retrieval.sift.paces` says: "uncertainty" or "stop:ALPHA".
        Needs a strategy that says how uncertain the answer is, such as "sift". None: one rate for all.
    seed : int
        For dropout and adapters; each document starts from it.
    """

    learning_rate: float | None = None
    eps: float | None = None
    max_length: int | None = None
    context: int | None = None
    clip: float = 1.0
    weight_decay: float = 0.01
    max_chunks: int | None = None
    keep_optimizer: bool = False
    ranks: int = 1
    dropout: float = 0.0
    config_context: bool = False
    prefix: str | None = None
    split_query: bool = False
    vocabulary: int | None = None
    precision: str = "float32"
    scoring: str | None = None
    buckets: bool | None = None
    weights: str = "float32"
    lora: int | None = None
    train: str | None = None
    loss: str | None = None
    reuse: int | None = None
    pace: str | None = None
    seed: int = 1216

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.config_context and self.context is not None:
            raise ParameterError(f"context={self.context} and config_context: give one of them")
        for name, known in {"precision": tuple(PRECISIONS), "weights": WEIGHTS}.items():  # tuples: a list has no hash
            if getattr(self, name) not in known:
                raise ParameterError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(known)}")
        self._check_speed()
        if self.ranks > 1 and not self.keep_optimizer:
            raise ParameterError(f"ranks={self.ranks}: must be 1, and more only with keep_optimizer")
        if not self.dropout < 1:
            raise ParameterError(f"dropout={self.dropout}: must be in [0, 1)")
        if self.prefix is not None:
            check_prefix(self.prefix)
        if self.lora is not None:
            self._check_lora()
        if self.train is not None:
            self._check_part()
        if self.loss is not None:
            self._check_loss()
        if self.pace is not None:
            from tttnn.retrieval.sift import parse_pace

            parse_pace(self.pace)

    def _check_numbers(self) -> None:
        """Numbers that are spelt in text, as YAML and shells hand them over, are numbers from here on."""
        for name in ("learning_rate", "eps", "clip"):
            if getattr(self, name) is not None:
                understand(self, name, positive=True)
        least = {
            "max_length": 2, "context": 1, "max_chunks": 1, "vocabulary": 1, "lora": 1, "reuse": 2, "ranks": 1,
            "seed": 0,
        }  # fmt: skip
        for name, smallest in least.items():  # a chunk needs two tokens to predict one
            if getattr(self, name) is not None:
                understand(self, name, least=smallest, whole=True)
        for name in ("weight_decay", "dropout"):
            understand(self, name, least=0)
        for name in ("keep_optimizer", "config_context", "split_query"):  # the text "false" would count as true
            if not isinstance(value := getattr(self, name), bool):
                raise ParameterError(f"{name}={value!r} ({type(value).__name__}): must be true or false")

    def _check_speed(self) -> None:
        if self.scoring not in (None, "tf32"):
            raise ParameterError(f"scoring={self.scoring!r}: must be tf32, or left out for float32")
        if not isinstance(self.buckets, bool | None):
            raise ParameterError(f"buckets={self.buckets!r} ({type(self.buckets).__name__}): must be true or false")
        if self.buckets and (other := [name for name in DIFFERENT if getattr(self, name)]):
            raise ParameterError(
                f"buckets and {other[0]}: a step that is repeated as it is has no new "
                "random numbers and no new adapters; leave buckets out"
            )

    def _check_part(self) -> None:
        find_part(self.train)
        if self.lora is not None:
            raise ParameterError(f"train={self.train!r} and lora={self.lora}: give one of the two")
        if self.weights != "float32":
            raise ParameterError(
                f"train={self.train!r} and weights={self.weights!r}: only what is trained would be rounded; give one"
            )

    def _check_loss(self) -> None:
        if self.loss not in LOSSES:
            raise ParameterError(f"loss={self.loss!r}: must be one of {', '.join(LOSSES)}")
        if self.loss == "suffix-query" and not self.split_query:
            raise ParameterError(
                "loss='suffix-query' without split_query: the query would be the scored text, which must not be used "
                "before it is scored; give split_query, too, or loss='suffix'"
            )

    def _check_lora(self) -> None:
        if self.keep_optimizer:
            raise ParameterError(
                f"lora={self.lora} and keep_optimizer: adapters are dropped after each document, and AdamW's moments "
                "with them; give one of the two"
            )
        if self.weights != "float32":
            raise ParameterError(
                f"lora={self.lora} and weights={self.weights!r}: the weights stay as they are beside adapters, so none "
                "is rounded; give one of the two"
            )


@dataclass(frozen=True)
class Step:
    """State after the k-th neighbour (k = 0: before the first).

    Attributes
    ----------
    k : int
        Neighbours trained on so far.
    score : Score or None
        Of the text, where one was asked for at this k.
    losses : tuple of float
        Training loss before each gradient step on this neighbour, nats/token; nan with a gradient used again.
    tokens : int
        Tokens of this neighbour that were trained on, with those of the query put before them.
    skipped : int
        Last chunks of one token, which hold nothing to predict.
    beyond : int
        Chunks left out because of `max_chunks`.
    train_seconds, evaluation_seconds : float
        Wall time of this neighbour's steps, and of the scoring after it. The published "training cost" is
        their sum with a score at every k.
    train_operations, evaluation_operations : float
        Floating-point operations of the two: see `tttnn.operations`.
    """

    k: int
    score: Score | None
    losses: tuple[float, ...] = ()
    tokens: int = 0
    skipped: int = 0
    beyond: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    train_operations: float = 0.0
    evaluation_operations: float = 0.0

    @property
    def loss(self) -> float:
        """Mean training loss on this neighbour, nats/token (nan where it gave no step)."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A text scored before and after adapting on its neighbours."""

    before: Score
    after: Score
    steps: tuple[Step, ...]
    neighbours: Neighbours

    @property
    def ratio(self) -> float:
        """Bits per byte after / before; below 1 is a gain."""
        return self.after.nats / self.before.nats

    def __repr__(self) -> str:
        before, after = self.before.bits_per_byte, self.after.bits_per_byte
        change = f"{before:.4f} -> {after:.4f} ({100 * self.ratio:.1f}%)"
        return f"Evaluation(bits/byte {change} after {self.steps[-1].k} neighbours)"


@dataclass(frozen=True)
class Retrieved:
    """What a text is adapted on, and what of it is scored.

    Attributes
    ----------
    query, scored : str
        The whole text twice, or its halves with `split_query`.
    neighbours : Neighbours
        Nearest first, or as the retriever's strategy has them.
    seconds : float
        Wall time of finding them.
    """

    query: str
    scored: str
    neighbours: Neighbours | Sequence[Neighbour]
    seconds: float

    @property
    def texts(self) -> list[str]:
        """Texts of the neighbours."""
        return [neighbour.text for neighbour in self.neighbours]


@dataclass(frozen=True)
class _Lesson:
    """A neighbour to train on: its text, what its rate is multiplied by, and how often it has come just before."""

    text: str
    pace: float = 1.0
    again: int = 0


class TTT:
    """Test-time training on nearest neighbours.

    Parameters
    ----------
    lm : LanguageModel
    retriever : Retriever or Selection, optional
        Needed by :meth:`evaluate` only; :meth:`adapt` takes texts.
    switches : Switches, optional

    Attributes
    ----------
    trained : int
        How many numbers a step changes: the weights, a part of them, or adapters.

    Examples
    --------
    >>> ttt = TTT(load_model("gpt2-xs-general"), open_retriever("wheels"))  # doctest: +SKIP
    >>> ttt.evaluate(text, k=20).ratio  # doctest: +SKIP
    """

    def __init__(
        self, lm: LanguageModel, retriever: Retriever | Selection | None = None, switches: Switches | None = None
    ) -> None:
        self.lm = lm
        self.retriever = retriever
        self.switches = switches or Switches()
        if (self.switches.max_length or 0) > lm.positions:
            raise ParameterError(
                f"max_length={self.switches.max_length}: {lm.name} takes at most {lm.positions} tokens"
            )
        if self.switches.precision == "bfloat16" and not bfloat16_is_fast(lm.device):
            log.warning(
                "precision=bfloat16: this processor has no instructions for it, so that a step takes many times as "
                "long as in float32; leave precision at float32, or take another machine"
            )
        elif self.switches.precision == "float32" and lm.device.type == "cpu" and has_amx():
            log.info("this processor has AMX: with precision=bfloat16 the steps of a large model are far faster")
        rank, part = self.switches.lora, self.switches.train
        weights = select_part(lm.model, part) if part else list(lm.model.parameters())
        self._parameters = [] if rank else weights  # what a step changes; adapters come and go
        self._columns = [each for each in weights if isinstance(each, Columns)]
        self.trained = trained = adapter_size(lm.model, rank) if rank else sum(p.numel() for p in weights)
        copied = 0 if rank or lm.has_copy else sum(p.numel() for p in lm.model.parameters())
        own = ADAPTING if rank else ADAPTING - COPY  # adapters are not copied, but are themselves new
        require(lm.name, own * trained + COPY * copied, "adapt it", lm.device)
        self._buckets = self._new_buckets()
        self._optimizer: torch.optim.AdamW | None = None
        self._kept: list[Tensor | None] = []  # the last gradient, with `reuse`
        self.forget()

    def evaluate(
        self, text: str, k: int = 20, ks: Sequence[int] | None = None, meta: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """Retrieve k neighbours of a text, adapt on them, and score it before and after.

        Parameters
        ----------
        text : str
            The test text; with `split_query` its first half is the query and its second half is scored.
        k : int
            Neighbours to train on, at least 1.
        ks : sequence of int, optional
            Where to score besides 0 and k.
        meta : mapping, optional
            What is known about the text, such as a document's `meta`: some strategies of `tttnn.retrieval` need it.

        Raises
        ------
        ParameterError
            If k is below 1 or above the corpus size, or there is no retriever.
        DocumentError
            If the text is empty, or has no such neighbours.
        """
        k = number("k", k, least=1, whole=True)
        found = self.retrieve(text, k, meta)
        places = {0, k} | (check_ks(ks) if ks else set())
        steps = tuple(self.follow(found, sorted(places), waiting=False))
        before, after = steps[0].score, steps[-1].score
        assert before is not None and after is not None  # both are asked for
        return Evaluation(before, after, steps, cast("Neighbours", found.neighbours))  # as k is at least 1

    def retrieve(self, text: str, k: int, meta: Mapping[str, Any] | None = None) -> Retrieved:
        """Find the neighbours that a text is adapted on, for :meth:`evaluate` and the runner of experiments alike.

        Parameters
        ----------
        text : str
        k : int
            How many; for 0 none is looked for, and no retriever needed.
        meta : mapping, optional
            See :meth:`evaluate`.

        Raises
        ------
        ParameterError
            If k is above the corpus size, or there is no retriever.
        DocumentError
            If the text is empty, or has no such neighbours.
        """
        query, scored = split_halves(text) if self.switches.split_query else (text, text)
        if not k:
            return Retrieved(query, scored, (), 0.0)
        retriever = self.need_retriever()
        start = time.perf_counter()
        neighbours = retriever.neighbours(query, k, meta)
        return Retrieved(query, scored, neighbours, time.perf_counter() - start)

    def need_retriever(self) -> Retriever | Selection:
        """Return the retriever; raise ParameterError if the loop was made without one."""
        if self.retriever is None:
            raise ParameterError("neighbours need a retriever: TTT(lm, open_retriever(...)); adapt takes texts instead")
        return self.retriever

    def follow(self, found: Retrieved, ks: Sequence[int], waiting: bool = True) -> Iterator[Step]:
        """Adapt on what :meth:`retrieve` found, as :meth:`adapt` does, with all that the switches use of it."""
        paces: Sequence[float] = ()
        if self.switches.pace:
            from tttnn.retrieval.sift import paces as paces_of

            paces = paces_of(self.switches.pace, [neighbour.uncertainty for neighbour in found.neighbours])
        query = found.query if self.switches.loss == "suffix-query" else ""
        return self.adapt(found.scored, found.texts, ks, query=query, paces=paces, waiting=waiting)

    def adapt(
        self, text: str, neighbours: Sequence[str], ks: Sequence[int] = (0, 1, 2, 5, 10, 20), *, query: str = "",
        paces: Sequence[float] = (), waiting: bool = True,
    ) -> Iterator[Step]:  # fmt: skip
        """Train on the neighbours in the order given, and yield a step for each k from 0 to the largest of `ks`.

        The weights are the initial ones again when the iterator ends, is closed or fails, bit for bit.

        Parameters
        ----------
        text : str
            Scored text.
        neighbours : sequence of str
            Texts to train on, nearest first; at least max(ks).
        ks : sequence of int
            Where to score the text.
        query : str
            What is known beforehand and shares nothing with `text`; for the loss "suffix-query" only.
        paces : sequence of float
            What each neighbour's learning rate is multiplied by; for the switch `pace` only, one for each of them.
        waiting : bool
            Whether each step is over when it is yielded, and the weights are its own. Otherwise a GPU is waited for
            only where there is a score, and the steps before it come together with it.

        Raises
        ------
        ParameterError
            If `ks` is empty or negative, or there are too few neighbours; if a switch needs a query or paces.
        DocumentError
            If the text is empty, or cannot be scored as the switches say.
        RuntimeError
            At the first step, if another loop on the same model is unfinished: exhaust or close its iterator.
        """
        wanted = check_ks(ks, neighbours)
        lessons = self._lessons(neighbours[: max(wanted)], query, paces)
        return self._steps(self.scorer(text), lessons, wanted, self._head(query), waiting)

    def _lessons(self, neighbours: Sequence[str], query: str, paces: Sequence[float]) -> list[_Lesson]:
        if neighbours and bool(query) != (self.switches.loss == "suffix-query"):
            raise ParameterError("query: is to be given with loss='suffix-query', as `evaluate` does, and only then")
        if neighbours and bool(paces) != (self.switches.pace is not None):
            raise ParameterError("paces: are to be given with the switch `pace`, as `evaluate` does, and only then")
        if paces and len(paces) < len(neighbours):
            raise ParameterError(f"paces: {len(paces)} for {len(neighbours)} neighbours")
        lessons: list[_Lesson] = []
        for text, pace in zip(neighbours, paces or [1.0] * len(neighbours), strict=False):
            again = lessons[-1].again + 1 if lessons and lessons[-1].text == text else 0
            lessons.append(_Lesson(text, pace, again))
        return lessons

    def _head(self, query: str) -> list[int]:
        """Tokens of a query that are put before each chunk."""
        return self.lm.encode(query)[: self._length // HEAD] if query else []

    @property
    def _length(self) -> int:
        """Most tokens of a chunk."""
        return self.switches.max_length or self.lm.settings.max_length

    def scorer(self, text: str) -> Scorer:
        """Scorer of a text as the switches say."""
        context = self.lm.positions if self.switches.config_context else self.switches.context
        return Scorer(self.lm, text, context, self.switches.vocabulary, self.prefix_id)

    @property
    def prefix_id(self) -> int:
        """Id of the token before a text, as the switches or else the model's settings say."""
        return self.lm.token_before(self.switches.prefix) if self.switches.prefix else self.lm.prefix_id

    def _steps(
        self, scorer: Scorer, lessons: Sequence[_Lesson], wanted: set[int], given: list[int], waiting: bool = True
    ) -> Iterator[Step]:  # fmt: skip
        every = [_Lesson(""), *lessons]
        cut = ahead if self.lm.device.type == "cuda" else map  # a processor has nobody to do it meanwhile
        begun: list[_Begun] = []
        with self.session():
            cuts = iter(cut(partial(self._cut, given=len(given)), every))
            for k, lesson in enumerate(every):
                begun.append(self._begin(k, lesson, cuts, scorer if k in wanted else None, given))
                if waiting or begun[-1].score:
                    yield from map(_Begun.finish, begun)
                    begun.clear()

    def check_precision(self) -> None:
        """Refuse what the device does not have, with ParameterError: a processor would do float32 and call it TF32."""
        if "tf32" in (self.switches.precision, self.switches.scoring) and self.lm.device.type == "cpu":
            raise ParameterError("precision=tf32, scoring=tf32: only a GPU has it; leave them out on a processor")

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Steps made in here are undone at its end: the model is the initial one again, bit for bit.

        Raises
        ------
        RuntimeError
            If another one on the same model is open.
        ParameterError
            If TF32 is asked for on a processor.
        """
        with self.lm.taken():
            self.check_precision()
            trained = self._with_adapters(rank) if (rank := self.switches.lora) else self._with_weights()
            try:
                with keeping_freed(self.lm.device), trained:
                    yield
            finally:
                self._kept = []

    @contextlib.contextmanager
    def _with_weights(self) -> Iterator[None]:
        """Steps change the weights, or a part of them; all are copied back."""
        if not self.switches.keep_optimizer:
            self.forget()
        part = frozen_but(self.lm.model, self._parameters) if self.switches.train else contextlib.nullcontext()
        try:
            with self.lm.restoring(), part:
                self.renew()
                yield
        finally:
            if not self.switches.keep_optimizer:
                self.forget()  # at once: the moments take twice the memory of the weights

    @contextlib.contextmanager
    def _with_adapters(self, rank: int) -> Iterator[None]:
        """Steps change adapters, which are dropped."""
        try:
            with adapters(self.lm.model, rank, self.switches.seed) as self._parameters:
                self.forget()
                yield
        finally:
            self._parameters = []
            self.forget()

    def renew(self) -> None:
        """Let all that a step computes with follow the weights; for who changes them by other means than steps."""
        self._round()
        for columns in self._columns:
            columns.write_back()
        if self._copies:
            self._copies.renew()

    def forget(self) -> None:
        """Begin with fresh AdamW moments, which a session does by itself unless `keep_optimizer`."""
        if self._buckets and self._optimizer:  # a graph goes on with the memory that it knows
            moments = [each for state in self._optimizer.state.values() for each in state.values()]
            torch._foreach_zero_(moments) if moments else None
        else:
            self._optimizer = self._new_optimizer() if self._parameters else None

    @property
    def optimizer(self) -> torch.optim.AdamW:
        """Of the weights that a step changes. With `lora` there is one inside a `session` only, as adapters go."""
        if self._optimizer is None:
            raise RuntimeError("with lora there is an optimizer inside a session only")
        return self._optimizer

    def _begin(
        self, k: int, lesson: _Lesson, cuts: Iterator[Cut], scorer: Scorer | None, given: list[int]
    ) -> _Begun:  # fmt: skip
        start = self._mark()
        losses: Sequence[Tensor | float]
        chunks, tokens, skipped, beyond = next(cuts)
        if self._kept and len(chunks) == 1 and lesson.again % (self.switches.reuse or 1):
            losses, tokens = [self._step_again(lesson.pace)], 0
        else:
            self._kept = []
            with self._paced(lesson.pace):
                losses = self.train(chunks, k, given)
        trained = self._mark()
        with tf32(self.switches.scoring == "tf32"):
            score = scorer() if scorer else None
        spent = self.operations(tokens), scorer.operations() if scorer else 0.0
        return _Begun(k, score, losses, tokens, skipped, beyond, (start, trained, self._mark()), spent)

    def operations(self, tokens: int) -> float:
        """Floating-point operations of steps on so many tokens; see `tttnn.operations`."""
        return operations.training(self.lm.parameters, tokens, self.trained)

    def _cut(self, lesson: _Lesson, given: int = 0) -> Cut:
        """Chunks of a neighbour, where it can be on the GPU already."""
        chunks, skipped, beyond = self.chunks(lesson.text, given) if lesson.pace else ([], 0, 0)
        ready = [self._buckets.prepare(chunk) for chunk in chunks] if self._buckets else chunks
        return ready, sum(given + len(chunk) for chunk in chunks), skipped, beyond

    @contextlib.contextmanager
    def _paced(self, pace: float) -> Iterator[None]:
        """Steps in here have the learning rate times `pace`."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        try:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = pace * rate
            yield
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def chunks(self, neighbour: str, given: int = 0) -> tuple[list[list[int]], int, int]:
        """Cut a neighbour into what is trained on: disjoint chunks of `max_length` tokens, the last one may be shorter.

        With as many tokens given before each, chunks are shorter by those.

        Returns
        -------
        chunks : list of list of int
            At most `max_chunks`, each of at least two token ids.
        skipped, beyond : int
            Chunks left out: see `Step`.
        """
        tokens = self.lm.encode(neighbour)
        length = self._length - given
        every = [tokens[i : i + length] for i in range(0, len(tokens), length)]
        taken = every[: self.switches.max_chunks]
        chunks = [chunk for chunk in taken if len(chunk) > 1]
        return chunks, len(taken) - len(chunks), len(every) - len(taken)

    def train(self, chunks: Sequence[list[int] | Tensor], k: int = 0, given: Sequence[int] = ()) -> list[Tensor]:
        """Make one step on each chunk, inside a `session`, with the dropout of the k-th neighbour; see `update`.

        The tokens `given` go before each chunk and are not predicted.
        """
        if self._buckets:
            return [self._buckets(chunk) for chunk in chunks]
        with _dropout(self.lm.model, self.switches.dropout, self.switches.seed + k):
            return [self.update([*given, *chunk], self._known(len(chunk)) + len(given)) for chunk in chunks]

    def _known(self, tokens: int) -> int:
        """Of a chunk's tokens, how many at its beginning are not predicted."""
        return tokens // 2 if self.switches.loss else 1

    def update(self, chunk: list[int], known: int = 1) -> Tensor:
        """Make one AdamW step on a chunk of at least two token ids, inside a `session`.

        Its loss is the mean over all tokens but the first `known`, at least one.

        Returns
        -------
        Tensor of float32, shape ()
            The loss before the step, nats/token: a tensor, so that a GPU need not be waited for.
        """
        if self._buckets and known == 1:
            return self._buckets(chunk)
        ids = torch.tensor([chunk], device=self.lm.device)  # (1, tokens)
        # The last token predicts nothing, but products of 1,024 rows are faster than of 1,023. With dropout it stays
        # out, as its random numbers would shift all others from those of the archived runs.
        return self._learn(ids[:, :-1] if self.switches.dropout else ids, ids[0, known:], known=known)

    def _learn(self, ids: Tensor, targets: Tensor, divisors: Tensor | None = None, known: int = 1) -> Tensor:
        """Make one step on token ids, shape (1, n); see `mean_cross_entropy` for the rest."""
        dtype, copies = PRECISIONS[self.switches.precision], self._copies
        if divisors is not None:  # of a graph whose recording failed there may be some
            self._drop_gradients()
        autocast = torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32)
        with tf32(self.switches.precision == "tf32"):
            with autocast:
                hidden = (copies or self.lm).hidden(ids)[0, known - 1 :]  # (n or, of tokens known, fewer; width)
            loss = mean_cross_entropy(hidden.float(), *self.lm.head, targets, dtype, divisors)
            loss.backward()
        if copies:
            copies.give_gradients()
        for columns in self._columns:
            columns.take_gradient()
        nn.utils.clip_grad_norm_(self._parameters, self.switches.clip)
        if self.switches.reuse:
            self._kept = [parameter.grad for parameter in self._parameters]
        self._descend()
        return loss.detach()

    def _step_again(self, pace: float) -> float:
        """Make a step with the gradient of the last one, whose loss is not known."""
        for parameter, gradient in zip(self._parameters, self._kept, strict=True):
            parameter.grad = gradient
        with self._paced(pace):
            self._descend()
        return math.nan

    def _descend(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # at once: the next forward pass needs the room
        self.renew()

    def _drop_gradients(self) -> None:
        for each in chain(self._parameters, self.lm.model.parameters(), self._copies.tensors if self._copies else ()):
            each.grad = None

    def _new_buckets(self) -> BucketedSteps | None:
        """What pads chunks, where that is asked for; with it come copies of the weights for bfloat16."""
        lm, switches = self.lm, self.switches
        self._copies: WorkingCopies | None = None
        on = lm.device.type == "cuda" and not any(getattr(switches, name) for name in DIFFERENT)
        if not (on if switches.buckets is None else switches.buckets):
            return None
        if switches.precision == "bfloat16":
            self._copies = WorkingCopies(lm.model, torch.bfloat16)
        return BucketedSteps(self._learn, lm.device, switches.max_length or lm.settings.max_length, self._addresses)

    def _addresses(self) -> tuple[int, ...]:
        """Where all that a step changes is kept."""
        moments = (each for state in self.optimizer.state.values() for each in state.values())
        return tuple(each.data_ptr() for each in chain(self.lm.model.parameters(), moments))

    @property
    def adamw(self) -> tuple[float, float, float]:
        """What AdamW is given: learning rate, eps and weight decay."""
        settings, switches = self.lm.settings, self.switches
        rate, eps = switches.learning_rate or settings.learning_rate, switches.eps or settings.eps
        return rate, eps, switches.weight_decay

    def _new_optimizer(self) -> torch.optim.AdamW:
        rate, eps, decay = self.adamw
        capturable = self._buckets is not None and self.lm.device.type == "cuda"
        return torch.optim.AdamW(
            self._parameters, lr=rate, eps=eps, weight_decay=decay, fused=True, capturable=capturable
        )

    @torch.no_grad()
    def _round(self) -> None:
        if self.switches.weights != "float32":
            for parameter in self._parameters:
                parameter.copy_(parameter.to(PRECISIONS[self.switches.weights]))

    def _mark(self) -> float | torch.cuda.Event:
        """Return this moment: of a GPU, the one at which it has done all that it was asked for so far."""
        if self.lm.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.lm.device))
        return event


@dataclass(frozen=True)
class _Begun:
    """A step that a GPU may still be busy with; see `Step`. Its marks: start, end of training, end."""

    k: int
    score: Score | None
    losses: Sequence[Tensor | float]
    tokens: int
    skipped: int
    beyond: int
    marks: tuple[Any, Any, Any]
    operations: tuple[float, float]

    def finish(self) -> Step:
        """Wait for it."""
        tensors = [each for each in self.losses if isinstance(each, Tensor)]
        whole = len(tensors) == len(self.losses) > 0  # all come at once
        losses = tuple(torch.stack(tensors).tolist() if whole else map(float, self.losses))
        start, trained, end = self.marks
        seconds = _seconds(start, trained), _seconds(trained, end)
        return Step(self.k, self.score, losses, self.tokens, self.skipped, self.beyond, *seconds, *self.operations)


def _seconds(start: Any, end: Any) -> float:
    """Seconds between two moments."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000  # of milliseconds


def check_ks(ks: Sequence[int], neighbours: Sequence[str] | None = None) -> set[int]:
    """Return the numbers of neighbours to score after, also if they are text; there must be as many neighbours.

    Raises
    ------
    ParameterError
        If there is none, one is negative, no whole number, or above the number of neighbours, where these are given.
    """
    wanted = {int(k) for k in numbers("ks", ks, least=0, whole=True)}
    if neighbours is not None and len(neighbours) < max(wanted):
        raise ParameterError(f"{len(neighbours)} neighbours, but a score after {max(wanted)} was asked for")
    return wanted


def split_halves(text: str) -> tuple[str, str]:
    """Cut a text in the middle of its characters, so that query and scored text share nothing.

    The published control cuts at half of the tokens and, from 2,048 tokens on, takes the first 1,024 as the query.

    Raises
    ------
    DocumentError
        If the text has fewer than two characters.
    """
    if len(text) < 2:
        raise DocumentError("split_query needs a text of at least two characters")
    middle = len(text) // 2
    return text[:middle], text[middle:]


@contextlib.contextmanager
def _dropout(model: nn.Module, rate: float, seed: int) -> Iterator[None]:
    """Train with seeded dropout at `rate`, then put everything back; at 0 the model stays in evaluation mode."""
    if rate == 0:
        yield
        return
    layers: list[tuple[nn.Module, str]] = [(m, "p") for m in model.modules() if isinstance(m, nn.Dropout)]
    layers += [(m, "attention_dropout") for m in model.modules() if hasattr(m, "attention_dropout")]
    layers = [(m, name) for m, name in layers if isinstance(getattr(m, name), int | float)]
    before = [getattr(module, name) for module, name in layers]
    with forked_rng(model):
        torch.manual_seed(seed)
        for module, name in layers:
            setattr(module, name, rate)
        model.train()
        try:
            yield
        finally:
            model.eval()
            for (module, name), value in zip(layers, before, strict=True):
                setattr(module, name, value)
