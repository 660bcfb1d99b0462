"""A text with each token shaded by what it costs, before and after."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

SATURATION = 12.0  # bits at which a token has the full colour


@dataclass(frozen=True)
class ShadedText:
    """Tokens and their cost, shown as shaded text; made by :func:`shade`."""

    pieces: tuple[str, ...]
    bits: tuple[float, ...]
    caption: str

    def __repr__(self) -> str:
        return f"{self.caption}: {sum(self.bits) / len(self.bits):.2f} bits per token over {len(self.bits)} tokens"

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
        The text of each token, in order.
    nats : sequence of float
        Of :meth:`tttnn.scoring.Scorer.token_nats`; shown in bits.
    caption : str

    Raises
    ------
    ValueError
        If there are not as many costs as pieces.
    """
    if len(pieces) != len(nats):
        raise ValueError(f"{len(pieces)} tokens but {len(nats)} costs")
    return ShadedText(tuple(pieces), tuple(float(n) / math.log(2) for n in nats), caption)
