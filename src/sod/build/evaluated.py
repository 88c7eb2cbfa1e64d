"""What `sod eval` was pointed at, and the directory that its results go to."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from sod.build.job import final_model
from sod.build.kept import unfinished
from sod.evaluation.stored import Plan
from sod.recipe import EvaluationSpec, Notice
from sod.records import SodError
from sod.runlog import RunLog
from sod.training.checkpoint import MODEL

CHECKPOINTS = "checkpoints"
Likeness = Callable[[Plan], bool]


@final
@dataclass(frozen=True)
class Evaluated:
    """A model to evaluate: its `path`, and the run it is of with the step of its checkpoint, None for other models."""

    path: str
    run: Path | None = None
    step: int | None = None

    @property
    def name(self) -> str:
        """What the model is called in tables and trackers."""
        if self.run is None:
            return Path(os.path.abspath(self.path)).name
        return self.run.name or Path(os.path.abspath(self.run)).name

    def place(self, data: str, spec: EvaluationSpec) -> Path:
        """The directory of an evaluation on `data`: inside the run, or below `runs/evaluations`.

        Another evaluation may stand there already, see `sod.build.kept`.
        """
        tasks = f"tasks{spec.tasks}" if spec.tasks else "all"
        named = re.sub(r"[^\w.]+", "-", Path(data).stem).strip("-")  # of a hub dataset or a glob, too
        parts = [named or "data", tasks, f"k{spec.k}"]
        if self.run is None:
            return Path("runs") / "evaluations" / "-".join([self.name, *parts])
        if self.step is not None:
            parts.append(f"step{self.step}")
        return self.run / "evaluations" / "-".join(parts)


def find_evaluated(model: str, notice: Notice) -> Evaluated:
    """The run, checkpoint or other model behind an argument, however its path is written.

    A run means its newest good checkpoint, and `notice` hears of newer ones; `RUN/checkpoints/step-N/model` is the
    checkpoint above it. Raises SodError for a checkpoint that a run does not have, and where all are broken.
    """
    for place in (Path(os.path.abspath(model)), Path(model).resolve()):  # as it is written; then where its links lead
        if RunLog.is_at(place):
            if not RunLog.open(place).checkpoints():
                return Evaluated(model, _shown(place))  # what is wrong with its recipe is told before that
            place = Path(os.path.abspath(final_model(str(_shown(place)), notice)))
        checkpoint = place.parent if place.name == MODEL else place
        if checkpoint.parent.name == CHECKPOINTS and RunLog.is_at(checkpoint.parent.parent):
            return _of_checkpoint(checkpoint)
    return Evaluated(model)


def _of_checkpoint(checkpoint: Path) -> Evaluated:
    run = checkpoint.parent.parent
    held = {path.name: step for step, path in RunLog.open(run).checkpoints()}
    if checkpoint.name not in held:
        known = f"it has {', '.join(held)}" if held else "it has none yet"
        raise SodError(f"{_shown(checkpoint)}: {_shown(run)} has no such checkpoint; {known}")
    return Evaluated(str(_shown(checkpoint)), _shown(run), held[checkpoint.name])


def pinned(about: Evaluated, model: str, data: str, spec: EvaluationSpec, like: Likeness, notice: Notice) -> Evaluated:
    """The checkpoint at which an evaluation of a run was begun and not finished, where `model` names the run alone.

    A run in progress has newer ones by then. `like` says whether a plan is of this evaluation but for its checkpoint.
    """
    if about.run is None or about.step is None or not RunLog.is_at(Path(model)):
        return about
    held = dict(RunLog.open(about.run).checkpoints())
    for step in sorted(held, reverse=True):
        older = replace(about, path=str(held[step]), step=step)
        plan = unfinished(older.place(data, spec))
        if plan is None or not like(plan):
            continue
        if step != about.step:
            notice(
                f"{older.place(data, spec)}: was begun with step {step} and is not finished; it goes on with that, "
                f"though the run is at step {about.step}; {about.path} names the newest"
            )
        return older
    return about


@contextmanager
def claimed(place: Path, exact: bool) -> Iterator[Path]:
    """An empty directory of this evaluation's own, made now: `place`, or else `place-2`, `place-3`, ...

    With `exact` it is `place` and nothing else. What was written into it goes again when the evaluation fails. Raises
    SodError where `exact` names what is not empty, and where the directory cannot be made.
    """
    directory, made = _empty(place) if exact else _numbered(place)
    try:
        yield directory
    except BaseException:
        if made:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _empty(place: Path) -> tuple[Path, bool]:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SodError(f"{place}: not empty, and nothing is overwritten; choose another --out")
    made = not place.exists()
    _make(place, exist_ok=True)
    return place, made


def _numbered(place: Path) -> tuple[Path, bool]:
    for number in itertools.count(1):
        directory = place if number == 1 else place.with_name(f"{place.name}-{number}")
        try:
            _make(directory, exist_ok=False)
        except FileExistsError:
            continue
        return directory, True
    raise AssertionError("numbers end")


def _make(directory: Path, exist_ok: bool) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise SodError(f"{directory}: cannot be made ({error.strerror or error}); name another with --out") from error


def _shown(path: Path) -> Path:
    """The path as a person would write it here: relative where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
