"""Matrix products of a model on a CPU, through oneDNN where it is the faster library.

Torch sends float32 products to MKL, which on processors of other makers than its own, Intel, leaves their widest
instructions (AVX-512) unused; oneDNN, which torch ships as well, does not mind the maker, and is twice as fast on such
a processor. On Intel's MKL is a tenth faster, and on one without those instructions, too: bench/loop.py measures both,
and its rows in tttnn/measured (loop.json, loop_intel.json) are what the rule rests on.
Elsewhere (a GPU, another dtype, a build of torch without oneDNN) products stay torch's own, too.

``TTTNN_FAST_LAYERS=0`` leaves all to torch: products, and what `tttnn.models.layers` computes another way.
"""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The operator behind torch's compiled CPU code. `F.linear` reaches oneDNN only by copying its input into another
# layout and back, which costs half of the gain.
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

FAST_LAYERS_VARIABLE = "TTTNN_FAST_LAYERS"
PROCESSOR = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"
PAGE = 1024  # numbers of a memory page
ALIKE = 768  # rows of a weight that begin at the same place of a page: as many slow a product down
ROWS = 768  # of inputs: of fewer, copying the weight costs what it brings
GAP = 16  # numbers, a cache line: so much longer, each row begins at another place


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute inputs @ weight.T + bias without a gradient, like `torch.nn.functional.linear`.

    Parameters
    ----------
    inputs : Tensor, shape (n, inside)
    weight : Tensor, shape (outside, inside)
        Also the transposed view of a contiguous tensor, which is not copied.
    bias : Tensor, shape (outside,), optional

    Returns
    -------
    Tensor, shape (n, outside)
    """
    if not through_onednn(inputs, weight):
        return F.linear(inputs, weight, bias)
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()  # of rows with gaps oneDNN takes a thousand times as long
    if bias is not None:
        bias = bias.contiguous()  # it would be read without its stride
    wide = apart(weight, len(inputs))  # (outside or more, inside)
    if wide is weight:
        return _ONEDNN(inputs, weight, bias, "none", [], "")
    bias = None if bias is None else F.pad(bias, (0, GAP))
    return _ONEDNN(inputs, wide, bias, "none", [], "")[:, : len(weight)]


def apart(weight: Tensor, rows: int) -> Tensor:
    """Copy a transposed weight to where its rows do not collide in the processor's cache, if that pays.

    oneDNN reads the transposed view of a contiguous tensor in place, row below row. Rows that begin at the same place
    of a memory page share a few sets of the cache; of many, some are gone before they are read again.

    Parameters
    ----------
    weight : Tensor, shape (outside, inside)
    rows : int
        Of the inputs that it will be multiplied with.

    Returns
    -------
    Tensor, shape (outside + `GAP`, inside), or the weight itself
        Cut what comes of a product with it to `outside` columns.
    """
    outside, inside = weight.shape
    alike = inside * math.gcd(outside, PAGE) // PAGE
    if rows < ROWS or alike < ALIKE or weight.is_contiguous() or not through_onednn(weight, weight):
        return weight
    return F.pad(weight.T, (0, GAP)).T


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute the same with gradients, for inputs of shape (..., inside)."""
    flat = inputs.reshape(-1, inputs.shape[-1])  # (n, inside)
    return _Linear.apply(flat, weight, bias).view(*inputs.shape[:-1], len(weight))  # (..., outside)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return product(inputs, weight, bias)  # (n, outside)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(upstream, weight.T) if of_inputs else None,  # (n, inside)
            _weight_gradient(upstream, inputs, weight) if of_weight else None,  # (outside, inside)
            upstream.sum(0) if of_bias else None,  # (outside,)
        )


def _weight_gradient(upstream: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """In the weight's own order, so that adding it to another gradient needs no transposing; rows may have gaps."""
    if weight.is_contiguous():
        return product(upstream.T, inputs.T)  # (outside, inside)
    return product(inputs.T, upstream.T).T  # (outside, inside)


def through_onednn(inputs: Tensor, weight: Tensor) -> bool:
    """Whether a product of the two is computed by oneDNN."""
    return onednn_is_faster() and on_cpu(inputs, weight) and inputs.numel() > 0


def onednn_is_faster() -> bool:
    """Whether oneDNN is there and suits the processor better than MKL.

    A rule, because timing both would need a quiet processor. `bench/loop.py` times them.
    """
    wide = _ONEDNN is not None and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and not is_intel() and layers_are_fast()


def layers_are_fast() -> bool:
    """Whether anything is to be computed in another way than torch's own; see this module's variable."""
    return os.environ.get(FAST_LAYERS_VARIABLE) != "0"


@cache
def is_intel() -> bool:
    """Whether the processor is of the maker whose library MKL is."""
    try:
        return INTEL in PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return INTEL in platform.processor()


def on_cpu(*tensors: Tensor) -> bool:
    """Whether these are float32 on a CPU, and not to be computed with in another type."""
    here = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return here and not torch.is_autocast_enabled("cpu")


def bfloat16_is_fast(device: str | torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them products take many times as long as in float32.

    Of x86 processors those with AMX have them, where they are several times as fast as float32, and some with AVX-512.
    """
    if torch.device(device).type != "cpu":
        return True
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return False
    own = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # oneDNN goes without, slowly
    return has_amx() or own is None or own() or platform.machine().lower() not in ("x86_64", "amd64")


def has_amx() -> bool:
    """Whether the processor has Intel's AMX, a unit for matrix products of bfloat16."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and bool(supported())
