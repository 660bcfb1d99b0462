"""Measuring where nothing that was measured before is left in memory: in a Python process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def in_own_process(*arguments: object, limit: float | None = None) -> Any:
    """Run Python in a process of its own, and return what it prints.

    Parameters
    ----------
    *arguments
        Of the interpreter: a script's path, or ``-m`` and a module, and what follows. It must print one JSON value.
    limit : float, optional
        Seconds after which it is given up.

    Raises
    ------
    RuntimeError
        If it fails; the message ends with its error.
    subprocess.TimeoutExpired
        If it takes longer than `limit`.
    """
    command = [sys.executable, *map(str, arguments)]
    # The child finds the same packages as this process, installed or not.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"python {' '.join(command[1:])} failed: {reason}")
    return json.loads(done.stdout)
