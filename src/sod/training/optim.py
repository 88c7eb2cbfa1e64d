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

from sod.models.sharded import is_sharded, whole_tensor
from sod.recipe import OptimSpec
from sod.records import SodError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


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
    and the model's weights are the rounded masters. A float32 model is its own master, and so is one that is sharded:
    its pieces are float32, whatever it computes in.
    """

    def __init__(self, model: Any, spec: OptimSpec, steps: int) -> None:
        self.spec = spec
        self.steps = steps
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._names, self._weights = list(trained), list(trained.values())
        self._in_pieces = is_sharded(model)
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
        self._round()
        return Update(norm, lr)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on: moments, and the masters where they are not the model itself.

        Of a sharded model only that it is one: `sod.training.shards` keeps its pieces.
        """
        if self._in_pieces:
            return {"in_pieces": True}
        return {"adamw": self._adamw.state_dict(), "masters": self._masters if self._separate else None}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore `state`, bit for bit. What the recipe decides (betas, decay, ...) stays the recipe's.

        Raises ValueError, KeyError or TypeError, with nothing changed, where it is not the state of these weights.
        """
        moments, masters = state["adamw"]["state"], state["masters"]
        if set(moments) - set(range(len(self._masters))):
            raise ValueError("moments of other weights")
        for number, row in moments.items():
            if set(row) != set(MOMENTS) or not _like(row["step"], torch.tensor(0.0)):
                raise ValueError(f"weight {number}: not the moments of AdamW")
            _refuse_unlike([row["exp_avg"], row["exp_avg_sq"]], [self._masters[number]] * 2)
        if self._separate:
            _refuse_unlike(masters, self._masters)
        if self._in_pieces:
            moments, masters = self._cut(moments, masters)
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": moments, "param_groups": groups})
        if masters is not None and (self._separate or self._in_pieces):
            with torch.no_grad():
                for master, saved in zip(self._masters, masters, strict=True):
                    master.copy_(saved)

    def _cut(self, moments: Any, masters: Any) -> tuple[Any, Any]:
        """Whole moments and masters as pieces; one process may have kept masters where this keeps the weights."""
        from sod.models.parallel import like_pieces

        if masters is not None:
            _refuse_unlike(masters, self._masters)
            masters = [like_pieces(saved, own) for saved, own in zip(masters, self._masters, strict=True)]
        cut = {}
        for number, row in moments.items():
            own = self._masters[number]
            cut[number] = row | {name: like_pieces(row[name], own) for name in ("exp_avg", "exp_avg_sq")}
        return cut, masters

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights in float32 and moments by name, to be written, or to be read into and then given to `take`.

        Moments that there are not yet are zero.
        """
        found: dict[str, torch.Tensor] = {}
        for name, master in zip(self._names, self._masters, strict=True):
            row = self._adamw.state.get(master) or {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master.detach()),
                "exp_avg_sq": torch.zeros_like(master.detach()),
            }
            found[f"weight/{name}"] = master.detach()
            found |= {f"{kind}/{name}": row[kind] for kind in MOMENTS}
        return found

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on with `tensors`, which were filled. Weights that are their own masters were filled in place."""
        for name, master in zip(self._names, self._masters, strict=True):
            self._adamw.state[master] = {kind: tensors[f"{kind}/{name}"] for kind in MOMENTS}
        self._round()

    def _round(self) -> None:
        """The model's weights are the rounded masters."""
        if self._separate:
            with torch.no_grad():
                for weight, master in zip(self._weights, self._masters, strict=True):
                    weight.copy_(master)


def _like(value: Any, wanted: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (wanted.shape, wanted.dtype)


def _refuse_unlike(values: Sequence[Any], wanted: Sequence[torch.Tensor]) -> None:
    """Raises ValueError unless the values are tensors of the wanted shapes and types."""
    if len(values) != len(wanted) or not all(map(_like, values, wanted)):
        raise ValueError("tensors of other shapes than the weights")
