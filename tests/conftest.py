"""Fixtures of several test files."""

import pytest

from tttnn.models import products


@pytest.fixture(params=["torch", "onednn"])
def library(request, monkeypatch):
    """The library that products on a CPU go through, each in turn, whatever suits this processor."""
    if request.param == "onednn" and products._ONEDNN is None:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param == "onednn")
    return request.param


@pytest.fixture
def onednn(monkeypatch):
    """Products go through oneDNN, also on a processor that torch's own library suits better."""
    if products._ONEDNN is None:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
