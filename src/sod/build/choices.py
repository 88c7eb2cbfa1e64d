"""Truths of multiple choice as data sets write them, read into letters before anything is loaded.

A truth is a letter (`E`, `(E)`, `E) 12`, `option E`), the text of one of the row's choices, or an index. Letters beyond
the usual ABCD are the data's word on how many choices there are, unless the recipe names its letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sod.recipe import Notice
from sod.records import SodError, Task
from sod.rewards.choice import ALPHABET, ChoiceVerifier, choices_of, letters_of, said_letters
from sod.rewards.truths import Truth, UnmatchedTruthError, stated

Row = tuple[int, Task]
TELLING = 40
"""Rows of a source from which on indices without a 0 are taken to count from 1."""

_INDEX = re.compile(r"([0-9]{1,2})(?:\.0)?")  # a table with gaps makes 2 a 2.0


def choice_letters(rows: Sequence[Row], source: str, letters: str, notice: Notice) -> str:
    """The letters of these rows' choices: more than the usual ones where the data has more, which is told.

    Raises SodError naming the row where a truth is beyond letters that the recipe names itself.
    """
    found = letters_of([task for _, task in rows], letters)
    beyond = [(number, task) for number, task in rows if set(said_letters(task)) - set(letters)]
    if found != letters:
        more = [(number, task) for number, task in rows if len(choices_of(task)) > len(letters)]
        number, task = min([*beyond, *more], key=lambda row: row[0])
        notice(
            f"{source}: reward.choice.letters={letters} is widened to {found}, as the data has more choices; the first "
            f"beyond {letters} is row {number}, task {task.id}"
        )
    elif beyond:
        number, task = beyond[0]
        letter = next(letter for letter in said_letters(task) if letter not in letters)
        enough = ALPHABET[: max(ALPHABET.index(one) for _, task in beyond for one in said_letters(task)) + 1]
        raise SodError(
            f"{source}: row {number}, task {task.id}: ground_truth {letter} is beyond reward.choice.letters={letters}; "
            f"set reward.choice.letters={enough}"
        )
    return found


def choice_truth(task: Task, text: str, letters: str, as_index: bool) -> Truth:
    """The letter that a truth of the task means. Raises UnmatchedTruthError where it means none.

    `as_index`: all truths of its data_source are whole numbers within the choices, so that this one is an index too.
    """
    if as_index:
        return Truth(letters[_index(text)], f"at its index into reward.choice.letters={letters}, from 0")
    truth = stated(text)
    if ChoiceVerifier(letters).letter(truth.text) is not None:
        return truth
    same = [n for n, choice in enumerate(choices_of(task)) if choice.strip() == truth.text.strip()]
    if len(same) == 1 and same[0] < len(letters):
        return Truth(letters[same[0]], "among the row's choices")
    raise UnmatchedTruthError(
        f"{truth.text[:40]!r} is no letter of {letters} and none of the row's choices; write the right choice's letter"
    )


def has_indices(rows: Sequence[Row], source: str, letters: str) -> bool:
    """Whether all truths of a data_source are indices. Raises SodError for indices that cannot be ones from 0."""
    texts = [text for _, task in rows for text in _texts(task)]
    if not all(_INDEX.fullmatch(text.strip()) for text in texts):
        return False
    indices = [(_index(text), number, task) for number, task in rows for text in _texts(task)]
    if any(choices_of(task) and index >= len(choices_of(task)) for index, _, task in indices):
        return False  # numbers that are texts of choices
    highest, number, task = max(indices, key=lambda found: found[0])
    where = f"{source}: row {number}, task {task.id}: ground_truth {highest}"
    if highest >= len(letters):
        raise SodError(
            f"{where} is no index into reward.choice.letters={letters}, where 0 is {letters[0]}; set "
            f"reward.choice.letters={ALPHABET[: highest + 1]} if there are so many choices, or write letters"
        )
    if len(rows) >= TELLING and min(indices, key=lambda found: found[0])[0] > 0:
        raise SodError(f"{where} seems to count from 1, as no row has 0; indices count from 0: write letters")
    return True


def _index(text: str) -> int:
    return int(float(text))


def _texts(task: Task) -> tuple[str, ...]:
    return (task.ground_truth, *task.truths)
