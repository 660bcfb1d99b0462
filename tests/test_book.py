"""The rendered book works without a network and for every reader."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
pdf = runpy.run_path(str(ROOT / "book" / "pdf.py"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"]] + [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
ROLE = re.compile(r"\{(?:term|glue|cite|numref|ref|eq|doc|figure|math)[\w:]*\}")

each_page = pytest.mark.parametrize("page", PAGES)
each_chapter = pytest.mark.parametrize("page", CHAPTERS)


def run_build(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "book" / "build.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Render the committed reference outputs once."""
    build = tmp_path_factory.mktemp("book")
    run = run_build("--no-execute", "--build", build)
    assert run.returncode == 0, run.stderr[-5000:]
    return build / "html"


@pytest.fixture(scope="module")
def parsed(book):
    """Every page of the book, by its path, parsed once."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(book.rglob("*.html"))}
    return {path: BeautifulSoup(text, "html.parser") for path, text in texts.items()}


@pytest.fixture(scope="module")
def soup(book, parsed):
    """Return a function from a page of the table of contents to what was parsed of it."""
    return lambda page: parsed[book / f"{page}.html"]


def is_remote(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def prose(soup: BeautifulSoup) -> str:
    """Return the article's text without its code."""
    copy = BeautifulSoup(str(soup.find("article")), "html.parser")
    for code in copy.find_all(["code", "pre", "script"]):
        code.decompose()
    return copy.get_text()


def test_no_page_loads_anything_from_another_host(parsed):
    for path, soup in parsed.items():
        for name, attribute in LOADING.items():
            remote = [tag[attribute] for tag in soup.find_all(name) if is_remote(tag.get(attribute, ""))]
            assert not remote, f"{path.name}: <{name}> loads {remote}"
        for script in soup.find_all("script", src=False):
            if script.get("type") != "application/json":  # data of a chart, which names its schema
                assert "://" not in script.get_text(), f"{path.name}: {script.get_text()[:200]}"


def test_no_style_loads_anything_from_another_host(book):
    for path in (book / "_static").rglob("*.css"):
        remote = re.findall(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", path.read_text("utf-8"))
        assert not remote, f"{path.name} loads {remote}"


def test_scripts_for_charts_and_maths_are_part_of_the_book(book):
    vega = (book / "_static" / "vega.js").read_text(encoding="utf-8")
    assert vega.startswith("(function") and "vegaEmbed" in vega
    assert (book / "_static" / "tex-svg.js").stat().st_size > 1_000_000
    assert "vega.js" in (book / "_static" / "charts.js").read_text(encoding="utf-8")


def test_every_link_within_the_book_leads_somewhere(parsed):
    for path, soup in parsed.items():
        for link in soup.find_all("a", href=True):
            target = urlsplit(link["href"])
            if not target.scheme and target.path:
                assert (path.parent / unquote(target.path)).exists(), f"{path.name} links to {link['href']}"


def test_no_machine_path_in_any_page(book):
    places = [str(ROOT), str(book.parent), sys.prefix]
    for path in [*book.rglob("*.html"), *book.rglob("*.ipynb"), book / "searchindex.js"]:
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in places), path.name
        assert not re.search(r"/(?:home|Users|root)/\w|site-packages/", text), path.name


@each_page
def test_page_is_complete(soup, page):
    text = prose(soup(page))
    assert not soup(page).select(".problematic, .system-message")
    assert not ROLE.search(text)
    assert "Traceback (most recent call last)" not in soup(page).get_text()
    assert "VegaLite" not in text  # the text form of a chart that was not drawn


@each_page
def test_page_has_its_buttons(book, soup, page):
    html = soup(page)
    assert html.select(".theme-switch-button")
    assert html.select(".search-button, .search-button-field")
    assert html.select('a[href*="_sources/"]'), "no download button"
    assert html.select('script[src*="copybutton"]')
    assert (book / "search.html").exists() and (book / "searchindex.js").exists()


@each_page
def test_page_names_licences_and_origin(soup, page):
    footer = soup(page).select_one("footer.bd-footer-content, .bd-footer-content").get_text()
    assert "Apache License 2.0" in footer and "CC BY 4.0" in footer
    assert re.search(r"commit \S+.*built on \d{4}-\d{2}-\d{2}", footer)


@each_page
def test_every_picture_has_alternative_text(soup, page):
    assert not [str(image)[:200] for image in soup(page).find_all("img") if not image.get("alt", "").strip()]


@each_chapter
def test_every_chart_is_a_labelled_numbered_figure_with_its_data(soup, page):
    charts = soup(page).select("script[data-chart]")
    assert charts or page == "notebooks/materials", "a chapter without a figure"
    for script in charts:
        container = soup(page).select(f'[id="{script["data-chart"]}"]')
        assert len(container) == 1
        assert container[0]["role"] == "img" and len(container[0]["aria-label"]) > 20
        shown = script.find_parent("figure")
        assert shown is not None and shown["id"] == script["data-chart"].removesuffix("-chart")
        assert re.match(r"Fig\. \d", shown.find("figcaption").get_text().strip())
        assert shown.select("details table")


@each_chapter
def test_every_captioned_table_has_a_number(soup, page):
    html = soup(page)
    assert not html.select(".tttnn-caption"), "a caption without a number"
    tables = html.select("figure.tttnn-numbered")
    for table in tables:
        assert re.match(r"Table [\d.]+ ", table.figcaption.get_text().strip()) and table["id"].startswith("tab-")
        assert table.figcaption.find_next("table").find_parent("figure") is table, "the caption stands above"
    numbers = [table.select_one(".caption-number").get_text() for table in tables]
    assert len(set(numbers)) == len(numbers)


def test_texts_refer_to_tables_by_their_numbers(soup):
    links = [link for page in CHAPTERS for link in soup(page).select('a[href*="#tab-"]') if link.select(".std-numref")]
    assert len(links) > 10 and all(re.fullmatch(r"Table [\d.]+", link.get_text()) for link in links)
    loose = r"\b(?:the|this|that) (?:next|first|second|last|folded) tables?\b|\b(?:tables?|column) (?:above|below)\b"
    for page in CHAPTERS:
        assert not re.search(loose, prose(soup(page)), re.IGNORECASE), page


COLUMN = 688  # pixels for text at a width of 1280
LETTER = {"tttnn-table": 7.9, "tttnn-dense": 6.5, "tttnn-denser": 5.9}
PADDING, SIDES = {"tttnn-table": 26, "tttnn-dense": 15, "tttnn-denser": 15}, 2


def least_width(table):
    """Return the least pixels that a table takes: its numbers stay whole, its texts break between words."""
    size = table["class"][-1]
    widths = []
    for cells in zip(*(row.find_all(["th", "td"]) for row in table.find_all("tr")), strict=True):
        texts = [
            (cell.decode_contents().replace("<wbr/>", " "), cell.name == "td" and "number" in cell.get("class", []))
            for cell in cells
        ]
        longest = max(len(text) if whole else max(map(len, re.split(r"[\s/-]", text))) for text, whole in texts)
        widths.append(LETTER[size] * longest + PADDING[size])
    return sum(widths) + SIDES


@each_chapter
def test_no_table_needs_more_than_its_column(soup, page):
    for table in soup(page).select(".tttnn-scroll table.tttnn-table"):
        if not table.find_parent(class_="tttnn-data"):
            assert least_width(table) <= COLUMN, table.find_parent(class_="tttnn-scroll")["aria-label"]


MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = !fold.matches(".tttnn-data"); });
  const wide = [...document.querySelectorAll(".tttnn-scroll")].filter(box => box.scrollWidth > box.clientWidth + 1);
  document.documentElement.dataset.wide = JSON.stringify(wide.map(box => box.getAttribute("aria-label")));
});</script></body>"""


@each_chapter
def test_no_table_is_cut_in_a_browser(book, page):
    browser = next(filter(None, map(shutil.which, pdf["BROWSERS"])), None)
    if browser is None:
        pytest.skip("no browser on the path")
    path = book / f"{page}.html"
    copy = path.with_name(f"{path.stem}-measured.html")
    copy.write_text(path.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000", "--virtual-time-budget=10000"]
    run = subprocess.run([browser, *options, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120)
    copy.unlink()
    assert json.loads(BeautifulSoup(run.stdout, "html.parser").html["data-wide"]) == []


def test_the_search_knows_the_text_of_every_page(book):
    text = (book / "_static" / "search-data.js").read_text(encoding="utf-8")
    texts = json.loads(text.removeprefix("window.tttnnTexts = ").removesuffix(";\n"))
    assert texts.keys() >= set(PAGES) and len(text) < 1_000_000
    assert all(any(words for _, words in texts[page]) for page in PAGES)


@each_chapter
def test_chapter_can_be_downloaded_as_a_notebook(book, soup, page):
    assert soup(page).select(f'a[href$="{Path(page).name}.ipynb"]')
    assert (book / "_sources" / f"{page}.ipynb").exists()


@each_chapter
def test_chapter_shows_its_provenance(soup, page):
    facts = soup(page).select_one(".tttnn-provenance").get_text()
    for fact in ("commit", "parameters", "versions", "date", "device", "peak resident memory"):
        assert fact in facts
