"""What a model forgets while it is adapted: texts that have nothing to do with the neighbours, scored along the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tttnn.experiment import DrawnDocument
    from tttnn.ttt import TTT


def forgetting(
    ttt: TTT, documents: Sequence[DrawnDocument], others: Sequence[DrawnDocument], ks: Sequence[int] = (0, 1, 5, 20)
) -> Iterator[dict[str, Any]]:
    """Adapt to each document, and score texts of other domains before, on the way and at the end.

    The weights are restored between documents, as in any loop: what is measured is what a model has lost while it is
    adapted, and would have lost if nobody put the weights back.

    Parameters
    ----------
    ttt : TTT
        With a retriever.
    documents : sequence of DrawnDocument
        Test documents that the model is adapted to.
    others : sequence of DrawnDocument
        Texts that are scored besides; for each document, those of other domains than its own.
    ks : sequence of int
        Numbers of neighbours after which texts are scored.

    Yields
    ------
    dict
        A row for each document, other text and k: domain and document (adapted to), other_domain and other (scored),
        k, nats and bytes (of the scored text). A row whose other_domain is the domain is of the document itself.

    Raises
    ------
    ParameterError, DocumentError
        As :meth:`tttnn.ttt.TTT.evaluate`.
    """
    for document in documents:
        found = ttt.retrieve(document.text, max(ks), document.meta)
        unrelated = [other for other in others if other.domain != document.domain]
        scorers = [ttt.scorer(other.text) for other in unrelated]
        for step in ttt.adapt(found.scored, found.texts, ks):
            if step.score is None:
                continue
            scores = [step.score, *(scorer() for scorer in scorers)]
            for other, score in zip([document, *unrelated], scores, strict=True):
                yield {
                    "domain": document.domain, "document": document.number, "other_domain": other.domain,
                    "other": other.number, "k": step.k, "nats": score.nats, "bytes": score.bytes,
                }  # fmt: skip
