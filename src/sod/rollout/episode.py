"""One conversation of the student with its tools, from its prompt to its trajectory.

`play` is a generator that neither samples nor runs a tool itself: it yields what it needs (a turn to sample, tools to
run) and is sent the result. Batching, concurrency and retries are its driver's (`sod.rollout.collect`), so that the
same code serves both schedules: the one that can be repeated, and the one that takes whatever is ready first.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

from sod.engines.base import Sampled, SampleRequest
from sod.records import Fault, MalformedCall, Message, Said, StopReason, Task, ToolCall, ToolResult, Trajectory, Turn
from sod.tools.base import ToolRequest


class Renderer(Protocol):
    """What an episode needs of `sod.chat.render.Chat`."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...
    def closing_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]: ...
    def suffix_ids(self, messages: Sequence[Message], calls: Sequence[ToolCall] = ()) -> tuple[int, ...]: ...
    def decode_turn(self, token_ids: Sequence[int]) -> str: ...
    def parse(self, token_ids: Sequence[int], before: Sequence[int] | None = None) -> Said: ...


@final
@dataclass(frozen=True)
class EpisodeLimits:
    """Where an episode ends. Tokens; the response counts tool output too."""

    max_turns: int
    max_turn_tokens: int
    max_response_tokens: int


@final
@dataclass(frozen=True)
class AskTurn:
    """Sample this turn and send back a `Sampled`, or a `Fault`."""

    request: SampleRequest


@final
@dataclass(frozen=True)
class AskTools:
    """Run these calls and send back one `ToolResult` each, or a single `Fault`."""

    requests: tuple[ToolRequest, ...]


Ask = AskTurn | AskTools
Reply = Sampled | list[ToolResult] | Fault
Play = Generator[Ask, Reply, Trajectory]


@final
@dataclass
class _Ledger:
    """Append-only columns of a trajectory, and the turns among them."""

    prompt_tokens: int = 0
    turns: list[Turn] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    turn_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    def context(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.turn_ids += [0] * len(ids)
        self.logps += [0.0] * len(ids)

    def actions(self, turn: int, sampled: Sampled) -> tuple[int, int]:
        start = len(self.token_ids)
        self.token_ids += sampled.token_ids
        self.turn_ids += [turn] * len(sampled.token_ids)
        self.logps += sampled.logps
        return start, len(self.token_ids)

    @property
    def response_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    def trajectory(self, task: Task, sample: int, stop: StopReason, fault: Fault | None) -> Trajectory:
        return Trajectory(
            task_id=task.id,
            sample=sample,
            prompt_tokens=self.prompt_tokens,
            token_ids=tuple(self.token_ids),
            turn_ids=tuple(self.turn_ids),
            sampled_logps=tuple(self.logps),
            turns=tuple(self.turns),
            stop=stop,
            fault=fault,
        )


def episode_name(task: Task, sample: int, noise_key: int) -> str:
    """What tools know the episode by: no two episodes of a run share it."""
    return f"{task.id}#{sample}@{noise_key:016x}"


def play(
    task: Task,
    sample: int,
    prompt_ids: Sequence[int],
    chat: Renderer,
    tool_names: Collection[str],
    limits: EpisodeLimits,
    noise_key: int,
) -> Play:
    """Play one episode; returns its (unrewarded) trajectory.

    `prompt_ids` is all that stands before the student's first token, a prefix included (`sod.rollout.prefix`).
    A malformed or unknown call is answered with a named tool error that the model reads. A fault ends the
    episode: nothing of it reaches the model.
    """
    episode = episode_name(task, sample, noise_key)
    ledger = _Ledger(len(prompt_ids))
    ledger.context(prompt_ids)
    stop, fault = StopReason.MAX_TURNS, None
    for k in range(1, limits.max_turns + 1):
        budget = min(limits.max_turn_tokens, limits.max_response_tokens - ledger.response_tokens)
        sampled = yield AskTurn(SampleRequest(episode, tuple(ledger.token_ids), budget, noise_key))
        if isinstance(sampled, Fault):
            stop, fault = StopReason.FAULT, sampled
            break
        assert isinstance(sampled, Sampled)
        start, end = ledger.actions(k, sampled)
        text, said = chat.decode_turn(sampled.token_ids), chat.parse(sampled.token_ids, ledger.token_ids[:start])
        turn = Turn(k, start, end, text, tuple(_recorded(call) for call in said.calls), said=said)
        ledger.turns.append(turn)
        if not said.calls:
            stop = StopReason.ANSWER if sampled.stopped else StopReason.LENGTH
            break
        if k == limits.max_turns:  # the calls stay open: nobody would read their results
            break
        results = yield from _answers(episode, task, said.calls, tool_names)
        if isinstance(results, Fault):
            stop, fault = StopReason.FAULT, results
            break
        ledger.turns[-1] = replace(turn, results=tuple(results))
        answers = chat.suffix_ids([Message("tool", result.text) for result in results], turn.calls)
        suffix = chat.closing_ids(sampled.token_ids) + answers
        if ledger.response_tokens + len(suffix) >= limits.max_response_tokens:  # no token left for another turn
            stop = StopReason.LENGTH
            break
        ledger.context(suffix)
    return ledger.trajectory(task, sample, stop, fault)


def _answers(
    episode: str, task: Task, calls: Sequence[ToolCall | MalformedCall], tool_names: Collection[str]
) -> Generator[Ask, Reply, list[ToolResult] | Fault]:
    """One result per call, in order: tool errors of our own making for bad calls, the tools' for the rest."""
    known = [call for call in calls if isinstance(call, ToolCall) and call.name in tool_names]
    executed: list[ToolResult] = []
    if known:
        reply = yield AskTools(tuple(ToolRequest(episode, call, task) for call in known))
        if isinstance(reply, Fault):
            return reply
        assert isinstance(reply, list)
        executed = reply
    replies = iter(executed)
    results = []
    for call in calls:
        if isinstance(call, MalformedCall):
            results.append(call.result())
        elif call.name in tool_names:
            results.append(next(replies))
        else:
            offer = ", ".join(sorted(tool_names))
            results.append(ToolResult(f"Error: unknown_tool: {call.name[:80]!r}; tools: {offer}", error="unknown_tool"))
    return results


def _recorded(call: ToolCall | MalformedCall) -> ToolCall:
    """A malformed call is recorded with an empty name: it named nothing."""
    return call if isinstance(call, ToolCall) else ToolCall("", {})
