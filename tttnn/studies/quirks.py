"""Quirks of the published code, measured: small enough to be watched live."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from tttnn.corpus import Document
from tttnn.models import LanguageModel
from tttnn.scoring import Scorer, rolling_windows
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd


def step_sizes(ttt: TTT, neighbours: Iterable[Sequence[str]]) -> list[list[float]]:
    """How far each step moves the weights, in learning rates.

    Parameters
    ----------
    ttt : TTT
        With `keep_optimizer` the moments go from one document to the next.
    neighbours : iterable of sequences of str
        Of one document after another; a step is made on the first chunk of each.

    Returns
    -------
    list of list of float
        Mean absolute change of a weight / learning rate, by document and step.
    """
    rate = ttt.switches.learning_rate or ttt.lm.settings.learning_rate
    made = []
    for texts in neighbours:
        with ttt.session():
            made.append([_change(ttt, text).abs().mean().item() / rate for text in texts])
    return made


def changed_weights(ttt: TTT, texts: Sequence[str]) -> float:
    """Return the share of weights that are other ones after a step on the first chunk of each text."""
    with ttt.session():
        before = _weights(ttt)
        for text in texts:
            _change(ttt, text)
        return (_weights(ttt) != before).float().mean().item()


def _change(ttt: TTT, text: str) -> Tensor:
    before = _weights(ttt)
    ttt.update(ttt.lm.encode(text)[: ttt.switches.max_length or ttt.lm.settings.max_length])
    return _weights(ttt) - before


def _weights(ttt: TTT) -> Tensor:
    return parameters_to_vector(ttt.lm.model.parameters()).detach().clone()  # (weights,)


@torch.no_grad()
def cut_bias(lm: LanguageModel, text: str, entries: int) -> Tensor:
    """Bits that each token of a text is scored too low over the first entries of the vocabulary.

    ``-log2 P(the first entries)``: what a cut softmax takes off, whichever token comes.

    Parameters
    ----------
    lm : LanguageModel
    text : str
    entries : int
        How many are kept.

    Returns
    -------
    Tensor of float32, shape (tokens,)
    """
    made = []
    for window in rolling_windows(lm.encode(text), lm.prefix_id, lm.settings.context):
        hidden = lm.hidden(torch.tensor([window.inputs], device=lm.device))[0]  # (inputs, width)
        logits = torch.nn.functional.linear(hidden[-len(window.targets) :], *lm.head)  # (targets, vocabulary)
        made.append(logits.logsumexp(-1) - logits[:, :entries].logsumexp(-1))
    return torch.cat(made) / math.log(2)


def cut_effect(ttt: TTT, text: str, neighbours: Sequence[str], entries: int) -> dict[str, float]:
    """Measure what scoring over the first entries of the vocabulary takes off, before and after adaptation.

    Returns
    -------
    dict
        tokens, beyond (of them: those that cannot be scored), and of the other tokens bits_before, bits_after (over all
        entries), cut_before, cut_after (what the cut takes off, in bits).
    """
    scorer = Scorer(ttt.lm, text)
    inside = torch.tensor(scorer.tokens, device=ttt.lm.device) < entries  # (tokens,)
    made: dict[str, float] = {"tokens": len(scorer.tokens), "beyond": int((~inside).sum())}
    for step in ttt.adapt(text, neighbours, ks=[len(neighbours)]):
        if step.k in (0, len(neighbours)):
            when = "after" if step.k else "before"
            made[f"bits_{when}"] = scorer.token_nats()[inside].sum().item() / math.log(2)
            made[f"cut_{when}"] = cut_bias(ttt.lm, text, entries)[inside].sum().item()
    return made


def misread(documents: Mapping[str, Iterable[Document]], escaped: bool = False) -> pd.DataFrame:
    """Count the documents that offsets in characters find in the wrong place, in a file of JSON Lines in UTF-8.

    Parameters
    ----------
    documents : mapping
        File -> its documents, in order.
    escaped : bool
        Whether characters beyond ASCII are written as escapes, which are ASCII.

    Returns
    -------
    DataFrame
        One row a file: file, documents, beyond_ascii (share of documents with such a character), first (number of the
        first misread document, from 1; missing if there is none), misread (share of documents).
    """
    import pandas as pd

    return pd.DataFrame([{"file": name} | _misread(each, escaped) for name, each in documents.items()])


def _misread(documents: Iterable[Document], escaped: bool) -> dict[str, float]:
    count = wrong = beyond = shift = 0
    for document in documents:
        line = json.dumps({"text": document.text, "meta": document.meta}, ensure_ascii=escaped)
        count, wrong = count + 1, wrong + (shift > 0)
        more = len(line.encode()) - len(line)
        beyond, shift = beyond + (more > 0), shift + more
    shares = {"beyond_ascii": beyond / count, "misread": wrong / count} if count else {}
    return {"documents": count, "first": count - wrong + 1 if wrong else math.nan, **shares}


def one_token_last(lm: LanguageModel, texts: Iterable[str], length: int) -> float:
    """Return the share of texts whose last chunk of `length` tokens has one token."""
    sizes = [len(lm.encode(text)) for text in texts]
    return sum(size % length == 1 for size in sizes) / len(sizes)


class EmptySteps(TTT):
    """The loop with the published step on a one-token chunk after each of its own.

    Such a chunk has no gradient: the weights move on by AdamW's moments, and decay.
    """

    def update(self, chunk: list[int]) -> Tensor:
        """Make a step on a chunk, and an empty one after it."""
        loss = super().update(chunk)
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self._round()
        return loss
