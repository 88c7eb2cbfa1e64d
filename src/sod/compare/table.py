"""A comparison of methods as `summary.json`, `summary.md` and `comparison.png`. No torch here.

Cells are the results that `sod compare` writes, one per method and seed. Differences are paired by seed: how hard its
tasks are, or what was drawn with it, is common to all methods.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sod.compare.pairs import FEATURED, Cell, differences
from sod.evaluation.statistics import Spread, spread
from sod.report.curves import COLOURS, DPI, GRID, SMOOTH_FROM, WIDTH, smooth, style
from sod.runlog import write_bytes_atomic, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = ("avg_at_k", "tool_error_rate", "response_tokens")
BANDS = 4
PANELS = {"accuracy": "accuracy while training", "tool_error_rate": "tool errors while training (share of calls)"}


def write_comparison(
    out: Path,
    title: str,
    cells: Sequence[Cell],
    trials: Sequence[Cell],
    methods: Sequence[str],
    untrained: Sequence[str],
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the three files below `out` and return the summary; `methods` come first, in their order.

    `own` is what there is to say of a comparison without a world.

    Raises ValueError without a cell.
    """
    present = list(dict.fromkeys([*methods, *sorted(cell["method"] for cell in cells)]))
    present = [name for name in present if any(cell["method"] == name for cell in cells)]
    summary = summarise(title, cells, trials, present, untrained, own)
    write_json_atomic(out / "summary.json", summary)
    write_text_atomic(out / "summary.md", as_markdown(summary))
    draw_comparison(out / "comparison.png", summary, cells)
    return summary


def summarise(
    title: str,
    cells: Sequence[Cell],
    trials: Sequence[Cell],
    methods: Sequence[str],
    untrained: Sequence[str],
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the tables say, JSON-able. Raises ValueError without a cell."""
    if not cells:
        raise ValueError("no cells")
    scores = {name: _by_seed(cells, name, "avg_at_k") for name in methods}
    tried = {name: _tried(trials, name) for name in methods if _tried(trials, name)}
    table = {}
    for name in methods:
        mine = [cell for cell in cells if cell["method"] == name]
        spreads = {key: spread(list(_by_seed(cells, name, key).values())).as_dict() for key in FIGURES}
        lr = mine[0]["lr"]
        table[name] = {
            "seeds": sorted(cell["seed"] for cell in mine),
            **spreads,
            "steps": mine[0]["steps"],
            "lr": lr,
            "lr_at_edge": name in tried and lr in (min(tried[name]), max(tried[name])),
        }
    trained = [name for name in methods if name not in untrained]
    return {
        "recipe": title,
        "recipe_sha256": cells[0]["recipe_sha256"],
        "k": cells[0]["figures"]["k"],
        "tasks": max(cell["figures"]["tasks"] for cell in cells),
        "seeds": sorted({cell["seed"] for cell in cells}),
        "faults": sum(cell["figures"]["faults"] for cell in cells),
        "git": sorted({_revision(cell) for cell in [*cells, *trials]}),
        "threads": sorted({cell["threads"] for cell in cells}),
        "source_states": len({json.dumps(cell.get("sources", {}), sort_keys=True) for cell in [*cells, *trials]}),
        "own": None if own is None else dict(own),
        "methods": table,
        "differences": differences(cells, scores, trained, own is not None),
        "trials": {name: {f"{lr:g}": value for lr, value in rates.items()} for name, rates in tried.items()},
    }


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The tables for a reader, with what must be known to read them."""
    k, seeds = summary["k"], summary["seeds"]
    lines = [
        f"# {summary['recipe']}: {len(summary['methods'])} methods, {len(seeds)} seeds",
        "",
        *_setting_lines(summary),
        "",
        f"| method | seeds | avg@{k} | 95% interval | min to max | tool errors | response tokens | learning rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary["methods"].items():
        score, errors, tokens = row["avg_at_k"], row["tool_error_rate"]["mean"], row["response_tokens"]["mean"]
        lr = "-" if row["lr"] is None else f"{row['lr']:g}" + (" (edge)" if row["lr_at_edge"] else "")
        lines.append(
            f"| {name} | {score['n']} | {score['mean']:.3f} | {_interval(score)} | {score['low']:.3f} to "
            f"{score['high']:.3f} | {errors:.1%} | {tokens:.0f} | {lr} |"
        )
    if summary["differences"]:
        lines += ["", *_difference_lines(summary)]
    if summary["trials"]:
        lines += ["", *_trial_lines(summary)]
    lines += ["", _provenance(summary), ""]
    return "\n".join(lines)


def _setting_lines(summary: Mapping[str, Any]) -> list[str]:
    """What was measured on what."""
    k, tasks, own = summary["k"], summary["tasks"], summary["own"]
    interval = "with the 95% t-interval over seeds (a single seed has none)"
    if own is None:
        return [
            f"Mean avg@{k} on {tasks} held-out test tasks per seed, {interval}. "
            "Every seed is a world of its own: tasks, teacher and student."
        ]
    lines = [
        f"Mean avg@{k} on {tasks} tasks ({own['test']}), {interval}. All seeds have the same student and teacher; a "
        "seed decides the order of the training tasks, which test tasks are drawn where there are more, and everything "
        "that is sampled.",
    ]
    if own["also_tuned_on"]:
        lines += ["", "The learning rates were chosen on tasks of the same source, which flatters all trained methods."]
    return lines


def _difference_lines(summary: Mapping[str, Any]) -> list[str]:
    by_task = any("by_task" in row for row in summary["differences"])
    lines = [
        f"Differences in avg@{summary['k']}, paired by seed. The intervals are each for one pair, not corrected for "
        "how many there are.",
    ]
    if by_task:
        lines.append("The last column pairs by task, over which it is the interval, with seeds averaged.")
    more = (" tasks: 95% interval |", "---|") if by_task else ("", "")
    lines += [
        "",
        f"| method | against | seeds | difference | 95% interval | wins | ties |{more[0]}",
        f"|---|---|---|---|---|---|---|{more[1]}",
    ]
    for row in summary["differences"]:
        against = row["against"] + (" (best other)" if row["picked"] else "")
        shown = f" {_by_task(row)} |" if by_task else ""
        lines.append(
            f"| {row['method']} | {against} | {row['n']} | {row['mean']:+.3f} | {_interval(row, '+')} | "
            f"{row['wins']} of {row['n']} | {row['ties']} |{shown}"
        )
    if any(row["picked"] for row in summary["differences"]):
        lines += [
            "",
            f"The best other method was picked on these same seeds, which biases that row against {FEATURED}.",
        ]
    return lines


def _by_task(row: Mapping[str, Any]) -> str:
    found = row.get("by_task")
    return "-" if found is None else f"{found['n']}: {_interval(found, '+')}"


def _trial_lines(summary: Mapping[str, Any]) -> list[str]:
    rates = list(dict.fromkeys(rate for row in summary["trials"].values() for rate in row))
    lines = [
        f"Learning rates: avg@{summary['k']} on validation tasks of the tuning seed, which takes no part above. "
        "`edge`: the best one tried is the smallest or the largest, so a better one may lie beyond.",
        "",
        f"| method | {' | '.join(rates)} |",
        "|---" * (len(rates) + 1) + "|",
    ]
    for name, row in summary["trials"].items():
        chosen = summary["methods"][name]["lr"]
        shown = [_trial_cell(row, rate, bold=rate == f"{chosen:g}") for rate in rates]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def _trial_cell(scores: Mapping[str, float | None], rate: str, bold: bool) -> str:
    """avg@k of one learning rate, `diverged`, or `-` where it was not tried."""
    if rate not in scores:
        text = "-"
    else:
        score = scores[rate]
        text = "diverged" if score is None else f"{score:.3f}"
    return f"**{text}**" if bold else text


def _provenance(summary: Mapping[str, Any]) -> str:
    threads = ", ".join(str(count) for count in summary["threads"])
    text = (
        f"Recipe sha256 {summary['recipe_sha256'][:12]}, code {', '.join(summary['git'])}, threads per run {threads}, "
        f"{summary['faults']:.0f} evaluation episodes lost to faults."
    )
    if len(summary["git"]) > 1:
        text += " The cells were made with more than one state of the code."
    if summary["source_states"] > 1:
        text += " They were made from more than one state of the user's own code, models or data."
    return text


def _interval(value: Mapping[str, Any], sign: str = "") -> str:
    if value["ci95"] is None:
        return "-"
    low, high = value["ci95"]
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def _by_seed(cells: Sequence[Cell], method: str, key: str) -> dict[int, float]:
    return {cell["seed"]: float(cell["figures"][key]) for cell in cells if cell["method"] == method}


def _tried(trials: Sequence[Cell], method: str) -> dict[float, float | None]:
    """avg@k on validation tasks by learning rate, None where the run diverged."""
    own = sorted((trial for trial in trials if trial["method"] == method), key=lambda trial: float(trial["lr"]))
    return {trial["lr"]: trial["figures"]["avg_at_k"] if trial["figures"] else None for trial in own}


def _revision(cell: Cell) -> str:
    git = cell["git"]
    return f"{(git['revision'] or 'unknown')[:12]}{'+changes' if git['dirty'] else ''}"


def draw_comparison(path: Path, summary: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """A dot plot of avg@k (mean, interval, single seeds) beside the training curves (means over seeds).

    Up to `BANDS` curves have a band from minimum to maximum; more of them would hide each other.

    The bytes depend on the arguments only. Raises SodError if `path` cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    methods = list(summary["methods"])
    trained = sum(row["steps"] > 0 for row in summary["methods"].values())
    looks = {name: _look(number) for number, name in enumerate(methods)}
    with rc_context(style()):
        figure = Figure(figsize=(WIDTH, max(3.6, 1.6 + 0.3 * len(methods))), dpi=DPI, layout="constrained")
        count = len(summary["seeds"])
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        figure.suptitle(f"{summary['recipe']}: {seeds}", x=0.012, ha="left", fontsize=13, fontweight="bold")
        dots, *curves = figure.subplots(1, 3)
        _draw_dots(dots, summary, {name: _by_seed(cells, name, "avg_at_k") for name in methods}, looks)
        for axes, (key, title) in zip(curves, PANELS.items(), strict=True):
            axes.set_title(title)
            axes.set_xlabel("optimizer step")
            axes.locator_params(axis="x", integer=True)
            for name in methods:
                own = [cell["curve"] for cell in cells if cell["method"] == name]
                _draw_curve(axes, name, own, key, looks[name], band=trained <= BANDS)
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
        if handles := curves[0].get_legend_handles_labels()[0]:
            figure.legend(handles=handles, loc="outside right center")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_bytes_atomic(path, picture.getvalue())


def _look(number: int) -> dict[str, Any]:
    """Colours first, then the same ones dashed and dotted."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3]}


def _draw_dots(
    axes: Axes,
    summary: Mapping[str, Any],
    scores: Mapping[str, Mapping[int, float]],
    looks: Mapping[str, Mapping[str, Any]],
) -> None:
    axes.set_title(f"avg@{summary['k']} on test tasks")
    axes.set_xlabel("mean over seeds, 95% interval, single seeds")
    for row, (name, by_seed) in enumerate(scores.items()):
        value = Spread(**summary["methods"][name]["avg_at_k"])
        colour = looks[name]["color"]
        if value.ci95 is not None:
            axes.plot(value.ci95, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(list(by_seed.values()), [row + 0.22] * len(by_seed), "o", color=colour, alpha=0.45, markersize=3.5)
        axes.plot([value.mean], [row], "o", color=colour, markersize=7)
    axes.set_yticks(range(len(scores)), labels=list(scores))
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_curve(
    axes: Axes, name: str, curves: Sequence[Mapping[str, Any]], key: str, look: Mapping[str, Any], band: bool
) -> None:
    """The mean over seeds at each step that every seed has a number for; nothing for a method without any."""
    points = [_points(curve, key) for curve in curves if curve]
    steps = sorted(set.intersection(*(set(row) for row in points))) if points else []
    if not steps:
        return
    series = [[row[step] for step in steps] for row in points]
    if len(steps) >= SMOOTH_FROM:
        series = [smooth(values) for values in series]
    columns = list(zip(*series, strict=True))
    axes.plot(steps, [fmean(column) for column in columns], label=name, **look)
    if band and len(series) > 1:
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)


def _points(curve: Mapping[str, Any], key: str) -> dict[int, float]:
    """A figure by step, without the steps at which it has no number."""
    values = zip(curve["step"], curve[key], strict=True)
    return {step: value for step, value in values if value is not None}
