"""Rows of a data file as the model will see them, with what of them carries loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import final

from sod.build.declared_tools import Tools, tools_to_show
from sod.chat.render import Chat
from sod.recipe import RewardSpec
from sod.records import Message, Task
from sod.rewards.answers import SHOWN, Answers
from sod.tasks.base import Conversation


@final
@dataclass(frozen=True)
class Part:
    """A stretch of what the model sees of a row; `loss` where its tokens are trained on."""

    text: str
    loss: bool = False


@final
@dataclass(frozen=True)
class ShownRow:
    """A row as the model will see it. `title` says in a line what is to be known of it."""

    title: str
    parts: Sequence[Part]


def shown_task(number: int, task: Task, spec: RewardSpec, chat: Chat | None) -> ShownRow:
    """The prompt of a task, and its truth as the verifier reads it."""
    verifier = spec.verifier_of(task)
    if verifier is None:
        judged = "own reward functions judge it"
    elif verifier == "code":
        judged = "code runs its tests"
    else:
        where = SHOWN[Answers(spec.answer).forms(task)[0]]
        truths = " or ".join(repr(text) for text in (task.ground_truth, *task.truths))
        judged = f"{verifier} reads the answer {where}; right is {truths}"
    title = f"row {number}, task {task.id} ({task.data_source}): {judged}"
    if chat is None:
        return ShownRow(title, list(_text_parts(task.prompt, trains=False)))
    return ShownRow(title, [Part(_decoded(chat, chat.prompt_ids(task.prompt)))])


def shown_conversation(number: int, conversation: Conversation, own: Tools, chat: Chat | None) -> ShownRow:
    """A conversation that can be trained on (see `conversation_lengths`), with the marks of loss."""
    title = f"row {number}, {conversation.id}"
    if chat is None:
        return ShownRow(title, list(_text_parts(conversation.messages, trains=True)))
    ids, marked = _ledger(conversation, own, chat)
    runs = groupby(range(len(ids)), key=lambda at: marked[at])
    return ShownRow(title, [Part(_decoded(chat, [ids[at] for at in run]), loss) for loss, run in runs])


def conversation_lengths(conversation: Conversation, own: Tools, chat: Chat | None) -> tuple[int, int]:
    """How long a conversation is, and how much of it carries loss: in tokens, or in characters without a tokenizer.

    `own` are the run's tools. Raises ValueError or SodError where a run could not train on it.
    """
    if chat is not None:
        ids, marked = _ledger(conversation, own, chat)
        return len(ids), sum(marked)
    tools_to_show(conversation, own)
    parts = list(_text_parts(conversation.messages, trains=True))
    return sum(len(part.text) for part in parts), sum(len(part.text) for part in parts if part.loss)


def _ledger(conversation: Conversation, own: Tools, chat: Chat) -> tuple[list[int], list[bool]]:
    """Token ids, and which of them carry loss."""
    ids, turns = chat.encode_conversation(conversation.messages, tools_to_show(conversation, own))
    weights = [message.weight for message in conversation.messages if message.role == "assistant"]
    return ids, [turn > 0 and weights[turn - 1] > 0 for turn in turns]


def _decoded(chat: Chat, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def _text_parts(messages: Sequence[Message], trains: bool) -> Iterator[Part]:
    """Messages with their roles before them, as there is no template to write them."""
    for at, message in enumerate(messages):
        loss = trains and message.role == "assistant" and message.weight > 0
        yield Part(f"{message.role}: " if at == 0 else f"\n{message.role}: ")
        thought = [f"(thinking) {message.reasoning}"] if message.reasoning else []
        calls = [f"{call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})" for call in message.tool_calls]
        content = [message.content] if message.content else []
        yield Part("\n".join([*thought, *content, *calls]), loss)
