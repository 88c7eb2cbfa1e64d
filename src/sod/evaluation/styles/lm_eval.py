"""The styles of EleutherAI's lm-evaluation-harness (0.4.13), without examples in the prompt and as a chat.

`lm-eval` is the reading of each task that a chat answers by itself: `flexible-extract` and `math_verify`.
`lm-eval-strict` is the other one, `strict-match` and `exact_match`. The commands whose figures they are:
`lm_eval --apply_chat_template --num_fewshot 0 --tasks aime24,aime25,minerva_math500,gsm8k_cot_zeroshot,
gpqa_diamond_cot_zeroshot,humaneval_instruct,mbpp_instruct`, for the strict style `hendrycks_math500` in place of
`minerva_math500`. Prompts are those of its task files to the letter, as a prompt is part of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sod.evaluation.benchmarks.problem import LETTERS, Problem
from sod.evaluation.styles import harness_filters as filters
from sod.evaluation.styles import lm_eval_reading as reading
from sod.evaluation.styles.base import StyleSampling
from sod.evaluation.styles.judges import Judge, by_math_verify, by_reading, by_running
from sod.evaluation.styles.outputs import last_turn
from sod.evaluation.styles.programs import whole_program
from sod.evaluation.styles.ruled import RuledStyle, Rules
from sod.evaluation.styles.shuffling import shuffled

_THOUGHTS = "thoughts are part of the text that is read, and its stop words cut within them too"
_SHORT = "its own limit of {} tokens cuts a chain of thought: raise it by --max-tokens, and say so"
_SHUFFLED = "the order of its options depends on the state of its process; here the seed decides"
_PLAIN_NUMBERS = "its prompt asks for no form of answer; units, decimals and thousands commas make an answer wrong"
_OPEN_BLOCK = (
    "it opens the code block of the answer itself, which a chat here does not: the first block of an answer is read as "
    "if it were the one opened"
)
_STOPS = "whatever follows a second `def`, a class, a comment or an `if` at the start of a line is cut off"
_LOST_DEF = "a continuation that begins with `def` in the line of the opening fence loses that word and fails"
_NO_SETUP = "the imports that some tests need (test_setup_code) are not run by it; here they are"


def _ask_aime(problem: Problem) -> str:
    return f"Question: {problem.question}\nAnswer:"


def _ask_minerva(problem: Problem) -> str:
    return f"Problem:\n{problem.question}\n\nSolution:"


def _ask_hendrycks(problem: Problem) -> str:
    return f"Problem: {problem.question}\nAnswer:"


def _ask_gsm8k(problem: Problem) -> str:
    return f"Q: {problem.question}\nA: Let's think step by step."


def _ask_gpqa(problem: Problem) -> str:
    options = zip(LETTERS, reading.options(problem), strict=False)
    listed = "\n".join(f"({letter}) {text}" for letter, text in options)
    asked = f"What is the correct answer to this question:{problem.question}"
    return f"{asked}\nChoices:\n{listed}\nLet's think step by step: "


def _ask_humaneval(problem: Problem) -> str:
    intro = "Write a solution to the following problem and make sure that it passes the tests:"
    return f"{intro}\n```python\n{problem.question}\n```\n"


def _ask_mbpp(problem: Problem) -> str:
    tests = "\n".join(str(test) for test in list(problem.row.get("test_list") or ())[:3])
    intro = "You are an expert Python programmer, and here is your task:"
    return f"{intro}\n{problem.question}\nYour code should pass these tests:\n{tests}"


def _greedy(max_tokens: int) -> StyleSampling:
    return StyleSampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=max_tokens, k=1)


def _rules(ask: Callable[[Problem], str], judge: Judge, max_tokens: int, *flaws: str) -> Rules:
    return Rules(ask, last_turn, judge, _greedy(max_tokens), flaws)


_AIME = _rules(_ask_aime, by_reading(reading.aime), 32_768, _PLAIN_NUMBERS)
_SAME_IN_BOTH: Mapping[str, Rules] = {
    "humaneval": Rules(
        _ask_humaneval,
        reading.from_signature,
        by_running(reading.continued, whole_program),
        _greedy(1024),
        (_OPEN_BLOCK, _STOPS),
    ),
    "mbpp": Rules(
        _ask_mbpp,
        reading.inside_block,
        by_running(reading.first_block, whole_program),
        _greedy(256),
        ("its three solved examples are left out", _OPEN_BLOCK, _LOST_DEF, _NO_SETUP),
    ),
}

LM_EVAL = RuledStyle(
    name="lm-eval",
    uses_tools=False,
    arrange=shuffled,
    common=(_THOUGHTS,),
    rules={
        "aime24": _AIME,
        "aime25": _AIME,
        "math500": _rules(
            _ask_minerva,
            by_math_verify(reading.minerva_math),
            256,
            "minerva_math500, its figure math_verify; its four solved examples are left out",
            "math-verify takes an expression equal to the answer, also where the answer was to be simplified",
            _SHORT.format(256),
        ),
        "gsm8k": _rules(
            _ask_gsm8k,
            reading.gsm8k(filters.last_number),
            256,
            "gsm8k_cot_zeroshot, flexible-extract: the last number counts whatever it is, even a lone '...' or '$.'",
            "18.00 is not 18",
            _SHORT.format(256),
        ),
        "gpqa_diamond": _rules(
            _ask_gpqa,
            reading.gpqa(lambda problem, text: filters.last_choice(text, reading.options(problem))),
            256,
            "gpqa_diamond_cot_zeroshot, flexible-extract: the last letter in brackets counts, though it name a formula",
            "**B** or \\boxed{B} is no answer to it",
            _SHUFFLED,
            _SHORT.format(256),
        ),
        **_SAME_IN_BOTH,
    },
)

LM_EVAL_STRICT = RuledStyle(
    name="lm-eval-strict",
    uses_tools=False,
    arrange=shuffled,
    common=(_THOUGHTS,),
    rules={
        "aime24": _AIME,
        "aime25": _AIME,
        "math500": _rules(
            _ask_hendrycks,
            by_reading(reading.hendrycks_math),
            256,
            "hendrycks_math500, exact_match: all between the first and the last dollar sign is the answer; boxes are "
            "not looked for",
            _SHORT.format(256),
        ),
        "gsm8k": _rules(
            _ask_gsm8k,
            reading.gsm8k(filters.said_number),
            256,
            'gsm8k_cot_zeroshot, strict-match: only "The answer is 18" counts, the first one, and not at the very end',
            _SHORT.format(256),
        ),
        "gpqa_diamond": _rules(
            _ask_gpqa,
            reading.gpqa(lambda _, text: filters.said_choice(text)),
            256,
            'gpqa_diamond_cot_zeroshot, strict-match: only "The answer is (B)" alone in its line counts, and of "The '
            'answer is B" nothing is left',
            _SHUFFLED,
            _SHORT.format(256),
        ),
        **_SAME_IN_BOTH,
    },
)
