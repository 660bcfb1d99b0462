"""What the curves say that Hardt & Sun (2024) released: real models, without running one.

Every function takes the curves as ``published_runs`` gives them: a row for each run, task and k, with the columns run,
task, k, bits_per_byte, seconds_per_neighbour and ratio (bits per byte to those at k = 0). They are sums over documents,
so nothing here has an interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tttnn.errors import TTTNNError

if TYPE_CHECKING:
    import pandas as pd

RUNS = {"gpt2": "GPT-2", "gpt2-split": "GPT-2, split query", "gpt2-large": "GPT-2-large", "gptneo": "GPT-Neo"}
WHOLE = ("gpt2", "gpt2-large", "gptneo")  # one run a model, with the whole document as the query
TOGETHER = "all"  # the mean of the tasks, weighted by their share of the Pile
MARGIN = 0.1  # bits per byte between two models, below which a share of their gap is a division by almost nothing
TURN = 0.5  # points of after/before by which a curve ends above its minimum, so that it has turned and not levelled off


def ratios(curves: pd.DataFrame, k: int) -> pd.DataFrame:
    """After / before at k: a row for each task, with ``all``, and a column for each run.

    Raises
    ------
    TTTNNError
        If the curves have no such k.
    """
    return _at(curves, k, "ratio")


def gap_left(curves: pd.DataFrame, small: str, large: str, k: int, margin: float = MARGIN) -> pd.DataFrame:
    """Share of the gap between two models that is left after k neighbours.

    Parameters
    ----------
    small, large : str
        Runs.
    k : int
    margin : float
        Smallest gap before adaptation, in bits per byte, that a share is given for.

    Returns
    -------
    DataFrame
        By task: gap (bits per byte by which the small model is behind at k = 0), one_adapts (the share left to the
        large model as it was; below 0 the small one has overtaken), both_adapt (the share left when the large model has
        trained on the same neighbours; above 1 it has gone further ahead). No shares below the margin.
    """
    before, after = _at(curves, 0, "bits_per_byte"), _at(curves, k, "bits_per_byte")
    gap = before[small] - before[large]
    wide = gap.where(gap >= margin)
    return gap.to_frame("gap").assign(
        one_adapts=(after[small] - before[large]) / wide, both_adapt=(after[small] - after[large]) / wide
    )


def turns(curves: pd.DataFrame, k: int) -> pd.DataFrame:
    """How each curve goes from 0 to k: where it is best, how often it rises, and whether it ends above its minimum.

    Returns
    -------
    DataFrame
        By run and task, without ``all``: best (k of the minimum, the first of equal ones), ratio_best, ratio (at k),
        rises (steps from one k to the next at which bits per byte go up), lost (points of after / before from the
        minimum to k), turned (lost more than :data:`TURN`), worse (ratio above 1).
    """
    wide = _wide(curves[curves["task"] != TOGETHER], k, "ratio")
    found = wide.min(axis=1).to_frame("ratio_best").assign(ratio=wide[k], best=wide.idxmin(axis=1))
    found["rises"] = (wide.diff(axis=1) > 0).sum(axis=1)
    found["lost"] = 100 * (found["ratio"] - found["ratio_best"])
    return found.assign(turned=found["lost"] > TURN, worse=found["ratio"] > 1)


def early_shares(curves: pd.DataFrame, few: int, k: int) -> pd.Series:
    """Share of the gain at k that is there after a few neighbours, by run and task; none where there is no gain."""
    wide = _wide(curves, max(few, k), "ratio")
    gain = (1 - wide[k]).where(wide[k] < 1)
    return ((1 - wide[few]) / gain).rename("share")


def crossing(curves: pd.DataFrame, run: str, task: str, ratio: float) -> int | None:
    """The first k at which after / before is at or below a ratio; none if it never is."""
    curve = curves[(curves["run"] == run) & (curves["task"] == task)].sort_values("k")
    below = curve.loc[curve["ratio"] <= ratio, "k"]
    return int(below.iloc[0]) if len(below) else None


def price_of_fewer(curves: pd.DataFrame, few: int, many: int) -> pd.DataFrame:
    """Points of after / before by which `few` neighbours are behind `many`: tasks by runs; negative where they lead."""
    return 100 * (ratios(curves, few) - ratios(curves, many))


def seconds_and_gain(curves: pd.DataFrame, k: int) -> pd.DataFrame:
    """What k neighbours cost a document and bring.

    Returns
    -------
    DataFrame
        Columns run, task, seconds (of the first k neighbours together, a score of the document after each included),
        gain (points of after / before), saved (bits per byte). Without ``all``.
    """
    part = curves[curves["task"] != TOGETHER]
    bits = _wide(part, k, "bits_per_byte")
    found = _wide(part, k, "seconds_per_neighbour").sum(axis=1).to_frame("seconds")
    return found.assign(gain=100 * (1 - bits[k] / bits[0]), saved=bits[0] - bits[k]).reset_index()


def relative_width(documents: pd.Series) -> pd.Series:
    """Widths of intervals to that of the task with most documents, if documents of all tasks were equally unlike."""
    return np.sqrt(documents.max() / documents).rename("width")


def _wide(curves: pd.DataFrame, k: int, column: str) -> pd.DataFrame:
    """Run and task by the numbers of neighbours up to k."""
    wide = curves.pivot(index=["run", "task"], columns="k", values=column)
    if k not in wide:
        raise TTTNNError(f"k={k}: the released curves have k = {wide.columns.min()} to {wide.columns.max()}")
    return wide.loc[:, :k]


def _at(curves: pd.DataFrame, k: int, column: str) -> pd.DataFrame:
    return _wide(curves, k, column)[k].unstack("run")
