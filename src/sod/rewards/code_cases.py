"""Tests with inputs and outputs: how the field writes them down, and when an output is the expected one.

Of a whole program, input and output are text. A list is its lines (a list in it one line, its items apart by spaces),
a number or a boolean what Python prints for it.

Of a function, the input is the list of its arguments, the output its value:

- a list as it is (APPS, TACO); anything else that is not text is the only argument;
- text with one argument per line, in JSON or as Python writes it (LiveCodeBench); where the inputs of a task are not
  all of this kind, and each is one line, the text itself is the only argument.

An output may be written in more than one way, and not always does a task tell which. Then it has several *readings*.
An answer is right if it does as one of them says in every test of the task; readings are never mixed:

- values of which each is a list of one element: the list, or the element (APPS and TACO wrap values, and their own
  checker takes both);
- text: the value that it is in JSON or Python, or, where inputs are not text or an output is no JSON, the text itself.

Outputs of whole programs are compared as LiveCodeBench does it. The checkers of APPS, TACO and CodeContests also take
other spaces within a line and numbers that are close: in suites that are `close`, a number that is written with a
fraction may differ by `RELATIVE` of it. A whole number may not, in which ours is stricter than theirs.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, final

from sod.records import SodError

RELATIVE, ABSOLUTE = 1e-5, 1e-8  # as numpy's `allclose`, which those checkers call

Value = Any
"""A value as JSON has it."""


@final
@dataclass(frozen=True)
class Case:
    """One test: what goes in and what must come out.

    With a function to call, `given` is the list of its arguments and `expected` its value, both as
    JSON has them; else stdin and stdout.
    """

    given: Any
    expected: Any


@final
@dataclass(frozen=True)
class CaseSuite:
    """Tests that run one by one, of a whole program or, with `fn_name`, of a function.

    `other_readings` are what else all the expected values may mean, in the order of `cases`; with `close` numbers
    of an output may be close to the expected ones; a `verbatim` one is the expected text, save line ends behind it.
    """

    cases: tuple[Case, ...]
    fn_name: str | None = None
    other_readings: tuple[tuple[Any, ...], ...] = ()
    close: bool = False
    verbatim: bool = False

    @property
    def readings(self) -> tuple[tuple[Any, ...], ...]:
        """Every reading of the expected values."""
        return (tuple(case.expected for case in self.cases), *self.other_readings)


def case_suite(pairs: Sequence[tuple[Value, Value]], fn_name: str | None) -> CaseSuite:
    """The tests whose inputs and outputs are `pairs`. Raises SodError where it cannot be told what goes in."""
    given, outputs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if fn_name is None:
        return CaseSuite(tuple(Case(_as_text(one), _as_text(other)) for one, other in pairs))
    arguments = _arguments(given)
    first, *others = _readings(outputs, all(isinstance(value, str) for value in given))
    cases = tuple(Case(one, other) for one, other in zip(arguments, first, strict=True))
    return CaseSuite(cases, fn_name, tuple(others))


def _as_text(value: Value) -> str:
    """What stdin or stdout holds."""
    if isinstance(value, list):
        return "\n".join(_as_line(line) for line in value)
    return "" if value is None else str(value)


def _as_line(value: Value) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value).rstrip("\r\n")


def _arguments(given: Sequence[Value]) -> list[list[Value]]:
    """The list of arguments of each test."""
    texts = [value for value in given if isinstance(value, str)]
    lined = {text: _line_values(text) for text in texts}
    unread = [text for text in texts if lined[text] is None]
    if unread and any("\n" in text.strip("\n") for text in texts):
        raise SodError(f"code: a test's input is not JSON, one argument a line: {unread[0][:80]!r}")
    found: list[list[Value]] = []
    for value in given:
        if isinstance(value, str):
            found.append([value] if unread else lined[value] or [])
        else:
            found.append(value if isinstance(value, list) else [value])
    return found


def _line_values(text: str) -> list[Value] | None:
    """The value of each line that is not empty; None where a line is no value."""
    values = [_read(line) for line in text.split("\n") if line.strip()]
    return [value[0] for value in values] if all(values) else None


def _readings(outputs: Sequence[Value], inputs_are_text: bool) -> list[tuple[Value, ...]]:
    """What the outputs of a function's tests may mean, the likeliest first."""
    if not any(isinstance(output, str) for output in outputs):
        wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
        return [tuple(outputs), *([tuple(output[0] for output in outputs)] if wrapped else [])]
    values = tuple(_value(output) for output in outputs)
    plain_json = all(not isinstance(output, str) or _is_json(output) for output in outputs)
    return [values] if inputs_are_text and plain_json else [values, tuple(outputs)]


def _value(output: Value) -> Value:
    """The value that a text is; the text where it is none."""
    if not isinstance(output, str):
        return output
    found = _read(output)
    return found[0] if found else output


def _read(text: str) -> tuple[Value, ...]:
    """The value of a text in JSON, or as Python writes it; empty where it is neither."""
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):
        pass
    try:  # through JSON: tuples are lists
        return (json.loads(json.dumps(ast.literal_eval(text.strip()))),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def same_value(output: str, expected: Value) -> bool:
    """Whether JSON text is the expected value; tuples are lists, 1.0 is 1, but True is not."""
    try:
        return _equal(json.loads(output), expected)
    except (ValueError, RecursionError):
        return False


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    return bool(one == other)


def same_output(output: str, expected: str, close: bool = False) -> bool:
    """LiveCodeBench's comparison: as many lines, each equal without outer spaces, or equal number by number.

    With `close` also as APPS does it: word by word, and numbers with a fraction about.
    """
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (output, expected))
    if len(lines) != len(wanted):
        return False
    return all(
        line == want or _same_numbers(line, want) or (close and _close_words(line, want))
        for line, want in zip(lines, wanted, strict=True)
    )


def same_text(output: str, expected: str) -> bool:
    """Whether both are the same text, save line ends behind it."""
    return output.rstrip("\n") == expected.rstrip("\n")


def _close_words(line: str, want: str) -> bool:
    words, wanted = line.split(), want.split()
    return len(words) == len(wanted) and all(map(_close_word, words, wanted))


def _close_word(word: str, want: str) -> bool:
    if word == want or _same_numbers(word, want):
        return True
    if want.lstrip("+-").isdigit() or not (word + want).isascii() or "_" in word + want:
        return False
    try:
        return math.isclose(float(word), float(want), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except ValueError:
        return False


def _same_numbers(line: str, want: str) -> bool:
    numbers, wanted = _numbers(line), _numbers(want)
    return numbers is not None and numbers == wanted


def _numbers(line: str) -> list[Decimal] | None:
    if not line.isascii():  # Decimal would take the digits of every script
        return None
    try:
        numbers = [Decimal(token) for token in line.split()]
    except InvalidOperation:
        return None
    return numbers if numbers and all(number.is_finite() for number in numbers) else None
