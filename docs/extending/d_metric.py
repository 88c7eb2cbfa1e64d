"""Proof of `d-metric.diff`: the figure stands in `metrics.jsonl`, on the step line and in the page of metrics."""

from __future__ import annotations

import runpy
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from small import small_world

from sod.build.training import prepare_train
from sod.evaluation.runner import episode_figures
from sod.recipe import Recipe
from sod.records import StopReason, Trajectory, Turn
from sod.report.console import step_line
from sod.report.metrics import metric_of

# By hand: a token limit ended one of three; the turn limit is another thing.
one = Trajectory("t", 0, 1, (5, 6), (0, 1), (0.0, -1.0), (Turn(1, 1, 2, "x"),), StopReason.ANSWER)
three = [replace(one, stop=stop) for stop in (StopReason.ANSWER, StopReason.LENGTH, StopReason.MAX_TURNS)]
assert episode_figures(three)["cut_short"] == 1 / 3

with tempfile.TemporaryDirectory() as name:
    content = small_world(Path(name))
    content["rollout"] |= {"max_response_tokens": 54}  # enough for some calls, not for the answer
    with closing(prepare_train(Recipe.model_validate(content), Path(name) / "run", False, print)) as job:
        job.start([])
    (row,) = job.log.metrics()
    stops = [trajectory["stop"] for trajectory in job.log.trajectories(1)]

share = stops.count("length") / len(stops)
assert share > 0.0, stops
assert row["cut_short"] == share, (row, stops)
assert metric_of("cut_short") is not None
assert f"  cut {share:.3f}  " in step_line(1, 1, row)
page = runpy.run_path(str(Path(__file__).parents[2] / "tests" / "report" / "test_metric_table.py"))["page"]()
assert "| `cut_short` | share | cut |" in page
print(step_line(1, 1, row))
