"""A run of ours as data: its files of episodes, and the prompts that those of format 1 lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from sod.bounded import read_yaml_file
from sod.records import SodError, Task
from sod.tasks.formats.base import Fields
from sod.tasks.formats.sft_trajectory import is_trajectory
from sod.tasks.loaded import Loaded
from sod.tasks.sources import Source, names_of

RECIPE = "recipe.yaml"
TRAJECTORIES, GENERATIONS = "trajectories", "generations.jsonl"


def with_episode_files(source: Source) -> Source:
    """A source in which every run directory is the files that it holds of its episodes, in the order of its steps.

    Raises SodError for a run without episodes.
    """
    files = [file for name in names_of(source) for file in _episode_files(name)]
    return files[0] if len(files) == 1 else files


def _episode_files(name: str) -> list[str]:
    directory = Path(name)
    generations = directory / GENERATIONS
    if generations.is_file():
        return [str(generations)]
    if not (directory / RECIPE).is_file():
        return [name]
    files = sorted((directory / TRAJECTORIES).glob("step-*.jsonl"))
    if not files:
        raise SodError(
            f"{name}: a run without episodes in {TRAJECTORIES}/; name one that wrote some (train.trajectories_every), "
            "or a data file"
        )
    return list(map(str, files))


@final
class OwnPrompts:
    """The prompts that episodes of format 1 were not written with: those of their run's tasks, found by its recipe.

    They are looked up when the first such row is read.
    """

    def __init__(self, source: Source, load_tasks: Callable[[Source, str], Loaded[Task]]) -> None:
        self._source = source
        self._load = load_tasks
        self._prompts: dict[str, Any] | None = None

    def fill(self, fields: Fields) -> None:
        """Give a row its prompt, if it is an episode that has none and whose task is found."""
        if not is_trajectory(fields.row) or fields.row.get("prompt"):
            return
        if self._prompts is None:
            runs = dict.fromkeys(run for name in names_of(self._source) for run in _run_of(Path(name)))
            self._prompts = {id: prompt for run in runs for id, prompt in self._of_run(run)}
        prompt = self._prompts.get(str(fields.row["task_id"]))
        if prompt is not None:
            fields.row = {**fields.row, "prompt": prompt}

    def _of_run(self, run: Path) -> Iterator[tuple[str, Any]]:
        try:
            data = read_yaml_file(run / RECIPE)["data"]
            held_out = data.get("validation")
            sets = list(held_out.values()) if isinstance(held_out, dict) else [held_out]
            named = [source for source in (*sets, data.get("train")) if source is not None]
            split = str(data.get("split", "train"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # no recipe of ours; the rows say that their prompts were not found
        for source in named:
            try:
                tasks = self._load(source, split).items
            except SodError:
                continue  # the data have moved since
            for task in tasks:
                yield task.id, [{"role": message.role, "content": message.content} for message in task.prompt]


def _run_of(file: Path) -> Iterator[Path]:
    """The run directory that a file of episodes lies in."""
    for parent in list(file.absolute().parents)[:3]:
        if (parent / RECIPE).is_file():
            yield parent
            return
