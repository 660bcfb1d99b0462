"""Tokens that cost a model more than a uniform guess: how many there are, and how many of the bits they hold.

A model whose tokenizer saw a kind of text and whose weights did not gives such tokens less than the chance that it
would have by guessing. The first gradient steps then teach it that they exist, which brings many bits and is no sign of
retrieval.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tttnn.analysis.archive import FOLDER, check_made_with
from tttnn.files import read_json, write_json
from tttnn.studies.dear_tokens import COLUMNS, measure

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel

FILE = "dear_tokens.json"


def keep(run: str, lm: LanguageModel, corpus: Corpus) -> None:
    """Measure a model on the documents of an archived run, and archive the numbers beside it, in place of earlier ones.

    For maintainers, in a checkout: ``python -c "from tttnn import load_model, open_corpus; from
    tttnn.analysis.dear_tokens import keep; keep('seven-domains', load_model('gpt2-xs-general'),
    open_corpus('folder/of/the/corpus'))"``.

    Raises
    ------
    RowsError
        If the run was made on another corpus, or with other weights.
    """
    drawn = check_made_with(run, lm, corpus)["about"]["drawn"]
    path = FOLDER / run / FILE
    known = read_json(path) if path.is_file() else {}
    how = drawn["per_domain"], drawn["seed"], drawn["split"], drawn.get("max_bytes")
    write_json(path, known | {lm.name: measure(lm, corpus, *how)})


def dear_shares(run: str) -> pd.DataFrame:
    """How many tokens of an archived run's documents cost more than a guess, and which share of the bits they hold.

    Returns
    -------
    DataFrame
        One row per (model, domain): documents, tokens (share that cost more than a guess), bits (share that these
        hold), before (bits/byte), without (bits/byte if each of them cost no more than a guess).
    """
    import pandas as pd

    kept = read_json(FOLDER / run / FILE)
    rows = pd.DataFrame([row for each in kept.values() for row in each["documents"]], columns=COLUMNS)
    sums = rows.groupby(["model", "domain"], sort=False)[list(COLUMNS[3:])].sum()
    guess = sums.index.get_level_values("model").map(lambda name: math.log(kept[name]["entries"]))
    capped = sums["nats"] - sums["dear_nats"] + sums["dear"] * guess
    made = {
        "documents": rows.groupby(["model", "domain"]).size(), "tokens": sums["dear"] / sums["tokens"],
        "bits": sums["dear_nats"] / sums["nats"], "before": sums["nats"] / sums["bytes"] / math.log(2),
        "without": capped / sums["bytes"] / math.log(2),
    }  # fmt: skip
    return pd.DataFrame(made).reset_index()
