"""Seconds to load each embedded model: the median of fresh processes, imports apart, against a limit.

Each process loads one model once; what that imports is imported before the clock starts.

    python bench/load_models.py --out rows.json
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tttnn.files import write_json

LIMIT = 2.0  # seconds
REPEATS = 3
# What a load imports on its first use is imported before the clock starts, with the parts of transformers.
LOAD = """
import json, sys, time
from importlib import import_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from tttnn.models import CHECKPOINTS, load_model
kind = json.loads((CHECKPOINTS / sys.argv[1] / "config.json").read_text())["model_type"]
import_module(f"transformers.models.{kind}.modeling_{kind}")
start = time.perf_counter()
load_model(sys.argv[1])
sys.stdout.write(str(time.perf_counter() - start))
"""


def main() -> None:
    from tttnn.models import REGISTRY

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    rows = []
    for name in (entry.name for entry in REGISTRY.values() if entry.embedded):
        seconds = [timed_load(name) for _ in range(REPEATS)]
        middle = statistics.median(seconds)
        rows.append({"model": name, "seconds": seconds, "median": middle, "ratio_to_limit": middle / LIMIT})
        sys.stdout.write(f"{name:24s} {middle:6.2f} s, {middle / LIMIT:5.2f} of the limit of {LIMIT:g} s\n")
    write_json(options.out, rows)
    slow = [row["model"] for row in rows if row["median"] >= LIMIT]
    if slow:
        raise SystemExit(f"slower than {LIMIT:g} s: {', '.join(slow)}")


def timed_load(name: str) -> float:
    """Seconds of one load in a process of its own."""
    done = subprocess.run([sys.executable, "-c", LOAD, name], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
