"""A run of ours as data: its files of episodes, and the prompts that those of format 1 lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.bounded import read_yaml_file
from sod.records import Message, SodError, Task
from sod.tasks.formats.base import Row
from sod.tasks.formats.sft_trajectory import is_trajectory
from sod.tasks.loaded import Loaded

RECIPE = "recipe.yaml"
TRAJECTORIES, GENERATIONS = "trajectories", "generations.jsonl"


def episode_files(source: str) -> list[str]:
    """The files that a run directory (or its `trajectories/`) holds of its episodes, in the order of its steps.

    The source itself where it is no directory. Raises SodError for a directory without episodes.
    """
    directory = Path(source)
    if not directory.is_dir():
        return [source]
    steps = [*directory.glob(f"{TRAJECTORIES}/step-*.jsonl"), *directory.glob("step-*.jsonl")]
    files = sorted(steps) or [path for path in [directory / GENERATIONS] if path.is_file()]
    if not files:
        raise SodError(
            f"{source}: a directory without episodes of a run (trajectories/step-*.jsonl, {GENERATIONS}); "
            "name a data file, or set train.trajectories_every in the run"
        )
    return list(map(str, files))


def with_prompts(
    rows: Sequence[tuple[int, Row]], file: str, load_tasks: Callable[[str, str], Loaded[Task]]
) -> list[tuple[int, Row]]:
    """The rows of a file of episodes, each with its prompt: those of format 1 take it from the run's own tasks.

    A row whose task is not found stays without one.
    """
    if not any(is_trajectory(row) and not row.get("prompt") for _, row in rows):
        return list(rows)
    prompts = _prompts_of(Path(file).resolve(), load_tasks)
    known = [(number, row, prompts.get(str(row.get("task_id")))) for number, row in rows]
    return [(n, row if prompt is None or row.get("prompt") else row | {"prompt": prompt}) for n, row, prompt in known]


def _prompts_of(file: Path, load_tasks: Callable[[str, str], Loaded[Task]]) -> Mapping[str, Any]:
    """Task id -> prompt, of the tasks that the run of an episode file trains and is validated on."""
    run = next((parent for parent in list(file.parents)[:3] if (parent / RECIPE).is_file()), None)
    if run is None:
        return {}
    prompts: dict[str, Any] = {}
    try:
        data = read_yaml_file(run / RECIPE)["data"]
        for key in ("validation", "train"):
            if data.get(key) is not None:
                for task in load_tasks(str(data[key]), str(data.get("split", "train"))).items:
                    prompts[task.id] = [_as_row(message) for message in task.prompt]
    except (SodError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return prompts  # the data have moved; the rows say that their prompts were not found
    return prompts


def _as_row(message: Message) -> Row:
    return {"role": message.role, "content": message.content}
