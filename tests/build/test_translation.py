"""Runs whose teacher has another tokenizer: what is refused before weights are read, and what a run makes of one."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from other_teacher import other_model, other_tokenizer
from sod.build.idle import idle_keys
from sod.build.method import alignment_of, can_align, make_method
from sod.build.training import prepare_train
from sod.build.translation import chats_of
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.objective.alignments import Alignment
from sod.objective.presets import PRESETS
from sod.objective.scores import Level
from sod.recipe import MethodSpec, Recipe, TrainSpec, load_recipe
from sod.recipe.shipped import shipped_file
from sod.records import SodError
from sod.report.metrics import metric_of
from sod.tasks import chain
from sod.tasks.files import write_tasks
from sod.teachers.base import Offer
from sod.teachers.local import LocalTeacher
from sod.training.report import StepReport

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]
HIDES_TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, chat: Chat, acting_model: Any, random_model: Callable[..., Any]) -> Path:
    """A student that makes calls, a teacher of its tokenizer and one of another, and one whose template hides tools."""
    directory: Path = tmp_path_factory.mktemp("translation")
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, directory / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, directory / "alike")
    tokenizer = other_tokenizer()
    model = other_model(tokenizer, sharpness=1.0)
    save_model(model, copy.deepcopy(tokenizer), None, chat.end_id, directory / "other")
    save_model(model, copy.deepcopy(tokenizer), HIDES_TOOLS, chat.end_id, directory / "hiding")
    write_tasks(directory / "train.parquet", TASKS)
    return directory


@pytest.fixture
def make_recipe(place: Path) -> Callable[..., Recipe]:
    """`make_recipe(teacher, method, template)`: a recipe over these models."""

    def make(teacher: str = "other", method: Any = "sod", template: str = "auto") -> Recipe:
        content = {
            "student": {"path": str(place / "student")},
            "teacher": {"path": str(place / teacher)},
            "chat": {"template": template},
            "data": {"train": str(place / "train.parquet")},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 3,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 60,
                "max_response_tokens": 240,
            },
            "optim": {"lr": 1e-3},
            "tools": {"python": {"workers": 1, "memory_mb": 256}},
            "train": {"steps": 2, "checkpoint_every": 2},
            "method": method,
        }
        return Recipe.model_validate(content)

    return make


def found(recipe: Recipe, told: list[str]) -> Any:
    """The translation of a recipe, None where it needs none."""
    assert recipe.teacher is not None
    return chats_of(recipe, make_method(recipe.method), recipe.teacher.path, LocalTeacher.offers, told.append)[1]


class TestWhoIsTranslated:
    """A teacher whose tokens differ, and one that the recipe wants translated."""

    def test_another_tokenizer_by_itself_which_is_told(self, make_recipe: Any) -> None:
        told: list[str] = []
        translation = found(make_recipe(), told)
        assert translation.min_coverage == 0.5
        assert translation.longest == 2048
        (line,) = (line for line in told if "other: the teacher reads the conversations in its own tokens" in line)
        assert "; method.alignment=simct (the default of a teacher that gives full log-probabilities) takes" in line
        assert found(make_recipe("alike"), told) is None

    def test_the_estimator_is_told_as_named(self, make_recipe: Any) -> None:
        told: list[str] = []
        assert found(make_recipe(method={"name": "opd", "alignment": "uld"}), told) is not None
        assert any("; method.alignment=uld takes its signal where" in line for line in told)

    def test_a_teacher_of_the_same_tokenizer_where_the_recipe_says_so(self, make_recipe: Any) -> None:
        method = {"name": "sod", "alignment": {"kind": "chunk", "min_coverage": 0.75}}
        assert found(make_recipe("alike", method), []).min_coverage == 0.75

    def test_a_method_that_cannot_align_needs_the_same_tokenizer(self, make_recipe: Any) -> None:
        recipe = make_recipe(method={"name": "opd", "divergence": "jsd"})
        with pytest.raises(SodError, match=r"the teacher's vocabulary differs"):
            found(recipe, [])


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"name": "grpo"}, "grpo has no teacher to align with"),
        ({"name": "tcod_b2f"}, "tcod_b2f lets the student go on in the teacher's own tokens"),
        ({"name": "opsd_gt"}, "opsd_gt has the student itself as its teacher"),
        ({"name": "opd", "divergence": "jsd"}, r"opd compares whole distributions .* \(method.divergence\)"),
    ],
)
def test_a_method_that_cannot_align_says_which_can(method: dict[str, Any], why: str, make_recipe: Any) -> None:
    recipe = make_recipe(method={**method, "alignment": "chunk"})
    with pytest.raises(SodError, match=rf"^method\.alignment=chunk: {why}; leave it out, .*: opd, opd_grpo, .*sod"):
        make_method(recipe.method)


@pytest.mark.parametrize(
    ("level", "kind"), [("full", "simct"), ("topk", "chunk"), ("top1", "chunk"), ("sampled", "chunk")]
)
def test_the_estimator_by_itself_is_what_the_teacher_offers(level: Level, kind: str) -> None:
    """The whole distribution is SimCT's; of less, the sampled tokens' alone. A name is taken as it is."""
    offer = Offer(level)
    assert alignment_of(MethodSpec(name="sod"), offer) == Alignment(kind)
    assert alignment_of(MethodSpec(name="sod", alignment={"min_coverage": 0.9}), offer) == Alignment(kind)
    assert alignment_of(MethodSpec(name="opd", alignment={"kind": "gold", "beta": 0.2}), offer) == Alignment(
        "gold", beta=0.2
    )
    assert LocalTeacher.offers.level == "full"


@pytest.mark.slow
def test_what_does_nothing_with_the_estimator_by_itself_is_told(make_recipe: Any, tmp_path: Path) -> None:
    """Found out once it is known that the teacher has another tokenizer: a loss over spans has no policy ratio.

    Only told, as a comparison's recipe is shared by methods that have one.
    """
    recipe = make_recipe(method={"name": "opd", "clip_low": 0.1})
    recipe = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"mini_batch_prompts": 1})})
    told: list[str] = []
    prepare_train(recipe, tmp_path / "run", False, told.append).close()
    assert any(line.startswith("method.clip_low=0.1 does nothing here: a dense divergence has no") for line in told)


def test_every_method_of_sampled_tokens_can_align() -> None:
    own_tokens = {"sft", "grpo", "opsd_gt", "opsd_hint", "tcod_b2f"}
    assert {name for name, preset in PRESETS.items() if not can_align(preset())} == own_tokens


def test_the_shipped_recipe_has_the_papers_settings() -> None:
    """arXiv 2605.07711: reverse KL over shared tokens and units, lr 5e-7, 64 a step, temperature 0.6, after SFT."""
    recipe = load_recipe(shipped_file("simct"))
    method = make_method(recipe.method)
    assert method.alignment == Alignment("simct", unit_score="logp")
    assert method.rho.never
    assert (recipe.optim.lr, recipe.rollout.prompts * recipe.rollout.samples) == (5e-7, 64)
    assert recipe.rollout.temperature == recipe.evaluation.temperature == 0.6
    assert recipe.data.sft is not None
    assert recipe.teacher is not None
    assert recipe.student.path.split("/")[0] != recipe.teacher.path.split("/")[0]
    assert idle_keys(recipe, method) == []
    head = shipped_file("simct").read_text(encoding="utf-8").partition("\nname:")[0]
    assert "sod sft recipes/simct.yaml" in head


class TestRefusedTeachers:
    """In one line, before weights are read."""

    def test_a_template_that_hides_the_tools(self, make_recipe: Any) -> None:
        told = r"hiding: the teacher's own chat template cannot show it the run's tools \(.*\); .*chat\.template=hermes"
        with pytest.raises(SodError, match=told):
            found(make_recipe("hiding"), [])
        assert found(make_recipe("hiding", template="hermes"), []) is not None

    def test_a_teacher_without_a_fast_tokenizer(self, make_recipe: Any, place: Path, tmp_path: Path) -> None:
        for path in (place / "other").iterdir():
            if path.name != "tokenizer.json":
                (tmp_path / path.name).write_bytes(path.read_bytes())
        recipe = make_recipe()
        teacher = recipe.teacher.model_copy(update={"path": str(tmp_path)})
        with pytest.raises(SodError, match=r"no tokenizer.json, so no fast tokenizer, .*; save one there with [^\n]*$"):
            found(recipe.model_copy(update={"teacher": teacher}), [])

    def test_a_tokenizer_whose_bytes_nobody_can_tell(
        self, make_recipe: Any, place: Path, tmp_path: Path, chat: Chat
    ) -> None:
        """A decoder of another make."""
        directory = tmp_path / "strange"
        directory.mkdir()
        for path in (place / "other").iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        stored = json.loads((directory / "tokenizer.json").read_text())
        stored["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": False}
        (directory / "tokenizer.json").write_text(json.dumps(stored))
        recipe = make_recipe()
        teacher = recipe.teacher.model_copy(update={"path": str(directory)})
        with pytest.raises(SodError, match=r"strange: the tokenizer's decoder \(WordPiece\) is neither"):
            found(recipe.model_copy(update={"teacher": teacher}), [])


def run(recipe: Recipe, directory: Path) -> list[StepReport]:
    """The steps of a run."""
    reports: list[StepReport] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with closing(prepare_train(recipe, directory, False, lambda text: None)) as job:
            job.start([reports.append])
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sod", "sage"])
def test_a_run_with_a_teacher_of_another_tokenizer(name: str, make_recipe: Any, tmp_path: Path) -> None:
    """It learns, every number is in the table of metrics, and its rows say which tokens had a score."""
    reports = run(make_recipe(method=name), tmp_path / "run")
    assert len(reports) == 2
    for report in reports:
        metrics = report.metrics
        assert metrics["coverage"] > 0.7
        assert 0.5 < metrics["aligned"] < 1.0
        assert metrics["coverage/turn1"] > 0.7
        assert math.isfinite(metrics["teacher_gap"])
        assert [key for key in metrics if metric_of(key) is None] == []
        for row in report.trajectories:
            scored = [logp is not None for logp in row["teacher_logps"]]
            assert not any(known for known, turn in zip(scored, row["turn_ids"], strict=True) if not turn)
            assert any(scored)
            assert all(0.0 <= turn["coverage"] <= 1.0 for turn in row["turns"])
    assert reports[0].metrics["grad_norm"] > 0


@pytest.mark.slow
def test_an_identical_tokenizer_through_the_alignment_trains_the_same_weights(make_recipe: Any, tmp_path: Path) -> None:
    """Bit for bit; the student of this seed spells as its tokenizer does in the first step."""
    saved = []
    for number, alignment in enumerate([None, "chunk"]):
        directory = tmp_path / str(number)
        recipe = make_recipe("alike", {"name": "sod", "alignment": alignment})
        reports = run(recipe.model_copy(update={"train": TrainSpec(steps=1)}), directory)
        saved.append(load_file(next(directory.glob("checkpoints/*/model/model.safetensors"))))
        aligned = [report.metrics.get("aligned") for report in reports]
        assert aligned == ([None] if alignment is None else [1.0])
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


@pytest.mark.slow
def test_an_identical_tokenizer_gives_simct_the_loss_of_the_reverse_kl(make_recipe: Any, tmp_path: Path) -> None:
    """Up to rounding, as what follows the last turn is not read; `tests/training/test_span_losses.py` has the bits."""
    found = []
    for number, method in enumerate([{"divergence": "reverse_kl"}, {"alignment": "simct"}]):
        recipe = make_recipe("alike", {"name": "opd", **method}).model_copy(update={"train": TrainSpec(steps=1)})
        (report,) = run(recipe, tmp_path / str(number))
        assert report.metrics.get("aligned", 1.0) == 1.0
        found.append([report.metrics[key] for key in ("loss", "grad_norm", "teacher_gap")])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["simct", "shared_tokens", "strict_topk", "gold", "uld", "bpm"])
def test_a_run_with_a_dense_estimator(kind: str, make_recipe: Any, tmp_path: Path) -> None:
    """Beside SOD's turn weights and the reward's term: the loss is finite, and the student moves."""
    recipe = make_recipe(method={"name": "sod", "alignment": kind})
    (report,) = run(recipe.model_copy(update={"train": TrainSpec(steps=1)}), tmp_path / "run")
    assert math.isfinite(report.metrics["loss"])
    assert report.metrics["grad_norm"] > 0
    assert report.metrics["aligned"] > 0.5


@pytest.mark.slow
def test_a_run_stops_where_too_little_is_matched(make_recipe: Any, tmp_path: Path) -> None:
    """What this student says matches less than what the look before the run makes up of its tasks."""
    recipe = make_recipe("other", {"name": "opd", "alignment": {"min_coverage": 0.95}})
    with pytest.raises(SodError, match=r"min_coverage=0.95; lowest is turn \d"):
        run(recipe, tmp_path / "run")
