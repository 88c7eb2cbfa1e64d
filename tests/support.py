"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sod.objective.batch import TokenBatch
from sod.records import Episode, Message, Said, StopReason, Task, ToolCall, Trajectory, Turn
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward
from sod.tools.base import ToolRequest

CONTAINER_PROFILE = """
import os, sys
sys.path.insert(0, {tools!r})
from sandbox import confine
if os.geteuid() == 0:
    confine.open_the_way()
import pyseccomp, errno
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
for name in ("unshare", "mount", "setns", "clone3"):
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS if name == "clone3" else errno.EPERM), name)
rules.load()
"""
"""The start of a program that lacks what a container's default profile takes away: namespaces and mounts.

`tools` is the directory that `sandbox` lies in. Python must be readable by all before, as root cannot open the way to
it after.
"""


def math_reward(correct: float = 1.0, wrong: float = -1.0) -> VerifierReward:
    """The reward function of the recipes: boxed answers, no shaping. Worker processes start for hard answers only."""
    return VerifierReward(MathVerifier(), {}, Shaping(correct, wrong))


def tool_request(episode: str, call: ToolCall) -> ToolRequest:
    """A call of an episode about nothing in particular."""
    return ToolRequest(episode, call, Task("t", (Message("user", "?"),), ""))


def answered(
    text: str,
    truth: str = "",
    extra: Mapping[str, Any] | None = None,
    source: str = "x",
    stop: StopReason = StopReason.ANSWER,
    truths: tuple[str, ...] = (),
) -> Episode:
    """An episode of one turn of two tokens that says `text`."""
    task = Task("t", (Message("user", "?"),), truth, source, extra or {}, truths)
    turn = Turn(1, 1, 3, text, said=Said("", text))
    return Episode(task, Trajectory("t", 0, 1, (5, 6, 7), (0, 1, 1), (0.0, -1.0, -1.0), (turn,), stop))


def with_token_columns(batch: TokenBatch, change: Callable[[str, Tensor], Tensor]) -> TokenBatch:
    """The batch with `change(name, column)` in place of every B x T column, those of scores and targets included."""

    def changed(record: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for known in fields(record):  # type: ignore[arg-type]
            value = getattr(record, known.name)
            if isinstance(value, Tensor) and known.name.endswith("_BT"):
                found[known.name] = change(known.name, value)
            elif value is not None and known.name in ("scores", "targets", "teacher"):
                found[known.name] = replace(value, **changed(value))
        return found

    return replace(batch, **changed(batch))  # type: ignore[arg-type]


def descendants(pid: int) -> list[int]:
    """The live child processes of `pid` and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found
