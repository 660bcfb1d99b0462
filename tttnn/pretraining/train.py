"""The recipe: settings file in, checkpoint in Hugging Face format with a model card out."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from tttnn.device import find_device, use_threads
from tttnn.files import expand, sha256_file, sole_writer, write_json, writing
from tttnn.models.cross_entropy import mean_cross_entropy
from tttnn.models.layers import fast_layers
from tttnn.pretraining.card import export
from tttnn.pretraining.checkpoint import read_checkpoint, save_checkpoint
from tttnn.pretraining.data import Windows, cache_tokens, end_of_text, locate, make_tokenizer, read_tokenizer
from tttnn.pretraining.settings import Settings, SettingsError, load_settings, settings_as_json
from tttnn.pretraining.validation import (
    ValidationText,
    bits_per_byte,
    read_validation,
    validate_model,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

STATE, LOG, SETTINGS = "state.safetensors", "log.jsonl", "settings.json"
SMOOTHING = 0.98  # of the logged training loss
LOG_EVERY = 50  # steps
LARGER = 2.0**12  # a power of two, so that no digit is lost
INDECISIVE = {"about", "validation", "validations", "final_documents", "checkpoint_minutes"}


def pretrain(
    settings: Settings | str | Path,
    data: str | Path,
    out: str | Path,
    device: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Train a language model, or go on with an interrupted run in the same folder.

    Parameters
    ----------
    settings : Settings, str or Path
        Settings, their JSON file, or the name of one that ships with the package.
    data : str or Path
        The folder that the settings' files are relative to. Every val and test file under it is held out.
    out : str or Path
        The run's folder: tokens, log.jsonl, the last state, and at the end the model in ``model/``.
    device : str, optional
        "cpu" or "cuda"; by default a GPU if there is one.
    threads : int, optional
        CPU threads; by default torch's choice. Resuming is bit for bit on a CPU with one thread.

    Returns
    -------
    dict
        The run's figures, as in ``model/training.json``: steps, tokens, hours, validation, ...

    Raises
    ------
    SettingsError
        If the settings are unusable, or `out` holds a run with other settings or other data.
    HeldOutError
        If a file is not a train split, or a training text is also a validation or test text.
    FileNotFoundError
        If a file of the settings is missing under `data`.
    ParameterError
        If there is no such device, or `threads` is less than 1.
    BusyError
        If another process is writing to `out`.
    """
    settings = settings if isinstance(settings, Settings) else load_settings(settings)
    data, out = Path(expand(data)), Path(expand(out))
    use_threads(threads)
    place = find_device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    with sole_writer(out):
        _claim(out, settings)
        run = Run.open(settings, data, out, str(place))
        run.train()
        return run.finish(data)


def _claim(out: Path, settings: Settings) -> None:
    """Keep the settings with the run; refuse a folder that holds a run with other weights to come."""
    path = out / SETTINGS
    if path.exists():
        found, wanted = _decisive(load_settings(path)), _decisive(settings)
        keys = [name for name in wanted if found[name] != wanted[name]]
        if keys:
            raise SettingsError(f"{path} is of a run with another {', '.join(keys)}: choose another --out")
    write_json(path, settings_as_json(settings))


def _decisive(settings: Settings) -> dict[str, Any]:
    """The settings that the weights depend on; words, validation and checkpoints may change on the way."""
    names = {each.name for each in dataclasses.fields(settings)} - INDECISIVE
    return {name: getattr(settings, name) for name in sorted(names)} | {
        "train": [(source.domain, source.files) for source in settings.train]
    }


def build_model(settings: Settings, data: Path, tokenizer: Tokenizer) -> PreTrainedModel:
    """Build the architecture with seeded random weights, or the mean of those of `settings.init`; float32.

    Raises
    ------
    SettingsError
        If the architecture is an encoder or scales its logits, or a checkpoint of `settings.init` is of another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    end = end_of_text(tokenizer)
    fields = {"bos_token_id": end, "eos_token_id": end, "use_cache": False} | settings.architecture
    config = AutoConfig.for_model(**fields, vocab_size=tokenizer.get_vocab_size())
    torch.manual_seed(settings.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _require_causal(model.eval())
    _require_linear_head(model)
    if settings.init:
        folders = [locate(each, data) for each in settings.init]
        _require_same_tokens(tokenizer, folders)
        _load_mean(model, folders)
    return model.train()


@torch.no_grad()
def _require_causal(model: PreTrainedModel) -> None:
    """Refuse a model that sees the tokens it has to predict: transformers builds encoders as "causal", too."""
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device)  # alike but for the last token
    first, second = model(input_ids=ids).logits[:, :2]  # (2, vocabulary) each
    if not torch.allclose(first, second, atol=1e-5):
        kind = model.config.model_type
        raise SettingsError(f"architecture: a {kind} model sees the tokens that follow; take a decoder, such as gpt2")


@torch.no_grad()
def _require_linear_head(model: PreTrainedModel) -> None:
    """Refuse logits that are more than a linear layer on hidden states: the loss applies the head to these itself."""
    ids, head = torch.tensor([[0, 1, 2]], device=model.device), model.get_output_embeddings()
    hidden = model.base_model(input_ids=ids).last_hidden_state  # (1, 3, width)
    # New weights have logits near 0, which a cap leaves as they are; it shows once they are large.
    larger = head.register_forward_hook(lambda head, given, logits: logits * LARGER)
    try:
        logits = model(input_ids=ids).logits  # (1, 3, vocabulary)
    finally:
        larger.remove()
    if not torch.allclose(F.linear(hidden, head.weight) * LARGER, logits, rtol=1e-3, atol=1e-5 * LARGER):
        kind = model.config.model_type
        raise SettingsError(
            f"architecture: a {kind} model scales or caps its logits, or adds to them, and would be trained without "
            "that; set it so that it does not, or take another, such as gpt2"
        )


def _require_same_tokens(tokenizer: Tokenizer, folders: list[Path]) -> None:
    """Refuse checkpoints in whose embeddings a row is of another token than it is here."""
    for file in (folder / "tokenizer.json" for folder in folders):
        if file.is_file() and read_tokenizer(file).get_vocab() != tokenizer.get_vocab():
            raise SettingsError(f"init: {file} has other tokens than this run; set tokenizer.file to it")


@torch.no_grad()
def _load_mean(model: PreTrainedModel, folders: list[Path]) -> None:
    """Take the mean of several checkpoints' weights (a model soup: Wortsman et al. 2022, arXiv 2203.05482)."""
    weights = []
    for folder in folders:
        given = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        try:
            model.load_state_dict(given.state_dict())
        except RuntimeError as error:
            raise SettingsError(f"init: {folder} is of another architecture: {error}") from error
        weights.append(list(given.parameters()))
    for parameter, *several in zip(model.parameters(), *weights, strict=True):
        parameter.copy_(torch.stack(several).mean(0))  # (checkpoints, ...) -> (...)


def _make_optimizer(settings: Settings, model: PreTrainedModel) -> torch.optim.Optimizer:
    """AdamW; matrices are decayed, biases and norms are not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then a cosine to the final fraction, as a function of the step from 0."""
    batch, warmup, low = settings.batch_tokens, settings.warmup_tokens, settings.final_fraction
    seen = step * batch
    if seen < warmup:
        return settings.learning_rate * (seen + batch) / (warmup + batch)
    progress = (seen - warmup) / (settings.steps * batch - warmup)
    return settings.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2)


def _matmul_dtype(precision: str, device: str) -> torch.dtype:
    """Resolve the settings' precision on a device."""
    wanted = {"auto": "bfloat16" if device.startswith("cuda") else "float32"}.get(precision, precision)
    return getattr(torch, wanted)


@dataclass
class Run:
    """A training run in memory: everything a step needs, and what has been done so far."""

    settings: Settings
    out: Path
    device: str
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    windows: Windows
    validation: list[ValidationText]
    summary: dict[str, Any]
    counters: dict[str, Any]

    @classmethod
    def open(cls, settings: Settings, data: Path, out: Path, device: str) -> Run:
        """Prepare data and model; read back the last state if the folder has one."""
        file = out / "tokenizer.json"
        tokenizer = make_tokenizer(settings.tokenizer, settings.train, data, file)
        tokens, summary = cache_tokens(settings, data, tokenizer, file, out)
        validation = [read_validation(each, data, tokenizer, settings) for each in settings.validation]
        windows = Windows(tokens, settings.context, settings.batch_tokens // settings.context, settings.seed)
        model = build_model(settings, data, tokenizer).to(device)
        optimizer = _make_optimizer(settings, model)
        counters: dict[str, Any] = {"step": 0, "seconds": 0.0, "loss": None, "data": sha256_file(out / "tokens.npy")}
        if (out / STATE).exists():
            saved = read_checkpoint(out / STATE, model, optimizer)
            if saved["data"] != counters["data"]:
                raise SettingsError(f"{out}: the data changed since the run began: choose another --out")
            counters = saved
        _trim_log(out / LOG, counters["step"] if (out / STATE).exists() else -1)
        return cls(settings, out, device, model, optimizer, windows, validation, summary, counters)

    def train(self) -> None:
        """Run the steps that are left; checkpoint by wall time, validate at even distances."""
        settings, counters = self.settings, self.counters
        trunk = torch.compile(self.model.base_model) if settings.compile else self.model.base_model
        every = max(1, math.ceil(settings.steps / (settings.validations + 1)))
        begun = saved = time.monotonic()
        before = counters["seconds"]
        if counters["step"] == 0:
            self._validate()
        bar = tqdm(total=settings.steps, initial=counters["step"], desc=settings.name, unit="step")
        with bar:
            while counters["step"] < settings.steps:
                loss = self._step(trunk, counters["step"])
                counters["step"] += 1
                smooth = counters["loss"] if counters["loss"] is not None else loss
                counters["loss"] = SMOOTHING * smooth + (1 - SMOOTHING) * loss
                counters["seconds"] = before + time.monotonic() - begun
                bar.update()
                bar.set_postfix(loss=f"{counters['loss']:.3f}", refresh=False)
                done = counters["step"] == settings.steps
                if done or counters["step"] % LOG_EVERY == 0:
                    self._log(loss=counters["loss"], seconds=round(counters["seconds"], 1))
                if done or counters["step"] % every == 0:
                    self._validate()
                if done or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                    save_checkpoint(self.out / STATE, self.model, self.optimizer, counters)
                    saved = time.monotonic()

    def _step(self, trunk: Callable[..., Any], step: int) -> float:
        """One optimizer step; returns the mean training loss in nats per token."""
        settings = self.settings
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout, too, is a function of seed and step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        inputs, targets = self._batch(step)
        total = torch.zeros((), device=self.device)
        parts = list(zip(inputs.split(settings.micro_batch), targets.split(settings.micro_batch), strict=True))
        for part in parts:
            loss = self._loss(trunk, *part)
            (loss / len(parts)).backward()
            total += loss.detach() / len(parts)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.item()

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """What the model reads in a step and what it has to predict, both int64 of shape (batch, context)."""
        rows = self.windows[step]  # (batch, context + 1)
        return torch.from_numpy(rows[:, :-1]).to(self.device), torch.from_numpy(rows[:, 1:]).to(self.device)

    def _loss(self, trunk: Callable[..., Any], inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of the targets, both (micro, context), in nats."""
        dtype = _matmul_dtype(self.settings.precision, self.device)
        layers = nullcontext() if self.settings.compile else fast_layers(inputs.device)
        with layers, torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = trunk(input_ids=inputs).last_hidden_state  # (micro, context, width)
        head = self.model.get_output_embeddings().weight
        return mean_cross_entropy(hidden.float().flatten(0, 1), head, None, targets.flatten(), dtype)

    def _validate(self) -> None:
        settings = self.settings
        figures = {text.domain: bits_per_byte(self.model, text, settings) for text in self.validation}
        self._log(validation_bits_per_byte=figures)

    def _log(self, **values: Any) -> None:
        step = self.counters["step"]
        entry = {"step": step, "tokens": step * self.settings.batch_tokens} | values
        with open(self.out / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self, data: Path) -> dict[str, Any]:
        """Measure the weights as they will be shipped, and write the model with its card."""
        settings, steps, tokenizer = self.settings, self.counters["step"], self.out / "tokenizer.json"
        self.model.to(torch.bfloat16).to(torch.float32)  # what is measured is what is shipped
        curve = [entry for entry in _read_log(self.out / LOG) if "validation_bits_per_byte" in entry]
        figures = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "vocabulary": self.model.config.vocab_size,
            "steps": steps,
            "tokens": steps * settings.batch_tokens,
            "training_loss": self.counters["loss"],
            "hours": self.counters["seconds"] / 3600,
            "device_type": self.device,
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": str(_matmul_dtype(settings.precision, self.device)).removeprefix("torch."),
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
            "validation_bits_per_byte": validate_model(self.model, settings, data, tokenizer),
            "curve": curve,
            "data": self.summary,
        }
        return export(self.out / "model", settings, self.model, tokenizer, figures)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU ({platform.machine()})"


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # a kill may leave half a line
    return [json.loads(line) for line in whole.splitlines()]


def _trim_log(path: Path, step: int) -> None:
    """Forget what was logged after the state that the run goes on from."""
    kept = [entry for entry in _read_log(path) if entry["step"] <= step]
    with writing(path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
