"""Two embedders' neighbours beside each other: which are the same, and what each is worth."""

import pandas as pd
import pytest

from tttnn.analysis.controls import MEAN
from tttnn.analysis.embedders import COLUMNS, compared_neighbours

BEFORE = 100.0


def document(variant, domain, number, neighbours, after, units=None):
    """Rows of one document that is scored before and after its neighbours."""
    rows = [{"k": 0, "nats": BEFORE}] + [
        {"k": k, "neighbour": one, "same_unit": (units or {}).get(one, False), "same_source": False,
         "nats": after if k == len(neighbours) else None} for k, one in enumerate(neighbours, start=1)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(variant=variant, model="m", domain=domain, document=number)


def test_by_hand():
    found = compared_neighbours(pd.concat([
        document("words", "books", 1, [5, 6], 90.0, {5: True}), document("words", "books", 2, [7, 8], 80.0),
        document("meaning", "books", 1, [6, 9], 80.0),
        document("meaning", "books", 2, [8, 7], 80.0, {7: True, 8: True}),
        document("words", "enron", 1, [1, 2], 50.0), document("meaning", "enron", 1, [3, 4], 60.0),
    ]), "meaning", "words", 2).set_index("domain")  # fmt: skip
    assert found.index.tolist() == ["books", "enron", MEAN] and found["documents"].tolist() == [2, 1, 3]
    assert found["common"].tolist() == [0.75, 0.0, 0.375]
    assert found["same_unit"].tolist() == [0.5, 0.0, 0.25]
    assert found["same_unit_against"].tolist() == [0.25, 0.0, 0.125]
    assert found["ratio"].tolist() == pytest.approx([0.8, 0.6, 0.7])
    assert found["difference"].tolist() == pytest.approx([-0.05, 0.1, 0.025])


def test_only_documents_that_both_scored_at_the_end_count():
    rows = pd.concat([
        document("words", "books", 1, [5, 6], 90.0), document("words", "books", 2, [5, 6], 10.0),
        document("meaning", "books", 1, [5, 6], 90.0), document("meaning", "books", 3, [1, 2], 10.0),
        document("words", "enron", 1, [1, 2], 50.0), document("meaning", "enron", 1, [1, 2], None),
    ])  # fmt: skip
    found = compared_neighbours(rows, "meaning", "words", 2)
    assert found["domain"].tolist() == ["books", MEAN] and found["documents"].tolist() == [1, 1]
    assert found["common"].tolist() == [1, 1] and found["difference"].tolist() == [0, 0]


@pytest.mark.parametrize("missing", ["meaning", "words"])
def test_without_rows_of_one_there_is_no_line(missing):
    rows = pd.concat([document(name, "books", 1, [5, 6], 90.0) for name in {"meaning", "words"} - {missing}])
    found = compared_neighbours(rows, "meaning", "words", 2)
    assert found.empty and list(found) == COLUMNS
