"""From a recipe to live objects: knobs reach what they name, and what is wrong is told by name."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.build.data import fitting_tasks, loaded_tasks, make_chat
from sod.build.evaluation import chosen_tasks, run_evaluation
from sod.build.job import final_model
from sod.build.rollout import make_collector
from sod.build.supervised import prepare_sft
from sod.build.tools import make_tools
from sod.build.training import prepare_train
from sod.models.load import load_model, save_model
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS
from sod.recipe import Recipe
from sod.records import SodError, ToolCall
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.training import checkpoint
from sod.training.checkpoint import Position
from sod.training.loop import InterruptedRunError
from sod.training.report import StepReport
from support import math_reward, tool_request

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


def test_a_run_tells_what_its_episodes_say_about_the_recipe(make_recipe: Any, tmp_path: Path) -> None:
    """Turns too short for an answer, all rewards equal: once each in two steps; SOD compares rewards."""
    notes: list[str] = []
    rollout = {"prompts": 8, "max_turns": 1, "max_turn_tokens": 2}
    with closing(prepare_train(make_recipe(rollout=rollout), tmp_path / "run", False, notes.append)) as job:
        job.start([])
    assert [note.split(" episodes")[0] for note in notes if "cut off" in note] == ["100% of 16"]
    assert [note[:23] for note in notes if "flat" in note] == ["100% of groups are flat"]


def test_vanishing_tool_calls_are_told_once(
    make_recipe: Any, tmp_path: Path, chat: Any, acting_model: Any, random_model: Any
) -> None:
    """A student that calls tools, a teacher that knows nothing, a huge learning rate; not again where it goes on."""
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, tmp_path / "other")
    rollout = {"prompts": 8, "samples": 4}
    sections = {"teacher": {"path": str(tmp_path / "other")}, "method": "opd", "optim": {"lr": 0.05}}
    recipe = make_recipe(**sections, rollout=rollout, train={"steps": 3, "checkpoint_every": 1})
    notes: list[str] = []

    def run(resume: bool) -> None:
        with closing(prepare_train(recipe, tmp_path / "run", resume, notes.append)) as job:
            job.start([])

    run(resume=False)
    (line,) = [note for note in notes if "stops calling" in note]
    rows = RunLog.open(tmp_path / "run").metrics()
    began, told = rows[0], next(row for row in rows if line.startswith(f"step {row['step']}: "))
    assert began["tool_use"] > 0.5
    assert told["tool_use"] <= began["tool_use"] / 10 or told["turns"] - 1 <= (began["turns"] - 1) / 10
    assert f"{told['tool_use']:.0%} of the episodes called one, with {told['turns']:.1f} turns" in line
    assert f"in its first step {began['tool_use']:.0%}, {began['turns']:.1f} and {began['reward']:+.2f}" in line
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000003")
    run(resume=True)
    assert sum("stops calling" in note for note in notes) == 1


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
        limits = {"max_code_chars": 40, "max_output_chars": 16, "timeout_seconds": 2.0}
        with ExitStack() as opened:
            tools = make_tools(make_recipe(tools={"python": {**limits, "workers": 1}}), opened, None)
            programs = ["print(6*7)", "x" * 41, "print('y' * 99)", "while True: pass"]
            results = tools["python"].run([tool_request("e", ToolCall("python", {"code": code})) for code in programs])
            assert [getattr(result, "error", "fault") for result in results] == [None, "code_too_long", None, "timeout"]
            assert results[0].text == "42"
            assert results[2].text.startswith("y" * 16 + "...")

    def test_no_tool(self, make_recipe: Any, tokenizer: Any) -> None:
        """`python: null` starts no sandbox and shows the model no schema."""
        recipe = make_recipe(tools={"python": None})
        assert make_tools(recipe, ExitStack(), None) == {}
        prompts = [
            tokenizer.decode(make_chat(spec, tokenizer, print).prompt_ids(TASKS[0].prompt))
            for spec in (recipe, make_recipe())
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
        assert final_model(str(log.path)) == str(log.checkpoint_dir(1_000_000) / "model")

    def test_broken_checkpoint(self, tmp_path: Path) -> None:
        """Of a run the one before it is used, which is told; one that was named is refused, as a whole or its model."""
        log = RunLog.create(tmp_path / "run", {}, 0)
        for step in (1, 2):
            checkpoint.save(log.checkpoint_dir(step), Position(step, ""), {}, lambda d: None)
        older, newest = log.checkpoint_dir(1), log.checkpoint_dir(2)
        (newest / checkpoint.COMPLETE).unlink()
        told: list[str] = []
        assert final_model(str(log.path), told.append) == str(older / "model")
        (line,) = told
        assert str(older) in line
        assert f"{newest}: not a complete checkpoint (COMPLETE.json is missing)" in line
        with pytest.warns(UserWarning, match="step-000002"):
            final_model(str(log.path))
        for path in (newest, newest / "model"):
            with pytest.raises(SodError, match="step-000002"):
                final_model(str(path))
        for path in (older, older / "model"):
            assert final_model(str(path)) == str(older / "model")
        (older / checkpoint.TRAINER).unlink()
        with pytest.raises(SodError, match=r"no good checkpoint is left \(step-000002: .*; step-000001: trainer.pt is"):
            final_model(str(log.path))

    def test_models_in_directories_named_as_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """People keep models in `checkpoints`, and call them `model`: neither makes a checkpoint of ours of them."""
        for name in ("checkpoints/qwen", "org/model"):
            (tmp_path / name).mkdir(parents=True)
            assert final_model(str(tmp_path / name)) == str(tmp_path / name)
        monkeypatch.chdir(tmp_path / "checkpoints")
        assert final_model("qwen") == "qwen"
        assert final_model("gpt2") == "gpt2"


class TestEvaluation:
    """`evaluation` in the recipe."""

    def test_subset_sampling_and_k(self, make_recipe: Any, chat: Any, acting_model: Any) -> None:
        """So many tasks, in the file's order, so many samples; 0 and too many mean all."""
        for wanted, expected in ((0, 6), (4, 4), (99, 6)):
            recipe = make_recipe(evaluation={"k": 2, "tasks": wanted}, tools={"python": None})
            chosen = chosen_tasks(recipe, TASKS)
            result = run_evaluation(recipe, make_collector(recipe, chat, {}, math_reward(), acting_model), chosen)
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
            prepare_train(make_recipe(train={"evaluate_every": 2}), tmp_path / "run", False, quiet)

    def test_overlong_conversations(self, make_recipe: Any, tmp_path: Path) -> None:
        """Counted when some are too long for `sft.max_tokens`, refused when all are."""
        with pytest.raises(SodError, match=r"no conversation fits sft\.max_tokens=8"):
            prepare_sft(make_recipe(sft={"max_tokens": 8}), tmp_path / "run", False, lambda text: None)
        notes: list[str] = []
        job = prepare_sft(make_recipe(sft={"max_tokens": 150}), tmp_path / "run", False, notes.append)
        job.close()
        (note,) = notes
        assert "of 8 conversations are longer than sft.max_tokens" in note

    @pytest.mark.slow
    def test_programming_tasks_at_fault_are_left_out_of_a_run(self, make_recipe: Any, tmp_path: Path) -> None:
        """Before weights are loaded, in the run's directory from its start, and again when it is resumed."""
        test = "def check(candidate):\n    assert candidate(1) == 2\n"
        sound = {"prompt": "", "entry_point": "f", "test": test}
        rows = [sound, {**sound, "test": "def checks(candidate): pass"}, {**sound, "solution": "def f(x): return x"}]
        tasks = [replace(task, extra=extra) for task, extra in zip(TASKS, rows, strict=False)]
        write_tasks(tmp_path / "train.parquet", tasks)
        recipe, notes = make_recipe(reward={"verifier": "code"}), []
        with closing(prepare_train(recipe, tmp_path / "run", False, notes.append)) as job:
            assert dict(job.facts)["data"].endswith(": 1 task")
            job.start([])
        (note,) = [note for note in notes if "at fault" in note]
        assert all(task.id in note for task in tasks[1:])
        assert list(json.loads((tmp_path / "run" / "left_out.json").read_text())["data.train"]) == [
            task.id for task in tasks[1:]
        ]
        (tmp_path / "run" / "left_out.json").write_text(json.dumps({"data.train": {tasks[0].id: "as it was"}}))
        with closing(prepare_train(recipe, tmp_path / "run", True, notes.append)) as job:
            assert dict(job.facts)["data"].endswith(": 2 tasks")

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

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_method_runs(self, name: str, make_recipe: Any, tmp_path: Path) -> None:
        """From the recipe's files to two steps and a checkpoint that holds the teacher's state (none here moved)."""
        needs = PRESETS[name]().needs
        own = {} if Need.TEACHER in needs and not needs & SELF_TEACHER else {"teacher": None}
        job = prepare_train(make_recipe(method=name, **own), tmp_path / "run", False, quiet)
        job.start([])
        job.close()
        assert [row["step"] for row in job.log.metrics()] == [1, 2]
        assert [step for step, _ in job.log.checkpoints()] == [1, 2]

    @pytest.mark.parametrize("name", ["opd", "tcod_b2f"], ids=["the student's", "and the expert's, which is first"])
    def test_a_closed_job_has_closed_its_engines(self, name: str, make_recipe: Any, tmp_path: Path) -> None:
        job = prepare_train(make_recipe(method=name), tmp_path / "run", False, quiet)
        job.close()
        job.close()
        with pytest.raises(ValueError, match="the engine is closed"):
            job.take_step(1)

    def test_self_distillation_needs_no_teacher(self, make_recipe: Any, tmp_path: Path) -> None:
        """The student's own copy is the teacher."""
        recipe = make_recipe(method="opsd_gt", teacher=None, train={"steps": 1})
        job = prepare_train(recipe, tmp_path / "run", False, quiet)
        job.start([])
        job.close()
        (row,) = job.log.metrics()
        assert row["turn_gap_first"] > 1e-3  # the answer in the prompt tells it something

    @pytest.mark.parametrize(
        "method",
        [
            {"name": "opsd_gt", "teacher_rule": "ema", "teacher_decay": 0.9},
            {"name": "opsd_hint", "teacher_rule": "every", "teacher_every": 1},
            {"name": "opsd_gt"},
        ],
        ids=lambda method: method.get("teacher_rule", "frozen"),
    )
    def test_a_resumed_self_teacher_is_where_it_was(
        self, method: dict[str, Any], make_recipe: Any, tmp_path: Path
    ) -> None:
        """Three steps in one go, and in two jobs: the same weights of student and teacher, bit for bit."""
        recipe = make_recipe(method=method, teacher=None, train={"steps": 3}, optim={"lr": 1e-2})
        whole = prepare_train(recipe, tmp_path / "whole", False, quiet)
        whole.start([])
        whole.close()
        first = prepare_train(recipe, tmp_path / "run", False, quiet)

        def stop(report: StepReport) -> None:
            if report.step == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(InterruptedRunError):
            first.start([stop])
        first.close()
        second = prepare_train(recipe, tmp_path / "run", True, quiet)
        assert second.done == 2
        second.start([])
        second.close()
        states = []
        for job in (whole, second):
            step, directory = job.log.checkpoints()[-1]
            assert step == 3
            weights = {
                k: v
                for f in sorted(checkpoint.model_of(directory).glob("*.safetensors"))
                for k, v in load_file(f).items()
            }
            states.append((weights, torch.load(directory / "trainer.pt", weights_only=True)["state"].get("teacher")))
        (weights, teacher), (again, restored) = states
        assert all(torch.equal(weights[key], again[key]) for key in weights)
        if "teacher_rule" not in method:
            assert teacher is restored is None
            return
        assert all(torch.equal(a, b) for a, b in zip(teacher, restored, strict=True))
        start = [p.detach() for p in load_model(str(tmp_path / "model"), "float32").parameters()]
        assert max(float((a - b).abs().max()) for a, b in zip(teacher, start, strict=True)) > 1e-4

    def test_checks_come_before_any_model(self, make_recipe: Any, tmp_path: Path) -> None:
        """With a student that does not exist, what is wrong with method or tasks is still what is told."""
        bare = [replace(task, ground_truth=" ") if n == 4 else task for n, task in enumerate(TASKS)]
        dull = [replace(task, extra={}) if n == 2 else task for n, task in enumerate(TASKS)]
        write_tasks(tmp_path / "bare.parquet", bare)
        write_tasks(tmp_path / "dull.parquet", dull)
        nowhere = {"path": str(tmp_path / "nowhere")}
        for sections, message in (
            (
                {"method": "opsd_gt", "teacher": None, "data": {"train": str(tmp_path / "bare.parquet")}},
                f"task {TASKS[4].id}: the ground truth is empty",
            ),
            (
                {"method": "opsd_hint", "teacher": None, "data": {"train": str(tmp_path / "dull.parquet")}},
                f"task {TASKS[2].id}: no hint",
            ),
            (
                {"method": "tcod_b2f", "tools": {"python": {"stateful": True}}},
                r"tcod_b2f replays the teacher's turns.*tools\.python\.stateful=false",
            ),
            ({"method": "opd", "teacher": None}, "method opd needs a teacher; set teacher.path"),
            ({"method": {"name": "grpo", "divergence": "jsd"}}, "grpo has no teacher"),
            ({"method": "sft", "data": {"sft": None}}, r"data\.sft is not set"),
            ({"method": "sodd"}, "'sodd'; did you mean"),
        ):
            with pytest.raises(SodError, match=message):
                prepare_train(make_recipe(student=nowhere, **sections), tmp_path / "run", False, quiet)
        assert not (tmp_path / "run").exists()

    def test_stateful_tools_do_not_trouble_front_to_back(self, make_recipe: Any, tmp_path: Path) -> None:
        """Only replayed turns leave nothing in a tool."""
        recipe = make_recipe(method="tcod_f2b", tools={"python": {"stateful": True}})
        job = prepare_train(recipe, tmp_path / "run", False, quiet)
        job.close()
        assert (job.done, job.log.path) == (0, tmp_path / "run")
