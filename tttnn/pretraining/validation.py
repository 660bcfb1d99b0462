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

from tttnn.pretraining.data import end_of_text, find_files, texts
from tttnn.pretraining.settings import Settings, Source

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
    windows : np.ndarray of int64, shape (n, context + 1)
        Disjoint windows, each with the token before it; padded with `PADDING`.
    bytes : int
        UTF-8 bytes that the scored tokens stand for.
    """

    domain: str
    windows: np.ndarray
    bytes: int


def read_validation(source: Source, data: Path, tokenizer: Tokenizer, context: int) -> ValidationText:
    """Tokenize the first documents of a domain's validation files, each cut at `source.tokens` tokens.

    The end-of-text id conditions the first token of a document, as in lm-evaluation-harness.
    """
    rows, size = [], 0
    for text in itertools.islice(texts(find_files(source.files, data)), source.documents):
        encoding = tokenizer.encode(text)
        ids = [end_of_text(tokenizer), *encoding.ids[: source.tokens]]
        # A byte-level token has one character per byte, so that a cut inside a character counts right.
        size += sum(map(len, encoding.tokens[: source.tokens]))
        for start in range(0, len(ids) - 1, context):
            row = ids[start : start + context + 1]
            rows.append(row + [PADDING] * (context + 1 - len(row)))
    return ValidationText(source.domain, np.array(rows, dtype=np.int64), size)


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, text: ValidationText, batch: int) -> float:
    """Summed negative log-likelihood over summed bytes, in bits.

    Parameters
    ----------
    model : PreTrainedModel
        Scored in the precision of the ambient autocast, on its own device; its mode is left as it was.
    text : ValidationText
    batch : int
        Windows per forward pass.
    """
    was_training = model.training
    model.eval()
    nats = 0.0
    for i in tqdm(range(0, len(text.windows), batch), desc=f"validation: {text.domain}", leave=False):
        rows = torch.from_numpy(text.windows[i : i + batch]).to(model.device)  # (batch, context + 1)
        logits = model(input_ids=rows[:, :-1].clamp(min=0)).logits.float()  # (batch, context, vocabulary)
        nats += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    model.train(was_training)
    return nats / text.bytes / math.log(2)


def validate(
    settings: Settings, data: str | Path, folder: str | Path, device: str = "cpu"
) -> dict[str, float]:
    """Measure a finished model again, as for its card.

    Parameters
    ----------
    settings : Settings
        The model's own, ``load_settings(folder / "settings.json")``.
    data : str or Path
        The folder that the settings' files are relative to.
    folder : str or Path
        The model in Hugging Face format.
    device : str

    Returns
    -------
    dict
        Domain -> bits per byte on its first `settings.final_documents` validation documents.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).to(device)
    return validate_model(model, settings, Path(data), Path(folder) / "tokenizer.json")


def validate_model(
    model: PreTrainedModel, settings: Settings, data: Path, tokenizer_file: Path
) -> dict[str, float]:
    """Like `validate`, for a float32 model in memory."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    sources = [dataclasses.replace(each, documents=settings.final_documents) for each in settings.validation]
    found = (read_validation(source, data, tokenizer, settings.context) for source in sources)
    return {text.domain: bits_per_byte(model, text, settings.validation_batch) for text in found}
