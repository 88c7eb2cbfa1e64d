"""The limit on faults over a window of episodes, and the probe before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sod.records import Fault, FaultKind, SodError
from sod.rollout.health import FaultWindow, refuse_unhealthy

DOWN = Fault(FaultKind.UNREACHABLE, "connection refused")


def survived(window: FaultWindow, steps: list[tuple[int, int]]) -> int:
    """How many of the steps, each `(episodes, faults)`, pass before the window stops the run."""
    for number, (played, faults) in enumerate(steps):
        try:
            window.add(played, [DOWN] * faults)
        except SodError:
            return number
    return len(steps)


@pytest.mark.parametrize(
    ("steps", "passed"),
    [
        ([(8, 1)] * 8, 8),  # one in eight is above a tenth, but eight in 64 are what the window allows
        ([(8, 2)] * 9, 4),  # the ninth and tenth fault come with the fifth step
        ([(8, 2)] * 4 + [(8, 0)] * 8 + [(8, 2)] * 4, 16),  # old faults are forgotten
        ([(128, 12)] * 9, 9),  # a step larger than the window is its own window
        ([(128, 16), (128, 17)], 1),
        ([(4, 4)], 0),  # nothing works: no need to wait for a window
        ([(64, 0), (10, 9), (54, 0)], 2),  # too many once the good step has left, which this faultless one makes it do
    ],
)
def test_window(steps: list[tuple[int, int]], passed: int) -> None:
    assert survived(FaultWindow(0.125, 64), steps) == passed


def test_everything_may_be_allowed() -> None:
    assert survived(FaultWindow(1.0, 4), [(4, 4)] * 3) == 3


def test_the_message_tells_counts_settings_and_the_latest_fault() -> None:
    window = FaultWindow(0.1, 10)
    window.add(5, [DOWN])
    with pytest.raises(SodError, match=r"3 of the last 10 .*max_fault_rate=0.1 .*window=10.*sandbox: worker lost"):
        window.add(5, [DOWN, Fault(FaultKind.SANDBOX, "worker lost")])


@dataclass
class Probed:
    """A tool that is only ever probed."""

    fault: Fault | None
    name: str = "python"

    def probe(self) -> Fault | None:
        return self.fault


def test_probe() -> None:
    refuse_unhealthy({})
    refuse_unhealthy({"python": Probed(None)})  # type: ignore[dict-item]
    with pytest.raises(SodError, match="tool search does not work: unreachable: connection refused"):
        refuse_unhealthy({"python": Probed(None), "search": Probed(DOWN)})  # type: ignore[dict-item]
