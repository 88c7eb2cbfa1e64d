"""From a recipe to live objects: knobs reach what they name, and what is wrong is told by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build import (
    final_model,
    fitting_tasks,
    loaded_tasks,
    make_chat,
    make_collector,
    make_method,
    make_tools,
    prepare_sft,
    prepare_train,
    run_evaluation,
)
from sod.models.load import save_model
from sod.objective.methods import PRESETS
from sod.objective.stats import TurnStats
from sod.recipe import MethodSpec, Recipe
from sod.records import SodError, ToolCall
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.base import ToolRequest
from sod.train import checkpoint
from sod.train.checkpoint import Position
from support import math_judge

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]


@pytest.fixture
def make_recipe(tmp_path: Path, chat: Any, acting_model: Any, conversations: Any, clone: Any) -> Callable[..., Recipe]:
    """`make_recipe(section={...})`: a recipe over real files below `tmp_path`."""
    save_model(clone(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    write_tasks(tmp_path / "train.parquet", TASKS)
    write_conversations(tmp_path / "sft.parquet", conversations[:8])

    def make(**sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "student": {"path": str(tmp_path / "model")},
            "teacher": {"path": str(tmp_path / "model")},
            "chat": {"template": "hermes"},
            "data": {name: str(tmp_path / f"{name}.parquet") for name in ("train", "sft")},
            "rollout": {
                "prompts": 1,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 16,
                "max_response_tokens": 64,
            },
            "tools": {"python": {"workers": 1, "memory_mb": 256}},
            "train": {"steps": 2, "checkpoint_every": 1},
            "sft": {"steps": 2, "batch_size": 2},
        }
        for key, value in sections.items():
            both = isinstance(value, dict) and isinstance(content.get(key), dict)
            content[key] = {**content[key], **value} if both else value
        return Recipe.model_validate(content)

    return make


def quiet(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


class TestMethod:
    """`method` in the recipe."""

    def test_presets_with_their_own_defaults(self) -> None:
        """Keys left out keep the preset's value; the clip range is the recipe's."""
        sod = make_method(MethodSpec(name="sod", clip_low=0.1, clip_high=0.3))
        assert (sod.kappa, sod.rho, sod.clip_low, sod.clip_high) == (1.0, 1.0, 0.1, 0.3)
        assert [make_method(MethodSpec(name=name)).needs_teacher for name in ("grpo", "opd", "sod")] == [0, 1, 1]
        assert [make_method(MethodSpec(name=name)).needs_reward for name in ("grpo", "opd", "sod")] == [1, 0, 1]

    def test_knobs_reach_the_rule(self) -> None:
        """delta and epsilon change the weights, by the paper's formula; kappa and rho the mix."""
        method = make_method(MethodSpec(name="sod", kappa=0.5, rho=2.0, delta=1.0, epsilon=0.1))
        assert (method.kappa, method.rho) == (0.5, 2.0)
        stats = TurnStats(torch.tensor([[0.4, 0.9, 0.1]]), torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.int64))
        assert method.turn_weights is not None
        assert method.turn_weights(stats)[0].tolist() == pytest.approx([1.0, 0.5, 2.0])

    def test_unknown_name_and_knob(self) -> None:
        """Both are named, with what there is."""
        with pytest.raises(SodError, match="'sodd'; known: " + ", ".join(sorted(PRESETS))):
            make_method(MethodSpec(name="sodd"))
        with pytest.raises(SodError, match=r"method\.delta: opd has no such knob"):
            make_method(MethodSpec(name="opd", delta=0.1))


class TestTasks:
    """Which tasks a run gets."""

    def test_unset_key(self, make_recipe: Any) -> None:
        """The key to set is named."""
        with pytest.raises(SodError, match=r"data\.train is not set"):
            loaded_tasks(None, "data.train", make_recipe(), quiet)

    def test_limit_is_inclusive(self, make_recipe: Any, chat: Any) -> None:
        """A prompt of exactly the limit fits; one token less and it is skipped, counted and named."""
        lengths = [len(chat.prompt_ids(task.prompt)) for task in TASKS]
        longest = max(lengths)
        exact = make_recipe(rollout={"max_prompt_tokens": longest})
        assert fitting_tasks(TASKS, chat, exact, quiet) == TASKS
        notes: list[str] = []
        kept = fitting_tasks(TASKS, chat, make_recipe(rollout={"max_prompt_tokens": longest - 1}), notes.append)
        left_out = [task for task, length in zip(TASKS, lengths, strict=True) if length == longest]
        assert kept == [task for task in TASKS if task not in left_out]
        (note,) = notes
        assert note.startswith(f"{len(left_out)} of 6 prompts")
        assert f"{left_out[0].id} with {longest} tokens" in note

    def test_refuse(self, make_recipe: Any, chat: Any) -> None:
        """The same as an error."""
        recipe = make_recipe(rollout={"max_prompt_tokens": 1}, data={"overlong_prompts": "refuse"})
        with pytest.raises(SodError, match="6 of 6 prompts"):
            fitting_tasks(TASKS, chat, recipe, quiet)


class TestTools:
    """`tools` in the recipe."""

    def test_limits_reach_the_sandbox(self, make_recipe: Any) -> None:
        """Code length, output length and time are the recipe's, by running programs."""
        limits = {"max_code_chars": 40, "max_output_chars": 16, "timeout_seconds": 0.5}
        with ExitStack() as opened:
            tools = make_tools(make_recipe(tools={"python": {**limits, "workers": 1}}), opened)
            programs = ["print(6*7)", "x" * 41, "print('y' * 99)", "while True: pass"]
            results = tools["python"].run([ToolRequest("e", ToolCall("python", {"code": code})) for code in programs])
            assert [getattr(result, "error", "fault") for result in results] == [None, "code_too_long", None, "timeout"]
            assert results[0].text == "42"
            assert results[2].text.startswith("y" * 16 + "...")

    def test_no_tool(self, make_recipe: Any, tokenizer: Any) -> None:
        """`python: null` starts no sandbox and shows the model no schema."""
        recipe = make_recipe(tools={"python": None})
        assert make_tools(recipe, ExitStack()) == {}
        prompts = [
            tokenizer.decode(make_chat(spec, tokenizer).prompt_ids(TASKS[0].prompt)) for spec in (recipe, make_recipe())
        ]
        assert ["Run Python code" in prompt for prompt in prompts] == [False, True]


class TestFinalModel:
    """A run, a checkpoint, a directory, a hub id."""

    def test_plain_paths_stay(self, tmp_path: Path) -> None:
        """A directory without a run in it, and a hub id, are taken as they are."""
        assert final_model(str(tmp_path)) == str(tmp_path)
        assert final_model("owner/model") == "owner/model"

    def test_newest_checkpoint_of_a_run(self, tmp_path: Path) -> None:
        """By number, not by name or time; partial ones do not count; none is an error."""
        log = RunLog.create(tmp_path / "run", {}, 0)
        with pytest.raises(SodError, match="no checkpoint yet"):
            final_model(str(log.path))
        for step in (1_000_000, 999_999, 5):
            checkpoint.save(log.checkpoint_dir(step), Position(step, ""), {}, lambda d: None)
        log.checkpoint_dir(2_000_000).with_name(".step-2000000.partial").mkdir()
        assert final_model(str(log.path)) == str(log.checkpoint_dir(1_000_000))

    def test_broken_checkpoint(self, tmp_path: Path) -> None:
        """The newest is not quietly passed over."""
        log = RunLog.create(tmp_path / "run", {}, 0)
        for step in (1, 2):
            checkpoint.save(log.checkpoint_dir(step), Position(step, ""), {}, lambda d: None)
        (log.checkpoint_dir(2) / checkpoint.COMPLETE).unlink()
        for path in (log.path, log.checkpoint_dir(2)):
            with pytest.raises(SodError, match="step-000002"):
                final_model(str(path))
        assert final_model(str(log.checkpoint_dir(1))) == str(log.checkpoint_dir(1))


class TestEvaluation:
    """`evaluation` in the recipe."""

    def test_subset_sampling_and_k(self, make_recipe: Any, chat: Any, acting_model: Any) -> None:
        """So many tasks, in the file's order, so many samples; 0 and too many mean all."""
        for wanted, expected in ((0, 6), (4, 4), (99, 6)):
            recipe = make_recipe(evaluation={"k": 2, "tasks": wanted}, tools={"python": None})
            result = run_evaluation(recipe, make_collector(recipe, chat, {}, math_judge(), acting_model), TASKS)
            ids = [t.task_id for t in result.trajectories][::2]
            assert len(ids) == len(set(ids)) == result.tasks == expected
            assert ids == [task.id for task in TASKS if task.id in ids]
            assert all(len(t.turns) <= 2 for t in result.trajectories)


class TestPrepare:
    """A job that is ready to go."""

    def test_nothing_is_written_before_everything_is_checked(self, make_recipe: Any, tmp_path: Path) -> None:
        """A recipe that fails late (a teacher that is not there) leaves no run directory."""
        run = tmp_path / "run"
        with pytest.raises(SodError, match="no such model directory"):
            prepare_train(make_recipe(teacher={"path": str(tmp_path / "gone")}), run, False, quiet)
        assert not run.exists()

    def test_evaluation_during_training_needs_its_data(self, make_recipe: Any, tmp_path: Path) -> None:
        """Found before the first step, not at the first evaluation."""
        with pytest.raises(SodError, match=r"data\.validation is not set"):
            prepare_train(make_recipe(train={"evaluate_every": 5}), tmp_path / "run", False, quiet)

    def test_overlong_conversations(self, make_recipe: Any, tmp_path: Path) -> None:
        """Counted when some are too long for `sft.max_tokens`, refused when all are."""
        with pytest.raises(SodError, match=r"no conversation fits sft\.max_tokens=8"):
            prepare_sft(make_recipe(sft={"max_tokens": 8}), tmp_path / "run", False, lambda text: None)
        notes: list[str] = []
        job = prepare_sft(make_recipe(sft={"max_tokens": 150}), tmp_path / "run", False, notes.append)
        job.close()
        (note,) = notes
        assert "of 8 conversations are longer than sft.max_tokens" in note

    def test_runs_without_tools(self, make_recipe: Any, tmp_path: Path) -> None:
        """A recipe without a tool trains, evaluates on the way and ends with a checkpoint."""
        recipe = make_recipe(
            tools={"python": None},
            data={"validation": str(tmp_path / "train.parquet")},
            train={"evaluate_every": 2},
            evaluation={"k": 1, "tasks": 2},
        )
        job = prepare_train(recipe, tmp_path / "run", False, quiet)
        job.start([])
        job.close()
        rows = job.log.metrics()
        assert [("eval/avg_at_k" in row) for row in rows] == [False, True]
        assert [step for step, _ in job.log.checkpoints()] == [1, 2]
