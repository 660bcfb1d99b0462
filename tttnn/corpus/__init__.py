"""Documents: the Pile's JSON Lines, the embedded corpus, generated mathematics, and the byte-offset text store."""

from pathlib import Path

from tttnn.corpus.folder import Corpus
from tttnn.corpus.jsonl import BadDocument, CorpusError, Document, read_jsonl, write_jsonl
from tttnn.corpus.store import ConcatStore, TextStore
from tttnn.errors import ParameterError

__all__ = [
    "BadDocument",
    "ConcatStore",
    "Corpus",
    "CorpusError",
    "Document",
    "TextStore",
    "open_corpus",
    "read_jsonl",
    "write_jsonl",
]


def open_corpus(name_or_folder: str | Path, skip_bad: bool = False) -> Corpus:
    """Open a corpus by name or folder.

    Parameters
    ----------
    name_or_folder : str or Path
        ``"wheels"`` for the embedded corpus, which is built below `tttnn.files.home` on first use (some ten
        seconds), or a folder; see `Corpus` for its layout.
    skip_bad : bool
        Leave out bad documents, counted and logged, instead of stopping at the first; see `Corpus`.

    Returns
    -------
    Corpus

    Raises
    ------
    CorpusError
        If there is no such folder or it is not a corpus, or if a package that the embedded corpus reads is
        not installed.
    ParameterError
        If it is no text, or an empty one, as of a variable that is not set.
    """
    if not isinstance(name_or_folder, (str, Path)):
        kind = type(name_or_folder).__name__
        raise ParameterError(f"corpus={name_or_folder!r} ({kind}): give the name of a corpus or folder as text")
    if name_or_folder == "":
        raise ParameterError("corpus='': give the name of a corpus or a folder ('.' is the one that you are in)")
    if name_or_folder == "wheels":
        from tttnn.corpus.wheels import (
            wheels_folder,  # it reads from a hundred packages: only when asked
        )

        return Corpus(wheels_folder(), name="wheels", skip_bad=skip_bad)
    return Corpus(name_or_folder, skip_bad=skip_bad)
