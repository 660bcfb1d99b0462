"""Archived runs are complete, honest about their origin, and hold no text."""

import json
import math
from functools import cache

import pandas as pd
import pytest

from tttnn.analysis import archive as module
from tttnn.analysis.archive import FOLDER, archived, archived_models, archived_rows, keep, place_of
from tttnn.analysis.deflate import archived_deflate
from tttnn.analysis.published import PILE_NAMES, PILE_SETS, published_curves
from tttnn.analysis.real_model import MODEL, RUN
from tttnn.analysis.scoring_effects import archived_ways
from tttnn.analysis.side_by_side import side_by_side
from tttnn.analysis.variant_effects import archived_variants, variant_models
from tttnn.files import write_json
from tttnn.models import CHECKPOINTS, load_model
from tttnn.rows import RowsError, read_rows

# A run, or a variant of one: "variants/random".
RUNS = sorted({str(path.parents[1].relative_to(FOLDER)) for path in FOLDER.glob("**/run.json")})
MODELS = [(run, model) for run in RUNS for model in archived_models(run)]

MODELS_OF_SEVEN = archived_models("seven-domains")

each_model = pytest.mark.parametrize(("run", "model"), MODELS)


@each_model
def test_archived_rows_are_complete(run, model):
    archive = archived(run, model)
    rows, settings = archive.rows, archive.facts["settings"]
    good = rows[rows["failure"] == ""]
    per_document = good.groupby(["model", "domain", "document"])["k"].apply(list)
    trained = settings.get("method", "ttt") == "ttt"  # other methods have no step between two scores, or one score
    last = max(settings["ks"])
    steps = list(range(last + 1)) if trained else per_document.iloc[0]
    assert (per_document.map(tuple) == tuple(steps)).all() and (steps[0], steps[-1]) == (0, last)
    assert good.loc[good["k"].isin(settings["ks"]), "nats"].notna().all()
    assert set(rows["model"]) == {model} == {settings["model"]}
    drawn = archive.facts["about"]["drawn"]["per_domain"]
    if run.startswith("real/"):  # grows from one release to the next, and says how far it has come
        assert (archive.documents <= drawn).all()
        assert (archive.documents == drawn).all() or "here so far" in archive.summary()["documents"]
    else:
        assert archive.facts["end"], "the run was finished"
        assert (archive.documents == drawn).all()


@each_model
def test_archived_rows_say_where_they_come_from(run, model):
    archive = archived(run, model)
    assert all(archive.summary().values())
    assert not math.isnan(float(archive.rows["train_seconds"].sum()))
    for path in (FOLDER / run / model).iterdir():
        assert path.name in {"rows.parquet", "run.json"}


@each_model
def test_archived_rows_belong_to_the_shipped_weights(run, model):
    settings = archived(run, model).facts["settings"]
    if (CHECKPOINTS / model).is_dir():
        assert shipped(model) == settings["weights"], "run it again with these weights"


@cache
def shipped(model):
    return load_model(model).weight_hash()


@pytest.mark.parametrize("run", RUNS)
def test_models_of_a_run_saw_the_same_documents(run):
    """What compares models pairs their documents: those that two of them share are the same ones."""
    rows = archived_rows(run)
    sizes = rows[rows["nats"].notna()].groupby(["domain", "document"])["bytes"].nunique()
    assert (sizes == 1).all()
    corpora = {archived(run, model).facts["about"]["corpus"]["fingerprint"] for model in archived_models(run)}
    assert len(corpora) == 1


def test_models_come_by_their_number_of_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    for name in ("gpt2-xs-general", "a-model-of-yours", "gpt2-xxs-general"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "run.json").write_text(json.dumps({"settings": {"model": name}}))
    assert archived_models("mine") == ["gpt2-xxs-general", "gpt2-xs-general", "a-model-of-yours"]


def test_unknown_archive_lists_the_known_ones():
    with pytest.raises(ValueError, match="there are real, real-again, seven-domains"):
        archived_models("eight-domains")
    with pytest.raises(ValueError, match=r"'gpt5' in 'seven-domains': there are .*gpt2-xs-general"):
        archived("seven-domains", "gpt5")


def test_a_folder_of_one_s_own_is_read_like_an_archived_run(tmp_path):
    """Models are known by the names they ran under, however deep their folders lie."""
    for folder, name in {"small": "gpt2", "EleutherAI/neo": "EleutherAI/gpt-neo-1.3B"}.items():
        write_json(tmp_path / folder / "run.json", {"settings": {"model": name}})
        domains = ["DM Mathematics", "Books3", "letters"]
        rows = pd.DataFrame({"model": name, "domain": domains, "neighbour_domain": [None, "Github", "letters"]})
        rows.to_parquet(tmp_path / folder / "rows.parquet")
    assert archived_models(str(tmp_path)) == ["gpt2", "EleutherAI/gpt-neo-1.3B"]
    rows = archived_rows(str(tmp_path))
    assert rows["domain"].tolist() == ["dm-mathematics", "books", "letters"] * 2, "the Pile's names become ours"
    assert rows["neighbour_domain"].fillna("").tolist() == ["", "github", "letters"] * 2
    write_json(tmp_path / "again" / "run.json", {"settings": {"model": "gpt2"}})
    with pytest.raises(ValueError, match="both runs of gpt2; keep one"):
        archived_models(str(tmp_path))


def own_run(folder, document=7, model="m"):
    """A finished run of one's own with one document."""
    write_json(folder / "run.json", {"settings": {"model": model}, "about": {}})
    rows = [{"model": model, "domain": "letters", "document": document, "k": k, "nats": 2.0 - k} for k in (0, 1)]
    pd.DataFrame(rows).assign(bytes=9, words=2, steps=0, failure="").to_parquet(folder / "rows.parquet")


def test_a_folder_of_one_s_own_goes_before_an_archived_run_of_its_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()
    assert place_of("variants") == FOLDER / "variants", "nothing was run there yet"
    own_run(tmp_path / "variants" / "nearest" / "m")
    assert place_of("variants") == tmp_path / "variants"
    assert "variants: read from" in caplog.text, "and it is said"
    assert archived_models("variants") == variant_models("variants") == ["m"]
    assert archived_variants("variants", "m")["variant"].unique().tolist() == ["nearest"]
    with pytest.raises(RowsError, match="no archived run"):
        archived_variants("variants", "m", ["random"])  # is in the archive only
    assert side_by_side(["variants"]).table["documents"].tolist() == [1]
    own_run(tmp_path / "seven-domains")
    assert archived_deflate("seven-domains") is None and archived_ways("seven-domains", "m") is None
    assert archived_models(FOLDER / "seven-domains") == MODELS_OF_SEVEN


def test_every_published_task_has_a_domain_of_the_pile():
    tasks = set(published_curves()["task"]) - {"all"}
    assert {PILE_NAMES.get(domain, domain) for domain in PILE_SETS.values()} == tasks


def begun(folder, documents, end=None, learning_rate=1e-3, start="2026-01-01"):
    """A run's folder with these finished documents of one domain, and a line that is being written."""
    write_json(folder / "run.json", {
        "settings": {"model": "m", "weights": "f", "switches": {}, "settings": {"learning_rate": learning_rate}},
        "about": {"drawn": {"per_domain": 3, "split": "test", "max_bytes": None}, "commit": "c", "device": start,
                  "index": {"documents": 9, "embedder": "e"}, "corpus": {"fingerprint": "f"}},
        "start": start, "end": end,
    })  # fmt: skip
    lines = [
        {"key": ["m", "letters", n, "hash"],
         "rows": [{"model": "m", "domain": "letters", "document": n, "k": k, "nats": 2.0 - k, "bytes": 1, "failure": ""}
                  for k in (0, 1)]}
        for n in documents
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key": ["m", "le')
    return folder


def test_a_run_is_kept_as_far_as_it_has_come_and_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    place = keep([begun(tmp_path / "run", [7, 4])], "real/nearest")
    assert sorted(path.name for path in place.iterdir()) == ["rows.parquet", "run.json"]
    kept = archived("real/nearest", "m")
    assert kept.rows[["document", "k"]].values.tolist() == [[4, 0], [4, 1], [7, 0], [7, 1]]
    assert kept.summary()["documents"] == "3 a domain, drawn from test; here so far: 2 of letters"
    assert "before it had finished" in kept.summary()["run"]
    assert (tmp_path / "run" / "rows.jsonl").read_text().endswith("le"), "the run's own file is left alone"
    keep([begun(tmp_path / "run", [7, 4, 1], end="2026-01-02")], "real/nearest")
    assert archived("real/nearest", "m").summary()["documents"] == "3 a domain, drawn from test"


def test_parts_of_a_run_are_kept_as_one_with_the_facts_of_each(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    parts = [begun(tmp_path / "b", [1], "2026-02-02", start="2026-02-01"), begun(tmp_path / "a", [0], "2026-01-02")]
    keep(parts, "mine")
    kept = archived("mine", "m")
    assert kept.documents.to_dict() == {"letters": 2}
    assert (kept.facts["start"], kept.facts["end"]) == ("2026-01-01", "2026-02-02")
    assert [part["about"]["device"] for part in kept.facts["parts"]] == ["2026-02-01", "2026-01-01"]
    assert kept.summary()["device"] == "2026-02-01, 2026-01-01"


def test_a_kept_run_is_a_part_that_others_add_to(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    runs = [begun(tmp_path / name, [number], start=f"2026-0{number + 1}-01") for number, name in enumerate("abc")]
    keep(runs, "at once")
    place = keep(runs[:2], "in turn")
    with pytest.raises(RowsError, match="letters 1 is in two"):
        keep([place, runs[1]], "in turn")
    assert keep([place, runs[2]], "in turn") == place
    assert archived("in turn", "m").facts == archived("at once", "m").facts
    pd.testing.assert_frame_equal(archived("in turn", "m").rows, archived("at once", "m").rows)


NOW = {
    "model": "m", "weights": "w", "prefix_id": 1, "switches": {"learning_rate": None, "clip": 1.0, "prefix": None},
    "retriever": {"corpus": "c0", "embedder": "e1", "split": "train", "index": "exact"},
    "settings": {"learning_rate": 2e-05, "context": 1024},
}  # fmt: skip
BEFORE = {
    "model": "m", "weights": "w", "switches": {"learning_rate": 2e-05, "clip": 1.0}, "retriever": "c0-e1",
    "settings": {"learning_rate": 2e-05, "context": 1024},
}  # fmt: skip
DRAWN = {"strategy": "random-domain", "seed": 1216}


@pytest.mark.parametrize(
    ("now", "before", "same"),
    [
        ({}, {}, True),
        ({"retriever": NOW["retriever"] | DRAWN}, {"retriever": "c0-e1-random-domain-1216"}, True),
        ({"retriever": NOW["retriever"] | DRAWN}, {"retriever": "c0-e1-random-domain-7"}, False),
        ({"retriever": NOW["retriever"] | DRAWN}, {}, False),
        ({}, {"retriever": "c0-e1-random-1216"}, False),
        ({}, {"retriever": "c0-e2"}, False),
        ({"switches": NOW["switches"] | {"learning_rate": 1e-4}}, {}, False),
        ({"switches": NOW["switches"] | {"learning_rate": 1e-4}},
         {"switches": BEFORE["switches"] | {"learning_rate": 1e-4}}, True),
        ({"switches": NOW["switches"] | {"clip": 2.0}}, {}, False),
        ({"weights": "v"}, {}, False),
        ({"config": "c"}, {}, True),
        ({"order": "a"}, {"order": "b"}, True),
        ({"config": "c"}, {"config": "d"}, False),
    ],
)  # fmt: skip
def test_parts_of_two_versions_belong_together_if_what_both_say_is_equal(tmp_path, monkeypatch, now, before, same):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    parts = [begun(tmp_path / "a", [0]), begun(tmp_path / "b", [1])]
    for part, settings in zip(parts, (NOW | now, BEFORE | before), strict=True):
        facts = json.loads((part / "run.json").read_text())
        write_json(part / "run.json", facts | {"settings": settings})
    if same:
        assert len(read_rows(keep(parts, "mine"))) > 0
    else:
        with pytest.raises(RowsError, match="other settings"):
            keep(parts, "mine")


def test_the_facts_of_a_run_in_parts_name_the_commits_and_devices_of_all_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    parts = [begun(tmp_path / name, [number]) for number, name in enumerate("abc")]
    for part, commits in zip(parts, (["1", "2"], ["2", "3"]), strict=False):  # the last is of an earlier version
        facts = json.loads((part / "run.json").read_text())
        calls = [{"commit": commit, "device": f"device {commit}"} for commit in commits]
        write_json(part / "run.json", facts | {"calls": calls})
    keep(parts, "mine")
    summary = archived("mine", "m").summary()
    assert summary["commit"] == "1, 2, 3, c"
    assert summary["device"] == "device 1, device 2, device 3, 2026-01-01"


@pytest.mark.parametrize(
    ("call", "processor"),
    [
        ({}, "H100, A100"),
        ({"model_device": "cpu"}, "CPU"),
        ({"model_device": "cuda"}, "H100"),
        ({"model_device": "cuda:1"}, "A100"),
        ({"device": "Xeon, 2 cores; GPU: none"}, "CPU"),
        ({"device": "Xeon; GPU: none", "workers": ["Xeon; GPU: NVIDIA L4"], "model_device": "cuda"}, "L4"),
    ],
)
def test_a_caption_names_what_was_computed_on(call, processor):
    facts = {"settings": {"switches": {"max_chunks": 2}}}
    machine = {"device": "Xeon, 2 cores, 2 threads; GPU: NVIDIA H100, A100"}
    assert module.Archive(None, facts | {"calls": [machine | call]}).conditions == f"2 chunks, {processor}"


def test_what_does_not_belong_together_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "archive")
    one, other = begun(tmp_path / "1", [0, 1]), begun(tmp_path / "2", [2], learning_rate=1e-4)
    with pytest.raises(RowsError, match="other settings"):
        keep([one, other], "mine")
    with pytest.raises(RowsError, match="letters 1 is in two"):
        keep([one, begun(tmp_path / "3", [1])], "mine")
    with pytest.raises(RowsError, match="no document is finished yet"):
        keep([begun(tmp_path / "4", [])], "mine")
    damaged = begun(tmp_path / "5", [1])
    (damaged / "rows.jsonl").write_text("{}}\n")
    with pytest.raises(RowsError, match=r"rows.jsonl, line 1: not a result line"):
        keep([damaged], "mine")
    with pytest.raises(RowsError, match=r"nowhere/run.json: no such file"):
        keep([tmp_path / "nowhere"], "mine")
    assert not (tmp_path / "archive").exists(), "nothing is written before all is in order"


def test_a_conditions_rows_of_the_real_model_share_their_documents():
    """The controls are compared on documents of the same number: they must be the same texts."""
    rows = archived_variants(RUN, MODEL)
    sizes = rows[rows["nats"].notna()].groupby(["domain", "document"])["bytes"].nunique()
    assert (sizes == 1).all()
    weights = {archived(f"{RUN}/{name}", MODEL).facts["settings"]["weights"] for name in rows["variant"].unique()}
    assert len(weights) == 1
