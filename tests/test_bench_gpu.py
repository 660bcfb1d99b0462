"""The script for one visit to a GPU runs where there is none, and where nothing but torch and transformers is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISSING = "faiss sklearn scipy pandas pyarrow zstandard gguf typer rich ray altair"
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys("{MISSING} %s".split()))
sys.path[:0] = ["{ROOT}", "{ROOT / "bench"}"]
runpy.run_path("{ROOT / "bench" / "gpu.py"}", run_name="__main__")
"""


@pytest.mark.parametrize(("missing", "count"), [("", 7), ("peft accelerate psutil", 6)], ids=["", "without peft"])
def test_every_part_of_the_visit_runs_on_a_processor(tmp_path, missing, count):
    out = tmp_path / "rows.jsonl"
    call = [sys.executable, "-W", "ignore", "-c", BARE % missing, "--device", "cpu", "--quick", "--out", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    checks = [row for row in rows if row["what"].startswith("check: ")]
    assert len(checks) == count and all(row["holds"] for row in checks)
    assert {row["what"] for row in rows} - {row["what"] for row in checks} == {
        "machine", "deviation: xs, bfloat16", "loop", "step", "documents an hour", "embedder", "pre-training", "end",
    }  # fmt: skip
