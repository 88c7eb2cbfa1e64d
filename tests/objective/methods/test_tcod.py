"""TCOD: plain OPD on as many turns as the curriculum allows at a step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objective.enumeration import assert_proven, distilled, expected_gradient, make_world, ones
from sod.objective import PRESETS, AfterTeacherTurns, FirstTurns, Need, WholeEpisodes
from sod.objective.episodes import EpisodeStrategy, turns_at
from sod.objective.presets import knobs


@pytest.mark.parametrize("name", ["tcod_f2b", "tcod_b2f"])
def test_expected_gradient(name: str) -> None:
    """On what the student played: that of OPD, at any step."""
    world = make_world(longest=3, turns=2)
    assert_proven(world, PRESETS[name](kappa=0.5), distilled(ones, 0.5), step=30)
    alike = make_world(longest=2, turns=2, alike=True)
    assert float(expected_gradient(alike, PRESETS[name]()).abs().max()) < 1e-15
    assert torch.equal(expected_gradient(world, PRESETS[name]()), expected_gradient(world, PRESETS["opd"]()))


@pytest.mark.parametrize(("name", "kind"), [("tcod_f2b", FirstTurns), ("tcod_b2f", AfterTeacherTurns)])
def test_knobs_reach_the_episodes(name: str, kind: type) -> None:
    method = PRESETS[name](start=2, every=5)
    assert (method.name, method.episodes) == (name, kind(2, 5))
    assert Need.REWARD not in method.needs
    assert (Need.TEACHER_EPISODES in method.needs) == (kind is AfterTeacherTurns)


class Noted:
    """A stage that plays nothing but notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def student(self, max_turns: int | None = None, prefixes: Sequence[str] | None = None) -> str:
        self.asked.append((max_turns, prefixes))
        return "played"

    def teacher_prefixes(self, leave: int) -> list[str]:
        return [f"all but {leave}"]


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        (WholeEpisodes(), (None, None)),
        (FirstTurns(2, 3), (3, None)),
        (AfterTeacherTurns(2, 3), (3, ["all but 3"])),
    ],
)
def test_what_a_strategy_has_played(strategy: EpisodeStrategy, asked: tuple[object, ...]) -> None:
    """At step 3, when a curriculum of 2 turns and one more every 3 steps has 3; the stage's result comes back."""
    stage = Noted()
    assert strategy.play(stage, 3) == "played"
    assert stage.asked == [asked]


def test_only_what_replays_turns_minds_tools_with_state() -> None:
    assert "what they left in a tool" in (AfterTeacherTurns().refusal(["python"]) or "")
    assert AfterTeacherTurns().refusal([]) is None
    assert [FirstTurns().refusal(["python"]), WholeEpisodes().refusal(["python"])] == [None, None]


@pytest.mark.parametrize(
    ("start", "every", "turns"),
    [
        (1, 2, [1, 2, 2, 3, 3, 4, 4]),
        (1, 1, [2, 3, 4, 5, 6, 7, 8]),
        (2, 3, [2, 2, 3, 3, 3, 4, 4]),
        (4, 50, [4, 4, 4, 4, 4, 4, 4]),
    ],
)
def test_the_papers_schedule_by_hand(start: int, every: int, turns: list[int]) -> None:
    """`k_0 + floor(n / eta)` at steps n = 1, 2, ...: the first further turn comes with the step whose number is eta."""
    assert [turns_at(step, start, every) for step in range(1, 8)] == turns


@pytest.mark.parametrize("name", ["tcod_f2b", "tcod_b2f"])
def test_the_papers_settings_are_the_defaults(name: str) -> None:
    """k_0 = 1, eta = 2."""
    assert {knob: declared.default for knob, declared in knobs(name).items() if knob != "kappa"} == {
        "start": 1,
        "every": 2,
    }
    assert PRESETS[name]().episodes == PRESETS[name](start=1, every=2).episodes


@given(start=st.integers(1, 9), every=st.integers(1, 50), step=st.integers(1, 500))
def test_turns_grow_by_one_at_a_time(start: int, every: int, step: int) -> None:
    assert turns_at(1, start, every) == start + (every == 1)
    assert turns_at(step, start, every) - turns_at(step - 1, start, every) == (step % every == 0)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (1, 0), (-1, 5)])
def test_what_is_no_curriculum(start: int, every: int) -> None:
    for name in ("tcod_f2b", "tcod_b2f"):
        with pytest.raises(ValueError, match="a curriculum starts with a turn"):
            PRESETS[name](start=start, every=every)
