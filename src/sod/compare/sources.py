"""What a comparison is made from beside its recipe: the user's own code and, without a world, models and data.

A recipe names them, and what it names can change while the recipe stays as it is. So results say what they were made
from, and those made from something else are made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from sod.build.job import final_model
from sod.build.own_code import code_rows
from sod.recipe import Recipe, code_in
from sod.tasks.sources import Source, files_of
from sod.usercode import is_file

WHOLE = 64 * 2**20
"""Files up to so many bytes are hashed whole; of longer ones, which are weights, the size and both ends."""
END = 2**20


def sources_of(recipe: Recipe) -> dict[str, str]:
    """By its key, the hash of everything that a comparison reads: the same on every machine that has the same.

    Own code that is named by file counts with all of that file, other code with the source of its function or class.
    What is not here (a hub id, a file on another machine) is left out. Raises SodError as `usercode.load`.
    """
    found = {row["key"]: row["source_sha256"] for row in code_rows(recipe)}
    for key, value in code_in(recipe):
        if isinstance(value, str) and is_file(value):
            found[key] = _digest([Path(value.rpartition(":")[0])])
    return found if recipe.world is not None else found | _files(recipe)


def changed_sources(made: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The keys under which a result was made from something else than there is now, where both are known."""
    return [key for key, value in made.items() if now.get(key, value) != value]


def _files(recipe: Recipe) -> dict[str, str]:
    models = {"student.path": recipe.student.path}
    models |= {f"{key}.path": spec.path for key, spec in recipe.local_teachers.items()}
    folders = {key: Path(final_model(path, lambda text: None)) for key, path in models.items()}
    found = {key: _digest(_below(folder)) for key, folder in folders.items() if folder.is_dir()}
    for key, named in _data(recipe).items():
        if files := files_of(named, recipe.data.split):
            found[key] = _digest(files)
    return found


def _data(recipe: Recipe) -> dict[str, Source]:
    data = recipe.data
    named = {"data.train": data.train, "data.validation": data.validation_tasks, "data.sft": data.sft}
    return {
        key: source for key, source in (named | {"compare.test": recipe.compare.test}).items() if source is not None
    }


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _digest(files: Iterable[Path]) -> str:
    """Of the files' contents, in their order."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode("utf-8", "surrogatepass"))
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
            else:
                digest.update(file.read(END))
                file.seek(-END, 2)
                digest.update(file.read())
    return digest.hexdigest()
