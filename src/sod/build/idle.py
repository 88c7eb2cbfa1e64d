"""Settings that do nothing: keys that a recipe sets and that its run, with its method, never reads.

A recipe is shared by several commands. A section or file of another command (`sft`, `world`, `compare`, the files of
`data`) is no mistake, and what says how episodes are played and judged also holds for `sod eval` of the run. What is
listed here would have no effect in any of them. Methods are asked what they need, never what they are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from sod.build.method import make_method
from sod.chat.render import Chat
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import knobs
from sod.recipe import CoefficientSpec, MethodSpec, Notice, Recipe, validated
from sod.recipe.describe import shown_default
from sod.records import SodError
from sod.tasks.sources import ignores_split, names_of

CLIPS = ("clip_low", "clip_high", "dual_clip")
"""Keys of `method` that bound the policy ratio."""
OF_EPISODES = ("temperature", "top_p", "top_k", "max_staleness", "importance")
"""Keys of `rollout` that training episodes alone have: evaluations sample as `evaluation` says."""


@final
@dataclass(frozen=True)
class Idle:
    """A dotted key that is set and does nothing: why, and what to do about it.

    It is only told where the same recipe is meant to go on with another value of one other key, without more to change.
    `shown` is its value where that is not the recipe's own.
    """

    key: str
    why: str
    fix: str = "leave it out"
    told: bool = False
    shown: str | None = None


def idle_keys(recipe: Recipe, method: Method) -> list[Idle]:
    """Everything that a recipe sets in vain for `sod train` with its method."""
    return [*idle_for(recipe, method), *idle_anywhere(recipe)]


def idle_for(recipe: Recipe, method: Method) -> list[Idle]:
    """What does nothing with this method, and may with another."""
    found = [*_teacher(recipe, method), *_updates(recipe, method)]
    if Need.DEMONSTRATIONS in method.needs:
        found += _played(recipe, method)
    elif Need.TEACHER not in method.needs:
        found += _set(recipe, "rollout.distill_before_fault", f"{method.name} has no teacher whose signal that is")
    return found


def idle_anywhere(recipe: Recipe) -> list[Idle]:
    """What does nothing because of another key, whatever the method needs."""
    found = [
        *_knobs(recipe.method),
        *_divergence(recipe),
        *_alignment(recipe),
        *_verifiers(recipe),
        *_service(recipe),
        *_engine(recipe),
        *_split(recipe),
    ]
    found += [*_silenced(recipe.method), *_curriculum(recipe), *_evaluations(recipe)]
    found += [*_environment(recipe), *_launch(recipe), *_beside(recipe), *_stored(recipe)]
    if recipe.rollout.max_fault_rate >= 1:
        found += _set(recipe, "rollout.fault_window", "rollout.max_fault_rate=1 never stops a run")
    return found


def idle_in_sft(recipe: Recipe) -> list[Idle]:
    """What does nothing in `sod sft`."""
    return [*_set(recipe, "sft.optim.mini_batch_prompts", "sft.batch_size makes one update"), *_split(recipe)]


def idle_in_all(recipe: Recipe, specs: Sequence[MethodSpec]) -> list[Idle]:
    """What a recipe that many methods share sets in vain with every one of them, or with any whatever it needs.

    A teacher is not: what they share has one. Raises SodError as `make_method`.
    """
    anywhere: dict[str, Idle] = {}
    by_method: list[dict[str, Idle]] = []
    for spec in specs:
        own = recipe.without_teachers().model_copy(update={"method": spec})
        by_method.append({idle.key: idle for idle in idle_for(own, make_method(spec))})
        anywhere |= {idle.key: idle for idle in idle_anywhere(own)}
    first = by_method[0] if by_method else {}
    in_all = [idle for key, idle in first.items() if all(key in others for others in by_method)]
    return [*in_all, *anywhere.values()]


def refuse_idle(found: Sequence[Idle], recipe: Recipe, resume: bool, notice: Notice) -> None:
    """Raises SodError where there is anything idle, in one line with key, reason and what to do.

    A resumed run keeps the recipe that it was started with, so that one is only told.
    """
    lines = {idle: f"{_shown(recipe, idle)} does nothing here: {idle.why}; {idle.fix}" for idle in found}
    refused = [line for idle, line in lines.items() if not (idle.told or resume)]
    if refused:
        raise SodError("; ".join(refused))
    for line in lines.values():
        notice(line)


def without_idle(recipe: Recipe, method: Method) -> Recipe:
    """The recipe with all that does nothing with this method at its default: for recipes that many methods share."""
    for idle in idle_for(recipe, method):
        recipe = _reset(recipe, idle.key.split("."))
    return recipe


def refuse_unread(recipe: Recipe, chat: Chat, resume: bool, notice: Notice) -> None:
    """Raises SodError for keys of `chat.template_kwargs` that the chat template lacks; a resumed run is only told."""
    template = str(chat.tokenizer.chat_template if chat.template is None else chat.template)
    unread = [f"chat.template_kwargs.{name}" for name in recipe.chat.template_kwargs if not occurs(name, template)]
    if not unread:
        return
    text = f"{', '.join(unread)}: the chat template reads no such argument; correct its name, or leave it out"
    if not resume:
        raise SodError(text)
    notice(text)


def occurs(name: str, template: str) -> bool:
    """Whether a chat template's source has the name in it."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _teacher(recipe: Recipe, method: Method) -> Iterator[Idle]:
    if method.needs & SELF_TEACHER or Need.TEACHER not in method.needs:
        yield from _set(recipe, "launch.teacher", f"{method.name} has no other teacher")
    for key in ("teacher", "teachers"):
        fix = "set teacher=null" if key == "teacher" else "leave it out"
        if method.needs & SELF_TEACHER:
            yield from _set(recipe, key, f"{method.name}'s teacher is the student itself", fix)
        elif Need.TEACHER not in method.needs:
            yield from _set(recipe, key, f"{method.name} has no teacher", fix)


def _updates(recipe: Recipe, method: Method) -> Iterator[Idle]:
    """How a step's batch is cut, and the clip range, which needs an update that is not the step's first."""
    prompts, groups = recipe.rollout.prompts, recipe.optim.mini_batch_prompts
    mini = "optim.mini_batch_prompts"
    if Need.DEMONSTRATIONS in method.needs:
        yield from _set(recipe, mini, f"{method.name} makes one update a step")
    elif groups is not None and groups > prompts:
        yield from _set(recipe, mini, f"a step has {prompts} groups (rollout.prompts)", "leave it out, or take fewer")
    if Need.DEMONSTRATIONS not in method.needs and method.dense and method.rho.never:
        yield from _set(recipe, "rollout.importance", "a dense divergence is not of the token that was sampled")
    for clip in CLIPS:
        key = f"method.{clip}"
        if Need.DEMONSTRATIONS in method.needs:
            yield from _set(recipe, key, f"{method.name} has no policy ratio")
        elif method.dense and method.rho.never:
            yield from _set(recipe, key, "a dense divergence has no policy ratio, and there is no reward's term")
        elif groups is None or groups >= prompts:
            why = "a step makes one update, at which the policy ratio is 1"
            yield from _set(recipe, key, why, f"set {mini} below rollout.prompts, or leave it out")


def _beside(recipe: Recipe) -> Iterator[Idle]:
    """What is about episodes that are played while the student learns, where none are."""
    if recipe.train.checkpoint_every == 1:
        why = "the step after a checkpoint is played when it is its turn, and there is one after every step"
        yield from _set(recipe, "rollout.max_staleness", why, "raise train.checkpoint_every")
    if recipe.rollout.importance == "off" and not recipe.rollout.max_staleness:
        yield from _set(recipe, "rollout.importance", "nothing is weighted without rollout.max_staleness=1")


def _stored(recipe: Recipe) -> Iterator[Idle]:
    """What is about playing, where the episodes are those of a file."""
    if recipe.teacher is None or recipe.teacher.scores is None:
        return
    why = "the episodes of teacher.scores are played already"
    yield from _set(recipe, "rollout.max_staleness", why)
    if recipe.engine.kind != "torch" and not recipe.train.evaluate_every:
        yield Idle("engine", why, shown=f"{{kind: {recipe.engine.kind}}}")


def _played(recipe: Recipe, method: Method) -> Iterator[Idle]:
    """What is about episodes and their scores, in a method that has none."""
    why = f"{method.name} plays no episodes"
    for key in ("evaluate_every", "trajectories_every"):
        yield from _set(recipe, f"train.{key}", why, "leave it out, and evaluate the run with `sod eval`")
    yield from _set(recipe, "train.profile", f"{method.name} has no phases to measure")
    for key in (*OF_EPISODES, "distill_before_fault"):
        yield from _set(recipe, f"rollout.{key}", why)
    if recipe.engine.kind != "torch":
        yield Idle("engine", why, shown=f"{{kind: {recipe.engine.kind}}}")


def _knobs(spec: MethodSpec) -> Iterator[Idle]:
    declared = knobs(spec.name)
    values = {name: knob.default for name, knob in declared.items()} | dict(spec.knobs)
    for name, given in spec.knobs.items():
        why = declared[name].declared.idle(values)
        if why is not None and given != declared[name].default:
            yield Idle(f"method.{name}", why)
        if isinstance(given, Mapping):
            yield from _way(f"method.{name}", given)


def _silenced(spec: MethodSpec) -> list[Idle]:
    """The factors that are 0, where nothing is left that could change a weight."""
    if not make_method(spec).silent:
        return []
    why = f"nothing is left for {spec.name} to learn from, and no weight would ever change"
    factors = [knob for knob, given in spec.knobs.items() if given == 0 or isinstance(given, Mapping)]
    return [Idle(f"method.{knob}", why, "take another value") for knob in factors]


def _curriculum(recipe: Recipe) -> Iterator[Idle]:
    """A student that plays every turn from the first step on, or never a turn more than in the first step."""
    method, steps, turns = make_method(recipe.method), recipe.train.steps, recipe.rollout.max_turns
    first, last = method.episodes.student_turns(1), method.episodes.student_turns(steps)
    given = [f"method.{knob}" for knob in ("start", "every") if knob in recipe.method.knobs]
    if first is not None and first >= turns:
        why = f"the student plays all turns of an episode (rollout.max_turns={turns}) from the first step on"
        if given:
            yield Idle(given[0], why, "take a smaller start or more steps a turn, or raise rollout.max_turns")
        else:
            fix = "raise rollout.max_turns, or take a method without a curriculum"
            yield Idle("method.name", f"{method.name} is a curriculum of turns, and {why}", fix, shown=method.name)
    elif first is not None and first == last and "method.every" in given:
        yield Idle("method.every", f"train.steps={steps} ends before the student plays a turn more", told=True)


def _evaluations(recipe: Recipe) -> Iterator[Idle]:
    """Evaluations that are rarer than once a run; its end is evaluated in any case."""
    steps = recipe.train.steps
    supervised = Need.DEMONSTRATIONS in make_method(recipe.method).needs
    if recipe.train.evaluate_every > steps and not supervised:
        why = f"train.steps={steps} comes before that, and the last step is always evaluated"
        yield Idle("train.evaluate_every", why, f"take {steps} or less, or 0 for no evaluation", told=True)


def _way(key: str, given: Mapping[str, Any]) -> Iterator[Idle]:
    """What a schedule says of a way that it does not go."""
    way = validated(CoefficientSpec, given, key)
    plain = f"write {key}={way.start:g}"
    if way.schedule == "constant":
        if way.end != way.start:
            yield Idle(f"{key}.end", "a constant keeps its start", plain)
        if way.steps is not None:
            yield Idle(f"{key}.steps", "a constant keeps its start", plain)
    elif way.start == way.end:
        yield Idle(f"{key}.steps", f"the way from {way.start:g} to {way.end:g} has no length", plain)


def _divergence(recipe: Recipe) -> Iterator[Idle]:
    dense = recipe.method.divergence
    if dense is None:
        return
    if dense.kind != "jsd":
        why = f"only the jsd mixes teacher and student, method.divergence.kind is {dense.kind}"
        yield from _set(recipe, "method.divergence.beta", why)
    if dense.top_k == 0:
        why = "method.divergence.top_k=0 takes the full vocabulary"
        yield from _set(recipe, "method.divergence.chosen_by", why, "set method.divergence.top_k, or leave it out")


def _alignment(recipe: Recipe) -> Iterator[Idle]:
    """Settings of another estimator than the one that is taken."""
    spec = recipe.method.alignment
    if spec is None:
        return
    of_kinds = {"top_k": "strict_topk", "beta": "gold", "matched": "gold", "unit_score": "simct"}
    for key, kind in of_kinds.items():
        if spec.kind != kind:
            named = "not named" if spec.kind is None else spec.kind
            why = f"only {kind} reads it, method.alignment.kind is {named}"
            fix = f"set method.alignment.kind={kind}" if spec.kind is None else "leave it out"
            yield from _set(recipe, f"method.alignment.{key}", why, fix)


def _verifiers(recipe: Recipe) -> Iterator[Idle]:
    # Rows with tests go to the code verifier and rows with choices to that of choices, whatever is named here.
    of_verifiers = {"math": ("math_seconds", "workers")}
    used = {str(name) for name in recipe.reward.verifiers}
    if not used:
        for key in ("correct", "wrong", "tool_bonus", "answer", "truths", "code_check"):
            why = "reward.verifier=null: own functions alone judge"
            yield from _set(recipe, f"reward.{key}", why, "leave it out, or name a reward.verifier beside them")
    if recipe.reward.verifier is not None:
        why = f"the {recipe.reward.verifier} verifier says what is right"
        yield from _set(recipe, "reward.call_right", why, "leave it out, or set reward.verifier=null")
    if not recipe.reward.call:
        for key in ("call_seconds", "call_workers"):
            yield from _set(
                recipe, f"reward.{key}", "there is no own reward function", "leave it out, or set reward.call"
            )
    if used == {"code"}:
        for key in ("answer", "truths"):
            yield from _set(recipe, f"reward.{key}", "the code verifier runs tests", "leave it out")
    for verifier, keys in of_verifiers.items():
        if verifier not in used:
            for key in keys:
                why = f"no answer goes to the {verifier} verifier"
                yield from _set(recipe, f"reward.{key}", why, "leave it out, or see reward.verifier")


def _environment(recipe: Recipe) -> Iterator[Idle]:
    """What an environment decides by itself."""
    world = recipe.environment
    if world is None:
        return
    yield from _set(recipe, "data.overlong_prompts", "an environment's prompts are known as its episodes begin")
    if recipe.data.train is not None:
        yield from _set(recipe, "environment.tasks", "data.train has the tasks")
    if world.verified:
        yield from _set(recipe, "environment.success", "environment.verified has reward.verifier decide what is right")
        return
    keys = ["correct", "wrong", "by_source", "answer", "truths", "tool_bonus"]
    if recipe.reward.verifier is not None:  # own functions beside an environment leave verifiers out by themselves
        keys.append("verifier")
    for key in keys:
        why = "the environment decides what is right, not a verifier"
        yield from _set(recipe, f"reward.{key}", why, "leave it out, or set environment.verified=true")


def _service(recipe: Recipe) -> Iterator[Idle]:
    python = recipe.tools.python
    if python is None or python.fusion is None:
        return
    for key in ("processes", "workers", "preload", "unsafe"):
        why = "it is about this machine's sandbox, and tools.python.fusion runs the programs"
        for idle in _set(recipe, f"tools.python.{key}", why):
            yield replace(idle, told=True)


def _launch(recipe: Recipe) -> Iterator[Idle]:
    """Keys about servers that the run does not start."""
    engine = recipe.engine
    starts_students = engine.kind == "vllm" and engine.urls is None
    starts_teacher = recipe.launch.teacher is not None
    if not starts_students:
        why = "this process samples (engine.kind=torch)" if engine.kind == "torch" else "engine.urls names the servers"
        yield from _set(recipe, "launch.student", why)
    if not starts_students and not starts_teacher:
        for key in ("launch.start_seconds", "launch.restarts"):
            yield from _set(recipe, key, "the run starts no server")
    served = recipe.launched_teacher
    spec = recipe.teaching.get(served or "")
    if served is not None and (spec is None or spec.path is None):
        yield from _set(recipe, "launch.teacher", f"it serves {served}.path, which is not set")
    elif served is not None:
        yield from _set(recipe, f"{served}.device", "launch.teacher serves it", "set launch.teacher.gpus")


def _engine(recipe: Recipe) -> Iterator[Idle]:
    """What is about servers where there are none, and about this process where servers sample."""
    engine = recipe.engine
    if engine.kind == "torch":
        for key in type(engine).model_fields:
            if key == "environment" and recipe.launch.teacher is not None:
                continue
            yield from _set(
                recipe, f"engine.{key}", "engine.kind=torch samples in this process", "set engine.kind=vllm"
            )
        return
    for key in ("cache_share", "decode_chunk"):
        yield from _set(recipe, f"rollout.{key}", "engine.kind=vllm: servers decode, as engine.options says")
    if engine.urls is not None:
        for key in ("servers", "environment", "options"):
            yield from _set(recipe, f"engine.{key}", "the servers of engine.urls run already")
    if engine.push != "file":
        yield from _set(recipe, "engine.push_dir", f"engine.push={engine.push} writes no file")


def _split(recipe: Recipe) -> Iterator[Idle]:
    sources: list[str] = []
    for named in (recipe.data.train, recipe.data.validation_tasks, recipe.data.sft):
        sources += [] if named is None else names_of(named)
    if sources and all(map(ignores_split, sources)):
        yield from _set(recipe, "data.split", "all data are files, and files have no splits")


def _set(recipe: Recipe, key: str, why: str, fix: str = "leave it out") -> list[Idle]:
    """`Idle` for a key that the recipe has at another value than its default; else nothing."""
    *above, last = key.split(".")
    section: Any = recipe
    for name in above:
        section = getattr(section, name)
    default = type(section).model_fields[last].get_default(call_default_factory=True)
    return [] if getattr(section, last) == default else [Idle(key, why, fix)]


def _shown(recipe: Recipe, idle: Idle) -> str:
    """`key=value`; a section, which is a model, by its path."""
    key = idle.key
    if idle.shown is not None:
        return f"{key}={idle.shown}"
    if key == "teacher" and recipe.teacher is not None:
        kind = recipe.teacher.kind
        return f"teacher.{kind}={getattr(recipe.teacher, kind)}"
    if key == "teachers":
        return f"teachers={', '.join(recipe.teachers.by_name)}"
    value: Any = recipe.model_dump()
    for name in key.split("."):
        value = value[name]
    return f"{key}={shown_default(value)}"


def _reset(section: Any, parts: Sequence[str]) -> Any:
    """The section with the key at its default."""
    name, *below = parts
    if below:
        return section.model_copy(update={name: _reset(getattr(section, name), below)})
    default = type(section).model_fields[name].get_default(call_default_factory=True)
    return section.model_copy(update={name: default})
