"""What the parts of `scripts/gpu_check.sh` share: a model's shape, clocks, and a report that is written as it grows."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
import transformers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUDA = DEVICE.type == "cuda"
QWEN3_06B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
TOY: dict[str, Any] = {
    "vocab_size": 1500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def parse(text: str | None) -> argparse.Namespace:
    """The options that every part has: `tiny`, `json`."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the same code at toy size, on a CPU too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not options.tiny and not CUDA:
        parser.error("no CUDA device here; --tiny runs on a CPU")
    return options


def versions() -> dict[str, str]:
    """What the figures were made with."""
    card = torch.cuda.get_device_name(0) if CUDA else platform.processor() or platform.machine()
    return {
        "card": card,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def settle() -> None:
    """Wait until the device has done all that was asked of it."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any]) -> float:
    """Of one call, the device's work included."""
    settle()
    began = time.perf_counter()
    function()
    settle()
    return time.perf_counter() - began


def milliseconds(function: Callable[[], Any], calls: int, warm: int = 3) -> float:
    """The median of so many calls after a warm-up."""
    for _ in range(warm):
        function()
    return statistics.median(seconds(function) for _ in range(calls)) * 1e3


@final
class Report:
    """Figures by name: printed as they come, and kept in the file named by `--json` after each."""

    def __init__(self, part: str, options: argparse.Namespace) -> None:
        self._figures: dict[str, Any] = {"part": part, "tiny": options.tiny}
        self._path: Path | None = options.json

    def tell(self, name: str, value: Any) -> None:
        """Print a figure and keep it."""
        self._figures[name] = round(value, 4) if isinstance(value, float) else value
        print(f"{name:58s} {self._figures[name]}", flush=True)
        self.write()

    def attempt(self, name: str, figure: Callable[[], Any]) -> None:
        """Tell what `figure` gives, or how it failed: one failure does not cost the figures after it."""
        try:
            self.tell(name, figure())
        except Exception as error:
            self.tell(name, f"FAILED {type(error).__name__}: {str(error)[:200]}")

    @property
    def failures(self) -> list[str]:
        """The figures that could not be had."""
        return [name for name, value in self._figures.items() if isinstance(value, str) and value.startswith("FAILED")]

    def end(self) -> None:
        """Leave the program, with status 1 where a figure could not be had."""
        raise SystemExit(1 if self.failures else 0)

    def write(self) -> None:
        """Write all figures so far."""
        if self._path is not None:
            self._path.write_text(json.dumps(self._figures, indent=1, default=str) + "\n")
