"""Majority votes: equal wrong answers count together, whatever their order, and never with the right ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.evaluation.metrics import maj_at_k
from sod.records import Episode, Verdict
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.code import CodeVerifier
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.votes import MOST_COMPARED, Compared, merged
from support import answered


@pytest.fixture(scope="module")
def verifier(math_verifier: MathVerifier) -> MathVerifier:
    return math_verifier


def judged(verifier: MathVerifier, boxes: Sequence[str], truth: str, *more: str) -> list[Episode]:
    """Episodes of one task with what the verifier found."""
    episodes = [answered(rf"so \boxed{{{box}}}.", truth, truths=more) for box in boxes]
    found = [verdict for verdict in verifier.verify(episodes) if isinstance(verdict, Verdict)]
    return [
        replace(one, trajectory=replace(one.trajectory, answer=verdict.answer, correct=verdict.correct))
        for one, verdict in zip(episodes, found, strict=True)
    ]


def maj(verifier: MathVerifier, boxes: Sequence[str], truth: str) -> float:
    episodes = judged(verifier, boxes, truth)
    return maj_at_k(verifier.votes([episodes]), [[float(one.trajectory.correct) for one in episodes]])


def test_equal_wrong_answers_are_one_vote(verifier: MathVerifier) -> None:
    assert maj(verifier, ["x+1", "1+x", "2x", "2x", "2x"], "2x") == 1.0
    assert maj(verifier, ["x+1", "1+x", "2x"], "2x") == 0.0
    assert maj(verifier, [r"\frac{2x+2}{2}", "x+1", "2x", "2x"], "2x") == 0.5
    assert maj(verifier, ["1+x", "x+2", "2x", "2x"], "2x") == 1.0


def test_the_order_of_samples_changes_no_vote(verifier: MathVerifier) -> None:
    boxes = ["x+1", "1+x", r"\frac{2x+2}{2}", "x+1", "y"]
    expected = {"x+1": "x+1", "1+x": "x+1", r"\frac{2x+2}{2}": "x+1", "y": "y"}
    for order in itertools.islice(itertools.permutations(boxes), 0, None, 17):
        assert verifier.votes([judged(verifier, order, "7z")]) == [[expected[box] for box in order]]


@pytest.mark.parametrize(
    "boxes",
    [(r"17\cdot 23", "391"), ("5m", "5"), (r"\text{no}", r"\text{on}"), ("R", "r"), ("52_8", "42"), ("6=5", "5")],
)
def test_wrong_answers_are_compared_as_strictly_as_right_ones(verifier: MathVerifier, boxes: tuple[str, str]) -> None:
    one, other = verifier.votes([judged(verifier, boxes, "7z")])[0]
    assert one != other


def test_a_name_before_a_number_is_that_number(verifier: MathVerifier) -> None:
    assert verifier.votes([judged(verifier, ["x=6", "6", "6.0"], "5")]) == [["6", "6", "6"]]


def test_right_answers_are_one_vote_and_keep_to_themselves(verifier: MathVerifier) -> None:
    (votes,) = verifier.votes([judged(verifier, ["1+x", "x+1", "x+2", "2+x"], "x+1")])
    assert votes == ["x+1", "x+1", votes[2], votes[2]]
    assert votes[2] != "x+1"
    (votes,) = verifier.votes([judged(verifier, ["3", "5", "4"], "3", "5")])
    assert votes == ["3", "3", "4"]


def test_groups_are_merged_apart_and_no_answer_stays_none(verifier: MathVerifier) -> None:
    silent = answered("nothing", "z")
    groups = [judged(verifier, ["x+1"], "z"), [silent], [], judged(verifier, ["1+x", "1+x"], "z")]
    assert verifier.votes(groups) == [["x+1"], [None], [], ["1+x", "1+x"]]


def test_a_closed_verifier_merges_nothing() -> None:
    """Comparisons that fault are differences."""
    verifier = MathVerifier()
    episodes = [answered(rf"\boxed{{{box}}}", "7") for box in ("x+1", "1+x")]
    wrong = [
        replace(one, trajectory=replace(one.trajectory, answer=box))
        for one, box in zip(episodes, ("x+1", "1+x"), strict=True)
    ]
    verifier.close()
    assert verifier.votes([wrong]) == [["x+1", "1+x"]]


def test_letters_and_programs_are_as_answered() -> None:
    episodes = [answered("", "A"), answered("", "A")]
    groups = [[replace(one, trajectory=replace(one.trajectory, answer="B")) for one in episodes]]
    assert ChoiceVerifier().votes(groups) == [["B", "B"]]
    assert CodeVerifier(lambda programs: []).votes(groups) == [["B", "B"]]


# Merging itself, over an equality that is known: two texts are equal where they have the same first letter.


def same_letter(couples: Sequence[tuple[str, str]]) -> list[Compared]:
    return ["equal" if one[0] == other[0] else "different" for one, other in couples]


answers = st.lists(st.text("abc", min_size=1, max_size=3), max_size=9)


@settings(max_examples=40)
@given(answers, st.randoms())
def test_merging_does_not_depend_on_the_order(row: list[str], random: object) -> None:
    samples = [(answer, answer) for answer in row]
    shuffled = list(samples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    (spelled,), (again,) = merged([samples], same_letter), merged([shuffled], same_letter)
    assert spelled == again
    if len(set(row)) <= MOST_COMPARED:
        for one, other in itertools.combinations(row, 2):
            assert (spelled[one] == spelled[other]) == (one[0] == other[0])


@settings(max_examples=20)
@given(st.lists(answers, max_size=4))
def test_tasks_do_not_touch_each_other(rows: list[list[str]]) -> None:
    tasks = [[(answer, answer) for answer in row] for row in rows]
    assert merged(tasks, same_letter) == [merged([task], same_letter)[0] for task in tasks]


def test_the_commonest_spelling_stands_for_the_class() -> None:
    samples = [(answer, answer) for answer in ("ab", "aa", "ab", "b")]
    assert merged([samples], same_letter) == [{"aa": "ab", "ab": "ab", "b": "b"}]


def test_comparisons_are_bounded() -> None:
    asked: list[tuple[str, str]] = []

    def different(couples: Sequence[tuple[str, str]]) -> list[Compared]:
        asked.extend(couples)
        return ["different"] * len(couples)

    (spelled,) = merged([[(str(n), str(n)) for n in range(40)]], different)
    assert len(asked) == MOST_COMPARED * (MOST_COMPARED - 1) // 2
    assert len(spelled) == MOST_COMPARED


def test_what_is_costly_is_not_asked_again() -> None:
    asked: list[tuple[str, str]] = []

    def costly(couples: Sequence[tuple[str, str]]) -> list[Compared]:
        asked.extend(couples)
        return ["costly" if "a" in couple else "equal" for couple in couples]

    assert merged([[(name, name) for name in "abcd"]], costly) == [{"a": "a", "b": "b", "c": "c", "d": "c"}]
    assert [couple for couple in asked if "a" in couple] == [("a", "b")]
