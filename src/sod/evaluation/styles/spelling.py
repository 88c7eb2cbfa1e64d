"""Equality of answers as the MATH repository decides it (Hendrycks et al., `math_equivalence.py`): by spelling.

Both answers are brought into one spelling and compared as text; where that is not possible for one of them, they are
compared as they are. lm-eval has a copy of the rule that differs in two points (`lenient` False): a percent sign goes
only with its backslash, and an answer with one slash whose sides are no integers has no spelling.

Known of both: decimals are no fractions (but 0.5), `x=5` is 5 and `xyz=5` is not, `10,000` is not 10000, and of
`5\\text{ cm}` the unit goes but of `5\\text{cm}` or `5\\mathrm{cm}` it does not.
"""

from __future__ import annotations

_REPLACED = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_UNIT = "\\text{ "


class NoSpellingError(ValueError):
    """An answer that the rule cannot read."""


def equal(one: str, other: str, lenient: bool) -> bool:
    """Whether both have the same spelling; where one has none, whether they are the same text."""
    try:
        return spelled(one, lenient) == spelled(other, lenient)
    except NoSpellingError:
        return one == other


def spelling_or_text(text: str, lenient: bool) -> str:
    """The spelling, for votes; the text where it has none."""
    try:
        return spelled(text, lenient)
    except NoSpellingError:
        return text


def spelled(text: str, lenient: bool) -> str:
    """The one spelling of an answer. Raises NoSpellingError."""
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = _without_unit(text).replace("\\%", "")
    if lenient:
        text = text.replace("%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = _with_fractions(_with_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    return _with_bar(text, lenient)


def _without_unit(text: str) -> str:
    value, *units = text.split(_UNIT)
    if len(units) > 1:
        raise NoSpellingError("two units")
    return value


def _with_roots(text: str) -> str:
    """`\\sqrt3` as `\\sqrt{3}`: the one character behind a root gets braces."""
    before, *roots = text.split("\\sqrt")
    written = [before]
    for root in roots:
        if not root:
            raise NoSpellingError("a root of nothing")
        written.append("\\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}"))
    return "".join(written)


def _with_fractions(text: str) -> str:
    """`\\frac12` and `\\frac1{2}` as `\\frac{1}{2}`; a fraction of one character leaves all as it is."""
    before, *fractions = text.split("\\frac")
    written = [before]
    for fraction in fractions:
        if not fraction:
            raise NoSpellingError("a fraction of nothing")
        if fraction[0] == "{":
            written.append("\\frac" + fraction)
        elif len(fraction) < 2:
            return text
        elif fraction[1] == "{":
            written.append(f"\\frac{{{fraction[0]}}}{fraction[1:]}")
        else:
            written.append(f"\\frac{{{fraction[0]}}}{{{fraction[1]}}}{fraction[2:]}")
    return "".join(written)


def _with_bar(text: str, lenient: bool) -> str:
    """`1/2` as `\\frac{1}{2}`, of plain integers only."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        top, bottom = int(sides[0]), int(sides[1])
    except ValueError:
        if lenient:
            return text
        raise NoSpellingError("a slash between what are no integers") from None
    return f"\\frac{{{top}}}{{{bottom}}}" if text == f"{top}/{bottom}" else text
