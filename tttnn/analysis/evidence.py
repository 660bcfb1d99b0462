"""What a verdict rests on: rows of several models, resampled together, and the words and numbers of a finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from tttnn.analysis.deflate import deflate_of
from tttnn.analysis.references import PARTS, with_languages
from tttnn.analysis.statistics import RESAMPLES, SEED, Interval, ends, resampled_sums

if TYPE_CHECKING:
    import pandas as pd

MODELS = MappingProxyType({
    "main": "gpt2-xs-general", "small": "gpt2-xxs-general", "large": "gpt2-xs-general", "trained": "gpt2-xs-pile",
    "reasoning": "qwen2-xs-reasoning", "real": "smollm2-135m",
})  # fmt: skip
LEAST_DOCUMENTS = 5  # documents a domain must have for an interval to mean anything


class Verdict(StrEnum):
    """What the numbers say about a claim."""

    CONFIRMED = "confirmed"
    DIRECTION = "confirmed in direction"
    NOT = "not confirmed"
    UNTESTABLE = "cannot be tested here"


class Untestable(LookupError):
    """There is no data for a claim; the message says what is missing."""


def domains_read(model: str, among: Iterable[str]) -> set[str]:
    """Which of some domains a model read in pre-training.

    Parameters
    ----------
    model : str
        One of ours is asked for the settings of its pre-training; for any other the registry's word counts, which is
        for all domains alike. What nothing is known of has read none.
    among : iterable of str
    """
    from tttnn.models import find_entry
    from tttnn.pretraining import load_settings

    entry = find_entry(model)
    if entry.embedded:
        return {source.domain for source in load_settings(model).train} & set(among)
    return set(among) if entry.saw_domains.startswith("yes") else set()


def new_domains(model: str, trained: str, among: Iterable[str]) -> list[str]:
    """The domains that `trained` read in pre-training and `model` did not, in alphabetical order."""
    among = set(among)
    return sorted(domains_read(trained, among) - domains_read(model, among))


@dataclass(frozen=True)
class Finding:
    """What was measured for one claim.

    Attributes
    ----------
    strong, weak : bool
        Whether the rule's condition for "confirmed", and for "confirmed in direction", holds.
    measured, origin, reason : str
        The number in words, the run, model and domain it comes from, and why the verdict follows.
    interval : Interval
        The number itself; missing bounds where nothing was sampled.
    """

    strong: bool
    weak: bool
    measured: str
    origin: str
    reason: str
    interval: Interval

    @property
    def verdict(self) -> Verdict:
        """What the stronger of the conditions that hold stands for; not confirmed where neither does."""
        return Verdict.CONFIRMED if self.strong else Verdict.DIRECTION if self.weak else Verdict.NOT


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may rest on.

    Attributes
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, all models in one frame. A column `run` names the run of rows
        from elsewhere.
    run : str
        The name of all others, for the column ``origin``.
    k : int
        Neighbours trained on.
    memory : DataFrame, optional
        Rows of :func:`tttnn.studies.footprint.footprint` on documents of a few characters.
    models : mapping of str to str
        Which model plays which part: main, small, large, trained (saw the domains), reasoning, real (pre-trained by
        others at full scale). Wherever a part is asked for, a model's own name will do.
    deflate : DataFrame, optional
        Of :func:`tttnn.analysis.deflate.archived_deflate`; without it no model counts as worse than deflate.
    cost : DataFrame, optional
        Rows of ``bench/neighbours.py``: see :func:`tttnn.analysis.timings.bench_rows`.
    unseen : sequence of str, optional
        Domains that the main model did not see in pre-training and the trained one did; default: :func:`new_domains`.
    resamples, seed : int
        Of the bootstrap.
    """

    rows: pd.DataFrame
    run: str
    k: int = 20
    memory: pd.DataFrame | None = None
    models: Mapping[str, str] = field(default_factory=lambda: MODELS)
    deflate: pd.DataFrame | None = None
    cost: pd.DataFrame | None = None
    unseen: Sequence[str] | None = None
    resamples: int = RESAMPLES
    seed: int = SEED

    def name(self, role: str) -> str:
        """The model that plays `role`."""
        return self.models.get(role, role)

    def of(self, role: str) -> pd.DataFrame:
        """Rows of the model that plays `role`; Untestable if there are none."""
        rows = self.rows[self.rows["model"] == self.name(role)]
        if rows.empty:
            raise Untestable(f"no rows of {self.name(role)}")
        return rows

    def new_domains(self) -> list[str]:
        """Domains that the trained model read in pre-training and the main one did not."""
        if self.unseen is not None:
            return list(self.unseen)
        return new_domains(self.name("main"), self.name("trained"), self.of("main")["domain"].unique())

    def sums(self, columns: Sequence[tuple[str, int]], domains: Sequence[str] = ()) -> tuple[list[str], np.ndarray]:
        """Nats by domain, as measured and resampled, over the documents that have every one of `columns`.

        Documents of two models are the same if domain, number and size are.

        Parameters
        ----------
        columns : sequence of (role, k)
        domains : sequence of str
            Default: all that have such documents.

        Returns
        -------
        tuple of list and ndarray
            The domains, and :func:`resampled_sums`, shape (1 + resamples, domains, columns).

        Raises
        ------
        Untestable
            If a model, a k or a domain is not there, or a domain has fewer than LEAST_DOCUMENTS documents.
        """
        scores = [self._nats(role, k) for role, k in columns]
        shared = set.intersection(*(set(nats.index) for nats in scores))
        groups = {domain: sorted(d for d in shared if d[0] == domain) for domain, *_ in sorted(shared)}
        return self.resample({
            domain: np.column_stack([nats.loc[group] for nats in scores]) for domain, group in groups.items()
        }, domains)  # fmt: skip

    def resample(self, groups: Mapping[str, np.ndarray], domains: Sequence[str] = ()) -> tuple[list[str], np.ndarray]:
        """Resample the documents of some of `groups`, by default of all; see :meth:`sums`."""
        names = list(domains or groups)
        for name in names:
            if (count := len(groups.get(name, ()))) < LEAST_DOCUMENTS:
                raise Untestable(f"{count} documents of {name}, and an interval needs {LEAST_DOCUMENTS}")
        if not names:
            raise Untestable("no document has all the scores")
        return names, resampled_sums([groups[name] for name in names], self.resamples, self.seed)

    def documents(self, role: str) -> dict[str, int]:
        """How many documents of each domain a model has at 0 and k; none if it has no rows."""
        rows = self.rows[self.rows["model"] == self.name(role)]
        return ends(rows, self.k)["domain"].value_counts().to_dict()

    def beaten(self, role: str, domain: str) -> str:
        """How the model as it is compares with deflate on a domain, in words; empty unless it needs more bits.

        A domain of several languages is asked for each of them, too: a model that knows one of them well could hide
        that it has to learn the other.
        """
        parted, sizes = with_languages(self.of(role), self.deflate)
        for name in (domain, *PARTS.get(domain, ())):
            rows = parted.query("domain == @name and k == 0 and nats.notna()", local_dict={"name": name})
            (floor,) = deflate_of(rows, sizes, [name])
            if floor is not None and (bits := rows["nats"].sum() / rows["bytes"].sum() / np.log(2)) > floor:
                return f"{self.name(role)} starts at {bits:.2f} bits/byte on {name}, and deflate needs {floor:.2f}"
        return ""

    def bits(self, roles: Sequence[str], domain: str) -> list[float]:
        """Bits per byte of models as they are on a domain, over the documents that all of them have."""
        scored = [self.of(role).query("domain == @domain and k == 0 and nats.notna()", local_dict={"domain": domain})
                  .set_index("document")[["nats", "bytes"]] for role in roles]  # fmt: skip
        shared = sorted(set.intersection(*(set(rows.index) for rows in scored)))
        sums = [rows.loc[shared].sum() for rows in scored]
        return [float(each["nats"] / each["bytes"] / np.log(2)) for each in sums]

    def _nats(self, role: str, k: int) -> pd.Series:
        rows = self.of(role)
        # By size, too: another text under the same number is another document.
        scored = rows[(rows["k"] == k) & rows["nats"].notna()].set_index(["domain", "document", "bytes"])
        if scored.empty:
            raise Untestable(f"{self.name(role)} was not scored at k = {k}")
        return scored["nats"]

    def origin(self, *roles: str, domains: Sequence[str] = ()) -> str:
        """Run, models and domains in words."""
        models = list(dict.fromkeys(self.name(role) for role in roles))
        rows = self.rows[self.rows["model"].isin(models)]
        rows = rows[rows["domain"].isin(domains)] if domains else rows
        runs = rows["run"].fillna(self.run).unique() if "run" in rows else [self.run]
        return " / ".join([" and ".join(runs), " and ".join(models), ", ".join(domains) or "all domains"])
