"""The styles in which recorded outputs are scored: all others, and one for programs that a harness took out already."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.recorded.columns import PROGRAMS
from sod.evaluation.recorded.reading import Recorded
from sod.evaluation.styles.base import StyleSampling
from sod.evaluation.styles.catalogue import STYLES
from sod.evaluation.styles.judges import by_running
from sod.evaluation.styles.outputs import last_turn
from sod.evaluation.styles.programs import whole_program
from sod.evaluation.styles.ruled import RuledStyle, Rules
from sod.records import SodError

NAME = "programs"
SECONDS = 3.0
"""Of one program, as in openai/human-eval."""
Program = Callable[[Problem, str], str | None]
_UNSAID = StyleSampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=0, k=1)
_FLAWS = (f"a program that is right but takes {SECONDS:g} s is wrong, so that figures depend on the machine's speed",)


def scoring_style(name: str, recorded: Recorded) -> RuledStyle:
    """The style of that name, for these outputs. Raises SodError where there is none."""
    if name == NAME:
        return _whole_programs() if set(recorded.columns) <= set(PROGRAMS) else _completions()
    if name in STYLES:
        return STYLES[name]
    near = get_close_matches(name.lower(), [*STYLES, NAME], n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    raise SodError(f"--style {name}: {meant}there are {', '.join((*STYLES, NAME))}")


def style_limits(style: str, benchmark: str) -> list[str]:
    """The overrides by which programs get the time that the style gives them, unless the user says otherwise."""
    return [f"reward.code_seconds={SECONDS:g}"] if style == NAME and benchmark == "humaneval" else []


def _completions() -> RuledStyle:
    return _style(lambda problem, text: problem.question + text)


def _whole_programs() -> RuledStyle:
    return _style(lambda _, text: text)


def _style(of_humaneval: Program) -> RuledStyle:
    """Programs run as they are: a HumanEval completion behind its prompt, all others by themselves."""
    as_it_is = by_running(lambda _, text: text, whole_program)
    behind_prompt = by_running(of_humaneval, whole_program)
    rules = {
        "humaneval": Rules(_no_prompt, last_turn, behind_prompt, _UNSAID, _FLAWS),
        "mbpp": Rules(_no_prompt, last_turn, as_it_is, _UNSAID),
        "livecodebench_v6": Rules(_no_prompt, last_turn, as_it_is, _UNSAID),
    }
    return RuledStyle(NAME, False, rules, lambda problems, _: list(problems))


def _no_prompt(problem: Problem) -> str:
    """What was asked is the other harness's."""
    return problem.question
