"""Every chart of the reference outputs, drawn: no label lies over another, and every series is named in the picture."""

import json
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import vl_convert

from tttnn.report.figures import LOOKS

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
COLUMN = 620  # pixels, for charts that take the width of the column
CHARACTER, LINE = 0.5, 0.8  # mean width and height of a letter, in sizes of its font
TOUCHING = 2  # pixels by which two boxes may overlap, since letters do not fill theirs
SCRIPT = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)


def figures():
    """Yield the name and the specification of every figure."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            for output in cell.get("outputs", []) if name else []:
                for found in SCRIPT.findall(output.get("data", {}).get("text/html", "")):
                    yield pytest.param(json.loads(found), id=name)


@pytest.fixture(scope="module", params=figures())
def spec(request):
    return request.param | ({"width": COLUMN} if request.param.get("width") == "container" else {})


@pytest.fixture(scope="module")
def labels(spec):
    """Return the box and the text of every label that is not turned: left, top, right, bottom, text."""
    return list(boxes(ElementTree.fromstring(vl_convert.vegalite_to_svg(spec)), 0.0, 0.0))


def boxes(element, x, y):
    """Yield the boxes of the labels below an element that stands at x, y."""
    moved = element.get("transform", "")
    if "rotate" in moved or element.get("opacity") == "0":
        return
    if found := re.search(r"translate\(([-\d.e]+)[ ,]([-\d.e]+)\)", moved):
        x, y = x + float(found[1]), y + float(found[2])
    if element.tag.endswith("text"):
        lines = [line.text or "" for line in element] or [element.text or ""]
        size = float(element.get("font-size", "11px").removesuffix("px"))
        width = CHARACTER * size * max(map(len, lines))
        left = x - {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")] * width
        yield left, y - LINE * size, left + width, y, " ".join(lines)
    for child in element:
        yield from boxes(child, x, y)


def test_no_label_lies_over_another(labels):
    over = [
        (one[4], other[4]) for one, other in combinations(labels, 2)
        if min(one[2], other[2]) - max(one[0], other[0]) > TOUCHING
        and min(one[3], other[3]) - max(one[1], other[1]) > TOUCHING
    ]  # fmt: skip
    assert not over


def test_every_series_is_named_in_the_picture(spec, labels):
    """By a legend, an axis, a heading or a label, since a colour by itself says nothing."""
    shown = [label[4] for label in labels]
    rows = [row for data in spec.get("datasets", {}).values() for row in data]
    for field in coloured(spec):
        for series in {row[field] for row in rows if isinstance(row.get(field), str)}:
            assert any(series in text for text in shown), f"{series} has a colour and no name"


def coloured(part):
    """Yield the fields whose values have a colour of their own."""
    if isinstance(part, dict):
        colour = part.get("encoding", {}).get("color", {})
        if "field" in colour and colour.get("type") == "nominal":
            yield colour["field"]
        for value in part.values():
            yield from coloured(value)
    elif isinstance(part, list):
        for value in part:
            yield from coloured(value)


def test_what_has_a_name_looks_as_everywhere(spec):
    """A model, a method, a loop, a kind of index and a domain have one colour and one shape through the book."""
    for part in parts(spec):
        for channel, number in (("color", 0), ("fill", 0), ("stroke", 0), ("shape", 1)):
            scale = part.get("encoding", {}).get(channel, {}).get("scale") or {}
            shown = scale.get("domain", [])
            known = [name for name in shown if isinstance(name, str) and looked_up(name) in LOOKS]
            assert not known or "range" in scale, f"{channel} of {known} is left to chance"
            first = {}
            for name in known:
                first.setdefault(looked_up(name), name)
            for short, name in first.items():
                assert scale["range"][shown.index(name)] == LOOKS[short][number], f"{channel} of {name}"


def looked_up(name):
    return name if name in LOOKS else name.partition(",")[0]


@pytest.mark.parametrize(
    "alias", ["nearest", "nearest neighbours", "other-units", "random-domain", "dynamic-evaluation"]
)
def test_a_method_has_one_name(spec, alias):
    scales = [coding.get("scale") or {} for part in parts(spec) for coding in encodings(part)]
    assert not any(alias in (scale.get("domain") or []) for scale in scales)


def parts(spec):
    """Yield a specification and all that is within it."""
    if isinstance(spec, dict):
        yield spec
        for key, value in spec.items():
            if key not in ("datasets", "data"):
                yield from parts(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from parts(value)


def encodings(part):
    return [coding for coding in part.get("encoding", {}).values() if isinstance(coding, dict)]


def tips(spec):
    """Yield what is shown beside marks, line by line."""
    for part in parts(spec):
        yield from part.get("encoding", {}).get("tooltip", []) if "encoding" in part else []


RAW = {"low", "high", "value", "series", "clear", "ratio", "gain", "loss", "bits", "share", "seconds", "memory", "k"}


def test_a_mark_says_in_words_what_it_is(spec):
    found = list(tips(spec))
    assert found or "tooltip" in json.dumps(spec), "nothing is shown beside a mark"
    for tip in found:
        title = tip.get("title") or ""
        assert title and title not in RAW and "_" not in title, f"{tip['field']} has no words"
        assert tip["type"] != "quantitative" or tip.get("format"), f"{title} is shown with all its digits"


def test_no_end_of_an_interval_is_shown_as_null(spec):
    """A value without an interval says so; ends that may be missing are not shown as numbers."""
    rows = [row for data in spec.get("datasets", {}).values() for row in data if isinstance(row, dict)]
    for part in parts(spec):
        placed = {coding.get("field") for key, coding in part.get("encoding", {}).items() if key in ("x", "y")}
        for tip in part.get("encoding", {}).get("tooltip", []):
            if tip["type"] == "quantitative" and tip["field"] not in placed:  # without a place there is no mark
                assert not any(row.get(tip["field"], 0) is None for row in rows if tip["field"] in row), tip["field"]


def test_a_number_beside_a_mark_is_written_as_on_its_axis(spec):
    for part in parts(spec):
        for axis in (coding for key, coding in part.get("encoding", {}).items() if key in ("x", "y")):
            form = (axis.get("axis") or {}).get("format", "")
            for tip in part.get("encoding", {}).get("tooltip", []):
                if tip["field"] == axis.get("field") and form:
                    assert form.endswith("%") == tip.get("format", "").endswith("%"), f"{tip['title']}"


def test_overlaps_are_found():
    """Two labels at one place."""
    data = {"values": [{"a": 1, "t": "one"}, {"a": 1, "t": "two"}]}
    encoding = {"x": {"field": "a", "type": "quantitative"}, "text": {"field": "t"}}
    spec = {"data": data, "mark": "text", "encoding": encoding}
    found = list(boxes(ElementTree.fromstring(vl_convert.vegalite_to_svg(spec)), 0.0, 0.0))
    with pytest.raises(AssertionError, match="one"):
        test_no_label_lies_over_another(found)
