"""The calculator of the book says what `cost` and `index plan` say: in Python, in its script, and in the page."""

import json
import random
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_gpt2

from tttnn import TTT, load_model
from tttnn.analysis import calculator
from tttnn.analysis.calculator import DEVICES, DIMENSIONS, MODELS, Job, coefficients, predict
from tttnn.errors import ParameterError
from tttnn.index.build import SHARD_ROWS
from tttnn.index.planner import plan
from tttnn.report.calculator import ANSWERS, Calculator
from tttnn.studies import cost

SCRIPT = Path(__file__).resolve().parents[1] / "book" / "_static" / "calculator.js"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium") or shutil.which("google-chrome")
SIZES = [1, 2, 1023, 1024, 99_999, 100_000, 100_001, 131_072, 500_000, 500_001, 2**20, 2**20 + 1, SHARD_ROWS,
         SHARD_ROWS + 1, 3 * SHARD_ROWS, 3 * SHARD_ROWS + 700_000, 210_000_000]  # fmt: skip


def jobs():
    draw = random.Random(0)
    models, devices, dimensions = list(MODELS), list(DEVICES), list(DIMENSIONS.values())
    for place, size in enumerate(SIZES + [int(10 ** draw.uniform(0, 8.5)) for _ in range(60)]):
        yield Job(
            models[place % len(models)], devices[place % len(devices)], draw.randint(1, 10_000),
            draw.randint(1, 10**6), draw.randint(1, 50), size, draw.randint(1, 10**5), draw.choice(dimensions),
        )  # fmt: skip


def work_of(job):
    """The frame that `count_work` would make of documents that are all alike."""
    token = calculator.bytes_per_token(job.model)
    search = plan(job.indexed, job.dimension).p50_ms / 1000
    return pd.DataFrame([
        {"domain": "a", "document": 0, "k": k, "steps": 1, "train_tokens": job.indexed_bytes / token if k else 0,
         "passes": 1, "score_tokens": job.document_bytes / token, "tokenize_seconds": 0.0,
         "retrieval_seconds": 0.0 if k else search}
        for k in range(job.neighbours + 1)
    ])  # fmt: skip


def test_hours_are_those_that_the_estimate_of_cost_gives():
    for job in jobs():
        estimated = cost.estimate(work_of(job), calculator.rates(job.model, job.device), [0, job.neighbours])
        found = predict(job)
        assert found["hours"] == pytest.approx(cost.total_hours(estimated, job.documents)[0])
        assert found["train_hours"] == pytest.approx(job.documents * estimated.train_seconds[0] / 3600)
        assert found["score_hours"] == pytest.approx(job.documents * estimated.evaluation_seconds[0] / 3600)


def test_sizes_are_those_that_the_planner_gives():
    for job in jobs():
        found, planned = predict(job), plan(job.indexed, job.dimension)
        assert (found["index_memory"], found["index_disk"]) == (planned.ram, planned.disk)
        assert found["build_hours"] == planned.build_hours


def test_memory_is_what_cost_says_of_a_model(tmp_path, monkeypatch):
    lm = load_model(str(tiny_gpt2(tmp_path / "tiny")))
    weights = sum(parameter.numel() for parameter in lm.model.parameters())
    monkeypatch.setattr(calculator, "find_entry", lambda name: type("Entry", (), {"parameters": weights}))
    assert calculator.model_memory("tiny") == cost.memory_needed(TTT(lm, None))


def test_a_token_costs_what_was_measured_and_larger_models_cost_more():
    for device, (file, capability) in DEVICES.items():
        rows = calculator.bench_rows(file)
        row = rows[(rows.loop == "ours") & (rows.capability == capability) & (rows["shape"] == "gpt2")].iloc[0]
        rate = calculator.rates("gpt2", device)
        assert rate.seconds_per_trained_token == pytest.approx(row.train_seconds / row.trained_tokens)
        large = calculator.rates("gpt2-large", device).seconds_per_trained_token
        assert large / rate.seconds_per_trained_token == pytest.approx(774_030_080 / 124_439_808)


@pytest.mark.parametrize("wrong", [{"model": "gpt5"}, {"device": "abacus"}, {"documents": 0}, {"indexed": "many"}])
def test_a_job_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Job(**wrong)


def straight(rows, n):
    rows = np.array(rows, dtype=float)
    return [np.interp(n, rows[:, 0], column) for column in rows[:, 1:].T]


def test_the_coefficients_lead_to_the_plan_whatever_reads_them():
    data = coefficients()
    for job in jobs():
        knots = data["index"][str(job.dimension)]
        full, left = divmod(job.indexed, SHARD_ROWS)
        if job.indexed <= SHARD_ROWS:
            found = straight(knots["one"], job.indexed)
        else:
            last = straight(knots["rest"], left) if left else 0
            found = full * np.array(knots["one"][-1][1:]) + last
        planned = plan(job.indexed, job.dimension)
        assert found == pytest.approx([planned.ram, planned.disk, planned.build_hours, planned.p50_ms], rel=2e-3)


@pytest.mark.skipif(not NODE, reason="node is not on this machine")
def test_the_script_says_what_python_says(tmp_path):
    given = list(jobs())
    (tmp_path / "data.json").write_text(json.dumps({"data": coefficients(), "jobs": [asdict(job) for job in given]}))
    code = f"""const {{ answer }} = require({json.dumps(str(SCRIPT))});
        const given = JSON.parse(require("fs").readFileSync({json.dumps(str(tmp_path / "data.json"))}));
        console.log(JSON.stringify(given.jobs.map(job => answer(given.data, job))));"""
    said = json.loads(subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True).stdout)
    for job, found in zip(given, said, strict=True):
        assert found.keys() == ANSWERS.keys()
        assert found == pytest.approx(predict(job), rel=2e-3), job


def form():
    job = Job()
    choices = {name: (name, {str(value): str(value) for value in values}) for name, values in
               (("model", MODELS), ("device", DEVICES), ("dimension", DIMENSIONS.values()))}  # fmt: skip
    return Calculator(coefficients(), choices, asdict(job))


def test_each_field_of_the_form_has_a_label():
    from bs4 import BeautifulSoup

    page = BeautifulSoup(form()._repr_html_(), "html.parser")
    fields = page.select("input, select")
    assert {field["name"] for field in fields} == set(asdict(Job()))
    assert all(field.find_parent("label").get_text(strip=True) for field in fields)
    assert page.form.has_attr("hidden"), "without its script it would be a form that does nothing"
    assert page.select_one("[role=status]") and len(page.select("output")) == len(ANSWERS)


@pytest.mark.skipif(not CHROMIUM, reason="no browser is on this machine")
def test_the_form_answers_in_a_browser(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{form().html()}<script src='{SCRIPT.as_uri()}'></script></body>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    hours = predict(Job())["hours"]
    assert f"The run takes {hours:.3g} hours." in shown
    assert 'hidden=""' not in shown
