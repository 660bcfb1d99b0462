"""Hidden states of a text's tokens -> one vector, and what may follow: a dense layer, length one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {each.__name__: each for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU)}


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce the hidden states of each text to one vector.

    Parameters
    ----------
    hidden : Tensor, shape (n, longest, width)
    mask : Tensor, shape (n, longest)
        1 for the tokens that count, of which each text has at least one, 0 for padding.
    pooling : str
        "cls" (the first token), "max", "mean", "mean_sqrt_len_tokens" (sum divided by the root of the number of
        tokens), "weightedmean" (weights grow with the position) or "lasttoken": sentence-transformers' names.

    Returns
    -------
    Tensor, shape (n, width), float32
    """
    hidden, weights = hidden.float(), mask.unsqueeze(-1).float()  # (n, longest, 1)
    if pooling == "weightedmean":  # a decoder's last tokens have seen the others
        weights = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device).view(1, -1, 1)
    if pooling in ("mean", "weightedmean"):
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    if pooling == "mean_sqrt_len_tokens":
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).sqrt()
    if pooling == "max":
        return hidden.masked_fill(weights == 0, -torch.inf).amax(dim=1)
    first = mask.int().argmax(dim=1)  # (n,)
    last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)  # (n,)
    return hidden[torch.arange(len(hidden), device=mask.device), first if pooling == "cls" else last]


class Normalize(nn.Module):
    """Vectors (n, width) of length one."""

    key = "normalize"  # what the weights do not say of it, for fingerprints

    def forward(self, vectors: Tensor) -> Tensor:
        """Divide each vector by its length."""
        return F.normalize(vectors, dim=-1)


class Dense(nn.Module):
    """A linear layer and an activation, (n, inputs) -> (n, outputs), with the input added if `residual`.

    The weights' names are those of sentence-transformers.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, activation: str, residual: bool):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.adds = residual
        self.key = f"dense {activation}" + " residual" * residual
        if residual and inputs != outputs:
            self.residual = nn.Linear(inputs, outputs, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (n, inputs) to (n, outputs)."""
        result = self.activation(self.linear(vectors))
        if not self.adds:
            return result
        return result + (self.residual(vectors) if hasattr(self, "residual") else vectors)
