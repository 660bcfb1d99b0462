"""Parts of the weights that are adapted alone: the right ones, nothing else, and as a plain loop would."""

import re

import pytest
import torch
from tiny import NEIGHBOURS, TEXT, tiny_gpt2, tiny_gpt_neo, tiny_llama, tiny_qwen2
from transformers import GPTBigCodeForCausalLM, Qwen2MoeForCausalLM

from tttnn.errors import ParameterError
from tttnn.models import load_model
from tttnn.models.columns import frozen_but
from tttnn.models.parts import select_part
from tttnn.ttt import TTT, Switches

NAMES = ["head", "norms", "down", "last:1"]
FUSED = "c_attn"  # GPT-2's queries, keys and values
RATE = 1e-2


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_gpt_neo, tiny_llama, tiny_qwen2])
def lm(request, tmp_path_factory):
    return load_model(request.param(tmp_path_factory.mktemp(request.param.__name__)))


def names(lm, part):
    ids = {id(parameter) for parameter in select_part(lm.model, part)}
    return {name for name, parameter in lm.model.named_parameters() if id(parameter) in ids}


def test_a_part_has_the_weights_that_its_name_says(lm):
    [layers] = (child for child in lm.model.base_model.children() if isinstance(child, torch.nn.ModuleList))
    blocks = len(layers)
    every = dict(lm.model.named_parameters())
    assert {name.split(".")[-2] for name in names(lm, "head")} <= {"wte", "embed_tokens", "lm_head"}
    assert names(lm, "norms") == {name for name, parameter in every.items() if parameter.dim() == 1}
    down = {name for name in every if name.rpartition(".")[0].endswith(("mlp.c_proj", "mlp.down_proj"))}
    assert names(lm, "down") == down and len(down) >= blocks
    last = {name for name in every if f".{blocks - 1}." in name}
    assert names(lm, "last:1") == last and names(lm, f"last:{blocks}") > last


def changed(lm, part):
    """Names of the weights that a step changes, and the nats after each."""
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    loop = TTT(lm, switches=Switches(learning_rate=RATE, max_length=32, max_chunks=1, train=part))
    found, nats = set(), []
    for step in loop.adapt(TEXT, NEIGHBOURS, range(3)):
        found |= {n for n, parameter in lm.model.named_parameters() if not torch.equal(parameter, before[n])}
        nats.append(step.score.nats)
    return found, nats


@pytest.mark.parametrize("part", NAMES)
def test_a_loop_changes_that_part_alone_and_puts_it_back(lm, part):
    before = lm.weight_hash()
    found, nats = changed(lm, part)
    assert found and found <= names(lm, part) and nats[1] != nats[0]
    assert lm.weight_hash() == before
    assert all(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize("part", NAMES)
def test_it_equals_a_plain_loop_whose_optimizer_has_that_part_only(lm, part):
    _, nats = changed(lm, part)
    settings = TTT(lm, switches=Switches(learning_rate=RATE, max_length=32, max_chunks=1))
    scorer, kept = settings.scorer(TEXT), select_part(lm.model, part)
    plain = [scorer().nats]
    with lm.restoring():
        optimizer = torch.optim.AdamW(kept, lr=RATE, eps=lm.settings.eps, weight_decay=0.01, fused=True)
        for neighbour in NEIGHBOURS[:2]:
            ids = torch.tensor([settings.chunks(neighbour)[0][0]])  # (1, tokens)
            lm.model(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(kept, 1.0)
            optimizer.step()
            lm.model.zero_grad()
            plain.append(scorer().nats)
    assert nats == pytest.approx(plain, rel=1e-5)


def test_queries_are_trained_and_keys_and_values_stay(lm):
    """Against a plain loop that computes all gradients of the attention and drops those of keys and values."""
    before, weights = lm.weight_hash(), {n: p.clone() for n, p in lm.model.named_parameters()}
    queries = {name for name in weights if "q_proj" in name or FUSED in name}
    loop = TTT(lm, switches=Switches(learning_rate=RATE, max_length=32, max_chunks=1, train="queries"))
    nats = []
    for step in loop.adapt(TEXT, NEIGHBOURS, range(3)):
        for name, parameter in lm.model.named_parameters():
            whole, start = parameter.detach(), weights[name]
            if name not in queries or not step.k:
                assert torch.equal(whole, start), name
            elif FUSED in name:
                third = start.shape[-1] // 3
                assert torch.equal(whole[..., third:], start[..., third:])
                assert not torch.equal(whole[..., :third], start[..., :third])
        nats.append(step.score.nats)
    assert lm.weight_hash() == before and len(queries) >= 2
    plain = [loop.scorer(TEXT)().nats]
    split = {n: p for n, p in lm.model.named_parameters() if n in queries}
    own = {n: torch.nn.Parameter(p.detach()[..., : p.shape[-1] // 3 if FUSED in n else None].clone())
           for n, p in split.items()}  # fmt: skip
    with lm.restoring():
        optimizer = torch.optim.AdamW(own.values(), lr=RATE, eps=lm.settings.eps, weight_decay=0.01)
        for neighbour in NEIGHBOURS[:2]:
            ids = torch.tensor([loop.chunks(neighbour)[0][0]])  # (1, tokens)
            lm.model(ids, labels=ids).loss.backward()
            for name, leaf in own.items():
                leaf.grad = split[name].grad[..., : leaf.shape[-1]].clone()
            torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
            optimizer.step()
            lm.model.zero_grad()
            with torch.no_grad():
                for name, leaf in own.items():
                    split[name][..., : leaf.shape[-1]] = leaf
            plain.append(loop.scorer(TEXT)().nats)
    assert nats == pytest.approx(plain, rel=1e-5) and nats[1] != nats[0]


@pytest.mark.parametrize(
    ("part", "model", "settings"),
    [
        ("queries", GPTBigCodeForCausalLM, {"n_embd": 16, "n_layer": 1, "n_head": 2}),  # of all heads, then one key
        ("down", Qwen2MoeForCausalLM, {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                       "num_key_value_heads": 2, "num_experts": 2, "intermediate_size": 8}),  # a gate
    ],
)  # fmt: skip
def test_a_model_that_keeps_that_part_elsewhere_is_refused(part, model, settings):
    with pytest.raises(ParameterError, match=rf"train='{part}': .* has no such weights"):
        select_part(model(model.config_class(vocab_size=40, **settings)), part)


def test_gradients_are_taken_again_whatever_happens(lm):
    with pytest.raises(RuntimeError, match="inside"), frozen_but(lm.model, []):
        assert not any(parameter.requires_grad for parameter in lm.model.parameters())
        raise RuntimeError("inside")
    assert all(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"train": "heads"}, r"^train='heads': must be one of head, norms, down, queries, last:N"),
        ({"train": "last:0"}, r"^train='last:0'"),
        ({"train": "last:N"}, r"^train='last:N'"),
        *(({"train": f"last{more}"}, rf"^train='last{re.escape(more)}': it needs a whole number from 1 to 999999")
          for more in ("", ":", ":01", ":+1", ":1.0", ":1000000")),
        ({"train": "head:"}, r"^train='head:': it takes no number"),
        ({"train": 3}, r"^train=3"),
        ({"train": "head", "lora": 8}, r"train='head' and lora=8"),
        ({"train": "head", "weights": "bfloat16"}, r"train='head' and weights='bfloat16'"),
    ],
)  # fmt: skip
def test_other_names_and_pairs_are_refused(switches, message):
    with pytest.raises(ParameterError, match=message):
        Switches(**switches)


def test_more_blocks_than_there_are_is_refused_before_anything_runs(lm):
    with pytest.raises(ParameterError, match=r"train='last:99': the model has \d blocks"):
        TTT(lm, switches=Switches(train="last:99"))
