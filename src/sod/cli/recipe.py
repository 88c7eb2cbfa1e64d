"""`sod recipe`: what the keys of a recipe mean, for people and for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sod.records import SodError
from sod.report.console import facts, out, rows_table

recipe_app = typer.Typer(no_args_is_help=True, help="What the keys of a recipe mean, for people and for editors.")

EXPLAIN_EXAMPLES = """Examples:

- `sod recipe explain rollout.samples`
- `sod recipe explain optim`
- `sod recipe explain method.epsilon`"""
SCHEMA_EXAMPLES = """Examples:

- `sod recipe schema --out sod.schema.json`
- `sod recipe schema`"""


@recipe_app.command(epilog=EXPLAIN_EXAMPLES)
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, e.g. optim.lr, a section, or method.KNOB.")],
) -> None:
    """Tell what a key means: type, default and bounds, and whether a resumed run may change it."""
    from sod.build.explained import explained_key

    found = explained_key(key)
    facts(found.key, found.facts)
    if found.below:
        out.print(rows_table(f"keys of {found.key}", ("key", "type", "default", "what"), found.below))


@recipe_app.command(epilog=SCHEMA_EXAMPLES)
def schema(
    to: Annotated[Path | None, typer.Option("--out", help="File to write; none: print it.")] = None,
) -> None:
    """Write the JSON schema of recipes, by which editors complete keys, explain them and mark mistakes.

    Where a recipe's first line is `# yaml-language-server: $schema=sod.schema.json`, editors with the YAML language
    server find it.
    """
    from sod.build.schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2, allow_nan=False) + "\n"
    if to is None:
        out.print(text, markup=False, end="")
        return
    if to.is_dir():
        raise SodError(f"{to}: a folder; name a file with --out, e.g. sod.schema.json")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    out.print(f"written to {to}", markup=False)
