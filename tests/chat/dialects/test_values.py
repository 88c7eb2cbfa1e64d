"""Values of arguments that stand in a text without quotes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.dialects.values import read_value, write_value

END = "</v>"
TEXT = st.lists(
    st.text(max_size=4) | st.sampled_from([END, "\\u003c/v>", '"', "\\", "\n", "12", "true", "None", "[", "]", "NaN"]),
    max_size=5,
).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("print(1)", "print(1)"),
        ("", ""),
        (" a ", " a "),
        ("3", 3),
        (" 3\n", 3),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("True", True),
        ("None", None),
        ("null", None),
        ('"3"', "3"),
        ('[1, "x"]', [1, "x"]),
        ("[1, 'x']", "[1, 'x']"),
        ("NaN", "NaN"),
        ("[" * 200_000, "[" * 200_000),
        ("7" * 5_000, "7" * 5_000),
    ],
)
def test_what_is_json_is_read_as_json_and_the_rest_is_text(written: str, value: Any) -> None:
    read = read_value(written, END)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("written", ["3", "true", "None", '"3"', '"', '[1, "x"]', " 3", '"a" + "b"', '"\\u003c/w>"'])
def test_a_declared_text_is_taken_as_it_is(written: str) -> None:
    assert read_value(written, END, as_text=True) == written
    assert write_value(written, END, as_text=True) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("print(1)", "print(1)"),
        ("3", '"3"'),
        ("True", '"True"'),
        ('"x"', '"\\"x\\""'),
        (f"a{END}b", '"a\\u003c/v>b"'),
        ({"k": END}, '{"k": "\\u003c/v>"}'),
        (3, "3"),
        (True, "true"),
        (None, "null"),
    ],
)
def test_a_string_that_could_be_misread_is_written_as_json(value: Any, written: str) -> None:
    assert write_value(value, END) == written


def test_words_of_python() -> None:
    assert [write_value(value, END, python_words=True) for value in (True, False, None, 1, "x")] == [
        "True",
        "False",
        "None",
        "1",
        "x",
    ]


def read_back(value: Any, as_text: bool, python_words: bool) -> None:
    written = write_value(value, END, as_text, python_words)
    assert END not in written
    read = read_value(written, END, as_text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_what_is_written_is_read_back(examples: int) -> None:
    """Any JSON, and any declared text, with quotes, escapes and the mark that ends a value in it."""
    settings(max_examples=examples, deadline=None)(
        given(value=JSON, python_words=st.booleans())(lambda value, python_words: read_back(value, False, python_words))
    )()
    settings(max_examples=examples, deadline=None)(given(value=TEXT)(lambda value: read_back(value, True, False)))()
