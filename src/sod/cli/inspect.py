"""`sod data inspect`: what a data file is to a run, before anything of it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sod.cli.options import Overrides
from sod.recipe import Recipe, apply_overrides, parse_recipe
from sod.records import SodError
from sod.report.console import facts, notice, out, progress, shown_parts

if TYPE_CHECKING:
    from sod.chat.render import Chat

EXAMPLES = """Examples:

- `sod data inspect tasks.parquet`
- `sod data inspect tasks.jsonl reward.verifier=choice --rows 1`
- `sod data inspect sft.jsonl --recipe recipes/quickstart.yaml`"""
NO_MODEL = "none"
"""The student of a recipe that nobody gave: there is no tokenizer."""


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A data file (parquet, JSONL, JSON), or a hub id.")],
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Read and rendered as this recipe says, with its student's tokenizer."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to show.")] = 3,
    kind: Annotated[
        Literal["tasks", "sft"] | None,
        typer.Option("--as", help="RL tasks or SFT conversations; default: what its rows are."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show the rows whole, however long.")] = False,
) -> None:
    """Show what a run makes of a data file: what is used, what is not, and rows as the model will see them.

    Of tasks the prompt, with the truth as the verifier reads it; of conversations what carries loss, between ⟦ and ⟧.
    Without a recipe or a student.path there is no tokenizer, and rows are text. Ends with 1 where no row can be used.
    """
    from sod.build.inspection import inspected

    spec = _recipe(recipe, overrides or [])
    chat = None if spec.student.path == NO_MODEL else _chat_or_none(spec)
    with progress("reading", total=0, unit="rows") as bar:
        task = bar.task_ids[0]
        found = inspected(
            file, spec, chat, rows, kind, lambda done, total: bar.update(task, completed=done, total=total)
        )
    facts(file, found.facts)
    for row in found.rows:
        out.print()
        out.print(row.title, markup=False, style="bold")
        out.print(shown_parts([(part.text, part.loss) for part in row.parts], full))


def _recipe(path: str | None, overrides: list[str]) -> Recipe:
    if path is not None:
        from sod.build.recipe import read_recipe

        return read_recipe(path, overrides, notice)
    plain = {"student": {"path": NO_MODEL}}
    return parse_recipe(apply_overrides(plain, overrides, "the command line", notice), "the command line")


def _chat_or_none(spec: Recipe) -> Chat | None:
    """The renderer of the recipe's student; None, which is told, where its tokenizer cannot be had."""
    from sod.build.job import final_model
    from sod.build.vocabulary import chat_of

    try:
        return chat_of(spec, final_model(spec.student.path, notice), notice)
    except SodError as error:
        notice(f"{error}; going on with text alone")
        return None
