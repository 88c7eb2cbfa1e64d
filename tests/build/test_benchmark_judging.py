"""What judges a benchmark's episodes: made anew in any process, by the style alone, also where they were cut off."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from sod.build.benchmarks import StyleJudge, benchmark_recipe, refuse_unasked, style_named
from sod.evaluation.benchmarks.catalogue import BENCHMARKS
from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.benchmarks.reward import StyleReward
from sod.recipe import Recipe, parse_recipe
from sod.records import Episode, Fault, FaultKind, Said, SodError, StopReason, Task, Trajectory, Turn, Verdict

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
import benchmark_rows as rows

RECIPE = {"student": {"path": "nowhere"}, "evaluation": {"temperature": 0.7}, "tools": {"python": {"preload": []}}}


def recipe() -> Recipe:
    return parse_recipe(RECIPE, "recipe")


def problems() -> tuple[Problem, ...]:
    read = (
        BENCHMARKS["math500"].read(rows.MATH_500, "m"),
        BENCHMARKS["gpqa_diamond"].read(rows.GPQA, "g"),
        BENCHMARKS["humaneval"].read(rows.HUMANEVAL, "h"),
    )
    return tuple(read)


def episode(name: str, text: str, stop: StopReason = StopReason.ANSWER) -> Episode:
    turn = Turn(1, 0, 0, text, said=Said(answer=text))
    return Episode(Task(name, (), ""), Trajectory(name, 0, 0, (), (), (), (turn,), stop))


@pytest.mark.slow
def test_each_kind_of_problem_is_judged_by_a_judge_that_was_sent() -> None:
    """Math, a choice and a program, right and wrong, by a copy as a worker process gets it."""
    judge = pickle.loads(pickle.dumps(StyleJudge("official", problems())))
    right = [
        "So it is $\\boxed{\\frac{x}{2}}$.",
        "Answer: A",
        f"```python\n{rows.HUMANEVAL['prompt']}    return 2 * n\n```",
    ]
    wrong = ["So it is $\\boxed{2x}$.", "Answer: C", f"```python\n{rows.HUMANEVAL['prompt']}    return n + 2\n```"]
    names = ["m", "g", "h"]
    with ExitStack() as resources:
        reward = judge(recipe(), resources, (), lambda text: None)
        asked = [episode(*pair) for pair in zip(names * 2, right + wrong, strict=True)]
        judged = reward(asked)
    assert [one.correct for one in judged] == [True] * 3 + [False] * 3, [one.verdict for one in judged]
    assert [one.reward for one in judged] == [1.0] * 3 + [0.0] * 3
    assert [one.reward_parts for one in judged[:1]] == [{"outcome": 1.0}]


def test_an_answer_that_was_cut_off_is_the_styles_to_judge() -> None:
    """Harnesses read what is there; a recipe's verifiers would hold it for no answer."""
    judge = StyleJudge("official", problems()[:2])
    with ExitStack() as resources:
        reward = judge(recipe(), resources, (), lambda text: None)
        (cut,) = reward([episode("g", "Answer: A\nbecause", StopReason.LENGTH)])
    assert cut.correct


class Failing:
    """A verifier that fails for a while."""

    def __init__(self, times: int) -> None:
        self.left = times

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        self.left -= 1
        failed = Fault(FaultKind.VERIFIER, "down")
        return [failed if self.left >= 0 else Verdict("5", 1.0) for _ in episodes]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        return [[None for _ in group] for group in groups]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("times", "fails"), [(2, False), (3, True)])
def test_a_verifier_that_fails_is_tried_again_and_then_a_fault(times: int, fails: bool) -> None:
    (judged,) = StyleReward(Failing(times), retries=2)([episode("m", "5")])
    assert (judged.fault is not None) is fails
    assert judged.correct is not fails


def test_a_recipe_keeps_what_is_not_the_benchmarks() -> None:
    """Tools only where the style shows some; rewards and an environment never."""
    heard: list[str] = []
    given = recipe()
    with_tools = benchmark_recipe(given, style_named("sod"), heard.append)
    without = benchmark_recipe(given, style_named("official"), heard.append)
    assert with_tools.tools.python is not None
    assert without.tools.python is None
    assert without.tools.own == {}
    assert with_tools.reward.verifier is None
    assert with_tools.chat == given.chat
    assert heard == []
    greedy = given.evaluation.model_copy(update={"temperature": 0.0, "k": 4})
    benchmark_recipe(given.model_copy(update={"evaluation": greedy}), style_named("lm-eval"), heard.append)
    assert "4 samples of a problem are all the same" in heard[0]


def test_what_a_style_does_not_have_is_refused() -> None:
    with pytest.raises(SodError, match=r"--style lm-eval does not have livecodebench_v6; it has aime24, "):
        refuse_unasked(style_named("lm-eval"), [BENCHMARKS["math500"], BENCHMARKS["livecodebench_v6"]])


def test_problems_of_one_id_have_not_to_be_of_one_style() -> None:
    """What tells two evaluations apart holds the style and the tests, which no prompt shows."""
    from sod.build.benchmarks import _task

    math, _, code = problems()
    lenient, strict = (_task(math, style_named(name)) for name in ("lm-eval", "lm-eval-strict"))
    assert lenient.extra != strict.extra
    assert code.task is not None
    other = replace(code, task=replace(code.task, ground_truth=code.task.ground_truth.replace("4", "5")))
    assert _task(code, style_named("official")) != _task(other, style_named("official"))
