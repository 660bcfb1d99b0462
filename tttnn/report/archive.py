"""Archived runs: result rows too costly for a live chapter, kept in the package with their provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.experiment.rows import read_rows
from tttnn.files import read_json

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "archive"


@dataclass(frozen=True)
class Archive:
    """A finished run.

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
        return {
            "model": settings["model"],
            "documents": f"{drawn['per_domain']} a domain, drawn from {drawn['split']}{limit}",
            "index": f"{about['index']['documents']:,} documents, embedder {about['index']['embedder']}",
            "settings": ", ".join(f"{name}={value}" for name, value in settings["settings"].items()),
            "switches": ", ".join(f"{name}={value}" for name, value in switched.items()),
            "commit": about["commit"],
            "device": about["device"],
            "run": f"{self.facts['start']} to {self.facts['end']}",
            "corpus fingerprint": about["corpus"]["fingerprint"][:16],
            "weights": settings["weights"][:16],
        }


def archived(name: str) -> Archive:
    """Open an archived run.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those there are.
    """
    folder = FOLDER / name
    if not (folder / "run.json").is_file():
        known = ", ".join(sorted(path.parent.name for path in FOLDER.glob("*/run.json")))
        raise ValueError(f"no archived run {name!r}: there are {known or 'none'}")
    return Archive(read_rows(folder), read_json(folder / "run.json"))
