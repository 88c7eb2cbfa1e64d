"""The statistics against numbers worked out by hand or taken from printed tables; then what tables and picture show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from sod.compare.pairs import paired
from sod.compare.table import summarise, write_comparison
from sod.evaluation.statistics import spread, t_cdf, t_quantile

UNTRAINED = ["vanilla", "start", "teacher"]
SCORES = {  # avg@k of seeds 0, 1, 2
    "start": [0.30, 0.40, 0.20],
    "opd": [0.40, 0.60, 0.50],
    "opd_grpo": [0.55, 0.55, 0.55],
    "sod": [0.50, 0.60, 0.70],
}
CURVE = {"step": [1, 2], "accuracy": [0.25, 0.5], "tool_error_rate": [0.2, 0.0]}


def cell(method: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    trained = method not in UNTRAINED
    figures = {"k": 4, "tasks": 32, "avg_at_k": score, "tool_error_rate": 0.1, "response_tokens": 90.0, "faults": 0.0}
    return {
        "method": method,
        "seed": seed,
        "lr": 5e-4 if trained else None,
        "steps": 2 if trained else 0,
        "figures": figures,
        "curve": CURVE if trained else {},
        "recipe_sha256": "ab" * 32,
        "git": {"revision": "1" * 40, "dirty": False},
        "threads": 1,
        **more,
    }


def trial(method: str, lr: float, score: float | None) -> dict[str, Any]:
    return cell(method, 99, score or 0.0, lr=lr) | ({} if score is not None else {"figures": None})


CELLS = [cell(method, seed, score) for method, row in SCORES.items() for seed, score in enumerate(row)]


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),  # Abramowitz & Stegun, table 26.10, and any textbook
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.95, 5, 2.015),
        (0.995, 10, 3.169),
        (0.025, 4, -2.776),
    ],
)
def test_quantiles_of_t_are_those_of_the_printed_tables(probability: float, freedom: int, quantile: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8])
def test_the_distribution_function_of_t_is_the_integral_of_its_density(freedom: int) -> None:
    from math import gamma, pi, sqrt

    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    width = 1.5 / 2000
    middles = [(number + 0.5) * width for number in range(2000)]
    area = sum(scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in middles) * width
    assert t_cdf(1.5, freedom) == pytest.approx(0.5 + area, abs=1e-7)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_there_is_no_quantile_outside_the_distribution(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)


def test_the_interval_of_a_mean_is_that_worked_out_by_hand() -> None:
    found = spread([0.4, 0.5, 0.6])  # s = 0.1, t = 4.30265, 4.30265 * 0.1 / sqrt(3) = 0.248414
    assert found.ci95 is not None
    assert (found.mean, *found.ci95) == pytest.approx((0.5, 0.251586, 0.748414), abs=1e-6)
    assert (found.low, found.high, found.n) == (0.4, 0.6, 3)


def test_a_single_seed_has_no_interval() -> None:
    assert spread([0.4]).ci95 is None
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_differences_are_paired_by_seed() -> None:
    found = paired({0: 0.5, 1: 0.6, 2: 0.7, 5: 0.9}, {2: 0.5, 1: 0.6, 0: 0.4, 8: 0.0})  # gaps 0.1, 0, 0.2
    assert found is not None
    assert found["mean"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx((0.1 - 0.248414, 0.1 + 0.248414), abs=1e-6)
    assert (found["n"], found["wins"], found["ties"]) == (3, 2, 1)
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_sod_is_set_against_the_trained_method_that_does_best_beside_it() -> None:
    cells = [*CELLS, *(cell("teacher", seed, 0.99) for seed in range(3))]
    summary = summarise("r", cells, [], [*SCORES, "teacher"], UNTRAINED)
    rows = [(row["method"], row["against"], row["picked"]) for row in summary["differences"]]
    assert rows == [
        ("opd_grpo", "opd", False),
        ("sod", "opd", False),
        ("opd", "opd_grpo", False),
        ("sod", "opd_grpo", False),
        ("sod", "opd_grpo", True),
    ]


def test_a_method_that_lacks_seeds_is_compared_on_those_it_has() -> None:
    cells = [c for c in CELLS if c["method"] != "opd" or c["seed"] == 1]
    summary = summarise("r", cells, [], list(SCORES), UNTRAINED)
    assert summary["methods"]["opd"]["seeds"] == [1]
    assert summary["methods"]["opd"]["avg_at_k"]["ci95"] is None
    against = next(row for row in summary["differences"] if row["method"] == "sod" and row["against"] == "opd")
    assert (against["n"], against["mean"], against["ci95"]) == (1, 0.0, None)


def test_files_say_what_was_measured(tmp_path: Path) -> None:
    trials = [trial("opd", 2e-4, 0.2), trial("opd", 5e-4, 0.4), trial("opd", 1e-3, None)]
    trials += [trial("sod", 5e-4, 0.5), trial("sod", 2e-4, 0.3)]
    other = cell("late", 0, 0.1, git={"revision": "2" * 40, "dirty": True})
    summary = write_comparison(tmp_path, "a recipe", [*CELLS, other], trials, ["sod", "opd"], UNTRAINED)
    assert list(summary["methods"]) == ["sod", "opd", "late", "opd_grpo", "start"]
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    text = (tmp_path / "summary.md").read_text()
    for line in (
        "| sod | 3 | 0.600 | [0.352, 0.848] | 0.500 to 0.700 | 10.0% | 90 | 0.0005 (edge) |",
        "| opd | 3 | 0.500 | [0.252, 0.748] | 0.400 to 0.600 | 10.0% | 90 | 0.0005 |",
        "| start | 3 | 0.300 | [0.052, 0.548] | 0.200 to 0.400 | 10.0% | 90 | - |",
        "| late | 1 | 0.100 | - | 0.100 to 0.100 | 10.0% | 90 | 0.0005 |",
        "| sod | opd | 3 | +0.100 | [-0.148, +0.348] | 2 of 3 | 1 |",
        "| opd | 0.200 | **0.400** | diverged |",
        "| sod | 0.300 | **0.500** | - |",
    ):
        assert line in text
    assert "code 111111111111, 222222222222+changes" in text
    assert "more than one state of the code" in text


def test_picture_shows_means_intervals_and_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    faster = {**CURVE, "accuracy": [0.75, 1.0]}
    cells = [cell("sod", 0, 0.5), cell("sod", 1, 0.7, curve=faster), cell("opd", 0, 0.4), cell("start", 0, 0.3)]
    supervised = {"step": [1, 2], "accuracy": [None, None], "tool_error_rate": [None, None]}
    cells.append(cell("sft", 0, 0.35, curve=supervised))
    write_comparison(tmp_path, "r", cells, [], ["sod", "opd", "sft", "start"], UNTRAINED)
    assert (tmp_path / "comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    dots, accuracy, _ = drawn[0].axes
    half = 12.7062 * 0.141421 / 2**0.5
    intervals = [line.get_xdata() for line in dots.lines if line.get_linestyle() == "-"]
    assert len(intervals) == 1  # of the one method with two seeds
    assert intervals[0] == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)
    assert [label.get_text() for label in dots.get_yticklabels()] == ["sod", "opd", "sft", "start"]
    curves = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert curves == {"sod": [0.5, 0.75], "opd": [0.25, 0.5]}
    (band,) = accuracy.collections
    low, high = band.get_datalim(accuracy.transData).intervaly
    assert (low, high) == (0.25, 1.0)
