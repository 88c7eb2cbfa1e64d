"""Programming tasks, told by their tests as the data is loaded: programs are run, whatever judges the other rows."""

from __future__ import annotations

from dataclasses import replace

from sod.recipe import Notice, RewardSpec
from sod.records import SodError, Task
from sod.rewards.code_suites import check_readable, holds_tests
from sod.tasks.loaded import Loaded, SkippedRow


def with_tests_told(loaded: Loaded[Task], source: str, spec: RewardSpec, notice: Notice) -> Loaded[Task]:
    """The tasks, those whose truth is tests with `code` as their verifier; that is told where the recipe has another.

    Raises SodError where `reward.by_source` gives such tasks to a verifier that cannot run them.
    """
    items = [_told(task) for task in loaded.items]
    rows = [(number, task) for number, task in zip(loaded.rows, items, strict=True) if task.verifier == "code"]
    for number, task in rows:
        other = spec.verifier_of(task)
        if other not in ("code", None):
            raise SodError(
                f"{source}: row {number}, task {task.id}: its tests are for the code verifier, and "
                f"reward.by_source.{task.data_source}={other} does not run them; set it to code, or leave it out"
            )
    if rows and spec.verifier not in ("code", None):
        others = len(items) - len(rows)
        rest = f"; reward.verifier={spec.verifier} judges the other {others:,}" if others else ""
        notice(f"{source}: {len(rows):,} of {len(items):,} rows have tests, which the code verifier runs{rest}")
    return replace(loaded, items=items)


def _told(task: Task) -> Task:
    return replace(task, verifier="code") if task.verifier is None and holds_tests(task) else task


def with_readable_tests(loaded: Loaded[Task], source: str, spec: RewardSpec) -> Loaded[Task]:
    """The tasks but for those whose tests the code verifier cannot read, which are skipped by their numbers.

    Raises SodError where none is left.
    """
    items: list[Task] = []
    numbers: list[int] = []
    skipped = list(loaded.skipped)
    for number, task in zip(loaded.rows, loaded.items, strict=True):
        problem = _problem(task) if spec.verifier_of(task) == "code" else ""
        if problem:
            skipped.append(SkippedRow(number, f"task {task.id}: its tests cannot be read: {problem}"))
        else:
            items.append(task)
            numbers.append(number)
    skipped.sort(key=lambda skip: skip.row)
    return replace(loaded, items=items, skipped=skipped, rows=numbers).refuse_empty(source)


def _problem(task: Task) -> str:
    """Why the tests of a task cannot be read; empty where they can."""
    try:
        check_readable(task)
    except SodError as error:
        return str(error).removeprefix("code: ")
    return ""
