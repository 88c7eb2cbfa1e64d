"""Released models that a run can begin with, learn from or be set against, by short names.

Figures are what their authors report: mean accuracy over 32 samples, in percent (arXiv 2605.07725, Table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import final

FIGURES = ("AIME 2024", "AIME 2025", "GPQA-Diamond", "LiveCodeBench v6")
"""The benchmarks of the paper's table, in its order."""


@final
@dataclass(frozen=True)
class Released:
    """A model on the Hugging Face hub: `name` stands for the id `hub` wherever a model is named."""

    name: str
    hub: str
    use: str
    made_from: str = ""
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def lines(self) -> list[str]:
        """What is told of it: name, id and use, and its figures, if any."""
        made = f", made from {self.made_from}" if self.made_from else ""
        figures = ", ".join(f"{name} {value:.2f}" for name, value in self.figures.items())
        return [f"  {self.name:21}{self.hub:32}{self.use}{made}", *([f"  {'':21}{figures}"] if figures else [])]


def _reported(*values: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(FIGURES, values, strict=True)))


MODELS = (
    Released("qwen3-0.6b", "Qwen/Qwen3-0.6B", "student", figures=_reported(7.71, 12.81, 13.24, 14.89)),
    Released("qwen3-1.7b", "Qwen/Qwen3-1.7B", "student", figures=_reported(9.90, 8.96, 26.80, 22.73)),
    Released("qwen3-4b", "Qwen/Qwen3-4B", "the teacher's base"),
    Released(
        "sod-grpo-teacher-4b",
        "youngzhong/SOD-GRPO_teacher-4B",
        "teacher",
        "Qwen/Qwen3-4B",
        _reported(67.60, 60.42, 55.19, 63.13),
    ),
    Released("sod-0.6b", "youngzhong/SOD-0.6B", "distilled", "Qwen/Qwen3-0.6B", _reported(20.84, 26.13, 22.19, 27.72)),
    Released("sod-1.7b", "youngzhong/SOD-1.7B", "distilled", "Qwen/Qwen3-1.7B", _reported(50.83, 41.72, 38.72, 40.63)),
    Released("demyagent-4b", "Gen-Verse/DemyAgent-4B", "teacher", "Qwen/Qwen3-4B-Instruct-2507"),
)
_BY_NAME = {model.name: model for model in MODELS}


def hub_id_of(source: str) -> str:
    """The hub id that a short name stands for; every other text, and the name of something that is here, as it is."""
    known = _BY_NAME.get(source.lower())
    return source if known is None or Path(source).exists() else known.hub
