"""The embedded corpus, and the mathematics questions in it."""

import json
import multiprocessing
import re
import subprocess
import sys
from fractions import Fraction
from importlib.metadata import distribution
from itertools import permutations
from math import gcd, lcm
from pathlib import Path

import pytest
import sympy

from tttnn.corpus import CorpusError, open_corpus, wheels
from tttnn.corpus.cutting import (
    LONGEST,
    SHORTEST,
    cut_catalogue,
    cut_description,
    cut_docstrings,
    cut_paragraphs,
    cut_python,
)
from tttnn.corpus.mathematics import MODULES, document, factors
from tttnn.files import sha256_file

SMALL = (
    wheels.Recipe("python", ("tqdm", "tabulate"), wheels._takes_python, cut_python),
    wheels.Recipe("catalogues", ("sphinx-book-theme",), wheels._takes_catalogues, cut_catalogue),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels") / "small"
    wheels.build_wheels(folder, SMALL, wanted=100_000, questions=1)
    return open_corpus(folder)


def test_building_twice_gives_the_same_bytes(small, tmp_path):
    wheels.build_wheels(tmp_path / "again", SMALL, wanted=100_000, questions=1)
    for path in small.folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_another_seed_gives_other_splits(small, tmp_path):
    wheels.build_wheels(tmp_path / "other", SMALL, wanted=100_000, questions=1, seed=7)
    assert open_corpus(tmp_path / "other").fingerprint != small.fingerprint


def test_the_manifest_proves_what_was_read(small):
    manifest = small.manifest
    assert manifest["fingerprint"] == small.fingerprint
    assert manifest["packages"]["tqdm"] == {
        "version": distribution("tqdm").version,
        "license": "MPL-2.0 AND MIT",
    }
    for file in manifest["files"]:
        assert sha256_file(distribution(file["distribution"]).locate_file(file["path"])) == file["sha256"]
    for domain, facts in manifest["domains"].items():
        for split, size in facts["splits"].items():
            texts = [each.text for each in small.documents(split, domain)]
            assert size == {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}


def test_documents_have_their_origin_and_no_machine_path(small):
    sources = set()
    for split in small.splits:
        for each in small.documents(split):
            assert set(each.meta) == {"pile_set_name", "source", "license"}
            assert re.fullmatch(
                r"[\w.-]+==[\w.+]+:[\w./-]+#\d+|tttnn\.corpus\.mathematics:\w+#\d+", each.meta["source"]
            )
            assert ":/" not in each.meta["source"]
            sources.add(each.meta["source"])
    assert len(sources) == sum(1 for split in small.splits for _ in small.documents(split))
    assert str(small.folder.parent) not in (small.folder / "manifest.json").read_text()


def test_a_missing_package_is_named(tmp_path):
    recipe = wheels.Recipe("python", ("no-such-package",), wheels._takes_python, cut_python)
    with pytest.raises(CorpusError, match=r"no-such-package, which is not installed: install from the lock"):
        wheels.build_wheels(tmp_path / "corpus", [recipe])
    assert not list(tmp_path.iterdir())


def test_two_builders_at_once_leave_one_whole_corpus(small, tmp_path):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(_build_small, [tmp_path / "both"] * 2, chunksize=1)
    assert open_corpus(tmp_path / "both").fingerprint == small.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def _build_small(folder: Path) -> None:
    wheels.build_wheels(folder, SMALL, wanted=100_000, questions=1)


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    twice = (
        SMALL[1],
        wheels.Recipe("copies", *(getattr(SMALL[1], each) for each in ("distributions", "takes", "cut"))),
    )
    wheels.build_wheels(tmp_path / "corpus", twice, wanted=100_000, questions=1)
    facts = open_corpus(tmp_path / "corpus").manifest["domains"]
    kept = sum(split["documents"] for split in facts["catalogues"]["splits"].values())
    assert facts["copies"]["exact_duplicates_dropped"] >= kept > 0
    assert facts["copies"]["bytes"] == 0


def test_the_whole_corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path))
    corpus = open_corpus("wheels")
    assert corpus.name == "wheels"
    assert corpus.folder.parent == tmp_path / "corpora"
    assert corpus.domains == ["catalogues", "cpp", "docstrings", "mathematics", "python", "readmes"]
    texts = set()
    for domain in corpus.domains:
        sizes = []
        for split in corpus.splits:
            for each in corpus.documents(split, domain):
                sizes.append(len(each.text.encode()))
                texts.add(each.text)
        assert 1_500_000 <= sum(sizes) <= 2_500_000
        assert min(sizes) >= SHORTEST and max(sizes) <= LONGEST
        assert sum(1000 <= size <= 8000 for size in sizes) > 0.75 * len(sizes)
        assert corpus.manifest["domains"][domain]["splits"]["test"]["documents"] >= 30
        assert not corpus.manifest["domains"][domain]["files_unreadable"]
    assert len(texts) == sum(1 for split in corpus.splits for _ in corpus.documents(split))
    by_domain = {domain: _files(corpus, domain) for domain in ("python", "docstrings")}
    assert not by_domain["python"] & by_domain["docstrings"]
    assert "torch" not in {file["distribution"] for file in corpus.manifest["files"]}
    assert open_corpus("wheels").folder == corpus.folder


def _files(corpus, domain: str) -> set[str]:
    documents = (each for split in corpus.splits for each in corpus.documents(split, domain))
    return {each.meta["source"].rpartition("#")[0] for each in documents}


def test_opening_it_imports_no_torch():
    code = "import sys, tttnn.corpus.wheels; assert not {'torch', 'faiss', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Cutting


def test_python_is_cut_before_definitions():
    function = "# about f{0}\n@decorated\ndef f{0}():\n    return '" + "x" * 3000 + "'\n"
    source = "import os\n" + "".join(function.format(n) for n in range(5))
    documents = cut_python(source)
    assert len(documents) > 1
    assert "".join(documents) == source
    assert all(each.startswith(("import os", "# about f")) for each in documents)


def test_a_long_class_is_cut_before_its_methods():
    method = "    def m{0}(self):\n        return '" + "x" * 3000 + "'\n"
    documents = cut_python("class A:\n" + "".join(method.format(n) for n in range(5)))
    assert len(documents) > 1
    assert all(each.startswith(("class A", "    def m")) for each in documents)


def test_docstrings_hold_prose_only():
    prose = "Say a word about {}.\n\n    As much as it takes, which is {}.\n    " + "Words. " * 30
    source = f'"""{prose.format("m", 1)}"""\nimport os\nclass A:\n    """{prose.format("A", 2)}"""\n    x = 1\n'
    (text,) = cut_docstrings(source)
    assert text.startswith("Say a word about m.\n\nAs much as it takes, which is 1.")
    assert "Say a word about A." in text
    assert "import" not in text and "x = 1" not in text


def test_catalogue_keeps_translated_messages():
    message = '#: here.py:1\nmsgid "one {0}"\nmsgstr "eins {0}"'
    other = 'msgid ""\n"two "\n"lines"\nmsgstr ""\n"zwei "\n"Zeilen"'
    header = 'msgid ""\nmsgstr ""\n"Language: de\\n"'
    untranslated = 'msgid "three"\nmsgstr ""'
    english = 'msgid "four"\nmsgstr "four"'
    blocks = [header, untranslated, english, other, *(message.format(n) for n in range(10))]
    (text,) = cut_catalogue("# Comment\n" + "\n\n".join(blocks) + "\n")
    assert "Language" not in text and "three" not in text and "four" not in text and "#" not in text
    assert '"zwei "' in text and 'msgid "one 9"\nmsgstr "eins 9"' in text


def test_description_leaves_the_headers_out():
    (text,) = cut_description("Metadata-Version: 2.1\nName: a\n\n# A\n\n" + "Prose. " * 40)
    assert text.startswith("# A\n\nProse.")


@pytest.mark.parametrize("text", ["word " * 20_000, "line\n" * 20_000, "Paragraph. " * 50 + "\n\n", "é" * 20_000, ""])
def test_documents_are_neither_too_long_nor_too_short(text):
    for each in cut_paragraphs(text * 20):
        assert SHORTEST <= len(each.encode()) <= LONGEST


# Mathematics: answers found again by other means, from the text of the question


def _pairs(module: str) -> list[tuple[str, str]]:
    lines = document(module, seed=3, number=5).splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))


def test_documents_are_question_and_answer_lines():
    assert len(MODULES) >= 20
    for module in MODULES:
        pairs = _pairs(module)
        assert len({question for question, _ in pairs}) == len(pairs) > 20
        assert all(question.isascii() and answer and answer == answer.strip() for question, answer in pairs)
        assert document(module, 3, 5) == document(module, 3, 5) != document(module, 3, 6)
    with pytest.raises(ValueError, match="no module 'algebra'"):
        document("algebra", 1, 1)


@pytest.mark.parametrize("module", ["add_sub_multiple", "mul_div_multiple", "mixed"])
def test_arithmetic_expressions(module):
    for question, answer in _pairs(f"arithmetic__{module}"):
        text = re.sub(r"^(What is the value of|What is|Calculate|Evaluate) |[.?]$", "", question)
        assert sympy.Rational(answer) == sympy.sympify(text)


def test_arithmetic_in_words():
    words = {
        r"What is (\S+) \+ (\S+)\?|Add (\S+) and (\S+)\.|Sum (\S+) and (\S+)\.": lambda a, b: a + b,
        r"What is (\S+) minus (\S+)\?": lambda a, b: a - b,
        r"What is (\S+) less than (\S+)\?|Subtract (\S+) from (\S+)\.": lambda a, b: b - a,
        r"What is (\S+) (?:times|\*) (\S+)\?|(?:Multiply|Product of) (\S+) and (\S+)\.": lambda a, b: a * b,
        r"Divide (\S+) by (\S+)\.|(?:What is |Calculate )?(\S+) divided by (\S+?)[?.]?": lambda a, b: a / b,
    }
    for question, answer in [
        pair for module in ("add_or_sub", "mul", "div") for pair in _pairs(f"arithmetic__{module}")
    ]:
        ((match, value),) = [(m, f) for pattern, f in words.items() if (m := re.fullmatch(pattern, question))]
        a, b = (Fraction(each) for each in match.groups() if each is not None)
        assert Fraction(answer) == value(a, b), question


def test_square_roots():
    for question, answer in _pairs("arithmetic__nearest_integer_root"):
        number, root = int(re.findall(r"\d+", question)[0]), int(answer)
        assert (2 * root - 1) ** 2 < 4 * number < (2 * root + 1) ** 2


def test_equations():
    for module in ("linear_1d", "linear_2d", "polynomial_roots"):
        for question, answer in _pairs(f"algebra__{module}")[:25]:
            equations, name = re.fullmatch(r"Solve (.*) for (\w)\.", question).groups()
            sides = [each.split(" = ") for each in equations.split(", ")]
            expressions = [_expression(f"({left}) - ({right})") for left, right in sides]
            if module == "linear_2d":
                symbols = sorted(set().union(*(each.free_symbols for each in expressions)), key=str)
                assert str(sympy.solve(expressions, symbols)[sympy.Symbol(name)]) == answer
            else:
                found = sympy.roots(sympy.Poly(expressions[0], sympy.Symbol(name)))
                assert ", ".join(map(str, sorted(found))) == answer


def test_sequences():
    n = sympy.Symbol("n")
    for module in ("sequence_next_term", "sequence_nth_term"):
        for question, answer in _pairs(f"algebra__{module}")[:25]:
            terms = [int(each) for each in re.search(r"(?:in|of) ([-\d, ]+)\?", question)[1].split(",")]
            rule = sympy.interpolate(terms, n)
            if module == "sequence_next_term":
                assert int(answer) == rule.subs(n, len(terms) + 1)
            else:
                name = sympy.Symbol(question.split("'")[0].split()[-1])
                assert sympy.expand(rule.subs(n, name) - _expression(answer)) == 0


def test_derivatives():
    for question, answer in _pairs("calculus__differentiate")[:40]:
        text, name = re.search(r"(?:Differentiate|derivative of) (.*) wrt (\w)[.?]", question).groups()
        order = 2 if "second" in question else 1
        derivative = sympy.diff(_expression(text), sympy.Symbol(name), order)
        assert sympy.expand(derivative) == _expression(answer)


@pytest.mark.parametrize("module", ["add", "collect", "compose", "expand", "evaluation"])
def test_polynomials(module):
    for question, answer in _pairs(f"polynomials__{module}")[:25]:
        names = {}
        for function, variable, body in re.findall(r"Let (\w)\((\w)\) = ([^.]*)\.", question):
            names[function] = sympy.Lambda(sympy.Symbol(variable), _expression(body))
        text = re.search(r"(?:Calculate|What is|Expand|Collect the terms in) (.*)[.?]$", question)[1]
        difference = sympy.sympify(text, locals=_symbols(text) | names) - _expression(answer)
        assert sympy.expand(difference) == 0, question


def test_comparisons():
    for question, answer in _pairs("comparison__sort"):
        values = [int(each) for each in re.findall(r"-?\d+", question)]
        assert [int(each) for each in answer.split(", ")] == sorted(values, reverse="decreasing" in question)
    for question, answer in _pairs("comparison__closest"):
        target, *values = (int(each) for each in re.findall(r"-?\d+", question))
        distances = [abs(value - target) for value in values]
        assert distances["abcdef".index(answer[1])] == min(distances)
    for question, answer in _pairs("comparison__kth_biggest"):
        values = [int(each) for each in re.findall(r"-?\d+", question)]
        k = 1 + next(
            (i for i, word in enumerate(("second", "third", "fourth", "fifth", "sixth"), 1) if word in question),
            0,
        )
        assert sorted(values, reverse="biggest" in question)[k - 1] == values["abcdef".index(answer[1])]
    for question, answer in _pairs("comparison__pair"):
        a, b = (Fraction(each) for each in re.findall(r"-?\d+(?:/\d+)?", question))
        right = {"bigger": max(a, b), "smaller": min(a, b), "less": a < b, "equal": a == b}
        assert answer == str(next(value for word, value in right.items() if word in question))


def test_numbers():
    for question, answer in _numbers("greatest_common_divisor"):
        assert int(answer) == gcd(*question)
    for question, answer in _numbers("least_common_multiple"):
        assert int(answer) == lcm(*question)
    for (a, b), answer in _numbers("div_remainder"):
        assert int(answer) == a % b
    for (number,), answer in _numbers("list_prime_factors"):
        assert answer == ", ".join(map(str, sympy.primefactors(number)))
    for question, answer in _pairs("numbers__is_prime"):
        prime = sympy.isprime(int(re.findall(r"\d+", question)[0]))
        assert answer == str(prime if "prime" in question else not prime)
    for (a, b), answer in _numbers("is_factor"):
        assert answer == str(max(a, b) % min(a, b) == 0)
    for question, answer in _pairs("numbers__base_conversion"):
        digits, source, target = re.search(r"(\w+) \(base (\d+)\) to base (\d+)", question).groups()
        assert int(digits, int(source)) == int(answer, int(target))
    for question, answer in _pairs("numbers__round_number"):
        step = {"ten": 10, "one hundred": 100, "one thousand": 1000, "ten thousand": 10_000}
        number = int(re.findall(r"-?\d+", question)[0])
        assert (
            int(answer)
            == round(Fraction(number, step[question.split("nearest ")[1][:-1]]))
            * step[question.split("nearest ")[1][:-1]]
        )
    for question, answer in _pairs("numbers__place_value"):
        place, number = re.fullmatch(r"What is the (.*) digit of (\d+)\?", question).groups()
        worth = {"units": 0, "tens": 1, "hundreds": 2, "thousands": 3, "millions": 6}
        first, _, second = place.rpartition(" ")
        power = worth[second] + {"": 0, "ten": 1, "hundred": 2}[first]
        assert int(answer) == int(number) // 10**power % 10


def test_conversions_and_times():
    for question, answer in _pairs("measurement__conversion"):
        size = {unit: each for units in wheels.mathematics.UNITS.values() for unit, each in units.items()}
        value = Fraction(re.search(r"\d+(?:\.\d+)?", question)[0])
        found = sorted((question.index(f" {unit}"), unit) for unit in size if re.search(rf" {unit}\b", question))
        (_, one), (_, two) = found
        source, target = (two, one) if question.startswith("How many") else (one, two)
        assert Fraction(answer) == value * size[source] / size[target], question
    for question, answer in _pairs("measurement__time"):
        clocks = [_minutes(each) for each in re.findall(r"\d+:\d+ [AP]M", f"{question} {answer}")]
        if question.startswith("How many"):
            assert int(answer) == (clocks[1] - clocks[0]) % 1440
        else:
            step = int(re.search(r"(\d+) minutes", question)[1])
            assert (clocks[1] - clocks[0]) % 1440 == (step if "after" in question else -step) % 1440


def test_probabilities_by_counting_every_draw():
    checked = 0
    for module in ("sequence", "level_set"):
        for question, answer in _pairs(f"probability__swr_p_{module}"):
            bag = _bag(re.search(r"from (.*?)\. What", question)[1])
            count = {"Two": 2, "Three": 3, "Four": 4}[question.split()[0]]
            if len(bag) > 10:
                continue
            wanted = re.search(r"(?:sequence|picking) (.*)\?", question)[1]
            draws = ["".join(draw) for draw in permutations(bag, count)]
            if module == "sequence":
                right = sum(draw == wanted for draw in draws)
            else:
                letters = sorted("".join(letter * int(n) for n, letter in re.findall(r"(\d+) (\w)", wanted)))
                right = sum(sorted(draw) == letters for draw in draws)
            assert Fraction(answer) == Fraction(right, len(draws))
            checked += 1
    assert checked >= 10


def test_factors():
    assert [factors(number) for number in (2, 12, 97, 1001)] == [[2], [2, 2, 3], [97], [7, 11, 13]]


def _symbols(text: str) -> dict[str, sympy.Symbol]:
    # One-letter names of sympy's own, such as S or N, are variables here.
    return {name: sympy.Symbol(name) for name in re.findall(r"[a-z]", text)}


def _expression(text: str) -> sympy.Expr:
    return sympy.sympify(text, locals=_symbols(text))


def _numbers(module: str) -> list[tuple[list[int], str]]:
    found = ((re.sub(r"1/", "", question), answer) for question, answer in _pairs(f"numbers__{module}"))
    return [([int(each) for each in re.findall(r"\d+", question)], answer) for question, answer in found]


def _minutes(clock: str) -> int:
    hour, minute, half = re.fullmatch(r"(\d+):(\d+) ([AP])M", clock).groups()
    return int(hour) % 12 * 60 + int(minute) + 720 * (half == "P")


def _bag(text: str) -> str:
    if text.startswith("{"):
        counts = json.loads(re.sub(r"(\w):", r'"\1":', text))
        return "".join(letter * count for letter, count in counts.items())
    return text
