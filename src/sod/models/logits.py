"""What families do to their logits beside projecting: scales before and after the output embedding, and soft caps.

It is read from the configuration, so that copies of a model have it too, and proven against the model's own forward
where a model is loaded (`score.check_projection`). From there on everybody who projects, to sample, to score or to
train, gets the logits of the model's own forward here.

Legend: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor


@final
class LogitShape(NamedTuple):
    """`cap * tanh(head(hidden / before) / divisor * factor / cap)`; without a cap, what `tanh` is taken of."""

    before: float = 1.0
    divisor: float = 1.0
    factor: float = 1.0
    cap: float | None = None

    @property
    def scale(self) -> float:
        """What logits are multiplied with after the output embedding, the cap apart."""
        return self.factor / self.divisor


PLAIN = LogitShape()
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier")
_SCALING = "logits_scaling"
"""Granite's families divide their logits by it, these do something else with it:"""
_MULTIPLIED, _BEFORE = frozenset({"hyperclovax"}), frozenset({"minicpm3"})


def shape_of(config: Any) -> LogitShape:
    """What models of this configuration do to their logits, as far as its keys tell."""
    scaling = _number(config, _SCALING) or 1.0
    before = scaling if config.model_type in _BEFORE else 1.0
    multiplied = scaling if config.model_type in _MULTIPLIED else 1.0
    factors = [_number(config, key) for key in _FACTORS]
    caps = [_number(config, key) for key in _CAPS]
    return LogitShape(
        before=before,
        divisor=1.0 if scaling in (before, multiplied) else scaling,
        factor=next((factor for factor in factors if factor is not None), 1.0) * multiplied,
        cap=next((cap for cap in caps if cap), None),
    )


def project(head: Any, hidden_ND: Tensor, shape: LogitShape) -> Tensor:
    """The logits of hidden states: as the output embedding gives them where they stay so, else in float32. N x V."""
    logits_NV: Tensor = head(hidden_ND if shape.before == 1.0 else hidden_ND / shape.before)
    return logits_NV if shape[1:] == PLAIN[1:] else shaped(logits_NV.float(), shape)


def shaped(logits_NV: Tensor, shape: LogitShape) -> Tensor:
    """What comes behind the output embedding, in the type of the logits. What is minus infinity stays so."""
    if shape.divisor != 1.0:
        logits_NV = logits_NV / shape.divisor
    if shape.factor != 1.0:
        logits_NV = logits_NV * shape.factor
    return logits_NV if shape.cap is None else _capped(logits_NV, shape.cap)


def _capped(logits_NV: Tensor, cap: float) -> Tensor:
    bent_NV = torch.tanh(logits_NV / cap) * cap
    # Columns without a token (`sod.models.support`) are minus infinity, which a cap would make a probability of.
    return bent_NV.masked_fill(torch.isneginf(logits_NV), -torch.inf)


def _number(config: Any, key: str) -> float | None:
    value = getattr(config, key, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
