"""A base that any plain text has repaired: the control for what test-time training would mend in a damaged model.

Weights in 4 bits and instruction tuning are damage that *any* plain text may undo. A model that is first trained on
general prose, with the loop's own steps and until its validation loss is flat, has had that repair; what the nearest
neighbours bring from there on is theirs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tttnn.errors import ParameterError
from tttnn.files import finite, read_json, sole_writer, write_json, writing_folder
from tttnn.parameters import number
from tttnn.pretraining.checkpoint import read_checkpoint, save_checkpoint
from tttnn.scoring import Scorer

if TYPE_CHECKING:
    from tttnn.ttt import TTT

STATE, BEST, RUN = "state.safetensors", "best.safetensors", "repair.json"

log = logging.getLogger(__name__)


def repair(
    ttt: TTT, train: Sequence[str], validation: Sequence[str], out: str | Path, every: int = 64, patience: int = 3,
    most: int = 4096,
) -> dict[str, Any]:  # fmt: skip
    """Train a model on plain texts with the loop's steps until held-out bits per byte are flat; resumable.

    Parameters
    ----------
    ttt : TTT
        Model and switches: learning rate, tokens per chunk, chunks per text, precision, seed of the texts' order.
    train : sequence of str
        General prose. Texts are taken in a random order, each at most once; AdamW's moments are kept throughout.
    validation : sequence of str
        Other texts, each at least one token long.
    out : path
        A folder for the state while training, `repair.json` with settings and curve, and the repaired model in
        ``model/``: the weights with the lowest validation loss, float32. The same call continues there.
    every : int
        Texts between two looks at the validation texts.
    patience : int
        Looks without an improvement after which the curve counts as flat.
    most : int
        Texts after which training ends in any case.

    Returns
    -------
    dict
        What `repair.json` holds: "settings", "curve" with a (texts, steps, bits per byte) for each look (bits are None
        where the model diverged), and "end": whether it was "flat" or the "most" texts were reached.

    Raises
    ------
    ParameterError
        If there are too few texts, one is in both lists, a switch is `train` or `lora`, or `out` holds a run with other
        settings or texts.
    BusyError
        If another process is writing to `out`.
    """
    _require_all_weights(ttt)
    out = Path(out)
    every, patience, most = (
        number(name, value, least=1, whole=True)
        for name, value in (("every", every), ("patience", patience), ("most", most))
    )
    order = np.random.default_rng(ttt.switches.seed).permutation(len(train))[:most]
    if not validation or len(order) < every:
        raise ParameterError(f"every={every}: there are {len(order)} texts to train on, {len(validation)} to look at")
    if known := set(train) & set(validation):
        raise ParameterError(f"validation: this text is trained on as well; take it out of one: {min(known)[:80]!r}")
    scorers = [Scorer(ttt.lm, text) for text in validation]
    settings = {
        "model": ttt.lm.name, "weights": ttt.lm.weight_hash(), "switches": vars(ttt.switches),
        "settings": vars(ttt.lm.settings), "texts": len(train), "validation texts": len(validation),
        "every": every, "patience": patience, "most": most, "SHA-256 of all texts": _digest([train, validation]),
    }  # fmt: skip
    with sole_writer(out):
        found = _claim(out / RUN, settings)
        if found.get("end"):
            return found
        with ttt.session():
            _train(ttt, [train[number] for number in order], scorers, out, every, patience)
            _export(ttt, out)
        found = read_json(out / RUN)
        found["end"] = "flat" if _flat(found["curve"], patience) else "most"
        write_json(out / RUN, found)
        for file in (STATE, BEST):
            (out / file).unlink(missing_ok=True)
    return found


def _require_all_weights(ttt: TTT) -> None:
    """Refuse switches under which no whole model would be trained, kept and read back."""
    for name in ("train", "lora"):
        if value := getattr(ttt.switches, name):
            raise ParameterError(f"{name}={value!r}: repair trains all weights; leave {name} out")


def _digest(texts: Sequence[Sequence[str]]) -> str:
    digest = hashlib.sha256()
    for part in texts:
        for text in [*part, None]:  # where a part ends, too
            digest.update(json.dumps(text).encode() + b"\n")
    return digest.hexdigest()


def _claim(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        write_json(path, {"settings": settings, "curve": []})
    found = read_json(path)
    other = [name for name, value in settings.items() if found["settings"].get(name) != value]
    if other:
        raise ParameterError(f"out={path.parent}: holds a repair with other {', '.join(other)}; give another folder")
    return found


def _train(ttt: TTT, texts: Sequence[str], scorers: Sequence[Scorer], out: Path, every: int, patience: int) -> None:
    counters: dict[str, Any] = {"texts": 0, "steps": 0, "curve": []}
    if (out / STATE).exists():
        counters = read_checkpoint(out / STATE, ttt.lm.model, ttt.optimizer)
        ttt.renew()
    with tqdm(total=len(texts), initial=counters["texts"], desc=f"{ttt.lm.name}: repair", unit="text") as bar:
        while True:
            if counters["texts"] % every == 0 and (not counters["curve"] or counters["texts"]):
                _look(ttt, scorers, counters, out)
            if _flat(counters["curve"], patience) or counters["texts"] == len(texts):
                return
            counters["steps"] += len(ttt.train(ttt.chunks(texts[counters["texts"]])[0], counters["texts"]))
            counters["texts"] += 1
            bar.update()


def _look(ttt: TTT, scorers: Sequence[Scorer], counters: dict[str, Any], out: Path) -> None:
    """Score the validation texts; keep the state, and the weights if they are the best so far."""
    if counters["curve"] and counters["curve"][-1][0] == counters["texts"]:
        return  # of a state that was read back
    total = sum((scorer() for scorer in scorers[1:]), scorers[0]())
    bits = finite(total.bits_per_byte)
    counters["curve"].append((counters["texts"], counters["steps"], bits))
    log.info("%s: %.4f bits per byte after %d texts", ttt.lm.name, total.bits_per_byte, counters["texts"])
    if len(counters["curve"]) == 1 or (bits is not None and bits == min(_bits(counters["curve"]))):
        save_checkpoint(out / BEST, ttt.lm.model, ttt.optimizer, counters)
    save_checkpoint(out / STATE, ttt.lm.model, ttt.optimizer, counters)
    write_json(out / RUN, read_json(out / RUN) | {"curve": counters["curve"]})


def _bits(curve: Sequence[tuple[int, int, float | None]]) -> list[float]:
    return [math.inf if bits is None else bits for *_, bits in curve]


def _flat(curve: Sequence[tuple[int, int, float | None]], patience: int) -> bool:
    bits = _bits(curve)
    return len(bits) > patience and min(bits[-patience:]) >= min(bits[:-patience])


def _export(ttt: TTT, out: Path) -> None:
    read_checkpoint(out / BEST, ttt.lm.model, ttt.optimizer)
    with writing_folder(out / "model") as folder:
        ttt.lm.model.save_pretrained(folder)
        ttt.lm.tokenizer.save_pretrained(folder)
