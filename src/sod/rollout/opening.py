"""How an episode begins in an environment: its prompt is known at reset, and belongs to the episode.

After a prefix (`sod.rollout.prefix`) the world is reset with the seed of the episode that was played, and brought to
where its turns left it; that it begins with the same prompt, and answers alike, is checked.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from sod.environments.base import Action, Began, Replay, Reset, WorldReply, WorldRequest
from sod.records import Fault, FaultKind, Message, Opening, Task, ToolCall, Turn
from sod.rollout.asks import Ask, AskTools, Reply
from sod.rollout.limits import EpisodeLimits
from sod.rollout.prefix import Prefix, limits_after
from sod.rollout.renderer import Renderer


@final
@dataclass(frozen=True)
class WorldStart:
    """What an episode in an environment begins with.

    `own_tools` are the schemas of the run's tools, shown beside the environment's; `prefix` is where the student goes
    on, in the world of the episode that played it.
    """

    seed: int
    max_prompt_tokens: int
    own_tools: tuple[Mapping[str, Any], ...] = ()
    prefix: Prefix | None = None


@final
@dataclass(frozen=True)
class Begun:
    """The opening of an episode, the names of its environment's tools, all that stands before the first token,
    and the limits from there on.
    """

    opening: Opening
    names: frozenset[str]
    prompt_ids: Sequence[int]
    limits: EpisodeLimits


def begun(
    episode: str, task: Task, world: WorldStart, chat: Renderer, limits: EpisodeLimits
) -> Generator[Ask, Reply, Begun | Fault]:
    """Reset the environment, and take the actions of a prefix. A fault where it fails, or does not fit the prefix."""
    played = None if world.prefix is None else world.prefix.played
    seed = world.seed if played is None else played.opening.seed
    began = yield from asked(WorldRequest(episode, Reset(task, seed)))
    if isinstance(began, Fault):
        return began
    assert isinstance(began, Began)
    if both := names_of(world.own_tools) & names_of(began.tools):
        return _fault(f"it has a tool {sorted(both)[0]!r}, and so has the run; rename one, or take it out of tools")
    prompt = prompt_after(task.prompt, began.observation)
    opening = Opening(seed, prompt, (*world.own_tools, *began.tools))
    if not any(message.role == "user" for message in prompt):
        return _fault("the prompt is empty; return an observation, or give the task a prompt")
    prompt_ids = chat.prompt_ids(prompt, opening.tools)
    if len(prompt_ids) > world.max_prompt_tokens:
        return _fault(
            f"its first observation makes a prompt of {len(prompt_ids)} tokens, more than "
            f"rollout.max_prompt_tokens={world.max_prompt_tokens}; raise it"
        )
    if world.prefix is None or played is None:
        return Begun(opening, names_of(began.tools), prompt_ids, limits)
    if world.prefix.token_ids[: len(prompt_ids)] != tuple(prompt_ids):
        return _fault(f"reset with the same seed, {seed}, gave another observation or other tools; draw from the seed")
    replayed = yield from asked(WorldRequest(episode, _replay(played.turns, names_of(began.tools))))
    if isinstance(replayed, Fault):
        return replayed
    opening = replace(opening, earned=played.earned)
    after = limits_after(world.prefix, prompt_ids, limits)
    return Begun(opening, names_of(began.tools), world.prefix.token_ids, after)


def asked(request: WorldRequest) -> Generator[Ask, Reply, WorldReply | Fault]:
    """Ask the environment alone."""
    reply = yield AskTools((request,))
    if isinstance(reply, Fault):
        return reply
    assert isinstance(reply, list)
    assert isinstance(reply[0], WorldReply)
    return reply[0]


def prompt_after(prompt: Sequence[Message], observation: str | Sequence[Message]) -> tuple[Message, ...]:
    """The prompt of an episode: an observation in text ends its last message, one in messages takes its place."""
    if not isinstance(observation, str):
        return tuple(observation)
    if not observation:
        return tuple(prompt)
    if prompt and prompt[-1].role == "user":
        last = prompt[-1]
        content = f"{last.content}\n\n{observation}" if last.content else observation
        return (*prompt[:-1], replace(last, content=content))
    return (*prompt, Message("user", observation))


def names_of(schemas: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names in function schemas."""
    return frozenset(str((schema.get("function") or schema)["name"]) for schema in schemas)


def said_text(turn: Turn) -> str:
    """What a turn says to an environment that is spoken to; what looks like a call is part of it there."""
    return turn.text if turn.said.calls else turn.said.answer


def calls_of(turn: Turn, names: frozenset[str]) -> tuple[ToolCall, ...]:
    """The turn's calls of these tools, in order."""
    return tuple(call for call in turn.said.calls if isinstance(call, ToolCall) and call.name in names)


def _replay(turns: Sequence[Turn], names: frozenset[str]) -> Replay:
    """The actions of these turns, where `names` are the environment's tools, and what the model read after each."""
    actions: list[Action] = []
    expected: list[tuple[str, ...]] = []
    for turn in turns:
        if turn.reply is not None:
            actions.append(said_text(turn))
            expected.append((turn.reply,))
        elif calls := calls_of(turn, names):
            read = [result.text for call, result in zip(turn.calls, turn.results, strict=True) if call.name in names]
            actions.append(calls)
            expected.append(tuple(read))
    return Replay(tuple(actions), tuple(expected))


def _fault(detail: str) -> Fault:
    return Fault(FaultKind.ENVIRONMENT, detail, retryable=False)
