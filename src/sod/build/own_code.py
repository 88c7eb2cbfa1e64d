"""The user's own code of a run, as its manifest records it: which it was, and whether it still is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sod.build.worlds import import_path
from sod.recipe import Notice, Recipe, code_in
from sod.usercode import load, name_of, source_hash


def code_rows(recipe: Recipe) -> list[dict[str, str]]:
    """Every piece of it: its key, its name, and the SHA-256 of its source; it is imported for that.

    Raises SodError as `usercode.load`.
    """
    rows = []
    for key, value in code_in(recipe):
        thing = load(import_path(value) if key == "environment.call" else value, Path.cwd(), key)
        rows.append({"key": key, "name": name_of(thing), "source_sha256": source_hash(thing)})
    return rows


def tell_changed(manifest: Mapping[str, Any], recipe: Recipe, where: Path, notice: Notice) -> None:
    """Tell of code that is not what the run in `where` recorded: what is computed with it may be something else."""
    held = manifest.get("code", [])
    rows = [row for row in held if isinstance(row, Mapping)] if isinstance(held, list) else []
    recorded = {row.get("key"): row.get("source_sha256") for row in rows}
    for row in code_rows(recipe) if recorded else []:
        if recorded.get(row["key"], row["source_sha256"]) != row["source_sha256"]:
            notice(f"{where}: {row['key']}: the source of {row['name']} has changed since this run was started")
