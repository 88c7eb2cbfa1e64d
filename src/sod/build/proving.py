"""The tasks of a run whose tests can be relied on: what is wrong with the others is found before a model is loaded.

A task that is left out changes which tasks a step draws, so a run writes down what it leaves out and a resumed one
reads that, however busy the machine is by then.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from sod.build.tools import make_code_verifier
from sod.recipe import Notice, Recipe
from sod.records import SodError, Task
from sod.rewards.code_references import task_faults
from sod.runlog.files import read_json, write_json_atomic

FILE = "left_out.json"  # of a run directory
NAMED = 3  # tasks that a message names
TELL_SECONDS = 30.0  # between two words on how far the checks are
MISSING = re.compile(r"No module named '([\w.]+)'")

LeftOut = Mapping[str, str]
"""By the id of a task, why it is left out."""


def proven_tasks(
    tasks: Sequence[Task], source: str, recipe: Recipe, notice: Notice, known: LeftOut | None = None
) -> tuple[list[Task], LeftOut]:
    """The tasks whose tests can be relied on, and why the others are left out, which is told too.

    `known` is what was found before. Raises SodError where none is left, and where the sandbox fails.
    """
    left_out = _faults(tasks, source, recipe, notice) if known is None else known
    kept = _without(tasks, left_out, source, notice)
    return kept, {task.id: left_out[task.id] for task in tasks if task.id in left_out}


def _faults(tasks: Sequence[Task], source: str, recipe: Recipe, notice: Notice) -> LeftOut:
    """What is at fault with the programming tasks. Raises SodError where the sandbox fails."""
    programming = [task for task in tasks if recipe.reward.verifier_of(task) == "code"]
    if not programming or not recipe.reward.code_check:
        return {}
    told = 0.0

    def progress(done: int, seconds: float) -> None:
        nonlocal told
        if seconds - told >= TELL_SECONDS and done < len(programming):
            told = seconds
            left = seconds / done * (len(programming) - done)
            notice(
                f"{source}: the tests of {done:,} of {len(programming):,} tasks are checked, about {left:.0f} s to go "
                "(reward.code_check=false goes without)"
            )

    with ExitStack() as opened:
        return task_faults(make_code_verifier(recipe, opened), programming, progress)


def _without(tasks: Sequence[Task], left_out: LeftOut, source: str, notice: Notice) -> list[Task]:
    """The tasks that are not left out; the others are told. Raises SodError where none is left."""
    kept = [task for task in tasks if task.id not in left_out]
    if len(kept) == len(tasks):
        return kept
    mine = {task.id: left_out[task.id] for task in tasks if task.id in left_out}
    named = [f"{name}: {reason}" for name, reason in list(mine.items())[:NAMED]]
    if len(mine) > NAMED:
        named.append(f"and {len(mine) - NAMED:,} more")
    counted = f"{len(mine):,} of {len(tasks):,} tasks have tests or reference solutions at fault"
    message = f"{source}: {counted}: {'; '.join(named)}"
    hint = _module_hint(mine)
    if not kept:
        raise SodError(f"{message}; none is left{hint or '; mend the tests, or choose another reward.verifier'}")
    notice(f"{message}; left out{hint}")
    return kept


def _module_hint(left_out: LeftOut) -> str:
    """How to get the modules that are missing most often; empty where none is."""
    found = Counter(name for reason in left_out.values() for name in MISSING.findall(reason))
    if not found:
        return ""
    names = [name.partition(".")[0] for name, _ in found.most_common(NAMED)]
    return f"; install {', '.join(dict.fromkeys(names))} where the sandbox runs and add it to tools.python.preload"


@final
@dataclass(frozen=True)
class Proof:
    """What a run leaves out, by data key: read from its directory if it is resumed, else to be found and written."""

    directory: Path
    resumed: bool
    found: dict[str, LeftOut] = field(default_factory=dict)

    def tasks(self, tasks: Sequence[Task], key: str, source: str, recipe: Recipe, notice: Notice) -> list[Task]:
        """See `proven_tasks`."""
        known = self._written().get(key, {}) if self.resumed else None
        kept, self.found[key] = proven_tasks(tasks, source, recipe, notice, known)
        return kept

    def make(self, make: Callable[[], None]) -> None:
        """Make the run's directory, and write down there what is left out."""
        make()
        if not self.resumed and any(self.found.values()):
            write_json_atomic(self.directory / FILE, self.found)

    def _written(self) -> dict[str, LeftOut]:
        path = self.directory / FILE
        return read_json(path) if path.exists() else {}
