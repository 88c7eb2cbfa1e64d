"""Multiple-choice rows: a question, its options, and the right one as a letter, an index or its text.

The prompt is the question with its options lettered below it, the truth is the letter. Options come as a list, a
mapping by letter, `{text: [...], label: [...]}` (ARC), a mapping to scores (BIG-bench), or in columns of their own: `A`
to `D`, `opa` to `opd` (MedMCQA), or the right one beside the wrong ones (GPQA, SciQ), which are put into an order drawn
from the question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sod.records import Message, Task
from sod.seeds import derive
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.columns import PROMPTS, column_of, extra_of, holds, plain, prompt_of, source_of
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.tables import json_or_none

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCORES = "target_scores"
LISTED = ("choices", "options")
COLUMNS = ("ABCDEFGHIJ", [f"op{letter}" for letter in "abcdefghij"], [f"option_{letter}" for letter in "abcdefghij"])
RIGHT = ("correct_answer",)
WRONG = tuple(f"{stem}{number}" for stem in ("incorrect_answer_", "distractor") for number in range(1, 10))
KEYS = (
    *("answer_index", "answer_idx", "correct_index", "answerKey", "correct_option", "correct", "cop"),
    *("expected_answer", "ground_truth", "answer", "label", "target", "gold", "solution"),
)
"""Where the right option is named, the first that a row has."""
_MARKED = re.compile(r"\s*[(\[]?\s*([A-Za-z])\s*[)\].:]\s*")


def _matches(row: Mapping[str, Any]) -> bool:
    if column_of(row, PROMPTS) is None:
        return False
    if _scores(row) or (holds(row, RIGHT) and holds(row, WRONG)):
        return True
    return holds(row, KEYS) and (bool(_columns(row)) or holds(row, LISTED))


def _read(fields: Fields, name: str) -> Task:
    prompt = prompt_of(fields)
    if _scores(fields.row):
        options, right = _scored(fields)
    elif holds(fields.row, RIGHT) and holds(fields.row, WRONG):
        options, right = _apart(fields, prompt)
    else:
        options, right = _listed(fields)
    if not 2 <= len(options) <= len(LETTERS):
        raise BadRowError(f"{len(options)} choices, there are to be 2 to {len(LETTERS)}")
    return Task(
        id=name,
        prompt=_with_options(prompt, options, fields),
        ground_truth=LETTERS[right],
        data_source=source_of(fields),
        extra={"choices": options, **extra_of(fields)},
        verifier="choice",
    )


def _scores(row: Mapping[str, Any]) -> bool:
    scores = row.get(SCORES)
    return isinstance(scores, Mapping) and all(isinstance(score, int | float) for score in scores.values())


def _scored(fields: Fields) -> tuple[list[str], int]:
    """The options of BIG-bench's rows, of which the right one alone scores."""
    scores = {option: score for option, score in fields.use(SCORES).items() if score is not None}
    right = [number for number, score in enumerate(scores.values()) if score > 0]
    if len(right) != 1:
        raise BadRowError(f"{len(right)} of its choices are right; the choice verifier judges one")
    return [str(option).strip() for option in scores], right[0]


def _columns(row: Mapping[str, Any]) -> list[str]:
    """The columns that hold an option each, in order; none where there are not at least two."""
    for names in COLUMNS:
        found = [name for name in names if isinstance(row.get(name), str | int | float)]
        if len(found) > 1 and found == list(names[: len(found)]):
            return found
    return []


def _apart(fields: Fields, prompt: Sequence[Message]) -> tuple[list[str], int]:
    """The options of a row that has the right one and the wrong ones apart, and where the right one is now."""
    right = str(fields.use(column_of(fields.row, RIGHT) or "")).strip()
    wrong = [column_of(fields.row, [name]) for name in WRONG]
    options = [right, *(str(fields.use(column)).strip() for column in wrong if column is not None)]
    order = np.random.default_rng(derive(0, "choices", prompt[-1].content)).permutation(len(options))
    fields.remark("the choices are put into an order of ours, the same whenever the row is read")
    return [options[at] for at in order], int(list(order).index(0))


def _listed(fields: Fields) -> tuple[list[str], int]:
    columns = _columns(fields.row)
    if columns:
        labels, options = [*LETTERS[: len(columns)]], [str(fields.use(name)) for name in columns]
    else:
        labels, options = _labelled(fields.use(column_of(fields.row, LISTED) or ""))
    column = "ground_truth" if "ground_truth" in fields.given else column_of(fields.row, KEYS)
    if column is None:
        raise BadRowError("no answer")
    right = _place(fields.use(column), plain(column), labels, options)
    for other in KEYS:  # the answer's text beside its letter says nothing new
        named = column_of(fields.row, [other])
        if named is not None and fields.row[named] in (options[right], LETTERS[right], labels[right], right):
            fields.use(named)
    return options, right


def _labelled(value: Any) -> tuple[list[str], list[str]]:
    """`(labels, options)` of what a row calls its choices. Raises BadRowError."""
    if isinstance(value, str):
        value = json_or_none(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        pairs = list(zip(value["label"], value["text"], strict=False))
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [_pair(number, item) for number, item in enumerate(value)]
    else:
        raise BadRowError("its choices are no list")
    if not all(isinstance(text, str | int | float) for _, text in pairs):
        raise BadRowError("a choice is no text")
    labels, options = [str(label).strip() for label, _ in pairs], [str(text).strip() for _, text in pairs]
    marks = [_MARKED.match(option) for option in options]
    if [mark and mark[1].upper() for mark in marks] == list(LETTERS[: len(options)]):
        options = [option[mark.end() :] for option, mark in zip(options, marks, strict=True) if mark]
    return labels, options


def _pair(number: int, item: Any) -> tuple[Any, Any]:
    """The label and text of an option in a list, which may say its label itself."""
    default = LETTERS[number] if number < len(LETTERS) else str(number)
    if not isinstance(item, Mapping):
        return default, item
    label, text = column_of(item, ("label", "key", "id")), column_of(item, ("text", "value", "content"))
    if text is not None:
        return (default if label is None else item[label]), item[text]
    return next(iter(item.items())) if len(item) == 1 else (default, None)


def _place(value: Any, column: str, labels: Sequence[str], options: Sequence[str]) -> int:
    """Which option a row's answer means: its text, its label, its letter, or its index from 0. Raises BadRowError."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, list) and len(value) > 1:
        raise BadRowError(f"{len(value)} of its choices are right; the choice verifier judges one")
    text = str(value).strip()
    number = int(text) if re.fullmatch(r"\d{1,2}", text) else None
    is_index = isinstance(value, int) or column.endswith(("index", "idx"))
    if is_index and number is not None and number < len(options) and text not in labels:
        return number
    mark = _MARKED.fullmatch(text + ("" if text[-1:] in ")].:" else "."))
    for known, sought in ((labels, text), (options, text), (LETTERS[: len(options)], mark[1].upper() if mark else "")):
        if sought and sought in known:
            return list(known).index(sought)
    if number is not None and number < len(options):
        return number
    raise BadRowError(f"its answer {text[:40]!r} is none of its {len(options)} choices")


def _with_options(prompt: tuple[Message, ...], options: Sequence[str], fields: Fields) -> tuple[Message, ...]:
    """The prompt with its options below the last user message, where it does not show them already."""
    at = max((n for n, message in enumerate(prompt) if message.role == "user"), default=None)
    if at is None:
        raise BadRowError("no user message to put the choices in")
    asked = prompt[at].content
    if all(re.search(rf"(?m)(?:^|\s)[(\[]?{LETTERS[n]}[)\].:]", asked) for n in range(len(options))):
        fields.remark("the prompt shows its choices already")
        return prompt
    lines = "\n".join(f"{LETTERS[n]}. {option}" for n, option in enumerate(options))
    (shown,) = prompt_messages([{"role": "user", "content": f"{asked}\n\n{lines}"}], "choices")
    return (*prompt[:at], shown, *prompt[at + 1 :])


CHOICES = Shape("choices", _matches, _read)
