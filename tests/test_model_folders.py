"""A folder is the model that it holds, with its own settings, or it is refused with the true cause."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_gpt2, tiny_gpt_neo, tiny_llama, tiny_roberta

from tttnn.embedding import EMBEDDERS, EmbeddingError, load_embedder
from tttnn.errors import ParameterError, TTTNNError
from tttnn.models import CHECKPOINTS, REGISTRY, ModelError, TTTSettings, load_model
from tttnn.models.model_registry import SWEEP
from tttnn.pretraining import load_settings


@pytest.fixture
def folder(tmp_path):
    return tiny_gpt2(tmp_path / "mine")


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def rename(folder, change):
    path = folder / "model.safetensors"
    save_file({change(name): weight for name, weight in load_file(path).items()}, path, {"format": "pt"})
    return folder


def swept(folder, rate, **more):
    ratios = {"1e-05": {"0": 1.0, "5": 0.9}, f"{rate:g}": {"0": 1.0, "5": 0.8}}
    (folder / SWEEP).write_text(json.dumps({"ks": [0, 5], "ratio_to_k0": ratios} | more))


# ------------------------------------------------------------------------------------------------- settings


def test_a_copy_of_a_registered_model_has_the_settings_it_has_by_name(tmp_path):
    name = "gpt2-xxs-general"
    by_name, by_folder = load_model(name), load_model(shutil.copytree(CHECKPOINTS / name, tmp_path / "renamed"))
    assert by_folder.settings == by_name.settings and by_name.settings_source == f"registry entry {name}"
    assert SWEEP in by_folder.settings_source


def test_the_order_is_argument_sweep_registry_and_gpt2_with_a_warning(folder, caplog):
    assert load_model(folder).settings.learning_rate == 2e-5
    assert "not in the registry" in caplog.text and "learning rate 2e-05" in caplog.text
    caplog.clear()
    edit(folder, _name_or_path="EleutherAI/gpt-neo-1.3B")
    lm = load_model(folder)
    assert lm.settings.learning_rate == 5e-6 and lm.settings_source == "registry entry EleutherAI/gpt-neo-1.3B"
    assert "has 39,808 weights instead of 1,315,575,808" in caplog.text
    swept(folder, 3e-4, weights=lm.weight_hash())
    assert load_model(folder).settings.learning_rate == 3e-4
    given = load_model(folder, settings=TTTSettings(learning_rate=7e-5, max_length=16), context=32)
    assert given.settings == TTTSettings(7e-5, max_length=16, context=32) and given.settings_source == "given"
    some = load_model(folder, settings={"max_length": "16"}, context=32)
    assert some.settings == TTTSettings(3e-4, max_length=16, context=32)
    assert some.settings_source.startswith("given: max_length; else learning rate of ")


@pytest.mark.parametrize("name", ["gpt-neo-1.3B", "GPT-Neo-1.3B"])
def test_a_folder_called_like_a_registered_model_gets_its_settings(name, tmp_path):
    lm = load_model(tiny_gpt_neo(tmp_path / name))
    assert (lm.settings.learning_rate, lm.settings.max_length) == (5e-6, 64)


def test_a_sweep_of_other_weights_is_not_used_and_a_damaged_one_named(folder, caplog):
    swept(folder, 3e-4, weights="0" * 64)
    assert load_model(folder).settings.learning_rate == 2e-5
    assert "is of other weights" in caplog.text
    for damaged in ('{"ks": []', "[]", '{"ks": [5]}'):
        (folder / SWEEP).write_text(damaged)
        with pytest.raises(TTTNNError, match=r"sweep\.json"):
            load_model(folder)


def test_registered_models_say_nothing(caplog):
    load_model("gpt2-xxs-general")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_rate_chosen_for_smollm2_stands_beside_the_published_one():
    entry = REGISTRY["smollm2-135m"]
    assert (entry.settings.learning_rate, entry.chosen_rate, entry.parameters) == (2e-5, 1e-4, 134_515_008)


def test_the_working_directory_has_a_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_model(".").name == "mine"


def test_a_name_of_the_registry_that_is_a_folder_here_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_gpt2(tmp_path / "gpt2")
    both = "gpt2: a registry name and a folder here; write ./gpt2 for the folder, or call from elsewhere"
    with pytest.raises(ModelError, match=f"^{both}$"):
        load_model("gpt2")
    with pytest.raises(EmbeddingError, match=f"^{both}$"):
        load_embedder("lm:gpt2")
    hub = next(entry.name for entry in EMBEDDERS.values() if not entry.packaged)
    tiny_roberta(tmp_path / hub)
    with pytest.raises(EmbeddingError, match=f"^{hub}: a registry name and a folder here"):
        load_embedder(hub)
    assert load_model("./gpt2").parameters == load_model(tmp_path / "gpt2").parameters


def test_a_model_that_only_the_recipe_makes_is_refused_with_the_command_that_makes_it(tmp_path):
    """No hub is asked for it, and no list calls it known: its weights are nowhere until somebody trains them."""
    [name] = [entry.name for entry in REGISTRY.values() if entry.to_be_made]
    assert name == "gpt2-m-general"
    said = "its weights are not shipped; make them with `python -m tttnn pretrain"
    for unmade in (name, "gpt2-s-pile"):  # a recipe without an entry in the registry is no other case
        for load, refusal in ((load_model, ModelError), (lambda each: load_embedder(f"lm:{each}"), EmbeddingError)):
            with pytest.raises(refusal, match=f"^{unmade}: {said} {unmade} --data DATA --out OUT`") as refused:
                load(unmade)
            assert "hub" not in str(refused.value)
        assert load_settings(unmade).name == unmade
    with pytest.raises(ModelError, match="Known names: gpt2-xxs-general") as refused:
        load_model("nobody/nothing-of-that-name")
    assert name not in str(refused.value)
    folder = tiny_gpt2(tmp_path / name)
    assert load_model(folder).settings == replace(REGISTRY[name].settings, max_length=64, context=64)


def test_a_home_directory_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/mine").name == "mine"


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": 0}, {"learning_rate": "fast"}, {"eps": -1}, {"max_length": 1}, {"max_length": 2.5},
     {"context": 0}, {"prefix": "BOS"}, {"prefix": None}],
)  # fmt: skip
def test_settings_are_checked_by_name(bad):
    with pytest.raises(ParameterError, match=f"^{next(iter(bad))}="):
        TTTSettings(**bad)
    with pytest.raises(ParameterError, match=f"^settings: {next(iter(bad))}="):
        load_model("gpt2-xxs-general", settings=bad)


def test_settings_spelt_in_text_are_numbers():
    assert TTTSettings(learning_rate="2e-5", max_length="512") == TTTSettings(2e-5, max_length=512)


# -------------------------------------------------------------------------------------------------- weights


def test_weights_without_a_place_are_refused_like_missing_ones(folder):
    with pytest.raises(ModelError, match=r"no place for \d+ of its weights, the first is transformer\.h\.1"):
        load_model(edit(folder, n_layer=1))
    with pytest.raises(ModelError, match="12 weights are missing"):
        load_model(edit(folder, n_layer=3))
    with pytest.raises(ModelError, match=r"makes transformer\.wpe\.weight \(32, 32\), but it is stored as \(64, 32\)"):
        load_model(edit(folder, n_layer=2, n_positions=32))


def test_buffers_of_older_checkpoints_are_passed_over(folder):
    path = folder / "model.safetensors"
    more = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    before = load_model(folder).weight_hash()
    save_file(load_file(path) | more, path, {"format": "pt"})
    assert load_model(folder).weight_hash() == before


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("wrap", ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "inner"])
def test_names_of_compiled_and_parallel_models_are_understood(tmp_path, make, wrap):
    folder = make(tmp_path / "mine")
    expected = load_model(folder).weight_hash()
    inner = wrap == "inner"
    rename(folder, lambda name: name.replace(".0.", ".0._orig_mod.") if inner else wrap.format(name))
    assert load_model(folder).weight_hash() == expected


def test_shards_count_and_a_consolidated_file_beside_them_does_not(folder):
    lm = load_model(folder)
    lm.model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    save_file({"other": torch.ones(1)}, folder / "consolidated.safetensors")
    (folder / "consolidated.00.pth").write_bytes(b"a pickle")
    (folder / "params.json").write_text("{}")
    assert load_model(folder).weight_hash() == lm.weight_hash()


def test_pickled_weights_are_refused_with_a_conversion_that_works(folder):
    expected = load_model(folder).weight_hash()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"in pytorch_model\.bin.*use_safetensors=False") as refused:
        load_model(folder)
    code = str(refused.value).partition('python -c "')[2].rstrip('"')
    exec(code, {})
    assert load_model(folder).weight_hash() == expected


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_a_clone_without_git_lfs_leaves_is_called_that(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match=rf"{name}: a pointer of Git LFS .*git lfs pull"):
        load_model(folder)


def test_an_index_of_shards_leads_nowhere_else(folder):
    names = load_file(folder / "model.safetensors")
    elsewhere = (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    for place in ("../elsewhere.safetensors", str(elsewhere)):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"index\.json: names .*elsewhere.* not in that folder"):
            load_model(folder)


# ------------------------------------------------------------------------------------------------- adapters


def adapters(folder, base, **settings):
    """Train nothing: adapters of peft with random numbers, saved, and the weights that merging them makes."""
    torch.manual_seed(1)
    model = load_model(base).model
    wrapped = get_peft_model(
        model, LoraConfig(**{"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    return wrapped.merge_and_unload().state_dict()


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_are_merged_into_their_model(tmp_path, make, settings):
    base = make(tmp_path / "base")
    expected = adapters(tmp_path / "adapters", base, **settings)
    lm, plain = load_model(tmp_path / "adapters"), load_model(base)
    found = lm.model.state_dict()
    assert list(found) == list(plain.model.state_dict())
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    assert lm.weight_hash() != plain.weight_hash()
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert (lm.name, lm.settings) == ("adapters", plain.settings)


def test_adapters_that_begin_otherwise_beside_the_same_weights_are_merged(tmp_path):
    adapters(tmp_path / "adapters", tiny_gpt2(tmp_path / "base"), init_lora_weights="gaussian")
    load_model(tmp_path / "adapters")


@pytest.mark.parametrize("layer", ["lm_head", "wte"])
def test_adapters_on_one_of_two_tied_layers_are_refused(tmp_path, layer):
    """Merged they would be in both: another model than was trained, and peft only warns of it."""
    adapters(tmp_path / "adapters", tiny_gpt2(tmp_path / "base"), target_modules=["c_attn", layer])
    with pytest.raises(ModelError, match=r"adapters: merged.*another model.*tie_word_embeddings.*merge them into it"):
        load_model(tmp_path / "adapters")


def test_adapters_on_layers_that_are_not_tied_are_merged(tmp_path):
    adapters(tmp_path / "adapters", tiny_llama(tmp_path / "base"), target_modules=["q_proj", "lm_head", "embed_tokens"])
    load_model(tmp_path / "adapters")


def test_a_base_is_found_beside_the_adapters_and_by_name(tmp_path):
    adapters(tmp_path / "one", tiny_gpt2(tmp_path / "base"))
    path = tmp_path / "one" / "adapter_config.json"
    config = json.loads(path.read_text())
    by_path = load_model(tmp_path / "one").weight_hash()
    path.write_text(json.dumps(config | {"base_model_name_or_path": "../base"}))
    assert load_model(tmp_path / "one").weight_hash() == by_path
    adapters(tmp_path / "two", "gpt2-xxs-general")
    lm = load_model(tmp_path / "two")
    assert lm.settings == load_model("gpt2-xxs-general").settings
    assert lm.settings_source == "registry entry gpt2-xxs-general"


def test_adapters_in_a_folder_with_a_model_are_refused_and_with_its_configuration_alone_they_are_adapters(tmp_path):
    base = tiny_gpt2(tmp_path / "base")
    adapters(tmp_path / "mine", base)
    alone = load_model(tmp_path / "mine").weight_hash()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(base / name, tmp_path / "mine")
        if name != "model.safetensors":
            assert load_model(tmp_path / "mine").weight_hash() == alone
    with pytest.raises(ModelError, match=r"mine: holds a model and adapters, .*remove adapter_config\.json"):
        load_model(tmp_path / "mine")


def test_adapters_that_cannot_be_merged_are_refused(tmp_path):
    base = tiny_gpt2(tmp_path / "base")
    adapters(tmp_path / "mine", base)
    path, weights = tmp_path / "mine" / "adapter_config.json", tmp_path / "mine" / "adapter_model.safetensors"
    config = json.loads(path.read_text())

    def refused(message, **values):
        path.write_text(json.dumps(config | values))
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / "mine")

    refused("adapters without the model", base_model_name_or_path=None)
    refused(r"adapter_config\.json: there is no /nowhere", base_model_name_or_path="/nowhere")
    refused("adapters of type IA3, and LORA alone is read", peft_type="IA3")
    refused("of another model|do not fit", base_model_name_or_path=str(tiny_llama(tmp_path / "llama")))
    refused("do not fit the model", r=3)
    refused(
        r"init_lora_weights=pissa_niter_4.*changes the weights.*merge them into it", init_lora_weights="pissa_niter_4"
    )
    refused("init_lora_weights=olora", init_lora_weights="olora")
    stored = load_file(weights)
    save_file(dict(list(stored.items())[1:]), weights)
    refused(r"of another model .*; the first of them is .*lora_")
    save_file({name: value * float("nan") for name, value in stored.items()}, weights)
    refused("do not fit the model")
    weights.write_bytes(b"damaged")
    refused("do not fit the model")
    weights.rename(tmp_path / "mine" / "adapter_model.bin")
    refused(r"in adapter_model\.bin, whose format can hold programs")
    path.write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: not JSON"):
        load_model(tmp_path / "mine")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "awq", "compressed-tensors", "torchao", "fp8"])
def test_quantised_weights_are_refused(folder, method):
    with pytest.raises(ModelError, match=rf"quantised \({method}\).*float32, float16 or bfloat16"):
        load_model(edit(folder, quantization_config={"quant_method": method}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_layer", "2"), ("n_embd", 32.0), ("resid_pdrop", "0.1"), ("layer_norm_epsilon", "1e-5"), ("n_layer", None),
     ("n_head", 0), ("model_type", "nope"), ("model_type", None), ("activation_function", "nix"), ("auto_map", 3)],
)  # fmt: skip
def test_configurations_of_another_type_name_the_folder(folder, key, value):
    with pytest.raises(ModelError, match="mine"):
        load_model(edit(folder, **{key: value}))


def test_the_field_of_a_configuration_is_named(folder):
    with pytest.raises(ModelError, match=r"config\.json: Field 'n_layer' expected int, got str \(value: '2'\)"):
        load_model(edit(folder, n_layer="2"))


def test_models_that_are_no_causal_language_models_are_refused(tmp_path):
    with pytest.raises(ModelError):
        load_model(tiny_roberta(tmp_path / "roberta"))


def test_weights_that_are_no_numbers_are_refused(folder):
    path = folder / "model.safetensors"
    save_file({name: weight * torch.nan for name, weight in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="no finite numbers"):
        load_model(folder)


# ------------------------------------------------------------------------------------------------ tokenizer


def test_a_folder_without_a_tokenizer_and_a_file_of_weights_are_refused_in_a_sentence(folder):
    with pytest.raises(ModelError, match=r"model\.safetensors: a file and no model by itself; give the folder that ho"):
        load_model(str(folder / "model.safetensors"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"mine: no tokenizer\.json there; copy it, too$"):
        load_model(folder)


def test_a_name_that_nobody_knows_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ModelError, match=r"Known names: gpt2") as error:
        load_model("nobody/nothing-of-that-name")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gone", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]])
def test_a_missing_tokenizer_is_not_made_up(folder, gone):
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [b"", b'{"a', b"[1]", b"\xff\xfe{\0}\0"])
def test_damaged_files_are_named(folder, name, damage):
    (folder / name).write_bytes(damage)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_model(folder)


def test_a_tokenizer_s_field_of_another_type_names_the_folder(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": ""}))
    with pytest.raises(ModelError, match=f"{folder.name}.*tokenizer file is not as transformers writes it"):
        load_model(folder)


def test_a_model_without_any_token_to_stand_before_a_text_is_refused(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if not key.endswith("os_token")}))
    with pytest.raises(ModelError, match="no token for the beginning or end"):
        load_model(folder)


def test_special_tokens_that_a_text_quotes_are_text(tmp_path):
    lm = load_model(tiny_llama(tmp_path))
    for quoted in ("</s>", "a <s> b", "<s></s>"):
        ids = lm.encode(quoted)
        assert not {0, 1} & set(ids) and lm.tokenizer.decode(ids) == quoted


def test_a_model_prints_in_one_line(folder):
    assert "\n" not in repr(load_model(folder)) and "39,808 weights on cpu" in repr(load_model(folder))
