"""What adapting costs: rows that the benchmarks wrote, summed up for the chapter on cost.

The rows lie in ``tttnn/measured``; ``make bench`` writes new ones, which can be shown in their place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tttnn.files import read_json

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parents[1] / "measured"
LOOPS = {"reference": "published loop", "ours": "our loop"}
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_Attention", "_AttentionBackward",
    ),
    "softmax and loss": (
        "_softmax", "_softmax_backward_data", "_safe_softmax", "_log_softmax", "_log_softmax_backward_data", "log",
        "amax", "gather", "nll_loss_forward", "nll_loss_backward", "scatter_add_", "_MeanCrossEntropy",
    ),
    "dropout's random numbers": ("bernoulli_",),
    "optimizer and clipping": (
        "_fused_adamw_", "_foreach_norm", "linalg_vector_norm", "sqrt", "addcdiv_", "addcmul_", "lerp_",
        "Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad",
    ),
    "moving and clearing memory": ("copy_", "fill_", "cat", "zeros_like", "clone", "contiguous", "empty"),
    "activation": ("gelu", "gelu_backward", "tanh", "tanh_backward", "pow", "_GELU", "_GELUBackward"),
}  # fmt: skip
REST = "other"


@dataclass(frozen=True)
class Line:
    """Seconds over tokens, by least squares: `start` + `slope` * tokens, and the share of variance it explains."""

    start: float
    slope: float
    r_squared: float


def bench_rows(name: str, folder: str | Path = "") -> pd.DataFrame:
    """Rows of a benchmark.

    Parameters
    ----------
    name : str
        ``loop``, ``operators``, ``step`` or ``neighbours``; of those that ship also ``loop_intel`` and ``loop_h200``,
        which the loop of an earlier commit made: on Intel's processor it still sent products through oneDNN, on the
        GPU it recorded no graphs.
    folder : path, optional
        Where ``make bench`` wrote them; default: those that ship with the package.

    Raises
    ------
    ValueError
        If there are no such rows.
    """
    import pandas as pd

    path = Path(folder or FOLDER) / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such rows; `make bench` writes them")
    return pd.DataFrame(read_json(path))


def per_neighbour(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds per neighbour by domain (Figure 1 of the report), for both loops.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/neighbours.py``.

    Returns
    -------
    DataFrame
        Three rows a domain: domain, timed ("published loop, with scoring", which is what the published timer holds,
        "published loop, training", "our loop, training"), seconds, tokens (mean per neighbour).
    """
    import pandas as pd

    stepped = rows[rows["k"] > 0]
    both = stepped.assign(both=stepped["train_seconds"] + stepped["evaluation_seconds"])
    wanted = {
        "published loop, with scoring": ("reference", "both"),
        "published loop, training": ("reference", "train_seconds"),
        "our loop, training": ("ours", "train_seconds"),
    }  # fmt: skip
    parts = []
    for timed, (loop, column) in wanted.items():
        means = both[both["loop"] == loop].groupby("domain").agg(seconds=(column, "mean"), tokens=("tokens", "mean"))
        parts.append(means.reset_index().assign(timed=timed))
    return pd.concat(parts, ignore_index=True)[["domain", "timed", "seconds", "tokens"]]


def token_line(rows: pd.DataFrame, loop: str) -> Line:
    """Fit the seconds of training on a neighbour to its tokens.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/neighbours.py``, at least two neighbours with different numbers of tokens.
    loop : str
        ``reference`` or ``ours``.
    """
    stepped = rows[(rows["loop"] == loop) & (rows["k"] > 0)]
    tokens, seconds = stepped["tokens"].to_numpy(float), stepped["train_seconds"].to_numpy()
    slope, start = np.polyfit(tokens, seconds, 1)
    left = seconds - (start + slope * tokens)
    return Line(float(start), float(slope), float(1 - left.var() / seconds.var()))


def spent_and_gained(rows: pd.DataFrame) -> pd.DataFrame:
    """What a document costs and gains with this loop, at every scored k.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/neighbours.py``.

    Returns
    -------
    DataFrame
        One row per (domain, k): seconds (mean over documents: training on the first k neighbours), ratio (bits after /
        before, summed over documents).
    """
    ours = rows[rows["loop"] == "ours"].sort_values("k")
    spent = ours.groupby(["domain", "document"])["train_seconds"].cumsum()
    scored = ours.assign(seconds=spent, bits=ours["bits_per_byte"] * ours["bytes"])[ours["bits_per_byte"].notna()]
    sums = scored.groupby(["domain", "k"]).agg(seconds=("seconds", "mean"), bits=("bits", "sum")).reset_index()
    before = sums[sums["k"] == 0].set_index("domain")["bits"]
    return sums.assign(ratio=sums["bits"] / sums["domain"].map(before)).drop(columns="bits")


def first_few(rows: pd.DataFrame, part: float = 0.25) -> tuple[int, float, float]:
    """What the first neighbours take and bring, with this loop.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/neighbours.py``.
    part : float
        How many are meant: the largest scored k up to this part of all neighbours, at least 1; the smallest one if none
        is scored so early.

    Returns
    -------
    k : int
    seconds : float
        Their share of the seconds of training, over all documents.
    gain : float
        Their share of the gain in nats, over all documents.
    """
    ours = rows[rows["loop"] == "ours"]
    scored = ours[ours["bits_per_byte"].notna()]
    bits = (scored["bits_per_byte"] * scored["bytes"]).groupby(scored["k"]).sum()
    last = int(bits.index.max())
    few = bits.index[(bits.index > 0) & (bits.index <= max(1, part * last))]
    k = int(few.max() if len(few) else bits.index[bits.index > 0].min())
    seconds = ours.groupby("k")["train_seconds"].sum().cumsum()
    return k, float(seconds[k] / seconds[last]), float((bits[0] - bits[k]) / (bits[0] - bits[last]))


def speedups(rows: pd.DataFrame) -> pd.DataFrame:
    """Both loops of a benchmark side by side, and what the processor leaves room for.

    Parameters
    ----------
    rows : DataFrame
        Of ``bench/loop.py``, of one processor or several.

    Returns
    -------
    DataFrame
        One row per (processor, shape), the largest shape first: processor (its widest instructions), shape, published
        and ours (seconds), ratio, most (the ratio that a loop of the same products would have if it did nothing else
        and they ran at the best rate of any library, which counts six floating-point operations per weight and token
        of a step and two of a score), torch_share (what part of the rate of torch's own products our steps reach, with
        the products of weights alone counted as work), best_share (the same of the best rate), torch_rate and
        onednn_rate (operations per second).
    """
    import pandas as pd

    found = []
    for (processor, shape, _), pair in rows.groupby(["capability", "shape", "parameters"], sort=False):
        published, ours = (pair[pair["loop"] == loop].iloc[0] for loop in ("reference", "ours"))
        best = ours.filter(like="_rate").max()
        floor = (ours["train_operations"] + ours["evaluation_operations"]) / best
        found.append({
            "processor": processor, "shape": shape, "published": published["seconds"], "ours": ours["seconds"],
            "ratio": published["seconds"] / ours["seconds"], "most": published["seconds"] / floor,
            "torch_share": ours["train_share"], "best_share": ours["train_share"] * ours["matrix_rate"] / best,
            "torch_rate": ours["matrix_rate"], "onednn_rate": ours.get("onednn_rate", math.nan),
        })  # fmt: skip
    return pd.DataFrame(found).sort_values(["shape", "processor"], ignore_index=True)


def by_processor(values: pd.Series, form: str) -> str:
    """Name a number for each processor, in words: "2.3 (AVX2) and 3.8 (AVX512)"; of one processor, the number alone.

    Parameters
    ----------
    values : Series
        Indexed by processor.
    form : str
        Format specification of a number.
    """
    if len(values) == 1:
        return format(values.iloc[0], form)
    return " and ".join(f"{value:{form}} ({processor})" for processor, value in values.items())


def time_by_kind(profile: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a profiled step by kind of operation.

    Parameters
    ----------
    profile : DataFrame
        Of ``bench/operators.py``: one step, a row per operator with its own time, the last one "all".

    Returns
    -------
    DataFrame
        One row per kind, the longest first and the rest last: kind, seconds, share.
    """
    import pandas as pd

    names = profile["operator"].str.split("::").str[-1]
    kinds = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    whole = profile.loc[profile["operator"] == "all", "seconds"].iloc[0]  # there is an aten::all, too
    known = profile.assign(kind=names.map(kinds)).dropna(subset="kind").groupby("kind")["seconds"].sum()
    found = pd.concat([known.sort_values(ascending=False), pd.Series({REST: whole - known.sum()})])
    return pd.DataFrame({"kind": found.index, "seconds": found.values, "share": found.values / whole})
