"""Prompts that tell more than the student is to know: the ground truth, or a hint.

For self-distillation (OPSD, arXiv 2601.18734): the teacher is the student itself, which reads such a prompt. The
wording is ours and fixed, so that what a student learns to read in SFT is what its teacher reads later.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sod.records import Message, SodError, Task

Privilege = Literal["ground_truth", "hint"]
"""What of a task is told: what the verifier expects, or `extra["hint"]` (in a data file `extra_info.hint`)."""


def privileged_prompt(task: Task, kind: Privilege) -> tuple[Message, ...]:
    """The task's messages with its ground truth or hint at the end of the first user message.

    Raises SodError naming the task where there is nothing to tell, or no user message to tell it in.
    """
    added = f"\n\nAnswer: {_ground_truth(task)}" if kind == "ground_truth" else f"\n\nHint: {_hint(task)}"
    at = next((n for n, message in enumerate(task.prompt) if message.role == "user"), None)
    if at is None:
        raise SodError(f"task {task.id}: a privileged prompt needs a user message; add one to its prompt")
    told = replace(task.prompt[at], content=task.prompt[at].content + added)
    return (*task.prompt[:at], told, *task.prompt[at + 1 :])


def _ground_truth(task: Task) -> str:
    if not task.ground_truth.strip():
        raise SodError(f"task {task.id}: the ground truth is empty; set reward_model.ground_truth in its row")
    return _encodable(task, task.ground_truth, "reward_model.ground_truth")


def _hint(task: Task) -> str:
    hint = task.extra.get("hint")
    if not isinstance(hint, str) or not hint.strip():
        fix = "put a non-empty text into extra_info.hint of its row, or let `sod data hints` do so"
        raise SodError(f"task {task.id}: no hint; {fix}")
    return _encodable(task, hint, "extra_info.hint")


def _encodable(task: Task, text: str, column: str) -> str:
    try:
        text.encode()  # a lone surrogate (JSON can spell one) would fail only at the tokenizer, and without a name
    except UnicodeEncodeError as error:
        raise SodError(f"task {task.id}: {column} is not valid Unicode; correct its row") from error
    return text
