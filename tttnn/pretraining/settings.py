"""What a pre-training run is made of: one JSON file, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tttnn.errors import BAD_INPUT, TTTNNError
from tttnn.files import expand, read_json

PRECISIONS = ("auto", "float32", "bfloat16")
# Keys of older files, for an objective that is no more: with this value they change nothing.
FORMER = {"objective": "causal", "masked_share": 0.15}


class SettingsError(TTTNNError):
    """A settings file or a run folder that cannot be used; the message says what to change."""

    status = BAD_INPUT


@dataclass(frozen=True)
class Source:
    """Files of one domain.

    Attributes
    ----------
    domain : str
        Name in logs and in the model card.
    files : list of str
        Paths or globs of JSON Lines files (plain, .gz or .zst), relative to the data root.
    about : str
        What the text is, in words, for the model card.
    documents, tokens : int
        Validation only: how many documents of the domain, from the first, are measured during training, and
        how many tokens of each at most.
    """

    domain: str
    files: list[str]
    about: str = ""
    documents: int = 24
    tokens: int = 2048


@dataclass(frozen=True)
class TokenizerSettings:
    """A byte-level BPE: an existing one (`file`), or one trained on a sample of the training text.

    Attributes
    ----------
    file : str
        A tokenizer.json, relative to the data root; it stays as it is. Empty: train one.
    entries : int
        Size of the vocabulary, special tokens included.
    special : list of str
        Special tokens, the end of text first.
    extra : list of str
        Train files, beyond the run's own, that the tokenizer (never the model) learns from.
    every : int
        One document in `every` is used.
    single_digits : bool
        Every digit is a token of its own, as in Qwen2's tokenizer, so that a number is read digit by digit.
    """

    file: str = ""
    entries: int = 8192
    special: list[str] = field(default_factory=lambda: ["<|endoftext|>"])
    extra: list[str] = field(default_factory=list)
    every: int = 8
    single_digits: bool = False


@dataclass(frozen=True)
class Settings:
    """A pre-training run.

    Attributes
    ----------
    name : str
        Name of the model.
    architecture : dict
        `model_type` and fields of its transformers configuration; vocabulary and special ids are filled in.
    context : int
        Tokens per training window.
    train, validation : list of Source
    tokenizer : TokenizerSettings
    tokens : int
        Tokens to train on; a multiple of `batch_tokens` is trained on, rounded down.
    batch_tokens : int
        Tokens per optimizer step, a multiple of `context`.
    micro_batch : int
        Windows per forward pass.
    learning_rate, final_fraction, warmup_tokens
        Linear warm-up to the peak, then a cosine to `final_fraction` of it.
    weight_decay, betas, clip
        AdamW; matrices are decayed, vectors are not. `clip` bounds the norm of the gradient.
    seed : int
        Initial weights, order of the data, dropout.
    precision : str
        Of matrix products: "float32", "bfloat16" (autocast), or "auto": bfloat16 on a GPU, else float32.
        Weights and optimizer state are float32 always.
    compile : bool
        Use torch.compile.
    init : list of str
        Folders of checkpoints to start from, relative to the data root; of several, the mean of their weights.
        Empty: random weights.
    checkpoint_minutes : float
        Wall time between checkpoints.
    validations : int
        How often validation is measured during training, evenly spaced, beside the first and last time.
    final_documents : int
        Documents per domain that the finished model is measured on for its card.
    about : str
        What the model is for, for the model card.
    """

    name: str
    architecture: dict[str, Any]
    train: list[Source]
    validation: list[Source]
    tokens: int
    context: int = 512
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    batch_tokens: int = 2048
    micro_batch: int = 4
    learning_rate: float = 3e-3
    final_fraction: float = 0.03
    warmup_tokens: int = 400_000
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 1216
    precision: str = "auto"
    compile: bool = False
    init: list[str] = field(default_factory=list)
    checkpoint_minutes: float = 5.0
    validations: int = 8
    final_documents: int = 100
    about: str = ""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.batch_tokens

    @property
    def validation_batch(self) -> int:
        """Windows per forward pass without gradients, where whole logits are held."""
        return min(self.micro_batch, 16)

    def __post_init__(self) -> None:
        for name in ("tokens", "context", "batch_tokens", "micro_batch", "learning_rate", "clip"):
            _require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        _require(bool(self.train), "train is empty: name at least one source")
        _require(isinstance(self.init, list), f"init must be a list of folders, not {self.init!r}")
        _require("model_type" in self.architecture, 'architecture needs "model_type", for example "gpt2"')
        _require(self.precision in PRECISIONS, f"precision must be one of {PRECISIONS}, not {self.precision}")
        _require(0 <= self.final_fraction <= 1, f"final_fraction must be 0 to 1, not {self.final_fraction}")
        _require(0 <= self.warmup_tokens < self.tokens, "warmup_tokens must be at least 0 and below tokens")
        micro = self.context * self.micro_batch
        _require(
            self.batch_tokens % micro == 0,
            f"batch_tokens ({self.batch_tokens}) must be a multiple of context x micro_batch ({micro})",
        )
        _require(self.steps > 0, f"tokens ({self.tokens}) is less than one batch ({self.batch_tokens})")


def load_settings(path: str | Path) -> Settings:
    """Read and check a settings file.

    Parameters
    ----------
    path : str or Path
        A JSON file, or the name of one that ships in ``tttnn/pretraining/settings``.

    Raises
    ------
    SettingsError
        If a key is unknown or missing, or a value cannot be; the message names file and key.
    FileNotFoundError
        If there is neither such a file nor such a name.
    """
    path = Path(expand(path))
    shipped = {each.stem: each for each in sorted(Path(__file__).with_name("settings").glob("*.json"))}
    if not path.is_file():
        if str(path) not in shipped:
            raise FileNotFoundError(f"{path}: no such settings file, nor one of {', '.join(shipped)}")
        path = shipped[str(path)]
    try:
        return _from_json(Settings, read_json(path), "settings")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def settings_as_json(settings: Settings) -> dict[str, Any]:
    """Return settings as they stand in a settings file, defaults written out."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _from_json(cls: type, values: Any, where: str) -> Any:
    _require(isinstance(values, dict), f"{where}: expected an object, found {type(values).__name__}")
    fields = {each.name: each for each in dataclasses.fields(cls)}
    values = {key: value for key, value in values.items() if cls is not Settings or FORMER.get(key) != value}
    for key in values:
        _require(key in fields, f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
    for name, each in fields.items():
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        _require(optional or name in values, f"{where}: {name!r} is missing")
    for name, value in values.items():
        _require(
            _fits(value, str(fields[name].type)), f"{where}: {name} must be {fields[name].type}, not {value!r:.60}"
        )
    for name in ("train", "validation"):
        if name in values:
            sources = enumerate(values[name])
            values[name] = [_from_json(Source, each, f"{where}.{name}[{i}]") for i, each in sources]
    if "tokenizer" in values:
        values["tokenizer"] = _from_json(TokenizerSettings, values["tokenizer"], f"{where}.tokenizer")
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    return cls(**values)


def _fits(value: Any, kind: str) -> bool:
    """Whether a JSON value is of the type that a field's annotation names."""
    match kind:
        case "float" | "int":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole or (kind == "float" and isinstance(value, float) and math.isfinite(value))
        case "tuple[float, float]":
            return isinstance(value, list) and len(value) == 2 and all(_fits(each, "float") for each in value)
        case "list[str]":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case "list[Source]":
            return isinstance(value, list)
        case "str" | "bool":
            return isinstance(value, {"str": str, "bool": bool}[kind])
        case _:
            return isinstance(value, dict)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)
