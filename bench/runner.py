"""The experiment runner against the bare loop: what journal, rows and keys cost a document.

Both do the same work on the same documents of the embedded corpus, in turn, each as often as asked; the ratio is of
the medians. The neighbours are retrieved in both.

    python bench/runner.py --out rows.json
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tttnn import load_model, open_corpus, open_retriever
from tttnn.experiment import DrawnDocument, draw_documents, run, run_facts
from tttnn.files import write_json
from tttnn.ttt import TTT, Switches

KS = (0, 1, 2, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--model", default="gpt2-xs-general")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    corpus = open_corpus("wheels")
    ttt = TTT(load_model(options.model), open_retriever(corpus), Switches(max_chunks=1))
    documents = draw_documents(corpus, 1, seed=1216, max_bytes=8000)
    facts = run_facts(corpus, ttt.retriever, split="test")
    seconds = {"bare loop": [], "runner": []}
    bare(ttt, documents[:1])  # the first pass through a model is slower
    for _ in range(options.repeats):
        seconds["bare loop"].append(timed(lambda: bare(ttt, documents)))
        with TemporaryDirectory() as folder:
            seconds["runner"].append(timed(lambda folder=folder: run(ttt, documents, KS, folder, facts)))
    base = median(seconds["bare loop"])
    rows = [
        {"kind": kind, "documents": len(documents), "seconds": median(taken), "ratio": median(taken) / base}
        for kind, taken in seconds.items()
    ]
    write_json(options.out, rows)
    for row in rows:
        sys.stdout.write(f"{row['kind']:10} {row['seconds']:8.3f} s  {row['ratio']:.3f}\n")


def bare(ttt: TTT, documents: list[DrawnDocument]) -> None:
    """Retrieve, adapt and score, and keep nothing."""
    for document in documents:
        neighbours = ttt.retriever.neighbours(document.text, max(KS))
        list(ttt.adapt(document.text, [neighbour.text for neighbour in neighbours], KS))


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
