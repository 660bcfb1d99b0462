"""What the domains of a corpus are: sources, languages, licences, sizes, and how far splits depend on each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tttnn.analysis.archive import FOLDER
from tttnn.files import read_json, write_json
from tttnn.studies.corpus_facts import SOURCE, describe

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel

FILE = "domains.json"
LANGUAGES = {"en": "English", "es": "Spanish", "gl": "Galician", "code": "program code"}
SHOWN = 3  # sources, languages or licences named before the rest is counted


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


def domain_table(described: dict[str, Any]) -> pd.DataFrame:
    """The facts of :func:`tttnn.studies.corpus_facts.describe`, a row each domain.

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
    """The sources of :func:`tttnn.studies.corpus_facts.describe`, a row each source, language and licence of a domain.

    Returns
    -------
    DataFrame
        domain, source, language, licence, documents, megabytes (all splits).
    """
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
