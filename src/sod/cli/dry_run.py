"""`--dry-run`: the processes of a run, told and not started."""

from __future__ import annotations

import sys

from sod.cli.ranks import refuse_unfit_count
from sod.recipe import Recipe
from sod.report.console import notice, out, rows_table

COLUMNS = ("process", "devices", "memory", "address")


def show_processes(recipe: Recipe) -> None:
    """Print the processes of `sod train` for this recipe. Raises SodError for what would keep it from starting."""
    from sod.preflight.processes import processes

    refuse_unfit_count(recipe)
    own = ["sod", *(word for word in sys.argv[1:] if word != "--dry-run")]
    found = processes(recipe, own, notice)
    out.print(rows_table("processes", COLUMNS, [(one.name, one.devices, one.memory, one.address) for one in found]))
    for one in found:
        if one.command:
            out.print(f"{one.name}: {one.command}", markup=False, soft_wrap=True)
    out.print("nothing was started", markup=False)
