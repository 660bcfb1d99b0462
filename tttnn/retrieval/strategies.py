"""Which documents a text is adapted on, and in which order: the nearest ones, controls, and other selections.

A `Selection` stands where a `Retriever` stands. Its name says the rule, some with a value after a colon. Another
package brings a strategy as a `Rule` among its entry points of the group "tttnn.strategies", under a name that is free;
its tests call `tttnn.retrieval.conformance.check_strategy`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from tttnn.corpus import origin
from tttnn.corpus.overlap import seen_shares
from tttnn.embedding import Embedder
from tttnn.errors import DocumentError, ParameterError
from tttnn.index import Index
from tttnn.parameters import names, number
from tttnn.plugins import find_plugin, package_of, plugins
from tttnn.retrieval.hull import hull
from tttnn.retrieval.retriever import Neighbour, Neighbours, Retriever, Store
from tttnn.retrieval.sift import NOISE, sift

SHARDS = 30  # files of the Pile, and so shards of the published index
POOL = 200  # candidates that SIFT and HullFT choose from, as their authors do
NOISES = (1e-6, 1e6)  # least and largest of SIFT's
GROUP = "tttnn.strategies"  # of the entry points of other packages

Held = Callable[["Selection", np.ndarray], np.ndarray]  # numbers of documents -> whether each can be chosen


@dataclass(frozen=True)
class Query:
    """What a strategy is asked; `random` is seeded by the run's seed and the text, whatever texts came before."""

    text: str
    k: int
    meta: Mapping[str, Any]
    random: np.random.Generator


class Selection:
    """A retriever whose neighbours are chosen by a named strategy.

    Parameters
    ----------
    retriever : Retriever
    strategy : str
        A name of `STRATEGIES` or of another package's; those that take a value have it after a colon:
        ``"distinct:0.2"``.
    seed : int
        Of whatever is drawn at random.

    Raises
    ------
    ParameterError
        If there is no such strategy, or its value is missing, too much, or out of range; if the seed is negative; if
        the retriever has a strategy already.
    """

    def __init__(self, retriever: Retriever | Selection, strategy: str, seed: int = 1216):
        if isinstance(retriever, Selection):
            other = retriever.strategy
            raise ParameterError(f"strategy={strategy!r}: the retriever has {other!r} already; give one of the two")
        self.retriever: Retriever = retriever
        self.strategy: str = strategy
        self.seed = number("seed", seed, least=0, whole=True)
        rule, self._value = find_strategy(strategy)
        self._choose, self._most, self.uncertain, self.nested = rule.choose, rule.most, rule.uncertain, rule.nested
        self.store: Store = retriever.store
        self.index: Index = retriever.index
        self.embedder: Embedder = retriever.embedder

    def __len__(self) -> int:
        return len(self.retriever)

    @property
    def identity(self) -> dict[str, Any]:
        """What its neighbours depend on besides the query, as JSON; of another package's strategy its version, too."""
        name = self.strategy.partition(":")[0]
        package = package_of(GROUP, name)
        brought = {"package": package} if package else {}
        return {**self.retriever.identity, "strategy": self.strategy, "seed": self.seed, **brought}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over `identity`, as 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def check_k(self, k: int) -> int:
        """Return k, as the retriever does; raise ParameterError unless so many documents can be chosen.

        That is told as far as it does not depend on the query.
        """
        k = self.retriever.check_k(k)
        if k > (most := self._most(self)):
            raise ParameterError(f"k={k}: only {most} of {len(self)} documents qualify for {self.strategy}")
        return k

    def neighbours(self, text: str, k: int, meta: Mapping[str, Any] | None = None) -> Neighbours:
        """Choose k documents, in the order in which to train on them.

        Parameters
        ----------
        text, k
            See `Retriever.neighbours`.
        meta : mapping, optional
            What is known about the text: `random-domain` needs its ``pile_set_name``, `other-units` its ``unit`` or
            ``source``, `other-sources` its ``source``.

        Returns
        -------
        Neighbours
            A document may be there more than once. `answered` lists the shards that were searched, if any were.

        Raises
        ------
        ParameterError
            If k is out of range.
        DocumentError
            If fewer documents than k qualify, or the query is empty.
        """
        k = self.check_k(k)
        text_hash = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        query = Query(text, k, meta or {}, np.random.default_rng([self.seed, text_hash]))
        found = self._choose(self, query)
        return found if isinstance(found, Neighbours) else Neighbours(found, [])

    @property
    def value(self) -> float:
        """What stands after the colon."""
        assert self._value is not None
        return self._value

    def document(self, number: int) -> Neighbour:
        """A document that was not searched for, so at no known distance."""
        found = self.store[int(number)]
        return Neighbour(int(number), float("nan"), found.text, found.meta)

    @property
    def by_domain(self) -> dict[str, np.ndarray]:
        """Numbers of the documents of each domain; no document is read for it."""
        return self.store.by_domain

    @cached_property
    def places(self) -> np.ndarray:
        """Place of each document in a random order, shape (documents,)."""
        return np.random.default_rng(self.seed).permutation(len(self))


def _nearest(selection: Selection, query: Query) -> Neighbours:
    return selection.retriever.neighbours(query.text, query.k)


def _nearest_that(selection: Selection, query: Query, keep: Callable[[Neighbour], bool]) -> Neighbours:
    """The k nearest of those to keep, from a list that grows until there are so many."""
    size = min(2 * query.k, len(selection))
    while True:
        found = selection.retriever.neighbours(query.text, size)
        kept = [neighbour for neighbour in found if keep(neighbour)]
        if len(kept) >= query.k:
            return Neighbours(kept[: query.k], found.answered)
        if size == len(selection):
            raise DocumentError(f"only {len(kept)} of {size} documents qualify for {selection.strategy}, not {query.k}")
        size = min(4 * size, len(selection))


def _farthest_first(selection: Selection, query: Query) -> Neighbours:
    found = _nearest(selection, query)
    return Neighbours(found[::-1], found.answered)


def _shuffled(selection: Selection, query: Query) -> Neighbours:
    found = _nearest(selection, query)
    return Neighbours([found[place] for place in query.random.permutation(query.k)], found.answered)


def _repeated(selection: Selection, query: Query) -> Neighbours:
    found = selection.retriever.neighbours(query.text, 1)
    return Neighbours([*found] * query.k, found.answered)


def _random(selection: Selection, query: Query) -> list[Neighbour]:
    return [selection.document(n) for n in query.random.choice(len(selection), query.k, replace=False)]


def _random_domain(selection: Selection, query: Query) -> list[Neighbour]:
    domain = str(query.meta.get("pile_set_name", ""))
    numbers = selection.by_domain.get(domain, ())
    if not domain or len(numbers) < query.k:
        raise DocumentError(f"{query.k} random documents of domain {domain!r}: the index has {len(numbers)}")
    return [selection.document(n) for n in query.random.choice(numbers, query.k, replace=False)]


def _itself(selection: Selection, query: Query) -> list[Neighbour]:
    return [Neighbour(-1, 0.0, query.text, dict(query.meta))] * query.k


def _distinct(selection: Selection, query: Query) -> Neighbours:
    def keep(neighbour: Neighbour) -> bool:
        return seen_shares([query.text], [neighbour.text])[0] <= selection.value

    return _nearest_that(selection, query, keep)


def _from_elsewhere(where: Callable[[Mapping[str, Any]], str], selection: Selection, query: Query) -> Neighbours:
    if not (own := where(query.meta)):
        raise DocumentError(f"{selection.strategy} needs to know where the text is from: its meta names no source")
    return _nearest_that(selection, query, lambda neighbour: where(neighbour.meta) != own)


def _of_share(selection: Selection, numbers: np.ndarray) -> np.ndarray:
    return selection.places[numbers] < selection.value * len(selection)


def _of_shards_left(selection: Selection, numbers: np.ndarray) -> np.ndarray:
    return selection.places[numbers] % SHARDS >= selection.value


def _nearest_of(held: Held, selection: Selection, query: Query) -> Neighbours:
    return _nearest_that(selection, query, lambda neighbour: bool(held(selection, np.array([neighbour.id]))[0]))


def _count(held: Held, selection: Selection) -> int:
    return int(held(selection, np.arange(len(selection))).sum())


@dataclass(frozen=True)
class _Pool:
    """What SIFT and HullFT choose from: candidates, their vectors (pool, dimension), and the query's (dimension,)."""

    found: Neighbours
    vectors: np.ndarray
    query: np.ndarray


def _nearest_pool(selection: Selection, query: Query) -> _Pool:
    found = selection.retriever.neighbours(query.text, min(max(POOL, query.k), len(selection)))
    [vector] = selection.embedder.embed([query.text])  # (dimension,)
    return _Pool(found, selection.index.vectors([neighbour.id for neighbour in found]), vector)


def _pool_of_both_signs(selection: Selection, query: Query) -> _Pool:
    """Those of the largest absolute cosine among the nearest to the query and to its opposite."""
    near = _nearest_pool(selection, query)
    size = len(near.found)
    known = {neighbour.id: neighbour for neighbour in near.found}
    opposite = selection.index.search(-near.query[None], size)[1][0]  # (size,)
    added = [int(number) for number in opposite if int(number) not in known]
    vectors = np.concatenate([near.vectors, selection.index.vectors(added)])  # (pool, dimension)
    cosines = np.abs(vectors @ near.query) / np.linalg.norm(vectors, axis=1)  # (pool,)
    kept = np.argsort(-cosines, kind="stable")[:size]
    distances = ((vectors - near.query) ** 2).sum(axis=1)  # (pool,)
    ids = [*known, *added]
    found = [known.get(ids[i]) or replace(selection.document(ids[i]), distance=float(distances[i])) for i in kept]
    return _Pool(Neighbours(found, near.found.answered), vectors[kept], near.query)


def _sift(pool: Callable[[Selection, Query], _Pool], selection: Selection, query: Query) -> Neighbours:
    among = pool(selection, query)
    chosen, left = sift(among.query, among.vectors, query.k, selection.value)
    picked = [replace(among.found[i], uncertainty=float(u)) for i, u in zip(chosen, left[1:], strict=True)]
    return Neighbours(picked, among.found.answered)


def _hull(selection: Selection, query: Query) -> Neighbours:
    among = _nearest_pool(selection, query)
    chosen, _ = hull(among.query, among.vectors, query.k)
    return Neighbours([among.found[i] for i in chosen], among.found.answered)


@dataclass(frozen=True)
class Rule:
    """A strategy.

    Attributes
    ----------
    about : str
        For tables.
    choose : callable
        (Selection, Query) -> documents, in the order in which to train on them. It may ask the selection's retriever,
        index, embedder and store, and draw from the query's `random`; it keeps nothing between queries.
    value : tuple of float, optional
        Least and largest value after the colon; None: it takes none.
    most : callable
        Selection -> how many documents it can choose at most, whatever the query.
    default : float, optional
        The value where none stands after the colon; None: one must.
    repeats : bool
        Whether it means to choose a document more than once.
    uncertain : bool
        Whether its documents have an `uncertainty`, from 0 to 1 and never rising: see `Neighbour`.
    nested : bool
        Whether what it chooses for a larger k begins with what it would choose for a smaller one, or with as good a
        draw. Otherwise a score at a smaller k of a run is not what the strategy's name says.
    """

    about: str
    choose: Callable[[Selection, Query], Sequence[Neighbour]]
    value: tuple[float, float] | None = None
    most: Callable[[Selection], int] = field(default_factory=lambda: len)  # as a default, Sphinx would list it twice
    default: float | None = None
    repeats: bool = False
    uncertain: bool = False
    nested: bool = True

    def parse(self, strategy: str, value: str) -> float:
        """Return the value of a strategy's name, if it is in range."""
        least, most = self.value or (0, 0)
        try:
            return number("value", value, least=least, most=most)
        except ParameterError:
            raise ParameterError(
                f"strategy={strategy!r}: the value after the colon must be from {least:g} to {most:g}"
            ) from None


STRATEGIES = {
    "nearest": Rule("nearest first, as published", _nearest),
    "farthest-first": Rule("the same documents, farthest first", _farthest_first, nested=False),
    "shuffled": Rule("the same documents in random order", _shuffled, nested=False),
    "repeated": Rule("the nearest one, k times", _repeated, repeats=True),
    "random": Rule("random documents of the corpus", _random),
    "random-domain": Rule("random documents of the text's own domain", _random_domain),
    "itself": Rule("the query itself, k times; with split_query the text's own first half", _itself, repeats=True),
    "distinct": Rule("the nearest with at most this share of the query's 50-byte windows in them", _distinct, (0, 1)),
    "other-units": Rule("the nearest from outside the text's own file, book or repository",
                        partial(_from_elsewhere, origin.unit)),
    "other-sources": Rule("the nearest from outside the collection that the text is from",
                          partial(_from_elsewhere, origin.source)),
    "share": Rule(
        "the nearest in this random share of the corpus", partial(_nearest_of, _of_share), (1e-9, 1),
        partial(_count, _of_share),
    ),
    "shards-lost": Rule(
        f"the nearest, so many of {SHARDS} random shards being lost", partial(_nearest_of, _of_shards_left),
        (0, SHARDS - 1), partial(_count, _of_shards_left),
    ),
    "sift": Rule(
        f"SIFT: informative and not redundant ones among the {POOL} nearest", partial(_sift, _nearest_pool), NOISES,
        default=NOISE, repeats=True, uncertain=True,
    ),
    "sift-absolute": Rule(
        f"SIFT among the {POOL} of largest absolute cosine, as its authors preselect",
        partial(_sift, _pool_of_both_signs), NOISES, default=NOISE, repeats=True, uncertain=True,
    ),
    "hullft": Rule(
        f"HullFT: a mean of k of the {POOL} nearest, some repeated, that lies near the query", _hull, repeats=True,
        nested=False,
    ),
}  # fmt: skip
# Others may come: from a notebook, or from a package that enters its own here when imported.
OWN = frozenset(STRATEGIES)


def find_strategy(strategy: str) -> tuple[Rule, float | None]:
    """Return the rule that a strategy's name stands for, and the value after its colon or the rule's default.

    Raises
    ------
    ParameterError
        If there is no such strategy, or its value is missing, too much, or out of range; if another package brings the
        strategy and cannot be loaded, or brings a name that is taken.
    """
    name, _, value = strategy.partition(":")
    plugin = find_plugin(GROUP, name, Rule, OWN)
    if not plugin:
        [name] = names("strategy", [name or strategy], [*STRATEGIES, *plugins(GROUP)])
    rule = plugin or STRATEGIES[name]
    if not value and rule.default is not None:
        return rule, rule.default
    if bool(value) != (rule.value is not None):
        wanted = "needs a" if rule.value else "takes no"
        raise ParameterError(f"strategy={strategy!r}: {name} {wanted} value after a colon")
    return rule, rule.parse(strategy, value) if value else None
