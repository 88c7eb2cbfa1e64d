"""The composition root: from a recipe to live objects. The only file that knows every concrete class.

Everything that can be wrong with the user's files is found here, cheapest first: recipe, data, tokenizers,
chat template, and only then weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sod.build_method import make_method, refuse_unmet
from sod.build_tools import make_judge, make_tools, refuse_unreadable
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.evaluate.runner import Evaluation, evaluate
from sod.models.load import check_compatible, load_model, load_tokenizer, save_model
from sod.models.meter import Meter
from sod.models.recompute import recompute_layers
from sod.objective.methods import Method
from sod.recipe import OptimSpec, Recipe, resolved
from sod.records import SodError
from sod.rollout.collect import Collector, Judge, Schedule
from sod.rollout.episode import Limits
from sod.rollout.health import refuse_unhealthy
from sod.runlog import RunLog, recipe_hash
from sod.seeds import derive
from sod.tasks.base import Conversation, Task, draw
from sod.tasks.files import Loaded, load_conversations, load_tasks
from sod.tasks.privileged import privileged_prompt
from sod.teachers.local import LocalTeacher
from sod.tools.base import Tool
from sod.tools.python import SCHEMA, STATEFUL_SCHEMA
from sod.train.checkpoint import COMPLETE, verify
from sod.train.loop import Listener, Plan, Trainee, resume_point, run_steps
from sod.train.optim import Optimizer
from sod.train.report import StepReport
from sod.train.sft import Ledger, sft_step
from sod.train.step import PrivilegedPrompt, Run, train_step

Notice = Callable[[str], None]
"""Tells the user something that is not an error: skipped rows, what is being loaded."""


def make_chat(recipe: Recipe, tokenizer: Any) -> Chat:
    """The renderer of the recipe; proves that its template is append-only."""
    python = recipe.tools.python
    schemas = [STATEFUL_SCHEMA if python.stateful else SCHEMA] if python else []
    return Chat(tokenizer, schemas, recipe.chat.template, recipe.chat.template_kwargs)


def loaded_tasks(source: str | None, key: str, recipe: Recipe, notice: Notice) -> list[Task]:
    """The tasks of a data key; skipped rows are told. Raises SodError when the key is not set."""
    if source is None:
        raise SodError(f"{key} is not set; name a parquet or JSONL file, or a hub id")
    tasks = _told(load_tasks(source, recipe.data.split), source, notice)
    refuse_unreadable(recipe, tasks)
    return tasks


def fitting_tasks(tasks: Sequence[Task], chat: Chat, recipe: Recipe, notice: Notice) -> list[Task]:
    """The tasks whose prompts fit `rollout.max_prompt_tokens`; the rest is skipped and told, or refused."""
    limit = recipe.rollout.max_prompt_tokens
    lengths = {task.id: len(chat.prompt_ids(task.prompt)) for task in tasks}
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


def make_collector(
    recipe: Recipe, chat: Chat, tools: Mapping[str, Tool], judge: Judge, model: Any, meter: Meter | None = None
) -> Collector:
    """The rollout of the recipe with `model` as its student."""
    spec = recipe.rollout
    return Collector(
        engine=TorchEngine(model, chat.stop_ids, spec.max_rows, meter=meter),
        chat=chat,
        tools=tools,
        limits=Limits(spec.max_turns, spec.max_turn_tokens, spec.max_response_tokens),
        judge=judge,
        seed=recipe.seed,
        fault_retries=spec.fault_retries,
        max_fault_rate=spec.max_fault_rate,
        fault_window=spec.fault_window,
        schedule=Schedule(spec.round_tokens, spec.by_the_clock),
    )


def run_evaluation(
    recipe: Recipe,
    collector: Collector,
    tasks: Sequence[Task],
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate as `evaluation` in the recipe says, on a seeded subset of at most `evaluation.tasks` tasks."""
    spec = recipe.evaluation
    count = min(spec.tasks, len(tasks)) if spec.tasks else len(tasks)
    chosen = [tasks[i] for i in sorted(draw(count, len(tasks), derive(recipe.seed, "evaluation"), 1))]
    sampling = Sampling(spec.temperature, spec.top_p, spec.top_k)
    return evaluate(collector, chosen, spec.k, sampling, recipe.seed, on_progress=on_progress)


def evaluate_model(
    recipe: Recipe, data: str, notice: Notice, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Load the recipe's student and evaluate it on the tasks in `data`."""
    path = final_model(recipe.student.path)
    tasks = loaded_tasks(data, "--data", recipe, notice)
    chat = make_chat(recipe, load_tokenizer(path))
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    with ExitStack() as opened:
        tools, judge = make_tools(recipe, opened), make_judge(recipe, opened)
        refuse_unhealthy(tools)
        _prepare_torch(recipe)
        model = load_model(path, recipe.student.dtype)
        return run_evaluation(recipe, make_collector(recipe, chat, tools, judge, model), tasks, on_progress)


@dataclass
class Job:
    """A run that is ready to go: `start` runs it to its end."""

    log: RunLog
    plan: Plan
    done: int
    start: Callable[[list[Listener]], None]
    close: Callable[[], None]


def prepare_train(recipe: Recipe, directory: Path, resume: bool, notice: Notice) -> Job:
    """A run of the recipe's method in `directory`, new or resumed.

    Raises SodError before anything is loaded where possible.
    """
    method = make_method(recipe.method)
    if method.supervised:
        return _supervised(recipe, directory, resume, notice, method)
    _refuse_unfit(method, recipe)
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, notice)
    held_out: list[Task] = []
    if recipe.train.evaluate_every:
        held_out = loaded_tasks(recipe.data.validation, "data.validation", recipe, notice)
    if method.context is not None:
        for task in tasks:
            privileged_prompt(task, method.context)
    start_path, log, hashed = _place(recipe, directory, resume, "train")
    chat = make_chat(recipe, _common_tokenizer(recipe, method))
    tasks = fitting_tasks(tasks, chat, recipe, notice)
    held_out = fitting_tasks(held_out, chat, recipe, notice) if held_out else held_out
    plan = Plan(
        steps=recipe.train.steps,
        checkpoint_every=recipe.train.checkpoint_every,
        keep_checkpoints=recipe.train.keep_checkpoints,
        recipe_hash=hashed,
        trajectories_every=recipe.train.trajectories_every,
        evaluate_every=recipe.train.evaluate_every,
    )
    with ExitStack() as opened:  # nothing that was started outlives a failure here
        tools, judge = make_tools(recipe, opened), make_judge(recipe, opened)
        refuse_unhealthy(tools)
        _prepare_torch(recipe)
        student, optimizer, done = _trainee(recipe, recipe.optim, recipe.train.steps, start_path)
        meter = Meter(recipe.train.profile)
        collector = make_collector(recipe, chat, tools, judge, student, meter)
        teacher = _make_teacher(recipe, method, meter)
        if teacher is not None and start_path is not None:
            teacher.load(start_path[2].get("teacher"))
        kept = log or RunLog.create(directory, resolved(recipe), recipe.seed)
        close = opened.pop_all().close
    run = Run(recipe, tasks, student, teacher, collector, method, optimizer, directory / "dumps", meter=meter)
    run.privileged = _privileged(method, chat)
    if teacher is not None and method.curriculum is not None and method.curriculum.kind == "b2f":
        run.expert = make_collector(recipe, chat, tools, judge, teacher.model)

    def held_out_figures(step: int) -> dict[str, float]:
        result = run_evaluation(recipe, collector, held_out)
        return {f"eval/{name}": estimate.value for name, estimate in result.estimates.items()}

    def state() -> dict[str, Any]:
        return optimizer.state() | {"teacher": teacher.state() if teacher is not None else None}

    def start(listeners: list[Listener]) -> None:
        trainee = Trainee(state, _saver(student, chat))
        run_steps(plan, kept, done, lambda step: train_step(run, step), trainee, listeners, held_out_figures)
        if meter.on:
            kept.write_profile(meter.rows())

    return Job(kept, plan, done, start, close)


def _refuse_unfit(method: Method, recipe: Recipe) -> None:
    """Raises SodError where the recipe lacks what the method needs."""
    python = recipe.tools.python
    if method.needs_teacher and recipe.teacher is None and method.context is None:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path")
    refuse_unmet(method, LocalTeacher.offers, "a local teacher")
    if method.curriculum is not None and method.curriculum.kind == "b2f" and python is not None and python.stateful:
        raise SodError(
            f"method {method.name} replays the teacher's turns, but not what they left in a tool; "
            "set tools.python.stateful=false"
        )


def _privileged(method: Method, chat: Chat) -> PrivilegedPrompt | None:
    context = method.context
    if context is None:
        return None
    return lambda task: chat.prompt_ids(privileged_prompt(task, context))


def _common_tokenizer(recipe: Recipe, method: Method) -> Any:
    """The student's tokenizer. Raises SodError where the teacher's is another."""
    tokenizer = load_tokenizer(final_model(recipe.student.path))
    if recipe.teacher is not None and method.context is None:
        theirs = load_tokenizer(final_model(recipe.teacher.path))
        check_compatible(tokenizer, theirs, recipe.student.path, recipe.teacher.path)
    return tokenizer


def _make_teacher(recipe: Recipe, method: Method, meter: Meter) -> LocalTeacher | None:
    """The recipe's teacher; a copy of the student as it was at the start where the method has privileged context."""
    spec = recipe.teacher if method.context is None else recipe.student
    if spec is None:
        return None
    weights = load_model(final_model(spec.path), spec.dtype)
    return LocalTeacher(weights, recipe.optim.micro_batch_tokens, recipe.rollout.temperature, meter)


def prepare_sft(recipe: Recipe, directory: Path, resume: bool, notice: Notice) -> Job:
    """A supervised run in `directory`, new or resumed."""
    return _supervised(recipe, directory, resume, notice)


def _supervised(recipe: Recipe, directory: Path, resume: bool, notice: Notice, method: Method | None = None) -> Job:
    """SFT as the recipe's `sft` section says; as a `method` it has the run's own steps, batch and optimizer."""
    spec, kind, every = recipe.sft, "sft", recipe.sft.checkpoint_every
    optim, steps, batch = spec.optim, spec.steps, spec.batch_size
    if method is not None:
        kind, every = "train", recipe.train.checkpoint_every
        optim, steps, batch = recipe.optim, recipe.train.steps, recipe.rollout.prompts * recipe.rollout.samples
    if recipe.data.sft is None:
        raise SodError("data.sft is not set; name a parquet or JSONL file, or a hub id")
    conversations = _told(load_conversations(recipe.data.sft, recipe.data.split), recipe.data.sft, notice)
    start_path, log, hashed = _place(recipe, directory, resume, kind)
    chat = make_chat(recipe, load_tokenizer(final_model(recipe.student.path)))
    examples = _fitting_examples(conversations, chat, recipe, notice)
    _prepare_torch(recipe)
    student, optimizer, done = _trainee(recipe, optim, steps, start_path)
    log = log or RunLog.create(directory, resolved(recipe), recipe.seed)
    plan = Plan(steps, every, recipe.train.keep_checkpoints, hashed, kind=kind)

    def one(step: int) -> StepReport:
        return sft_step(student, optimizer, examples, batch, optim, recipe.seed, step)

    def start(listeners: list[Listener]) -> None:
        trainee = Trainee(optimizer.state, _saver(student, chat))
        run_steps(plan, log, done, one, trainee, listeners)

    return Job(log, plan, done, start, lambda: None)


def _fitting_examples(
    conversations: Sequence[Conversation], chat: Chat, recipe: Recipe, notice: Notice
) -> list[Ledger]:
    """The conversations that fit `sft.max_tokens`, as ledgers; the rest is told. Raises SodError where none fits."""
    encoded = [chat.encode_conversation(conversation.messages) for conversation in conversations]
    examples: list[Ledger] = [(ids, turns) for ids, turns in encoded if len(ids) <= recipe.sft.max_tokens]
    if not examples:
        raise SodError(f"{recipe.data.sft}: no conversation fits sft.max_tokens={recipe.sft.max_tokens}")
    if overlong := len(encoded) - len(examples):
        notice(f"{overlong} of {len(encoded)} conversations are longer than sft.max_tokens; skipped")
    return examples


def final_model(path: str) -> str:
    """The model directory behind a run (its newest checkpoint) or model path. Raises SodError for a broken one."""
    directory = Path(path)
    if (directory / "recipe.yaml").is_file():
        found = RunLog.open(directory).checkpoints()
        if not found:
            raise SodError(f"{path}: this run has no checkpoint yet")
        directory = found[-1][1]
    if (directory / COMPLETE).exists() or directory.parent.name == "checkpoints":
        verify(directory)
        return str(directory)
    return path


def _told(loaded: Loaded[Any], source: str, notice: Notice) -> list[Any]:
    if loaded.skipped:
        notice(f"{source}: {loaded.summary()}")
    return list(loaded.items)


def _place(recipe: Recipe, directory: Path, resume: bool, kind: str) -> tuple[Any, RunLog | None, str]:
    """`(resume point or None, the run's log if it exists, recipe hash)`."""
    hashed = recipe_hash(resolved(recipe))
    if not resume:
        RunLog.refuse_existing(directory)
        return None, None, hashed
    log = RunLog.open(directory)
    others = {row["kind"] for row in log.metrics()} - {kind}
    if others:
        raise SodError(f"{directory}: a run of `sod {others.pop()}`; it cannot be resumed as `sod {kind}`")
    return resume_point(log, hashed), log, hashed


def _trainee(recipe: Recipe, spec: OptimSpec, steps: int, point: Any) -> tuple[Any, Optimizer, int]:
    """`(model, optimizer, steps done)`, from the recipe's student or from a checkpoint."""
    path = final_model(recipe.student.path) if point is None else str(point[0])
    student = load_model(path, recipe.student.dtype)
    if spec.recompute:
        recompute_layers(student)
    optimizer = Optimizer(student, spec, steps)
    if point is None:
        return student, optimizer, 0
    optimizer.load(point[2])
    return student, optimizer, point[1]


def _saver(model: Any, chat: Chat) -> Callable[[Path], None]:
    return lambda directory: save_model(model, chat.tokenizer, chat.template, chat.end_id, directory)


def _prepare_torch(recipe: Recipe) -> None:
    # Nothing of ours draws from torch's global generator; a model with dropout would.
    torch.manual_seed(derive(recipe.seed, "torch"))
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
