"""`sod plan`: the memory of a run before anything of it is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from sod.cli.options import Overrides
from sod.cli.unread import refuse_unread
from sod.report.console import notice, out, rows_table

EXAMPLES = """Examples:

- `sod plan recipes/smollm2-gsm8k.yaml`
- `sod plan recipes/smollm2-gsm8k.yaml optim.recompute=true`
- `sod plan recipes/smollm2-gsm8k.yaml --sft`"""


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")],
    overrides: Overrides = None,
    sft: Annotated[bool, typer.Option("--sft", help="Of `sod sft` instead of `sod train`.")] = False,
) -> None:
    """Tell how much memory a run takes, and what to change where that is too much.

    Reads the models' configurations, not their weights. The figures are those of the longest texts that the recipe
    allows. Ends with 1 where the run does not fit.
    """
    from sod.build.recipe import read_recipe

    refuse_unread("sft" if sft else "train", overrides or [])
    spec = read_recipe(recipe, overrides or (), notice)
    from sod.preflight.advice import advised, beyond  # slow to import: what is wrong with the recipe is told before it
    from sod.preflight.devices import free_bytes
    from sod.preflight.estimate import estimated, readable
    from sod.preflight.step import step_lines
    from sod.preflight.words import advice_rows, part_rows, peak_text, size_text

    spec = readable(spec, sft, notice)
    estimate = estimated(spec, sft)
    free = {device: free_bytes(device) for device in estimate.devices}
    for device in estimate.devices:
        out.print(rows_table(f"memory on {device}", ("what", *estimate.phases), part_rows(estimate, device)))
    out.print(peak_text(estimate, free), markup=False)
    if not sft and not beyond(estimate, free):  # what does not fit takes no time
        for line in step_lines(spec):
            out.print(line, markup=False)
    missing = beyond(estimate, free)
    if not missing:
        return
    out.print(f"it does not fit: {size_text(missing)} too much", markup=False)
    advice = advised(spec, sft, free)
    if advice:
        out.print(rows_table("any one of these makes it fit", ("set", "price"), advice_rows(advice)))
    else:
        out.print("no key makes it fit: take a smaller model, or a machine with more memory", markup=False)
    raise typer.Exit(1)
