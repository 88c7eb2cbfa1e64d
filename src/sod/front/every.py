"""`sod eval RUN --every`: one evaluation for each checkpoint of a run, and the curve of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sod.front.evaluating import Answer, Request, answered, of_model, refuse_no_tasks, tell_subset
from sod.front.tracking import trackers
from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.runlog import RunLog, write_json_atomic

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated

CURVE = "curve"
"""What files of a curve end in, before their suffix."""


@final
@dataclass(frozen=True)
class Curve:
    """The evaluations of a run by the steps of their checkpoints, and the directory of what is drawn of them."""

    answers: Sequence[Answer]
    file: Path

    def rows(self) -> dict[int, dict[str, Any]]:
        """The figures by step."""
        return {answer.about.step or 0: answer.result.as_dict() for answer in self.answers}


def evaluated_every(spec: Recipe, about: Evaluated, request: Request, every: int, notice: Notice) -> Curve:
    """Evaluate the checkpoints of a run whose steps are multiples of `every`, in order; what is done is not played.

    Figures go to the recipe's trackers as one run, at their steps. Raises SodError for what is no run, and for a run
    without such checkpoints.
    """
    from sod.build.evaluation import prepare_evaluation
    from sod.build.playing import refuse_unfit_workers

    refuse_unfit_workers(spec, request.workers)
    refuse_no_tasks(spec, request.data)
    run, found = checkpoints_of(about, request.model, every)
    prepared = prepare_evaluation(of_model(spec, found[0].path), request.data, notice, by=request.by)
    tell_subset(prepared, request, notice)
    place = request.to or found[0].place(request.named, spec.evaluation).parent
    name = replace(about, step=None).place(request.named, spec.evaluation).name
    answers: list[Answer] = []
    with trackers(spec, f"{about.name}-{name}", place / f"{name}-{CURVE}", run.absolute().parent) as opened:
        for one in still_there(found, notice):
            its_own = None if request.to is None else request.to / f"step{one.step}"
            mine = replace(prepared, recipe=of_model(spec, one.path), path=_model_of(one.path))
            tell = partial(_told_of, one.step or 0, notice)
            answers.append(answered(mine, one, replace(request, to=its_own), tell, tracked=False))
            for tracker in opened:
                tracker.log(answers[-1].result.metrics(), one.step or 0)
    return written_curve(run, request.named, answers, place / f"{name}-{CURVE}.json")


def _told_of(step: int, notice: Notice, text: str) -> None:
    notice(f"step {step}: {text}")


def still_there(found: Sequence[Evaluated], notice: Notice) -> Iterator[Evaluated]:
    """One after the other those that are there when it is their turn; `notice` hears of the others."""
    for one in found:
        if Path(one.path).is_dir():
            yield one
        else:
            notice(f"{one.path}: is gone by now (train.keep_checkpoints); left out")


def written_curve(run: Path, named: str, answers: Sequence[Answer], file: Path) -> Curve:
    """The curve of a run's evaluations, written. Raises SodError without any."""
    if not answers:
        raise SodError(f"{run}: its checkpoints are gone by now; raise train.keep_checkpoints")
    curve = Curve(answers, file)
    write_json_atomic(curve.file, {"run": str(run), "data": named, "steps": curve.rows()})
    return curve


def checkpoints_of(about: Evaluated, model: str, every: int) -> tuple[Path, list[Evaluated]]:
    """A run, and those of its checkpoints whose steps are multiples of `every`, in order.

    Raises SodError for what is no run, and for a run without such checkpoints.
    """
    if about.run is None or not RunLog.is_at(model):
        raise SodError(f"{model}: --every is about the checkpoints of a run; name a run directory")
    held = RunLog.open(about.run).checkpoints()
    found = [replace(about, path=str(path), step=step) for step, path in held if step % every == 0]
    if not found:
        steps = ", ".join(str(step) for step, _ in held) or "none"
        raise SodError(f"{model}: no checkpoint is at a multiple of {every} steps; it has those of {steps}")
    return about.run, found


def _model_of(path: str) -> str:
    from sod.build.job import final_model

    return final_model(path)
