"""How many floating-point operations a model takes: one formula for rows, archived rows and charts.

A product of a vector with a weight is one multiplication and one addition, so a forward pass takes two operations for
each weight and token; the backward pass takes as many for the gradient of what goes into a layer, and as many again
for the gradient of each weight that is trained. Attention over earlier tokens, norms, the softmax and the optimizer are
left out, as is usual (Kaplan et al., 2020, arXiv 2001.08361): of models with short contexts they are a small part.
"""

from __future__ import annotations


def forward(weights: int, tokens: float) -> float:
    """Operations of passing tokens through a model without training on them.

    Parameters
    ----------
    weights : int
        Of the model, with adapters that are beside it.
    tokens : float
        Windows that overlap count twice.
    """
    return 2.0 * weights * tokens


def training(weights: int, tokens: float, trained: int) -> float:
    """Operations of gradient steps on tokens.

    Parameters
    ----------
    weights : int
        Of the model, with adapters that are beside it: all of them are passed through forth and back.
    tokens : float
    trained : int
        Those of them that are trained. All: six operations for each weight and token. Adapters (LoRA): little more than
        four, for the gradient goes back through the frozen weights, too. Of a part near the output the pass back ends
        early, so that this is an upper bound.
    """
    return (4.0 * weights + 2.0 * trained) * tokens
