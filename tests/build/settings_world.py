"""Data and models on which every key of a recipe matters: a student that says by heart what a prompt asks for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3
from sod.objective.batch import supervised_batch
from sod.records import Message, Task, ToolCall
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.python import SCHEMA

PROGRAMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "print": [("print('a' * 40)", "a" * 40)],
    "import": [("import yaml", "(no output)")],
    "memory": [("x = bytearray(10**8)", "(no output)")],
    "thread": [("import threading as t\nt.Thread(target=print).start()", "(no output)")],
    "sleep": [("import time\ntime.sleep(.5)", "(no output)")],
    "twice": [("print(1)", "1"), ("import math", "(no output)")],
}
"""By what a prompt says the code of the student's calls, and what each gives where nothing stops it."""
ANSWERS: Mapping[str, Sequence[str]] = {
    "toss": ("\\boxed{7}", "\\boxed{8}"),
    "pick": ("Answer: B",),
    "fifth": ("Answer: E",),
    "write": ("```python\nprint(7)\n```",),
    "large": ("```python\nx = bytearray(10**8)\nprint(7)\n```",),
}
"""What the student answers, one as often as the other."""
PRINTS_7 = json.dumps({"inputs": [""], "outputs": ["7"]})
NO_TESTS = json.dumps(
    {"prompt": "def f(x):\n", "entry_point": "f", "test": "x = 1\n", "canonical_solution": "  pass\n"}
)


def make_place(place: Path, chat: Chat, acting: Any, other: Any, conversations: Sequence[Conversation]) -> None:
    """Write all models, data files (`NAME.parquet`) and other files below `place`."""
    save_model(acting, chat.tokenizer, chat.template, chat.end_id, place / "model")
    save_model(other, chat.tokenizer, chat.template, chat.end_id, place / "other")
    save_model(near(acting), chat.tokenizer, chat.template, chat.end_id, place / "near")
    save_model(by_heart(chat), chat.tokenizer, chat.template, chat.end_id, place / "speaker")
    loud = "{{ '' if loud is undefined else 'LOUD ' * loud }}" + str(chat.template)
    save_model(acting, chat.tokenizer, loud, chat.end_id, place / "templated")
    for name, tasks in files_of_tasks().items():
        write_tasks(place / f"{name}.parquet", tasks)
    write_conversations(place / "sft.parquet", conversations[:8])
    write_conversations(place / "fewer.parquet", conversations[8:12])
    earned = [replace(c, reward=float(n % 2)) for n, c in enumerate(conversations[:8])]
    write_conversations(place / "earned.parquet", earned)
    write_conversations(place / "undeclared.parquet", [replace(c, tools=()) for c in conversations[:8]])
    assert conversations[0].tools[0] == SCHEMA
    worded = {"name": "python", "description": "Runs a program."}
    (place / "schemas").write_text(json.dumps([worded]), encoding="utf-8")


def files_of_tasks() -> dict[str, list[Task]]:
    """Every file of tasks by its name."""
    train = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])]
    tosses = [asked("toss", "7", n) for n in range(5)]
    return {
        "train": train,
        "right": [replace(task, ground_truth="7") for task in train],
        "long": [*train, replace(train[0], id="long", prompt=(Message("user", "7 + " * 30),))],
        "programs": [asked(text, "7") for text in PROGRAMS],
        "answers": [
            asked("toss", "7", source="numbers"),
            asked("pick", "B", source="letters"),
            asked("fifth", "B", source="letters"),
            asked("pick", "B", 1, source="plain"),
        ],
        "tosses": tosses,
        "several": [replace(task, truths=("8",)) for task in tosses],
        "eights": [replace(task, ground_truth="8") for task in tosses],
        "code": [asked("write", PRINTS_7), asked("large", PRINTS_7), asked("write", NO_TESTS, 1)],
    }


def asked(text: str, truth: str, number: int = 0, source: str = "said") -> Task:
    """A task whose prompt says this."""
    return Task(f"{text}-{number}", (Message("user", text),), truth, source, {"hint": f"say {truth[:1]}"})


def near(model: Any) -> Any:
    """A model whose probabilities are now above and now below the other's."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return moved


def by_heart(chat: Chat) -> Any:
    """A student that has learned `PROGRAMS` and, with and without tools in its prompt, `ANSWERS`."""
    bare = Chat(chat.tokenizer, [], template="hermes")
    ledgers = []
    for text, calls in PROGRAMS.items():
        for failed in (False, True):
            messages = [Message("user", text)]
            for code, result in calls:
                messages.append(Message("assistant", "", (ToolCall("python", {"code": code}),)))
                messages.append(Message("tool", "Error" if failed else result, name="python"))
            ledgers.append(chat.encode_conversation([*messages, Message("assistant", "\\boxed{7}")]))
    for text, answers in ANSWERS.items():
        for answer in answers:
            messages = [Message("user", text), Message("assistant", answer)]
            ledgers += [shown.encode_conversation(messages) for shown in (bare, chat)]
    student = new_qwen3(chat.tokenizer, layers=2, hidden=64, heads=2, ffn=128, context=2048, seed=11)
    student = fitted(student, supervised_batch(ledgers), steps=70)
    with torch.no_grad():
        student.get_decoder().norm.weight.mul_(1.5)  # surer of what it says
    return student


def fitted(student: Any, batch: Any, steps: int) -> Any:
    """The student after so many steps on one batch."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=6e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, falling(steps))
    for _ in range(steps):
        loss = -action_logps(student, batch).sum() / batch.action_tokens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return student.eval()


def falling(steps: int) -> Callable[[int], float]:
    """A learning rate that falls to 0 in the last third."""
    return lambda step: min(1.0, (steps - step) * 3 / steps)
