"""Is the boxed answer right? Pure functions over text: nothing is evaluated, so junk cannot hang.

Answers are compared exactly, as rational numbers where both are numbers and as normalised text
elsewhere. Deliberately strict: "24 clips" is not 24, 0.333 is not 1/3, and only 0 to 9 are digits.
`sod.rewards.math_verifier` adds symbolic equivalence on top.
"""

from __future__ import annotations

import re
from fractions import Fraction

from sod.records import Verdict

_LONGEST_NUMBER = 400  # characters; a longer "number" stays text (int() alone is quadratic in it)
_LARGEST_EXPONENT = 100  # 1e101 stays text: as a Fraction it would only grow

# `\\boxed{` is what a model writes that escapes its own backslash.
_BOX = r"\\?\\(?:boxed|fbox|framebox)"
# What follows a box without braces must end where it ends: of `\boxed 5/6`, 5 alone is not the answer.
_BARE = (
    r"\s*(?P<bare>[-+\u2212]?(?:[0-9]{1,3}(?:(?:,|\\,)[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:\\?%)?"
    r"|(?<=\s)[A-Za-z]|\\(?:pi|infty|emptyset|varnothing))"
    r"(?=[\s)\]}$]|\Z|[.,;:!?*](?![0-9A-Za-z(\\])|\\[)\]\\])(?!\s*(?:[-+/=^_<>(]|\\(?:[dt]?frac|cdot|times|sqrt|pm)))"
)
_BRACES = re.compile(rf"(?P<open>{_BOX}\s*\{{)|{_BOX}{_BARE}|\\.|[{{}}]")
# A row break (`\\`) matches first so that `\\ ` is not taken for a space.
_SPACING = re.compile(r"(\\\\)|\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[!,;:() \[\]]|~")
WRAPPERS = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|emph|math(?:rm|bf|it|sf|tt)|mbox|operatorname)"
_WRAPPED = re.compile(rf"{WRAPPERS}\s*\{{([^{{}}]*)\}}")
_POWER_OF_UNIT = re.compile(r"\^(?:[0-9]|\{[0-9]\})$")
_PERCENT = re.compile(r"(?<=[0-9}]) ?per ?cent$", re.IGNORECASE)
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°")
_BASE = re.compile(r"(?<=[0-9])_\{([0-9]{1,2})\}")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
# Spaces that stand for a thousands comma; a plain one does not.
_THIN = r"(?:\\[,;: ]|\{\\,\}|[~\u00a0\u2009\u202f])"
_THIN_THOUSANDS = re.compile(rf"(?<![\w.,^}}])[0-9]{{1,3}}(?:{_THIN}[0-9]{{3}})+(?![0-9])")
_FREE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"  # `\d` and int() would take the digits of every script
_NUMBER = re.compile(rf"([-+]?)({_DECIMAL})(?:[eE]([-+]?[0-9]{{1,4}}))?")
_RATIO = re.compile(rf"([-+]?)({_DECIMAL})/([-+]?{_DECIMAL})")
_FRAC = re.compile(
    rf"([-+]?)([0-9]*)\\frac ?(?:\{{([-+]?{_DECIMAL})\}}\{{([-+]?{_DECIMAL})\}}|([0-9])([0-9])"
    rf"|([0-9])\{{({_DECIMAL})\}}|\{{([-+]?{_DECIMAL})\}}([0-9]))"
)
_SCIENTIFIC = re.compile(rf"([-+]?{_DECIMAL})\\(?:times|cdot) ?10\^(?:([0-9])|\{{([-+]?[0-9]{{1,4}})\}})")
# Words that answer questions, in any case; names (`Evelyn`) and letters (`AB`) keep theirs.
_ANSWER_WORDS = """
    yes no true false none neither nor both even odd always sometimes never undefined possible impossible
    does not exist infinite infinitely many solution solutions real converges diverges convergent divergent
    increasing decreasing rational irrational prime composite positive negative
"""
_ANSWERING = frozenset(_ANSWER_WORDS.split())


def verify(text: str, ground_truth: str) -> Verdict:
    """Compare the last boxed answer in `text` with the ground truth."""
    answer = last_boxed(text)
    return Verdict(answer, float(answer is not None and equal(answer, ground_truth)))


def last_boxed(text: str) -> str | None:
    """The content of the last complete `\\boxed{...}` or `\\fbox{...}` (innermost if nested), or None.

    `\\boxed 5` is a box too, of a number, a letter or a constant that stands alone. A box that is never
    closed (a cut response) does not hide an earlier complete one. Linear in the length of the text.
    """
    opened: list[int | None] = []  # content start of a box, None for any other brace
    last: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            start = opened.pop() if opened else None
            if start is not None and (last is None or start > last[0]):
                last = (start, match.start())
        elif match["open"]:
            opened.append(match.end())
        elif match["bare"]:
            last = match.span("bare")
    return None if last is None else text[last[0] : last[1]].strip()


def equal(answer: str, truth: str) -> bool:
    """Whether both normalise to the same, non-empty text."""
    normal = normalise(answer)
    return normal != "" and normal == normalise(truth)


def normalise(answer: str) -> str:
    """One spelling per value: numbers as exact `n` or `n/d`, anything else as tidied text.

    Dropped: `$`, `%` and `percent`, degrees, thousands commas and thin spaces, LaTeX spacing, `\\text{}`
    around the whole (its content stays) or behind a value (a unit, with its power), a final period.
    Fractions in every spelling are numbers: `1/2`, `0.5`, `\\frac{1}{2}`, `\\dfrac12`; so is
    `1.5\\times 10^{3}`. Words such as `Yes` and `True` are lower case, names and letters are not. Never
    evaluates an expression.
    """
    text = answer.replace("\u2212", "-").replace("{,}", ",").replace("\\dfrac", "\\frac")
    text = text.replace("\\tfrac", "\\frac")
    text = re.sub(r",\\! ?", ",", text).replace("\\$", "")
    text = _THIN_THOUSANDS.sub(lambda match: re.sub("[^0-9]", "", match.group()), text)
    text = _SPACING.sub(lambda match: match.group(1) or " ", text)
    text = _DEGREES.sub("", text)
    text = text.replace("\\%", "").replace("%", "").replace("$", "").strip()
    text = _without_text(text.rstrip(". ")).rstrip(". ").strip()
    text = _PERCENT.sub("", text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    # Spaces go, but "1 2" must not become 12, nor "New York" one word.
    text = _FREE_SPACE.sub("", " ".join(text.split()))
    text = _BASE.sub(r"_\1", text)
    if text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1]
    value = rational(text)
    if value is not None:
        return str(value)
    return text.lower() if _ANSWERING.issuperset(text.lower().split()) else text


def _without_text(text: str) -> str:
    whole = _WRAPPED.fullmatch(text)
    if whole:
        return whole.group(1).strip()
    end = power.start() if (power := _POWER_OF_UNIT.search(text)) else len(text)
    for match in _WRAPPED.finditer(text):
        if match.end() == end and match.start() > 0:
            return text[: match.start()].strip()
    return text


def rational(text: str) -> Fraction | None:
    """The exact value of a plain number, ratio or `\\frac`; None for everything else."""
    if len(text) > _LONGEST_NUMBER:
        return None
    if number := _NUMBER.fullmatch(text):
        sign, digits, exponent = number.groups()
        power = int(exponent or 0)
        if abs(power) > _LARGEST_EXPONENT:
            return None
        return _signed(sign, Fraction(digits) * Fraction(10) ** power)
    if scientific := _SCIENTIFIC.fullmatch(text):
        digits, digit, power_text = scientific.groups()
        power = int(digit or power_text)
        return Fraction(digits) * Fraction(10) ** power if abs(power) <= _LARGEST_EXPONENT else None
    if ratio := _RATIO.fullmatch(text):
        sign, top, bottom = ratio.groups()
        return _quotient(sign, "", top, bottom)
    if frac := _FRAC.fullmatch(text):
        sign, whole, *parts = frac.groups()
        top, bottom = (part for part in parts if part is not None)
        return _quotient(sign, whole, top, bottom)
    return None


def _quotient(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    if Fraction(bottom) == 0:
        return None
    return _signed(sign, Fraction(whole or 0) + Fraction(top) / Fraction(bottom))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
