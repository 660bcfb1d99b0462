"""Seconds of every neighbour, by domain: our Figure 1. Training alone, and as published with a score after each.

Both loops of bench/loop.py adapt an embedded model on all chunks of the same neighbours, in turn, document by document.

    python bench/neighbours.py --out rows.json
    python bench/neighbours.py --corpus FOLDER --per-domain 3 --out rows.json
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from loop import EMBEDDED, settings_like, wanted, where_and_when
from reference_loop import reference_loop
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from tttnn import load_model, open_corpus, open_retriever
from tttnn.experiment import DrawnDocument, draw_documents
from tttnn.files import write_json
from tttnn.memory import keep_freed
from tttnn.models import CHECKPOINTS
from tttnn.ttt import TTT

DROPOUT = 0.1  # of the published loop
log = logging.getLogger(__name__)


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    corpus = open_corpus(options.corpus)
    ttt = TTT(load_model(options.model, threads=options.threads), open_retriever(corpus))
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / options.model, dtype=torch.float32)
    documents = draw_documents(corpus, options.per_domain, options.seed, max_bytes=options.max_bytes)
    same = {"model": options.model, "corpus": corpus.name, "seed": options.seed, **where_and_when(options.threads)}
    rows = []
    for document in tqdm(documents, unit="document"):
        rows += [same | row for row in document_rows(ttt, model, document, options.k)]
        write_json(options.out, rows)
    log.info("%d rows are in %s", len(rows), options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--corpus", default="wheels", help="'wheels' or a folder of JSON Lines")
    parser.add_argument("--model", default=EMBEDDED, help="an embedded model")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--per-domain", type=int, default=2, help="test documents")
    parser.add_argument("--max-bytes", type=int, help="draw among documents up to this size; default: among all")
    parser.add_argument("--seed", type=int, default=1216)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def document_rows(ttt: TTT, model: PreTrainedModel, document: DrawnDocument, k: int) -> Iterator[dict]:
    """A row for each loop and neighbour, and one for k = 0, before the first."""
    found = ttt.retriever.neighbours(document.text, k)
    texts = [neighbour.text for neighbour in found]
    keep_freed(False)  # which our loop has changed
    published = list(reference_loop(model, ttt.lm.tokenizer, document.text, texts, settings_like(ttt, DROPOUT)))
    ours = list(ttt.adapt(document.text, texts, wanted(k)))
    about = {
        "domain": document.domain, "document": document.number, "bytes": len(document.text.encode()),
        "document_tokens": len(ttt.lm.encode(document.text)),
    }  # fmt: skip
    for loop, steps in (("reference", published), ("ours", ours)):
        for step in steps:
            yield about | {"loop": loop, **seconds(step), "bits_per_byte": bits(step)}


def seconds(step) -> dict:
    names = ("k", "tokens", "train_seconds", "evaluation_seconds")
    return {name: getattr(step, name) for name in names}


def bits(step) -> float | None:
    """Of the document, in either loop's step; None where it was not scored."""
    if hasattr(step, "bits_per_byte"):
        return step.bits_per_byte
    return step.score.bits_per_byte if step.score else None


if __name__ == "__main__":
    main()
