"""One training step. Read this first.

The student plays, the teacher scores what it sampled, the method turns both into an advantage per token,
and the clipped surrogate (with a dense divergence, where the method has one) moves the student. Everything before
the update is detached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sod.engines.base import Sampling
from sod.models.dense import dense_terms
from sod.models.meter import Cost, Meter
from sod.models.score import action_logps, score
from sod.objective.aggregation import loss_weights
from sod.objective.batch import TokenBatch, aligned, pack, with_prompts
from sod.objective.divergence import divergence
from sod.objective.methods import Method, advantage, distillation_loss, surrogate
from sod.objective.surrogate import SurrogateTerms
from sod.recipe import Recipe
from sod.records import SodError, Task
from sod.rollout.collect import Collected, Collector
from sod.rollout.prefix import prefix_of
from sod.tasks.base import draw_tasks
from sod.teachers.base import LocalModel
from sod.training.optim import NonFiniteError, Optimizer
from sod.training.report import StepReport, describe

TRAIN_INFERENCE_GAP_LIMIT = 1e-3  # nats/token in float32; rounding makes about 1e-6
PrivilegedPrompt = Callable[[Task], Sequence[int]]
"""Token ids of the prompt that the teacher reads instead of the student's."""
OPTIMIZER_PASSES = 7  # over float32: AdamW reads weight, gradient and two moments, writes all but the gradient


@dataclass
class Run:
    """The live objects of a training run; `sod.build` makes it from a recipe.

    `privileged` is set where the teacher reads another prompt than the student; `expert` plays the teacher's episodes
    where the student takes over from it. `tools` are the schemas that the model is shown, for the record.
    """

    recipe: Recipe
    tasks: Sequence[Task]
    student: Any
    teacher: LocalModel | None
    rollout: Collector
    method: Method
    optimizer: Optimizer
    dumps: Path
    clock: dict[str, float] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    privileged: PrivilegedPrompt | None = None
    expert: Collector | None = None
    tools: Sequence[Mapping[str, Any]] | None = None

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to `clock[phase]`."""
        began = time.perf_counter()
        yield
        self.clock[phase] = self.clock.get(phase, 0.0) + time.perf_counter() - began


def train_step(run: Run, step: int) -> StepReport:
    """Step `step` (from 1): rollout, scores, advantage, update. A pure function of weights, seed and step.

    Raises SodError when every episode faulted, and NonFiniteError (with the batch dumped) before a
    non-finite gradient could move a weight.
    """
    run.clock = {}
    began = time.perf_counter()
    recipe = run.recipe
    tasks = draw_tasks(run.tasks, recipe.rollout.prompts, recipe.seed, step)
    collected = play(run, tasks, step)
    run.clock.update(collected.seconds)
    run.meter.add("tools", collected.seconds["tools"])
    if not collected.trajectories:
        raise SodError(f"step {step}: every episode faulted; nothing to train on")
    # What came before a fault is good for the teacher's signal alone.
    batch = pack(collected.groups, recipe.rollout.distill_before_fault and run.method.needs_teacher)
    with run.timed("old"):
        batch = batch.filled(old_BT=old_logps(run, batch))
    prompts = [run.privileged(task) for task in tasks] if run.privileged is not None else None
    if run.teacher is not None:
        with run.timed("teacher"):
            batch = taught(run.teacher, run.method, batch, prompts)
    try:
        signal = advantage(run.method, batch, step)
    except ValueError as error:  # a log-probability that is not finite
        raise dump(run, batch, step, NonFiniteError(f"step {step}: {error}")) from None
    batch = batch.filled(advantage_BT=signal.advantage_BT, distil_BT=signal.distil_BT)
    with run.timed("update"):
        updates = update(run, batch, step, prompts)
    run.rollout.engine.sync(run.student)
    if run.teacher is not None and (fraction := run.method.teacher_rule.pull(step)):
        run.teacher.follow(run.student, fraction)
    updates |= {"kappa": run.method.kappa(step), "rho": run.method.rho(step)}
    seconds = time.perf_counter() - began
    return describe(step, collected, batch, signal, updates, run.clock, seconds, tasks, run.tools)


def play(run: Run, tasks: Sequence[Task], step: int) -> Collected:
    """The step's episodes: whole ones, or what the method's curriculum leaves to the student."""
    samples, sampling = run.recipe.rollout.samples, sampling_of(run.recipe)
    plan = run.method.curriculum
    if plan is None:
        return run.rollout.collect(tasks, samples, sampling, "train", step)
    if plan.kind == "f2b":
        return run.rollout.collect(tasks, samples, sampling, "train", step, max_turns=plan.turns(step))
    if run.expert is None:
        raise ValueError(f"method {run.method.name} needs the teacher's episodes")
    with run.timed("expert"):
        shown = run.expert.collect(tasks, 1, sampling, "expert", step)
    # An episode of the teacher's that faulted shows nothing: the student starts from the prompt.
    prefixes = [
        prefix_of(group.trajectories[0], max(0, len(group.trajectories[0].turns) - plan.turns(step)))
        if group.trajectories
        else prefix_of(group.faulted[0], 0)
        for group in shown.groups
    ]
    return run.rollout.collect(tasks, samples, sampling, "train", step, max_turns=plan.turns(step), prefixes=prefixes)


def taught(
    teacher: LocalModel, method: Method, batch: TokenBatch, prompts: Sequence[Sequence[int]] | None
) -> TokenBatch:
    """The batch with the teacher's log-probabilities, and its confidence where the method needs it.

    `prompts`, one per task, are what the teacher reads instead of the student's.
    """
    view = batch if prompts is None else with_prompts(batch, prompts)
    if not method.needs_confidence:
        return batch.filled(teacher_BT=aligned(teacher.score(view), view, batch))
    logp_BT, confidence_BT = teacher.score_with_confidence(view)
    return batch.filled(teacher_BT=aligned(logp_BT, view, batch), confidence_BT=aligned(confidence_BT, view, batch))


def old_logps(run: Run, batch: TokenBatch) -> Tensor:
    """Log-probabilities of the batch under the weights that sampled it. Shape B x T.

    The engine's own where those are the trainer's up to float32 rounding: the same weights in float32, and nothing
    truncated. `update` checks them against its first forward. Else by a forward of the trainer's.
    """
    rollout = run.recipe.rollout
    if run.student.dtype == torch.float32 and rollout.top_p == 1.0 and rollout.top_k == 0:
        return batch.sampled_BT
    with run.meter.phase("old", int(batch.length_B.sum()), Cost.of(run.student).scoring(batch)):
        return score(run.student, batch, run.recipe.optim.micro_batch_tokens, rollout.temperature)


def update(run: Run, batch: TokenBatch, step: int, prompts: Sequence[Sequence[int]] | None = None) -> dict[str, float]:
    """The optimizer steps of one batch: whole groups per mini-batch, one denominator for each.

    `train_inference_gap` is the mean distance (nats/token) between the engine's log-probabilities and the trainer's,
    over the first mini-batch. Raises SodError before any weight moves where both are float32 and still differ.
    """
    optim = run.recipe.optim
    sums = {"loss": 0.0, "clip_fraction": 0.0, "kl": 0.0, "grad_norm": 0.0, "lr": 0.0}
    cost = Cost.of(run.student)
    minis = batch.minibatches(optim.mini_batch_prompts or len(batch))
    train_inference_gap = 0.0
    for number, mini in enumerate(minis):
        mini = mini.filled(loss_weight_BT=loss_weights(mini.turn_BT, run.method.loss_aggregation))
        total = mini.action_tokens()
        for micro in mini.split(optim.micro_batch_tokens):
            tokens = int(micro.length_B.sum())
            with run.meter.phase("forward", tokens, cost.scoring(micro), cost.bytes):
                logp_BT, loss, terms = objective(run, micro, prompts)
            with run.meter.phase("backward", tokens, cost.backward(micro, optim.recompute), 2 * cost.bytes):
                loss.backward()
                run.optimizer.accumulate()
            sums["loss"] += float(loss.detach())
            sums["clip_fraction"] += terms.clipped
            sums["kl"] += terms.kl
            if number == 0:
                train_inference_gap += (
                    float((logp_BT.detach() - micro.sampled_BT)[micro.turn_BT > 0].abs().sum()) / total
                )
        if number == 0 and batch.old_BT is batch.sampled_BT and train_inference_gap > TRAIN_INFERENCE_GAP_LIMIT:
            raise SodError(
                f"step {step}: the engine's log-probabilities are {train_inference_gap:.1e} nats/token from the "
                "trainer's; with float32 weights they should be equal"
            )
        try:
            with run.meter.phase("optimizer", moved=OPTIMIZER_PASSES * 4 * cost.weights):
                done = run.optimizer.step(step)
        except NonFiniteError as error:
            raise dump(run, mini, step, error) from None
        sums["grad_norm"] += done.grad_norm
        sums["lr"] += done.lr
    means = {key: value / len(minis) for key, value in sums.items()}
    return means | {"updates": float(len(minis)), "train_inference_gap": train_inference_gap}


def objective(
    run: Run, micro: TokenBatch, prompts: Sequence[Sequence[int]] | None
) -> tuple[Tensor, Tensor, SurrogateTerms]:
    """`(log-probabilities, loss, surrogate terms)` of a micro-batch under the weights as they stand. Differentiable."""
    temperature, dense = run.recipe.rollout.temperature, run.method.divergence
    if dense is None or run.teacher is None:
        logp_BT = action_logps(run.student, micro, temperature)
        terms = surrogate(run.method, logp_BT, micro)
        return logp_BT, terms.loss, terms
    view = micro if prompts is None else with_prompts(micro, prompts)
    measure = partial(divergence, spec=dense, temperature=temperature)
    logp_BT, divergence_BT = dense_terms(run.student, run.teacher.model, micro, view, measure, temperature)
    terms = surrogate(run.method, logp_BT, micro)
    return logp_BT, terms.loss + distillation_loss(divergence_BT, micro), terms


def dump(run: Run, batch: TokenBatch, step: int, error: NonFiniteError) -> NonFiniteError:
    """Keep the offending batch on disk and say where."""
    run.dumps.mkdir(parents=True, exist_ok=True)
    path = run.dumps / f"step-{step:06d}.pt"
    torch.save({name: getattr(batch, name) for name in batch.__dataclass_fields__}, path)
    return NonFiniteError(f"{error}; the batch is in {path}")


def sampling_of(recipe: Recipe) -> Sampling:
    """The distribution that training episodes are sampled from."""
    rollout = recipe.rollout
    return Sampling(rollout.temperature, rollout.top_p, rollout.top_k)
