"""Choosing a model's test-time learning rate, on validation documents and never on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tttnn.experiment import DrawnDocument, run
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    ttt: TTT, documents: Sequence[DrawnDocument], rates: Sequence[float], ks: Sequence[int], folder: str | Path
) -> pd.DataFrame:
    """Evaluate the same validation documents at several learning rates.

    Parameters
    ----------
    ttt : TTT
        Its switches apply, the learning rate aside.
    documents : sequence of DrawnDocument
        Of the validation split.
    rates : sequence of float
        AdamW learning rates.
    ks : sequence of int
        Where to score; must hold 0.
    folder : path
        Rows are kept in one folder below it for each rate, so that a killed sweep continues.

    Returns
    -------
    DataFrame
        One row per (learning_rate, k): ratio of nats to k = 0, summed over all documents.

    Raises
    ------
    ValueError
        If `ks` lacks 0 or a rate is not positive.
    """
    import pandas as pd

    if 0 not in ks:
        raise ValueError(f"ks={list(ks)}: a ratio needs the score at k = 0")
    found = []
    for rate in rates:
        one = TTT(ttt.lm, ttt.retriever, replace(ttt.switches, learning_rate=rate))
        rows = run(one, documents, ks, Path(folder) / f"lr-{rate:g}")
        nats = rows[rows["nats"].notna()].groupby("k")["nats"].sum()
        found += [{"learning_rate": rate, "k": k, "ratio": nats[k] / nats[0]} for k in nats.index]
    return pd.DataFrame(found)
