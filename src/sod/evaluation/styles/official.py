"""The style of the benchmarks' own authors: their rules, and their prompts where they have one for a chat.

| benchmark | whose rules |
|---|---|
| AIME | the competition's: an integer from 0 to 999, leading zeros allowed, here in a box |
| MATH-500 | hendrycks/math: the last box, `math_equivalence.is_equiv` |
| GSM8K | openai/grade-school-math: what the first `####` is followed by |
| GPQA | openai/simple-evals: its prompt, its order of the options, the first `Answer: LETTER` |
| LiveCodeBench | its repository: its prompt, the lines between the last two fences, all tests |
| HumanEval | openai/human-eval: prompt + completion with stop words; a fenced answer as simple-evals reads it |
| MBPP | google-research/mbpp: the program up to `[DONE]`, all assertions |
"""

from __future__ import annotations

import re

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.base import StyleSampling
from sod.evaluation.styles.boxes import math_box
from sod.evaluation.styles.judges import by_reading, by_running
from sod.evaluation.styles.outputs import said
from sod.evaluation.styles.programs import FENCE, between_last_fences, cut, marked_blocks, whole_program
from sod.evaluation.styles.ruled import RuledStyle, Rules
from sod.evaluation.styles.shuffling import as_simple_evals
from sod.evaluation.styles.spelling import equal, spelling_or_text
from sod.records import Verdict

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
DONE, BEGIN = "[DONE]", "[BEGIN]"

_HASH = re.compile(r"#### (\-?[0-9\.\,]+)")
_ANSWER = re.compile(r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?")
_INTEGER = re.compile(r"[0-9]{1,3}")
_BODY = ":\n    "

_LCB_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
_LCB_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_LCB_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)
_BOX = "\n\nPut the final answer, and nothing else, in \\boxed{}."
_BOXED_INTEGER = "\n\nThe answer is an integer from 0 to 999. Put it, and nothing else, in \\boxed{}."
_BEHIND_HASH = "\n\nEnd with a line that says `#### ` and the answer as a plain number, such as `#### 42`."

_OWN_WORDS = (
    "its authors trained models on the set and publish no prompt for a chat: the prompt's last sentence is ours"
)


def integer(problem: Problem, text: str) -> Verdict:
    """AIME: the integer in the last box."""
    box = math_box(text)
    answer = None if box is None else box.strip().strip("$").strip()
    if answer is None or not _INTEGER.fullmatch(answer):
        return Verdict(None, 0.0, "no integer from 0 to 999 in the last box")
    return Verdict(str(int(answer)), float(int(answer) == int(problem.answer)))


def math(problem: Problem, text: str) -> Verdict:
    """MATH: the last box, compared by spelling."""
    answer = math_box(text)
    if answer is None:
        return Verdict(None, 0.0, "the last box is not closed, or there is none")
    return Verdict(spelling_or_text(answer, lenient=True), float(equal(answer, problem.answer, lenient=True)))


def behind_hash(problem: Problem, text: str) -> Verdict:
    """GSM8K: the number behind the first `####`, compared as text without commas."""
    match, truth = _HASH.search(text), _HASH.search(f"#### {problem.answer}")
    if match is None:
        return Verdict(None, 0.0, "no number behind ####")
    answer = match[1].strip().replace(",", "")
    return Verdict(answer, float(truth is not None and answer == truth[1].strip().replace(",", "")))


def letter(problem: Problem, text: str) -> Verdict:
    """GPQA: the letter behind the first `Answer:` that one follows. One in lower case is never right."""
    match = _ANSWER.search(text)
    if match is None:
        return Verdict(None, 0.0, "no letter behind 'Answer:'")
    return Verdict(match[1], float(match[1] == problem.letter))


def between_fences(_: Problem, text: str) -> str | None:
    """LiveCodeBench: the last block, whatever it is."""
    return between_last_fences(text) or None


def completed(problem: Problem, text: str) -> str | None:
    """HumanEval: the prompt and its completion; of a block what follows its first signature."""
    blocks = marked_blocks(text)
    if blocks:
        return problem.question + blocks[0][blocks[0].find(_BODY) + 2 :]
    return problem.question + cut(text, HUMANEVAL_STOPS)


def delimited(_: Problem, text: str) -> str | None:
    """MBPP: up to `[DONE]`, from behind `[BEGIN]` where the answer repeats it; a fence around all of it goes."""
    program = text.partition(DONE)[0].rpartition(BEGIN)[2].strip()
    if program.startswith(FENCE):
        program = program.partition("\n")[2].rpartition(FENCE)[0] or program
    return program or None


def _ask_integer(problem: Problem) -> str:
    return problem.question + _BOXED_INTEGER


def _ask_math(problem: Problem) -> str:
    return problem.question + _BOX


def _ask_gsm8k(problem: Problem) -> str:
    return problem.question + _BEHIND_HASH


def _ask_gpqa(problem: Problem) -> str:
    options = "\n".join(f"{name}) {text}" for name, text in zip("ABCD", problem.choices, strict=False))
    return (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        f"\n\n{problem.question}\n\n{options}"
    )


def _ask_livecodebench(problem: Problem) -> str:
    starter = problem.row.get("starter_code")
    form = (
        f"{_LCB_STARTER}\n```python\n{starter}\n```" if starter else f"{_LCB_STDIN}\n```python\n# YOUR CODE HERE\n```"
    )
    question = f"### Question:\n{problem.question}\n\n### Format: {form}\n\n"
    return question + "### Answer: (use the provided format with backticks)\n\n"


def _ask_humaneval(problem: Problem) -> str:
    return (
        "Read the following function signature and docstring, and fully implement the function described. Your "
        f"response should only contain the code for this function.\n{problem.question}"
    )


def _ask_mbpp(problem: Problem) -> str:
    tests = "\n".join(str(test) for test in problem.row.get("test_list") or ())
    intro = "You are an expert Python programmer, and here is your task:"
    return f"{intro} {problem.question} Your code should pass these tests:\n\n{tests}\n{BEGIN}\n"


_AIME = Rules(
    _ask_integer,
    said,
    by_reading(integer),
    StyleSampling(temperature=0.6, top_p=0.95, top_k=0, max_tokens=32_768, k=32),
    ("the competition has rules for answers alone: prompt and sampling are ours",),
)

OFFICIAL = RuledStyle(
    name="official",
    uses_tools=False,
    arrange=as_simple_evals,
    rules={
        "aime24": _AIME,
        "aime25": _AIME,
        "math500": Rules(
            _ask_math,
            said,
            by_reading(math),
            StyleSampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=1024, k=1),
            (
                "answers are compared by spelling: 0.25 is not \\frac{1}{4}, 10,000 not 10000, and the order of a set "
                "counts",
                "its limit of 1,024 tokens is of its time: raise it by --max-tokens for a model that thinks",
                _OWN_WORDS,
            ),
        ),
        "gsm8k": Rules(
            _ask_gsm8k,
            said,
            by_reading(behind_hash),
            StyleSampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=400, k=1),
            (
                "only the first #### counts, followed by one space and the number: `#### $18` is no answer, 18.0 and "
                "`18.` are wrong",
                _OWN_WORDS,
            ),
        ),
        "gpqa_diamond": Rules(
            _ask_gpqa,
            said,
            by_reading(letter),
            StyleSampling(temperature=0.5, top_p=1.0, top_k=0, max_tokens=2048, k=4),
            (
                "the first 'Answer: X' counts, not the last: of 'Answer: Both' it is B, and **Answer:** B, Answer: (B) and "
                "\\boxed{B} are no answer",
                "the options are in the order of its first repetition in all samples; simple-evals draws anew for each",
            ),
        ),
        "livecodebench_v6": Rules(
            _ask_livecodebench,
            said,
            by_running(between_fences, lambda suite: suite),
            StyleSampling(temperature=0.2, top_p=0.95, top_k=0, max_tokens=2000, k=10),
            (
                "what stands between the last two lines with a fence is run, be it no program",
                "a program runs as a process of its own here, inside a function there",
                "its limit of 2,000 tokens is of its time: raise it by --max-tokens for a model that thinks",
            ),
            system=_LCB_SYSTEM,
        ),
        "humaneval": Rules(
            _ask_humaneval,
            said,
            by_running(completed, whole_program),
            StyleSampling(temperature=0.2, top_p=0.95, top_k=0, max_tokens=512, k=200),
            (
                "of a fenced answer all up to the first ':' with an indented line behind it counts as the signature: "
                "imports and helpers before the function are lost",
                "an answer without a fence is a continuation of the prompt, cut at a second `def`, a class, a comment, "
                "an `if` or a `print` at the start of a line",
            ),
        ),
        "mbpp": Rules(
            _ask_mbpp,
            said,
            by_running(delimited, whole_program),
            StyleSampling(temperature=0.5, top_p=1.0, top_k=0, max_tokens=512, k=80),
            ("its three solved examples (tasks 2, 3, 4) are left out", "a fence around the program is ours to open"),
        ),
    },
)
