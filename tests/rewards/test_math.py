"""The verdict on a boxed answer: which spellings are equal, which are not, and that junk is only text."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.rewards.math import equal, last_boxed, normalise, verify


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{72}.", "72"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"a } stray brace, \boxed{3}", "3"),
        (r"\boxed{4} and then cut: \boxed{5", "4"),
        (r"\\boxed{6}", "6"),
        (r"\\\boxed{6}", "6"),
        ("no box", None),
        (r"\boxed{7", None),
        (r"\boxed{a{b}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed 7", "7"),
        (r"so $\boxed 7$.", "7"),
        (r"\boxed7", "7"),
        (r"\boxed -3.5, as", "-3.5"),
        (r"\boxed 12\%", r"12\%"),
        (r"**\boxed 1,234**", "1,234"),
        (r"\(\boxed x\)", "x"),
        (r"\boxed\pi", r"\pi"),
        (r"\boxed{1}, no: \boxed 2", "2"),
        (r"\boxed 1, no: \boxed{2}", "2"),
        (r"\fbox{7}", "7"),
        (r"\\fbox{7}", "7"),
        (r"\fbox 7", "7"),
        (r"\framebox{7}", "7"),
        (r"\boxed{\fbox{7}}", "7"),
        (r"\boxed 5/6", None),
        (r"\boxed 5 / 6", None),
        (r"\boxed x+1", None),
        (r"\boxed x + 1", None),
        (r"\boxed 5^2", None),
        (r"\boxed 5,6", None),
        (r"\boxed 1.2.3", None),
        (r"\boxed 2x", None),
        (r"\boxedx", None),
        (r"\boxed\frac{1}{2}", None),
        (r"the \boxed answer is 5", None),
        ("\\boxed \u0663", None),
        (r"\boxed{4} is \boxed in", "4"),
    ],
)
def test_a_box_without_braces_holds_what_stands_alone(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("72", "72.0"),
        (r"\$72.00", "72"),
        ("$72$", "72"),
        ("72.", "72"),
        ("1,234,567", "1234567"),
        (r"1{,}234", "1234"),
        ("-1,200.50", "-1200.5"),
        ("\u22125", "-5"),
        ("+5", "5"),
        ("-0", "0"),
        (".5", "0.5"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac12", r"\tfrac{2}{4}"),
        (r"-\frac{3}{4}", "-0.75"),
        (r"1\frac{1}{2}", "3/2"),
        ("50%", "50"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        (r"\text{Yes}", "Yes"),
        ("yes", "Yes"),
        (r"\textit{YES}.", r"\mathrm{yes}"),
        ("True", r"\text{true}"),
        (r"\texttt{False}", "FALSE"),
        ("neither even nor odd", r"\text{Neither even nor odd}"),
        ("28 percent", "28"),
        (r"28\text{ percent}", r"28\%"),
        (r"\text{28 Percent}", "28"),
        ("28 per cent.", r"28\,\%"),
        (r"\frac{1}{2} percent", "0.5"),
        (r"1\,234", "1234"),
        (r"-12\,345\,678.5", "-12345678.5"),
        (r"\$1\,234", "1,234"),
        (r"1{\,}234\text{ cm}", "1234"),
        ("1~234", "1234"),
        ("1\u202f234", "1234"),
        (r"\{1\,234, 5\}", r"\{1234, 5\}"),
        (r"72\text{ cm}", "72"),
        (r"72\text{ cm}.", "72"),
        ("{72}", "72"),
        ("1e3", "1000"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"x + 1", "x+1"),
        ("New  York", "New York"),
        (r"\frac 34", "0.75"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"15\text{ cm}^{3}", "15"),
        (r"11,\! 111,\! 100", "11111100"),
        (r"1.5\times 10^{3}", "1500"),
        (r"6.72 \cdot 10^{-5}", ".0000672"),
        (r"4210_{5}", "4210_5"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_equal_in_both_directions(answer: str, truth: str) -> None:
    assert equal(answer, truth)
    assert equal(truth, answer)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("72", "73"),
        ("1 2", "12"),
        ("1, 234", "1234"),
        ("(1,234)", "(1234)"),
        ("12,34", "1234"),
        ("0.333", "1/3"),
        ("5", "-5"),
        ("1/0", "0"),
        ("24 clips", "24"),
        ("newyork", "new york"),
        ("True", "1"),
        ("False", "0"),
        ("Yes", "True"),
        ("yes", "no"),
        ("AB", "ab"),
        ("A", "a"),
        ("evelyn", "Evelyn"),
        ("percent", "1"),
        ("28 percentage points", "28"),
        ("x percent", "x"),
        ("1 234", "1234"),
        (r"1\,23", "123"),
        (r"1234\,567", "1234567"),
        (r"x^2\,345", "x^2345"),
        (r"\frac12\,345", r"\frac12345"),
        ("\u0663", "3"),
        ("\uff13", "3"),
        ("1/\u0663", "1/3"),
        ("\u0661,\u0662\u0663\u0664", "1234"),
        ("1e\u0662", "100"),
        ("\\frac{\u0661}{\u0662}", "0.5"),
        ("\u0967\u0968", "12"),
        ("52_8", "52"),
        (r"864^2", r"864\text{ cm}^2"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \ 2 \end{pmatrix}"),
        (r"10\times 10^{999}", "10"),
        ("", ""),
        ("$", ""),
        (".", "."),
    ],
)
def test_not_equal(answer: str, truth: str) -> None:
    assert not equal(answer, truth)


@given(st.fractions(max_denominator=10**6), st.integers(1, 50))
def test_every_spelling_of_a_rational_is_that_rational(value: Fraction, scale: int) -> None:
    top, bottom = value.numerator * scale, value.denominator * scale
    sign, size = ("-" if top < 0 else ""), abs(top)
    for text in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"{sign}\dfrac{{{size}}}{{{bottom}}}"):
        assert Fraction(normalise(text)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact_with_or_without_thousands_commas(value: object) -> None:
    assert Fraction(normalise(f"{value:f}")) == Fraction(str(value))
    assert Fraction(normalise(f"{value:,f}")) == Fraction(str(value))


@given(st.text(alphabet="0123456789.,/{}\\$%^-+eE frac text boxed", max_size=60))
def test_never_raises_and_is_equal_to_itself_unless_empty(text: str) -> None:
    assert equal(text, text) == (normalise(text) != "")
    assert not verify(text, "the truth").correct


@pytest.mark.parametrize(
    "junk",
    [
        "9^9^9^9",
        "1e999999999",
        "1e-999999999",
        "9" * 100_000,
        "1/" + "9" * 100_000,
        "1" + ",123" * 50_000 + "x",
        r"\text{" * 50_000,
        r"\frac{" * 50_000,
        " " * 200_000 + "x",
        "\\" * 100_000,
        r"\boxed{" * 50_000,
        r"\boxed " * 50_000,
        r"\boxed" + " " * 100_000 + "/",
        r"\boxed " + "9" * 100_000 + "/",
        r"\boxed 1" + ",234" * 50_000 + "/",
        r"1\,234" * 50_000,
        "yes " * 50_000 + "x",
        "{" * 200_000,
    ],
)
def test_junk_stays_text_and_takes_no_time(junk: str) -> None:
    started = time.process_time()
    assert not equal(junk, "1")
    assert last_boxed(junk) is None
    assert verify(rf"{junk} \boxed{{1}}", "1").answer == "1"
    assert time.process_time() - started < 2.0


def test_large_exponents_are_not_expanded() -> None:
    assert normalise("1e9999") == "1e9999"
    assert normalise("1e-9999") == "1e-9999"
    assert not equal("1e9999", "1" + "0" * 9999)


def test_verify_reads_the_last_box() -> None:
    right = verify(r"first \boxed{3}, no: \boxed{\frac{8}{2}}", "4")
    assert (right.answer, right.correct) == (r"\frac{8}{2}", True)
    wrong = verify(r"first \boxed{4}, no: \boxed{3}", "4")
    assert (wrong.answer, wrong.correct) == ("3", False)
    none = verify("the answer is 4", "4")
    assert (none.answer, none.correct) == (None, False)
