"""Tables with units and readable numbers, and numbers glued into prose."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tttnn.report.formats import format_value, readable

if TYPE_CHECKING:
    import pandas as pd

NUMBERED = "tab-"  # how the name of a table begins that the book numbers
BREAK = "\u200b"  # where a line may end; no reader sees it
COLUMN = 600  # pixels for text on a page of 1280, less a margin for letters wider than most
# Sizes of type, the largest first: class, most columns, pixels of a letter, and those around a cell's text.
SIZES = (("", 6, 7.9, 26), (" tttnn-dense", 8, 6.5, 15), (" tttnn-dense tttnn-denser", math.inf, 5.9, 15))


@dataclass(frozen=True)
class Table:
    """A formatted table; every cell of `frame` is already a string. Made by :func:`table`."""

    frame: pd.DataFrame
    caption: str
    numeric: frozenset[str]

    def __repr__(self) -> str:
        text = self.frame.to_string(index=False)
        return f"{self.caption}\n{text}" if self.caption else text

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """Return the table as HTML: its caption, then the table in a box that scrolls where the page is narrower."""
        caption = html.escape(self.caption)
        head = "".join(self._cell("th", column, str(column)) for column in self.frame.columns)
        rows = (
            "".join(self._cell("td", column, text) for column, text in zip(self.frame.columns, row, strict=True))
            for row in self.frame.itertuples(index=False, name=None)
        )
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        above = f'<p class="tttnn-caption">{caption}</p>' if caption else ""
        label = f' aria-label="{caption}"' if caption else ' aria-label="Table"'
        # Who reads with the keyboard can scroll only what can have the focus.
        return (
            f'{above}<div class="tttnn-scroll" role="group" tabindex="0"{label}>'
            f'<table class="dataframe tttnn-table{self._size()}"><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>"
        )

    def _size(self) -> str:
        """The largest type in which the table fits into the text's column: numbers stay whole, texts break at words."""
        longest = []
        for column, cells in self.frame.items():
            words = cells.map(len) if column in self.numeric else cells.map(_longest_word)
            longest.append(max(words.max(), _longest_word(str(column))))
        fits = (name for name, most, letter, around in SIZES
                if len(longest) <= most and sum(letter * n + around for n in longest) < COLUMN)  # fmt: skip
        return next(fits, SIZES[-1][0])

    def _cell(self, tag: str, column: Any, text: str) -> str:
        number = ' class="number"' if column in self.numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{number}>{html.escape(_breakable(text)).replace(BREAK, '<wbr>')}</{tag}>"


def _longest_word(text: str) -> int:
    """Letters that stay on one line."""
    return max(map(len, re.split(rf"[\s{BREAK}]", _breakable(text))))


def _breakable(text: str) -> str:
    """Let long words, such as paths and hashes, break where the column ends: the longest decides how narrow it gets."""
    parts = re.sub(r"(?<=[/_=@])(?=\w)|(?<=\w-)(?=[^\W\d])", BREAK, text)
    return re.sub(rf"([^\s{BREAK}]{{14}})(?=[^\s{BREAK}]{{4}})", rf"\1{BREAK}", parts)


def table(
    frame: pd.DataFrame,
    caption: str = "",
    units: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    quoted: Collection[str] = (),
) -> Table:
    """Format `frame` for readers.

    Parameters
    ----------
    frame
        One row per line; the index is not shown. Underscores in column names become spaces.
    caption
        One sentence above the table.
    units
        Column name to unit, put in brackets after the heading, for example ``{"before": "bits/byte"}``.
    formats
        Column name to a format such as ``".3f"`` or ``".1%"``; default: integers with thousands
        separators, other numbers with at most four significant digits, missing values as an en dash.
    quoted
        Columns with the text of documents, of which nothing is changed.

    Raises
    ------
    KeyError
        If `units`, `formats` or `quoted` names a column that `frame` does not have.
    """
    import pandas as pd

    units, formats = units or {}, formats or {}
    if unknown := {*units, *formats, *quoted} - set(frame.columns):
        raise KeyError(f"no such column: {sorted(unknown)}; the table has {list(frame.columns)}")
    numeric = {column for column in frame.columns if pd.api.types.is_numeric_dtype(frame[column])}
    words = {column: str(column).replace("_", " ") for column in frame.columns}
    heading = {column: f"{word} ({units[column]})" if column in units else word for column, word in words.items()}
    cells = {
        heading[column]: [str(value) if column in quoted else format_value(value, formats.get(column))
                          for value in frame[column]]
        for column in frame.columns
    }  # fmt: skip
    return Table(pd.DataFrame(cells), readable(caption), frozenset(heading[column] for column in numeric))


def glue_text(name: str, value: Any, spec: str | None = None) -> None:
    """Make `value` available to prose as ``{glue:text}`` with the label `name`.

    Parameters
    ----------
    name
        The label, unique in the chapter, for example ``loop-gain-github``.
    value
        A number or a text.
    spec
        A format such as ``".3f"``; default: as in a table.
    """
    from myst_nb import glue

    # A str, so that its notebook form has quotation marks: myst_nb evaluates it, and would take 1,234 for a pair.
    glue(name, format_value(value, spec), display=False)
