"""Whole runs, one after the other, as a process of several: `python runs.py FILE`, started once for each rank.

FILE lists the runs, `[[recipe, directory], ...]`, those of `sod sft` with `"sft"` behind that; a directory where a run
stands already is gone on with. What is told is in a file `told` beside each directory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.cli.ranks import end_rank
from sod.models.ranks import Ranks
from sod.recipe import Recipe
from sod.records import SodError
from sod.runlog import RunLog


def trained(content: Mapping[str, Any], directory: Path, ranks: Ranks, command: str = "train") -> list[str]:
    """Run a recipe to its end; what was told, and why it ended where it did not reach it."""
    told: list[str] = []
    notice: Callable[[str], None] = told.append
    prepare = prepare_sft if command == "sft" else prepare_train
    resume = ranks.shared(lambda: RunLog.is_at(directory))
    try:
        with closing(prepare(Recipe.model_validate(content), directory, resume, notice, ranks)) as job:
            job.start([])
    except SodError as error:
        told.append(f"{type(error).__name__}: {error}")
    return told


def main(file: str) -> None:
    """Meet the other ranks, and run all runs with them."""
    from sod.models.parallel import join, leave

    torch.set_num_threads(1)
    ranks = join()
    for content, directory, *command in json.loads(Path(file).read_text()):
        told = ranks.everybodys(trained(content, Path(directory), ranks, *command))
        if ranks.first:
            Path(f"{directory}-told.json").write_text(json.dumps(told))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_rank(0)
