"""Bits per byte on held-out text, per domain."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tttnn.pretraining.data import end_of_text, find_files, read_tokenizer, texts
from tttnn.pretraining.settings import Settings, SettingsError, Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

PADDING = -100  # the target that cross_entropy leaves out


@dataclass(frozen=True)
class ValidationText:
    """The windows of one domain's validation text.

    Attributes
    ----------
    domain : str
    inputs, targets : np.ndarray of int64, shape (n, context)
        What the model reads, and what it has to predict in each place; `PADDING` where there is nothing.
    size : int
        UTF-8 bytes that the targets stand for.
    """

    domain: str
    inputs: np.ndarray
    targets: np.ndarray
    size: int


def read_validation(source: Source, data: Path, tokenizer: Tokenizer, settings: Settings) -> ValidationText:
    """Tokenize the first documents of a domain's validation files, each cut at `source.tokens` tokens.

    The end-of-text id conditions the first token of a document, as in lm-evaluation-harness.
    """
    rows, size, context = [], 0, settings.context
    for text in itertools.islice(texts(find_files(source.files, data)), source.documents):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = [end_of_text(tokenizer), *encoding.ids[: source.tokens]]
        # A byte-level token has one character per byte, so that a cut inside a character counts right.
        size += sum(map(len, encoding.tokens[: source.tokens]))
        for start in range(0, len(ids) - 1, context):
            row = ids[start : start + context + 1]
            rows.append(row + [PADDING] * (context + 1 - len(row)))
    if not rows:
        files = ", ".join(source.files)
        raise SettingsError(f"validation: {files} of {source.domain} hold no document; leave them out")
    windows = np.array(rows, dtype=np.int64)  # (n, context + 1): each window with the token before it
    return ValidationText(source.domain, windows[:, :-1], windows[:, 1:], size)


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, text: ValidationText, settings: Settings) -> float:
    """Summed negative log-likelihood of the targets over the text's bytes, in bits.

    Parameters
    ----------
    model : PreTrainedModel
        Scored in the precision of the ambient autocast, on its own device; its mode is left as it was.
    text : ValidationText
    settings : Settings
        For the windows per forward pass.
    """
    was_training = model.training
    model.eval()
    nats, batch = 0.0, settings.validation_batch
    for i in tqdm(range(0, len(text.inputs), batch), desc=f"validation: {text.domain}", leave=False):
        inputs, targets = (
            torch.from_numpy(each[i : i + batch]).to(model.device) for each in (text.inputs, text.targets)
        )  # (batch, context)
        # Padding comes last, where a causal model does not see it.
        logits = model(input_ids=inputs.clamp(min=0)).logits.float()  # (batch, context, vocabulary)
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    model.train(was_training)
    return nats / text.size / math.log(2)


def validate(settings: Settings, data: str | Path, folder: str | Path) -> dict[str, float]:
    """Measure a finished model again, as for its card.

    Parameters
    ----------
    settings : Settings
        The model's own, ``load_settings(folder / "settings.json")``.
    data : str or Path
        The folder that the settings' files are relative to.
    folder : str or Path
        The model in Hugging Face format.

    Returns
    -------
    dict
        Domain -> bits per byte on its first `settings.final_documents` validation documents.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return validate_model(model, settings, Path(data), Path(folder) / "tokenizer.json")


def validate_model(model: PreTrainedModel, settings: Settings, data: Path, tokenizer_file: Path) -> dict[str, float]:
    """Like `validate`, for a float32 model in memory."""
    tokenizer = read_tokenizer(tokenizer_file)
    sources = [dataclasses.replace(each, documents=settings.final_documents) for each in settings.validation]
    found = (read_validation(source, data, tokenizer, settings) for source in sources)
    return {text.domain: bits_per_byte(model, text, settings) for text in found}
