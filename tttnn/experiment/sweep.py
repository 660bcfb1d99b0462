"""Choosing a model's test-time learning rate, on validation documents and never on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.errors import ParameterError
from tttnn.experiment.checks import with_zero
from tttnn.experiment.drawing import DrawnDocument
from tttnn.experiment.runner import run, side_by_side
from tttnn.files import finite, sole_writer
from tttnn.parameters import numbers
from tttnn.retrieval import corpus_fingerprint
from tttnn.together import check_together
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus


def sweep(
    ttt: TTT, documents: Sequence[DrawnDocument], rates: Sequence[float], ks: Sequence[int], folder: str | Path,
    about: dict[str, Any] | None = None, at_once: int = 1,
) -> pd.DataFrame:  # fmt: skip
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
        Where to score, and at 0.
    folder : path
        Rows are kept in one folder below it for each rate, so that a killed sweep continues.
    about : dict, optional
        Provenance, see `tttnn.experiment.run`.
    at_once : int
        Documents that are adapted side by side, see `tttnn.together`.

    Returns
    -------
    DataFrame
        One row per (learning_rate, k): ratio of nats to k = 0, summed over all documents.

    Raises
    ------
    ParameterError
        If no k is above 0, a rate is not positive or a switch needs a document for itself, before anything is
        evaluated; if no document could be.
    BusyError
        If another process is writing to `folder`.
    """
    import pandas as pd

    rates, ks = checked_rates(rates), compared_places(ks)
    evaluate = side_by_side(at_once) if check_together(ttt.switches, at_once) > 1 else None
    found = []
    with sole_writer(folder):  # of all rates: between two of them another process would step in
        for rate in rates:
            one = TTT(ttt.lm, ttt.retriever, replace(ttt.switches, learning_rate=rate))
            rows = run(one, documents, ks, Path(folder) / f"lr-{rate:g}", about, evaluate)
            if (rows["failure"] != "").all():
                raise ParameterError(f"documents: none could be evaluated; the first: {rows['failure'].iloc[0]}")
            nats = rows[rows["nats"].notna()].groupby("k")["nats"].sum()
            found += [{"learning_rate": rate, "k": k, "ratio": nats[k] / nats[0]} for k in nats.index]
    return pd.DataFrame(found)


def checked_rates(rates: Any) -> list[float]:
    """Return learning rates, each once, if they are positive numbers; may be given as text, such as "1e-4,2e-4"."""
    found = [float(rate) for rate in numbers("rates", rates)]
    for rate in found:
        if not rate > 0:
            raise ParameterError(f"rates={rate:g}: a learning rate must be above 0")
    if len({f"{rate:g}" for rate in found}) < len(set(found)):
        raise ParameterError(f"rates={found}: give rates that differ in their first six digits, which name folders")
    return list(dict.fromkeys(found))


def compared_places(ks: Any) -> list[int]:
    """Return places of scores in increasing order, 0 among them, if there is another one to set beside it."""
    places = with_zero(ks)
    if len(places) < 2:
        raise ParameterError(f"ks={places}: a ratio needs the score at k = 0 and another one")
    return places


def record(
    table: pd.DataFrame, ttt: TTT, corpus: Corpus, documents: Sequence[DrawnDocument], **drawn: Any
) -> dict[str, Any]:
    """Turn a sweep into what a model folder's sweep.json holds and its card shows.

    Parameters
    ----------
    table : DataFrame
        What :func:`sweep` returned.
    ttt, corpus, documents
        What it was done with; the documents are of the validation split.
    **drawn
        How the documents were drawn (per_domain, max_bytes, seed).

    Returns
    -------
    dict
        JSON values; the ratios of nats to k = 0 are rounded to four decimals, and None where the model diverged.
    """
    ratios = {
        f"{rate:g}": {str(k): finite(round(ratio, 4)) for k, ratio in zip(rows["k"], rows["ratio"], strict=True)}
        for rate, rows in table.groupby("learning_rate", sort=False)
    }
    return {
        "weights": ttt.lm.weight_hash(),
        "corpus": corpus.name,
        "corpus_fingerprint": corpus_fingerprint(corpus),
        "split": "val",
        "documents": len(documents),
        **drawn,
        "max_chunks": ttt.switches.max_chunks,
        "ks": sorted(table["k"].unique().tolist()),
        "ratio_to_k0": ratios,
    }
