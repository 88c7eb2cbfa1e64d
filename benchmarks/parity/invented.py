"""Invented problems and outputs on which styles are compared with the harnesses whose rules they follow.

Everything here is made up and drawn by seed: the same numbers give the same outputs everywhere. What is varied is what
harnesses disagree about: how an answer is spelled, where it stands, and what stands around it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from invented_programs import CONTESTS, FUNCTIONS, contest_outputs, function_outputs


class Output(NamedTuple):
    """One output: `problem` in plain data, as both sides read it."""

    style: str
    benchmark: str
    problem: Mapping[str, Any]
    text: str


class Quantity(NamedTuple):
    """A published answer, spellings of the same value, and other values."""

    answer: str
    same: Sequence[str]
    other: Sequence[str]


COUNTS: Mapping[str, Mapping[str, int]] = {
    "sod": {"aime24": 76, "math500": 76, "gpqa_diamond": 76, "livecodebench_v6": 46},
    "lm-eval": {"aime25": 50, "math500": 60, "gsm8k": 60, "gpqa_diamond": 60, "humaneval": 33, "mbpp": 33},
    "lm-eval-strict": {"aime24": 60, "math500": 76, "gsm8k": 90, "gpqa_diamond": 90},
    "official": {
        "aime25": 60,
        "math500": 60,
        "gsm8k": 60,
        "gpqa_diamond": 60,
        "livecodebench_v6": 46,
        "humaneval": 33,
        "mbpp": 33,
    },
}
"""How many outputs each style is tried on, by benchmark."""

INTEGERS = (
    Quantity("204", ("204", " 204 ", "0204", "204.0", "204^\\circ", "204\\text{ cm}", "$204$", "\\text{204}"), ("205",)),
    Quantity("73", ("73", "073", "73.", "+73", "73\\%", "73 cm", "\\mathbf{73}", "\uff17\uff13"), ("37", "730")),
    Quantity("0", ("0", "000", "-0", "0.0", "\\{0\\}", "zero"), ("1", "")),
    Quantity("970", ("970", "970\\!", "\\left970\\right", "9 7 0", "{970}", "x=970", "xyz=970"), ("907",)),
)
VALUES = (
    Quantity("\\frac{1}{2}", ("\\frac{1}{2}", "\\dfrac12", "\\tfrac{1}{2}", "1/2", "0.5", ".5", "\\frac12"), ("0.25",)),
    Quantity("\\frac{3}{4}", ("\\frac34", "3/4", "0.75", "\\dfrac{3}{4}", "75\\%", "\\frac{6}{8}"), ("4/3",)),
    Quantity("2\\sqrt{3}", ("2\\sqrt{3}", "2\\sqrt3", "2 \\sqrt{3}", "\\sqrt{12}", "2\\cdot\\sqrt{3}"), ("3\\sqrt2",)),
    Quantity("10,000", ("10,000", "10000", "10{,}000", "10,\\!000", "10^4"), ("1,000",)),
    Quantity("(1,2]", ("(1,2]", "(1, 2]", "\\left(1,2\\right]", "1<x\\le2"), ("[1,2]", "(1,2)")),
    Quantity("x^2+1", ("x^2+1", "1+x^2", "x^{2}+1", "y=x^2+1"), ("x^2-1",)),
    Quantity("\\text{Evelyn}", ("\\text{Evelyn}", "Evelyn", "\\text{ Evelyn}", "\\textbf{Evelyn}"), ("\\text{Ada}",)),
    Quantity("5", ("5", "5\\text{ cm}", "5\\text{cm}", "5\\mathrm{ cm}", "\\$5", "5\\%", "5%", "x=5", "5.0"), ("50",)),
    Quantity("\\begin{pmatrix}1\\\\2\\end{pmatrix}", ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",), ("(1,2)",)),
    Quantity("a/b", ("a/b", "\\frac{a}{b}", "\\frac ab", "{a}/{b}"), ("b/a",)),
    Quantity("3", ("3", "\\sqrt{9}", "\\sqrt9", "\\frac{6}{2}", "\\frac62", "\\frac3", "3\\sqrt", "\\frac"), ("4",)),
)
AMOUNTS = (
    Quantity("18", ("18", "18.", "18.0", "$18", "18 dollars", "018"), ("81", "8")),
    Quantity("1,250", ("1,250", "1250", "$1,250", "1 250", "1,250.00", "1250!"), ("1,205",)),
    Quantity("-7", ("-7", "\u22127", "-7.", "- 7", "(-7)"), ("7",)),
    Quantity("3.5", ("3.5", "3.50", "7/2", "3,5"), ("35", "3")),
    Quantity("40", ("40", "40%", "40 %", "forty (40)", "40\u20ac"), ("400",)),
)

FILLER = "Checking once more by substituting the values from above into each of the equations, all of them hold. " * 2
WRAPPERS: Sequence[str] = (
    "We add the parts.\nSo the answer is $\\boxed{{{right}}}$.",
    "Therefore \\boxed{{{right}}}",
    "\\boxed{{{right}}} " + FILLER,
    "First try: \\boxed{{{wrong}}}. On second thought the answer is \\boxed{{{right}}}.",
    "It is \\boxed{{{right}}}, though one might say \\boxed{{{wrong}}}",
    "Thus $\\boxed {right}$.",
    "Thus \\fbox{{{right}}}.",
    "The result is \\boxed{{{right}",
    "The result is \\boxed{{\\boxed{{{right}}}}}.",
    "<think>\nMaybe \\boxed{{{wrong}}}?\n</think>\n\nThe answer is \\boxed{{{right}}}.",
    "<think>\nIt must be \\boxed{{{right}}}.\n</think>\n\nThe answer is clear.",
    "<think>\nIt must be \\boxed{{{right}}} and",
    "Final Answer: The final answer is ${right}$. I hope it is correct.",
    "Final Answer: The final answer is {right}. I hope it is correct.",
    "She has 3 + 4 parts.\n#### {right}",
    "#### {wrong}\nNo:\n#### {right}",
    "#### {right}\nor was it\n#### {wrong}",
    "####{right}",
    "The answer is {right}.",
    "The answer is {right}",
    "The answer is {right}. The answer is {wrong}.",
    "the answer is: {right}.",
    "{right}",
    "  {right}\n",
    "Answer: {right}",
    "**{right}**",
    "We get ${right}$.",
    "Let $n = 12$ be given. Then $n$ leads to ${right}$",
    "It costs $3 and in all {right}...",
    "The answer is {right}.\n\nQuestion: What is one and one?\nAnswer: {wrong}",
    "The answer is {right}.\n\nQ: What is one and one?\nA: The answer is {wrong}.",
    "Problem: again?\n\\boxed{{{right}}}",
    "\\boxed{{{right}}}\n\nProblem:\nAnother one. \\boxed{{{wrong}}}",
    "\u7b54\u6848\u662f {right}\u3002",
    "\u2248 {right} \U0001f389 \\boxed{{{right}}}",
    "\\boxed{{'{right}'}}",
    "\\boxed{{ {right} }}",
    "\\boxed{{\\text{{{right}}}}}",
    "\\[\\boxed{{{right}}}\\]\n" + "I hope that this helps you; feel free to ask whatever else you want to know about it.",
    "",
    "\n",
    "I do not know.",
)

USUAL: Mapping[tuple[str, str], Sequence[str]] = {
    ("sod", "math"): ("So it is $\\boxed{{{right}}}$.", "Both checks agree. \\boxed{{{right}}}"),
    ("sod", "choice"): ("\\boxed{{{R}}}", "All others fail, so \\boxed{{{R}}}."),
    ("lm-eval", "math"): ("So it is $\\boxed{{{right}}}$.", "That makes {right}"),
    ("lm-eval", "choice"): ("The answer is ({R}).", "So ({R})"),
    ("lm-eval-strict", "math"): ("${right}$", "The answer is {right}. That is all.", "\\boxed{{{right}}}"),
    ("lm-eval-strict", "choice"): ("The answer is ({R}).", "The answer is ({R})"),
    ("official", "math"): ("So it is $\\boxed{{{right}}}$.\n#### {right}", "#### {right}\nIn a box: \\boxed{{{right}}}"),
    ("official", "choice"): ("Answer: {R}", "All others fail.\n\nAnswer: {R}"),
}
"""How a model that knows what a style asks for would put it, by style and kind."""

CHOICES: Sequence[Mapping[str, Any]] = (
    {"choices": ["12 m/s", "1.2 m/s", "120 m/s", "0.12 m/s"], "right": 1},
    {"choices": ["Guilty", "Guilty of romance", "Innocent.", "None of (A) to (C)"], "right": 3},
    {"choices": ["x > 0", "x < 0", "x = 0", "-"], "right": 0},
    {"choices": ["Red [title] blue", "Red  green", "An acid", "A base"], "right": 2},
)
LETTERINGS: Sequence[str] = (
    "Answer: {R}",
    "answer: {r}",
    "Answer: ({R})",
    "**Answer:** {R}",
    "**Answer: {R}**",
    "Answer: ${R}$",
    "Answer:{R}",
    "Answer : {R}",
    "ANSWER: {R}.",
    "Answer: Both fit, so {R}",
    "Answer: {W}\nNo, wait.\nAnswer: {R}",
    "Answer: {R}\nOr perhaps\nAnswer: {W}",
    "The answer is ({R}).",
    "The answer is ({R})",
    "The answer is {R}.",
    "The answer is {R}",
    "The answer is ({R}) because the others fail.",
    "The answer is ({R}).\nThe answer is ({W}).",
    "The answer is\n({R}).",
    "So the correct option is ({R}).",
    "({W}) is wrong, hence ({R})",
    "({R}) it is; ({W}) is not",
    "(f(X)) grows, so {R}",
    "\\boxed{{{R}}}",
    "Looking at all: \\boxed{{{R}}} " + FILLER,
    "\\boxed{{{W}}}, no: \\boxed{{{R}}}",
    "\\boxed{{({R})}}",
    "\\boxed{{\\text{{{R}}}}}",
    "\\boxed{{{r}}}",
    "\\boxed{{'{R}'}}",
    "\\boxed {R}$",
    "{R}",
    "{R}) {text}",
    "It must be {text}",
    "It must be {text}, not {other}",
    "Option: {R}",
    "Final choice:\n{R}",
    "<think>Answer: {W}</think>\nAnswer: {R}",
    "<think>(A)? (B)?</think> ({R})",
    "<think>The answer is ({R}).",
    "The answer is ({R}).</s>The answer is ({W}).",
    "\uff08{R}\uff09 Answer\uff1a {R}",
    "",
    "None of them.",
)


Made = list[tuple[Mapping[str, Any], str]]
Maker = Callable[[str, random.Random, int], Made]


def outputs(style: str) -> list[Output]:
    """The outputs of a style, always the same ones."""
    return [
        Output(style, benchmark, problem, text)
        for benchmark, count in COUNTS[style].items()
        for problem, text in MAKERS[benchmark](style, random.Random(f"{style} {benchmark}"), count)
    ]


def _shape(number: int, shapes: Sequence[str], usual: Sequence[str], numbers: random.Random) -> tuple[str, bool]:
    """Every shape once, then mostly the usual ones; whether it is one of these."""
    if number < len(shapes):
        return shapes[number], False
    if numbers.random() < 0.85:
        return numbers.choice(usual), True
    return numbers.choice(shapes), False


def _math(quantities: Sequence[Quantity], with_solution: bool) -> Maker:
    def make(style: str, numbers: random.Random, count: int) -> Made:
        made: Made = []
        for number in range(count):
            quantity = quantities[number % len(quantities)]
            wrapper, usual = _shape(number, WRAPPERS, USUAL[style, "math"], numbers)
            right = quantity.answer if usual else numbers.choice([quantity.answer, quantity.answer, *quantity.same])
            if numbers.random() < 0.15:
                right = numbers.choice(quantity.other)
            problem = {"answer": quantity.answer}
            if with_solution:
                problem["solution"] = f"By symmetry it is $\\boxed{{{quantity.answer}}}$."
            made.append((problem, wrapper.format(right=right, wrong=numbers.choice(quantity.other))))
        return made

    return make


def _choice(style: str, numbers: random.Random, count: int) -> Made:
    made: Made = []
    for number in range(count):
        problem = CHOICES[number % len(CHOICES)]
        lettering, _ = _shape(number, LETTERINGS, USUAL[style, "choice"], numbers)
        right = problem["right"]
        wrong = numbers.choice([at for at in range(4) if at != right])
        if numbers.random() < 0.15:
            right, wrong = wrong, right
        said, unsaid = "ABCD"[right], "ABCD"[wrong]
        texts = {"text": problem["choices"][right], "other": problem["choices"][wrong]}
        made.append((problem, lettering.format(R=said, r=said.lower(), W=unsaid, **texts)))
    return made


def _functions(_: str, numbers: random.Random, count: int) -> Made:
    return function_outputs(FUNCTIONS, numbers, count)


def _contests(_: str, numbers: random.Random, count: int) -> Made:
    return contest_outputs(CONTESTS, numbers, count)


MAKERS: Mapping[str, Maker] = {
    "aime24": _math(INTEGERS, False),
    "aime25": _math(INTEGERS, False),
    "math500": _math(VALUES, True),
    "gsm8k": _math(AMOUNTS, False),
    "gpqa_diamond": _choice,
    "humaneval": _functions,
    "mbpp": _functions,
    "livecodebench_v6": _contests,
}
