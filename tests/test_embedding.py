"""Embedders: the same text has the same vector wherever it stands; a fingerprint changes with any change."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import normalize
from tiny import CONTEXT, LINES, WIDTH, tiny_gpt2, tiny_gpt_neo, tiny_qwen2, tiny_roberta
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BartConfig, CLIPConfig

from tttnn.embedding import (
    EMBEDDERS,
    EmbeddingError,
    LexicalEmbedder,
    TransformerEmbedder,
    load_embedder,
)
from tttnn.embedding.transformer import _by_length
from tttnn.files import read_json, write_json
from tttnn.hub import cached_folder
from tttnn.models import CHECKPOINTS

MAKERS = [tiny_gpt2, tiny_gpt_neo, tiny_qwen2, tiny_roberta]
TEXTS = [*LINES, "a", "Grüße, 世界!", " \n", "one two " * 200, "x" * 37, "the report of the committee " * 3]


# --- transformers


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def checkpoint(request, tmp_path):
    return request.param(tmp_path / "checkpoint")


def test_vectors_are_means_of_the_last_hidden_states(checkpoint):
    embedder = TransformerEmbedder(checkpoint)
    model, tokenizer = AutoModel.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    for text, vector in zip(TEXTS, embedder.embed(TEXTS), strict=True):
        tokens = tokenizer(text, truncation=True, max_length=CONTEXT, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model(tokens).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_batching_does_not_matter(checkpoint):
    whole = TransformerEmbedder(checkpoint).embed(TEXTS)
    assert whole.shape == (len(TEXTS), WIDTH) and whole.dtype == np.float32
    small = TransformerEmbedder(checkpoint, batch_tokens=70)
    np.testing.assert_allclose(small.embed(TEXTS), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([small.embed([text]) for text in TEXTS]), whole, atol=1e-5)
    np.testing.assert_allclose(small.embed(TEXTS[::-1])[::-1], whole, atol=1e-5)


def test_only_the_first_tokens_count(checkpoint):
    embedder = TransformerEmbedder(checkpoint, max_length=8)
    long = "one two " * 200
    np.testing.assert_allclose(*embedder.embed([long, long + "three"]), atol=1e-6)
    short = embedder.embed(["one", "one three"])
    assert np.abs(short[0] - short[1]).max() > 1e-3


def test_the_whole_context_can_be_used_and_no_more(checkpoint):
    assert TransformerEmbedder(checkpoint).max_length == CONTEXT
    assert np.isfinite(TransformerEmbedder(checkpoint, max_length=CONTEXT).embed(["one two " * 200])).all()
    for wrong in (0, CONTEXT + 1):
        with pytest.raises(EmbeddingError, match=f"1 to {CONTEXT} tokens"):
            TransformerEmbedder(checkpoint, max_length=wrong)


@pytest.mark.parametrize("name", [name for name, entry in EMBEDDERS.items() if not entry.packaged])
def test_a_registered_embedder_gets_its_settings_from_the_hub_s_cache(name, tmp_path, monkeypatch):
    """A random checkpoint of the same architecture lies where the hub's would, and no network is there."""
    monkeypatch.setattr(tiny, "CONTEXT", 512)
    cache, entry = tmp_path / "cache", EMBEDDERS[name]
    for repository, revision in ((name, entry.revision), (entry.tokenizer, "main")):
        place = cache / f"models--{repository.replace('/', '--')}"
        tiny_roberta(place / "snapshots" / "0123abc")
        (place / "refs" / revision).parent.mkdir(parents=True)
        (place / "refs" / revision).write_text("0123abc")
    for file in ("tokenizer.json", "tokenizer_config.json"):  # a trainer's checkpoint has none
        (cache / f"models--{name.replace('/', '--')}" / "snapshots" / "0123abc" / file).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cached_folder(name, entry.revision) and not cached_folder(name, "another")
    embedder = load_embedder(name)
    assert embedder.name == name and embedder.max_length == entry.max_length == 512
    assert embedder.embed(TEXTS).shape == (len(TEXTS), WIDTH)


def test_fingerprint_is_the_checkpoint_s_own(checkpoint, tmp_path):
    embedder = TransformerEmbedder(checkpoint)
    before = embedder.fingerprint
    embedder.embed(TEXTS)
    moved = checkpoint.rename(tmp_path / "moved")
    assert embedder.fingerprint == before == TransformerEmbedder(moved).fingerprint
    assert TransformerEmbedder(moved, batch_tokens=100).fingerprint == before
    assert TransformerEmbedder(moved, max_length=CONTEXT - 1).fingerprint != before


def test_fingerprint_sees_one_bit_of_the_weights(tmp_path):
    before = TransformerEmbedder(tiny_gpt2(tmp_path)).fingerprint
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.bias"].view(torch.int32)[3] ^= 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert TransformerEmbedder(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    "file, change",
    [("config.json", {"n_head": 2}), ("tokenizer.json", {"normalizer": {"type": "Lowercase"}})],
)
def test_fingerprint_sees_config_and_tokenizer(tmp_path, file, change):
    before = TransformerEmbedder(tiny_gpt2(tmp_path)).fingerprint
    write_json(tmp_path / file, {**read_json(tmp_path / file), **change})
    assert TransformerEmbedder(tmp_path).fingerprint != before


def test_bf16_checkpoints_are_computed_in_float32(tmp_path):
    tiny_gpt2(tmp_path)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "dtype": "bfloat16"})
    embedder = TransformerEmbedder(tmp_path)
    np.testing.assert_allclose(embedder.embed(TEXTS)[3:4], embedder.embed(TEXTS[3:4]), atol=1e-5)


@pytest.mark.parametrize("dtype, error", [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_is_close_and_has_its_own_fingerprint(checkpoint, dtype, error):
    whole, half = TransformerEmbedder(checkpoint), TransformerEmbedder(checkpoint, dtype=dtype)
    expected, vectors = whole.embed(LINES), half.embed(LINES)
    assert vectors.dtype == np.float32 and half.fingerprint != whole.fingerprint
    assert 0 < np.linalg.norm(vectors - expected) / np.linalg.norm(expected) < error
    with pytest.raises(EmbeddingError, match="dtype='int8': must be float32, float16, bfloat16"):
        TransformerEmbedder(checkpoint, dtype="int8")


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path):
    tensors = load_file(tiny_roberta(tmp_path) / "model.safetensors")
    del tensors["roberta.encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbeddingError, match=r"1 weights missing.*output\.dense\.weight"):
        TransformerEmbedder(tmp_path)


def test_weights_without_a_place_are_not_left_out(checkpoint):
    """A configuration of fewer layers, as when the file of another model was copied over it."""
    config = read_json(checkpoint / "config.json")
    layers = next(name for name in ("n_layer", "num_layers", "num_hidden_layers") if name in config)
    change = {layers: 1} | ({"attention_types": [[["global"], 1]]} if "attention_types" in config else {})
    change |= {"layer_types": config["layer_types"][:1]} if "layer_types" in config else {}
    change |= {"attention_layers": ["global"]} if "attention_layers" in config else {}
    write_json(checkpoint / "config.json", config | change)
    with pytest.raises(EmbeddingError, match=r"no place for \d+ of the weights, e.g. .*1.*another model's"):
        TransformerEmbedder(checkpoint)


def test_heads_and_poolers_are_of_no_use(checkpoint):
    before = TransformerEmbedder(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    prefix = next(name.partition(".")[0] for name in tensors if not name.startswith("lm_head"))
    heads = ("classifier.dense.weight", "score.weight", f"{prefix}.pooler.dense.weight")
    save_file(tensors | {name: torch.ones(3) for name in heads}, checkpoint / "model.safetensors", {"format": "pt"})
    assert TransformerEmbedder(checkpoint).fingerprint == before.fingerprint


def test_weights_that_are_not_numbers_are_noticed(tmp_path):
    tensors = load_file(tiny_roberta(tmp_path) / "model.safetensors")
    tensors["roberta.embeddings.word_embeddings.weight"][70] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    embedder = TransformerEmbedder(tmp_path)
    broken = embedder._tokenizer.decode([70])
    with pytest.raises(EmbeddingError, match="the vector of text 1 of 2 is not finite"):
        embedder.embed(["The", broken])


def test_a_damaged_tokenizer_is_named(tmp_path):
    path = tiny_roberta(tmp_path) / "tokenizer.json"
    path.write_text(path.read_text().replace('"type": "BPE"', '"type": "NONE"'))
    with pytest.raises(EmbeddingError, match=r"tokenizer\.json is damaged"):
        TransformerEmbedder(tmp_path)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_folder_without_a_tokenizer(maker, tmp_path):
    """Transformers makes an empty one up, by the config's architecture."""
    maker(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    with pytest.raises(EmbeddingError, match=r"no tokenizer there.*same vector: copy tokenizer\.json"):
        load_embedder(tmp_path)


def test_a_tokenizer_that_knows_none_of_the_words(tmp_path):
    """A vocabulary of words that no text has, as of another language; and white space, which such a tokenizer drops."""
    words = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "ξένος", "λόγος"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(tiny_roberta(tmp_path) / "tokenizer.json"))
    embedder = load_embedder(tmp_path)
    with pytest.raises(EmbeddingError, match="its tokenizer knows no word of 5 texts"):
        embedder.embed(LINES)
    with pytest.raises(EmbeddingError, match=r"text 1 of 2 has no token \(white space.*leave it out"):
        embedder.embed(["λόγος", " \n"])
    assert embedder.embed(["λόγος", "another"]).shape == (2, WIDTH)


def test_a_tokenizer_of_another_model(tmp_path):
    tensors = load_file(tiny_roberta(tmp_path) / "model.safetensors")
    for name in ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.bias"):
        if name in tensors:
            tensors[name] = tensors[name][:10].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "vocab_size": 10})
    with pytest.raises(EmbeddingError, match="but 10 are known; is it another's tokenizer"):
        load_embedder(tmp_path).embed(LINES)


@pytest.mark.parametrize(
    "config, message",
    [
        (BartConfig(d_model=8, encoder_layers=1, decoder_layers=1), "bart is an encoder with a decoder"),
        (CLIPConfig(), "a clip model gives no hidden states of a text"),
    ],
)
def test_models_whose_hidden_states_are_no_embedding(config, message, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(EmbeddingError, match=message):
        load_embedder(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "32"}, {"num_attention_heads": 0}, {"model_type": "none"}, {"vocab_size": -1}, {"hidden_act": 5}],
)
def test_configurations_that_make_no_model(change, tmp_path):
    write_json(tmp_path / "config.json", read_json(tiny_roberta(tmp_path) / "config.json") | change)
    with pytest.raises(EmbeddingError):
        load_embedder(tmp_path)


def test_adapters_are_to_be_merged_first(tmp_path):
    write_json(tiny_roberta(tmp_path) / "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(EmbeddingError, match="merge it into the weights first"):
        load_embedder(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    tensors = load_file(tiny_gpt2(tmp_path) / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EmbeddingError, match=r"model\.safetensors"):
        TransformerEmbedder(tmp_path)


def test_what_a_clone_without_git_lfs_leaves_is_called_that(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tiny_roberta(tmp_path) / "model.safetensors").write_text(pointer)
    with pytest.raises(EmbeddingError, match=r"model\.safetensors: a pointer of Git LFS .*git lfs pull"):
        load_embedder(tmp_path)


def test_weights_under_the_names_of_torch_compile_are_read(tmp_path):
    tensors = load_file(tiny_roberta(tmp_path) / "model.safetensors")
    plain = TransformerEmbedder(tmp_path).embed(["a text"])
    renamed = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(TransformerEmbedder(tmp_path).embed(["a text"]), plain)


def test_weights_of_other_shapes_are_refused(tmp_path):
    write_json(tiny_roberta(tmp_path) / "config.json", read_json(tmp_path / "config.json") | {"intermediate_size": 48})
    with pytest.raises(EmbeddingError, match=r"6 weights missing or misshapen.*config\.json is another"):
        TransformerEmbedder(tmp_path)


def test_folders_are_found_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_roberta(tmp_path / "roberta")
    assert load_embedder("~/roberta").name == "roberta"
    for name in ("~/no-such", "/no/such", "./no-such"):
        with pytest.raises(EmbeddingError, match="there is no such folder"):
            load_embedder(name)
    with pytest.raises(EmbeddingError, match="the embedder's name is empty"):
        load_embedder(" ")


def test_unknown_names_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path), "no-such-owner/no-such-model"):
        with pytest.raises(EmbeddingError, match=r"cannot load the embedder.*\n.*a folder with"):
            load_embedder(name)
    with pytest.raises(EmbeddingError, match=r"no embedded language model 'gpt9'.*gpt2-xs-general"):
        load_embedder("lm:gpt9")


def test_embedded_language_model():
    embedder = load_embedder("lm:gpt2-xs-general")
    assert embedder.name == "lm:gpt2-xs-general" and embedder.max_length == 512
    near, text, far = embedder.embed(["The cat sat.", "The cat sat down.", "x = f(y) * 3;"])
    assert np.square(near - text).sum() < np.square(far - text).sum()


def test_a_language_model_in_a_folder_embeds_as_by_name(tmp_path):
    folder = shutil.copytree(CHECKPOINTS / "gpt2-xxs-general", tmp_path / "mine")
    texts = ["The cat sat.", "x = f(y) * 3;"]
    one, two = load_embedder("lm:gpt2-xxs-general"), load_embedder(f"lm:{folder}")
    assert np.array_equal(one.embed(texts), two.embed(texts))
    assert one.fingerprint == two.fingerprint


def test_transformer_card(tmp_path):
    embedder = load_embedder(tiny_roberta(tmp_path / "roberta"))
    embedder.save(tmp_path / "card")
    assert read_json(tmp_path / "card" / "embedder.json")["fingerprint"] == embedder.fingerprint
    assert embedder.name == "roberta" and str(tmp_path) not in (tmp_path / "card" / "embedder.json").read_text()


@given(lengths=st.lists(st.integers(1, 64), max_size=60), budget=st.integers(1, 200))
def test_batches_keep_to_the_budget(lengths, budget):
    batches = list(_by_length(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


# --- lexical


@pytest.fixture(scope="module")
def lexical():
    return LexicalEmbedder.fit([*LINES, *TEXTS], dimension=64)


def test_lexical_vectors_have_length_one(lexical):
    vectors = lexical.embed(LINES)
    assert vectors.shape == (len(LINES), lexical.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@settings(deadline=None)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_lexical_vectors_depend_on_the_text_alone(lexical, texts):
    alone = np.concatenate([lexical.embed([text]) for text in texts])
    np.testing.assert_array_equal(lexical.embed(texts), alone)
    lengths = np.linalg.norm(alone, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))


def test_lexical_batches_do_not_matter(lexical, monkeypatch):
    whole = lexical.embed(TEXTS)
    monkeypatch.setattr("tttnn.embedding.lexical.BATCH_CHARACTERS", 50)
    np.testing.assert_array_equal(lexical.embed(TEXTS), whole)
    assert LexicalEmbedder.fit(iter([*LINES, *TEXTS]), dimension=64).fingerprint == lexical.fingerprint


@pytest.mark.parametrize("script", ["\u4e00", "\u3041", "\u0e01", "\u1000"], ids=["Chinese", "kana", "Thai", "Burmese"])
def test_texts_without_spaces_are_near_to_others_on_their_subject(script):
    """Sentences of two-character words without a space between, of ten subjects with words of their own."""
    draw = np.random.default_rng(0)
    words = np.array([chr(ord(script) + a) + chr(ord(script) + b) for a, b in draw.integers(40, size=(200, 2))])
    subjects = np.repeat(np.arange(10), 12)
    texts = ["".join(draw.choice(words[20 * n : 20 * n + 20], 15)) + "." for n in subjects]
    embedder = LexicalEmbedder.fit(texts)
    vectors = embedder.embed(texts)
    likeness = vectors @ vectors.T - 2 * np.eye(len(texts))
    assert (subjects[likeness.argmax(1)] == subjects).mean() > 0.95
    latin = LexicalEmbedder.fit(["plain words of one text", "and \u4e16\u754c in another, which has many more of them"])
    assert latin.settings.pattern != embedder.settings.pattern


def test_projection_keeps_cosines():
    """Against the unprojected vectors, computed here: the error of a random projection is about 1/sqrt(d)."""
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    texts = [" ".join(random.choice(words[start : start + 60], 200)) for start in random.integers(0, 240, 40)]
    embedder = LexicalEmbedder.fit(texts, dimension=1024)
    exact = embedder._counter.transform(texts)
    exact.data = (1 + np.log(exact.data)) * embedder._idf[exact.indices]
    exact = normalize(exact)
    vectors = embedder.embed(texts)
    assert np.abs(vectors @ vectors.T - (exact @ exact.T).toarray()).max() < 5 / np.sqrt(1024)


def test_words_unknown_to_the_corpus_do_not_count(lexical):
    known, mixed, unknown = lexical.embed(["quick brown fox", "quick brown fox zzyzx qwxyz", "zzyzx"])
    np.testing.assert_allclose(known, mixed, atol=1e-6)
    assert not unknown.any()


def test_lexical_round_trip(lexical, tmp_path):
    lexical.save(tmp_path / "e")
    lexical.save(tmp_path / "e")  # as another process may have done meanwhile
    again = LexicalEmbedder.load(tmp_path / "e")
    assert (again.fingerprint, again.dimension, again.name) == (lexical.fingerprint, 64, "lexical")
    np.testing.assert_array_equal(again.embed(TEXTS), lexical.embed(TEXTS))


def test_an_embedder_is_not_saved_over_anything_else(lexical, tmp_path):
    LexicalEmbedder.fit(LINES).save(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for taken in ("other", "empty", "file"):
        with pytest.raises(FileExistsError, match="is there already, and is not this embedder: remove it first"):
            lexical.save(tmp_path / taken)


def test_two_processes_save_the_same_embedder_at_once(lexical, tmp_path, monkeypatch):
    """The other one comes first, while this one's files are written: it stays, and only an equal one may."""
    from scipy import sparse

    def race(other):
        def save_npz(path, *args, **options):
            other.save(tmp_path / "e")
            write(path, *args, **options)

        write = sparse.save_npz
        with monkeypatch.context() as patch:
            patch.setattr("scipy.sparse.save_npz", lambda *args, **options: (patch.undo(), save_npz(*args, **options)))
            lexical.save(tmp_path / "e")

    race(lexical)
    assert LexicalEmbedder.load(tmp_path / "e").fingerprint == lexical.fingerprint
    shutil.rmtree(tmp_path / "e")
    with pytest.raises(FileExistsError, match="not this embedder"):
        race(LexicalEmbedder.fit(LINES))
    assert [each.name for each in tmp_path.iterdir()] == ["e"]


def test_lexical_fingerprint_sees_settings_and_texts(lexical):
    others = [
        LexicalEmbedder.fit([*LINES, *TEXTS], dimension=63),
        LexicalEmbedder.fit([*LINES, *TEXTS], dimension=64, seed=1),
        LexicalEmbedder.fit([*LINES, *TEXTS[:-1]], dimension=64),
    ]
    assert len({lexical.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_lexical_fingerprint_is_the_same_in_another_process(lexical):
    program = (
        "import sys; from tttnn.embedding import LexicalEmbedder\n"
        "sys.stdout.write(LexicalEmbedder.fit(eval(sys.argv[1]), dimension=64).fingerprint)"
    )
    command = [sys.executable, "-c", program, repr([*LINES, *TEXTS])]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert other == lexical.fingerprint


@pytest.mark.parametrize("name", ["idf.npy", "projection.npz"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_lexical_files_are_noticed(lexical, tmp_path, name, damage):
    lexical.save(tmp_path / "e")
    file = tmp_path / "e" / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(EmbeddingError, match="remove it and fit again"):
        LexicalEmbedder.load(tmp_path / "e")


def test_lexical_is_fitted_once(tmp_path):
    fitted = load_embedder("lexical", lambda: LINES, tmp_path / "e")
    loaded = load_embedder("lexical", folder=tmp_path / "e")
    assert loaded.fingerprint == fitted.fingerprint
    with pytest.raises(EmbeddingError, match="give texts"):
        load_embedder("lexical")
    for texts, problem in (([], "no text to fit"), ([" "], "no words to fit")):
        with pytest.raises(EmbeddingError, match=problem):
            LexicalEmbedder.fit(texts)
    with pytest.raises(EmbeddingError, match=r"text 1 of those to fit on holds a lone surrogate \(U\+D800"):
        LexicalEmbedder.fit(["a", "b \ud800"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddingError, match="remove it and fit again"):
        load_embedder("lexical", lambda: LINES, tmp_path / "empty")
    with pytest.raises(EmbeddingError, match="dimension=0"):
        LexicalEmbedder.fit(LINES, dimension=0)


# --- both


@pytest.fixture(params=["lexical", "transformer"])
def embedder(request, lexical, tmp_path):
    return lexical if request.param == "lexical" else TransformerEmbedder(tiny_roberta(tmp_path))


def test_empty_texts_have_no_vector(embedder):
    with pytest.raises(ValueError, match="text 1 of 3 is empty"):
        embedder.embed(["a", "", "b"])
    with pytest.raises(TypeError, match="not one text"):
        embedder.embed("abc")
    with pytest.raises(EmbeddingError, match="text 1 of 2 is NoneType, not str"):
        embedder.embed(["a", None])


def test_half_characters_are_named(embedder):
    for text in ("\ud83d", "half of a smiley: \ude00"):
        with pytest.raises(EmbeddingError, match=r"text 1 of 2 holds a lone surrogate \(U\+D.*leave it out"):
            embedder.embed(["a", text])
        mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert np.isfinite(embedder.embed([mended])).all()
    assert np.isfinite(embedder.embed(["a \0 b", "\U0001f600"])).all()


def test_no_texts(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimension)
