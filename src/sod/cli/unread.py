"""Overrides on a command line that the command does not read: a mistake there, while a recipe file is shared by all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sod.recipe import Recipe
from sod.recipe.names import key_of
from sod.records import SodError

Command = Literal["train", "sft", "eval", "score", "quickstart", "compare"]

_WORLD_MAKES = ("student.path", "teacher.path", "data")
UNREAD: Mapping[Command, Sequence[str]] = {
    "train": ("sft", "world", "compare"),
    "sft": (
        *("teacher", "engine", "launch", "method", "optim", "train", "world", "compare"),
        *("data.train", "data.validation"),
    ),
    "eval": (
        *("student.lora", "teacher", "launch", "method", "optim", "train", "sft", "world", "compare"),
        *("data.train", "data.validation", "data.sft"),
        *("rollout.prompts", "rollout.samples", "rollout.temperature", "rollout.top_p", "rollout.top_k"),
        *("rollout.distill_before_fault", "rollout.max_staleness", "rollout.importance"),
    ),
    "score": (
        *("student", "teacher", "teachers", "engine", "launch", "method", "optim", "train", "sft", "world", "compare"),
        *("data", "chat", "environment", "evaluation", "trackers", "rollout"),
    ),
    "quickstart": (*_WORLD_MAKES, "compare"),
    "compare": ("seed", "trackers", "method.name"),
}
"""By command the keys that it never reads, each with all that is below it.

What a run only keeps for its evaluation (`rollout`, `reward`, `tools`, `evaluation`) is read.
"""
READ: Mapping[Command, Sequence[str]] = {
    "train": ("sft.max_tokens",),  # by a method of demonstrations
    "sft": ("train.keep_checkpoints",),
    "eval": (),
    "score": ("rollout.fault_retries",),
    "quickstart": ("data.overlong_prompts",),
    "compare": ("data.overlong_prompts", "sft.max_tokens"),
}
"""Keys below those that the command reads all the same."""


def unread_in_comparison(recipe: Recipe) -> list[str]:
    """What `sod compare` does not read of this recipe, beside what it never does."""
    unread = ["sft"] if recipe.world is None else list(_WORLD_MAKES)
    return unread if recipe.compare.lrs is None else [*unread, "optim.lr"]


def refuse_unread(command: Command, overrides: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raises SodError naming the overrides of keys that `sod COMMAND` does not read, nor any of `others`."""
    keys = [key_of(override.partition("=")[0]) for override in overrides]
    unread = [key for key in keys if _below(key, [*UNREAD[command], *others]) and not _below(key, READ[command])]
    if unread:
        raise SodError(f"{', '.join(unread)}: `sod {command}` does not read that; leave it out")


def _below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
