"""The way of "Run it at the paper's scale", end to end: hub names, a folder in the Pile's layout, the paper's profile.

Random checkpoints of two layers lie where the hub's cache keeps the real ones, under their names, and no network is
there. What differs from the real thing is the size of models and corpus.
"""

import json
import random
import runpy
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import tiny
import yaml
from tiny import LINES, tiny_gpt2, tiny_gpt_neo, tiny_qwen2, tiny_roberta
from typer.testing import CliRunner

from tttnn.__main__ import app
from tttnn.analysis.archive import archived_models, archived_rows
from tttnn.corpus import Document, write_jsonl
from tttnn.embedding import EMBEDDERS
from tttnn.experiment import read_rows
from tttnn.models import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PROFILE = NOTEBOOKS / "profiles" / "paper.yaml"
build = runpy.run_path(str(ROOT / "book" / "build.py"))

(EMBEDDER,) = (entry for entry in EMBEDDERS.values() if not entry.packaged)
MODELS = {
    "gpt2": tiny_gpt2,
    "gpt2-large": tiny_gpt2,
    "EleutherAI/gpt-neo-1.3B": tiny_gpt_neo,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": tiny_qwen2,
}
DOMAINS = ("EuroParl", "Github", "DM Mathematics", "Books3")
SMALL = {"device": "cpu", "per_domain": 1, "k": 2, "max_bytes": 1000, "max_chunks": 1}  # instead of the paper's


def in_hub_cache(cache, name, make, revision="main"):
    """Write a checkpoint where the hub's cache keeps the repository `name`."""
    place = cache / f"models--{name.replace('/', '--')}"
    make(place / "snapshots" / "0123abc")
    (place / "refs" / revision).parent.mkdir(parents=True)
    (place / "refs" / revision).write_text("0123abc")


def write_pile(folder):
    """Generated text in the Pile's layout: two files of a training split, all domains in each file."""
    draw = random.Random(0)

    def documents(per_domain):
        for number in range(per_domain):
            for domain, line in zip(DOMAINS, LINES, strict=False):
                text = " ".join(draw.choices(line.split(), k=40)) + f" {number} é\n"
                yield Document(text, {"pile_set_name": domain})

    for name in ("train/00", "train/01", "val", "test"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / f"{name}.jsonl.zst", documents(6))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Hub cache, corpus and home; this process and the notebooks' kernels see nothing else."""
    folder, patch = tmp_path_factory.mktemp("paper"), pytest.MonkeyPatch()
    cache = folder / "hub"
    patch.setattr(tiny, "CONTEXT", 512)
    for seed, (name, make) in enumerate(MODELS.items()):
        in_hub_cache(cache, name, lambda where, make=make, seed=seed: make(where, seed=seed))
    for name, revision in ((EMBEDDER.name, EMBEDDER.revision), (EMBEDDER.tokenizer, "main")):
        in_hub_cache(cache, name, tiny_roberta, revision)
    write_pile(folder / "pile")
    settings = {"HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": 1, "TTTNN_HOME": folder / "home", "TQDM_DISABLE": 1}
    for name, value in settings.items():
        patch.setenv(name, str(value))  # for the kernels
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    patch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(cache), raising=False)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield folder
    patch.undo()


def tttnn(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def runs(place):
    """The commands of the page: an index, then a run for each model."""
    common = ["--corpus", place / "pile", "--embedder", EMBEDDER.name]
    assert "48 documents, 32 dimensions" in tttnn("index", "build", *common, "--device", "cpu")
    for name in MODELS:
        drawn = ["--per-domain", 5, "--ks", "0,1,2", "--max-chunks", 1]
        tttnn("run", *common, "--model", name, *drawn, "--out", place / "runs" / name)
    return place / "runs"


def test_the_registry_s_models_are_these():
    assert set(MODELS) == {name for name, entry in REGISTRY.items() if "the report's public code" in entry.source}


def test_every_model_has_rows_with_its_published_settings(runs):
    assert archived_models(str(runs)) == list(MODELS), "fewest weights first"
    assert set(archived_rows(str(runs))["domain"]) == {"europarl", "github", "dm-mathematics", "books"}
    for name in MODELS:
        rows, about = read_rows(runs / name), json.loads((runs / name / "run.json").read_text())
        assert set(rows["model"]) == {name} and set(rows["domain"]) == set(DOMAINS)
        assert (rows["failure"] == "").all() and rows["nats"].notna().all() and len(rows) == 3 * 5 * len(DOMAINS)
        assert about["settings"]["settings"]["learning_rate"] == REGISTRY[name].settings.learning_rate
        index = {"documents": 48, "embedder": EMBEDDER.name, "method": "exact", "split": "train"}
        assert about["about"]["index"] == index


def test_the_profile_covers_every_chapter():
    shares = build["read_profile"](ROOT, "paper")
    assert list(shares) == build["chapters"](ROOT)
    for name, share in shares.items():
        asked = {"corpus", "archived_run"} & build["parameter_names"](ROOT, name)  # none: it looks at no rows of ours
        assert not asked or asked & set(share), f"{name} would run on the embedded corpus"
    given = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    named = [given[key] for key in ("model", "twin", "reasoning_model")] + given["ladder"]
    assert set(named) == {given[key] for key in ("main", "small", "large", "trained", "reasoning")} == set(MODELS)


def test_a_parameter_that_no_chapter_has_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("k: 5\nneighbors: 5\n")
    with pytest.raises(RuntimeError, match="a parameter neighbors"):
        build["read_profile"](ROOT, str(tmp_path / "mine.yaml"))


def execute(name, runs, tmp_path, **changes):
    """Run a chapter as the book is built with this profile; return what it shows."""
    share = build["read_profile"](ROOT, "paper")[name]
    small = SMALL | {"corpus": str(runs.parent / "pile"), "archived_run": str(runs)} | changes
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(jupytext.read(NOTEBOOKS / f"{name}.md"), path)
    parameters = share | {key: value for key, value in small.items() if key in share or key in changes}
    done = papermill.execute_notebook(
        path, path, parameters, kernel_name="python3", language="python", cwd=NOTEBOOKS, progress_bar=False
    )
    shown = [output.get("data", {}).get("text/plain", "") for cell in done.cells for output in cell.get("outputs", [])]
    return "\n".join(shown)


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_the_glance_has_a_row_for_each_real_model(runs, tmp_path):
    small = {"memory_documents": [500, 1000], "resamples": 50}
    text = execute("00_reproduction_at_a_glance", runs, tmp_path, **small)
    for name in MODELS:
        assert lines_with(text, name, "this book"), "settings"
        assert all(lines_with(text, f" {name} ", domain, "%") for domain in ("github", "dm-mathematics")), "results"
    assert lines_with(text, "gpt2 has 5 of the 10 documents needed"), "five documents a domain judge no claim"


def test_scaling_compares_the_real_models(runs, tmp_path):
    text = execute("04_scaling_across_models", runs, tmp_path)
    for name in ("gpt2", "gpt2-large", "EleutherAI/gpt-neo-1.3B"):
        assert lines_with(text, name, REGISTRY[name].saw_domains), "live"
        assert lines_with(text, name, "learning_rate="), "the facts of the archived run"
        assert lines_with(text, "Mathematics: ", f"{name} from "), "its figure"
    assert lines_with(text, "How much more gpt2 gains", "than EleutherAI/gpt-neo-1.3B"), "which saw the domains"
    assert lines_with(text, "europarl", "yes", " to "), "and which was new to the first"
    assert "gpt2-xs-general" not in text


def test_the_reasoning_chapter_shows_the_real_model(runs, tmp_path):
    text = execute("07_r1_qwen", runs, tmp_path)
    name = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert lines_with(text, "archived run", name) and lines_with(text, name, "151,936"), "its rows, and its facts"
    assert lines_with(text, "vocabulary cut, DM Mathematics"), "the live run"
    assert "gpt2-xs-general" not in text and "qwen2-xs-reasoning" not in text
