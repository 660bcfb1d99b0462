"""Which archived rows stand for the real model, and what is said to be missing."""

import pandas as pd
import pytest

from tttnn.analysis import frontier
from tttnn.analysis.archive import FOLDER, archived, archived_rows
from tttnn.analysis.controls import MEAN
from tttnn.analysis.deflate import archived_deflate, deflate_of
from tttnn.analysis.embedders import compared_neighbours
from tttnn.analysis.evidence import LEAST_DOCUMENTS
from tttnn.analysis.published import SEVEN
from tttnn.analysis.real_model import (
    BY_MINILM,
    CHOSEN_RATE,
    ENOUGH,
    LABELS,
    MODEL,
    PUBLISHED_RATE,
    computed_again,
    fullest,
    prefix_effect,
    rates,
    real_rows,
    resting_on,
    unfinished,
)  # fmt: skip
from tttnn.analysis.siblings import archived_without_siblings
from tttnn.analysis.statistics import before_after
from tttnn.analysis.variant_effects import archived_variants


def rows(counts, k=20):
    """Rows at 0 and k of so many documents by (variant, domain)."""
    made = [
        {"variant": variant, "domain": domain, "document": n, "k": at, "nats": 1.0, "model": MODEL}
        for (variant, domain), count in counts.items() for n in range(count) for at in (0, k)
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_the_fullest_condition_of_each_domain_stands_for_it():
    found = fullest(rows({("ours", "books"): 2, ("theirs", "books"): 3, ("ours", "enron"): 2, ("theirs", "enron"): 2,
                          ("other", "enron"): 9}), ["ours", "theirs", "missing"], 20)  # fmt: skip
    assert found.groupby("domain")["variant"].unique().map(list).to_dict() == {"books": ["theirs"], "enron": ["ours"]}


def test_documents_that_lack_the_last_score_do_not_count():
    begun = rows({("ours", "books"): 4}).query("k == 0 or document == 0")
    kept = fullest(pd.concat([begun, rows({("theirs", "books"): 2})]), ["ours", "theirs"], 20)
    assert set(kept["variant"]) == {"theirs"}
    assert fullest(begun, ["theirs"], 20).empty


def test_each_line_of_results_says_what_it_rests_on():
    """The real model's domains are of two machines; a part of a domain is of its domain's run."""
    real = rows({("ours", "books"): 1, ("theirs", "europarl"): 1})
    real["run"] = real.domain.map({"books": "real/nearest-h200", "europarl": "real/nearest"})
    lines = [(MODEL, "books", 24), (MODEL, "europarl (English)", 3), ("gpt2-xs-general", "books", 30)]
    lines = pd.DataFrame(lines, columns=["model", "domain", "documents"])
    found = resting_on(lines, real, "seven-domains")
    assert found == ["24 (2 chunks, H200)", "3 (1 chunk, CPU)", "30 (2 chunks, CPU)"]
    assert resting_on(lines[2:], real[:0], "seven-domains") == found[2:]
    assert archived("seven-domains", "gpt2-xs-general").sample == "30 documents a domain, 2 chunks, CPU"
    assert archived("real/nearest-h200", MODEL).sample.endswith("documents a domain, 2 chunks, H200")


def test_what_is_missing_is_named_with_its_number():
    found = rows({("ours", "books"): ENOUGH, ("ours", "enron"): 3})
    assert unfinished(found, 20, ["books", "enron", "github"]) == f"enron (3 of {ENOUGH}), github (none of {ENOUGH})"
    assert unfinished(found, 20, ["books"]) == ""


@pytest.mark.parametrize("conditions", [PUBLISHED_RATE, CHOSEN_RATE])
def test_the_shipped_rows_name_the_condition_they_come_from(conditions):
    kept = real_rows(20, conditions)
    assert set(kept["domain"]) <= set(SEVEN) and set(kept["model"]) == {MODEL}
    assert set(kept["run"]) <= {f"real/{name}" for name in conditions}
    assert set(conditions) <= set(LABELS)


def test_the_rate_called_chosen_is_the_best_of_the_sweep():
    tried = rates()
    best = tried.loc[tried["k = 20"].idxmin(), "learning_rate"]
    for name in set(CHOSEN_RATE) & {path.name for path in (FOLDER / "real").iterdir()}:
        assert archived(f"real/{name}", MODEL).facts["settings"]["switches"]["learning_rate"] == best
    assert tried.attrs["split"] == "val" and tried.attrs["documents"] == 12
    by_domain = tried.attrs["mean_of_domains"]  # as the settings of the methods it is compared with were chosen
    assert float(min(by_domain, key=by_domain.get)) == best


def test_the_token_before_a_text_changes_little_and_two_machines_agree():
    found = prefix_effect()
    assert set(found["domain"]) == {"books", "wikipedia"}
    assert (found["change"].abs() < 0.005).all() and (found["apart"] < 1e-5).all()


def test_scores_of_another_machine_come_out_again():
    """On an H200 and on a CPU, in bfloat16."""
    found = computed_again()
    assert found.groupby(["domain", "document"])["k"].size().tolist() == [9] * 3
    trained = found[found["k"] > 0]
    assert (trained["neighbour"] == trained["neighbour_again"]).all()
    assert found["apart"].max() < 1e-3 and found["apart"].min() > 0


def test_the_rows_of_another_embedder_differ_by_its_neighbours_alone():
    lexical, other = (archived(f"real/{name}", MODEL) for name in (CHOSEN_RATE[0], BY_MINILM))
    told = [each.facts["settings"] | {"retriever": None} for each in (lexical, other)]
    for name in told[0].keys() & told[1].keys() - {"switches"}:
        assert told[0][name] == told[1][name], name
    starts = [each.rows.query("k == 0").set_index(["domain", "document"])["nats"] for each in (lexical, other)]
    assert (starts[1] / starts[0].reindex(starts[1].index) - 1).abs().max() < 1e-6
    counts = other.rows.query("k == 20 and nats.notna()")["domain"].value_counts()
    assert set(counts.index) == set(SEVEN) and counts.min() >= LEAST_DOCUMENTS
    rows = archived_variants("real", MODEL, [CHOSEN_RATE[0], BY_MINILM])
    assert compared_neighbours(rows, CHOSEN_RATE[0], BY_MINILM, 20).iloc[-1].low <= 0, "chapter 2 asks why not more"


def test_page_one_says_what_the_rows_say():
    """It is no notebook: its two sentences on what comes out hold, or have to be written anew."""
    gains = before_after(real_rows(20), 20)
    assert set(gains["domain"]) == set(SEVEN) and (gains["ratio"] < 1).all(), "gains on all kinds of text"
    alone = archived_without_siblings([("variants", "gpt2-xs-pile")], 20).set_index("domain").loc[MEAN]
    assert alone["nearest"] < 0.96 and 0.98 < alone["other_units"] < 1, "without siblings it gains next to nothing"
    gap = frontier.tuned_gap("successors", "successors-val", MODEL, "dynamic evaluation", 20)
    assert gap.set_index("domain").loc[MEAN, "low"] > 0, "the real model gains more from neighbours"


def test_the_figure_of_page_one_is_what_its_alternative_text_says():
    starts = {}
    for name, found in {"real": real_rows(20), "ours": archived("seven-domains", "gpt2-xs-pile").rows}.items():
        gains = before_after(found, 20).set_index("domain")
        floor = deflate_of(found[found["k"] == 0], archived_deflate("seven-domains"), list(gains.index))
        assert (gains["before"] < floor).all(), "both start below deflate"
        starts[name] = gains["before"]
    assert list(starts["ours"].index[starts["ours"] < starts["real"]]) == ["dm-mathematics"]


def test_mathematics_is_best_where_its_siblings_run_out():
    """So says the chapter on cost of our small models."""
    found = archived_rows("seven-domains").query("domain == 'dm-mathematics' and model.str.startswith('gpt2-')")
    nats = found.dropna(subset="nats").pivot_table(index="model", columns="k", values="nats", aggfunc="sum")
    assert nats.idxmin(axis=1).between(10, 15).all()
