"""Building an index: batches of similar length against a loop of fixed batches of 16, padded to the longest.

Both embed the same texts with the same encoder and write an index of them, in turn; ratios are of medians in one run.
The encoder is a small RoBERTa with random weights. A text is the beginning of a document of the embedded corpus.
Lengths are drawn log-uniformly from 8 to 512 tokens, the encoder's limit, as a corpus of short and long documents has
them. On a busy machine processor time means more than the clock, so rows have both.

    python bench/embedding.py --out rows.json
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from tttnn import open_corpus
from tttnn.embedding import TransformerEmbedder
from tttnn.files import write_json
from tttnn.index import build_index
from tttnn.retrieval.retriever import BATCH_DOCUMENTS

SEED = 1216
SHORTEST, LONGEST = 8, 512  # tokens
FIXED = 16  # texts of a batch of the loop
TOLERANCE = 1e-5

Build = Callable[[Path], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--texts", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--width", type=int, default=128, help="of the encoder's two layers")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        encoder = make_encoder(Path(name) / "encoder", options.width)
        embedder = TransformerEmbedder(encoder, batch_tokens=options.batch_tokens)
        texts = mixed(encoder, options.texts)
        rows = compare(Path(name), builders(encoder, embedder, texts), options)
    write_json(options.out, rows)
    sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))


def make_encoder(folder: Path, width: int) -> Path:
    """Write a RoBERTa with random weights, and a tokenizer trained on a part of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=list(special.values()), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(beginnings(100), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    torch.manual_seed(SEED)
    config = RobertaConfig(
        vocab_size=2000, max_position_embeddings=LONGEST + 2, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=2, num_attention_heads=4, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def beginnings(count: int) -> list[str]:
    corpus = open_corpus("wheels")
    share = -(-count // len(corpus.domains))
    drawn = [each for domain in corpus.domains for each in corpus.sample("train", domain, share, SEED)]
    return [document.text[: 8 * LONGEST] for _, document in drawn][:count]


def mixed(encoder: Path, count: int) -> list[str]:
    """Beginnings of documents, cut after a number of tokens that is drawn log-uniformly."""
    random = np.random.default_rng(SEED)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    wanted = np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST), count)).astype(int) - 2  # <s> and </s>
    texts = beginnings(count)
    random.shuffle(texts)
    ends = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [text[: end[: max(size, 1)][-1][1]] for text, end, size in zip(texts, ends, wanted, strict=True)]


def builders(encoder: Path, embedder: TransformerEmbedder, texts: list[str]) -> dict[str, Build]:
    """The two ways, as functions from a new folder to the vectors (texts, width) of the index built there."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def fixed(start: int) -> Iterator[np.ndarray]:
        for row in range(start, len(texts), FIXED):
            batch = tokenizer(
                texts[row : row + FIXED], padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state  # (16, longest, width)
            mask = batch["attention_mask"].unsqueeze(-1)  # (16, longest, 1)
            yield ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy()

    def similar(start: int) -> Iterator[np.ndarray]:
        return (embedder.embed(texts[row : row + BATCH_DOCUMENTS]) for row in range(start, len(texts), BATCH_DOCUMENTS))

    def build(batches: Callable[[int], Iterator[np.ndarray]]) -> Build:
        def built(folder: Path) -> np.ndarray:
            index = build_index(folder, batches, embedder=embedder, corpus_fingerprint="mixed", count=len(texts))
            return index.vectors(range(len(texts)))

        return built

    return {"fixed batches of 16": build(fixed), "similar length": build(similar)}


def compare(folder: Path, ways: dict[str, Build], options: argparse.Namespace) -> list[dict]:
    """Build in turn; the first build of each warms up and is checked, and does not count."""
    first, second = (build(folder / f"{number}-warm") for number, build in enumerate(ways.values()))
    largest = float(np.abs(first - second).max())
    if largest > TOLERANCE:
        raise SystemExit(f"the vectors differ by {largest:.1e}, more than {TOLERANCE:.0e}")
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for repeat in range(options.repeats):
        for number, (way, build) in enumerate(ways.items()):
            start, cpu = time.perf_counter(), time.process_time()
            build(folder / f"{number}-{repeat}")
            taken[way].append((time.perf_counter() - start, time.process_time() - cpu))
    rows = []
    for way, pairs in taken.items():
        seconds, cpu = (median(each) for each in zip(*pairs, strict=True))
        rows.append({"way": way, "texts": options.texts, "seconds": seconds, "cpu_seconds": cpu})
    for row in rows:
        row |= {name: rows[0][each] / row[each] for name, each in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds"))}
        row |= {"largest_difference": largest, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    return rows


if __name__ == "__main__":
    main()
