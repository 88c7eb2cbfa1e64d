"""The math verifier on MATH-500 answers: rewritings are right, perturbations wrong, junk only wrong."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from sod.records import Fault, Verdict
from sod.rewards import math_workers
from sod.rewards.math_verifier import LONGEST_ASKED, MathVerifier, may_ask
from support import answered

ANSWERS = json.loads((Path(__file__).parent / "data" / "math500_answers.json").read_text())["answers"]

JUNK = [
    "9^9^9^9",
    "10**10**10",
    "x^{9^{9^{9}}}",
    "e^{e^{e^{e^{e^5}}}}",
    "(x+1)^{1000000}",
    "99999999!",
    r"\binom{10^9}{5\cdot 10^8}",
    r"\pi^{10^{10}}",
    r"\int_0^1 x^{x^{x}} dx",
    r"\sum_{k=1}^{10^{12}} \frac{1}{k}",
    "{" * 400 + "x" + "}" * 400,
    r"\sqrt{" * 150 + "2" + "}" * 150,
    r"\frac{x}{" * 100 + "1" + "}" * 100,
    "(" * 200 + "x" + ")" * 200,
    "x" * 100_000,
    "+".join("x" * 400),
    "__import__('os').abort()",
    "\\",
    "$x$ \n $y$ \t \x00 \ud800",
]


@pytest.fixture(scope="module")
def verifier(math_verifier: MathVerifier) -> MathVerifier:
    return math_verifier


def verdicts(verifier: MathVerifier, pairs: list[tuple[str, str]]) -> list[Verdict]:
    found = verifier.verify([answered(rf"so \boxed{{{box}}}.", truth) for box, truth in pairs])
    assert not [verdict for verdict in found if isinstance(verdict, Fault)]
    return [verdict for verdict in found if isinstance(verdict, Verdict)]


def cpu_seconds_of_children() -> float:
    """Of those that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wrongly(verifier: MathVerifier, kind: str, correct: bool, every: int = 1) -> list[tuple[str, str]]:
    pairs = [(box, row["answer"]) for row in ANSWERS for box in row[kind]][::every]
    return [
        pair for pair, verdict in zip(pairs, verdicts(verifier, pairs), strict=True) if verdict.correct is not correct
    ]


def test_every_gold_answer_is_right(verifier: MathVerifier) -> None:
    assert len(ANSWERS) >= 60
    assert all(verdict.correct for verdict in verdicts(verifier, [(row["answer"], row["answer"]) for row in ANSWERS]))


@pytest.mark.slow
def test_every_equivalent_rewriting_is_right(verifier: MathVerifier) -> None:
    assert wrongly(verifier, "same", True) == []


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_no_perturbation_is_right(verifier: MathVerifier, every: int) -> None:
    assert wrongly(verifier, "different", False, every) == []


def test_what_was_found_equal_votes_together(verifier: MathVerifier) -> None:
    found = verdicts(verifier, [(box, "x+1") for box in ("1+x", "x + 1", r"\frac{2x+2}{2}", "x+2")])
    assert [verdict.answer for verdict in found] == ["x+1", "x+1", "x+1", "x+2"]


@pytest.mark.parametrize(
    ("box", "truth", "right"),
    [
        ("3, 5", "3, 5", True),
        ("5,3", "3, 5", True),
        (r"3 \text{ and } 5", "3, 5", True),
        ("5 or 3", "3, 5", True),
        ("x=3 or x=5", "3, 5", True),
        (r"\{5, 3\}", "3, 5", True),
        ("3", "3, 5", False),
        ("3, 5, 7", "3, 5", False),
        ("3, 6", "3, 5", False),
        ("3, 500", "3, 500", True),
        ("500, 3", "3, 500", True),
        ("3500", "3, 500", False),
        ("x=4, y=3", "x=3, y=4", False),
        ("234,1", "1,234", False),
        (r"1+x, \sqrt{12}", r"2\sqrt{3}, x+1", True),
    ],
)
def test_a_list_is_right_as_a_whole_in_any_order(verifier: MathVerifier, box: str, truth: str, right: bool) -> None:
    assert verdicts(verifier, [(box, truth)])[0].correct == right


def test_no_box_answers_nothing(verifier: MathVerifier) -> None:
    (verdict,) = verifier.verify([answered("it is x+1", "x+1")])
    assert verdict == Verdict(None, False, "nothing was boxed")


@pytest.mark.parametrize(
    "box", [r"17\cdot 23", "400-9", r"\sqrt{152881}", "391x^0", "391+y-y", r"\frac{391x}{x}", "390=391"]
)
def test_a_number_must_be_written_out_unless_switched_off(verifier: MathVerifier, box: str) -> None:
    assert not verdicts(verifier, [(box, "391")])[0].correct
    assert may_ask(box, "391") is None


def test_unevaluated_expressions_can_be_accepted() -> None:
    lenient = MathVerifier(seconds=30, accept_unevaluated=True)
    assert [v.correct for v in verdicts(lenient, [(r"17\cdot 23", "391"), (r"17\cdot 24", "391"), ("392", "391")])] == [
        True,
        False,
        False,
    ]
    lenient.close()


@pytest.mark.parametrize(
    ("box", "truth"),
    [("24 clips", "24"), ("5m", "5"), ("no", r"\text{on}"), ("sqrt(3)", r"\sqrt{3}"), ("3,3", "1,2,3"), ("R-r", "0x")],
)
def test_pairs_whose_yes_would_mean_nothing_are_wrong(verifier: MathVerifier, box: str, truth: str) -> None:
    assert may_ask(box, truth) is None
    assert not verdicts(verifier, [(box, truth)])[0].correct


def test_long_texts_are_compared_exactly_only(verifier: MathVerifier) -> None:
    long = "+".join(["x"] * LONGEST_ASKED)
    assert may_ask(long, "x+1") is None
    assert verdicts(verifier, [(long, long)])[0].correct


@pytest.mark.slow
def test_junk_is_wrong_within_its_time_and_never_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_workers, "WALL_FACTOR", 60)  # whatever else runs on the machine
    before = cpu_seconds_of_children()
    hasty = MathVerifier(seconds=1)
    found = verdicts(hasty, [(junk, r"x^2+\pi") for junk in JUNK])
    assert not any(verdict.correct for verdict in found)
    assert any("time-out" in verdict.detail for verdict in found)
    assert verdicts(hasty, [(r"\pi+x\cdot x", r"x^2+\pi")])[0].correct
    hasty.close()
    # At most a second of CPU time each, and the start of the interpreter.
    assert cpu_seconds_of_children() - before < len(JUNK) + 30.0
