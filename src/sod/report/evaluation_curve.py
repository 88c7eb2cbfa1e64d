"""A picture of the evaluations of a run over its steps: avg@k, pass@k and maj@k, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIGURES = ("avg_at_k", "pass_at_k", "maj_at_k")


def draw_evaluations(rows: Mapping[int, Mapping[str, Any]], title: str, path: Path) -> None:
    """Write a PNG of the figures by step."""
    from matplotlib.figure import Figure

    steps = sorted(rows)
    k = rows[steps[0]]["k"]
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for name in FIGURES:
        label, values = name.replace("_at_k", f"@{k}"), [rows[step][name] for step in steps]
        low, high = zip(*(rows[step]["intervals"][name] for step in steps), strict=True)
        (line,) = axes.plot(steps, values, marker="o", label=label)
        axes.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
    axes.set(title=title, xlabel="step", ylim=(0.0, 1.0))
    axes.legend()
    figure.savefig(path, dpi=120)
