"""An estimate in words: a line among a run's facts, and the rows of `sod plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sod.preflight.advice import Advice, Free, beyond
from sod.preflight.parts import Estimate

GIB = 2**30


def size_text(size: int) -> str:
    """`1.25 GiB`, or `312 MiB` below one."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:,.0f} MiB"


def peak_text(estimate: Estimate, free: Free) -> str:
    """About how much of what is free is taken at the peak of each device."""
    peaks = [estimate.peak(device) for device in estimate.devices]
    where = {peak.device: f" on {peak.device}" if len(peaks) > 1 else "" for peak in peaks}
    return "; ".join(
        f"about {size_text(peak.bytes)} of {size_text(free[peak.device])} free{where[peak.device]} at its peak, "
        f"in {peak.phase}"
        for peak in peaks
    )


def shortage_text(estimate: Estimate, free: Free) -> str | None:
    """What to tell of a run that is beyond what is free; None where it fits."""
    if not beyond(estimate, free):
        return None
    return (
        f"memory: {peak_text(estimate, free)}: where rows become as long as the recipe allows, it will not fit; "
        "`sod plan RECIPE` says which keys make it fit"
    )


def part_rows(estimate: Estimate, device: str) -> list[Sequence[str]]:
    """What takes memory on a device, a row each with a column per phase, and their sums."""
    rows: list[Sequence[str]] = []
    for part in estimate.parts:
        if part.device == device:
            shown = [size_text(part.bytes) if phase in part.phases else "" for phase in estimate.phases]
            rows.append((part.name, *shown))
    return [*rows, ("in all", *(size_text(estimate.taken(device, phase)) for phase in estimate.phases))]


def advice_rows(advice: Sequence[Advice]) -> list[Sequence[str]]:
    """What to set, and what it costs."""
    return [(_settings(each.settings), each.price) for each in advice]


def _settings(settings: Mapping[str, object]) -> str:
    shown = {True: "true", False: "false"}
    return " ".join(f"{key}={shown[value] if isinstance(value, bool) else value}" for key, value in settings.items())
