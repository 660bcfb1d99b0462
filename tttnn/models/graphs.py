"""Work that a GPU repeats, recorded once as a CUDA graph, so that its kernels do not wait for Python.

A step of a small model is some thousand kernels of a few microseconds, and Python starts them more slowly than a GPU
computes them. A graph starts all of them at once. It reads and writes the same memory each time, so inputs are copied
into buffers that stay, and are padded to one of a few lengths: attention is causal, so what stands behind a text
changes nothing in it. On a CPU the same buffers are worked on without a graph.

``TTTNN_GRAPHS=0`` turns recording off; the buffers stay.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from tttnn.errors import first_line

log = logging.getLogger(__name__)

GRAPHS_VARIABLE = "TTTNN_GRAPHS"
SHORTEST = 64  # tokens of the first bucket; of fewer, all take about as long
AHEAD = 4  # items that are made before they are asked for
Given = TypeVar("Given")
Made = TypeVar("Made")
Addresses = tuple[int, ...]


def bucket(length: int, longest: int) -> int:
    """Return the tokens that a text of so many is padded to: 64, 96, 128, 192, 256, 384, ..., at most `longest`.

    Each bucket is at most half as long again as the one before, so at most a third of it is padding.
    """
    size = SHORTEST
    while size < length:
        size = size * 3 // 2 if size.bit_count() == 1 else size * 4 // 3
    return max(length, min(size, longest))


class Recorded:
    """A function of buffers that stay: run as it is at the first call, recorded at the second, then replayed.

    The first call is the warm-up that recording needs. What occurs once is never recorded.

    Parameters
    ----------
    function : callable
        Reads and writes memory that stays, returns such memory, and waits for nothing.
    device : torch.device
        On a CPU the function is called each time.
    addresses : callable, optional
        Gives where the memory is; once it has moved, the function is recorded anew.
    """

    def __init__(
        self, function: Callable[[], Tensor], device: torch.device, addresses: Callable[[], Addresses] = tuple
    ):
        self._function, self._device, self._addresses = function, device, addresses
        self._where: Addresses | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None
        self._plain = device.type != "cuda" or os.environ.get(GRAPHS_VARIABLE) == "0"

    def __call__(self) -> Tensor:
        """Do it once more; the next call overwrites what is returned."""
        if self._plain:
            return self._function()
        if (where := self._addresses()) != self._where:
            self._where, self._graph = where, None
            result = self._warmed_up()
            self._where = self._addresses()  # an optimizer's moments are there from its first step on
            return result
        if self._graph is None:
            self._record()
        if self._graph is None or self._result is None:
            return self._function()
        self._graph.replay()
        return self._result

    def _warmed_up(self) -> Tensor:
        """Run it on another stream, as recording does, so that libraries have there what they need."""
        now, other = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        other.wait_stream(now)
        with torch.cuda.stream(other):
            result = self._function()
        now.wait_stream(other)
        return result

    def _record(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # Only this thread must not wait for the GPU meanwhile: another one copies tokens.
            with one_text(), torch.cuda.graph(graph, pool=_pool(self._device), capture_error_mode="thread_local"):
                self._result = self._function()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            self._plain = True
            log.warning("a CUDA graph cannot be made of this model, so that it is slower: %s", first_line(error))
            return
        self._graph = graph


_pools: dict[torch.device, Any] = {}


def _pool(device: torch.device) -> Any:
    """The memory that all graphs of a device work in: they run one after another, and keep nothing there."""
    return _pools.setdefault(device, torch.cuda.graph_pool_handle())


class BucketedSteps:
    """Gradient steps on chunks that are padded to a few lengths, each of which is recorded once.

    Parameters
    ----------
    step : callable
        Token ids (1, n), the target of each (n,) and what its nats are divided by (n,) -> loss, shape (). See
        `mean_cross_entropy`.
    device : torch.device
    longest : int
        Tokens of the longest chunk.
    addresses : callable, optional
        See `Recorded`.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor, Tensor], Tensor],
        device: torch.device,
        longest: int,
        addresses: Callable[[], Addresses] = tuple,
    ):
        self._step, self._device, self._longest, self._addresses = step, device, longest, addresses
        self._buffers: dict[int, Tensor] = {}
        self._steps: dict[int, Recorded] = {}

    def prepare(self, chunk: Sequence[int]) -> Tensor:
        """Copy a chunk of token ids to the device, where it will be needed; nobody waits for it.

        Returns
        -------
        Tensor of int64, shape (bucket + 1,)
            The ids, zeros to the end of the bucket, and how many the ids are.
        """
        packed = pack(chunk, bucket(len(chunk), self._longest))
        on_gpu = self._device.type == "cuda"
        return packed.pin_memory().to(self._device, non_blocking=True) if on_gpu else packed

    def __call__(self, chunk: Sequence[int] | Tensor) -> Tensor:
        """Make one step on a chunk of token ids, or on what `prepare` made of it; the loss, shape (), is a new one."""
        packed = chunk if isinstance(chunk, Tensor) else self.prepare(chunk)
        size = len(packed) - 1
        if size not in self._buffers:
            buffer = self._buffers[size] = torch.empty_like(packed)
            self._steps[size] = Recorded(lambda: self._step(*unpack(buffer)), self._device, self._addresses)
        self._buffers[size].copy_(packed)
        return self._steps[size]().clone()


def pack(chunk: Sequence[int], size: int) -> Tensor:
    """Return token ids, zeros up to a size, and how many the ids are: int64, shape (size + 1,)."""
    return torch.tensor([*chunk, *[0] * (size - len(chunk)), len(chunk)])


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What of a padded chunk a step needs: ids (1, n), targets (n,), divisors (n,); see `BucketedSteps`."""
    ids, predicted = packed[:-1], packed[-1] - 1  # the last one of the chunk predicts nothing
    places = torch.arange(len(ids), device=ids.device)
    divisors = predicted.float().expand(len(ids)).masked_fill(places >= predicted, torch.inf)
    return ids[None], ids.roll(-1), divisors


class RecordedForward:
    """A forward pass without gradients, recorded for each shape of its input.

    Parameters
    ----------
    hidden : callable
        Token ids (texts, n) -> hidden states (texts, n, width), each from the ids up to its own.
    device : torch.device
    longest : int
        Tokens that a text can have.
    addresses : callable, optional
        See `Recorded`.
    """

    def __init__(
        self,
        hidden: Callable[[Tensor], Tensor],
        device: torch.device,
        longest: int,
        addresses: Callable[[], Addresses] = tuple,
    ):
        self._hidden, self._device, self._longest, self._addresses = hidden, device, longest, addresses
        self._passes: dict[tuple[int, int, str], tuple[Tensor, Recorded]] = {}

    def __call__(self, ids: Tensor) -> Tensor:
        """Hidden states of token ids (texts, n): a new tensor (texts, n, width)."""
        texts, n = ids.shape
        rows, size = 1 << (texts - 1).bit_length(), bucket(n, self._longest)
        key = rows, size, torch.get_float32_matmul_precision()  # which is recorded, too
        if key not in self._passes:
            buffer = ids.new_zeros(rows, size)
            self._passes[key] = buffer, Recorded(lambda: self._hidden(buffer), self._device, self._addresses)
        buffer, forward = self._passes[key]
        buffer[:texts, :n] = ids
        return forward()[:texts, :n].clone()


@contextmanager
def one_text() -> Iterator[None]:
    """Let transformers take each row for one text while it is entered.

    It looks whether positions begin anew within a row, as of several texts that were packed into it. Where it cannot
    look, as while a graph is recorded, it supposes so and masks by a matrix, which is slower than to be causal.
    """
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    before = getattr(masking_utils, name, None)
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        delattr(masking_utils, name) if before is None else setattr(masking_utils, name, before)


def ahead(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """Apply a function to items in order, in another thread, which goes some items ahead of who takes the results."""
    pool, waiting = ThreadPoolExecutor(1), deque[Future[Made]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
