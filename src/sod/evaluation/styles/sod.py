"""The style of the paper that this project is named after: SOD (arXiv 2605.07725), repository YoungZ365/SOD.

Its evaluation is verl's validation with the code of Open-AgentRL (Gen-Verse), `recipe/demystify/reward.py`: the prompts
below are theirs to the letter, as a prompt is part of what is measured. Mathematics and choices are judged by verl's
`math_dapo` with `strict_box_verify`, programs by `livecodebench/code_math.py` and SandboxFusion. For AIME, GPQA and
LiveCodeBench these are what the paper's table was made with; for the other benchmarks, which it does not have, the
prompts of its training data are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sod.evaluation.benchmarks.problem import LETTERS, Problem
from sod.evaluation.styles.base import StyleSampling
from sod.evaluation.styles.boxes import strict_box
from sod.evaluation.styles.judges import by_reading, by_running
from sod.evaluation.styles.outputs import whole_response
from sod.evaluation.styles.programs import marked_blocks
from sod.evaluation.styles.ruled import RuledStyle, Rules, published_answer
from sod.evaluation.styles.shuffling import shuffled
from sod.records import Verdict
from sod.rewards.code_blocks import is_program
from sod.rewards.code_cases import CaseSuite
from sod.rewards.code_columns import value_of
from sod.rewards.code_suites import Suite, suite_fields

LOOKED_AT = 100  # final characters of a response in which the box has to stand
END_OF_THOUGHT = "</think>"

_MATH = "Analyze and solve the following math problem step by step. \n\n"
_TOOL = (
    "\n\nThe tool could be used for more precise and efficient calculation and could help you to verify your result "
    "before you reach the final answer."
)
_STRATEGY = (
    "\n\n**Note: You should first analyze the problem and form a high-level solution strategy, then utilize the tools "
    "to help you solve the problem.**"
)
_FORMAT = (
    "\nRemember once you make sure the current answer is your final answer, do not call the tools again and directly "
    "output the final answer in the following text format, the answer format must be: "
    "\\boxed{'The final answer goes here.'}."
)
_NO_UNITS = (
    "\nDo not put units of the final answer inside \\boxed{}. The content of \\boxed{} should be the final numerical "
    "value of the final answer only, without any units."
)
_LETTER = "\n Here you need to put the final uppercase letter option of this problem into \\boxed{}"
_PROGRAM = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests.\n\n"
)
_STDIN = (
    "\n\nRead the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the "
    "sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it "
    'reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n"'
)
_SUBMIT = (  # the slip of the pen is theirs
    "\nBefore sumbit your code, you can utilize tools to check the correctness of your code, once you make sure the "
    "current code is correct, do not call the tools again and submit your code within ```python\n# YOUR CODE HERE\n```."
)

SAMPLING = StyleSampling(temperature=1.0, top_p=0.6, top_k=0, max_tokens=20_480, k=32, max_turns=16)

_SWAPPED = "it samples at temperature 1.0 with top-p 0.6, which look as if 0.6 and 0.95 had been meant"
_STRICT = (
    f"only a box within the last {LOOKED_AT} characters counts, and it is compared as a string: 1/2 is not 0.5, "
    "073 not 73, and a space or a unit makes an answer wrong",
    "its prompt shows the box with quotation marks in it, and an answer in quotation marks is wrong",
)
_PROGRAMS = (
    "the two characters \\n or \\t in a program are turned into a line end or a tab before it runs, which breaks most "
    "programs with '\\n' in a string",
    "behind a first </think> only what precedes the second one is looked at: of a response with a thought in two turns "
    "the final program is lost",
    "an output is right only to the letter, save line ends behind it",
)
_TOOL_NAME = (
    "its tool is called code_interpreter (tools.python.name) and prints the value of a program's last line; here only "
    "what is printed is shown"
)
_NOT_THEIRS = "the paper does not evaluate it: asked and judged as its training data"


def boxed(problem: Problem, text: str) -> Verdict:
    """What the strict box holds, compared as a string."""
    answer = strict_box(text, LOOKED_AT)
    if answer is None:
        return Verdict(None, 0.0, f"no box in the last {LOOKED_AT} characters")
    return Verdict(answer, float(answer == published_answer(problem)))


def submitted(problem: Problem, text: str) -> str | None:
    """The last block marked as Python, as it is run: unescaped, and None where it is no Python then."""
    parts = text.split(END_OF_THOUGHT)
    blocks = marked_blocks(parts[1] if len(parts) > 1 else text)
    if not blocks:
        return None
    code = blocks[-1].replace("\\n", "\n").replace("\\t", "\t")
    return code if is_program(code) else None


def _to_the_letter(suite: Suite) -> Suite:
    """Outputs are compared to the letter."""
    return replace(suite, verbatim=True) if isinstance(suite, CaseSuite) else suite


def _math(problem: Problem) -> str:
    return _MATH + problem.question + _TOOL + _STRATEGY + _FORMAT


def _math_without_units(problem: Problem) -> str:
    return _math(problem) + _NO_UNITS


def _choice(problem: Problem) -> str:
    domain = problem.row.get("High-level domain") or problem.row.get("domain") or "science"
    options = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, problem.choices, strict=False))
    asked = f"Analyze and solve the following {domain} problem step by step. \n\n{problem.question}\n{options}"
    return asked + _TOOL + _STRATEGY + _FORMAT + _LETTER


def _contest(problem: Problem) -> str:
    inputs, outputs = _shown_tests(problem)
    examples = f"\nHere are some input and output examples of the expected code:\nInput:{inputs}\nOutput:\n{outputs}"
    return _PROGRAM + problem.question + examples + _STRATEGY + _STDIN + _SUBMIT


def _shown_tests(problem: Problem) -> tuple[list[Any], list[Any]]:
    """The tests that the prompt shows: all where the row has them in the open, else the public ones."""
    fields = suite_fields(problem.task) if problem.task is not None else {}
    if "inputs" in fields and "outputs" in fields:
        return _listed(fields["inputs"]), _listed(fields["outputs"])
    cases = [case for case in _listed(fields.get("public_test_cases")) if isinstance(case, Mapping)]
    return [case.get("input") for case in cases], [case.get("output") for case in cases]


def _listed(value: Any) -> list[Any]:
    found = value_of(value, "tests") if value else []
    return list(found) if isinstance(found, list) else []


def _function(problem: Problem) -> str:
    return problem.question + _asserted(problem) + _STRATEGY + _SUBMIT


def _asserted(problem: Problem) -> str:
    """MBPP's assertions, which alone say what the function is called."""
    tests = problem.row.get("test_list")
    return "" if not tests else "\n\nYour code should pass these tests:\n" + "\n".join(map(str, tests))


_BOXED = by_reading(boxed)
_RUN = by_running(submitted, _to_the_letter)
_AIME = Rules(_math, whole_response, _BOXED, SAMPLING, (*_STRICT, _SWAPPED))
_OTHER_MATH = Rules(_math_without_units, whole_response, _BOXED, SAMPLING, (*_STRICT, _SWAPPED, _NOT_THEIRS))
_FUNCTIONS = Rules(_function, whole_response, _RUN, SAMPLING, (*_PROGRAMS, _SWAPPED, _NOT_THEIRS))

SOD = RuledStyle(
    name="sod",
    uses_tools=True,
    common=(_TOOL_NAME,),
    arrange=shuffled,
    rules={
        "aime24": _AIME,
        "aime25": _AIME,
        "math500": _OTHER_MATH,
        "gsm8k": _OTHER_MATH,
        "gpqa_diamond": Rules(
            _choice,
            whole_response,
            _BOXED,
            SAMPLING,
            (*_STRICT, _SWAPPED, "its file fixes the order of the options, which is not known: here the seed does"),
        ),
        "livecodebench_v6": Rules(
            _contest,
            whole_response,
            _RUN,
            SAMPLING,
            (
                "its prompt shows inputs and outputs that are then scored (of rows with hidden tests the public ones)",
                *_PROGRAMS,
                _SWAPPED,
            ),
        ),
        "humaneval": _FUNCTIONS,
        "mbpp": _FUNCTIONS,
    },
)
