"""Diagrams of the book: SVG files beside this module, put into the page itself so that they take its colours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Diagram:
    """A diagram in SVG that says in words what it shows; made by :func:`diagram`.

    Attributes
    ----------
    svg : str
        Its ``desc`` is what a text reader gets.
    """

    svg: str

    def __repr__(self) -> str:
        return "".join(re.findall(r"<desc[^>]*>(.*?)</desc>", self.svg, re.DOTALL))

    def _repr_html_(self) -> str:
        return f'<div class="tttnn-diagram">{self.svg}</div>'


def diagram(name: str) -> Diagram:
    """Show a diagram of the book.

    Parameters
    ----------
    name : str
        Of the file ``<name>.svg`` beside this module. Its lines and letters have the colour of the page's text
        (``book/_static/book.css``), its boxes are links as seen from a chapter.

    Raises
    ------
    FileNotFoundError
        If there is none of this name.
    """
    return Diagram((FOLDER / f"{name}.svg").read_text(encoding="utf-8"))
