"""Reading a model in Hugging Face format, and refusing what would be read as another model than the folder holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from tttnn.errors import BAD_INPUT, TTTNNError, first_line
from tttnn.hub import BUFFERS, left_as_pointer, weight_files
from tttnn.models.model_registry import REGISTRY

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What the libraries raise on files that are damaged, of another kind or made for a package that is not there. Strict
# configurations, lists where mappings are wanted and divisions by a size of zero come as these, too.
LOADING_ERRORS = (
    OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError, AssertionError,
    ImportError, SafetensorError, StrictDataclassError,
)  # fmt: skip
JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WRAPPERS = (r"_orig_mod\.", r"^module\.")  # what torch.compile and DataParallel put into names of weights
# Parts of a config that do not change what a model computes, or that change with the library's version.
NO_MATTER = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
PROBE = "The quick brown fox jumps over the lazy dog: 1 + 2 = 3."


class ModelError(TTTNNError):
    """A model that cannot be loaded or used; the message says what to do."""

    status = BAD_INPUT


def is_path(source: str | Path) -> bool:
    """Whether a model's name is a path rather than a name of the registry or the hub."""
    text = str(source)
    is_file = is_gguf(text) or text.endswith(".safetensors")
    return isinstance(source, Path) or os.path.isdir(text) or text.startswith((".", "/", "~")) or is_file


def check_no_folder(name: str, refuse: type[TTTNNError]) -> None:
    """Raise `refuse` if a registry name is a folder here, too: nobody would see which of the two was loaded."""
    if os.path.isdir(name):
        raise refuse(
            f"{name}: a registry name and a folder here; write ./{name} for the folder, or call from elsewhere"
        )


def is_gguf(path: str | Path) -> bool:
    """Whether a path is called like a GGUF file."""
    return str(path).lower().endswith(".gguf")


def load(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a folder, or by hub name: float32, safetensors only, nothing of theirs executed.

    Raises
    ------
    ModelError
        If a file is missing, damaged or made for another program, the weights are not all of those that the
        configuration describes or more than them, or the tokenizer is not there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if is_path(source):
        _check_folder(Path(source))
        _check_json(Path(source))
    safe = {"trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **safe)
        _check_config(source, config)
        _check_tokenizer_files(source)
        with naming_tokenizer(source, ModelError):
            tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        model, found = read_weights(AutoModelForCausalLM, source, config)
        _check_weights(source, **found)
        with naming_tokenizer(source, ModelError):
            _check_tokenizer(source, model, tokenizer)
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        raise ModelError(f"cannot load model '{source}': {cause(error).rstrip('.')}{_hint(source)}") from error
    _fuse_activations(model)
    if config.model_type == "gpt_neo":
        from tttnn.models.gpt_neo import replace_attention

        replace_attention(model)
    return model, tokenizer


def read_weights(
    architecture: Any, source: str | Path, config: PretrainedConfig, revision: str = "main"
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Read weights, of a language model or an embedder: in float32, from safetensors alone, nothing executed.

    Parameters
    ----------
    architecture : class
        Of transformers, with a method `from_pretrained`; its classes have no type in common that says so.
    source : str or Path
    config : PretrainedConfig
    revision : str

    Returns
    -------
    model : PreTrainedModel
    found : dict
        Names of the weights that are missing, unexpected, or of another shape, which the caller refuses: transformers
        would make up the first and last and leave out the others.
    """
    names = _names(Path(source)) if is_path(source) else []
    wrapped = {pattern: "" for pattern in WRAPPERS if any(re.search(pattern, name) for name in names)}
    renamed: dict[str, Any] = {"key_mapping": wrapped} if wrapped else {}
    with quiet():
        return architecture.from_pretrained(
            source, **renamed, config=config, revision=revision, dtype=torch.float32, use_safetensors=True,
            ignore_mismatched_sizes=True, trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip


def _names(folder: Path) -> list[str]:
    """The names of the weights of a folder."""
    names: list[str] = []
    for path in weight_files(folder):
        with (
            contextlib.suppress(OSError, SafetensorError),
            safe_open(path, "pt") as file,
        ):  # transformers names the file
            names += file.keys()
    return names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report of missing and unexpected weights, which are refused in a sentence, and its bar."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_whole(folder: Path, refuse: type[TTTNNError]) -> None:
    """Raise `refuse` if a file of a folder is what a clone without Git LFS leaves, or its list of shards is none."""
    if pointer := left_as_pointer(folder):
        raise refuse(f"{pointer}: a pointer of Git LFS and not the file itself; fetch it there: git lfs pull")
    try:
        weight_files(folder)
    except ValueError as error:
        raise refuse(str(error)) from error


@contextlib.contextmanager
def naming_tokenizer(source: str | Path, refuse: type[TTTNNError]) -> Iterator[None]:
    """Turn what tokenizers raises, a bare Exception, into `refuse`."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise refuse(
            f"{source}: its tokenizer.json is damaged, or of another version of tokenizers ({cause(error)}); copy it "
            "again"
        ) from error


def cause(error: Exception) -> str:
    """The one line of an error that says what is wrong."""
    if isinstance(error, StrictDataclassError):
        return f"config.json: {str(error).strip().splitlines()[-1].strip().removeprefix('TypeError: ')}"
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError | AssertionError):
        kind = type(error).__name__
        return f"config.json or a tokenizer file is not as transformers writes it ({kind}: {first_line(error)})"
    return first_line(error)


def _hint(source: str | Path) -> str:
    if is_path(source):
        return ""
    known = [entry.name for entry in REGISTRY.values() if not entry.to_be_made]
    return (
        f". Known names: {', '.join(known)}. Any folder with config.json, model.safetensors and tokenizer files "
        "and any .gguf file work, too; a hub name needs the network once."
    )


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ModelError(f"{folder}: a file and no model by itself; give the folder that holds it")
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such folder, so no config.json; give one in Hugging Face format, a .gguf file, or a name"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json there; give a folder in Hugging Face format, or a name")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds a model and adapters, which transformers would add to it, once more if it has them; keep "
            "the model (remove adapter_config.json), or the adapters alone"
        )
    check_whole(folder, ModelError)
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern) if path.stem != "training_args")
    if pickled and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: its weights are in {pickled[0]}, whose format can hold programs, so it is not read; if you "
            'trust it, convert it: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
        )


def _check_tokenizer_files(source: str | Path) -> None:
    """Refuse a folder without a tokenizer: one would be made up of nothing, or the error would be of a library."""
    if is_path(source) and not any((Path(source) / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{source}: no tokenizer.json there; copy it, too")


def _check_json(folder: Path) -> None:
    """Name the file that is damaged, which transformers' own errors do not always."""
    for path in (folder / name for name in JSON_FILES):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path}: not JSON in UTF-8 ({error}); copy it again") from error
        if not isinstance(found, dict):
            raise ModelError(f"{path}: holds a {type(found).__name__} where a mapping is needed; copy it again")


def _check_config(source: str | Path, config: PretrainedConfig) -> None:
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        raise ModelError(
            f"{source}: its weights are quantised ({method}), and gradient steps need numbers; take the model's "
            "weights in float32, float16 or bfloat16, or as a .gguf file"
        )


def _check_weights(
    source: str | Path,
    missing_keys: Collection[str],
    unexpected_keys: Collection[str],
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]],
    **_: Any,
) -> None:
    """Refuse weights other than the configuration's: transformers would make up the missing and leave out the rest."""
    unexpected = sorted(name for name in unexpected_keys if not re.search(BUFFERS, name))
    if mismatched_keys:
        name, stored, wanted = sorted(mismatched_keys)[0]
        raise ModelError(
            f"{source}: config.json makes {name} {tuple(wanted)}, but it is stored as {tuple(stored)}; take the "
            "config.json that belongs to the weights"
        )
    if missing_keys:
        first = sorted(missing_keys)[0]
        raise ModelError(f"{source}: {len(missing_keys)} weights are missing, the first is {first}; copy it again")
    if unexpected:
        raise ModelError(
            f"{source}: config.json has no place for {len(unexpected)} of its weights, the first is {unexpected[0]}, "
            "so another model would run; take the config.json that belongs to them"
        )


def _check_tokenizer(source: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that was made up because its files are not there, or that belongs to a larger model."""
    if not set(tokenizer(PROBE, add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}:
        raise ModelError(f"{source}: its tokenizer knows no words; copy tokenizer.json and tokenizer_config.json, too")
    size = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > size:
        raise ModelError(
            f"{source}: the tokenizer has {tokenizer.vocab_size:,} entries, but the model {size:,}; wrong tokenizer?"
        )


def _fuse_activations(model: PreTrainedModel) -> None:
    """Replace GPT-2's and GPT-Neo's activation, written as eight small operations, by the same one in a single one."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
