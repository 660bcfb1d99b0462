"""Archived runs: result rows too costly for a live chapter, kept in the package with their provenance.

A run has a folder, and in it one folder for each model with its rows and where they come from: what
``python -m tttnn run --out <run>/<model>`` writes. A folder of one's own is read like an archived one, and goes before
one of the same name: see :func:`place_of`.

:func:`keep` puts a run there. It may be unfinished: what it has so far is shown, and called again it adds the rest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.analysis.published import PILE_SETS
from tttnn.files import expand, read_json, write_json, writing
from tttnn.models.model_registry import find_entry
from tttnn.rows import JOURNAL, TABLE, RowsError, read_journal, read_rows

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel

FOLDER = Path(__file__).parent / "archive"

log = logging.getLogger(__name__)


def place_of(run: str | Path) -> Path:
    """The folder of a run: one's own of that name, if there are runs in it, and otherwise an archived one.

    A folder of one's own that has the name of an archived run, such as ``variants`` in the folder where one works, is
    taken, and a warning says so.

    Parameters
    ----------
    run : str or Path
        Name of an archived run, or a folder; ``~`` is home.

    Returns
    -------
    Path
        Absolute, so that whatever lies below it is read from the same place. It need not exist.
    """
    own, kept = Path(expand(run)).absolute(), FOLDER / expand(run)
    if kept == own or not kept.is_dir():
        return own
    if next(own.glob("**/run.json"), None) is None:
        return kept
    log.warning("%s: read from %s, and not from the archived run of this name", run, own)
    return own


@dataclass(frozen=True)
class Archive:
    """The run of one model.

    Attributes
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`.
    facts : dict
        Where they come from: settings, commit, versions, device, corpus, start and end (None: unfinished when its rows
        were taken); of a run in parts also `parts`, with what differs between them.
    """

    rows: pd.DataFrame
    facts: dict[str, Any]

    @property
    def documents(self) -> pd.Series:
        """Number of documents evaluated, by domain."""
        return self.rows.groupby("domain")["document"].nunique()

    @property
    def conditions(self) -> str:
        """What was trained on at most of each neighbour, and on what: ``2 chunks, H200``."""
        chunks = self.facts["settings"]["switches"].get("max_chunks")
        much = f"{chunks} chunk{'s' * (chunks != 1)}" if chunks else "all chunks"
        return f"{much}, {_processor(_calls(self.facts)[0])}"

    @property
    def sample(self) -> str:
        """What a figure of this run rests on: ``30 documents a domain, 2 chunks, CPU``; see `conditions`."""
        fewest, most = self.documents.min(), self.documents.max()
        return f"{fewest}{f' to {most}' if most > fewest else ''} documents a domain, {self.conditions}"

    def summary(self) -> dict[str, str]:
        """The facts a reader asks for first, in words."""
        settings, about = self.facts["settings"], self.facts["about"]
        drawn = about["drawn"]
        limit = f" of at most {drawn['max_bytes']:,} bytes" if drawn["max_bytes"] else ""
        taken = self.documents
        short = "" if (taken == drawn["per_domain"]).all() else "; here so far: "
        short += ", ".join(f"{count} of {domain}" for domain, count in taken.items()) if short else ""
        switched = {name: value for name, value in settings["switches"].items() if value not in (None, False, 0.0)}
        calls = _calls(self.facts)

        def all_of(name: str) -> str:
            return ", ".join(dict.fromkeys(call[name] for call in calls))

        return {
            "model": settings["model"],
            "documents": f"{drawn['per_domain']} a domain, drawn from {drawn['split']}{limit}{short}",
            "index": f"{about['index']['documents']:,} documents, embedder {about['index']['embedder']}",
            "settings": ", ".join(f"{name}={value}" for name, value in settings["settings"].items()),
            "switches": ", ".join(f"{name}={value}" for name, value in switched.items()),
            "commit": all_of("commit"),
            "device": all_of("device"),
            "run": f"{self.facts['start']} to {self.facts['end'] or 'a time before it had finished'}",
            "corpus fingerprint": about["corpus"]["fingerprint"][:16],
            "weights": settings["weights"][:16],
        }


def archived(run: str | Path, model: str) -> Archive:
    """Open the archived rows of one model; domains that bear the Pile's names get ours.

    Parameters
    ----------
    run : str or Path
        Name of the run, for example ``seven-domains``, or a folder of runs of one's own; see :func:`place_of`.
    model : str
        Name of the model, one of :func:`archived_models`.

    Raises
    ------
    RowsError
        If there is no such run, or not with this model; the message lists what there is.
    """
    folders = _folders(run)
    if model not in folders:
        raise RowsError(f"no archived rows of {model!r} in {str(run)!r}: there are {', '.join(archived_models(run))}")
    rows = read_rows(folders[model]).replace({"domain": PILE_SETS, "neighbour_domain": PILE_SETS})
    return Archive(rows, read_json(folders[model] / "run.json"))


def archived_models(run: str | Path) -> list[str]:
    """Names of the models of an archived run: fewest weights first, models outside the registry last.

    Raises
    ------
    RowsError
        If there is no such run; the message lists those there are. If it has two runs of a model.
    """
    return sorted(_folders(run), key=lambda name: (find_entry(name).parameters or math.inf, name))


def archived_rows(run: str | Path) -> pd.DataFrame:
    """The rows of all models of an archived run in one frame, in the order of :func:`archived_models`.

    Raises
    ------
    RowsError
        If there is no such run; the message lists those there are.
    """
    import pandas as pd

    return pd.concat([archived(run, model).rows for model in archived_models(run)], ignore_index=True)


def keep(folders: Sequence[str | Path], run: str) -> Path:
    """Take the rows that a run has so far into the archive, in place of those kept from it before.

    For maintainers, in a checkout:
    ``python -c "from tttnn.analysis.archive import keep; keep(['results/nearest'], 'real/nearest')"``.

    Parameters
    ----------
    folders : sequence of path
        What ``python -m tttnn run`` writes, finished or not; several are parts of one run, which differ in
        their documents only. The run's own folder in the archive may be one of them: the others add to it.
    run : str
        Its name in the archive, such as ``real/nearest``.

    Returns
    -------
    Path
        The folder of the run in the archive.

    Raises
    ------
    RowsError
        If a folder is no run's, there are no rows yet, parts have other settings, or a document is in two of them.
        What an earlier version did not write down about a run counts as equal.
    """
    import pandas as pd

    for folder in folders:
        if not (Path(folder) / "run.json").is_file():
            raise RowsError(f"{Path(folder) / 'run.json'}: no such file; give folders that a run writes to")
    parts = [read_json(Path(folder) / "run.json") for folder in folders]
    if not all(_agree(_stated(part["settings"]), _stated(parts[0]["settings"])) for part in parts):
        raise RowsError(f"{', '.join(map(str, folders))}: runs with other settings; keep each under a name of its own")
    rows = pd.concat([_rows_so_far(Path(folder)) for folder in folders], ignore_index=True)
    if rows.empty:
        raise RowsError(f"{', '.join(map(str, folders))}: no document is finished yet")
    twice = rows[rows.duplicated(["domain", "document", "k"])]
    if len(twice):
        raise RowsError(f"{twice['domain'].iloc[0]} {twice['document'].iloc[0]} is in two of the folders; give one")
    place = FOLDER / run / parts[0]["settings"]["model"]
    place.mkdir(parents=True, exist_ok=True)
    with writing(place / TABLE) as partial:
        rows.to_parquet(partial, index=False)
    write_json(place / "run.json", _joined(parts))
    return place


def check_made_with(run: str, lm: LanguageModel, corpus: Corpus) -> dict[str, Any]:
    """Return the facts of a model's archived run if it was made with these weights, on this corpus.

    Raises
    ------
    RowsError
        If it was made with others, so that nothing measured now belongs beside its rows.
    """
    from tttnn.retrieval import corpus_fingerprint

    facts: dict[str, Any] = read_json(FOLDER / run / lm.name / "run.json")
    if corpus_fingerprint(corpus) != facts["about"]["corpus"]["fingerprint"]:
        raise RowsError(f"{run}: made on another corpus than {corpus.name}; give the one it was made on")
    if lm.weight_hash() != facts["settings"]["weights"]:
        raise RowsError(f"{run}: made with other weights of {lm.name}; give those it was made with")
    return facts


def strategy_of(facts: dict[str, Any]) -> str:
    """The strategy by which a run chose its neighbours."""
    retriever = _stated(facts["settings"]).get("retriever")
    return str(retriever.get("strategy", "nearest")) if isinstance(retriever, dict) else "nearest"


def _rows_so_far(folder: Path) -> pd.DataFrame:
    return read_journal(folder) if (folder / JOURNAL).is_file() else read_rows(folder)


def _stated(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run as this version writes them, and no switch that only repeats or replaces a setting."""
    own, switches = settings.get("settings", {}), settings.get("switches", {})
    stated = {**settings, "settings": own | {name: switches[name] for name in own if switches.get(name) is not None}}
    stated.pop("order", None)  # of a part's documents, where the optimizer is kept
    stated["switches"] = {name: value for name, value in switches.items() if name not in own}
    if isinstance(found := settings.get("retriever"), str):  # of an earlier version: corpus-embedder[-strategy-seed]
        corpus, embedder, *chosen = found.split("-", 2)
        stated["retriever"] = {"corpus": corpus, "embedder": embedder}
        if chosen:
            strategy, _, seed = chosen[0].rpartition("-")
            stated["retriever"] |= {"strategy": strategy, "seed": int(seed)}
    return stated


def _agree(one: Any, other: Any) -> bool:
    """Whether two values are equal as far as both say; only a strategy must be named by both, or by none."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one == other
    both = one.keys() & other.keys()
    return "strategy" not in one.keys() ^ other.keys() and all(_agree(one[name], other[name]) for name in both)


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of a run that was made in parts.

    They are those of the first part, its first start, the last end, and of each part what may differ.
    """
    names = ("about", "start", "end", "calls")
    rest = [{name: part[name] for name in names if name in part} for run in parts for part in run.get("parts") or [run]]
    ends = [part["end"] for part in rest]
    span = {"start": min(part["start"] for part in rest), "end": None if None in ends else max(ends)}
    joined = {name: value for name, value in parts[0].items() if name != "calls"}
    return joined | span | {"parts": rest} if len(rest) > 1 else parts[0]


def _calls(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that made a run, with the commit and device of each; a run of an earlier version was made by one."""
    return [call for part in facts.get("parts") or [facts] for call in part.get("calls") or [part["about"]]]


def _processor(call: dict[str, Any]) -> str:
    """What a call computed on: ``CPU``, ``H200``; one of an earlier version says only which GPUs its machine has."""
    machine = (call.get("workers") or [call["device"]])[0]
    cards, (kind, _, number) = machine.rpartition("GPU: ")[2], call.get("model_device", "").partition(":")
    if kind == "cpu" or cards in ("", "none"):
        return "CPU"
    card = cards.split(", ")[int(number or 0)] if kind else cards
    return str(card.removeprefix("NVIDIA "))


def _folders(run: str | Path) -> dict[str, Path]:
    """The folder of each model's run."""
    folders: dict[str, Path] = {}
    for path in sorted(place_of(run).glob("**/run.json")):
        model = read_json(path)["settings"]["model"]
        if model in folders:
            raise RowsError(f"{run}: {folders[model]} and {path.parent} are both runs of {model}; keep one there")
        folders[model] = path.parent
    if not folders:
        known = ", ".join(sorted(path.name for path in FOLDER.iterdir()))
        raise RowsError(f"no archived run {str(run)!r}: there are {known or 'none'}; a folder must hold run.json files")
    return folders
