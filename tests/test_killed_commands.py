"""Commands killed or interrupted at any moment: the same command goes on and ends as an undisturbed one would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ALL

HARNESS = Path(__file__).with_name("killed_commands.py")


@pytest.mark.parametrize(("kills", "interruptions"), [(100, 20) if ALL else (8, 2)])
def test_killed_and_interrupted_commands_end_as_if_nothing_had_happened(tmp_path, kills, interruptions):
    """By SIGKILL and Ctrl-C at random moments of each command that writes for long, some of them repeatedly."""
    environment = {
        **os.environ, "PYTHONPATH": str(HARNESS.parents[1]), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, str(HARNESS), str(tmp_path), str(kills), str(interruptions)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = done.stdout.split()
    assert int(said[0]) >= kills and int(said[2]) >= interruptions
