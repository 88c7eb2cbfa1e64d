"""Where harnesses look for a boxed answer. Each rule is one harness's, kept as it is: `sod.rewards.math` has ours."""

from __future__ import annotations

from collections.abc import Sequence

BOX, FRAME = "\\boxed", "\\fbox"
_WITH_SPACE = "\\boxed "


def last_group(text: str, marks: Sequence[str] = (BOX, FRAME)) -> str | None:
    """From the last of a mark to the brace that closes the first group behind it; None where none is closed.

    The first mark that occurs at all decides: a frame counts in a text without a box only.
    """
    start = next((at for at in (text.rfind(mark) for mark in marks) if at >= 0), None)
    if start is None:
        return None
    depth = 0
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return text[start : at + 1]
    return None


def content(group: str | None) -> str | None:
    """What stands in `\\boxed{...}`; None for any other group, a frame among them."""
    opening = BOX + "{"
    if group is None or not group.startswith(opening):
        return None
    return group[len(opening) : -1]


def math_box(text: str) -> str | None:
    """The answer of a text as the MATH repository takes it: what stands in the last box, if that is closed."""
    return content(last_group(text))


def harness_box(text: str) -> str | None:
    """As lm-eval takes it: where a box without braces occurs anywhere, all that follows the last one up to a `$`."""
    if _WITH_SPACE in text:
        return text.rpartition(_WITH_SPACE)[2].partition("$")[0]
    return math_box(text)


def strict_box(text: str, within: int) -> str | None:
    """As DAPO's strict check takes it: the last box that begins and ends in the final `within` characters."""
    return content(last_group(text[-within:], (BOX + "{",)))
