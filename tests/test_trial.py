"""A trial keeps to the minutes it is given, goes on after an interruption, and leaves one page with one answer."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command_line import called, started
from tiny import LINES, tiny_gpt2

from tttnn.analysis.advice import NO, SIMPLER_YES, SMALL_YES, TOO_FEW, UNCLEAR, YES, advise, surely_better
from tttnn.analysis.side_by_side import side_by_side
from tttnn.analysis.statistics import few_ratio
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.errors import ParameterError
from tttnn.experiment import read_rows
from tttnn.files import read_json
from tttnn.models import TTTSettings
from tttnn.report.trial_page import POOR_START, _counted, _curve, lead, settings_table, trial_page
from tttnn.rows import RowsError
from tttnn.studies import trial as measured
from tttnn.studies import trial_work as worked
from tttnn.studies.cost import Rates
from tttnn.studies.trial import Request, Trial, run_trial
from tttnn.studies.trial_plan import (
    COMPARED,
    ENOUGH,
    FEW,
    KEPT,
    LEAST,
    NEAREST,
    NEAREST_SHARE,
    SCARCE_SHARE,
    Budget,
    Costs,
    Plan,
    make_plan,
    places,
)

RATES = Rates(0.0, 0.001, 0.0, 0.0003, 0.0)  # a thousand trained tokens a second


def costs(tokens=2048, rates=RATES, steps=2):
    return Costs(rates, np.array([steps] * 3), np.array([tokens] * 3), 1024, 1024, 0.01)


def spent(plan, found, sizes):
    kept = [tokens for size, tokens in sizes if plan.max_bytes is None or size <= plan.max_bytes]
    return sum(
        found.document(NEAREST, tokens, plan.k, plan.max_chunks, plan.curve) for tokens in kept[: plan.documents]
    )


@pytest.mark.parametrize("seconds", [20, 60, 120, 600, 6000])
@pytest.mark.parametrize("tokens", [200, 2048, 50_000])
def test_a_plan_fits_its_seconds(seconds, tokens):
    found = costs(tokens, steps=max(1, tokens // 1024))
    sizes = [(4 * size, size) for size in np.random.default_rng(0).integers(100, 5000, 60).tolist()]
    plan = make_plan(found, sizes, 20, seconds)
    share = NEAREST_SHARE if plan.documents >= ENOUGH else SCARCE_SHARE
    assert plan.documents >= 1 and spent(plan, found, sizes) <= share * seconds
    assert plan.seconds <= seconds and plan.compared <= plan.documents


def test_more_time_means_more_of_everything():
    sizes = [(8000, 2000)] * 60
    plans = [make_plan(costs(), sizes, 20, seconds) for seconds in (60, 300, 1500, 8000)]
    assert [plan.k for plan in plans] == sorted(plan.k for plan in plans) and plans[-1].k == 20
    work = [plan.documents * plan.k * (plan.max_chunks or 4) for plan in plans]
    assert work == sorted(work) and plans[-1].max_chunks == 48 and plans[-1].max_bytes is None
    assert make_plan(costs(), sizes, 20, 1e6).max_chunks is None


def test_short_documents_are_a_last_resort():
    sizes = [(size, size // 4) for size in (1000, 40_000, 400_000)] * 10
    assert make_plan(costs(), sizes, 20, 20_000).max_bytes is None
    assert make_plan(costs(), sizes, 20, 150).max_bytes < 40_000


def test_a_giant_neighbour_does_not_take_all_the_time():
    """Those that were looked at have one chunk each, and another one has ten thousand."""
    sizes, found = [(8000, 2000)] * 60, costs(1024, steps=1)
    plan = make_plan(found, sizes, 5, 600)
    giant = found.document(NEAREST, 2000, 5, None) + 5 * found.rates.training(plan.max_chunks, plan.max_chunks * 1024)
    assert 4 < plan.max_chunks < 10_000 and giant < 0.2 * 600


def test_a_large_model_on_a_slow_machine_gets_documents_enough_for_an_interval():
    """Six seconds a step and ten a window, as SmolLM2 beside other work: before and after come first."""
    slow = costs(rates=Rates(0.0, 0.006, 0.0, 0.01, 0.0))
    sizes = [(4 * size, size) for size in np.random.default_rng(0).integers(200, 3000, 20).tolist()]
    plan = make_plan(slow, sizes, 20, 500)
    assert LEAST <= plan.documents <= FEW and not plan.curve and plan.compared < plan.documents
    assert plan.max_bytes is None or plan.max_bytes >= 4000


def test_a_corpus_of_many_domains_gets_documents_of_each():
    sizes = [(8000, 2000)] * 60
    few, many = (make_plan(costs(), sizes, 20, 1500, domains=count) for count in (1, 7))
    assert few.documents < 7 * LEAST <= many.documents and many.max_chunks < few.max_chunks


def test_too_few_seconds_are_refused_with_how_many_it_takes():
    with pytest.raises(ParameterError, match=r"minutes: 2 s are left .* give at least 0\.\d minutes more"):
        make_plan(costs(), [(8000, 2000)], 20, 2)
    assert make_plan(costs(), [(8000, 2000)], 20, 2 + 60 * 0.2).documents == 1


def test_scores_stand_up_to_the_last_neighbour():
    assert places(20) == [0, 1, 2, 5, 10, 20] and places(3) == [0, 1, 2, 3] and places(1) == [0, 1]


class Clock:
    """Seconds that pass only when a document is evaluated: what each takes is asked of `pace`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("trial"), random.Random(0)
    words = " ".join(LINES).split()
    for domain in ("notes", "code"):
        for split, size in {"train": 40, "test": 9}.items():
            texts = [" ".join(draw.choices(words, k=40)) for _ in range(size)]
            documents = [Document(text, {"source": f"{domain}:{n % 9}.md#{n}"}) for n, text in enumerate(texts)]
            write_jsonl(folder / "corpus" / f"{domain}.{split}.jsonl", documents)
    tiny_gpt2(folder / "model")
    return folder


@pytest.fixture
def home(place, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(place / "home"))


def request(place, **changed):
    return Request(
        str(place / "corpus"), str(place / "model"), **({"minutes": 1.0, "learning_rate": 1e-3, "k": 5} | changed)
    )


@pytest.mark.parametrize("slower", [1.0, 4.0])
def test_the_budget_holds_also_on_a_machine_that_turns_out_slower(place, home, tmp_path, monkeypatch, slower):
    """A document takes `slower` times what was expected of it: the trial ends within a tenth of its minutes anyway."""
    clock = Clock()
    seen = costs(rates=Rates(0.0, 0.002, 0.0, 0.001, 0.0), tokens=50, steps=1)
    monkeypatch.setattr(measured, "_costs", lambda *_: seen)
    real = worked.document_rows

    def evaluated(ttt, document, ks, method):
        way = "dynamic" if method.startswith("dynamic") else "in-context" if method.startswith("in") else NEAREST
        clock.now += slower * seen.document(way, len(ttt.lm.encode(document.text)), max(ks), None)
        return real(ttt, document, ks, method)

    monkeypatch.setattr(worked, "document_rows", evaluated)
    asked = request(place, minutes=0.5)
    trial = run_trial(asked, open_corpus(asked.corpus), tmp_path / "out", Budget(30, clock))
    assert 0.5 * 30 < clock.now <= 1.1 * 30 * (1 - KEPT)
    near = trial.rows[trial.rows["variant"] == NEAREST]
    assert 1 <= len(near.groupby(["domain", "document"])) <= 18
    assert set(near["domain"]) == {"notes", "code"}, "domains take turns"


def test_a_trial_answers_on_one_page_that_needs_no_network(place, home, tmp_path):
    asked = request(place)
    said = []
    trial = run_trial(asked, open_corpus(asked.corpus), tmp_path / "out", Budget(600), said.append)
    advice = advise(trial)
    page = trial_page(trial, advice)
    assert "so the plan is 18 documents" in said[0] and "left: nearest, 18 documents to do" in said[1]
    near = trial.rows[(trial.rows["variant"] == NEAREST) & trial.rows["nats"].notna()]
    sums = near.groupby("k")["nats"].sum()
    assert advice.ratio.value == pytest.approx(sums[trial.plan.k] / sums[0]) and advice.documents == 18
    assert lead(trial, advice) in page.replace("&#x27;", "'") and f"{100 * advice.ratio.value:.1f}%" in page
    assert page.count("<svg") == 2 and "<script" not in page
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert [link for link in links if "w3.org" not in link] == []
    assert "other parts of the same file" in page and "neighbours in the context" in page
    assert "python -m tttnn run --corpus" in page and page.count("tttnn-shaded") >= 1
    assert {way for way in COMPARED if "in-context" in way} <= set(trial.rows["variant"])
    assert json.loads(json.dumps(advice.as_json(), allow_nan=False))["verdict"] == advice.verdict
    beside = side_by_side([tmp_path / "out"])
    assert beside.k == trial.plan.k and beside.table["ratio"].tolist() == pytest.approx([advice.ratio.value])
    with pytest.raises(RowsError, match=r"holds a trial with other k \(5, now 3\); give another folder"):
        run_trial(request(place, k=3), open_corpus(asked.corpus), tmp_path / "out", Budget(60))


def words(place, out, *more):
    line = ["try", place / "corpus", "--model", place / "model", "--learning-rate", "1e-3", "--k", 5]
    return [*map(str, [*line, "--out", out, "--documents", 8]), *more]


def test_a_trial_takes_settings_from_a_file_and_a_token_before_the_text_and_repeats_them(place, tmp_path):
    file, out = tmp_path / "mine.json", tmp_path / "out"
    file.write_text('{"max_length": 32, "eps": 1e-6}')
    more = ["--settings", str(file), "--prefix", "eos"]
    done = called(*words(place, out, "--minutes", "0.5"), *more, "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    used = read_json(out / NEAREST / "model" / "run.json")["settings"]
    assert used["settings"] == asdict(TTTSettings(max_length=32, eps=1e-6, context=64))
    assert (used["switches"]["prefix"], used["switches"]["learning_rate"]) == ("eos", 1e-3)
    page = (out / "page.html").read_text(encoding="utf-8")
    assert page.count(f"--prefix eos --settings {file}") == 2, "in the command that made it and in that of a full run"


def test_a_trial_that_diverges_ends_with_its_page(place, tmp_path):
    line = [*words(place, tmp_path / "out", "--minutes", "0.5"), "--json"]
    line[line.index("1e-3")] = "1e30"
    done = called(*line, home=place / "home")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout, parse_constant=pytest.fail)
    assert answer["verdict"] == NO and answer["ratio"] == {"value": None, "low": None, "high": None}
    assert read_json(tmp_path / "out" / "advice.json") == answer
    assert Path(answer["page"]).is_file() and called("compare", tmp_path / "out", "--out", tmp_path / "c.html",
                                                     "--json", home=place / "home").returncode == 0  # fmt: skip


# The same command, each document of which takes a while: on a quick machine all would be done before it is interrupted.
SLOWED = """
import time
from tttnn.studies import trial_work
plain = trial_work.document_rows
trial_work.document_rows = lambda *words: time.sleep(0.5) or plain(*words)
from tttnn.__main__ import main
main()
"""


def test_an_interrupted_trial_goes_on_and_keeps_what_it_had(place, tmp_path):
    environment = os.environ | {"TTTNN_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    out, rows = tmp_path / "out", tmp_path / "out" / NEAREST / "model" / "rows.jsonl"
    line = words(place, out, "--minutes", "1")
    slowed = [sys.executable, "-c", SLOWED, *line]
    # Whoever runs the tests in the background of a shell hands on a Ctrl-C that is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(slowed, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heard)
    while first.poll() is None and (not rows.exists() or rows.read_bytes().count(b'{"key"') < 2):
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[1]
    assert first.returncode == 130 and "the same command goes on from there" in said and "Traceback" not in said
    kept = [line for line in rows.read_bytes().splitlines() if line.startswith(b'{"key"')]
    assert 2 <= len(kept) < 8 and not (out / "page.html").exists()
    plan = read_json(out / "trial.json")["plan"]
    done = called(*line, "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["page"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert answer["documents"] == 8 and answer["answer"] and read_json(out / "trial.json")["plan"] == plan
    lines = [line for line in rows.read_bytes().splitlines() if line.startswith(b'{"key"')]
    assert lines[: len(kept)] == kept and len(lines) == 8
    assert len(read_rows(rows.parent)[["domain", "document"]].drop_duplicates()) == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "minutes=0.0: must be from 0.05"),
        (["--k", "0"], "k=0: must be at least 1"),
        (["--device", "gpu"], "device='gpu'"),
        (["--split", "tst"], "no split 'tst'"),
        (["--learning-rate", "-1"], "learning_rate=-1.0: must be positive"),
        (["--minutes", "0.05"], "minutes: "),
    ],
)
def test_bad_input_is_refused_with_status_2(place, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(measured, "_costs", lambda *_: costs(rates=Rates(0.0, 1.0, 0.0, 1.0, 0.0)))  # too slow for 3 s
    call = started if message.startswith("k=0") else called
    done = call(*words(place, tmp_path / "out", *more), home=place / "home")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_an_index_that_would_take_too_long_has_a_part_of_the_documents(place, monkeypatch, tmp_path):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(measured, "_seconds_per_byte", lambda *_: 0.003)
    asked, said = request(place), []
    trial = run_trial(asked, open_corpus(asked.corpus), tmp_path / "out", Budget(60), said.append)
    assert "of them are indexed" in said[0] and 0 < trial.facts["indexed"] < 80 and not trial.facts["indexed_all"]
    assert "a random part of them" in trial_page(trial, advise(trial))


def test_a_corpus_too_large_to_be_read_gives_the_first_documents_of_each_file(place, monkeypatch, tmp_path):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(measured, "_seconds_per_byte", lambda *_: 0.03)
    monkeypatch.setattr(measured, "READING_SHARE", 0.03)
    clock = count()  # each look at it takes a second
    asked = request(place)
    trial = run_trial(asked, open_corpus(asked.corpus), tmp_path / "out", Budget(600, lambda: next(clock)))
    assert trial.facts["cut_short"] and not trial.facts["indexed_all"]
    assert "a random part of the first ones in each file" in trial_page(trial, advise(trial))


def test_documents_of_a_domain_that_the_index_lacks_are_compared_with_random_ones():
    there = SimpleNamespace(by_domain={"a": range(50)})
    retriever = type("R", (), {"store": there, "__len__": lambda _: 50})()
    ttt = SimpleNamespace(lm=SimpleNamespace(settings=SimpleNamespace(context=1024), positions=2048))
    drawn = [SimpleNamespace(domain=name, meta={"unit": "u"}) for name in "ab"]
    assert "random-domain" in measured._ways(ttt, retriever, drawn[:1])
    ways = measured._ways(ttt, retriever, drawn)
    assert "random-domain" not in ways and "random" in ways


def test_more_is_held_out_of_few_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    draw = random.Random(0)
    (tmp_path / "notes").mkdir()
    for number in range(40):
        text = " ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(40))
        (tmp_path / "notes" / f"{number}.md").write_text(text, encoding="utf-8")
    few, given = (Request(str(tmp_path / "notes"), "m", held_out=share) for share in (None, 0.1))
    assert few.open().manifest["documents"]["test"] == 10 and few.held_out == 0.25
    assert given.open().manifest["documents"]["test"] == 4 and given.held_out == 0.1


def rows_of(way, ratios, k=5, size=1000):
    """Documents with 1000 nats before, and a share of them after."""
    base = {"model": "m", "domain": "d", "variant": way, "failure": "", "bytes": size, "words": 100, "tokens": 300,
            "loss": 1.0, "retrieval_seconds": 0.1, "overlap": 0.0, "distance": 1.0, "seed": 1, "beyond": 0}  # fmt: skip
    return [
        base | {"document": n, "k": at, "nats": 1000.0 * (ratio if at else 1.0), "steps": at, "train_tokens": 100 * at,
                "train_seconds": 0.5 * bool(at), "evaluation_seconds": 0.2}
        for n, ratio in enumerate(ratios) for at in (0, k)
    ]  # fmt: skip


def made(ratios, deflated=400, **ways):
    rows = pd.DataFrame([*rows_of(NEAREST, ratios), *(row for way, each in ways.items() for row in rows_of(way, each))])
    documents = pd.DataFrame({"domain": "d", "document": range(len(ratios)), "bytes": 1000, "deflated": deflated})
    facts = {"model": "m", "corpus": "c", "learning_rate": 1e-3, "bytes": 10_000, "documents": 10}
    plan = Plan(5, 1, None, len(ratios), len(ratios), 10.0)
    return Trial(Request("wheels", "m", k=5), plan, rows, documents, facts, [], Path("out"), None)


GAIN = [0.7, 0.75, 0.8, 0.7, 0.72, 0.9, 0.8, 0.75]


@pytest.mark.parametrize(
    ("ratios", "ways", "verdict"),
    [
        (GAIN, {}, YES),
        (GAIN[: LEAST - 1], {}, TOO_FEW),
        ([0.99, 0.985, 0.99, 0.98, 0.99, 0.99], {}, SMALL_YES),
        ([1.1, 1.05, 1.2, 1.1, 1.3, 1.1], {}, NO),
        ([0.8, 1.2, 0.9, 1.15, 1.0, 0.95], {}, UNCLEAR),
        (GAIN, {"in-context-0.5": [ratio - 0.1 for ratio in GAIN]}, SIMPLER_YES),
        (GAIN, {"in-context-0.5": [ratio + 0.1 for ratio in GAIN]}, YES),
        (GAIN, {"in-context-0.5": [ratio - 0.1 for ratio in GAIN[: LEAST - 1]]}, YES),
    ],
)
def test_the_verdict_goes_by_intervals(ratios, ways, verdict):
    advice = advise(made(ratios, **ways))
    assert advice.verdict == verdict
    assert (
        advice.ratio == few_ratio(np.full(len(ratios), 1000.0), 1000 * np.array(ratios)) and advice.full == advice.ratio
    )
    shown = lead(made(ratios), advice)
    assert ("interval" in shown) == (verdict != TOO_FEW)


def test_a_gain_of_a_model_that_is_worse_than_deflate_is_not_called_worth_it():
    trial = made(GAIN, deflated=100)
    assert advise(trial).verdict == YES
    assert lead(trial, advise(trial)).startswith(POOR_START) and "deflate" in lead(trial, advise(trial))
    assert lead(made(GAIN), advise(made(GAIN))).startswith("Worth it")


def test_the_gain_is_taken_apart_and_its_parts_are_all_of_it():
    others = {"random-domain": [ratio + 0.15 for ratio in GAIN], "other-units": [ratio + 0.05 for ratio in GAIN]}
    trial = made(GAIN, **others)
    found = advise(trial).origin
    assert found["points"].round(6).tolist()[1:] == [0.1, 0.05]
    assert found["points"].sum() == pytest.approx(1 - np.mean(GAIN)) and found["share"].sum() == pytest.approx(1)


def test_costs_are_those_of_the_rows_and_scaled_to_the_whole_test_part():
    cost = advise(made(GAIN)).cost
    assert cost["each"] == pytest.approx(0.2 + 0.5 + 0.2) and cost["whole"] == pytest.approx(10 * cost["each"])


def test_a_trial_without_a_scored_document_says_why():
    trial = made([0.8])
    rows = trial.rows.assign(nats=np.nan, failure="cannot score an empty text")
    with pytest.raises(RowsError, match="no document was scored before and after: cannot score an empty text"):
        advise(replace(trial, rows=rows))


def test_the_simpler_thing_that_is_named_is_one_that_surely_gains_more():
    sure, unsure = [ratio - 0.03 for ratio in GAIN], [0.1, *GAIN[1:]]
    trial = made(GAIN, **{"dynamic-128-rate-1.0": sure, "in-context-0.5": unsure})
    advice = advise(trial)
    assert advice.verdict == SIMPLER_YES
    assert advice.simpler.set_index("way").difference.idxmin() == "in-context-0.5"
    assert surely_better(advice.simpler)["way"].tolist() == ["dynamic-128-rate-1.0"]


def test_a_corpus_that_is_not_there_leaves_no_folder_behind(tmp_path):
    command = [sys.executable, "-m", "tttnn", "try", "~/no-such"]
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and "error: corpus='~/no-such': no such folder or file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_longer_context_counts_by_its_score_before_any_neighbour():
    trial = made(GAIN)
    near = trial.rows[trial.rows["k"] == 0].head(4)
    longest = near.assign(variant="longest-context", nats=900.0)
    rows = pd.concat([trial.rows, longest], ignore_index=True)
    [found] = advise(replace(trial, rows=rows)).simpler.to_dict("records")
    assert found["way"] == "longest-context" and found["documents"] == 4
    assert found["ratio"] == pytest.approx(0.9) and found["ratio_nearest"] == pytest.approx(np.mean(GAIN[:4]))


def test_the_page_says_that_the_index_is_small_and_that_all_chunks_were_taken():
    rows = pd.DataFrame({"variant": ["nearest"] * 2, "beyond": [0, 0]})
    facts = {"indexed": 5, "chunk": 1024, "learning_rate": 1e-4, "precision": "float32"}
    request = SimpleNamespace(k=20, embedder="lexical")
    trial = SimpleNamespace(request=request, plan=Plan(1, 4, None, 2, 2, 1.0), facts=facts, rows=rows)
    curve = pd.DataFrame(
        {"k": [0, 1], "bits_per_byte": [2.0, 1.8], "ratio": [1.0, 0.9], "low": [1.0, 0.8], "high": [1.0, 0.95]}
    )
    rates = pd.DataFrame(columns=["way", "ratio", "ratio_nearest"])
    advice = SimpleNamespace(curve=curve, k=1, best_k=1, rates=rates, learning_rate=1e-4)
    said = _curve(trial, advice)[0]
    assert said == "There is no score between 0 and 1: of 5 indexed documents at most a quarter is trained on."
    shown = settings_table(trial, advice).frame
    assert shown["use"].iloc[-1] == "all" and "no neighbour had more" in shown["because"].iloc[-1]
    assert "of 5 indexed documents at most a quarter" in shown["because"].iloc[0]
    assert (_counted(1.0, "step"), _counted(2, "document")) == ("1 step", "2 documents")
    trial.rows = rows.assign(beyond=[0, 3])
    assert settings_table(trial, advice).frame["use"].iloc[-1] == "at most 4"
