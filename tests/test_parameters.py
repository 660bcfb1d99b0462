"""Parameters that arrive as text are understood, or refused by name, value and type."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tttnn.corpus import open_corpus
from tttnn.errors import ParameterError
from tttnn.parameters import names, number, numbers

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


def test_what_yaml_takes_for_text_is_a_number():
    given_ = yaml.safe_load("learning_rate: 2e-5\nmax_chunks: '1'")
    assert number("learning_rate", given_["learning_rate"]) == 2e-5
    assert number("max_chunks", given_["max_chunks"]) == 1 and isinstance(number("k", " 7 "), int)
    assert number("k", 3.0, whole=True) == 3 and isinstance(number("k", "3.0", whole=True), int)
    assert number("k", np.int64(4)) == 4 and number("rate", np.float32(0.5)) == 0.5


@pytest.mark.parametrize(
    "value", ["two", "", None, True, [1], "nan", "inf", math.nan, -math.inf, 10**400, "9" * 5000, "1e999", 1j, b"1"]
)
def test_what_is_no_number_is_refused_by_name_and_type(value):
    with pytest.raises(ParameterError, match=rf"^max_bytes=.*\({type(value).__name__}\): must be a number") as raised:
        number("max_bytes", value)
    assert len(str(raised.value)) < 160


def test_range_and_wholeness_are_said():
    with pytest.raises(ParameterError, match="per_domain=0: must be at least 1"):
        number("per_domain", 0, least=1)
    with pytest.raises(ParameterError, match="seed='-1': must be from 0 to 9"):
        number("seed", "-1", least=0, most=9)
    with pytest.raises(ParameterError, match=r"k=1.5 \(float\): must be a whole number"):
        number("k", 1.5, whole=True)


@pytest.mark.parametrize(
    "value", ["0,1,5", "[0, 1, 5]", "(0,1,5,)", " 0 , 1,5 ", [0, "1", 5.0], (0, 1, 5), np.array([0, 1, 5])]
)
def test_lists_of_numbers_as_people_write_them(value):
    assert numbers("ks", value, whole=True) == [0, 1, 5]


@pytest.mark.parametrize("value", ["", "[]", [], "0,x", "0;1", "0,,1", "0,1,", "[0,1", None, {"a": 1}, [[0]], b"1"])
def test_what_is_no_list_of_numbers_is_refused(value):
    with pytest.raises(ParameterError, match=r"^ks="):
        numbers("ks", value, whole=True)
    assert numbers("ks", 7) == [7] == numbers("ks", "7")


def test_names_are_known_each_once_and_may_look_like_numbers_or_hold_commas():
    known = ["python", "readmes", "2024", "a, b [c]"]
    assert names("domains", "python,readmes", known) == ["python", "readmes"]
    assert names("domains", "['python', \"readmes\"]", known) == ["python", "readmes"]
    assert names("domains", ["python", "python", 2024], known) == ["python", "2024"]
    assert names("domains", "a, b [c]", known) == ["a, b [c]"] == names("domains", ["a, b [c]"], known)
    assert names("embedders", []) == [] == names("embedders", "[]")
    with pytest.raises(ParameterError, match=r"domains='pyton': must be one of .* did you mean 'python'"):
        names("domains", ["readmes", "pyton"], known)
    for value in (None, [None], [""], True, {"python": 1}, [["python"]]):
        with pytest.raises(ParameterError, match=r"^domains="):
            names("domains", value)


@given(ANYTHING)
def test_whatever_is_given_is_understood_or_refused_by_name(value):
    for understand in (number, numbers, names):
        try:
            found = understand("some_name", value)
        except ParameterError as error:
            assert str(error).startswith("some_name=") and len(str(error)) < 200
        else:
            assert all(isinstance(each, (int, float, str)) for each in (found if isinstance(found, list) else [found]))


@given(st.lists(st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_the_same_as_text(values):
    assert numbers("x", str(values)) == values == numbers("x", ",".join(map(repr, values)))


def test_an_empty_name_of_a_corpus_is_not_the_working_directory():
    """What `--corpus=$CORPUS` gives where the variable is not set."""
    with pytest.raises(ParameterError, match="corpus=''"):
        open_corpus("")
