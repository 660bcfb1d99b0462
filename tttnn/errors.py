"""The package's own errors: what a user can mend, in one sentence that names the file, line or parameter and the cure.

Whatever else is raised is a fault of the program: it keeps its traceback and is never taken for a document's failure.
"""

from __future__ import annotations

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses of the command line; the last is what shells have for Ctrl-C


class TTTNNError(ValueError):
    """Something the caller can mend; the message says what it is and how."""

    status = FAILED


class ParameterError(TTTNNError):
    """A parameter out of its range, misspelt or of the wrong type; the message begins with its name and value."""

    status = BAD_INPUT


class DocumentError(TTTNNError):
    """One document cannot be evaluated; a run records why and goes on with the others."""


def first_line(error: Exception) -> str:
    """What a library's error says first; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
