"""What an episode leaves behind: frozen, torch-free records that all packages share.

Words are those of `docs/index.md`. A trajectory is a *token ledger*: what was sampled is stored as
sampled, tool output is appended as rendered, and nothing is ever re-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, final

Role = Literal["system", "user", "assistant", "tool"]
VerifierName = Literal["math", "choice", "code"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")


class SodError(Exception):
    """Stops the run. The message is one line that names the file, key or row, and the fix."""


class ToolFault(Exception):  # noqa: N818  a fault is what it is, and users write it
    """Raised by a user's tool, reward or environment: what it needs is down, so this says nothing about the model.

    The call is a fault: tried again where `retryable`, then the episode is set apart and never trained on. Any other
    exception of a tool is a tool error, which the model reads.
    """

    def __init__(self, message: str = "", retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


@final
@dataclass(frozen=True)
class ToolCall:
    """One call the assistant asked for. `arguments` is a JSON object; `id` is the name a data row gives the call."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@final
@dataclass(frozen=True)
class Message:
    """One chat message; `tool_calls` only on assistant messages, `name` only on tool messages.

    `reasoning` is what an assistant thought before `content`, without the marks around it; `weight` is the loss weight
    of an assistant message in SFT: 0 makes it context.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    reasoning: str | None = None
    weight: float = 1.0


@final
@dataclass(frozen=True)
class Task:
    """A problem: prompt messages and what a verifier needs.

    Tools are declared by the run. `truths` are answers that are accepted beside `ground_truth`. `tools` are the
    function schemas that a row declares: a run shows its own, and tells of those that it does not have. `verifier` is
    who has to judge it, where its row tells: tests are run by `code`, letters read by `choice`, whatever the recipe has
    for other rows.
    """

    id: str
    prompt: tuple[Message, ...]
    ground_truth: str
    data_source: str = "unknown"
    extra: Mapping[str, Any] = field(default_factory=dict)
    truths: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    verifier: VerifierName | None = None


@final
@dataclass(frozen=True)
class ToolResult:
    """What the model reads after a call.

    `error` is None for a success, else the short name of the model's own doing (`exception`,
    `timeout`, `invalid_json`, ...): a *tool error*, visible to the model and trainable.
    """

    text: str
    error: str | None = None
    seconds: float = 0.0


@final
@dataclass(frozen=True)
class MalformedCall:
    """A tool call that cannot be read: `error` is its short name, `detail` what the model is told."""

    error: str
    detail: str

    def result(self) -> ToolResult:
        """The tool error that the model reads in place of a result."""
        return ToolResult(f"Error: {self.error}: {self.detail}", error=self.error)


@final
@dataclass(frozen=True)
class Said:
    """What one assistant turn says, as its dialect reads it (`sod.chat.dialects`).

    `thinking` is all that stands in thoughts, closed or not, without the marks around them, one thought below the
    other. `answer` is the rest without the calls that could be read: what was said, and all that verifiers judge.
    `calls` are all tool calls in order, readable or not; a call in a thought is none.
    """

    thinking: str = ""
    answer: str = ""
    calls: tuple[ToolCall | MalformedCall, ...] = ()


class FaultKind(StrEnum):
    """What of ours failed. Metrics count faults under these names."""

    SANDBOX = "sandbox"  # no local worker, or it was lost
    SESSION = "session"  # a session's state was lost by our doing
    UNREACHABLE = "unreachable"  # no connection to a service, or it broke
    TIMEOUT = "timeout"  # a service did not answer in time
    SERVER = "server"  # a service answered that it failed
    BAD_REPLY = "bad_reply"  # an answer cut short, not JSON, or of the wrong types
    VERIFIER = "verifier"  # the verifier itself failed (not: the answer is junk)
    TOOL = "tool"  # a user's tool said so (`ToolFault`), or what it runs in was lost
    ENVIRONMENT = "environment"  # a user's environment failed


@final
@dataclass(frozen=True)
class Fault:
    """A failure of ours (sandbox down, worker lost): says nothing about the model, never trained on.

    `retryable` is False where another attempt cannot help (the state of a session is gone).
    """

    kind: FaultKind
    detail: str
    retryable: bool = True


def may_retry(outcome: object) -> bool:
    """Whether an outcome is a fault that another attempt may mend."""
    return isinstance(outcome, Fault) and outcome.retryable


@final
@dataclass(frozen=True)
class Program:
    """Source to be run as `__main__` of a fresh interpreter, and what it finds there.

    `files` are put into the working directory before (relative names), those named in `fetch` are
    read back after; one that is not there is left out. `seconds` (wall clock) and `memory_mb` (MiB)
    replace the sandbox's own limits.
    """

    source: str
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    fetch: tuple[str, ...] = ()
    seconds: float | None = None
    memory_mb: int | None = None


ExecutionStatus = Literal["ok", "error", "timeout", "memory", "output_limit"]


@final
@dataclass(frozen=True)
class Execution:
    """How one program or cell ended. All of it is the program's own doing.

    Where the status is not `ok`, the last line of `stderr` says why in words fit for the model: the
    end of the traceback, `process killed by signal 11`, `stopped after 5 s`, ...
    `seconds` (wall clock) is informative only. `exit_code` is None where the program was stopped.
    """

    status: ExecutionStatus
    stdout: str
    stderr: str
    seconds: float
    exit_code: int | None = 0
    files: Mapping[str, bytes] = field(default_factory=dict)


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # an assistant turn without a tool call
    DONE = "done"  # the environment ended it after a call
    MAX_TURNS = "max_turns"  # the turn limit, with a tool call still open
    LENGTH = "length"  # the token limit of the turn or of the response
    FAULT = "fault"  # infrastructure failed; see `Trajectory.fault`


@final
@dataclass(frozen=True)
class Turn:
    """One assistant message: its action tokens are `token_ids[start:stop]` of the trajectory.

    `text` is those tokens decoded, and `said` the dialect's reading of them. `calls` are the calls as recorded, one
    for each of `said.calls`: a malformed one has an empty name. `results` answer them in order; there are none where
    the calls were not run. In an environment `reply` is what it said to a turn without calls, which the model reads as
    a user message, and `reward` what it gave for the turn.
    """

    index: int  # k, from 1
    start: int
    stop: int
    text: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    said: Said = Said()
    reply: str | None = None
    reward: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether something came back: results of its calls, or an environment's reply."""
        return bool(self.results) or self.reply is not None


@final
@dataclass(frozen=True)
class Opening:
    """How an environment began an episode: its seed, the prompt that came of its observation, the tools it showed.

    `earned` is what it gave for turns before the student's first one, where the student went on from a prefix.
    """

    seed: int
    prompt: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    earned: float = 0.0


@final
@dataclass(frozen=True)
class Verdict:
    """What an episode answered (None: nothing in the expected form), and its score: 1 is right, 0 is wrong.

    Verifiers put equal answers into one spelling where they can, so that a majority can be counted.
    `detail` says in a few words what failed first, for people to read.
    """

    answer: str | None
    score: float
    detail: str = ""

    @property
    def correct(self) -> bool:
        """Whether the answer earned the full score."""
        return self.score >= 1.0


@final
@dataclass(frozen=True)
class Trajectory:
    """The record of one episode.

    `token_ids`, `turn_ids` and `sampled_logps` have equal length (tokens). `turn_ids[t]` is 0 at
    context and k at an action token of turn k; `sampled_logps[t]` (nats) is the log-probability
    under the distribution the token was sampled from, and 0.0 at context. `verdict` is what the
    verifier had to say (the first failed test), for people. `reward_parts` are the named summands of `reward`.
    `opening` is there where the episode began in an environment: the prompt is then its own, not the task's.
    `versions` are those of the weights that sampled the turns, one for each, as the engine counts them.
    """

    task_id: str
    sample: int
    prompt_tokens: int
    token_ids: tuple[int, ...]
    turn_ids: tuple[int, ...]
    sampled_logps: tuple[float, ...]
    turns: tuple[Turn, ...]
    stop: StopReason
    answer: str | None = None
    correct: bool = False
    reward: float = 0.0
    verdict: str = ""
    fault: Fault | None = None
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    opening: Opening | None = None
    versions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.turn_ids) == len(self.sampled_logps):
            raise ValueError(f"ledger of {self.task_id}#{self.sample} has columns of unequal length")

    @property
    def response_tokens(self) -> int:
        """Tokens after the prompt: actions and tool output."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def action_tokens(self) -> int:
        """Tokens the student sampled."""
        return sum(1 for k in self.turn_ids if k)

    def before_fault(self) -> Trajectory:
        """The part of the trajectory that a fault leaves usable for distillation.

        - A tool faulted: the turns before the one that called it, which is left out because its call may be why we
          failed. None are left where it was the first turn.
        - The engine faulted: all turns that were sampled.
        - The verifier faulted, after the last turn, or nothing did: the whole trajectory.
        """
        if self.stop is not StopReason.FAULT:
            return self
        calls_faulted = bool(self.turns) and not self.turns[-1].answered
        kept = self.turns[:-1] if calls_faulted else self.turns
        end = self.turns[-1].start if calls_faulted else len(self.token_ids)
        while end > self.prompt_tokens and not self.turn_ids[end - 1]:
            end -= 1  # tool output that only the dropped turn, or the one never sampled, would have read
        return replace(
            self,
            token_ids=self.token_ids[:end],
            turn_ids=self.turn_ids[:end],
            sampled_logps=self.sampled_logps[:end],
            turns=kept,
        )

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Every tool result of the episode, in order."""
        return tuple(result for turn in self.turns for result in turn.results)


@final
@dataclass(frozen=True)
class Episode:
    """A task and the record of one conversation about it: what reward functions and verifiers are given."""

    task: Task
    trajectory: Trajectory

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation: the prompt, then every turn with its thoughts and calls, then its tool results.

        A call that could not be read stays in the content of its message, and its tool error is a tool message as any
        other. Turns before the student's first one, where it went on from a prefix, are not in the record.
        """
        opening = self.trajectory.opening
        messages = list(self.task.prompt if opening is None else opening.prompt)
        for turn in self.trajectory.turns:
            readable = tuple(call for call in turn.said.calls if isinstance(call, ToolCall))
            reasoning = turn.said.thinking or None
            messages.append(Message("assistant", turn.said.answer, readable, reasoning=reasoning))
            for call, result in zip(turn.calls, turn.results, strict=False):  # no results: the calls were not run
                messages.append(Message("tool", result.text, name=call.name or None))
            if turn.reply is not None:
                messages.append(Message("user", turn.reply))
        return tuple(messages)


@final
@dataclass(frozen=True)
class Group:
    """The trajectories of one task in one step (GRPO's group), the faulted ones kept apart."""

    task_id: str
    trajectories: tuple[Trajectory, ...]
    faulted: tuple[Trajectory, ...] = field(default=())
