"""Supervised fine-tuning on conversations: the cold start before distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sod.clock import Clock
from sod.models.lora import dropping
from sod.models.memory import naming_phase
from sod.models.ranks import ALONE, Ranks
from sod.models.score import action_logps
from sod.models.settle import settle_of
from sod.objective.batch import TokenBatch, supervised_batch
from sod.recipe import OptimSpec
from sod.tasks.base import draw
from sod.training.optim import Optimizer
from sod.training.report import StepReport


@final
@dataclass(frozen=True)
class Example:
    """One conversation as a ledger: turn id 0 is context, `weights[k - 1]` what turn k counts; none: all count 1."""

    token_ids: Sequence[int]
    turn_ids: Sequence[int]
    weights: Sequence[float] = ()


def sft_step(
    model: Any,
    optimizer: Optimizer,
    examples: Sequence[Example],
    batch_size: int,
    spec: OptimSpec,
    seed: int,
    step: int,
    ranks: Ranks = ALONE,
) -> StepReport:
    """One update by the weighted mean of the negative log-likelihood (nats/token) of the assistant's tokens.

    The denominator is the sum of the weights of all tokens of the batch, one for all its micro-batches: where every
    turn counts 1, the number of tokens. A weight says how much a turn counts beside the others of its batch.
    The examples of a step are a pure function of (seed, step). Each of the ranks takes the gradient of rows of its own;
    all call it. Raises NonFiniteError before a non-finite
    gradient could move a weight.
    """
    clock = Clock(settle=settle_of([model]))
    dropped = dropping(model, ranks.seed(seed), step)
    with clock.timed("step"), ranks.in_common(), dropped, naming_phase("the update"):
        chosen = [examples[i] for i in draw(batch_size, len(examples), seed, step)]
        batch = supervised_batch([(e.token_ids, e.turn_ids) for e in chosen], [e.weights for e in chosen])
        metrics = _updated(model, optimizer, batch, spec, step, ranks)
        tokens = float(batch.length_B.sum())
    seconds = clock.total
    return StepReport(step, metrics | {"tokens_per_second": tokens / seconds, "seconds": seconds})


def _updated(
    model: Any, optimizer: Optimizer, batch: TokenBatch, spec: OptimSpec, step: int, ranks: Ranks
) -> dict[str, float]:
    """Loss, gradient norm and learning rate."""
    total = float(weights_of(batch).double().sum())
    loss = 0.0
    for index in ranks.evened(batch.micro_indices(spec.micro_batch_tokens, ranks.rows(batch.length_B.tolist()))):
        # Where another rank has one more: forwards are common to all, and this one counts nothing.
        micro = batch.rows([batch.shortest] if index is None else index)
        part = -(action_logps(model, micro) * weights_of(micro)).sum() / total
        if index is None:
            part = 0.0 * part
        # The gradients of ranks are averaged, and ours are to be added up.
        (part if ranks.count == 1 else part * ranks.count).backward()
        optimizer.accumulate()
        loss += float(part.detach())
    if ranks.count > 1:
        loss = float(ranks.summed(torch.tensor(loss, dtype=torch.float64)))
    update = optimizer.step(step)
    return {"loss": loss, "grad_norm": update.grad_norm, "lr": update.lr}


def weights_of(batch: TokenBatch) -> Tensor:
    """The loss weight of each token. Float32, B x T, on the CPU. Raises ValueError for a batch without any."""
    if batch.loss_weight_BT is None:
        raise ValueError("the batch has no loss weights")
    return batch.loss_weight_BT
