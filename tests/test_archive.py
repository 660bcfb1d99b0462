"""Archived runs are complete, honest about their origin, and hold no text."""

import math

import pytest

from tttnn.models import CHECKPOINTS, load_model
from tttnn.report.archive import FOLDER, archived

NAMES = sorted(path.parent.name for path in FOLDER.glob("*/run.json"))


@pytest.mark.parametrize("name", NAMES)
def test_archived_rows_are_complete(name):
    archive = archived(name)
    rows, settings = archive.rows, archive.facts["settings"]
    good = rows[rows["failure"] == ""]
    per_document = good.groupby(["model", "domain", "document"])["k"].apply(list)
    assert (per_document.map(len) == max(settings["ks"]) + 1).all()
    assert good.loc[good["k"].isin(settings["ks"]), "nats"].notna().all()
    assert archive.facts["end"], "the run was finished"
    drawn = archive.facts["about"]["drawn"]["per_domain"]
    assert (rows.groupby("domain")["document"].nunique() == drawn).all()


@pytest.mark.parametrize("name", NAMES)
def test_archived_rows_say_where_they_come_from(name):
    summary = archived(name).summary()
    assert all(summary.values())
    assert not math.isnan(float(archived(name).rows["train_seconds"].sum()))
    for path in (FOLDER / name).iterdir():
        assert path.name in {"rows.parquet", "run.json"}


@pytest.mark.parametrize("name", NAMES)
def test_archived_rows_belong_to_the_shipped_weights(name):
    settings = archived(name).facts["settings"]
    if (CHECKPOINTS / settings["model"]).is_dir():
        assert load_model(settings["model"]).weight_hash() == settings["weights"], "run it again with these weights"


def test_unknown_archive_lists_the_known_ones():
    with pytest.raises(ValueError, match="seven-domains"):
        archived("eight-domains")
