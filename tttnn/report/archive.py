"""Archived runs: result rows too costly for a live chapter, kept in the package with their provenance.

A run has a folder, and in it one folder for each model with its rows and where they come from: what
``python -m tttnn run --out <run>/<model>`` writes. A folder of one's own is read like an archived one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.experiment.rows import read_rows
from tttnn.files import read_json
from tttnn.models.registry import find_entry
from tttnn.report.published import PILE_SETS

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "archive"


@dataclass(frozen=True)
class Archive:
    """The finished run of one model.

    Attributes
    ----------
    rows : DataFrame
        Of :func:`tttnn.experiment.run`.
    facts : dict
        Where they come from: settings, commit, versions, device, corpus, start and end.
    """

    rows: pd.DataFrame
    facts: dict[str, Any]

    def summary(self) -> dict[str, str]:
        """The facts a reader asks for first, in words."""
        settings, about = self.facts["settings"], self.facts["about"]
        drawn = about["drawn"]
        limit = f" of at most {drawn['max_bytes']:,} bytes" if drawn["max_bytes"] else ""
        switched = {name: value for name, value in settings["switches"].items() if value not in (None, False, 0.0)}
        calls = self.facts.get("calls") or [about]  # runs of earlier versions were made by one

        def all_of(name: str) -> str:
            return ", ".join(dict.fromkeys(call[name] for call in calls))

        return {
            "model": settings["model"],
            "documents": f"{drawn['per_domain']} a domain, drawn from {drawn['split']}{limit}",
            "index": f"{about['index']['documents']:,} documents, embedder {about['index']['embedder']}",
            "settings": ", ".join(f"{name}={value}" for name, value in settings["settings"].items()),
            "switches": ", ".join(f"{name}={value}" for name, value in switched.items()),
            "commit": all_of("commit"),
            "device": all_of("device"),
            "run": f"{self.facts['start']} to {self.facts['end']}",
            "corpus fingerprint": about["corpus"]["fingerprint"][:16],
            "weights": settings["weights"][:16],
        }


def archived(run: str, model: str) -> Archive:
    """Open the archived rows of one model; domains that bear the Pile's names get ours.

    Parameters
    ----------
    run : str
        Name of the run, for example ``seven-domains``, or a folder of runs of one's own.
    model : str
        Name of the model, one of :func:`archived_models`.

    Raises
    ------
    ValueError
        If there is no such run, or not with this model; the message lists what there is.
    """
    folders = _folders(run)
    if model not in folders:
        raise ValueError(f"no archived rows of {model!r} in {run!r}: there are {', '.join(archived_models(run))}")
    rows = read_rows(folders[model]).replace({"domain": PILE_SETS, "neighbour_domain": PILE_SETS})
    return Archive(rows, read_json(folders[model] / "run.json"))


def archived_models(run: str) -> list[str]:
    """Names of the models of an archived run: fewest weights first, models outside the registry last.

    Raises
    ------
    ValueError
        If there is no such run; the message lists those there are. If it has two runs of a model.
    """
    return sorted(_folders(run), key=lambda name: (find_entry(name).parameters or math.inf, name))


def archived_rows(run: str) -> pd.DataFrame:
    """The rows of all models of an archived run in one frame, in the order of :func:`archived_models`.

    Raises
    ------
    ValueError
        If there is no such run; the message lists those there are.
    """
    import pandas as pd

    return pd.concat([archived(run, model).rows for model in archived_models(run)], ignore_index=True)


def _folders(run: str) -> dict[str, Path]:
    """The folder of each model's run."""
    place, folders = FOLDER / run, {}
    for path in sorted((place if place.is_dir() else Path(run)).glob("**/run.json")):
        model = read_json(path)["settings"]["model"]
        if model in folders:
            raise ValueError(f"{run}: {folders[model]} and {path.parent} are both runs of {model}; keep one there")
        folders[model] = path.parent
    if not folders:
        known = ", ".join(sorted(path.name for path in FOLDER.iterdir()))
        raise ValueError(f"no archived run {run!r}: there are {known or 'none'}; a folder must hold run.json files")
    return folders
