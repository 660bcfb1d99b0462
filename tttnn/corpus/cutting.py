"""Long texts cut into documents at their natural boundaries: definitions, paragraphs, catalogue messages.

Every cutter takes the text of one file and returns the texts of its documents, none longer than `LONGEST`
bytes or shorter than `SHORTEST`; what is longer and has no boundary is left out.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator

SHORTEST = 200  # bytes
SMALL = 1000  # a last part below this stays with the one before it
WANTED = 6000  # no further block is added beyond this
LONGEST = 16_000

BLANK_LINE = re.compile(r"\n[ \t]*\n")


def cut_python(source: str) -> list[str]:
    """Cut Python source before top-level statements, and a class that is too long before its methods."""
    return _pack(_statements(source), "")


def cut_docstrings(source: str) -> list[str]:
    """Collect the docstrings of a Python source, without indentation, outer ones before inner ones."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(_parse(source)) if isinstance(node, nodes))
    return _pack((docstring for docstring in found if docstring), "\n\n")


def cut_paragraphs(text: str) -> list[str]:
    """Cut prose, C or C++ at blank lines."""
    return _pack(BLANK_LINE.split(text), "\n\n")


def cut_description(metadata: str) -> list[str]:
    """Cut the long description in a package's METADATA (readme, often changelog) at blank lines."""
    return cut_paragraphs(metadata.partition("\n\n")[2])


def cut_catalogue(catalogue: str) -> list[str]:
    """Cut a gettext catalogue between messages, without comments and what is not translated."""
    messages = (_without_comments(message) for message in catalogue.split("\n\n"))
    return _pack((message for message in messages if _is_translated(message)), "\n\n")


def _pack(blocks: Iterable[str], joint: str) -> list[str]:
    """Join consecutive blocks to documents of about `WANTED` bytes."""
    documents: list[list[str]] = []
    current: list[str] = []
    size = 0
    for block in _short_enough(blocks):
        length = _bytes(block) + len(joint)
        if current and size + length > WANTED:
            documents.append(current)
            current, size = [], 0
        current.append(block)
        size += length
    if documents and size < SMALL:
        documents[-1] += current
    else:
        documents.append(current)
    texts = (joint.join(document).strip("\n") + "\n" for document in documents)
    return [text for text in texts if SHORTEST <= _bytes(text) <= LONGEST]


def _short_enough(blocks: Iterable[str]) -> Iterator[str]:
    """Cut blocks that would make too long a document at their lines; blocks without text are left out."""
    for block in blocks:
        if _bytes(block) + SMALL <= LONGEST:
            if block.strip():
                yield block
            continue
        piece = ""
        for line in block.splitlines(keepends=True):
            if piece and _bytes(piece) + _bytes(line) > WANTED:
                yield piece
                piece = ""
            piece += line
        yield piece


def _statements(source: str) -> Iterator[str]:
    lines = source.splitlines(keepends=True)
    start = 0
    for end in [*sorted(set(_statement_ends(_parse(source).body, lines))), len(lines)]:
        yield "".join(lines[start:end])
        start = end


def _statement_ends(body: list[ast.stmt], lines: list[str]) -> Iterator[int]:
    # What lies between two statements, such as a comment, goes with the second.
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            size = sum(map(_bytes, lines[statement.lineno - 1 : statement.end_lineno]))
            if size > WANTED:
                yield from _statement_ends(statement.body, lines)
        assert statement.end_lineno is not None  # the parser says it of all
        yield statement.end_lineno


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # Old escapes in other people's sources are not this reader's business.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _without_comments(message: str) -> str:
    return "\n".join(line for line in message.split("\n") if not line.startswith("#")).strip("\n")


def _is_translated(message: str) -> bool:
    source, _, translation = message.partition("\nmsgstr")
    # The header is the message whose source text is empty. Some catalogues repeat the English.
    texts = ["".join(re.findall(r'"(.*)"', part)) for part in (source, translation)]
    return bool(texts[0]) and bool(texts[1]) and texts[0] != texts[1]


def _bytes(text: str) -> int:
    return len(text.encode())
