"""Grids of test documents: resumable result rows and their provenance."""

from tttnn.experiment.drawing import DrawnDocument, draw_documents, worked_example
from tttnn.experiment.record import identity
from tttnn.experiment.runner import retrieve, run, run_facts
from tttnn.rows import RowsError, read_rows

__all__ = [
    "DrawnDocument",
    "RowsError",
    "draw_documents",
    "identity",
    "read_rows",
    "retrieve",
    "run",
    "run_facts",
    "worked_example",
]
