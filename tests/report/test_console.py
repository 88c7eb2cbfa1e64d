"""Lines for terminals of any width, and none broken where there is no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from sod.report.console import StepLines, clock_time, evaluation_table, legend, line_width, shown_metrics, step_line
from sod.report.metrics import METRICS

ROW: Mapping[str, float] = {
    "reward": -0.5,
    "accuracy": 0.25,
    "loss": 0.125,
    "teacher_gap": -1.5,
    "weight": 0.9,
    "tool_error_rate": 0.125,
    "turns": 3.5,
    "response_tokens": 1234.0,
    "turn_gap_first": 0.5,
    "turn_gap_last": 0.25,
    "grad_norm": 1.5,
    "lr": 1e-6,
    "tokens_per_second": 1234.0,
    "seconds": 12.5,
    "seconds/sample": 10.0,
}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_a_line_is_never_wider_than_asked(width: int) -> None:
    assert len(step_line(7, 100, ROW, width, eta_seconds=3723.0)) <= width


def test_the_most_important_figures_stay() -> None:
    """What fits is a choice in the table's order; a wider line has all of a narrower one's and more."""
    narrow, wide = (step_line(7, 100, ROW, width, eta_seconds=75.0) for width in (60, 100))
    assert narrow == "  7/100  reward -0.500  acc 0.250  w 0.90  12.50s  ETA 1:15"
    assert wide.startswith("  7/100  reward -0.500  acc 0.250  gap -1.500  w 0.90  tool-err 0.125  ")
    assert wide.endswith("  12.50s  ETA 1:15")


def test_a_line_without_a_width_has_every_figure() -> None:
    line = step_line(7, 100, ROW, eta_seconds=75.0)
    assert all(f"  {metric.label} " in line for metric in METRICS if metric.label and metric.key in ROW)
    assert line.endswith("  12.50s (sample 10.00)  ETA 1:15")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (7, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_clock_time(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown


def test_the_legend_is_folded_under_its_names() -> None:
    lines = legend(shown_metrics(1, 2, ROW), 40)
    assert all(len(line) <= 40 for line in lines)
    assert lines[0] == "  reward    mean reward of the step's"
    assert lines[1] == "            episodes"
    assert len(legend(shown_metrics(1, 2, ROW), None)) == len(shown_metrics(1, 2, ROW)), "unfolded: a line each"


def test_each_name_is_explained_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first line that has it, over all runs of a command."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = StepLines()
    for title in ("sft", "sod"):
        lines.begin(title, 2, 0)
        lines.show(1, {"loss": 0.5, "seconds": 1.0})
        lines.show(2, {"loss": 0.5, "eval/avg_at_k": 0.5, "seconds": 1.0})
    printed = capsys.readouterr().out.splitlines()
    starts = [line.split()[0] for line in printed if not line.startswith("      ")]  # not what is folded
    assert starts == ["loss", "sft", "eval", "sft", "sod", "sod"]
    assert all(len(line) <= 80 for line in printed)
    assert "ETA 0:00" in printed[-1]


def test_verbose_lines_are_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = StepLines(verbose=True)
    lines.begin("sod", 2, 0)
    lines.show(1, ROW)
    *explained, line = capsys.readouterr().out.splitlines()
    assert len(explained) == len(shown_metrics(1, 2, ROW)), "a line each: nothing is folded"
    assert "(sample 10.00)" in line


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("", None), ("no", None), ("0", None), ("-3", None)])
def test_a_pipe_takes_any_width_unless_told(monkeypatch: pytest.MonkeyPatch, columns: str, width: int | None) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert line_width() == width


@pytest.mark.parametrize("extra", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"COLUMNS": "40"}])
def test_a_progress_bar_writes_nothing_into_a_pipe(extra: dict[str, str]) -> None:
    """No control codes and no empty line, whatever the environment says of colours."""
    code = (
        "from sod.report.console import out, progress\n"
        "with progress('going', 2, 'steps') as bar:\n"
        "    bar.advance(bar.task_ids[0])\n"
        "    out.print('a line', markup=False)\n"
        "out.print('the end', markup=False)\n"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | extra, timeout=300, check=True)
    assert ended.stdout == "a line\nthe end\n"


@pytest.mark.parametrize(("calls", "rate", "shown"), [(0.0, 0.0, "-"), (0.001, 1.0, "-"), (0.01, 1.0, "100.0%")])
def test_hardly_any_calls_have_no_share_of_errors(calls: float, rate: float, shown: str) -> None:
    """One malformed call in a thousand episodes of an untrained model is no `0.00 calls, 100% errors`."""
    result = {"k": 4, "tool_calls": calls, "tool_error_rate": rate, "response_tokens": 12.0}
    metrics = dict.fromkeys(("avg_at_k", "pass_at_k", "maj_at_k"), 0.0)
    table = evaluation_table({"vanilla": {**result, **metrics, "intervals": dict.fromkeys(metrics, (0.0, 0.5))}}, "")
    (errors,) = [list(column.cells) for column in table.columns if column.header == "tool errors"]
    assert errors == [shown]
