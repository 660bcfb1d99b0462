"""GGUF files as models: dequantised to float32 once, and kept as a folder in Hugging Face format.

transformers reads configuration and tokenizer from the file, and its weights through the `gguf` package's own
functions. What it would leave out without a word is refused: tensors that it has no place for, scaled rotary positions,
another base of them. Where it would cut a text into words in another way, that is mended, or warned of.
"""

from __future__ import annotations

import logging
import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tttnn.errors import first_line
from tttnn.files import home, sha256_file, sole_writer, write_json, writing_folder
from tttnn.memory import require
from tttnn.models.loading import LOADING_ERRORS, ModelError, is_gguf

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROOM = "converted"
# Names, as of llama.cpp, of how a byte-level tokenizer cuts a text before it merges: each digit by itself and the rest
# as GPT-2 does, which transformers does not know; and as GPT-2 does in all.
DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
AS_GPT2 = {None, "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-en", "jina-es", "jina-de"}
CONVERTING = 2  # float32 numbers a weight: those that were read, and a tensor's before it was transposed
log = logging.getLogger(__name__)


class _Facts(NamedTuple):
    """What a file says of itself: how many numbers its tensors hold, its rotary base, and how it cuts a text."""

    numbers: int
    rotary_base: float | None
    words: str | None


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one of a folder without safetensors.

    Raises
    ------
    ModelError
        If there are several, or no such file.
    """
    if is_gguf(path) and not path.is_dir():
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(each for each in path.iterdir() if is_gguf(each) and not each.name.startswith("."))
    if len(files) > 1:
        names = ", ".join(each.name for each in files)
        raise ModelError(f"{path}: holds {len(files)} GGUF files ({names}); give one of them")
    return files[0] if files else None


def prepare(file: Path) -> Path:
    """Return the folder in Hugging Face format that a GGUF file was converted to, and convert it at the first call.

    Parameters
    ----------
    file : Path

    Returns
    -------
    Path
        ``home()/converted/<SHA-256 of the file>``: float32 safetensors, configuration, tokenizer.

    Raises
    ------
    ModelError
        If it is no whole GGUF file, or holds a model that cannot be read without leaving something out.
    NotEnoughMemory
        If its weights do not fit.
    """
    digest = sha256_file(file)
    folder = home() / ROOM / digest
    if not folder.is_dir():
        facts = _check(file)
        with sole_writer(folder, wait=True, beside=True):
            if not folder.is_dir():  # the other process may have been at it
                _prepare(file, facts, digest, folder)
    return folder


def _prepare(file: Path, facts: _Facts, digest: str, folder: Path) -> None:
    require(file.name, CONVERTING * facts.numbers, "convert it")
    log.info("%s: converted once, to float32 in %s", file, folder)
    with writing_folder(folder) as partial:
        _convert(file, facts, partial)
        programs = {name: version(name) for name in ("gguf", "transformers")}
        write_json(partial / "origin.json", {"file": file.name, "sha256": digest, "converted_by": programs})


def _check(file: Path) -> _Facts:
    """Refuse what is no GGUF file or cannot be read as it is meant."""
    from gguf import GGUFReader

    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError(f"{file}: no GGUF file, as it does not begin with the letters GGUF")
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise ModelError(f"{file}: a damaged or truncated GGUF file ({first_line(error)}); copy it again") from error
    architecture = _value(reader, "general.architecture")
    if (_value(reader, "split.count") or 1) > 1:
        raise ModelError(f"{file}: one of several parts; put them together with llama.cpp's llama-gguf-split --merge")
    scaling = _value(reader, f"{architecture}.rope.scaling.type") or "none"
    if scaling != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise ModelError(
            f"{file}: scales its rotary positions, which transformers would leave out; take the model's safetensors"
        )
    words = _value(reader, "tokenizer.ggml.pre") if _value(reader, "tokenizer.ggml.model") == "gpt2" else None
    numbers = sum(int(tensor.n_elements) for tensor in reader.tensors)
    return _Facts(numbers, _value(reader, f"{architecture}.rope.freq_base"), words)


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None


def _convert(file: Path, facts: _Facts, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        config = AutoConfig.from_pretrained(**place)
        if config.model_type == "gpt2":
            config.n_positions = config.n_ctx  # transformers sets the one that GPT-2 no longer looks at
        _check_rotary_base(file, facts, config)
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model, found = AutoModelForCausalLM.from_pretrained(
            config=config, dtype=torch.float32, output_loading_info=True, **place
        )
    except LOADING_ERRORS as error:
        raise ModelError(f"{file}: cannot be read as a language model: {first_line(error)}") from error
    read = sum(parameter.numel() for parameter in model.parameters())
    if found["missing_keys"] or read != facts.numbers:
        raise ModelError(
            f"{file}: holds {facts.numbers:,} numbers, of which transformers' {config.model_type} has {read:,}, so "
            "another model would run; take the model's safetensors"
        )
    _cut_as_meant(file, facts, tokenizer)
    _plain(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_rotary_base(file: Path, facts: _Facts, config: Any) -> None:
    read = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    if facts.rotary_base and read and not math.isclose(facts.rotary_base, read, rel_tol=1e-6):
        raise ModelError(
            f"{file}: has {facts.rotary_base:,.0f} as base of its rotary positions, which transformers leaves out for "
            f"a {config.model_type} model and takes {read:,.0f}; take the model's safetensors"
        )


def _cut_as_meant(file: Path, facts: _Facts, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer cut a text into words as the file names it, where transformers takes GPT-2's way instead."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if facts.words in DIGITS_ALONE:
        way = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = way
    elif facts.words not in AS_GPT2 | set(GGUF_PRE_TOKENIZER_SPLITS):
        log.warning(
            "%s: cuts texts in a way, %r, that transformers does not know; GPT-2's is taken, so that some tokens may "
            "be others than the model learnt: take the model's safetensors where that matters", file, facts.words
        )  # fmt: skip


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not say it was quantised, which transformers would refuse to save."""
    import torch

    config = model.config
    del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain
