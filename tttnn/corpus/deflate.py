"""What a general compressor makes of a text: deflate, which knows no language."""

from __future__ import annotations

import zlib

LEVEL = 9  # zlib's best compression


def deflate_bits_per_byte(text: str) -> float:
    """Bits per byte of one text by deflate (zlib, level 9, without header), nothing else known.

    Raises
    ------
    ValueError
        If the text is empty.
    """
    if not text:
        raise ValueError("an empty text has no bits per byte")
    return 8 * deflated(text) / len(text.encode())


def deflated(text: str) -> int:
    """Return the bytes of a text after deflate, at least 1."""
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(squeeze.compress(text.encode()) + squeeze.flush())
