"""Chapters that are read to their end: short, opened by an answer, with cells that fit on a screen."""

import ast
import re
from pathlib import Path
from statistics import median

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9]*.md"))
WORDS, FIGURES, TABLES, LONGEST, TYPICAL, SENTENCE = 1800, 5, 8, 30, 8, 22
GLUE = re.compile(r"\{glue:text\}`([^`]+)`")
SCRAP = "application/papermill.record/text/plain"
ROLE = re.compile(r"\{[\w:]+\}`([^`<]+)(?:<[^>]+>)?`")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_page = pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.md")), ids=lambda path: path.stem)


def glued(path):
    """Return the values that the reference outputs have for a chapter's sentences."""
    outputs = [
        output for cell in nbformat.read(path.with_suffix(".ipynb"), 4).cells for output in cell.get("outputs", [])
    ]
    scraps = [output for output in outputs if "scrapbook" in output.get("metadata", {})]
    kept = [(scrap.metadata["scrapbook"]["name"], scrap.data.get(SCRAP)) for scrap in scraps]
    return {name: ast.literal_eval(value) for name, value in kept if value}


@each_page
def test_no_value_of_a_sentence_is_given_twice(path):
    """The later one would stand in both places."""
    cells = nbformat.read(path.with_suffix(".ipynb"), 4).cells
    given = [output.metadata["scrapbook"]["name"] for cell in cells for output in cell.get("outputs", [])
             if "scrapbook" in output.get("metadata", {})]  # fmt: skip
    assert sorted(given) == sorted(set(given))


def prose(path):
    """Return the text of a chapter with values and links as single words, without formulas, tables and fences."""
    text = "\n\n".join(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown")
    text = re.sub(
        r"```\{(?:math|raw)\}.*?```|^\|.*?$|```(?:bash|python).*?```", "", text, flags=re.DOTALL | re.MULTILINE
    )
    text = ROLE.sub(r"\1", GLUE.sub("0", text))
    return re.sub(r"^(?:`{3,}|:{3,}).*$|^:\w+:.*$", "", text, flags=re.MULTILINE)


def sentences(text):
    blocks = re.split(r"\n\s*\n|\n(?=[-#>] ?)|(?<=[.?!:])\s+", text)
    return [block.split() for block in blocks if len(block.split()) > 2 and not block.lstrip().startswith("#")]


def code(path):
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code" and cell.source.strip()]


@each_chapter
def test_a_chapter_is_read_in_a_quarter_of_an_hour(path):
    assert len(prose(path).split()) <= WORDS
    cells = [cell for cell in code(path) if "remove-cell" not in cell.metadata.get("tags", [])]
    shown = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "") for cell in cells]
    assert sum(name.startswith("fig-") for name in shown) <= FIGURES
    assert sum(bool(re.search(r"^table\(", cell.source, re.MULTILINE)) for cell in cells) <= TABLES


@each_page
def test_sentences_are_short(path):
    assert median(map(len, sentences(prose(path)))) <= SENTENCE


@each_page
def test_cells_are_short(path):
    lines = [len(cell.source.splitlines()) for cell in code(path)]
    assert median(lines) <= TYPICAL and max(lines) <= LONGEST


@each_chapter
def test_a_chapter_opens_with_its_answer(path):
    text = jupytext.read(path).cells[0].source
    answer = re.search(r"\*\*Answer\.\*\*(.*?)(?=\n```|\n:::|\n\n\S|\Z)", text, re.DOTALL)
    assert "**Question.**" in text and answer
    values = glued(path)
    said = ROLE.sub(r"\1", GLUE.sub(lambda role: values.get(role[1], "0"), answer[1]))
    said = re.sub(r"\]\([^)]*\)", "]", said)
    assert len(re.findall(r"[.!?](?=\s|$)", said)) <= 3
    assert len(re.findall(r"(?<![\w-])\d[\d,.]*", said)) <= 5


def test_a_long_sentence_is_counted():
    assert median(map(len, sentences("One two three. " + "word " * 60 + "end."))) > SENTENCE
