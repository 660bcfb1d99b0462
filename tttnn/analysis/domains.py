"""What the domains of a corpus are: sources, languages, licences, sizes, and how far splits depend on each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tttnn.analysis.archive import FOLDER
from tttnn.analysis.deflate import deflate_bits_per_byte
from tttnn.corpus.origin import source, unit
from tttnn.corpus.overlap import seen_shares
from tttnn.corpus.siblings import language, sibling_columns
from tttnn.experiment import DrawnDocument
from tttnn.files import read_json, write_json
from tttnn.provenance import commit, versions
from tttnn.retrieval import corpus_fingerprint

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus, Document
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever

FILE = "domains.json"
NEAR = 0.5  # share of a document's 50-byte windows in the training split from which it counts as a near-duplicate
LANGUAGES = {"en": "English", "es": "Spanish", "gl": "Galician", "code": "program code"}
SHOWN = 3  # sources, languages or licences named before the rest is counted
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
    facts = {"commit": commit(), "versions": versions()}
    name, fingerprint = corpus.name, corpus_fingerprint(corpus)
    tokenizer = {"model": lm.name, "entries": len(lm.head[0])}
    domains = {domain: _domain(corpus, domain, lm) for domain in tqdm(corpus.domains, desc="domains", unit="domain")}
    return facts | {"corpus": {"name": name, "fingerprint": fingerprint}, "tokenizer": tokenizer, "domains": domains}


def keep(run: str, corpus: Corpus, lm: LanguageModel) -> None:
    """Archive the description of the corpus of an archived run, since its text is not in the package.

    For maintainers, in a checkout: ``python -c "from tttnn import load_model, open_corpus; from
    tttnn.analysis.domains import keep; keep('seven-domains', open_corpus('folder/of/the/corpus'),
    load_model('gpt2-xs-general'))"``.
    """
    write_json(FOLDER / run / FILE, describe(corpus, lm))


def archived_domains(run: str) -> dict[str, Any]:
    """What :func:`keep` has archived of a run's corpus."""
    return read_json(FOLDER / run / FILE)


def _domain(corpus: Corpus, domain: str, lm: LanguageModel) -> dict[str, Any]:
    splits = [split for split in corpus.splits if domain in corpus.domains_of(split)]
    parts = {split: list(corpus.documents(split, domain)) for split in splits}
    train, test = parts.get("train", []), parts.get("test", [])
    units = {unit(document.meta) for document in train}
    named = bool(test) and "" not in units
    seen = seen_shares((document.text for document in test), (document.text for document in train))
    size = sum(len(document.text.encode()) for document in test)
    deflated = sum(deflate_bits_per_byte(document.text) * len(document.text.encode()) for document in test)
    tokens = sum(len(lm.encode(document.text)) for document in test)
    return {
        "sources": _sources(parts),
        "units": len({unit(document.meta) for documents in parts.values() for document in documents}),
        "siblings": sum(unit(document.meta) in units for document in test) / len(test) if named else None,
        "seen": float(seen.mean()) if test else None,
        "near_duplicates": float((seen > NEAR).mean()) if test else None,
        "deflate": deflated / size if size else None,
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


def domain_table(described: dict[str, Any]) -> pd.DataFrame:
    """The facts of :func:`describe`, a row each domain.

    Returns
    -------
    DataFrame
        domain, languages and licences (names, those of most text first), sources and units (numbers), train, val and
        test (documents), megabytes (all splits), and siblings, seen, near_duplicates, deflate and uniform as there.
    """
    import pandas as pd

    rows = []
    for domain, facts in described["domains"].items():
        listed = facts["sources"]
        kept = {name: facts[name] for name in ("units", "siblings", "seen", "near_duplicates", "deflate", "uniform")}
        rows.append({
            "domain": domain, "languages": _named(LANGUAGES.get(row["language"], row["language"]) for row in listed),
            "licences": _named(row["licence"] for row in listed), "sources": len({row["source"] for row in listed}),
            **{split: sum(row.get(f"{split}_documents", 0) for row in listed) for split in ("train", "val", "test")},
            "megabytes": sum(value for row in listed for name, value in row.items() if name.endswith("_bytes")) / 1e6,
            **kept,
        })  # fmt: skip
    return pd.DataFrame(rows)


def source_table(described: dict[str, Any]) -> pd.DataFrame:
    """The sources of :func:`describe`, a row each source, language and licence of a domain: domain, source, language,
    licence, documents, megabytes (all splits)."""
    import pandas as pd

    return pd.DataFrame([
        {"domain": domain, **{name: row[name] for name in SOURCE},
         "language": LANGUAGES.get(row["language"], row["language"]),
         **{kind: sum(value for name, value in row.items() if name.endswith(f"_{unit}")) / scale
            for kind, unit, scale in (("documents", "documents", 1), ("megabytes", "bytes", 1e6))}}
        for domain, facts in described["domains"].items() for row in facts["sources"]
    ]).astype({"documents": int})  # fmt: skip


def _named(values: Iterable[str]) -> str:
    names = list(dict.fromkeys(value or "not stated" for value in values))
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


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
