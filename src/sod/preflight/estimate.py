"""The memory of a run before anything of it is loaded: what takes how much, on which device, in which phase.

It is that of the longest rows that the recipe allows and of as many of them as it allows at a time; a run whose
episodes end earlier takes less. Bytes throughout. The memory of Python, of PyTorch itself and of tools is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from sod.build.job import located
from sod.build.method import make_method
from sod.engines.choice import why_plain
from sod.engines.device_cache import shares_of_memory
from sod.engines.torch_engine import OFFLOAD_BYTES
from sod.models.adapters import base_source
from sod.models.compiled import WORTH_IT
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.preflight.crossing import Crossing, crossing_of
from sod.preflight.devices import CPU, devices_of
from sod.preflight.models import (
    FLOAT,
    Micro,
    Planned,
    Pull,
    cuda_forward,
    decoding_of,
    on_cuda,
    plain_decoding_of,
    scoring_of,
    update_of,
)
from sod.recipe import Notice, OptimSpec, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError

SAMPLING, SCORING, UPDATE = "sampling", "scoring by the teacher", "the update"
PHASES = (SAMPLING, SCORING, UPDATE)
# PyTorch computes bfloat16 on a CPU with oneDNN, which keeps up to a thousand compiled kernels and their memory. Two
# runs of different models took 500 and 532 MiB more than their tensors; one with 16 kernels at most, 246.
BFLOAT16_KERNELS = 512 * 2**20


@final
@dataclass(frozen=True)
class Part:
    """Something that takes memory on a device, in some phases of a step."""

    name: str
    device: str
    bytes: int
    phases: tuple[str, ...] = PHASES


@final
@dataclass(frozen=True)
class Peak:
    """The most that is taken on a device, and the phase in which it is."""

    device: str
    phase: str
    bytes: int


@final
@dataclass(frozen=True)
class Estimate:
    """All parts of a run."""

    parts: tuple[Part, ...]

    @property
    def devices(self) -> list[str]:
        """The devices that are used, the student's first."""
        return list(dict.fromkeys(part.device for part in self.parts))

    @property
    def phases(self) -> list[str]:
        """The phases that take anything of their own, in the order of a step."""
        own = {phase for part in self.parts if part.phases != PHASES for phase in part.phases}
        return [phase for phase in PHASES if phase in own]

    def taken(self, device: str, phase: str) -> int:
        """Bytes on a device in a phase."""
        return sum(part.bytes for part in self.parts if part.device == device and phase in part.phases)

    def peak(self, device: str) -> Peak:
        """When most is taken on a device, and how much."""
        phase = max(self.phases, key=lambda phase: self.taken(device, phase))
        return Peak(device, phase, self.taken(device, phase))


def readable(recipe: Recipe, sft: bool, notice: Notice) -> Recipe:
    """The recipe with the directories of its models, as `sod train`, or `sod sft`, would find them.

    Raises SodError where they are not there.
    """
    method = make_method(recipe.method)
    needed = not sft and _teacher_needed(method)
    if needed and recipe.teacher is None and not method.needs & SELF_TEACHER:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path")
    paths = {"student.path": recipe.student.path}
    if needed and recipe.teacher is not None and not method.needs & SELF_TEACHER:
        paths["teacher.path"] = recipe.teacher.path
    refuse_unmade(paths)
    return located(recipe if "teacher.path" in paths else recipe.model_copy(update={"teacher": None}), notice)


def estimated(recipe: Recipe, sft: bool = False) -> Estimate:
    """What a run of a `readable` recipe takes. Raises SodError naming a model that cannot be planned."""
    method = make_method(recipe.method)
    if sft:
        return Estimate((*_supervised(recipe, recipe.sft.optim, recipe.sft.batch_size), *_kernels(recipe)))
    if Need.DEMONSTRATIONS in method.needs:
        rows = recipe.rollout.prompts * recipe.rollout.samples
        return Estimate((*_supervised(recipe, recipe.optim, rows), *_kernels(recipe)))
    return Estimate((*_distilled(recipe, method), *_kernels(recipe)))


def _kernels(recipe: Recipe) -> list[Part]:
    """What PyTorch's libraries keep for themselves."""
    models = [recipe.student] if recipe.teacher is None else [recipe.student, recipe.teacher]
    dtypes = {spec.dtype for spec, device in zip(models, devices_of(recipe), strict=False) if device == CPU}
    return [Part("oneDNN's kernels for bfloat16", CPU, BFLOAT16_KERNELS)] if "bfloat16" in dtypes else []


def _supervised(recipe: Recipe, optim: OptimSpec, rows: int) -> Sequence[Part]:
    student, (device, _) = _student(recipe, optim), devices_of(recipe)
    micro = Micro.of(optim.micro_batch_tokens, recipe.sft.max_tokens, rows)
    return [*_trained(student, device), *_updated(student, device, micro, rows > micro.rows, optim.compile)]


def _distilled(recipe: Recipe, method: Method) -> list[Part]:
    rollout, student = recipe.rollout, _student(recipe, recipe.optim)
    device, teachers = devices_of(recipe)
    rows, longest = rollout.prompts * rollout.samples, rollout.max_prompt_tokens + rollout.max_response_tokens
    of_update = (recipe.optim.mini_batch_prompts or rollout.prompts) * rollout.samples
    micro = Micro.of(recipe.optim.micro_batch_tokens, longest, min(of_update, rows))
    teacher, crossing = _teacher(recipe, method), crossing_of(recipe, method)
    parts = [*_trained(student, device), *_playing("student", student, device, recipe)]
    if teacher is not None:
        read = longest if crossing is None else crossing.tokens(longest)
        scored = Micro.of(recipe.optim.micro_batch_tokens, read, rows)
        shared = student.lora is not None and device == teachers and _one_model(student, teacher)
        parts += _teaching(teacher, teachers, method, scored, shared)
        if Need.TEACHER_EPISODES in method.needs:
            parts += _playing("teacher", teacher, teachers, recipe)
    pull = None if teacher is None else _pull(teacher, method, crossing)
    return [*parts, *_updated(student, device, micro, of_update > micro.rows, recipe.optim.compile, pull)]


def _pull(teacher: Planned, method: Method, crossing: Crossing | None) -> Pull | None:
    """What the teacher's whole distributions do in an update; None where they are not asked for."""
    over_spans = crossing is not None and crossing.measure is not None
    if method.divergence is None and not over_spans:
        return None
    return Pull(teacher, method.divergence, crossing if over_spans else None)


def _student(recipe: Recipe, optim: OptimSpec) -> Planned:
    return Planned(recipe.student.whole, optim.recompute, recipe.student.lora)


def _teacher_needed(method: Method) -> bool:
    return Need.TEACHER in method.needs or bool(method.needs & SELF_TEACHER)


def _teacher(recipe: Recipe, method: Method) -> Planned | None:
    if method.needs & SELF_TEACHER:
        return Planned(recipe.student.whole)
    return None if recipe.teacher is None else Planned(recipe.teacher)


def _trained(student: Planned, device: str) -> list[Part]:
    """Weights and what the optimizer keeps of them, see `training.optim.Optimizer`."""
    counts = student.counts
    parts = [Part("student: weights", device, counts.all * student.size)]
    if student.size != FLOAT:
        parts.append(Part("student: float32 masters", device, counts.trained * FLOAT))
    return [*parts, Part("student: moments", device, 2 * counts.trained * FLOAT)]


def _updated(
    student: Planned,
    device: str,
    micro: Micro,
    several: bool,
    compiling: bool | None,
    pull: Pull | None = None,
) -> list[Part]:
    """Gradients and activations; `several` micro-batches add up their gradients. `compiling` is `optim.compile`."""
    counts = student.counts
    sizes = update_of(student, micro, several, pull)
    if device != CPU:
        compiled = counts.all >= WORTH_IT if compiling is None else compiling
        sizes = on_cuda(sizes, student, compiled, pull)
    gradients = counts.trained * FLOAT if several or student.size != FLOAT else 0
    # A bfloat16 gradient is made float32 matrix by matrix before it is added up.
    copied = 0 if student.size == FLOAT else counts.largest * FLOAT
    shape = f"{micro.rows} x {micro.length:,} tokens"
    parts = [
        Part("gradients", device, gradients, (UPDATE,)),
        Part(f"activations of {shape}", device, sizes.kept, (UPDATE,)),
        Part("backward pass and projection chunk", device, max(0, sizes.most - sizes.kept) + copied, (UPDATE,)),
    ]
    return [part for part in parts if part.bytes]


def _one_model(student: Planned, teacher: Planned) -> bool:
    """Whether a student with an adapter and its teacher are over the same weights in memory."""
    bases = {base_source(model.spec.path).path for model in (student, teacher)}
    return len(bases) == 1 and student.size == teacher.size


def _teaching(teacher: Planned, device: str, method: Method, micro: Micro, shared: bool) -> list[Part]:
    parts = [] if shared else [Part("teacher: weights", device, teacher.counts.all * teacher.size)]
    if not shared and method.teacher_rule.kind != "frozen":
        parts.append(Part("teacher: float32 average", device, teacher.counts.all * FLOAT))
    shape = f"{micro.rows} x {micro.length:,} tokens"
    scoring = scoring_of(teacher, micro, method.score_need)
    return [*parts, Part(f"teacher: activations of {shape}", device, scoring, (SCORING,))]


def _playing(who: str, model: Planned, device: str, recipe: Recipe) -> list[Part]:
    rollout = recipe.rollout
    episodes = rollout.prompts * (rollout.samples if who == "student" else 1)
    columns = rollout.max_prompt_tokens + rollout.max_response_tokens
    rows = min(rollout.max_rows, episodes)
    if why_plain(model.config, columns) is not None:
        return _playing_plainly(who, model, device, recipe, episodes)
    if device != CPU:
        forward = cuda_forward(model, rows, rollout.max_prompt_tokens)
        decode, waiting = shares_of_memory(torch.device(device), rollout.cache_share)
        return [
            Part(f"{who}: engine's cache (rollout.cache_share)", device, decode),
            Part(f"{who}: episodes set aside", device, waiting, (SAMPLING,)),
            Part(f"{who}: forwards of the engine", device, forward, (SAMPLING,)),
        ]
    decoding = decoding_of(model, rows, episodes, rollout.max_prompt_tokens, columns, OFFLOAD_BYTES)
    # Episodes are set aside when their rows have ended, by when the cache grows no more.
    name = f"{who}: engine's cache of {rows} x {columns:,} tokens"
    beside = max(decoding.growing, decoding.aside)
    return [
        Part(name, device, decoding.cache, (SAMPLING,)),
        Part(f"{who}: cache while it grows, episodes set aside", device, beside, (SAMPLING,)),
        Part(f"{who}: forwards of the engine", device, decoding.forward, (SAMPLING,)),
    ]


def _playing_plainly(who: str, model: Planned, device: str, recipe: Recipe, episodes: int) -> list[Part]:
    """What the plain engine takes; on CUDA its caches stay below their share of the device."""
    rollout = recipe.rollout
    columns = rollout.max_prompt_tokens + rollout.max_response_tokens
    rows = min(rollout.max_rows, episodes)
    share: int | None = None
    waiting = OFFLOAD_BYTES
    if device != CPU:
        share, waiting = shares_of_memory(torch.device(device), rollout.cache_share)
    decoding = plain_decoding_of(model, rows, episodes, rollout.max_prompt_tokens, columns, waiting)
    caches = decoding.cache + decoding.growing
    name = f"{who}: plain engine's caches of {rows} x {columns:,} tokens, twice while one grows"
    return [
        Part(name, device, caches if share is None else min(caches, share), (SAMPLING,)),
        Part(f"{who}: episodes set aside", device, decoding.aside, (SAMPLING,)),
        Part(f"{who}: forwards of the engine", device, decoding.forward, (SAMPLING,)),
    ]
