"""Causal attention on a CPU in blocks of positions, so that much of what causality masks is never computed.

Where products go through oneDNN, each head is computed by itself; torch's own library takes all heads at once. For the
gradients the weights of a text of usual length are held; those of a longer one, which grow with its square, are
computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttnn.models.products import on_cpu, product, through_onednn

BEYOND = 16  # positions after a block that it masks: rows of weights of 1,024 numbers would collide in the cache
HELD = 1024  # positions, at most, of a text whose weights are held: half a gigabyte in the smallest GPT-2


@dataclass(frozen=True)
class Blocks:
    """How attention is cut for a library.

    Attributes
    ----------
    size : int
        Positions of a block: fewer compute less of the square that is masked, more are fewer calls.
    shortest : int
        Positions: of fewer, with heads as narrow as 32, torch's own attention is faster.
    without_gradients : bool
        Whether torch's own is slower also where no gradient is wanted.
    """

    size: int
    shortest: int
    without_gradients: bool


ONEDNN = Blocks(size=512, shortest=400, without_gradients=True)
TORCH = Blocks(size=128, shortest=256, without_gradients=False)


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None, window: int = 0
) -> Tensor:
    """Attend from each position to itself and those before it.

    Parameters
    ----------
    queries : Tensor of float32, shape (texts, heads, n, width)
    keys, values : Tensor of float32, shape (texts, heads or a divisor of it, n, width)
        Each is shared by as many neighbouring heads as the queries have more.
    scale : float, optional
        Of the products of queries and keys; default: 1 / sqrt(width).
    window : int
        How many positions are attended to at most, the last ones; 0: all.

    Returns
    -------
    Tensor of float32, shape (texts, heads, n, width)
        Differentiable once. Its memory is ordered (texts, n, heads, width), which is how a model joins the heads.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    return _Attention.apply(queries, keys, values, scale, window)


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
    if not is_causal or attn_mask is not None or dropout_p or queries.dim() != 4 or not on_cpu(queries, keys):
        return False
    blocks, n = _blocks_for(queries, keys), queries.shape[2]
    return (
        keys.shape[2] == n >= blocks.shortest
        and (enable_gqa or queries.shape[1] == keys.shape[1])
        and (blocks.without_gradients or (torch.is_grad_enabled() and queries.requires_grad))
    )


def _blocks_for(queries: Tensor, keys: Tensor) -> Blocks:
    return ONEDNN if through_onednn(queries, keys) else TORCH


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int) -> Tensor:
        blocks = ctx.blocks = _blocks_for(queries, keys)
        queries = torch.mul(queries, scale, out=queries.new_empty(queries.shape))
        keys, values = (F.pad(each, (0, 0, 0, BEYOND)) for each in (keys, values))  # (texts, heads, n + BEYOND, width)
        texts, heads, n, _ = queries.shape
        attended = queries.new_empty(texts, n, heads, values.shape[-1]).transpose(1, 2)  # (texts, heads, n, width)
        held, hold = [], n <= HELD and any(ctx.needs_input_grad)
        for query, key, value, out in _parts(blocks, queries, keys, values, attended):
            for now, seen in _ranges(n, blocks, window):
                weights = _weights(query[..., now, :], key[..., seen, :], window)
                out[..., now, :] = _product(weights, value[..., seen, :].mT)  # (..., block, width)
                if hold:
                    held.append(weights)
        ctx.save_for_backward(queries, keys, values, *held)
        ctx.scale, ctx.window = scale, window
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, *held = ctx.saved_tensors
        n, blocks, window = queries.shape[2], ctx.blocks, ctx.window
        held.reverse()  # so that the first is the next to pop
        of_queries = torch.empty_like(queries)
        # Transposed, (texts, heads, width, n + BEYOND): oneDNN takes a block's weights by column only as second factor.
        of_keys, of_values = (each.new_zeros(each.mT.shape) for each in (keys, values))
        parts = _parts(blocks, queries, keys, values, upstream.contiguous(), of_queries, of_keys, of_values)
        for query, key, value, out, of_query, of_key, of_value in parts:
            for now, seen in _ranges(n, blocks, window):
                weights = held.pop() if held else _weights(query[..., now, :], key[..., seen, :], window)
                of_value[..., seen] += _product(out[..., now, :].mT, weights.mT)  # (..., width, seen)
                of_weights = _product(out[..., now, :], value[..., seen, :])  # (..., block, seen)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # (..., block, seen)
                of_query[..., now, :] = _product(of_scores, key[..., seen, :].mT)  # (..., block, width)
                of_key[..., seen] += _product(query[..., now, :].mT, of_scores.mT)  # (..., width, seen)
        return of_queries.mul_(ctx.scale), of_keys[..., :n].mT, of_values[..., :n].mT, None, None


def _parts(blocks: Blocks, queries: Tensor, keys: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors of shape (texts, heads, ...) into what is computed at once.

    That is one head of one text, (...), for oneDNN, whose products are of matrices. Else it is as many heads of a text
    as have keys of their own, (heads of the keys, ...). Where the queries have more heads, neighbours share keys.
    """
    heads, distinct = queries.shape[1], keys.shape[1]
    for text in zip(queries, keys, *others, strict=True):  # of tensors of shape (heads or distinct, ...)
        if blocks is ONEDNN:
            yield from (tuple(each[head * len(each) // heads] for each in text) for head in range(heads))
        else:
            steps = [len(each) // distinct for each in text]
            for first in range(heads // distinct):
                yield tuple(each[first % step :: step] for each, step in zip(text, steps, strict=True))


def _ranges(n: int, blocks: Blocks, window: int) -> Iterator[tuple[slice, slice]]:
    """Each block's positions, and those whose keys it takes: from a window before it on, and the masked ones beyond."""
    for start in range(0, n, blocks.size):
        end = min(start + blocks.size, n)
        yield slice(start, end), slice(max(start - window, 0) if window else 0, end + BEYOND)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right.mT, of matrices or of one for each head."""
    return product(left, right) if left.dim() == 2 else torch.bmm(left, right.mT)


def _weights(query: Tensor, key: Tensor, window: int) -> Tensor:
    """What each position of a block attends to: shape (..., block, keys), rows add up to 1.

    The keys are those of `_ranges`.
    """
    scores = _product(query, key)  # (..., block, keys)
    size, count = scores.shape[-2:]
    mask = _mask(window)[:size, : window + size + BEYOND][:, -count:]  # (block, keys or the last of them)
    scores[..., -mask.shape[1] :] += mask
    return torch.softmax(scores, -1, out=scores)


@cache
def _mask(window: int) -> Tensor:
    """Minus infinity where a column is not attended to from its row, 0 elsewhere, for the largest block.

    Columns are the window before the block, the block itself, and what is beyond it.
    """
    hidden = torch.full((ONEDNN.size, window + ONEDNN.size + BEYOND), -math.inf)
    later = hidden.triu(window + 1)
    return later + hidden.tril() if window else later
