"""Ground truths as data sets write them, read into what an answer can be compared with.

GSM8K's solutions end in `#### 5`, other sets in `\\boxed{5}` or `Answer: 5`: the answer there is the truth. What no
answer can match is found here, before a model is loaded. Pure functions over text.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from sod.rewards.math import equal, last_boxed

LONGEST = 1000  # characters of a truth: more is a solution
MOST_WORDS = 20

_MARK = "####"
_ANSWER = re.compile(
    r"(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s*:|\s+is\s*:?)\s*(?P<answer>\S.*)", re.IGNORECASE | re.DOTALL
)
_LAST_LINE = re.compile(r".*\n\s*A:\s*(?P<answer>[^\n]+)", re.DOTALL)
_TAGGED = re.compile(r"(?:.*\s)?<answer>(?P<answer>.*)</answer>", re.DOTALL)
_STATED = ((_TAGGED, "between <answer> tags"), (_ANSWER, "behind 'Answer:'"), (_LAST_LINE, "behind 'A:'"))
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")


class UnmatchedTruthError(Exception):
    """Why no answer can match a truth, and what to do."""


class Truth(NamedTuple):
    """A truth as a verifier compares it, and where in the row's text it stood; empty where it is that text."""

    text: str
    where: str = ""


def stated(text: str) -> Truth:
    """The answer that a truth states. Raises UnmatchedTruthError where it announces one and has none."""
    text = text.strip()
    if "\\boxed" in text or "\\fbox" in text:
        return Truth(_some(last_boxed(text) or "", "in its box"), "in a box")
    if _MARK in text:
        answer = _some(text.rpartition(_MARK)[2], f"behind '{_MARK}'")
        if "\n" in answer:
            raise UnmatchedTruthError(f"has several lines behind '{_MARK}'; write the answer alone there")
        return Truth(answer, f"behind '{_MARK}'")
    for pattern, where in _STATED:
        if match := pattern.fullmatch(text):
            return Truth(_some(match["answer"], where), where)
    return Truth(text)


def math_truth(text: str) -> Truth:
    """What the math verifier compares answers with. Raises UnmatchedTruthError."""
    truth = stated(text)
    if _is_object(truth.text):
        raise UnmatchedTruthError("is a JSON object, which only reward.verifier=code reads")
    prose = len(_WORD.findall(_COMMAND.sub(" ", truth.text)))
    if len(truth.text) > LONGEST or prose > MOST_WORDS:
        raise UnmatchedTruthError("is a whole solution; put the final answer alone there, or behind '####'")
    box = last_boxed(f"\\boxed{{{truth.text}}}")
    if box is None or not equal(box, truth.text):
        shown = json.dumps(truth.text[:40], ensure_ascii=False)
        raise UnmatchedTruthError(f"{shown} cannot stand in a \\boxed{{}}; write the answer as it is to be boxed")
    return truth


def _some(text: str, where: str) -> str:
    if not text.strip():
        raise UnmatchedTruthError(f"has nothing {where}; write the answer there")
    return text.strip()


def _is_object(text: str) -> bool:
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
