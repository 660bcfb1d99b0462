"""A page that stands by itself: one HTML file that needs no network, in the colours of the reader's mode."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.files import writing

if TYPE_CHECKING:
    from tttnn.report.figures import Figure

STYLE = Path(__file__).with_name("one_page.css")


def section(title: str, *parts: Any, note: str = "") -> str:
    """A part of a page: a heading, paragraphs, tables and charts, and a note below.

    Parameters
    ----------
    title : str
    *parts
        Text becomes a paragraph; a figure a chart; whatever else has an HTML form is shown in it.
    note : str
        Smaller.
    """
    shown = "\n".join(map(show, parts))
    small = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>\n{shown}{small}</section>"


def show(part: Any) -> str:
    """The HTML of a text, a figure, or anything with an HTML form."""
    if isinstance(part, Markup):
        return part
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    if hasattr(part, "inline_svg"):
        return _chart(part)
    return f'<div class="wide">{part._repr_html_()}</div>'


class Markup(str):
    """Text that is HTML already."""


def code(text: str) -> Markup:
    """A command to copy."""
    return Markup(f"<pre class='code'><code>{html.escape(text)}</code></pre>")


def fold(title: str, *parts: Any) -> Markup:
    """Parts that a reader unfolds."""
    inner = "\n".join(map(show, parts))
    return Markup(f"<details><summary>{html.escape(title)}</summary>{inner}</details>")


def page(title: str, lead: str, sections: Iterable[str], foot: str = "") -> str:
    """Put a page together.

    Parameters
    ----------
    title : str
    lead : str
        What there is to know, in a sentence or two; it stands in a box of its own.
    sections : iterable of str
        Of `section`.
    foot : str
        Where it comes from.
    """
    style, name = STYLE.read_text(encoding="utf-8"), html.escape(title)
    body = "\n".join(sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>\n'
        f'<body><main><h1>{name}</h1>\n<p class="lead">{html.escape(lead)}</p>\n{body}\n'
        f"<footer>{html.escape(foot)}</footer></main></body></html>\n"
    )


def write_page(path: Path, text: str) -> Path:
    """Write a page whole, and return where it is."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")
    return path


def _chart(figure: Figure) -> str:
    alt = html.escape(figure.alt)
    data = fold("Data of this chart", _table(figure)) if figure.data is not None else ""
    return f'<figure class="chart">{figure.inline_svg()}<figcaption>{alt}</figcaption>{data}</figure>'


def _table(figure: Figure) -> Any:
    from tttnn.report.tables import table

    return table(figure.data)
