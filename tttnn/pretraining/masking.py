"""The masked objective: hide a share of a window's tokens, predict them from both sides.

Every chosen token is replaced by the mask token. BERT leaves a tenth of them as they are and changes another tenth,
so that fine-tuning, which sees no mask, finds states it knows; Wettig et al. (2023, arXiv 2202.08005) find masks
alone to be as good, and one rule is simpler than three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MASK, PAD = "<mask>", "<pad>"
PADDING = -100  # the target that cross_entropy leaves out
VALIDATION_SEED = 1216  # the same tokens are hidden at every validation, whatever the run's seed


def hide(rows: np.ndarray, share: float, mask_id: int, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hide the same share of each window's tokens, as a function of the seed alone.

    Parameters
    ----------
    rows : np.ndarray of int64, shape (n, context)
        Token ids; `PADDING` after the end of a short window.
    share : float
        Of a window's tokens, rounded; at least one is hidden.
    mask_id : int
    seed : sequence of int

    Returns
    -------
    inputs : np.ndarray of int64, shape (n, context)
        `rows` with `mask_id` in the hidden places.
    targets : np.ndarray of int64, shape (n, context)
        The hidden tokens, `PADDING` in all other places.
    """
    draw = np.random.default_rng(seed).random(rows.shape)
    draw[rows == PADDING] = np.inf
    rank = draw.argsort(axis=1).argsort(axis=1)  # (n, context)
    count = np.rint(share * (rows != PADDING).sum(axis=1)).clip(min=1)  # (n,)
    hidden = rank < count[:, None]  # (n, context)
    return np.where(hidden, mask_id, rows), np.where(hidden, rows, PADDING)


def mask_id(tokenizer: Tokenizer) -> int:
    """Id of the mask token.

    Raises
    ------
    ValueError
        If the tokenizer lacks the mask or the padding token.
    """
    for token in (MASK, PAD):
        if tokenizer.token_to_id(token) is None:
            raise ValueError(f"the tokenizer has no {token}: name it in the settings' tokenizer.special")
    return tokenizer.token_to_id(MASK)
