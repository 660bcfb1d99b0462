"""Where models compute, and with how many threads; checked before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tttnn.errors import ParameterError
from tttnn.parameters import MOST_THREADS, number

if TYPE_CHECKING:
    import torch


def find_device(name: str | torch.device) -> torch.device:
    """Return the torch device of a name, if this machine has it.

    Raises
    ------
    ParameterError
        If it is no device, one that nothing here computes on, or one that this machine or this torch lacks.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(f"device={str(name)!r}: no device of torch; there is {there}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ParameterError(f"device={str(name)!r}: only cpu and cuda are computed on; there is {there}")
    if device.type == "cuda" and (device.index or 0) >= count:
        kind = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no such GPU"
        raise ParameterError(f"device={str(name)!r}: {kind}; there is {there}")
    return device


def use_threads(threads: int | str | None) -> None:
    """Let torch compute with so many threads of the processor; None leaves its default.

    Raises
    ------
    ParameterError
        If it is no whole number of at least 1.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(number("threads", threads, least=1, most=MOST_THREADS, whole=True))
