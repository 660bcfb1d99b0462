"""The real model's archived runs: which rows stand for it, and what is missing from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tttnn.analysis.archive import FOLDER, archived
from tttnn.analysis.published import SEVEN
from tttnn.analysis.references import whole_of
from tttnn.analysis.statistics import ends
from tttnn.analysis.variant_effects import archived_variants
from tttnn.files import read_json

if TYPE_CHECKING:
    import pandas as pd

RUN = "real"
AGAIN = "real-again"  # a few documents of conditions of RUN, on another machine
MODEL = "smollm2-135m"
ENOUGH = 10  # documents of a domain from which a published figure is judged
# Conditions of the archived run, each learning rate's in the order of preference where both have as many documents.
PUBLISHED_RATE = ("nearest", "nearest-h200")


def at_chosen_rate(condition: str) -> str:
    """Archived name of a condition at the learning rate that was best on validation documents."""
    return condition + "-rate-1e-4"


CHOSEN_RATE = (at_chosen_rate("nearest"), at_chosen_rate("nearest") + "-h200")
BY_MINILM = at_chosen_rate("minilm")  # as the first of them, but the neighbours are the nearest by all-MiniLM-L6-v2
LABELS = {
    "nearest": "nearest", "nearest-h200": "nearest, on an H200",
    "random-domain": "drawn at random from the domain", "random": "drawn at random from the corpus",
    "other-units": "nearest outside the own unit",
    CHOSEN_RATE[0]: "nearest, chosen rate", CHOSEN_RATE[1]: "nearest, chosen rate, on an H200",
    BY_MINILM: "nearest by all-MiniLM-L6-v2, chosen rate",
    at_chosen_rate("random-domain"): "drawn at random from the domain, chosen rate",
    at_chosen_rate("random"): "drawn at random from the corpus, chosen rate",
    at_chosen_rate("other-units"): "nearest outside the own unit, chosen rate",
}  # fmt: skip


def fullest(rows: pd.DataFrame, conditions: Sequence[str], k: int) -> pd.DataFrame:
    """For each domain, the rows of the condition with most documents; of equal ones, the first.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`tttnn.analysis.variant_effects.archived_variants`.
    conditions : sequence of str
        Those that may stand for one another; one that has no rows is passed over.
    k : int
        Only documents scored at 0 and k count.
    """
    import pandas as pd

    kept = []
    for _, part in rows[rows["variant"].isin(conditions)].groupby("domain", sort=True):
        own = {name: part[part["variant"] == name] for name in conditions}
        kept.append(max(own.values(), key=lambda rows: len(ends(rows, k))))  # the first of equal ones
    return pd.concat(kept, ignore_index=True) if kept else rows.iloc[:0]


def real_rows(k: int, conditions: Sequence[str] = PUBLISHED_RATE, run: str = RUN, model: str = MODEL) -> pd.DataFrame:
    """The rows that stand for the real model: see :func:`fullest`, with the run and condition in column `run`."""
    rows = fullest(archived_variants(run, model), conditions, k)
    return rows.assign(run=run + "/" + rows["variant"])


def resting_on(lines: pd.DataFrame, real: pd.DataFrame, run: str) -> list[str]:
    """What each line of a table of results rests on: ``24 (2 chunks, H200)``, documents first.

    Parameters
    ----------
    lines : DataFrame
        Columns model, domain (or a part of one, such as ``europarl (English)``) and documents.
    real : DataFrame
        Of :func:`real_rows`: the real model's runs differ from domain to domain.
    run : str
        Archived run of all other models.
    """
    runs = real.groupby("domain")["run"].first() if len(real) else {}
    model = real["model"].iloc[0] if len(real) else None

    def conditions(line: Any) -> str:
        own = line.model == model
        return archived(runs[whole_of(line.domain)] if own else run, line.model).conditions

    return [f"{line.documents} ({conditions(line)})" for line in lines.itertuples()]


def unfinished(rows: pd.DataFrame, k: int, domains: Sequence[str] = SEVEN) -> str:
    """Name the domains that have fewer documents than a figure needs, in words; empty if there is none."""
    counts = ends(rows, k)["domain"].value_counts()
    short = [(name, int(counts.get(name, 0))) for name in domains if counts.get(name, 0) < ENOUGH]
    return ", ".join(f"{name} ({count or 'none'} of {ENOUGH})" for name, count in short)


def prefix_effect() -> pd.DataFrame:
    """How much the token before a text matters: by domain, of the real model as it is.

    Returns
    -------
    DataFrame
        One row a domain: documents, change (nats with the end-of-sequence token before the text / with the
        beginning-of-sequence token - 1), apart (largest difference to the row of the other machine, which has the
        former, as a share of it).
    """
    import pandas as pd

    rows = pd.DataFrame(read_json(FOLDER / RUN / "prefix.json")["rows"])
    rows["apart"] = (rows["eos"] / rows["h200"] - 1).abs()
    sums = rows.groupby("domain")[["bos", "eos"]].sum()
    each = rows.groupby("domain")
    made = {"documents": each.size(), "change": sums["eos"] / sums["bos"] - 1, "apart": each["apart"].max()}
    return pd.DataFrame(made).reset_index()


def computed_again(condition: str = PUBLISHED_RATE[1], model: str = MODEL) -> pd.DataFrame:
    """Scores of documents that were run anew on another machine, beside those of the archived run.

    Returns
    -------
    DataFrame
        One row a score: domain, document, k, neighbour and neighbour_again, nats and nats_again, apart (the difference
        of the two as a share of the former).
    """
    key = ["domain", "document", "k"]
    columns = [*key, "neighbour", "nats"]
    there, anew = (archived(f"{run}/{condition}", model).rows[columns] for run in (RUN, AGAIN))
    both = there.merge(anew, on=key, suffixes=("", "_again")).dropna(subset=["nats", "nats_again"])
    return both.assign(apart=(both["nats_again"] / both["nats"] - 1).abs())


def rates(run: str = RUN) -> pd.DataFrame:
    """Learning rates tried on validation documents, of which the chosen one is the best.

    Returns
    -------
    DataFrame
        One row a rate: learning_rate, and after / before (sum of nats) at each k > 0 in a column named "k = ...".
        `attrs` holds the other facts of the sweep, such as the number of documents, and after / before at the last k
        in the mean over domains ("mean_of_domains").
    """
    import pandas as pd

    facts = read_json(FOLDER / run / "sweep.json")
    ratios = facts.pop("ratio_to_k0")
    made = pd.DataFrame([
        {"learning_rate": float(rate), **{f"k = {k}": ratio for k, ratio in by_k.items() if k != "0"}}
        for rate, by_k in ratios.items()
    ])  # fmt: skip
    made.attrs = facts
    return made.sort_values("learning_rate", ignore_index=True)
