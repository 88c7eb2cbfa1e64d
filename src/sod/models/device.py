"""Where models are, and the one way by which tensors get there and back.

Batches and the objective stay on the CPU. What a model reads of them crosses to its device inside the functions that
score with it (`models.score`, `models.dense`), and what they return is on the batch's device again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sod.records import SodError

_NAME = re.compile(r"auto|cpu|cuda(?::(?P<number>\d+))?")


def find_device(name: str, where: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`; a CUDA device always has its number.

    `auto` is `cuda:0` where there is one, else the CPU, and `cuda` is `cuda:0`. Raises SodError naming `where`, with
    what there is, for other names and for devices that this machine does not have.
    """
    known = _NAME.fullmatch(name)
    if known is None:
        raise SodError(f"{where}: {name!r} is no device; write auto, cpu, cuda or cuda:N ({_there_is()})")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number = int(known["number"] or 0)
    if not torch.cuda.is_available():
        raise SodError(f"{where}: there is no {name}: {_there_is()}; use auto or cpu, or {_remedy()}")
    if number >= torch.cuda.device_count():
        raise SodError(f"{where}: there is no {name}: {_there_is()}; use one of these, or auto")
    return torch.device("cuda", number)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; differentiable, and itself where it is there already.

    To a CUDA device nobody waits for it: what is read there comes after the copy, and the source is neither pinned nor
    written to later. Back to the CPU it is waited for, as the numbers are read at once.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def repeat_exactly() -> None:
    """From now on what this process computes on CUDA repeats bit for bit, as on a CPU it does anyway.

    Costs 7 to 11% of an update (docs/results/2026-11-26-gpu-probe.md). Before anything runs on CUDA: cuBLAS reads its
    workspace's size once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Nothing of ours reads memory that it has not written, so that need not be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def without_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """What a device lacks to be fast in bfloat16; None where it lacks nothing, or where that cannot be told."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return None
        return f"{torch.cuda.get_device_name(device)} has no arithmetic for it (cards have it from Ampere on)"
    try:
        flags = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return None
    if flags & {"avx512_bf16", "amx_bf16", "bf16"} or not flags & {"flags", "Features"}:
        return None
    return "this CPU has no arithmetic for it (x86: avx512_bf16 or amx_bf16, ARM: bf16)"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _there_is() -> str:
    """What a device could be here."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return "PyTorch sees the CPU alone"
    cards = [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(count)]
    return f"PyTorch sees {listed(['cpu', *cards])}"


def _remedy() -> str:
    """What stands between this PyTorch and a CUDA device."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"install a PyTorch that is built with CUDA (this is {torch.__version__})"
    return (
        f"see with nvidia-smi whether there is a card, and a driver for CUDA {torch.version.cuda or torch.version.hip}"
    )
