"""One conversation of the student with its tools, from its prompt to its trajectory.

`play` is a generator that neither samples nor runs a tool itself: it yields what it needs (a turn to sample, tools to
run) and is sent the result. Batching, concurrency and retries are its driver's (`sod.rollout.collect`), so that the
same code serves both schedules: the one that can be repeated, and the one that takes whatever is ready first.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from sod.engines.base import Sampled, SampleRequest
from sod.environments.base import End, Ended, Step, Stepped, WorldRequest
from sod.records import (
    Fault,
    FaultKind,
    MalformedCall,
    Message,
    Opening,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)
from sod.rollout.asks import Ask as Ask
from sod.rollout.asks import AskTools as AskTools
from sod.rollout.asks import AskTurn as AskTurn
from sod.rollout.asks import Play as Play
from sod.rollout.asks import Reply as Reply
from sod.rollout.asks import Request
from sod.rollout.limits import EpisodeLimits as EpisodeLimits
from sod.rollout.opening import WorldStart as WorldStart
from sod.rollout.opening import asked, begun, calls_of, said_text
from sod.rollout.renderer import Renderer as Renderer
from sod.tools.base import ToolRequest

EARNED = "environment"
"""The part of a reward that an environment gave."""


@final
@dataclass
class _Ledger:
    """Append-only columns of a trajectory, and the turns among them."""

    prompt_tokens: int = 0
    opening: Opening | None = None
    turns: list[Turn] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    turn_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def begin(self, prompt_ids: Sequence[int]) -> None:
        self.prompt_tokens = len(prompt_ids)
        self.context(prompt_ids)

    def context(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.turn_ids += [0] * len(ids)
        self.logps += [0.0] * len(ids)

    def actions(self, turn: int, sampled: Sampled) -> tuple[int, int]:
        start = len(self.token_ids)
        self.token_ids += sampled.token_ids
        self.turn_ids += [turn] * len(sampled.token_ids)
        self.logps += sampled.logps
        self.versions.append(sampled.version)
        return start, len(self.token_ids)

    @property
    def response_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    def trajectory(
        self, task: Task, sample: int, stop: StopReason, fault: Fault | None, at_end: float = 0.0
    ) -> Trajectory:
        earned = {}
        if self.opening is not None:
            earned[EARNED] = self.opening.earned + sum(turn.reward for turn in self.turns) + at_end
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
            reward_parts=earned,
            opening=self.opening,
            versions=tuple(self.versions),
        )


def episode_name(task: Task, sample: int, noise_key: int) -> str:
    """What tools know the episode by: no two episodes of a run share it."""
    return f"{task.id}#{sample}@{noise_key:016x}"


@final
@dataclass(frozen=True)
class _Scene:
    """Who is there to answer an episode: the run's tools (`own`), an environment with its tools (`theirs`), or both."""

    episode: str
    task: Task
    own: Collection[str]
    opening: Opening | None = None
    theirs: frozenset[str] = frozenset()

    @property
    def shown(self) -> Sequence[Mapping[str, Any]] | None:
        """The schemas that the model is shown; None: the run's."""
        return None if self.opening is None else self.opening.tools

    @property
    def names(self) -> list[str]:
        """The tools that the model can call."""
        return sorted({*self.own, *self.theirs})

    def speaks(self, turn: Turn) -> bool:
        """Whether the turn is said to an environment: it calls nothing, or there is nothing to call."""
        return self.opening is not None and not (turn.said.calls and self.names)


@final
@dataclass(frozen=True)
class _Answers:
    """What comes back of a turn: a result for each call, or an environment's reply; its reward; whether it is over."""

    results: tuple[ToolResult, ...] = ()
    reply: str | None = None
    reward: float = 0.0
    done: bool = False

    @property
    def messages(self) -> list[Message]:
        """What the model reads."""
        if self.reply is not None:
            return [Message("user", self.reply)]
        return [Message("tool", result.text) for result in self.results]


def play(
    task: Task,
    sample: int,
    prompt_ids: Sequence[int],
    chat: Renderer,
    tool_names: Collection[str],
    limits: EpisodeLimits,
    noise_key: int,
    world: WorldStart | None = None,
) -> Play:
    """Play one episode; returns its (unrewarded) trajectory.

    `prompt_ids` is all that stands before the student's first token, a prefix included (`sod.rollout.prefix`); with a
    `world` they are not looked at, since an environment's first observation is part of the prompt.
    A malformed or unknown call is answered with a named tool error that the model reads. A fault ends the
    episode: nothing of it reaches the model. What an environment gave stands in `reward_parts` under `environment`.
    """
    scene = _Scene(episode_name(task, sample, noise_key), task, tool_names)
    ledger = _Ledger()
    if world is not None:
        start = yield from begun(scene.episode, task, world, chat, limits)
        if isinstance(start, Fault):
            return ledger.trajectory(task, sample, StopReason.FAULT, start)
        scene = replace(scene, opening=start.opening, theirs=start.names)
        ledger.opening, prompt_ids, limits = start.opening, start.prompt_ids, start.limits
    ledger.begin(prompt_ids)
    stop = yield from _turns(scene, ledger, chat, limits, noise_key)
    at_end = 0.0
    if world is not None and not isinstance(stop, Fault):
        ended = yield from asked(WorldRequest(scene.episode, End()))
        if isinstance(ended, Fault):
            stop = ended
        else:
            assert isinstance(ended, Ended)
            at_end = ended.reward
    if isinstance(stop, Fault):
        return ledger.trajectory(task, sample, StopReason.FAULT, stop)
    return ledger.trajectory(task, sample, stop, None, at_end)


def _turns(
    scene: _Scene, ledger: _Ledger, chat: Renderer, limits: EpisodeLimits, noise_key: int
) -> Generator[Ask, Reply, StopReason | Fault]:
    """The turns of an episode, one after the other into the ledger; why it ended."""
    shown = None if scene.shown is None else bool(scene.shown)
    for k in range(1, limits.max_turns + 1):
        budget = min(limits.max_turn_tokens, limits.max_response_tokens - ledger.response_tokens)
        sampled = yield AskTurn(SampleRequest(scene.episode, tuple(ledger.token_ids), budget, noise_key))
        if isinstance(sampled, Fault):
            return sampled
        assert isinstance(sampled, Sampled)
        turn = _turn(k, sampled, ledger, chat, scene.shown)
        ledger.turns.append(turn)
        if not sampled.stopped and (not turn.said.calls or scene.speaks(turn)):
            return StopReason.LENGTH
        if scene.opening is None and not turn.said.calls:
            return StopReason.ANSWER
        if scene.opening is None and k == limits.max_turns:  # the calls stay open: nobody would read their results
            break
        answers = yield from _answers(scene, turn)
        if isinstance(answers, Fault):
            return answers
        ledger.turns[-1] = replace(turn, results=answers.results, reply=answers.reply, reward=answers.reward)
        if answers.done:
            return StopReason.ANSWER if answers.reply is not None else StopReason.DONE
        if k == limits.max_turns:  # an environment takes the last action too: it may earn something
            break
        following = _following(chat, answers, turn, shown)
        if isinstance(following, Fault):
            return following
        suffix = chat.closing_ids(sampled.token_ids) + following
        if ledger.response_tokens + len(suffix) >= limits.max_response_tokens:  # no token left for another turn
            return StopReason.LENGTH
        ledger.context(suffix)
    return StopReason.MAX_TURNS


def _following(chat: Renderer, answers: _Answers, turn: Turn, shown: bool | None) -> tuple[int, ...] | Fault:
    """What comes after a turn's end; a fault where the template does not let a user answer a turn."""
    if answers.reply is None:
        return chat.suffix_ids(answers.messages, turn.calls, shown)
    try:
        return chat.suffix_ids(answers.messages, (), shown)
    except ValueError as error:
        return Fault(FaultKind.ENVIRONMENT, str(error), retryable=False)


def _turn(k: int, sampled: Sampled, ledger: _Ledger, chat: Renderer, shown: Sequence[Mapping[str, Any]] | None) -> Turn:
    """What was sampled, written into the ledger and read."""
    start, end = ledger.actions(k, sampled)
    before = ledger.token_ids[:start]
    said = chat.parse(sampled.token_ids, before) if shown is None else chat.parse(sampled.token_ids, before, shown)
    text = chat.decode_turn(sampled.token_ids)
    return Turn(k, start, end, text, tuple(_recorded(call) for call in said.calls), said=said)


def _answers(scene: _Scene, turn: Turn) -> Generator[Ask, Reply, _Answers | Fault]:
    """What comes back of a turn. Calls get tool errors of our own making where they are bad, else their tools' results.

    An environment gets its calls of the turn together, or what was said.
    """
    if scene.speaks(turn):
        stepped = yield from asked(WorldRequest(scene.episode, Step(said_text(turn))))
        if isinstance(stepped, Fault):
            return stepped
        assert isinstance(stepped, Stepped)
        return _Answers((), stepped.results[0].text, stepped.reward, stepped.done)
    mine, theirs = calls_of(turn, frozenset(scene.own)), calls_of(turn, scene.theirs)
    requests: list[Request] = [ToolRequest(scene.episode, call, scene.task) for call in mine]
    if theirs:
        requests.append(WorldRequest(scene.episode, Step(theirs)))
    done, reward = False, 0.0
    executed: dict[str, Iterator[ToolResult]] = {}
    if requests:
        reply = yield AskTools(tuple(requests))
        if isinstance(reply, Fault):
            return reply
        assert isinstance(reply, list)
        executed["own"] = iter([result for result in reply if isinstance(result, ToolResult)])
        for result in reply:
            if isinstance(result, Stepped):
                executed["theirs"], reward, done = iter(result.results), result.reward, result.done
    results = [_result(call, scene, executed) for call in turn.said.calls]
    return _Answers(tuple(results), None, reward, done)


def _result(call: ToolCall | MalformedCall, scene: _Scene, executed: Mapping[str, Iterator[ToolResult]]) -> ToolResult:
    """The result of the next call: its tool's or the environment's, or what the model did wrong."""
    if isinstance(call, MalformedCall):
        return call.result()
    if call.name in scene.own:
        return next(executed["own"])
    if call.name in scene.theirs:
        return next(executed["theirs"])
    offer = ", ".join(scene.names)
    return ToolResult(f"Error: unknown_tool: {call.name[:80]!r}; tools: {offer}", error="unknown_tool")


def _recorded(call: ToolCall | MalformedCall) -> ToolCall:
    """A malformed call is recorded with an empty name: it named nothing."""
    return call if isinstance(call, ToolCall) else ToolCall("", {})
