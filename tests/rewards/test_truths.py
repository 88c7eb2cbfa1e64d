"""Truths as data sets write them: what is compared, and what no answer can match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sod.rewards.math import normalise, verify
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.truths import LONGEST, UnmatchedTruthError, math_truth
from support import answered

ANSWERS = json.loads((Path(__file__).parent / "data" / "math500_answers.json").read_text())["answers"]


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("5", "5"),
        (" 5\n", "5"),
        ("#### 5", "5"),
        ("####5", "5"),
        ("She sold 48/2 = <<48/2=24>>24 clips.\n#### 1,234", "1,234"),
        (r"\boxed{5}", "5"),
        (r"So $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed 5", "5"),
        (r"#### Answer" + "\n" + r"\boxed{5}", "5"),
        ("Answer: 5", "5"),
        ("She sold 48/2 = <<48/2=24>>24 clips.\nA: 24", "24"),
        ("The final answer is: 5", "5"),
        ("the answer is 5", "5"),
        ("<answer>5</answer>", "5"),
        ("<think>hm</think> <answer> 5 </answer>", "5"),
        ("[1, 2]", "[1, 2]"),
        (r"\{1, 2\}", r"\{1, 2\}"),
        ("answering machine", "answering machine"),
    ],
)
def test_the_answer_in_a_truth_is_found(text: str, truth: str) -> None:
    assert math_truth(text).text == truth
    assert bool(math_truth(text).where) == (text.strip() != truth)
    assert verify(rf"\boxed{{{truth}}}", math_truth(text).text).correct


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot stand in a"),
        ("%", "cannot stand in a"),
        (r"\$", "cannot stand in a"),
        ("{", "cannot stand in a"),
        (r"\frac{1}{2", "cannot stand in a"),
        ("5}", "cannot stand in a"),
        ("####", "nothing behind '####'"),
        ("#### \n", "nothing behind '####'"),
        ("#### 5\nor 6", "several lines behind '####'"),
        (r"\boxed{}", "nothing in its box"),
        (r"\boxed{5", "nothing in its box"),
        ("<answer> </answer>", "nothing between"),
        ('{"target": ["5"]}', "JSON object"),
        ("First we count the apples in every basket " * 5, "whole solution"),
        ("1" * (LONGEST + 1), "whole solution"),
    ],
)
def test_what_no_answer_can_match_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UnmatchedTruthError, match=reason):
        math_truth(text)


def test_true_answers_of_math_500_stay_as_they_are_and_apart() -> None:
    truths = [row["answer"] for row in ANSWERS]
    assert [math_truth(truth).text for truth in truths] == truths
    assert len({normalise(truth) for truth in truths}) == len(set(truths))


@pytest.mark.parametrize(
    ("truths", "right", "wrong"),
    [
        (("3", "5"), ["3", "5.0", "3, 5", "5,3", r"\{3, 5\}", r"3 \text{ and } 5"], ["4", "3, 4", "35", "3+5", "3,3"]),
        (("x+1", "x+x"), ["1+x", "2x"], ["x"]),
        (("3", "500"), ["3", "500"], ["3500", "3,500"]),
        (("Yes", "True"), ["yes", r"\text{true}"], ["1", "no"]),
    ],
)
def test_any_of_several_truths_is_right_and_so_are_all_of_them(
    math_verifier: MathVerifier, truths: tuple[str, ...], right: list[str], wrong: list[str]
) -> None:
    first, *more = truths
    episodes = [answered(rf"\boxed{{{box}}}", first, truths=tuple(more)) for box in right + wrong]
    found = math_verifier.verify(episodes)
    assert [getattr(verdict, "correct", "fault") for verdict in found] == [True] * len(right) + [False] * len(wrong)
