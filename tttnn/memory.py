"""How much memory a model will take, said before it is loaded, and refused where there is less.

Parameters are counted without loading: in the headers of safetensors files, or from a registry. What is counted is
float32 numbers per parameter; activations come on top.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tttnn.errors import TTTNNError
from tttnn.hub import BUFFERS, weight_files

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LARGE = 4 * 10**9  # bytes, which any machine for this work has: below that nothing is said
NUMBER = 4  # bytes of a float32
LOADING = 1  # float32 numbers a parameter: the weights
COPY = 1  # a copy to restore, one for each model
ADAPTING = COPY + 3  # for each that is trained: the copy (or the adapter itself), a gradient, AdamW's two moments
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
KEEP_FREED_VARIABLE = "TTTNN_KEEP_FREED"
GROUPS = Path("/proc/self/cgroup")  # the control groups, such as a container's, that this process is in
GROUP_ROOT = Path("/sys/fs/cgroup")
# Of the two versions of control groups: files with the limit and the use in bytes, and what of it is files' pages.
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


HEADS = r"(^|\.)(lm_head|embed_out)\.weight$"
HEADS_AND_EMBEDDINGS = HEADS[:-1] + r"$|(^|\.)(wte|embed_tokens|embed_in|word_embeddings|tok_embeddings)\.weight$"


class NotEnoughMemory(TTTNNError):
    """A model that does not fit into memory; the message says how much is missing and what to do."""


def parameter_count(folder: str | Path) -> int:
    """Count the weights of a model in a folder from the headers of the files it is loaded from.

    An output layer that is the input embedding again counts once, and buffers of older checkpoints not at all.

    Returns
    -------
    int
        0 if there is no such file, or one is damaged: loading it will say so.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, list[int]] = {}
    rows: dict[str, list[float]] = {}  # the first one of each matrix
    try:
        for path in weight_files(folder):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    part = file.get_slice(name)
                    shapes[name] = part.get_shape()
                    if re.search(HEADS_AND_EMBEDDINGS, name):
                        rows[name] = part[:1].flatten().tolist()
    except (OSError, ValueError, SafetensorError):
        return 0
    twice = {name for name in rows if re.search(HEADS, name) and list(rows.values()).count(rows[name]) > 1}
    counted = (shape for name, shape in shapes.items() if name not in twice and not re.search(BUFFERS, name))
    return sum(math.prod(shape) for shape in counted)


def available(device: str | torch.device = "cpu") -> int | None:
    """Bytes that can still be taken on a device without swapping; None where that cannot be found out.

    What this process was given and does not use counts: torch keeps freed memory of a GPU, and malloc of the machine.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if kind != "cpu":
        return None
    try:
        import psutil
    except ImportError:  # a bare GPU machine
        return None
    return min([psutil.virtual_memory().available, *_left_by_groups()]) + _held_by_malloc()


def _left_by_groups(groups: Path = GROUPS, root: Path = GROUP_ROOT) -> list[int]:
    """Bytes that each control group around this process still allows it to take: a container's limit is one."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return []
    left = []
    for line in lines:  # number:controllers:path
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        group = top / path.lstrip("/")
        # A container may see its own group as the root of all, under the path that the machine knows it by.
        for folder in {*(each for each in (group, *group.parents) if each.is_relative_to(top)), top}:
            left += _left_by(folder)
    return left


def _left_by(folder: Path) -> list[int]:
    for limit, usage, cached in LIMITS:
        try:
            most, used = ((folder / name).read_text().strip() for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most != "max":
            return [max(0, int(most) - int(used) + int(stat.get(cached, 0)))]
    return []


class _Mallinfo2(ctypes.Structure):
    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def _held_by_malloc() -> int:
    """Bytes that malloc holds and that nothing uses; 0 without a glibc of 2.33 or later."""
    libc = _libc()
    if libc is None or not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _Mallinfo2
    return libc.mallinfo2().fordblks


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if os.name == "posix" else None


def announce(name: str, parameters: int, device: str | torch.device = "cpu", adapting: bool = True) -> None:
    """Say what a large model will take before it is loaded, and refuse to load one that does not fit.

    Parameters
    ----------
    name : str
    parameters : int
        0: not known; nothing is said.
    device : str or torch.device
    adapting : bool
        Whether the model can be trained, so that the estimate for that is said, too.

    Raises
    ------
    NotEnoughMemory
        If the float32 weights alone do not fit.
    """
    if (LOADING + ADAPTING * adapting) * NUMBER * parameters < LARGE:
        return
    parts = [f"{_gigabytes(LOADING * parameters * NUMBER)} to load and run it in float32"]
    if adapting:
        parts.append(
            f"{_gigabytes((LOADING + ADAPTING) * parameters * NUMBER)} to adapt it (with a copy of the weights, "
            "gradients and AdamW's two moments)"
        )
    free = available(device)
    there = "unknown" if free is None else _gigabytes(free)
    # A warning, so that it is seen where logging is not set up.
    log.warning(
        "%s: %s parameters; estimated memory: %s, activations apart; free on %s: %s",
        name, f"{parameters:,}", ", ".join(parts), device, there,
    )  # fmt: skip
    for place in {"cpu", str(device)}:  # transformers reads the weights into main memory first
        require(name, LOADING * parameters, "load it", place)


def require(name: str, numbers: int, purpose: str, device: str | torch.device = "cpu") -> None:
    """Refuse what would need more float32 numbers than fit into the free memory of a device.

    Raises
    ------
    NotEnoughMemory
        If it is large and does not fit.
    """
    needed = NUMBER * numbers
    if needed < LARGE:
        return
    free = available(device)
    if free is not None and free < needed:
        raise NotEnoughMemory(
            f"{name}: {_gigabytes(needed)} more are needed to {purpose}, {_gigabytes(free)} are free on {device}. "
            "Close other programs, take a smaller model (python -m tttnn models lists them), another device "
            "(--device cuda), or a machine with more memory."
        )


def give_back(device: str | torch.device) -> None:
    """Give memory that nothing uses back to the system: torch holds some of a GPU, malloc some of the machine."""
    if str(device) != "cpu":
        import torch

        torch.cuda.empty_cache()
    elif (libc := _libc()) and hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


_keeping = 0  # sessions under way


@contextlib.contextmanager
def keeping_freed(device: str | torch.device = "cpu") -> Iterator[None]:
    """Keep freed memory of the machine with the process while it is entered, for work on the CPU; see `keep_freed`.

    What was kept goes back at the end. ``TTTNN_KEEP_FREED=0`` turns it off.
    """
    global _keeping
    if str(device) != "cpu" or os.environ.get(KEEP_FREED_VARIABLE) == "0":
        yield
        return
    _keeping += 1
    if _keeping == 1:
        keep_freed()
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            keep_freed(False)
            give_back("cpu")


def keep_freed(keep: bool = True) -> None:
    """Let main memory that is freed stay with the process, to be taken again, as torch does with a GPU's memory.

    A gradient step frees and takes anew some gigabytes. glibc gives large blocks back to the system at once, and the
    system clears each page before it hands it out again: up to a third of a step's time. It holds for the whole
    process until `keep_freed(False)`; `keeping_freed` sees to that. Without glibc nothing is done.

    Parameters
    ----------
    keep : bool
        False: from now on do what glibc comes to by itself in a process that uses large blocks.
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0 if keep else 65536)
    libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 64 * 2**20)  # -1: never
    if not keep:
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
