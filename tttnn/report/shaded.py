"""A text with each token shaded by what it costs, before and after."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SATURATION = 12.0  # bits at which a token has the full colour


@dataclass(frozen=True)
class ShadedText:
    """Characters and the cost of their tokens, shown as shaded text; made by :func:`shade`.

    Attributes
    ----------
    pieces : tuple of str
    bits : tuple of float
        Of each piece, in bits.
    tokens : int
        Fewer pieces than these where a character takes several.
    caption : str
    """

    pieces: tuple[str, ...]
    bits: tuple[float, ...]
    tokens: int
    caption: str

    def __repr__(self) -> str:
        return f"{self.caption}: {sum(self.bits) / self.tokens:.2f} bits per token over {self.tokens} tokens"

    def _repr_html_(self) -> str:
        spans = "".join(_span(piece, bits) for piece, bits in zip(self.pieces, self.bits, strict=True))
        caption = html.escape(self.caption)
        return f'<figure class="tttnn-shaded"><figcaption>{caption}</figcaption><pre>{spans}</pre></figure>'


def _span(piece: str, bits: float) -> str:
    share = min(bits / SATURATION, 1.0)
    return f'<span style="--cost:{share:.2f}" title="{bits:.1f} bits">{html.escape(piece)}</span>'


def shade(pieces: Sequence[str], nats: Sequence[float], caption: str) -> ShadedText:
    """Shade each token by its negative log-likelihood.

    Parameters
    ----------
    pieces : sequence of str
        The text of each token, in order: see :func:`token_texts`. An empty one ends the character of the piece before
        it, and its cost is added to that one's.
    nats : sequence of float
        Of :meth:`tttnn.scoring.Scorer.token_nats`; shown in bits.
    caption : str

    Raises
    ------
    ValueError
        If there are no tokens, or not as many costs as pieces.
    """
    if len(pieces) != len(nats):
        raise ValueError(f"{len(pieces)} tokens but {len(nats)} costs")
    if not pieces:
        raise ValueError("no tokens to shade")
    shown: list[str] = []
    bits: list[float] = []
    for piece, cost in zip(pieces, nats, strict=True):
        if not shown or (piece and shown[-1]):
            shown.append("")
            bits.append(0.0)
        shown[-1] += piece
        bits[-1] += float(cost) / math.log(2)
    return ShadedText(tuple(shown), tuple(bits), len(pieces), caption)


def token_texts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The part of a text that each of its tokens stands for; joined, they are the text.

    A character that takes several tokens, each a few of its bytes, belongs to the first of them, and the others get
    nothing: none of them is readable by itself. A letter with its accents, or a composed emoji, is one character.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast one knows where its tokens are; those of any other are decoded one by one.
    text : str

    Returns
    -------
    list of str
        One for each token of the text, without special tokens.
    """
    if not tokenizer.is_fast:
        return [tokenizer.decode([token]) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    ends = _character_ends(text)
    texts, done = [], 0
    for _, end in offsets:
        # Only ends: some tokenizers let a token begin after its space.
        upto = max(done, ends[end])
        texts.append(text[done:upto])
        done = upto
    if texts:
        texts[-1] += text[done:]  # what the tokenizer leaves out
    return texts


def _character_ends(text: str) -> list[int]:
    """Where the character that a position cuts ends; for 0 to the length of the text."""
    import regex

    ends = [0]
    for found in regex.finditer(r"\X", text):
        ends += [found.end()] * (found.end() - found.start())
    return ends
