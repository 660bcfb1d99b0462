"""Cross-entropy of a linear language-model head, in slices, so that the full logits are never held.

With GPT-2's 50,257 entries the logits of one 1,024-token window are 206 MB in float32, and their gradient as
much again; a slice of 256 positions needs a quarter of that, whatever the length of the text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SLICE = 256  # positions per slice


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
    parts = zip(hidden.split(SLICE), targets.split(SLICE), strict=True)
    losses = [F.cross_entropy(F.linear(h, weight, bias).float(), t, reduction="none") for h, t in parts]
    return torch.cat(losses)  # (n,)


class _MeanCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, slice by slice, while each slice's softmax is at hand."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        for i in range(0, len(targets), SLICE):
            part, wanted = hidden[i : i + SLICE], targets[i : i + SLICE]
            log_p = F.linear(part, weight, bias).float().log_softmax(-1)  # (slice, vocabulary)
            total -= log_p.gather(1, wanted[:, None]).sum()
            gradient = log_p.exp_()
            gradient.scatter_add_(1, wanted[:, None], gradient.new_full((len(wanted), 1), -1.0))
            gradient = (gradient / len(targets)).to(hidden.dtype)
            torch.mm(gradient, weight, out=hidden_gradient[i : i + SLICE])
            weight_gradient.addmm_(gradient.T, part)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        return total / len(targets)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        hidden, weight, bias = ctx.saved_tensors
        return hidden * upstream, weight * upstream, None if bias is None else bias * upstream, None


def mean_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the targets, differentiable in hidden states and head.

    Parameters
    ----------
    hidden : Tensor, shape (n, width)
    weight : Tensor, shape (vocabulary, width)
    bias : Tensor, shape (vocabulary,), or None
    targets : Tensor of int64, shape (n,)

    Returns
    -------
    Tensor of float32, shape ()
        Nats per token.
    """
    return _MeanCrossEntropy.apply(hidden, weight, bias, targets)
