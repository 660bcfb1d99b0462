"""What a corpus holds: sources, units, languages, siblings and near-duplicates of its test documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.corpus.deflate import deflated
from tttnn.corpus.origin import source, unit
from tttnn.corpus.overlap import seen_shares
from tttnn.corpus.siblings import language, sibling_columns
from tttnn.provenance import commit, versions

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus, Document
    from tttnn.experiment import DrawnDocument
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever

NEAR = 0.5  # share of a document's 50-byte windows in the training split from which it counts as a near-duplicate
SOURCE = ["source", "language", "licence"]


def describe(corpus: Corpus, lm: LanguageModel) -> dict[str, Any]:
    """Count what is in a corpus with the splits train and test; both, and val, are read once.

    Parameters
    ----------
    corpus : Corpus
    lm : LanguageModel
        Whose tokenizer the uniform code is for.

    Returns
    -------
    dict
        JSON values. By domain: `sources`, a row each with source, language, licence, and documents and bytes by split;
        `units` (number); of the test documents, `siblings` (share whose unit has training documents; None if the
        corpus does not say), `seen` (mean share of their 50-byte windows that stand in the domain's training
        documents), `near_duplicates` (share with more than half of their windows there), `deflate` (bits/byte, one
        document at a time) and `uniform` (bits/byte if each token costs the logarithm of the vocabulary).
    """
    from tttnn.retrieval import corpus_fingerprint

    facts = {"commit": commit(), "versions": versions()}
    name, fingerprint = corpus.name, corpus_fingerprint(corpus)
    tokenizer = {"model": lm.name, "entries": len(lm.head[0])}
    domains = {domain: _domain(corpus, domain, lm) for domain in tqdm(corpus.domains, desc="domains", unit="domain")}
    return facts | {"corpus": {"name": name, "fingerprint": fingerprint}, "tokenizer": tokenizer, "domains": domains}


def _domain(corpus: Corpus, domain: str, lm: LanguageModel) -> dict[str, Any]:
    splits = [split for split in corpus.splits if domain in corpus.domains_of(split)]
    parts = {split: list(corpus.documents(split, domain)) for split in splits}
    train, test = parts.get("train", []), parts.get("test", [])
    units = {unit(document.meta) for document in train}
    named = bool(test) and "" not in units
    seen = seen_shares((document.text for document in test), (document.text for document in train))
    size = sum(len(document.text.encode()) for document in test)
    bits = 8 * sum(deflated(document.text) for document in test if document.text)
    tokens = sum(len(lm.encode(document.text)) for document in test)
    return {
        "sources": _sources(parts),
        "units": len({unit(document.meta) for documents in parts.values() for document in documents}),
        "siblings": sum(unit(document.meta) in units for document in test) / len(test) if named else None,
        "seen": float(seen.mean()) if test else None,
        "near_duplicates": float((seen > NEAR).mean()) if test else None,
        "deflate": bits / size if size else None,
        "uniform": tokens * math.log2(len(lm.head[0])) / size if size else None,
    }


def _sources(parts: dict[str, list[Document]]) -> list[dict[str, Any]]:
    """A row for each source, language and licence, most bytes first."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for split, documents in parts.items():
        for document in documents:
            meta = document.meta
            key = source(meta), language(meta), str(meta.get("license") or "not stated")
            sums = found.setdefault(key, Counter())
            sums[f"{split}_documents"] += 1
            sums[f"{split}_bytes"] += len(document.text.encode())
    rows = [dict(zip(SOURCE, key, strict=True)) | dict(sums) for key, sums in found.items()]
    return sorted(rows, key=lambda row: -sum(row.get(f"{split}_bytes", 0) for split in parts))


def sibling_rows(retriever: Retriever, documents: Sequence[DrawnDocument], k: int) -> pd.DataFrame:
    """Whether the k nearest documents share unit and source with a document; no text is trained on.

    Returns
    -------
    DataFrame
        The columns that rows of :func:`tttnn.experiment.run` have, too: domain, document, k (the rank, from 1),
        same_unit, same_source.
    """
    import pandas as pd

    found = retriever.neighbours_many([document.text for document in documents], k)
    return pd.DataFrame([
        {"domain": document.domain, "document": document.number, "k": rank,
         **sibling_columns(document.meta, neighbour.meta)}
        for document, neighbours in zip(documents, found, strict=True)
        for rank, neighbour in enumerate(neighbours, start=1)
    ]).astype({"same_unit": "boolean", "same_source": "boolean"})  # fmt: skip
