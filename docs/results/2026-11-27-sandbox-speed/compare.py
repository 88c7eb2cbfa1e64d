"""How long the sandbox of one source tree takes beside that of another, in turns.

    python compare.py BASE/src NEW/src [PAIRS]

Each tree has a process of its own with two workers and no preloads. In every pair both run 60 programs one after the
other (median) and 64 threads of 5 programs each (wall clock), in alternating order.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time

PROGRAM, SAID = "print(sum(range(10)))", "45\n"


def serve() -> None:
    """One side: a line from stdin says what to run, a line to stdout how long it took (seconds)."""
    from sod.records import Program
    from sod.tools.sandbox.local import LocalSandbox

    sandbox = LocalSandbox(workers=2, preload=())
    print(json.dumps([sandbox.level, dict(sandbox.isolation)]), flush=True)

    def one() -> float:
        began = time.perf_counter()
        (result,) = sandbox.execute([Program(PROGRAM)])
        assert result.stdout == SAID, result
        return time.perf_counter() - began

    def burst() -> float:
        def work() -> None:
            for _ in range(5):
                one()

        threads = [threading.Thread(target=work) for _ in range(64)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    for line in sys.stdin:
        taken = statistics.median(one() for _ in range(60)) if line.strip() == "one" else burst()
        print(json.dumps(taken), flush=True)
    sandbox.close()


def ask(side: subprocess.Popen[str], what: str) -> float:
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write(f"{what}\n")
    side.stdin.flush()
    return float(side.stdout.readline())


def main(base: str, new: str, pairs: int) -> None:
    sides = []
    for source in (base, new):
        environment = {**os.environ, "PYTHONPATH": source}
        command = [sys.executable, __file__, "serve"]
        sides.append(
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        print(source, sides[-1].stdout.readline().strip())
    taken: dict[tuple[str, int], list[float]] = {}
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            for what in ("one", "burst"):
                taken.setdefault((what, side), []).append(ask(sides[side], what))
    for what in ("one", "burst"):
        before, after = taken[what, 0], taken[what, 1]
        ratios = [new / old for old, new in zip(before, after, strict=True)]
        medians = statistics.median(before), statistics.median(after)
        print(
            f"{what:6} base {medians[0] * 1e3:8.2f} ms  new {medians[1] * 1e3:8.2f} ms  "
            f"ratio of medians {medians[1] / medians[0]:.2f}  median of ratios {statistics.median(ratios):.2f}"
        )
    for side in sides:
        side.stdin.close()
        side.wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 10)
