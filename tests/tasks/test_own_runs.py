"""Episodes of our own runs read back as conversations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.records import (
    Fault,
    FaultKind,
    MalformedCall,
    Message,
    Said,
    SodError,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
)
from sod.runlog.trajectories import trajectory_row
from sod.tasks.files import load_conversations
from sod.tasks.loaded import SkippedRow

RUNS = Path(__file__).parents[1] / "data"
TOOL = {"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}
TASK = Task("t", (Message("system", "Be brief."), Message("user", "17*23?")), "391")
CALL = ToolCall("python", {"code": "print(17*23)"})
BROKEN = MalformedCall("invalid_json", "Expecting value")
BROKEN_TEXT = "<tool_call>{</tool_call>"
TURNS = (
    Turn(1, 0, 1, "", (CALL,), (ToolResult("391"),), Said("\nHm.\n", "I compute.", (CALL,))),
    Turn(2, 1, 2, "", (ToolCall("", {}),), (BROKEN.result(),), Said("", BROKEN_TEXT, (BROKEN,))),
    Turn(3, 2, 3, "", (), (), Said("", "\\boxed{391}")),
)


def trajectory(**changes: Any) -> Trajectory:
    made = Trajectory("t", 0, 0, (1, 2, 3), (1, 2, 3), (0.0, 0.0, 0.0), TURNS, StopReason.ANSWER, reward=1.0)
    return replace(made, **changes)


def written(path: Path, *trajectories: Trajectory) -> Path:
    rows = [trajectory_row(made, TASK, [TOOL]) for made in trajectories]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_episode_is_a_conversation(tmp_path: Path) -> None:
    """A turn whose call could not be read is shown with its tool error and not trained on."""
    [conversation] = load_conversations(str(written(tmp_path / "step-000001.jsonl", trajectory()))).items
    assert (conversation.tools, conversation.reward) == ((TOOL,), 1.0)
    assert conversation.messages == (
        *TASK.prompt,
        Message("assistant", "I compute.", (CALL,), reasoning="Hm."),
        Message("tool", "391", name="python"),
        Message("assistant", BROKEN_TEXT, weight=0.0),
        Message("tool", "Error: invalid_json: Expecting value"),
        Message("assistant", "\\boxed{391}"),
    )


def test_every_field_of_an_episode_is_known(tmp_path: Path) -> None:
    loaded = load_conversations(str(written(tmp_path / "step-000001.jsonl", trajectory())))
    assert (loaded.unused, loaded.shapes) == ({}, {"trajectory": 1})


def test_what_is_no_lesson_is_left_out(tmp_path: Path) -> None:
    fault = trajectory(stop=StopReason.FAULT, fault=Fault(FaultKind.SANDBOX, "lost"))
    cut = trajectory(turns=TURNS[:1], stop=StopReason.LENGTH)
    broken = trajectory(turns=TURNS[1:2], stop=StopReason.MAX_TURNS)
    longer = trajectory(stop=StopReason.LENGTH)
    loaded = load_conversations(str(written(tmp_path / "step-000001.jsonl", fault, cut, broken, longer)))
    assert loaded.skipped == [
        SkippedRow(0, "its episode ended in a fault of ours (sandbox)"),
        SkippedRow(1, "its only turn was cut off"),
        SkippedRow(2, "every assistant message has weight 0: there is nothing to train on"),
    ]
    assert [message.content for message in loaded.items[0].messages if message.role == "assistant"] == [
        "I compute.",
        BROKEN_TEXT,
    ]


@pytest.mark.parametrize("turns", [[{"said": 1}], [7], [{"said": {}}], [{"said": {"thinking": 1, "answer": ""}}]])
def test_turns_of_another_make(tmp_path: Path, turns: list[Any]) -> None:
    row = trajectory_row(trajectory(), TASK) | {"turns": turns}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(SodError, match="no usable row, 1 skipped: row 0: "):
        load_conversations(str(tmp_path / "a.jsonl"))


def test_a_run_directory_is_its_episodes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(SodError, match=r"run: a run without episodes in trajectories/; .*train\.trajectories_every"):
        load_conversations(str(tmp_path / "run"))
    for step in (1, 2):
        written(tmp_path / "run" / "trajectories" / f"step-{step:06d}.jsonl", trajectory(reward=float(step)))
    assert [item.reward for item in load_conversations(str(tmp_path / "run")).items] == [1.0, 2.0]
    written(tmp_path / "evaluated" / "generations.jsonl", trajectory(reward=0.0))
    both = [str(tmp_path / "evaluated"), str(tmp_path / "run")]
    assert [item.reward for item in load_conversations(both).items] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("version", [1, 2])
def test_runs_of_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Episodes of format 1 were written without their prompts: those are the tasks of the run's recipe."""
    world = tmp_path / "world"
    shutil.copytree(RUNS / f"format{version}-run", world)
    monkeypatch.chdir(world)
    loaded = load_conversations("run")
    assert loaded.items
    assert not loaded.skipped
    for conversation in loaded.items:
        assert conversation.messages[0].role == "user"
        assert {message.role for message in conversation.messages} >= {"user", "assistant"}
    if version == 1:
        (world / "train.parquet").unlink()
        with pytest.raises(SodError, match="an episode without its prompt"):
            load_conversations("run")
