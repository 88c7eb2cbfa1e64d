"""The memory of a run before anything of it is loaded: what takes how much, on which device, in which phase.

It is that of the longest rows that the recipe allows and of as many of them as it allows at a time; a run whose
episodes end earlier takes less. Bytes throughout. The memory of Python, of PyTorch itself and of tools is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    fixed_cache_of,
    laps_of,
    on_cuda,
    plain_decoding_of,
    scoring_of,
    update_of,
    with_own_key_heads,
)
from sod.preflight.parts import PHASES, SAMPLING, SCORING, UPDATE, Estimate, Part
from sod.preflight.pieces import (
    ALONE,
    Spread,
    cut,
    is_stored,
    spread_of,
    student_in_pieces,
    update_in_pieces,
    with_exchange,
)
from sod.preflight.servers import server_sizes
from sod.recipe import ModelSpec, Notice, OptimSpec, Recipe
from sod.recipe.makers import refuse_unmade
from sod.records import SodError

# PyTorch computes bfloat16 on a CPU with oneDNN, which keeps up to a thousand compiled kernels and their memory. Two
# runs of different models took 500 and 532 MiB more than their tensors; one with 16 kernels at most, 246.
BFLOAT16_KERNELS = 512 * 2**20


def readable(recipe: Recipe, sft: bool, notice: Notice) -> Recipe:
    """The recipe with the directories of its models, as `sod train`, or `sod sft`, would find them.

    Raises SodError where they are not there.
    """
    method = make_method(recipe.method)
    needed = not sft and _teacher_needed(method)
    if needed and not recipe.teaching and not method.needs & SELF_TEACHER:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path or teacher.url")
    paths = {"student.path": recipe.student.path}
    if not needed or method.needs & SELF_TEACHER:
        recipe = recipe.without_teachers()
    refuse_unmade(paths | {f"{key}.path": spec.path for key, spec in recipe.local_teachers.items()})
    return located(recipe, notice)


def estimated(recipe: Recipe, sft: bool = False) -> Estimate:
    """What a run of a `readable` recipe takes: all its ranks on this machine, and the servers that it starts.

    Raises SodError naming a model that cannot be planned.
    """
    method, spread = make_method(recipe.method), spread_of(recipe)
    servers = [] if sft else [Part(*size) for size in server_sizes(recipe, method)]
    if spread.ranks == 1:
        return Estimate((*rank_parts(recipe, sft), *servers))
    first, other = rank_parts(recipe, sft, spread), rank_parts(recipe, sft, replace(spread, first=False))
    parts = [replace(part, name=f"rank 0: {part.name}") for part in first]
    return Estimate((*parts, *spread.others(other), *servers))


def rank_parts(recipe: Recipe, sft: bool, spread: Spread = ALONE) -> list[Part]:
    """What one process of the trainer takes. Raises as `estimated`."""
    method = make_method(recipe.method)
    if sft:
        parts = _supervised(recipe, recipe.sft.optim, recipe.sft.batch_size, spread)
    elif Need.DEMONSTRATIONS in method.needs:
        parts = _supervised(recipe, recipe.optim, recipe.rollout.prompts * recipe.rollout.samples, spread)
    else:
        parts = _distilled(recipe, method, spread)
    return [*parts, *_kernels(recipe)]


def _kernels(recipe: Recipe) -> list[Part]:
    """What PyTorch's libraries keep for themselves."""
    devices = devices_of(recipe)
    placed: list[tuple[ModelSpec, torch.device]] = [(recipe.student, devices.student)]
    placed += [(spec, devices.of(key)) for key, spec in recipe.local_teachers.items()]
    dtypes = {spec.dtype for spec, device in placed if device.type == CPU}
    return [Part("oneDNN's kernels for bfloat16", CPU, BFLOAT16_KERNELS)] if "bfloat16" in dtypes else []


def _supervised(recipe: Recipe, optim: OptimSpec, rows: int, spread: Spread) -> Sequence[Part]:
    student, device = _student(recipe, optim), str(devices_of(recipe).student)
    rows = spread.rows(rows)
    micros = [Micro.of(optim.micro_batch_tokens, recipe.sft.max_tokens, rows)]
    parts = _trained(student, device, spread, CPU)
    return [*parts, *_updated(student, device, micros, rows, optim.compile, spread)]


def _distilled(recipe: Recipe, method: Method, spread: Spread) -> list[Part]:
    rollout, student = recipe.rollout, _student(recipe, recipe.optim)
    device = str(devices_of(recipe).student)
    whole, longest = rollout.prompts * rollout.samples, rollout.max_prompt_tokens + rollout.max_response_tokens
    rows = spread.rows(whole)
    prompts = min(recipe.optim.mini_batch_prompts or rollout.prompts, rollout.prompts)
    of_update = spread.rows(prompts * rollout.samples)
    micros = Micro.played(
        recipe.optim.micro_batch_tokens,
        rollout.max_prompt_tokens,
        rollout.max_response_tokens,
        of_update,
        # On a CPU what rows begin with alike is run once (`sod.models.shared`); of episodes in a file nobody knows.
        prompts if device == CPU and not is_stored(recipe) else None,
    )
    teachers, crossing = _teachers(recipe, method), crossing_of(recipe, method)
    parts = _trained(student, device, spread, device)
    if recipe.engine.kind == "torch" and spread.first and not is_stored(recipe):
        parts += _students_playing(student, device, recipe, spread)
    for teacher, place in teachers:
        read = longest if crossing is None else crossing.tokens(longest)
        scored = Micro.of(recipe.optim.micro_batch_tokens, read, rows)
        shared = student.lora is not None and device == place and _one_model(student, teacher)
        shared = shared and spread.first  # the others have of the student's weights pieces alone
        parts += _teaching(teacher, place, method, cut(scored, spread), shared)
        if Need.TEACHER_EPISODES in method.needs and spread.first:
            parts += _playing("teacher", teacher, place, recipe)
    # Of several teachers, and of one that is served, the update reads their scores.
    alone = len(teachers) == 1 and len(recipe.teaching) <= 1
    pull = _pull(teachers[0][0], method, crossing) if alone else None
    return [*parts, *_updated(student, device, micros, of_update, recipe.optim.compile, spread, pull)]


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


def _teachers(recipe: Recipe, method: Method) -> list[tuple[Planned, str]]:
    """The teachers in this process, and where they are."""
    devices = devices_of(recipe)
    if method.needs & SELF_TEACHER:
        return [(Planned(recipe.student.whole), str(devices.teacher))]
    return [(Planned(spec), str(devices.of(key))) for key, spec in recipe.local_teachers.items()]


def _trained(student: Planned, device: str, spread: Spread, whole_on: str) -> list[Part]:
    """Weights and what the optimizer keeps of them, see `training.optim.Optimizer`; a whole copy is on `whole_on`."""
    if spread.ranks > 1:
        return student_in_pieces(student, device, spread, whole_on)
    counts = student.counts
    parts = [Part("student: weights", device, counts.all * student.size)]
    if student.size != FLOAT:
        parts.append(Part("student: float32 masters", device, counts.trained * FLOAT))
    return [*parts, Part("student: moments", device, 2 * counts.trained * FLOAT)]


def _updated(
    student: Planned,
    device: str,
    micros: Sequence[Micro],
    rows: int,
    compiling: bool | None,
    spread: Spread,
    pull: Pull | None = None,
) -> list[Part]:
    """Gradients and activations of the micro-batch that takes most; several of the update's `rows` add up their
    gradients. `compiling` is `optim.compile`.
    """
    found = [_of_micro(student, device, micro, rows > micro.rows, compiling, spread, pull) for micro in micros]
    return max(found, key=lambda parts: sum(part.bytes for part in parts))


def _of_micro(
    student: Planned,
    device: str,
    micro: Micro,
    several: bool,
    compiling: bool | None,
    spread: Spread,
    pull: Pull | None,
) -> list[Part]:
    counts, micro = student.counts, cut(micro, spread)
    # A bfloat16 gradient is made float32 matrix by matrix before it is added up.
    copied = 0 if student.size == FLOAT else counts.largest * FLOAT
    if spread.ranks == 1:
        sizes = update_of(student, micro, several, pull)
        gradients = counts.trained * FLOAT if several or student.size != FLOAT else 0
    else:
        laps = laps_of(student, micro, False, pull)
        if spread.sequence > 1:
            laps = with_exchange(laps, student, micro)
        sizes = update_in_pieces(laps, student, spread, several)
        gradients, copied = (counts.trained * FLOAT // spread.ranks if several else 0), 0
    if device != CPU:
        compiled = counts.all >= WORTH_IT if compiling is None else compiling
        sizes = on_cuda(with_own_key_heads(sizes, student, micro), student, compiled, pull)
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


def _students_playing(student: Planned, device: str, recipe: Recipe, spread: Spread) -> list[Part]:
    """What playing takes: in its phase, or all of the time where the student learns meanwhile."""
    parts = _playing("student", student, device, recipe)
    if not recipe.rollout.max_staleness:
        return parts
    own = student.counts.all if student.lora is None else student.counts.trained
    beside = [replace(part, phases=PHASES) for part in parts]
    if spread.ranks > 1:  # the whole copy plays
        return beside
    return [Part("student: weights that play", device, own * student.size), *beside]


def _playing(who: str, model: Planned, device: str, recipe: Recipe) -> list[Part]:
    rollout = recipe.rollout
    episodes = rollout.prompts * (rollout.samples if who == "student" else 1)
    columns = rollout.max_prompt_tokens + rollout.max_response_tokens
    rows = min(rollout.max_rows, episodes)
    if why_plain(model.config, columns) is not None:
        return _playing_plainly(who, model, device, recipe, episodes)
    if device != CPU:
        forward = cuda_forward(model, rows, rollout.max_prompt_tokens)
        share, waiting = shares_of_memory(torch.device(device), rollout.cache_share)
        cache = fixed_cache_of(model, rollout.max_rows, columns, share)
        return [
            Part(f"{who}: engine's cache (rollout.cache_share)", device, cache),
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
