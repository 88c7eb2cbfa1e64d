"""Whole runs, one after the other, as a process of several: `python runs.py FILE`, started once for each rank.

FILE lists the runs, `[[recipe, directory], ...]`; what is told is in a file `told` beside each directory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from sod.build.training import prepare_train
from sod.models.ranks import Ranks
from sod.recipe import Recipe
from sod.records import SodError


def trained(content: Mapping[str, Any], directory: Path, ranks: Ranks) -> list[str]:
    """Run a recipe to its end; what was told, and why it ended where it did not reach it."""
    told: list[str] = []
    notice: Callable[[str], None] = told.append
    try:
        with closing(prepare_train(Recipe.model_validate(content), directory, False, notice, ranks)) as job:
            job.start([])
    except SodError as error:
        told.append(f"{type(error).__name__}: {error}")
    return told


def main(file: str) -> None:
    """Meet the other ranks, and run all runs with them."""
    from sod.models.parallel import join, leave

    torch.set_num_threads(1)
    ranks = join()
    for content, directory in json.loads(Path(file).read_text()):
        told = ranks.everybodys(trained(content, Path(directory), ranks))
        if ranks.first:
            Path(f"{directory}-told.json").write_text(json.dumps(told))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
