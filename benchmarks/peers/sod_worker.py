"""Our side of `step.py` and `multi_turn.py`: `sod.training.step.train_step` with the objects of a run.

    python sod_worker.py SETTINGS.json

Method `opd`, one sample of each prompt; everything that the task does not dictate is the recipe's default. Local to
the benchmark are the tool (a text from memory, as on the peer's side) and the reward (`opd` needs no rewards, and
the peer computes none). `tokens` in the settings fixes the length of a turn: the engine then knows no stop token.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()  # as the `sod` command does

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from protocol import Line
from read_page import READ_PAGE

from sod.build.method import make_method
from sod.build.rollout import make_collector
from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer
from sod.models.recompute import recompute_layers
from sod.recipe import Recipe
from sod.records import Episode, Fault, Message, Task, ToolResult, Trajectory
from sod.rewards.base import as_answered
from sod.teachers.local import LocalTeacher
from sod.tools.base import ToolRequest
from sod.training.optim import Optimizer
from sod.training.step import Run, train_step


@dataclass
class ReadPage:
    """The tool: whatever page is asked for, the same text."""

    text: str
    calls: int = 0
    name: str = "read_page"
    keeps_state: bool = False

    @property
    def schema(self) -> Mapping[str, Any]:
        return READ_PAGE

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Nothing to prepare."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        self.calls += len(requests)
        return [ToolResult(self.text) for _ in requests]

    def probe(self) -> Fault | None:
        return None

    def finish(self, episodes: Sequence[str]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Counter:
    """The reward function: no reward for anybody. It sees every episode, so it counts their tokens, too."""

    tokens: int = 0
    all_tokens: int = 0

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        played = [episode.trajectory for episode in episodes]
        self.tokens = sum(t.action_tokens for t in played)
        self.all_tokens = sum(len(t.token_ids) for t in played)
        return [replace(t, answer=None, correct=False, reward=0.0, verdict="") for t in played]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """Nobody has answered."""
        return as_answered(groups)


def make_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The recipe of the benchmark's step."""
    fixed = settings["tokens"]
    rollout = {
        "prompts": len(settings["prompts"]),
        "samples": 1,
        "max_turns": settings["turns"],
        "max_turn_tokens": fixed or settings["max_turn_tokens"],
        "max_response_tokens": fixed or settings["max_response_tokens"],
        "temperature": settings["temperature"],
    }
    model = {"path": settings["model"], "dtype": "bfloat16"}
    optim = {"recompute": settings["recompute"]}
    sections = {"student": model, "teacher": model, "method": "opd", "rollout": rollout, "optim": optim}
    return Recipe.model_validate(sections)


def make_run(settings: Mapping[str, Any], tool: ReadPage | None, reward_function: Counter, scratch: Path) -> Run:
    """The live objects around two copies of the model."""
    recipe = make_recipe(settings)
    chat = Chat(load_tokenizer(settings["model"]), [READ_PAGE] if tool else [], "tokenizer")
    if settings["tokens"]:
        chat.stop_ids = frozenset()
    tasks = [Task(f"task-{n}", (Message("user", text),), "") for n, text in enumerate(settings["prompts"])]
    student, teacher = (load_model(settings["model"], "bfloat16") for _ in range(2))
    if recipe.optim.recompute:
        recompute_layers(student)
    return Run(
        recipe=recipe,
        tasks=tasks,
        student=student,
        teacher=LocalTeacher(teacher, recipe.optim.micro_batch_tokens, recipe.rollout.temperature),
        rollout=make_collector(recipe, chat, {tool.name: tool} if tool else {}, reward_function, student),
        method=make_method(recipe.method),
        optimizer=Optimizer(student, recipe.optim, recipe.train.steps),
        dumps=scratch,
    )


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    line, reward_function, steps = Line(), Counter(), count(1)
    tool = ReadPage(settings["page"]) if settings["page"] else None
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(settings, tool, reward_function, Path(scratch))

        def one_step() -> dict[str, Any]:
            before = tool.calls if tool else 0
            began = time.perf_counter()
            train_step(run, next(steps))
            row = {"seconds": time.perf_counter() - began}
            row["rollout_seconds"] = sum(run.clock.seconds[phase] for phase in ("sample", "tools", "reward"))
            row |= {f"phase/{name}": seconds for name, seconds in run.clock.seconds.items()}
            calls = {"tool_calls": tool.calls - before} if tool else {}
            return row | {"tokens": reward_function.tokens, "all_tokens": reward_function.all_tokens} | calls

        line.ready("sod-distill", "transformers", "torch")
        line.serve(one_step)


if __name__ == "__main__":
    main()
