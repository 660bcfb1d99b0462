"""What the rows of a folder were computed with: `run.json`, which refuses rows that do not belong to those there.

It holds `settings`, all that a number depends on besides its document; `about`, where the latest rows come from; and
`calls`, one entry for each call that added rows: when, by which commit, on which device, how documents were drawn.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tttnn.experiment.provenance import commit, device, versions
from tttnn.experiment.rows import JOURNAL, RowJournal, RowsError, plain
from tttnn.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tttnn.ttt import TTT

RECORD = "run.json"
FORMAT = 2  # 1, which had no number, recorded neither tokenizer, prefix, index nor how documents were drawn
SHOWN = 40  # characters of a value in a message


def identity(ttt: TTT) -> dict[str, Any]:
    """Return what rows depend on besides the documents: model, tokenizer, retriever, switches, settings."""
    lm, retriever = ttt.lm, ttt.retriever
    return {
        "model": lm.name,
        "weights": lm.weight_hash(),
        "tokenizer": tokenizer_hash(lm.tokenizer),
        "prefix_id": getattr(ttt, "prefix_id", lm.prefix_id),
        # Scores at k = 0 alone need no retriever; one that is not ours may have a fingerprint only.
        "retriever": getattr(retriever, "identity", None) or getattr(retriever, "fingerprint", None),
        "switches": asdict(ttt.switches),
        "settings": asdict(lm.settings),
    }


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what decides a text's tokens, without the state that calls leave in it."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(fast.to_str()) if fast is not None else {"vocabulary": tokenizer.get_vocab()}
    kept = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
    whole = [type(tokenizer).__name__, kept, sorted(map(str, tokenizer.all_special_tokens))]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def asked_for(about: Mapping[str, Any], method: str, ks: list[int]) -> dict[str, Any]:
    """What rows depend on besides the loop: method, places of scores, and the population the documents are drawn from.

    Domains and documents per domain are not in it: a larger draw extends a smaller one.
    """
    drawn, corpus = about.get("drawn") or {}, about.get("corpus")
    return {
        "method": method,
        "ks": ks,
        "split": drawn.get("split"),
        "corpus": corpus.get("fingerprint") if isinstance(corpus, Mapping) else corpus,
        "drawn": {name: drawn.get(name) for name in ("seed", "max_bytes")},
    }


def check_belongs(journal: RowJournal, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder's record says; empty if no row is there yet.

    Parameters
    ----------
    journal : RowJournal
        Open in that folder.
    settings : mapping
        Of the rows to be added, or those that are known so far.

    Raises
    ------
    RowsError
        If the record is damaged or missing beside rows, was written by an earlier version, or has other settings.
    """
    if not len(journal):
        return {}
    record = _read(journal)
    begun = record["settings"]
    if record.get("format") != FORMAT:
        by = record.get("about", {}).get("commit", "an earlier version")
        raise RowsError(
            f"{journal.folder} holds rows of an earlier version of this program ({by}), which did not record all that "
            "numbers depend on, so none can be added: they stay readable; give another folder for new ones"
        )
    known, asked = _flat(begun), _flat(settings)
    given = {name.partition(".")[0] for name in asked}
    known = {name: value for name, value in known.items() if name.partition(".")[0] in given}
    other = [name for name in sorted(known.keys() | asked.keys()) if known.get(name) != asked.get(name)]
    if other:
        said = ", ".join(f"{name} ({_shown(known.get(name))}, now {_shown(asked.get(name))})" for name in other)
        raise RowsError(f"{journal.folder} holds a run with other {said}; give another folder")
    return record


@contextmanager
def recorded(
    journal: RowJournal, settings: Mapping[str, Any], about: Mapping[str, Any], adds: bool
) -> Iterator[None]:  # fmt: skip
    """Record a call that adds rows to a folder while the block runs; killed or not, its rows are accounted for.

    Parameters
    ----------
    journal : RowJournal
    settings : mapping
        What its rows depend on: JSON values.
    about : mapping
        Where they come from: JSON values.
    adds : bool
        Whether the call has any row to add; otherwise the record stays as it is.

    Raises
    ------
    RowsError
        See `check_belongs`.
    """
    settings, about, path = plain(settings), plain(about), journal.folder / RECORD
    known = check_belongs(journal, json.loads(json.dumps(settings)))
    if known and not adds:
        yield
        return
    start, before = _now(), len(journal)
    record = {"settings": settings, "start": start, **known, "format": FORMAT, "about": about, "end": None}
    calls = _finished(record.get("calls", []), before)
    call = {"commit": commit(), "versions": versions(), "device": device(), "start": start, "end": None}
    call |= {name: about[name] for name in ("drawn", "workers") if name in about}

    def write(end: str | None) -> None:
        counted = call | {"end": end, "documents": len(journal) - before if end else None}
        write_json(path, record | {"end": end, "calls": [*calls, counted]})

    write(None)
    try:
        yield
    finally:
        if len(journal) > before:
            write(_now())
        elif known:
            write_json(path, known)


def _finished(calls: list[dict[str, Any]], documents: int) -> list[dict[str, Any]]:
    """Earlier calls; what one added that was killed is what the others did not."""
    known = sum(call["documents"] or 0 for call in calls)
    filled = [call | {"documents": documents - known} if call["documents"] is None else call for call in calls]
    return [call for call in filled if call["documents"]]


def _read(journal: RowJournal) -> dict[str, Any]:
    path = journal.folder / RECORD
    cure = "put back a copy of it, or give another folder; the rows stay as they are"
    try:
        record = read_json(path)
    except FileNotFoundError as error:
        raise RowsError(
            f"{path} is missing: without it nothing says what the {len(journal)} documents in {JOURNAL} were computed "
            f"with: {cure}"
        ) from error
    except ValueError as error:
        raise RowsError(f"{path} is damaged ({error.__cause__ or error}): {cure}") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise RowsError(f"{path} is damaged (it has no settings): {cure}")
    return record


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Values of nested objects by their dotted names."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    inner = ((f"{name}.{each}" if name else each, value[each]) for each in value)
    return {path: leaf for prefix, each in inner for path, leaf in _flat(each, prefix).items()}


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:12]}..."


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
