"""Variants: the runner does what their names say, and the report compares them pair by pair."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_retrieval import documents
from tiny import tiny_gpt2

from tttnn.analysis.variant_effects import archived_variants, effects, footing
from tttnn.corpus import open_corpus, write_jsonl
from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment import draw_documents, run
from tttnn.experiment.variants import (
    BASELINES,
    CONTROLS,
    EXPERTS,
    GRID,
    LORA,
    PARTS,
    QUIRKS,
    SUCCESSORS,
    TRIALS,
    VARIANTS,
    changed,
    checked_variants,
    run_variants,
)
from tttnn.files import read_json
from tttnn.models import load_model
from tttnn.retrieval import open_retriever
from tttnn.retrieval.strategies import Selection
from tttnn.rows import RowsError
from tttnn.ttt import TTT, Switches

SWITCHES = Switches(learning_rate=1e-2, max_length=32, max_chunks=1)
KS = [0, 2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    for domain, seed in (("europarl", 1), ("github", 2)):
        write_jsonl(place / f"{domain}.train.jsonl", documents(domain, 30, seed))
        write_jsonl(place / f"{domain}.test.jsonl", documents(domain, 4, seed + 10))
    return open_corpus(place)


@pytest.fixture(scope="module")
def ttt(corpus, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTTNN_HOME", str(tmp_path_factory.mktemp("home")))
        retriever = open_retriever(corpus)
    return TTT(load_model(tiny_gpt2(tmp_path_factory.mktemp("gpt2"))), retriever, SWITCHES)


@pytest.fixture(scope="module")
def drawn(corpus):
    return draw_documents(corpus, 2, 1)


def nats(rows, variant):
    return rows[(rows["variant"] == variant) & (rows["k"] == rows["k"].max())].set_index(["domain", "document"])["nats"]


def test_every_kind_of_variant_runs_and_starts_from_its_plain_score(ttt, drawn):
    """One for each strategy, method and switch that the tiny model's context of 64 tokens allows."""
    kinds = {(v.strategy.split(":")[0], v.method.split(":")[0], *v.switches): n for n, v in VARIANTS.items()}
    names = [name for key, name in kinds.items() if not {"context", "dynamic", "ttt-dynamic", "ttmm"} & set(key)]
    rows = run_variants(ttt, drawn[:1], KS, names)
    assert not rows["failure"].any() and rows["variant"].nunique() == len(names)
    plain = run(ttt, drawn[:1], [0])["nats"].item()
    for name, nats in rows[rows["k"] == 0].set_index("variant")["nats"].items():
        assert (nats == plain) == VARIANTS[name].switches.keys().isdisjoint({"split_query", "weights"}), name


@pytest.mark.parametrize("strategy", ["nearest", "random-domain", "other-units", "other-sources"])
@pytest.mark.parametrize("split_query", [False, True])
def test_evaluate_gives_the_numbers_of_a_run(ttt, drawn, strategy, split_query):
    document = drawn[1]
    one = TTT(ttt.lm, Selection(ttt.retriever, strategy), replace(SWITCHES, split_query=split_query))
    rows = run(one, [document], [0, 1, 3])
    result = one.evaluate(document.text, 3, ks=[1], meta=document.meta)
    assert rows["nats"].dropna().tolist() == [step.score.nats for step in result.steps if step.score]
    assert rows["neighbour"].dropna().tolist() == [neighbour.id for neighbour in result.neighbours]
    if strategy != "nearest":
        with pytest.raises(DocumentError, match=strategy if "other" in strategy else "domain ''"):
            one.evaluate(document.text, 3)


def test_a_strategy_for_a_method_that_looks_up_no_neighbours_is_refused(ttt, drawn):
    chosen = TTT(ttt.lm, Selection(ttt.need_retriever(), "random"), ttt.switches)
    with pytest.raises(ParameterError, match=r"strategy='random' and method='dynamic:8': it looks up no neighbours"):
        run(chosen, drawn, (0, 1), method="dynamic:8")


def test_a_loop_without_a_retriever_is_refused_in_a_sentence(ttt, drawn, tmp_path):
    for name in ("nearest", *(name for name, each in VARIANTS.items() if each.strategy != "nearest")):
        with pytest.raises(ParameterError, match=rf"^variant {name}: .*need a retriever"):
            run_variants(TTT(ttt.lm, None, SWITCHES), drawn, [0, 1], [name], tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_what_each_is_compared_with_differs_in_one_thing_only():
    """A difference could otherwise not be laid to what the name says."""
    for name, variant in VARIANTS.items():
        other = VARIANTS[variant.against]
        switched = {key for key in variant.switches | other.switches
                    if variant.switches.get(key) != other.switches.get(key)}  # fmt: skip
        switched -= {"ranks"} if "keep_optimizer" in switched else set()
        others = sum(getattr(variant, key) != getattr(other, key) for key in ("strategy", "method", "reverse"))
        allowed = (
            2 if name.startswith(("dynamic", "adapters-dynamic", "lora", "ttt-dynamic")) else 1
        )  # a step's rate is a part of those methods
        assert len(switched) + others + (variant.rate != other.rate) <= allowed, name
    groups = CONTROLS, BASELINES, QUIRKS, LORA, PARTS, SUCCESSORS, EXPERTS
    assert list(VARIANTS) == [name for group in groups for name in group] and len(VARIANTS) == sum(map(len, groups))


def test_each_method_has_as_many_trials_on_validation_documents():
    assert {len(set(names)) for names in GRID.values()} == {TRIALS}
    assert all(name in VARIANTS for names in GRID.values() for name in names)


def test_what_needs_experts_runs_only_where_it_is_named(ttt, drawn, tmp_path):
    assert not EXPERTS.keys() & set(checked_variants([]))
    with pytest.raises(ParameterError, match=r"^variant ttmm-.*experts are not in .*ttmm build --clusters 10 --lora 8"):
        run_variants(ttt, drawn, KS, ["nearest", next(iter(EXPERTS))], tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_a_kept_optimizer_begins_anew_with_each_domain_and_rank(ttt, drawn):
    alone = pd.concat([run_variants(ttt, [each], KS, ["kept-1"]) for each in drawn])
    rows = run_variants(ttt, drawn, KS, ["kept-1", "kept-3", "kept-reverse", "nearest"])
    kept, alone = nats(rows, "kept-1"), nats(alone, "kept-1")
    first = [(each.domain, each.number) for each in drawn[::2]]
    last = [(each.domain, each.number) for each in drawn[1::2]]
    assert (kept[first] == alone[first]).all() and (kept[last] != alone[last]).all()
    assert (nats(rows, "kept-3") == nats(rows, "nearest")).all()  # as many processes as documents: nothing is kept
    assert (nats(rows, "kept-reverse")[last] == alone[last]).all()


def test_bf16_weights_lose_small_steps(ttt, drawn):
    rows = run_variants(ttt, drawn[:1], KS, ["tiny-rate", "tiny-rate-bf16"])
    ends = {name: part.set_index("k")["nats"] for name, part in rows.groupby("variant")}
    assert ends["tiny-rate"][2] < ends["tiny-rate"][0]
    assert abs(ends["tiny-rate-bf16"][2] / ends["tiny-rate-bf16"][0] - 1) < abs(
        ends["tiny-rate"][2] / ends["tiny-rate"][0] - 1
    )


def test_rates_and_neighbours_are_those_of_the_name(ttt, drawn):
    assert changed(ttt, VARIANTS["rate-0.25"]).switches.learning_rate == pytest.approx(0.0025)
    adapters = changed(ttt, VARIANTS["lora-8-rate-10"]).switches
    assert (adapters.lora, adapters.learning_rate) == (8, pytest.approx(0.1))
    rows = run_variants(ttt, drawn[:1], [0, 2, 7], ["chunks-4"])
    assert rows[rows["nats"].notna()]["k"].tolist() == [0, 2, 5], "with the last score at its last neighbour"
    assert run_variants(ttt, drawn[:1], [0, 2], ["chunks-4"])["k"].max() == 2


def test_a_variant_without_a_score_after_neighbours_did_not_lose(ttt, drawn):
    rows = run_variants(ttt, drawn, [0, 20], ["nearest", "chunks-4"])
    assert (effects(rows, {"chunks-4": "nearest"}, 20)["ratio"] != 1).all()
    for left in (0, -1):
        part = rows[(rows["variant"] == "nearest") | (rows["k"] <= left)]
        with pytest.raises(RowsError, match=r"^chunks-4: no score after 1 to 20 neighbours, so nothing to compare"):
            effects(part, {"chunks-4": "nearest"}, 20)


def test_documents_at_once_where_a_variant_allows_it(ttt, drawn, tmp_path):
    names = ["nearest", "shuffled", "rate-2", "split", "dropout", "unigram-0.1"]
    alone = run_variants(ttt, drawn, KS, names)
    rows = run_variants(ttt, drawn, KS, names, tmp_path, at_once=3)
    pd.testing.assert_series_equal(rows["nats"], alone["nats"], rtol=1e-4)
    records = {name: read_json(tmp_path / name / ttt.lm.name / "run.json") for name in names}
    done = {name: record["calls"][0].get("documents_at_once") for name, record in records.items()}
    assert done == dict.fromkeys(names[:4], 3) | dict.fromkeys(names[4:])
    with pytest.raises(ParameterError, match="documents_at_once=0"):
        run_variants(ttt, drawn, KS, names, at_once=0)


def test_a_variant_that_cannot_be_stacked_takes_one_after_another(ttt, drawn, tmp_path, monkeypatch, caplog):
    """As adapters of a mixture of experts: the variants before it are not lost."""

    def refuse(*_):
        raise RuntimeError("no functorch transform of this")

    monkeypatch.setattr("tttnn.together.vmap", lambda *_: refuse)
    rows = run_variants(ttt, drawn, KS, ["nearest"], tmp_path, at_once=3)
    pd.testing.assert_series_equal(rows["nats"], run_variants(ttt, drawn, KS, ["nearest"])["nats"])
    assert "variant nearest: documents_at_once=3: " in caplog.text and (rows["failure"] == "").all()


def test_a_killed_grid_goes_on_where_it_was_and_is_read_back(ttt, drawn, tmp_path, monkeypatch):
    first = run_variants(ttt, drawn, KS, ["nearest"], tmp_path)
    monkeypatch.setattr(TTT, "adapt", lambda *a: pytest.fail("computed again"))
    again = run_variants(ttt, drawn, KS, ["nearest", "unigram-0.1"], tmp_path)
    pd.testing.assert_frame_equal(again[again["variant"] == "nearest"], first, check_dtype=False)
    rows = archived_variants(str(tmp_path), ttt.lm.name)
    assert set(rows["variant"]) == {"nearest", "unigram-0.1"} and len(rows) == len(again)
    with pytest.raises(ValueError, match="no archived run"):
        archived_variants(str(tmp_path), ttt.lm.name, ["sift"])
    with pytest.raises(ValueError, match="no variants of 'gpt9'"):
        archived_variants(str(tmp_path), "gpt9")


def test_unknown_variants_are_refused_before_anything_runs(ttt, drawn):
    with pytest.raises(ValueError, match="variants='neerest': must be one of nearest, random"):
        run_variants(ttt, drawn, KS, ["nearest", "neerest"])


def made(variant, nats, domain="d", size=1000):
    base = {"model": "m", "variant": variant, "domain": domain, "bytes": size, "words": 1, "failure": "", "steps": 0}
    return pd.DataFrame([
        base | {"document": document, "k": k, "nats": value} for document, pair in enumerate(nats)
        for k, value in zip((0, 20), pair, strict=True)
    ])  # fmt: skip


def test_effects_by_hand():
    rows = pd.concat([made("nearest", [(100, 50), (300, 150)]), made("random", [(100, 90), (300, 270)])])
    [line] = effects(rows, {"random": "nearest"}, 20).to_dict("records")
    assert (line["documents"], line["ratio"], line["ratio_against"]) == (2, pytest.approx(0.9), pytest.approx(0.5))
    assert [line[end] for end in ("difference", "low", "high")] == pytest.approx([0.4] * 3)
    assert line["clear"]


def test_an_effect_that_changes_sign_between_documents_is_not_clear():
    random = np.random.default_rng(0)
    nearest = [(100, 60 + each) for each in random.normal(0, 1, 12)]
    other = [(100, 60 + each) for each in random.normal(0, 1, 12)]
    rows = pd.concat([made("nearest", nearest), made("shuffled", other)])
    [line] = effects(rows, {"shuffled": "nearest"}, 20).to_dict("records")
    assert line["low"] < 0 < line["high"] and not line["clear"]


def test_documents_that_one_of_both_lacks_are_left_out():
    rows = pd.concat([made("nearest", [(100, 50), (300, 150)]), made("random", [(100, 90)])])
    assert effects(rows, {"random": "nearest"}, 20)["documents"].tolist() == [1]


def test_footing_names_variants_as_told():
    rows = pd.concat([made("nearest", [(100, 50)]), made("random", [(100, 90)]), made("sift", [(100, 40)])])
    table = footing(rows, 20, {"nearest": "TTT-NN", "sift": "SIFT"})
    assert table[["variant", "ratio"]].values.tolist() == [["TTT-NN", 0.5], ["SIFT", 0.4]]
