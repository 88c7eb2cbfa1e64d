"""Identical outputs get the score of the harness that a style is named after.

The harnesses' verdicts are recorded (`benchmarks/parity`). Where SOD_HARNESSES names an environment that has them, they
are asked again, and for their prompts too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.catalogue import STYLES
from sod.records import Message, Task
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox.local import LocalSandbox

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/parity"))
import compare  # noqa: E402
import invented  # noqa: E402

SLOW = {*compare.TESTS, ("lm-eval", "math500")}
"""Benchmarks whose outputs are run, or put to math-verify."""
HARNESSES = os.environ.get("SOD_HARNESSES", "")


@pytest.fixture(scope="module")
def code() -> Iterator[CodeVerifier]:
    sandbox = LocalSandbox()
    yield CodeVerifier(sandbox.execute, seconds=30.0)
    sandbox.close()


def unused() -> CodeVerifier:
    raise AssertionError("no program is to be run")


def is_slow(output: invented.Output) -> bool:
    return output.benchmark in SLOW or (output.style, output.benchmark) in SLOW


def differing(style: str, slow: bool, code: CodeVerifier) -> list[invented.Output]:
    """The outputs on which our verdict is not the harness's."""
    made = invented.outputs(style)
    at = [number for number, output in enumerate(made) if is_slow(output) is slow]
    expected = compare.recorded(style, made)
    found = compare.ours(style, [made[number] for number in at], code)
    return [made[number] for number, verdict in zip(at, found, strict=True) if verdict != expected[number]]


@pytest.mark.parametrize("style", STYLES)
def test_what_is_read_gets_the_harness_score(style: str) -> None:
    assert differing(style, False, unused) == []  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("style", ["sod", "lm-eval", "official"])
def test_what_is_run_or_compared_symbolically_gets_the_harness_score(style: str, code: CodeVerifier) -> None:
    assert differing(style, True, code) == []


@pytest.mark.parametrize("style", STYLES)
def test_the_outputs_are_many_and_tell_harnesses_from_plain_strings(style: str) -> None:
    made = invented.outputs(style)
    expected = compare.recorded(style, made)
    assert len(made) >= 200
    assert sum(expected) >= 60
    errs = [compare.naive(output) != verdict for output, verdict in zip(made, expected, strict=True)]
    assert sum(errs) >= 40


@pytest.mark.slow
@pytest.mark.skipif(not HARNESSES, reason="SOD_HARNESSES names no environment with the harnesses")
@pytest.mark.parametrize("style", STYLES)
def test_the_harnesses_say_what_was_recorded(style: str) -> None:
    made = invented.outputs(style)
    assert compare.theirs(made, Path(HARNESSES)) == compare.recorded(style, made)


WORDS = "How much is it?\nSay so."
PROMPTS = (
    ("lm-eval", "aime24", "aime/aime24.yaml", {"Problem": WORDS}),
    ("lm-eval", "aime25", "aime/aime25.yaml", {"problem": WORDS}),
    ("lm-eval", "math500", "minerva_math/minerva_math500.yaml", {"problem": WORDS}),
    ("lm-eval-strict", "math500", "hendrycks_math/hendrycks_math500.yaml", {"problem": WORDS}),
    ("lm-eval", "gsm8k", "gsm8k/gsm8k-cot-zeroshot.yaml", {"question": WORDS}),
    (
        "lm-eval",
        "gpqa_diamond",
        "gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml",
        {"Question": WORDS, "choice1": "a b", "choice2": "c. d", "choice3": "e", "choice4": "f"},
    ),
    ("lm-eval", "humaneval", "humaneval/humaneval_instruct.yaml", {"prompt": WORDS}),
    ("lm-eval", "mbpp", "mbpp/mbpp_instruct.yaml", {"text": WORDS, "test_list": ["assert a", "assert b", "assert c"]}),
)


@pytest.mark.slow
@pytest.mark.skipif(not HARNESSES, reason="SOD_HARNESSES names no environment with the harnesses")
def test_prompts_are_those_of_the_task_files() -> None:
    rows = [{"task": task, "document": document} for _, _, task, document in PROMPTS]
    expected = compare.asked_of(Path(HARNESSES), rows, "--prompts")
    found = []
    for style, benchmark, _, document in PROMPTS:
        task = Task("t", (Message("user", "?"),), "")
        choices = ("a  b", "c [title]d", "e", " f")
        problem = Problem("t", benchmark, "code", WORDS, "", choices, task=task, row=document)
        found.append(STYLES[style].prompt(problem)[-1].content)
    assert found == expected
