"""Benchmarks in a style: what is asked, how it is sampled and judged, and one loaded model that plays all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

from sod.build.devices import Devices, find_devices
from sod.build.evaluation import Prepared, chosen_tasks, load_student
from sod.build.fitness import refuse_unfit_player
from sod.build.job import final_model
from sod.build.lengths import prompt_lengths
from sod.build.tools import make_code_verifier
from sod.build.vocabulary import chat_of
from sod.chat.render import Chat
from sod.evaluation.benchmarks.base import Benchmark
from sod.evaluation.benchmarks.loading import ProblemSet, load_problems
from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.benchmarks.reward import StyleReward
from sod.evaluation.breakdown import keys_to_break_down_by
from sod.evaluation.styles.base import Means, Style
from sod.evaluation.styles.catalogue import STYLES
from sod.recipe import Notice, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError, Task


@final
@dataclass(frozen=True)
class StyleJudge:
    """Makes what judges a benchmark's episodes, in whatever process they are played."""

    style: str
    problems: tuple[Problem, ...]

    def __call__(self, recipe: Recipe, opened: ExitStack, tasks: Sequence[Task], notice: Notice) -> StyleReward:
        """See `sod.build.tools.make_reward_function`."""
        spec = recipe.reward
        means = Means(lambda: make_code_verifier(recipe, opened), spec.workers, spec.math_seconds)
        verifier = STYLES[self.style].verifier(self.problems, means)
        opened.callback(verifier.close)
        return StyleReward(verifier, recipe.rollout.fault_retries)


@final
class SharedStudent:
    """Loads a student when it is first asked for, and gives the same one to the benchmarks after that."""

    def __init__(self) -> None:
        self._model: Any = None

    def __call__(self, prepared: Prepared, devices: Devices) -> Any:
        """See `sod.build.evaluation.load_student`."""
        if self._model is None:
            self._model = load_student(prepared, devices)
        return self._model


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


def benchmark_recipe(recipe: Recipe, style: Style, notice: Notice) -> Recipe:
    """The recipe without what is not a benchmark's: environment and rewards, and tools where the style has none.

    `notice` hears where the style would show tools and there are none, and where samples of a problem are all the same.
    """
    reward = recipe.reward.model_copy(update={"verifier": None, "by_source": {}, "call": [], "judge": None})
    changes: dict[str, Any] = {"environment": None, "reward": reward}
    if not style.uses_tools:
        changes["tools"] = type(recipe.tools).model_validate({"python": None})
    elif recipe.tools.python is None and not recipe.tools.own:
        notice(f"--style {style.name} shows tools, and the recipe has none; tools.python={{}} gives it the python tool")
    if recipe.evaluation.temperature == 0 and recipe.evaluation.k > 1:
        notice(
            f"evaluation.temperature=0: the {recipe.evaluation.k} samples of a problem are all the same; -k 1, or "
            "evaluation.temperature=0.6 for other ones"
        )
    return recipe.model_copy(update=changes)


def prepare_benchmark(
    recipe: Recipe, style: Style, read: ProblemSet, load: SharedStudent, notice: Notice, by: Sequence[str] = ()
) -> Prepared:
    """The benchmark in the style as an evaluation, `evaluation.tasks` of its problems; `by` are keys of tasks.

    `recipe` is a `benchmark_recipe`. Raises SodError where a prompt or an answer does not fit the model.
    """
    refuse_unmade({"student.path": recipe.student.path})
    find_devices(recipe.without_teachers(), notice)
    path = final_model(recipe.student.path, notice)
    problems = tuple(style.arranged(read.problems, recipe.seed))
    by_id = {problem.id: problem for problem in problems}
    tasks = chosen_tasks(recipe, [_task(problem, style) for problem in problems])
    chat = chat_of(recipe, path, notice)
    name = read.benchmark.name
    fitted = _fitted(recipe, tasks, chat, path, f"{name} in style {style.name}")
    return Prepared(
        fitted,
        path,
        tasks,
        chat,
        by=keys_to_break_down_by(tasks, by),
        make_reward=StyleJudge(style.name, tuple(by_id[task.id] for task in tasks)),
        load=load,
        said={"benchmark": read.about(), "style": _about(style, name, fitted)},
    )


def _about(style: Style, benchmark: str, recipe: Recipe) -> dict[str, Any]:
    """What a result says of how its problems were asked: sampling is as it was, whatever the style's own is."""
    spec, limits = recipe.evaluation, recipe.rollout
    sampling = {
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "top_k": spec.top_k,
        "max_tokens": limits.max_response_tokens,
        "max_turns": limits.max_turns,
    }
    flaws = list(style.flaws(benchmark))
    return {"name": style.name, "tools": style.uses_tools, "sampling": sampling, "known_flaws": flaws}


def _task(problem: Problem, style: Style) -> Task:
    """The task that is played: the style's prompt, and what tells it from others. Tests stay with the problem."""
    extra: dict[str, Any] = {"style": style.name}
    if problem.difficulty is not None:
        extra["difficulty"] = problem.difficulty
    prompt, source = style.prompt(problem), problem.benchmark
    if problem.task is None:
        return Task(problem.id, prompt, style.truth(problem), source, extra)
    extra["tests_sha256"] = hashlib.sha256(problem.task.ground_truth.encode("utf-8", "backslashreplace")).hexdigest()
    return Task(problem.id, prompt, "", source, extra, verifier="code")


def _fitted(recipe: Recipe, tasks: Sequence[Task], chat: Chat, path: str, asked: str) -> Recipe:
    """The recipe with room for the longest prompt: a benchmark of which problems are left out is another one.

    Raises SodError where the model has no room for prompt and answer.
    """
    longest = max(prompt_lengths(tasks, chat, recipe.chat.template_kwargs))
    rollout = recipe.rollout.model_copy(update={"max_prompt_tokens": longest})
    fitted = recipe.model_copy(update={"rollout": rollout})
    try:
        refuse_unfit_player(path, fitted)
    except SodError as error:
        raise SodError(
            f"{asked}, whose longest prompt has {longest:,} tokens: {error}; --max-tokens asks for shorter answers"
        ) from error
    return fitted
