"""Experiments over a Ray cluster: documents are handed to workers; the rows are those of a run on one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.experiment.checks import METHOD, check_run
from tttnn.experiment.drawing import DrawnDocument
from tttnn.experiment.record import identity
from tttnn.experiment.runner import document_rows, run
from tttnn.parameters import number
from tttnn.provenance import device as this_device
from tttnn.ray_cluster import ClusterError, results, start_workers
from tttnn.rows import Row, RowsError

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.ttt import TTT


def run_on_cluster(
    ttt: TTT,
    make: Callable[[], TTT],
    documents: Iterable[DrawnDocument],
    ks: Sequence[int],
    folder: str | Path | None = None,
    about: dict[str, Any] | None = None,
    workers: int = 2,
    method: str = METHOD,
    device: str = "cpu",
) -> pd.DataFrame:
    """Evaluate documents on a cluster, inside `tttnn.ray_cluster.cluster`; otherwise as `tttnn.experiment.run` does.

    Only this process writes rows, each document's as soon as it is finished. A worker that dies is started again,
    elsewhere if need be, and its document is given out once more.

    Parameters
    ----------
    ttt : TTT
        Its model need not be on a GPU, as nothing is computed with it here.
    make : callable
        Opens the same once more, by name or path, in each worker: no model is sent anywhere. So each machine needs
        the model, the corpus and its index, in a shared TTTNN_HOME or as copies, which is checked by their hashes.
        Give the number of threads: with another one the last digits of nats may differ.
    documents, ks, folder, about, method
        See `tttnn.experiment.run`. The workers' devices are added to `about`.
    workers : int
    device : str
        Where `make` puts the model: on "cuda" each worker has a GPU for itself, and sees no other.

    Returns
    -------
    DataFrame
        See `tttnn.experiment.run`. Timings are those of the workers.

    Raises
    ------
    RowsError
        See `tttnn.experiment.run`; also if the optimizer is to be kept, because then the order of documents
        counts, or if a worker opened another model, corpus or index.
    ClusterError
        If a document's workers keep dying. All others' rows are kept: the same call goes on.
    """
    if ttt.switches.keep_optimizer:
        raise RowsError("keep_optimizer makes a document depend on those before it: run it on one machine")
    number("workers", workers, least=1, whole=True)
    check_run(ttt.lm, ttt.retriever, ttt.switches, ks, method)
    evaluators = start_workers(_Evaluator, [(make, identity(ttt.lm, ttt.retriever, ttt.switches))] * workers, device)
    devices = results([evaluator.device.remote() for evaluator in evaluators])
    facts = {**(about or {}), "workers": devices}
    return run(ttt, documents, ks, folder, facts, _HandOut(evaluators, device), method)


@dataclass(frozen=True)
class _HandOut:
    """Keeps each worker busy with one document; finished ones come in any order."""

    evaluators: Sequence[Any]
    device: str

    @property
    def how(self) -> dict[str, Any]:
        return {"model_device": self.device}

    def __call__(
        self, ttt: TTT, documents: Iterable[DrawnDocument], ks: Sequence[int], method: str
    ) -> Iterator[tuple[DrawnDocument, list[Row]]]:
        import ray

        waiting, busy = iter(documents), {}

        def give(evaluator: Any) -> None:
            if (document := next(waiting, None)) is not None:
                busy[evaluator.rows.remote(document, ks, method)] = evaluator, document

        for evaluator in self.evaluators:
            give(evaluator)
        while busy:
            [finished], _ = ray.wait(list(busy))
            evaluator, document = busy.pop(finished)
            try:
                rows = results(finished)
            except ClusterError as error:
                raise ClusterError(f"{document.domain} document {document.number}: {error}") from error
            give(evaluator)
            yield document, rows


class _Evaluator:
    """An actor that evaluates documents. It opens model and retriever once, also after a restart."""

    def __init__(self, make: Callable[[], TTT], expected: dict[str, Any]):
        self._make, self._expected = make, expected

    @cached_property
    def _ttt(self) -> TTT:
        ttt = self._make()
        found = identity(ttt.lm, ttt.retriever, ttt.switches)
        other = sorted(name for name in found if found[name] != self._expected[name])
        if other:
            raise RowsError(f"a worker opened another {', '.join(other)} than this process: copy the same files there")
        return ttt

    def device(self) -> str:
        """Open everything, and say on which device."""
        _ = self._ttt
        return this_device()

    def rows(self, document: DrawnDocument, ks: Sequence[int], method: str) -> list[Row]:
        return document_rows(self._ttt, document, ks, method)
