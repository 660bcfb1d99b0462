"""Documents: the Pile's JSON Lines, the embedded corpus, generated mathematics, and the byte-offset text store."""

import os
from pathlib import Path

from tttnn.corpus.folder import Corpus, in_piles_layout
from tttnn.corpus.formats import Keys
from tttnn.corpus.held_out import SHARE
from tttnn.corpus.importing import HUB, Reading, import_corpus
from tttnn.corpus.jsonl import BadDocument, CorpusError, Document, read_jsonl, write_jsonl
from tttnn.corpus.store import ConcatStore, TextStore
from tttnn.errors import ParameterError
from tttnn.files import expand
from tttnn.parameters import number

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

KINDS = "a corpus is a folder or file of texts, JSON Lines, CSV or Parquet, a dataset as hf:owner/name, or 'wheels'"


def open_corpus(
    name_or_folder: str | Path, skip_bad: bool = False, text_key: str = "text", domain_key: str | None = None,
    split_seed: int = 1216, held_out: float | None = None,
) -> Corpus:  # fmt: skip
    """Open a corpus by name, folder or file, as people have them.

    A folder in the Pile's layout is read in place. Anything else is imported once below `tttnn.files.home`, and
    again when its files change: a folder of texts (each file a document, the first folder level its domain), or of
    JSON, JSON Lines, CSV, TSV, Parquet or Arrow tables; one such file; a dataset saved with ``datasets``; or
    ``hf:owner/name`` of the Hugging Face hub. Files may end with ``.gz`` or ``.zst``. Where folders or tables are named
    train and val, validation or test, these are the splits; a val or test part that is missing is drawn, less
    near-copies of training documents. What is not read is logged, and listed with the reason in `Corpus.ignored`.

    Parameters
    ----------
    name_or_folder : str or Path
        ``"wheels"`` for the embedded corpus, which is built below `tttnn.files.home` on first use (some ten
        seconds), a folder or file, or ``hf:owner/name``, perhaps with ``/config`` or ``@revision``.
    skip_bad : bool
        Leave out bad documents, counted and logged, instead of stopping at the first; see `Corpus`.
    text_key, domain_key : str
        Where a table's entries hold a document's text and, if given, its domain: a column or key, or a dotted path
        as ``meta.source``. By default the domain is ``meta.pile_set_name``, or a folder's or the corpus' name.
    split_seed : int
        Of the documents drawn for val and test.
    held_out : float, optional
        Share of the documents drawn for each of val and test: above 0, at most 0.4; at most 10,000 of them. Default:
        0.1.

    Returns
    -------
    Corpus

    Raises
    ------
    CorpusError
        If there is no such folder or it is not a corpus, or if a package that the embedded corpus reads is
        not installed.
    ParameterError
        If a parameter is no text, or an empty one, as of a variable that is not set, or out of range.
    """
    for name, value in (("text_key", text_key), ("domain_key", domain_key)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ParameterError(f"{name}={value!r}: give the name of a key, as text, or leave it out")
    if not isinstance(name_or_folder, (str, Path)):
        kind = type(name_or_folder).__name__
        raise ParameterError(f"corpus={name_or_folder!r} ({kind}): give the name of a corpus or folder as text")
    if name_or_folder == "":
        raise ParameterError("corpus='': give the name of a corpus or a folder ('.' is the one that you are in)")
    reading = Reading(
        Keys(text_key or "text", domain_key),
        int(number("split_seed", split_seed, least=0, whole=True)),
        number("held_out", SHARE if held_out is None else held_out, least=1e-6, most=0.4),
        skip_bad,
    )
    if name_or_folder == "wheels":
        from tttnn.corpus.wheels import (
            wheels_folder,  # it reads from a hundred packages: only when asked
        )

        return Corpus(wheels_folder(), name="wheels", skip_bad=skip_bad)
    source = expand(name_or_folder)
    is_hub = str(source).startswith(HUB)
    if not is_hub and not (os.path.isdir(source) or os.path.isfile(source)):
        raise CorpusError(f"no folder or file {Path(source).absolute()}: {KINDS}")
    if is_hub or reading.keys != Keys() or not in_piles_layout(Path(source)):
        return import_corpus(source, reading)
    return Corpus(source, skip_bad=skip_bad)
