"""The house keeps its plan: who may import whom, what the ground floor leaves out, and the drawing of both.

Imports are read from the source, so those within functions count, too, and no module is run.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import tttnn

ROOT = Path(__file__).resolve().parents[1]

# Floors from the ground up, which is from left to right as data flows. A room imports from the floors below its own,
# never from its own or from one above. There is no exception: what needs one belongs on another floor.
GROUND = [
    ["tttnn", "errors"],
    ["files", "operations", "parameters", "plugins"],
    ["device", "fetch", "hub", "provenance", "ray_cluster", "rows"],
    ["memory"],
]
LINE = [
    ["corpus", "models"],  # an embedder is a model, too, so models come before embedders
    ["embedding"],
    ["index"],
    ["retrieval", "scoring"],
    ["ttt"],
    ["methods", "together"],
    ["conformance", "experiment", "pretraining"],
    ["studies"],
    ["analysis"],
    ["report"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate([*GROUND, *LINE]) for room in rooms}


@dataclass(frozen=True)
class Import:
    """One import of a module of the package by another."""

    module: str
    line: int
    target: str
    at_call: bool  # within a function, so not until it is called

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}, imports {self.target}" + " within a function" * self.at_call


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def modules() -> dict[str, Path]:
    """Names of the package's modules and their files."""
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in sorted((ROOT / "tttnn").rglob("*.py"))}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


KNOWN = modules()


def imports(module: str, text: str) -> list[Import]:
    """The imports of the package's own modules in one of them."""
    package = module if KNOWN[module].name == "__init__.py" else module.rpartition(".")[0]
    return [
        Import(module, node.lineno, target, at_call)
        for node, at_call in nodes(ast.parse(text))
        for target in targets(node, package)
        if target.split(".")[0] == "tttnn"
    ]


def source(module: str) -> str:
    return KNOWN[module].read_text(encoding="utf-8")


def nodes(node: ast.AST, at_call: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """A tree's nodes, and whether each is within a function."""
    yield node, at_call
    at_call |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from nodes(child, at_call)


def targets(node: ast.AST, package: str) -> Iterator[str]:
    """Full names of the modules that a node imports, if it does; `package` is the one that relative names begin at."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for name in node.names:
            full = f"{base}.{name.name}"
            if base == "tttnn" and full not in KNOWN:
                # The package hands on what it loads on first use: that is an import of its home.
                yield from tttnn._HOMES.values() if name.name == "*" else [tttnn._HOMES.get(name.name, base)]
            else:
                yield full if full in KNOWN else base
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant))


def backward(found: list[Import]) -> list[str]:
    """The imports of another room that does not lie below."""
    between = [each for each in found if room(each.module) != room(each.target)]
    return [str(each) for each in between if FLOOR[room(each.target)] >= FLOOR[room(each.module)]]


def edges(found: list[Import], name: Callable[[str], str] = room) -> dict[str, set[str]]:
    """Each room, or module where `name` gives that, and those that it imports."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if name(each.module) != name(each.target):
            graph.setdefault(name(each.module), set()).add(name(each.target))
    return graph


def drawing(found: list[Import]) -> str:
    """The house: the last floor of the line on top, each room with the rooms it imports, the ground floor below."""
    graph, ground = edges(found), [room for rooms in GROUND for room in rooms if room != "tttnn"]
    floors = [
        [(each, sorted(graph.get(each, set()) & set(chain(*LINE)), key=list(FLOOR).index)) for each in rooms]
        for rooms in reversed(LINE)
    ] + [[("ground floor", ground)]]
    left, right = 12, max(len(" ".join(below)) for rooms in floors for _, below in rooms)
    rule = f"+-{'-' * left}-+-{'-' * right}-+"
    lines = [[*(f"| {each:{left}} | {' '.join(below):{right}} |" for each, below in rooms), rule] for rooms in floors]
    return "\n".join([rule, *chain(*lines)])


FOUND = [each for module in KNOWN for each in imports(module, source(module))]


def test_every_room_has_a_floor():
    rooms = {room(module) for module in KNOWN}
    assert rooms == set(FLOOR), "give a new room its floor, and take out one that is gone"


@pytest.mark.parametrize("at_call", [False, True], ids=["at import", "within functions"])
def test_no_room_imports_from_its_own_floor_or_from_above(at_call):
    kept = [each for each in FOUND if each.at_call == at_call]
    assert len(kept) > 40, "imports are no longer found"
    assert backward(kept) == []


def test_no_circle_of_modules_at_import():
    at_import = [each for each in FOUND if not each.at_call]
    TopologicalSorter(edges(at_import, str)).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("tttnn.scoring", "from tttnn.report import charts"),
        ("tttnn.scoring", "from tttnn import report"),
        ("tttnn.scoring", "import tttnn.report.charts as charts"),
        ("tttnn.scoring", "from . import report"),
        ("tttnn.index.build", "from ..retrieval import Retriever"),
        ("tttnn.index", "from ..retrieval.strategies import Selection"),
        ("tttnn.corpus.jsonl", "def late():\n    from tttnn.index import Index"),
        ("tttnn.models.layers", "if TYPE_CHECKING:\n    from tttnn.ttt import TTT"),
        ("tttnn.models.layers", "class Late:\n    async def load(self):\n        import tttnn.ttt"),
        ("tttnn.files", "from tttnn import load_model"),
        ("tttnn.files", "from tttnn import *"),
        ("tttnn.files", "import_module('tttnn.memory')"),
        ("tttnn.retrieval.sift", "from tttnn.scoring import score"),  # the same floor
        ("tttnn", "from tttnn.ttt import TTT"),
    ],
)
def test_a_backward_import_is_found(module, added):
    assert backward(imports(module, source(module))) == []
    found = backward(imports(module, f"{source(module)}\n{added}\n"))
    assert found
    assert all(line.startswith(f"{module}, line") for line in found)


@pytest.mark.parametrize("added", ["from tttnn.files import read_json", "import json", "from .layers import Linear"])
def test_an_import_from_below_or_within_the_room_is_none(added):
    assert backward(imports("tttnn.models.lora", added)) == []


def test_a_circle_is_found():
    circle = [Import("tttnn.a", 1, "tttnn.b", False), Import("tttnn.b", 1, "tttnn.a", False)]
    with pytest.raises(CycleError):
        TopologicalSorter(edges(circle, str)).prepare()


def loaded(modules: list[str], heavy: set[str]) -> list[str]:
    """Which of the heavy libraries importing some modules loads."""
    program = f"import sys, {', '.join(modules)}; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_the_ground_floor_loads_no_torch():
    """What only reads a file or checks a number starts at once."""
    ground = [f"tttnn.{room}" for rooms in GROUND for room in rooms if room != "tttnn"]
    assert loaded(ground, {"torch", "transformers", "faiss", "pandas"}) == []


def test_names_of_models_and_what_shows_results_load_no_torch():
    """Who looks a name up, reads rows, draws a chart or prints a footer does not wait for what runs models."""
    shown = [name for name in KNOWN if room(name) in {"analysis", "report"}]
    names = ["tttnn.models", "tttnn.models.model_registry", "tttnn.embedding.embedder_registry"]
    assert len(shown) > 15
    assert loaded([*shown, *names], {"torch", "transformers", "faiss"}) == []


def test_the_report_starts_without_a_data_frame():
    assert loaded(["tttnn.report", "tttnn.provenance"], {"torch", "transformers", "faiss", "pandas", "altair"}) == []


def test_the_page_of_the_interface_goes_from_the_ground_up():
    """Its list has every room but the command line, each after those that it imports."""
    book = ast.parse((ROOT / "book" / "build.py").read_text(encoding="utf-8"))
    rooms = next(ast.literal_eval(node.value) for node in book.body if ast.unparse(node).startswith("ROOMS ="))
    assert set(rooms) == FLOOR.keys() - {"tttnn", "__main__"}
    assert [FLOOR[name] for name in rooms] == sorted(FLOOR[name] for name in rooms)


def test_the_drawing_shows_the_house_as_it_is():
    drawn = drawing(FOUND)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert drawn in text, f"CONTRIBUTING.md: the drawing should be\n{drawn}"


def test_contributing_names_what_there_is():
    """Each row of its table names files, and names of code that one of these files holds."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"`([^`]+)`", row)
        files = [ROOT / name for name in named if "/" in name or "." in name]
        assert [path for path in files if not path.exists()] == []
        sources = " ".join(path.read_text(encoding="utf-8") for path in files if path.suffix == ".py")
        names = [name for name in named if "/" not in name and "." not in name]
        assert [name for name in names if not re.search(rf"\b{name}\b", sources)] == []
