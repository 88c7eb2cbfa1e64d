"""Runs that Python gave a tool and a reward: what they record, and who can go on with them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod import Episode, Run, SodError, evaluate, train
from sod.models.load import save_model
from sod.report.metrics import PANELS
from sod.tasks import chain
from sod.tasks.files import write_tasks


def look_up(word: str) -> str:
    """Look a word up.

    Args:
        word: what to look up
    """
    return word


def turns_taken(episode: Episode) -> dict[str, float]:
    """A tenth for each turn, as a part with a name."""
    return {"turns": len(episode.trajectory.turns) / 10}


def other_reward() -> Callable[[Episode], float]:
    """A function of the same name with another source."""

    def turns_taken(episode: Episode) -> float:
        return 1.0

    return turns_taken


@pytest.fixture
def content(tmp_path: Path, acting_model: Any, chat: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One step of GRPO on four episodes."""
    monkeypatch.setattr("sod.report.curves.PANELS", PANELS[:2])
    save_model(acting_model, copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "model")
    chains = chain.splits({"train": 4}, 2, 3, seed=9)["train"]
    write_tasks(tmp_path / "tasks.parquet", [chain.as_task(c, number) for number, c in enumerate(chains)])
    return {
        "student": {"path": str(tmp_path / "model"), "dtype": "float32"},
        "chat": {"template": "hermes"},
        "data": {"train": str(tmp_path / "tasks.parquet")},
        "tools": {"python": None},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "max_turns": 2,
            "max_prompt_tokens": 512,
            "max_turn_tokens": 24,
            "max_response_tokens": 200,
        },
        "method": "grpo",
        "train": {"steps": 1, "checkpoint_every": 1, "trajectories_every": 1},
        "evaluation": {"k": 1, "tasks": 2},
    }


@pytest.fixture
def run(content: dict[str, Any], tmp_path: Path) -> Run:
    """Trained in a thread."""
    finished: list[Run] = []

    def work() -> None:
        finished.append(train(content, tools=[look_up], reward=turns_taken, run=tmp_path / "run", progress=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return finished[0]


def test_what_was_passed_in_is_used_and_recorded(run: Run) -> None:
    rows = run.trajectories()
    assert len(rows) == 4
    for row in rows:
        assert row["reward"] == pytest.approx(len(row["turns"]) / 10)
        assert [tool["function"]["name"] for tool in row["tools"]] == ["look_up"]
    assert [(row["key"], row["name"].rpartition(":")[2]) for row in run.manifest["code"]] == [
        ("tools.look_up.call", "look_up"),
        ("reward.call", "turns_taken"),
    ]
    kept = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    assert kept["tools"]["look_up"]["call"] == "passed-in:look_up"


def test_commands_refuse_and_say_what_to_call(run: Run, sod: Any) -> None:
    resumed = sod("train", "--resume", run.path)
    assert resumed.code == 1
    assert resumed.err.strip().endswith(
        f'pass it again: sod.train(resume="{run.path}", tools=[look_up], reward=turns_taken)'
    )
    evaluated = sod("eval", run.path, "--data", "nowhere.jsonl", "--allow-code")
    assert evaluated.code == 1
    assert "pass it again: sod.evaluate(" in evaluated.err
    assert evaluated.err.strip().endswith("data, tools=[look_up], reward=turns_taken)")


def test_python_goes_on_with_it_where_it_is_passed_again(
    run: Run, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SodError, match=r"sod\.train\(resume=.*, reward=turns_taken\)"):
        train(resume=run.path, tools=[look_up])
    again = train(resume=run.path, tools=[look_up], reward=turns_taken, progress=False)
    assert [row["step"] for row in again.metrics] == [1]
    assert "has changed" not in capsys.readouterr().err
    result = evaluate(run, content["data"]["train"], tools=[look_up], reward=other_reward(), progress=False)
    assert result.episodes["reward"] == 1.0
    assert "reward.call: the source of " in capsys.readouterr().err


def test_another_tool_is_another_run(run: Run) -> None:
    def search(word: str) -> str:
        """Search.

        Args:
            word: what for
        """
        return word

    with pytest.raises(SodError, match=r"was started with another recipe: tools\.search is null there"):
        train(resume=run.path, tools=[look_up, search], reward=turns_taken, progress=False)
