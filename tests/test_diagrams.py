"""A diagram takes the page's colours, says in words what it shows, and its links lead to pages and modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tttnn.report.diagrams import FOLDER, diagram

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SVG = "{http://www.w3.org/2000/svg}"
NAMES = sorted(path.stem for path in FOLDER.glob("*.svg"))


@pytest.fixture(params=NAMES)
def tree(request):
    return ElementTree.fromstring(diagram(request.param).svg)


def test_it_has_a_title_and_a_description_that_its_picture_is_labelled_by(tree):
    labels = [tree.find(f"{SVG}{tag}") for tag in ("title", "desc")]
    assert tree.get("aria-labelledby") == " ".join(label.get("id") for label in labels)
    assert all(len(label.text) > 20 for label in labels)
    assert tree.get("role") == "group", "an image would hide its links from a screen reader"


def test_it_has_no_colour_of_its_own(tree):
    for element in tree.iter():
        assert element.get("fill") is None and element.get("stroke") in (None, "none"), element.attrib


def test_its_links_lead_to_chapters_of_the_book_and_modules_of_the_package(tree):
    links = [link.get("href") for link in tree.iter(f"{SVG}a")]
    assert links
    for link in links:
        page, _, anchor = link.partition("#")
        if page.startswith("../book/generated/api_"):
            assert page == f"../book/generated/api_{anchor.split('.')[1]}.html", "each room has a page"
            importlib.import_module(anchor.removeprefix("module-"))
        else:
            text = (NOTEBOOKS / page).with_suffix(".md").read_text(encoding="utf-8").lower()
            assert not anchor or f"\n## {anchor.replace('-', ' ')}\n" in text, link


def test_its_letters_are_large_enough_on_a_telephone(tree):
    """A column is 340 pixels wide there."""
    scale = min(1.0, 340 / float(tree.get("viewBox").split()[2]))
    sizes = [float(element.get("font-size")) for element in tree.iter() if element.get("font-size")]
    assert min(sizes) * scale >= 11


def test_text_readers_get_its_description_and_pages_the_picture_itself():
    made = diagram("loop")
    assert repr(made).startswith("A text is embedded") and "<svg" in made._repr_html_()


def test_a_diagram_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="no-such"):
        diagram("no-such")
