"""`sod compare`: parses and calls, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sod.cli.options import Overrides
from sod.cli.unread import refuse_unread
from sod.records import SodError
from sod.report.console import notice, out, rows_table

EXAMPLES = """Examples:

- `sod compare recipes/compare-chain.yaml --methods start,opd,sod --seeds 0-4 --jobs 2`
- `sod compare recipes/compare-chain.yaml --report-only`"""
WHERE = "What is written where"


def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe with a world and a compare section.")],
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option("--methods", help="Names, e.g. vanilla,start,opd,sod.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, e.g. 0,1,2 or 0-4.")] = "0-4",
    to: Annotated[
        Path | None, typer.Option("--out", rich_help_panel=WHERE, help="Results; default runs/comparisons/NAME.")
    ] = None,
    work: Annotated[Path, typer.Option("--work", rich_help_panel=WHERE, help="Worlds and run directories.")] = Path(
        "runs/compare"
    ),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time; they share the cores.")] = 1,
    only_report: Annotated[bool, typer.Option("--report-only", help="Only report on what --out holds.")] = False,
) -> None:
    """Methods against each other over many seeds, each at its best learning rate, with intervals.

    `vanilla`, `start` and `teacher` are the models of the world: the student without and with its cold start, and
    the teacher. The same command goes on where it was stopped; finished results are never made again.
    """
    from sod.build.recipe import read_recipe
    from sod.compare.study import compare as run_all
    from sod.compare.study import parse_methods, parse_seeds, refuse_worldless, report_only

    refuse_unread("compare", overrides or [])
    spec = read_recipe(recipe, overrides or (), notice)
    target = to or Path("runs") / "comparisons" / spec.name
    if not only_report:
        refuse_worldless(spec)
    if not methods and not only_report:
        raise SodError("--methods is missing: name them, e.g. --methods start,opd,sod")
    names = parse_methods(methods) if methods else []
    if only_report:
        summary = report_only(spec, names, target)
    else:
        summary = run_all(spec, names, parse_seeds(seeds), target, work, jobs, _tell)
    out.print(_table(summary))
    out.print(f"tables in {target}/summary.md, figures in {target}/comparison.png", markup=False)


def _tell(line: str) -> None:
    out.print(line, markup=False)


def _table(summary: Mapping[str, Any]) -> Any:
    columns = ("method", "seeds", f"avg@{summary['k']}", "95% interval", "tool errors", "tokens", "learning rate")
    rows = []
    for name, row in summary["methods"].items():
        score = row["avg_at_k"]
        interval = "-" if score["ci95"] is None else "{:.3f} to {:.3f}".format(*score["ci95"])
        rates = f"{row['tool_error_rate']['mean']:.1%}", f"{row['response_tokens']['mean']:.0f}"
        lr = "-" if row["lr"] is None else f"{row['lr']:g}"
        rows.append((name, score["n"], f"{score['mean']:.3f}", interval, *rates, lr))
    return rows_table(f"{summary['recipe']}: {summary['tasks']} test tasks per seed", columns, rows)
