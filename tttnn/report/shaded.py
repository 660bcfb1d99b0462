"""A text with each token shaded by how much cheaper or dearer adapting made it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tttnn.report.tables import table

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

CHANGED = 6.0  # bits of change at which a token has the full colour
NOTICED = 0.5  # bits; a smaller change is left plain
NAMED = 2.0  # bits of change from which a token can be tapped or reached with Tab to read them


@dataclass(frozen=True)
class ComparedText:
    """Characters and the cost of their tokens before and after, shown as one text; made by :func:`compare`.

    Attributes
    ----------
    pieces : tuple of str
    before, after : tuple of float
        Of each piece, in bits.
    caption : str
    """

    pieces: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    caption: str

    @property
    def frame(self) -> pd.DataFrame:
        """One row a piece: token, and before, after and change in bits."""
        import pandas as pd

        made = pd.DataFrame({"token": self.pieces, "before": self.before, "after": self.after})
        return made.assign(change=made["after"] - made["before"])

    def __repr__(self) -> str:
        before, after = sum(self.before), sum(self.after)
        return f"{self.caption}: {before:.0f} bits before, {after:.0f} after ({_signed(after - before)})"

    def _repr_html_(self) -> str:
        costs = zip(self.pieces, self.before, self.after, strict=True)
        spans = "".join(_changed(html.escape(piece), before, after) for piece, before, after in costs)
        legend = " ".join(_changed(f" {_signed(bits)} ", 0.0, bits) for bits in (-6.0, -3.0, -1.0, 1.0, 3.0, 6.0))
        rows = table(
            self.frame.assign(token=self.frame["token"].map(visible)),
            units=dict.fromkeys(("before", "after", "change"), "bits"),
            formats={"before": ".1f", "after": ".1f", "change": "+.1f"},
        )
        return (
            f'<figure class="tttnn-shaded"><figcaption>{html.escape(self.caption)}</figcaption>'
            f'<p class="tttnn-legend">Change in bits: {legend} Underlined: cheaper. Dotted: dearer.</p>'
            f"<pre>{spans}</pre>"
            f'<details class="tttnn-data"><summary>Every token of this text</summary>{rows.html()}</details></figure>'
        )


def _changed(shown: str, before: float, after: float) -> str:
    """A token, coloured and underlined by its change; of a large one, the numbers can be asked for without a mouse."""
    change = after - before
    if abs(change) < NOTICED:
        return shown
    kind, share = "dearer" if change > 0 else "cheaper", min(abs(change) / CHANGED, 1.0)
    bits = f"{before:.1f} → {after:.1f} bits"
    asked = f' tabindex="0" data-bits="{bits}"' if before and abs(change) >= NAMED else ""
    return f'<span class="{kind}" style="--share:{share:.2f}"{asked}>{shown}</span>'


def _signed(bits: float) -> str:
    """A change in bits with its sign, a true minus."""
    return f"{bits:+.0f}".replace("-", "−")


def visible(piece: str) -> str:
    """A token as it can be read in a table: line ends and tabs as signs, and spaces at its ends."""
    shown = piece.replace("\n", "↵").replace("\t", "⇥")
    inner = shown.strip(" ")
    left = len(shown) - len(shown.lstrip(" "))
    return "␣" * left + inner + "␣" * (len(shown) - left - len(inner))


def compare(pieces: Sequence[str], before: Sequence[float], after: Sequence[float], caption: str) -> ComparedText:
    """Show by how much each token became cheaper or dearer.

    Parameters
    ----------
    pieces : sequence of str
        The text of each token, in order: see :func:`token_texts`. An empty one ends the character of the piece before
        it, and its cost is added to that one's.
    before, after : sequence of float
        Of :meth:`tttnn.scoring.Scorer.token_nats`; shown in bits.
    caption : str

    Raises
    ------
    ValueError
        If there are no tokens, or not as many costs as pieces.
    """
    shown, first = _characters(pieces, before)
    _, second = _characters(pieces, after)
    return ComparedText(tuple(shown), tuple(first), tuple(second), caption)


def _characters(pieces: Sequence[str], nats: Sequence[float]) -> tuple[list[str], list[float]]:
    """Pieces that can be read by themselves, and the bits of each."""
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
    return shown, bits


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
    as_scored = {"add_special_tokens": False, "split_special_tokens": True}  # see LanguageModel.encode
    if not tokenizer.is_fast:
        return [tokenizer.decode([token]) for token in tokenizer(text, **as_scored)["input_ids"]]
    offsets = tokenizer(text, **as_scored, return_offsets_mapping=True, verbose=False)["offset_mapping"]
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
