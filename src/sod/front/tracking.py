"""The recipe's trackers, open while a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sod.recipe import Recipe, resolved

if TYPE_CHECKING:
    from sod.report.trackers import Tracker


@contextmanager
def trackers(spec: Recipe, run_name: str, directory: Path, shared: Path) -> Iterator[list[Tracker]]:
    """The trackers of the recipe as run `run_name` of the project; see `open_tracker` for the two directories."""
    from sod.report.trackers import PROJECT, open_tracker

    with ExitStack() as stack:  # what was opened is finished, also when the next one fails to open
        opened = []
        for name in spec.trackers:
            opened.append(open_tracker(name, PROJECT, run_name, directory / "trackers" / name, resolved(spec), shared))
            stack.callback(opened[-1].finish)
        yield opened
