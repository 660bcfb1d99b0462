"""Charts, tables, shaded text, footers and parameters of the book: what shows a result, and computes none."""

from tttnn.report.figures import Figure, figure
from tttnn.report.footer import Provenance, provenance
from tttnn.report.tables import Table, glue_text, table

__all__ = ["Figure", "Provenance", "Table", "figure", "glue_text", "provenance", "table"]
