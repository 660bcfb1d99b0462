"""How a way to score or to average changes after / before, with nothing trained differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tttnn.analysis.archive import FOLDER, check_made_with, place_of, strategy_of
from tttnn.analysis.statistics import ends, interval, resampled_sums
from tttnn.files import read_json, write_json
from tttnn.rows import RowsError

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel

FILE = "scored_in_ways.json"

# What a way to score is called, and of `tttnn.studies.quirks.scored_in_ways` the bits that it gives and those that they
# are compared with.
WAYS = {"vocabulary cut": ("cut", "inside"), "half the context": ("short", "bits")}


def keep(run: str, lm: LanguageModel, corpus: Corpus, share: float, domains: Sequence[str] | None = None) -> None:
    """Score an archived run's documents in several ways, adapted as they were in it, and archive the bits beside it.

    For maintainers, in a checkout: ``python -c "from tttnn import load_model, open_corpus; from
    tttnn.analysis.scoring_effects import keep; keep('seven-domains', load_model('qwen2-xs-reasoning'),
    open_corpus('folder/of/the/corpus'), 50_257 / 151_936, ['github'])"``.

    Parameters
    ----------
    run : str
    lm : LanguageModel
    corpus : Corpus
        The one that the run was made on.
    share : float
        Of the vocabulary's entries, that a cut one keeps.
    domains : sequence of str, optional
        Default: all. Those archived earlier stay.

    Raises
    ------
    RowsError
        If the run was made on another corpus, with other weights, by another method or with other neighbours than the
        nearest, or its documents archived earlier were scored at another k or with another share.
    """
    from tttnn.experiment import draw_documents
    from tttnn.provenance import made_here
    from tttnn.retrieval import open_retriever
    from tttnn.studies.quirks import scored_in_ways
    from tttnn.ttt import TTT, Switches

    path, facts = FOLDER / run / FILE, check_made_with(run, lm, corpus)
    known = read_json(path) if path.is_file() else {}
    about, settings, kept = facts["about"], facts["settings"], known.get(lm.name, {})
    drawn, k, entries = about["drawn"], settings["ks"][-1], round(share * len(lm.head[0]))
    _check_adapted(run, facts)
    same = {"k": k, "entries": entries, "weights": settings["weights"]}
    if other := [name for name, value in same.items() if kept.get(name, value) != value]:
        raise RowsError(f"{path}: holds {lm.name} with other {' and '.join(other)}; give those, or remove it there")
    retriever = open_retriever(corpus, about["index"]["embedder"])
    ttt = TTT(lm, retriever, Switches(**settings["switches"]))
    made = same | made_here()
    documents, chosen = kept.get("documents", []), domains or drawn.get("domains")
    for document in draw_documents(
        corpus, drawn["per_domain"], drawn["seed"], drawn["split"], drawn.get("max_bytes"), chosen
    ):
        neighbours = [neighbour.text for neighbour in retriever.neighbours(document.text, k)]
        bits = scored_in_ways(ttt, document.text, neighbours, entries)
        documents = [
            each for each in documents if (each["domain"], each["document"]) != (document.domain, document.number)
        ]
        documents.append({"domain": document.domain, "document": document.number, **bits})
    write_json(path, known | {lm.name: made | {"documents": documents}})


def _check_adapted(run: str, facts: dict[str, Any]) -> None:
    """Refuse a run whose documents were not adapted on their nearest neighbours."""
    for name, used, done in (
        ("method", facts["settings"].get("method", "ttt"), "ttt"), ("strategy", strategy_of(facts), "nearest"),
    ):  # fmt: skip
        if used != done:
            raise RowsError(f"{run}: made by {name} {used!r}; only {done!r} can be scored in other ways")


def archived_ways(run: str, model: str) -> pd.DataFrame | None:
    """What :func:`keep` archived: a row for each document; None if there is nothing of this model."""
    import pandas as pd

    path = place_of(run) / FILE
    kept = read_json(path).get(model) if path.is_file() else None
    if kept is None:
        return None
    made = pd.DataFrame(kept.pop("documents"))
    made.attrs = kept
    return made


def scoring_effects(measured: pd.DataFrame) -> pd.DataFrame:
    """What each way to score makes of after / before, on the same documents and the same adapted weights.

    Parameters
    ----------
    measured : DataFrame
        A row for each document: domain, and the values of :func:`tttnn.studies.quirks.scored_in_ways`.

    Returns
    -------
    DataFrame
        One row per (way, domain), all domains together last: way, domain, documents, ratio_against (sum of bits after /
        before, scored as this book does), ratio (scored that way), difference with its 95% interval low, high over
        resampled documents. A cut vocabulary is compared on the tokens that it can score.
    """
    import pandas as pd

    parts = [*measured.groupby("domain", sort=True), ("all", measured)]
    return pd.DataFrame([
        {"way": way, "domain": domain, "documents": len(part), **_compared(part, *names)}
        for way, names in WAYS.items() for domain, part in parts
    ])  # fmt: skip


def _compared(part: pd.DataFrame, name: str, against: str) -> dict[str, float]:
    columns = [f"{each}_{when}" for each in (name, against) for when in ("before", "after")]
    before, after, before_against, after_against = resampled_sums([part[columns].to_numpy(float)])[:, 0].T
    ratio, ratio_against = after / before, after_against / before_against
    found = interval(ratio - ratio_against)
    ratios = {"ratio_against": float(ratio_against[0]), "ratio": float(ratio[0])}
    return ratios | found.columns("difference")


def dropping(rows: pd.DataFrame, k: int, share: float) -> pd.DataFrame:
    """How far after / before can move where some documents are left out in the worst way.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~tttnn.experiment.runner.run`, one model.
    k : int
    share : float
        Of a domain's documents, rounded down, that may be left out.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, dropped (how many may be), ratio (of all), lowest and highest (of what is
        left, over all choices of that many).
    """
    import pandas as pd

    made = []
    for domain, (before, after) in document_nats(rows, k).items():
        kept = len(before) - math.floor(share * len(before) + 1e-9)
        bounds = {name: _extreme(before, after, kept, sign) for name, sign in (("lowest", 1), ("highest", -1))}
        ratio = after.sum() / before.sum()
        made.append(
            {"domain": domain, "documents": len(before), "dropped": len(before) - kept, "ratio": ratio, **bounds}
        )
    return pd.DataFrame(made)


def _extreme(before: np.ndarray, after: np.ndarray, kept: int, sign: int) -> float:
    """The lowest (sign 1) or highest (sign -1) ratio of sums over `kept` documents, by Dinkelbach's method."""
    ratio = after.sum() / before.sum()
    while True:
        chosen = np.argsort(sign * (after - ratio * before), kind="stable")[:kept]
        found = after[chosen].sum() / before[chosen].sum()
        if sign * (ratio - found) < 1e-12:
            return float(found)
        ratio = found


def averages(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """After / before of a corpus, and as a mean over documents.

    Returns
    -------
    DataFrame
        One row a domain: domain, documents, ratio_against (ratio of sums), mean (of the documents' own ratios),
        difference (mean - ratio of sums) with its 95% interval low, high over resampled documents.
    """
    import pandas as pd

    made = []
    for domain, (before, after) in document_nats(rows, k).items():
        columns = np.stack([before, after, after / before, np.ones_like(before)], axis=1)
        sums = resampled_sums([columns])[:, 0].T
        ratio, mean = sums[1] / sums[0], sums[2] / sums[3]
        bounds = interval(mean - ratio).columns("difference")
        values = {"ratio_against": ratio[0], "mean": mean[0]}
        made.append({"domain": domain, "documents": len(before), **values, **bounds})
    return pd.DataFrame(made)


def document_nats(rows: pd.DataFrame, k: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nats of the documents before and after, by domain."""
    parts = ends(rows, k).groupby("domain", sort=True)
    return {str(name): (part["before"].to_numpy(), part["after"].to_numpy()) for name, part in parts}


def one_token_chunks(rows: pd.DataFrame) -> pd.DataFrame:
    """How often a last chunk of one token came up, by model.

    Returns
    -------
    DataFrame
        One row a model: model, neighbours, chunks (steps taken, and one-token chunks left out), one_token (how many
        were), share (of neighbours).
    """
    trained = rows[rows["k"] > 0]
    made = trained.groupby("model", sort=False).agg(
        neighbours=("k", "size"), steps=("steps", "sum"), one_token=("skipped", "sum")
    )  # fmt: skip
    made.insert(1, "chunks", made.pop("steps") + made["one_token"])
    return made.assign(share=made["one_token"] / made["neighbours"]).reset_index()
