"""The documents of a trial, evaluated in one way after another: what the reader needs most comes first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.corpus.origin import unit
from tttnn.corpus.overlap import seen_shares
from tttnn.experiment import DrawnDocument, retrieve, run
from tttnn.experiment.runner import Evaluate, document_rows
from tttnn.experiment.variants import VARIANTS, Variant, changed
from tttnn.files import read_json, write_json
from tttnn.rows import Row, plain
from tttnn.studies.trial_plan import FEW, KEPT, NEAREST, RATES, Budget, Costs, Plan, Say, duration, places
from tttnn.ttt import TTT

if TYPE_CHECKING:
    import pandas as pd

VIEWS = "tokens.json"
WAYS = VARIANTS | {"longest-context": Variant(switches={"config_context": True})}
SHOWN = 600  # tokens of a document in a view
SHOWN_CHARACTERS = 1500  # of a neighbour


@dataclass
class Pace:
    """How documents really take, against what was expected of them."""

    expected: dict[str, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)

    def factor(self, variant: str) -> float:
        """How many times what was expected a document takes this way, or any way where this one is new."""
        names = [variant] if variant in self.taken else list(self.taken)
        expected = sum(self.expected[name] for name in names)
        return sum(self.taken[name] for name in names) / expected if expected else 1.0

    def add(self, variant: str, expected: float, taken: float) -> None:
        """Take in what a document took."""
        self.expected[variant] = self.expected.get(variant, 0.0) + expected
        self.taken[variant] = self.taken.get(variant, 0.0) + taken


@dataclass
class Work:
    """The documents of a trial, evaluated in one way after another until their time is over."""

    ttt: TTT
    plan: Plan
    costs: Costs
    drawn: Sequence[DrawnDocument]
    sizes: Sequence[tuple[int, int]]
    out: Path
    budget: Budget
    say: Say
    about: dict[str, Any] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        limit = self.plan.max_bytes or math.inf
        order = sorted(range(len(self.sizes)), key=lambda n: self.sizes[n][0] > limit)  # longer ones if time is left
        self.tokens = {id(self.drawn[n]): self.sizes[n][1] for n in order}
        self.drawn = [self.drawn[n] for n in order]

    def all(self, ways: Sequence[str]) -> pd.DataFrame:
        """Rows of everything that fits: before and after first, then what that is compared with, then other rates."""
        import pandas as pd

        begin, left = self.budget.spent, max(self.budget.left, 0.0)
        planned = self.drawn[: self.plan.documents]
        near = self.one(NEAREST, planned, begin + 0.55 * left)
        if _count(near) < min(len(planned), FEW):  # slower than expected, or a large model
            near = self.one(NEAREST, planned, begin + 0.85 * left)
        done = planned[: _count(near)]
        turns = [(way, done, 0.55 + 0.33 * n / len(ways)) for n, way in enumerate(ways, start=1)]
        turns += [(way, done, 0.9 + 0.02 * n) for n, way in enumerate(RATES)]
        found = {NEAREST: near.assign(variant=NEAREST)}
        for way, documents, share in [*turns, (NEAREST, self.drawn, 0.95)]:
            found[way] = self.one(way, documents, begin + share * left).assign(variant=way)
        return pd.concat([rows for rows in found.values() if len(rows)], ignore_index=True)

    def one(self, way: str, documents: Sequence[DrawnDocument], last: float) -> pd.DataFrame:
        """Rows of the first documents in one way, as many as are done when `last` seconds are spent."""
        variant = WAYS[way]
        ks = {NEAREST: places(self.plan.k, self.plan.curve), "longest-context": [0]}.get(way, [0, self.plan.k])
        return run(
            changed(self.ttt, variant), documents, ks, self.out / way / self.ttt.lm.name,
            {**self.about, "variant": way}, self._until(way, last), variant.method,
        )  # fmt: skip

    def expected(self, way: str, document: DrawnDocument) -> float:
        """Seconds of a document."""
        plan = self.plan
        return self.costs.document(way, self.tokens[id(document)], plan.k, plan.max_chunks, plan.curve)

    def _until(self, way: str, last: float) -> Evaluate:
        def evaluate(
            ttt: TTT, documents: Sequence[DrawnDocument], ks: Sequence[int], method: str
        ) -> Iterator[tuple[DrawnDocument, list[Row]]]:
            for place, document in enumerate(documents):
                expected, start = self.expected(way, document), self.budget.spent
                first = way == NEAREST and not place and not self.pace.taken
                if start + expected * self.pace.factor(way) > last and not first:
                    return
                if not place:
                    left = duration(max(self.budget.seconds - self.budget.spent, 0))
                    self.say(f"{left} left: {way}, {len(documents)} documents to do")
                rows = document_rows(ttt, document, ks, method)
                self.pace.add(way, expected, self.budget.spent - start)
                yield document, rows

        return evaluate

    def views(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """Tokens of the documents that gain and lose most, of those that there is time for; kept in the folder."""
        path = self.out / VIEWS
        if path.exists():
            return list(read_json(path))
        room = (self.budget.left + KEPT * self.budget.seconds / 2) / 2
        near = rows[(rows["variant"] == NEAREST) & rows["nats"].notna()]
        wide = near.pivot(index=["domain", "document"], columns="k", values="nats")
        fits = {
            (each.domain, each.number): each for each in self.drawn
            if self.expected(NEAREST, each) * self.pace.factor(NEAREST) < room
        }  # fmt: skip
        ratio = (wide[self.plan.k] / wide[0]).dropna() if self.plan.k in wide else wide.iloc[:0, 0]
        ratio = ratio[[key in fits and math.isfinite(value) for key, value in ratio.items()]]
        if ratio.empty:
            return []
        chosen = dict.fromkeys([ratio.idxmin(), ratio.idxmax()])
        views = [_token_view(self.ttt, fits[key], self.plan.k) for key in chosen]
        write_json(path, plain(views))
        return views


def _count(rows: pd.DataFrame) -> int:
    """How many documents there are."""
    return len(rows[["domain", "document"]].drop_duplicates())


def _token_view(ttt: TTT, document: DrawnDocument, k: int) -> dict[str, Any]:
    """What each token of a document costs before and after k neighbours, and the nearest of these.

    Returns
    -------
    dict
        JSON values: domain, document, ratio (of nats), tokens (of all), text, before and after (nats of
        the first SHOWN tokens), neighbours (text, overlap, source of the three nearest).
    """
    found = retrieve(ttt, document, k)
    scorer = ttt.scorer(found.scored)
    before = after = scorer.token_nats()
    for step in ttt.adapt(found.scored, found.texts, [k]):
        if step.k == k:
            after = scorer.token_nats()  # before the weights go back
    nearest = list(found.neighbours)[:3]
    return {
        "domain": document.domain, "document": document.number, "ratio": float(after.sum() / before.sum()),
        "tokens": len(scorer.tokens), "text": found.scored, "before": before[:SHOWN].tolist(),
        "after": after[:SHOWN].tolist(), "k": k,
        "neighbours": [
            {
                "text": each.text[:SHOWN_CHARACTERS], "source": unit(each.meta),
                "overlap": float(seen_shares([found.query], [each.text])[0]),
            }
            for each in nearest
        ],
    }  # fmt: skip
