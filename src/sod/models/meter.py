"""Where the time goes: seconds, tokens, and estimates of arithmetic and of memory traffic, phase by phase.

The estimates count what cannot be left out: two FLOP per weight and token, the products of attention, and each weight
read once per forward. Norms, activations and copies are not in them, so a share of a measured ceiling
(`sod.models.peaks`) is a lower bound. Only where weights are so few that they stay in the processor's cache can reading
them beat the copy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from sod.clock import nothing_to_wait_for
from sod.models.architecture import head_sizes
from sod.models.peaks import Peaks
from sod.models.team import team_of
from sod.objective.batch import TokenBatch


@final
@dataclass(frozen=True)
class Cost:
    """What a decoder-only model costs.

    `layer_weights` and `head_weights` count matrix entries; `pair` is the FLOP of one (query, key) pair in all layers;
    `token_bytes` are the keys and values of a token, `weight_bytes` one entry. `frozen_layers` and `frozen_head` are
    those entries that get no gradient, under an adapter. `ranks` share the arithmetic of a row.
    """

    layer_weights: int
    head_weights: int
    pair: int
    token_bytes: int
    weight_bytes: int
    frozen_layers: int = 0
    frozen_head: int = 0
    ranks: int = 1

    @classmethod
    def of(cls, model: Any) -> Cost:
        """The cost of a Hugging Face causal LM."""
        config = model.config
        heads, key_heads, head_dim = head_sizes(config)
        size = model.dtype.itemsize
        embeddings = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
        layers = [p for p in model.parameters() if p.dim() > 1 and id(p) not in embeddings]
        head = model.get_output_embeddings().weight
        return cls(
            layer_weights=sum(p.numel() for p in layers),
            head_weights=head.numel(),
            pair=4 * heads * head_dim * config.num_hidden_layers,
            token_bytes=2 * key_heads * head_dim * config.num_hidden_layers * size,
            weight_bytes=size,
            frozen_layers=sum(p.numel() for p in layers if not p.requires_grad),
            frozen_head=0 if head.requires_grad else head.numel(),
            ranks=team_of(model).size,
        )

    def layers(self, tokens: int, pairs: int) -> float:
        """FLOP of a forward through the layers."""
        return 2.0 * self.layer_weights * tokens + self.pair * pairs

    def head(self, tokens: int) -> float:
        """FLOP of the vocabulary projection."""
        return 2.0 * self.head_weights * tokens

    def scoring(self, batch: TokenBatch) -> float:
        """FLOP of the log-probabilities of a batch's action tokens, on each of the ranks that share its rows."""
        tokens, pairs = int(batch.length_B.sum()), int((batch.length_B * (batch.length_B + 1) // 2).sum())
        return (self.layers(tokens, pairs) + self.head(batch.action_tokens())) / self.ranks

    def backward(self, batch: TokenBatch, recompute: bool = False) -> float:
        """FLOP of the gradient: twice the forward, and the projection again, because it is recomputed.

        With `recompute` the layers run once more as well. Frozen weights pass a gradient on and get none.
        """
        forward, actions = self.scoring(batch), batch.action_tokens()
        spared = 2.0 * (self.frozen_layers * int(batch.length_B.sum()) + self.frozen_head * actions) / self.ranks
        return (3.0 * forward if recompute else 2.0 * forward + self.head(actions) / self.ranks) - spared

    @property
    def weights(self) -> int:
        """Matrix entries in all."""
        return self.layer_weights + self.head_weights

    @property
    def trained(self) -> int:
        """Matrix entries that get a gradient."""
        return self.weights - self.frozen_layers - self.frozen_head

    @property
    def bytes(self) -> int:
        """All weights, read once."""
        return self.weights * self.weight_bytes


@final
@dataclass
class Phase:
    """Sums over the calls of one phase."""

    calls: int = 0
    seconds: float = 0.0
    tokens: int = 0
    flop: float = 0.0
    bytes: float = 0.0

    def figures(self, peaks: Peaks) -> dict[str, float]:
        """Sums, rates, and the shares that the rates are of the peaks."""
        seconds = self.seconds or math.inf  # nothing was done in no time
        return {
            "calls": self.calls,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / seconds,
            "gflop_per_second": self.flop / seconds / 1e9,
            "share_of_product_peak": self.flop / seconds / peaks.product,
            "gbyte_per_second": self.bytes / seconds / 1e9,
            "share_of_copy_peak": self.bytes / seconds / peaks.copy,
        }


@final
@dataclass
class Meter:
    """Counts by phase; when it is off, nothing, and nobody is waited for.

    `settle` returns when all work under way is done (`sod.models.settle`); it is called at both ends of a phase, so
    that a phase holds its own work and all of it. That is what a profile costs on a CUDA device.
    """

    on: bool = False
    phases: dict[str, Phase] = field(default_factory=dict)
    settle: Callable[[], None] = nothing_to_wait_for

    @contextmanager
    def phase(self, name: str, tokens: int = 0, flop: float = 0.0, moved: float = 0.0) -> Iterator[None]:
        """Time what is inside and add it to `name`. `moved` is in bytes."""
        if not self.on:
            yield
            return
        self.settle()
        began = time.perf_counter()
        yield
        self.settle()
        self.add(name, time.perf_counter() - began, tokens, flop, moved)

    def forward(self, name: str, cost: Cost, new: Sequence[int], cached: Sequence[int]) -> AbstractContextManager[None]:
        """Time a forward through the layers: of each row so many new tokens, after so many cached ones."""
        pairs = sum(more * (2 * done + more + 1) // 2 for more, done in zip(new, cached, strict=True))
        moved = cost.layer_weights * cost.weight_bytes + sum(cached) * cost.token_bytes
        return self.phase(name, sum(new), cost.layers(sum(new), pairs), moved)

    def add(self, name: str, seconds: float, tokens: int = 0, flop: float = 0.0, moved: float = 0.0) -> None:
        """Count what was timed elsewhere."""
        if self.on:
            phase = self.phases.setdefault(name, Phase())
            phase.calls += 1
            phase.seconds += seconds
            phase.tokens += tokens
            phase.flop += flop
            phase.bytes += moved

    def rows(self, peaks: Mapping[str, Peaks]) -> list[dict[str, Any]]:
        """One row per phase, the longest first: sums, the rates that they amount to, and their shares of the peaks.

        The phase `teacher` is held against the teacher's peaks, every other against the student's.
        """
        total = sum(phase.seconds for phase in self.phases.values()) or 1.0
        ordered = sorted(self.phases.items(), key=lambda item: -item[1].seconds)
        return [
            {
                "phase": name,
                "share": phase.seconds / total,
                **phase.figures(peaks["teacher" if name == "teacher" else "student"]),
            }
            for name, phase in ordered
        ]
