"""Cross-entropy of a linear language-model head, in slices, so that the full logits are never held.

With GPT-2's 50,257 entries the logits of one 1,024-token window are 206 MB in float32, and their gradient as
much again; a slice of 256 positions needs a quarter of that, whatever the length of the text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SLICE = {"cpu": 256, "cuda": 8192}  # positions: a slice stays in a core's cache, or fills a GPU


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
    size = SLICE[hidden.device.type]
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    losses = [F.cross_entropy(F.linear(h, weight, bias).float(), t, reduction="none") for h, t in parts]
    return torch.cat(losses)  # (n,)


class _MeanCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, slice by slice, while each slice's softmax is at hand."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        head, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        size = SLICE[hidden.device.type]
        for i in range(0, len(targets), size):
            part, wanted = hidden[i : i + size].to(dtype), targets[i : i + size, None]
            log_p = F.linear(part, head, offset).float().log_softmax(-1)  # (slice, vocabulary)
            total -= log_p.gather(1, wanted).sum()
            gradient = log_p.exp_()
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            gradient = (gradient / len(targets)).to(dtype)
            hidden_gradient[i : i + size] = gradient @ head
            weight_gradient += gradient.T @ part
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        return total / len(targets)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        hidden, weight, bias = ctx.saved_tensors
        return hidden * upstream, weight * upstream, None if bias is None else bias * upstream, None, None


def mean_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Mean negative log-likelihood of the targets, differentiable in hidden states and head.

    Parameters
    ----------
    hidden : Tensor of float32, shape (n, width)
        Last hidden states.
    weight : Tensor of float32, shape (vocabulary, width)
        Output embedding.
    bias : Tensor of float32, shape (vocabulary,), or None
    targets : Tensor of int64, shape (n,)
    dtype : torch.dtype
        Precision of the matrix products; softmax and the sums over slices stay in float32.

    Returns
    -------
    Tensor of float32, shape ()
        Nats per token.
    """
    return _MeanCrossEntropy.apply(hidden, weight, bias, targets, dtype)
