"""Runs side by side, of one's own and archived ones: each by itself, and in pairs on the documents they share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.analysis.advice import json_values, pooled
from tttnn.analysis.archive import FOLDER, archived, archived_models, place_of
from tttnn.analysis.statistics import before_after, ends
from tttnn.analysis.variant_effects import effects
from tttnn.errors import ParameterError
from tttnn.files import expand, read_json
from tttnn.parameters import number
from tttnn.rows import RowsError
from tttnn.studies.trial_plan import LEAST

if TYPE_CHECKING:
    import pandas as pd

TRIAL = "trial.json"  # what a trial's folder holds; its nearest neighbours are what it is compared by
NEAREST = "nearest"
TABLE = ["run", "documents", "before", "after", "ratio", "low", "high", "better"]


@dataclass(frozen=True)
class SideBySide:
    """Runs compared. Of fewer documents than LEAST there is no interval: low and high are missing.

    Attributes
    ----------
    k : int
        Neighbours.
    table : DataFrame
        One row a run: TABLE, over all of its documents.
    domains : DataFrame
        One row a run and domain: run, and the columns of `before_after`.
    pairs : DataFrame
        One row for each run but the first: run, against (the first), documents (that both have), ratio, ratio_against,
        difference (below 0: it gains more), low, high.
    unpaired : list of str
        Runs that share no document with the first.
    """

    k: int
    table: pd.DataFrame
    domains: pd.DataFrame
    pairs: pd.DataFrame
    unpaired: list[str]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {name: json_values(getattr(self, name)) for name in self.__dataclass_fields__}

    def as_text(self) -> str:
        """The table, after how many neighbours it is, and what differs on the documents that runs have in common."""
        pairs = [
            f"{row.run} against {row.against}: {_points(row.difference)} points{_span(row.low, row.high)} on the "
            f"{_documents(row.documents)} that both have; below 0 it gains more"
            for row in self.pairs.itertuples()
        ]
        first = self.table["run"].iloc[0]
        alone = [f"{name} against {first}: no document in common: not comparable" for name in self.unpaired]
        after = f"after {self.k} neighbour{'s' * (self.k != 1)} (k = {self.k})"
        return "\n".join([self.table.to_string(index=False, na_rep="–"), after, *pairs, *alone])


def side_by_side(runs: Sequence[str | Path], k: int | None = None) -> SideBySide:
    """Compare runs.

    Parameters
    ----------
    runs : sequence of str
        Names of archived runs, such as ``real/nearest``, or folders that `run`, `variants`, `sweep` or `try` wrote; a
        folder with runs goes before an archived run of its name. Each model of a run is one line.
    k : int, optional
        Neighbours; default: the most that all were scored at.

    Raises
    ------
    RowsError
        If there is no such run, or they were not scored at a common k.
    ParameterError
        If not all were scored at `k`; the message has where they were.
    """
    import pandas as pd

    parts = _opened(runs)
    places = _shared_places({name: {int(each) for each in _scored(rows)["k"]} for name, (rows, _) in parts.items()})
    k = places[-1] if k is None else number("k", k, least=1, whole=True)
    if k not in places:
        raise ParameterError(f"k={k}: all of them were scored at {', '.join(map(str, places))}")
    whole = [before_after(pooled(rows), k).assign(run=name) for name, (rows, _) in parts.items()]
    domains = [before_after(rows, k).assign(run=name) for name, (rows, _) in parts.items()]
    pairs, unpaired = _pairs(parts, k)
    table = pd.concat(whole, ignore_index=True)[TABLE]
    by_domain = pd.concat(domains, ignore_index=True)
    return SideBySide(k, _believed(table), _believed(by_domain), _believed(pairs), unpaired)


def _shared_places(scored: dict[str, set[int]]) -> list[int]:
    """Where all runs were scored, 0 aside; where there is no such place, the runs that are to blame are named."""
    if bad := [name for name, places in scored.items() if 0 not in places]:
        raise RowsError(f"{', '.join(bad)}: no score before any neighbour (k = 0), so nothing to compare with")
    if shared := sorted(set.intersection(*scored.values()) - {0}):
        return shared
    counts = Counter(k for places in scored.values() for k in places if k)
    if not counts:
        raise RowsError(f"{', '.join(scored)}: scored at 0 alone, so nothing to compare")
    most = max(counts, key=lambda k: (counts[k], k))
    lacking = [
        f"{name} (at {', '.join(map(str, sorted(places)))})" for name, places in scored.items() if most not in places
    ]
    raise RowsError(f"{', '.join(lacking)}: not scored at k = {most}, as {counts[most]} of {len(scored)} runs are")


def _believed(found: pd.DataFrame) -> pd.DataFrame:
    """The same without the intervals of too few documents."""
    spans = ["low", "high"]
    return found.assign(**{name: found[name].where(found["documents"] >= LEAST) for name in spans})


@dataclass(frozen=True)
class _Source:
    """A run: where it is, and what it is called, or, beside another of that name, by the path that was given."""

    folder: Path
    name: str
    path: str


def _opened(runs: Sequence[str | Path]) -> dict[str, tuple[pd.DataFrame, str]]:
    """Rows of each model of each run, and what corpus they are of, by a name that tells them apart."""
    sources = [(run, source) for run in runs for source in _sources(str(expand(run)))]
    called = Counter(source.name for _, source in sources)
    seen: set[Path] = set()
    found: dict[str, tuple[pd.DataFrame, str]] = {}
    for run, source in sources:
        if source.folder.resolve() in seen:
            raise ParameterError(f"runs={str(run)!r}: is there twice; give each run once")
        seen.add(source.folder.resolve())
        name = source.name if called[source.name] == 1 else source.path
        for model in archived_models(source.folder):
            archive = archived(source.folder, model)
            corpus = archive.facts["about"].get("corpus")
            print_ = corpus.get("fingerprint") if isinstance(corpus, dict) else corpus
            found[f"{name}: {model}"] = archive.rows, f"{print_} {archive.facts['about'].get('drawn', {}).get('split')}"
    return found


def _sources(given: str) -> list[_Source]:
    """The runs below a folder: one, or that of a trial, or one for each variant or rate."""
    folder = place_of(given)
    name = given if folder.is_relative_to(FOLDER) else folder.name
    if (folder / TRIAL).is_file():
        return [_Source(folder / NEAREST, name, given)]
    parts = sorted({_part(path.parent, folder) for path in folder.glob("**/run.json")})
    if not parts:
        archived_models(given)  # raises, with the name as it was given
    if parts[0] == Path():
        return [_Source(folder, name, given)]
    ordered = sorted(parts, key=lambda part: part != Path(NEAREST))  # of variants, what all are compared with is first
    return [_Source(folder / part, f"{name}/{part}", f"{given}/{part}") for part in ordered]


def _part(place: Path, folder: Path) -> Path:
    """Where a run is below a folder, apart from the folder that is named by its model, perhaps with its owner."""
    below = place.relative_to(folder)
    model = Path(read_json(place / "run.json")["settings"]["model"])
    own = below.parts[-len(model.parts) :] == model.parts
    return Path(*below.parts[: -len(model.parts)]) if own else below


def _documents(count: int) -> str:
    return f"{count} document{'s' * (count != 1)}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _span(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" ({_points(low)} to {_points(high)})"


def _scored(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["nats"].notna()]


def _pairs(parts: dict[str, tuple[pd.DataFrame, str]], k: int) -> tuple[pd.DataFrame, list[str]]:
    """Each run against the first, where both have documents of the same corpus."""
    import pandas as pd

    (first, (reference, corpus)), *others = parts.items()
    made, alone = [], []
    for name, (rows, own) in others:
        both = pd.concat([pooled(_named(rows)).assign(variant=name), pooled(_named(reference)).assign(variant=first)])
        keys = [set(ends(both[both["variant"] == each], k)["document"]) for each in (name, first)]
        if own != corpus or not keys[0] & keys[1]:
            alone.append(name)
            continue
        made.append(effects(both, {name: first}, k))
    columns = ["run", "against", "documents", "ratio", "ratio_against", "difference", "low", "high"]
    if not made:
        return pd.DataFrame(columns=columns), alone
    return pd.concat(made, ignore_index=True).rename(columns={"variant": "run"})[columns], alone


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose documents are told apart by their size, too: another text under the same number is another one."""
    size = rows.groupby(["domain", "document"])["bytes"].transform("max")
    return rows.assign(document=rows["document"].astype(str) + " of " + size.astype(str))
