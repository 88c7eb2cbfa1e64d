"""`sod compare`: parses and calls, no logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sod.cli.options import AllowCodeOption, Overrides
from sod.cli.unread import refuse_unread, unread_in_comparison
from sod.recipe import Recipe, apply_overrides, parse_recipe, refuse_reaching, resolved
from sod.records import SodError
from sod.report.console import notice, out, rows_table

EXAMPLES = """Examples:

- `sod compare recipes/compare-chain.yaml --methods start,opd,sod --seeds 0-4 --jobs 2`
- `sod compare mine.yaml --methods start,grpo,sod --seeds 0-2 'compare.lrs=[1e-5,1e-4]' compare.test=test.jsonl`
- `sod compare recipes/compare-chain.yaml --report-only`"""
WHERE = "What is written where"


def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or a run directory for that run's.")],
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
    allow_code: AllowCodeOption = False,
) -> None:
    """Methods against each other over many seeds, each at its best learning rate, with intervals.

    With a `world` in the recipe every seed has data, teacher and student of its own; without one all seeds have the
    recipe's, with its tools, rewards and environment. `start` is the student before training, `teacher` the teacher,
    `vanilla` a world's student without its cold start. The same command goes on where it was stopped; finished results
    are made again only where own code, models or data have changed.
    """
    from sod.compare.study import compare as run_all
    from sod.compare.study import parse_methods, parse_seeds, report_only

    given = list(overrides or [])
    spec = _asked(recipe, given, allow_code)
    refuse_unread("compare", given, unread_in_comparison(spec))
    target = to or Path("runs") / "comparisons" / spec.name
    if not methods and not only_report:
        raise SodError("--methods is missing: name them, e.g. --methods start,opd,sod")
    names = parse_methods(methods) if methods else []
    if only_report:
        summary = report_only(spec, names, target)
    else:
        summary = run_all(spec, names, parse_seeds(seeds), target, work, jobs, _tell)
    out.print(_table(summary))
    out.print(f"tables in {target}/summary.md, figures in {target}/comparison.png", markup=False)


def _asked(recipe: str, overrides: Sequence[str], allow_code: bool) -> Recipe:
    """The recipe of a file, or that of a run, which may be anybody's."""
    from sod.build.recipe import read_recipe
    from sod.runlog import RunLog

    if not RunLog.is_at(Path(recipe)):
        return read_recipe(recipe, overrides, notice)
    where = str(Path(recipe) / "recipe.yaml")
    kept = resolved(parse_recipe(RunLog.open(Path(recipe)).recipe(), where))
    spec = parse_recipe(apply_overrides(kept, overrides, where, notice), where)
    if not allow_code:
        refuse_reaching(spec, where, overrides)
    return spec


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
    per_seed = " per seed" if summary["own"] is None else f" ({summary['own']['test']})"
    return rows_table(f"{summary['recipe']}: {summary['tasks']} test tasks{per_seed}", columns, rows)
