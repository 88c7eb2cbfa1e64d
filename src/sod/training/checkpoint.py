"""Checkpoints: whole or not there at all.

A checkpoint is a Hugging Face model directory plus `trainer.pt` and `COMPLETE.json`, which lists every file with its
size. It is written beside its place and renamed into it. `trainer.pt` holds the position, torch's random state and
the state of everything else that goes on, by namespace (`NAMESPACES`). Format 1, of older runs, had the optimizer's and
the teacher's state in one mapping; it is still read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError

from sod.records import SodError
from sod.training.trainer_file import checked_state, read_trainer

COMPLETE = "COMPLETE.json"
TRAINER = "trainer.pt"
FORMAT = 2
NAMESPACES = ("optimizer", "teacher", "engine", "guard")
"""Whose state a checkpoint may hold, each under its name: a part of the run never reads another's."""

State = Mapping[str, Any]
"""State by namespace, as tensors and plain values; a namespace without state is left out."""


@final
@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done (tasks drawn and learning rate follow from it) and whose recipe it is."""

    step: int
    recipe_hash: str


@final
@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from: where its model lies, the steps done, and the state by namespace."""

    directory: Path
    step: int
    state: State


def save(directory: Path, position: Position, state: State, save_model: Callable[[Path], None]) -> None:
    """Write the checkpoint of `position` at `directory`, atomically.

    Raises SodError when it cannot be written: what was there before is untouched and no half is left. Raises ValueError
    for a namespace that does not exist.
    """
    if unknown := set(state) - set(NAMESPACES):
        raise ValueError(f"checkpoint state of {unknown.pop()!r}: the namespaces are {', '.join(NAMESPACES)}")
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_model(partial)
        trainer = {
            "format": FORMAT,
            "step": position.step,
            "recipe_hash": position.recipe_hash,
            "state": dict(state),
            "rng": torch.get_rng_state(),
        }
        with open(partial / TRAINER, "wb") as file:  # given a path, torch would hide the reason of a failure
            torch.save(trainer, file)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        (partial / COMPLETE).write_text(json.dumps({"step": position.step, "files": sizes}, indent=1), encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        _sync(directory.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause)
        reason = "no space left on device; free some" if full else str(cause).strip().splitlines()[0]
        raise SodError(f"{directory}: cannot write the checkpoint: {reason}; earlier checkpoints are kept") from error


def verify(directory: Path) -> int:
    """The step of a complete checkpoint. Raises SodError naming what is missing or cut short."""
    marker = directory / COMPLETE
    advice = f"remove {directory} to go on from an earlier checkpoint"
    try:
        listed = json.loads(marker.read_text(encoding="utf-8"))
        step, sizes = _listed(listed)
    except FileNotFoundError:
        raise SodError(f"{directory}: not a complete checkpoint ({COMPLETE} is missing); {advice}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SodError(f"{marker}: cut short, or not the list of a checkpoint's files; {advice}") from None
    for name, size in sizes.items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else -1
        if found != size:
            state = "is missing" if found < 0 else f"has {found} bytes instead of {size}"
            raise SodError(f"{directory}: checkpoint cut short: {name} {state}; {advice}")
    return step


def _listed(content: Any) -> tuple[int, dict[str, int]]:
    """`(step, size by file name)` as `save` writes them. Raises ValueError, KeyError or TypeError for anything else."""
    step, sizes = content["step"], dict(content["files"])
    if type(step) is not int or step < 0 or any(type(size) is not int for size in sizes.values()):
        raise ValueError("step and sizes are whole numbers")
    for name in sizes:
        if Path(name).name != name or "\0" in name or len(name.encode()) > 255:
            raise ValueError("files lie in the checkpoint's own directory")
    return step, sizes


def load(directory: Path, recipe_hash: str) -> ResumePoint:
    """The state of a checkpoint; also restores torch's random state.

    Raises SodError when it is incomplete, damaged or made up, belongs to another recipe, or was written by a later
    version.
    """
    step = verify(directory)
    path = directory / TRAINER
    trainer = read_trainer(path)
    if trainer.format > FORMAT:
        raise SodError(
            f"{directory}: checkpoint format {trainer.format} is of a later version of sod; resume with that"
        )
    if trainer.recipe_hash != recipe_hash:
        raise SodError(f"{directory}: this checkpoint was written under another recipe; resume with the run's own")
    if trainer.step != step:
        raise SodError(f"{path}: is of step {trainer.step}, the checkpoint of step {step}; remove {directory}")
    found = trainer.content.get("state") if trainer.format == FORMAT else _from_format_1(trainer.content)
    state = checked_state(found, path, NAMESPACES)
    torch.set_rng_state(trainer.rng)
    return ResumePoint(directory, trainer.step, state)


def restore(point: ResumePoint, namespace: str, load: Callable[[Any], None]) -> None:
    """Hand a namespace's state, None where the checkpoint has none, to the `load` of the part that it belongs to.

    Raises SodError where that part cannot use it.
    """
    try:
        load(point.state.get(namespace))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SodError(
            f"{point.directory / TRAINER}: the {namespace}'s state does not fit this run ({said:.200}); remove "
            f"{point.directory} to go on from an earlier checkpoint"
        ) from error


def _from_format_1(content: Mapping[str, Any]) -> Any:
    """What format 1 kept as the optimizer's state held the teacher's too."""
    optimizer = content.get("optimizer")
    if not isinstance(optimizer, dict) or "teacher" not in optimizer:
        return {"optimizer": optimizer}
    own = {key: value for key, value in optimizer.items() if key != "teacher"}
    teacher = optimizer["teacher"]
    return {"optimizer": own} if teacher is None else {"optimizer": own, "teacher": teacher}


def prune(checkpoints: list[tuple[int, Path]], keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for _, path in checkpoints[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
