"""Which documents are evaluated: drawn at random, the same ones for the same seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tttnn.errors import ParameterError
from tttnn.parameters import names, number

if TYPE_CHECKING:
    from tttnn.corpus import Corpus

SHOWN = 5  # names of domains in a message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnDocument:
    """A document drawn from a split: `number` is its place in the domain's part of it, from 0."""

    domain: str
    number: int
    text: str
    meta: dict[str, Any] = field(default_factory=dict)


def draw_documents(
    corpus: Corpus, per_domain: int, seed: int, split: str = "test", max_bytes: int | None = None,
    domains: Sequence[str] | str | None = None,
) -> list[DrawnDocument]:  # fmt: skip
    """Draw documents at random in one pass, the same ones for the same seed; a larger draw extends a smaller one.

    Parameters
    ----------
    corpus : Corpus
    per_domain : int
        Documents per domain; one that has fewer gives all of them, which is logged.
    seed : int
    split : str
    max_bytes : int, optional
        Draw among documents of at most so many bytes. Say so where results are shown.
    domains : sequence of str, optional
        Default: all; a warning names those that have documents in train, but none in the split.

    Raises
    ------
    ParameterError
        If a number is none or below 1, or a domain is not there, or in train alone.
    CorpusError
        If the split is not there, or a file is corrupt.
    """
    per_domain = int(number("per_domain", per_domain, least=1, whole=True))
    seed = int(number("seed", seed, least=0, whole=True))
    limit = None if max_bytes is None else int(number("max_bytes", max_bytes, least=1, whole=True))
    corpus.files(split)  # names the splits there are
    chosen = _chosen(corpus, split, domains)
    drawn = []
    for domain, sample in corpus.sample_domains(split, per_domain, seed, limit, chosen).items():
        if len(sample) < per_domain:
            log.warning("%s: %d of the %d documents asked for are in %s", domain, len(sample), per_domain, split)
        drawn += [DrawnDocument(domain, place, document.text, document.meta) for place, document in sample]
    return drawn


def _chosen(corpus: Corpus, split: str, domains: Sequence[str] | str | None) -> list[str] | None:
    """The domains to draw from, None for all; of those that have no document in the split somebody is told."""
    lacking = corpus.domains_without(split)
    said = f"documents in train, but none in {split}: hold out more of them (--held-out), or give a part {split}"
    if not domains:
        if lacking:
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            log.warning("%s: left out: %s%s: %s", corpus.name, ", ".join(lacking[:SHOWN]), more, said)
        return None
    known = corpus.domains_of(split)
    chosen = names("domains", domains, [*known, *(each for each in lacking if each not in known)])
    if none := [each for each in chosen if each in lacking]:
        raise ParameterError(f"domains={none[0]!r}: {said}")
    return chosen


def worked_example(
    corpus: Corpus, seed: int, max_bytes: int = 1000, domain: str = "catalogues"
) -> DrawnDocument:  # fmt: skip
    """Draw the document that the chapters follow from its neighbours to its seconds.

    It is a test document of the domain `catalogues` (messages of a program and their translations into one language),
    or, in a corpus without that domain, the shortest of one document drawn per domain.

    Parameters
    ----------
    corpus : Corpus
    seed : int
    max_bytes : int
        Draw among documents of at most so many bytes; among all of a corpus that has no such document.
    domain : str
        For an example of another kind of text.

    Raises
    ------
    ParameterError, CorpusError
        As :func:`draw_documents`.
    """
    domains = [name for name in corpus.domains_of("test") if name == domain] or None
    drawn = draw_documents(corpus, 1, seed, max_bytes=max_bytes, domains=domains) or draw_documents(corpus, 1, seed)
    return min(drawn, key=lambda document: len(document.text))
