"""What the package takes of torch that torch does not promise to keep: if it goes or changes, the failure names it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tttnn

PACKAGE = Path(tttnn.__file__).parent
# Those that are looked up with getattr, and done without if torch lacks them, are found by their text, too.
USES = re.compile(r"""torch\.(ops\.aten\.\w+|_\w+)|getattr\(torch\.(ops\.\w+|cpu), "(\w+)"\)?""")

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def operator(name: str):
    try:
        return functools.reduce(getattr, name.split("."), torch)
    except AttributeError:
        pytest.fail(f"torch {torch.__version__} has no torch.{name}, which {', '.join(users()[name])} uses")


def users() -> dict[str, list[str]]:
    """The files that use each."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for match in USES.finditer(path.read_text(encoding="utf-8")):
            name = match[1] or f"{match[2]}.{match[3]}"
            found.setdefault(name, []).append(path.relative_to(PACKAGE.parent).as_posix())
    return found


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_each_has_a_test_here():
    tested = {
        "ops.aten.sigmoid_backward",
        "_softmax_backward_data",
        "ops.mkldnn._linear_pointwise",
        "ops.mkldnn._is_mkldnn_bf16_supported",
        "cpu._is_avx512_bf16_supported",
        "cpu._is_amx_tile_supported",
        "_foreach_copy_",
        "_foreach_zero_",
    }
    assert set(users()) == tested


def test_slope_of_the_sigmoid():
    upstream, at = numbers(3, 5), numbers(5, 3).T.clone().requires_grad_()
    shares = at.sigmoid()
    shares.backward(upstream)
    assert torch.equal(operator("ops.aten.sigmoid_backward")(upstream, shares.detach()), at.grad)


def test_slope_of_softmax():
    upstream, at = numbers(3, 5), numbers(5, 3).T.clone().requires_grad_()
    weights = at.softmax(-1)
    weights.backward(upstream)
    found = operator("_softmax_backward_data")(upstream, weights.detach(), -1, torch.float32)
    assert torch.equal(found, at.grad)


def test_all_at_once_copied_cast_and_cleared():
    sources, targets = [numbers(3, 5), numbers(4)], [torch.ones(3, 5, dtype=torch.bfloat16), torch.ones(4)]
    operator("_foreach_copy_")(targets, sources)
    assert all(torch.equal(target, source.to(target.dtype)) for target, source in zip(targets, sources, strict=True))
    operator("_foreach_zero_")(targets)
    assert not any(target.any() for target in targets)


@needs_onednn
@pytest.mark.parametrize("bias", [None, numbers(4)])
def test_product_through_onednn(bias):
    inputs, weight = numbers(3, 5), numbers(4, 5)
    found = operator("ops.mkldnn._linear_pointwise")(inputs, weight, bias, "none", [], "")
    torch.testing.assert_close(found, torch.nn.functional.linear(inputs, weight, bias))


@needs_onednn
@pytest.mark.parametrize(
    "name", ["ops.mkldnn._is_mkldnn_bf16_supported", "cpu._is_avx512_bf16_supported", "cpu._is_amx_tile_supported"]
)
def test_whether_bfloat16_is_fast(name):
    assert operator(name)() in (True, False)
