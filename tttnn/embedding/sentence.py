"""Folders of the sentence-transformers library: how their files say that a text becomes a vector.

``modules.json`` lists a transformer, a pooling and what follows, each with a configuration of its own. All that these
files can ask for is either done or refused by name: embedded another way, a text would get another vector.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from tttnn.embedding.base import EmbeddingError
from tttnn.embedding.pooling import ACTIVATIONS, Dense, Normalize
from tttnn.files import read_json

log = logging.getLogger(__name__)

MODULES = "modules.json"
CONFIG = "config.json"  # of a module
OPTIONS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"  # older folders name it after the architecture
# What a transformer's configuration may hold, with the only value understood where that is one.
UNDERSTOOD = {
    "max_seq_length": None,
    "do_lower_case": None,
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
# Older folders have a switch for each pooling; several that are on are concatenated in this order.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
FILES, OTHERS = ("*.json", "*.safetensors", "*.txt", "*.model"), ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class Recipe:
    """How hidden states become a vector; the defaults are those of the published work.

    Attributes
    ----------
    transformer : str
        Folder of the transformer within the embedder's folder.
    max_length : int, optional
        Tokens of a text that count; None: as many as model and tokenizer allow.
    lower_case : bool
        Whether texts are put into lower case first.
    poolings : tuple of str
        See `tttnn.embedding.pooling.pool`; their vectors are concatenated.
    pool_prompt : bool
        Whether the prompt's tokens count in the pooling.
    head : nn.Sequential
        What follows the pooling.
    prompts : dict
        Name -> text that stands before each text.
    prompt : str
        The one that is used unless another is asked for.
    """

    transformer: str = ""
    max_length: int | None = 512  # what the published index looks at
    lower_case: bool = False
    poolings: tuple[str, ...] = ("mean",)
    pool_prompt: bool = True
    head: nn.Sequential = field(default_factory=nn.Sequential)
    prompts: dict[str, str] = field(default_factory=dict)
    prompt: str = ""


def read_recipe(folder: str | Path) -> Recipe:
    """Read how a folder's texts are embedded; without ``modules.json``, as in the published work.

    Raises
    ------
    EmbeddingError
        If a file is damaged, or asks for what is not supported; the message names the file and the module.
    """
    folder = Path(folder)
    if not (folder / MODULES).exists():
        return Recipe()
    (kind, transformer), *others = modules = list(_modules(folder))
    if [kind, *(each for each, _ in others[:1])] != ["Transformer", "Pooling"]:
        kinds = ", ".join(each for each, _ in modules)
        raise EmbeddingError(f"{folder / MODULES}: modules {kinds} are not supported, only Transformer, Pooling, ...")
    prompts, prompt = _prompts(folder / OPTIONS)
    settings = _transformer(transformer)
    _warn_of_similarity(folder / OPTIONS, modules[-1][0])
    return Recipe(
        transformer=transformer.relative_to(folder).as_posix(),
        max_length=settings.get("max_seq_length"),
        lower_case=bool(settings.get("do_lower_case")),
        poolings=_poolings(others[0][1] / CONFIG),
        pool_prompt=bool(_json(others[0][1] / CONFIG).get("include_prompt", True)),
        # Dropout is off while embedding.
        head=nn.Sequential(*(_after(*each) for each in others[1:] if each[0] != "Dropout")).requires_grad_(False),
        prompts=prompts,
        prompt=prompt,
    )


def _warn_of_similarity(source: Path, last: str) -> None:
    """Say where the authors' measure orders documents otherwise than the squared distance that an index has."""
    asked = (_json(source) if source.exists() else {}).get("similarity_fn_name")
    if asked in ("dot", "cosine") and last != "Normalize":
        log.warning(
            "%s: similarity_fn_name=%r, but the index compares by squared L2 distance, which orders vectors of "
            "different lengths otherwise; with a module Normalize at the end the orders would agree", source, asked,
        )  # fmt: skip


def hub_folder(name: str, revision: str) -> Path | None:
    """Fetch a sentence-transformers model from the hub, or find it in the cache; None if the name is no such model."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        hf_hub_download(name, MODULES, revision=revision)
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(FILES), ignore_patterns=list(OTHERS))
        )
    except (EntryNotFoundError, HFValidationError, OSError):  # why a name cannot be had, loading it will say
        return None


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Kind and folder of each module, in order."""
    source = folder / MODULES
    modules = _json(source, list)
    if not modules:
        raise EmbeddingError(f"{source}: it lists no module; copy the folder again")
    for number, module in enumerate(modules):
        if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
            raise EmbeddingError(f"{source}: module {number} has no type and path; copy the folder again")
        package, _, kind = module["type"].rpartition(".")
        path = PurePosixPath(module["path"])
        if path.is_absolute() or ".." in path.parts:
            raise EmbeddingError(f"{source}: path '{path}' of module {number} leads out of the folder")
        if package.partition(".")[0] != "sentence_transformers":
            raise EmbeddingError(f"{source}: module {number} is {module['type']}, code that this package does not run")
        yield kind, folder / path


def _transformer(folder: Path) -> dict[str, Any]:
    found = [folder / TRANSFORMER, *sorted(folder.glob("sentence_*_config.json"))]
    source = next((each for each in found if each.exists()), None)
    settings = _json(source) if source else {}
    for key, value in settings.items():
        if value and (key not in UNDERSTOOD or UNDERSTOOD[key] not in (None, value)):
            raise EmbeddingError(f"{source}: {key}={value!r} is not supported")
    longest = settings.get("max_seq_length")
    if longest is not None and not (type(longest) is int and longest > 0):
        raise EmbeddingError(f"{source}: max_seq_length must be a whole number above 0, not {longest!r}")
    return settings


def _poolings(source: Path) -> tuple[str, ...]:
    config = _json(source)
    asked = config.get("pooling_mode")
    if asked is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        unknown = [key for key in on if key not in SWITCHES]
        asked = [*unknown, *(name for key, name in SWITCHES.items() if key in on)] or "mean"
    asked, known = asked if isinstance(asked, list) else [asked], SWITCHES.values()
    for name in asked:
        if name not in known:
            raise EmbeddingError(f"{source}: pooling {name!r} is not supported: there is {', '.join(known)}")
    return tuple(asked)


def _after(kind: str, folder: Path) -> nn.Module:
    """The module of a folder that follows the pooling."""
    if kind not in ("Normalize", "Dense"):
        raise EmbeddingError(f"{folder}: module {kind} is not supported after pooling: there is Normalize and Dense")
    source = folder / CONFIG
    config = _json(source) if source.exists() or kind == "Dense" else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise EmbeddingError(f"{source}: {key}={config[key]!r} is not supported, only 'sentence_embedding'")
    return Normalize() if kind == "Normalize" else _dense(folder, config)


def _dense(folder: Path, config: dict[str, Any]) -> Dense:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    package, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if not package.startswith("torch.nn") or activation not in ACTIVATIONS:
        raise EmbeddingError(f"{folder}: activation {activation} is not supported: there is {', '.join(ACTIVATIONS)}")
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise EmbeddingError(
            f"{folder}: no model.safetensors there, and pickled weights are not loaded: save the embedder again with "
            "SentenceTransformer(folder).save(folder)"
        )
    try:
        sizes = int(config["in_features"]), int(config["out_features"])
        bias, residual = bool(config.get("bias", True)), bool(config.get("use_residual", False))
        dense = Dense(*sizes, bias, activation, residual)
        dense.load_state_dict(load_file(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise EmbeddingError(f"{folder}: config.json and model.safetensors do not fit together: {reason}") from error
    return dense.float()


def _prompts(source: Path) -> tuple[dict[str, str], str]:
    """All prompts by name, and the text of the one used by default."""
    options = _json(source) if source.exists() else {}
    prompts = options.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise EmbeddingError(f"{source}: prompts must give a text for each name, not {prompts!r}")
    prompts = {name: text or "" for name, text in prompts.items()}
    default = options.get("default_prompt_name")
    # The library itself has two empty ones.
    known = {"query": "", "document": ""} | prompts
    if default is not None and default not in known:
        raise EmbeddingError(f"{source}: default_prompt_name={default!r}, but the prompts are {', '.join(known)}")
    return prompts, known[default] if default is not None else ""


def _json(source: Path, kind: type = dict) -> Any:
    try:
        value = read_json(source)
    except (OSError, ValueError) as error:
        raise EmbeddingError(f"{source}: cannot read it ({error}): copy the folder again") from error
    if not isinstance(value, kind):
        raise EmbeddingError(f"{source}: not a JSON {'list' if kind is list else 'object'}: copy the folder again")
    return value
