"""An extension of Sphinx: tables of chapters have numbers, captions above them, and can be referred to.

MyST-NB makes whatever a cell shows a figure. One whose name begins with ``tab-`` becomes a table here, so that Sphinx
counts it as such and ``{numref}`` says "Table 4.2".
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from tttnn.report.tables import NUMBERED


class numbered_table(nodes.figure):  # type: ignore[misc]
    """A table, which Sphinx writes as a figure."""


class table_caption(nodes.caption):  # type: ignore[misc]
    """The caption above it."""


class NumberTables(SphinxTransform):
    """Replace figures that are tables, before Sphinx takes down what can be referred to."""

    default_priority = 840

    def apply(self, **kwargs: Any) -> None:
        """Go through the page."""
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith(NUMBERED) for name in figure["names"]):
                self._replace(figure)

    def _replace(self, figure: nodes.figure) -> None:
        children = [
            table_caption(child.rawsource, "", *child.children) if isinstance(child, nodes.caption) else child
            for child in figure.children
        ]
        table = numbered_table(figure.rawsource, *children, **figure.attributes)
        table.source, table.line = figure.source, figure.line
        figure.replace_self(table)
        for name in table["ids"]:
            self.document.ids[name] = table


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx; its own visitors of figures write the elements."""
    app.add_enumerable_node(numbered_table, "table", html=(_open_table, _close_table))
    app.add_node(table_caption, html=(_open_caption, _close_caption))
    app.add_transform(NumberTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _open_table(writer: Any, node: nodes.Element) -> None:
    node["classes"].append("tttnn-numbered")
    writer.visit_figure(node)


def _close_table(writer: Any, node: nodes.Element) -> None:
    writer.body.append("</figure>\n")


def _open_caption(writer: Any, node: nodes.Element) -> None:
    writer.visit_caption(node)


def _close_caption(writer: Any, node: nodes.Element) -> None:
    writer.depart_caption(node)
    writer.body.append("</figcaption>\n")  # here, since the table follows; that of a figure ends with the figure
