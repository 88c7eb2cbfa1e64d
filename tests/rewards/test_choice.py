"""Multiple choice: what counts as a letter, and what answers nothing."""

from __future__ import annotations

import time

import pytest

from sod.records import Fault, SodError, Verdict
from sod.rewards.choice import ChoiceVerifier, letters_of
from support import answered


def verdict_of(text: str, truth: str = "B", **options: object) -> Verdict:
    (verdict,) = ChoiceVerifier(**options).verify([answered(text, truth)])  # type: ignore[arg-type]
    assert not isinstance(verdict, Fault)
    return verdict


@pytest.mark.parametrize(
    "box",
    [
        "B",
        "b",
        "(B)",
        "(b)",
        "B.",
        r"\text{B}",
        r"\text{(B)}",
        r"\textbf{B.}",
        r"\mathrm{B}",
        "$B$",
        "{B}",
        " B ",
        "**B**",
    ],
)
def test_every_way_to_box_a_letter_is_that_letter(box: str) -> None:
    assert verdict_of(rf"so \boxed{{{box}}}") == Verdict("B", True)
    assert verdict_of(rf"so \boxed{{{box}}}", truth="(C)").correct is False


@pytest.mark.parametrize("box", ["", "E", "AB", "B or C", "Bob", "2", r"\frac{B}{2}", "B" * 300, r"\beta"])
def test_a_box_without_one_known_letter_answers_nothing(box: str) -> None:
    verdict = verdict_of(rf"Answer: B \boxed{{{box}}}", answer_line=True)
    assert (verdict.answer, verdict.correct) == (None, False)
    assert "no letter" in verdict.detail


def test_the_last_box_counts() -> None:
    assert verdict_of(r"\boxed{A}, no: \boxed{B}").correct
    assert not verdict_of(r"\boxed{B}, no: \boxed{A}").correct


@pytest.mark.parametrize(
    "line",
    ["Answer: B", "answer: (b)", "The answer is B.", "**Final answer: B**", "The correct answer is (B)", "Answer: $B$"],
)
def test_a_final_answer_line_counts_only_when_switched_on(line: str) -> None:
    assert verdict_of(f"Because of that.\n{line}\n", answer_line=True) == Verdict("B", True)
    assert verdict_of(f"Because of that.\n{line}\n").answer is None


@pytest.mark.parametrize("line", ["Answer: B or C", "My answer: maybe", "The answer B is tempting", "B", "Answer:"])
def test_other_last_lines_answer_nothing(line: str) -> None:
    assert verdict_of(line, answer_line=True).answer is None


def test_an_answer_line_that_is_not_the_last_does_not_count() -> None:
    assert verdict_of("Answer: B\nOr is it?", answer_line=True).answer is None


def test_letters_can_be_more_than_four() -> None:
    assert verdict_of(r"\boxed{J}", truth="J", letters="ABCDEFGHIJ").correct


def test_letters_are_as_many_as_the_tasks_have() -> None:
    tasks = [answered("", truth).task for truth in ("A", "E) 12", "b")]
    assert letters_of(tasks, "ABCD") == "ABCDE"
    assert letters_of(tasks[:1], "ABCD") == "ABCD"
    assert letters_of(tasks, "ABC") == "ABC"
    options = answered("", "A", {"options": list(map(str, range(10)))}).task
    assert letters_of([options], "ABCD") == "ABCDEFGHIJ"


@pytest.mark.parametrize("box", ["B) 12", "(B) a tall tree", "B. twelve", "B: x", "option B", "Choice (B)"])
def test_a_choice_may_be_named_with_its_label(box: str) -> None:
    assert verdict_of(rf"\boxed{{{box}}}").correct


@pytest.mark.parametrize("box", ["A) or B)", "(B) or (C)", "B or C", "Because"])
def test_two_labels_name_none(box: str) -> None:
    assert verdict_of(rf"\boxed{{{box}}}").answer is None


def test_any_of_several_letters_is_right() -> None:
    episodes = [answered(rf"\boxed{{{letter}}}", "A", truths=("(C)",)) for letter in "ABC"]
    assert [getattr(verdict, "correct", None) for verdict in ChoiceVerifier().verify(episodes)] == [True, False, True]


def test_a_box_without_braces_and_a_framed_letter() -> None:
    assert verdict_of(r"so \boxed B.").correct
    assert verdict_of(r"so \fbox{B}").correct
    assert not verdict_of(r"\boxed Because").correct


def test_a_truth_that_is_no_letter_stops_with_a_reason() -> None:
    with pytest.raises(SodError, match="'42'"):
        verdict_of(r"\boxed{A}", truth="42")


@pytest.mark.parametrize("junk", [" " * 100_000 + "x", "answer " * 20_000, r"\boxed{" + "{" * 100_000, "*" * 100_000])
def test_junk_takes_no_time(junk: str) -> None:
    started = time.process_time()
    assert not verdict_of(junk, answer_line=True).correct
    assert time.process_time() - started < 1.0
