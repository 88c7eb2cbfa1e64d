"""The premise benchmark: which beginnings of turns count as states, what their figures are, and the whole command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.chat.dialects.hermes import read
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.records import Message, StopReason, ToolCall, ToolResult, Trajectory, Turn
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.tasks import chain
from sod.tasks.chain import Chain, as_task
from sod.tasks.files import write_tasks
from sod.teachers.local import LocalTeacher
from sod.tools.base import Tool
from sod.tools.unreliable import UNAVAILABLE
from support import math_reward

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import premise
from premise import (
    ALL,
    CLASSES,
    PAIRED,
    Players,
    chosen,
    figures_of_state,
    first_turns,
    measure,
    outcome,
    preference,
    states_of,
    summary,
)

ASKED = Chain(47, (("+", 8), ("*", 6), ("-", 9)))
TASK = as_task(ASKED, 0)
OWN = ToolResult("NameError: name 'x' is not defined", "exception")


def call(code: str) -> Message:
    """An assistant turn with one Python call."""
    return Message("assistant", "", (ToolCall("python", {"code": code}),))


def episode(chat: Chat, *exchanges: tuple[str, ToolResult], answer: str = "321") -> Trajectory:
    """The ledger of an episode of TASK with these calls and results, then a boxed answer."""
    messages = list(TASK.prompt)
    for code, result in exchanges:
        messages += [call(code), Message("tool", result.text, name="python")]
    ids, turn_ids = chat.encode_conversation([*messages, Message("assistant", f"\\boxed{{{answer}}}")])
    turns = []
    for k in range(1, len(exchanges) + 2):
        start = turn_ids.index(k)
        stop = start + turn_ids.count(k)
        text = chat.decode_turn(ids[start:stop])
        calls = tuple(one for one in read(text).calls if isinstance(one, ToolCall))
        results = (exchanges[k - 1][1],) if k <= len(exchanges) else ()
        turns.append(Turn(k, start, stop, text, calls, results))
    first = turns[0].start
    logps = tuple(-0.5 if k else 0.0 for k in turn_ids)
    return Trajectory(TASK.id, 0, first, tuple(ids), tuple(turn_ids), logps, tuple(turns), StopReason.ANSWER)


def ok(value: int) -> ToolResult:
    return ToolResult(str(value))


class TestStates:
    """Where an episode may be taken up."""

    def test_every_turn_of_a_faultless_episode_is_a_state(self, chat: Chat) -> None:
        """The first turn and the answer among them; nothing to cut out."""
        whole = episode(chat, *((f"print({code})", ok(value)) for code, value in ASKED.steps()))
        states = list(states_of(TASK, ASKED, whole))
        assert [(s.label, s.left, s.history.turns) for s in states] == [
            ("0", 3, 0),
            ("0", 2, 1),
            ("0", 1, 2),
            ("0", 0, 3),
        ]
        assert [s.history.token_ids for s in states] == [whole.token_ids[: turn.start] for turn in whole.turns]
        assert all(s.clean == s.history for s in states)

    def test_failed_calls_are_counted_and_cut_out(self, chat: Chat) -> None:
        """What is left of the history is, token for token, that of an episode in which nothing failed."""
        one, two = "print(47+8)", "print(55*6)"
        rough = episode(chat, (one, UNAVAILABLE), (one, ok(55)), (two, UNAVAILABLE), (two, UNAVAILABLE), (two, ok(330)))
        states = list(states_of(TASK, ASKED, rough))
        assert [s.label for s in states] == ["0", "1", "1", "2+", "2+", "2+"]
        assert [s.left for s in states] == [3, 3, 2, 2, 2, 1]
        assert [(s.failed, s.since) for s in states] == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
        smooth = episode(chat, (one, ok(55)), (two, ok(330)))
        cuts = [0, 0, 1, 1, 1, 2]
        assert [s.clean.token_ids for s in states] == [smooth.token_ids[: smooth.turns[cut].start] for cut in cuts]
        assert [s.clean.turns for s in states] == [s.history.turns for s in states] == list(range(6))

    def test_nothing_after_a_mistake_is_a_state(self, chat: Chat) -> None:
        """A call that ran, or came back unavailable, and was not the next step; a step done twice is none either."""
        one = ("print(47+8)", ok(55))
        for second in (("print(55*7)", ok(385)), ("print(55*7)", UNAVAILABLE), one, ("print( 55*6)", ok(330))):
            assert [s.left for s in states_of(TASK, ASKED, episode(chat, one, second, answer="9"))] == [3, 2]

    def test_own_errors_are_a_class_of_their_own(self, chat: Chat) -> None:
        """The student can still succeed after them, whatever the code was; failed calls do not change the class."""
        one = "print(47+8)"
        states = list(states_of(TASK, ASKED, episode(chat, (one, UNAVAILABLE), ("print(x)", OWN), (one, ok(55)))))
        assert [(s.label, s.failed, s.left) for s in states] == [("0", 0, 3), ("1", 1, 3), ("own", 1, 3), ("own", 1, 2)]
        assert states[2].clean.token_ids == states[0].history.token_ids

    def test_several_calls_in_a_turn_are_a_mistake_unless_all_are_own_errors(self) -> None:
        """The expert makes one call a turn; more than one unreadable call is still no step on the chain."""
        calls = (ToolCall("python", {"code": "print(47+8)"}),) * 2

        def turn(*results: ToolResult) -> Turn:
            return Turn(1, 0, 1, "", calls, results)

        assert outcome(turn(ok(55), ok(55)), "print(47+8)") == "mistake"
        assert outcome(turn(UNAVAILABLE, OWN), "print(47+8)") == "mistake"
        assert outcome(turn(OWN, OWN), "print(47+8)") == "own"
        assert outcome(Turn(1, 0, 1, "", calls[:1], (ok(55),)), None) == "mistake"

    def test_choice_takes_one_state_of_a_task_and_class_evenly_from_its_histories(self, chat: Chat) -> None:
        """However often a history was played; at most as many as asked for; repeatable."""
        one = ("print(47+8)", ok(55))
        early = next(states_of(TASK, ASKED, episode(chat)))
        late = list(states_of(TASK, ASKED, episode(chat, one)))[1]
        failed = list(states_of(TASK, ASKED, episode(chat, ("print(47+8)", UNAVAILABLE))))[1]
        tasks = [as_task(ASKED, number) for number in range(100)]
        states = [replace(s, task=task) for task in tasks for s in (*[early] * 9, late, failed)]
        picked = chosen(states, 100, seed=1)
        assert [s.label for s in picked] == ["0"] * 100 + ["1"] * 100
        assert len({(s.label, s.task.id) for s in picked}) == 200
        assert 30 <= sum(s.history == late.history for s in picked) <= 70
        few = chosen(states, 7, seed=1)
        assert [s.label for s in few] == ["0"] * 7 + ["1"] * 7
        assert few == chosen(states, 7, seed=1) != chosen(states, 7, seed=2)


class TestFigures:
    """What is made of scores and successes."""

    def test_preference_is_over_pairs_of_a_success_and_a_failure(self) -> None:
        """Two successes and two failures make four pairs: two rightly ordered, one tie, one wrongly."""
        assert preference([0.5, 0.1, 0.1, 0.3], [True, True, False, False]) == (0.5, 0.25)
        assert preference([0.1, 0.1 + 1e-6], [True, False]) == (0.0, 1.0)

    @pytest.mark.parametrize("successes", [[True, True], [False, False]])
    def test_without_a_pair_there_is_no_preference(self, successes: list[bool]) -> None:
        """And no figure of pairs in the state's row."""
        assert preference([0.1, 0.2], successes) is None
        turns = [{"d_k": 1.0, "gap": 0.1, "logp": -3.0}, {"d_k": 2.0, "gap": 0.2, "logp": -1.0}]
        row = figures_of_state(turns, successes, [True, False, False, False])
        assert row == {"d_k": 1.5, "gap": pytest.approx(0.15), "teacher": 0.25, "student": float(successes[0])}

    def test_gap_and_log_probability_may_disagree(self) -> None:
        """The student was less sure of the good turn: in the gap it is ahead, in the teacher's own view behind."""
        turns = [{"d_k": 1.0, "gap": gap, "logp": logp} for gap, logp in ((0.4, -5.0), (0.1, -2.0), (0.4, -5.0))]
        row = figures_of_state(turns, [True, False, False], [True])
        assert (row["agreement"], row["agreement_logp"], row["tied"], row["differing"]) == (0.75, 0.25, 0.5, 1.0)

    def test_states_that_only_tie_have_an_agreement_but_no_differing_pairs(self) -> None:
        """One half; nothing can be said of turns that differ."""
        turns = [{"d_k": 1.0, "gap": 0.2, "logp": -1.0}] * 2
        row = figures_of_state(turns, [True, False], [True])
        assert (row["agreement"], row["tied"], "differing" in row) == (0.5, 1.0, False)

    def test_every_state_counts_once_and_a_figure_without_states_is_none(self) -> None:
        """The interval is that of resampling the states: here of all 27 ways to draw three of three."""
        rows = [{"a": 0.0}, {"a": 1.0, "b": 3.0}, {"a": 1.0}]
        found = summary(rows, ("a", "b", "c"))
        assert found["a"] == {"value": pytest.approx(2 / 3), "low": 0.0, "high": 1.0, "states": 3}
        assert found["b"] == {"value": 3.0, "low": 3.0, "high": 3.0, "states": 1}
        assert found["c"] is None

    def test_scores_are_those_of_the_first_turn_alone(
        self, chat: Chat, acting_model: Any, clone: Any, full_logps: Callable[..., list[float]]
    ) -> None:
        """Against a plain forward pass; a longer neighbour in the batch and later turns change nothing."""
        short = episode(chat, ("print(47+8)", ok(55)))
        wide = episode(chat, ("print(47+8+0+0)", ok(55)), ("print(55*6)", ok(330)))
        scores = first_turns(LocalTeacher(clone(acting_model), 400), [short, wide])
        for trajectory, found in zip((short, wide), scores, strict=True):
            turn = trajectory.turns[0]
            theirs = full_logps(acting_model, trajectory.token_ids)[turn.start : turn.stop]
            gaps = [logp + 0.5 for logp in theirs]
            assert found["gap"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-4)
            assert found["d_k"] == pytest.approx(sum(map(abs, gaps)) / len(gaps), abs=1e-4)
            assert found["logp"] == pytest.approx(sum(theirs), abs=1e-3)


@pytest.mark.slow
def test_classes_are_measured_with_and_without_their_errors(
    chat: Chat, acting_model: Any, random_model: Callable[..., Any], clone: Callable[[Any], Any], python_tool: Tool
) -> None:
    """Real continuations. A teacher that is the student has no gap, whatever the history; another one has.

    What the errors change is the mean of the differences of the rows.
    """
    one = "print(47+8)"
    rough = list(states_of(TASK, ASKED, episode(chat, (one, UNAVAILABLE), ("print(x)", OWN), (one, ok(55)))))
    tools, limits, reward_function = {python_tool.name: python_tool}, EpisodeLimits(8, 32, 400), math_reward()

    def measured(teacher: Any) -> dict[str, Any]:
        student, expert = (
            Collector(TorchEngine(model, chat.stop_ids, 16), chat, tools, limits, reward_function, seed=1)
            for model in (acting_model, teacher)
        )
        scorer = LocalTeacher(teacher, 4096)
        return measure(Players(student, expert, scorer, Sampling(), samples=3), rough[:3])

    same, other = measured(clone(acting_model)), measured(random_model(seed=4))
    for label in ("0", "1", "own"):
        assert same["classes"][label]["states"] == 1
        assert same["classes"][label]["d_k"]["value"] < 1e-4
        assert other["classes"][label]["d_k"]["value"] > 0.5
    assert same["classes"]["2+"] == {"states": 0, "operations_left": None, **dict.fromkeys(ALL)}
    assert list(other["changes"]) == ["1", "2+", "own"]
    row = other["rows"][1]
    assert (row["class"], row["failed"], row["left"]) == ("1", 1, 3)
    for key in PAIRED:
        expected = row["with"][key] - row["without"][key]
        assert other["changes"]["1"][key]["value"] == pytest.approx(expected)
    assert other["changes"]["1"]["d_k"]["value"] != 0.0


SFT = {"steps": 60, "batch_size": 8, "checkpoint_every": 60, "optim": {"lr": 8e-3, "warmup_steps": 2}}
SHAPE = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 96}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "student": {"path": "", "dtype": "float32"},
    "chat": {"template": "hermes"},
    "tools": {"python": {"memory_mb": 256, "workers": 1, "preload": [], "failure_rate": 0.5}},
    "rollout": {"max_turns": 4, "max_prompt_tokens": 200, "max_turn_tokens": 32, "max_response_tokens": 200},
    "sft": SFT,
    "world": {
        "shortest": 1,
        "longest": 2,
        "sft": 64,
        "train": 4,
        "validation": 6,
        "test": 1,
        "vocab_size": 400,
        "teacher": SHAPE,
        "student": SHAPE,
        "teacher_sft": SFT,
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A world that the command made for itself, its figures and its table."""
    directory = tmp_path_factory.mktemp("premise")
    return directory, *command(directory, "first", 0.5)


def command(directory: Path, name: str, rate: float, *more: str) -> tuple[dict[str, Any], str]:
    """The figures and the table of a run of the command with this failure rate."""
    python = {**RECIPE["tools"]["python"], "failure_rate": rate}
    (directory / f"{name}.yaml").write_text(yaml.safe_dump({**RECIPE, "tools": {"python": python}}))
    small = ("--episodes", "2", "--samples", "2", "--states", "4", "--out", str(directory / name))
    premise.main([str(directory / f"{name}.yaml"), *small, *more])
    found = json.loads((directory / name / "premise.json").read_text())
    return found, (directory / name / "premise.md").read_text()


@pytest.mark.slow
class TestCommand:
    """Real models, tools and rewards, all tiny."""

    def test_it_makes_a_world_and_leaves_figures_table_and_picture(
        self, made: tuple[Path, dict[str, Any], str]
    ) -> None:
        """Every class is in the table; the class without errors always has states."""
        directory, found, table = made
        assert found["classes"]["0"]["states"] == 4
        assert found["seed"] == 3
        assert list(found["classes"]) == list(CLASSES)
        assert 0.0 <= found["classes"]["0"]["teacher"]["value"] <= 1.0
        assert found["classes"]["0"]["d_k"]["low"] <= found["classes"]["0"]["d_k"]["value"]
        assert len(found["rows"]) == sum(found["classes"][label]["states"] for label in CLASSES)
        assert all(title in table for title in premise.TITLES.values())
        assert (directory / "first" / "premise.png").read_bytes().startswith(b"\x89PNG")

    def test_reliable_tool_leaves_empty_classes_and_the_world_is_used_again(
        self, made: tuple[Path, dict[str, Any], str]
    ) -> None:
        """Dashes where there is no state; what was made before is only read."""
        directory, _, _ = made
        world, copy = directory / "first" / "world", directory / "copy.json"
        found, table = command(directory, "second", 0.0, "--world", str(world), "--tasks", "5", "--json", str(copy))
        assert (found["classes"]["1"]["states"], found["classes"]["1"]["d_k"]) == (0, None)
        assert found["without_errors"]["2+"]["agreement"] is None
        assert "| 1 error | 0 | - | - | - | - | - | - | - | - | - |" in table.splitlines()
        assert json.loads(copy.read_text()) == found

    def test_same_command_gives_the_same_figures(self, made: tuple[Path, dict[str, Any], str]) -> None:
        """Down to the rows of every state."""
        directory, found, _ = made
        again, _ = command(directory, "third", 0.5, "--world", str(directory / "first" / "world"))
        assert again["rows"] == found["rows"]

    def test_tasks_that_are_not_the_worlds_are_refused(self, made: tuple[Path, dict[str, Any], str]) -> None:
        """Else a right call would be taken for a mistake without a word."""
        directory, _, _ = made
        world = directory / "other"
        world.mkdir()
        for name in ("student-sft", "teacher-sft"):
            (world / name).symlink_to(directory / "first" / "world" / name)
        others: Sequence[Chain] = chain.splits({"validation": 3}, 1, 2, seed=99)["validation"]
        (world / "data").mkdir()
        write_tasks(world / "data" / "validation.parquet", [as_task(c, n) for n, c in enumerate(others)])
        with pytest.raises(SystemExit, match="not those of its world and seed"):
            command(directory, "fourth", 0.0, "--world", str(world))

    def test_truncated_sampling_is_refused(self, made: tuple[Path, dict[str, Any], str]) -> None:
        """The log-probabilities it samples with are not the student's own."""
        directory, _, _ = made
        world = str(directory / "first" / "world")
        with pytest.raises(SystemExit, match=r"rollout\.top_p"):
            premise.main([str(directory / "first.yaml"), "rollout.top_k=5", "--world", world, "--out", str(directory)])
