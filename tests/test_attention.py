"""Causal attention in blocks: the values and gradients of torch's own, wherever it is taken instead of it."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from tttnn.models import attention
from tttnn.models.attention import causal_attention
from tttnn.models.layers import FastLayers

pytestmark = pytest.mark.usefixtures("library")

TEXTS, HEADS, WIDTH = 2, 4, 8


@pytest.fixture
def blocks(monkeypatch, library):
    """Small ones, and the sizes of those that were computed."""
    for name in ("ONEDNN", "TORCH"):
        monkeypatch.setattr(attention, name, replace(getattr(attention, name), size=4, shortest=4))
    monkeypatch.setattr(attention, "_mask", cache(attention._mask.__wrapped__))
    seen, real = [], attention._weights

    def counted(query, key, window):
        seen.append((query.shape[-2], key.shape[-2]))
        return real(query, key, window)

    monkeypatch.setattr(attention, "_weights", counted)
    return seen


def randoms(n, heads=HEADS, width=WIDTH, seed=0):
    """As a model has them: heads stand beside each other in a position's row."""
    rows = torch.randn(TEXTS, n, heads, width, generator=torch.Generator().manual_seed(seed))
    return rows.transpose(1, 2).requires_grad_()  # (texts, heads, n, width)


def inputs(n, shared=1, value_width=WIDTH):
    return randoms(n), randoms(n, HEADS // shared, seed=1), randoms(n, HEADS // shared, value_width, seed=2)


def torchs(queries, keys, values, scale=None):
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=True)


def assert_same(found, expected, wanted, scale=1.0):
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5 * scale)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    gradients, others = (torch.autograd.grad(each, wanted, upstream) for each in (found, expected))
    assert all(torch.allclose(*pair, atol=1e-4 * scale) for pair in zip(gradients, others, strict=True))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_values_and_gradients_are_torchs(blocks, n, shared):
    wanted = inputs(n, shared)
    assert_same(causal_attention(*wanted), torchs(*wanted), wanted)


@pytest.mark.parametrize("n", [attention.ONEDNN.size + 3, attention.HELD + 3])
def test_real_blocks(n):
    wanted = inputs(n)
    assert_same(causal_attention(*wanted), torchs(*wanted), wanted)


@pytest.mark.parametrize(("longest", "again"), [(9, 0), (8, 3)])
def test_weights_of_a_longer_text_are_computed_again(blocks, monkeypatch, library, longest, again):
    monkeypatch.setattr(attention, "HELD", longest)
    wanted = inputs(9)
    found = causal_attention(*wanted)
    blocks.clear()
    assert_same(found, torchs(*wanted), wanted)
    assert len(blocks) == TEXTS * (HEADS if library == "onednn" else 1) * again


def test_a_scale_and_values_of_another_width(blocks):
    wanted = inputs(9, value_width=5)
    assert_same(causal_attention(*wanted, scale=0.7), torchs(*wanted, scale=0.7), wanted)


@pytest.mark.parametrize("window", [1, 2, 4, 7, 9, 20])
@pytest.mark.parametrize("longest", [8, 9])
def test_a_window_is_a_mask_of_the_last_positions(blocks, monkeypatch, window, longest):
    monkeypatch.setattr(attention, "HELD", longest)
    wanted, seen = inputs(9, shared=2), torch.ones(9, 9, dtype=torch.bool).tril()
    seen &= ~seen.tril(-window)
    expected = F.scaled_dot_product_attention(*wanted, attn_mask=seen, scale=0.7, enable_gqa=True)
    assert_same(causal_attention(*wanted, 0.7, window), expected, wanted)


def test_no_block_looks_back_beyond_a_window(blocks):
    causal_attention(*(each[:1, :1] for each in inputs(11)), window=3)
    assert blocks == [(size, keys + attention.BEYOND) for size, keys in ((4, 4), (4, 7), (3, 6))]


def test_scores_so_large_that_exponentials_overflow(blocks):
    wanted = inputs(9)
    assert_same(causal_attention(*wanted, scale=100.0), torchs(*wanted, scale=100.0), wanted, scale=100.0)


def test_inputs_are_not_written_to(blocks):
    wanted = [each.detach().contiguous().requires_grad_() for each in inputs(9)]
    copies = [each.detach().clone() for each in wanted]
    causal_attention(*wanted).sum().backward()
    assert all(torch.equal(each, copy) for each, copy in zip(wanted, copies, strict=True))


def test_no_block_looks_ahead(blocks):
    causal_attention(*(each[:1, :1] for each in inputs(9)))
    assert blocks == [(size, end + attention.BEYOND) for size, end in ((4, 4), (4, 8), (1, 9))]


def test_a_model_takes_it(blocks):
    wanted = inputs(9)
    with FastLayers():
        found = F.scaled_dot_product_attention(*wanted, attn_mask=None, dropout_p=0.0, scale=0.3, is_causal=True)
    assert blocks
    assert_same(found, torchs(*wanted, scale=0.3), wanted)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"is_causal": True, "dropout_p": 0.1},
        {"attn_mask": torch.ones(9, 9, dtype=torch.bool).tril()},
        {"is_causal": True, "n": 3},
        {"is_causal": True, "dtype": torch.float64},
    ],
)
def test_everything_else_stays_with_torch(blocks, switches):
    switches = dict(switches)
    n, dtype = switches.pop("n", 9), switches.pop("dtype", torch.float32)
    wanted = [each.to(dtype) for each in inputs(n)]
    torch.manual_seed(0)
    expected = F.scaled_dot_product_attention(*wanted, **switches)
    torch.manual_seed(0)
    with FastLayers():
        found = F.scaled_dot_product_attention(*wanted, **switches)
    assert torch.equal(found, expected) and not blocks


def test_inputs_given_by_name_stay_with_torch(blocks):
    query, key, value = inputs(9)
    with FastLayers():
        found = F.scaled_dot_product_attention(query=query, key=key, value=value, is_causal=True)
    assert torch.allclose(found, torchs(query, key, value), atol=1e-5) and not blocks


def test_fewer_keys_than_queries_stay_with_torch(blocks):
    with FastLayers():
        F.scaled_dot_product_attention(randoms(9), randoms(7), randoms(7), is_causal=True)
    assert not blocks
