"""Every chapter runs with other parameters: another corpus, another k, models and embedders of each architecture."""

import random
import runpy
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
from conftest import exhaustive
from tiny import LINES, tiny_gpt2, tiny_gpt_neo, tiny_qwen2, tiny_roberta

from tttnn.corpus import Document, write_jsonl

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
read_profile = runpy.run_path(str(NOTEBOOKS.parent / "book" / "build.py"))["read_profile"]
MODELS = {"gpt2": tiny_gpt2, "gpt_neo": tiny_gpt_neo, "qwen2": tiny_qwen2}
SIZES = {"train": 40, "val": 12, "test": 12}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of one's own, in the Pile's layout by domain, gzipped; no meta but the domain."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for domain in ("letters", "orders"):
        words = [word for line in draw.sample(LINES, 3) for word in line.split()]
        for split, size in SIZES.items():
            texts = (" ".join(draw.choices(words, k=60)) + f" {domain} {i} é\n" for i in range(size))
            documents = [Document(text, {"pile_set_name": domain}) for text in texts]
            write_jsonl(folder / f"{domain}.{split}.jsonl.gz", documents)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def execute(name, parameters, home, tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(home))
    source = tmp_path / f"{name}.ipynb"
    nbformat.write(jupytext.read(NOTEBOOKS / f"{name}.md"), source)
    known = set(papermill.inspect_notebook(source))
    assert set(parameters) <= known, f"{name} has no parameter {set(parameters) - known}"
    if "threads" in known:  # two at once would wait for each other's cores
        parameters = {"threads": 1} | parameters
    if "real_embedder" in known:  # the worked example's models, which would be fetched
        parameters = {"real": str(tiny_qwen2(tmp_path / "tiny-real")), "real_k": 2, "real_tokens": 16} | parameters
        parameters = {"real_embedder": str(tiny_roberta(tmp_path / "tiny-sentences"))} | parameters
    return papermill.execute_notebook(
        source, tmp_path / "out.ipynb", parameters, kernel_name="python3", cwd=NOTEBOOKS, progress_bar=False
    )


def outputs(notebook):
    return "\n".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("profile", sorted((NOTEBOOKS / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_set_parameters_that_exist(profile, corpus, home, tmp_path, monkeypatch):
    """A profile runs with its models and corpus replaced by tiny ones."""
    parameters = read_profile(NOTEBOOKS.parent, str(profile))["01_ttt_nn_loop"]
    tiny = {"corpus": str(corpus), "model": str(tiny_gpt2(tmp_path / "tiny-gpt2")), "device": "cpu", "per_domain": 1}
    tiny |= {"embedder": str(tiny_roberta(tmp_path / "embedder")), "k": 2}
    tiny |= {"archived_run": "seven-domains", "main": "gpt2-xs-general", "trained": "gpt2-xs-pile"}
    assert set(tiny) <= set(parameters)
    text = outputs(execute("01_ttt_nn_loop", parameters | tiny, home, tmp_path, monkeypatch))
    assert "tiny-gpt2" in text and "letters" in text and "orders" in text


@pytest.mark.parametrize(
    ("model", "embedder"), [pytest.param("gpt_neo", "lexical", marks=exhaustive), ("qwen2", "transformer")]
)  # gpt2: above
def test_the_loop_runs_with_other_models(model, embedder, corpus, home, tmp_path, monkeypatch):
    folder = MODELS[model](tmp_path / f"tiny-{model}")
    if embedder == "transformer":
        embedder = str(tiny_roberta(tmp_path / "embedder"))
    parameters = {"corpus": str(corpus), "model": str(folder), "k": 2, "per_domain": 2, "learning_rate": 1e-3}
    done = execute("01_ttt_nn_loop", parameters | {"embedder": embedder}, home, tmp_path, monkeypatch)
    text = outputs(done)
    assert f"tiny-{model}" in text and "letters" in text and "orders" in text


def test_retrieval_runs_with_another_corpus_and_embedder(corpus, home, tmp_path, monkeypatch):
    embedder = tiny_roberta(tmp_path / "embedder")
    others = [str(make(tmp_path / f"tiny-{name}")) for name, make in MODELS.items()]
    parameters = {"corpus": str(corpus), "embedder": str(embedder), "k": 3, "compare_embedders": others}
    text = outputs(execute("02_retrieval", parameters, home, tmp_path, monkeypatch))
    assert "letters" in text and all(f"tiny-{name}" in text for name in MODELS)


def test_the_index_chapter_runs_with_another_corpus(corpus, home, tmp_path, monkeypatch):
    parameters = {"corpus": str(corpus), "embedder": str(tiny_gpt2(tmp_path / "tiny"))}
    parameters |= {"short_documents": [1000, 5000], "reads": 20}
    text = outputs(execute("10_memory_efficient_index", parameters, home, tmp_path, monkeypatch))
    assert "flat-mapped" in text and "JSONDecodeError" in text, "characters are not bytes"


def test_the_index_at_scale_runs_with_another_corpus_and_machine(corpus, home, tmp_path, monkeypatch):
    folder = str(tiny_gpt2(tmp_path / "tiny"))
    parameters = {"corpus": str(corpus), "embedder": folder, "model": folder, "k": 2, "queries": 6}
    parameters |= {"machine_memory": {"mine": 64e9}}
    text = outputs(execute("index_at_scale", parameters, home, tmp_path, monkeypatch))
    assert "ivfrabitq" in text and "no kind can be held whole" in text


def test_scaling_runs_with_other_models(corpus, home, tmp_path, monkeypatch):
    small, large = tiny_gpt2(tmp_path / "tiny-small"), tiny_gpt_neo(tmp_path / "tiny-large")
    twin = tiny_gpt2(tmp_path / "tiny-twin", seed=1)
    parameters = {"corpus": str(corpus), "ladder": [str(small), str(large)], "twin": str(twin), "k": 2,
                  "per_domain": 2}  # fmt: skip
    text = outputs(execute("04_scaling_across_models", parameters, home, tmp_path, monkeypatch))
    assert "letters" in text and "orders" in text, "a corpus without the chapter's domains is shown whole"
    assert all(name in text for name in ("tiny-small", "tiny-large", "tiny-twin"))


@pytest.mark.parametrize("model", [pytest.param("gpt2", marks=exhaustive), "gpt_neo"])  # qwen2 is the chapter's own
def test_the_reasoning_chapter_runs_with_other_models(model, corpus, home, tmp_path, monkeypatch):
    folder = MODELS[model](tmp_path / f"tiny-{model}")
    parameters = {"corpus": str(corpus), "reasoning_model": str(folder), "k": 2, "per_domain": 1}
    text = outputs(execute("07_r1_qwen", parameters, home, tmp_path, monkeypatch))
    assert f"tiny-{model}" in text and "letters" in text and "orders" in text


def test_controls_run_with_another_corpus_and_model(corpus, home, tmp_path, monkeypatch):
    parameters = {"corpus": str(corpus), "real": str(tiny_qwen2(tmp_path / "tiny")), "real_k": 2, "real_tokens": 16}
    text = outputs(execute("05_is_it_retrieval", parameters, home, tmp_path, monkeypatch))
    assert "), tiny: after/before by number of documents" in text and "random of the corpus" in text


def test_choices_run_with_another_corpus_and_model(corpus, home, tmp_path, monkeypatch):
    parameters = {"corpus": str(corpus), "model": str(tiny_gpt2(tmp_path / "tiny")), "k": 2}
    text = outputs(execute("06_choices", parameters, home, tmp_path, monkeypatch))
    assert "The example, tiny: after/before by neighbours" in text and "share-0.25" in text


def test_quirks_run_with_another_corpus(corpus, home, tmp_path, monkeypatch):
    text = outputs(execute("08_quirks", {"corpus": str(corpus)}, home, tmp_path, monkeypatch))
    assert "letters" in text and "orders" in text
    assert "We found no explanation" in text and "15 of 30 shards lost" in text


def test_quirks_have_nothing_to_explain_where_the_report_is_below_the_curve(corpus, home, tmp_path, monkeypatch):
    text = outputs(execute("08_quirks", {"corpus": str(corpus), "case": "books"}, home, tmp_path, monkeypatch))
    assert "Nothing has to be explained here" in text


def test_cost_runs_with_another_corpus_and_model(corpus, home, tmp_path, monkeypatch):
    parameters = {"corpus": str(corpus), "model": str(tiny_gpt2(tmp_path / "tiny")), "k": 2, "per_domain": 1}
    text = outputs(execute("09_what_it_costs", parameters | {"calibration": 0.0}, home, tmp_path, monkeypatch))
    assert "letters" in text and "orders" in text


def test_a_trial_runs_with_another_corpus_and_model(corpus, home, tmp_path, monkeypatch):
    parameters = {"corpus": str(corpus), "model": str(tiny_gpt2(tmp_path / "tiny")), "k": 2, "documents": 6}
    executed = execute("try", parameters | {"minutes": 0.4}, home, tmp_path, monkeypatch)
    assert "after training on 2 neighbours" in outputs(executed)


def test_the_glance_runs_with_another_k_and_without_a_model(home, tmp_path, monkeypatch):
    parameters = {"k": 10, "trained": "no-such-model", "memory_documents": [500, 1000], "resamples": 50}
    text = outputs(execute("00_reproduction_at_a_glance", parameters, home, tmp_path, monkeypatch))
    assert "no rows of no-such-model" in text and "cannot be tested here" in text
    assert "before and after 10 neighbours" in text


def test_the_released_curves_are_read_at_another_k(home, tmp_path, monkeypatch):
    text = outputs(execute("03_released_curves", {"k": 3}, home, tmp_path, monkeypatch))
    assert "at k = 3 GPT-2 stands" in text, "fewer than the first few"
