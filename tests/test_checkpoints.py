"""The shipped checkpoints against the world: their cards' figures, their tokenizers, and the order of the ladder.

Figures are measured again on the embedded corpus where a card has its domains. Other domains need the text that the
settings name: TTTNN_DATA is the folder that was given to ``python -m tttnn pretrain --data``.
"""

import dataclasses
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tttnn.corpus import open_corpus
from tttnn.files import read_json, sha256_file
from tttnn.models import CHECKPOINTS, REGISTRY
from tttnn.pretraining import load_settings, validate
from tttnn.pretraining.card import best_rate, render_card
from tttnn.pretraining.data import split_of

EMBEDDED = [entry.name for entry in REGISTRY.values() if entry.embedded]
PILE = [name for name in EMBEDDED if name.endswith("-pile")]
MEASURED = ("wheels-docstrings", "enron")  # of a card's domains: the ones with the fewest tokens
LIMIT = 64 * 2**20  # bytes of all checkpoints

each_checkpoint = pytest.mark.parametrize("name", EMBEDDED)


def figures(name: str) -> dict:
    return read_json(CHECKPOINTS / name / "training.json")


def validation(name: str) -> dict[str, float]:
    return figures(name)["validation_bits_per_byte"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """What `pretrain` was given as --data, as far as it is on this machine; the embedded corpus always is."""
    root = tmp_path_factory.mktemp("data")
    (root / "wheels").symlink_to(open_corpus("wheels").folder)
    if elsewhere := os.environ.get("TTTNN_DATA"):
        for folder in Path(elsewhere).iterdir():
            if folder.name != "wheels":
                (root / folder.name).symlink_to(folder.resolve())
    return root


def measure(name: str, data: Path, domains: list[str], documents: int, like: str | None = None) -> dict[str, float]:
    """Bits per byte of a checkpoint on validation domains that its settings, or those of another one, name."""
    settings = load_settings(CHECKPOINTS / (like or name) / "settings.json")
    sources = [source for source in settings.validation if source.domain in domains]
    settings = dataclasses.replace(settings, validation=sources, final_documents=documents)
    return validate(settings, data, CHECKPOINTS / name)


# --- each checkpoint


def test_checkpoints_are_small_enough_to_ship():
    sizes = {path: path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= LIMIT


@each_checkpoint
def test_library_s_auto_classes_load_it(name):
    folder = CHECKPOINTS / name
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert str(model.dtype) == "torch.bfloat16"  # as it is shipped; tttnn.models makes it float32
    assert len(AutoTokenizer.from_pretrained(folder)) == config.vocab_size
    assert config.architectures == [type(model).__name__]
    assert sum(parameter.numel() for parameter in model.parameters()) == figures(name)["parameters"]


@each_checkpoint
def test_only_train_splits_were_read_and_held_out_texts_were_compared(name):
    data = figures(name)["data"]
    trained = {file: digest for files in data["inputs"]["files"].values() for file, digest in files.items()}
    held_out = data["inputs"]["held_out"]
    sources = load_settings(CHECKPOINTS / name / "settings.json").validation
    validated = {file for source in sources for file in source.files}
    assert {split_of(Path(file)) for file in trained} == {"train"}
    assert validated <= held_out.keys() and not set(trained.values()) & set(held_out.values())
    assert data["held_out_texts_compared"] > 1000


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {name: Tokenizer.from_file(str(CHECKPOINTS / name / "tokenizer.json")) for name in EMBEDDED}


@each_checkpoint
@settings(max_examples=300)
@given(text=st.text())
def test_tokenizer_round_trips_any_text(tokenizers, name, text):
    tokenizer = tokenizers[name]
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@each_checkpoint
@pytest.mark.parametrize("domain", MEASURED)
def test_loss_is_the_card_s_to_three_decimals(name, domain, data):
    if domain not in validation(name):
        pytest.skip(f"the card of {name} has no {domain}")
    own = load_settings(CHECKPOINTS / name / "settings.json")
    (source,) = (source for source in own.validation if source.domain == domain)
    known = figures(name)["data"]["inputs"]["held_out"]
    for file in source.files:
        if not (data / file).is_file():
            pytest.skip(f"{file} is not on this machine: name its root in TTTNN_DATA")
        if sha256_file(data / file) != known[file]:
            pytest.skip(f"{file} is not the file that the card was made with: another lock, another text")
    found = measure(name, data, [domain], own.final_documents)
    assert found == pytest.approx({domain: validation(name)[domain]}, abs=5e-4)


@each_checkpoint
def test_card_shows_its_figures_and_its_sweep(name):
    folder = CHECKPOINTS / name
    swept = (folder / "sweep.json").is_file()
    sweep = read_json(folder / "sweep.json") if swept else None
    card = render_card(load_settings(folder / "settings.json"), figures(name), sweep)
    assert (folder / "README.md").read_text(encoding="utf-8") == card
    if swept:
        assert REGISTRY[name].settings.learning_rate == best_rate(sweep)
    else:
        assert "not yet chosen by a sweep of its own" in REGISTRY[name].source


@each_checkpoint
def test_shipped_settings_are_those_of_the_run(name):
    assert load_settings(CHECKPOINTS / name / "settings.json") == load_settings(name)


# --- the ladder


def rungs(role: str) -> list[str]:
    """Embedded GPT-2 models of a role, fewest weights first."""
    found = [name for name in EMBEDDED if name.startswith("gpt2-") and name.endswith(f"-{role}")]
    return sorted(found, key=lambda name: REGISTRY[name].parameters)


def twin(name: str) -> str:
    return name.replace("-pile", "-general")


STEPS = [pair for role in ("general", "pile") for pair in itertools.pairwise(rungs(role))]


def test_ladder_has_two_rungs_and_both_roles():
    assert STEPS and PILE
    assert all(twin(name) in EMBEDDED for name in PILE)


@pytest.mark.parametrize(("small", "large"), STEPS)
def test_validation_falls_along_the_rungs(small, large):
    """On the text that both read: of what neither did (LaTeX) the larger one may know less. Same documents for both."""
    read = [{source.domain for source in load_settings(name).train} for name in (small, large)]
    before, after = (figures(name)["curve"][-1]["validation_bits_per_byte"] for name in (small, large))
    shared = set.intersection(*read) & before.keys() & after.keys()
    assert shared
    assert {domain for domain in shared if after[domain] >= before[domain]} == set()


@pytest.mark.parametrize("name", PILE)
def test_pile_model_beats_its_twin_on_every_domain_it_saw_and_both_cards_have(name):
    saw = {source.domain for source in load_settings(CHECKPOINTS / name / "settings.json").train}
    shared = saw & validation(name).keys() & validation(twin(name)).keys()
    assert len(shared) >= 7
    assert {domain for domain in shared if validation(name)[domain] >= validation(twin(name))[domain]} == set()


@pytest.mark.parametrize("name", PILE)
def test_pile_model_beats_its_twin_on_the_embedded_corpus(name, data):
    """The twin's card has none of these domains: two validation documents of each are measured here."""
    domains = [domain for domain in validation(name) if domain.startswith("wheels-")]
    assert len(domains) == 6
    mine, other = (measure(each, data, domains, documents=2, like=name) for each in (name, twin(name)))
    assert {domain for domain in domains if mine[domain] >= other[domain]} == set()
