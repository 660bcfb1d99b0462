"""A text store that processes and threads read at the same time: handed to each pool once, as its initializer."""

import numpy as np

from tttnn.corpus import TextStore


def share(opened: TextStore, texts: list[str]) -> None:
    """Keep a store and the texts it must give, where `count_wrong` finds them."""
    global _OPENED, _TEXTS
    _OPENED, _TEXTS = opened, texts


def count_wrong(seed: int) -> int:
    """Read all texts in a random order, and count those that are not as they should be."""
    order = np.random.default_rng(seed).permutation(len(_TEXTS))
    return sum(_OPENED[int(i)].text != _TEXTS[i] for i in order)
