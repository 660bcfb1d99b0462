"""Tiny random checkpoints in the hub's folder layout: tests take the real loading path.

Each maker writes ``config.json``, ``model.safetensors`` and a tokenizer trained on a few lines into a folder
(two layers, width 32, context 64, float32, seeded) and returns it.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 384
WIDTH = 32
LAYERS = 2
HEADS = 4
CONTEXT = 64
SEED = 1216
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}

LINES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Madam President, I should like to thank the rapporteur for her report.",
    "What is the next term in 3, 7, 11, 15? Answer: 19",
    "Let $f \\colon A \\to B$ be a continuous function on a compact set.",
)


def tiny_gpt2(folder: Path, seed: int = SEED) -> Path:
    """GPT-2 with its language-modelling head; end of text is token 0, no pad token."""
    tokenizer = _byte_level_tokenizer(["<|endoftext|>"])
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(folder, GPT2LMHeadModel, config, tokenizer, special, seed)


def tiny_gpt_neo(folder: Path, seed: int = SEED) -> Path:
    """GPT-Neo with one global and one local attention layer; end of text is token 0, no pad token."""
    tokenizer = _byte_level_tokenizer(["<|endoftext|>"])
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(folder, GPTNeoForCausalLM, config, tokenizer, special, seed)


def tiny_qwen2(folder: Path, seed: int = SEED) -> Path:
    """Qwen2 with grouped-query attention and a separate pad token, as the R1 distillations have them."""
    # Qwen2's tokenizer class adds <|endoftext|> by itself, past the vocabulary, unless it is there already.
    tokenizer = _byte_level_tokenizer(["<|end|>", "<|begin|>", "<|endoftext|>"])
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|endoftext|>"}
    config = Qwen2Config(
        **SIZES,
        max_position_embeddings=CONTEXT,
        num_key_value_heads=2,
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=2,
    )
    return _save(folder, Qwen2ForCausalLM, config, tokenizer, special, seed)


def tiny_llama(folder: Path, seed: int = SEED) -> Path:
    """Llama with grouped-query attention, an output layer of its own, and a BOS token that is not its EOS token."""
    tokenizer = _byte_level_tokenizer(["<s>", "</s>"])
    config = LlamaConfig(
        **SIZES,
        max_position_embeddings=CONTEXT,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _save(folder, LlamaForCausalLM, config, tokenizer, {"bos_token": "<s>", "eos_token": "</s>"}, seed)


def tiny_roberta(folder: Path, seed: int = SEED) -> Path:
    """RoBERTa with its masked-head; of ``CONTEXT + 2`` positions it can use ``CONTEXT``."""
    tokenizer = _byte_level_tokenizer(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    config = RobertaConfig(
        **SIZES,
        max_position_embeddings=CONTEXT + 2,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    return _save(folder, RobertaForMaskedLM, config, tokenizer, special, seed)


def tiny_t5(folder: Path, seed: int = SEED) -> Path:
    """T5, encoder and decoder, whose positions have no end."""
    tokenizer = _byte_level_tokenizer(["<pad>", "</s>", "<unk>"])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=2 * WIDTH, num_layers=LAYERS, num_heads=HEADS
    )
    return _save(folder, T5ForConditionalGeneration, config, tokenizer, special, seed)


MAKERS = {"gpt2": tiny_gpt2, "gpt_neo": tiny_gpt_neo, "qwen2": tiny_qwen2}  # architectures that are reproduced
TEXT = "def mean(values):\n    return sum(values) / len(values)\n" * 3
NEIGHBOURS = [f"def f{i}(values):\n    return {i} * sum(values) / len(values)\n" * (i + 2) for i in range(4)]


def _byte_level_tokenizer(special_tokens: list[str]) -> Tokenizer:
    """Byte-level BPE trained on ``LINES``; the special tokens take the first ids in the order given."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _save(
    folder: Path,
    kind: type[PreTrainedModel],
    config: PretrainedConfig,
    tokenizer: Tokenizer,
    special: dict[str, str],
    seed: int,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)
    return Path(folder)
