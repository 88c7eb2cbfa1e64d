"""The picture: what is drawn for which rows, read back from matplotlib's figure and from the PNG."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sod.records import SodError
from sod.report.curves import draw_curves
from sod.runlog import RunLog

DISTILLATION = {
    "reward": 0.5,
    "accuracy": 0.6,
    "teacher_gap": -0.2,
    "turn_gap_first": 0.2,
    "turn_gap_last": 1.3,
    "weight": 0.7,
    "tool_error_rate": 0.1,
    "tool_use": 0.9,
    "turns": 2.5,
    "response_tokens": 180,
    "loss": 0.01,
    "grad_norm": 1.0,
    "lr": 1e-6,
    "tokens_per_second": 900.0,
    "seconds/rollout": 4.0,
    "seconds/update": 2.0,
}
TITLES = [
    "reward and accuracy",
    "teacher gap (nats/token)",
    "turn gap (nats/token)",
    "mean turn weight",
    "tool use and errors (shares)",
    "turns per episode",
    "response length (tokens)",
    "loss",
    "gradient norm",
    "learning rate",
    "tokens per second",
    "seconds per step",
]


class Picture:
    """Draws, and keeps matplotlib's figure beside the file."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.figure: Figure
        save = FigureCanvasAgg.print_png

        def capture(canvas: FigureCanvasAgg, *args: Any, **kwargs: Any) -> None:
            self.figure = canvas.figure
            save(canvas, *args, **kwargs)

        monkeypatch.setattr(FigureCanvasAgg, "print_png", capture)

    def draw(self, rows: list[Mapping[str, Any]], title: str = "a run") -> dict[str, Axes]:
        draw_curves(rows, self.path, title)
        return {axes.get_title(loc="left"): axes for axes in self.figure.axes}

    def size(self) -> tuple[int, int]:
        head = self.path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        return width, height


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Picture:
    return Picture(tmp_path / "curves.png", monkeypatch)


def steps(count: int, row: Mapping[str, Any] = DISTILLATION) -> list[Mapping[str, Any]]:
    return [{"step": step, "kind": "train", **row} for step in range(1, count + 1)]


def data(axes: Axes, line: int = 0) -> list[tuple[float, float]]:
    x, y = axes.lines[line].get_data()
    return list(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True))


def test_a_distillation_run_fills_every_panel_at_readme_size(picture: Picture) -> None:
    panels = picture.draw([*steps(10), {"step": 5, "kind": "eval", "eval/avg_at_k": 0.4}])
    assert list(panels) == TITLES
    assert picture.size() == (1200, 765)
    assert picture.figure.get_suptitle() == "a run"


def test_an_sft_run_has_its_own_few_panels(picture: Picture) -> None:
    row = {"loss": 1.0, "lr": 5e-5, "grad_norm": 2.0, "tokens_per_second": 2000.0}
    panels = picture.draw(steps(5, row))
    assert list(panels) == ["loss", "gradient norm", "learning rate", "tokens per second"]
    assert picture.size() == (1200, 295)


@pytest.mark.parametrize("empty", [None, math.nan, math.inf, "0.5", True, [1.0]])
def test_what_is_no_number_is_left_out(picture: Picture, empty: Any) -> None:
    panels = picture.draw([{"step": 1, "loss": 0.5, "weight": empty}, {"step": 2, "loss": empty}])
    assert list(panels) == ["loss"]
    assert data(panels["loss"]) == [(1, 0.5)]


def test_points_are_drawn_by_step_and_the_last_row_of_a_step_wins(picture: Picture) -> None:
    rows = [{"step": s, "loss": v} for s, v in ((3, 0.3), (1, 0.1), (2, 0.9), (2, 0.2))]
    assert data(picture.draw(rows)["loss"]) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_sparse_evaluation_shares_the_panel_and_shows_its_points(picture: Picture) -> None:
    evaluations = [{"step": step, "kind": "eval", "eval/avg_at_k": step / 10} for step in (0, 4, 8)]
    axes = picture.draw([*steps(8, {"reward": 0.5}), *evaluations])["reward and accuracy"]
    reward, sparse = axes.lines
    assert data(axes, 1) == [(0, 0.0), (4, 0.4), (8, 0.8)]
    assert sparse.get_marker() == "o"
    assert reward.get_color() != sparse.get_color()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["reward", "eval avg@k"]


def test_a_line_keeps_its_colour_where_another_is_missing(picture: Picture) -> None:
    both = picture.draw(steps(3, {"turn_gap_first": 0.1, "turn_gap_last": 0.2}))["turn gap (nats/token)"].lines[1]
    alone = picture.draw(steps(3, {"turn_gap_last": 0.2}))["turn gap (nats/token)"].lines[0]
    assert both.get_color() == alone.get_color()


def test_phases_are_stacked_in_order_and_sum_to_the_step(picture: Picture) -> None:
    rows = [
        {"step": 1, "seconds/rollout": 4.0, "seconds/update": 2.0},
        {"step": 2, "seconds/rollout": 3.0, "seconds/update": 1.0, "seconds/checkpoint": 0.5},
    ]
    axes = picture.draw(rows)["seconds per step"]
    tops = {}
    for area in axes.collections:
        vertices = area.get_paths()[0].vertices
        tops[area.get_label()] = {float(x): float(y) for x, y in sorted(vertices.tolist())}
    assert tops == {
        "rollout": {1.0: 4.0, 2.0: 3.0},
        "update": {1.0: 6.0, 2.0: 4.0},
        "checkpoint": {1.0: 6.0, 2.0: 4.5},
    }
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["checkpoint", "update", "rollout"]
    assert axes.get_ylim()[0] == 0.0


def test_one_step_is_visible(picture: Picture) -> None:
    panels = picture.draw(steps(1))
    assert panels["loss"].lines[0].get_marker() == "o"
    bars = panels["seconds per step"].patches
    assert [(bar.get_y(), bar.get_height()) for bar in bars] == [(0.0, 4.0), (4.0, 2.0)]


def test_every_panel_spans_the_same_steps(picture: Picture) -> None:
    panels = picture.draw([{"step": 1, "loss": 1.0}, {"step": 2, "weight": 1.0}, {"step": 50, "loss": 0.5}])
    limits = {axes.get_xlim() for axes in panels.values()}
    assert len(panels) == 2
    assert len(limits) == 1
    low, high = limits.pop()
    assert low < 1
    assert high > 50


def test_rates_start_at_zero_and_signed_values_do_not(picture: Picture) -> None:
    panels = picture.draw(steps(3))
    for title in ("tool use and errors (shares)", "mean turn weight", "gradient norm"):
        assert panels[title].get_ylim()[0] == 0.0
    assert panels["teacher gap (nats/token)"].get_ylim()[1] < 0.0
    zero = picture.draw(steps(3, {"tool_error_rate": 0.0}))["tool use and errors (shares)"]
    assert zero.get_ylim() == (0.0, 1.0)


def test_a_long_series_gets_a_trend_that_keeps_a_straight_line_and_calms_noise(picture: Picture) -> None:
    noise = np.random.default_rng(0).normal(size=200)
    rows = [{"step": i, "lr": i * 1e-6, "loss": 5.0 - i / 100, "grad_norm": 10 + float(n)} for i, n in enumerate(noise)]
    panels = picture.draw(rows)
    raw, trend = (np.array(data(panels["loss"], line)) for line in (0, 1))
    np.testing.assert_allclose(trend, raw, atol=1e-9)  # no bias, at the ends neither
    raw, trend = (np.array(data(panels["gradient norm"], line))[:, 1] for line in (0, 1))
    assert trend.std() < 0.5 * raw.std()
    assert len(panels["learning rate"].lines) == 1  # a schedule is exact


def test_a_rare_phase_never_pulls_the_stack_below_zero(picture: Picture) -> None:
    rows = [{"step": i, "seconds/update": 1.0, "seconds/checkpoint": 60.0 * (i == 90)} for i in range(1, 101)]
    axes = picture.draw(rows)["seconds per step"]
    checkpoint = axes.collections[1].get_paths()[0].vertices
    assert checkpoint[:, 1].min() == pytest.approx(1.0)  # never below the update it stands on
    assert checkpoint[:, 1].max() > 5.0  # though the trend falls steeply from there to the last step


def test_no_rows_draw_an_honest_nothing(picture: Picture) -> None:
    assert picture.draw([{"step": 1, "kind": "train"}]) == {}
    assert "no metrics yet" in [text.get_text() for text in picture.figure.texts]
    assert picture.size()[0] == 1200


def test_a_dollar_in_the_title_is_a_dollar(picture: Picture) -> None:
    picture.draw(steps(2), title="costs $5 \\frac{ and $6_")
    assert picture.size()[0] == 1200


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (1, 4)), (5, (2, 3)), (7, (2, 4)), (9, (3, 3)), (10, (3, 4))]
)
def test_panels_leave_few_holes(picture: Picture, count: int, shape: tuple[int, int]) -> None:
    keys = [
        "reward", "teacher_gap", "turn_gap_first", "weight", "tool_error_rate", "turns",
        "response_tokens", "loss", "grad_norm", "lr", "tokens_per_second", "seconds/update",
    ]  # fmt: skip
    picture.draw(steps(2, dict.fromkeys(keys[:count], 1.0)))
    grid = picture.figure.axes[0].get_subplotspec()
    assert grid is not None
    assert grid.get_geometry()[:2] == shape
    assert len(picture.figure.axes) == count


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_curves(steps(4), tmp_path / name, "same")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SodError, match=r"curves\.png: cannot be written") as info:
        draw_curves(steps(2), tmp_path / "file" / "curves.png", "x")
    assert "\n" not in str(info.value)


def test_the_report_loads_neither_torch_nor_matplotlib_and_needs_no_display(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, sod.report.curves\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "sod.report.curves.draw_curves([{'step': 1, 'loss': 1.0}], pathlib.Path(sys.argv[1]), 'x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    path = tmp_path / "x.png"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env={"HOME": str(tmp_path)})
    assert path.exists()


def test_a_run_of_format_1_draws_what_it_called_otherwise(picture: Picture) -> None:
    """A real run's rows, with its old names of the turn gaps and of the seconds that rewards took."""
    run = RunLog.open(Path(__file__).parents[1] / "data" / "format1-run" / "run")
    written = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    panels = picture.draw(run.metrics())
    for line, key in enumerate(("d_first", "d_last")):
        assert data(panels["turn gap (nats/token)"], line) == [(row["step"], row[key]) for row in written]
    legend = panels["seconds per step"].get_legend()
    assert legend is not None
    assert "reward" in [text.get_text() for text in legend.get_texts()]
