"""From a batch that knows its targets to new weights: mini-batches, micro-batches, one denominator, one check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sod.models.dense import choice_terms, dense_terms
from sod.models.ranks import ALONE, Ranks
from sod.models.score import action_logps
from sod.objective.aggregation import loss_weights
from sod.objective.batch import TokenBatch
from sod.objective.divergence import divergence, divergence_from_choices
from sod.objective.importance import ImportanceLevel
from sod.objective.methods import Method, Signal, advantage, distillation_loss, surrogate
from sod.objective.surrogate import SurrogateTerms
from sod.recipe import OptimSpec
from sod.records import SodError
from sod.teachers.base import LocalModel
from sod.training.measured import StepMeter
from sod.training.optim import NonFiniteError, Optimizer, Update
from sod.training.spans import SpanMeasure, span_terms

TRAIN_INFERENCE_GAP_LIMIT = 1e-3  # nats/token in float32; rounding makes about 1e-6


@final
@dataclass
class Figures:
    """Sums over the updates of a step; `means` are what is reported."""

    loss: float = 0.0
    clip_fraction: float = 0.0
    dual_clip_fraction: float = 0.0
    kl: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0

    def add(self, terms: MicroTerms) -> None:
        """Count a micro-batch."""
        self.loss += terms.loss
        self.clip_fraction += terms.clip_fraction
        self.dual_clip_fraction += terms.dual_clip_fraction
        self.kl += terms.kl

    def add_update(self, done: Update) -> None:
        """Count an optimizer step."""
        self.grad_norm += done.grad_norm
        self.lr += done.lr

    def means(self, updates: int, ranks: Ranks) -> dict[str, float]:
        """Per update, of the micro-batches of all ranks."""
        sums = {known.name: getattr(self, known.name) for known in fields(self)}
        if ranks.count > 1:
            parts = [name for name in sums if name not in ("grad_norm", "lr")]  # which every rank knows whole
            whole = ranks.summed(torch.tensor([sums[name] for name in parts], dtype=torch.float64))
            sums |= dict(zip(parts, whole.tolist(), strict=True))
        return {name: value / updates for name, value in sums.items()}


@final
@dataclass(frozen=True)
class MicroTerms:
    """What one forward and backward gave; `logp_BT` are the trainer's log-probabilities, detached."""

    loss: float
    clip_fraction: float
    dual_clip_fraction: float
    kl: float
    logp_BT: Tensor


@final
@dataclass(frozen=True)
class Updated:
    """A batch after its updates, and their figures on average.

    Old log-probabilities that were to come from the update's own forward are in it now.
    """

    batch: TokenBatch
    figures: dict[str, float]


@final
@dataclass(frozen=True)
class Updater:
    """The optimizer steps of a batch.

    `teacher` is the model of a dense loss, `teacher_view` what it reads of a micro-batch where that is not the
    student's own, and `span_measure` the loss over spans where it has another tokenizer. `importance` says whether
    tokens or trajectories are weighted by how probable the old weights find them. With several `ranks` each has the
    whole batch and takes the gradient of rows of its own.
    """

    student: Any
    optimizer: Optimizer
    method: Method
    optim: OptimSpec
    temperature: float
    teacher: LocalModel | None
    teacher_view: Callable[[TokenBatch], TokenBatch] | None
    dumps: Path
    measured: StepMeter
    span_measure: SpanMeasure | None = None
    importance: ImportanceLevel | None = None
    ranks: Ranks = ALONE

    def update(self, batch: TokenBatch, step: int) -> Updated:
        """Whole groups per mini-batch, one denominator for each.

        `train_inference_gap` is the mean distance (nats/token) between the engine's log-probabilities and the
        trainer's, over the first mini-batch. Raises SodError before any weight moves where the two should be equal
        and are not, and NonFiniteError, with the batch dumped, before a non-finite gradient moves a weight; ValueError
        where the update's own log-probabilities are to be the old ones and there are several updates.
        """
        figures, gaps = Figures(), []
        minis = batch.minibatches(self.optim.mini_batch_prompts or len(batch))
        source = None if batch.scores is None else batch.scores.old_source
        if source == "update" and len(minis) > 1:
            raise ValueError(f"{len(minis)} updates need old log-probabilities from before the first")
        for mini in minis:
            # Set for the whole mini-batch before it is split, so that splitting cannot change the gradient.
            mini = mini.filled(loss_weight_BT=loss_weights(mini.turn_BT, self.method.loss_aggregation))
            logp_BT = self.accumulate(mini, step, figures)
            gaps.append(distance(logp_BT, mini))
            if source == "engine" and len(gaps) == 1:
                check_train_inference_gap(gaps[0], step)
            if source == "update":
                mini, _ = self.weighed(mini.with_old(logp_BT), step)
                batch = batch.with_old(logp_BT)
            figures.add_update(self._optimizer_step(mini, step))
        means = figures.means(len(minis), self.ranks) | {"updates": float(len(minis)), "train_inference_gap": gaps[0]}
        return Updated(batch, means)

    def accumulate(self, mini: TokenBatch, step: int, figures: Figures) -> Tensor:
        """Give the optimizer the gradient of a mini-batch, and `figures` its terms; the trainer's log-probabilities.

        The latter have the mini-batch's shape. Raises NonFiniteError, with the micro-batch dumped, for those that the
        method can make nothing of.
        """
        logp_BT = torch.zeros(mini.token_BT.shape)
        micros = mini.micro_indices(self.optim.micro_batch_tokens, self.ranks.rows(mini.length_B.tolist()))
        # Without action tokens there is no gradient, and nothing to weigh.
        with_actions = [index for index in micros if bool((mini.turn_BT[index] > 0).any())]
        for index in self.ranks.evened(with_actions):
            if index is None:
                self._keep_step(mini, step)
                continue
            terms = self.forward_backward(mini.rows(index), step)
            figures.add(terms)
            logp_BT[index, : terms.logp_BT.shape[1]] = terms.logp_BT
        return self.ranks.summed(logp_BT)

    def forward_backward(self, micro: TokenBatch, step: int) -> MicroTerms:
        """Add the gradient of a micro-batch's part of the loss to what the optimizer has."""
        with self.measured.forward(micro):
            logp_BT, loss, terms = self.objective(micro, step)
        with self.measured.backward(micro):
            self._backward(loss)
        return MicroTerms(float(loss.detach()), terms.clipped, terms.dual_clipped, terms.kl, logp_BT.detach())

    def _keep_step(self, mini: TokenBatch, step: int) -> None:
        """Run a row whose loss counts nothing, while another rank runs a micro-batch: forwards are common to all."""
        _, loss, _ = self.objective(mini.rows([mini.shortest]), step)
        self._backward(0.0 * loss)

    def _backward(self, loss: Tensor) -> None:
        # The gradients of ranks are averaged, and ours are to be added up.
        (loss if self.ranks.count == 1 else loss * self.ranks.count).backward()
        self.optimizer.accumulate()

    def objective(self, micro: TokenBatch, step: int) -> tuple[Tensor, Tensor, SurrogateTerms]:
        """`(log-probabilities, loss, surrogate terms)` of a micro-batch under the weights as they stand.

        Differentiable. Where no old log-probabilities are known, these are, detached: the ratio is 1, and its gradient
        is that of the log-probabilities. Raises ValueError for a dense divergence without a teacher's model.
        """
        logp_BT, divergence_BT = self.forward(micro)
        if micro.scores is not None and micro.scores.old_BT is None:
            micro, _ = self.weighed(micro.with_old(logp_BT.detach()), step)
        terms = surrogate(self.method, logp_BT, micro, self.importance)
        dense = 0.0 if divergence_BT is None else distillation_loss(divergence_BT, micro)
        return logp_BT, terms.loss + dense, terms

    def forward(self, micro: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the action tokens, and the dense divergence at each where the method has one.

        Both B x T and differentiable. Raises ValueError for a dense divergence without a teacher's model.
        """
        dense = self.method.divergence
        if not self.method.dense:
            return action_logps(self.student, micro, self.temperature), None
        if self.teacher is None and dense is not None and dense.from_choices:
            chosen = partial(divergence_from_choices, spec=dense, temperature=self.temperature)
            return choice_terms(self.student, micro, chosen, self.temperature)
        if self.teacher is None:
            raise ValueError(f"method {self.method.name} has a dense divergence and no teacher's model")
        if dense is None:
            if self.span_measure is None:
                raise ValueError(f"method {self.method.name} has a loss over spans, and nobody says which")
            return span_terms(self.student, self.teacher.model, micro, self.span_measure, self.temperature)
        view = micro if self.teacher_view is None else self.teacher_view(micro)
        measure = partial(divergence, spec=dense, temperature=self.temperature)
        return dense_terms(self.student, self.teacher.model, micro, view, measure, self.temperature)

    def weighed(self, batch: TokenBatch, step: int) -> tuple[TokenBatch, Signal]:
        """The batch with what the method makes of its scores, and that.

        Raises NonFiniteError, with the batch dumped, for a log-probability that is not finite; on all ranks, each with
        its own batch, where one of them has such a one.
        """
        signal, complaint = None, None
        try:
            signal = advantage(self.method, batch, step)
        except ValueError as error:
            complaint = str(error)
        complaint = self.ranks.complaint(complaint)
        if signal is None or complaint is not None:
            raise self._dumped(batch, step, NonFiniteError(f"step {step}: {complaint}"))
        return batch.aimed(signal.advantage_BT, signal.distil_BT), signal

    def _optimizer_step(self, mini: TokenBatch, step: int) -> Update:
        try:
            with self.measured.optimizer():
                return self.optimizer.step(step)
        except NonFiniteError as error:
            raise self._dumped(mini, step, error) from None

    def _dumped(self, batch: TokenBatch, step: int, error: NonFiniteError) -> NonFiniteError:
        return dump(self.dumps, batch, step, error, self.ranks.number)


def distance(logp_BT: Tensor, mini: TokenBatch) -> float:
    """The mean distance (nats/token) between log-probabilities and those that the sampler reported."""
    away_N = (logp_BT - mini.sampled_BT)[mini.turn_BT > 0].abs()
    return float(away_N.sum()) / max(1, len(away_N))


def check_train_inference_gap(gap: float, step: int) -> None:
    """Raises SodError where an exact engine's log-probabilities are not the trainer's. `gap` in nats/token."""
    if gap > TRAIN_INFERENCE_GAP_LIMIT:
        raise SodError(
            f"step {step}: the engine's log-probabilities are {gap:.1e} nats/token from the "
            "trainer's; with float32 weights they should be equal"
        )


def dump(directory: Path, batch: TokenBatch, step: int, error: NonFiniteError, rank: int = 0) -> NonFiniteError:
    """Keep the offending batch on disk and say where; other ranks than 0 have their number in its name."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (f"step-{step:06d}-rank-{rank}.pt" if rank else f"step-{step:06d}.pt")
    torch.save(_tensors(batch), path)
    return NonFiniteError(f"{error}; the batch is in {path}")


def _tensors(record: Any) -> dict[str, Tensor]:
    """Every tensor of a batch, of its scores and of its targets by name; text and other records are left out."""
    found: dict[str, Tensor] = {}
    for known in fields(record):
        value = getattr(record, known.name)
        if isinstance(value, Tensor):
            found[known.name] = value
        elif known.name in ("scores", "targets", "teacher", "aligned") and value is not None:
            prefix = "teacher_" if known.name == "teacher" else ""
            found |= {prefix + name: tensor for name, tensor in _tensors(value).items()}
    return found
