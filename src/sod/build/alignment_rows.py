"""The conversations on which two tokenizers are compared: those of a data file, or made up of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.build.alignment import Covered, Numbered
from sod.build.inspection import Kind, conversations_in, why_nothing
from sod.build.transcript import ANSWER, sample_call
from sod.recipe import Recipe
from sod.records import Message, SodError, Task
from sod.tasks.base import Conversation
from sod.tasks.files import load_tasks
from sod.tasks.loaded import Loaded, SkippedRow

MADE_UP = "its own text with a call of the first tool, and its truth as the answer"
"""What the turns of a task are made of, for a person to read."""
_LONGEST_TRUTH = 400  # characters; a longer one is tests, which nobody says


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a file as conversations, by their numbers; `made_up` where they are tasks.

    `skipped` are rows that are neither.
    """

    numbered: Sequence[Numbered]
    made_up: bool
    skipped: Sequence[SkippedRow] = ()


def rows_of(source: str, recipe: Recipe, tools: Sequence[Mapping[str, Any]]) -> Rows:
    """What a file holds: conversations (a run's episodes are some, too), or tasks with turns made up for them.

    Of a file with rows of both, those of which there are more. Raises SodError where no row can be used as either.
    """
    problems: dict[Kind, str] = {}
    conversations = _tried("sft", lambda: conversations_in(source, recipe), problems)
    whole = conversations is not None and not conversations.skipped
    tasks = None if whole else _tried("tasks", lambda: _tasks(source, recipe, True), problems)
    if conversations is not None and (tasks is None or len(conversations.items) >= len(tasks.items)):
        numbered = list(zip(conversations.rows, conversations.items, strict=True))
        return Rows(numbered, made_up=False, skipped=conversations.skipped)
    if tasks is None:  # prompts without an answer say enough here
        tasks = _tried("tasks", lambda: _tasks(source, recipe, False), problems)
    if tasks is None:
        raise SodError(why_nothing(source, problems))
    made = stand_ins(tasks.items, tools, recipe)
    return Rows(list(zip(tasks.rows, made, strict=True)), made_up=True, skipped=tasks.skipped)


def row_to_show(source: str, read: Rows, chosen: Sequence[Numbered], covered: Covered, asked: int | None) -> Numbered:
    """The row that was asked for by its number, or of those chosen the first that both models can write.

    Raises SodError where there is none.
    """
    if asked is not None:
        found = next((numbered for numbered in read.numbered if numbered[0] == asked), None)
        if found is None:
            raise SodError(f"{source}: no usable row {asked}; `sod data inspect` tells which are skipped, and why")
        return found
    unwritten = {skip.row for skip in (*covered.skipped, *covered.unread)}
    found = next((numbered for numbered in chosen if numbered[0] not in unwritten), None)
    if found is None:
        first = covered.unread[0]
        raise SodError(
            f"{source}: the teacher can be shown none of {len(chosen)} rows, e.g. row {first.row}: {first.reason}; "
            "take a teacher whose template writes such turns"
        )
    return found


def stand_ins(tasks: Sequence[Task], tools: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[Conversation]:
    """A conversation for each task, which has no turns yet: the student says the task's own text, as the words and
    numbers of its answers will be of that kind, calls the first tool, and answers with the truth.
    """
    return [_stand_in(task, tools, recipe) for task in tasks]


def _stand_in(task: Task, tools: Sequence[Mapping[str, Any]], recipe: Recipe) -> Conversation:
    asked = "\n\n".join(message.content for message in task.prompt if message.role == "user").strip()
    call = sample_call(tools)
    boxed = bool(task.ground_truth) and len(task.ground_truth) <= _LONGEST_TRUTH
    boxed = boxed and recipe.reward.verifier_of(task) != "code"
    answer = f"\\boxed{{{task.ground_truth}}}" if boxed else ANSWER
    if call is None:
        said = [Message("assistant", f"{asked}\n\n{answer}")]
    else:
        result = Message("tool", "42", name=call.name)
        said = [Message("assistant", asked, (call,)), result, Message("assistant", answer)]
    return Conversation(task.id, (*task.prompt, *said))


def _tasks(source: str, recipe: Recipe, truths: bool) -> Loaded[Task]:
    spec = recipe.data
    return load_tasks(source, spec.split, spec.columns, spec.system, spec.suffix, truths)


def _tried(kind: Kind, load: Callable[[], Loaded[Any]], problems: dict[Kind, str]) -> Loaded[Any] | None:
    """What was loaded; None where nothing can be used, with the reason in `problems`."""
    try:
        return load()
    except SodError as error:
        problems[kind] = str(error)
        return None
