"""A generated world on disk: data, a tokenizer, and random models, from the `world` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.scratch import DIGITS, new_qwen3, train_tokenizer
from sod.recipe import Recipe, ScratchSpec, WorldSpec
from sod.records import Message, Task
from sod.seeds import derive
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import write_conversations, write_tasks
from sod.tasks.privileged import Privilege
from sod.tools.python import SCHEMA
from sod.tools.unreliable import UNAVAILABLE


def make_data(world: WorldSpec, seed: int, directory: Path, tool: Mapping[str, Any] = SCHEMA) -> list[Conversation]:
    """Write the world's disjoint splits below `directory`; returns conversations to learn a tokenizer from.

    The traces call the Python `tool` (its schema).

    The teacher's expert makes no mistakes; the student's misreads an operand now and then and carries on. A share
    `world.privileged` of the student's traces has a privileged prompt and no misreadings; then the tasks carry hints.
    In the student's traces a share `world.failures` of the calls fails first, and is made again.
    The conversations returned are the teacher's, with the privileged ones in their places.
    """
    directory.mkdir(parents=True)
    sizes = {"sft": world.sft, "train": world.train, "validation": world.validation, "test": world.test}
    chains = chain.splits(sizes, world.shortest, world.longest, seed)
    rng = np.random.default_rng(derive(seed, "slips"))
    clean = [chain.as_conversation(c, n, tool) for n, c in enumerate(chains["sft"])]
    sloppy = [chain.as_conversation(c.misread(rng, world.slips), n, tool, c) for n, c in enumerate(chains["sft"])]
    told = {
        number: chain.as_conversation(chains["sft"][number], number, tool, privilege=privilege)
        for number, privilege in privileges(world.sft, world.privileged, seed).items()
    }
    write_conversations(directory / "sft-teacher.parquet", clean)
    flaws = np.random.default_rng(derive(seed, "failures"))
    students = [with_failures(told.get(n, c), flaws, world.failures) for n, c in enumerate(sloppy)]
    write_conversations(directory / "sft.parquet", students)
    for name in ("train", "validation", "test"):
        tasks = [chain.as_task(c, n) for n, c in enumerate(chains[name])]
        if not world.privileged:  # nobody here learned to read a hint: the files are what they were before hints
            tasks = [_without_hint(task) for task in tasks]
        write_tasks(directory / f"{name}.parquet", tasks)
    return [told.get(n, c) for n, c in enumerate(clean)]


def with_failures(conversation: Conversation, rng: np.random.Generator, rate: float) -> Conversation:
    """The same trace with an unreliable tool: each call fails with probability `rate`, and is then made again."""
    messages: list[Message] = []
    for message in conversation.messages:
        while message.tool_calls and rng.random() < rate:
            messages += [message, Message("tool", UNAVAILABLE.text, name=message.tool_calls[0].name)]
        messages.append(message)
    return replace(conversation, messages=tuple(messages))


def privileges(count: int, share: float, seed: int) -> dict[int, Privilege]:
    """Which of `count` traces are privileged, `share` of them to the nearest one, and what each is told.

    A pure function of its arguments. Half are told the ground truth, half the hint; an odd one gets the hint.
    """
    order = np.random.default_rng(derive(seed, "privileged")).permutation(count)[: round(share * count)]
    return {int(at): "ground_truth" if n < len(order) // 2 else "hint" for n, at in enumerate(order)}


def _without_hint(task: Task) -> Task:
    return replace(task, extra={key: value for key, value in task.extra.items() if key != "hint"})


def data_paths(directory: Path) -> dict[str, str]:
    """The recipe's data keys for files that `make_data` wrote."""
    return {name: str(directory / f"{name}.parquet") for name in ("sft", "train", "validation")}


def make_models(world: WorldSpec, recipe: Recipe, conversations: list[Conversation], paths: dict[str, Path]) -> None:
    """Write a tokenizer learned from the conversations with a random teacher and a random student."""
    chat = scratch_chat(conversations, world.vocab_size)
    for role, shape in (("teacher", world.teacher), ("student", world.student)):
        write_scratch(chat, shape, world.context, derive(recipe.seed, role), paths[f"{role}-init"])


def scratch_chat(conversations: Sequence[Conversation], vocab_size: int, apart: str = DIGITS) -> Chat:
    """The chat of a tokenizer that is learned from the conversations; see `train_tokenizer`. Their tools are alike."""
    tools = conversations[0].tools
    blank = Chat(train_tokenizer([], 300), tools, template="hermes")
    corpus = (blank.conversation_text(c.messages) for c in conversations[:2_000])
    return Chat(train_tokenizer(corpus, vocab_size, apart), tools, template="hermes")


def write_scratch(chat: Chat, shape: ScratchSpec, context: int, seed: int, path: Path) -> None:
    """Write a model of this shape with random weights, and the chat's tokenizer, to the directory `path`."""
    model = new_qwen3(
        chat.tokenizer,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        ffn=shape.ffn,
        context=context,
        seed=seed,
    )
    save_model(model, chat.tokenizer, chat.template, chat.end_id, path)
