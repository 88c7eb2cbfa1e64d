"""Program of the interpreter behind `MathWorkers`: loads math-verify once, forks for every pair.

    python math_worker_main.py WORKERS CPU_SECONDS WALL_SECONDS MEMORY_MB [texts]

Reads `index TAB given TAB truth` lines from stdin, the latter two as JSON strings, writes `index status`
lines to stdout. Started by its path: it imports nothing of ours, nor torch, so it is small and
single-threaded and its forks are cheap. A fork shares no state with the next one, and its caches cannot grow.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

Equal = Callable[[str, str], bool]

DECIMALS = 12  # to which a decimal must agree with an exact value
VERDICTS = {b"=": "equal", b"!": "different"}
WARM_UP = (
    ("x^2+\\frac{1}{2}", "0.5+x^2"),
    ("\\{1\\pm\\sqrt{5},-2\\}", "\\{-2\\}"),
    ("\\begin{pmatrix}-1/3\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
    ("(0,9)\\cup(9,\\infty)", "(0,\\frac{\\pi}{2}]"),
    ("y=2x+3", "2k+\\cot x"),
)
WARM_UP_TEXTS = (
    ("It is $x^2+\\frac{1}{2}$ or about 7.", "So $\\boxed{0.5+x^2}$."),
    ("The final answer is 1,234", "\\boxed{1234}"),
)


@dataclass(frozen=True)
class Limits:
    """Of one comparison (`memory_mb` in MiB); `workers` is how many run at a time."""

    workers: int
    cpu_seconds: int
    wall_seconds: float
    memory_mb: int


@dataclass
class Child:
    """One comparison under way."""

    index: str
    pid: int
    deadline: float


def load() -> Equal:
    """Import math-verify and exercise it, so that forks find their caches filled."""
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
    from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]
    from sympy.core.random import seed  # type: ignore[import-untyped]

    # Only LaTeX is read (the grammar, no `eval`), and no unit is dropped: `5m` is not 5.
    plain = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    latex = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=plain)]

    def read(text: str) -> list[object]:
        return list(parse(f"${text}$", latex, fallback_mode="no_fallback", parsing_timeout=0))

    def equal(given: str, truth: str) -> bool:
        left, right = read(given), read(truth)
        return bool(left and right and verify(right, left, float_rounding=DECIMALS, timeout_seconds=0))

    seed(0)
    random.seed(0)
    for given, truth in WARM_UP:
        equal(given, truth)
    return equal


def load_for_texts() -> Equal:
    """As `load`, with math-verify's defaults: what both texts hold is looked for as it does by itself."""
    from math_verify import parse, verify
    from sympy.core.random import seed

    def equal(given: str, truth: str) -> bool:
        return bool(verify(parse(truth, parsing_timeout=0), parse(given, parsing_timeout=0), timeout_seconds=0))

    seed(0)
    random.seed(0)
    for given, truth in WARM_UP_TEXTS:
        equal(given, truth)
    return equal


def limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def child_main(equal: Equal, given: str, truth: str, reply: int, limits: Limits) -> None:
    """Compare one pair and end. Any exception is a text that cannot be compared: different."""
    os.dup2(reply, 3)
    os.closerange(4, 1024)
    limit(resource.RLIMIT_CPU, limits.cpu_seconds)  # ends it even when nobody is left to kill it
    limit(resource.RLIMIT_AS, limits.memory_mb << 20)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CORE, 0)
    try:
        verdict = b"=" if equal(given, truth) else b"!"
    except Exception:
        verdict = b"!"
    os.write(3, verdict)


def start(equal: Equal, line: str, limits: Limits) -> tuple[int, Child]:
    """Fork for one request line. The read end of its pipe, and the child."""
    index, given, truth = line.split("\t")
    given, truth = json.loads(given), json.loads(truth)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child_main(equal, given, truth, write_end, limits)
        finally:
            os._exit(0)
    os.close(write_end)
    return read_end, Child(index, pid, time.monotonic() + limits.wall_seconds)


def finish(read_end: int, child: Child, overdue: bool) -> str:
    """Reap a child and say how it ended."""
    if overdue:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    verdict = b"" if overdue else os.read(read_end, 1)
    os.close(read_end)
    _, wait_status = os.waitpid(child.pid, 0)
    if overdue:
        return "starved"
    if verdict in VERDICTS:
        return VERDICTS[verdict]
    # The kernel sends the second one where the first was not enough.
    return "time-out" if os.waitstatus_to_exitcode(wait_status) in (-signal.SIGXCPU, -signal.SIGKILL) else "crash"


def serve(equal: Equal, limits: Limits, replies: int) -> None:
    """Until stdin closes."""
    pending: deque[str] = deque()
    running: dict[int, Child] = {}
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            while pending and len(running) < limits.workers:
                read_end, child = start(equal, pending.popleft(), limits)
                running[read_end] = child
                selector.register(read_end, selectors.EVENT_READ)
            soonest = min((child.deadline for child in running.values()), default=None)
            wait = None if soonest is None else max(0.0, soonest - time.monotonic())
            ready = {key.fd for key, _ in selector.select(wait)}
            if 0 in ready:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    break
                *lines, buffer = (buffer + chunk).split(b"\n")
                pending.extend(line.decode("utf-8", "replace") for line in lines)
            now = time.monotonic()
            for read_end in [end for end, child in running.items() if end in ready or child.deadline <= now]:
                selector.unregister(read_end)
                child = running.pop(read_end)
                status = finish(read_end, child, overdue=read_end not in ready)
                os.write(replies, f"{child.index} {status}\n".encode())
    for child in running.values():
        os.kill(child.pid, signal.SIGKILL)


def main() -> None:
    limits = Limits(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # what a library prints must not be taken for a reply
    try:
        equal = load_for_texts() if sys.argv[5:] == ["texts"] else load()
    except Exception as error:
        os.write(replies, f"cannot load math-verify: {type(error).__name__}: {error}".replace("\n", " ").encode())
        os.write(replies, b"\n")
        sys.exit(1)
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, the shared pages in every fork
    os.write(replies, b"ready\n")
    serve(equal, limits, replies)


if __name__ == "__main__":
    main()
