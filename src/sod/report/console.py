"""What a person at the terminal sees: one readable line per step, tables, progress."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sod.report.metrics import METRICS, PHASE_SECONDS, STEP_SECONDS, Metric

PIPED_WIDTH = 120
"""Columns of a table that no terminal shows; COLUMNS in the environment says otherwise."""

LONGEST_PART = 400
"""Characters of a part of a row that are shown; of a longer one its ends."""
MOST_PARTS = 16


def given_width() -> int | None:
    """The columns that the environment's COLUMNS asks for; None where it does not."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else None


out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else given_width() or PIPED_WIDTH)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def line_width() -> int | None:
    """The columns that a line may have: COLUMNS, or else the terminal's; None where a pipe or a file takes any."""
    return given_width() or (out.width if sys.stdout.isatty() else None)


def step_line(
    step: int, steps: int, metrics: Mapping[str, float], width: int | None = None, eta_seconds: float | None = None
) -> str:
    """One line of a step: what was measured, its seconds, and when the run will be over (`sod.report.metrics`).

    Without a `width` it has every figure, and the seconds of each phase. With one it is no longer than that: the most
    important figures that fit.
    """
    head = f"{step:>{len(str(steps))}}/{steps}"
    tail = [STEP_SECONDS.format.format(metrics[STEP_SECONDS.key])]
    if width is None:
        tail[0] += _phases(metrics)
    if eta_seconds is not None:
        tail.append(f"ETA {clock_time(eta_seconds)}")
    parts = [_figure(metric, metrics) for metric in shown_metrics(step, steps, metrics, width, eta_seconds)]
    line = "  ".join([head, *parts, *tail])
    return line if width is None else line[:width]


def shown_metrics(
    step: int, steps: int, metrics: Mapping[str, float], width: int | None = None, eta_seconds: float | None = None
) -> list[Metric]:
    """The metrics that `step_line` shows, in order."""
    labelled = [metric for metric in METRICS if metric.label and metric.key in metrics]
    if width is None:
        return labelled
    left = width - len(step_line(step, steps, {STEP_SECONDS.key: metrics[STEP_SECONDS.key]}, None, eta_seconds))
    shown = []
    for metric in labelled:
        needed = len(_figure(metric, metrics)) + 2
        if needed <= left:
            shown.append(metric)
            left -= needed
    return shown


def clock_time(seconds: float) -> str:
    """`0:07`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _figure(metric: Metric, metrics: Mapping[str, float]) -> str:
    return f"{metric.label} {metric.format.format(metrics[metric.key])}"


def _phases(metrics: Mapping[str, float]) -> str:
    prefix, form = PHASE_SECONDS.key, PHASE_SECONDS.format
    timed = [(key.removeprefix(prefix), value) for key, value in metrics.items() if key.startswith(prefix)]
    return " (" + " ".join(f"{phase} {form.format(value)}" for phase, value in timed) + ")" if timed else ""


@final
@dataclass
class StepLines:
    """The lines of one command's runs: as wide as the terminal, or whole with `verbose`; each name explained once."""

    verbose: bool = False
    explained: set[str] = field(default_factory=set)
    _title: str = ""
    _steps: int = 0
    _done: int = 0
    _started: float = 0.0

    def begin(self, title: str, steps: int, done: int) -> None:
        """A run of `steps` steps starts, of which `done` were done before."""
        self._title, self._steps, self._done = title, steps, done
        self._started = time.monotonic()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print a step's line, after a legend of the names in it that were not there before."""
        columns = None if self.verbose else line_width()
        width = None if columns is None else columns - len(self._title) - 1
        eta = self._seconds_left(step)
        shown = shown_metrics(step, self._steps, metrics, width, eta)
        for line in legend([metric for metric in shown if metric.label not in self.explained], columns):
            out.print(line, markup=False)
        self.explained |= {metric.label for metric in shown}
        line = f"{self._title} {step_line(step, self._steps, metrics, width, eta)}"
        out.print(line if columns is None else line[:columns], markup=False)

    def _seconds_left(self, step: int) -> float:
        """The rest of the run at the mean speed so far."""
        return (time.monotonic() - self._started) / (step - self._done) * (self._steps - step)


def legend(metrics: Sequence[Metric], width: int | None) -> list[str]:
    """What the names on a step line mean, a line each where `width` allows."""
    longest = max((len(metric.label) for metric in metrics), default=0)
    lines = []
    for metric in metrics:
        text = f"  {metric.label:<{longest}}  {metric.meaning.replace('`', '')}"
        lines += textwrap.wrap(text, width, subsequent_indent=" " * (longest + 4)) if width else [text]
    return lines


def facts(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print what a run is made of before it starts: a name and a text each, folded to the terminal's width."""
    out.print(title, markup=False)
    longest = max((len(name) for name, _ in rows), default=0)
    width = line_width()
    for name, text in rows:
        line = f"  {name:<{longest}}  {text}"
        folded = textwrap.wrap(line, width, subsequent_indent=" " * (longest + 4)) if width else [line]
        for part in folded:
            out.print(part, markup=False)


def shown_parts(parts: Sequence[tuple[str, bool]], full: bool) -> Text:
    """Stretches of a text, marked where the second is true; the middle of long ones is left out unless `full`.

    Marked is what stands between ⟦ and ⟧: green on a terminal, and also where there are no colours.
    """
    text = Text()
    for part, marked in _shortened(parts, full):
        text.append(f"⟦{part}⟧" if marked else part, style="green" if marked else "dim")
    return text


def _shortened(parts: Sequence[tuple[str, bool]], full: bool) -> Iterator[tuple[str, bool]]:
    if full:
        yield from parts
        return
    for at, (part, marked) in enumerate(parts):
        if at == MOST_PARTS:
            yield f"\n... and {len(parts) - at} more parts, --full shows them", False
            return
        yield _middle_left_out(part, LONGEST_PART), marked


def _middle_left_out(text: str, most: int) -> str:
    """The text, or its two ends with how much stands between them, where that is worth a mark."""
    if len(text) <= most + most // 4:
        return text
    head, tail = text[: most // 2].rstrip(), text[-(most // 2) :].lstrip()
    return f"{head} ... [{len(text) - len(head) - len(tail):,} characters] ... {tail}"


def notice(text: str) -> None:
    """Something the user should know that is not an error."""
    err.print(f"note: {text}", markup=False)


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress bar; nothing at all where the output is a pipe, a file or a terminal without a cursor.

    A terminal has one at a time, so it is the main thread's.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    # Not rich's own question: FORCE_COLOR makes it take a pipe for a terminal, and its end writes an empty line.
    main = threading.current_thread() is threading.main_thread()
    moves = main and sys.stdout.isatty() and out.is_interactive
    bar = Progress(*columns, console=out, transient=True, disable=not moves)
    bar.add_task(description, total=total)
    if not moves:
        yield bar
        return
    with bar:
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
            _tool_errors(result),
            f"{result['response_tokens']:.0f}",
        )
    return table


def benchmark_table(results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A row per benchmark: its problems and samples, avg@k, pass@k and maj@k with intervals, tool calls and length."""
    table = Table(title=title)
    table.add_column("benchmark")
    for name in ("problems", "k", "avg@k", "pass@k", "maj@k", "tool calls", "tool errors", "tokens"):
        table.add_column(name, justify="right")
    for label, result in results.items():
        table.add_row(
            label,
            f"{result['tasks']:,}",
            str(result["k"]),
            *(with_interval(result, metric) for metric in ("avg_at_k", "pass_at_k", "maj_at_k")),
            f"{result['tool_calls']:.2f}",
            _tool_errors(result),
            f"{result['response_tokens']:.0f}",
        )
    return table


def _tool_errors(result: Mapping[str, Any]) -> str:
    """The share of calls that failed; a dash where the calls themselves are shown as 0.00, a share of hardly any."""
    return f"{result['tool_error_rate']:.1%}" if result["tool_calls"] >= 0.005 else "-"


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A plain table of strings and numbers."""
    table = Table(title=title)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def profile_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Where the time went, a row per phase; rates are estimates (`models.meter`), shares are of the measured peaks."""
    columns = ("phase", "seconds", "share", "tokens", "tokens/s", "GFLOP/s", "of peak", "GB/s", "of peak")
    cells = [
        (
            row["phase"],
            f"{row['seconds']:.2f}",
            f"{row['share']:.1%}",
            row["tokens"] or "",
            f"{row['tokens_per_second']:.0f}" if row["tokens"] else "",
            f"{row['gflop_per_second']:.0f}" if row["gflop_per_second"] else "",
            f"{row['share_of_product_peak']:.1%}" if row["gflop_per_second"] else "",
            f"{row['gbyte_per_second']:.1f}" if row["gbyte_per_second"] else "",
            f"{row['share_of_copy_peak']:.1%}" if row["gbyte_per_second"] else "",
        )
        for row in rows
    ]
    table = rows_table("where the time went", columns, cells)
    table.columns[0].no_wrap = True  # a narrow terminal folds figures, never the phases' names
    return table


def methods_table(rows: Sequence[Sequence[str]]) -> Table:
    """One entry per method: name and paper, what it needs, its knobs with their defaults."""
    table = Table(title="methods", show_lines=True)
    for heading in ("method", "paper", "needs", "knobs and defaults"):
        table.add_column(heading, overflow="fold")
    for name, paper, needs, shown, _ in rows:
        table.add_row(name, paper, needs, shown)
    table.caption = (
        "with every method: loss_aggregation=token-mean, divergence=null (the sampled estimator), "
        "clip_low=0.2, clip_high=0.28, dual_clip=null (none)"
    )
    return table
