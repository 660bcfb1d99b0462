"""Faiss, imported where it is used and with a stated number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tttnn.parameters import MOST_THREADS, number


def load_faiss(threads: int | None = None) -> Any:
    """Import Faiss, after torch: each brings an OpenMP runtime, and the other order crashes some systems.

    Parameters
    ----------
    threads : int, optional
        Threads that Faiss uses from now on, in the whole process; None leaves them as they are.

    Raises
    ------
    ParameterError
        If `threads` is no whole number of at least 1.
    """
    with suppress(ModuleNotFoundError):  # a machine that only searches needs no torch
        import torch  # noqa: F401
    import faiss

    if threads is not None:
        faiss.omp_set_num_threads(number("threads", threads, least=1, most=MOST_THREADS, whole=True))
    return faiss


@contextmanager
def faiss_threads(threads: int) -> Iterator[Any]:
    """Give Faiss with so many threads; afterwards it has as many as before."""
    before = load_faiss().omp_get_max_threads()
    try:
        yield load_faiss(threads)
    finally:
        load_faiss(before)
