"""What a person at the terminal sees: one readable line per step, tables, progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sod.report.metrics import METRICS, PHASE_SECONDS, STEP_SECONDS

out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """One line of a step: what was measured, then seconds in all and per phase (`sod.report.metrics`)."""
    shown = [metric for metric in METRICS if metric.label and metric.key in metrics]
    parts = [f"{metric.label} {metric.format.format(metrics[metric.key])}" for metric in shown]
    prefix, form = PHASE_SECONDS.key, PHASE_SECONDS.format
    timed = [(key.removeprefix(prefix), value) for key, value in metrics.items() if key.startswith(prefix)]
    tail = STEP_SECONDS.format.format(metrics[STEP_SECONDS.key])
    if timed:
        tail += " (" + " ".join(f"{phase} {form.format(value)}" for phase, value in timed) + ")"
    return f"{step:>{len(str(steps))}}/{steps}  " + "  ".join([*parts, tail])


def notice(text: str) -> None:
    """Something the user should know that is not an error."""
    err.print(f"note: {text}", markup=False)


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress bar; nothing but the finished lines when the output is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        bar.add_task(description, total=total)
        yield bar


def with_interval(result: Mapping[str, Any], metric: str) -> str:
    """`0.712 [0.655, 0.766]`: a metric of an evaluation with its 95% interval."""
    low, high = result["intervals"][metric]
    return f"{result[metric]:.3f} [{low:.3f}, {high:.3f}]"


def evaluation_table(results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A row per evaluated model: avg@k, pass@k and maj@k with intervals, tool calls, errors and length."""
    k = next(iter(results.values()))["k"]
    table = Table(title=title)
    table.add_column("model")
    for name in (f"avg@{k}", f"pass@{k}", f"maj@{k}", "tool calls", "tool errors", "tokens"):
        table.add_column(name, justify="right")
    for label, result in results.items():
        table.add_row(
            label,
            *(with_interval(result, metric) for metric in ("avg_at_k", "pass_at_k", "maj_at_k")),
            f"{result['tool_calls']:.2f}",
            f"{result['tool_error_rate']:.1%}",
            f"{result['response_tokens']:.0f}",
        )
    return table


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A plain table of strings and numbers."""
    table = Table(title=title)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def profile_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Where the time went, a row per phase; rates are estimates (`models.meter`)."""
    columns = ("phase", "seconds", "share", "calls", "tokens", "tokens/s", "GFLOP/s", "GB/s")
    cells = [
        (
            row["phase"],
            f"{row['seconds']:.2f}",
            f"{row['share']:.1%}",
            row["calls"],
            row["tokens"] or "",
            f"{row['tokens_per_second']:.0f}" if row["tokens"] else "",
            f"{row['gflop_per_second']:.0f}" if row["gflop_per_second"] else "",
            f"{row['gbyte_per_second']:.1f}" if row["gbyte_per_second"] else "",
        )
        for row in rows
    ]
    return rows_table("where the time went", columns, cells)


def methods_table(rows: Sequence[Sequence[str]]) -> Table:
    """One entry per method: name and paper, what it needs, its knobs with their defaults."""
    table = Table(title="methods", show_lines=True)
    for heading in ("method", "paper", "needs", "knobs and defaults"):
        table.add_column(heading, overflow="fold")
    for name, paper, needs, shown, _ in rows:
        table.add_row(name, paper, needs, shown)
    table.caption = (
        "with every method: loss_aggregation=token-mean, divergence=null (the sampled estimator), "
        "clip_low=0.2, clip_high=0.28"
    )
    return table
