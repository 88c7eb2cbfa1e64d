"""Short answers compared with the truth as SQuAD and HotpotQA do it: exact match, and overlap of words (F1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Score = Literal["em", "f1"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})
"""Answers of HotpotQA that a longer one does not overlap with: `yes, he was` is not half of `yes`."""


def answer_score(answer: str, truths: Sequence[str], score: Score) -> float:
    """How good an answer is, by the truth that fits it best, from 0 to 1. An answer of nothing earns nothing."""
    measure = _exact if score == "em" else _overlap
    given = normalised(answer)
    usable = [normalised(truth) for truth in truths if truth.strip()]
    return max((measure(given, truth) for truth in usable), default=0.0) if answer.strip() else 0.0


def normalised(text: str) -> str:
    """Lower case, without punctuation (taken out, `U.S.` is `us`), English articles and repeated spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _exact(answer: str, truth: str) -> float:
    return float(answer == truth)


def _overlap(answer: str, truth: str) -> float:
    """The harmonic mean of the shares of the answer's words and of the truth's that the other has."""
    if answer == truth:
        return 1.0
    if _CLOSED & {answer, truth}:
        return 0.0
    given, wanted = answer.split(), truth.split()
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0
