"""Names of language models, and the test-time-training settings that each of them is adapted with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tttnn.errors import ParameterError, TTTNNError
from tttnn.files import expand, read_json
from tttnn.parameters import names, number

CHECKPOINTS = Path(__file__).parent / "checkpoints"
RECIPES = Path(__file__).parents[1] / "pretraining" / "settings"
PREFIXES = ("bos", "eos")
GPT2 = "GPT-2's published settings"
SWEEP = "sweep.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TTTSettings:
    """How a model is adapted and scored unless a run says otherwise.

    Attributes
    ----------
    learning_rate : float
        AdamW learning rate of the one step per chunk.
    eps : float
        AdamW epsilon.
    max_length : int
        Tokens per training chunk; the stride equals it, so chunks do not overlap.
    context : int
        Tokens of evaluation context.
    prefix : str
        The token before a scored text: "bos" (beginning of sequence, as lm-evaluation-harness takes it) or "eos"
        (end of sequence, as the published code does); a tokenizer that has only one of them gives that one.
    """

    learning_rate: float = 2e-5
    eps: float = 1e-8
    max_length: int = 1024
    context: int = 1024
    prefix: str = "bos"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            understand(self, name, positive=True)
        for name in ("max_length", "context"):
            understand(self, name, least=2, whole=True)  # one token predicts nothing
        check_prefix(self.prefix)


def understand(settings: Any, name: str, positive: bool = False, **limits: Any) -> None:
    """Put the number that a field of a frozen dataclass holds or spells in its place; see `parameters.number`.

    Raises
    ------
    ParameterError
        If it is no such number, or not above zero where it must be `positive`.
    """
    value = number(name, getattr(settings, name), **limits)
    if positive and value <= 0:
        raise ParameterError(f"{name}={value}: must be positive")
    object.__setattr__(settings, name, value)


def check_prefix(prefix: str) -> None:
    """Refuse a name of the token before a text that is none."""
    if prefix not in PREFIXES:
        raise ParameterError(f"prefix={prefix!r}: must be one of {', '.join(PREFIXES)}")


def some_settings(values: Mapping[str, Any], place: str = "settings") -> dict[str, Any]:
    """Check some of the settings of `TTTSettings`, by name.

    Parameters
    ----------
    values : mapping
    place : str
        Where they stand, for the message.

    Returns
    -------
    dict
        The same, with numbers that were spelt in text as numbers.

    Raises
    ------
    ParameterError
        Naming the place and the key that is none, or whose value cannot be.
    """
    names(f"{place}: key", list(values), [field.name for field in fields(TTTSettings)])
    try:
        checked = TTTSettings(**values)
    except ParameterError as error:
        raise ParameterError(f"{place}: {error}") from error
    return {name: getattr(checked, name) for name in values}


def read_settings(file: str | Path) -> dict[str, Any]:
    """Read some of the settings of `TTTSettings` from a JSON file.

    Returns
    -------
    dict
        See `some_settings`.

    Raises
    ------
    ParameterError
        Naming the file and the key that is none, or whose value cannot be.
    FileNotFoundError
        If there is no such file.
    """
    found = read_json(expand(file))
    if not isinstance(found, dict):
        raise ParameterError(f"{file}: holds a {type(found).__name__} where an object with settings by name is needed")
    return some_settings(found, str(file))


@dataclass(frozen=True)
class ModelEntry:
    """One line of the registry.

    Attributes
    ----------
    name : str
        What :func:`~tttnn.models.language_model.load_model` is called with.
    parameters : int
        Number of weights, tied ones counted once (0: not known before loading).
    saw_domains : str
        Whether pre-training text included the domains the book evaluates on.
    licence, source : str
        Terms of the weights, and where the settings come from.
    settings : TTTSettings
        Published, or for our own checkpoints chosen on validation documents.
    chosen_rate : float, optional
        Learning rate that a sweep on validation documents found best, where the published one is the default.
    packaged : bool
        Whether :func:`tttnn.fetch.fetch` brings the weights, which a Python package ships.
    """

    name: str
    parameters: int
    saw_domains: str
    licence: str
    source: str
    settings: TTTSettings
    chosen_rate: float | None = None
    packaged: bool = False

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return (CHECKPOINTS / self.name / "config.json").is_file()

    @property
    def to_be_made(self) -> bool:
        """Whether no package and no hub has the weights: the project's recipe makes them."""
        return not self.embedded and not self.packaged and (RECIPES / f"{self.name}.json").is_file()

    @property
    def of_report(self) -> bool:
        """Whether the report's public code adapts this model."""
        return self.source.startswith(_REPORT)


_OURS = "trained by tttnn.pretraining; learning rate the best after 20 neighbours on validation documents (sweep.json)"
_REPORT = "settings of the report's public code (arXiv 2511.16691)"

REGISTRY = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "gpt2-xxs-general",
            1_171_296,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=2e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-xs-general",
            3_451_008,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-s-general",
            8_501_760,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=2e-4, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-m-general",
            20_800_192,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            "trained by tttnn.pretraining, not shipped; of 1e-4, 2e-4 and 3e-4 the first two are level on validation "
            "documents after 20 neighbours, and the second is ahead after fewer",
            TTTSettings(learning_rate=2e-4, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-xs-pile",
            3_451_008,
            "yes, all of them and those of wheels (train splits)",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=2e-4, max_length=512, context=512),
        ),
        ModelEntry(
            "qwen2-xs-reasoning",
            3_082_880,
            "worked solutions of school mathematics; no code, LaTeX or parliament",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "smollm2-135m",
            134_515_008,
            "most of them: instruction-tuned, 4-bit weights, trained on 2 T tokens of web, code and mathematics",
            "Apache-2.0",
            "GPT-2's published settings; the chosen rate is the best after 20 neighbours on 12 validation documents",
            TTTSettings(learning_rate=2e-5, max_length=1024, context=1024, prefix="bos"),
            chosen_rate=1e-4,
            packaged=True,
        ),
        ModelEntry(
            "gpt2",
            124_439_808,
            "hardly (WebText)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=2e-5, max_length=1024, context=1024),
        ),
        ModelEntry(
            "gpt2-large",
            774_030_080,
            "hardly (WebText)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=2e-5, max_length=1024, context=1024),
        ),
        ModelEntry(
            "EleutherAI/gpt-neo-1.3B",
            1_315_575_808,
            "yes (the Pile)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=5e-6, max_length=2048, context=2048),
        ),
        ModelEntry(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            1_777_088_000,
            "mathematics and code",
            "MIT",
            _REPORT + ", but for the context: it scored with the config's, Switches(config_context=True)",
            TTTSettings(learning_rate=5e-6, max_length=1024, context=1024, prefix="eos"),
        ),
    )
}


def find_entry(name: str) -> ModelEntry:
    """Look a model up; names outside the registry get GPT-2's published settings.

    Parameters
    ----------
    name : str
        Registry name, hub name, or folder in Hugging Face format.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    return ModelEntry(name, 0, "unknown", "see the model", "not in the registry", TTTSettings())


def check_made(name: str, refuse: type[TTTNNError]) -> None:
    """Raise `refuse` if the weights of a model of this name do not ship but are made by the project's recipe."""
    if find_entry(name).to_be_made:
        raise refuse(
            f"{name}: its weights are not shipped; make them with `python -m tttnn pretrain {name} --data DATA --out "
            f"OUT`, where DATA holds the texts that its settings file, {name}.json, names; then give the folder "
            "OUT/model"
        )


def settings_for(
    names: Sequence[str], parameters: int, folder: Path | None, weights: Callable[[], str]
) -> tuple[TTTSettings, str]:
    """Find the settings of a model outside the registry: of its own folder, of its like in the registry, or GPT-2's.

    Parameters
    ----------
    names : sequence of str
        What it is called: the name or path it was loaded by, and the one that its configuration keeps.
    parameters : int
        Number of its weights.
    folder : Path, optional
        Where a `sweep.json` may lie, whose best learning rate it then gets.
    weights : callable
        Returns the hash of its weights, which the `sweep.json` must be of.

    Returns
    -------
    TTTSettings
    str
        Where they come from, in words.
    """
    settings, source = _alike(names, parameters)
    rate = _swept_rate(folder, weights) if folder else None
    if folder and rate is not None:
        return replace(settings, learning_rate=rate), f"learning rate of {folder / SWEEP}, the rest of {source}"
    if source == GPT2:
        log.warning(
            "%s: not in the registry and no %s beside its weights, so what is not given is as in GPT-2's published "
            "settings: learning rate %g, eps %g, %d tokens a chunk, context %d (as far as it goes). Give another rate "
            "with --learning-rate, or any of them with --settings, in Python with settings=.",
            names[0], SWEEP, settings.learning_rate, settings.eps, settings.max_length, settings.context,
        )  # fmt: skip
    return settings, source


def _alike(names: Sequence[str], parameters: int) -> tuple[TTTSettings, str]:
    """Settings of the registry entry whose last part is the last part of one of the names."""
    lasts = [_last(name) for name in names]
    for entry in REGISTRY.values():
        if _last(entry.name) not in lasts:
            continue
        if parameters != entry.parameters:
            log.warning(
                "%s: called like the registry's %s and gets its settings, but has %s weights instead of %s",
                names[0], entry.name, f"{parameters:,}", f"{entry.parameters:,}",
            )  # fmt: skip
        return entry.settings, f"registry entry {entry.name}"
    return TTTSettings(), GPT2


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _swept_rate(folder: Path, weights: Callable[[], str]) -> float | None:
    """The best learning rate of the sweep beside a model's weights; None if there is none of these weights."""
    path = folder / SWEEP
    if not path.is_file():
        return None
    try:
        sweep = read_json(path)
        if sweep.get("weights") not in (None, weights()):
            log.warning("%s: is of other weights than those beside it, and not used", path)
            return None
        return best_rate(sweep)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TTTNNError(f"{path}: not what `python -m tttnn sweep --card` writes ({error}); remove it") from error


def best_rate(sweep: dict[str, Any]) -> float:
    """The learning rate with the lowest ratio of nats at the largest k of a sweep, of those that did not diverge.

    Raises
    ------
    ParameterError
        If all of them did.
    """
    last = str(max(sweep["ks"]))
    ratios = {rate: ratio[last] for rate, ratio in sweep["ratio_to_k0"].items() if ratio[last] is not None}
    if not ratios:
        raise ParameterError(f"rates: none has a finite score at k = {last}; give lower ones")
    return float(min(ratios, key=ratios.__getitem__))
