"""What models cannot do is refused from their configurations: no weights lie beside any of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from architectures import LATENT, LINEAR, LONGROPE, rope, tiny_config
from sod.build.fitness import (
    refuse_uncut_learner,
    refuse_unfit,
    refuse_unfit_learner,
    refuse_unfit_player,
    refuse_unfit_self_teacher,
)
from sod.build.method import make_method
from sod.chat.render import Chat
from sod.recipe import MethodSpec, Recipe, load_recipe
from sod.recipe.keys.parallel import ParallelSpec
from sod.records import Message, SodError, Task

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def config_at(tmp_path: Path) -> Callable[..., str]:
    """`config_at(name, kind, **changes)`: a directory of that name with the configuration of a tiny model alone."""

    def write(name: str, kind: str, **changes: Any) -> str:
        tiny_config(kind, **changes).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


def recipe_of(student: str, teacher: str | None = None, prompt: int = 100, response: int = 156) -> Recipe:
    """A recipe of models and lengths; 256 tokens in all, the context of the tiny models."""
    rollout = {"max_prompt_tokens": prompt, "max_response_tokens": response, "max_turn_tokens": 10}
    models = {"student": {"path": student}} | ({"teacher": {"path": teacher}} if teacher else {})
    return Recipe.model_validate({"rollout": rollout} | models)


def refused(recipe: Recipe, method: str = "sod") -> str:
    with pytest.raises(SodError) as caught:
        refuse_unfit(recipe, make_method(MethodSpec(name=method)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lengths_against_the_context(config_at: Callable[..., str]) -> None:
    """One token too many is refused, naming model, keys, numbers and the fix; the teacher's counts too."""
    good, short = config_at("good", "qwen3", head_dim=8), config_at("short", "qwen3", max_position_embeddings=200)
    method = make_method(MethodSpec(name="sod"))
    refuse_unfit(recipe_of(good, good), method)
    assert refused(recipe_of(good, good, response=157)) == (
        f"{good}: past 256 tokens the model knows no positions (max_position_embeddings), and "
        "rollout.max_prompt_tokens (100) + rollout.max_response_tokens (157) let a text reach 257; lower that to 256, "
        "or use a model of a longer context"
    )
    assert refused(recipe_of(good, short)).startswith(f"{short}: past 200 tokens")
    refuse_unfit(recipe_of(good, short), make_method(MethodSpec(name="grpo")))  # which asks no teacher


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        (rope("yarn", original_max_position_embeddings=64), 256),
        (rope("yarn", original_max_position_embeddings=128), 512),
        (rope("linear"), 256),
        ({"max_position_embeddings": 64, **rope("dynamic")}, 64),
        (LONGROPE, 64),
    ],
    ids=["yarn", "yarn past max_position_embeddings", "linear", "dynamic", "longrope"],
)
def test_the_context_that_counts(changes: dict[str, Any], longest: int, config_at: Callable[..., str]) -> None:
    """With the RoPE scaling; what changes with length ends at its original length, for students and teachers."""
    plain, scaled = config_at("plain", "llama", max_position_embeddings=1024), config_at("scaled", "llama", **changes)
    for models in ((scaled, plain), (plain, scaled)):
        refuse_unfit(recipe_of(*models, prompt=10, response=longest - 10), make_method(MethodSpec(name="sod")))
        assert f"{scaled}: past {longest} tokens" in refused(recipe_of(*models, prompt=11, response=longest - 10))


def test_windows_end_no_text(config_at: Callable[..., str]) -> None:
    """A teacher scores by the model's own forward, which slides as it should, and so does the plain engine."""
    plain, slides = config_at("plain", "llama"), config_at("slides", "mistral", sliding_window=48)
    refuse_unfit(recipe_of(plain, slides), make_method(MethodSpec(name="sod")))
    refuse_unfit(recipe_of(slides, plain), make_method(MethodSpec(name="sod")))
    assert f"{slides}: past 256 tokens" in refused(recipe_of(slides, plain, response=157))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("deepseek_v3", LATENT),
        ("stablelm", {}),
        ("gemma2", {"head_dim": 8}),
        ("granite", {"logits_scaling": 8.0}),
        ("qwen3_5_text", LINEAR),
        ("mamba", {}),
    ],
)
def test_what_an_engine_samples_is_fit(kind: str, changes: dict[str, Any], config_at: Callable[..., str]) -> None:
    refuse_unfit_player(config_at("student", kind, **changes), recipe_of("unread"))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("t5", "not a decoder-only language model"),
        ("bart", "not a decoder-only language model"),
        ("qwen2_5_vl", "not a decoder-only language model"),
    ],
)
def test_architectures(kind: str, why: str, config_at: Callable[..., str]) -> None:
    """A student that cannot be scored, by training as by evaluation."""
    student = config_at("student", kind)
    recipe = recipe_of(student)
    for check in (
        lambda: refuse_unfit(recipe, make_method(MethodSpec(name="grpo"))),
        lambda: refuse_unfit_player(student, recipe),
    ):
        with pytest.raises(SodError, match=rf"^{student}: architecture '{kind}' .*{why}.* use a model of") as caught:
            check()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5", "mistral3"])
def test_a_model_of_text_and_images_is_its_language_model(kind: str, tmp_path: Path) -> None:
    """The context is that of its text part."""
    config = AutoConfig.for_model(kind)
    config.text_config.max_position_embeddings = 256
    config.save_pretrained(tmp_path)
    refuse_unfit_learner(str(tmp_path), 256)
    with pytest.raises(SodError, match="past 256 tokens"):
        refuse_unfit_learner(str(tmp_path), 257)


def test_conversations_of_sft(config_at: Callable[..., str]) -> None:
    student = config_at("student", "stablelm")
    refuse_unfit_learner(student, 256)
    with pytest.raises(SodError, match=rf"^{student}: past 256 tokens .* sft.max_tokens let a text reach 257"):
        refuse_unfit_learner(student, 257)


def test_ranks_that_are_to_share_rows(config_at: Callable[..., str]) -> None:
    """Student and teacher must both be such that their rows can be cut, with the run's lengths; a teacher by itself."""
    student = config_at("student", "mistral", sliding_window=200)
    teacher = config_at("teacher", "qwen3", num_attention_heads=6, num_key_value_heads=2, head_dim=8)
    teams = {"parallel": ParallelSpec(shards=4, sequence=4)}
    without_teacher = make_method(MethodSpec(name="grpo"))
    fits = recipe_of(student, prompt=100, response=100).model_copy(update=teams)
    refuse_unfit(fits, without_teacher)
    refuse_uncut_learner(fits, 200)
    too_long = f"{student}: past 200 tokens its sliding window hides the first tokens"
    assert refused(recipe_of(student).model_copy(update=teams), "grpo").startswith(too_long)
    with pytest.raises(SodError, match=rf"^{too_long}.* sft\.max_tokens let a text reach 201"):
        refuse_uncut_learner(fits, 201)
    taught = recipe_of(student, teacher, prompt=100, response=100).model_copy(update=teams)
    assert refused(taught) == (
        f"parallel.sequence=4 does not divide the 6 attention heads of {teacher}; set parallel.sequence to one of 1, "
        "2, which divide them and the 4 ranks"
    )
    refuse_unfit(taught, without_teacher)


def test_a_self_teachers_longer_prompt_counts(config_at: Callable[..., str], chat: Chat) -> None:
    """The student's own prompts fit, those with the answer in them do not."""
    student = config_at("student", "qwen3")
    tasks = [Task("t", (Message("user", "x"),), "1" * 60)]
    method = make_method(MethodSpec(name="opsd_gt"))
    plain = len(chat.prompt_ids(tasks[0].prompt))
    recipe = recipe_of(student, prompt=plain, response=256 - plain)
    refuse_unfit(recipe, method)
    with pytest.raises(SodError, match=rf"^{student}: past 256 tokens .* self-teacher's longest prompt \(\d+\)"):
        refuse_unfit_self_teacher(recipe, method, tasks, chat)
    refuse_unfit_self_teacher(recipe_of(student, prompt=plain, response=20), method, tasks, chat)


@pytest.mark.parametrize("name", ["quickstart", "compare-chain", "compare-unreliable"])
def test_shipped_recipes_fit_the_models_they_make(name: str, config_at: Callable[..., str]) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml", [], print)
    assert recipe.world is not None
    path = config_at("made", "qwen3", max_position_embeddings=recipe.world.context)
    refuse_unfit_player(path, recipe)
