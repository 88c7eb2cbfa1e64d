"""The reward_function: verifiers by data source, verifier faults, shaping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from sod.records import Fault, FaultKind, Message, StopReason, Task, Trajectory, Turn, Verdict
from sod.rewards.base import Answer
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward

BROKEN = Fault(FaultKind.VERIFIER, "no worker starts")
SHAPING = Shaping(1.0, -1.0)


def episode(
    text: str, truth: str = "2", source: str = "x", stop: StopReason = StopReason.ANSWER
) -> tuple[Task, Trajectory]:
    turn = Turn(1, 1, 3, text)
    played = Trajectory("t", 0, 1, (5, 6, 7), (0, 1, 1), (0.0, -1.0, -1.0), (turn,), stop)
    return Task("t", (Message("user", "?"),), truth, source), played


@dataclass
class Flaky:
    """A verifier that faults on the texts in `broken` for their first `times` attempts."""

    broken: set[str]
    times: int
    fault: Fault = BROKEN
    asked: list[list[str]] = field(default_factory=list)

    def verify(self, answers: Sequence[Answer]) -> list[Verdict | Fault]:
        self.asked.append([answer.text for answer in answers])
        tries = [text for batch in self.asked for text in batch]
        return [
            self.fault
            if answer.text in self.broken and tries.count(answer.text) <= self.times
            else Verdict(answer.text, True, "fine")
            for answer in answers
        ]

    def close(self) -> None:
        """Nothing is open."""


def test_each_source_has_its_verifier() -> None:
    """Math reads a letter as text, choice reads nothing but letters."""
    reward_function = VerifierReward(MathVerifier(), {"gpqa": ChoiceVerifier()}, SHAPING)
    texts = [
        ("\\boxed{2.0}", "2", "x"),
        ("\\boxed{(b)}", "B", "gpqa"),
        ("\\boxed{2.0}", "B", "gpqa"),
        ("none", "2", "y"),
    ]
    judged = reward_function([episode(*text) for text in texts])
    assert [(t.answer, t.correct, t.reward) for t in judged] == [
        ("2", True, 1.0),
        ("B", True, 1.0),
        (None, False, -1.0),
        (None, False, -1.0),
    ]


@pytest.mark.parametrize("stop", [StopReason.MAX_TURNS, StopReason.LENGTH])
def test_what_was_cut_off_is_not_verified(stop: StopReason) -> None:
    verifier = Flaky(set(), 0)
    (judged,) = VerifierReward(verifier, {}, SHAPING)([episode("right", stop=stop)])
    assert (judged.correct, judged.reward, judged.verdict, verifier.asked) == (False, -1.0, stop.value, [])


def test_a_passing_verifier_fault_leaves_no_trace() -> None:
    """Only the answer in question is asked about again."""
    verifier = Flaky({"b"}, times=2)
    judged = VerifierReward(verifier, {}, SHAPING, retries=2)([episode(text) for text in "abc"])
    assert [(t.fault, t.correct, t.verdict) for t in judged] == [(None, True, "fine")] * 3
    assert verifier.asked == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(("fault", "attempts"), [(BROKEN, 3), (Fault(FaultKind.VERIFIER, "x", retryable=False), 1)])
def test_a_lasting_verifier_fault_gives_no_reward(fault: Fault, attempts: int) -> None:
    """The trajectory stays what it was and carries the fault: not wrong, not scored."""
    verifier = Flaky({"b"}, 99, fault)
    good, bad = VerifierReward(verifier, {}, SHAPING, retries=2)([episode(text) for text in "ab"])
    assert (good.fault, good.reward) == (None, 1.0)
    assert (bad.fault, bad.reward, bad.correct, bad.stop) == (fault, 0.0, False, StopReason.ANSWER)
    assert len(verifier.asked) == attempts


def test_shaping_reaches_the_reward() -> None:
    """Right, wrong with the tool bonus (two turns earn nothing), and DAPO's penalty: 2 tokens of 3, buffer 2."""
    shaping = Shaping(1.0, -9.0, tool_bonus=True, overlong_buffer=2, max_response_tokens=3)
    right, wrong = VerifierReward(MathVerifier(), {}, shaping)([episode("\\boxed{2}"), episode("\\boxed{3}")])
    assert right.reward == pytest.approx(1.0 - 0.5)
    assert wrong.reward == pytest.approx(-1.0 - 0.5)
