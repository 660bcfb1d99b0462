"""What can be wrong with a run is looked at first: before a corpus is read, an index built or a model loaded."""

from __future__ import annotations

import logging
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from tttnn.errors import ParameterError
from tttnn.experiment.drawing import DrawnDocument, draw_documents
from tttnn.experiment.record import asked_for, check_belongs
from tttnn.files import expand, sole_writer
from tttnn.methods import find_method
from tttnn.parameters import number
from tttnn.retrieval.strategies import find_strategy
from tttnn.rows import RowJournal, RowsError
from tttnn.ttt import check_ks

if TYPE_CHECKING:
    from tttnn.corpus import Corpus
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection
    from tttnn.ttt import Switches

log = logging.getLogger(__name__)

METHOD = "ttt"
OF_STEPS = (
    "learning_rate", "eps", "clip", "weight_decay", "keep_optimizer", "ranks", "dropout", "precision", "weights",
    "lora", "train",
)  # fmt: skip
LARGEST_SEED = 2**63 - 1


@dataclass
class Asked:
    """What a command line or a chapter asks for, checked when it is made.

    Attributes
    ----------
    ks : list of int
        Where to score, in increasing order; may be given as text, such as "0,1,5".
    per_domain, seed, split, max_bytes, domains
        See `tttnn.experiment.draw_documents`.
    method, strategy : str
        See `tttnn.methods.find_method` and `tttnn.retrieval.strategies`.

    Raises
    ------
    ParameterError
        Naming the one that is out of range, misspelt or of another type.
    """

    ks: Any
    per_domain: int = 1
    seed: int = 1216
    split: str = "test"
    max_bytes: int | None = None
    domains: Sequence[str] | None = None
    method: str = METHOD
    strategy: str = "nearest"

    def __post_init__(self) -> None:
        self.ks = checked_ks(self.ks)
        self.per_domain = int(number("per_domain", self.per_domain, least=1, whole=True))
        self.seed = int(number("seed", self.seed, least=0, most=LARGEST_SEED, whole=True))
        if self.max_bytes is not None:
            self.max_bytes = int(number("max_bytes", self.max_bytes, least=1, whole=True))
        find_method(self.method)
        find_strategy(self.strategy)

    @property
    def drawn(self) -> dict[str, Any]:
        """How the documents are drawn, for `tttnn.experiment.run_facts`."""
        return {
            "per_domain": self.per_domain, "split": self.split, "max_bytes": self.max_bytes, "seed": self.seed,
            "domains": list(self.domains) if self.domains else None,
        }  # fmt: skip

    def draw(self, corpus: Corpus) -> list[DrawnDocument]:
        """Draw the documents.

        Raises
        ------
        ParameterError, CorpusError
            If split or domains are not there, or there is no document.
        """
        documents = draw_documents(corpus, self.per_domain, self.seed, self.split, self.max_bytes, self.domains)
        if not documents:
            limit = f" of at most {self.max_bytes} bytes" if self.max_bytes else ""
            raise ParameterError(f"split={self.split!r}: {corpus.name} has no document{limit} there")
        return documents

    def check_folder(self, folder: str | Path, switches: Switches) -> Path:
        """Return a folder for rows if they can be written there, and belong with those that are there.

        Raises
        ------
        RowsError
            If it is none, another run is writing there, or its rows are damaged or of other settings.
        """
        folder = check_writable(folder)
        known = asked_for({"drawn": self.drawn}, self.method, self.ks) | {"switches": asdict(switches)}
        known.pop("corpus")  # not known without reading all of it
        with RowJournal(folder) as journal:
            check_belongs(journal, known)
        return folder


def checked_ks(ks: Any) -> list[int]:
    """Places of scores, in increasing order, each once."""
    return sorted(check_ks(ks))


def with_zero(ks: Any) -> list[int]:
    """Places of scores, 0 among them: what neighbours bring is seen beside the score without any."""
    return sorted({0, *checked_ks(ks)})


def check_writable(folder: str | Path) -> Path:
    """Return a folder, made if need be, in which files can be written and nobody else is writing; ``~`` is home."""
    folder = Path(expand(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError) as error:
        raise RowsError(f"out={str(folder)!r}: {error.filename} is a file: rows go into a folder") from error
    except OSError as error:
        raise RowsError(f"out={str(folder)!r}: cannot be written to ({error.strerror}); give another folder") from error
    with sole_writer(folder):
        return folder


def check_steps(method: str, switches: Switches) -> None:
    """Raise ParameterError if a method that makes no steps is given a switch that says how they are made.

    A run of its own has no use for one; a grid of variants shares its switches, so it is not asked there.
    """
    if find_method(method).makes_steps:
        return
    for field in fields(switches):
        if field.name in OF_STEPS and (value := getattr(switches, field.name)) != field.default:
            name = method.partition(":")[0]
            raise ParameterError(f"{field.name}={value!r}: method {name} makes no steps; leave it out")


def check_model(lm: LanguageModel, switches: Switches) -> None:
    """Raise ParameterError if a model cannot be adapted or scored as the switches say."""
    if switches.context is not None:
        number("context", switches.context, least=2, most=lm.positions, whole=True)
    if switches.max_length is not None:
        number("max_length", switches.max_length, least=2, most=lm.positions, whole=True)
    if switches.vocabulary is not None:
        # Where letters lie beyond the cut, no document can be scored.
        least = 1 + max(token for letter in string.ascii_letters for token in lm.encode(letter))
        number("vocabulary", switches.vocabulary, least=least, most=len(lm.head[0]), whole=True)


def _check_most(retriever: Retriever | Selection, places: list[int]) -> None:
    """Raise ParameterError if so many neighbours cannot be found, with the places of scores that can be had."""
    try:
        retriever.check_k(places[-1])
    except ParameterError as error:
        fewer = [place for place in places if place <= len(retriever)]
        cure = f"; give --ks {','.join(map(str, fewer))}" if 0 < max(fewer, default=0) < places[-1] else ""
        raise ParameterError(f"{error}{cure}") from error


def warn_of_beginnings(retriever: Retriever | Selection | None, places: Sequence[int]) -> None:
    """Say if scores at fewer neighbours than the most are not what the strategy's name says."""
    if len(places) > 1 + (places[0] == 0) and not getattr(retriever, "nested", True):
        log.warning(
            "strategy=%r chooses %d documents together: scores at fewer are of the first of them, and not of fewer "
            "that it chose", getattr(retriever, "strategy", ""), places[-1],
        )  # fmt: skip


def check_run(
    lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches, ks: Any, method: str = METHOD
) -> list[int]:
    """Return the places of scores of a run, in increasing order, if it can be done.

    Raises
    ------
    ParameterError
        Naming what is out of range, misspelt, or missing.
    """
    places = checked_ks(ks)
    number("seed", switches.seed, least=0, most=LARGEST_SEED, whole=True)
    check_model(lm, switches)
    way = find_method(method)
    for name in ("loss", "reuse", "pace", "scoring"):
        if method != METHOD and (value := getattr(switches, name)) is not None:
            raise ParameterError(f"{name}={value!r} and method={method!r}: only method {METHOD!r} goes by it")
    if not way.uses_neighbours and (strategy := getattr(retriever, "strategy", "nearest")) != "nearest":
        raise ParameterError(f"strategy={strategy!r} and method={method!r}: it looks up no neighbours; leave one out")
    if places[-1]:
        if retriever is None:
            raise ParameterError(f"ks={places}: neighbours need a retriever: TTT(lm, open_retriever(...))")
        if switches.pace is not None and not getattr(retriever, "uncertain", False):
            raise ParameterError(
                f"pace={switches.pace!r}: needs a strategy that says how uncertain the answer is: sift"
            )
        if hasattr(retriever, "check_k"):  # one that is not ours may lack it
            _check_most(retriever, places)
    try:
        way.check(lm, retriever, switches)
    except ParameterError as error:
        raise ParameterError(f"method={method!r}: {error}") from error
    return places
