"""Benchmarks in a style: what is asked, how it is sampled, and one loaded model that answers all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

from sod.build.devices import find_devices
from sod.build.evaluation import chosen_tasks, run_evaluation
from sod.build.fitness import refuse_unfit_player
from sod.build.job import final_model, prepare_torch
from sod.build.lengths import prompt_lengths
from sod.build.rollout import make_collector
from sod.build.tools import make_code_verifier, make_tools
from sod.build.vocabulary import chat_of
from sod.chat.render import Chat
from sod.evaluation.benchmarks.base import Benchmark
from sod.evaluation.benchmarks.loading import ProblemSet, load_problems
from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.benchmarks.reward import StyleReward
from sod.evaluation.hints import Hints
from sod.evaluation.runner import Evaluation
from sod.evaluation.styles.base import Means, Style
from sod.evaluation.styles.catalogue import STYLES
from sod.models.load import load_model
from sod.models.memory import naming_phase
from sod.models.support import Support
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError, Task
from sod.rollout.health import refuse_unhealthy
from sod.tools.base import Tool

OnProgress = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Asked:
    """A benchmark as it is asked: `problems` and `tasks` in one order, as the style arranged them.

    `recipe` samples as the style does, unless the user said otherwise.
    """

    recipe: Recipe
    style: Style
    read: ProblemSet
    problems: tuple[Problem, ...]
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.read.benchmark.name

    def about(self) -> dict[str, Any]:
        """What a result says: what was read, in which style it was asked and sampled, and what is known against it."""
        spec, limits = self.recipe.evaluation, self.recipe.rollout
        sampling = {
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "top_k": spec.top_k,
            "max_tokens": limits.max_response_tokens,
            "max_turns": limits.max_turns,
        }
        style = {"name": self.style.name, "tools": self.style.uses_tools, "sampling": sampling}
        flaws = list(self.style.flaws(self.name))
        return {"benchmark": self.read.about(), "style": {**style, "known_flaws": flaws}}


Play = Callable[[Asked, OnProgress], Evaluation]
"""Plays a benchmark."""


def style_named(name: str) -> Style:
    """The style. Raises SodError, with the nearest name, for one that there is not."""
    if name not in STYLES:
        near = get_close_matches(name.lower().replace("_", "-"), STYLES, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise SodError(f"--style {name}: {meant}there are {', '.join(STYLES)}")
    return STYLES[name]


def refuse_unasked(style: Style, benchmarks: Sequence[Benchmark]) -> None:
    """Raises SodError for a benchmark that the style does not have."""
    without = [benchmark.name for benchmark in benchmarks if benchmark.name not in style.benchmarks]
    if without:
        raise SodError(
            f"--style {style.name} does not have {', '.join(without)}; it has {', '.join(style.benchmarks)}; choose "
            "another style for the rest"
        )


def read_sets(benchmarks: Sequence[Benchmark], data_dir: Path | None, notice: Notice) -> list[ProblemSet]:
    """The problems of every benchmark. Raises SodError as `load_problems`."""
    return [load_problems(benchmark, data_dir, notice) for benchmark in benchmarks]


def style_changes(style: Style, benchmark: str) -> list[str]:
    """The overrides of a recipe by which it samples as the style does on a benchmark, over all problems."""
    sampling = style.sampling(benchmark)
    turns = sampling.max_turns if style.uses_tools else 1
    changes = {
        "evaluation.k": sampling.k,
        "evaluation.tasks": 0,
        "evaluation.temperature": sampling.temperature,
        "evaluation.top_p": sampling.top_p,
        "evaluation.top_k": sampling.top_k,
        "rollout.max_response_tokens": sampling.max_tokens,
        "rollout.max_turn_tokens": sampling.max_tokens,
        **({"rollout.max_turns": turns} if turns else {}),
    }
    return [f"{key}={value}" for key, value in changes.items()]


def asked(recipe: Recipe, style: Style, read: ProblemSet, notice: Notice) -> Asked:
    """The benchmark in the style, of which `evaluation.tasks` in the recipe takes a part.

    A recipe's environment, prompts and rewards are not the benchmark's: they are left aside.
    """
    changes: dict[str, Any] = {"environment": None}
    if not style.uses_tools:
        changes["tools"] = type(recipe.tools).model_validate({"python": None})
    elif recipe.tools.python is None and not recipe.tools.own:
        notice(f"--style {style.name} shows tools, and the recipe has none; set tools.python={{}} for the python tool")
    recipe = recipe.model_copy(update=changes)
    problems = tuple(style.arranged(read.problems, recipe.seed))
    by_id = {problem.id: problem for problem in problems}
    tasks = tuple(chosen_tasks(recipe, [_task(problem, style) for problem in problems]))
    return Asked(recipe, style, read, tuple(by_id[task.id] for task in tasks), tasks)


def _task(problem: Problem, style: Style) -> Task:
    """The task that is played: the style's prompt, and what records say beside it. Tests stay with the problem."""
    truth = "" if problem.kind == "code" else style.truth(problem)
    extra = {} if problem.difficulty is None else {"difficulty": problem.difficulty}
    verifier = "code" if problem.kind == "code" else None
    return Task(problem.id, style.prompt(problem), truth, problem.benchmark, extra, verifier=verifier)


@contextmanager
def loaded_player(all_asked: Sequence[Asked], notice: Notice) -> Iterator[Play]:
    """What plays these benchmarks with the student, which is loaded once.

    Raises SodError, before it is loaded, where a prompt or answer does not fit the model, and where tools do not run.
    """
    first = all_asked[0].recipe
    refuse_unmade({"student.path": first.student.path})
    devices = find_devices(first.without_teachers(), notice)
    path = final_model(first.student.path, notice)
    chats = {one.name: _chat(one, path, notice) for one in all_asked}
    fitted = {one.name: _fitted(one, chats[one.name], path) for one in all_asked}
    with ExitStack() as resources:
        tools = _tools(all_asked, chats, resources, notice)
        prepare_torch(first, devices)
        with naming_phase("loading the student"):
            support = Support.of(chats[all_asked[0].name].tokenizer)
            model = load_model(path, first.student.dtype, support, devices.student)

        def play(one: Asked, on_progress: OnProgress) -> Evaluation:
            mine = tools if one.style.uses_tools else {}
            return _played(one, fitted[one.name], chats[one.name], mine, model, on_progress, notice)

        yield play


def _chat(one: Asked, path: str, notice: Notice) -> Chat:
    return chat_of(one.recipe, path, notice)


def _fitted(one: Asked, chat: Chat, path: str) -> Recipe:
    """The recipe with room for the longest prompt: a benchmark of which problems are left out is another one.

    Raises SodError where the model has no room for prompt and answer.
    """
    recipe = one.recipe
    longest = max(prompt_lengths(one.tasks, chat, recipe.chat.template_kwargs))
    rollout = recipe.rollout.model_copy(update={"max_prompt_tokens": longest})
    fitted = recipe.model_copy(update={"rollout": rollout})
    try:
        refuse_unfit_player(path, fitted)
    except SodError as error:
        raise SodError(
            f"{one.name}, whose longest prompt has {longest:,} tokens: {error}; rollout.max_response_tokens=... asks "
            f"for shorter answers than --style {one.style.name} does, and the result says so"
        ) from error
    return fitted


def _tools(all_asked: Sequence[Asked], chats: dict[str, Chat], resources: ExitStack, notice: Notice) -> dict[str, Tool]:
    """The tools of the first benchmark that shows some: all of them have the same."""
    showing = [one for one in all_asked if one.style.uses_tools]
    if not showing:
        return {}
    tools = make_tools(showing[0].recipe, resources, chats[showing[0].name].tokenizer, notice)
    refuse_unhealthy(tools)
    return tools


def _played(
    one: Asked,
    recipe: Recipe,
    chat: Chat,
    tools: dict[str, Tool],
    model: Any,
    on_progress: OnProgress,
    notice: Notice,
) -> Evaluation:
    with ExitStack() as resources:
        means = Means(lambda: make_code_verifier(recipe, resources), recipe.reward.workers, recipe.reward.math_seconds)
        verifier = one.style.verifier(one.problems, means)
        resources.callback(verifier.close)
        reward = StyleReward(verifier, recipe.rollout.fault_retries)
        collector = make_collector(recipe, chat, tools, reward, model, notice=notice)
        resources.callback(collector.engine.close)
        unjudged = recipe.reward.model_copy(update={"verifier": None, "by_source": {}})  # its hints are about its keys
        hints = Hints(unjudged, notice, compares=False)
        with naming_phase("sampling"):
            return replace(run_evaluation(recipe, collector, one.tasks, on_progress, hints), tools=chat.tools)
