"""Ground truths that an answer can match: each is read as its task's verifier will read it, before anything is loaded.

A truth in a known wrapping (`#### 5`, `\\boxed{5}`, the index of a choice) is unwrapped, and that is told. A row whose
truth no answer can match is skipped by number. What a key of the recipe mends is refused, with the key. Where a row
lists several truths that are meant together, they become one list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sod.build.choices import Row, choice_letters, choice_truth, has_indices
from sod.recipe import Notice, RewardSpec, VerifierName
from sod.records import SodError, Task
from sod.rewards.answers import SHOWN, Answers, asked_forms
from sod.rewards.truths import Truth, UnmatchedTruthError, math_truth
from sod.tasks.loaded import Loaded, SkippedRow

Reader = Callable[[Task, str], Truth]
"""Reads a truth of a task. Raises UnmatchedTruthError."""

_TOGETHER = re.compile(r"olympiad[ _-]?bench", re.IGNORECASE)


def with_readable_truths(loaded: Loaded[Task], source: str, spec: RewardSpec, notice: Notice) -> Loaded[Task]:
    """The tasks whose truths their verifiers can match, every truth as it is compared.

    Raises SodError for a choice beyond letters that the recipe names, and where no row is left.
    """
    rows = list(zip(loaded.rows, loaded.items, strict=True))
    readers = _readers(rows, source, spec, notice)
    read: list[Row] = []
    skipped = list(loaded.skipped)
    remarks: Counter[str] = Counter()
    first: dict[str, str] = {}
    for number, task in rows:
        try:
            task, said = _read(task, readers.get((task.data_source, _verifier(task, spec))), spec)
        except UnmatchedTruthError as error:
            skipped.append(SkippedRow(number, f"task {task.id}: its ground_truth {error}"))
            continue
        read.append((number, task))
        for remark in said:
            remarks[remark] += 1
            first.setdefault(remark, f"row {number}, task {task.id}")
    for remark, count in remarks.items():
        notice(f"{source}: {remark}: {count:,} of {len(rows):,} rows, the first is {first[remark]}")
    _tell_of_forms(read, source, spec, notice)
    skipped.sort(key=lambda skip: skip.row)
    items, numbers = [task for _, task in read], [number for number, _ in read]
    return replace(loaded, items=items, skipped=skipped, rows=numbers).refuse_empty(source)


def _verifier(task: Task, spec: RewardSpec) -> VerifierName | None:
    return spec.verifier_of(task)


def _texts(task: Task) -> tuple[str, ...]:
    return (task.ground_truth, *task.truths)


def _readers(
    rows: Sequence[Row], source: str, spec: RewardSpec, notice: Notice
) -> dict[tuple[str, VerifierName | None], Reader]:
    """By data_source and verifier, where that compares truths at all (code runs tests). Raises SodError."""
    readers: dict[tuple[str, VerifierName | None], Reader] = {}
    choosing = [(number, task) for number, task in rows if _verifier(task, spec) == "choice"]
    if choosing:
        _tell_of_choices(choosing, len(rows), source, spec, notice)
    letters = choice_letters(choosing, source, spec.choice.letters, notice)
    kinds: dict[tuple[str, VerifierName | None], list[Row]] = {}
    for number, task in rows:
        kinds.setdefault((task.data_source, _verifier(task, spec)), []).append((number, task))
    for kind, mine in kinds.items():
        if kind[1] == "math":
            readers[kind] = lambda _, text: math_truth(text)
        elif kind[1] == "choice":
            readers[kind] = partial(choice_truth, letters=letters, as_index=has_indices(mine, source, letters))
        if kind in readers:
            _refuse_blank(mine, source)
    return readers


def _tell_of_choices(rows: Sequence[Row], total: int, source: str, spec: RewardSpec, notice: Notice) -> None:
    """Tell that rows go to the choice verifier by themselves. Raises SodError where no letter would be read."""
    number, task = rows[0]
    if spec.answer == "last_number":
        raise SodError(
            f"{source}: row {number}, task {task.id}: multiple choice, of which reward.answer=last_number finds no "
            "letter; take auto, or regex: and a pattern"
        )
    by_rows = sum(task.verifier == "choice" and task.data_source not in spec.by_source for _, task in rows)
    if by_rows and spec.verifier != "choice":
        notice(f"{source}: {by_rows:,} of {total:,} rows are multiple choice, which the choice verifier judges")


def _refuse_blank(rows: Sequence[Row], source: str) -> None:
    for number, task in rows:
        if not "".join(_texts(task)).strip():
            where = f"{source}: row {number}, task {task.id}"
            raise SodError(f"{where}: the ground truth is empty; set reward_model.ground_truth in its row")


def _read(task: Task, reader: Reader | None, spec: RewardSpec) -> tuple[Task, list[str]]:
    """The task with the truths that can be matched, and what is to be told. Raises UnmatchedTruthError for none."""
    if reader is None:
        return task, []
    truths: list[Truth] = []
    problems: list[UnmatchedTruthError] = []
    for text in _texts(task):
        try:
            truths.append(reader(task, text))
        except UnmatchedTruthError as error:
            problems.append(error)
    together = meant_together(task, spec)
    if not truths or (problems and together):
        raise problems[0]
    remarks = [f"the truth is what stands {truth.where}" for truth in truths if truth.where]
    first, *others = dict.fromkeys(truth.text for truth in truths)
    if together and others:
        if _verifier(task, spec) == "choice":
            raise UnmatchedTruthError("lists several letters that are right together, and choice reads one")
        remarks.append("several truths are meant together (reward.truths), as one list")
        return replace(task, ground_truth=", ".join((first, *others)), truths=()), list(dict.fromkeys(remarks))
    remarks += [f"one of several truths is left out, it {problem}" for problem in problems]
    return replace(task, ground_truth=first, truths=tuple(others)), list(dict.fromkeys(remarks))


def meant_together(task: Task, spec: RewardSpec) -> bool:
    """Whether the truths of a task that has several are one answer together, and no alternatives.

    With `reward.truths=auto` a row's flag `is_multiple_answer` says so, and OlympiadBench's lists mean it.
    """
    if spec.truths != "auto" or not task.truths:
        return spec.truths == "all" and bool(task.truths)
    flag = task.extra.get("is_multiple_answer")
    return flag in (True, "true", "True", 1) if flag is not None else _TOGETHER.search(task.data_source) is not None


def _tell_of_forms(rows: Sequence[Row], source: str, spec: RewardSpec, notice: Notice) -> None:
    """Where answers are read, if that is not a box for all; and prompts that ask for a form that is not read."""
    reading = [task for _, task in rows if _verifier(task, spec) in ("math", "choice")]
    answers = Answers(spec.answer)
    forms = Counter(answers.forms(task)[0] for task in reading)
    if spec.answer == "auto":
        if set(forms) - {"boxed"}:
            shown = ", ".join(f"{SHOWN[form]} for {count:,}" for form, count in forms.most_common())
            notice(f"{source}: answers are read as prompts ask (reward.answer=auto): {shown} of {len(reading):,} tasks")
        return
    asking = [(task, asked_forms(task.prompt)) for task in reading if not _reads_lines(task, spec)]
    others = [(task, asked) for task, asked in asking if asked and answers.forms(task)[0] not in asked]
    if others and "regex" not in forms:
        task, (form, *_) = others[0]
        notice(
            f"{source}: {len(others):,} of {len(rows):,} prompts ask for an answer {SHOWN[form]} (the first is task "
            f"{task.id}), but reward.answer={spec.answer} reads it {SHOWN[answers.forms(task)[0]]} only; set "
            "reward.answer=auto, or have the prompts ask for that"
        )


def _reads_lines(task: Task, spec: RewardSpec) -> bool:
    return _verifier(task, spec) == "choice" and spec.choice.answer_line
