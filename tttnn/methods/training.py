"""The method of the paper, as a method among others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tttnn.methods.base import Method
from tttnn.ttt import TTT, Retrieved, Step


@dataclass(frozen=True)
class Training(Method):
    """Train on the neighbours, nearest first, and score in between: `TTT.follow`."""

    about = "train on the neighbours, as published"

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """See `TTT.follow`."""
        return ttt.follow(found, ks, waiting=False)
