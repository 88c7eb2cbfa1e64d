"""CUDA graphs of decoding steps: one for each number of rows and columns, made when it is first needed.

A step of a small model is hundreds of short kernels, and launching them one by one takes the host longer than running
them takes the device; a graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Step = Callable[[], None]


def captured(step: Step, device: torch.device, pool: Any) -> Step:
    """A graph of `step`, which works in place and must not change anything where it is run now.

    `pool` is the memory that all graphs share: none keeps anything there from one replay to the next. Raises
    whatever the step raises, and RuntimeError where it waits for the device, which a graph cannot.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        step()  # compiles, loads kernels, reserves workspaces: may wait
        # A step that waits is found here: found while capturing, it would leave the allocator unusable.
        with no_waiting():
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    replay: Step = graph.replay
    return replay


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, PyTorch raises where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
