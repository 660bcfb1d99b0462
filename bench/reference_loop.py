"""The published loop, written afresh from its description: baseline of bench/loop.py, oracle of the loop's scores.

Each neighbour is tokenized when it comes and trained on with dropout, full logits, the library's loss and the default
AdamW; after every neighbour the whole document is scored, one window at a time. What is slow here is meant.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tttnn.scoring import rolling_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Settings:
    """Settings of the loop; the defaults are those published for GPT-2.

    Attributes
    ----------
    learning_rate, eps : float
        Of AdamW; its weight decay stays at the default, 0.01.
    max_length, context : int
        Tokens of a training chunk, and of a scored window.
    dropout : float
        While training.
    clip : float
        Largest gradient norm.
    max_chunks : int, optional
        Most chunks (steps) taken from one neighbour; None: all, as published.
    dtype : torch.dtype
        Of the matrix products while training; all but float32 by autocast. Scores are always float32.
    """

    learning_rate: float = 2e-5
    eps: float = 1e-8
    max_length: int = 1024
    context: int = 1024
    dropout: float = 0.1
    clip: float = 1.0
    max_chunks: int | None = None
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class ReferenceStep:
    """State after the k-th neighbour (k = 0: before the first).

    Attributes
    ----------
    k : int
        Neighbours trained on so far.
    bits_per_byte : float
        Of the document.
    tokens : int
        Tokens of this neighbour that were trained on.
    train_seconds, evaluation_seconds : float
        Wall time of this neighbour's steps with its tokenization, and of the scoring after it.
    """

    k: int
    bits_per_byte: float
    tokens: int
    train_seconds: float
    evaluation_seconds: float

    @property
    def published_seconds(self) -> float:
        """What the published timer holds: training and evaluation together."""
        return self.train_seconds + self.evaluation_seconds


def reference_loop(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    neighbours: Sequence[str],
    settings: Settings,
) -> Iterator[ReferenceStep]:
    """Train on the neighbours in the order given, and score the text before the first and after each.

    Parameters
    ----------
    model : PreTrainedModel
        Causal, float32. Its weights are the initial ones again at the end; its dropout rates stay as set here.
    tokenizer : PreTrainedTokenizerBase
    text : str
        At least one token long.
    neighbours : sequence of str
        Nearest first.
    settings : Settings

    Yields
    ------
    ReferenceStep
        For k = 0, 1, ..., len(neighbours).
    """
    initial = copy.deepcopy(model.state_dict())
    set_dropout(model, settings.dropout)
    optimizer = new_optimizer(model, settings)
    try:
        for k, neighbour in enumerate(["", *neighbours]):
            start = clock(model.device)
            tokens = train(model, tokenizer, optimizer, neighbour, settings)
            trained = clock(model.device)
            bits = bits_per_byte(model, tokenizer, text, settings.context)
            yield ReferenceStep(k, bits, tokens, trained - start, clock(model.device) - trained)
    finally:
        model.load_state_dict(initial)
        model.eval()


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout rate of a model, where it is a layer (GPT-2, GPT-Neo) or a number (Qwen2's attention)."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float | int):
            module.attention_dropout = rate


def new_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW as it comes: neither fused nor with another weight decay."""
    return torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, eps=settings.eps)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    neighbour: str,
    settings: Settings,
) -> int:
    """Make one step per chunk of a neighbour, and return how many tokens they had.

    A last chunk of one token holds nothing to predict and is skipped; the published code gets a loss of nan from it.
    """
    model.train()
    tokens = encode(tokenizer, neighbour)
    chunks = [tokens[i : i + settings.max_length] for i in range(0, len(tokens), settings.max_length)]
    chunks = [chunk for chunk in chunks[: settings.max_chunks] if len(chunk) > 1]
    for chunk in chunks:
        update(model, optimizer, chunk, settings)
    return sum(map(len, chunks))


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, chunk: list[int], settings: Settings) -> float:
    """Make one step on a chunk of at least two token ids, and return the loss before it, nats/token."""
    ids = torch.tensor([chunk], device=model.device)  # (1, tokens)
    optimizer.zero_grad()
    with torch.autocast(ids.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
        loss = model(ids, labels=ids).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, context: int) -> float:
    """Score a text in rolling windows of at most `context` tokens, one after another."""
    model.eval()
    windows = rolling_windows(encode(tokenizer, text), tokenizer.eos_token_id, context)
    nats = sum(window_nats(model, window.inputs, window.targets) for window in windows)
    return nats / len(text.encode()) / math.log(2)


def window_nats(model: PreTrainedModel, inputs: list[int], targets: list[int]) -> float:
    """Negative log-likelihood of a window's targets, which its last inputs predict."""
    logits: Tensor = model(torch.tensor([inputs], device=model.device)).logits.float()
    log_p = logits.log_softmax(-1)[0, -len(targets) :]  # (targets, vocabulary)
    wanted = torch.tensor(targets, device=model.device)[:, None]  # (targets, 1)
    return -log_p.gather(1, wanted).sum(dtype=torch.float64).item()


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without any special token."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def clock(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
