"""How harnesses take a program out of a text, each rule kept as it is: `sod.rewards.code_blocks` has ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from sod.rewards.code_cases import CaseSuite
from sod.rewards.code_suites import Suite

FENCE = "```"
_MARKED = re.compile(r"```python\n(.*?)```", re.DOTALL)


def marked_blocks(text: str) -> list[str]:
    """What stands between each "```python" that ends its line and the next fence."""
    return _MARKED.findall(text)


def between_last_fences(text: str) -> str:
    """LiveCodeBench's program: the lines between the last two that hold a fence; empty where there are less."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if FENCE in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first occurrence of any stop."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def whole_program(suite: Suite) -> Suite:
    """Tests in Python for programs that have the prompt in them already."""
    return suite if isinstance(suite, CaseSuite) else replace(suite, whole=True)
