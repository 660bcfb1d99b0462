"""Matrix products through oneDNN: the values and gradients of torch's own, for every layer that is one."""

import pytest
import torch
import torch.nn.functional as F
from transformers.pytorch_utils import Conv1D

from tttnn.models import products
from tttnn.models.layers import FastLayers, fast_layers
from tttnn.models.products import product

pytestmark = pytest.mark.usefixtures("onednn")

INSIDE, OUTSIDE = 24, 40
RULE = products.onednn_is_faster


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the products that oneDNN computed."""
    seen, real = [], products._ONEDNN

    def counted(inputs, weight, *rest):
        seen.append((*inputs.shape, weight.shape[0]))
        return real(inputs, weight, *rest)

    monkeypatch.setattr(products, "_ONEDNN", counted)
    return seen


@pytest.fixture(params=[False, True], ids=["", "colliding"])
def gap(request, monkeypatch):
    """Numbers added to the rows of a transposed weight: none as small as here, unless all rows count as colliding."""
    if request.param:
        monkeypatch.setattr(products, "ROWS", 1)
        monkeypatch.setattr(products, "ALIKE", 0)
    return products.GAP * request.param


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [None, randoms(OUTSIDE, seed=2)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_that_of_the_library(calls, gap, transposed, bias):
    inputs, weight = randoms(7, INSIDE), randoms(OUTSIDE, INSIDE, seed=1)
    if transposed:
        weight = weight.T.contiguous().T
    found, expected = product(inputs, weight, bias), F.linear(inputs, weight, bias)
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
    assert calls == [(7, INSIDE, OUTSIDE + gap * transposed)]


@pytest.mark.parametrize(
    ("inside", "outside", "rows", "apart"),
    [
        (3072, 768, 1024, True),  # GPT-2's second layer of a perceptron: every fourth row begins at the same place
        (768, 3072, 1024, True),  # its first layer: each row does
        (768, 2304, 1024, False),
        (3071, 768, 1024, False),
        (3072, 776, 1024, False),
        (3072, 768, 767, False),
    ],
)
def test_rows_are_set_apart_where_many_begin_at_the_same_place_of_a_page(inside, outside, rows, apart):
    weight = torch.empty(inside, outside).T
    assert products.apart(weight, rows).shape == (outside + products.GAP * apart, inside)
    assert products.apart(weight.contiguous(), rows).shape == (outside, inside), "it is read row by row"


def test_a_weight_with_gaps_between_its_rows_is_closed_up_first(monkeypatch):
    real = products._ONEDNN

    def strict(inputs, weight, *rest):
        assert weight.is_contiguous() or weight.T.is_contiguous()
        return real(inputs, weight, *rest)

    monkeypatch.setattr(products, "_ONEDNN", strict)
    inputs, wide = randoms(7, INSIDE), randoms(OUTSIDE, 3 * INSIDE, seed=1)
    for weight in (wide[:, :INSIDE], wide.T[:INSIDE, :INSIDE], randoms(1).expand(OUTSIDE, INSIDE)):
        assert torch.allclose(product(inputs, weight), F.linear(inputs, weight), atol=1e-5)


def test_inputs_and_bias_with_gaps():
    inputs, weight, bias = randoms(7, 2 * INSIDE)[:, ::2], randoms(OUTSIDE, INSIDE), randoms(OUTSIDE, 3)[:, 1]
    assert torch.allclose(product(inputs, weight, bias), F.linear(inputs, weight, bias), atol=1e-5)


def layer(kind):
    if kind == "Conv1D":
        return Conv1D(OUTSIDE, INSIDE)
    return torch.nn.Linear(INSIDE, OUTSIDE, bias=kind == "Linear")


@pytest.mark.parametrize("kind", ["Linear", "Linear without bias", "Conv1D"])
@pytest.mark.parametrize("shape", [(5, INSIDE), (2, 5, INSIDE), (1, 1, INSIDE)])
def test_a_layer_has_its_own_values_and_gradients(calls, gap, kind, shape):
    module, inputs = layer(kind), randoms(*shape).requires_grad_()
    wanted = [inputs, *module.parameters()]
    expected = module(inputs)
    expected_gradients = torch.autograd.grad(expected.square().sum(), wanted)
    assert not calls
    with FastLayers():
        found = module(inputs)
    gradients = torch.autograd.grad(found.square().sum(), wanted)
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
    rows = inputs.numel() // INSIDE
    assert calls[0] == (rows, INSIDE, OUTSIDE + gap * (kind == "Conv1D")) and len(calls) == 3
    for gradient, expected, of in zip(gradients, expected_gradients, wanted, strict=True):
        assert gradient.shape == of.shape and torch.allclose(gradient, expected, atol=1e-4)


def test_a_gradient_that_is_one_number_seen_from_everywhere():
    module, inputs = layer("Conv1D"), randoms(5, INSIDE).requires_grad_()
    expected = torch.autograd.grad(module(inputs).sum(), [inputs, *module.parameters()])
    with FastLayers():
        found = module(inputs)
    for gradient, wanted in zip(
        torch.autograd.grad(found.sum(), [inputs, *module.parameters()]), expected, strict=True
    ):
        assert torch.allclose(gradient, wanted, atol=1e-4)


def test_frozen_weights_cost_no_product(calls):
    module, inputs = layer("Linear").requires_grad_(False), randoms(5, INSIDE).requires_grad_()
    with FastLayers():
        module(inputs).sum().backward()
    assert len(calls) == 2 and module.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_stay_with_torch(calls, dtype):
    inputs, weight = randoms(5, INSIDE).to(dtype), randoms(OUTSIDE, INSIDE).to(dtype)
    with FastLayers():
        found = F.linear(inputs, weight)
    assert found.dtype == dtype and torch.equal(found, F.linear(inputs, weight)) and not calls


def test_autocast_stays_with_torch(calls):
    module = layer("Linear")
    with torch.autocast("cpu", torch.bfloat16), FastLayers():
        assert module(randoms(5, INSIDE)).dtype == torch.bfloat16
    assert not calls


def test_what_is_not_a_layer_stays_with_torch(calls):
    matrix, left, right = randoms(5, OUTSIDE, seed=3), randoms(5, INSIDE), randoms(INSIDE, OUTSIDE, seed=1)
    with FastLayers():
        scaled = torch.addmm(matrix, left, right, beta=0.5)
        added = torch.addmm(matrix, left, right)
    assert not calls
    assert torch.allclose(scaled, 0.5 * matrix + left @ right, atol=1e-5)
    assert torch.allclose(added, matrix + left @ right, atol=1e-5)


@pytest.mark.parametrize(("there", "capability"), [(False, "AVX512"), (True, "AVX2"), (True, "DEFAULT")])
def test_where_onednn_is_missing_or_slower_products_are_torchs(calls, monkeypatch, there, capability):
    monkeypatch.setattr(products, "onednn_is_faster", RULE)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if not there:
        monkeypatch.setattr(products, "_ONEDNN", None)
    module, inputs = layer("Conv1D"), randoms(5, INSIDE)
    with FastLayers():
        assert torch.equal(module(inputs), torch.addmm(module.bias, inputs, module.weight))
    assert torch.equal(product(inputs, module.weight.T), F.linear(inputs, module.weight.T))
    assert not calls


@pytest.mark.parametrize(
    ("maker", "variable", "count"), [("AuthenticAMD", "1", 1), ("AuthenticAMD", "0", 0), ("GenuineIntel", "1", 0)]
)
def test_with_the_widest_instructions_products_are_onednns_but_on_its_own_maker_s_mkl_is_faster(
    calls, monkeypatch, tmp_path, maker, variable, count
):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id\t: {maker}\n")
    products.is_intel.cache_clear()
    monkeypatch.setattr(products, "PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setenv(products.FAST_LAYERS_VARIABLE, variable)
    monkeypatch.setattr(products, "onednn_is_faster", RULE)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    try:
        product(randoms(5, INSIDE), randoms(OUTSIDE, INSIDE))
        assert len(calls) == count
        assert isinstance(fast_layers(torch.device("cpu")), FastLayers) == (variable != "0")
        assert not isinstance(fast_layers(torch.device("cuda")), FastLayers)
    finally:
        products.is_intel.cache_clear()


@pytest.mark.parametrize(
    ("library", "amx", "own", "fast"),
    [(True, True, False, True), (True, False, True, True), (True, False, False, False), (False, True, True, False)],
)
def test_a_gpu_has_instructions_for_bfloat16_and_a_processor_may(monkeypatch, library, amx, own, fast):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: own)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert products.bfloat16_is_fast("cuda") and products.bfloat16_is_fast("cpu") == fast
    assert products.has_amx() == amx
