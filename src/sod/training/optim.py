"""AdamW over float32 master weights, with a refusal of non-finite gradients before anything moves.

Deviations from verl, with which the SOD paper trains: no weight decay by default (verl: 0.01) and a second decay rate
of 0.95 (verl: 0.999). `optim.weight_decay` and `optim.betas` set both. Where there is weight decay it is for every
weight that is trained, norms and embeddings too, as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from sod.models.sharded import whole_tensor
from sod.recipe import OptimSpec
from sod.records import SodError


class NonFiniteError(SodError):
    """A loss or gradient is NaN or infinite; the weights have not been touched."""


@final
@dataclass(frozen=True)
class Update:
    """What one optimizer step did: gradient norm before clipping, and the learning rate."""

    grad_norm: float
    lr: float


def learning_rate(spec: OptimSpec, step: int, steps: int) -> float:
    """The learning rate of `step` (from 1) in a run of `steps`: linear warm-up, then the schedule to 0."""
    if step <= spec.warmup_steps:
        return spec.lr * step / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.lr
    left = max(0.0, (steps - step + 1) / max(1, steps - spec.warmup_steps))
    return spec.lr * (left if spec.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left)))


@final
class Optimizer:
    """AdamW for one model.

    A bfloat16 model keeps float32 masters here: gradients are accumulated and updates made in float32,
    and the model's weights are the rounded masters. A float32 model is its own master.
    """

    def __init__(self, model: Any, spec: OptimSpec, steps: int) -> None:
        self.spec = spec
        self.steps = steps
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._separate = any(p.dtype != torch.float32 for p in self._weights)
        self._masters = [p.detach().float().clone() if self._separate else p for p in self._weights]
        self._adamw = torch.optim.AdamW(
            self._masters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True
        )

    def accumulate(self) -> None:
        """Take the gradients of one backward pass; call after each micro-batch."""
        if not self._separate:
            return
        for weight, master in zip(self._weights, self._masters, strict=True):
            if weight.grad is not None:
                grad = weight.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                weight.grad = None

    def step(self, step: int) -> Update:
        """Clip and apply the accumulated gradients of training step `step`.

        Raises NonFiniteError before any weight or moment has changed; the gradients are dropped.
        """
        gradients = [m.grad for m in self._masters if m.grad is not None]
        norm = float(whole_tensor(torch.nn.utils.get_total_norm(gradients)))
        if not math.isfinite(norm):
            self._adamw.zero_grad(set_to_none=True)
            raise NonFiniteError(f"step {step}: the gradient norm is {norm}; this update changed no weight")
        torch.nn.utils.clip_grads_with_norm_(self._masters, self.spec.clip_grad, torch.tensor(norm))
        lr = learning_rate(self.spec, step, self.steps)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        if self._separate:
            with torch.no_grad():
                for weight, master in zip(self._weights, self._masters, strict=True):
                    weight.copy_(master)
        return Update(norm, lr)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on: moments, and the masters where they are not the model itself."""
        return {"adamw": self._adamw.state_dict(), "masters": self._masters if self._separate else None}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore `state`, bit for bit. What the recipe decides (betas, decay, ...) stays the recipe's.

        Raises ValueError, KeyError or TypeError, with nothing changed, where it is not the state of these weights.
        """
        moments, masters = state["adamw"]["state"], state["masters"]
        if set(moments) - set(range(len(self._masters))):
            raise ValueError("moments of other weights")
        for number, row in moments.items():
            if set(row) != {"step", "exp_avg", "exp_avg_sq"} or not _like(row["step"], torch.tensor(0.0)):
                raise ValueError(f"weight {number}: not the moments of AdamW")
            _refuse_unlike([row["exp_avg"], row["exp_avg_sq"]], [self._masters[number]] * 2)
        if self._separate:
            _refuse_unlike(masters, self._masters)
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": moments, "param_groups": groups})
        if self._separate:
            with torch.no_grad():
                for master, saved in zip(self._masters, masters, strict=True):
                    master.copy_(saved)


def _like(value: Any, wanted: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (wanted.shape, wanted.dtype)


def _refuse_unlike(values: Sequence[Any], wanted: Sequence[torch.Tensor]) -> None:
    """Raises ValueError unless the values are tensors of the wanted shapes and types."""
    if len(values) != len(wanted) or not all(map(_like, values, wanted)):
        raise ValueError("tensors of other shapes than the weights")
