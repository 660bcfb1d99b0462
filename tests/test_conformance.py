"""All our methods keep the rules, and one that breaks a rule is found by the check for it."""

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_ttmm import small_retriever

from tttnn import methods
from tttnn.conformance import (
    ALPHABET,
    NEIGHBOURS,
    TEXT,
    ConformanceError,
    _found,
    check_method,
    check_part,
    check_repeatable,
    tiny_loop,
    token_scores,
)
from tttnn.corpus import Document, write_jsonl
from tttnn.errors import ParameterError
from tttnn.experiment.drawing import DrawnDocument
from tttnn.experiment.runner import _legal, document_rows
from tttnn.methods import METHODS, Method, find_method
from tttnn.methods.training import Training
from tttnn.methods.ttmm import build
from tttnn.models import parts
from tttnn.models.columns import Columns
from tttnn.models.parts import PARTS, Part, select_part
from tttnn.plugins import plugins
from tttnn.retrieval import strategies
from tttnn.retrieval.strategies import STRATEGIES, Selection
from tttnn.scoring import IllegalScore, Score
from tttnn.ttt import TTT, Step, Switches

VALUES = {"in-context": "0.5", "unigram": "0.1", "knn-lm": "0.2", "dynamic": "8", "ttt-dynamic": "8", "ttmm": "2"}
NAMES = [f"{name}:{VALUES[name]}" if name in VALUES else name for name in METHODS]
TRAINED = [name if part.value is None else f"{name}:{count}" for name, part in PARTS.items()
           for count in ((0,) if part.value is None else (1, 2))]  # fmt: skip


@pytest.fixture
def experts(tmp_path, monkeypatch):
    """A loop with a retriever, and experts for `ttmm:2`."""
    ttt = tiny_loop(lora=2)
    ttt.retriever = small_retriever(tmp_path)
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path))
    build(ttt, find_method("ttmm:2"))
    return ttt


@pytest.mark.parametrize("name", [each for each in NAMES if each != "ttmm:2"])
def test_our_methods_keep_the_rules(name):
    check_method(name)


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("ttt-dynamic:8", {"lora": 2}), ("ttt", {"dropout": 0.2}), ("dynamic:8", {"train": "last:1"}),
        *((name, {"precision": "bfloat16", "buckets": True}) for name in ("ttt", "dynamic:8", "ttt-dynamic:8")),
    ],
)  # fmt: skip
def test_so_do_those_that_train_with_other_switches(name, switches):
    check_method(name, tiny_loop(**switches))


def test_so_do_merged_experts(experts):
    check_method("ttmm:2", experts)


def test_a_character_is_a_token_and_a_byte():
    ttt = tiny_loop()
    assert ttt.lm.encode(ALPHABET) == list(range(len(ALPHABET)))
    assert ttt.scorer(TEXT)().tokens == len(TEXT) == len(TEXT.encode())
    assert set(token_scores("ttt", ttt, TEXT)) == {0, 1, 3}


@dataclass(frozen=True)
class Broken(Method):
    """Breaks one rule."""

    def steps(self, ttt, found, ks):
        scorer = ttt.scorer(found.scored)
        yield Step(0, scorer())
        if max(ks):
            yield Step(max(ks), self.last(ttt, scorer, found))


class LooksAhead(Broken):
    """Trains on the text, then scores it."""

    def last(self, ttt, scorer, found):
        with ttt.session():
            ttt.train(ttt.chunks(found.scored)[0])
            return scorer()


class GivesTooMuch(Broken):
    """Makes every token likelier than the model does."""

    def last(self, ttt, scorer, found):
        return scorer.total(0.9 * scorer.token_nats())


class GoesOn(Broken):
    """Scores once more where only k = 0 is asked for."""

    def steps(self, ttt, found, ks):
        yield from super().steps(ttt, found, [1, *ks])

    def last(self, ttt, scorer, found):
        return scorer()


class DrawsAnew(Broken):
    """Trains with noise that no seed fixes."""

    def last(self, ttt, scorer, found):
        return scorer.total(scorer.token_nats() + torch.rand(1))


class LeavesItChanged(Broken):
    """Never puts the weights back."""

    def last(self, ttt, scorer, found):
        with torch.no_grad():
            next(ttt.lm.model.parameters()).add_(0.01)
        return scorer()


class CountsItself(Broken):
    """Says how many bytes there are without asking the scorer."""

    def last(self, ttt, scorer, found):
        nats = scorer()
        return Score(nats.nats, 2 * nats.bytes, nats.words, nats.tokens)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LooksAhead, "at k=3 a change of byte 1 changes the score of byte 0"),
        (GivesTooMuch, r"all tokens' probabilities sum to 1\.\d+, not 1"),
        (GoesOn, r"steps of k=.0, 1.: they go up from 0 to 0, each k once"),
        (DrawsAnew, "changes the score"),
        (LeavesItChanged, "the model is not what it was"),
        (CountsItself, "is not from ttt.scorer"),
    ],
)
def test_what_breaks_a_rule_is_found(monkeypatch, kind, message):
    monkeypatch.setitem(METHODS, "broken", kind)
    with pytest.raises(ConformanceError, match=f"^broken: .*({message})"):
        check_method("broken")


def test_what_draws_without_a_seed_is_found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "broken", DrawsAnew)
        with pytest.raises(ConformanceError, match="gives other scores: seed it"):
            check_repeatable("broken", tiny_loop())


def test_the_runner_takes_no_score_over_other_bytes(monkeypatch):
    monkeypatch.setitem(METHODS, "broken", CountsItself)
    size = len(TEXT)
    with pytest.raises(IllegalScore, match=f"^k=2: a score over {2 * size} bytes of a text of {size}$"):
        document_rows_without_neighbours(tiny_loop(), "broken", monkeypatch)


def test_the_runner_takes_steps_that_go_up_from_0_alone(monkeypatch):
    backwards = type("Backwards", (Training,), {"steps": lambda *asked: reversed(list(Training.steps(*asked)))})
    monkeypatch.setitem(METHODS, "broken", backwards)
    with pytest.raises(IllegalScore, match="a step of k=2 after one of k=-1: steps go up from 0"):
        list(_legal(find_method("broken").steps(tiny_loop(), _found(TEXT), [0, 2]), _found(TEXT)))


@pytest.mark.parametrize("name", [each for each in NAMES if each != "ttmm:2"])
def test_the_runner_takes_a_run_at_k_0_alone(name):
    rows = document_rows(tiny_loop(), DrawnDocument("d", 0, TEXT), [0], name)
    assert [(row["k"], row["failure"]) for row in rows] == [(0, "")]


def document_rows_without_neighbours(ttt, method, monkeypatch):
    monkeypatch.setattr(METHODS[method], "uses_neighbours", False)
    return document_rows(ttt, DrawnDocument("d", 0, TEXT), [0, 2], method)


def test_the_scorer_takes_one_probability_a_token():
    scorer = tiny_loop().scorer(TEXT)
    with pytest.raises(IllegalScore, match=f"shape .71,. for {len(TEXT)} tokens: give each token one"):
        scorer.total(scorer.token_nats()[1:])
    with pytest.raises(IllegalScore, match="a probability above 1"):
        scorer.total(scorer.token_nats() - 10)


def test_what_is_not_looked_up_costs_no_retrieval(monkeypatch):
    """Also without a retriever: nothing asks for one."""
    monkeypatch.setitem(METHODS, "free", type("Free", (Broken,), {"last": lambda self, ttt, scorer, found: scorer()}))
    rows = document_rows_without_neighbours(tiny_loop(), "free", monkeypatch)
    assert [row["k"] for row in rows] == [0, 2] and not any(row["retrieval_seconds"] for row in rows)
    assert "neighbour" not in rows[1] and len(NEIGHBOURS) == 3


@pytest.mark.parametrize("name", TRAINED)
def test_our_parts_keep_the_rules(name):
    check_part(name)


@pytest.mark.parametrize("name", TRAINED)
def test_so_do_they_in_models_of_other_makes(lm, name):
    check_part(name, TTT(lm, switches=Switches(learning_rate=1e-2, max_length=16, max_chunks=1)))


def by_chance(model):
    return [list(model.parameters())[torch.randint(10, ())]]


def writing(model):
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    return [model.lm_head.weight]


def freezing(model):
    """Says what takes a gradient by itself."""
    model.requires_grad_(False)
    return [model.lm_head.weight.requires_grad_(True)]


class Spills(Columns):
    """Writes beyond its columns, too."""

    @torch.no_grad()
    def write_back(self):
        super().write_back()
        self.whole[..., -1] += 0.01


def of_some_columns(model):
    return [Spills(model.transformer.h[0].attn.c_attn.weight, 16)]


def unused(model):
    model.tail = getattr(model, "tail", torch.nn.Linear(2, 2))
    return model.tail.parameters()


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (by_chance, r"it selects transformer\.\w.*, and asked again transformer\.\w.*: only the model"),
        (writing, "selecting its weights changes the model"),
        (freezing, "selecting its weights changes the model"),
        (unused, "selecting its weights changes the model"),
        (of_some_columns, r"transformer\.h\.0\.attn\.c_attn\.weight has changed beyond the part"),
        (lambda model: [Columns(next(model.parameters()), 0)], r"no step changes transformer\.wte.* \(0 columns\)"),
        (lambda model: [model.transformer.ln_f.weight], r"without such weights it fails \(AttributeError: .*weight"),
    ],
)  # fmt: skip
def test_a_part_that_breaks_a_rule_is_found(monkeypatch, select, message):
    monkeypatch.setitem(PARTS, "broken", Part("breaks a rule", select))
    with pytest.raises(ConformanceError, match=f"^train='broken': .*{message}"):
        check_part("broken")


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda model: [], "a gpt2 model has no such weights"),
        (lambda model: [torch.nn.Parameter(torch.ones(2))], r"no weight of the model \(Parameter\)"),
        (lambda model: [*model.parameters(), model.lm_head], r"no weight of the model \(Linear\)"),
    ],
)
def test_a_part_that_selects_no_weights_is_refused(monkeypatch, select, message):
    monkeypatch.setitem(PARTS, "broken", Part("selects something else", select))
    with pytest.raises(ParameterError, match=f"^train='broken': .*{message}"):
        check_part("broken")


def blocks(kind):
    """Blocks of code of the page that says how to add something."""
    page = (Path(__file__).parents[1] / "book" / "add_a_method.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_worked_method_of_the_page_keeps_the_rules():
    """Its blocks are executed as they stand there, and its remark on what goes wrong without a line is true."""
    example, check = blocks("python")[:2]
    careless = example.replace("if seen:", "if True:").replace("seen.total()", "max(seen.total(), 1)")
    names = {"__name__": "add_a_method"}  # dataclasses looks its module up
    try:
        exec(example, names)
        exec(check, names)
        rows = document_rows(tiny_loop(), DrawnDocument("d", 0, TEXT), [0, 20], "cache:0.1")
        exec(careless, names)
        with pytest.raises(ConformanceError, match=r"after 0 tokens, all tokens' probabilities sum to 0\.9"):
            check_method("cache:0.1")
    finally:
        METHODS.pop("cache", None)
    assert [row["k"] for row in rows] == [0, 20] and rows[1]["nats"] != rows[0]["nats"]
    code = [line for line in example.splitlines() if line.strip()]
    assert len(code) <= 35


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A small corpus in the folder that the page names, seen from where its blocks are executed."""
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    texts = [f"Minutes of meeting {n}: {'bread ' * n} and a recipe" for n in range(20)]
    write_jsonl(tmp_path / "notes" / "notes.train.jsonl", [Document(text) for text in texts])


def test_the_worked_strategy_of_the_page_keeps_the_rules(notes):
    example, check = blocks("python")[2:4]
    names = {}
    try:
        exec(example, names)
        exec(check, names)
        retriever = names["retriever"]
        chosen = Selection(retriever, "second")
        assert list(chosen.neighbours("bread", 3)) == list(retriever.neighbours("bread", 6))[::2]
        with pytest.raises(ParameterError, match="k=11: only 10 of 20 documents qualify for second"):
            chosen.check_k(11)
    finally:
        STRATEGIES.pop("second", None)


def test_the_worked_part_of_the_page_keeps_the_rules(lm):
    example, check = blocks("python")[4:]
    try:
        exec(example, {})
        exec(check, {})
        check_part("attention", TTT(lm, switches=Switches(learning_rate=1e-2, max_length=16, max_chunks=1)))
        ids = {id(each) for each in select_part(lm.model, "attention")}
    finally:
        PARTS.pop("attention", None)
    selected = {name for name, parameter in lm.model.named_parameters() if id(parameter) in ids}
    assert selected == {name for name, _ in lm.model.named_parameters() if re.search(r"\.(self_)?attn\.", name)}


@pytest.mark.parametrize("registers", [False, True], ids=["as the page says", "with the line of notebooks"])
def test_a_package_brings_the_three_examples_of_the_page(notes, tmp_path, monkeypatch, registers):
    """Installed: a module for each, and the entry points. One that enters its own when imported is not refused."""
    code, registries = blocks("python"), {"cache": METHODS, "second": STRATEGIES, "attention": PARTS}
    package, facts = tmp_path / "site" / "my_package", tmp_path / "site" / "my_package-1.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    for name, example in zip(registries, code[::2], strict=True):
        module, last = example.rstrip().rsplit("\n", 1)
        assert last.endswith("# in a notebook or script; a package leaves this line out, see below")
        (package / f"{name}.py").write_text(example if registers else module, encoding="utf-8")
    groups = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    listed = [f"[{group}]\n{name} = {place}\n" for group, each in groups.items() for name, place in each.items()]
    assert set(groups) == {methods.GROUP, strategies.GROUP, parts.GROUP}
    (facts / "entry_points.txt").write_text("".join(listed))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    monkeypatch.syspath_prepend(package.parent)
    plugins.cache_clear()
    try:
        for check in code[1::2]:
            exec(check, {})
        assert {name: name in known for name, known in registries.items()} == dict.fromkeys(registries, registers)
    finally:
        for name, known in registries.items():
            known.pop(name, None)
            sys.modules.pop(f"my_package.{name}", None)
        sys.modules.pop("my_package", None)
        monkeypatch.undo()
        plugins.cache_clear()
