"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sod.chat.dialects.hermes import read
from sod.chat.render import Chat
from sod.engines.base import Sampled
from sod.objective.batch import TokenBatch
from sod.records import Episode, Message, StopReason, Task, ToolCall, ToolResult, Trajectory, Turn
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.episode import AskTurn, EpisodeLimits, play
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


def made_once(directories: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` that `make` has filled: once for all workers of a run, in the first to ask for it.

    The others wait. What is shared so must not be changed.
    """
    own = directories.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    directory, mark = common / name, common / f"{name}.made"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(directory, ignore_errors=True)  # of a worker that failed half-way
            directory.mkdir()
            make(directory)
            mark.touch()
    return directory


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
    thought_open: bool = False,
    truths: tuple[str, ...] = (),
) -> Episode:
    """An episode of one turn of two tokens that says `text`, which is read as any turn is.

    With `thought_open` the prompt has opened a thought.
    """
    task = Task("t", (Message("user", "?"),), truth, source, extra or {}, truths)
    turn = Turn(1, 1, 3, text, said=read(text, thought_open))
    return Episode(task, Trajectory("t", 0, 1, (5, 6, 7), (0, 1, 1), (0.0, -1.0, -1.0), (turn,), stop))


def saying_instead(model: Any, ids: Sequence[int]) -> Any:
    """The model, its embeddings untied, with the first of two tokens said wherever it would have said the second."""
    model.config.tie_word_embeddings = False
    weight = model.get_output_embeddings().weight
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.weight[list(ids)] = weight[list(ids)[::-1]]
    model.set_output_embeddings(head)
    return model


def played(
    chat: Chat, turns: Sequence[str], max_response_tokens: int = 5_000, result: str = "5"
) -> tuple[Trajectory, list[ToolCall]]:
    """An episode in which these turns are sampled and every call that is made gets `result`; and those calls."""
    task = Task("t", (Message("user", "?"),), "5")
    limits = EpisodeLimits(len(turns), 2_000, max_response_tokens)
    episode = play(task, 0, chat.prompt_ids(task.prompt), chat, ["python"], limits, noise_key=1)
    made: list[ToolCall] = []
    rest = iter(turns)
    ask = next(episode)
    while True:
        reply: Sampled | list[ToolResult]
        if isinstance(ask, AskTurn):
            ids = (*chat.tokenizer.encode(next(rest), add_special_tokens=False), chat.end_id)
            reply = Sampled(ids, (-1.0,) * len(ids), stopped=True)
        else:
            made += [request.call for request in ask.requests]
            reply = [ToolResult(result) for _ in ask.requests]
        try:
            ask = episode.send(reply)
        except StopIteration as finished:
            return finished.value, made


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
