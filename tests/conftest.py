"""Fixtures of several test files, and how much of the exhaustive tests runs.

``TTTNN_TESTS=all``, as ``make test-all`` sets it, runs all of them: fifteen times as many random examples, and all
kills. Examples are the same each time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from tiny import MAKERS

from tttnn.models import load_model, products

LONGEST = ("test_chapters", "test_book", "test_ray_cluster", "test_killed_commands")
ALL = os.environ.get("TTTNN_TESTS") == "all"

settings.register_profile(
    "part", max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("all", settings.get_profile("part"), max_examples=1500)
settings.load_profile("all" if ALL else "part")
part = settings(max_examples=settings.default.max_examples // 2)
exhaustive = pytest.mark.skipif(not ALL, reason="`make test-all` runs it: as long as the case that is run, and like it")
few = settings(max_examples=settings.default.max_examples // 10)  # for what takes long, such as loading a model


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no process has a long one left at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


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


@pytest.fixture(scope="module", params=MAKERS)
def lm(request, tmp_path_factory):
    """A tiny model of each architecture that is reproduced, in turn."""
    return load_model(MAKERS[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return load_model(MAKERS["gpt2"](tmp_path_factory.mktemp("gpt2")))
