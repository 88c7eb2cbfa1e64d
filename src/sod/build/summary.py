"""What a run is made of, in words: the lines that stand before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.build.declared_tools import name_of
from sod.build.method import differing_knobs
from sod.chat.render import Chat
from sod.launch.placement import Placed
from sod.models.sharded import computing_dtype, is_sharded
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER
from sod.recipe import MethodSpec, OptimSpec, Recipe, RewardSpec, TeacherSpec, written
from sod.tasks.sources import Source, shown
from sod.tools.base import Tool
from sod.tools.python import PythonTool
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.unreliable import UnreliableTool
from sod.training.loop import Plan

Facts = list[tuple[str, str]]
"""A name and a text each, in the order in which they are shown."""


def train_facts(
    recipe: Recipe, method: Method, chat: Chat, student: Any, teacher: Any, tools: Mapping[str, Tool]
) -> Facts:
    """A run of `sod train`; `teacher` is the teacher's model, None where there is none in this process."""
    rollout = recipe.rollout
    return [
        ("method", method_text(recipe.method)),
        ("student", _student_text(recipe, student)),
        ("teacher", _teacher_text(recipe, method, teacher)),
        ("chat", chat_text(chat)),
        *_world_facts(recipe, chat, tools),
        *([("reward", reward_text(recipe.reward))] if recipe.reward.call or recipe.reward.judge else []),
        (
            "episodes",
            f"{counted(rollout.prompts, 'task')} x {counted(rollout.samples, 'sample')} a step, "
            f"{counted(rollout.max_turns, 'turn')} at most",
        ),
        ("optimizer", optim_text(recipe.optim)),
    ]


def server_facts(places: Sequence[Placed], logs: Path) -> Facts:
    """The servers that the run has started; nothing where there are none."""
    shown_places = [f"{place.name} at {place.url} on {', '.join(place.devices)}" for place in places]
    return [("servers", f"{'; '.join(shown_places)}; logs in {logs}")] if places else []


def data_facts(tasks: int, held_out: Mapping[str, int], recipe: Recipe) -> Facts:
    """The data of a run of `sod train`; `held_out` are the tasks of each set of validation tasks by name."""
    scores = None if recipe.teacher is None else recipe.teacher.scores
    source = _source(recipe.data.train) if scores is None else f"{scores}, stored episodes"
    facts = [("data", f"{source}: {counted(tasks, 'task')}")]
    for name, count in held_out.items():
        named = f"{name}, " if name else ""
        source = _source(recipe.data.validation_sets.get(name))
        facts.append(("held out", f"{named}{source}: {counted(count, 'task')}, {_often(recipe.train.evaluate_every)}"))
    return facts


def counted(number: int, what: str) -> str:
    """`1 task`, `4,000 tasks`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _often(steps: int) -> str:
    return "every step" if steps == 1 else f"every {steps:,} steps"


def _source(named: Source | None) -> str:
    return "the environment's own" if named is None else shown(named)


def _world_facts(recipe: Recipe, chat: Chat, tools: Mapping[str, Tool]) -> Facts:
    """The tools, and the environment where there is one; its tools are those of its first task."""
    own = [tool_text(tool) for tool in tools.values()]
    if recipe.environment is None:
        return [("tools", ", ".join(own) or "none")]
    shown_names = [name_of(schema) for schema in chat.tools]
    theirs = [name for name in shown_names if name not in tools]
    return [("environment", written(recipe.environment.call)), ("tools", ", ".join([*own, *theirs]) or "none")]


def sft_facts(recipe: Recipe, chat: Chat, student: Any, optim: OptimSpec, examples: int, batch: int) -> Facts:
    """A supervised run."""
    return [
        ("method", f"sft, {counted(batch, 'conversation')} a step"),
        ("student", _student_text(recipe, student)),
        ("data", f"{shown(recipe.data.sft or ())}: {counted(examples, 'conversation')}"),
        ("chat", chat_text(chat)),
        ("optimizer", optim_text(optim)),
    ]


def place_facts(plan: Plan, done: int, directory: Path) -> Facts:
    """How long a run is, and where it is written."""
    resumed = f", goes on after step {done}" if done else ""
    kept = f"a checkpoint {_often(plan.checkpoint_every)}"
    return [("steps", f"{plan.steps}{resumed}, {kept}"), ("run directory", str(directory))]


def method_text(spec: MethodSpec) -> str:
    """The preset and what the recipe sets otherwise than it."""
    changed = differing_knobs(spec)
    return ", ".join([spec.name, *changed]) if changed else f"{spec.name}, its own knobs"


def reward_text(spec: RewardSpec) -> str:
    """What adds up to the reward where there is more than a verifier, and who says what is right."""
    named = sorted(spec.verifiers)
    verifiers = [f"{', '.join(named)} verifier"] if named else []
    calls = [f"{one.part} ({written(one.call)}) x {one.weight:g}" for one in spec.call]
    judges = [] if spec.judge is None else [f"judge ({spec.judge.model}) x {spec.judge.weight:g}"]
    right = "" if spec.verifier is not None else f"; right from {spec.call_right:g} where no verifier judges"
    return " + ".join([*verifiers, *calls, *judges]) + right


def model_text(path: str, model: Any) -> str:
    """Where a model comes from, its size, precision, device and architecture."""
    count = sum(parameter.numel() for parameter in model.parameters())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return f"{path}: {size_text(count)} parameters, {dtype} on {model.device}, {_kind(model)}"


def _kind(model: Any) -> str:
    """Its architecture, and how it computes where its weights are in pieces over several processes."""
    name = type(model).__name__
    if not is_sharded(model):
        return name
    computing = str(computing_dtype(model)).removeprefix("torch.")
    return f"{name.removeprefix('FSDP')}, sharded, computing in {computing}"


def size_text(count: int) -> str:
    """`950`, `12.3 K`, `135 M` or `1.7 B`: three digits of a number of parameters."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def chat_text(chat: Chat) -> str:
    """Whose template renders the messages, and who reads the calls."""
    template = "the tokenizer's own template" if chat.own_template else "sod's hermes template"
    return f"{template}, calls read as {chat.dialect.name}, turns end with {chat.end_text}"


def tool_text(tool: Tool) -> str:
    """A tool and what stands between its programs and this machine."""
    if isinstance(tool, UnreliableTool):
        return f"{tool_text(tool.tool)}, {tool.rate:.0%} of the calls fail on purpose"
    if not isinstance(tool, PythonTool):
        return tool.name
    state = ", keeps state" if tool.keeps_state else ""
    if isinstance(tool.sandbox, LocalSandbox):
        return f"{tool.name} in this machine's sandbox (isolation: {tool.sandbox.level}){state}"
    return f"{tool.name} at a SandboxFusion service{state}"


def optim_text(spec: OptimSpec) -> str:
    """The learning rate and its schedule."""
    return f"lr {spec.lr:g}, {spec.schedule}, warm-up {spec.warmup_steps}"


def _student_text(recipe: Recipe, model: Any) -> str:
    """As `model_text`, and how much of the model is trained where that is not all of it."""
    text, lora = model_text(recipe.student.path, model), recipe.student.lora
    if lora is None:
        return text
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{text}, {size_text(trained)} of them trained (LoRA of rank {lora.rank})"


def _teacher_text(recipe: Recipe, method: Method, teacher: Any) -> str:
    if method.needs & SELF_TEACHER:
        return "the student itself"
    texts = [_one_teacher(spec, teacher if key == "teacher" else None) for key, spec in recipe.teaching.items()]
    return "; ".join(texts) or "none"


def _one_teacher(spec: TeacherSpec, model: Any) -> str:
    """A teacher, what it teaches where there are several, and its weight where that is not 1."""
    text = spec.shown if model is None else model_text(spec.shown, model)
    text += "" if spec.sources is None else f" for {', '.join(spec.sources)}"
    return text if spec.weight == 1.0 else f"{text}, weight {spec.weight:g}"
