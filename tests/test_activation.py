"""GPT-2's activation by way of the logistic function: the values and gradients of torch's own."""

import pytest
import torch
import torch.nn.functional as F

from tttnn.models import layers
from tttnn.models.activation import gelu_tanh
from tttnn.models.layers import FastLayers


@pytest.fixture
def calls(monkeypatch):
    """Shapes of what was computed here."""
    seen, real = [], layers.gelu_tanh
    monkeypatch.setattr(layers, "gelu_tanh", lambda inputs: seen.append(inputs.shape) or real(inputs))
    return seen


def torchs(inputs):
    return F.gelu(inputs, approximate="tanh")


@pytest.mark.parametrize("shape", [(), (7,), (2, 5, 40)])
def test_values_and_gradients_are_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    inputs = (4 * torch.randn(shape, generator=generator)).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    found, expected = gelu_tanh(inputs), torchs(inputs)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    gradients = (torch.autograd.grad(each, inputs, upstream)[0] for each in (found, expected))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_far_from_zero_it_is_zero_or_the_input_itself():
    inputs = torch.tensor([-1e6, -100.0, -0.0, 0.0, 100.0, 1e6], requires_grad=True)
    found = gelu_tanh(inputs)
    assert found.tolist() == [0, 0, 0, 0, 100, 1e6]
    assert torch.autograd.grad(found.sum(), inputs)[0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_inputs_are_not_written_to():
    inputs = torch.randn(9, requires_grad=True)
    before = inputs.detach().clone()
    gelu_tanh(inputs).sum().backward()
    assert torch.equal(inputs, before)


def test_a_model_takes_it(calls):
    inputs = torch.randn(2, 5, 8)
    with FastLayers():
        found = torch.nn.GELU(approximate="tanh")(inputs)
    torch.testing.assert_close(found, torchs(inputs), atol=1e-6, rtol=1e-5)
    assert calls == [inputs.shape]


@pytest.mark.parametrize(("approximate", "dtype"), [("none", torch.float32), ("tanh", torch.bfloat16)])
def test_other_activations_and_types_stay_with_torch(calls, approximate, dtype):
    inputs = torch.randn(2, 5, 8).to(dtype)
    with FastLayers():
        found = F.gelu(inputs, approximate=approximate)
    assert torch.equal(found, F.gelu(inputs, approximate=approximate)) and not calls
