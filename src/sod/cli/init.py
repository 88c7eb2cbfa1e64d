"""`sod init`: a recipe of one's own, from one that comes with the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sod.recipe import shipped_file, shipped_names
from sod.records import SodError
from sod.report.console import out

EXAMPLES = """Examples:

- `sod init`
- `sod init quickstart --out my-recipe.yaml`"""


def init(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the recipe; none: list them.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="File to write; default NAME.yaml in this folder.")] = None,
) -> None:
    """Write a recipe that comes with sod into a file, to be changed and run."""
    if name is None:
        out.print("recipes that come with sod; `sod init NAME` writes one into this folder:", markup=False)
        for each in shipped_names():
            out.print(f"  {each}", markup=False)
        return
    text = shipped_file(name).read_text(encoding="utf-8")
    target = to or Path(f"{name}.yaml")
    text = text.replace(f"recipes/{name}.yaml", str(target))  # commands in its head mean the copy
    _write_new(target, text)
    out.print(f"written to {target}; next:", markup=False)
    for command in re.findall(r"^# +(sod .+)$", text, re.MULTILINE):
        out.print(f"  {command}", markup=False, soft_wrap=True)


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SodError(f"{path}: is there already and is not overwritten; choose another file with --out") from None
