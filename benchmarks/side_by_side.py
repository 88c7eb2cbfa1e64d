"""Programs doing the same work in turns, ours with each peer, in one run: the machinery that the benchmarks share.

Every side is a process of its own that loads its model once and then does one repetition for each `go`
(`peers/protocol.py`). While one works, the other's process group is stopped, so that nobody's idle polling
disturbs; the order is turned round after every round. A repetition of each is thrown away first. What is reported
is the ratio of the medians of a pair: above 1 where we are faster.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

TORCH = "torch==2.13.0"  # pinned so that an environment takes the very wheel (the CPU build) that we use
OURS = "sod"
DEFAULT_ROOT = Path.home() / ".cache" / "sod-benchmarks"
SAME_TOKENS = 0.02  # sides whose token counts differ by more are compared per token
_NOT_INHERITED = ("GLIBC_TUNABLES", "LD_PRELOAD", "SOD_ALLOCATOR", "PYTHONPATH", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

console = Console(highlight=False, soft_wrap=True)


class BrokenSideError(RuntimeError):
    """A side cannot go on: it died, hung or could not be installed. One line."""


# --- a peer's own virtual environment -------------------------------------------------------------


def peer_python(name: str, requirements: Sequence[str], uninstall: Sequence[str] = (), root: Path | None = None) -> str:
    """The interpreter of the virtual environment `root`/`name`, with torch and `requirements` in it.

    An environment that has them (`name==version` exactly, `name` in any version) and none of `uninstall` is used as
    it is; else it is made and filled with pip. Raises BrokenSideError with pip's last words.
    """
    home = (root or DEFAULT_ROOT) / name
    python = home / "bin" / "python"
    wanted = (TORCH, *requirements)
    if python.exists() and not missing(str(python), wanted, uninstall):
        return str(python)
    console.print(f"{name}: installing {', '.join(wanted)} in {home} (once)")
    if not python.exists():
        shutil.rmtree(home, ignore_errors=True)
        _checked(name, [sys.executable, "-m", "venv", str(home)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _checked(name, [*pip, "install", *wanted])
    if uninstall:
        _checked(name, [*pip, "uninstall", "--yes", *uninstall])
    wrong = missing(str(python), wanted, uninstall)
    if wrong:
        raise BrokenSideError(f"{name}: after installing, {home} still lacks: {', '.join(wrong)}")
    return str(python)


def missing(python: str, requirements: Sequence[str], uninstall: Sequence[str]) -> list[str]:
    """Which requirements this interpreter's environment does not meet; `not NAME` for what should not be there."""
    code = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        return list(requirements)
    there = {_canonical(name): version for name, version in json.loads(done.stdout)}
    lacking = []
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        found = there.get(_canonical(name.partition("[")[0]))
        if found is None or (version and found.partition("+")[0] != version):
            lacking.append(requirement)
    return lacking + [f"not {name}" for name in uninstall if _canonical(name) in there]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _checked(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BrokenSideError(f"{name}: {' '.join(command[:4])} ... failed: {_tail(done.stderr)}")


# --- one side ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """A program to measure: its command, what its environment has more than ours, and what to know about it."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Worker:
    """A side's process group. Stopped except while it loads or works; killed when the `with` block ends."""

    def __init__(self, side: Side, limit_seconds: float) -> None:
        self.side = side
        self.peak_mb = 0.0
        self._limit = limit_seconds
        self._buffer = b""

    def __enter__(self) -> Worker:
        """Start the process and wait until it has loaded. Raises BrokenSideError."""
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            list(self.side.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**inherited, **offline, **self.side.env},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            self.versions = self._line()
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def repeat(self) -> dict[str, Any]:
        """One repetition; what the worker measured. Raises BrokenSideError."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        row = self._line()
        for key in ("seconds", "tokens"):
            if not isinstance(row.get(key), int | float) or row[key] <= 0:
                raise BrokenSideError(f"{self.side.name}: answered without a positive {key!r}: {row}")
        self.peak_mb = max(self.peak_mb, group_peak_mb(self.process.pid))
        self._signal(signal.SIGSTOP)
        return row

    def close(self) -> None:
        """Kill the process group, stopped or not."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # a `go` that nobody read any more
                    pipe.close()
        self._stderr.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it died; whoever reads from it next says so
            os.killpg(self.process.pid, number)

    def _line(self) -> dict[str, Any]:
        """The worker's next answer, within the time limit."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + self._limit
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise BrokenSideError(
                    f"{self.side.name}: no answer within {self._limit:.0f} s; stderr: {self._last_words()}"
                )
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._died()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise BrokenSideError(f"{self.side.name}: not a JSON object: {line[:200]!r}")
        return row

    def _died(self) -> BrokenSideError:
        code = self.process.wait(timeout=self._limit)
        return BrokenSideError(
            f"{self.side.name}: the worker ended with exit code {code}; stderr: {self._last_words()}"
        )

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return _tail(self._stderr.read().decode(errors="replace"))


def _die_with_parent() -> None:
    """In the child: a benchmark that is killed itself must not leave a stopped worker behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _tail(text: str, lines: int = 6) -> str:
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(kept)[-1500:] or "nothing"


def group_peak_mb(group: int) -> float:
    """Sum of the largest resident sizes (VmHWM, MB) of the group's living processes; shared pages count for each."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == group:
                found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
                total += int(found[1]) if found else 0
        except OSError:
            continue  # ended while we looked
    return total / 1024


# --- the comparison ---------------------------------------------------------------------------------


@dataclass
class Measured:
    """What came of a side."""

    side: Side
    rows: list[dict[str, Any]] = field(default_factory=list)
    peak_mb: float = 0.0
    versions: dict[str, Any] = field(default_factory=dict)

    def times(self) -> list[str]:
        """The keys that hold seconds to compare: `seconds` and whatever ends in `_seconds`."""
        return [key for key in self.rows[0] if key == "seconds" or key.endswith("_seconds")]

    def numbers(self) -> list[str]:
        """The keys of what was measured."""
        return [key for key, value in self.rows[0].items() if isinstance(value, int | float)]

    def median(self, key: str) -> float:
        """The median of one measure over the repetitions."""
        return float(median(row[key] for row in self.rows))


def compare(
    ours: Side, peer: Side, repetitions: int, limit_seconds: float, tell: Callable[[str], None] = console.print
) -> tuple[Measured, Measured]:
    """Warm both up, then measure them in turns. Raises BrokenSideError; no process outlives the call."""
    results = Measured(ours), Measured(peer)
    with ExitStack() as started:
        workers = []
        for result in results:
            tell(f"{result.side.name}: loading")
            workers.append(started.enter_context(Worker(result.side, limit_seconds)))
        for number in range(repetitions + 1):
            pairs = list(zip(workers, results, strict=True))
            for worker, result in pairs if number % 2 == 0 else reversed(pairs):
                row = worker.repeat()
                label = f"repetition {number}" if number else "warm-up"
                tell(f"{label}, {worker.side.name}: {row['seconds']:.2f} s, {row['tokens']:.0f} tokens")
                if number:
                    result.rows.append(row)
        for worker, result in zip(workers, results, strict=True):
            result.peak_mb, result.versions = worker.peak_mb, worker.versions
    return results


def per_token(ours: Measured, peer: Measured) -> bool:
    """Whether the two sampled so different numbers of tokens that only seconds per token can be compared."""
    return abs(peer.median("tokens") / ours.median("tokens") - 1) > SAME_TOKENS


def ratios(ours: Measured, peer: Measured) -> dict[str, float]:
    """Peer's median over ours: `ratio_PEER` of `seconds`, `ratio_PEER_WHAT` of every `WHAT_seconds` of both."""
    scale = ours.median("tokens") / peer.median("tokens") if per_token(ours, peer) else 1.0
    shared = [key for key in ours.times() if key in peer.rows[0]]
    return {ratio_key(peer.side.name, key): scale * peer.median(key) / ours.median(key) for key in shared}


def ratio_key(peer: str, measure: str) -> str:
    """What the ratio of a measure is called."""
    return f"ratio_{peer}_{measure.removesuffix('seconds')}".rstrip("_")


def pooled(pairs: Sequence[tuple[Measured, Measured]]) -> list[Measured]:
    """Every side once: ours with the rows of all pairs in their order, then the peers."""
    first = pairs[0][0]
    rows = [row for ours, _ in pairs for row in ours.rows]
    together = Measured(first.side, rows, max(ours.peak_mb for ours, _ in pairs), first.versions)
    return [together, *(peer for _, peer in pairs)]


def summary(pairs: Sequence[tuple[Measured, Measured]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a reader of the figures needs, JSON-able. Ratios are those within a pair."""
    merged: dict[str, Any] = {}
    for ours, peer in pairs:
        merged |= ratios(ours, peer)
    sides = pooled(pairs)
    return merged | {
        "normalised_by_tokens": [peer.side.name for ours, peer in pairs if per_token(ours, peer)],
        "medians": {side.side.name: {key: side.median(key) for key in side.numbers()} for side in sides},
        "repetitions": {side.side.name: side.rows for side in sides},
        "peak_memory_mb": {side.side.name: round(side.peak_mb) for side in sides},
        "notes": {side.side.name: side.side.note for side in sides},
        "versions": {side.side.name: side.versions for side in sides},
        "settings": dict(settings),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30, 1),
        "system": platform.platform(),
    }


def print_table(pairs: Sequence[tuple[Measured, Measured]], found: Mapping[str, Any]) -> None:
    """The figures for a person."""
    count = len(pairs[0][1].rows)
    table = Table(title=f"medians of {count} repetitions in turns with {OURS}; ratio above 1: {OURS} is faster")
    for heading in ("side", "measure", "median", "least", "most", "tokens", "peak MB", "ratio"):
        table.add_column(heading, justify="left" if heading in ("side", "measure") else "right")
    for side in pooled(pairs):
        for number, key in enumerate(side.times()):
            values = [row[key] for row in side.rows]
            ratio = found.get(ratio_key(side.side.name, key))
            table.add_row(
                "" if number else side.side.name,
                key.removesuffix("_seconds") if key != "seconds" else "whole",
                f"{median(values):.2f} s",
                f"{min(values):.2f}",
                f"{max(values):.2f}",
                "" if number else f"{side.median('tokens'):.0f}",
                "" if number else f"{side.peak_mb:.0f}",
                "" if ratio is None else f"{ratio:.2f}",
            )
    console.print(table)
    for name in found["normalised_by_tokens"]:
        console.print(f"{name}: its token count differs by more than {SAME_TOKENS:.0%}; its ratios are per token")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--repetitions", type=int, default=3, help="measured repetitions of each side (default 3)")
    parser.add_argument("--peers", type=Path, default=DEFAULT_ROOT, help="where the peers' environments are")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that loading or a repetition may take")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(
    make_sides: Callable[[], Sequence[Side]], options: argparse.Namespace, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole benchmark: compare, print, write; its `summary`. The first side is ours.

    A side that breaks ends the process with one line.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are killed on the way out
    if options.repetitions < 1:
        sys.exit("--repetitions must be at least 1")
    busy = os.getloadavg()[0]
    try:
        ours, *peers = make_sides()
        # In pairs, not all at once: the memory of a stopped side stays taken.
        pairs = [compare(ours, peer, options.repetitions, options.limit) for peer in peers]
    except BrokenSideError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    found = summary(pairs, settings) | {"load_average_before": busy}
    print_table(pairs, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found
