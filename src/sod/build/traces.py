"""What a world's scripted expert does, as conversations to begin a student with (`data.sft`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sod.build.playable import Playable
from sod.environments.playing import Played, episodes
from sod.records import Message, SodError
from sod.rollout.opening import prompt_after
from sod.tasks.base import Conversation


@final
@dataclass(frozen=True)
class Traces:
    """The conversations that reached the goal, in the order of their tasks, and how many episodes were played."""

    conversations: Sequence[Conversation]
    played: int


def traces(world: Playable, seed: int, max_turns: int, name: str) -> Traces:
    """Let the expert play each task once. Raises SodError where there is no expert, or it never reaches the goal."""
    with world.worlds() as worlds:
        played = list(episodes(worlds, world.tasks, "expert", seed, max_turns, world.spec.concurrency))
    succeeded = {one.task.id: conversation_of(one) for one in played if one.reward >= world.spec.success}
    if not succeeded:
        best = max(one.reward for one in played)
        raise SodError(
            f"{name}: its expert reached environment.success={world.spec.success:g} in none of {len(played)} episodes, "
            f"the best earned {best:g}; raise --max-turns, or lower environment.success"
        )
    ordered = [succeeded[task.id] for task in world.tasks if task.id in succeeded]
    return Traces(ordered, len(played))


def conversation_of(played: Played) -> Conversation:
    """An episode as the model would have read and said it; what comes after its last action is not in it."""
    messages = list(prompt_after(played.task.prompt, played.began.observation))
    for move in played.moves:
        if isinstance(move.action, str):
            messages += [Message("assistant", move.action), Message("user", move.stepped.results[0].text)]
        else:
            answers = zip(move.action, move.stepped.results, strict=True)
            messages.append(Message("assistant", "", move.action))
            messages += [Message("tool", result.text, name=call.name) for call, result in answers]
    while messages[-1].role != "assistant":
        messages.pop()
    return Conversation(played.task.id, tuple(messages), played.began.tools, played.reward)
