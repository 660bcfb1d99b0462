"""Cross-entropy of a linear language-model head, in slices, so that its memory does not grow with the text.

With GPT-2's 50,257 entries the logits of one 1,024-token window are 206 MB in float32, and their gradient as
much again; a slice of 512 positions, whose gradient takes the place of its logits, needs a quarter of that, whatever
the length of the text.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttnn.models.products import apart, on_cpu, product, through_onednn

SLICE = {"cpu": 512, "cuda": 8192}  # positions: few enough for little memory, enough to keep all cores (a GPU) busy
LOGITS = 2**22  # a slice takes more positions than those as long as its logits, of a small vocabulary, are no more
BLOCK = 16384  # entries of the vocabulary whose gradient is computed at once, so that no second full one is held
LINE = 16  # numbers of a cache line


@torch.no_grad()
def token_nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target.

    Parameters
    ----------
    hidden : Tensor, shape (n, width)
        Last hidden states.
    weight : Tensor, shape (vocabulary, width)
        Output embedding; cut its rows to score over a part of the vocabulary.
    bias : Tensor, shape (vocabulary,), or None
    targets : Tensor of int64, shape (n,)

    Returns
    -------
    Tensor of float32, shape (n,)
        Nats per token.
    """
    size = _slice_rows(weight)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([_logit_nats(_logits(h, weight, bias), t) for h, t in parts])  # (n,)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits in float32: shape (n, vocabulary or more), minus infinity beyond the vocabulary.

    Torch's own product is a third slower where rows begin anywhere in a cache line, as 50,257 numbers make them, and a
    little where they all begin at the same place of a memory page; so each row is longer by a part of a line.
    """
    if through_onednn(hidden, weight) or not on_cpu(hidden, weight):
        return product(hidden, weight, bias).float()
    entries = len(weight)
    logits = hidden.new_empty(len(hidden), (entries // LINE + 1) * LINE)  # (n, more than vocabulary)
    logits[:, entries:] = -math.inf
    out = logits[:, :entries]
    torch.mm(hidden, weight.T, out=out) if bias is None else torch.addmm(bias, hidden, weight.T, out=out)
    return logits


def _logit_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, shape (n,). The logits, the largest thing in memory, are overwritten."""
    return -torch.log_softmax(logits, -1, out=logits).gather(1, targets[:, None])[:, 0]


class _MeanCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, slice by slice, while each slice's softmax is at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype,
        divisors: Tensor | None,
    ) -> Tensor:  # fmt: skip
        head, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        count, size = len(targets), _slice_rows(weight)
        columns = apart(head.T, count)  # (width or more, vocabulary)
        total = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        for i in range(0, len(hidden), size):
            part, wanted = hidden[i : i + size].to(dtype), targets[i : i + size, None]
            share = count if divisors is None else divisors[i : i + size]
            logits = _logits(part, head, offset)  # (slice, vocabulary or more)
            predicting = logits[: len(wanted)]
            total += _shared(predicting.amax(1) - predicting.gather(1, wanted)[:, 0], share).sum()
            gradient = torch.softmax(logits, -1, out=logits)
            # The largest probability is 1 / sum(exp(logits - largest logit)), so the normalizer needs no other pass.
            total -= _shared(predicting.amax(1).log(), share).sum()
            predicting.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            gradient[len(wanted) :] = 0  # states that predict nothing
            gradient = gradient[:, : len(weight)].to(dtype)
            hidden_gradient[i : i + size] = product(gradient, columns)[:, : hidden.shape[1]]
            if weight_gradient is not None:
                _add_products(weight_gradient, gradient, _divided(part, share), first=i == 0)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0) / count if divisors is None else _divided(gradient, share).sum(0)
        hidden_gradient.div_(count if divisors is None else divisors[:, None])
        ctx.gradients = hidden_gradient, weight_gradient, bias_gradient
        return total / count if divisors is None else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [None if gradient is None else gradient.mul_(upstream) for gradient in ctx.gradients]
        del ctx.gradients  # they are given away: a second backward pass fails
        return *gradients, None, None, None


def _shared(nats: Tensor, share: int | Tensor) -> Tensor:
    """Nats, each with its own divisor; with the same for all, the sum is divided in the end."""
    return nats if isinstance(share, int) else nats / share


def _divided(rows: Tensor, share: int | Tensor) -> Tensor:
    """Rows, shape (n, any), by one number or each by its own, rounded once."""
    return rows / share if isinstance(share, int) else (rows.float() / share[:, None]).to(rows.dtype)


def _slice_rows(weight: Tensor) -> int:
    """Return how many positions a slice has under a head of this weight."""
    return max(SLICE[weight.device.type], LOGITS // len(weight))


def _add_products(total: Tensor, gradient: Tensor, hidden: Tensor, first: bool) -> None:
    """Add gradient.T @ hidden to a total of shape (vocabulary, width); the first sets it.

    A library that can add to what is there does so; else it is done block by block.
    """
    if gradient.dtype == total.dtype and not through_onednn(gradient, hidden):
        torch.addmm(total, gradient.T, hidden, beta=0 if first else 1, out=total)
        return
    for rows, columns in zip(total.split(BLOCK), gradient.split(BLOCK, dim=1), strict=True):
        block = product(columns.T, hidden.T)  # (block, width)
        rows.copy_(block) if first else rows.add_(block)


def mean_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype = torch.float32,
    divisors: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean negative log-likelihood of the targets, differentiable once in hidden states and head.

    The gradients are ready when it returns, and the backward pass gives them away: a second one fails.

    Parameters
    ----------
    hidden : Tensor of float32, shape (n or more, width)
        Last hidden states. Those that have no target predict nothing; they may make a number of rows round, of which
        products are faster.
    weight : Tensor of float32, shape (vocabulary, width)
        Output embedding.
    bias : Tensor of float32, shape (vocabulary,), or None
    targets : Tensor of int64, shape (n,)
    dtype : torch.dtype
        Precision of the matrix products; softmax and the sums over slices stay in float32.
    divisors : Tensor of float32, shape (n,), optional
        What each target's nats are divided by before they are added up: their number for all that count, infinity for
        those that only fill up a row. There are as many states then. Default: the number of targets, for all.

    Returns
    -------
    Tensor of float32, shape ()
        Nats per token.
    """
    return _MeanCrossEntropy.apply(hidden, weight, bias, targets, dtype, divisors)
