"""The claims ledger: what the report says, what the original authors' data say, what was measured, and a verdict.

A verdict is a rule applied to numbers. The rule of each claim stands in :data:`CLAIMS` and in the ledger's column
``rule``; its code is the function next to it. All rules have one shape: *confirmed* asks that whole 95 % intervals
lie where the claim puts the value, *confirmed in direction* the same of a weaker statement, and what does neither is
*not confirmed*. An interval that reaches over a threshold is on neither side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from tttnn.analysis.evidence import LEAST_DOCUMENTS, Evidence, Finding, Untestable, Verdict
from tttnn.analysis.published import PILE_NAMES, SEVEN, published_curves, report_claims
from tttnn.analysis.real_model import ENOUGH
from tttnn.analysis.statistics import Interval, gap, interval

if TYPE_CHECKING:
    import pandas as pd

SPECIALISED = ("github", "europarl")  # named in the report's abstract
TOLERANCE = 0.05  # after/before, around a published ratio
ROUNDING = 0.01  # after/before, between a published curve and the report's whole percents
FEW = 5  # neighbours that count as the first few
PILE = MappingProxyType({"documents": 210_000_000, "text_bytes": 1_300_000_000_000, "dimension": 1024})  # section 3
LEDGER = ("claim", "report", "source", "original", "measured", "origin", "verdict", "reason", "rule", "value", "low",
          "high")  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One statement of the report.

    Attributes
    ----------
    statement : str
        In our words.
    published : tuple of str
        Its lines in ``published/report_2511_16691.csv``.
    rule : str
        When it counts as confirmed, and when as confirmed in direction.
    original : callable
        Gives what the released curves of the original authors say at k = 20, in words.
    test : callable
        Gives the :class:`Finding`; raises Untestable.
    """

    statement: str
    published: tuple[str, ...]
    rule: str
    original: Callable[[], str]
    test: Callable[[Evidence], Finding]


def ledger(evidence: Evidence, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """Judge every claim.

    Returns
    -------
    DataFrame
        One row a claim, columns LEDGER: the claim, what the report says and where, what the original authors' data
        say at k = 20, what was measured and where, the verdict, its reason and its rule; then the number and its
        interval (missing where nothing was sampled).
    """
    import pandas as pd

    published = report_claims()
    lines = [_line(claim, evidence, published) for claim in (CLAIMS if claims is None else claims)]
    return pd.DataFrame(lines, columns=LEDGER)


def _line(claim: Claim, evidence: Evidence, published: pd.DataFrame) -> dict[str, object]:
    stated = [published.loc[name] for name in claim.published]
    line = {
        "claim": claim.statement,
        "report": "; ".join(_stated(row) for row in stated),
        "source": "; ".join(dict.fromkeys(f"{row.figure_or_section} ({row.source_label})" for row in stated)),
        "original": claim.original(),
        "rule": claim.rule,
    }
    try:
        found = claim.test(evidence)
    except Untestable as missing:
        nothing = {"measured": "nothing", "origin": "none", "reason": str(missing)}
        return line | nothing | {"verdict": Verdict.UNTESTABLE.value}
    numbers = {"value": found.interval.value, "low": found.interval.low, "high": found.interval.high}
    words = {"measured": found.measured, "origin": found.origin, "reason": found.reason}
    return line | words | numbers | {"verdict": found.verdict.value}


def _stated(row: pd.Series) -> str:
    place = f" on {row.dataset}" if row.dataset in set(published_curves()["task"]) - {"all"} else ""
    return row.quantity + place + ("" if row.unit == "qualitative" else f": {row.value:g} {row.unit}")


# What the original authors measured, from their released curves


@cache
def _original(run: str = "gpt2", column: str = "ratio") -> pd.DataFrame:
    """Tasks by k, with our names of the domains."""
    names = {theirs: ours for ours, theirs in PILE_NAMES.items()}
    return published_curves(run).pivot(index="task", columns="k", values=column).rename(index=names)


def _original_ratios(*tasks: str, runs: Sequence[str] = ("gpt2",)) -> str:
    parts = [f"{_original(run)[20][task]:.1%} on {task} ({run})" for run in runs for task in tasks]
    return ", ".join(parts)


def _original_falls() -> str:
    return f"{(_original()[20][list(SEVEN)] < 1).sum()} of the {len(SEVEN)} fall, {_original_ratios('all')}"


def _original_early() -> str:
    gain = 1 - _original().loc["all"]
    return f"{gain[FEW] / gain[20]:.1%} of the gain at 20 is there at {FEW} (gpt2, all tasks)"


def _original_extremes() -> str:
    order = _original()[20][list(SEVEN)].sort_values()
    return "from most to least: " + ", ".join(f"{task} {ratio:.1%}" for task, ratio in order.items())


def _original_gap() -> str:
    return "; ".join(_gap_left("gpt2", larger) for larger in ("gpt2-large", "gptneo"))


def _gap_left(run: str, larger: str) -> str:
    small, large = (_original(name, "bits_per_byte") for name in (run, larger))
    left = (small[20] - large[0]) / (small[0] - large[0]).where(small[0] > large[0])
    words = [f"{left[task]:.2f} on {task}" if left[task] == left[task] else f"no gap on {task}" for task in SPECIALISED]
    return f"gap left, {run} to {larger}: {', '.join(words)}"


def _original_worse() -> str:
    ratios = _original("gptneo")[20][list(SEVEN)]
    worse = ", ".join(f"{task} {ratio:.1%}" for task, ratio in ratios[ratios > 1].items())
    return f"above 100% on {worse} (gptneo)"


def _original_cost() -> str:
    seconds = _original(column="seconds_per_neighbour")[20][list(SEVEN)]
    low, high = seconds.idxmin(), seconds.idxmax()
    return f"{seconds[low]:.2f} s on {low} to {seconds[high]:.1f} s on {high} (gpt2, A100)"


def _original_memory() -> str:
    return f"not in their curves; {_stated(report_claims().loc['R21'])}"


# What was measured here, a function per claim


def _silent(e: Evidence, role: str, domain: str) -> str:
    """Why a model may not speak for a domain, in words; empty if it may.

    The real model needs enough documents. None speaks where it is worse than deflate before it adapts: a gain there is
    not a language model's.
    """
    count = e.documents(role).get(domain, 0)
    if role == "real" and count < ENOUGH:
        return f"{e.models[role]} has {count} of the {ENOUGH} documents needed on {domain}"
    return e.beaten(role, domain)


def _falls(e: Evidence) -> Finding:
    role = "real" if any(count >= ENOUGH for count in e.documents("real").values()) else "main"
    asked = sorted({*e.documents(role), *SEVEN}) if role == "real" else list(e.documents(role))
    silent = {domain: words for domain in asked if (words := _silent(e, role, domain))}
    left_out = "; ".join(silent.values())
    if not (spoken := [domain for domain in asked if domain not in silent]):
        raise Untestable(left_out or f"no document has scores at 0 and {e.k}")
    domains, sums = e.sums([(role, 0), (role, e.k)], spoken)
    before, after = np.moveaxis(sums, 2, 0)  # each (1 + resamples, domains)
    together = interval(after.sum(1) / before.sum(1))
    fell = [name for name, ratio in zip(domains, (after / before).T, strict=True) if interval(ratio).high < 1]
    others = ", ".join(name for name in domains if name not in fell)
    reason = f"surely below 100% in {len(fell)} of {len(domains)} domains" + (f", not in {others}" if others else "")
    reason += f"; left out: {left_out}" if silent else ""
    strong, weak = len(fell) == len(domains) and not silent, together.high < 1
    return Finding(strong, weak, f"{together:.1%} together", e.origin(role, domains=spoken), reason, together)


def _target(published: str) -> float:
    """A published after/before as a share of one."""
    row = report_claims().loc[published]
    return (100 - row.value if row.quantity.startswith("reduction") else row.value) / 100


def _points(difference: Interval) -> str:
    """A difference of ratios in percentage points."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _figure(domain: str, published: str, e: Evidence) -> Finding:
    """A single published figure: the real model's if it may speak for the domain, else our main model's."""
    if not (few := _silent(e, "real", domain)):
        return _ratio("real", domain, published, e)
    if worse := _silent(e, "main", domain):
        raise Untestable(f"{few}; {worse}")
    found = _ratio("main", domain, published, e)
    return replace(found, reason=f"{found.reason}; {few}")


def _ratio(role: str, domain: str, published: str, e: Evidence) -> Finding:
    target = _target(published)
    _, sums = e.sums([(role, 0), (role, e.k)], [domain])
    ratio = interval(sums[:, 0, 1] / sums[:, 0, 0])
    strong = target - TOLERANCE <= ratio.low and ratio.high <= target + TOLERANCE
    weak = ratio.high < 1
    side = "rises" if ratio.low > 1 else "neither surely falls nor surely rises"
    reason = f"{'falls' if weak else side}; {100 * (ratio.value - target):+.1f} points from the report's {target:.0%}"
    reason += f", on {e.documents(role)[domain]} documents"
    return Finding(strong, weak, f"{ratio:.1%}", e.origin(role, domains=[domain]), reason, ratio)


def _early(e: Evidence) -> Finding:
    ks = e.of("main").query("0 < k <= @FEW and k < @k and nats.notna()", local_dict={"FEW": FEW, "k": e.k})["k"]
    if ks.empty:
        raise Untestable(f"no score between 0 and {min(FEW, e.k)} neighbours")
    few = int(ks.max())
    domains, sums = e.sums([("main", 0), ("main", few), ("main", e.k)])
    early, gain = sums[..., 0] - sums[..., 1], sums[..., 0] - sums[..., 2]  # each (1 + resamples, domains)
    if interval(gain.sum(1)).low <= 0:
        raise Untestable(f"no sure gain at k = {e.k} to take a share of")
    together = interval(early.sum(1) / gain.sum(1))
    gaining = [i for i in range(len(domains)) if interval(gain[:, i]).low > 0]
    late = [domains[i] for i in gaining if interval(early[:, i] / gain[:, i]).low <= 0.5]
    reason = f"surely more than half at k = {few} in {len(gaining) - len(late)} of {len(gaining)} domains that gain"
    measured = f"{together:.1%} of the gain at {e.k} is there at {few}"
    return Finding(not late, together.low > 0.5, measured, e.origin("main"), reason, together)


def _extreme(chosen: Sequence[str], most: bool, e: Evidence) -> Finding:
    domains, sums = e.sums([("main", 0), ("main", e.k)])
    if missing := set(chosen) - set(domains):
        raise Untestable(f"no documents of {', '.join(sorted(missing))}")
    inside = np.array([name in chosen for name in domains])
    if inside.all():
        raise Untestable("no other domain to compare with")
    ratio = sums[..., 1] / sums[..., 0]  # (1 + resamples, domains)
    pooled = [sums[:, part, 1].sum(1) / sums[:, part, 0].sum(1) for part in (inside, ~inside)]
    apart, sign = interval(pooled[0] - pooled[1]), 1 if most else -1
    order = interval((sign * ratio[:, inside]).max(1) - (sign * ratio[:, ~inside]).min(1))  # below 0: all ahead
    weak = apart.high < 0 if most else apart.low > 0
    rank = ", ".join(f"{domains[i]} {ratio[0, i]:.1%}" for i in ratio[0].argsort())
    measured = f"{' and '.join(chosen)} minus the others together: {_points(apart)}"
    return Finding(order.high < 0, weak, measured, e.origin("main"), f"from most to least: {rank}", apart)


def _untrained_gain_more(e: Evidence) -> Finding:
    columns = [(role, k) for role in ("main", "trained") for k in (0, e.k)]
    domains, sums = e.sums(columns, e.unseen)
    before, after, trained_before, trained_after = np.moveaxis(sums, 2, 0)
    apart = after / before - trained_after / trained_before  # (1 + resamples, domains)
    together = interval(after.sum(1) / before.sum(1) - trained_after.sum(1) / trained_before.sum(1))
    more = [name for name, values in zip(domains, apart.T, strict=True) if interval(values).high < 0]
    reason = f"the model without them surely gains more on {len(more)} of the {len(domains)} domains it did not see"
    origin = e.origin("main", "trained", domains=domains)
    measured = f"after/before of the one without minus that of the other: {_points(together)}"
    return Finding(len(more) == len(domains), together.high < 0, measured, origin, reason, together)


def _trained_may_lose(e: Evidence) -> Finding:
    domains, sums = e.sums([("trained", 0), ("trained", e.k)])
    ratio = sums[..., 1] / sums[..., 0]  # (1 + resamples, domains)
    worst = int(ratio[0].argmax())
    found = interval(ratio[:, worst])
    # The worst of several domains is above 100 % by chance more often than one is: Bonferroni's correction.
    strong = bool(np.quantile(ratio[1:, worst], 0.025 / len(domains)) > 1)
    reason = f"{domains[worst]} is the worst of {len(domains)} domains; {(ratio[0] > 1).sum()} have a value above 100%"
    origin = e.origin("trained", domains=[domains[worst]])
    return Finding(strong, found.low > 1, f"{found:.1%}", origin, reason, found)


def _small_approaches_large(e: Evidence) -> Finding:
    parts = [e.of(role).query("domain in @SPECIALISED", local_dict={"SPECIALISED": SPECIALISED})
             for role in ("small", "large")]  # fmt: skip
    try:
        gaps = gap(*parts, e.k, resamples=e.resamples, seed=e.seed)
    except ValueError as error:
        raise Untestable(str(error)) from error
    few = set(gaps["domain"]) != set(SPECIALISED) or gaps["documents"].min() < LEAST_DOCUMENTS
    if few or gaps["gap_left"].isna().any():
        raise Untestable(f"the larger model is not surely better before on {' and '.join(SPECIALISED)}")
    each = {row.domain: Interval(row.gap_left, row.gap_left_low, row.gap_left_high) for row in gaps.itertuples()}
    worst = max(each.values(), key=lambda left: left.value)
    highest = max(left.high for left in each.values())
    measured = ", ".join(f"gap left {left:.2f} on {name}" for name, left in each.items())
    reason = f"the upper ends of the intervals reach {highest:.2f} at most; 1 is the whole gap, below 0 overtakes"
    origin = e.origin("small", "large", domains=list(each))
    return Finding(highest < 0.5, highest < 1, measured, origin, reason, worst)


def _cost(e: Evidence) -> Finding:
    rows, parts = e.of("main"), {}
    for domain, part in rows.groupby("domain"):
        steps = part[part["k"] > 0].groupby("document")["train_seconds"].agg(["sum", "count"])
        scoring = part[part["nats"].notna()].groupby("document")["evaluation_seconds"].mean()
        parts[domain] = steps.join(scoring, how="inner").assign(documents=1.0).to_numpy(float)  # (documents, 4)
    domains, sums = e.resample(parts)
    seconds = sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]  # (1 + resamples, domains)
    cheap, dear = int(seconds[0].argmin()), int(seconds[0].argmax())
    factor = interval(seconds[:, dear] / seconds[:, cheap])
    least, most = (report_claims().value[name] for name in ("R07", "R08"))
    strong = interval(seconds[:, cheap]).high < least and interval(seconds[:, dear]).low > most
    measured = f"{seconds[0, cheap]:.2f} s on {domains[cheap]} to {seconds[0, dear]:.2f} s on {domains[dear]}"
    reason = f"the dearest domain costs {factor:.1f} times the cheapest; model and machine are others"
    return Finding(strong, factor.low > 2, measured, e.origin("main"), reason, factor)


def _memory(e: Evidence) -> Finding:
    from tttnn.index.planner import pile_memory

    if e.memory is None:
        raise Untestable("no measurement of memory was given; the chapter on the index makes one")
    measured = e.memory.assign(each=e.memory["resident_bytes"] / e.memory["documents"])
    each = measured.pivot_table(index="documents", columns="kind", values="each")[["dictionary", "store"]]  # bytes
    before, after, servers = (report_claims().value[name] for name in ("R09", "R10", "R20"))
    pile = pile_memory(**PILE, servers=int(servers)).set_index("kept")
    here = PILE["documents"] / servers * each.iloc[-1]  # bytes a server, beside texts and vectors
    old = (pile.memory["texts and vectors"] + here["dictionary"]) / 1e9
    new = (pile.vectors["line offsets and vectors"] + here["store"]) / 1e9
    words = f"{new:.1f} GB a server instead of {old:.1f} GB, by arithmetic for the Pile on {servers:.0f} servers"
    reason = f"measured: {each['store'].iloc[-1]:.0f} bytes a document instead of {each['dictionary'].iloc[-1]:.0f}"
    reason += " and the text; float32 vectors stay in memory in both"
    weak = bool((each["store"] < each["dictionary"]).all() and new < old)
    share, origin = Interval(new / old, np.nan, np.nan), "text store / documents of a few characters"
    return Finding(new <= after and old > before, weak, words, origin, reason, share)


def _explained_by_k(domain: str, published: str, e: Evidence) -> Finding:
    target, curve = _target(published), _original().loc[domain]
    near = {k: abs(curve[k] - target) <= ROUNDING for k in (20, 50)}
    measured = f"{curve[20]:.1%} at k = 20 and {curve[50]:.1%} at k = 50, against {target:.0%}"
    if near[20] and near[50]:
        raise Untestable(f"the original curve is as near at both: {measured}")
    away = Interval(float(curve[20] - target), np.nan, np.nan)
    reason = f"the original curve at k = 20 lies {100 * abs(away.value):.1f} points from the report's figure"
    return Finding(near[20], False, measured, f"no run: released curves / gpt2 / {domain}", reason, away)


_RATIO_RULE = (
    f"confirmed: the whole interval of after/before lies within {100 * TOLERANCE:.0f} points of the report's figure; "
    "in direction: it lies below 100%"
)
_JUDGED_RULE = (
    f"; judged on the real model, where it has at least {ENOUGH} documents of a domain (of its runs at the published "
    "rate, the one with most), else on ours; never on a model that is worse than deflate there before adaptation"
)
_EXPLAINED_RULE = (
    f"confirmed: the original curve is within {100 * ROUNDING:.0f} point of the report's figure at k = 20 and not at "
    "k = 50; cannot be tested: at both"
)
_NO_CURVE = "no such model among their curves"

CLAIMS = (
    Claim(
        "Bits per byte fall",
        ("R03", "R04", "R05"),
        "confirmed: the interval of after/before lies below 100% in every one of the seven domains; in direction: over "
        "all together that can be judged" + _JUDGED_RULE,
        _original_falls,
        _falls,
    ),
    *(
        Claim(
            f"Bits per byte on {name} fall to {_target(line):.0%}",
            (line,),
            _RATIO_RULE + _JUDGED_RULE,
            partial(_original_ratios, domain),
            partial(_figure, domain, line),
        )
        for name, domain, line in (("GitHub", "github", "R03"), ("EuroParl", "europarl", "R04"),
                                   ("Books3", "books", "R05"))
    ),
    Claim(
        "Most of the gain comes in the first few neighbours",
        ("R11",),
        f"confirmed: in every domain that gains, the interval of the share of the gain at k that is there at {FEW} (or "
        "the largest k below that has a score) lies above one half; in direction: over all domains together",
        _original_early,
        _early,
    ),
    Claim(
        "Specialised text gains most",
        ("R16",),
        f"confirmed: after/before on {' and '.join(SPECIALISED)} is surely below that of every other domain; in "
        "direction: surely below that of the others together",
        _original_extremes,
        partial(_extreme, SPECIALISED, True),
    ),
    Claim(
        "Books gain least",
        ("R05",),
        "confirmed: after/before on books is surely above that of every other domain; in direction: surely above that "
        "of the others together",
        _original_extremes,
        partial(_extreme, ("books",), False),
    ),
    Claim(
        "Models not pre-trained on the domain gain more",
        ("R13",),
        "confirmed: on every domain that one model saw and the other did not, the latter's after/before is surely "
        "lower on the same documents; in direction: over these domains together",
        partial(_original_ratios, "all", runs=("gpt2", "gptneo")),
        _untrained_gain_more,
    ),
    Claim(
        "Models trained on the domain may get worse",
        ("R15",),
        "confirmed: on its worst domain the interval of after/before lies above 100%, widened for choosing the worst; "
        "in direction: the plain interval does",
        _original_worse,
        _trained_may_lose,
    ),
    Claim(
        "Small models approach large ones",
        ("R14",),
        "confirmed: the interval of the gap left, (small after - large before) / (small before - large before), lies "
        f"below one half on {' and '.join(SPECIALISED)}; in direction: below 1",
        _original_gap,
        _small_approaches_large,
    ),
    Claim(
        f"A reasoning model gains {1 - _target('R06'):.0%} on mathematics",
        ("R06",),
        _RATIO_RULE,
        lambda: _NO_CURVE,
        partial(_ratio, "reasoning", "dm-mathematics", "R06"),
    ),
    Claim(
        "Line offsets cut the memory of a server",
        ("R09", "R10"),
        "confirmed: by arithmetic for the Pile from measured bytes a document, a server needs more than the report's "
        "first figure with a dictionary and at most its second with the offset table; in direction: the table takes "
        "less than the dictionary in every measurement",
        _original_memory,
        _memory,
    ),
    Claim(
        "A neighbour costs from under one to over 36 seconds by domain",
        ("R07", "R08"),
        "confirmed: the interval of the mean seconds per neighbour (training, and scoring after it) lies below the "
        "report's lower figure on the cheapest domain and above its upper one on the dearest; in direction: the "
        "dearest surely costs more than twice the cheapest",
        _original_cost,
        _cost,
    ),
    *(
        Claim(
            f"Using 20 neighbours instead of 50 explains the figure for {name}",
            ("R22", line),
            _EXPLAINED_RULE,
            partial(_original_ratios, domain),
            partial(_explained_by_k, domain, line),
        )
        for name, domain, line in (("EuroParl", "europarl", "R04"), ("GitHub", "github", "R03"),
                                   ("Books3", "books", "R05"))
    ),
)  # fmt: skip
