"""Charts, tables and provenance of the book: everything that shows a result and computes none."""

from tttnn.report.figures import Figure, figure
from tttnn.report.provenance import Provenance, provenance
from tttnn.report.tables import Table, glue_text, table

__all__ = ["Figure", "Provenance", "Table", "figure", "glue_text", "provenance", "table"]
