"""Supervised fine-tuning on conversations: the cold start before distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sod.clock import Clock
from sod.models.lora import dropping
from sod.models.memory import naming_phase
from sod.models.score import action_logps
from sod.models.settle import settle_of
from sod.objective.batch import supervised_batch
from sod.recipe import OptimSpec
from sod.tasks.base import draw
from sod.training.optim import Optimizer
from sod.training.report import StepReport

Ledger = tuple[Sequence[int], Sequence[int]]
"""`(token_ids, turn_ids)` of one example; turn id 0 is context."""


def sft_step(
    model: Any, optimizer: Optimizer, examples: Sequence[Ledger], batch_size: int, spec: OptimSpec, seed: int, step: int
) -> StepReport:
    """One update by the mean negative log-likelihood (nats/token) of the assistant's tokens.

    The examples of a step are a pure function of (seed, step). Raises NonFiniteError before a non-finite
    gradient could move a weight.
    """
    clock = Clock(settle=settle_of([model]))
    with clock.timed("step"), dropping(model, seed, step), naming_phase("the update"):
        metrics, tokens = _updated(model, optimizer, examples, batch_size, spec, seed, step)
    seconds = clock.total
    return StepReport(step, metrics | {"tokens_per_second": tokens / seconds, "seconds": seconds})


def _updated(
    model: Any, optimizer: Optimizer, examples: Sequence[Ledger], batch_size: int, spec: OptimSpec, seed: int, step: int
) -> tuple[dict[str, float], float]:
    """Loss, gradient norm and learning rate, and the tokens of the batch."""
    batch = supervised_batch([examples[i] for i in draw(batch_size, len(examples), seed, step)])
    total = batch.action_tokens()
    loss = 0.0
    for micro in batch.split(spec.micro_batch_tokens):
        part = -action_logps(model, micro).sum() / total
        part.backward()
        optimizer.accumulate()
        loss += float(part.detach())
    update = optimizer.step(step)
    return {"loss": loss, "grad_norm": update.grad_norm, "lr": update.lr}, float(batch.length_B.sum())
