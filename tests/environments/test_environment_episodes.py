"""Episodes in environments: who answers a turn, what is recorded, what is earned, and what happens when one fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from environment_games import ADD, Counter, GymCounter, Parrot, TrlCounter
from scripted_engine import ScriptedEngine
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.environments.adapt import adapted
from sod.environments.base import End, Ended, Reset, WorldRequest
from sod.environments.worlds import Worlds
from sod.records import Fault, FaultKind, Group, Message, SodError, StopReason, Task, ToolResult, Trajectory
from sod.rewards.shaping import Shaping
from sod.rollout.collect import Collector, World
from sod.rollout.earned import EnvironmentReward
from sod.rollout.limits import EpisodeLimits
from sod.rollout.prefix import prefix_of
from sod.runlog.trajectories import trajectory_of, trajectory_row
from sod.tasks.files import load_conversations
from sod.tools.base import Tool, ToolRequest

SAMPLING = Sampling(1.0)


def call(number: Any, name: str = "add") -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': {'number': number}})}</tool_call>"


def task(name: str = "t", prompt: str = "Play.", **extra: Any) -> Task:
    return Task(name, (Message("user", prompt),) if prompt else (), "", extra=extra)


def rolled(
    tokenizer: Any,
    make: Callable[[], Any],
    script: Mapping[str, Sequence[str]],
    tools: Mapping[str, Tool] | None = None,
    seconds: float = 20.0,
    longest: int = 500,
    **limits: int,
) -> tuple[Collector, ScriptedEngine]:
    chat = Chat(tokenizer, [ADD], template="hermes")
    engine = ScriptedEngine(chat, script)
    bounds = EpisodeLimits(**({"max_turns": 4, "max_turn_tokens": 200, "max_response_tokens": 900} | limits))
    world = World(Worlds(make, seconds), longest)
    reward = EnvironmentReward(1.0, Shaping())
    return Collector(engine, chat, tools or {}, bounds, reward, 0, max_fault_rate=1.0, world=world), engine


def played(collector: Collector, *tasks: Task, **options: Any) -> list[Group]:
    return collector.collect(list(tasks), 1, SAMPLING, "train", 1, **options).groups


def only(groups: list[Group]) -> Trajectory:
    (group,) = groups
    (trajectory,) = (*group.trajectories, *group.faulted)
    return trajectory


def test_calls_go_to_the_environment_and_end_the_episode_where_it_says_so(tokenizer: Any) -> None:
    collector, engine = rolled(tokenizer, Counter, {"t": [call(2), call(3)]})
    trajectory = only(played(collector, task(goal=5)))
    assert trajectory.stop is StopReason.DONE
    assert [result.text for result in trajectory.tool_results] == ["The counter is at 2.", "The counter is at 5."]
    assert (trajectory.reward, trajectory.correct) == (1.0, True)
    assert trajectory.reward_parts == {"environment": 1.0}
    assert trajectory.opening is not None
    assert trajectory.opening.prompt == (Message("user", "Play.\n\nCount to 5."),)
    text = engine.chat.tokenizer.decode(engine.asked[1].token_ids)
    assert "Count to 5." in text
    assert "The counter is at 2." in text


def test_several_calls_of_a_turn_are_one_action_with_a_result_each(tokenizer: Any) -> None:
    turn = call(1) + call("x") + call(1, "jump") + call(2)
    trajectory = only(played(rolled(tokenizer, Counter, {"t": [turn]})[0], task(goal=3)))
    assert [result.error for result in trajectory.tool_results] == [None, "wrong_arguments", "unknown_tool", None]
    assert trajectory.tool_results[3].text == "The counter is at 3."
    assert trajectory.correct


def test_what_is_said_is_answered_by_a_user_turn_and_rewarded_at_the_end(tokenizer: Any) -> None:
    collector, engine = rolled(tokenizer, Parrot, {"t": ["hello", "word"]})
    trajectory = only(played(collector, task(prompt="")))
    assert trajectory.stop is StopReason.ANSWER
    assert [turn.reply for turn in trajectory.turns] == ["You said hello", "You said word"]
    assert [turn.reward for turn in trajectory.turns] == [0.25, 0.25]
    assert trajectory.reward == 1.5
    text = engine.chat.tokenizer.decode(engine.asked[1].token_ids)
    assert text.count("<|im_start|>user") == 2
    assert "You said hello" in text


def test_an_environment_that_never_ends_is_bounded_and_its_last_action_counts(tokenizer: Any) -> None:
    collector, _ = rolled(tokenizer, Counter, {"t": [call(1)] * 9}, max_turns=3)
    short, exact = task("t", goal=4), task("t", goal=3)
    assert only(played(collector, short)).stop is StopReason.MAX_TURNS
    assert not only(played(collector, short)).correct
    assert only(played(collector, exact)).correct


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("reset", "reset: KeyError: 'val1' (environment_games.py line"),
        ("step", "step: RuntimeError: the counter is jammed (environment_games.py line"),
        ("down", "step: ToolFault: no counter"),
        ("hang", "step: took longer than 0.2 s"),
        ("nan", "step: a reward of nan is none; return a finite number"),
        ("form", "step: step returned str; it has to return (text, reward, done)"),
        ("pair", "step: step returned a tuple of 2; it has to return (text, reward, done)"),
        ("no text", "step: step returned int in place of text"),
        ("no texts", "step: step returned bytes in place of text; the model reads text"),
        ("few", "step: step got 1 calls and returned 0 results; return a list of one for each"),
        ("no number", "step: a reward is a number, not str"),
        ("twins", "reset: reset returned two tools named 'add'; give each a name of its own"),
        ("nameless", "reset: reset returned a tool without a name; a function schema has name and parameters"),
    ],
)
def test_a_failing_environment_is_a_fault_that_sets_its_episode_apart(tokenizer: Any, broken: str, said: str) -> None:
    seconds = 0.2 if broken == "hang" else 20.0
    collector, _ = rolled(tokenizer, lambda: Counter(broken=broken), {"t": [call(1)]}, seconds=seconds)
    (group,) = played(collector, task(goal=5))
    assert not group.trajectories
    (trajectory,) = group.faulted
    assert trajectory.fault is not None
    assert trajectory.fault.kind is FaultKind.ENVIRONMENT
    assert said in trajectory.fault.detail


class Unending(Counter):
    """Fails at the end, and does not let go."""

    closed = False

    def __init__(self, reward: Any, seconds: float = 0.0) -> None:
        super().__init__()
        self.reward = reward
        self.seconds = seconds

    def final_reward(self) -> Any:
        if isinstance(self.reward, Exception):
            raise self.reward
        return self.reward

    def close(self) -> None:
        self.closed = True
        time.sleep(self.seconds)
        raise OSError("stuck")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (ValueError("no sum"), "end: ValueError: no sum (test_environment_episodes.py line"),
        (float("nan"), "end: a reward of nan is none; return a finite number"),
        ("much", "end: a reward is a number, not str"),
    ],
)
def test_what_fails_at_the_end_is_a_fault_that_sets_its_episode_apart(tokenizer: Any, reward: Any, said: str) -> None:
    collector, _ = rolled(tokenizer, lambda: Unending(reward), {"t": [call(5)]})
    trajectory = only(played(collector, task(goal=5)))
    assert trajectory.fault is not None
    assert said in trajectory.fault.detail
    assert trajectory.reward == 0.0


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_close_that_raises_or_hangs_does_no_harm(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sod.environments.worlds.CLOSE_SECONDS", 0.2)
    world = Unending(0.5, seconds)
    worlds = Worlds(lambda: world)
    worlds.run([WorldRequest("e", Reset(task(goal=5), 1))])
    assert worlds.run([WorldRequest("e", End())]) == [Ended(0.5)]
    worlds.close()
    assert world.closed


def test_a_prompt_that_does_not_fit_is_a_fault_that_names_the_key(tokenizer: Any) -> None:
    trajectory = only(played(rolled(tokenizer, Counter, {"t": [call(1)]}, longest=5)[0], task(goal=5)))
    assert trajectory.fault is not None
    assert "rollout.max_prompt_tokens=5; raise it" in trajectory.fault.detail


def test_seeds_differ_between_samples_and_steps_and_repeat(tokenizer: Any) -> None:
    def seeds(step: int) -> list[int]:
        collector, _ = rolled(tokenizer, Counter, {"t": [call(1)] * 9}, max_turns=1)
        groups = collector.collect([task()], 3, SAMPLING, "train", step).groups
        return [t.opening.seed for t in groups[0].trajectories if t.opening is not None]

    assert len(set(seeds(1))) == 3
    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


class Recalling(Counter):
    """A counter that replays by itself, and says how often it was stepped."""

    steps = 0
    replays = 0

    def step(self, action: Any) -> Any:
        type(self).steps += 1
        return super().step(action)


class Replaying(Recalling):
    def replay(self, actions: Sequence[Any]) -> None:
        type(self).replays += 1
        self.total = sum(one.arguments["number"] for action in actions for one in action)


class Forgetful(Counter):
    """Does not repeat itself: what it says depends on the object's past."""

    past = 0

    def step(self, action: Any) -> Any:
        type(self).past += 1
        texts, reward, done = super().step(action)
        return [f"{text} ({type(self).past})" for text in texts], reward, done


@pytest.mark.parametrize("world", [Recalling, Replaying])
def test_the_student_goes_on_in_the_world_that_a_prefix_left(tokenizer: Any, world: type[Recalling]) -> None:
    world.steps = world.replays = 0
    shown = only(played(rolled(tokenizer, world, {"t": [call(2), call(1), call(1)]})[0], task(goal=4)))
    prefix = prefix_of(shown, 2)
    before = world.steps
    went_on = only(played(rolled(tokenizer, world, {"t": [call(1)]})[0], task(goal=4), prefixes=[prefix]))
    assert went_on.tool_results[0].text == "The counter is at 4."
    assert went_on.correct
    assert went_on.prompt_tokens == len(prefix.token_ids)
    assert went_on.opening is not None
    assert shown.opening is not None
    assert went_on.opening.seed == shown.opening.seed
    assert (world.steps - before, world.replays) == ((1, 1) if world is Replaying else (3, 0))


def test_an_environment_that_does_not_repeat_is_no_place_for_a_prefix(tokenizer: Any) -> None:
    shown = only(played(rolled(tokenizer, Forgetful, {"t": [call(2), call(2)]})[0], task(goal=4)))
    collector, _ = rolled(tokenizer, Forgetful, {"t": [call(2)]})
    went_on = only(played(collector, task(goal=4), prefixes=[prefix_of(shown, 1)]))
    assert went_on.fault is not None
    assert "with the same seed before; take all chance from the seed, or define replay" in went_on.fault.detail


def test_a_row_of_an_episode_in_an_environment_is_read_back_as_it_was(tokenizer: Any) -> None:
    trajectory = only(played(rolled(tokenizer, Parrot, {"t": ["hello", "word"]})[0], task(prompt="")))
    row = json.loads(json.dumps(trajectory_row(trajectory, task(prompt=""))))
    assert trajectory_of(row) == trajectory
    assert row["prompt"] == [{"role": "user", "content": "Say the word."}]


def test_a_class_written_for_trl_plays_unchanged(tokenizer: Any) -> None:
    script = {"t": [call(-1), call(5), "I am done."]}
    collector, _ = rolled(tokenizer, lambda: adapted(TrlCounter(), "auto", "here"), script)
    trajectory = only(played(collector, task(goal=5)))
    assert [result.error for result in trajectory.tool_results] == ["exception", None]
    assert trajectory.tool_results[0].text == "{'error': 'only forwards'}"
    assert trajectory.stop is StopReason.ANSWER
    assert trajectory.reward == 1.0
    assert trajectory.opening is not None
    assert trajectory.opening.prompt == (Message("user", "Play.Count to 5."),)
    assert trajectory.opening.tools[0]["function"]["parameters"]["required"] == ["number"]


def test_the_five_values_of_gymnasium_and_gem(tokenizer: Any) -> None:
    collector, _ = rolled(tokenizer, lambda: adapted(GymCounter(), "auto", "here"), {"t": ["3", "5"]})
    trajectory = only(played(collector, task(prompt="", seed=4)))
    assert [turn.reply for turn in trajectory.turns] == ["Again.", "Right."]
    assert trajectory.stop is StopReason.ANSWER
    assert trajectory.correct


def test_what_has_no_reset_is_refused() -> None:
    with pytest.raises(SodError, match="makes a dict, which has no reset"):
        adapted({}, "auto", "environment.call='x:y'")


class Calculator:
    """A tool of the run's own, beside the environment's."""

    name = "calculate"
    schema: Mapping[str, Any] = {**ADD, "function": {**ADD["function"], "name": "calculate"}}
    keeps_state = False

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        self.begun = len(episodes)

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        return [ToolResult(str(request.call.arguments["number"] * 10)) for request in requests]

    def probe(self) -> Fault | None:
        return None

    def finish(self, episodes: Sequence[str]) -> None:
        self.begun -= len(episodes)

    def close(self) -> None:
        """Nothing to release."""


def test_tools_of_the_run_answer_beside_the_environment(tokenizer: Any) -> None:
    turn = call(4, "calculate") + call(1) + call(5, "calculate") + call(2)
    tools = {"calculate": Calculator()}
    trajectory = only(played(rolled(tokenizer, Counter, {"t": [turn]}, tools)[0], task(goal=3)))
    texts = [result.text for result in trajectory.tool_results]
    assert texts == ["40", "The counter is at 1.", "50", "The counter is at 3."]
    assert trajectory.correct
    assert trajectory.opening is not None
    assert [tool["function"]["name"] for tool in trajectory.opening.tools] == ["calculate", "add"]


def test_two_tools_of_one_name_are_a_fault_that_names_them(tokenizer: Any) -> None:
    tools = {"add": Calculator()}
    tools["add"].schema = ADD
    trajectory = only(played(rolled(tokenizer, Counter, {"t": [call(1)]}, tools)[0], task(goal=3)))
    assert trajectory.fault is not None
    assert "it has a tool 'add', and so has the run" in trajectory.fault.detail


def test_an_episode_in_an_environment_is_a_conversation_to_train_on(tokenizer: Any, tmp_path: Path) -> None:
    trajectory = only(played(rolled(tokenizer, Parrot, {"t": ["hello", "word"]})[0], task(prompt="")))
    file = tmp_path / "generations.jsonl"
    file.write_text(json.dumps(trajectory_row(trajectory, task(prompt=""))))
    (conversation,) = load_conversations(str(file)).items
    assert [(message.role, message.content) for message in conversation.messages] == [
        ("user", "Say the word."),
        ("assistant", "hello"),
        ("user", "You said hello"),
        ("assistant", "word"),
    ]
