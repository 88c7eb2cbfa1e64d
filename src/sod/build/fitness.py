"""Whether a recipe's models fit what the run does with them, asked of their configurations before weights are read."""

from __future__ import annotations

from collections.abc import Iterable

from sod.chat.render import Chat
from sod.models.adapters import base_source, is_adapter, refuse_missing_peft
from sod.models.architecture import read_config, refuse_unscored
from sod.models.length import Asked, context_bounds, refuse_longer, rope_bounds
from sod.models.lora import chosen_targets, refuse_other_adapter, skeleton
from sod.models.sequence import refuse_uncut
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import Recipe
from sod.records import SodError, Task
from sod.tasks.privileged import privileged_prompt


def refuse_unfit(recipe: Recipe, method: Method) -> None:
    """Raises SodError where student or teacher cannot do their part in episodes of the recipe's lengths."""
    refuse_unfit_player(recipe.student.path, recipe)
    _refuse_uncut(recipe.student.path, recipe, _episodes(recipe))
    if method.needs & SELF_TEACHER:
        return
    for spec in recipe.local_teachers.values():
        if Need.TEACHER in method.needs:
            _refuse_uncut(spec.path, recipe, _episodes(recipe))
        if Need.TEACHER_EPISODES in method.needs:
            refuse_unfit_player(spec.path, recipe)
        elif Need.TEACHER in method.needs:
            _refuse_unfit_scorer(spec.path, _episodes(recipe))


def refuse_short_server(longest: int | None, recipe: Recipe, where: str) -> None:
    """Raises SodError where a server takes `longest` tokens, and episodes of the recipe may have more."""
    asked = _episodes(recipe)
    if longest is not None and asked.tokens > longest:
        raise SodError(
            f"{where}: takes {longest:,} tokens of a trajectory at most, and {asked.keys} is {asked.tokens:,}; start "
            "it with a longer context (vLLM: --max-model-len), or lower rollout.max_response_tokens"
        )


def refuse_unfit_player(path: str, recipe: Recipe) -> None:
    """Raises SodError where the model at `path` cannot sample and score episodes of the recipe's lengths."""
    _refuse_unfit_scorer(path, _episodes(recipe))  # what can be scored is sampled, by one of two engines


def refuse_unfit_self_teacher(recipe: Recipe, method: Method, tasks: Iterable[Task], chat: Chat) -> None:
    """Raises SodError where a teacher that is told more than the student cannot score its longest episodes."""
    context = method.context
    if context is None:
        return
    longest = max(len(chat.prompt_ids(privileged_prompt(task, context))) for task in tasks)
    response = recipe.rollout.max_response_tokens
    asked = Asked(longest + response, f"the self-teacher's longest prompt ({longest}) + rollout.max_response_tokens")
    _refuse_unfit_scorer(recipe.student.path, asked)
    _refuse_uncut(recipe.student.path, recipe, asked)


def refuse_unfit_learner(path: str, longest: int) -> None:
    """Raises SodError where the model at `path` cannot be trained on conversations of up to `longest` tokens."""
    _refuse_unfit_scorer(path, Asked(longest, "sft.max_tokens"))


def refuse_uncut_learner(recipe: Recipe, longest: int) -> None:
    """Raises SodError where ranks are to share conversations of up to `longest` tokens, and the student cannot."""
    _refuse_uncut(recipe.student.path, recipe, Asked(longest, "sft.max_tokens"))


def refuse_missing_adapters(recipe: Recipe) -> None:
    """Raises SodError where the recipe trains an adapter and the package for that is not there."""
    if recipe.student.lora is not None:
        refuse_missing_peft("student.lora")


def refuse_unfit_adapter(recipe: Recipe) -> None:
    """Raises SodError where the student has no layers for the recipe's adapter, or comes with one of another kind."""
    spec = recipe.student
    if spec.lora is None:
        return
    if is_adapter(spec.path):
        refuse_other_adapter(spec.path, spec.lora)
    else:
        chosen_targets(skeleton(spec.path), spec.lora, spec.path)


def _refuse_unfit_scorer(path: str, asked: Asked) -> None:
    config = read_config(base_source(path))
    refuse_unscored(config, path)
    refuse_longer(asked, [*context_bounds(config), *rope_bounds(config)], path)


def _refuse_uncut(path: str, recipe: Recipe, asked: Asked) -> None:
    """Raises SodError where the recipe has ranks share rows, and those of the model at `path` cannot be cut."""
    spec = recipe.parallel
    refuse_uncut(path, spec.sequence, max(spec.shards, spec.sequence), asked)


def _episodes(recipe: Recipe) -> Asked:
    spec = recipe.rollout
    prompt, response = spec.max_prompt_tokens, spec.max_response_tokens
    return Asked(prompt + response, f"rollout.max_prompt_tokens ({prompt}) + rollout.max_response_tokens ({response})")
