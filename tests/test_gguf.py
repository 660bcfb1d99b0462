"""A GGUF file is the model that its safetensors are, converted once; what cannot be read whole is refused."""

import json
import os
import sys
import types

import gguf
import numpy as np
import pytest
import torch
from command_line import called
from tiny import CONTEXT, HEADS, LAYERS, VOCABULARY, WIDTH, tiny_gpt2, tiny_llama
from transformers import AutoConfig

from tttnn.files import sha256_file
from tttnn.models import ModelError, load_model
from tttnn.models.gguf import prepare

TEXT = "The quick brown fox: def mean(values) = 42, Grüße.\n"
MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2}
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # in GPT-2


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))


def as_gguf(folder, path, kind, quantise=None, more=(), fields=None, words="default", rotary_base=10000.0):
    """Write a tiny model as llama.cpp's converter does: its names, rotary halves of each head interleaved."""
    lm = load_model(folder)
    writer = gguf.GGUFWriter(path, kind)
    sizes(writer, kind, rotary_base)
    for name, value in (fields or {}).items():
        writer.add_string(name, value)
    vocabulary(writer, folder, lm.tokenizer, words)
    names = gguf.get_tensor_name_map({"llama": gguf.MODEL_ARCH.LLAMA, "gpt2": gguf.MODEL_ARCH.GPT2}[kind], LAYERS)
    for name, value in lm.model.state_dict().items():
        if kind == "gpt2" and name == "lm_head.weight":
            continue  # tied
        name, data = names.get_name(name, (".weight", ".bias")), value.numpy()
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = HEADS if "attn_q" in name else 2
            data = data.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(data.shape)
        if kind == "gpt2" and name.endswith(TRANSPOSED):
            data = data.T
        data, dtype = np.ascontiguousarray(data), None
        if quantise is not None and data.ndim == 2:
            data, dtype = gguf.quantize(data, quantise), quantise
        writer.add_tensor(name, data, raw_dtype=dtype)
    for name, data in more:
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sizes(writer, kind, rotary_base):
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length((2 if kind == "llama" else 4) * WIDTH)
    writer.add_head_count(HEADS)
    if kind == "llama":
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(rotary_base)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_vocab_size(VOCABULARY)
    else:
        writer.add_layer_norm_eps(1e-5)


def vocabulary(writer, folder, tokenizer, words):
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(stored["vocab"], key=stored["vocab"].get)
    special = set(tokenizer.all_special_tokens)
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[token in special] for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in stored["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)


@pytest.mark.parametrize("kind", MAKERS)
def test_it_is_the_model_that_its_safetensors_are(kind, tmp_path):
    folder = MAKERS[kind](tmp_path / "plain")
    plain, ours = load_model(folder), load_model(as_gguf(folder, tmp_path / "it.gguf", kind))
    assert ours.weight_hash() == plain.weight_hash()
    assert ours.encode(TEXT) == plain.encode(TEXT)
    assert (ours.prefix_id, ours.settings) == (plain.prefix_id, plain.settings) and ours.name == "it.gguf"
    ids = torch.tensor([plain.encode(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids).logits, plain.model(ids).logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("how", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1])
def test_quantised_weights_are_what_the_gguf_package_makes_of_them(kind, how, tmp_path):
    folder = MAKERS[kind](tmp_path / "plain")
    plain, ours = load_model(folder), load_model(as_gguf(folder, tmp_path / "it.gguf", kind, how))
    for (name, weight), (_, rounded) in zip(plain.model.named_parameters(), ours.model.named_parameters(), strict=True):
        weight = weight.detach().numpy()
        if weight.ndim == 2:
            weight = as_stored(name, weight, lambda data: gguf.dequantize(gguf.quantize(data, how), how))
        np.testing.assert_array_equal(rounded.detach().numpy(), weight)


def as_stored(name, weight, change):
    """Change a matrix the way it lies in the file: blocks run along the inputs."""
    if any(part in name for part in ("c_attn", "c_proj", "c_fc")):
        return change(np.ascontiguousarray(weight.T)).T
    return change(weight)  # blocks are rows here, so that the order of rows does not matter


def test_it_is_converted_once_and_named_by_its_bytes(tmp_path, monkeypatch):
    file = as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama")
    folder = prepare(file)
    assert folder == tmp_path / "home" / "converted" / sha256_file(file)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(os.listdir(folder))
    monkeypatch.setattr("tttnn.models.gguf._convert", lambda *_: pytest.fail("converted again"))
    assert prepare(file) == folder


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    file = as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama")

    def interrupted(file, numbers, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tttnn.models.gguf._convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(file)
    [left] = (tmp_path / "home" / "converted").iterdir()
    assert left.name.endswith(".lock")
    assert load_model(file).name == "it.gguf"


def test_a_folder_with_one_file_is_a_model_and_one_with_several_is_refused(tmp_path):
    folder = tmp_path / "holds"
    folder.mkdir()
    plain = tiny_llama(tmp_path / "plain")
    as_gguf(plain, folder / "a.GGUF", "llama")
    assert load_model(folder).name == "holds"
    (folder / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files \(a.GGUF, b.gguf\)"):
        load_model(folder)


def test_what_is_not_whole_or_no_gguf_is_refused_by_name(tmp_path):
    file = as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama")
    whole = file.read_bytes()
    for size in (5, 30, 700, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"it\.gguf: a damaged or truncated GGUF file"):
            load_model(file)
    for other in (b"", b"PK\3\4 a zip", b"{}"):
        file.write_bytes(other)
        with pytest.raises(ModelError, match=r"it\.gguf: no GGUF file"):
            load_model(file)
    with pytest.raises(ModelError, match=r"nowhere\.gguf: no such file"):
        load_model(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"more": [("rope_freqs.weight", np.ones(4, np.float32))]}, "scales its rotary positions"),
        ({"fields": {"llama.rope.scaling.type": "yarn"}}, "scales its rotary positions"),
        ({"more": [("blk.0.attn_q.bias", np.ones(WIDTH, np.float32))]}, "so another model would run"),
    ],
)
def test_what_would_be_left_out_is_refused(how, message, tmp_path):
    file = as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama", **how)
    with pytest.raises(ModelError, match=message):
        load_model(file)


def test_a_rotary_base_that_transformers_would_not_take_is_refused(tmp_path, monkeypatch):
    file = as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama", rotary_base=5e5)
    assert load_model(file).model.config.rope_parameters["rope_theta"] == 5e5
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "other"))
    find = AutoConfig.from_pretrained

    def without_base(**place):  # as for StarCoder2
        config = find(**place)
        config.rope_parameters["rope_theta"] = 10_000.0
        return config

    monkeypatch.setattr(AutoConfig, "from_pretrained", without_base)
    with pytest.raises(ModelError, match=r"has 500,000 as base of its rotary positions, .* takes 10,000"):
        load_model(file)


@pytest.mark.parametrize(("words", "warned"), [("default", False), ("smollm", False), ("qwen2", False), ("own", True)])
def test_texts_are_cut_as_the_file_names_it(words, warned, tmp_path, caplog):
    lm = load_model(as_gguf(tiny_llama(tmp_path / "plain"), tmp_path / "it.gguf", "llama", words=words))
    pieces = [piece for piece, _ in lm.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("if x:\n    12")]
    alone = ["ĊĠĠĠĠ", "1", "2"] if words == "smollm" else ["1", "2"] if words == "qwen2" else ["Ġ12"]
    assert pieces[-len(alone) :] == alone
    assert ("a way, 'own', that transformers does not know" in caplog.text) == warned


def test_architectures_that_cannot_be_read_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "it.gguf", "rwkv7")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture rwkv7 is not supported"):
        load_model(tmp_path / "it.gguf")


def test_smollm2_comes_by_name_from_the_folder_that_is_fetched(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "weights"
    folder.mkdir()
    as_gguf(tiny_llama(tmp_path / "plain"), folder / "SmolLM2.gguf", "llama")
    caplog.clear()
    asked = []
    monkeypatch.setitem(
        sys.modules, "tttnn.fetch", types.SimpleNamespace(fetch=lambda name: asked.append(name) or folder)
    )
    lm = load_model("smollm2-135m")
    assert asked == ["smollm2-135m"] and lm.name == "smollm2-135m"
    assert (lm.settings.learning_rate, lm.settings_source) == (2e-5, "registry entry smollm2-135m")
    assert "published settings" not in caplog.text


def test_fetching_a_file_converts_it_too_so_that_two_first_uses_need_not_wait_for_each_other(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    as_gguf(tiny_llama(tmp_path / "plain"), folder / "SmolLM2.gguf", "llama")
    monkeypatch.setattr("tttnn.fetch.fetched", lambda name: folder)
    done = called("fetch", "smollm2-135m", home=tmp_path / "home")
    assert done.returncode == 0 and done.stdout == f"smollm2-135m: {folder}\n", done.stderr
    assert [path.name for path in (tmp_path / "home" / "converted").iterdir() if path.is_dir()] == [
        sha256_file(folder / "SmolLM2.gguf")
    ]
