"""Which program an answer means: its fenced blocks, read as CommonMark reads them, and more leniently where models err.

A block begins at a line of three or more backticks or tildes and ends at a line of nothing but as many or more of the
same. It may stand in list items and block quotes: what precedes its first fence is taken off its lines. A fence that is
indented four columns further than the first one is a line of the program, unless nothing else ends the block.

Where a program holds such a line in a string, a longer fence is the way to write it. Many models do not: where a block
that ends at the first fence breaks off inside a string, it ends at the next fence that makes it a program.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice

PYTHON = frozenset({"python", "py", "python3"})
LOOKED_AT = 64  # fences after its first one among which the end of a block is looked for
TRIED = 8  # ends tried where a block breaks off inside a string
DEEPER = 3  # columns by which the end of a block may be indented further than its beginning

_LEAD = r"(?P<lead>(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*)"
_FENCE = re.compile(_LEAD + r"(?P<fence>`{3,}|~{3,})(?P<info>.*)", re.DOTALL)
_MARK = re.compile(r"[ \t]*\{?\.?([\w+-]*)")
_QUOTE = re.compile(r"[ \t]{0,3}> ?")
_TRIPLE_QUOTES = ('"""', "'''")


def last_block(text: str) -> str | None:
    """The content of the last closed fenced block marked as Python; where none is marked, of the last at all."""
    lines = text.splitlines(keepends=True)
    fences = [number for number, line in enumerate(lines) if _FENCE.match(line)]
    found: dict[bool, str] = {}
    at = 0
    while at < len(fences):
        begin = _FENCE.match(lines[fences[at]])
        if begin is None or (begin["fence"][0] == "`" and "`" in begin["info"]):  # the second: code within a line
            at += 1
            continue
        end = _end(begin, lines, fences, at)
        if end is None:  # cut off: all that follows is in it
            break
        mark = _mark(begin)
        if mark in PYTHON or not mark:
            found[bool(mark)] = _content(begin, lines[fences[at] + 1 : fences[end]])
        at = end + 1
    return found.get(True, found.get(False))


def _mark(begin: re.Match[str]) -> str:
    """The language that a block's first fence names, in lower case; empty where it names none."""
    mark = _MARK.match(begin["info"])
    return mark[1].lower() if mark else ""


def _end(begin: re.Match[str], lines: Sequence[str], fences: Sequence[int], at: int) -> int | None:
    """Which of `fences` ends the block that `fences[at]` begins; None where none does."""
    ends = _possible_ends(begin, lines, fences, at)
    indented: list[int] = []
    for number in ends:
        if _columns(lines[fences[number]], begin) > DEEPER:
            indented.append(number)
        elif _breaks_off(_content(begin, lines[fences[at] + 1 : fences[number]])):
            return _end_of_program(begin, lines, fences, at, [number, *islice(ends, TRIED)])
        else:
            return number
    return indented[0] if indented else None


def _end_of_program(
    begin: re.Match[str], lines: Sequence[str], fences: Sequence[int], at: int, ends: Sequence[int]
) -> int:
    """The first of `ends` that makes the block a program; the first of all where none does."""
    for number in ends:
        if is_program(_content(begin, lines[fences[at] + 1 : fences[number]])):
            return number
    return ends[0]


def _possible_ends(begin: re.Match[str], lines: Sequence[str], fences: Sequence[int], at: int) -> Iterator[int]:
    """Which of the next fences consist of the same marks as the first one, as many or more, and nothing else."""
    for number in range(at + 1, min(len(fences), at + 1 + LOOKED_AT)):
        fence = _unquoted(lines[fences[number]], begin).strip()
        if set(fence) == set(begin["fence"]) and len(fence) >= len(begin["fence"]):
            yield number


def _columns(line: str, begin: re.Match[str]) -> int:
    """By how many columns a line is indented further than the first fence."""
    line = _unquoted(line, begin)
    return len(line) - len(line.lstrip()) - len(_indentation(begin))


def _breaks_off(content: str) -> bool:
    """Whether the end of the content may stand in a string of several lines."""
    return any(content.count(quotes) % 2 for quotes in _TRIPLE_QUOTES)


def is_program(content: str) -> bool:
    """Whether Python can parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(content)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _content(begin: re.Match[str], lines: Sequence[str]) -> str:
    """The lines without the quote marks and the indentation that precede the first fence."""
    width = len(_indentation(begin))
    taken_off = re.compile(rf"[ \t]{{0,{width}}}")
    return "".join(taken_off.sub("", _unquoted(line, begin), count=1) for line in lines)


def _unquoted(line: str, begin: re.Match[str]) -> str:
    """The line without the marks of the block quotes that `begin` stands in."""
    for _ in range(begin["lead"].count(">")):
        line = _QUOTE.sub("", line, count=1) if _QUOTE.match(line) else line
    return line


def _indentation(begin: re.Match[str]) -> str:
    """What precedes the first fence, marks of lists included, in its block quote."""
    lead = begin["lead"]
    return lead.rpartition("> ")[2] if "> " in lead else lead.rpartition(">")[2]
