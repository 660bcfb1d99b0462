"""What a general compressor makes of a text: deflate, which knows no language."""

from __future__ import annotations

import zlib

LEVEL = 9  # zlib's best compression


def deflated(text: str) -> int:
    """Return the bytes of a text after deflate, at least 1."""
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(squeeze.compress(text.encode()) + squeeze.flush())
