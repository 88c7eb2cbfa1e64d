"""Whether we have become slower: the ratios of a new result against the baseline of the same processor.

    python benchmarks/step.py --json step.json && python benchmarks/check.py step.json
    python benchmarks/check.py --accept step.json    # makes it the baseline

Reads what engine.py, step.py, multi_turn.py and scaling.py write with `--json`. Seconds depend on the machine and on
what else it does; the ratio of two sides measured in turns does so far less, and every ratio here is better when it
is higher:

- engine, step, multi_turn: the peer's seconds over ours, as the result has them.
- scaling: of each setting, tokens per second (and, for memory, 1 / MB added) over those of the base setting, whose
  median over its four measurements is taken. One repetition each: the base setting's own seconds differed by up to 15 %
  within the baseline's run, so measure again before you believe a single regression of `scaling`.

A result is compared with the baseline of its benchmark, processor, number of cores and settings, or not at all. Exit
status: 0 no regression; 1 a ratio is more than 10 % lower; 2 nothing to compare with, or not a result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, mode
from typing import Any

BASELINES = Path(__file__).with_name("baselines.json")
TOLERANCE = 0.10
AXES = ("episodes", "turns", "turn_tokens", "vocabulary")  # of scaling.py
NOT_SETTINGS = ("page", "fine_tuning")  # text of the tool, and how long the model was made for it
LATER_SETTINGS = {"recompute": False}  # of step and multi_turn: what results without the key had


class NotAResultError(Exception):
    """A file that none of the benchmarks wrote; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """The ratios of one result, and all that must be equal for another to be compared with it."""

    benchmark: str
    cpu: str
    cores: int
    settings: dict[str, Any]
    date: str  # ISO; empty where the result has none
    versions: dict[str, str]  # of the peers' packages
    ratios: dict[str, float]

    def fits(self, other: Entry) -> bool:
        """Whether the two may be compared."""
        mine, theirs = ((e.benchmark, e.cpu, e.cores, e.settings) for e in (self, other))
        return mine == theirs


def read_entry(path: Path) -> Entry:
    """A result file. Raises NotAResultError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found["machine"]
        if all(axis in found for axis in AXES):
            name, settings, ratios, versions = "scaling", {}, growth(found), {}
        else:
            name, settings = benchmark_of(found["settings"]), found["settings"]
            if name != "engine":
                settings = {**LATER_SETTINGS, **settings}
            ratios, versions = side_by_side_ratios(found), peer_versions(found)
        return Entry(name, machine["cpu"], machine["cores"], comparable(settings), _day(found), versions, ratios)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAResultError(f"{path}: not a result of a benchmark: {type(error).__name__}: {error}") from None


def benchmark_of(settings: Mapping[str, Any]) -> str:
    """Which of the benchmarks against peers has such settings. Raises ValueError."""
    if "prompt_tokens" in settings:
        return "engine"
    if "turns" in settings:
        return "step" if settings["turns"] == 1 else "multi_turn"
    raise ValueError("neither engine's, nor step's, nor multi_turn's settings")


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a ratio depends on."""
    return {key: value for key, value in settings.items() if key not in NOT_SETTINGS}


def side_by_side_ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """`ratio_PEER` and `ratio_PEER_PHASE` as they stand. Raises ValueError where there is none."""
    ratios = {key.removeprefix("ratio_"): value for key, value in found.items() if key.startswith("ratio_")}
    if not ratios:
        raise ValueError("no ratio in it")
    return ratios


def peer_versions(found: Mapping[str, Any]) -> dict[str, str]:
    """`PEER PACKAGE` to version."""
    sides = {name: versions for name, versions in found["versions"].items() if name != "sod"}
    return {f"{name} {package}": version for name, packages in sides.items() for package, version in packages.items()}


def growth(found: Mapping[str, Any]) -> dict[str, float]:
    """Of each setting of scaling.py: speed per token and memory, over those of the base setting."""
    rows = [(axis, row) for axis in AXES for row in found[axis]]
    shape = {axis: mode(row[axis] for _, row in rows) for axis in AXES}  # each axis varies in its own list only
    base = [row for _, row in rows if all(row[axis] == shape[axis] for axis in AXES)]
    usual = {key: median(row[key] for row in base) for key in ("rollout_seconds", "update_seconds", "added_mb")}
    tokens = base[0]["tokens"]
    ratios = {}
    for axis, row in rows:
        if row in base:
            continue
        setting, more = f"{axis}={row[axis]}", row["tokens"] / tokens
        for phase in ("rollout", "update"):
            ratios[f"{setting} {phase}"] = more * usual[f"{phase}_seconds"] / row[f"{phase}_seconds"]
        ratios[f"{setting} memory"] = usual["added_mb"] / row["added_mb"]
    return ratios


def _day(found: Mapping[str, Any]) -> str:
    return str(found.get("date", ""))[:10]


def read_baselines(path: Path) -> list[Entry]:
    """All baselines; none where the file is not there."""
    return [Entry(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def accept(path: Path, entry: Entry) -> None:
    """Make the result the baseline, in the place of an earlier one that fits."""
    kept = [old for old in read_baselines(path) if not old.fits(entry)]
    path.write_text(json.dumps([asdict(one) for one in [*kept, entry]], indent=2) + "\n", encoding="utf-8")


def why_none(entry: Entry, baselines: Sequence[Entry]) -> str:
    """What keeps every baseline from being the one for this result."""
    known = [one for one in baselines if one.benchmark == entry.benchmark]
    same = [one for one in known if (one.cpu, one.cores) == (entry.cpu, entry.cores)]
    if not known:
        return f"no baseline of {entry.benchmark}"
    if not same:
        machines = "; ".join(f"{one.cpu}, {one.cores} cores" for one in known)
        return f"no baseline of {entry.benchmark} for {entry.cpu}, {entry.cores} cores; there are: {machines}"
    old, new = same[-1].settings, entry.settings
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    differ = [f"{key} {new.get(key)!r} (baseline {old.get(key)!r})" for key in changed]
    return f"no baseline of {entry.benchmark} with these settings: {', '.join(differ)}"


def report(entry: Entry, baseline: Entry) -> bool:
    """Print both ratios and their change, ratio by ratio; whether one is a regression."""
    print(f"{entry.benchmark} on {entry.cpu}, {entry.cores} cores; baseline of {baseline.date or 'unknown date'}")
    for package, version in baseline.versions.items():
        if entry.versions.get(package, version) != version:
            print(f"note: {package} is {entry.versions[package]}, not {version}: its ratio may have moved with it")
    worse = []
    for name, old in baseline.ratios.items():
        if name not in entry.ratios:
            print(f"{name:32} {old:8.3f} -> not measured")
            continue
        new = entry.ratios[name]
        if new < old * (1 - TOLERANCE):
            worse.append(name)
        mark = "  REGRESSION" if name in worse else ""
        print(f"{name:32} {old:8.3f} -> {new:8.3f}  {new / old - 1:+7.1%}{mark}")
    if worse:
        print(f"{len(worse)} of {len(baseline.ratios)} ratios are more than {TOLERANCE:.0%} lower: {', '.join(worse)}")
    return bool(worse)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="what a benchmark wrote with --json")
    parser.add_argument("--baselines", type=Path, default=BASELINES)
    parser.add_argument("--accept", action="store_true", help="make this result the baseline instead of comparing it")
    options = parser.parse_args(arguments)
    try:
        entry = read_entry(options.result)
    except NotAResultError as error:
        print(error, file=sys.stderr)
        return 2
    if options.accept:
        accept(options.baselines, entry)
        print(f"{options.baselines}: baseline of {entry.benchmark} for {entry.cpu}, {entry.cores} cores")
        return 0
    baselines = read_baselines(options.baselines)
    fitting = [one for one in baselines if one.fits(entry)]
    if not fitting:
        print(f"{options.result}: {why_none(entry, baselines)}; --accept makes this result one", file=sys.stderr)
        return 2
    return int(report(entry, fitting[-1]))


if __name__ == "__main__":
    sys.exit(main())
