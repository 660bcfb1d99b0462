"""Variants of a run compared on the same documents: controls, baselines, quirks, and where to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tttnn.analysis.archive import FOLDER, archived, archived_models, place_of
from tttnn.analysis.statistics import before_after, ends, interval, resampled_sums
from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

KEY = ["domain", "document"]


def archived_variants(run: str, model: str, names: Iterable[str] | None = None) -> pd.DataFrame:
    """The rows of a model in the variants of an archived run, with a column `variant`.

    Parameters
    ----------
    run : str
        Name of the run, or a folder with a folder for each variant: what ``python -m tttnn variants`` writes; see
        :func:`tttnn.analysis.archive.place_of`.
    model : str
    names : iterable of str, optional
        Of variants; default: all that have this model.

    Raises
    ------
    RowsError
        If a variant is not there, or none has this model.
    """
    import pandas as pd

    place = place_of(run)
    if names is None:
        names = sorted(path.name for path in place.glob("*") if (path / model / "run.json").is_file())
    parts = [archived(place / name, model).rows.assign(variant=name) for name in names]
    if not parts:
        raise RowsError(f"no variants of {model!r} in {run!r}")
    return pd.concat(parts, ignore_index=True)


def variant_models(run: str) -> list[str]:
    """Names of the models that have at least one variant in an archived run, in alphabetical order.

    Raises
    ------
    RowsError
        If there is no such run; the message lists those there are.
    """
    place = place_of(run)
    variants = sorted({path.relative_to(place).parts[0] for path in place.glob("*/**/run.json")})
    if not variants:
        known = ", ".join(sorted(path.name for path in FOLDER.iterdir()))
        raise RowsError(f"no archived run {run!r}: there are {known}; a folder must hold a folder for each variant")
    return sorted({model for name in variants for model in archived_models(place / name)})


def footing(rows: pd.DataFrame, k: int, labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Bits per byte before and after, for each variant and domain.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`archived_variants`.
    k : int
    labels : mapping, optional
        Variant -> what it is called; others are left out. Default: all, by name.

    Returns
    -------
    DataFrame
        One row per (variant, domain): variant, and the columns of :func:`tttnn.analysis.statistics.before_after`.
    """
    import pandas as pd

    labels = labels or {name: name for name in rows["variant"].unique()}
    parts = [before_after(rows[rows["variant"] == name], k).assign(variant=label) for name, label in labels.items()]
    return pd.concat(parts, ignore_index=True)


def effects(rows: pd.DataFrame, pairs: Mapping[str, str], k: int) -> pd.DataFrame:
    """What each variant changes in after / before, against another one on the same documents.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`archived_variants`.
    pairs : mapping
        Variant -> the one it is compared with.
    k : int
        Neighbours, at least 1; a variant with fewer is taken at its last k.

    Returns
    -------
    DataFrame
        One row per (variant, domain): variant, against, domain, documents, ratio and ratio_against (sum of nats after /
        sum of nats before), difference (ratio - ratio_against: above 0 the variant gains less) with the ends low and
        high of its 95% interval over documents resampled in pairs, clear (whether that excludes 0).

    Raises
    ------
    RowsError
        If a variant has no score after any neighbour.
    """
    import pandas as pd

    made = []
    for name, against in pairs.items():
        joined = _last(rows, name, k).merge(_last(rows, against, k), on=KEY, suffixes=("", "_against"))
        for domain, part in joined.groupby("domain", sort=True):
            made.append({"variant": name, "against": against, "domain": domain, **_effect(part)})
    return pd.DataFrame(made)


def _last(rows: pd.DataFrame, variant: str, k: int) -> pd.DataFrame:
    """The ends of a variant's documents at the last k up to this one."""
    part = rows[(rows["variant"] == variant) & rows["nats"].notna() & (rows["k"] <= k)]
    last = part["k"].max()
    if not last > 0:  # of no row at all it is nan
        raise RowsError(f"{variant}: no score after 1 to {k} neighbours, so nothing to compare")
    return ends(part, last)


def _effect(pairs: pd.DataFrame) -> dict[str, float]:
    columns = ["before", "after", "before_against", "after_against"]
    before, after, before_against, after_against = resampled_sums([pairs[columns].to_numpy(float)])[:, 0].T
    found = interval(after / before - after_against / before_against)
    return {
        "documents": len(pairs),
        "ratio": float(after[0] / before[0]),
        "ratio_against": float(after_against[0] / before_against[0]),
        **found.columns("difference"),
        "clear": found.clear,
    }
