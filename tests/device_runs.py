"""Runs of every kind, of tiny models, for the tests of devices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.models.load import save_model
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS
from sod.recipe import Recipe
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.training.loop import InterruptedRunError

DENSE = {"divergence": {"kind": "jsd"}}
BFLOAT16 = {"dtype": "bfloat16"}

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sft as a method": ("sft", {}),
    "grpo": ("grpo", {}),
    "opd": ("opd", {}),
    "sod": ("sod", {}),
    "sod, several updates a step": ("sod", {"optim": {"mini_batch_prompts": 1, "micro_batch_tokens": 200}}),
    "sage, with the teacher's top token": ("sage", {}),
    "dense": ("opd", {"method": DENSE}),
    "dense over the top k": ("opd", {"method": {"divergence": {"kind": "reverse_kl", "top_k": 4}}}),
    "self-teacher with other prompts": ("opsd_gt", {}),
    "dense self-teacher with other prompts": ("opsd_gt", {"method": DENSE}),
    "teacher that follows": ("opsd_gt", {"method": {"teacher_rule": "ema"}}),
    "teacher that plays": ("tcod_b2f", {}),
    "bfloat16 over masters": ("sod", {"student": BFLOAT16, "teacher": BFLOAT16}),
    "recompute": ("sod", {"optim": {"recompute": True}}),
    "truncated sampling": ("sod", {"rollout": {"top_p": 0.9, "top_k": 20}}),
    "evaluations": ("opd", {"train": {"evaluate_every": 1}}),
    "teacher on the CPU": ("sod", {"teacher": {"device": "cpu"}}),
    "dense, teacher on the CPU": ("opd", {"method": DENSE, "teacher": {"device": "cpu"}}),
    "dense, teacher alone on the card": ("opd", {"method": DENSE, "student": {"device": "cpu"}}),
}
GOES_ON = ("sod", "bfloat16 over masters", "teacher that follows")
"""Kinds whose state is the moments, the masters, the teacher's average."""

MakeRecipe = Callable[..., Recipe]


def recipe_maker(
    place: Path, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> MakeRecipe:
    """`make_recipe(method, section={...})`: two steps over real files."""
    for name, model in (("model", acting_model), ("other", random_model(seed=7, sharpness=4.0))):
        save_model(model, chat.tokenizer, chat.template, chat.end_id, place / name)
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])]
    write_tasks(place / "train.parquet", tasks)
    write_conversations(place / "sft.parquet", conversations[:8])

    def make(method: str, /, **sections: Any) -> Recipe:
        needs = PRESETS[method]().needs
        own_teacher = Need.TEACHER in needs and not needs & SELF_TEACHER
        content: dict[str, Any] = {
            "student": {"path": str(place / "model"), "device": "cuda"},
            "chat": {"template": "hermes"},
            "data": {"train": str(place / "train.parquet"), "sft": str(place / "sft.parquet")},
            "tools": {"python": None},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 24,
                "max_response_tokens": 80,
            },
            "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
            "method": {"name": method},
            "optim": {"lr": 1e-2},
            "train": {"steps": 2, "checkpoint_every": 1},
            "evaluation": {"k": 2, "tasks": 2},
            "sft": {"steps": 2, "batch_size": 2, "optim": {"lr": 1e-2}},
        }
        if own_teacher:
            content["teacher"] = {"path": str(place / "other"), "device": "cuda"}
        if method == "sft":
            del content["reward"]
            content["rollout"] = {"prompts": 2, "samples": 1}
        for key, value in sections.items():
            content[key] = {**content.get(key, {}), **value}
        if content["train"].get("evaluate_every"):
            content["data"]["validation"] = content["data"]["train"]
        return Recipe.model_validate(content)

    return make


def run(
    recipe: Recipe, directory: Path, resume: bool = False, sft: bool = False, stop_after: int | None = None
) -> None:
    """Run it to its end, or to the end of a step."""

    def stop(report: Any) -> None:
        if report.step == stop_after:
            signal.raise_signal(signal.SIGTERM)

    prepare = prepare_sft if sft else prepare_train
    ended = nullcontext() if stop_after is None else pytest.raises(InterruptedRunError)
    with closing(prepare(recipe, directory, resume, told_nothing)) as job, ended:
        job.start([stop])


def told_nothing(text: str) -> None:
    """Notices are not what these runs are about."""


def on_the_cpu(recipe: Recipe) -> Recipe:
    """The recipe with both models on the CPU."""
    models = {"student": recipe.student} | ({} if recipe.teacher is None else {"teacher": recipe.teacher})
    there = {role: spec.model_copy(update={"device": "cpu"}) for role, spec in models.items()}
    return recipe.model_copy(update=there)


def weights(directory: Path, step: int = 2) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    found: dict[str, torch.Tensor] = load_file(directory / f"checkpoints/step-{step:06d}/model/model.safetensors")
    return found


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether all weights are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
