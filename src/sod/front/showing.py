"""A job with what a person sees of it, at a terminal, in a notebook and in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

from sod.front.tracking import trackers
from sod.recipe import Recipe
from sod.report.console import StepLines, facts, out, profile_table, progress

if TYPE_CHECKING:
    from sod.build.job import Job


class OnStep(Protocol):
    """Hears of every step: its number, from 1, and its metrics (docs/metrics.md)."""

    def __call__(self, step: int, metrics: Mapping[str, float], /) -> object: ...


def run_job(
    spec: Recipe,
    title: str,
    job: Job,
    lines: StepLines,
    more: Sequence[tuple[str, str]] = (),
    on_step: OnStep | None = None,
) -> None:
    """Run a job: what it is made of, a progress bar, a line per step, its trackers, and curves at the end.

    Of a run over several ranks rank 0 shows it; on another the job is run, and that is all.
    """
    if not job.first:
        with closing(job):
            job.start([])
        return
    every = max(1, job.plan.steps // 200)
    facts(f"{title} starts", [*job.facts, *more])
    with progress(title, job.plan.steps, "steps") as bar:
        bar.update(bar.task_ids[0], completed=job.done)
        lines.begin(title, job.plan.steps, job.done)

        def show(step: int, metrics: Mapping[str, float]) -> None:
            bar.advance(bar.task_ids[0])
            if step % every == 0 or step in (1, job.plan.steps):
                lines.show(step, metrics)

        run_quietly(spec, title, job, show, *([] if on_step is None else [on_step]))
    if profile := job.log.profile():
        out.print(profile_table(profile))
    out.print(f"{title} finished: {job.log.path}", markup=False)


def run_quietly(spec: Recipe, title: str, job: Job, *hear: OnStep) -> None:
    """Run a job with its trackers, and draw its curves at the end; nothing is printed."""
    from sod.report.curves import draw_curves
    from sod.training.report import StepReport

    run = job.log.path
    with closing(job), trackers(spec, run.absolute().name, run, run.absolute().parent) as opened:

        def tell(report: StepReport) -> None:
            for listener in hear:
                listener(report.step, report.metrics)
            for tracker in opened:
                tracker.log(report.metrics, report.step)

        job.start([tell])
    draw_curves(job.log.metrics(), job.log.curves_path, f"{spec.name}: {title}")
