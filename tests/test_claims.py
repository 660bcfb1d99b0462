"""Verdicts follow from the rows: a world made to confirm every claim, and changes to it that must flip a verdict."""

import copy

import numpy as np
import pandas as pd
import pytest

from tttnn.analysis import claims
from tttnn.analysis.archive import archived, archived_models, archived_rows
from tttnn.analysis.claims import CLAIMS, LEDGER, ledger
from tttnn.analysis.deflate import COLUMNS, archived_deflate
from tttnn.analysis.evidence import MODELS, Evidence, Untestable, Verdict, domains_read, new_domains
from tttnn.analysis.published import report_claims
from tttnn.analysis.real_model import ENOUGH, real_rows
from tttnn.analysis.timings import bench_rows

CONFIRMED, DIRECTION, NOT, UNTESTABLE = Verdict
DOCUMENTS, RESAMPLES = 12, 400
# After/before of the main model by domain, such that every claim about it holds.
RATIOS = {"github": 0.51, "europarl": 0.68, "dm-mathematics": 0.75, "enron": 0.8, "arxiv": 0.85, "wikipedia": 0.9,
          "books": 0.96}  # fmt: skip
FALL = "Bits per byte fall"
AS_WERE, BOTH_ADAPT = (f"Small models approach large ones {which}" for which in ("as these", "when both"))
REASONING, CONSISTENT = "A reasoning model", "Gains are consistent"
GITHUB, EUROPARL, BOOKS = (f"Bits per byte on {name} fall" for name in ("GitHub", "EuroParl", "Books3"))


def world():
    """Settings by model and domain under which every claim that needs a run is confirmed."""
    plain = {"size": 1.0, "share": 0.8, "spread": 0.001, "seconds": 0.1}
    made = {
        "main": {name: plain | {"ratio": ratio} for name, ratio in RATIOS.items()},
        "real": {name: plain | {"ratio": ratio} for name, ratio in RATIOS.items()},
        "small": {name: plain | {"size": 1.2, "ratio": (ratio + 0.02) / 1.2} for name, ratio in RATIOS.items()},
        "trained": {name: plain | {"ratio": 0.97} for name in RATIOS},
        "reasoning": {name: plain | {"size": 0.9, "ratio": 0.78} for name in RATIOS},
    }
    made["trained"]["europarl"]["ratio"] = 1.05
    return made


def rows_of(settings):
    """Rows whose documents lie `spread` above and below the domain's ratio, and its share at 5, in turn."""
    made = []
    for role, domains in settings.items():
        for domain, s in domains.items():
            for number in range(s.get("documents", DOCUMENTS)):
                before = 1000.0 * s["size"] * (1 + number % 3)
                after = before * (s["ratio"] + s["spread"] * (-1) ** number)
                base = {"model": MODELS[role], "domain": domain, "document": number, "bytes": 4000.0 * (1 + number % 3)}
                share = s["share"] + s["spread"] * (-1) ** (number // 2)
                scores = {0: before, 5: before - share * (before - after), 20: after}
                for k in (0, 1, 5, 20):
                    seconds = {"train_seconds": s["seconds"] * (k > 0), "evaluation_seconds": s["seconds"]}
                    made.append(base | seconds | {"k": k, "nats": scores.get(k)})
    return pd.DataFrame(made)


def memory(dictionary=9000.0, store=9.0):
    """Measurements in bytes a document, for two sizes."""
    each = {"dictionary": dictionary, "store": store}
    sizes = [(kind, n) for n in (1000, 2000) for kind in each]
    return pd.DataFrame([{"kind": kind, "documents": n, "resident_bytes": n * each[kind]} for kind, n in sizes])


def costs(cheap=0.1, dear=40.0, documents=DOCUMENTS, apart=1.0):
    """Rows of the benchmark of the loops: one domain is dear, and some documents cost `apart` times the others."""
    return pd.DataFrame([
        {"model": "m", "loop": "reference", "domain": domain, "document": n, "k": k,
         "train_seconds": 0.9 * seconds * apart ** (n % 2), "evaluation_seconds": 0.1 * seconds * apart ** (n % 2)}
        for domain, seconds in (("enron", cheap), ("books", dear)) for n in range(documents) for k in range(3)
    ])  # fmt: skip


def verdicts(settings, beginning="", measured=None, **others):
    """Verdict by claim, of those claims that begin so."""
    evidence = Evidence(rows_of(settings), "made up", memory=measured, resamples=RESAMPLES, **others)
    chosen = [claim for claim in CLAIMS if claim.statement.startswith(beginning)]
    return ledger(evidence, chosen).set_index("claim")["verdict"]


def one(settings, beginning, **others):
    (verdict,) = verdicts(settings, beginning, **others)
    return Verdict(verdict)


def set_all(role, **values):
    def change(made):
        for domain in made[role]:
            made[role][domain] |= values

    return change


def set_one(role, domain, **values):
    return lambda made: made[role][domain].update(values)


def both(*changes):
    return lambda made: [change(made) for change in changes]


@pytest.fixture(scope="module")
def confirming():
    return verdicts(world(), measured=memory(), cost=costs())


RUN_FREE = "The figure for"
STEADY = "Performance improves"  # not in a world where a model gets worse, as another claim wants it


@pytest.mark.parametrize("claim", [c.statement for c in CLAIMS if not c.statement.startswith((RUN_FREE, STEADY))])
def test_a_world_made_to_confirm_confirms(confirming, claim):
    assert confirming[claim] == CONFIRMED


@pytest.mark.parametrize(
    ("claim", "change", "verdict"),
    [
        (FALL, set_one("real", "enron", ratio=1.0, spread=0.1), DIRECTION),
        (FALL, set_all("real", ratio=1.0, spread=0.1), NOT),
        (FALL, set_all("real", ratio=1.1), NOT),
        (GITHUB, set_one("real", "github", ratio=0.6), DIRECTION),
        (GITHUB, set_one("real", "github", ratio=0.51, spread=0.3), DIRECTION),  # wide, but below 100%
        (GITHUB, set_one("real", "github", ratio=0.98, spread=0.3), NOT),
        (GITHUB, set_one("real", "github", ratio=1.2), NOT),
        (EUROPARL, set_one("real", "europarl", ratio=0.4), DIRECTION),
        (BOOKS, set_one("real", "books", ratio=0.96, spread=0.2), NOT),  # near, but reaches over 100%
        (BOOKS, set_one("real", "books", ratio=0.985), DIRECTION),  # near, but less than half of the gain
        ("Most of the gain", set_one("main", "arxiv", share=0.3), DIRECTION),
        ("Most of the gain", set_all("main", share=0.3), NOT),
        ("Most of the gain", set_one("trained", "arxiv", share=0.3), DIRECTION),  # any model counts
        ("Most of the gain", set_all("trained", share=0.3), NOT),
        ("Most of the gain", set_all("trained", ratio=1.0), CONFIRMED),  # no gain to take a share of
        ("Most of the gain", lambda made: [set_all(role, ratio=1.0)(made) for role in made], UNTESTABLE),
        (STEADY, set_one("trained", "europarl", ratio=0.97), CONFIRMED),
        (STEADY, set_one("trained", "europarl", ratio=0.97, share=1.1), DIRECTION),  # best before the last
        (STEADY, set_all("trained", ratio=0.97, share=1.1), NOT),
        ("Specialised", set_one("real", "enron", ratio=0.6), DIRECTION),
        ("Specialised", set_one("real", "enron", ratio=0.5), NOT),  # ahead in the mean, but e-mail gains more than both
        ("Specialised", both(set_one("real", "github", ratio=0.95), set_one("real", "europarl", ratio=0.9)), NOT),
        ("Books gain least", set_one("real", "wikipedia", ratio=0.97, spread=0.1), DIRECTION),
        ("Books gain least", set_one("real", "wikipedia", ratio=0.99), NOT),  # surely gains less
        ("Books gain least", set_one("real", "books", ratio=0.6), NOT),
        ("Models not pre-trained", set_one("trained", "arxiv", ratio=0.8), DIRECTION),
        ("Models not pre-trained", set_one("trained", "books", ratio=0.9), DIRECTION),  # new by the settings
        ("Models not pre-trained", set_one("trained", "enron", ratio=0.7), CONFIRMED),  # read by both
        ("Models not pre-trained", set_all("trained", ratio=0.3), NOT),
        # twelve documents: 2.3 standard errors above 100%, enough for one domain, not for the worst of seven
        ("Models trained", set_one("trained", "europarl", ratio=1 + 2.3 * 0.1 / 12**0.5, spread=0.1), DIRECTION),
        ("Models trained", set_one("trained", "europarl", ratio=1.01, spread=0.1), NOT),
        ("Models trained", set_one("trained", "europarl", ratio=0.99), NOT),
        (AS_WERE, set_all("small", ratio=0.95), DIRECTION),
        (AS_WERE, set_all("small", ratio=1.01), NOT),
        (AS_WERE, set_all("small", size=1.0), UNTESTABLE),  # no gap to close
        (BOTH_ADAPT, set_all("small", ratio=0.95), NOT),  # nearer to the large one as it was, which has gone ahead
        (BOTH_ADAPT, set_one("small", "europarl", ratio=0.7), DIRECTION),
        (BOTH_ADAPT, set_all("small", size=1.0), UNTESTABLE),
        (REASONING, set_one("reasoning", "dm-mathematics", ratio=0.6), DIRECTION),
        (REASONING, set_one("reasoning", "dm-mathematics", ratio=1.0, spread=0.2), NOT),
        (REASONING, set_one("reasoning", "dm-mathematics", size=1.0), UNTESTABLE),  # no head start
        (REASONING, set_one("reasoning", "dm-mathematics", size=1.2, ratio=0.4), UNTESTABLE),
        (CONSISTENT, set_one("reasoning", "enron", ratio=1.0, spread=0.1), DIRECTION),
        (CONSISTENT, set_all("reasoning", ratio=1.1), NOT),
        (CONSISTENT, set_one("reasoning", "dm-mathematics", size=1.0), UNTESTABLE),
    ],
)
def test_a_verdict_flips_with_the_rows(claim, change, verdict):
    changed = copy.deepcopy(world())
    change(changed)
    assert one(changed, claim) == verdict


@pytest.mark.parametrize(
    ("cost", "verdict"),
    [
        (costs(), CONFIRMED),
        (costs(documents=ENOUGH - 1), DIRECTION),
        (costs(dear=4.0), DIRECTION),
        (costs(dear=4.0, apart=30.0), NOT),  # documents of one domain are farther apart than the domains
        (costs(dear=0.15), NOT),
        (None, UNTESTABLE),
    ],
)
def test_the_verdict_on_cost_follows_the_benchmark(cost, verdict):
    assert one(world(), "A neighbour costs", cost=cost) == verdict


def test_the_domains_new_to_a_model_follow_from_the_settings_of_its_pre_training():
    seven = list(RATIOS)
    assert domains_read("gpt2-xs-general", seven) == {"enron", "wikipedia"}
    assert new_domains("gpt2-xs-general", "gpt2-xs-pile", seven) == [
        "arxiv", "books", "dm-mathematics", "europarl", "github"]  # fmt: skip
    assert not new_domains("gpt2-xs-pile", "gpt2-xs-general", seven)
    assert domains_read("EleutherAI/gpt-neo-1.3B", seven) == set(seven), "the registry's word for all"
    assert domains_read("openai-community/gpt2", ["github"]) == set()
    assert domains_read("some/folder", seven) == set(), "nothing is known of it"


def few(made):
    """The real model has too few documents everywhere."""
    for settings in made["real"].values():
        settings["documents"] = ENOUGH - 1


SINGLE = [(GITHUB, "github"), (EUROPARL, "europarl"), (BOOKS, "books")]


@pytest.mark.parametrize(("claim", "domain"), SINGLE)
def test_a_published_figure_is_judged_on_the_real_model_once_it_has_enough_documents(claim, domain):
    made = world()
    set_one("main", domain, ratio=1.2)(made)
    assert one(made, claim) == CONFIRMED
    set_one("real", domain, documents=ENOUGH - 1)(made)
    assert one(made, claim) == NOT, "ours decides, and it got worse"
    set_one("main", domain, ratio=RATIOS[domain])(made)
    assert one(made, claim) == CONFIRMED


def test_bits_fall_everywhere_only_if_the_real_model_was_tried_everywhere():
    made = world()
    set_all("main", ratio=1.2)(made)
    assert one(made, FALL) == CONFIRMED
    set_one("real", "enron", documents=ENOUGH - 1)(made)
    assert one(made, FALL) == DIRECTION, "one of the seven is open"
    set_all("real", ratio=1.2)(made)
    assert one(made, FALL) == NOT
    few(made)
    set_all("main", ratio=0.9)(made)
    assert one(made, FALL) == CONFIRMED, "ours, as long as the real one has no domain"


def sizes(bits, domains=RATIOS):
    """A table of deflate in which every document of `domains` takes so many bits per byte."""
    rows = [(domain, n, 4000 * (1 + n % 3)) for domain in domains for n in range(DOCUMENTS)]
    return pd.DataFrame([(*row, row[2] * bits / 8) for row in rows], columns=COLUMNS)


NEEDED = 1000 / 4000 / np.log(2)  # bits per byte of every model of the made-up world before it adapts


@pytest.mark.parametrize(("claim", "domain"), SINGLE)
def test_no_headline_where_deflate_is_better_than_the_model_was(claim, domain):
    assert one(world(), claim, deflate=sizes(NEEDED * 1.01)) == CONFIRMED
    assert one(world(), claim, deflate=sizes(NEEDED * 0.99)) == UNTESTABLE, "neither the real model nor ours"
    assert one(world(), claim, deflate=sizes(NEEDED * 0.99, [domain])) == UNTESTABLE
    assert one(world(), FALL, deflate=sizes(NEEDED * 0.99, [domain])) == DIRECTION
    assert one(world(), FALL, deflate=sizes(NEEDED * 0.99)) == UNTESTABLE


def test_a_model_that_is_worse_than_deflate_in_one_language_does_not_speak_for_the_mix():
    """Half of the documents are Spanish and take the model more bits than deflate, all together they take fewer."""
    rows = rows_of(world())
    spanish = (rows["domain"] == "europarl") & (rows["document"] % 2 == 1)
    rows["language"] = np.where(spanish, "es", "en")
    deflate = sizes(NEEDED * 1.01)
    deflate.loc[(deflate["domain"] == "europarl") & (deflate["document"] % 2 == 1), COLUMNS[-1]] *= 0.9
    deflate.loc[(deflate["domain"] == "europarl") & (deflate["document"] % 2 == 0), COLUMNS[-1]] *= 1.2
    evidence = Evidence(rows, "made up", deflate=deflate, resamples=RESAMPLES)
    assert evidence.beaten("main", "enron") == ""
    assert "bits/byte on europarl (Spanish, Galician), and deflate needs" in evidence.beaten("main", "europarl")
    assert Evidence(rows.drop(columns="language"), "made up", deflate=deflate).beaten("main", "europarl") == ""


def test_domains_with_longer_texts_do_not_decide_for_the_others():
    """In the mean over domains the specialised ones gain less; two with long texts that gain little would hide it."""
    made = world()
    gains = {"github": 0.6, "europarl": 0.9} | dict.fromkeys(("enron", "arxiv", "dm-mathematics"), 0.7)
    for domain, ratio in gains.items():
        set_one("real", domain, ratio=ratio)(made)
    for domain in ("books", "wikipedia"):
        set_one("real", domain, ratio=0.8, size=100.0)(made)
    assert one(made, "Specialised") == NOT
    set_one("real", "europarl", ratio=0.8)(made)
    assert one(made, "Specialised") == DIRECTION


JUDGED_BY_PATTERN = [
    "Most of the gain", "Specialised", "Books gain", "Models not pre-trained", "Models trained", AS_WERE, BOTH_ADAPT,
    REASONING, CONSISTENT,
]  # fmt: skip


@pytest.mark.parametrize("claim", JUDGED_BY_PATTERN)
def test_no_pattern_is_confirmed_by_models_that_are_worse_than_deflate(claim):
    assert one(world(), claim, deflate=sizes(NEEDED * 1.3)) == CONFIRMED
    assert one(world(), claim, deflate=sizes(NEEDED * 0.8)) == UNTESTABLE


@pytest.mark.parametrize("claim", ["Most of the gain", "Books gain", "Models not pre-trained", AS_WERE, CONSISTENT])
def test_a_domain_where_deflate_is_better_bars_confirmed(claim):
    assert one(world(), claim, deflate=sizes(NEEDED * 0.8, ["arxiv"])) == DIRECTION


def test_a_minority_of_domains_does_not_speak_for_all():
    """Five are new to one of the two models."""
    beaten = ["arxiv", "dm-mathematics", "github"]
    assert one(world(), "Models not pre-trained", deflate=sizes(NEEDED * 0.8, beaten[:2])) == DIRECTION
    assert one(world(), "Models not pre-trained", deflate=sizes(NEEDED * 0.8, beaten)) == UNTESTABLE


@pytest.mark.parametrize("claim", ["Books gain", "Models not pre-trained", "Models trained", AS_WERE, CONSISTENT])
def test_nothing_is_confirmed_on_few_documents(claim):
    made = world()
    for role in made:
        set_one(role, "arxiv", documents=ENOUGH - 1)(made)
    assert one(made, claim) == DIRECTION
    for role in made:
        set_all(role, documents=ENOUGH - 1)(made)
    assert one(made, claim) == UNTESTABLE


def test_a_pattern_of_domains_is_judged_on_the_first_model_that_can_be():
    made = world()
    set_all("main", ratio=1.2)(made)
    assert one(made, "Specialised") == CONFIRMED
    set_one("real", "github", documents=ENOUGH - 1)(made)
    assert one(made, "Specialised") == NOT, "ours, and all its domains are alike"
    set_one("main", "github", documents=ENOUGH - 1)(made)
    set_all("trained", ratio=0.97)(made)
    assert one(made, "Specialised") == NOT, "the trained one"
    set_one("trained", "github", ratio=0.8)(made)
    set_one("trained", "europarl", ratio=0.8)(made)
    assert one(made, "Specialised") == CONFIRMED


def test_rows_of_another_run_are_named_in_the_origin():
    rows = rows_of(world())
    rows["run"] = np.where((rows["model"] == MODELS["real"]) & (rows["domain"] == "books"), "real/nearest-h200", None)
    found = ledger(Evidence(rows, "made up", resamples=RESAMPLES)).set_index("claim")["origin"]
    (books,) = (origin for claim, origin in found.items() if claim.startswith(BOOKS))
    assert books == "real/nearest-h200 / smollm2-135m / books"
    assert found["Models trained on the domain may get worse"].startswith("made up / ")


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(memory(), CONFIRMED), (memory(160.0), DIRECTION), (memory(160.0, 500.0), NOT), (None, UNTESTABLE)],
)
def test_the_verdict_on_memory_follows_the_measurement(measured, verdict):
    claim = next(c for c in CLAIMS if c.statement.startswith("Line offsets"))
    assert ledger(Evidence(pd.DataFrame(), "none", memory=measured), [claim]).verdict.item() == verdict


def test_wide_intervals_confirm_nothing():
    wide = world()
    for role in wide:
        set_all(role, spread=-0.9 if role == "trained" else 0.9)(wide)  # pairs must not cancel it
    found = verdicts(wide)
    assert not list(found[~found.index.str.startswith(RUN_FREE) & (found == CONFIRMED)].index)


@pytest.mark.parametrize(
    ("beginning", "curve", "verdict"),
    [
        ("GitHub", None, NOT),
        ("EuroParl", None, DIRECTION),
        ("Books3", None, UNTESTABLE),
        ("GitHub", {20: 0.515, 50: 0.4}, DIRECTION),  # two points without intervals confirm nothing
        ("EuroParl", {20: 0.6, 50: 0.68}, NOT),
        ("Books3", {20: 0.955, 50: 0.9}, DIRECTION),
        ("Books3", {20: 0.9, 50: 0.955}, NOT),
    ],
)
def test_what_20_instead_of_50_neighbours_explain(beginning, curve, verdict, monkeypatch):
    (claim,) = (c for c in CLAIMS if c.statement.startswith(f"{RUN_FREE} {beginning}"))
    if curve:
        lines = dict.fromkeys(("github", "europarl", "books"), pd.Series(curve))
        monkeypatch.setattr(claims, "_original", lambda run="gpt2": pd.DataFrame(lines).T)
    assert ledger(Evidence(pd.DataFrame(), "none"), [claim]).verdict.item() == verdict


def test_what_is_missing_cannot_be_tested():
    without = {role: domains for role, domains in world().items() if role != "reasoning"}
    assert one(without, REASONING) == UNTESTABLE
    assert one(world(), GITHUB, k=10) == UNTESTABLE, "not scored there"
    few = rows_of(world()).query("document < 4")
    with pytest.raises(Untestable, match="4 documents of github"):
        Evidence(few, "made up").sums([("main", 0), ("main", 20)], ["github"])


def test_models_are_compared_on_the_documents_of_both():
    rows = rows_of(world())
    left_out = (rows["model"] == MODELS["trained"]) & (rows["document"] >= 6)
    _, sums = Evidence(rows[~left_out], "made up", resamples=10).sums([("main", 0), ("trained", 0)], ["github"])
    assert sums.shape == (11, 1, 2)
    assert np.array_equal(sums[..., 0], sums[..., 1]), "the same documents, drawn together"


def test_another_text_under_the_same_number_is_another_document():
    rows = rows_of(world())
    cleaned = rows["model"] == MODELS["trained"]
    rows.loc[cleaned, "bytes"] -= 1
    with pytest.raises(Untestable, match="no document has all the scores"):
        Evidence(rows, "made up").sums([("main", 0), ("trained", 0)])
    Evidence(rows, "made up", resamples=10).sums([("trained", 0), ("trained", 20)])


def test_the_shipped_archive_gives_a_full_ledger():
    rows = pd.concat([archived_rows("seven-domains"), real_rows(20)], ignore_index=True)
    sizes = archived_deflate("seven-domains")
    cost = bench_rows("neighbours")
    found = ledger(Evidence(rows, "seven-domains", memory=memory(160.0), deflate=sizes, cost=cost, resamples=50))
    assert tuple(found.columns) == LEDGER
    texts = found.drop(columns=["value", "low", "high"])
    assert texts.map(lambda text: isinstance(text, str) and text.strip() != "").all(axis=None)
    assert not texts.apply(lambda column: column.str.contains(r"\bnan\b")).any(axis=None)
    assert set(found["verdict"]) <= {verdict.value for verdict in Verdict}
    assert found.loc[found["verdict"] != UNTESTABLE, "value"].notna().all()
    untestable = found.loc[found["verdict"] == UNTESTABLE, "claim"]
    named = "Books3|Small|GitHub|reasoning|not pre-trained"
    assert untestable.str.contains(named).all(), "the archive holds what the others need"
    reasons = found.set_index("claim")["reason"]
    assert "no stand-in" in reasons[reasons.index.str.startswith(REASONING)].item()
    few = reasons[reasons.index.str.startswith("Most of the gain")].item()
    assert "gpt2-xs-general" in few.partition("no sure gain to take a share of: ")[2], "so says the chapter on the loop"
    assert found.set_index("claim").loc["Bits per byte on Books3 fall to 96%", "origin"].startswith("real/")


def test_the_ledger_after_five_neighbours_is_as_the_answer_to_an_exercise_says():
    """The first exercise of the first chapter."""
    near, here = "variants/nearest", archived_models("seven-domains")
    others = [archived(near, name).rows.assign(run=near) for name in archived_models(near) if name not in here]
    rows = pd.concat([archived_rows("seven-domains"), real_rows(5), *others], ignore_index=True)
    evidence = Evidence(rows, "seven-domains", 5, deflate=archived_deflate("seven-domains"), resamples=1000)
    verdicts = ledger(evidence).set_index("claim")["verdict"]
    starts = {STEADY: NOT, "Most of the gain": DIRECTION, BOOKS: CONFIRMED}
    assert {start: verdicts[verdicts.index.str.startswith(start)].item() for start in starts} == starts


@pytest.mark.parametrize(("claim", "last"), [("Most of the gain", 5), (STEADY, 10)])
def test_places_are_those_at_which_every_domain_was_scored(claim, last):
    """As where the rows of some domains were made elsewhere, at other k."""
    rows = rows_of(world() | {"trained": world()["main"]})
    between = rows[rows["k"] == 5].assign(k=last)
    rows = pd.concat([rows[rows["k"] != 5], between.assign(k=2), between[between["domain"] != "books"]])
    [chosen] = [each for each in CLAIMS if each.statement.startswith(claim)]
    [found] = ledger(Evidence(rows, "made up", resamples=RESAMPLES), [chosen]).to_dict("records")
    assert found["verdict"] == CONFIRMED
    assert claim == STEADY or "is there at 2" in found["measured"]


def test_the_ledger_has_every_claim_with_a_number_or_a_comparison():
    judged = {line for claim in CLAIMS for line in claim.published}
    expected = {f"R{number:02d}" for number in [*range(3, 18), 22]}
    assert expected <= judged <= set(report_claims().index)
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS)
