"""What a method is: a small class, registered by name, that does something with a text's neighbours and scores it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection
    from tttnn.ttt import TTT, Retrieved, Step, Switches


class Method(ABC):
    """What is done with a text's neighbours.

    A subclass is a frozen dataclass. Its fields are the numbers after the colon of its name, in their order:
    ``knn-lm:0.2,1`` is ``KnnLM(weight=0.2, temperature=1)``. It refuses what is out of range in ``__post_init__``, with
    a `ParameterError`.

    Attributes
    ----------
    about : str
        For tables.
    uses_neighbours : bool
        Whether neighbours are looked up for it. If not, a run finds none and counts no time for that.
    makes_steps : bool
        Whether it goes by a learning rate and by what else says how gradient steps are made.
    """

    about: ClassVar[str] = ""
    uses_neighbours: ClassVar[bool] = True
    makes_steps: ClassVar[bool] = True

    @abstractmethod
    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score a text with none of its neighbours, then with k of them for each k of `ks`, in increasing order.

        The weights must be the initial ones again when the iterator ends, is closed or fails. Each score comes from
        ``ttt.scorer(found.scored)``, whose `total` holds the rules: one probability for each token, the bytes of the
        text itself.

        Parameters
        ----------
        ttt : TTT
            Model, retriever and switches.
        found : Retrieved
            The query, the text to be scored, and the neighbours. What a method does before it scores a token may
            depend on the query, the neighbours and the tokens before it; not on what it scores later.
        ks : sequence of int

        Yields
        ------
        Step
            Its `train_seconds` and `train_operations` are what was done since the step before, and kept; its
            `evaluation_seconds` and `evaluation_operations` are what this score alone takes. So what a document costs
            at k is the former, summed up to k, and the latter at k.
        """

    def check(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> None:  # noqa: B027
        """Raise ParameterError if it cannot be had with these, before any document is evaluated. Default: it can."""

    def offline(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> dict[str, Any]:
        """What was done once for all documents, for `run.json`: seconds, tokens, operations. Default: nothing."""
        return {}
