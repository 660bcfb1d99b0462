"""What the rows of a folder were computed with: `run.json`, which refuses rows that do not belong to those there.

It holds `settings`, all that a number depends on besides its document; `about`, where the latest rows come from; and
`calls`, one entry for each call that added rows: when, by which commit, on which machine and which device of it, how
documents were drawn, how many there were. It is made from the journal, so that it can be lost or damaged without harm.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.files import read_json, write_json
from tttnn.models import parts
from tttnn.plugins import package_of
from tttnn.provenance import made_here
from tttnn.rows import RowJournal, RowsError, plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection
    from tttnn.ttt import Switches

PACKAGES = {"package": "method", "train_package": "switches"}  # other packages' versions, and what they bring
log = logging.getLogger(__name__)

RECORD = "run.json"
SHOWN = 40  # characters of a value in a message


def identity(lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> dict[str, Any]:
    """Return what rows depend on besides the documents: model, tokenizer, retriever, switches, settings.

    No loop need be made for it, which would ask for the memory to adapt the model. Of another package's part of the
    weights its version is among them.
    """
    package = package_of(parts.GROUP, (switches.train or "").partition(":")[0])
    return {
        "model": lm.name,
        "weights": lm.weight_hash(),
        "config": lm.config_hash(),
        "tokenizer": tokenizer_hash(lm.tokenizer),
        "prefix_id": lm.token_before(switches.prefix) if switches.prefix else lm.prefix_id,
        # Scores at k = 0 alone need no retriever; one that is not ours may have a fingerprint only.
        "retriever": getattr(retriever, "identity", None) or getattr(retriever, "fingerprint", None),
        "switches": asdict(switches),
        **({"train_package": package} if package else {}),
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

    Domains and documents per domain are not in it: a larger draw extends a smaller one. Of another package's method its
    version is.
    """
    from tttnn.methods import GROUP  # loads torch, which readers of records do without

    drawn, corpus = about.get("drawn") or {}, about.get("corpus")
    package = package_of(GROUP, method.partition(":")[0])
    return {
        "method": method,
        **({"package": package} if package else {}),
        "ks": ks,
        "split": drawn.get("split"),
        "corpus": corpus.get("fingerprint") if isinstance(corpus, Mapping) else corpus,
        "drawn": {name: drawn.get(name) for name in ("seed", "max_bytes")},
    }


def check_belongs(journal: RowJournal, settings: Mapping[str, Any]) -> None:
    """Check that rows belong with those of a folder; put its `run.json` back if it is missing or damaged.

    Parameters
    ----------
    journal : RowJournal
        Open in that folder.
    settings : mapping
        Of the rows to be added, or those that are known so far: JSON values.

    Raises
    ------
    RowsError
        If the rows there have other settings, or do not say which, as those of earlier versions.
    """
    if not len(journal):
        return
    if not (calls := _added(journal)):
        raise _earlier(journal, "all that they depend on")
    if not _is_readable(journal.folder / RECORD):
        _write(journal)
    before = calls[0]["settings"]
    gone = (name for name, of in PACKAGES.items() if name in before and of in settings)  # no package brings it now
    compared = {*settings, *gone}
    known, asked = _flat({name: before.get(name) for name in compared}), _flat(settings)
    other = [name for name in sorted(known.keys() | asked.keys()) if known.get(name) != asked.get(name)]
    if other and not before.keys() & {name.partition(".")[0] for name in other}:
        raise _earlier(journal, f"their {', '.join(other)}")
    if other:
        said = ", ".join(f"{name} ({_shown(known.get(name))}, now {_shown(asked.get(name))})" for name in other)
        raise RowsError(f"{journal.folder} holds a run with other {said}; give another folder")


@contextmanager
def recorded(
    journal: RowJournal, settings: Mapping[str, Any], about: Mapping[str, Any], adds: bool, how: Mapping[str, Any]
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
        Whether the call has any row to add; otherwise no call is added to the record.
    how : mapping
        How they are computed, in this call: `model_device`, maybe `documents_at_once`. A change of device, of torch, or
        of the environment's switches is warned of, as digits change with it.

    Raises
    ------
    RowsError
        See `check_belongs`.
    """
    check_belongs(journal, json.loads(json.dumps(plain(settings))))
    if not adds:
        _write(journal)  # a call that was killed after its last document did not
        yield
        return
    made = made_here() | {"environment": _environment()}
    call = {"settings": settings, "about": about, **made, **how, "start": _now()}
    _warn_of_changes(journal, call)
    journal.begin(call)
    _write(journal)
    try:
        yield
    finally:
        journal.end(_now())
        _write(journal)


def _environment() -> dict[str, str]:
    """The variables of the environment that change the last digits of a score, as far as they are set."""
    from tttnn.models.graphs import GRAPHS_VARIABLE  # with torch, which who only reads a record does not wait for
    from tttnn.models.products import FAST_LAYERS_VARIABLE

    return {name: os.environ[name] for name in (FAST_LAYERS_VARIABLE, GRAPHS_VARIABLE) if name in os.environ}


def _warn_of_changes(journal: RowJournal, call: Mapping[str, Any]) -> None:
    """Say what changes digits and is not as it was for the rows that are there."""
    for before in _added(journal)[-1:]:
        known, now = _digits(before), _digits(call)
        other = [name for name in known.keys() & now.keys() if known[name] != now[name]]
        if other:
            said = ", ".join(f"{name} ({_shown(known[name])}, now {_shown(now[name])})" for name in sorted(other))
            log.warning(
                "%s: rows were computed with other %s: the last digits of nats may differ", journal.folder, said
            )


def _digits(call: Mapping[str, Any]) -> dict[str, Any]:
    """What of a call changes the last digits of its scores, as far as it says."""
    found = {"torch": call.get("versions", {}).get("torch"), "environment": call.get("environment")}
    found["device"] = call.get("model_device", "").partition(":")[0] or None
    return {name: value for name, value in found.items() if value is not None}


def _added(journal: RowJournal) -> list[dict[str, Any]]:
    """The calls that added documents."""
    return [call for call in journal.calls if call["documents"]]


def _write(journal: RowJournal) -> None:
    """Write `run.json` from the journal."""
    calls = _added(journal) or journal.calls[-1:]
    shown = [{name: value for name, value in call.items() if name not in ("settings", "about")} for call in calls]
    for entry, call in zip(shown, calls, strict=True):
        entry.update({name: call["about"][name] for name in ("drawn", "workers") if name in call["about"]})
    last = calls[-1]
    record = {"settings": last["settings"], "about": last["about"], "start": calls[0]["start"], "end": last["end"]}
    write_json(journal.folder / RECORD, record | {"calls": shown})


def _earlier(journal: RowJournal, missing: str) -> RowsError:
    return RowsError(
        f"{journal.folder} holds rows of an earlier version of this program, which did not record {missing}, so none "
        "can be added: they stay readable; give another folder for new ones"
    )


def _is_readable(path: Path) -> bool:
    try:
        return bool(read_json(path))
    except (FileNotFoundError, ValueError):
        return False


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
