"""An evaluation on the terminal: its figures, pass@k by k, by difficulty, and what became of the episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sod.report.console import evaluation_table, out, with_interval

SHARES = {
    "truncated": "cut off at a token limit",
    "out_of_turns": "still calling tools at their last turn",
    "unreadable": "without a readable answer",
}
"""What is said of episodes, where there are any such."""


def show_evaluation(name: str, figures: Mapping[str, Any], data: str, step: int | None) -> None:
    """Print the figures of a model called `name` on `data`."""
    title = f"{Path(data).name}, {figures['tasks']} tasks" + (f", step {step}" if step is not None else "")
    out.print(evaluation_table({name: figures}, title))
    for table in breakdown_tables(figures):
        out.print(table)
    for line in remarks(figures):
        out.print(line, markup=False)


def breakdown_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """A table for every key that the figures are broken down by, a row for each value."""
    k = figures["k"]
    for key, parts in figures.get("by", {}).items():
        table = Table(title=f"by {key}")
        table.add_column(key)
        for heading in ("tasks", f"avg@{k}", f"pass@{k}", f"maj@{k}"):
            table.add_column(heading, justify="right")
        for value, part in parts.items():
            shown = (with_interval(part, metric) for metric in ("avg_at_k", "pass_at_k", "maj_at_k"))
            table.add_row(value, str(part["tasks"]), *shown)
        yield table


def remarks(figures: Mapping[str, Any]) -> Iterator[str]:
    """What is said below the table, a line each: pass@k by k, and shares of episodes that went wrong."""
    curve = [(key, int(key.removeprefix("pass_at_"))) for key in figures if key.removeprefix("pass_at_").isdecimal()]
    if len(curve) > 1:
        points = [f"pass@{draw} {figures[key]:.3f}" for key, draw in sorted(curve, key=lambda point: point[1])]
        yield "  ".join([*points, f"pass@{figures['k']} {figures['pass_at_k']:.3f}"])
    shares = [f"{figures[key]:.1%} {words}" for key, words in SHARES.items() if figures.get(key)]
    if shares:
        yield f"episodes: {', '.join(shares)}"
    if figures.get("faults"):
        yield f"{figures['faults']:.0f} episodes were set apart because something of ours failed"


def show_curve(name: str, rows: Mapping[int, Mapping[str, Any]], data: str) -> None:
    """Print the figures of a run's checkpoints on `data`, a row for each step."""
    first = next(iter(rows.values()))
    by_step = {f"step {step}": figures for step, figures in rows.items()}
    out.print(evaluation_table(by_step, f"{name} on {Path(data).name}, {first['tasks']} tasks"))


def comparison_table(figures: Mapping[str, Mapping[str, Any]], k: int, title: str) -> Table:
    """A row for each figure: the first, the second, their difference with its interval, and p."""
    table = Table(title=title)
    table.add_column("figure")
    for heading in ("first", "second", "second - first", "p"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        interval = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        p = f"{row['p']:.3g}" if row["exact"] else f"{row['p']:.2g} (drawn)"
        table.add_row(name.replace("_at_k", f"@{k}"), f"{row['first']:.3f}", f"{row['second']:.3f}", interval, p)
    return table


def named_problems(ids: Sequence[str], shown: int = 10) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"{', '.join(ids[:shown])}{more}" if ids else "none"
