"""What a device can do at its best: the ceilings that the profile of a run is held against.

Measured where and when the run is, since no table knows a shared or throttled machine: large matrix products for the
arithmetic, copies far larger than a cache for the memory. The best of several tries counts, as others only take away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from sod.models.settle import settle_of

CPU_SIDE, CUDA_SIDE = 1024, 8192  # of square matrices: large enough for the best rate, small enough for a moment
CPU_COPY, CUDA_COPY = 2**26, 2**30  # bytes: beyond the caches
SECONDS = 0.15  # for each of both ceilings, and at least `LEAST` tries
LEAST = 3


@final
@dataclass(frozen=True)
class Peaks:
    """FLOP/s of a product of large matrices, and bytes/s of a large copy, read and written bytes both counted."""

    product: float
    copy: float


def peaks_by_role(models: Mapping[str, Any]) -> dict[str, Peaks]:
    """The peaks of every model's device in the model's precision, each pair of these measured once."""
    found: dict[tuple[torch.device, torch.dtype], Peaks] = {}
    for model in models.values():
        place = (model.device, model.dtype)
        if place not in found:
            found[place] = measured_peaks(model)
    return {role: found[model.device, model.dtype] for role, model in models.items()}


def measured_peaks(model: Any) -> Peaks:
    """The peaks of a model's device in the model's precision. Takes about half a second on a CPU."""
    device, dtype = model.device, model.dtype
    on_cuda = device.type == "cuda"
    side, size = (CUDA_SIDE, CUDA_COPY) if on_cuda else (CPU_SIDE, CPU_COPY)
    wait = settle_of([model])
    with torch.inference_mode():
        left = torch.full((side, side), 0.5, dtype=dtype, device=device)
        right, product = left.clone(), torch.empty_like(left)
        seconds = _least_seconds(lambda: torch.mm(left, right, out=product), wait)
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copying = _least_seconds(lambda: target.copy_(source), wait)
    return Peaks(product=2.0 * side**3 / seconds, copy=2.0 * size / copying)


def _least_seconds(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """The shortest of several runs after one that does not count, which loads kernels and touches memory."""
    work()
    wait()
    taken: list[float] = []
    while len(taken) < LEAST or sum(taken) < SECONDS:
        began = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - began)
    return min(taken)
