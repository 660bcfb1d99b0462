"""Controls, baselines, quirks, adapters and successors: the same documents evaluated in named ways, a folder for each.

A variant changes what is trained on (a strategy of `tttnn.retrieval.strategies`), what is done with it (a method of
`tttnn.methods`), or a switch of the loop. All else is as in the run it is compared with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.errors import ParameterError
from tttnn.experiment.checks import METHOD, check_run, checked_ks
from tttnn.experiment.drawing import DrawnDocument
from tttnn.experiment.runner import run, side_by_side
from tttnn.files import sole_writer
from tttnn.parameters import names as known_names
from tttnn.retrieval.strategies import Selection
from tttnn.together import NotStackable, check_together, need_alone
from tttnn.ttt import TTT, Switches

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.retrieval import Retriever

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """A named way to evaluate a document.

    Attributes
    ----------
    strategy : str
    method : str
    switches : dict
        Fields of `tttnn.ttt.Switches` that differ.
    rate : float
        Times the learning rate of the model.
    most : int, optional
        Train on so many neighbours at most: there the last score is, where one was asked for after more.
    reverse : bool
        Evaluate the documents in reverse order, which matters only where something is kept between them.
    against : str
        The variant it is compared with: equal but for one thing.
    """

    strategy: str = "nearest"
    method: str = METHOD
    switches: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    most: int | None = None
    reverse: bool = False
    against: str = "nearest"


def _switched(**switches: Any) -> Variant:
    return Variant(switches=switches)


KNN_TEMPERATURES = (0.3, 1.0)  # of squared distances over the width of a state
MERGED = 10  # clusters of the corpus, an expert each
EXPERTS_OF = 200  # most documents that an expert is trained on

CONTROLS = {
    "nearest": Variant(),
    "random": Variant("random"),
    "random-domain": Variant("random-domain"),
    "other-units": Variant("other-units"),
    "other-sources": Variant("other-sources"),
    "farthest-first": Variant("farthest-first"),
    "shuffled": Variant("shuffled"),
    "repeated": Variant("repeated"),
    "chunks-4": Variant(switches={"max_chunks": 4}, most=5),
    "split": _switched(split_query=True),
    "first-half": Variant("itself", switches={"split_query": True}, against="split"),
    **{f"distinct-{share}": Variant(f"distinct:{share}") for share in (0.5, 0.2, 0.05)},
    **{f"share-{share}": Variant(f"share:{share}") for share in (0.05, 0.25)},
    "sift": Variant("sift"),
}
BASELINES = {
    **{f"in-context-{share}": Variant(method=f"in-context:{share}") for share in (0.125, 0.25, 0.5, 0.75)},
    "in-context-published": Variant(method="in-context-published"),
    **{f"unigram-{weight}": Variant(method=f"unigram:{weight}") for weight in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)},
    **{f"knn-lm-{weight}-{temperature}": Variant(method=f"knn-lm:{weight},{temperature}")
       for weight in (0.2, 0.4) for temperature in KNN_TEMPERATURES},
    **{f"dynamic-128-rate-{rate}": Variant(method="dynamic:128", rate=rate) for rate in (0.1, 0.3, 1.0, 2.0)},
    **{f"adapters-dynamic-128-rate-{rate}": Variant(method="dynamic:128", switches={"lora": 8}, rate=rate,
                                                  against="dynamic-128-rate-1.0") for rate in (1, 3, 10, 30)},
    **{f"ttt-dynamic-128-rate-{rate}": Variant(method="ttt-dynamic:128", rate=rate) for rate in (0.25, 0.5, 1.0, 2.0)},
}  # fmt: skip
QUIRKS = {
    **{f"kept-{ranks}": _switched(keep_optimizer=True, ranks=ranks) for ranks in (1, 3)},
    "kept-reverse": Variant(switches={"keep_optimizer": True, "ranks": 1}, reverse=True, against="kept-1"),
    "dropout": _switched(dropout=0.1),
    **{f"shards-lost-{lost}": Variant(f"shards-lost:{lost}") for lost in (1, 5, 15)},
    "context-256": _switched(context=256),
    "tiny-rate": _switched(learning_rate=5e-6),
    "tiny-rate-bf16": Variant(switches={"learning_rate": 5e-6, "weights": "bfloat16"}, against="tiny-rate"),
    "bf16": _switched(weights="bfloat16"),
    **{f"rate-{rate}": Variant(rate=rate) for rate in (0.25, 2, 4)},
}
LORA = {f"lora-8-rate-{rate}": Variant(switches={"lora": 8}, rate=rate) for rate in (1, 3, 10, 30)}
# What needs experts that were trained before, and so is run only where it is named: ``python -m tttnn ttmm build``.
EXPERTS = {
    f"ttmm-{MERGED}-rate-{rate}-{temperature}": Variant(
        method=f"ttmm:{MERGED},{temperature},{EXPERTS_OF}", switches={"lora": 8}, rate=rate,
        against=f"lora-8-rate-{rate}")
    for rate in (3, 10) for temperature in (0.04, 0.2)
}  # fmt: skip
TRAINED = ("head", "norms", "down", "last:1", "queries")
PARTS = {f"train-{name.replace(':', '-')}": _switched(train=name) for name in TRAINED}
SUCCESSORS = {
    "hullft": Variant("hullft"),
    "hullft-reuse-2": Variant("hullft", switches={"reuse": 2}, against="hullft"),
    "hullft-rate-2": Variant("hullft", rate=2, against="rate-2"),
    "hullft-reuse-2-rate-2": Variant("hullft", switches={"reuse": 2}, rate=2, against="hullft-rate-2"),
    "sift-rate-2": Variant("sift", rate=2, against="rate-2"),
    "sift-1-rate-2": Variant("sift:1", rate=2, against="rate-2"),
    **{f"sift-{noise}": Variant(f"sift:{noise}", against="sift") for noise in (0.001, 0.1, 1, 10)},
    "sift-absolute": Variant("sift-absolute", against="sift"),
    "sift-pace": Variant("sift", switches={"pace": "uncertainty"}, against="sift"),
    **{f"sift-stop-{alpha}": Variant("sift", switches={"pace": f"stop:{alpha}"}, against="sift")
       for alpha in (0.2, 0.5, 1)},
    "suffix": _switched(loss="suffix"),
    "suffix-query": Variant(switches={"loss": "suffix-query", "split_query": True}, against="split"),
}  # fmt: skip
VARIANTS = CONTROLS | BASELINES | QUIRKS | LORA | PARTS | SUCCESSORS | EXPERTS

# What is tuned for each method of the comparison, on the same validation documents: as many settings for each.
GRID = {
    "TTT-NN": ("rate-0.25", "nearest", "rate-2", "rate-4"),
    "TTT-NN, LoRA": tuple(LORA),
    "in context": tuple(f"in-context-{share}" for share in (0.125, 0.25, 0.5, 0.75)),
    "unigrams": tuple(f"unigram-{weight}" for weight in (0.05, 0.1, 0.2, 0.4)),
    "kNN-LM": tuple(name for name in BASELINES if name.startswith("knn-lm-")),
    "dynamic evaluation": tuple(f"dynamic-128-rate-{rate}" for rate in (0.1, 0.3, 1.0, 2.0)),
    "dynamic evaluation, LoRA": tuple(name for name in BASELINES if name.startswith("adapters-")),
    "TTT-NN, then dynamic": tuple(name for name in BASELINES if name.startswith("ttt-dynamic-")),
    "TTMM": tuple(EXPERTS),
    "SIFT": ("sift", "sift-1", "sift-rate-2", "sift-1-rate-2"),
    "HullFT": ("hullft", "hullft-rate-2", "hullft-reuse-2", "hullft-reuse-2-rate-2"),
}
TRIALS = 4
TWO_BY_TWO = ("kNN-LM", "TTMM", "SIFT", "HullFT")  # whose four are two values of one setting by two of another


def run_variants(
    ttt: TTT,
    documents: Sequence[DrawnDocument],
    ks: Sequence[int],
    names: Iterable[str],
    folder: str | Path | None = None,
    about: dict[str, Any] | None = None,
    at_once: int = 1,
) -> pd.DataFrame:
    """Evaluate the same documents in several ways.

    Parameters
    ----------
    ttt : TTT
        Its model, retriever and switches; each variant changes what it names.
    documents : sequence of DrawnDocument
    ks : sequence of int
    names : iterable of str
        Of `VARIANTS`.
    folder : path, optional
        Rows of each variant and model are kept in a folder ``<variant>/<model>`` of it, so that a killed grid goes on.
    about : dict, optional
        Provenance, see `tttnn.experiment.run`.
    at_once : int
        Documents that are adapted side by side, see `tttnn.together`, in variants whose method and switches allow it;
        the others do one after another.

    Returns
    -------
    DataFrame
        Rows of `tttnn.experiment.run` with a column `variant`.

    Raises
    ------
    ParameterError
        If there is no variant of that name, or one of them cannot be had with this model, index or `ks`: before any is
        evaluated.
    BusyError
        If another process is writing to `folder`.
    """
    import pandas as pd

    chosen = checked_variants(names)
    at_once = check_together(ttt.switches, at_once)
    places = {name: _checked_places(ttt, name, ks) for name in chosen}
    parts = []
    with sole_writer(folder) if folder else nullcontext():
        for name, wanted in places.items():
            variant = VARIANTS[name]
            place = Path(folder) / name / ttt.lm.name if folder else None
            ordered = documents[::-1] if variant.reverse else documents
            facts = {**(about or {}), "variant": name}
            loop = changed(ttt, variant)
            together = at_once > 1 and variant.method == METHOD and not need_alone(loop.switches)
            evaluated = partial(run, loop, ordered, wanted, place, facts, method=variant.method)
            try:
                rows = evaluated(evaluate=side_by_side(at_once) if together else None)
            except NotStackable as error:  # others before it may have taken hours
                log.warning("variant %s: %s; it takes one after another", name, error)
                rows = evaluated()
            parts.append(rows.assign(variant=name))
    return pd.concat(parts, ignore_index=True)


def checked_variants(names: Iterable[str] | str) -> list[str]:
    """Return names of variants, each once, by default all but EXPERTS; ParameterError names one that there is not."""
    return known_names("variants", names, VARIANTS) or [name for name in VARIANTS if name not in EXPERTS]


def changed(ttt: TTT, variant: Variant) -> TTT:
    """Return a loop as a variant has it, on the same model."""
    retriever, switches = _parts(ttt, variant)
    return TTT(ttt.lm, retriever, switches)


def _checked_places(ttt: TTT, name: str, ks: Sequence[int]) -> list[int]:
    """Where a variant scores, if it can be evaluated."""
    variant = VARIANTS[name]
    try:
        retriever, switches = _parts(ttt, variant)
        places = checked_ks(ks)
        if variant.most:
            places = sorted({min(k, variant.most) for k in places})
        return check_run(ttt.lm, retriever, switches, places, variant.method)
    except ParameterError as error:
        raise ParameterError(f"variant {name}: {error}") from error


def _parts(ttt: TTT, variant: Variant) -> tuple[Retriever | Selection | None, Switches]:
    switches = replace(ttt.switches, **variant.switches)
    if variant.rate != 1:
        base = ttt.switches.learning_rate or ttt.lm.settings.learning_rate
        switches = replace(switches, learning_rate=variant.rate * base)
    retriever = ttt.retriever
    if variant.strategy != "nearest":
        retriever = Selection(ttt.need_retriever(), variant.strategy, switches.seed)
    return retriever, switches
