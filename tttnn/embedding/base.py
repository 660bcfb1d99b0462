"""What every embedder offers, and what every embedder refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tttnn.errors import BAD_INPUT, TTTNNError
from tttnn.files import read_json, write_json, writing_folder

CARD = "embedder.json"


class EmbeddingError(TTTNNError):
    """An embedder that cannot be loaded or fitted, or a text without a vector; the message says why."""

    status = BAD_INPUT


class Embedder(Protocol):
    """Turns texts into vectors whose squared L2 distance says how near the texts are.

    Attributes
    ----------
    name : str
        What it was asked for by, without any path.
    dimension : int
        Length of the vectors.
    """

    name: str
    dimension: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that determines the vectors, in hex: two embedders with one agree on every text."""

    def embed(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return a vector for each text, float32 (n, dimension); with a progress bar if asked."""

    def save(self, folder: str | Path) -> None:
        """Write to a folder what `load_embedder` needs to make an embedder of the same fingerprint."""


def check_texts(texts: Sequence[str]) -> None:
    """Raise if one string was given in the place of a list, or if a text can have no vector.

    Raises
    ------
    TypeError
        If `texts` is a string.
    EmbeddingError
        If a text is empty, no string, or no Unicode; the message gives its position.
    """
    if isinstance(texts, str):
        raise TypeError("embed takes a sequence of texts, not one text: embed([text])")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise EmbeddingError(f"text {position} of {len(texts)} is {type(text).__name__}, not str")
        if not text:
            raise EmbeddingError(f"text {position} of {len(texts)} is empty: an empty text has no vector; leave it out")
        refuse_surrogates(text, f"text {position} of {len(texts)}")


def refuse_surrogates(text: str, name: str) -> None:
    """Raise an EmbeddingError that begins with `name` if a text holds half of a character outside the first plane."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise EmbeddingError(
            f"{name} holds a lone surrogate (U+{ord(text[error.start]):04X}, character {error.start}), which is no "
            "text: mend it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') or leave it out"
        ) from error


def save_card(folder: str | Path, embedder: Embedder, settings: dict[str, Any], files: Callable[[Path], None]) -> None:
    """Write an embedder's card (JSON) and `files` into a new folder, atomically, unless an equal embedder is there.

    Raises
    ------
    FileExistsError
        If anything else is there.
    """
    if not _is_saved(folder, embedder.fingerprint):
        with writing_folder(folder) as partial:
            files(partial)
            card = {"name": embedder.name, "fingerprint": embedder.fingerprint, "settings": settings}
            write_json(partial / CARD, card)
        _is_saved(folder, embedder.fingerprint)  # whatever another process wrote meanwhile has stayed


def _is_saved(folder: str | Path, fingerprint: str) -> bool:
    card = Path(folder) / CARD
    if not Path(folder).exists():
        return False
    known = read_json(card) if card.is_file() else None
    if not isinstance(known, dict) or known.get("fingerprint") != fingerprint:
        raise FileExistsError(f"{folder} is there already, and is not this embedder: remove it first")
    return True
