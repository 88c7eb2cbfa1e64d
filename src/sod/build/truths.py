"""Ground truths that an answer can match: each is read as its task's verifier will read it, before anything is loaded.

A truth in a known wrapping (`#### 5`, `\\boxed{5}`, the index of a choice) is unwrapped, and that is told. A row whose
truth no answer can match is skipped by number. What a key of the recipe mends is refused, with the key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from sod.recipe import Notice, RewardSpec, VerifierName
from sod.records import SodError, Task
from sod.rewards.choice import ChoiceVerifier
from sod.rewards.truths import Truth, UnmatchedTruthError, math_truth, stated
from sod.tasks.loaded import Loaded, SkippedRow

Row = tuple[int, Task]
Reader = Callable[[str], Truth]
"""Reads a truth. Raises UnmatchedTruthError."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TELLING = 40
"""Rows of a source from which on indices without a 0 are taken to count from 1."""

_INDEX = re.compile(r"([0-9]{1,2})(?:\.0)?")  # a table with gaps makes 2 a 2.0
_OTHER_FORM = re.compile(r"####|\banswer\s*:", re.IGNORECASE)


def with_readable_truths(loaded: Loaded[Task], source: str, spec: RewardSpec, notice: Notice) -> Loaded[Task]:
    """The tasks whose truths their verifiers can match, every truth as it is compared.

    Raises SodError for a choice beyond `reward.choice.letters`, and where no row is left.
    """
    rows = list(zip(loaded.rows, loaded.items, strict=True))
    readers = _readers(rows, source, spec)
    read: list[Row] = []
    skipped = list(loaded.skipped)
    remarks: Counter[str] = Counter()
    first: dict[str, str] = {}
    for number, task in rows:
        try:
            task, said = _read(task, readers.get(task.data_source))
        except UnmatchedTruthError as error:
            skipped.append(SkippedRow(number, f"task {task.id}: its ground_truth {error}"))
            continue
        read.append((number, task))
        for remark in said:
            remarks[remark] += 1
            first.setdefault(remark, f"row {number}, task {task.id}")
    for remark, count in remarks.items():
        notice(f"{source}: {remark}: {count:,} of {len(rows):,} rows, the first is {first[remark]}")
    _tell_of_prompts(read, source, spec, notice)
    skipped.sort(key=lambda skip: skip.row)
    items, numbers = [task for _, task in read], [number for number, _ in read]
    return replace(loaded, items=items, skipped=skipped, rows=numbers).refuse_empty(source)


def _verifier(task: Task, spec: RewardSpec) -> VerifierName:
    return spec.by_source.get(task.data_source, spec.verifier)


def _texts(task: Task) -> tuple[str, ...]:
    return (task.ground_truth, *task.truths)


def _readers(rows: Sequence[Row], source: str, spec: RewardSpec) -> dict[str, Reader]:
    """By data_source, where the verifier compares truths at all (code runs tests). Raises SodError."""
    readers: dict[str, Reader] = {}
    for name in dict.fromkeys(task.data_source for _, task in rows):
        mine = [(number, task) for number, task in rows if task.data_source == name]
        verifier = _verifier(mine[0][1], spec)
        if verifier == "math":
            readers[name] = math_truth
        elif verifier == "choice":
            readers[name] = _choice_reader(mine, source, spec.choice.letters)
        if name in readers:
            _refuse_blank(mine, source)
    return readers


def _refuse_blank(rows: Sequence[Row], source: str) -> None:
    for number, task in rows:
        if not "".join(_texts(task)).strip():
            where = f"{source}: row {number}, task {task.id}"
            raise SodError(f"{where}: the ground truth is empty; set reward_model.ground_truth in its row")


def _read(task: Task, reader: Reader | None) -> tuple[Task, list[str]]:
    """The task with the truths that can be matched, and what is to be told. Raises UnmatchedTruthError for none."""
    if reader is None:
        return task, []
    truths: list[Truth] = []
    problems: list[UnmatchedTruthError] = []
    for text in _texts(task):
        try:
            truths.append(reader(text))
        except UnmatchedTruthError as error:
            problems.append(error)
    if not truths:
        raise problems[0]
    remarks = [f"the truth is what stands {truth.where}" for truth in truths if truth.where]
    remarks += [f"one of several truths is left out, it {problem}" for problem in problems]
    first, *others = dict.fromkeys(truth.text for truth in truths)
    return replace(task, ground_truth=first, truths=tuple(others)), list(dict.fromkeys(remarks))


def _choice_reader(rows: Sequence[Row], source: str, letters: str) -> Reader:
    """Reads letters; or indices, where all truths of the data_source are. Raises SodError for a choice beyond."""
    if all(_INDEX.fullmatch(text.strip()) for _, task in rows for text in _texts(task)):
        return _index_reader(rows, source, letters)
    verifier = ChoiceVerifier(letters)
    _refuse_letters_beyond(rows, source, letters)

    def read(text: str) -> Truth:
        truth = stated(text)
        if verifier.letter(truth.text) is None:
            raise UnmatchedTruthError(f"{truth.text[:40]!r} is no letter of {letters}; write the right choice's letter")
        return truth

    return read


def _refuse_letters_beyond(rows: Sequence[Row], source: str, letters: str) -> None:
    any_letter = ChoiceVerifier(ALPHABET)
    beyond: list[tuple[int, Task, str]] = []
    for number, task in rows:
        found = [any_letter.letter(_stated_or_nothing(text)) for text in _texts(task)]
        beyond += [(number, task, letter) for letter in found if letter and letter not in letters]
    if beyond:
        number, task, letter = beyond[0]
        enough = ALPHABET[: max(ALPHABET.index(letter) for _, _, letter in beyond) + 1]
        raise SodError(
            f"{source}: row {number}, task {task.id}: ground_truth {letter} is beyond reward.choice.letters={letters}; "
            f"set reward.choice.letters={enough}"
        )


def _stated_or_nothing(text: str) -> str:
    try:
        return stated(text).text
    except UnmatchedTruthError:
        return ""


def _index_reader(rows: Sequence[Row], source: str, letters: str) -> Reader:
    indices = [(_index(text), number, task) for number, task in rows for text in _texts(task)]
    highest, number, task = max(indices, key=lambda found: found[0])
    where = f"{source}: row {number}, task {task.id}: ground_truth {highest}"
    if highest >= len(letters):
        enough = ALPHABET[: highest + 1]
        raise SodError(
            f"{where} is no index into reward.choice.letters={letters}, where 0 is {letters[0]}; set "
            f"reward.choice.letters={enough} if there are so many choices, or write letters"
        )
    if len(rows) >= TELLING and min(indices, key=lambda found: found[0])[0] > 0:
        raise SodError(f"{where} seems to count from 1, as no row has 0; indices count from 0: write letters")
    said = f"at its index into reward.choice.letters={letters}, from 0"
    return lambda text: Truth(letters[_index(text)], said)


def _index(text: str) -> int:
    return int(float(text))


def _tell_of_prompts(rows: Sequence[Row], source: str, spec: RewardSpec, notice: Notice) -> None:
    """Prompts that ask for an answer in a form which no verifier reads."""
    asking = [task for _, task in rows if _asks_otherwise(task, spec)]
    if asking:
        also = "" if _verifier(asking[0], spec) == "math" else " or set reward.choice.answer_line=true,"
        asked = f"{len(asking):,} of {len(rows):,} prompts ask for an answer behind '####' or 'Answer:'"
        notice(
            f"{source}: {asked} (the first is task {asking[0].id}), but the verifier reads \\boxed{{}} only;{also} "
            "have the prompts ask for that"
        )


def _asks_otherwise(task: Task, spec: RewardSpec) -> bool:
    verifier = _verifier(task, spec)
    if verifier == "code" or (verifier == "choice" and spec.choice.answer_line):
        return False
    text = "\n".join(message.content for message in task.prompt)
    return "boxed" not in text and _OTHER_FORM.search(text) is not None
