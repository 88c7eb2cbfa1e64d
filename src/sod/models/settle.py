"""Waiting for devices, for timers: a CUDA device works on after the calls that gave it work have returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from sod.clock import nothing_to_wait_for


def settle_of(models: Iterable[Any]) -> Callable[[], None]:
    """What waits until the devices of these models have done all that they were given."""
    devices = sorted({model.device for model in models if model.device.type == "cuda"}, key=str)
    return partial(_wait, devices) if devices else nothing_to_wait_for


def _wait(devices: Iterable[torch.device]) -> None:
    for device in devices:
        torch.cuda.synchronize(device)
