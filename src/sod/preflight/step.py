"""What a step takes beside memory: seconds at the least, and the bytes of weights that go to servers after it.

Seconds are a lower bound: the arithmetic that cannot be left out at the rate of a large product, weights and caches
read at that of a large copy, both measured here, for texts as long as the recipe allows. Tools, rewards and servers are
not in it. What it tells is which phase decides, and what another number of ranks changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import final

import torch

from sod.build.method import make_method
from sod.models.meter import Cost
from sod.models.peaks import Peaks, measured_peaks
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.preflight.devices import CPU, devices_of
from sod.preflight.models import Planned
from sod.preflight.parts import SAMPLING, SCORING, UPDATE
from sod.preflight.pieces import is_stored, spread_of
from sod.preflight.words import size_text
from sod.recipe import Recipe

Rates = Mapping[tuple[str, str], Peaks]
"""What devices can do, by device and precision."""


@final
@dataclass(frozen=True)
class Work:
    """A step's texts at their longest: rows, their tokens, and those of them that the student samples."""

    rows: int
    length: int
    sampled: int

    @classmethod
    def of(cls, recipe: Recipe) -> Work:
        """Those of a recipe."""
        rollout = recipe.rollout
        longest = rollout.max_prompt_tokens + rollout.max_response_tokens
        return cls(rollout.prompts * rollout.samples, longest, rollout.max_response_tokens)

    def forward(self, cost: Cost) -> float:
        """FLOP of the log-probabilities of all sampled tokens."""
        pairs = self.rows * (self.length * (self.length + 1) // 2)
        return cost.layers(self.rows * self.length, pairs) + cost.head(self.rows * self.sampled)

    def decoding(self, cost: Cost, together: int) -> float:
        """Bytes that are read to sample, `together` rows at a time: all weights for each token, and the caches."""
        batches = math.ceil(self.rows / together)
        mean = self.length - self.sampled / 2
        return self.sampled * (batches * cost.bytes + self.rows * mean * cost.token_bytes)


def least_seconds(recipe: Recipe, rates: Rates | None = None) -> dict[str, float]:
    """Seconds by phase of a `readable` recipe's step; without what servers do. `rates` are measured where not given."""
    method, devices, work = make_method(recipe.method), devices_of(recipe), Work.of(recipe)
    spread = spread_of(recipe)
    student = Planned(recipe.student.whole, recipe.optim.recompute, recipe.student.lora)
    cost, place = cost_of(student), str(devices.student)
    peaks = _rates(student, place, rates)
    # Processes on one CPU share its cores.
    side_by_side = 1 if place == CPU else spread.ranks
    found: dict[str, float] = {}
    if recipe.engine.kind == "torch" and not is_stored(recipe):
        together = min(recipe.rollout.max_rows, work.rows)
        arithmetic = work.forward(cost) / peaks.product
        found[SAMPLING] = max(arithmetic, work.decoding(cost, together) / peaks.copy)
    scoring = 0.0
    for teacher, device in _teachers(recipe, method):
        rate = _rates(teacher, device, rates).product
        scoring += work.forward(cost_of(teacher)) / rate / (1 if device == CPU else spread.ranks)
    if scoring:
        found[SCORING] = scoring / max(1, len(recipe.local_teachers))  # each has its part of the tasks
    factor = 4.0 if recipe.optim.recompute else 3.0
    spared = 2.0 * work.rows * work.length * cost.frozen_layers
    found[UPDATE] = (factor * work.forward(cost) - spared) / peaks.product / side_by_side
    return found


def step_lines(recipe: Recipe) -> list[str]:
    """What `sod plan` tells of the steps of a `readable` recipe; nothing of a method that plays none."""
    method = make_method(recipe.method)
    if Need.DEMONSTRATIONS in method.needs:
        return []
    push = push_text(recipe)
    return [seconds_text(least_seconds(recipe), recipe), *([] if push is None else [push])]


def seconds_text(seconds: Mapping[str, float], recipe: Recipe) -> str:
    """The seconds in one line."""
    parts = ", ".join(f"{phase} {_shown(value)}" for phase, value in seconds.items())
    served = recipe.engine.kind == "vllm" or any(spec.url for spec in recipe.teaching.values())
    without = "; what servers do is not counted" if served else ""
    return (
        f"a step takes at least {_shown(sum(seconds.values()))} where texts are as long as allowed ({parts}){without}"
    )


def push_text(recipe: Recipe) -> str | None:
    """What is sent to the student's servers after every step; None where it has none."""
    if recipe.engine.kind != "vllm":
        return None
    servers = recipe.engine.servers if recipe.engine.urls is None else len(recipe.engine.urls)
    to = "its server" if servers == 1 else f"each of its {servers} servers"
    return (
        f"after every step {size_text(pushed_bytes(recipe))} of weights go to {to} (engine.push={recipe.engine.push})"
    )


def pushed_bytes(recipe: Recipe) -> int:
    """Bytes of a push: all weights, an adapter merged into them, and tied embeddings once more as output embedding."""
    student = Planned(recipe.student.whole)
    tied = student.config.get_text_config().tie_word_embeddings and recipe.engine.push == "file"
    return (student.counts.all + (cost_of(student).head_weights if tied else 0)) * student.size


def cost_of(model: Planned) -> Cost:
    """What the model costs, from two that have fewer layers."""
    one, two = Cost.of(model.fake(1)), Cost.of(model.fake(2))
    more = model.layers - 1
    grown = {
        name: getattr(one, name) + more * (getattr(two, name) - getattr(one, name))
        for name in ("layer_weights", "pair", "token_bytes", "frozen_layers")
    }
    return replace(one, **grown)


def _teachers(recipe: Recipe, method: Method) -> list[tuple[Planned, str]]:
    devices = devices_of(recipe)
    if method.needs & SELF_TEACHER:
        return [(Planned(recipe.student.whole), str(devices.teacher))]
    if Need.TEACHER not in method.needs:
        return []
    return [(Planned(spec), str(devices.of(key))) for key, spec in recipe.local_teachers.items()]


def _rates(model: Planned, device: str, rates: Rates | None) -> Peaks:
    if rates is not None:
        return rates[device, model.spec.dtype]
    return measured_peaks(SimpleNamespace(device=torch.device(device), dtype=model.dtype))


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
