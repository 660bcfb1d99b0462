"""Archived runs are complete, honest about their origin, and hold no text."""

import json
import math
from functools import cache

import pandas as pd
import pytest

from tttnn.files import write_json
from tttnn.models import CHECKPOINTS, load_model
from tttnn.report import archive as module
from tttnn.report.archive import FOLDER, archived, archived_models, archived_rows
from tttnn.report.published import PILE_NAMES, PILE_SETS, published_curves

# A run, or a variant of one: "variants/random".
RUNS = sorted({str(path.parents[1].relative_to(FOLDER)) for path in FOLDER.glob("**/run.json")})
MODELS = [(run, model) for run in RUNS for model in archived_models(run)]

each_model = pytest.mark.parametrize(("run", "model"), MODELS)


@each_model
def test_archived_rows_are_complete(run, model):
    archive = archived(run, model)
    rows, settings = archive.rows, archive.facts["settings"]
    good = rows[rows["failure"] == ""]
    per_document = good.groupby(["model", "domain", "document"])["k"].apply(list)
    trained = settings.get("method", "ttt") == "ttt"  # a baseline has no step between two scores
    assert (per_document.map(len) == (max(settings["ks"]) + 1 if trained else len(settings["ks"]))).all()
    assert good.loc[good["k"].isin(settings["ks"]), "nats"].notna().all()
    assert set(rows["model"]) == {model} == {settings["model"]}
    assert archive.facts["end"], "the run was finished"
    drawn = archive.facts["about"]["drawn"]["per_domain"]
    assert (rows.groupby("domain")["document"].nunique() == drawn).all()


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
    with pytest.raises(ValueError, match="there are seven-domains"):
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


def test_every_published_task_has_a_domain_of_the_pile():
    tasks = set(published_curves()["task"]) - {"all"}
    assert {PILE_NAMES.get(domain, domain) for domain in PILE_SETS.values()} == tasks
