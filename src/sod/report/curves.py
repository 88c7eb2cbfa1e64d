"""The curves of a run as one picture: small multiples over optimizer steps, at README width."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sod.report.metrics import PANELS, PHASE_SECONDS, SECONDS, Panel, drawn_in
from sod.runlog import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[list[int], list[float]]  # steps, values

# Okabe and Ito's colours, which survive colour blindness and grey print, darkest and calmest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#444444")
INK, GRID = "#333333", "#E6E6E6"
DPI = 100
WIDTH, ROW_HEIGHT, TITLE_HEIGHT = 12.0, 2.35, 0.6  # inches
SMOOTH_FROM = 40  # points; shorter series are shown as they are


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the curves of `rows` (metrics rows, each with a `step`) as a PNG at `path`.

    1200 pixels wide, up to four panels a row; a panel whose keys no row holds is left out, and so are
    null and non-finite values. `seconds/<phase>` are stacked. Long series are drawn faint with their
    trend on top. The bytes depend on the arguments only.
    Raises SodError if `path` cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [(panel, _lines(rows, panel)) for panel in PANELS if not panel.stacked]
    panels = [(panel, lines) for panel, lines in drawn if lines]
    phases = _phases(rows)
    count = len(panels) + bool(phases)
    columns = _columns(count)
    height = TITLE_HEIGHT + ROW_HEIGHT * max(math.ceil(count / columns), 1)
    shown = [step for _, lines in panels for steps, _ in lines.values() for step in steps]
    shown += phases[0] if phases else []
    with rc_context(style()):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        grid = [_axes(figure, columns, count, position, shown) for position in range(1, count + 1)]
        for axes, (panel, lines) in zip(grid, panels, strict=False):
            _draw_panel(axes, panel, lines)
        if phases:
            _draw_phases(grid[-1], *phases)
        if grid:
            figure.supxlabel("optimizer step", fontsize=10)
        else:
            figure.text(0.5, 0.45, "no metrics yet", ha="center")
        picture = io.BytesIO()
        # No display, no pyplot state. `savefig` would draw the same picture twice.
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_bytes_atomic(path, picture.getvalue())


def _columns(count: int) -> int:
    """Columns that leave the fewest holes: up to three panels in one row, then three or four a row."""
    if count <= 3:
        return max(count, 1)
    return min((4, 3), key=lambda columns: (-count % columns, -columns))


def _axes(figure: Figure, columns: int, count: int, position: int, steps: Sequence[int]) -> Axes:
    """An empty panel. All panels span the same steps, so that they can be compared by eye."""
    axes = figure.add_subplot(math.ceil(count / columns), columns, position)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    margin = max(0.02 * (max(steps) - min(steps)), 0.5)
    axes.set_xlim(min(steps) - margin, max(steps) + margin)
    axes.locator_params(axis="x", integer=True, nbins=6, min_n_ticks=1)
    axes.yaxis.set_major_formatter("{x:.4g}")  # 1e-06 beside its tick, not a factor above the panel
    return axes


def _draw_panel(axes: Axes, panel: Panel, lines: Mapping[str, Series]) -> None:
    axes.set_title(panel.title)
    metrics = drawn_in(panel)
    for colour, metric in zip(COLOURS, metrics, strict=False):
        if metric.key not in lines:
            continue
        steps, values = lines[metric.key]
        label = metric.drawn_as
        if metric.sparse:
            axes.plot(steps, values, color=colour, label=label, marker="o", markersize=5, linewidth=1.2)
        elif panel.exact or len(values) < SMOOTH_FROM:
            marker = "o" if len(values) == 1 else None  # a line through one point is invisible
            axes.plot(steps, values, color=colour, label=label, marker=marker)
        else:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, smooth(values), color=colour, label=label)
    if panel.from_zero:
        _from_zero(axes, [value for _, values in lines.values() for value in values])
    if len(metrics) > 1:
        axes.legend()


def _draw_phases(axes: Axes, steps: list[int], seconds: Mapping[str, list[float]]) -> None:
    """Seconds per phase, stacked: the top edge is the time of a step."""
    axes.set_title(SECONDS.title)
    if len(steps) == 1:
        bottom = 0.0
        for colour, (phase, values) in zip(_cycle(len(seconds)), seconds.items(), strict=True):
            axes.bar(steps, values, bottom=bottom, color=colour, label=phase, width=0.4)
            bottom += values[0]
    else:
        stack = list(seconds.values())
        if len(steps) >= SMOOTH_FROM:  # a fit may dip below zero beside a rare phase, a stack may not
            stack = [[max(value, 0.0) for value in smooth(values)] for values in stack]
        axes.stackplot(steps, *stack, labels=list(seconds), colors=_cycle(len(seconds)), alpha=0.85, linewidth=0)
    axes.set_ylim(bottom=0.0)
    handles, labels = axes.get_legend_handles_labels()
    # Beside the areas, in their order: top first.
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """Rates, lengths and norms mislead unless their axis starts at zero."""
    if min(values) >= 0.0:
        top = max(values)
        axes.set_ylim(0.0, 1.08 * top if top > 0.0 else 1.0)


def _lines(rows: Sequence[Mapping[str, Any]], panel: Panel) -> dict[str, Series]:
    """The panel's series that have at least one number."""
    found = {metric.key: _series(rows, metric.key) for metric in drawn_in(panel)}
    return {key: series for key, series in found.items() if series[0]}


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """(steps, values) of `key` by step; the last row of a step wins."""
    points = {int(row["step"]): float(row[key]) for row in rows if _is_number(row.get(key))}
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def _phases(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], dict[str, list[float]]] | None:
    """Steps and, for each phase in order of appearance, its seconds (0 where a step has none)."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith(PHASE_SECONDS.key)))
    series = {key: dict(zip(*_series(rows, key), strict=True)) for key in keys}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return None
    steps = sorted({step for points in series.values() for step in points})
    return steps, {
        key.removeprefix(PHASE_SECONDS.key): [points.get(step, 0.0) for step in steps] for key, points in series.items()
    }


def smooth(values: Sequence[float]) -> list[float]:
    """Local linear regression over a tenth of the series (Cleveland 1979, without the weights).

    A moving average would flatten a falling curve at both ends, just where it is read off.
    """
    count, half = len(values), max(len(values) // 20, 1)
    trend = []
    for i in range(count):
        start = min(max(i - half, 0), count - 2 * half - 1)
        x = np.arange(start, start + 2 * half + 1) - i
        y = np.asarray(values[start : start + len(x)])
        slope = ((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum()
        trend.append(float(y.mean() - slope * x.mean()))
    return trend


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def style() -> Any:  # matplotlib's own type for this lists its 300 keys
    """The look of every picture, for `matplotlib.rc_context`."""
    return {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.edgecolor": "#BBBBBB",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.limits": (-3, 4),
        "text.color": INK,
        "text.parse_math": False,  # a dollar in a title is a dollar
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 1.8,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "figure.facecolor": "white",
    }
