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
from sod.records import StopReason, ToolResult, Trajectory, Turn
from sod.report.console import step_line
from sod.report.metrics import metric_of

# By hand: of three episodes one ends behind a call in error, one called again after it, one never called.
failed, worked = ToolResult("", error="exception"), ToolResult("4")
turns = [(), (failed, worked), (worked, failed)]
one = Trajectory("t", 0, 1, (5, 6), (0, 1), (0.0, -1.0), (Turn(1, 1, 2, "x"),), StopReason.ANSWER)
three = [replace(one, turns=(replace(one.turns[0], results=results),)) for results in turns]
assert episode_figures(three)["left_in_error"] == 1 / 3

with tempfile.TemporaryDirectory() as name:
    content = small_world(Path(name))
    content["tools"] = {"python": {"failure_rate": 0.5}}
    with closing(prepare_train(Recipe.model_validate(content), Path(name) / "run", False, print)) as job:
        job.start([])
    (row,) = job.log.metrics()
    episodes = [[result for turn in rows["turns"] for result in turn["results"]] for rows in job.log.trajectories(1)]

share = sum(bool(results) and results[-1]["error"] is not None for results in episodes) / len(episodes)
assert share > 0.0, episodes
assert row["left_in_error"] == share, (row, episodes)
assert metric_of("left_in_error") is not None
assert f"  left {share:.3f}  " in step_line(1, 1, row)
page = runpy.run_path(str(Path(__file__).parents[2] / "tests" / "report" / "test_metric_table.py"))["page"]()
assert "| `left_in_error` | share | left |" in page
print(step_line(1, 1, row))
