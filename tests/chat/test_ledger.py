"""The token ledger: an episode driven by hand is exactly what was sampled plus what was rendered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.dialects.hermes import read
from sod.chat.render import Chat
from sod.engines.base import Sampled
from sod.records import Episode, Message, StopReason, Task, ToolResult, Trajectory
from sod.rollout.episode import AskTools, AskTurn, EpisodeLimits, play
from sod.tasks.base import Conversation

CALL = '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'
PIECES = st.one_of(
    st.lists(st.integers(0, 399), max_size=12),  # any ids at all
    st.sampled_from(
        [CALL, CALL + CALL, "<tool_call>[]</tool_call>", '<tool_call>{"name": "x", "arguments": {}}</tool_call>']
    ),
)


@dataclass
class Driver:
    """Feeds an episode scripted turns and results, and writes the ledger it expects."""

    chat: Chat
    turns: list[tuple[int, ...]]
    results: list[str]
    ids: list[int] = field(default_factory=list)
    turn_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    def run(self, task: Task, limits: EpisodeLimits) -> Trajectory:
        prompt = self.chat.prompt_ids(task.prompt)
        self._expect(prompt, 0)
        episode = play(task, 0, prompt, self.chat, ["python"], limits, noise_key=1)
        ask = next(episode)
        k = 0
        results = iter(self.results)
        try:
            while True:
                if isinstance(ask, AskTurn):
                    assert list(ask.request.token_ids) == self.ids or self._suffixed(ask.request.token_ids)
                    sampled = self.turns[k]
                    k += 1
                    self._expect(sampled, k)
                    ask = episode.send(Sampled(sampled, tuple(self.logps[-len(sampled) :]), stopped=True))
                else:
                    assert isinstance(ask, AskTools)
                    ask = episode.send([ToolResult(next(results)) for _ in ask.requests])
        except StopIteration as finished:
            return finished.value

    def _expect(self, ids: Any, turn: int) -> None:
        self.ids += ids
        self.turn_ids += [turn] * len(ids)
        self.logps += [-(0.5 + len(self.logps) + i) if turn else 0.0 for i in range(len(ids))]

    def _suffixed(self, context: Any) -> bool:
        """Whatever follows the last turn in the next request is context."""
        assert list(context[: len(self.ids)]) == self.ids
        self._expect(context[len(self.ids) :], 0)
        return True


def spelled(chat: Chat, piece: Any) -> list[int]:
    """Ids of a piece: text is spelled character by character, as no encoder would ever do."""
    if isinstance(piece, str):
        return [i for char in piece for i in chat.tokenizer.encode(char, add_special_tokens=False)]
    return [i for i in piece if i not in chat.stop_ids]


@settings(max_examples=80, deadline=None)
@given(
    turns=st.lists(st.lists(PIECES, max_size=3), min_size=4, max_size=4),
    results=st.lists(st.text(max_size=12), min_size=40, max_size=40),
    user=st.text(max_size=10),
)
def test_ledger_is_what_was_sampled_plus_rendered_suffixes(
    chat: Chat, turns: list[list[Any]], results: list[str], user: str
) -> None:
    """Random ids, calls no encoder would write, junk results: never re-encoded, turn ids explicit, logps in place."""
    sampled = [(*(i for piece in turn for i in spelled(chat, piece)), chat.end_id) for turn in turns]
    driver = Driver(chat, sampled, results)
    trajectory = driver.run(Task("t", (Message("user", user),), ""), EpisodeLimits(4, 10_000, 100_000))
    assert list(trajectory.token_ids) == driver.ids
    assert list(trajectory.turn_ids) == driver.turn_ids
    assert list(trajectory.sampled_logps) == driver.logps
    for k, turn in enumerate(trajectory.turns, start=1):
        assert turn.index == k
        assert trajectory.token_ids[turn.start : turn.stop] == sampled[k - 1]
        assert len(turn.calls) == len(read(turn.text).calls)
        after = trajectory.turns[k].start if k < len(trajectory.turns) else len(trajectory.token_ids)
        between = list(trajectory.token_ids[turn.stop : after])
        if k < len(trajectory.turns):
            assert len(turn.results) == len(turn.calls) > 0
            said = "".join(f"\n<tool_response>\n{r.text}\n</tool_response>" for r in turn.results)
            suffix = f"\n<|im_start|>user{said}<|im_end|>\n<|im_start|>assistant\n"
            assert between == chat.tokenizer.encode(suffix, add_special_tokens=False)
        else:
            assert between == []
            assert trajectory.stop is (StopReason.MAX_TURNS if turn.calls else StopReason.ANSWER)


def test_a_call_that_does_not_round_trip_stays_as_sampled(chat: Chat) -> None:
    """The spelled-out call is read and answered, though encoding its text would give other ids."""
    spelled_call = spelled(chat, CALL)
    assert chat.tokenizer.encode(CALL, add_special_tokens=False) != spelled_call
    turns = [(*spelled_call, chat.end_id), (*spelled(chat, "1"), chat.end_id)]
    trajectory = Driver(chat, turns, ["1"]).run(Task("t", (Message("user", "1"),), ""), EpisodeLimits(4, 999, 9_999))
    assert [len(turn.calls) for turn in trajectory.turns] == [1, 0]
    assert trajectory.token_ids[trajectory.turns[0].start : trajectory.turns[0].stop] == turns[0]


def test_sft_ledger_equals_a_rollout_that_samples_exactly_that_text(
    chat: Chat, conversations: list[Conversation]
) -> None:
    """For every expert trace: same ids and same turn ids as the episode that says the same."""
    for conversation in conversations[:20]:
        said = [m for m in conversation.messages if m.role == "assistant"]
        results = [m.content for m in conversation.messages if m.role == "tool"]
        encode = chat.tokenizer.encode
        turns = [(*encode(chat.assistant_text(m), add_special_tokens=False), chat.end_id) for m in said]
        driver = Driver(chat, turns, results)
        task = Task("t", conversation.messages[:1], "")
        trajectory = driver.run(task, EpisodeLimits(9, 999, 9_999))
        assert Episode(task, trajectory).messages == conversation.messages
        assert chat.encode_conversation(conversation.messages) == (
            list(trajectory.token_ids),
            list(trajectory.turn_ids),
        )
        assert trajectory.stop is StopReason.ANSWER
