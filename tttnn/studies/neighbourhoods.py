"""What the neighbours of test documents look like: how far, from where, and how much of the query they repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tqdm import tqdm

from tttnn.corpus.overlap import seen_shares
from tttnn.corpus.siblings import sibling_columns
from tttnn.errors import ParameterError
from tttnn.experiment import DrawnDocument

if TYPE_CHECKING:
    import pandas as pd

    from tttnn.embedding import Embedder
    from tttnn.retrieval import Neighbour, Retriever
    from tttnn.retrieval.retriever import Store

BATCH_QUERIES = 32  # queries whose neighbours' texts are in memory at once
BATCH_VECTORS = 4096  # stored vectors compared with all queries at once
EXCERPT = 80  # characters


def neighbourhoods(retriever: Retriever, queries: Sequence[DrawnDocument], k: int) -> pd.DataFrame:
    """Describe the k nearest neighbours of each query.

    Parameters
    ----------
    retriever : Retriever
    queries : sequence of DrawnDocument
    k : int

    Returns
    -------
    DataFrame
        One row per (query, rank): domain, document (number within the domain's split), rank (from 1), neighbour
        (id), neighbour_domain, same_domain, same_unit and same_source (as in the rows of a run; all three missing
        where the corpus does not say), distance (squared L2), overlap (share of the query's 50-byte windows that occur
        in the neighbour).

    Raises
    ------
    ParameterError
        If k is out of range.
    DocumentError
        If a query is empty.
    """
    import pandas as pd

    rows = []
    with tqdm(total=len(queries), desc="neighbours", unit=" queries") as bar:
        for batch in _slices(queries, BATCH_QUERIES):
            found = retriever.neighbours_many([query.text for query in batch], k)
            for query, neighbours in zip(batch, found, strict=True):
                rows += [_row(query, rank, neighbour) for rank, neighbour in enumerate(neighbours, 1)]
            bar.update(len(batch))
    return pd.DataFrame(rows).astype(dict.fromkeys(("same_domain", "same_unit", "same_source"), "boolean"))


def _row(query: DrawnDocument, rank: int, neighbour: Neighbour) -> dict[str, Any]:
    own, other = query.meta.get("pile_set_name"), neighbour.meta.get("pile_set_name", "")
    return {
        "domain": query.domain,
        "document": query.number,
        "rank": rank,
        "neighbour": neighbour.id,
        "neighbour_domain": other,
        "same_domain": own == other if own and other else None,
        **sibling_columns(query.meta, neighbour.meta),
        "distance": neighbour.distance,
        "overlap": float(seen_shares([query.text], [neighbour.text])[0]),
    }


def side_by_side(retriever: Retriever, queries: Iterable[DrawnDocument], rows: pd.DataFrame) -> pd.DataFrame:
    """Put the beginning of each query beside that of its neighbour, white space as single spaces.

    Parameters
    ----------
    retriever : Retriever
    queries : iterable of DrawnDocument
        Those the rows were made from.
    rows : DataFrame
        Of :func:`neighbourhoods`.

    Returns
    -------
    DataFrame
        In the order of `rows`: domain, distance, overlap, query, neighbour.
    """
    texts = {(query.domain, query.number): query.text for query in queries}
    asked = [_beginning(texts[row.domain, row.document]) for row in rows.itertuples()]
    found = [_beginning(retriever.store[number].text) for number in rows["neighbour"]]
    return rows[["domain", "distance", "overlap"]].assign(query=asked, neighbour=found)


def _beginning(text: str) -> str:
    return " ".join(text[: 4 * EXCERPT].split())[:EXCERPT]


def distance_histogram(rows: pd.DataFrame, ranks: Iterable[int], bins: int = 20) -> pd.DataFrame:
    """Count distances in bins of equal width from 0 to the largest one, the same bins for every domain.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`neighbourhoods`.
    ranks : iterable of int
    bins : int

    Returns
    -------
    DataFrame
        Columns domain, rank ("k = 1", ...), low and high (edges of the bin, squared L2), share (of the domain's
        queries).
    """
    import pandas as pd

    chosen = rows[rows["rank"].isin(list(ranks))]
    edges = np.linspace(0, chosen["distance"].max() or 1.0, bins + 1)
    counted = []
    for (domain, rank), part in chosen.groupby(["domain", "rank"]):
        counts, _ = np.histogram(part["distance"], edges)  # (bins,)
        bars = {"low": edges[:-1], "high": edges[1:], "share": counts / len(part)}
        counted.append(pd.DataFrame({"domain": domain, "rank": f"k = {rank}", **bars}))
    return pd.concat(counted, ignore_index=True)


def growing_index(
    retriever: Retriever, queries: Sequence[DrawnDocument], shares: Iterable[float], seed: int
) -> pd.DataFrame:
    """Distance to the nearest neighbour if only a random share of the index were there.

    Larger shares contain the smaller ones, and every stored vector is read once.

    Parameters
    ----------
    retriever : Retriever
    queries : sequence of DrawnDocument
    shares : iterable of float
        Above 0, up to 1.
    seed : int
        Of the order in which documents are added.

    Returns
    -------
    DataFrame
        One row per (query, share): domain, document, share, documents (in that part of the index), distance
        (squared L2, to the nearest).

    Raises
    ------
    ParameterError
        If a share is not above 0 and at most 1.
    """
    import pandas as pd
    from scipy.spatial.distance import cdist

    shares = sorted(shares)
    if not shares or not 0 < shares[0] <= shares[-1] <= 1:
        raise ParameterError(f"shares={shares}: give shares of the index above 0, up to 1")
    order = np.random.default_rng(seed).permutation(len(retriever))
    vectors = retriever.embedder.embed([query.text for query in queries])  # (queries, dimension)
    known = pd.DataFrame({"domain": [q.domain for q in queries], "document": [q.number for q in queries]})
    nearest, start, parts = np.full(len(queries), np.inf), 0, []
    for share in shares:
        end = max(1, round(share * len(order)))
        for ids in _slices(order[start:end], BATCH_VECTORS):
            apart = cdist(vectors, retriever.index.vectors(ids), "sqeuclidean")  # (queries, ids), in float64
            nearest = np.minimum(nearest, apart.min(axis=1))
        start = end
        parts.append(known.assign(share=share, documents=end, distance=nearest))
    return pd.concat(parts, ignore_index=True)


def retrievers_within(
    embedders: Iterable[Embedder], documents: Sequence[DrawnDocument], folder: str | Path
) -> dict[str, Retriever]:
    """Retrievers of several embedders over the same few documents.

    Parameters
    ----------
    embedders : iterable of Embedder
        Of two with the same name the last one counts.
    documents : sequence of DrawnDocument
        What can be found; small, since every embedder embeds all of it.
    folder : path
        Where the indexes are written; keep it as long as the retrievers are used.

    Returns
    -------
    dict
        Retriever by name of embedder, in the order given; a neighbour's id is a position in `documents`.
    """
    from tttnn.index import build_index
    from tttnn.retrieval import Retriever

    made = {}
    for number, embedder in enumerate(embedders):
        vectors = embedder.embed([document.text for document in documents])  # (documents, dimension)
        place = Path(folder) / str(number)
        index = build_index(place, partial(_from_row, vectors), embedder=embedder, corpus_fingerprint="sample")
        store = cast("Store", documents)  # all but `by_domain`, which choosing among neighbours would need
        made[embedder.name] = Retriever(store, index, embedder)
    return made


def compare_embedders(retrievers: Mapping[str, Retriever], queries: Sequence[DrawnDocument], k: int) -> pd.DataFrame:
    """Describe the neighbours that several embedders find for the same queries among the same documents.

    Parameters
    ----------
    retrievers : mapping of str to Retriever
        By name of embedder, of :func:`retrievers_within`.
    queries : sequence of DrawnDocument
    k : int
        At most the number of documents.

    Returns
    -------
    DataFrame
        Rows of :func:`neighbourhoods` with a column embedder (its name).
    """
    import pandas as pd

    parts = [neighbourhoods(each, queries, k).assign(embedder=name) for name, each in retrievers.items()]
    return pd.concat(parts, ignore_index=True)


def _from_row(vectors: np.ndarray, row: int) -> Iterator[np.ndarray]:
    yield vectors[row:]


def _slices(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))
