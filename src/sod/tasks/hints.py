r"""Hints for a self-teacher (`opsd_hint`), from the reference solutions of tasks, by rule.

The rule, by what the reference is:

- Text: its steps (lines, or sentences of a paragraph; mathematics set apart is never cut) without GSM8K's annotations
  and drawings. Of these the first half, rounded up; never the last of several, and none that states the answer in any
  spelling (`leaks.py`). Where no step is left, the operations of the annotations without their results: `6*4; 24+10`.
- A Python program: what it imports, calls and is made of, and its docstrings and comments, but no line of it.
- A task of the chain world: its operations in the order in which they are to be done.

A hint that would state the answer is no hint: the row is left out, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from sod.records import SodError, Task
from sod.tasks import chain
from sod.tasks.code_hints import is_program, program_hint
from sod.tasks.files import load_tasks, write_tasks
from sod.tasks.leaks import gives_away
from sod.tasks.sources import read_rows
from sod.tasks.tables import json_or_none

REFERENCES = ("solution", "reference_solution", "canonical_solution", "solutions", "answer", "rationale")
"""Where a reference solution is looked for, in `extra_info` and then among the columns."""

_ANNOTATION = re.compile(r"<<([^<>=]*)=[^<>]*>>")
_FINAL_LINE = re.compile(r"^####.*$", re.MULTILINE)
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_SET_APART = re.compile(r"\s*(?:\$\$.*?\$\$|\\\[.*?\\\]|\\begin\{(\w+\*?)\}.*?\\end\{\1\})|\$[^$\n]*\$", re.DOTALL)
_STEP_END = re.compile(r"\n+|(?<=[.!?])\s+(?=[A-Z$\\])|(?<=[.,]\\\])\s*(?=[A-Z$])")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?\.?")


@final
@dataclass(frozen=True)
class Posed:
    """A row (from 0) of a data file as its task, with its reference solution; empty where it has none."""

    row: int
    task: Task
    reference: str = ""

    @property
    def truths(self) -> tuple[str, ...]:
        """What a hint must not state: every accepted answer, and for the letter of a choice its option's text too."""
        truths = [self.task.ground_truth, *self.task.truths]
        prompt = "\n".join(message.content for message in self.task.prompt)
        options: list[str] = []
        for truth in truths:
            choice = _CHOICE.fullmatch(truth.strip())
            if choice is not None:
                option = rf"^\s*\(?{choice[1]}[).:]\s*(\S.*)$"
                options += re.findall(option, prompt, re.MULTILINE | re.IGNORECASE)
        return (*truths, *options)


@final
@dataclass(frozen=True)
class NoHint:
    """Why a row gets no hint: a few words, under which such rows are counted."""

    reason: str


HintMaker = Callable[[Sequence[Posed]], Sequence[str | NoHint]]
"""A hint for each task, or why there is none."""


@final
@dataclass(frozen=True)
class HintReport:
    """What `write_hints` wrote: rows made and rows that had a hint already; the rows (from 0) left out, by reason."""

    made: int
    kept: int
    left_out: Mapping[str, tuple[int, ...]]
    example: str

    def table_rows(self) -> list[tuple[str, int, str]]:
        """(what, count, example) for printing."""
        table = [("hints made", self.made, self.example), ("hints that were there", self.kept, "")]
        for reason, rows in sorted(self.left_out.items(), key=lambda item: -len(item[1])):
            first = ", ".join(str(row) for row in rows[:3])
            table.append((f"left out: {reason}", len(rows), f"row {first}" + (", ..." if len(rows) > 3 else "")))
        return table


def write_hints(source: str, out: Path, make: HintMaker, key: str | None = None) -> HintReport:
    """Write the tasks of a data file to `out` with a hint each in `extra_info.hint`; rows that have one keep it.

    `key` names where reference solutions are, `extra_info.NAME` or a column; None looks through `REFERENCES`. Rows
    without a hint are left out, as `opsd_hint` refuses them. Raises SodError when the source cannot be used, when no
    row has what `key` names, when no row gets a hint, and for an `out` that is not a parquet file of its own.
    """
    if out.suffix != ".parquet" or out.resolve() == Path(source).resolve():
        raise SodError(f"{out}: --out is a .parquet file other than --input")
    rows = posed_rows(source, key)
    bare = [one for one in rows if not _has_hint(one.task)]
    made = dict(zip((one.row for one in bare), make(bare), strict=True))
    tasks: list[Task] = []
    left_out: dict[str, list[int]] = {}
    for one in rows:
        hint = made.get(one.row)
        if isinstance(hint, NoHint):
            left_out.setdefault(hint.reason, []).append(one.row)
        else:
            tasks.append(one.task if hint is None else _told(one.task, hint))
    if not tasks:
        reason, numbers = max(left_out.items(), key=lambda item: len(item[1]))
        raise SodError(f"{source}: no row gets a hint, row {numbers[0]}: {reason}; --from names where solutions are")
    write_tasks(out, tasks)
    hints = [hint for hint in made.values() if isinstance(hint, str)]
    return HintReport(
        made=len(hints),
        kept=len(rows) - len(bare),
        left_out={reason: tuple(numbers) for reason, numbers in left_out.items()},
        example=hints[0] if hints else "",
    )


def posed_rows(source: str, key: str | None = None) -> list[Posed]:
    """The usable tasks of a data file with their reference solutions; see `write_hints`."""
    loaded = load_tasks(source)
    unusable = {skip.row for skip in loaded.skipped}
    rows, _ = read_rows(source)
    usable = [(number, row) for number, row in rows if number not in unusable]
    posed = [
        Posed(number, task, _reference(task, row, key))
        for (number, row), task in zip(usable, loaded.items, strict=True)
    ]
    if key is not None and not any(one.reference for one in posed):
        found = ", ".join(f"extra_info.{name}" for name in posed[0].task.extra) or "no extra_info"
        raise SodError(f"{source}: no row has a text in {key} (--from); row {posed[0].row} has {found}")
    return posed


def rule_hints(rows: Sequence[Posed]) -> list[str | NoHint]:
    """A `HintMaker`: the rule at the top of this file."""
    return [rule_hint(one) for one in rows]


def rule_hint(posed: Posed) -> str | NoHint:
    """The hint that the rule makes of a task's reference solution."""
    hint: str | NoHint
    if posed.task.data_source == chain.SOURCE:
        read = chain.read(posed.task.prompt[-1].content)
        hint = NoHint("no expression of the chain world") if read is None else read.hint
    elif not posed.reference:
        hint = NoHint(f"no reference solution ({', '.join(REFERENCES)})")
    elif is_program(posed.reference):
        hint = program_hint(posed.reference) or NoHint("its program is not Python, or has nothing to tell of")
    else:
        hint = text_hint(posed.reference, posed.truths) or NoHint("nothing is left without the answer")
    return NoHint("the hint would state the answer") if states_answer(hint, posed) else hint


def states_answer(hint: str | NoHint, posed: Posed) -> bool:
    """Whether it is a hint that states an answer of the task."""
    return isinstance(hint, str) and gives_away(hint, posed.truths)


def text_hint(reference: str, truths: Sequence[str]) -> str:
    """The first half of the steps of a solution in words, without those that state a truth; may be empty."""
    operations = [match[1].strip() for match in _ANNOTATION.finditer(reference)]
    steps = steps_of(_ANNOTATION.sub("", _DRAWING.sub("", _FINAL_LINE.sub("", reference))))
    open_steps = steps[:-1] if len(steps) > 1 else steps
    safe = [step for step in open_steps if not gives_away(step, truths)]
    if safe:
        return "\n".join(safe[: (len(steps) + 1) // 2])
    return "; ".join(one for one in operations if re.search(r"\d\D+\d", one) and not gives_away(one, truths))


def steps_of(text: str) -> list[str]:
    """Lines and sentences, in order; what is set apart as mathematics stays whole and with the words before it."""
    apart = [match.span() for match in _SET_APART.finditer(text)]
    steps, start = [], 0
    for match in _STEP_END.finditer(text):
        if not any(begin < match.end() and match.start() < end for begin, end in apart):
            steps.append(text[start : match.start()])
            start = match.end()
    steps.append(text[start:])
    stripped = [" ".join(step.split()) for step in steps]
    return [step for step in stripped if re.search(r"\w", step)]


def _reference(task: Task, row: Mapping[str, Any], key: str | None) -> str:
    if key is None:
        values = [task.extra.get(name) for name in REFERENCES] + [row.get(name) for name in REFERENCES]
    else:
        values = [task.extra.get(key.removeprefix("extra_info.")), row.get(key)]
    texts = [_as_text(value) for value in values]
    return next((text for text in texts if text and text.strip() != task.ground_truth.strip()), "")


def _as_text(value: Any) -> str:
    """A solution as text: the first of several, which may be JSON text; empty for what is no text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        several = json_or_none(value)
        value = several if isinstance(several, list) else value
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) and value.strip() else ""


def _has_hint(task: Task) -> bool:
    hint = task.extra.get("hint")
    return isinstance(hint, str) and bool(hint.strip())


def _told(task: Task, hint: str) -> Task:
    return replace(task, extra={**task.extra, "hint": hint})
