"""Where a recipe's models stand, and how much memory is free there."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sod.build.devices import Devices, find_devices
from sod.recipe import Recipe

CPU = "cpu"


def devices_of(recipe: Recipe) -> Devices:
    """The devices of student and teachers. Raises SodError for those that are not there."""
    return find_devices(recipe, lambda text: None)


def free_bytes(device: str) -> int:
    """Memory that a new program could take: what the machine, a limit of its control group or the device has left."""
    if device != CPU:
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min([_of_machine(), *_of_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux: all of it, for want of better
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(found.split()[1]) * 1024


def _of_groups(root: Path, mine: Path) -> list[int]:
    """What the limits of our control group, and of those that it is in, leave; nothing without limits.

    Pages of files count as used there and are given up when memory is needed, so they are taken off.
    """
    try:
        lines = mine.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            left += _left(root / path.lstrip("/"), root, "memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top = root / "memory"
            group = top / path.lstrip("/")
            left += _left(group, top, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return left


def _left(group: Path, top: Path, limit: str, used: str, reclaimable: str) -> list[int]:
    found: list[int] = []
    for directory in (group, *group.parents):
        if directory.is_relative_to(top):
            highest, current = _number(directory / limit), _number(directory / used)
            if highest is not None and current is not None:
                found.append(max(0, highest - current + _entry(directory / "memory.stat", reclaimable)))
    return found


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no such file, or where it says `max`."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _entry(file: Path, name: str) -> int:
    try:
        rows = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
    except OSError:
        return 0
    return int(rows.get(name, 0))
