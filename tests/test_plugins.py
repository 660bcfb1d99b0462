"""Strategies and parts of other packages: found by name, refused where two claim one, named where they are broken."""

import os
import sys

import pytest
from command_line import started
from tiny import tiny_llama

from tttnn import Switches, load_model
from tttnn.conformance import check_part, tiny_loop
from tttnn.corpus import Document, write_jsonl
from tttnn.errors import ParameterError
from tttnn.experiment.record import identity
from tttnn.models import parts
from tttnn.models.parts import find_part, part_names, select_part
from tttnn.plugins import plugins
from tttnn.retrieval import open_retriever
from tttnn.retrieval.conformance import check_strategy
from tttnn.retrieval.strategies import GROUP, Selection, find_strategy

SOURCE = """
from tttnn.retrieval.strategies import Rule

def second(selection, query):
    return selection.retriever.neighbours(query.text, query.k + 1)[1:]

rule = Rule("all but the nearest", second, most=lambda selection: len(selection) - 1)
valued = Rule("the same", second, value=(0, 1), default=0.5)
number = 3
"""
PARTS_SOURCE = """
from tttnn.models.parts import Part

def first(model, count):
    for path, parameter in model.named_parameters():
        if any(f".{block}." in path for block in range(count)):
            yield parameter

first = Part("the first N blocks", first, value=(1, 9))
wpe = Part("embeddings of places", lambda model: [p for n, p in model.named_parameters() if n.endswith("wpe.weight")])
number = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package on the path as pip would: a module and its metadata."""

    def put(package, points, source=SOURCE, group=GROUP):
        place = tmp_path / package
        metadata = place / f"{package}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (place / f"{package}_module.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = "".join(f"{name} = {package}_module:{attribute}\n" for name, attribute in points.items())
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        monkeypatch.syspath_prepend(place)
        plugins.cache_clear()

    yield put
    monkeypatch.undo()
    plugins.cache_clear()
    for name in [name for name in sys.modules if name.endswith("_module")]:
        del sys.modules[name]


@pytest.fixture
def retriever(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    texts = [f"parliament report {'budget ' * n} vote {n}" for n in range(20)]
    write_jsonl(tmp_path / "corpus" / "a.train.jsonl", (Document(text, {"pile_set_name": "a"}) for text in texts))
    return open_retriever(tmp_path / "corpus")


def test_a_strategy_of_another_package_is_chosen_by_name(install, retriever):
    install("other", {"second": "rule", "valued": "valued"})
    assert sorted(plugins(GROUP)) == ["second", "valued"]
    selection, text = Selection(retriever, "second"), "a report on the budget"
    expected = [each.id for each in retriever.neighbours(text, 4)[1:]]
    assert [each.id for each in selection.neighbours(text, 3)] == expected
    assert selection.identity["package"] == "other 1.2" and "package" not in Selection(retriever, "nearest").identity
    check_strategy("second", retriever, [(text, {}), ("votes of a member", {})])
    assert find_strategy("valued")[1] == 0.5 and find_strategy("valued:0.25")[1] == 0.25
    with pytest.raises(ParameterError, match="from 0 to 1"):
        find_strategy("valued:2")
    with pytest.raises(ParameterError, match=r"must be one of nearest.*second, valued; did you mean 'second'"):
        find_strategy("seconds")


def test_a_name_that_is_taken_is_refused_and_others_stay_usable(install):
    install("other", {"nearest": "rule", "second": "rule"})
    install("third", {"second": "rule"})
    with pytest.raises(
        ParameterError, match=r"'nearest' of tttnn.strategies is brought by tttnn itself and by other: remove"
    ):
        find_strategy("nearest")
    with pytest.raises(ParameterError, match=r"'second' of .* is brought by other and by third: remove"):
        find_strategy("second")
    assert find_strategy("sift")[1] == 0.01


@pytest.mark.parametrize(
    ("points", "source", "message"),
    [
        ({"mine": "rule"}, "import nothing_of_that_name", r"cannot be loaded \(ModuleNotFoundError: No module named"),
        ({"mine": "rule"}, "def broken(:", r"cannot be loaded \(SyntaxError"),
        ({"mine": "missing"}, SOURCE, r"cannot be loaded \(AttributeError"),
        ({"mine": "number"}, SOURCE, "is a int: it must be a Rule"),
    ],
)
def test_a_broken_plugin_is_named_in_a_sentence(install, points, source, message):
    install("broken", points, source)
    with pytest.raises(ParameterError, match=f"'mine' of the package broken {message}"):
        find_strategy("mine")
    assert find_strategy("nearest")[1] is None


def test_a_part_of_another_package_is_trained_by_name(install, tmp_path):
    install("other", {"first": "first", "wpe": "wpe"}, PARTS_SOURCE, parts.GROUP)
    assert part_names() == ["head", "norms", "down", "queries", "last:N", "first", "wpe"]
    lm = tiny_loop().lm
    names = {id(parameter): name for name, parameter in lm.model.named_parameters()}
    assert [names[id(each)] for each in select_part(lm.model, "wpe")] == ["transformer.wpe.weight"]
    assert {names[id(each)].split(".")[2] for each in select_part(lm.model, "first:1")} == {"0"}
    check_part("wpe")
    check_part("first:1")
    known = [identity(lm, None, Switches(train=name)) for name in ("first:1", "last:1", None)]
    assert [each.get("train_package") for each in known] == ["other 1.2", None, None]
    llama = load_model(tiny_llama(tmp_path / "llama")).model
    with pytest.raises(ParameterError, match=r"^train='wpe': a llama model has no such weights$"):
        select_part(llama, "wpe")
    for name in ("first", "first:0", "first:10", "first:01", "first:x"):
        with pytest.raises(ParameterError, match=f"^train='{name}': it needs a whole number from 1 to 9 after"):
            Switches(train=name)
    with pytest.raises(ParameterError, match=r"queries, last:N, first, wpe, with a number for N"):
        Switches(train="firsts:1")


def test_a_part_whose_name_is_taken_or_which_is_none_is_refused(install):
    install("other", {"head": "wpe", "wpe": "wpe", "mine": "number"}, PARTS_SOURCE, parts.GROUP)
    install("third", {"wpe": "wpe"}, PARTS_SOURCE, parts.GROUP)
    with pytest.raises(ParameterError, match=r"'head' of tttnn\.parts is brought by tttnn itself and by other: remove"):
        Switches(train="head")
    with pytest.raises(ParameterError, match=r"'wpe' of .* is brought by other and by third: remove"):
        Switches(train="wpe")
    with pytest.raises(ParameterError, match="'mine' of the package other is a int: it must be a Part"):
        Switches(train="mine")
    assert find_part("last:2")[1] == (2,)


def test_the_command_line_lists_parts_of_other_packages(install, tmp_path, monkeypatch):
    install("other", {"wpe": "wpe"}, PARTS_SOURCE, parts.GROUP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"), prepend=os.pathsep)
    monkeypatch.setenv("COLUMNS", "200")
    said = started("run", "--help", home=tmp_path)
    assert "Part of the weights: head, norms, down, queries, last:N, wpe." in said.stdout
