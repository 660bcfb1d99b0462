"""What a chapter looks at before it begins: its parameters, as papermill, a profile or a reader set them.

Everything that is long in a chapter comes after this, so a slip of the pen costs seconds and not hours.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from tttnn.analysis.archive import archived, archived_models, place_of
from tttnn.analysis.published import tested_documents
from tttnn.analysis.variant_effects import variant_models
from tttnn.embedding.embedder_registry import EMBEDDERS
from tttnn.errors import ParameterError
from tttnn.hub import cached_folder
from tttnn.models.model_registry import REGISTRY, check_made
from tttnn.parameters import names, number, numbers

INJECTED = "# Parameters"  # how the cell begins that papermill puts behind the chapter's own
# The numbers of all chapters: those above 0, and those where 0 has a meaning.
ABOVE_ZERO = {
    "budgets", "compare_documents", "compare_k", "compare_queries", "copies",
    "disk_speed", "documents", "k", "last", "machine_memory", "memory_documents", "minutes", "per_domain",
    "pile_bytes", "pile_dimension", "pile_documents", "planned", "queries", "read_time", "reads", "resamples",
    "real_budgets", "real_k", "real_rate", "real_tokens", "searches", "served", "servers", "short_documents", "shown",
    "threads", "usable",
}  # fmt: skip
MAY_BE_ZERO = {
    "calibration", "learning_rate", "max_bytes", "max_chunks", "seed",
}  # fmt: skip
MAY_BE_EMPTY = {"bench", "compare_embedders", "domains", "mathematics", "others"}
SEVERAL = {"copies", "memory_documents", "short_documents"}  # sizes whose growth is measured
MOST = {"seed": 2**32 - 1, "threads": 1024, "usable": 1}
RUNS = {"archived_run", "variants_run", "validation_run"}
LIKE_RUN = "like_run"  # variants that a chapter can do without, if they have no rows of its models
REAL_RUN, REAL_MODEL = "real_run", "real_main"  # conditions of a pre-trained model, and which model's
METHOD_RUNS = {"methods_run", "methods_validation"}  # variants that have this model, too
VARIANT_RUNS = METHOD_RUNS | {"variants_run", "validation_run", REAL_RUN}  # with a folder for each variant
ARCHIVED = {"main", "small", "large", "trained", "reasoning"}  # models whose rows a chapter reads in them
BASE = "nearest"  # the variant that others are compared with


def chapter_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """Check the parameters of a chapter, and put what was understood in their place.

    Parameters
    ----------
    namespace : dict
        ``globals()`` of the chapter, after the cell of its parameters and the one that papermill adds. The annotations
        say of which type a parameter is.

    Returns
    -------
    dict
        Its parameters, in their order.

    Raises
    ------
    ParameterError
        If one is of another type, out of its range, misspelt, or names a model, corpus, run or device that is not
        there. The message begins with the parameter's name.
    """
    kinds = get_type_hints(SimpleNamespace(**namespace))
    names("parameters", [name for name in _injected(namespace) if name not in KNOWN], kinds)
    values = {name: READERS[kind](name, namespace[name]) for name, kind in kinds.items()}
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            CHECKS.get(name, _nothing)(name, each)
    _check_runs(values)
    namespace.update(values)
    return values


def chosen_domains(
    name: str, given: str | Sequence[str], there: Sequence[str], usual: Collection[str], most: int | None = None
) -> list[str]:  # fmt: skip
    """Domains of a live run: those asked for, otherwise those that the chapter is written for.

    Parameters
    ----------
    name : str
        Of the parameter.
    given : str or sequence of str
        Its value; none: the chapter chooses.
    there : sequence of str
        Domains of the corpus.
    usual : collection of str
        Domains of the embedded corpus that the chapter looks at.
    most : int, optional
        How many to take of a corpus that has none of these; default: all.

    Raises
    ------
    ParameterError
        If the corpus lacks one that was asked for; the message lists those it has.
    """
    return names(name, given, there) or [domain for domain in usual if domain in there] or list(there[:most])


def _injected(namespace: dict[str, Any]) -> list[str]:
    """Names that papermill set; among them, from a profile for all chapters, those that only others have."""
    cells = [source for source in namespace.get("In", []) if source.startswith(INJECTED)]
    lines = [line for source in cells for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    return [target.id for line in lines for target in line.targets if isinstance(target, ast.Name)]


def _text(name: str, value: Any) -> str:
    # A folder that is called 2024 arrives as a number.
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Path)):
        raise ParameterError(f"{name}={value!r} ({type(value).__name__}): must be text")
    text = str(value).strip()
    if not text and name not in MAY_BE_EMPTY:
        raise ParameterError(f"{name}={value!r}: must not be empty")
    return os.path.expanduser(text)


def _whole(name: str, value: Any) -> int:
    return int(number(name, value, least=_least(name), most=MOST.get(name, 2**63 - 1), whole=True))


def _real(name: str, value: Any) -> float:
    found = float(number(name, value, least=0, most=MOST.get(name, float("inf"))))
    if not found and name not in MAY_BE_ZERO:
        raise ParameterError(f"{name}={value!r}: must be above 0")
    return found


def _least(name: str) -> int:
    return 0 if name in MAY_BE_ZERO else 1


def _texts(name: str, value: Any) -> list[str]:
    found = [_text(name, each) for each in names(name, _listed(name, value))]
    if not found and name not in MAY_BE_EMPTY:
        raise ParameterError(f"{name}={value!r}: must name one at least")
    return found


def _wholes(name: str, value: Any) -> list[int]:
    most = MOST.get(name, 2**63 - 1)
    found = [int(each) for each in numbers(name, _listed(name, value), least=_least(name), most=most, whole=True)]
    if name in SEVERAL and len(set(found)) < 2:
        raise ParameterError(f"{name}={value!r}: must be two sizes at least")
    return found


def _listed(name: str, value: Any) -> Any:
    """The same, unless it is text that is no list: a domain or a model may have a comma in its name."""
    if isinstance(value, str) and not value.strip().startswith("["):
        raise ParameterError(f"{name}={value!r} (str): must be a list, such as [{value}]; papermill takes one by -y")
    return value


def _amounts(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise ParameterError(f"{name}={value!r} ({type(value).__name__}): must be names with a number each")
    return {_text(name, key): _real(f"{name}[{key!r}]", amount) for key, amount in value.items()}


READERS: dict[Any, Callable[[str, Any], Any]] = {
    str: _text, int: _whole, float: _real, list[str]: _texts, list[int]: _wholes, dict[str, float]: _amounts,
}  # fmt: skip


def _nothing(name: str, value: Any) -> None:
    """Any value of its type will do."""


def _corpus(name: str, value: str) -> None:
    if value != "wheels" and not Path(value).exists() and not value.startswith("hf:"):
        raise ParameterError(f"{name}={value!r}: no such folder or file; give 'wheels', or documents of your own")


def _bench(name: str, value: str) -> None:
    if value and not Path(value).is_dir():
        raise ParameterError(f"{name}={value!r}: no such folder; `make bench` writes _build/bench")


def _model(name: str, value: str) -> None:
    if not _is_model(Path(value)):
        check_made(value, ParameterError)
    _loadable(name, value, REGISTRY)


def _embedder(name: str, value: str) -> None:
    models = [f"lm:{entry.name}" for entry in REGISTRY.values() if entry.embedded or entry.packaged]
    known = ["lexical", *models, *EMBEDDERS]
    if value.startswith("lm:"):
        if not _is_model(Path(value.removeprefix("lm:")).expanduser()):
            names(name, [value], known)
        return
    _loadable(name, value, known)


def _loadable(name: str, value: str, known: Collection[str]) -> None:
    """Whether there can be a model of this name: known, on this disk, in the hub's cache, or to be asked for there."""
    from huggingface_hub import is_offline_mode

    if value in known or _is_model(Path(value)) or cached_folder(value):
        return
    if Path(value).is_dir() or value.startswith((".", "/")):
        raise ParameterError(
            f"{name}={value!r}: no GGUF file, and no folder with one, a config.json or an adapter_config.json; give one"
        )
    if value.count("/") != 1:
        names(name, [value], known)
    if is_offline_mode():
        raise ParameterError(f"{name}={value!r}: not in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub")


def _is_model(place: Path) -> bool:
    """Whether a folder or file of a model lies there: in the hub's format, of adapters, or GGUF."""
    if place.suffix.lower() == ".gguf":
        return place.is_file()
    return any((place / file).is_file() for file in ("config.json", "adapter_config.json")) or any(place.glob("*.gguf"))


def _device(name: str, value: str) -> None:
    import torch

    try:
        wanted = torch.device(value)
    except RuntimeError as error:
        raise ParameterError(f"{name}={value!r}: no device of torch, such as cpu or cuda") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (wanted.index or 0) >= there.get(wanted.type, 0):
        names(name, [value], [kind for kind, count in there.items() if count])


def _case(name: str, value: str) -> None:
    names(name, [value], tested_documents())


CHECKS: dict[str, Callable[[str, str], None]] = {
    "corpus": _corpus, "bench": _bench, "embedder": _embedder, "compare_embedders": _embedder, "device": _device,
    "case": _case, "real_embedder": _embedder,
    **dict.fromkeys(("model", "ladder", "twin", "reasoning_model", "real"), _model),
}  # fmt: skip
KNOWN = (
    ABOVE_ZERO
    | MAY_BE_ZERO
    | MAY_BE_EMPTY
    | ARCHIVED
    | RUNS
    | METHOD_RUNS
    | {LIKE_RUN, REAL_RUN, REAL_MODEL}
    | CHECKS.keys()
)


def _check_runs(values: dict[str, Any]) -> None:
    """Each model that a chapter reads rows of is in each of its runs, up to the last neighbour that it looks at."""
    live = "corpus" in values
    # The chapter that looks at archived runs alone says itself of which models there are no rows.
    asked = ARCHIVED if live or "archived_run" not in values else set()
    needed = {run: {REAL_MODEL} for run in (REAL_RUN, *METHOD_RUNS)} | {LIKE_RUN: set()}
    if not needed.keys() & values.keys():  # its runs are those of the methods
        asked = asked | {REAL_MODEL}
    for run in (name for name in values if name in {*RUNS, *needed}):
        try:
            models = (archived_models if run == "archived_run" else variant_models)(values[run])
        except ValueError as error:
            raise ParameterError(f"{run}={values[run]!r}: {error}") from error
        for name in (name for name in values if name in needed.get(run, asked)):
            names(name, [values[name]], models)
    last = "last" if "last" in values else "" if live else "k"
    for place in _places(values) if last else ():
        models = archived_models(place)
        model = next(name for name in (values.get("main"), values.get(REAL_MODEL), models[0]) if name in models)
        ks = _scored(place, model)
        if values[last] not in ks:
            raise ParameterError(f"{last}={values[last]}: {place} has rows of {model} at k = {ks}")
    if last == "last":
        _check_ends(values)


def _places(values: dict[str, Any]) -> list[str]:
    """Runs whose rows a chapter reads at the last neighbour."""
    variants = [f"{values['variants_run']}/{BASE}"] if "variants_run" in values else []
    found = [*([values["archived_run"]] if "archived_run" in values else []), *variants]
    return found or [f"{values[REAL_RUN]}/{BASE}"] if {REAL_RUN, "last"} <= values.keys() else found


def _check_ends(values: dict[str, Any]) -> None:
    """A variant with rows beyond the last neighbour has rows there, too: some methods are scored at their end alone."""
    asked = {str(values[name]) for name in (*ARCHIVED, REAL_MODEL) if name in values}
    for run in sorted({values[name] for name in VARIANT_RUNS if name in values}):
        for place in sorted(path.parent for path in place_of(run).glob("*/*/run.json")):
            ks = _scored(place.parent, place.name) if place.name in asked else [values["last"]]
            if values["last"] not in ks and values["last"] < max(ks):
                raise ParameterError(
                    f"last={values['last']}: {place.parent.name} in the run {run} has rows of {place.name} at k = {ks}"
                )


def _scored(place: str | Path, model: str) -> list[int]:
    """Numbers of neighbours after which an archived run has scores of a model."""
    return sorted(map(int, archived(place, model).rows["k"].unique()))
