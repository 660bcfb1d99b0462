"""Executed chapters as pages of the book, and as notebooks that read well without it."""

from __future__ import annotations

import ast
import copy
import html
import re
from datetime import UTC, datetime
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tttnn.provenance import versions
from tttnn.report.tables import NUMBERED

GLUED = "application/papermill.record/text/plain"
INJECTED = "injected-parameters"  # the tag of papermill's cell
ROLE = re.compile(r"\{(glue:text|term|cite:[tp]|numref|eq|ref|doc)\}`([^`]+)`")
FENCE = re.compile(
    r"^(`{3,}|:{3,})\{(\w+)\}[ \t]*([^\n]*)\n((?::\w+:[^\n]*\n)*)(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL
)
CAPTION = re.compile(r'<p class="tttnn-caption">(.*?)</p>', re.DOTALL)
MARKUP = re.compile(r"([\\`*_{}\[\]<>|$~#])")
FACT = re.compile(r'<th scope="row">([^<]+)</th><td>([^<]+)</td>')
CHAPTER = re.compile(r"\]\((\w+)\)")
CITE = """
:::{{admonition}} Cite this chapter
:class: dropdown
```
@incollection{{tttnn-{name},
  title     = {{{title}}},
  author    = {{{{The tttnn authors}}}},
  booktitle = {{Test-time training on nearest neighbours}},
  year      = {{{year}}},
  note      = {{Version {version}, commit {commit}}}
}}
```
:::
"""
FIRST = """> **{name}**, a chapter of the book *Test-time training on nearest neighbours*, as executed.
> Its cells import the project's package `tttnn`: to run them, call `make .venv/.ready` in a clone, and execute the
> notebook with `.venv/bin/papermill`, or in your editor with `.venv/bin/python` as its kernel."""


def _figure_name(cell: NotebookNode) -> str:
    """Return the name of the figure that a cell shows, or nothing."""
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")


def with_origins(notebook: NotebookNode, name: str, commit: str) -> NotebookNode:
    """Add what only a page of the book has.

    To each figure how it was made, and a picture for readers whose browser runs no scripts; to each table with a
    caption a number and a name to refer to; at the end how to cite the chapter.

    Parameters
    ----------
    notebook : NotebookNode
        An executed chapter; it is not changed.
    name : str
        Of the chapter, without an ending.
    commit : str
        What it ran at, unless the chapter itself says so under Provenance.
    """
    dressed = copy.deepcopy(notebook)
    commit = ran(dressed).get("commit", commit)
    _name_tables(dressed, name)
    for cell in dressed.cells:
        if not _figure_name(cell):
            continue
        fold = _origin(cell.source, name, _redo(dressed, name), commit)
        for output in cell.outputs:
            data = output.get("data", {})
            if "tttnn-chart" in data.get("text/html", ""):
                data["text/html"] += f"\n{fold}\n{_picture(data)}"
    title = next((cell.source.partition("\n")[0].strip("# ") for cell in dressed.cells), name)
    facts = {"name": name, "title": title, "commit": commit, "version": versions()["tttnn"]}
    year = datetime.now(UTC).year
    dressed.cells.append(new_markdown_cell(CITE.format(**facts, year=year), id="cell-cite"))
    return dressed


def ran(notebook: NotebookNode) -> dict[str, str]:
    """Return what a chapter's provenance says of its last execution, such as commit, date, device and wall time."""
    pages = (
        output.get("data", {}).get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    found = [FACT.findall(page) for page in pages if "tttnn-provenance" in page]
    return {name: html.unescape(value) for name, value in found[-1]} if found else {}


def for_download(notebook: NotebookNode, name: str) -> NotebookNode:
    """Return a chapter that any viewer of notebooks shows as it was read.

    Numbers stand in their sentences, charts are pictures, figures have their captions, and what only the book
    understands is plain Markdown.

    Parameters
    ----------
    notebook : NotebookNode
        An executed chapter; it is not changed.
    name : str
        Of the chapter, without an ending.
    """
    plain = copy.deepcopy(notebook)
    glued = _glued(plain)
    cells = [new_markdown_cell(FIRST.format(name=name), id="cell-how")]
    for cell in plain.cells:
        if cell.cell_type == "markdown":
            cell.source = _plain_text(cell.source, glued)
        else:
            cell.outputs = [output for output in map(_plain_output, cell.outputs) if output]
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        caption = [
            new_markdown_cell(f"*{_figure_name(cell)}: {_plain_text(text, glued)}*", id=f"{cell.id}-caption")
            for text in [figure.get("caption")] if text
        ]  # fmt: skip
        cells += [*caption, cell] if figure.get("caption_before") else [cell, *caption]
    plain.cells = cells
    return plain


def _name_tables(notebook: NotebookNode, name: str) -> None:
    """Let Sphinx number the tables that have captions: in the cell's data, as those of figures are."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found = CAPTION.search(data.get("text/html", ""))
            if not found:
                continue
            data["text/html"] = data["text/html"].replace(found[0], "", 1)
            caption = MARKUP.sub(r"\\\1", html.unescape(found[1]))
            own = _figure_name(cell) or f"{NUMBERED}{name}-{number}"
            figure = {"name": own, "caption": caption, "caption_before": True}
            cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), "figure": figure}


def _redo(notebook: NotebookNode, name: str) -> str:
    """Return the command that executes a chapter as it was executed."""
    command = f".venv/bin/papermill notebooks/{name}.ipynb my-run.ipynb"
    for cell in notebook.cells:
        if INJECTED in cell.metadata.get("tags", []):
            for line in ast.parse(cell.source).body:
                command += f" -y '{line.targets[0].id}: {ast.unparse(line.value)}'"
    return command


def _origin(source: str, name: str, command: str, commit: str) -> str:
    """Return the fold under a figure. The blocks look like others of the page, so that they get its copy button."""
    call, redo = (f'<div class="highlight"><pre>{html.escape(text)}</pre></div>' for text in (source, command))
    return (
        f'<details class="tttnn-made"><summary>How this figure was made</summary>'
        f"<p>By this cell of <code>notebooks/{name}.md</code> at commit <code>{commit}</code>, with the parameters "
        f"that the page lists under Provenance:</p>{call}"
        f"<p>To make it again, with <code>-p</code> for other parameters:</p>{redo}</details>"
    )


def _picture(data: dict[str, Any]) -> str:
    alt = html.escape("".join(data.get("text/plain", "")))
    return f'<noscript><img alt="{alt}" src="data:image/png;base64,{data["image/png"].strip()}"/></noscript>'


def _glued(notebook: NotebookNode) -> dict[str, str]:
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name and GLUED in output.get("data", {}):
                found[name] = str(ast.literal_eval(output["data"][GLUED]))
    return found


def _plain_output(output: NotebookNode) -> NotebookNode | None:
    """Return an output without what only the book can show; nothing if nothing is left."""
    if output.get("name") == "stderr" or "scrapbook" in output.get("metadata", {}):
        return None
    data = output.get("data", {})
    if "tttnn-chart" in data.get("text/html", ""):
        del data["text/html"]
    return output


def _plain_text(text: str, glued: dict[str, str]) -> str:
    return CHAPTER.sub(r"](\1.ipynb)", ROLE.sub(lambda role: _plain_role(role, glued), FENCE.sub(_plain_fence, text)))


def _plain_role(role: re.Match[str], glued: dict[str, str]) -> str:
    kind, content = role[1], role[2]
    if kind == "glue:text":
        return glued.get(content, f"[{content}]")
    if kind == "term":
        return content.partition(" <")[0]
    return f"({content})" if kind in ("cite:p", "eq") else content


def _plain_fence(fence: re.Match[str]) -> str:
    """Return a directive as Markdown: formulas as such, boxes as quotations."""
    kind, title, body = fence[2], fence[3].strip(), fence[5].strip("\n")
    if kind == "math":
        return f"$$\n{body}\n$$"
    lines = [f"**{title}**" if title else "", "", *body.splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in lines)
