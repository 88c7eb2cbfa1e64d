"""Two evaluations beside each other on the terminal: `sod eval --compare A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sod.records import SodError
from sod.report.console import notice, out
from sod.report.evaluations import comparison_table, named_problems
from sod.runlog import write_json_atomic

FILE = "comparison.json"


def show_comparison(first: Path, second: Path, to: Path | None) -> None:
    """Print how the second evaluation differs from the first, and write it into a directory where one is named.

    Raises SodError for two that cannot be compared, and for a directory that has a comparison.
    """
    from sod.evaluation.versus import compared

    if to is not None and (to / FILE).exists():
        raise SodError(f"{to / FILE}: is there already, and nothing is overwritten; choose another --out")
    found = compared(first, second)
    for remark in found.remarks:
        notice(remark)
    if found.left_out:
        notice(f"{found.left_out} problems lost a sample to a fault in one of the two, and are left out")
    figures: dict[str, Any] = found.as_dict()
    title = f"{first} and {second}, {len(found.problems)} problems"
    out.print(comparison_table(figures["figures"], found.k, title))
    test = "McNemar's exact test" if found.k == 1 else "the exact sign-flip test"
    out.print(f"95% intervals over problems; p of {test}, paired by problem", markup=False)
    for which, ids in (("first", figures["only_first"]), ("second", figures["only_second"])):
        out.print(f"solved by the {which} alone: {len(ids)}: {named_problems(ids)}", markup=False)
    if to is not None:
        write_json_atomic(to / FILE, {"first": str(first), "second": str(second), **figures})
        out.print(f"written to {to / FILE}", markup=False)
