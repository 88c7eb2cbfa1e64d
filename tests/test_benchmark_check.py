"""`benchmarks/check.py` on the results that the baselines were made from, as they are and changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "2026-11-22-performance"
sys.path.insert(0, str(ROOT / "benchmarks"))

import check  # noqa: E402

NAMES = ("engine", "step", "multi_turn", "scaling")
Write = Callable[[str, Callable[[dict[str, Any]], None]], Path]


@pytest.fixture
def changed(tmp_path: Path) -> Write:
    """`changed(name, change)`: the path of a copy of the result that `change` was let loose on."""

    def write(name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        found = json.loads((RESULTS / f"{name}.json").read_text())
        change(found)
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        return tmp_path / f"{name}.json"

    return write


@pytest.mark.parametrize("name", NAMES)
def test_every_published_result_is_a_baseline_and_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(RESULTS / f"{name}.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name} on AMD EPYC, 2 cores; baseline of 2026-11-22")
    assert "REGRESSION" not in out


@pytest.mark.parametrize(("factor", "status"), [(0.89, 1), (0.91, 0), (1.5, 0)])
def test_more_than_ten_per_cent_lower_is_a_regression(
    factor: float, status: int, changed: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(found: dict[str, Any]) -> None:
        found["ratio_trl_rollout"] *= factor

    assert check.main([str(changed("step", slow))]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "REGRESSION" in line] == ["trl_rollout"] * status
    assert ("1 of 4 ratios are more than 10% lower: trl_rollout" in lines[-1]) == bool(status)


def test_a_slower_machine_is_no_regression_of_growth_and_a_steeper_curve_is(
    changed: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything twice as slow leaves the ratios; only the largest vocabulary slower does not."""

    def slow(found: dict[str, Any], axes: tuple[str, ...] = check.AXES, row: slice = slice(None)) -> None:
        for one in (one for axis in axes for one in found[axis][row]):
            one["update_seconds"] *= 2

    assert check.main([str(changed("scaling", slow))]) == 0
    capsys.readouterr()
    assert check.main([str(changed("scaling", lambda found: slow(found, ("vocabulary",), slice(-1, None))))]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("lower: vocabulary=151936 update")


def test_growth_by_hand() -> None:
    """Twice the tokens in four times the base setting's median time and with its memory: 0.5 and 1."""
    base = {"episodes": 4, "turns": 2, "turn_tokens": 8, "vocabulary": 16, "tokens": 64}
    measured = {"rollout_seconds": 1.0, "update_seconds": 2.0, "added_mb": 10.0}
    found = {
        axis: [{**base, **measured, "rollout_seconds": seconds}]
        for axis, seconds in zip(check.AXES, (1, 1, 2, 9), strict=True)
    }
    found["episodes"].append({**base, **measured, "episodes": 8, "tokens": 128, "rollout_seconds": 6.0})
    expected = {"episodes=8 rollout": 0.5, "episodes=8 update": 2.0, "episodes=8 memory": 1.0}
    assert check.growth(found) == pytest.approx(expected)


def test_another_processor_has_no_baseline(changed: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Not compared, not passed: a status of its own, and a line that says which there are."""
    path = changed("engine", lambda found: found["machine"].update(cpu="Cray-1", cores=1))
    assert check.main([str(path)]) == 2
    told = capsys.readouterr().err
    assert "no baseline of engine for Cray-1, 1 cores; there are: AMD EPYC, 2 cores" in told


def test_other_settings_have_no_baseline(changed: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed("multi_turn", lambda found: found["settings"].update(recompute=True, prompts=4))
    assert check.main([str(path)]) == 2
    assert "prompts 4 (baseline 16), recompute True (baseline False)" in capsys.readouterr().err


def test_another_version_of_a_peer_is_noted(changed: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(changed("step", lambda found: found["versions"]["trl"].update(trl="9.9")))]) == 0
    assert "note: trl trl is 9.9, not 1.16.0" in capsys.readouterr().out


def test_a_ratio_that_was_not_measured_is_said(changed: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """`--sides` leaves peers out; what is there is compared."""
    assert check.main([str(changed("engine", lambda found: found.pop("ratio_vllm")))]) == 0
    assert "1.356 -> not measured" in capsys.readouterr().out


def test_accepting_replaces_the_baseline_that_fits_and_no_other(changed: Write, tmp_path: Path) -> None:
    baselines = tmp_path / "baselines.json"
    baselines.write_bytes(check.BASELINES.read_bytes())
    path = changed("step", lambda found: found.update(ratio_trl=1.0))
    assert check.main([str(path), "--baselines", str(baselines)]) == 1
    assert check.main([str(path), "--baselines", str(baselines), "--accept"]) == 0
    assert check.main([str(path), "--baselines", str(baselines)]) == 0
    before, after = check.read_baselines(check.BASELINES), check.read_baselines(baselines)
    assert [one for one in after if one.benchmark != "step"] == [one for one in before if one.benchmark != "step"]
    assert [one.ratios["trl"] for one in after if one.benchmark == "step"] == [1.0]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": {"cpu": "x", "cores": 1}, "settings": {}}', "null"])
def test_what_is_no_result_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.json").write_text(content)
    assert check.main([str(tmp_path / "it.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/it.json: not a result")
    assert check.main([str(tmp_path / "nowhere.json")]) == 2
