"""Runs that train an adapter: resumed, evaluated, merged, gone on with, and taught by their own base model."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sod.build.evaluation import evaluate_model
from sod.build.job import Job, final_model, make_learner
from sod.build.merging import write_merged
from sod.build.method import make_method
from sod.build.supervised import prepare_sft
from sod.build.teachers import make_teacher
from sod.build.training import prepare_train
from sod.models.load import load_model, save_model
from sod.models.lora import has_adapter, own_weights
from sod.models.meter import Meter
from sod.models.score import score
from sod.models.support import Support
from sod.objective.scores import ScoreNeed
from sod.recipe import Recipe, parse_recipe
from sod.records import SodError
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.teachers.local import LocalTeacher
from sod.training.checkpoint import model_of
from sod.training.loop import InterruptedRunError
from sod.training.report import StepReport

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]
ADAPTER = "adapter_model.safetensors"
SHORT = {"prompts": 2, "samples": 2, "max_turns": 2, "max_turn_tokens": 16, "max_response_tokens": 64}

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, chat: Any, acting_model: Any, conversations: Any) -> Path:
    """Data and a plain model (never change them)."""
    directory = tmp_path_factory.mktemp("place")
    save_model(acting_model, chat.tokenizer, chat.template, chat.end_id, directory / "model")
    write_tasks(directory / "train.parquet", TASKS)
    write_conversations(directory / "sft.parquet", conversations[:8])
    return directory


@pytest.fixture(scope="module")
def make_recipe(place: Path) -> Callable[..., Recipe]:
    """`make_recipe(section={...})`: a recipe whose student trains an adapter."""

    def make(lora: Any = {"rank": 4}, **sections: Any) -> Recipe:  # noqa: B006
        content: dict[str, Any] = {
            "student": {"path": str(place / "model"), "lora": lora},
            "teacher": None,
            "chat": {"template": "hermes"},
            "data": {name: str(place / f"{name}.parquet") for name in ("train", "sft")},
            "rollout": {**SHORT, "max_prompt_tokens": 200},
            "tools": {"python": None},
            "reward": {"overlong_buffer": 40},  # by their lengths episodes earn different rewards
            "method": "grpo",
            "optim": {"lr": 1e-2},
            "train": {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 5},
            "sft": {"steps": 3, "batch_size": 2, "checkpoint_every": 1, "optim": {"lr": 1e-2}},
            "evaluation": {"k": 1, "temperature": 1.0},
        }
        for key, value in sections.items():
            both = isinstance(value, dict) and isinstance(content.get(key), dict)
            content[key] = {**content[key], **value} if both else value
        return Recipe.model_validate(content)

    return make


def told(text: str) -> None:
    """Notes of such short runs are of no interest."""


def run(recipe: Recipe, directory: Path, sft: bool = False) -> Job:
    with closing((prepare_sft if sft else prepare_train)(recipe, directory, False, told)) as job:
        job.start([])
    return job


def run_in_two(recipe: Recipe, directory: Path, sft: bool = False, after: int = 1) -> Job:
    """The same, stopped after a step and resumed."""
    prepare = prepare_sft if sft else prepare_train

    def stop(report: StepReport) -> None:
        if report.step == after:
            signal.raise_signal(signal.SIGINT)

    with closing(prepare(recipe, directory, False, told)) as first, pytest.raises(InterruptedRunError):
        first.start([stop])
    with closing(prepare(recipe, directory, True, told)) as second:
        assert second.done == after
        second.start([])
    return second


def last(job: Job) -> Path:
    return job.log.checkpoints()[-1][1]


def assert_same_end(one: Job, other: Job) -> None:
    """Weights, optimizer, teacher and metrics but for times, bit for bit."""
    ours, theirs = last(one), last(other)
    assert ours.name == theirs.name
    for name in (ADAPTER, "adapter_config.json", "base_model.sha256"):
        assert (ours / "model" / name).read_bytes() == (theirs / "model" / name).read_bytes()
    states = [torch.load(path / "trainer.pt", weights_only=True)["state"] for path in (ours, theirs)]
    assert_equal_state(*states)
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(("seconds", "tokens_per"))} for row in job.log.metrics()]
        for job in (one, other)
    ]
    assert rows[0] == rows[1]


def assert_equal_state(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal_state(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_state(a, b)
    else:
        assert one == other


class TestResume:
    """A run in two parts ends where it ends in one, bit for bit."""

    @pytest.mark.parametrize(
        ("lora", "sections"),
        [
            pytest.param({"rank": 4}, {}, id="plain"),
            pytest.param({"rank": 4, "dropout": 0.3}, {}, id="dropout", marks=pytest.mark.slow),
            pytest.param(
                {"rank": 4, "dropout": 0.3},
                {"optim": {"lr": 1e-2, "mini_batch_prompts": 1, "recompute": True, "micro_batch_tokens": 128}},
                id="dropout-recomputed-in-parts",
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_train(self, lora: Any, sections: Any, make_recipe: Any, tmp_path: Path) -> None:
        recipe = make_recipe(lora, **sections)
        assert_same_end(run(recipe, tmp_path / "whole"), run_in_two(recipe, tmp_path / "parts"))

    @pytest.mark.slow
    def test_train_in_bfloat16(self, place: Path, make_recipe: Any, tmp_path: Path) -> None:
        """The adapter is rounded, its masters are not: the state holds them for the adapter alone."""
        student = {"dtype": "bfloat16"}
        recipe = make_recipe(student=student)
        whole = run(recipe, tmp_path / "whole")
        assert_same_end(whole, run_in_two(recipe, tmp_path / "parts", after=2))
        weights = load_file(last(whole) / "model" / ADAPTER)
        masters = torch.load(last(whole) / "trainer.pt", weights_only=True)["state"]["optimizer"]["masters"]
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        assert {master.dtype for master in masters} == {torch.float32}
        assert sum(master.numel() for master in masters) == sum(weight.numel() for weight in weights.values())

    @pytest.mark.parametrize("lora", [{"rank": 4}, {"rank": 4, "dropout": 0.3}], ids=["plain", "dropout"])
    @pytest.mark.slow
    def test_sft(self, lora: Any, make_recipe: Any, tmp_path: Path) -> None:
        recipe = make_recipe(lora, sft={"batch_size": 8})  # every conversation in every step
        whole = run(recipe, tmp_path / "whole", sft=True)
        assert_same_end(whole, run_in_two(recipe, tmp_path / "parts", sft=True))
        losses = [row["loss"] for row in whole.log.metrics()]
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize(
        "method",
        [
            {"name": "opsd_gt"},
            {"name": "opsd_gt", "teacher_rule": "ema", "teacher_decay": 0.7},
            {"name": "opsd_gt", "teacher_rule": "every", "teacher_every": 2},
        ],
        ids=lambda method: method.get("teacher_rule", "frozen"),
    )
    @pytest.mark.parametrize("begins", ["new", "adapter"])
    @pytest.mark.slow
    def test_self_teachers(self, method: Any, begins: str, make_recipe: Any, tmp_path: Path) -> None:
        """Stopped before the teacher has followed, too; from a base model and from an adapter that SFT has left."""
        recipe = make_recipe(method=method)
        if begins == "adapter":
            cold = run(make_recipe(), tmp_path / "sft", sft=True)
            recipe = make_recipe(method=method, student={"path": str(cold.log.path), "lora": {"rank": 4}})
        assert_same_end(run(recipe, tmp_path / "whole"), run_in_two(recipe, tmp_path / "parts"))

    @pytest.mark.slow
    def test_the_run_keeps_the_base_model_that_it_began_with(self, make_recipe: Any, tmp_path: Path) -> None:
        """Its student's path is a run that has gone on since: the newest checkpoint there is another model."""
        cold = run(make_recipe(None, sft={"steps": 1, "batch_size": 2, "checkpoint_every": 1}), tmp_path / "sft", True)
        recipe = make_recipe(student={"path": str(cold.log.path), "lora": {"rank": 4}})
        whole = run(recipe, tmp_path / "whole")

        def stop(report: StepReport) -> None:
            if report.step == 2:
                signal.raise_signal(signal.SIGINT)

        with (
            closing(prepare_train(recipe, tmp_path / "parts", False, told)) as first,
            pytest.raises(InterruptedRunError),
        ):
            first.start([stop])
        later = cold.log.path / "checkpoints" / "step-000002"
        shutil.copytree(cold.log.path / "checkpoints" / "step-000001", later)
        marker = json.loads((later / "COMPLETE.json").read_text())
        weights = later / "model" / "model.safetensors"
        save_file({name: weight + 0.01 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
        marker = {**marker, "step": 2, "files": {n: (later / n).stat().st_size for n in marker["files"]}}
        (later / "COMPLETE.json").write_text(json.dumps(marker))
        assert final_model(str(cold.log.path)) == str(later / "model")
        with closing(prepare_train(recipe, tmp_path / "parts", True, told)) as second:
            second.start([])
        assert_same_end(whole, second)


@pytest.fixture(scope="module")
def distilled(make_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run with an adapter (never change it)."""
    return run(make_recipe(), tmp_path_factory.mktemp("distilled") / "run")


class TestAFinishedRun:
    """Everything that takes a run takes this one."""

    def test_the_base_model_is_untouched_and_not_in_the_checkpoint(self, distilled: Job, place: Path) -> None:
        model, base = (
            load_model(final_model(str(distilled.log.path)), "float32"),
            load_model(str(place / "model"), "float32"),
        )
        mine = {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n}
        assert all(torch.equal(mine[name], weight) for name, weight in base.named_parameters())
        assert any(bool(weight.any()) for n, weight in model.named_parameters() if ".lora_B." in n)
        held = sum(path.stat().st_size for path in model_of(last(distilled)).glob("*.safetensors"))
        assert held < sum(p.numel() for p in base.parameters()) * 4 / 2

    def test_facts(self, distilled: Job) -> None:
        model = load_model(final_model(str(distilled.log.path)), "float32")
        own = sum(weight.numel() for weight in own_weights(model))
        student = dict(distilled.facts)["student"]
        assert student.endswith(f"Qwen3ForCausalLM, {own / 1000:.3g} K of them trained (LoRA of rank 4)")

    @pytest.mark.slow
    def test_it_is_evaluated_as_it_stood(self, distilled: Job, place: Path, make_recipe: Any, tmp_path: Path) -> None:
        """Adapter, and merged: the same answers token by token; the base model alone gives others."""
        path = final_model(str(distilled.log.path))
        write_merged(path, tmp_path / "merged", "run")
        said = []
        for model in (path, str(distilled.log.path), str(tmp_path / "merged"), str(place / "model")):
            recipe = make_recipe(None, student={"path": model}, evaluation={"k": 2})
            played = evaluate_model(recipe, str(place / "train.parquet"), told)
            said.append([trajectory.token_ids for trajectory in played.trajectories])
        assert said[0] == said[1] == said[2]
        assert said[0] != said[3]

    def test_merged_is_plain_and_says_the_same(
        self, distilled: Job, tmp_path: Path, random_batch: Any, chat: Any
    ) -> None:
        path = final_model(str(distilled.log.path))
        write_merged(path, tmp_path / "merged", "run")
        merged, adapted = load_model(str(tmp_path / "merged"), "float32"), load_model(path, "float32")
        assert not has_adapter(merged)
        token_BT = torch.arange(60)[None]
        with torch.no_grad():
            torch.testing.assert_close(merged(token_BT).logits, adapted(token_BT).logits, rtol=0, atol=1e-5)
        assert merged.generation_config.eos_token_id == chat.end_id
        names = {file.name for file in (tmp_path / "merged").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
        assert "adapter_config.json" not in names

    @pytest.mark.slow
    def test_training_goes_on_from_it(self, distilled: Job, place: Path, make_recipe: Any, tmp_path: Path) -> None:
        """With the same adapter; without one on the sum of both; and the base that is named stays the first."""
        again = {"path": str(distilled.log.path), "lora": {"rank": 4}}
        job = run(make_recipe(student=again, method="opsd_gt", train={"steps": 1}), tmp_path / "again")
        config = json.loads((last(job) / "model" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(place / "model")
        before, after = (load_file(last(j) / "model" / ADAPTER) for j in (distilled, job))
        assert before.keys() == after.keys()
        moved = max(float((before[name] - after[name]).abs().max()) for name in before)
        assert 0 < moved < 0.02  # a step of 1e-2, not a new beginning
        whole = run(
            make_recipe(None, student={"path": str(distilled.log.path)}, train={"steps": 1}), tmp_path / "whole"
        )
        assert (last(whole) / "model" / "model.safetensors").is_file()
        assert not (last(whole) / "model" / "adapter_config.json").exists()

    def test_another_rank_is_refused_before_anything_is_loaded(
        self, distilled: Job, make_recipe: Any, tmp_path: Path
    ) -> None:
        recipe = make_recipe(student={"path": str(distilled.log.path), "lora": {"rank": 2}})
        with pytest.raises(SodError, match=r"holds an adapter of another kind \(r 4 there, 2 here"):
            prepare_train(recipe, tmp_path / "run", False, told)
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_it_teaches(self, distilled: Job, make_recipe: Any, tmp_path: Path) -> None:
        """As `teacher.path` of another run, with all weights or with an adapter."""
        for name, lora in (("whole", None), ("adapter", {"rank": 2})):
            recipe = make_recipe(lora, teacher={"path": str(distilled.log.path)}, method="opd", train={"steps": 1})
            (row,) = run(recipe, tmp_path / name).log.metrics()
            assert row["turn_gap_first"] > 1e-4


class TestTeachers:
    """Which teachers share the student's weights, and that they say what separate copies say."""

    @pytest.fixture
    def make(self, make_recipe: Any, chat: Any) -> Callable[..., tuple[Any, LocalTeacher]]:
        """`make(...)`: the student of a recipe, and its teacher."""
        support = Support.of(chat.tokenizer)

        def learner_and_teacher(*lora: Any, **sections: Any) -> tuple[Any, LocalTeacher]:
            recipe = make_recipe(*lora, **sections)
            learner = make_learner(recipe, recipe.optim, 3, support, None, CPU, print)
            spec = recipe.teacher.local or recipe.student.whole if recipe.teacher else recipe.student.whole
            teacher = make_teacher(recipe, spec, make_method(recipe.method), support, learner, CPU, Meter(), print)
            return learner, teacher

        return learner_and_teacher

    def moved(self, learner: Any, batch: Any) -> None:
        """A step of 0.1 on every weight that is trained."""
        with torch.no_grad():
            for weight in own_weights(learner.model):
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))

    def test_a_frozen_self_teacher_is_the_base_model(self, make: Any, place: Path, random_batch: Any) -> None:
        """To the bit what a separate frozen copy says, before and after the student has moved; and no copy is made."""
        learner, teacher = make(method="opsd_gt")
        separate = LocalTeacher(load_model(str(place / "model"), "float32"), 2048)
        batch = random_batch()
        for _ in range(2):
            ours, theirs = (t.score(batch, (), ScoreNeed(top1=True, k=3)) for t in (teacher, separate))
            assert torch.equal(ours.logp_BT, theirs.logp_BT)
            assert torch.equal(ours.top1_BT, theirs.top1_BT)
            assert torch.equal(ours.logps_NK, theirs.logps_NK)
            self.moved(learner, batch)
        assert not torch.equal(score(learner.model, batch, 2048), theirs.logp_BT)
        mine = {id(weight) for weight in learner.model.parameters()}
        assert all(id(weight) in mine for weight in teacher.model.parameters())
        assert all(weight.requires_grad for weight in own_weights(learner.model))

    def test_one_that_follows_has_an_adapter_of_its_own(self, make: Any, random_batch: Any) -> None:
        """Between the two at a fraction, a copy of the student at 1; its state is the adapter alone."""
        learner, teacher = make(method={"name": "opsd_gt", "teacher_rule": "every", "teacher_every": 1})
        batch = random_batch()
        start = teacher.score(batch, (), ScoreNeed()).logp_BT
        self.moved(learner, batch)
        assert torch.equal(teacher.score(batch, (), ScoreNeed()).logp_BT, start)
        before, target = ([w.detach().clone() for w in own_weights(m)] for m in (teacher.model, learner.model))
        teacher.follow(learner.model, 0.25)
        for average, old, new in zip(own_weights(teacher.model), before, target, strict=True):
            torch.testing.assert_close(average, 0.75 * old + 0.25 * new)
        teacher.follow(learner.model, 1.0)
        assert torch.equal(teacher.score(batch, (), ScoreNeed()).logp_BT, score(learner.model, batch, 2048))
        state = teacher.state()
        assert state is not None
        assert [w.shape for w in state] == [w.shape for w in own_weights(learner.model)]

    @pytest.mark.parametrize("method", ["opd", "tcod_b2f"])
    def test_a_teacher_that_is_the_base_model_shares_it(self, method: str, make: Any, place: Path) -> None:
        learner, teacher = make(method=method, teacher={"path": str(place / "model") + "/"})
        mine = {id(weight) for weight in learner.model.parameters()}
        assert all(id(weight) in mine for weight in teacher.model.parameters())
        assert not has_adapter(teacher.model)

    @pytest.mark.parametrize("teacher", ["dtype", "path"])
    def test_another_precision_or_place_is_another_model(
        self, teacher: str, make: Any, place: Path, tmp_path: Path
    ) -> None:
        spec = {"path": str(place / "model")}
        if teacher == "dtype":
            spec["dtype"] = "bfloat16"
        else:
            shutil.copytree(place / "model", tmp_path / "copy")
            spec["path"] = str(tmp_path / "copy")
        learner, other = make(method="opd", teacher=spec)
        mine = {id(weight) for weight in learner.model.parameters()}
        assert not any(id(weight) in mine for weight in other.model.parameters())

    def test_a_student_that_comes_with_an_adapter_is_taught_by_itself_or_by_its_base(
        self, distilled: Job, make: Any, place: Path, random_batch: Any
    ) -> None:
        """The student at its start has its adapter; where the base model is named, that is without."""
        student = {"path": str(distilled.log.path / "checkpoints/step-000003/model"), "lora": {"rank": 4}}
        at_start, base = (load_model(path, "float32") for path in (student["path"], str(place / "model")))
        batch = random_batch()
        for keys, expected in (
            ({"method": "opsd_gt"}, at_start),
            ({"method": "opd", "teacher": {"path": str(place / "model")}}, base),
        ):
            learner, teacher = make(student=student, **keys)
            self.moved(learner, batch)
            assert torch.equal(teacher.score(batch, (), ScoreNeed()).logp_BT, score(expected, batch, 2048))

    @pytest.mark.slow
    def test_a_distillation_is_the_same_with_a_shared_teacher_and_a_separate_one(
        self, make_recipe: Any, place: Path, tmp_path: Path
    ) -> None:
        """OPD, and a dense divergence: teacher and student in one forward's graph, nothing leaks between them."""
        shutil.copytree(place / "model", tmp_path / "copy")
        for name, divergence in (("sampled", None), ("dense", "jsd")):
            ends = []
            for path in (place / "model", tmp_path / "copy"):
                method = {"name": "opd", "divergence": divergence}
                recipe = make_recipe({"rank": 4, "dropout": 0.2}, method=method, teacher={"path": str(path)})
                job = run(recipe, tmp_path / f"{name}-{path.name}")
                ends.append(load_file(last(job) / "model" / ADAPTER))
            assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


class TestRefused:
    """One line, before anything is loaded."""

    def test_without_peft(self, make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before data and models are looked at, which are not there."""
        monkeypatch.setattr("sod.models.adapters.find_spec", lambda name: None)
        recipe = make_recipe(student={"path": "nowhere", "lora": {}}, data={"train": "nowhere", "sft": "nowhere"})
        for prepare in (prepare_train, prepare_sft):
            with pytest.raises(SodError) as refused:
                prepare(recipe, tmp_path / "run", False, told)
            assert str(refused.value) == (
                "student.lora: adapters need the package peft, which is not installed; pip install 'sod-distill[lora]'"
            )

    def test_targets_that_match_nothing(self, make_recipe: Any, place: Path, tmp_path: Path) -> None:
        """The weights are not there."""
        shutil.copytree(place / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
        recipe = make_recipe(student={"path": str(tmp_path / "model"), "lora": {"targets": ["query"]}})
        for prepare in (prepare_train, prepare_sft):
            with pytest.raises(
                SodError, match=r"student\.lora\.targets: 'query' matches nothing in .*; it has down_proj"
            ):
                prepare(recipe, tmp_path / "run", False, told)
        assert not (tmp_path / "run" / "manifest.json").exists()

    def test_merging_a_whole_model(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(SodError, match="model: a whole model without an adapter, so there is nothing to merge"):
            write_merged(str(place / "model"), tmp_path / "merged", "runs/a")
        assert not (tmp_path / "merged").exists()

    @pytest.mark.parametrize(
        ("lora", "message"),
        [
            ({"rank": 0}, r"student\.lora\.rank"),
            ({"alpha": 0}, r"student\.lora\.alpha"),
            ({"dropout": 1.0}, r"student\.lora\.dropout"),
            ({"targets": []}, r"student\.lora\.targets"),
            ({"ranks": 4}, r"did you mean student\.lora\.rank"),
        ],
    )
    def test_keys(self, lora: Any, message: str) -> None:
        with pytest.raises(SodError, match=message):
            parse_recipe({"student": {"path": "m", "lora": lora}}, "r.yaml")

    def test_a_teacher_is_not_trained(self) -> None:
        with pytest.raises(SodError, match=r"unknown key teacher\.lora"):
            parse_recipe({"student": {"path": "m"}, "teacher": {"path": "t", "lora": {}}}, "r.yaml")
