"""Numbers are written one way: in the sources of all pages, and in what their cells gave."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("notebooks/*.md")), *sorted(ROOT.glob("book/*.md")), ROOT / "README.md"]
OUTPUTS = sorted(ROOT.glob("notebooks/*.ipynb"))
# Charts' data are no text; quoted documents and the record of the run are as they are.
NOT_OURS = re.compile(
    r'<script.*?</script>|<figure class="tttnn-shaded.*?</figure>|<table class="dataframe tttnn-provenance.*?</table>'
    r'|<svg.*?</svg>|<(form|pre)\b.*?</\1>| style="[^"]*"| data-[\w-]+="[^"]*"',
    re.DOTALL,
)
BAD = {
    "a space before the sign of per cent": r"[0-9`}] %",
    "a hyphen for a minus": r"(?:(?<=>)|(?<=[ (]))-\d+(?:\.\d+)?(?=[%<) ,;]| to )",
    "padded digits": r"\b0\.\d*[1-9]\d*000\b|\b0\.\d000\b",
    "a stamp of a machine": r"\d{4}-\d\d-\d\dT\d\d:\d\d",
    "a truth value": r">(?:True|False)<",
    "an exponent with a padded zero": r"\de[+-]0\d",
    "several of one": r"(?<![\d.,])1 (?:threads|cores|neighbours|documents|steps|tokens|servers|chunks)\b",
}
QUOTING = {"01_ttt_nn_loop", "02_retrieval"}  # tables with the beginnings of documents


def prose(text):
    """Return a page without its code."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$|`[^`\n]*`", lambda block: "`" if "\n" not in block[0] else "", text,
                  flags=re.MULTILINE | re.DOTALL)  # fmt: skip


def shown(path):
    """Return what the cells of a chapter show, and what they glue into sentences."""
    texts = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output.get("name") != "stderr":
                glued = data.get("application/papermill.record/text/plain", output.get("text", ""))
                texts.append(NOT_OURS.sub("", data.get("text/html", glued)))
    return texts


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("what", ["a space before the sign of per cent", "a stamp of a machine", "several of one"])
def test_pages_write_numbers_one_way(path, what):
    assert not re.findall(BAD[what], prose(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", OUTPUTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("what", BAD)
def test_outputs_write_numbers_one_way(path, what):
    if what == "a hyphen for a minus" and path.stem in QUOTING:
        pytest.skip("quotes documents")
    found = [match[0] for text in shown(path) for match in re.finditer(f".{{0,30}}(?:{BAD[what]}).{{0,10}}", text)]
    assert not found


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a space before the sign of per cent", "51 %"),
        ("a hyphen for a minus", "<td>-0.2</td>"),
        ("a hyphen for a minus", "0.4 (-0.2 to 0.9)"),
        ("padded digits", "0.001000"),
        ("padded digits", "0.1000"),
        ("a stamp of a machine", "2026-11-27T01:22:14Z"),
        ("a truth value", "<td>True</td>"),
        ("an exponent with a padded zero", "1e-08"),
        ("several of one", "2 cores, 1 threads"),
    ],
)
def test_bad_forms_are_found(what, text):
    assert re.search(BAD[what], text)
