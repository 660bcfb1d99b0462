"""Chapters as pages and as notebooks to download."""

import base64

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tttnn.report.pages import for_download, with_origins

PNG = base64.b64encode(b"picture").decode()


def chapter(*cells):
    notebook = new_notebook(cells=list(cells))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def figure_cell():
    data = {"text/html": '<div class="tttnn-chart"></div>', "text/plain": 'Falls from "2" to 1.', "image/png": PNG}
    cell = new_code_cell("charts.curve(a < b)", outputs=[new_output("display_data", data)])
    cell.metadata["mystnb"] = {"figure": {"name": "fig-x", "caption": "After {glue:text}`x-k` neighbours."}}
    return cell


def glue_cell(name, value):
    data = {"application/papermill.record/text/plain": repr(value)}
    return new_code_cell(outputs=[new_output("display_data", data, metadata={"scrapbook": {"name": name}})])


def test_a_figure_says_how_it_was_made():
    injected = new_code_cell("# Parameters\nk = 5\ndomains = ['a']", metadata={"tags": ["injected-parameters"]})
    before = chapter(injected, figure_cell())
    after = with_origins(before, "01_x", "abc123")
    page = after.cells[1].outputs[0].data["text/html"]
    assert "charts.curve(a &lt; b)" in page and "abc123" in page
    assert "papermill notebooks/01_x.ipynb my-run.ipynb -y 'k: 5' -y 'domains: [" in page.replace("&#x27;", "'")
    assert f'<noscript><img alt="Falls from &quot;2&quot; to 1." src="data:image/png;base64,{PNG}"/>' in page
    assert "tttnn-made" not in before.cells[1].outputs[0].data["text/html"]


def test_a_figure_names_the_commit_that_the_chapter_ran_at():
    table = '<table class="dataframe tttnn-provenance"><tr><th scope="row">commit</th><td>def456</td></tr></table>'
    footer = new_code_cell(outputs=[new_output("display_data", {"text/html": table})])
    page = with_origins(chapter(figure_cell(), footer), "01_x", "abc123").cells[0].outputs[0].data["text/html"]
    assert "def456" in page and "abc123" not in page


def test_other_cells_are_left_alone():
    cells = chapter(new_code_cell("1", outputs=[new_output("display_data", {"text/html": "<p>x</p>"})]))
    assert with_origins(cells, "01_x", "abc").cells[:1] == cells.cells


def test_a_chapter_says_how_to_cite_it():
    done = with_origins(chapter(new_markdown_cell("# A title\n\nText.")), "01_x", "abc")
    assert "@incollection{tttnn-01_x,\n  title     = {A title},\n  author    = {{The tttnn" in done.cells[-1].source


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("It falls to {glue:text}`x-k`.", "It falls to 20."),
        ("{term}`neighbours <neighbour>` and {term}`index`", "neighbours and index"),
        ("By {cite:t}`hardt2024ttt`, see {numref}`fig-x`.", "By hardt2024ttt, see fig-x."),
        ("[costs](09_what_it_costs), [](../book/status.md)", "[costs](09_what_it_costs.ipynb), [](../book/status.md)"),
        ("```{math}\n:label: eq\na^2\n```", "$$\na^2\n$$"),
        (
            "```{admonition} They say\n:class: note\nIt works.\nAlways.\n```",
            "> **They say**\n>\n> It works.\n> Always.",
        ),
        (":::{dropdown} Answer\nFewer.\n:::\nand", "> **Answer**\n>\n> Fewer.\nand"),
        ("{glue:text}`missing`", "[missing]"),
    ],
)
def test_prose_reads_without_the_book(source, shown):
    done = for_download(chapter(glue_cell("x-k", "20"), new_markdown_cell(source)), "01_x")
    assert done.cells[-1].source == shown


def test_charts_are_pictures_with_captions_and_progress_bars_are_gone():
    cell = figure_cell()
    cell.outputs.insert(0, new_output("stream", name="stderr", text="50%"))
    done = for_download(chapter(glue_cell("x-k", "20"), cell), "01_x")
    assert "make .venv/.ready" in done.cells[0].source
    (output,) = done.cells[2].outputs
    assert set(output.data) == {"text/plain", "image/png"}
    assert done.cells[3].source == "*fig-x: After 20 neighbours.*"
    assert not done.cells[1].outputs
