"""How much of a text was seen in another one, letter by letter."""

from collections.abc import Iterable

import numpy as np

WINDOW = 50  # bytes
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no byte of a window is multiplied away


def windows(text: str, width: int = WINDOW) -> np.ndarray:
    """Hash every window of `width` consecutive bytes of a text.

    Parameters
    ----------
    text : str
    width : int
        In bytes of UTF-8.

    Returns
    -------
    ndarray of uint64, shape (max(0, bytes - width + 1),)
        Equal windows have equal hashes; others differ except by chance (about one in 10^19).
    """
    hashes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    if len(hashes) < width:
        return np.empty(0, dtype=np.uint64)
    # Hashes of 1, 2, 4, ... bytes, and those that make up the width joined on the way: log2(width) passes.
    joined, covered, size = np.zeros(len(hashes) - width + 1, dtype=np.uint64), 0, 1
    while size <= width:
        if width & size:
            joined = joined * _power(size) + hashes[covered : covered + len(joined)]
            covered += size
        hashes = _mixed(hashes[:-size] * _power(size) + hashes[size:]) if len(hashes) > size else hashes
        size *= 2
    return joined


def seen_shares(texts: Iterable[str], reference: Iterable[str], width: int = WINDOW) -> np.ndarray:
    """Return, for each text, the share of its windows that occur somewhere in the reference texts.

    Parameters
    ----------
    texts, reference : iterable of str
    width : int
        In bytes.

    Returns
    -------
    ndarray of float64, shape (texts,)
        From 0 (nothing seen) to 1 (all of it). A text shorter than a window is one window: all of it stands in one of
        the reference texts, or nothing.
    """
    reference = list(reference)
    known = np.sort(np.concatenate([np.empty(0, np.uint64), *(windows(text, width) for text in reference)]))
    shares = []
    for text in texts:
        own = windows(text, width)
        if text and not len(own):
            shares.append(float(any(text in whole for whole in reference)))
            continue
        # Not numpy's isin, which would sort all known ones again for every text.
        places = np.minimum(np.searchsorted(known, own), len(known) - 1)
        shares.append(float((known[places] == own).mean()) if len(own) and len(known) else 0.0)
    return np.array(shares)


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_MULTIPLIER), exponent, 1 << 64))


def _mixed(hashes: np.ndarray) -> np.ndarray:
    return hashes ^ (hashes >> np.uint64(29))
