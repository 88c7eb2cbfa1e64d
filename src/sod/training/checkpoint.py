"""Checkpoints: whole or not there at all.

A checkpoint is a Hugging Face model directory plus `trainer.pt` (optimizer, random state, position) and
`COMPLETE.json`, which lists every file with its size. It is written beside its place and renamed into it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sod.records import SodError

COMPLETE = "COMPLETE.json"
TRAINER = "trainer.pt"


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done (tasks drawn and learning rate follow from it) and whose recipe it is."""

    step: int
    recipe_hash: str


def save(directory: Path, position: Position, optimizer: dict[str, Any], save_model: Callable[[Path], None]) -> None:
    """Write the checkpoint of `position` at `directory`, atomically.

    Raises SodError when it cannot be written; what was there before is untouched and no half is left.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_model(partial)
        state = {
            "step": position.step,
            "recipe_hash": position.recipe_hash,
            "optimizer": optimizer,
            "rng": torch.get_rng_state(),
        }
        with open(partial / TRAINER, "wb") as file:  # given a path, torch would hide the reason of a failure
            torch.save(state, file)
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
        step, sizes = int(listed["step"]), dict(listed["files"])
    except FileNotFoundError:
        raise SodError(f"{directory}: not a complete checkpoint ({COMPLETE} is missing); {advice}") from None
    except (ValueError, KeyError, TypeError):
        raise SodError(f"{marker}: cut short; {advice}") from None
    for name, size in sizes.items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else -1
        if found != size:
            state = "is missing" if found < 0 else f"has {found} bytes instead of {size}"
            raise SodError(f"{directory}: checkpoint cut short: {name} {state}; {advice}")
    return step


def load(directory: Path, recipe_hash: str) -> tuple[Position, dict[str, Any]]:
    """`(position, optimizer state)` of a checkpoint; also restores torch's random state.

    Raises SodError when it is incomplete or belongs to another recipe.
    """
    verify(directory)
    state = torch.load(directory / TRAINER, weights_only=True)
    if state["recipe_hash"] != recipe_hash:
        raise SodError(f"{directory}: this checkpoint was written under another recipe; resume with the run's own")
    torch.set_rng_state(state["rng"])
    return Position(state["step"], state["recipe_hash"]), state["optimizer"]


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
