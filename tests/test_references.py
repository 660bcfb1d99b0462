"""What a gain is read against: deflate, a uniform guess, siblings and languages, by hand and in the archive."""

import math

import pandas as pd
import pytest

from tttnn.analysis.archive import archived, archived_rows
from tttnn.analysis.comparisons import by_model
from tttnn.analysis.deflate import COLUMNS
from tttnn.analysis.references import (
    beside_references,
    by_language,
    in_parts,
    uniform_bits,
    vocabulary,
    whole_of,
    with_languages,
    worse_than_deflate,
)
from tttnn.analysis.siblings import loss_by_rank, sibling_shares
from tttnn.models import load_model
from tttnn.rows import RowsError

RUN, MODEL = "seven-domains", "gpt2-xs-general"


def row(domain, document, k, nats=None, same=None, language="en", loss=None, steps=0, model=MODEL):
    scored = {"nats": nats, "bytes": 100 if nats else None, "words": 9, "tokens": 20 if nats else None}
    place = {"model": model, "domain": domain, "document": document, "language": language, "k": k}
    return place | scored | {"same_unit": same, "same_source": same, "loss": loss, "steps": steps, "failure": ""}


def rows(*listed):
    return pd.DataFrame(listed).astype({"same_unit": "boolean", "same_source": "boolean"})


WORLD = rows(
    row("europarl", 1, 0, 80.0), row("europarl", 1, 1, None, True), row("europarl", 1, 2, 72.0, False),
    row("europarl", 2, 0, 90.0, language="gl"), row("europarl", 2, 1, None, True, "gl"),
    row("europarl", 2, 2, 45.0, True, "gl"), row("europarl", 3, 0, 110.0, language="es"),
    row("europarl", 3, 1, None, False, "es"), row("europarl", 3, 2, 55.0, False, "es"),
)  # fmt: skip
SIZES = pd.DataFrame([("europarl", 1, 100, 10), ("europarl", 2, 100, 20), ("europarl", 3, 100, 30)], columns=COLUMNS)


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary():
    scored = WORLD[WORLD["k"] == 0]
    assert uniform_bits(scored, MODEL) == pytest.approx(0.2 * 13)  # 20 tokens of 8,192 entries in 100 bytes
    assert uniform_bits(scored, "no-such-model") is None
    assert uniform_bits(scored[:0], MODEL) is None


def test_the_vocabulary_is_that_of_the_model():
    assert vocabulary(MODEL) == len(load_model(MODEL).head[0])


def test_shares_of_siblings_by_hand():
    assert sibling_shares(WORLD)[["same_unit", "documents"]].values.tolist() == [[0.5, 3]]
    by_rank = sibling_shares(WORLD, ["domain", "k"])
    assert by_rank[["k", "same_unit"]].values.tolist() == [[1, pytest.approx(2 / 3)], [2, pytest.approx(1 / 3)]]


def test_documents_of_equal_numbers_are_told_apart_by_domain_and_model():
    both = pd.concat([WORLD, WORLD.assign(domain="letters")])
    found = sibling_shares(pd.concat([both, both.assign(model="another")]), ["k"])
    assert found["documents"].tolist() == [12, 12], "three numbers in two domains for two models"
    assert sibling_shares(both, ["model"])["documents"].tolist() == [6]
    assert sibling_shares(both.drop(columns="model"))["documents"].tolist() == [3, 3]


def test_rows_of_before_are_refused_with_the_cure():
    with pytest.raises(RowsError, match="add_origins adds the columns"):
        sibling_shares(WORLD.drop(columns="same_unit"))


def test_what_a_corpus_does_not_say_is_missing_and_not_zero():
    silent = WORLD.assign(same_unit=pd.array([pd.NA] * len(WORLD), dtype="boolean"))
    assert sibling_shares(silent)["same_unit"].isna().all()
    assert beside_references(by_model(silent, 2, 10), silent, None, 2)["same_unit"].isna().all()
    older = WORLD.drop(columns=["same_unit", "same_source"])
    assert beside_references(by_model(older, 2, 10), older, None, 2)["same_unit"].isna().all()


def test_a_domain_of_several_languages_is_shown_whole_and_in_parts():
    all_rows, sizes = with_languages(WORLD, SIZES)
    lines = beside_references(by_model(all_rows, 2, 10), all_rows, sizes, 2).set_index("domain")
    assert lines.ratio.to_dict() == {
        "europarl": pytest.approx(172 / 280), "europarl (English)": pytest.approx(72 / 80),
        "europarl (Spanish, Galician)": pytest.approx(100 / 200),
    }  # fmt: skip
    assert lines.deflate.tolist() == [pytest.approx(8 * 60 / 300), pytest.approx(0.8), pytest.approx(8 * 50 / 200)]
    assert lines.same_unit.tolist() == [0.5, 0.5, 0.5]
    assert in_parts(["books", *all_rows["domain"]]) == ["books", "europarl (English)", "europarl (Spanish, Galician)"]
    assert in_parts(["books", "europarl"]) == ["books", "europarl"], "rows that do not say their language"


def test_parts_take_the_place_of_their_domain_where_rows_say_their_language():
    other = WORLD.assign(domain="books")
    parted = by_language(pd.concat([WORLD, other], ignore_index=True))
    assert parted["domain"].value_counts().to_dict() == {
        "books": 9, "europarl (English)": 3, "europarl (Spanish, Galician)": 6
    }  # fmt: skip
    assert by_language(WORLD.assign(language=None))["domain"].unique().tolist() == ["europarl"]
    assert [whole_of(name) for name in parted["domain"].unique()] == ["books", "europarl", "europarl"]


def test_the_parts_need_rows_that_say_their_language_and_no_sizes():
    same, none = with_languages(WORLD.drop(columns="language"), None)
    assert same["domain"].unique().tolist() == ["europarl"] and none is None


def test_worse_than_deflate_is_said_of_the_model_as_it_is():
    gains = pd.DataFrame({"domain": ["a", "b", "c"], "before": [2.0, 2.0, 2.0], "deflate": [1.9, 2.1, None]})
    assert worse_than_deflate(gains)["domain"].tolist() == ["a"]


def test_losses_of_siblings_and_others_add_up_to_all():
    walk = rows(
        row("m", 1, 1, None, True, loss=2.0, steps=2), row("m", 2, 1, None, False, loss=5.0, steps=1),
        row("m", 1, 2, None, False, loss=4.0, steps=1), row("m", 2, 2, None, None, loss=6.0, steps=1),
    )  # fmt: skip
    found = loss_by_rank(walk).set_index(["origin", "k"])
    assert found.loss["from the same unit", 1] == 2.0 and found.loss["from elsewhere", 1] == 5.0
    assert found.loss["all", 1] == pytest.approx((2 * 2 + 5) / 3) and found.documents["all", 1] == 2
    assert found.loss["from elsewhere", 2] == 5.0, "what is not known to be a sibling counts as none"


def test_archived_europarl_is_a_mix_of_two_answers():
    """17 English documents gain a tenth; 13 in Spanish and Galician, which the model never saw, gain four."""
    every, _ = with_languages(archived_rows(RUN), None)
    lines = by_model(every[every["model"] == MODEL], 20, 10).set_index("domain")
    assert lines.documents[["europarl (English)", "europarl (Spanish, Galician)"]].tolist() == [17, 13]
    assert lines.ratio["europarl (English)"] == pytest.approx(0.913, abs=5e-4)
    assert lines.ratio["europarl (Spanish, Galician)"] == pytest.approx(0.609, abs=5e-4)


def test_mathematics_runs_out_of_its_module_and_not_of_patience():
    """Behind rank 13 most neighbours are of other modules; siblings cost ever less, and the others about as much."""
    walk = archived(RUN, MODEL).rows.query("domain == 'dm-mathematics'")
    share = sibling_shares(walk, ["k"]).set_index("k").same_unit
    assert share[4] == 1.0 and share[13] > 0.8 and share[14] == 0.5 and share[20] == 0.0
    loss = loss_by_rank(walk).set_index(["origin", "k"]).loss
    assert loss["all", 14] > loss["all", 13] + 0.4
    assert loss["from the same unit", 15] < loss["from the same unit", 9] < loss["from elsewhere", 15]
    assert math.isnan(loss.get(("from the same unit", 20), math.nan))
