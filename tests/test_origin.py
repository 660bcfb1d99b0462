"""Where a document comes from, by its meta."""

import pytest

from tttnn.corpus.origin import source, unit


@pytest.mark.parametrize(
    ("meta", "its_unit", "its_source"),
    [
        ({}, "", ""),
        ({"unit": None, "source": None}, "", ""),
        ({"source": "numpy==2.4.6:numpy/f2py/symbolic.py#1"}, "numpy==2.4.6:numpy/f2py/symbolic.py", "numpy==2.4.6"),
        ({"unit": "ep:2008-09-22", "source": "o/r@1:a/b.txt"}, "ep:2008-09-22", "o/r@1"),
        ({"source": "o/r@1:docs/C#/a.cs#0"}, "o/r@1:docs/C#/a.cs", "o/r@1"),  # a # of the path is none of the part
        ({"source": "o/r@1:docs/C#"}, "o/r@1:docs/C#", "o/r@1"),
        ({"source": "https://a.org/b?c=1#2"}, "https://a.org/b?c=1", "https://a.org"),
        ({"unit": 7}, "7", ""),
        ({"source": "a title without a path"}, "a title without a path", "a title without a path"),
    ],
)
def test_units_and_sources(meta, its_unit, its_source):
    assert (unit(meta), source(meta)) == (its_unit, its_source)
