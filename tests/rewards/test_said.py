"""What counts as an answer: every verifier judges what the final turn says, neither its thoughts nor its calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from sod.chat.dialects.hermes import read, render_call
from sod.records import Episode, Said, ToolCall, Turn, Verdict
from sod.rewards.base import ONLY_A_THOUGHT, Verifier, verified_text
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.code import CodeVerifier
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward
from sod.runlog import trajectory_of, trajectory_row
from sod.tools.sandbox.local import LocalSandbox
from support import answered

DOUBLES = {"input_output": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]})}


@dataclass(frozen=True)
class Judge:
    """A verifier, a right and a wrong answer in its form, and what its task needs."""

    verifier: Verifier
    right: str
    wrong: str
    truth: str = ""
    extra: dict[str, str] | None = None


@pytest.fixture(params=["math", "choice", "code", "code, whole text"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    kind = request.param
    if kind == "math":
        found = Judge(MathVerifier(), "so \\boxed{5}", "so \\boxed{6}", "5")
    elif kind == "choice":
        found = Judge(ChoiceVerifier(answer_line=True), "so\nAnswer: B", "so\nAnswer: C", "B")
    else:
        sandbox: LocalSandbox = request.getfixturevalue("sandbox")
        block = "so\n```python\nprint({} * int(input()))\n```\n"
        whole = kind == "code, whole text"
        found = Judge(CodeVerifier(sandbox.execute, whole_text=whole), block.format(2), block.format(3), "", DOUBLES)
    yield found
    found.verifier.close()


# what the turn is, whether the prompt leaves a thought open, and what is found: right, wrong, or why nothing
SITUATIONS = [
    ("{right}", False, "right"),
    ("{wrong}", False, "wrong"),
    ("<think>hm</think>{right}", False, "right"),
    ("<think>{wrong}</think>{right}", False, "right"),
    ("<think>{right}</think>{wrong}", False, "wrong"),
    ("<think>{right}", False, ONLY_A_THOUGHT),
    ("<think>{right}</think>", False, ONLY_A_THOUGHT),
    ("<think>{right}</think>\n\n", False, ONLY_A_THOUGHT),
    ("{right}\n<think>but {wrong}", False, "right"),
    ("{right}\n<think>but {wrong}</think>", False, "right"),
    ("<think>a</think>{wrong}\n<think>{right}</think>", False, "wrong"),
    ("{right}</think>", False, ONLY_A_THOUGHT),
    ("{right}</think>\n{wrong}", False, "wrong"),
    ("{wrong}</think>\n{right}", False, "right"),
    ("{right}", True, ONLY_A_THOUGHT),
    ("{right}</think>", True, ONLY_A_THOUGHT),
    ("{right}</think>\n{wrong}", True, "wrong"),
    ("hm</think>\n{right}", True, "right"),
    ("<think>{right}", True, ONLY_A_THOUGHT),
]


def episode_of(judge: Judge, text: str, thought_open: bool) -> Episode:
    text = text.format(right=judge.right, wrong=judge.wrong)
    return answered(text, judge.truth, judge.extra, thought_open=thought_open)


def test_every_verifier_judges_what_was_said(judge: Judge) -> None:
    """Closed, unclosed and template-opened thoughts; all at once, as programs run together."""
    episodes = [episode_of(judge, text, thought_open) for text, thought_open, _ in SITUATIONS]
    rewarded = VerifierReward(judge.verifier, {}, Shaping())(episodes)
    for (text, thought_open, expected), trajectory in zip(SITUATIONS, rewarded, strict=True):
        assert trajectory.fault is None
        assert trajectory.correct == (expected == "right"), (text, thought_open)
        assert (trajectory.answer is None) == (expected == ONLY_A_THOUGHT), (text, thought_open)
        assert (trajectory.verdict == ONLY_A_THOUGHT) == (expected == ONLY_A_THOUGHT), (text, thought_open)


def test_verifiers_themselves_find_nothing_in_a_thought(judge: Judge) -> None:
    """Without the reward function around them."""
    thoughts = [episode_of(judge, "<think>{right}", False), episode_of(judge, "{right}", True)]
    for outcome in judge.verifier.verify(thoughts):
        assert isinstance(outcome, Verdict)
        assert (outcome.answer, outcome.score) == (None, 0.0)


def test_an_answer_beside_a_thought_is_read_and_its_lack_is_named_as_ever(judge: Judge) -> None:
    """A thought is not why nothing was found where something else was said."""
    (rewarded,) = VerifierReward(judge.verifier, {}, Shaping())(
        [episode_of(judge, "<think>{right}</think>done", False)]
    )
    assert not rewarded.correct
    assert rewarded.verdict != ONLY_A_THOUGHT


def test_the_text_of_calls_and_of_earlier_turns_is_not_said(judge: Judge) -> None:
    call = render_call(ToolCall("python", {"code": judge.right}))
    assert verified_text(answered(f"{call}done")) == "done"
    said_before = episode_of(judge, "{right}", False)
    silent = Turn(2, 3, 3, "", said=Said())
    trajectory = replace(said_before.trajectory, turns=(*said_before.trajectory.turns, silent))
    (outcome,) = judge.verifier.verify([replace(said_before, trajectory=trajectory)])
    assert isinstance(outcome, Verdict)
    assert (outcome.answer, outcome.score) == (None, 0.0)


def test_the_raw_text_of_a_turn_is_not_judged(judge: Judge) -> None:
    """Only its reading is: there is one rule, and it is the dialect's."""
    said_nothing = episode_of(judge, "{right}", False)
    (turn,) = said_nothing.trajectory.turns
    trajectory = replace(said_nothing.trajectory, turns=(replace(turn, said=Said(thinking=turn.text)),))
    (outcome,) = judge.verifier.verify([replace(said_nothing, trajectory=trajectory)])
    assert isinstance(outcome, Verdict)
    assert (outcome.answer, outcome.score) == (None, 0.0)


@pytest.mark.parametrize(("text", "thought_open", "expected"), SITUATIONS)
def test_an_episode_that_was_written_down_says_the_same(text: str, thought_open: bool, expected: str) -> None:
    episode = answered(text.format(right="\\boxed{5}", wrong="\\boxed{6}"), "5", thought_open=thought_open)
    again = replace(episode, trajectory=trajectory_of(json.loads(json.dumps(trajectory_row(episode.trajectory)))))
    assert verified_text(again) == verified_text(episode) == read(episode.trajectory.turns[0].text, thought_open).answer
