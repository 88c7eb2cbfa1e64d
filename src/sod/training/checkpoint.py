"""Checkpoints: whole or not there at all.

    step-000020/model/          a Hugging Face model directory and nothing else: what one would upload
    step-000020/trainer.pt      the rest of a run's state
    step-000020/COMPLETE.json   every other file with its size (bytes) and sha256

A checkpoint is written beside its place and renamed into it. `trainer.pt` holds the position, torch's random state and
the state of everything else that goes on, by namespace (`NAMESPACES`). Two older formats are still read. Both had the
model's files beside `trainer.pt`, and sizes without hashes; format 1 also had the optimizer's and the teacher's state
in one mapping.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, final

import torch
from safetensors import SafetensorError

from sod.recipe import Notice
from sod.records import SodError
from sod.runlog import STEP_NAME
from sod.training.trainer_file import checked_state, read_trainer

COMPLETE = "COMPLETE.json"
TRAINER = "trainer.pt"
MODEL = "model"
FORMAT = 3
NAMESPACES = ("optimizer", "teacher", "engine", "guard")
"""Whose state a checkpoint may hold, each under its name: a part of the run never reads another's."""

State = Mapping[str, Any]
"""State by namespace, as tensors and plain values; a namespace without state is left out."""
T = TypeVar("T")


@final
class BrokenCheckpointError(SodError):
    """A checkpoint that cannot be used, and the problem with it; an older one of its run may serve."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"{directory}: {problem}; name another checkpoint, or the run for its newest good one")
        self.directory = directory
        self.problem = problem


@final
@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done (tasks drawn and learning rate follow from it) and whose recipe it is."""

    step: int
    recipe_hash: str


@final
@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from: where it lies, the steps done, the state by namespace, and what wrote it.

    `device` is `cpu` or `cuda`.
    """

    directory: Path
    step: int
    state: State
    device: str = "cpu"

    @property
    def model(self) -> Path:
        """Its model directory."""
        return model_of(self.directory)


@final
@dataclass(frozen=True)
class _Listed:
    """A file that a checkpoint should have; the older formats have no sha256."""

    name: str
    size: int
    sha256: str | None


def write_nothing(directory: Path) -> None:
    """There is no more in a checkpoint than what `save` writes."""


def save(
    directory: Path,
    position: Position,
    state: State,
    save_model: Callable[[Path], None],
    write_more: Callable[[Path], None] = write_nothing,
) -> None:
    """Write the checkpoint of `position` at `directory`, atomically; what stands there already is set aside.

    `write_more` writes further files into the directory that is being made (`being_made`). Raises SodError when it
    cannot be written: what was there before is untouched and no half is left. Raises ValueError for a namespace that
    does not exist.
    """
    if unknown := set(state) - set(NAMESPACES):
        raise ValueError(f"checkpoint state of {unknown.pop()!r}: the namespaces are {', '.join(NAMESPACES)}")
    partial = being_made(directory)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / MODEL).mkdir(parents=True)
        write_more(partial)
        save_model(partial / MODEL)
        _write_trainer(partial / TRAINER, position, state)
        listed = {name: _entry(partial / name) for name in _files(partial)}
        marker = {"format": FORMAT, "step": position.step, "files": listed}
        (partial / COMPLETE).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        for path in (partial, *partial.rglob("*")):
            _sync(path)
        if directory.exists():
            set_aside(directory)
        partial.rename(directory)
        _sync(directory.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause)
        reason = "no space left on device; free some" if full else str(cause).strip().splitlines()[0]
        raise SodError(f"{directory}: cannot write the checkpoint: {reason}; earlier checkpoints are kept") from error


def being_made(directory: Path) -> Path:
    """Where a checkpoint is made, and where it is unmade: of what a kill leaves there nothing is used."""
    return directory.with_name(f".{directory.name}.partial")


@final
class UnwrittenError(SodError):
    """A checkpoint that cannot be written; rank 0 has said why."""

    on_all_ranks = True


def write_beside(directory: Path, write_more: Callable[[Path], None]) -> None:
    """Write what this rank has of the checkpoint that rank 0 is saving at `directory`. Raises UnwrittenError."""
    try:
        write_more(being_made(directory))
    except (OSError, RuntimeError) as error:
        raise UnwrittenError(f"{directory}: cannot write the checkpoint: {error}") from error


def set_aside(directory: Path) -> None:
    """Rename a checkpoint so that it counts no more: to `step-000020.aside`, or `.aside-2` and so on.

    May raise OSError.
    """
    target, number = directory.with_name(f"{directory.name}.aside"), 1
    while target.exists():
        number += 1
        target = directory.with_name(f"{directory.name}.aside-{number}")
    directory.rename(target)


def verify(directory: Path) -> int:
    """The step of a complete checkpoint whose files are as they were written.

    Raises BrokenCheckpointError naming what is missing, cut short or changed, SodError for one of a later version.
    """
    step, files = _marker(directory)
    _check_sizes(directory, files)
    for file in files:
        if file.sha256 is not None and _sha256(directory, file.name) != file.sha256:
            raise BrokenCheckpointError(directory, f"{file.name} has changed since it was written (its sha256 differs)")
    return step


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is, or by its place and name should be, a checkpoint."""
    if (directory / COMPLETE).exists():
        return True
    return directory.parent.name == "checkpoints" and STEP_NAME.fullmatch(directory.name) is not None


def model_of(directory: Path) -> Path:
    """The model directory of a checkpoint of any format."""
    return directory / MODEL if (directory / MODEL).is_dir() else directory


def load(directory: Path, recipe_hash: str) -> ResumePoint:
    """The state of a checkpoint; also restores torch's random states.

    Raises BrokenCheckpointError when it is incomplete, damaged or made up, SodError when it belongs to another recipe,
    or was written by a later version.
    """
    step = verify(directory)
    try:
        trainer = read_trainer(directory / TRAINER)
        if trainer.format > FORMAT:
            raise _later(directory, trainer.format)
        if trainer.step != step:
            raise ValueError(f"of step {trainer.step}, where {COMPLETE} is of step {step}")
        found = trainer.content.get("state") if trainer.format > 1 else _from_format_1(trainer.content)
        state = checked_state(found, NAMESPACES)
    except ValueError as error:
        raise BrokenCheckpointError(directory, f"{TRAINER}: {error}") from error
    if trainer.recipe_hash != recipe_hash:
        raise SodError(f"{directory}: this checkpoint was written under another recipe; resume with the run's own")
    torch.set_rng_state(trainer.rng)
    for number, rng in enumerate(trainer.cuda_rng[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(rng, number)
    return ResumePoint(directory, step, state, trainer.device)


def newest_good(checkpoints: list[tuple[int, Path]], read: Callable[[Path], T], notice: Notice) -> T:
    """What `read` makes of the newest checkpoint that it does not find broken; newer ones are told.

    Raises SodError when all of them are broken (there must be one), and as `read` does.
    """
    broken: list[BrokenCheckpointError] = []
    for _, directory in reversed(checkpoints):
        try:
            value = read(directory)
        except BrokenCheckpointError as error:
            broken.append(error)
            continue
        for bad in broken:
            notice(f"{bad.directory}: {bad.problem}; the checkpoint before it is used: {directory}")
        return value
    problems = "; ".join(f"{bad.directory.name}: {bad.problem}" for bad in broken)
    where = checkpoints[-1][1].parent
    raise SodError(f"{where}: no good checkpoint is left ({problems}); restore one from a copy, or start a new run")


def prune(checkpoints: list[tuple[int, Path]], keep: int) -> None:
    """Remove all but the newest `keep` checkpoints; those that miss something neither count nor are touched.

    Nothing is removed where none of those to keep is good.
    """
    whole = [path for _, path in checkpoints if _passes(_whole, path)]
    surplus = whole[:-keep]
    if not surplus or not any(_passes(verify, path) for path in reversed(whole[-keep:])):
        return
    for path in surplus:
        # Renamed first: a kill in the midst of it must not leave half a checkpoint under a checkpoint's name.
        doomed = being_made(path)
        shutil.rmtree(doomed, ignore_errors=True)
        try:
            path.rename(doomed)
        except OSError:  # it stays, and the next time removes it
            continue
        shutil.rmtree(doomed, ignore_errors=True)


def _write_trainer(path: Path, position: Position, state: State) -> None:
    trainer = {
        "format": FORMAT,
        "step": position.step,
        "recipe_hash": position.recipe_hash,
        "state": dict(state),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    with open(path, "wb") as file:  # given a path, torch would hide the reason of a failure
        torch.save(trainer, file)


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


def _marker(directory: Path) -> tuple[int, list[_Listed]]:
    """The step of a checkpoint, and the files that it should have. Raises as `verify`."""
    try:
        marker = json.loads((directory / COMPLETE).read_text(encoding="utf-8"))
        written, step = int(marker.get("format", 2)), marker["step"]
        if type(step) is not int or step < 0:
            raise ValueError(step)
        files = [_listed(name, entry) for name, entry in marker["files"].items()] if written <= FORMAT else []
    except FileNotFoundError:
        raise BrokenCheckpointError(directory, f"not a complete checkpoint ({COMPLETE} is missing)") from None
    except OSError as error:
        raise BrokenCheckpointError(directory, f"{COMPLETE} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BrokenCheckpointError(directory, f"{COMPLETE} is cut short or changed") from None
    if written > FORMAT:
        raise _later(directory, written)
    if TRAINER not in {file.name for file in files}:
        raise BrokenCheckpointError(directory, f"{COMPLETE} does not list {TRAINER}, so it is cut short or changed")
    return step, files


def _listed(name: str, entry: Any) -> _Listed:
    """A line of the marker. Raises ValueError, KeyError or TypeError where it is none."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(name)
    size, sha256 = (entry, None) if isinstance(entry, int) else (entry["size"], str(entry["sha256"]))
    if type(size) is not int or "\0" in name or len(name.encode()) > 255:
        raise ValueError(name)
    return _Listed(name, size, sha256)


def _check_sizes(directory: Path, files: list[_Listed]) -> None:
    for file in files:
        path = directory / file.name
        if not path.is_file():
            raise BrokenCheckpointError(directory, f"{file.name} is missing")
        if (found := path.stat().st_size) != file.size:
            raise BrokenCheckpointError(directory, f"{file.name} has {found} bytes instead of {file.size}")


def _whole(directory: Path) -> int:
    """As `verify`, by the sizes of the files alone."""
    step, files = _marker(directory)
    _check_sizes(directory, files)
    return step


def _passes(check: Callable[[Path], int], directory: Path) -> bool:
    try:
        check(directory)
    except SodError:
        return False
    return True


def _sha256(directory: Path, name: str) -> str:
    try:
        with open(directory / name, "rb", buffering=0) as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenCheckpointError(directory, f"{name} cannot be read ({error.strerror or error})") from None


def _entry(path: Path) -> dict[str, Any]:
    """What the marker says of a file. Its bytes were just written, so they are read from memory."""
    return {"size": path.stat().st_size, "sha256": _sha256(path.parent, path.name)}


def _files(directory: Path) -> list[str]:
    """Every file below `directory`, as the marker names it."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _later(directory: Path, written: int) -> SodError:
    return SodError(f"{directory}: checkpoint format {written} is of a later version of sod; use it with that")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
