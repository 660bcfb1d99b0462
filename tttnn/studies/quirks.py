"""Quirks of the published code, measured: small enough to be watched live."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tttnn.corpus import Document
from tttnn.errors import DocumentError
from tttnn.models import LanguageModel
from tttnn.parameters import number
from tttnn.scoring import Scorer, Window, rolling_windows
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd


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


def scored_in_ways(ttt: TTT, text: str, neighbours: Sequence[str], entries: int) -> dict[str, float]:
    """Score a text before and after adaptation in several ways, each time with the very same weights.

    Parameters
    ----------
    ttt : TTT
    text : str
    neighbours : sequence of str
        Trained on, in this order.
    entries : int
        Of the vocabulary, that a cut one keeps.

    Returns
    -------
    dict
        tokens, beyond (of them: those that a cut vocabulary cannot score), and in bits, with _before and _after: bits
        (as this book scores), short (in half the context), and of the tokens that a cut can score inside (over all
        entries) and cut (over those kept).
    """
    scorer = Scorer(ttt.lm, text)
    halved = Scorer(ttt.lm, text, context=max(1, ttt.lm.settings.context // 2))
    inside = torch.tensor(scorer.tokens, device=ttt.lm.device) < entries  # (tokens,)
    made: dict[str, float] = {"tokens": len(scorer.tokens), "beyond": int((~inside).sum())}
    for step in ttt.adapt(text, neighbours, ks=[len(neighbours)]):
        if step.k not in (0, len(neighbours)):
            continue
        bits, less = scorer.token_nats() / math.log(2), cut_bias(ttt.lm, text, entries)  # (tokens,), both
        values = {"bits": bits, "short": halved.token_nats() / math.log(2), "inside": bits[inside],
                  "cut": (bits - less)[inside]}  # fmt: skip
        made |= {f"{name}_{'after' if step.k else 'before'}": each.sum().item() for name, each in values.items()}
    return made


def beginning_over_whole(lm: LanguageModel, text: str, tokens: int = 1024) -> dict[str, float]:
    """Score the beginning of a text, and divide by the bytes of what was scored and by those of the whole text.

    The latter is how we read HullFT's public evaluation: it scores the first 1,024 tokens in one pass, but for the very
    first, which nothing stands before, and divides by the bytes of all of the text. The longer a text, the less it
    seems to cost.

    Parameters
    ----------
    lm : LanguageModel
        Scored with its present weights; its tokenizer is a fast one, which knows where tokens end.
    text : str
        At least two tokens long. Of one not longer than `tokens` all but the first token is scored.
    tokens : int
        How many are kept, the first included.

    Returns
    -------
    dict
        tokens (scored), bits (that they cost), scored_bytes, text_bytes, and in bits per byte over_scored and
        over_text. Of a character that an end of what is scored divides, all bytes count.

    Raises
    ------
    ParameterError
        If the model does not take so many tokens, or fewer than two are kept.
    DocumentError
        If the text is shorter than two tokens, or holds half a character.
    """
    tokens = number("tokens", tokens, least=2, most=lm.positions, whole=True)
    ids = lm.encode(text)[:tokens]
    if len(ids) < 2:
        raise DocumentError("the text has fewer than two tokens: the first is not scored, so none would be")
    nats = Scorer(lm, text).token_nats([Window(ids[:-1], ids[1:])])  # (tokens - 1,)
    bits = nats.sum(dtype=torch.float64).item() / math.log(2)
    as_scored = {"add_special_tokens": False, "split_special_tokens": True}  # see LanguageModel.encode
    places = lm.tokenizer(text, **as_scored, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    start = min(places[0][1], places[1][0])  # some tokenizers let a token begin after its space
    scored = len(text[start : places[len(ids) - 1][1]].encode())
    whole = len(text.encode())
    return {
        "tokens": len(ids) - 1, "bits": bits, "scored_bytes": scored, "text_bytes": whole,
        "over_scored": bits / scored, "over_text": bits / whole,
    }  # fmt: skip


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
