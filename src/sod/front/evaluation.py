"""`sod.evaluate`: held-out tasks from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.front.evaluating import Request, asked_changes, evaluated, recipe_of
from sod.front.passed import Passed, Tools
from sod.front.recipes import Given, refuse_text
from sod.front.runs import Run
from sod.records import SodError
from sod.report.console import notice, out
from sod.report.evaluations import show_evaluation

if TYPE_CHECKING:
    from sod.evaluation.runner import Evaluation


def evaluate(
    model: str | Path | Run,
    data: str | Path = "",
    overrides: Sequence[str] = (),
    *,
    k: int | None = None,
    tasks: int | None = None,
    recipe: Given | None = None,
    tools: Tools = (),
    reward: Any = None,
    environment: Any = None,
    device: str | None = None,
    to: str | Path | None = None,
    allow_code: bool = False,
    progress: bool = True,
    workers: int = 1,
    by: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a model as `sod eval` does: avg@k, pass@k and maj@k with 95% intervals.

    The tasks are those in `data`; an environment may have some of its own, and `environment@SPLIT` names others.
    `model` is a run (its newest checkpoint), a checkpoint, a model directory or a hub id. A run's model is evaluated as
    the run's own recipe says, any other as `recipe` says; `tools`, `reward` and `environment` are as of `train`, and
    have to be given again where the run was given them. `k` samples of each of `tasks` tasks, a seeded subset, 0 for
    all; both are the recipe's by default. `workers` processes play, with a model each; figures are also broken down
    `by` keys of the tasks. Figures and episodes are written to `to`, by default below the run; what was begun there
    goes on, and of what is finished the figures are given. Raises SodError, also where code that a run's recipe names
    is not allowed by `allow_code`.
    """
    from sod.build.evaluated import find_evaluated

    refuse_text(overrides)
    named = str(model.path if isinstance(model, Run) else model)
    about = find_evaluated(named, notice)
    changes = asked_changes(k, tasks, device, overrides)
    spec = recipe_of(about, recipe, changes, allow_code, notice, Passed(tools, reward, environment))
    if not data and spec.environment is None:
        raise SodError("data is missing: name a file of RL tasks")
    request = Request(named, str(data), None if to is None else Path(to), workers, by, tasks is not None)
    answer = evaluated(spec, about, request, notice)
    if progress:
        show_evaluation(answer.about.name, answer.result.as_dict(), request.named, answer.about.step)
        out.print(f"written to {answer.directory}", markup=False)
    return answer.result
