"""Many documents adapted at once, each on weights of its own: for small models, of which one leaves a GPU idle.

What is trained, weights or adapters, is stacked, and one step is made for all documents, one chunk of each. The numbers
are those of one document at a time, but for rounding. For each document it takes four times what is trained, and
activations; adapters stand beside one copy of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from tttnn.errors import ParameterError, first_line
from tttnn.memory import require
from tttnn.models.graphs import Recorded, bucket, one_text, pack, unpack
from tttnn.models.lora import adapters
from tttnn.models.precision import tf32
from tttnn.parameters import number
from tttnn.scoring import Score, Scorer, Window
from tttnn.ttt import PRECISIONS, TTT, Step, Switches, check_ks

if TYPE_CHECKING:
    from collections.abc import Callable

HELD = 4  # float32 numbers for each that is trained, and document: itself, its gradient, two moments
BETAS = 0.9, 0.999  # AdamW's, as torch has them
ALONE = "dropout", "keep_optimizer", "train", "vocabulary", "loss", "reuse", "pace"  # need a document for itself


class NotStackable(ParameterError):
    """A model's layers cannot be computed for stacked weights."""


Stack = dict[str, Tensor]  # name of a weight or adapter -> it for each document, (documents, ...)


def check_together(switches: Switches, at_once: int, cluster: str | None = None) -> int:
    """Return how many documents are adapted at once; raise ParameterError where that must be one.

    It must where a switch needs a document for itself, and on a cluster, whose workers take one each.
    """
    at_once = int(number("documents_at_once", at_once, least=1, whole=True))
    if cluster and at_once > 1:
        raise ParameterError(
            f"documents_at_once={at_once} and cluster={cluster!r}: a worker adapts one document at a time; give one of "
            "the two"
        )
    asked = need_alone(switches)
    if asked and at_once > 1:
        raise ParameterError(f"documents_at_once={at_once} and {asked[0]}: give documents_at_once=1 with it")
    return at_once


def need_alone(switches: Switches) -> list[str]:
    """Name the switches that are set and need a document for itself."""
    return [name for name in ALONE if getattr(switches, name)] + ["weights"] * (switches.weights != "float32")


class Together:
    """Adapts up to `at_once` documents side by side; the model itself is not changed.

    Parameters
    ----------
    ttt : TTT
        Model and switches.
    at_once : int
        Documents; for fewer the rest of the memory idles.

    Raises
    ------
    ParameterError
        If a switch is set that needs a document for itself: `ALONE`, or TF32 is asked for on a processor.
    NotEnoughMemory
        If the stacked weights do not fit.
    """

    def __init__(self, ttt: TTT, at_once: int):
        self._ttt, self._lm, self.at_once = ttt, ttt.lm, check_together(ttt.switches, at_once)
        ttt.check_precision()
        device = self._lm.device
        require(self._lm.name, HELD * at_once * ttt.trained, f"adapt {at_once} documents at once", device)
        with self._initial() as initial:
            self._weights, self._first, self._second = (
                {name: each.new_zeros(at_once, *each.shape) for name, each in initial.items()} for _ in range(3)
            )
        self._steps = torch.zeros(at_once, device=device)
        self._recorded: dict[tuple[str, int, str], tuple[Tensor, Recorded]] = {}

    def adapt(self, documents: Sequence[tuple[str, Sequence[str]]], ks: Sequence[int]) -> list[list[Step]]:
        """Adapt each document on its neighbours, as `TTT.adapt` does.

        Parameters
        ----------
        documents : sequence of (str, sequence of str)
            At most `at_once` texts, each with its neighbours, nearest first; at least max(ks) of them.
        ks : sequence of int
            Where to score.

        Returns
        -------
        list of list of Step
            For each document, in order. Seconds are those of all, divided among them.

        Raises
        ------
        ParameterError, DocumentError
            See `TTT.adapt`.
        NotStackable
            If torch cannot stack the model's layers, as BLOOM's.
        RuntimeError
            If a loop on the same model is unfinished.
        """
        wanted = check_ks(ks, min((neighbours for _, neighbours in documents), key=len))
        scorers = [self._ttt.scorer(text) for text, _ in documents]
        with self._initial() as initial:
            self._begin(initial)
            asked = (scorers if k in wanted else None for k in range(max(wanted) + 1))
            steps = [list(self._neighbour(k, documents, scored)) for k, scored in enumerate(asked)]
        return [list(own) for own in zip(*steps, strict=True)]

    @contextmanager
    def _initial(self) -> Iterator[Stack]:
        """What each document begins with: the model's weights, or adapters, which are in the model while in here."""
        model, switches = self._lm.model, self._ttt.switches
        rank = switches.lora
        with self._lm.taken(), adapters(model, rank, switches.seed) if rank else nullcontext(model.parameters()) as own:
            trained = set(map(id, own))
            yield {name: each.detach() for name, each in model.named_parameters() if id(each) in trained}

    @torch.no_grad()
    def _begin(self, initial: Stack) -> None:
        for name, stack in self._weights.items():
            stack.copy_(initial[name].expand_as(stack))
        torch._foreach_zero_([*self._first.values(), *self._second.values(), self._steps])

    def _neighbour(
        self, k: int, documents: Sequence[tuple[str, Sequence[str]]], scorers: Sequence[Scorer] | None
    ) -> Iterator[Step]:
        """Train each document on its k-th neighbour, and score it where there are scorers."""
        start = self._clock()
        cuts = [self._ttt.chunks(neighbours[k - 1]) if k else ([], 0, 0) for _, neighbours in documents]
        losses = self._train([chunks for chunks, _, _ in cuts])
        trained = self._clock()
        asked: Sequence[Scorer | None] = scorers or [None] * len(documents)
        scores = self._score(scorers) if scorers else [None] * len(documents)
        seconds = (trained - start) / len(documents), (self._clock() - trained) / len(documents)
        for (chunks, skipped, beyond), own, score, scorer in zip(cuts, losses, scores, asked, strict=True):
            tokens = sum(map(len, chunks))
            operations = self._ttt.operations(tokens), scorer.operations() if scorer else 0.0
            losses_of = tuple(own[: len(chunks)])
            yield Step(k, score, losses_of, tokens, skipped, beyond, *seconds, *operations)

    def _train(self, chunks: Sequence[list[list[int]]]) -> list[list[float]]:
        """Make as many steps as the document with most chunks has; return each document's losses, in nats/token."""
        losses = []
        for place in range(max(map(len, chunks), default=0)):
            losses.append(self._run("step", self._step, [own[place] if place < len(own) else [] for own in chunks]))
        return torch.stack(losses, 1).tolist() if losses else [[] for _ in chunks]

    def _run(
        self, kind: str, function: Callable[[Tensor], Tensor], rows: Sequence[list[int]], others: Tensor | None = None
    ) -> Tensor:
        """Pad rows of token ids, one for each document, and call a function of the packed ones; (documents, ...)."""
        size = bucket(max(map(len, rows)), self._lm.positions)
        idle: list[list[int]] = [[]] * (self.at_once - len(rows))
        packed = torch.stack([pack(row, size) for row in (*rows, *idle)])  # (at_once, size + 1)
        packed = packed if others is None else torch.cat([packed, F.pad(others, (0, size - others.shape[1]))], 1)
        key = kind, packed.shape[1], torch.get_float32_matmul_precision()
        if key not in self._recorded:
            buffer = torch.empty_like(packed, device=self._lm.device)
            self._recorded[key] = buffer, Recorded(lambda: function(buffer), self._lm.device)
        buffer, recorded = self._recorded[key]
        buffer.copy_(packed.pin_memory() if buffer.is_cuda else packed, non_blocking=True)
        with self._stackable():
            return recorded()[: len(rows)].clone()

    @contextmanager
    def _stackable(self) -> Iterator[None]:
        """Refuse an architecture whose layers torch cannot compute for stacked weights."""
        try:
            yield
        except RuntimeError as error:
            if "functorch" not in str(error) and "vmap" not in str(error):
                raise
            beside = " with lora" if self._ttt.switches.lora else ""
            raise NotStackable(
                f"documents_at_once={self.at_once}: {type(self._lm.model).__name__}{beside} takes one document at a "
                f"time ({first_line(error)}); give documents_at_once=1"
            ) from error

    def _step(self, packed: Tensor) -> Tensor:
        switches = self._ttt.switches
        dtype = PRECISIONS[switches.precision]
        autocast = torch.autocast(packed.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)
        with autocast, one_text(), tf32(switches.precision == "tf32"):
            gradients, losses = vmap(grad_and_value(self._loss))(self._weights, packed)
        self._descend(gradients, (packed[:, -1] > 1).float())
        return losses.detach()

    def _loss(self, weights: Stack, packed: Tensor) -> Tensor:
        """Mean nats of one document's chunk, under what was trained for it."""
        ids, targets, divisors = unpack(packed)
        return (F.cross_entropy(self._logits(weights, ids), targets, reduction="none") / divisors).sum()

    def _logits(self, weights: Stack, ids: Tensor) -> Tensor:
        """(1, n) -> (n, vocabulary)."""
        return functional_call(self._lm.model, weights, (), {"input_ids": ids, "use_cache": False}).logits[0].float()

    @torch.no_grad()
    def _descend(self, gradients: Stack, active: Tensor) -> None:
        """Clip each document's gradient and make its AdamW step, if it is active: (documents,), 1 or 0."""
        rate, eps, decay = self._ttt.adamw
        squares = sum(each.flatten(1).square().sum(1) for each in gradients.values())
        clip = (self._ttt.switches.clip / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1)  # (documents,)
        self._steps += active
        done = self._steps.clamp(min=1)
        mean, variance = (1 - beta**done for beta in BETAS)  # what moments that began at zero lack
        for name, gradient in gradients.items():
            each = (-1, *[1] * (gradient.dim() - 1))  # a number for each document, to be taken with its weights
            on, first, second = active.view(each), self._first[name], self._second[name]
            gradient = gradient * clip.view(each)
            first.lerp_(gradient, (1 - BETAS[0]) * on.expand_as(first))
            second.lerp_(gradient.square(), (1 - BETAS[1]) * on.expand_as(second))
            weight = self._weights[name].mul_(1 - rate * decay * on)
            divisor = (second / variance.view(each)).sqrt_().add_(eps)
            weight.sub_(first / divisor * (rate * on / mean.view(each)))

    def _score(self, scorers: Sequence[Scorer]) -> list[Score]:
        """Score each document under its weights: the n-th windows of all at once."""
        windows = [scorer.windows for scorer in scorers]
        nats: list[list[Tensor]] = [[] for _ in scorers]
        nothing = Window([], [])
        with tf32(self._ttt.switches.scoring == "tf32"):
            for place in range(max(map(len, windows))):
                now = [own[place] if place < len(own) else nothing for own in windows]
                size = bucket(max(len(window.inputs) for window in now), self._lm.positions)
                targets = torch.stack([_aligned(window, size) for window in now])
                idle = targets.new_full((self.at_once - len(now), size), -1)
                found = self._run("score", self._nats, [window.inputs for window in now], torch.cat([targets, idle]))
                for own, row, window in zip(nats, found, now, strict=True):
                    own.append(row[len(window.inputs) - len(window.targets) : len(window.inputs)])
        return [scorer.total(torch.cat(own)) for scorer, own in zip(scorers, nats, strict=True)]

    @torch.no_grad()
    def _nats(self, packed: Tensor) -> Tensor:
        """Nats of each token of each document's window, (documents, size); 0 where there is no target."""
        size = packed.shape[1] // 2
        with one_text():
            return vmap(self._window)(self._weights, packed[:, :size], packed[:, size + 1 :])

    def _window(self, weights: Stack, ids: Tensor, targets: Tensor) -> Tensor:
        nats = F.cross_entropy(self._logits(weights, ids[None]), targets.clamp(min=0), reduction="none")  # (size,)
        return nats.masked_fill(targets < 0, 0)

    def _clock(self) -> float:
        if self._lm.device.type == "cuda":
            torch.cuda.synchronize(self._lm.device)
        return time.perf_counter()


def _aligned(window: Window, size: int) -> Tensor:
    """What each input of a window has to predict, -1 for nothing: (size,)."""
    before = len(window.inputs) - len(window.targets)
    return torch.tensor([*[-1] * before, *window.targets, *[-1] * (size - len(window.inputs))])
