"""Tokens that a model, before it adapts, finds dearer than a uniform guess over its vocabulary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.provenance import made_here

if TYPE_CHECKING:
    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel

COLUMNS = ("model", "domain", "document", "bytes", "tokens", "dear", "nats", "dear_nats")


def measure(
    lm: LanguageModel, corpus: Corpus, per_domain: int, seed: int, split: str = "test", max_bytes: int | None = None
) -> dict[str, Any]:
    """Score documents with a model as it is, and count the tokens that cost it more than a uniform guess.

    Parameters
    ----------
    lm : LanguageModel
    corpus, per_domain, seed, split, max_bytes
        As the documents of a run were drawn: see :func:`tttnn.experiment.draw_documents`.

    Returns
    -------
    dict
        JSON values: where the numbers come from, `entries` (of the model's vocabulary, so that a guess costs the
        logarithm of it), and `documents`, rows in the order of COLUMNS; `dear` and `dear_nats` are the number and the
        sum of the tokens that cost more than a guess.
    """
    from tttnn.experiment import draw_documents
    from tttnn.retrieval import corpus_fingerprint
    from tttnn.scoring import Scorer

    entries = len(lm.head[0])
    facts = {
        "model": lm.name, "weights": lm.weight_hash(), "entries": entries,
        "corpus": {"name": corpus.name, "fingerprint": corpus_fingerprint(corpus)},
        "drawn": {"per_domain": per_domain, "split": split, "max_bytes": max_bytes, "seed": seed},
        **made_here(),
    }  # fmt: skip
    documents = []
    for drawn in tqdm(draw_documents(corpus, per_domain, seed, split, max_bytes), desc=f"{lm.name}: documents"):
        nats = Scorer(lm, drawn.text).token_nats().double()  # (tokens,)
        dear = nats[nats > math.log(entries)]
        sums = len(nats), len(dear), float(nats.sum()), float(dear.sum())
        documents.append([lm.name, drawn.domain, drawn.number, len(drawn.text.encode()), *sums])
    return facts | {"documents": documents}
