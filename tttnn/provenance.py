"""Where a result comes from: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tttnn import __version__

PACKAGES = ("torch", "transformers", "faiss-cpu", "numpy")


def commit(root: Path | None = None) -> str:
    """Return the commit of the checkout that `tttnn` runs from, with ``-dirty`` if its sources changed.

    Notebook outputs do not count as sources: refreshing them must not mark the run that did it.
    """
    root = root or Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "not a git checkout"
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", ".", ":!notebooks/*.ipynb")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return f"{head}-dirty" if changed else head


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "tttnn": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the loop also runs on machines without faiss
            found[name] = "not installed"
    return found


def device() -> str:
    """Return CPU model, its widest instructions as torch names them, cores, torch threads and GPU, in words."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    widest = torch.backends.cpu.get_cpu_capability()
    cores, threads = os.cpu_count(), torch.get_num_threads()
    cpu = f"{cpu_model()}, {widest}, {cores} core{'s' * (cores != 1)}, {threads} thread{'s' * (threads != 1)}"
    return f"{cpu}; GPU: {', '.join(gpus) or 'none'}"


def made_here() -> dict[str, Any]:
    """Return what made a result, as JSON: commit, versions and device."""
    return {"commit": commit(), "versions": versions(), "device": device()}


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
