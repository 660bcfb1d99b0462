"""Training loss of a language-model head: in slices, in the matmul precision of the run."""

from __future__ import annotations

import torch
from torch import Tensor

SLICE = {"cpu": 512, "cuda": 8192}  # positions per slice: fits the cache of a core, fills a GPU


class _SlicedCrossEntropy(torch.autograd.Function):
    """Gradients are computed with the loss, while each slice's softmax is at hand, and summed in float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        head = weight.to(dtype)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        size = SLICE[hidden.device.type]
        for i in range(0, len(targets), size):
            part, wanted = hidden[i : i + size].to(dtype), targets[i : i + size, None]
            log_p = (part @ head.T).float().log_softmax(-1)  # (slice, vocabulary)
            total -= log_p.gather(1, wanted).sum()
            gradient = log_p.exp_()
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            gradient = (gradient / len(targets)).to(dtype)
            hidden_gradient[i : i + size] = gradient @ head
            weight_gradient += gradient.T @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total / len(targets)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight = ctx.saved_tensors
        return hidden * upstream, weight * upstream, None, None


def sliced_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean negative log-likelihood of the targets; the full logits are never held.

    Parameters
    ----------
    hidden : Tensor of float32, shape (n, width)
        Last hidden states.
    weight : Tensor of float32, shape (vocabulary, width)
        Output embedding (no bias: none of the recipe's architectures has one).
    targets : Tensor of int64, shape (n,)
    dtype : torch.dtype
        Precision of the matrix products; softmax and sums over slices stay in float32.

    Returns
    -------
    Tensor of float32, shape ()
        Nats per token.
    """
    return _SlicedCrossEntropy.apply(hidden, weight, targets, dtype)
