"""How lm-eval's tasks read and compare answers (version 0.4.13), for its styles (`lm_eval`)."""

from __future__ import annotations

import re
from collections.abc import Callable

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles import harness_filters as filters
from sod.evaluation.styles.boxes import harness_box
from sod.evaluation.styles.judges import Judge, Read, by_reading
from sod.evaluation.styles.outputs import last_turn
from sod.evaluation.styles.programs import FENCE, cut
from sod.evaluation.styles.spelling import equal, spelling_or_text
from sod.records import Episode, Verdict

_ENDS = ("</s>", "<|im_end|>")
AIME_STOPS = ("Question:", *_ENDS, "<|eot_id|>")
GSM8K_STOPS = ("Q:", *_ENDS)
GPQA_STOPS = ("</s>",)
MATH_STOPS = ("Problem:",)
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

_OPENED = re.compile(r"```(?:python|py)?[ \t]*(?=\n)")
_BLOCK = re.compile(r"```(?:\w+)?\n?(.*?)\n?```", re.DOTALL)
_PLAIN_TEXT_LIMIT = 40  # characters of a text taken as its own answer; more are a solution


def between_dollars(text: str) -> str:
    """What stands between the first and the last dollar sign; all where there are less than two."""
    first, last = text.find("$"), text.rfind("$")
    return text if first == last else text[first + 1 : last]


def _matched(answer: str, problem: Problem, found: bool) -> Verdict:
    """The verdict of lm-eval's copy of the MATH repository's comparison; a whole solution is no answer to show."""
    right = equal(answer, problem.answer, lenient=False)
    shown = found or right or len(answer) <= _PLAIN_TEXT_LIMIT
    return Verdict(spelling_or_text(answer, lenient=False) if shown and answer else None, float(right))


def aime(problem: Problem, text: str) -> Verdict:
    """The box, else what is between dollar signs, else the whole text."""
    text = cut(text, AIME_STOPS)
    box = harness_box(text)
    answer = between_dollars(text) if box is None else box
    return _matched(answer, problem, box is not None or "$" in text)


def hendrycks_math(problem: Problem, text: str) -> Verdict:
    """What is between dollar signs, else the whole text; a box is not looked for."""
    text = cut(text, MATH_STOPS)
    return _matched(between_dollars(text), problem, text.count("$") > 1)


def minerva_math(problem: Problem, text: str) -> Read:
    """math-verify's own search in the text and in the published solution."""
    text = cut(text, MATH_STOPS)
    solution = problem.row.get("solution")
    truth = solution if isinstance(solution, str) and solution else f"\\boxed{{{problem.answer}}}"
    box = harness_box(text)
    return Read(text, truth, spelling_or_text(box, lenient=False) if box else None)


def gsm8k(find: Callable[[str], str]) -> Judge:
    """The judge that compares what a filter finds."""

    def read(problem: Problem, text: str) -> Verdict:
        found = find(cut(text, GSM8K_STOPS))
        answer = filters.number_spelling(found)
        right = answer == filters.number_spelling(problem.answer)
        return Verdict(None if found == filters.INVALID else answer, float(right))

    return by_reading(read)


def options(problem: Problem) -> list[str]:
    """The options as they are shown."""
    return [choice.strip().replace(" [title]", ". ").replace("  ", " ") for choice in problem.choices]


def gpqa(find: Callable[[Problem, str], str]) -> Judge:
    """The judge that compares what a filter finds with the right letter."""

    def read(problem: Problem, text: str) -> Verdict:
        found = find(problem, cut(text, GPQA_STOPS))
        answer = filters.choice_spelling(found)
        right = answer == problem.letter.lower()
        return Verdict(None if found == filters.INVALID else answer.upper(), float(right))

    return by_reading(read)


def continued(problem: Problem, text: str) -> str | None:
    """HumanEval: the prompt and what continues it, up to a stop word and up to a fence."""
    return problem.question + cut(text, HUMANEVAL_STOPS).partition(FENCE)[0]


def first_block(_: Problem, text: str) -> str | None:
    """MBPP: the first block, after the fence that the harness has opened; without one of its own, nothing."""
    found = _BLOCK.search(FENCE + text) or _BLOCK.search(text.replace("```python", FENCE))
    return found[1] if found else None


def inside_block(problem: Problem, episode: Episode) -> str:
    """The last turn from behind the opening of its first block, which the harness would have written."""
    text = last_turn(problem, episode)
    opened = _OPENED.search(text)
    return text[opened.end() :] if opened else text


def from_signature(problem: Problem, episode: Episode) -> str:
    """The same, from the function's own `def` on: what precedes it stands in the prompt already."""
    text = inside_block(problem, episode)
    at = text.find(f"def {problem.row.get('entry_point', '')}")
    return text[at:] if at >= 0 else text.removeprefix("\n")
