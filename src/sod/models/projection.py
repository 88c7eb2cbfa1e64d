"""Whether a model is what scoring takes it for: a causal decoder, then the output embedding, and of scales and caps
those that its configuration tells (`sod.models.logits`), nothing else.

The model's own forward is watched. What goes into the output embedding must be, bit for bit, what the decoder gave,
divided by what the configuration says. What comes out is replaced by logits of every size, which must leave the forward
as `logits.shaped` would make them: a scale of 1.001 that nothing tells of is seen, and so is a soft cap far above the
logits that the weights at hand would make.

Legend: B rows, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from sod.models.logits import LogitShape, shape_of, shaped
from sod.records import SodError

LARGEST = 100.0  # of the logits put in: beyond what models make, so that every cap bends it
TOLERANCE = 1e-4  # a hundred times what float32 rounds at that size; copies do not round at all


@final
@dataclass
class Watched:
    """What one forward of a model passed on inside; empty where it never came by."""

    decoded: list[Tensor] = field(default_factory=list)
    projected: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    put_in: list[Tensor] = field(default_factory=list)


def change_of_logits(model: Any, token_BT: Tensor, where: str) -> str | None:
    """What the model's forward does to hidden states or logits beside what is known; None for nothing.

    Raises SodError naming `where` where NaN or infinite numbers come out.
    """
    watched = Watched()
    with _watching(model, watched):
        out_BTV = model(input_ids=token_BT, use_cache=False).logits
    if not watched.decoded or not watched.projected:
        return "does not send what its decoder says through its output embedding"
    hidden_BTD, into_BTD = watched.decoded[-1], watched.projected[-1]
    if not all(bool(torch.isfinite(x).all()) for x in (hidden_BTD, into_BTD, watched.logits[-1], out_BTV)):
        raise SodError(f"{where}: the model's output is not finite (NaN or infinite weights?)")
    shape = shape_of(model.config)
    expected_BTD = hidden_BTD if shape.before == 1.0 else hidden_BTD / shape.before
    # Some families project in the type of their output embedding, whatever that of their decoder is.
    if not torch.equal(expected_BTD.to(into_BTD.dtype), into_BTD):
        return "changes its hidden states before the output projection"
    put_BTV = watched.put_in[-1]
    if out_BTV.shape != put_BTV.shape:
        return f"changes its logits after the output projection ({put_BTV.shape[-1]} become {out_BTV.shape[-1]})"
    # Some do it in float32, others in the type of the model: which of the two makes no difference of ours.
    off = min(_apart(out_BTV, shaped(put, shape)) for put in (put_BTV, put_BTV.float()))
    if off > TOLERANCE:
        told = "" if shape == LogitShape() else ", otherwise than its configuration tells"
        return (
            f"changes its logits after the output projection (by up to {off:.3g} in a range of {2 * LARGEST:.0f}{told})"
        )
    return None


def _apart(out_BTV: Tensor, expected_BTV: Tensor) -> float:
    """How far logits are from what they should be; a shift of all logits of a token changes no distribution."""
    moved_BTV = out_BTV.double() - expected_BTV.double()
    return float((moved_BTV.amax(-1) - moved_BTV.amin(-1)).max())


@contextmanager
def _watching(model: Any, watched: Watched) -> Iterator[None]:
    head = model.get_output_embeddings()

    def decoded(_module: Any, _inputs: Any, output: Any) -> None:
        watched.decoded.append(output.last_hidden_state)

    def projected(_module: Any, inputs: Any) -> None:
        watched.projected.append(inputs[0])

    def replaced(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        put_in = torch.linspace(-LARGEST, LARGEST, output.shape[-1], device=output.device).to(output.dtype)
        watched.logits.append(output)
        watched.put_in.append(put_in.expand_as(output).clone())
        return watched.put_in[-1].clone()

    handles = [
        model.get_decoder().register_forward_hook(decoded),
        head.register_forward_pre_hook(projected),
        head.register_forward_hook(replaced),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def apart(one: Tensor, other: Tensor) -> float:
    """How far two computations of the same numbers are apart, as a share of them."""
    size = other.float().norm().clamp(min=torch.finfo(torch.float32).tiny)
    return float((one.float() - other.float()).norm() / size)


def rounding(dtype: torch.dtype) -> float:
    """How far `apart` rounding alone may bring them, with room: it makes 0.02 in bfloat16."""
    return 1e-3 if dtype == torch.float32 else 0.25
