"""What adapting to one document costs the model on texts of other domains, until its weights are restored."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.analysis.archive import FOLDER
from tttnn.analysis.statistics import bootstrap_ratio
from tttnn.files import read_json, write_json
from tttnn.provenance import made_here
from tttnn.rows import RowsError, plain
from tttnn.studies.forgetting import forgetting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from tttnn.experiment import DrawnDocument
    from tttnn.ttt import TTT

FILE = "forgetting.json"


def keep(
    run: str, ttt: TTT, documents: Sequence[DrawnDocument], others: Sequence[DrawnDocument],
    ks: Sequence[int] = (0, 1, 5, 20), folder: Path | None = None,
) -> None:  # fmt: skip
    """Measure what a model forgets while it adapts, and archive the rows beside a run, document by document.

    Called again after an interruption, it goes on behind the last document that is archived; RowsError if what is
    there was measured with another loop, other texts or other ks.

    Parameters
    ----------
    run : str
        Name of the archived run, such as "real/nearest".
    ttt : TTT
        With a retriever and the switches of that run.
    documents, others, ks
        As :func:`tttnn.studies.forgetting.forgetting` takes them.
    folder : Path, optional
        Default: the archive.
    """
    path, facts = (folder or FOLDER) / run / FILE, _facts(ttt, others, ks)
    kept = read_json(path) if path.is_file() else facts | {"rows": []}
    if kept["settings"] != facts["settings"]:
        raise RowsError(f"{path} was measured with other settings, texts or ks; give another folder")
    done = {(row["domain"], row["document"]) for row in kept["rows"]}
    for document in tqdm(documents, desc=f"{ttt.lm.name}: documents"):
        if (document.domain, document.number) not in done:
            kept["rows"] += forgetting(ttt, [document], others, ks)
            write_json(path, kept)


def _facts(ttt: TTT, others: Sequence[DrawnDocument], ks: Sequence[int]) -> dict[str, Any]:
    """Say what the numbers depend on besides the documents adapted to, as JSON, and where they come from."""
    from tttnn.experiment.record import identity  # loads torch, which readers of the rows do without

    texts = [[other.domain, other.number, hashlib.sha256(other.text.encode()).hexdigest()[:16]] for other in others]
    settings = identity(ttt.lm, ttt.retriever, ttt.switches) | {"others": texts, "ks": list(ks)}
    known = json.loads(json.dumps(plain(settings)))
    return {"settings": known, **made_here()}


def forgotten(run: str, folder: Path | None = None) -> pd.DataFrame:
    """What adapting does to the text itself and to texts of other domains, on the way to the last neighbour.

    Returns
    -------
    DataFrame
        One row per (text, domain, k): text ("its own" or "unrelated"), domain (adapted to; "all" for all of them),
        k, documents (adapted to), ratio, low, high (bits/byte after k neighbours over those before; 95 % interval
        over the documents adapted to).
    """
    import pandas as pd

    rows = pd.DataFrame(read_json((folder or FOLDER) / run / FILE)["rows"])
    rows["text"] = (rows["domain"] == rows["other_domain"]).map({True: "its own", False: "unrelated"})
    both = pd.concat([rows.assign(adapted=rows["domain"], domain="all"), rows.assign(adapted=rows["domain"])])
    # All unrelated texts of a document count as one: they were scored with the same weights.
    nats = both.groupby(["text", "domain", "adapted", "document", "k"], sort=False)["nats"].sum()
    made = []
    for (text, domain), part in nats.unstack("k").groupby(level=["text", "domain"], sort=False):
        for k in part.columns[1:]:
            found = bootstrap_ratio(part[k].to_numpy(), part[0].to_numpy())
            made.append((text, domain, int(k), len(part), found.value, found.low, found.high))
    return pd.DataFrame(made, columns=["text", "domain", "k", "documents", "ratio", "low", "high"])
