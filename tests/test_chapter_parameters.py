"""Every parameter of every chapter: a value of another type, out of range or misspelt stops it in seconds, by name."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import tiny
import yaml
from papermill.exceptions import PapermillExecutionError

from tttnn.errors import ParameterError
from tttnn.report.chapter import (
    ARCHIVED,
    KNOWN,
    LIKE_RUN,
    METHOD_RUNS,
    REAL_MODEL,
    REAL_RUN,
    RUNS,
    chapter_parameters,
    chosen_domains,
)

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHAPTERS = sorted(path.stem for path in NOTEBOOKS.glob("*.md"))
# What nobody may give for a parameter of a type, whatever it is called.
WRONG = {
    str: [None, True, [], {"a": 1}, ["wheels"]],
    int: [None, True, "", "two", 2.5, "2.5", [2], -1, "-1", float("nan"), float("inf"), 10**30],
    float: [None, True, "", "fast", [0.5], -0.1, "-2e-5", "nan", float("inf"), 1e400],
    list[str]: [None, True, "python", {"a": 1}, [None], [["python"]], [""]],
    list[int]: [None, True, [], "1, 2", ["a"], [1.5, 2], [-1, 2], [None, 1]],
    dict[str, float]: [None, {}, [1], {"laptop": "much"}, {"laptop": -1}, {"laptop": 0}, {None: 1e9}],
}
NO_MODEL = ["gpt2-xs-generall", "/no/such/folder", "./gpt2", "lm:gpt2-xs-general"]
NO_RUN = ["seven-domain", "/no/such/folder"]
# What nobody may give for a parameter of a name.
MISSPELT = {
    **dict.fromkeys(("model", "twin", "reasoning_model", "real"), NO_MODEL),
    "ladder": [[name] for name in NO_MODEL],
    **{key: ["lexicl", "lm:gpt2", "/no/such/folder", ""] for key in ("embedder", "real_embedder")},
    "compare_embedders": [["lexicl"], ["lexical", "lm:gpt3"]],
    **dict.fromkeys((*RUNS, *METHOD_RUNS, REAL_RUN, LIKE_RUN), NO_RUN),
    **{key: ["gpt2-xs-generall", "gpt2", ""] for key in (*ARCHIVED, REAL_MODEL)},
    "corpus": ["wheel", "/no/such/folder", ""],
    "device": ["gpu", "cuda:99", "cpu:1", "meta", ""],
    "case": ["githb", ""],
    "bench": ["/no/such/folder"],
    "last": [21],
    **{key: [0] for key in ("threads", "per_domain", "resamples", "planned", "shown")},
    **{key: [0] for key in ("real_k", "real_rate", "real_tokens")},
    **{key: [0, "0.0"] for key in ("disk_speed", "read_time")},
    "usable": [0, 1.5, "75 %"],
    **{key: [[4], [4, 4], [0, 4]] for key in ("copies", "short_documents", "memory_documents")},
}
FREE = {"mathematics", "domains", "others"}  # names that only the corpus knows


def own(name: str) -> dict:
    """The chapter's own parameters, as its first code cell leaves them."""
    cells = jupytext.read(NOTEBOOKS / f"{name}.md").cells
    (cell,) = (each for each in cells if "parameters" in each.metadata.get("tags", []))
    space: dict = {}
    exec(compile(cell.source, name, "exec", dont_inherit=True), space)
    return space


SPACES = {name: own(name) for name in CHAPTERS}
EVERY = [
    pytest.param(name, key, kind, id=f"{name[:2]}-{key}")
    for name, space in SPACES.items()
    for key, kind in space["__annotations__"].items()
]


def given(chapter: str, **values) -> dict:
    space = dict(SPACES[chapter]) | values
    return chapter_parameters(space)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_s_own_parameters_are_understood_as_they_are(chapter):
    found = given(chapter)
    assert found == {name: SPACES[chapter][name] for name in SPACES[chapter]["__annotations__"]}


@pytest.mark.parametrize(("chapter", "name", "kind"), EVERY)
def test_every_parameter_refuses_other_types_and_what_is_not_there(chapter, name, kind):
    assert name in MISSPELT or name in FREE or kind in (int, float, list[int], dict[str, float])
    # Chapter 0 has no live run, and says itself of which models there are no rows.
    absent = chapter.startswith("00") and name in ARCHIVED
    for wrong in [*WRONG[kind], *([""] if absent else MISSPELT.get(name, []))]:
        with pytest.raises(ParameterError) as refused:
            given(chapter, **{name: wrong})
        assert str(refused.value).startswith((f"{name}=", f"{name}[")), f"{wrong!r}: {refused.value}"


@pytest.mark.parametrize(
    ("chapter", "name", "text", "value"),
    [
        ("01_ttt_nn_loop", "learning_rate", "2e-5", 2e-5),  # what YAML makes of 2e-5
        ("01_ttt_nn_loop", "k", "5", 5),
        ("01_ttt_nn_loop", "k", 5.0, 5),
        ("01_ttt_nn_loop", "max_bytes", "0", 0),
        ("01_ttt_nn_loop", "device", " cpu ", "cpu"),
        ("10_memory_efficient_index", "copies", "[1, 2]", [1, 2]),  # what papermill -p makes of a list
        ("04_scaling_across_models", "domains", "[python, catalogues]", ["python", "catalogues"]),
        ("10_memory_efficient_index", "copies", ["1", "2"], [1, 2]),
        ("index_at_scale", "machine_memory", {"mine": "8e9"}, {"mine": 8e9}),
    ],
)
def test_numbers_and_lists_as_text_are_understood(chapter, name, text, value):
    found = given(chapter, **{name: text})[name]
    assert found == value and type(found) is type(value)


def test_what_was_understood_takes_its_place_in_the_chapter():
    space = dict(SPACES["01_ttt_nn_loop"]) | yaml.safe_load("learning_rate: 2e-5")
    chapter_parameters(space)
    assert space["learning_rate"] == 2e-5


def test_a_folder_may_have_a_number_for_a_name_and_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    assert given("01_ttt_nn_loop", corpus=2024)["corpus"] == "2024"
    assert given("01_ttt_nn_loop", corpus="~/2024")["corpus"] == str(tmp_path / "2024")


def test_a_model_may_be_a_folder_or_on_the_hub(tmp_path, monkeypatch):
    folder = tiny.tiny_gpt2(tmp_path / "mine")
    assert given("01_ttt_nn_loop", model=str(folder))["model"] == str(folder)
    for file in ("own.gguf", "quantised/own.gguf", "adapters/adapter_config.json"):
        own = tmp_path / file
        own.parent.mkdir(exist_ok=True)
        own.touch()
        value = str(own if own.parent == tmp_path else own.parent)
        assert given("01_ttt_nn_loop", model=value)["model"] == value
    for embedder in ("lm:smollm2-135m", f"lm:{folder}"):
        assert given("01_ttt_nn_loop", embedder=embedder)["embedder"] == embedder
    with pytest.raises(ParameterError, match="embedder='lm:gpt3'"):
        given("01_ttt_nn_loop", embedder="lm:gpt3")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    given("01_ttt_nn_loop", model="openai-community/gpt2-medium")
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(ParameterError, match=r"model='openai-community/gpt2-medium': not in the hub's cache"):
        given("01_ttt_nn_loop", model="openai-community/gpt2-medium")


def test_a_model_that_the_recipe_has_yet_to_make_is_refused_with_its_command():
    with pytest.raises(ParameterError, match=r"^gpt2-m-general: its weights are not shipped; make them with"):
        given("01_ttt_nn_loop", model="gpt2-m-general")


def test_what_is_there_is_listed():
    with pytest.raises(ParameterError, match=r"main='gpt2-xs-pil'.*did you mean 'gpt2-xs-pile'"):
        given("01_ttt_nn_loop", main="gpt2-xs-pil")
    with pytest.raises(ParameterError, match=r"archived_run='six-domains'.*seven-domains"):
        given("01_ttt_nn_loop", archived_run="six-domains")
    with pytest.raises(ParameterError, match=r"last=21: .* at k = \[.*20\]"):
        given("05_is_it_retrieval", last=21)


@pytest.mark.parametrize("chapter", ["05_is_it_retrieval", "11_which_method", "should_i_use_it"])
def test_methods_that_were_scored_at_their_end_alone_say_where(chapter):
    with pytest.raises(ParameterError, match=r"^last=10: .*dynamic-128.* has rows of .* at k = \[0, 20\]"):
        given(chapter, last=10)
    with pytest.raises(ParameterError, match=r"k=21: seven-domains has rows of .* at k = \[.*20\]"):
        given("00_reproduction_at_a_glance", k=21)


def test_domains_are_those_asked_for_or_the_usual_or_all():
    wheels, own = ["catalogues", "mathematics", "python", "readmes"], ["a", "b", "c", "d"]
    assert chosen_domains("domains", [], wheels, ("python", "catalogues")) == ["python", "catalogues"]
    assert chosen_domains("domains", ["readmes"], wheels, ("python",)) == ["readmes"]
    assert chosen_domains("domains", [], own, ("python",)) == own
    assert chosen_domains("domains", [], own, ("python",), most=3) == own[:3]
    assert chosen_domains("mathematics", "", own, ["mathematics"], most=1) == ["a"]


@pytest.mark.parametrize("asked", [["pyton"], ["python", "latx"], ["python", "Python"]])
def test_a_domain_that_is_not_there_is_named_with_those_that_are(asked):
    with pytest.raises(ParameterError, match=r"domains='\w+': must be one of python, readmes"):
        chosen_domains("domains", asked, ["python", "readmes"], ["python"])


@pytest.mark.parametrize("chapter", ["04", "09"])
def test_every_chapter_with_domains_asks_this_function_before_it_builds_an_index(chapter):
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.md")
    text = path.read_text(encoding="utf-8")
    asked = text.index('chosen_domains("domains", domains, texts.domains')
    assert asked < text.index("open_retriever(texts")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_checks_before_it_does_anything(chapter):
    cells = [cell.source for cell in jupytext.read(NOTEBOOKS / f"{chapter}.md").cells if cell.cell_type == "code"]
    assert cells[1].endswith("\nparameters = chapter_parameters(globals())")
    assert "provenance(parameters," in cells[-1]


def test_all_parameters_are_known():
    assert set().union(*(space["__annotations__"] for space in SPACES.values())) == KNOWN


def test_a_profile_for_all_chapters_may_set_what_this_one_has_not():
    cells = ["", "k: int = 20", "# Parameters\nladder = ['gpt2']\nk = 5\n"]
    assert given("01_ttt_nn_loop", In=cells, ladder=["gpt2"], k=5)["k"] == 5
    with pytest.raises(ParameterError, match=r"parameters='leader': must be one of corpus, model"):
        given("01_ttt_nn_loop", In=[*cells, "# Parameters\nleader = 1"], leader=1)


def run(chapter: str, tmp_path: Path, parameters: dict) -> str:
    """What papermill says."""
    path = tmp_path / f"{chapter}.ipynb"
    nbformat.write(jupytext.read(NOTEBOOKS / f"{chapter}.md"), path)
    with pytest.raises(PapermillExecutionError) as failed:
        papermill.execute_notebook(path, path, parameters, kernel_name="python3", cwd=NOTEBOOKS, progress_bar=False)
    assert failed.value.exec_count == 3, "after its own parameters and those of papermill"
    return f"{failed.value.ename}: {failed.value.evalue}"


def test_papermill_stops_at_a_bad_value(tmp_path):
    said = run("01_ttt_nn_loop", tmp_path, {"learning_rate": "quick"})
    assert said.startswith("ParameterError: learning_rate='quick' (str): must be a number")


def test_papermill_stops_at_a_parameter_that_is_not_there(tmp_path):
    said = run("09_what_it_costs", tmp_path, {"per_domian": 3})
    assert said.startswith("ParameterError: parameters='per_domian'") and "did you mean 'per_domain'" in said
