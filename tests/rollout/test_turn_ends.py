"""Turns that end in another token than the template's: a base model says its own EOS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.objective.batch import pack
from sod.records import StopReason
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.tasks import chain
from sod.tools.base import Tool
from sod.tools.python import SCHEMA
from support import math_reward, saying_instead

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 3}, 2, 3, seed=1)["t"])]


@pytest.fixture(scope="module")
def base_chat(tokenizer: Any) -> Chat:
    """The template's end token is not the tokenizer's EOS."""
    own = copy.deepcopy(tokenizer)
    own.eos_token = "<|endoftext|>"
    return Chat(own, [SCHEMA], template="hermes")


@pytest.fixture(scope="module")
def own_eos(base_chat: Chat) -> int:
    assert base_chat.tokenizer.eos_token_id is not None
    return base_chat.tokenizer.eos_token_id


def test_only_another_token_is_closed(base_chat: Chat, own_eos: int) -> None:
    end = base_chat.end_id
    assert base_chat.stop_ids == {end, own_eos}
    assert base_chat.closing_ids([7, 8, end]) == ()
    assert base_chat.closing_ids([7, 8, own_eos]) == (end,)
    assert base_chat.closing_ids([own_eos]) == (end,)


def test_later_turns_read_the_template(
    acting_model: Any, base_chat: Chat, own_eos: int, python_tool: Tool, clone: Callable[[Any], Any]
) -> None:
    """The own EOS is what was sampled and scored; without it, the ledger is the template's own rendering.

    The end token that follows it is context: nobody is rewarded or corrected for it.
    """
    student = saying_instead(clone(acting_model), (own_eos, base_chat.end_id))
    collector = Collector(
        engine=TorchEngine(student, base_chat.stop_ids, 8),
        chat=base_chat,
        tools={"python": python_tool},
        limits=EpisodeLimits(4, 32, 200),
        reward_function=math_reward(),
        seed=0,
    )
    groups = collector.collect(TASKS, 4, Sampling(), "train", 1).groups
    episodes = [(group.task_id, trajectory) for group in groups for trajectory in group.trajectories]
    several = [t for _, t in episodes if len(t.turns) > 1 and own_eos in t.token_ids]
    assert several
    assert StopReason.ANSWER in {t.stop for _, t in episodes}
    for trajectory in several:
        for turn, later in zip(trajectory.turns, trajectory.turns[1:], strict=False):
            context = trajectory.token_ids[turn.stop : later.start]
            assert set(trajectory.turn_ids[turn.stop : later.start]) == {0}
            closed = (base_chat.end_id,) if trajectory.token_ids[turn.stop - 1] == own_eos else ()
            assert base_chat.tokenizer.decode(context) == base_chat.tokenizer.decode(closed) + suffix_of(
                base_chat, turn
            )
    batch = pack(groups, False, TASKS)
    assert bool((batch.token_BT[batch.turn_BT > 0] == own_eos).any())


def suffix_of(chat: Chat, turn: Any) -> str:
    """What the template writes after a turn's end token: cut out of its rendering of a conversation."""
    question = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "TURN"}]
    rows = [*question, *({"role": "tool", "content": result.text} for result in turn.results)]
    text = chat.tokenizer.apply_chat_template(
        rows, chat_template=chat.template, tools=chat.tools, add_generation_prompt=True, tokenize=False
    )
    return str(text.partition("TURN" + chat.end_text)[2])
