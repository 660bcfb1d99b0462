"""The form of the book's calculator; ``book/_static/calculator.js`` reads it and fills in the answers."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NUMBERS = {
    "documents": "Documents to adapt to",
    "document_bytes": "Bytes of such a document",
    "neighbours": "Neighbours for each document",
    "indexed": "Documents in the index",
    "indexed_bytes": "Bytes of an indexed document",
}
ANSWERS = {
    "hours": "The whole run",
    "train_hours": "of it training",
    "score_hours": "of it scoring, before and after",
    "search_hours": "of it searching",
    "seconds": "One document",
    "model_memory": "Memory of the model while it adapts",
    "index_memory": "Memory of the index",
    "index_disk": "Disk of the index, with its vectors",
    "text_disk": "Disk of the texts and their offsets",
    "build_hours": "Building the index, without embedding",
}


@dataclass(frozen=True)
class Calculator:
    """A form in the page; made from `tttnn.analysis.calculator`.

    Attributes
    ----------
    data : mapping
        Coefficients, ready for JSON.
    choices : mapping
        Field -> (label, value -> what it is called).
    first : mapping
        Field -> the value that the form begins with.
    """

    data: Mapping[str, Any]
    choices: Mapping[str, tuple[str, Mapping[str, str]]]
    first: Mapping[str, Any]

    def __repr__(self) -> str:
        return "A calculator: it needs the rendered book."

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """Return the form, hidden until the script of the book shows it, with its data."""
        fields = [self._select(name, *choice) for name, choice in self.choices.items()]
        fields += [self._number(name, label) for name, label in NUMBERS.items()]
        rows = (f'<tr><th scope="row">{label}</th><td><output name="{name}"></output></td></tr>'
                for name, label in ANSWERS.items())  # fmt: skip
        data = json.dumps(self.data, allow_nan=False).replace("</", "<\\/")
        return "\n".join([
            '<form class="tttnn-calculator" aria-label="Calculator of hours, memory and disk" hidden>',
            *_wrapped("fieldset", ["<legend>What you plan</legend>", *fields]),
            '<p role="status"></p>',
            *_wrapped("table", ["<caption>What it takes</caption>", *rows]),
            f'<script type="application/json">{data}</script>',
            "</form>",
        ])  # fmt: skip

    def _select(self, name: str, label: str, called: Mapping[str, str]) -> str:
        options = "".join(
            f'<option value="{html.escape(value)}"{" selected" if value == str(self.first[name]) else ""}>'
            f"{html.escape(text)}</option>"
            for value, text in called.items()
        )
        return f'<label>{html.escape(label)} <select name="{name}">{options}</select></label>'

    def _number(self, name: str, label: str) -> str:
        value = f"{self.first[name]:.0f}"
        field = f'<input type="number" name="{name}" value="{value}" min="1" max="1e15" step="any" required>'
        return f"<label>{label} {field}</label>"


def _wrapped(tag: str, parts: Iterable[str]) -> list[str]:
    return [f"<{tag}>", *parts, f"</{tag}>"]
