"""The reward function: verifiers by data source, verifier faults, shaping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from sod.records import Episode, Fault, FaultKind, StopReason, Verdict
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward
from support import answered

BROKEN = Fault(FaultKind.VERIFIER, "no worker starts")
SHAPING = Shaping(1.0, -1.0)


@dataclass
class Flaky:
    """A verifier that faults on the texts in `broken` for their first `times` attempts."""

    broken: set[str]
    times: int
    fault: Fault = BROKEN
    asked: list[list[str]] = field(default_factory=list)

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        self.asked.append([episode.trajectory.turns[-1].said.answer for episode in episodes])
        tries = [text for batch in self.asked for text in batch]
        return [
            self.fault if text in self.broken and tries.count(text) <= self.times else Verdict(text, 1.0, "fine")
            for text in self.asked[-1]
        ]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        return [["flaky" for _ in group] for group in groups]

    def close(self) -> None:
        """Nothing is open."""


def test_every_source_votes_by_its_verifier() -> None:
    """In the order of the groups, also where one has nobody left."""
    reward_function = VerifierReward(MathVerifier(), {"odd": Flaky(set(), 0)}, SHAPING)
    groups = [
        [replace(one, trajectory=replace(one.trajectory, answer="7"))]
        for one in (answered("", "1"), answered("", "1", source="odd"), answered("", "2"))
    ]
    assert reward_function.votes([*groups, []]) == [["7"], ["flaky"], ["7"], []]


def test_each_source_has_its_verifier() -> None:
    """Math reads a letter as text, choice reads nothing but letters."""
    reward_function = VerifierReward(MathVerifier(), {"gpqa": ChoiceVerifier()}, SHAPING)
    texts = [
        ("\\boxed{2.0}", "2", "x"),
        ("\\boxed{(b)}", "B", "gpqa"),
        ("\\boxed{2.0}", "B", "gpqa"),
        ("none", "2", "y"),
    ]
    rewarded = reward_function([answered(text, truth, source=source) for text, truth, source in texts])
    assert [(t.answer, t.correct, t.reward) for t in rewarded] == [
        ("2", True, 1.0),
        ("B", True, 1.0),
        (None, False, -1.0),
        (None, False, -1.0),
    ]


@pytest.mark.parametrize("stop", [StopReason.MAX_TURNS, StopReason.LENGTH])
def test_what_was_cut_off_is_not_verified(stop: StopReason) -> None:
    verifier = Flaky(set(), 0)
    (rewarded,) = VerifierReward(verifier, {}, SHAPING)([answered("right", stop=stop)])
    assert (rewarded.correct, rewarded.reward, rewarded.verdict, verifier.asked) == (False, -1.0, stop.value, [])


def test_a_passing_verifier_fault_leaves_no_trace() -> None:
    """Only the answer in question is asked about again."""
    verifier = Flaky({"b"}, times=2)
    rewarded = VerifierReward(verifier, {}, SHAPING, retries=2)([answered(text) for text in "abc"])
    assert [(t.fault, t.correct, t.verdict) for t in rewarded] == [(None, True, "fine")] * 3
    assert verifier.asked == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(("fault", "attempts"), [(BROKEN, 3), (Fault(FaultKind.VERIFIER, "x", retryable=False), 1)])
def test_a_lasting_verifier_fault_gives_no_reward(fault: Fault, attempts: int) -> None:
    """The trajectory stays what it was and carries the fault: not wrong, not scored."""
    verifier = Flaky({"b"}, 99, fault)
    good, bad = VerifierReward(verifier, {}, SHAPING, retries=2)([answered(text) for text in "ab"])
    assert (good.fault, good.reward) == (None, 1.0)
    assert (bad.fault, bad.reward, bad.correct, bad.stop) == (fault, 0.0, False, StopReason.ANSWER)
    assert len(verifier.asked) == attempts


def test_shaping_reaches_the_reward() -> None:
    """Right, wrong with the tool bonus (no round, no bonus), and DAPO's penalty: 2 tokens of 3, buffer 2."""
    shaping = Shaping(1.0, tool_bonus=True, overlong_buffer=2, max_response_tokens=3)
    right, wrong = VerifierReward(MathVerifier(), {}, shaping)(
        [answered("\\boxed{2}", "2"), answered("\\boxed{3}", "2")]
    )
    assert right.reward == pytest.approx(1.0 - 0.5)
    assert wrong.reward == pytest.approx(-1.0 - 0.5)


def test_the_parts_of_a_reward_add_up() -> None:
    """What is switched off has no part; a right answer earns no bonus."""
    whole = Shaping(1.0, tool_bonus=True, overlong_buffer=2, max_response_tokens=3)
    right, wrong = VerifierReward(MathVerifier(), {}, whole)([answered("\\boxed{2}", "2"), answered("\\boxed{3}", "2")])
    assert right.reward_parts == {"outcome": 1.0, "tool_bonus": 0.0, "overlong": -0.5}
    assert wrong.reward_parts == {"outcome": -1.0, "tool_bonus": 0.0, "overlong": -0.5}
    assert [t.reward for t in (right, wrong)] == [sum(t.reward_parts.values()) for t in (right, wrong)]
    (plain,) = VerifierReward(MathVerifier(), {}, SHAPING)([answered("\\boxed{3}", "2")])
    assert plain.reward_parts == {"outcome": -1.0}


def test_the_verifier_sees_the_whole_episode() -> None:
    """Task, ledger, and every turn as it was read."""
    seen: list[Episode] = []

    class Looking(Flaky):
        def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
            seen.extend(episodes)
            return super().verify(episodes)

    episodes = [answered(text, truth, {"n": truth}) for text, truth in (("a", "1"), ("b", "2"))]
    VerifierReward(Looking(set(), 0), {}, SHAPING)(episodes)
    assert seen == episodes


def test_a_verifier_that_loses_an_answer_is_an_error() -> None:
    class Short(Flaky):
        def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
            return super().verify(episodes)[1:]

    with pytest.raises(ValueError):
        VerifierReward(Short(set(), 0), {}, SHAPING)([answered("a"), answered("b")])
