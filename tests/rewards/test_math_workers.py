"""The processes behind symbolic comparison: lost, stuck, lying or absent ones are faults, not verdicts."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sod.records import Fault, FaultKind
from sod.rewards import math_workers
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.math_workers import MathWorkers, Pair
from support import answered

SAME, OTHER = Pair("x+1", "1+x"), Pair("x+1", "x+3")

# The real program with another comparison in the place of math-verify's.
STAND_IN = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("main", {path!r})
sys.modules["main"] = main = importlib.util.module_from_spec(spec)
spec.loader.exec_module(main)
def equal(given, truth):
    {body}
main.load = lambda: equal
main.main()
"""
HONEST = 'return given == truth or given.startswith("x+" + chr(92) + "frac")'


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MathWorkers]]:
    built: list[MathWorkers] = []

    def make(body: str, wall_factor: int = 60) -> MathWorkers:
        """A second of CPU time a pair, and the wall clock of a very busy machine."""
        real = Path(math_workers.__file__).with_name("math_worker_main.py")
        source = STAND_IN.format(path=str(real), body=body)
        (tmp_path / "main.py").write_text(source)
        monkeypatch.setattr(math_workers, "_MAIN", tmp_path / "main.py")
        monkeypatch.setattr(math_workers, "WALL_FACTOR", wall_factor)
        built.append(MathWorkers(2, 1, 1024))
        return built[-1]

    yield make
    for workers in built:
        workers.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[MathWorkers]:
    built = MathWorkers(2, 30, 1024)
    yield built
    built.close()


def faults(results: list[str | Fault]) -> list[str]:
    assert all(isinstance(result, Fault) and result.kind is FaultKind.VERIFIER for result in results), results
    return [result.detail for result in results if isinstance(result, Fault)]


def process_id(workers: MathWorkers) -> int:
    assert workers._process is not None
    return workers._process.pid


def test_answers_come_in_order_and_in_any_number(workers: MathWorkers) -> None:
    pairs = [Pair(f"x+{n}", f"{n + n % 2}+x") for n in range(60)]
    assert workers.compare(pairs) == ["different" if n % 2 else "equal" for n in range(60)]
    assert workers.compare([]) == []


def test_it_works_in_a_thread(workers: MathWorkers) -> None:
    results: list[str | Fault] = []
    thread = threading.Thread(target=lambda: results.extend(workers.compare([SAME, OTHER])))
    thread.start()
    thread.join(300)
    assert results == ["equal", "different"]


def test_a_killed_interpreter_is_replaced(workers: MathWorkers) -> None:
    workers.compare([SAME])
    before = process_id(workers)
    os.kill(before, signal.SIGKILL)
    assert workers.compare([SAME, OTHER]) == ["equal", "different"]
    assert process_id(workers) != before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_interpreter_inherits_no_secrets(workers: MathWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.compare([SAME])
    environment = Path(f"/proc/{process_id(workers)}/environ").read_bytes()
    assert {entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry} <= {b"LANG", b"PYTHONHASHSEED"}


def test_a_crash_is_the_pairs_own_doing_and_leaves_the_others_alone(stand_in: Callable[..., MathWorkers]) -> None:
    workers = stand_in(f'os.abort() if given == "die" else None; {HONEST}')
    assert workers.compare([Pair("a", "a"), Pair("die", "a"), Pair("a", "b")]) == ["equal", "crash", "different"]


def test_using_up_the_time_is_the_pairs_own_doing(stand_in: Callable[..., MathWorkers]) -> None:
    workers = stand_in(f'while given == "loop": pass\n    {HONEST}')
    assert workers.compare([Pair("loop", "a"), Pair("a", "a")]) == ["time-out", "equal"]


@pytest.mark.slow
def test_a_pair_that_got_no_cpu_time_is_a_fault(stand_in: Callable[..., MathWorkers]) -> None:
    workers = stand_in(f'time.sleep(600 if given == "sleep" else 0); {HONEST}', wall_factor=4)
    asleep, fine = workers.compare([Pair("sleep", "a"), Pair("a", "a")])
    assert faults([asleep]) == ["math-verify: too little CPU time to be had"]
    assert fine == "equal"


@pytest.mark.parametrize("body", ["return True", "return False", "raise ImportError", "os.abort()"])
def test_an_interpreter_that_fails_the_control_pairs_is_a_fault(
    stand_in: Callable[..., MathWorkers], body: str
) -> None:
    assert "control pairs" in faults(stand_in(body).compare([SAME]))[0]


def test_breaking_after_a_good_start_is_a_fault(stand_in: Callable[..., MathWorkers], tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    workers = stand_in(f"os.path.exists({str(flag)!r}) and os.abort(); {HONEST}")
    assert workers.compare([Pair("a", "a")]) == ["equal"]
    flag.touch()
    assert "control pairs" in faults(workers.compare([Pair("a", "a")]))[0]


def test_an_interpreter_that_cannot_start_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(math_workers, "_MAIN", tmp_path / "absent.py")
    assert faults(MathWorkers(1, 1, 1024).compare([SAME, OTHER])) == ["math-verify: the interpreter ended"] * 2
    monkeypatch.setattr(math_workers.sys, "executable", str(tmp_path / "absent"))
    assert "absent" in faults(MathWorkers(1, 1, 1024).compare([SAME]))[0]


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = MathWorkers(1, 1, 1024)
    monkeypatch.setattr(workers, "_command", [sys.executable, "-S", *workers._command[1:]])  # no site-packages
    assert "cannot load math-verify: ModuleNotFoundError" in faults(workers.compare([SAME]))[0]


def test_each_pair_is_asked_once_and_the_memory_is_bounded() -> None:
    verifier = MathVerifier(seconds=30, remember=2)
    verifier.verify([answered(rf"\boxed{{{n}+x}}", f"x+{n}") for n in range(4)])
    assert len(verifier._known) == 2
    os.kill(process_id(verifier._workers), signal.SIGKILL)
    verifier._workers.close()  # nobody is left to be asked
    again = verifier.verify([answered(rf"\boxed{{{n}+x}}", f"x+{n}") for n in range(4)])
    assert [isinstance(verdict, Fault) for verdict in again] == [True, True, False, False]
    verifier.close()


def test_closing_twice_is_safe_and_exact_answers_are_still_verified() -> None:
    verifier = MathVerifier()
    verifier.close()
    verifier.close()
    exact, symbolic = verifier.verify([answered(r"\boxed{0.5}", "1/2"), answered(r"\boxed{1+x}", "x+1")])
    assert not isinstance(exact, Fault)
    assert exact.correct
    assert isinstance(symbolic, Fault)
    assert "closed" in symbolic.detail


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_that_are_not_positive_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        MathWorkers(*numbers)
