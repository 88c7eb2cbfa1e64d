r"""Whether a text gives an answer away: what a hint must not do.

Numbers are compared by value, in the spellings that solutions use (`1,234`, `1{,}234`, `\frac12`, `50\%`, `twelve`) and
without their sign; other answers as text, in whole words. Where that is in doubt the answer is yes: a hint can be
missed, an answer cannot be taken back. So a number that only happens to be the answer's counts as the answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from fractions import Fraction

_BOXED = re.compile(r"\\f?box(?:ed)?")
_ANNOUNCED = re.compile(r"\banswer(?:\s+is\b|\s*[:=])|^####", re.IGNORECASE | re.MULTILINE)
_NO_MEANING = re.compile(r"\\(?:left|right|displaystyle|[!;: ])|[$€£]")
_GROUPED = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
_IN_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)")
_AROUND_SIGNS = re.compile(r"\s*([^\w\s.])\s*")  # a full stop before a number is no decimal point

_DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"({_DIGITS})(?:\s*/\s*({_DIGITS}))?(\s*%)?")

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = tuple(f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven", "eigh", "nine"))
_ONES = {word: value for value, word in enumerate((*_DIGIT_WORDS, "ten", "eleven", "twelve", *_TEENS))}
_TENS = {
    f"{stem}ty": 10 * value
    for value, stem in enumerate(("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine"), start=2)
}
_OTHERS = {
    "dozen": Fraction(12),
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "million": Fraction(1_000_000),
    "half": Fraction(1, 2),
    "third": Fraction(1, 3),
    "quarter": Fraction(1, 4),
}
_SPELLED = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[-\s](?P<unit>{'|'.join(_DIGIT_WORDS[1:])}))?"
    rf"|(?P<ones>{'|'.join(_ONES)})(?:[-\s](?P<power>hundred|thousand|million))?"
    rf"|(?P<other>{'|'.join(_OTHERS)}))\b",
    re.IGNORECASE,
)


def gives_away(text: str, truths: Iterable[str]) -> bool:
    """Whether `text` states one of these answers, or announces an answer in words or in a box."""
    announced = _BOXED.search(text) or _ANNOUNCED.search(text)
    return announced is not None or any(states(text, truth) for truth in truths)


def states(text: str, truth: str) -> bool:
    """Whether the answer `truth` stands in `text`, as a number of its value or in its words. An empty one does not."""
    said, wanted = _plain(text), _plain(truth)
    if not wanted:
        return False
    number = _NUMBER.fullmatch(wanted.lstrip("+-").rstrip("."))
    if number is not None:
        values = set(_values_of(number))
        return any(value in values for value in _values_in(said, any(value.denominator > 1 for value in values)))
    if len(wanted) > 1:  # a letter of a choice is told from the article by its case
        said, wanted = said.casefold(), wanted.casefold()
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, said) is not None


def _plain(text: str) -> str:
    """The text without what is spelling only: LaTeX's spacing and frames, currency signs, spaces around signs."""
    text = _GROUPED.sub("", unicodedata.normalize("NFKC", text))
    for written, plain in (("\u2212", "-"), ("\u2044", "/"), ("\\%", "%"), ("\\,", " ")):
        text = text.replace(written, plain)
    text = _NO_MEANING.sub("", text)
    text = _SHORT_FRACTION.sub(r"\1/\2", text)
    shorter = _FRACTION.sub(r"\1/\2", _IN_WORDS.sub(r"\1", text))
    while shorter != text:  # a fraction within a fraction
        text, shorter = shorter, _FRACTION.sub(r"\1/\2", _IN_WORDS.sub(r"\1", shorter))
    return " ".join(_AROUND_SIGNS.sub(r"\1", text).split())


def _values_in(said: str, fractions: bool) -> Iterator[Fraction]:
    """The value of every number in a text. Quotients count only with `fractions`: `48/2` does not state 24."""
    for match in _NUMBER.finditer(said):
        yield from _values_of(match) if fractions else _parts_of(match)
    for match in _SPELLED.finditer(said):
        yield _spelled(match)


def _values_of(match: re.Match[str]) -> list[Fraction]:
    """What a number may stand for: with a percent sign also the hundredth of it."""
    above, below, percent = match.groups()
    if below is None or not Fraction(below):
        return _parts_of(match)
    value = Fraction(above) / Fraction(below)
    return [value, value / 100] if percent else [value]


def _parts_of(match: re.Match[str]) -> list[Fraction]:
    above, below, percent = match.groups()
    values = [Fraction(part) for part in (above, below) if part is not None]
    return [*values, *(value / 100 for value in values)] if percent else values


def _spelled(match: re.Match[str]) -> Fraction:
    words = {name: word.lower() for name, word in match.groupdict().items() if word is not None}
    if "tens" in words:
        return Fraction(_TENS[words["tens"]] + _ONES.get(words.get("unit", ""), 0))
    if "ones" in words:
        return _ONES[words["ones"]] * _OTHERS.get(words.get("power", ""), Fraction(1))
    return _OTHERS[words["other"]]
