"""Causal attention of long texts on a CPU, its products through oneDNN.

Torch's own attention multiplies through MKL. Here each head is computed in blocks of positions, so that much of what
causality masks is never computed. For the gradients the weights of a text of usual length are held; those of a longer
one, which grow with its square, are computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttnn.models.products import product, through_onednn

BEYOND = 16  # positions after a block that it masks: rows of weights of 1,024 numbers would collide in the cache
BLOCK = 512  # positions: fewer compute less of the square that is masked, more are fewer calls
SHORTEST = 400  # positions: of fewer, with heads as narrow as 32, torch's own is faster
HELD = 1024  # positions, at most, of a text whose weights are held: half a gigabyte in the smallest GPT-2


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """Attend from each position to itself and those before it.

    Parameters
    ----------
    queries : Tensor of float32, shape (texts, heads, n, width)
    keys, values : Tensor of float32, shape (texts, heads or a divisor of it, n, width)
        Each is shared by as many neighbouring heads as the queries have more.
    scale : float, optional
        Of the products of queries and keys; default: 1 / sqrt(width).

    Returns
    -------
    Tensor of float32, shape (texts, heads, n, width)
        Differentiable once. Its memory is ordered (texts, n, heads, width), which is how a model joins the heads.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    return _Attention.apply(queries, keys, values, scale)


def in_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Whether a call of `torch.nn.functional.scaled_dot_product_attention` is better computed here."""
    return (
        is_causal
        and attn_mask is None
        and dropout_p == 0
        and queries.dim() == 4
        and queries.shape[2] == keys.shape[2] >= SHORTEST
        and (enable_gqa or queries.shape[1] == keys.shape[1])
        and through_onednn(queries, keys)
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        queries = torch.mul(queries, scale, out=queries.new_empty(queries.shape))
        keys, values = (F.pad(each, (0, 0, 0, BEYOND)) for each in (keys, values))  # (texts, heads, n + BEYOND, width)
        texts, heads, n, _ = queries.shape
        attended = queries.new_empty(texts, n, heads, values.shape[-1]).transpose(1, 2)  # (texts, heads, n, width)
        held, hold = [], n <= HELD and any(ctx.needs_input_grad)
        for query, key, value, out in _heads(queries, keys, values, attended):
            for start, end in _blocks(n):
                weights = _weights(query[start:end], key[: end + BEYOND])
                out[start:end] = product(weights, value[: end + BEYOND].T)  # (block, width)
                if hold:
                    held.append(weights)
        ctx.save_for_backward(queries, keys, values, *held)
        ctx.scale = scale
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, *held = ctx.saved_tensors
        n = queries.shape[2]
        held.reverse()  # so that the first is the next to pop
        of_queries = torch.empty_like(queries)
        # Transposed, (texts, heads, width, n + BEYOND): oneDNN takes a block's weights by column only as second factor.
        of_keys, of_values = (each.new_zeros(each.mT.shape) for each in (keys, values))
        parts = _heads(queries, keys, values, upstream.contiguous(), of_queries, of_keys, of_values)
        for query, key, value, out, of_query, of_key, of_value in parts:
            for start, end in _blocks(n):
                seen = end + BEYOND
                weights = held.pop() if held else _weights(query[start:end], key[:seen])
                of_value[:, :seen] += product(out[start:end].T, weights.T)  # (width, seen)
                of_weights = product(out[start:end], value[:seen])  # (block, seen)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # (block, seen)
                of_query[start:end] = product(of_scores, key[:seen].T)  # (block, width)
                of_key[:, :seen] += product(query[start:end].T, of_scores.T)  # (width, seen)
        return of_queries.mul_(ctx.scale), of_keys[..., :n].mT, of_values[..., :n].mT, None


def _heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors of each head of each text; where one has fewer heads than the first, neighbours share."""
    heads = tensors[0].shape[1]
    repeated = ([head for text in each for head in text for _ in range(heads // each.shape[1])] for each in tensors)
    return zip(*repeated, strict=True)


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """What each position of a block attends to: shape (block, keys), rows add up to 1.

    The keys are those of all positions up to the block's last, and of the masked ones beyond.
    """
    scores = product(query, key)  # (block, keys)
    size = len(query)
    scores[:, -size - BEYOND :] += _future(BLOCK)[:size, : size + BEYOND]
    return scores.softmax(-1)


@cache
def _future(size: int) -> Tensor:
    """Minus infinity where a column comes after its row, 0 elsewhere: shape (size, size + BEYOND)."""
    return torch.full((size, size + BEYOND), -math.inf).triu_(1)
