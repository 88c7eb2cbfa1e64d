"""The card's own ceilings, measured: what the other parts' figures are shares of.

python scripts/gpu_check/ceilings.py [--tiny] [--json FILE]
"""

from __future__ import annotations

from functools import partial

import torch
from common import DEVICE, Report, milliseconds, parse, versions


def copy_rate(size: int) -> float:
    """GB/s of a copy from memory to memory, bytes read and written both counted."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(partial(target.copy_, source), 20) / 1e6


def product_rate(side: int, dtype: torch.dtype) -> float:
    """TFLOP/s of a square matrix product of random numbers."""
    left, right = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    return 2 * side**3 / milliseconds(partial(torch.mm, left, right), 10) / 1e9


def main() -> None:
    options = parse(__doc__)
    report = Report("ceilings", options)
    report.tell("versions", versions())
    report.tell("copy, GB/s", copy_rate(1 << 20 if options.tiny else 4 << 30))
    side = 64 if options.tiny else 8192
    report.tell("bfloat16 product, TFLOP/s", product_rate(side, torch.bfloat16))
    report.tell("float32 product, TFLOP/s", product_rate(side, torch.float32))
    report.end()


if __name__ == "__main__":
    main()
