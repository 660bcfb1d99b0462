"""Devices and threads that are not there are refused by name before anything is loaded."""

import pytest
import torch

from tttnn.device import find_device, use_threads
from tttnn.errors import ParameterError
from tttnn.models import load_model


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:99", "mps", "meta", "cpu:1", "xpu", "CPU", None, 3.5])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(ParameterError, match=r"^device=.*there is cpu"):
        find_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_cuda_is_refused_before_the_model_is_looked_for():
    with pytest.raises(ParameterError, match=r"device='cuda': .*there is cpu"):
        load_model("gpt2-xs-nowhere", device="cuda")


def test_the_processor_is_there():
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", True])
def test_threads_are_whole_numbers_from_one(threads):
    with pytest.raises(ParameterError, match=r"^threads="):
        use_threads(threads)


def test_threads_may_be_spelt_in_text():
    before = torch.get_num_threads()
    try:
        use_threads("1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
