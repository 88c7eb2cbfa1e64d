"""Whether a text gives an answer away, in the spellings that solutions use."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.tasks.leaks import gives_away, states


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("That is 24.", "24"),
        ("That is 24.0 in all", "24"),
        ("It costs $1,234 now", "1234"),
        ("It costs $1{,}234$ now", "1,234"),
        (r"It costs 1\,234 now", "1234"),
        ("There are twenty-four eggs", "24"),
        ("Three hundred of them", "300"),
        ("two dozen", "12"),
        (r"so $\frac12$ of it", "1/2"),
        (r"so $x = \dfrac{1}{2}$", "0.5"),
        ("half of it", "0.5"),
        ("it is 0.50", r"\frac{1}{2}"),
        (r"about 50\% of it", "0.5"),
        ("0.28", "28%"),
        ("x=-3", "3"),
        ("x is 3", "-3"),
        ("\uff12\uff14 eggs", "24"),
        (r"at $\left(3, \frac{\pi}{2}\right)$", r"\left( 3, \frac{\pi}{2} \right)"),
        ("which is x+1 then", "x + 1"),
        ("In Paris of course", "paris"),
        ("So B is right", "B"),
        (r"thus \text{even}", "even"),
    ],
)
def test_stated(text: str, truth: str) -> None:
    assert states(text, truth)
    assert gives_away(text, ["unheard of", truth])


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("There are 48 of them", "8"),
        ("There are 2.24 of them", "24"),
        ("He divides 48/2", "24"),  # an operation is not its result
        ("A comparison", "paris"),
        ("He has a train", "A"),
        ("x + 12", "x + 1"),
        ("anything", ""),
        ("", "5"),
    ],
)
def test_not_stated(text: str, truth: str) -> None:
    assert not states(text, truth)


@pytest.mark.parametrize(
    "text", [r"\boxed{5}", r"\boxed 5", r"\fbox{x}", "The answer is clear", "answer: yes", "#### 7"]
)
def test_what_announces_an_answer_gives_it_away(text: str) -> None:
    """Whatever the truth is, even in a spelling that nobody knows."""
    assert gives_away(text, ["unheard of"])


@settings(max_examples=50, deadline=None)
@given(
    number=st.integers(0, 10**7),
    style=st.sampled_from(["{}", "{:,}", "{}.0", "${}", "x={}", "-{}", "({})", "{}%", "{}$"]),
    before=st.text("abc =", max_size=5),
)
def test_a_number_is_found_in_every_spelling(number: int, style: str, before: str) -> None:
    assert states(f"{before} {style.format(number)} of them", str(number))
    assert states(style.format(number), f"{number:,}")
    assert not states(f"{before} {number + 1} of them", str(number))


def test_a_number_after_a_full_stop_is_no_decimal() -> None:
    assert states("so. 12", "12")
    assert not states("so. 12", ".12")
