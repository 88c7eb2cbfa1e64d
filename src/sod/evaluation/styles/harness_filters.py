"""What lm-eval's filters find in a text and how its metric compares it, as its task files set them (version 0.4.13)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from sod.evaluation.benchmarks.problem import LETTERS

INVALID = "[invalid]"
"""What a filter gives that finds nothing."""

_LAST_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_SAID_NUMBER = re.compile(r"The answer is (\-?[0-9\.\,]+).")
_SAID_CHOICE = re.compile(r"(?<=The answer is )(.*)(?=.)")
_IN_BRACKETS = re.compile(r"(\([A-Z]\))")
_IGNORED_IN_NUMBERS = (",", r"\$", "(?s).*#### ", r"\.$")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def last_number(text: str) -> str:
    """`flexible-extract` of GSM8K: the last run of digits, commas, periods and dollar signs."""
    found = _LAST_NUMBER.findall(text)
    return (found[-1][0] or found[-1][1]).strip() if found else INVALID


def said_number(text: str) -> str:
    """`strict-match` of GSM8K with a chain of thought: behind the first "The answer is", where a character follows."""
    match = _SAID_NUMBER.search(text)
    return match[1].strip() if match else INVALID


def said_choice(text: str) -> str:
    """`strict-match` of GPQA: the line behind the first "The answer is" without its last character."""
    match = _SAID_CHOICE.search(text)
    return match[1].strip() if match else INVALID


def last_choice(text: str, choices: Sequence[str]) -> str:
    """`flexible-extract` of GPQA: the last letter in brackets, else the option named last, else a letter behind `:`."""
    in_brackets = _IN_BRACKETS.findall(text)
    if in_brackets:
        return str(in_brackets[-1])
    return _last_named(text, choices) or _last_behind_colon(text, len(choices)) or INVALID


def _last_named(text: str, choices: Sequence[str]) -> str:
    """The letter of the option whose text, without punctuation and case, comes last; that text where it has none."""
    names = [_bare(choice.strip()) for choice in choices]
    letters = {name: f"({letter})" for letter, name in zip(LETTERS, names, strict=False)}
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    found = re.findall("|".join(longest_first), _bare(text))
    named = found[-1].strip() if found else ""
    return letters.get(named, named) if named else ""  # an option of punctuation alone is named everywhere


def _last_behind_colon(text: str, count: int) -> str:
    found = re.findall(rf":[\s]*([{LETTERS[:count]}])", text)
    return f"({found[-1]})" if found else ""


def _bare(text: str) -> str:
    return "".join(one for one in text.lower() if not unicodedata.category(one).startswith("P"))


def number_spelling(text: str) -> str:
    """What `exact_match` compares of GSM8K: without commas, dollar signs and one final period, in lower case."""
    for pattern in _IGNORED_IN_NUMBERS:
        text = re.sub(pattern, "", text)
    return text.lower()


def choice_spelling(text: str) -> str:
    """What `exact_match` compares of GPQA: in lower case, without punctuation."""
    return text.lower().translate(_NO_PUNCTUATION)
