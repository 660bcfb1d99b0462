"""Generated school mathematics in the layout of DeepMind Mathematics (Saxton et al., 2019).

A question line, then its answer line, many a document; one document holds questions of one module. Names and
wording follow the data set; the generators are our own and use exact arithmetic only.
"""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from fractions import Fraction
from math import comb, gcd, isqrt, lcm, prod

Question = tuple[str, str]  # question line, answer line
Coefficients = list[int]  # of a polynomial, the constant first
Generator = Callable[[random.Random], Question]

SIZE = 4500  # bytes of a document, about

MODULES: dict[str, Generator] = {}


def document(module: str, seed: int, number: int, size: int = SIZE) -> str:
    """Generate one document: different questions of one module, each followed by its answer.

    Parameters
    ----------
    module : str
        A key of `MODULES`, such as ``"arithmetic__add_or_sub"``.
    seed, number : int
        Together with the module they fix the document.
    size : int
        Questions are added until the text has so many bytes.

    Returns
    -------
    str
        Lines of ASCII, each with its line end.

    Raises
    ------
    ValueError
        If there is no such module.
    """
    if module not in MODULES:
        raise ValueError(f"no module {module!r}: there are {', '.join(MODULES)}")
    rng = random.Random(f"{module}:{seed}:{number}")
    answers: dict[str, str] = {}
    length = 0
    while length < size:
        question, answer = MODULES[module](rng)
        if question not in answers:
            answers[question] = answer
            length += len(question) + len(answer) + 2
    return "".join(f"{question}\n{answer}\n" for question, answer in answers.items())


def _module(area: str) -> Callable[[Generator], Generator]:
    """Enter a generator into `MODULES` as ``<area>_<function name>``, the name's own underscore being the second."""

    def enter(generate: Generator) -> Generator:
        MODULES[f"{area}_{generate.__name__}"] = generate
        return generate

    return enter


# Algebra


@_module("algebra")
def _linear_1d(rng: random.Random) -> Question:
    x, a, c, d = _signed(rng, 40), _signed(rng, 60), _signed(rng, 60), _signed(rng, 200)
    while a == c:
        a = _signed(rng, 60)
    name = _letter(rng)
    left, right = polynomial([d, a], name), polynomial([(a - c) * x + d, c], name)
    return f"Solve {left} = {right} for {name}.", str(x)


@_module("algebra")
def _linear_2d(rng: random.Random) -> Question:
    x, y = _signed(rng, 30), _signed(rng, 30)
    a, b, c, d = (_signed(rng, 40) for _ in range(4))
    while a * d == b * c:
        a = _signed(rng, 40)
    one, two = rng.sample("abcdfghjkmnpqrstuvwxyz", 2)
    equations = ", ".join(f"{_linear(p, one, q, two)} = {p * x + q * y}" for p, q in ((a, b), (c, d)))
    return f"Solve {equations} for {one}.", str(x)


@_module("algebra")
def _polynomial_roots(rng: random.Random) -> Question:
    roots = sorted(rng.sample(range(-15, 16), rng.choice([2, 2, 3])))
    name = _letter(rng)
    whole = [rng.choice([1, 1, 2, 3, 5])]
    for root in roots:
        whole = multiply(whole, [-root, 1])
    return f"Solve {polynomial(whole, name)} = 0 for {name}.", ", ".join(map(str, roots))


@_module("algebra")
def _sequence_next_term(rng: random.Random) -> Question:
    coefficients, terms = _sequence(rng)
    return f"What is next in {', '.join(map(str, terms))}?", str(evaluate(coefficients, len(terms) + 1))


@_module("algebra")
def _sequence_nth_term(rng: random.Random) -> Question:
    coefficients, terms = _sequence(rng)
    name = _letter(rng)
    return f"What is the {name}'th term of {', '.join(map(str, terms))}?", polynomial(coefficients, name)


# Arithmetic


@_module("arithmetic")
def _add_or_sub(rng: random.Random) -> Question:
    a, b = _decimal(rng), _decimal(rng)
    wording, value = rng.choice(
        [
            ("What is {a} + {b}?", a + b),
            ("Add {a} and {b}.", a + b),
            ("Sum {a} and {b}.", a + b),
            ("What is {a} minus {b}?", a - b),
            ("What is {b} less than {a}?", a - b),
            ("Subtract {b} from {a}.", a - b),
        ]
    )
    return wording.format(a=decimal(a), b=decimal(b)), decimal(value)


@_module("arithmetic")
def _add_sub_multiple(rng: random.Random) -> Question:
    terms = [_signed(rng, 30) for _ in range(rng.randint(3, 6))]
    signs = [rng.choice("+-") for _ in terms[1:]]
    text, value = str(terms[0]), terms[0]
    for sign, term in zip(signs, terms[1:], strict=True):
        text = f"({text})" if rng.random() < 0.3 else text
        text += f" {sign} {_bracketed(term)}"
        value += term if sign == "+" else -term
    return rng.choice(["What is {}?", "Calculate {}.", "Evaluate {}.", "{}"]).format(text), str(value)


@_module("arithmetic")
def _mul(rng: random.Random) -> Question:
    a, b = _decimal(rng), _decimal(rng)
    wording = rng.choice(["What is {} times {}?", "Multiply {} and {}.", "Product of {} and {}.", "What is {} * {}?"])
    return wording.format(decimal(a), decimal(b)), decimal(a * b)


@_module("arithmetic")
def _div(rng: random.Random) -> Question:
    a, b = _signed(rng, 10 ** rng.randint(1, 5)), _signed(rng, 10 ** rng.randint(1, 3))
    if rng.random() < 0.6:
        a *= b
    wording = rng.choice(
        ["Divide {} by {}.", "{} divided by {}", "What is {} divided by {}?", "Calculate {} divided by {}."]
    )
    return wording.format(a, b), str(Fraction(a, b))


@_module("arithmetic")
def _mul_div_multiple(rng: random.Random) -> Question:
    a, b, c, d = (_signed(rng, 60) for _ in range(4))
    value = Fraction(a, b) * Fraction(c, d)
    text = f"({a}/{_bracketed(b)})*({c}/{_bracketed(d)})"
    return rng.choice(["What is {}?", "Calculate {}.", "Evaluate {}.", "{}"]).format(text), str(value)


@_module("arithmetic")
def _mixed(rng: random.Random) -> Question:
    a, b, c, d = (_signed(rng, 30) for _ in range(4))
    text, value = rng.choice(
        [
            (f"{_bracketed(a)}*{_bracketed(b)} + {_bracketed(c)}/{_bracketed(d)}", a * b + Fraction(c, d)),
            (f"({a} + {_bracketed(b)})/{_bracketed(d)} - {_bracketed(c)}", Fraction(a + b, d) - c),
            (f"({a} - {_bracketed(b)})*{_bracketed(c)}/{_bracketed(d)}", Fraction((a - b) * c, d)),
        ]
    )
    wording = rng.choice(["What is {}?", "Calculate {}.", "What is the value of {}?", "{}"])
    return wording.format(text), str(value)


@_module("arithmetic")
def _nearest_integer_root(rng: random.Random) -> Question:
    number = rng.randint(2, 10 ** rng.randint(2, 7))
    root = isqrt(4 * number)  # twice the root, rounded down; halves never occur
    return f"What is the square root of {number} to the nearest integer?", str((root + 1) // 2)


# Calculus


@_module("calculus")
def _differentiate(rng: random.Random) -> Question:
    coefficients, name = _polynomial(rng, 4), _letter(rng)
    order, word = rng.choice([(1, "first"), (1, "first"), (2, "second")])
    derivative = coefficients
    for _ in range(order):
        derivative = [power * value for power, value in enumerate(derivative)][1:] or [0]
    text = polynomial(coefficients, name)
    if order == 1 and rng.random() < 0.5:
        return f"Differentiate {text} wrt {name}.", polynomial(derivative, name)
    return f"What is the {word} derivative of {text} wrt {name}?", polynomial(derivative, name)


# Comparison


@_module("comparison")
def _closest(rng: random.Random) -> Question:
    values = rng.sample(range(-60, 61), rng.randint(3, 5))
    target = _signed(rng, 60)
    while len({abs(value - target) for value in values}) < len(values):
        target = _signed(rng, 60)
    best = min(values, key=lambda value: abs(value - target))
    return f"Which is the closest to {target}? {_choices(values)}", f"({'abcdef'[values.index(best)]})"


@_module("comparison")
def _kth_biggest(rng: random.Random) -> Question:
    values = rng.sample(range(-300, 301), rng.randint(3, 6))
    k = rng.randint(1, len(values))
    ordinal = ("", "second ", "third ", "fourth ", "fifth ", "sixth ")[k - 1]
    wording, ordered = rng.choice([("biggest", sorted(values, reverse=True)), ("smallest", sorted(values))])
    value = ordered[k - 1]
    return f"Which is the {ordinal}{wording} value? {_choices(values)}", f"({'abcdef'[values.index(value)]})"


@_module("comparison")
def _pair(rng: random.Random) -> Question:
    a, b = Fraction(_signed(rng, 99), rng.randint(1, 30)), Fraction(_signed(rng, 99), rng.randint(1, 30))
    wording, value = rng.choice(
        [
            ("Which is bigger: {a} or {b}?", max(a, b)),
            ("Which is smaller: {a} or {b}?", min(a, b)),
            ("Is {a} less than {b}?", a < b),
            ("Are {a} and {b} equal?", a == b),
        ]
    )
    return wording.format(a=a, b=b), str(value)


@_module("comparison")
def _sort(rng: random.Random) -> Question:
    values = rng.sample(range(-200, 201), rng.randint(3, 7))
    wording, reverse = rng.choice([("increasing", False), ("ascending", False), ("decreasing", True)])
    ordered = sorted(values, reverse=reverse)
    return f"Sort {', '.join(map(str, values))} in {wording} order.", ", ".join(map(str, ordered))


# Measurement

UNITS = {  # how many of the smallest one, exactly
    "length": {"millimeters": 1, "centimeters": 10, "meters": 1000, "kilometers": 10**6},
    "mass": {"milligrams": 1, "grams": 1000, "kilograms": 10**6, "tonnes": 10**9},
    "time": {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800},
    "volume": {"millilitres": 1, "centilitres": 10, "litres": 1000},
}


@_module("measurement")
def _conversion(rng: random.Random) -> Question:
    units = UNITS[rng.choice(list(UNITS))]
    source, target = rng.sample(list(units), 2)
    value = abs(_decimal(rng))
    if not _is_decimal(value * units[source] / units[target]):
        value = Fraction(rng.randint(1, 400) * units[target], gcd(units[source], units[target]))
    answer = decimal(value * units[source] / units[target])
    wording = rng.choice(
        [
            "How many {to} are there in {value} {of}?",
            "What is {value} {of} in {to}?",
            "Convert {value} {of} to {to}.",
        ]
    )
    return wording.format(to=target, of=source, value=decimal(value)), answer


@_module("measurement")
def _time(rng: random.Random) -> Question:
    start = datetime(2000, 1, 1) + timedelta(minutes=rng.randrange(1440))
    minutes = rng.randint(1, 719)
    end = start + timedelta(minutes=minutes)
    if rng.random() < 0.5:
        return f"How many minutes are there between {_clock(start)} and {_clock(end)}?", str(minutes)
    if rng.random() < 0.5:
        return f"What is {minutes} minutes after {_clock(start)}?", _clock(end)
    return f"What is {minutes} minutes before {_clock(end)}?", _clock(start)


# Numbers


@_module("numbers")
def _base_conversion(rng: random.Random) -> Question:
    value, (source, target) = rng.randint(2, 20000), rng.sample(range(2, 17), 2)
    question = f"{_in_base(value, source)} (base {source}) to base {target}"
    return f"Convert {question}." if rng.random() < 0.5 else f"What is {question}?", _in_base(value, target)


@_module("numbers")
def _div_remainder(rng: random.Random) -> Question:
    a, b = rng.randint(10, 20000), rng.randint(2, 300)
    wording = rng.choice(
        [
            "Calculate the remainder when {} is divided by {}.",
            "What is the remainder when {} is divided by {}?",
        ]
    )
    return wording.format(a, b), str(a % b)


@_module("numbers")
def _greatest_common_divisor(rng: random.Random) -> Question:
    common = rng.randint(1, 90)
    a, b = common * rng.randint(1, 150), common * rng.randint(1, 150)
    wording = rng.choice(
        [
            "Calculate the greatest common divisor of {} and {}.",
            "What is the greatest common factor of {} and {}?",
            "Calculate the highest common divisor of {} and {}.",
        ]
    )
    return wording.format(a, b), str(gcd(a, b))


@_module("numbers")
def _is_factor(rng: random.Random) -> Question:
    a, b = rng.randint(2, 60), rng.randint(100, 20000)
    if rng.random() < 0.5:
        b -= b % a
    wording = rng.choice(["Is {a} a factor of {b}?", "Does {a} divide {b}?", "Is {b} a multiple of {a}?"])
    return wording.format(a=a, b=b), str(b % a == 0)


@_module("numbers")
def _is_prime(rng: random.Random) -> Question:
    number = rng.randint(2, 10 ** rng.randint(3, 6))
    number += number % 2 == 0 and rng.random() < 0.8
    if rng.random() < 0.5:
        return f"Is {number} prime?", str(len(factors(number)) == 1)
    return f"Is {number} composite?", str(len(factors(number)) > 1)


@_module("numbers")
def _least_common_multiple(rng: random.Random) -> Question:
    common = rng.randint(1, 40)
    a, b = common * rng.randint(1, 60), common * rng.randint(1, 60)
    if rng.random() < 0.5:
        return f"Calculate the least common multiple of {a} and {b}.", str(lcm(a, b))
    return f"What is the common denominator of {Fraction(1, a)} and {Fraction(1, b)}?", str(lcm(a, b))


@_module("numbers")
def _list_prime_factors(rng: random.Random) -> Question:
    number = rng.randint(10, 10 ** rng.randint(2, 5))
    wording = rng.choice(["List the prime factors of {}.", "What are the prime factors of {}?"])
    return wording.format(number), ", ".join(map(str, sorted(set(factors(number)))))


PLACES = (
    *("units", "tens", "hundreds", "thousands", "ten thousands"),
    *("hundred thousands", "millions", "ten millions"),
)


@_module("numbers")
def _place_value(rng: random.Random) -> Question:
    number = str(rng.randint(1000, 99_999_999))
    place = rng.randrange(len(number))
    return f"What is the {PLACES[place]} digit of {number}?", number[-1 - place]


@_module("numbers")
def _round_number(rng: random.Random) -> Question:
    number, power = _signed(rng, 10 ** rng.randint(4, 8)), rng.randint(1, 4)
    step = 10**power
    if abs(number) % step == step // 2:
        number += 1  # no half, so that every rule of rounding agrees
    rounded = (abs(number) + step // 2) // step * step * (1 if number > 0 else -1)
    word = ["ten", "one hundred", "one thousand", "ten thousand"][power - 1]
    return f"Round {number} to the nearest {word}.", str(rounded)


# Polynomials


@_module("polynomials")
def _add(rng: random.Random) -> Question:
    name, (f, g) = _letter(rng), rng.sample("fghjkmpqrw", 2)
    one, two = _polynomial(rng, 3), _polynomial(rng, 3)
    a, b = _signed(rng, 9), _signed(rng, 9)
    while name in (f, g):
        name = _letter(rng)
    total = plus([a * value for value in one], [b * value for value in two])
    wanted = _linear(a, f"{f}({name})", b, f"{g}({name})")
    given = f"Let {f}({name}) = {polynomial(one, name)}. Let {g}({name}) = {polynomial(two, name)}."
    return f"{given} Calculate {wanted}.", polynomial(total, name)


@_module("polynomials")
def _collect(rng: random.Random) -> Question:
    name = _letter(rng)
    terms = [(_signed(rng, 40), rng.randint(0, 3)) for _ in range(rng.randint(4, 7))]
    total = [0] * 4
    for value, power in terms:
        total[power] += value
    text = _join([_term(value, power, name) for value, power in terms])
    return f"Collect the terms in {text}.", polynomial(total, name)


@_module("polynomials")
def _compose(rng: random.Random) -> Question:
    name, (f, g) = _letter(rng), rng.sample("fghjkmpqrw", 2)
    while name in (f, g):
        name = _letter(rng)
    outer, inner = _polynomial(rng, 2, 12), _polynomial(rng, 2, 12)
    result, power = [0], [1]
    for value in outer:
        result = plus(result, [value * each for each in power])
        power = multiply(power, inner)
    given = f"Let {f}({name}) = {polynomial(outer, name)}. Let {g}({name}) = {polynomial(inner, name)}."
    return f"{given} What is {f}({g}({name}))?", polynomial(result, name)


@_module("polynomials")
def _expand(rng: random.Random) -> Question:
    name = _letter(rng)
    parts = [_polynomial(rng, 2, 9) for _ in range(rng.choice([2, 2, 3]))]
    whole = [1]
    for part in parts:
        whole = multiply(whole, part)
    text = "*".join(f"({polynomial(part, name)})" for part in parts)
    return f"Expand {text}.", polynomial(whole, name)


@_module("polynomials")
def _evaluation(rng: random.Random) -> Question:
    coefficients, x = _polynomial(rng, 3), _signed(rng, 12)
    name, f = _letter(rng), rng.choice("fgh")
    while name == f:
        name = _letter(rng)
    answer = str(evaluate(coefficients, x))
    return f"Let {f}({name}) = {polynomial(coefficients, name)}. Calculate {f}({x}).", answer


# Probability


@_module("probability")
def _swr_p_sequence(rng: random.Random) -> Question:
    letters, bag = _bag(rng)
    drawn = rng.sample(bag, rng.randint(2, min(4, len(bag))))
    left, chance = list(bag), Fraction(1)
    for letter in drawn:
        chance *= Fraction(left.count(letter), len(left))
        left.remove(letter)
    question = f"{_number_word(len(drawn))} letters picked without replacement from {letters}."
    return f"{question} What is prob of sequence {''.join(drawn)}?", str(chance)


@_module("probability")
def _swr_p_level_set(rng: random.Random) -> Question:
    letters, bag = _bag(rng)
    drawn = rng.sample(bag, rng.randint(2, min(4, len(bag))))
    counts = {letter: drawn.count(letter) for letter in sorted(set(drawn))}
    ways = prod(comb(bag.count(letter), count) for letter, count in counts.items())
    wanted = " and ".join(f"{count} {letter}" for letter, count in counts.items())
    question = f"{_number_word(len(drawn))} letters picked without replacement from {letters}."
    return f"{question} What is prob of picking {wanted}?", str(Fraction(ways, comb(len(bag), len(drawn))))


# Polynomials and numbers as text


def polynomial(coefficients: Coefficients, name: str) -> str:
    """Write a polynomial, the highest power first: ``[5, -1, 2], "x"`` is ``2*x**2 - x + 5``."""
    terms = [_term(value, power, name) for power, value in enumerate(coefficients) if value]
    return _join(terms[::-1]) if terms else "0"


def multiply(one: Coefficients, two: Coefficients) -> Coefficients:
    """Return the product of two polynomials."""
    result = [0] * (len(one) + len(two) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            result[i + j] += a * b
    return result


def plus(one: Coefficients, two: Coefficients) -> Coefficients:
    """Return the sum of two polynomials."""
    length = max(len(one), len(two))
    return [sum(each[power] for each in (one, two) if power < len(each)) for power in range(length)]


def evaluate(coefficients: Coefficients, x: int) -> int:
    """Return the value of a polynomial at `x`."""
    return sum(value * x**power for power, value in enumerate(coefficients))


def factors(number: int) -> list[int]:
    """Return the prime factors of a number above 1, in order, repeated ones included."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found + [number] * (number > 1)


def decimal(value: Fraction) -> str:
    """Write a fraction whose denominator divides a power of ten, exactly: ``-3/40`` is ``-0.075``."""
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    whole, part = divmod(abs(int(value * 10**digits)), 10**digits)
    return "-" * (value < 0) + str(whole) + (f".{part:0{digits}d}" if digits else "")


def _is_decimal(value: Fraction) -> bool:
    return (value * 10**12).denominator == 1


def _signed(rng: random.Random, limit: int) -> int:
    return rng.choice([-1, 1]) * rng.randint(1, limit)


def _decimal(rng: random.Random) -> Fraction:
    return Fraction(_signed(rng, 10 ** rng.randint(1, 5)), 10 ** rng.choice([0, 0, 1, 2, 3]))


def _polynomial(rng: random.Random, degree: int, limit: int = 50) -> Coefficients:
    lower = [rng.choice([0, 1, 1]) * _signed(rng, limit) for _ in range(rng.randint(1, degree))]
    return [*lower, _signed(rng, limit)]


def _sequence(rng: random.Random) -> tuple[Coefficients, list[int]]:
    coefficients = _polynomial(rng, 2, 30)
    return coefficients, [evaluate(coefficients, n) for n in range(1, rng.randint(5, 8))]


def _letter(rng: random.Random) -> str:
    return rng.choice("abcdfghjkmnpqrstuvwxyz")


def _term(value: int, power: int, name: str) -> str:
    if power == 0:
        return str(value)
    sign = {1: "", -1: "-"}.get(value, f"{value}*")
    return sign + name + (f"**{power}" if power > 1 else "")


def _linear(a: int, one: str, b: int, two: str) -> str:
    return _join([_term(a, 1, one), _term(b, 1, two)])


def _join(terms: list[str]) -> str:
    rest = (f" - {term[1:]}" if term[0] == "-" else f" + {term}" for term in terms[1:])
    return terms[0] + "".join(rest)


def _bracketed(value: int) -> str:
    return f"({value})" if value < 0 else str(value)


def _choices(values: list[int]) -> str:
    return " ".join(f"({letter}) {value}" for letter, value in zip("abcdef", values, strict=False))


def _clock(moment: datetime) -> str:
    # Not strftime's %p, which follows the locale.
    return f"{(moment.hour + 11) % 12 + 1}:{moment.minute:02d} {'AM' if moment.hour < 12 else 'PM'}"


def _in_base(value: int, base: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = "0123456789abcdef"[digit] + digits
    return digits


def _bag(rng: random.Random) -> tuple[str, list[str]]:
    letters = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(2, 5))
    counts = {letter: rng.randint(1, 7) for letter in letters}
    bag = [letter for letter, count in counts.items() for _ in range(count)]
    if rng.random() < 0.5:
        return "{" + ", ".join(f"{letter}: {count}" for letter, count in counts.items()) + "}", bag
    rng.shuffle(bag)
    return "".join(bag), bag


def _number_word(count: int) -> str:
    return ("Zero", "One", "Two", "Three", "Four")[count]
