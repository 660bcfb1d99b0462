"""How much memory a model will take, said before it is loaded, and refused where there is less.

Parameters are counted without loading: in the headers of safetensors files, or from a registry. What is counted is
float32 numbers per parameter; activations come on top.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tttnn.errors import TTTNNError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LARGE = 10**9  # bytes: below that nothing is said
NUMBER = 4  # bytes of a float32
LOADING = 1  # float32 numbers a parameter: the weights
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
ADAPTING = 4  # for each that is trained: a copy to restore (or the adapter itself), a gradient, AdamW's two moments


class NotEnoughMemory(TTTNNError):
    """A model that does not fit into memory; the message says how much is missing and what to do."""


def parameter_count(folder: str | Path) -> int:
    """Count the numbers in a folder's safetensors files from their headers.

    Returns
    -------
    int
        0 if there is no such file, or one is damaged: loading it will say so.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError):
            return 0
        for shape in shapes:
            size = 1
            for length in shape:
                size *= length
            count += size
    return count


def available(device: str | torch.device = "cpu") -> int | None:
    """Bytes that can still be taken on a device without swapping; None where that cannot be found out."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if str(device) != "cpu":
        return None
    try:
        import psutil
    except ImportError:  # a bare GPU machine
        return None
    return psutil.virtual_memory().available


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


def keep_freed(keep: bool = True) -> None:
    """Let main memory that is freed stay with the process, to be taken again, as torch does with a GPU's memory.

    A gradient step frees and takes anew some gigabytes. glibc gives large blocks back to the system at once, and the
    system clears each page before it hands it out again: up to a third of a step's time. It holds for the whole
    process. Without glibc nothing is done.

    Parameters
    ----------
    keep : bool
        False: from now on do what glibc comes to by itself in a process that uses large blocks.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0 if keep else 65536)
    libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 64 * 2**20)  # -1: never
    if not keep:
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
