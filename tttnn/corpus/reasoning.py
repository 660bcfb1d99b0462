"""Worked solutions of school mathematics, in the turn format of DeepSeek-R1's distilled models.

Each document is a question, the working between ``<think>`` and ``</think>``, and the answer. Everything is
generated with integer arithmetic; no language model wrote any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import gcd
from pathlib import Path
from random import Random

from tttnn.corpus import Document, write_jsonl

Problem = tuple[str, list[str], str]  # question, lines of working, answer

LICENCE = "CC0-1.0"
MAX_REPEATS = 1000  # known problems in a row, after which a kind counts as used up


def document(problem: Problem) -> str:
    """Lay out a problem as one turn of user and assistant."""
    question, working, answer = problem
    steps = "\n".join(working)
    return f"<|User|>{question}<|Assistant|><think>\n{steps}\n</think>\n\n{answer}"


def addition(rng: Random) -> Problem:
    """Addition by columns, with carries."""
    a, b = (rng.randrange(10 ** rng.randint(2, 7)) for _ in range(2))
    width = max(len(str(a)), len(str(b)))
    working, carry, digits = ["I add column by column, from the right."], 0, ""
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True):
        total = int(x) + int(y) + carry
        extra = f" + {carry}" if carry else ""
        carry, digit = divmod(total, 10)
        digits = f"{digit}{digits}"
        working.append(f"{x} + {y}{extra} = {total}: write {digit}" + (f", carry {carry}." if carry else "."))
    if carry:
        digits = f"{carry}{digits}"
        working.append(f"The carry {carry} goes in front.")
    answer = str(int(digits))
    return f"What is {a} + {b}?", [*working, f"So {a} + {b} = {answer}."], answer


def multiplication(rng: Random) -> Problem:
    """Long multiplication: one partial product per digit."""
    a, b = rng.randrange(12, 10**4), rng.randrange(12, 10**3)
    working, total = [f"I multiply {a} by the digits of {b}."], 0
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        working.append(f"{a} * {int(digit) * 10**place} = {part}.")
        working.append(f"{total} + {part} = {total + part}.")
        total += part
    return f"Multiply {a} and {b}.", working, str(total)


def linear_equation(rng: Random) -> Problem:
    """One unknown on both sides, an integer solution."""
    x, a, b = rng.randint(-20, 20), rng.randint(2, 15), rng.randint(-50, 50)
    c = rng.choice([value for value in range(-9, 10) if value != a])
    d = a * x + b - c * x
    left = a - c
    working = [
        f"I move the terms with x to the left: {a}*x - ({c})*x = {left}*x.",
        f"I move the numbers to the right: {d} - ({b}) = {d - b}.",
        f"Now {left}*x = {d - b}, so x = {d - b} / ({left}) = {x}.",
        f"Check: {a}*({x}) + ({b}) = {a * x + b} and {c}*({x}) + ({d}) = {c * x + d}.",
    ]
    return f"Solve {a}*x + ({b}) = {c}*x + ({d}) for x.", working, str(x)


def greatest_common_divisor(rng: Random) -> Problem:
    """Euclid's algorithm."""
    common = rng.randint(1, 60)
    a, b = common * rng.randint(2, 200), common * rng.randint(2, 200)
    working = ["I divide with remainder until the remainder is 0."]
    x, y = max(a, b), min(a, b)
    while y:
        working.append(f"{x} = {x // y} * {y} + {x % y}.")
        x, y = y, x % y
    return (
        f"What is the greatest common divisor of {a} and {b}?",
        [*working, f"The last divisor is {x}."],
        str(x),
    )


def fraction_sum(rng: Random) -> Problem:
    """Sum of two fractions, reduced."""
    a, b, c, d = (rng.randint(1, 30) for _ in range(4))
    top, bottom = a * d + c * b, b * d
    common = gcd(top, bottom)
    answer = str(Fraction(top, bottom))
    working = [
        f"A common denominator is {b} * {d} = {bottom}.",
        f"{a}/{b} = {a * d}/{bottom} and {c}/{d} = {c * b}/{bottom}.",
        f"{a * d} + {c * b} = {top}, so the sum is {top}/{bottom}.",
        f"The greatest common divisor of {top} and {bottom} is {common}; dividing by it gives {answer}.",
    ]
    return f"Calculate {a}/{b} + {c}/{d}.", working, answer


def prime_factors(rng: Random) -> Problem:
    """Trial division."""
    number = rng.randint(12, 10**6)
    working, rest, divisor, found = [f"I try divisors of {number} in turn."], number, 2, []
    while divisor * divisor <= rest:
        if rest % divisor:
            divisor += 1
            continue
        working.append(f"{rest} / {divisor} = {rest // divisor}.")
        found.append(divisor)
        rest //= divisor
    found.append(rest)
    working.append(f"{rest} has no divisor up to its square root, so it is prime.")
    return f"List the prime factors of {number}, with repetition.", working, ", ".join(map(str, found))


def polynomial_value(rng: Random) -> Problem:
    """Horner's rule."""
    coefficients = [rng.randint(-9, 9) for _ in range(rng.randint(3, 4))]  # the highest power first
    x, degree = rng.randint(-9, 9), len(coefficients) - 1
    terms = " + ".join(f"({value})*x**{degree - i}" for i, value in enumerate(coefficients))
    working, value = ["By Horner's rule:"], coefficients[0]
    for coefficient in coefficients[1:]:
        working.append(f"{value} * ({x}) + ({coefficient}) = {value * x + coefficient}.")
        value = value * x + coefficient
    return f"Let f(x) = {terms}. What is f({x})?", working, str(value)


def sorting(rng: Random) -> Problem:
    """Repeated choice of the smallest."""
    numbers = rng.sample(range(-99, 100), rng.randint(4, 7))
    working, left = [], list(numbers)
    while left:
        smallest = min(left)
        working.append(f"The smallest of {', '.join(map(str, left))} is {smallest}.")
        left.remove(smallest)
    return (
        f"Sort {', '.join(map(str, numbers))} in ascending order.",
        working,
        ", ".join(map(str, sorted(numbers))),
    )


PROBLEMS: tuple[Callable[[Random], Problem], ...] = (
    addition,
    multiplication,
    linear_equation,
    greatest_common_divisor,
    fraction_sum,
    prime_factors,
    polynomial_value,
    sorting,
)


def solutions(count: int, seed: int = 1216) -> Iterator[Document]:
    """Generate different worked solutions, every kind in turn.

    Parameters
    ----------
    count : int
        Documents.
    seed : int

    Yields
    ------
    Document
        One problem each; no two have the same text.

    Raises
    ------
    ValueError
        If a kind of problem has run out of new ones.
    """
    rng, repeats = Random(seed), 0
    seen: set[str] = set()
    while len(seen) < count:
        kind = PROBLEMS[len(seen) % len(PROBLEMS)]
        text = document(kind(rng))
        repeats = repeats + 1 if text in seen else 0
        if repeats == MAX_REPEATS:
            raise ValueError(f"{kind.__name__} has no more than {len(seen) // len(PROBLEMS)} problems: lower count")
        if not repeats:
            seen.add(text)
            source = f"{__name__}#{kind.__name__}"
            yield Document(text, {"pile_set_name": "reasoning", "source": source, "license": LICENCE})


def write_solutions(folder: str | Path, count: int = 150_000, seed: int = 1216) -> dict[str, int]:
    """Write ``solutions.train``, ``.val`` and ``.test`` as gzipped JSON Lines; 2% each are held out.

    Parameters
    ----------
    folder : str or Path
        For the shipped settings: ``ROOT/reasoning``.
    count : int
        Documents in all, at least 100.
    seed : int

    Returns
    -------
    dict
        Split -> documents.

    Raises
    ------
    ValueError
        If `count` is less than 100.
    """
    if count < 100:
        raise ValueError(f"count must be at least 100 to fill three splits, not {count}")
    documents = list(solutions(count, seed))
    Random(seed).shuffle(documents)
    held = count // 50
    splits = {"val": documents[:held], "test": documents[held : 2 * held], "train": documents[2 * held :]}
    return {name: write_jsonl(Path(folder) / f"solutions.{name}.jsonl.gz", part) for name, part in splits.items()}
