"""The tasks of a recipe and the renderer that turns them into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sod.build.declared_tools import tell_other_tools
from sod.build.environment import own_split, world_tasks
from sod.build.job import told
from sod.build.lengths import prompt_lengths
from sod.build.programming import with_readable_tests, with_tests_told
from sod.build.showing import refuse_unshown
from sod.build.tools import tool_schemas
from sod.build.truths import with_readable_truths
from sod.chat.render import Chat
from sod.recipe import Notice, Recipe
from sod.records import SodError, Task
from sod.tasks.files import load_tasks
from sod.tasks.sources import Source, shown


def make_chat(recipe: Recipe, tokenizer: Any, notice: Notice, theirs: Sequence[Mapping[str, Any]] = ()) -> Chat:
    """The renderer of the recipe, for its tools and those of an environment (`theirs`); proves that its template is
    append-only, and shows the tools.

    `notice` hears what chat.template=auto took, and why, where the tokenizer has a template that is not ours.
    """
    spec = recipe.chat

    def chat_with(tools: Sequence[Mapping[str, Any]]) -> Chat:
        return Chat(tokenizer, tools, spec.template, spec.template_kwargs, spec.dialect)

    try:
        chat = chat_with([*tool_schemas(recipe), *theirs])
    except SodError as error:
        refuse_unshown(recipe, theirs, chat_with, str(error))
        raise
    own = tokenizer.chat_template
    if spec.template == "auto" and own and own != chat.template:
        refuse_unshown(recipe, theirs, chat_with, chat.why)
        notice(f"chat.template=auto took {chat.why}; `sod chat` shows it")
    return chat


def loaded_tasks(named: Source | None, key: str, recipe: Recipe, notice: Notice) -> list[Task]:
    """The tasks of a data key; what was skipped, unused or added is told.

    Raises SodError when the key is not set, and where verifiers cannot read what they need.
    """
    if recipe.environment is not None:
        return world_tasks(named, key, recipe, recipe.environment, notice)
    if named is None:
        raise SodError(f"{key} is not set; name a parquet or JSONL file, or a hub id")
    if own_split(named, key) is not None:
        raise SodError(f"{key}={shown(named)}: there is no environment; name a parquet or JSONL file, or a hub id")
    spec, source = recipe.data, shown(named)
    truths = recipe.reward.verifier is not None
    read = load_tasks(named, spec.split, spec.columns, spec.system, spec.suffix, truths)
    read = with_readable_truths(with_tests_told(read, source, recipe.reward, notice), source, recipe.reward, notice)
    tasks = told(with_readable_tests(read, source, recipe.reward), source, notice)
    tell_other_tools(tasks, source, recipe, notice)
    return tasks


def tell_unmet_sources(recipe: Recipe, tasks: Sequence[Task], notice: Notice) -> None:
    """Tell the keys of `reward.by_source` that no task has as its data_source: their verifiers judge nothing."""
    sources = dict.fromkeys(task.data_source for task in tasks)
    unmet = [source for source in recipe.reward.by_source if source not in sources]
    if unmet:
        notice(
            f"reward.by_source: no task has the data_source {', '.join(unmet)}, so that does nothing; the tasks have "
            f"{', '.join(sources)}"
        )


def fitting_tasks(tasks: Sequence[Task], chat: Chat, recipe: Recipe, notice: Notice) -> list[Task]:
    """The tasks whose prompts fit `rollout.max_prompt_tokens`; the rest is skipped and told, or refused."""
    if recipe.environment is not None:  # their prompts are known as their episodes begin
        return list(tasks)
    limit = recipe.rollout.max_prompt_tokens
    found = prompt_lengths(tasks, chat, recipe.chat.template_kwargs)
    lengths = {task.id: length for task, length in zip(tasks, found, strict=True)}
    overlong = [task for task in tasks if lengths[task.id] > limit]
    if overlong:
        first = overlong[0]
        message = (
            f"{len(overlong)} of {len(tasks)} prompts are longer than rollout.max_prompt_tokens={limit}, "
            f"the first is {first.id} with {lengths[first.id]} tokens"
        )
        if recipe.data.overlong_prompts == "refuse" or len(overlong) == len(tasks):
            raise SodError(f"{message}; raise the limit or set data.overlong_prompts=skip")
        notice(f"{message}; skipped")
    return [task for task in tasks if lengths[task.id] <= limit]
