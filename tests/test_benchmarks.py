"""The benchmarks' machinery: what it makes of figures, and how it treats the processes it measures."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import side_by_side  # noqa: E402
from side_by_side import BrokenSideError, Measured, Side, Worker, compare, missing, peer_python, ratios, summary  # noqa: E402

WORKER = """
import os, sys, time
sys.path.insert(0, {peers!r})
from protocol import Line
line = Line()
print("chatter that must not reach the protocol")
line.ready()
numbers = iter(range(100))
def repetition():
    number = next(numbers)
    {body}
    return {{"seconds": {seconds}, "rollout_seconds": 1.0, "tokens": {tokens}, "number": number}}
line.serve(repetition)
"""


def side(name: str, body: str = "pass", seconds: str = "2.0", tokens: int = 100) -> Side:
    """A worker that is a real process and does `body` in each repetition."""
    script = WORKER.format(peers=str(BENCHMARKS / "peers"), body=body, seconds=seconds, tokens=tokens)
    return Side(name, (sys.executable, "-c", script))


def measured(name: str, seconds: list[float], tokens: int = 100, **more: float) -> Measured:
    """A side with these repetitions."""
    rows: list[dict[str, Any]] = [{"seconds": s, "tokens": tokens, **more} for s in seconds]
    return Measured(Side(name, ()), rows, peak_mb=10.0)


def state(pid: int) -> str:
    """The process's state letter; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


class TestFigures:
    """Medians and ratios."""

    def test_ratio_is_of_medians_and_above_one_where_we_are_faster(self) -> None:
        """Means would say 4.0 and 5.4 here."""
        ours, peer = measured("sod", [1.0, 2.0, 9.0]), measured("trl", [3.0, 5.0, 8.2])
        assert ratios(ours, peer) == {"ratio_trl": 2.5}

    def test_every_shared_phase_has_its_ratio(self) -> None:
        """Seconds of a phase that only one side knows are not compared."""
        ours = measured("sod", [2.0], rollout_seconds=1.0, update_seconds=0.5)
        peer = measured("trl", [2.0], rollout_seconds=3.0)
        assert ratios(ours, peer) == {"ratio_trl": 1.0, "ratio_trl_rollout": 3.0}

    @pytest.mark.parametrize(("tokens", "expected"), [(101, 2.0), (99, 2.0), (104, 2.0 / 1.04), (50, 4.0)])
    def test_ratio_is_per_token_where_token_counts_differ(self, tokens: int, expected: float) -> None:
        """More than two per cent: the peer's seconds are scaled to our number of tokens."""
        ours, peer = measured("sod", [1.0]), measured("trl", [2.0], tokens)
        assert ratios(ours, peer)["ratio_trl"] == pytest.approx(expected)
        assert summary([(ours, peer)], {})["normalised_by_tokens"] == (["trl"] if expected != 2.0 else [])

    def test_a_peer_is_compared_with_what_ran_beside_it(self) -> None:
        """The machine was slower during the second pair; its ratio is that of its own rows, ours are listed all."""
        pairs = [
            (measured("sod", [1.0]), measured("one", [2.0])),
            (measured("sod", [10.0]), measured("two", [30.0])),
        ]
        found = summary(pairs, {"size": 3})
        assert (found["ratio_one"], found["ratio_two"]) == (2.0, 3.0)
        assert [row["seconds"] for row in found["repetitions"]["sod"]] == [1.0, 10.0]
        assert found["medians"]["two"]["seconds"] == 30.0
        assert found["settings"] == {"size": 3}
        json.dumps(found)


class TestWorkers:
    """Real processes: who runs when, and what is left of them."""

    def test_sides_take_turns_and_the_warm_up_is_thrown_away(self) -> None:
        """The order is turned round after every round; repetition 0 of each is told but not kept."""
        told: list[str] = []
        ours, peer = compare(side("sod"), side("peer"), repetitions=3, limit_seconds=120, tell=told.append)
        assert [row["number"] for row in ours.rows] == [row["number"] for row in peer.rows] == [1, 2, 3]
        order = [line.partition(":")[0].rpartition(" ")[2] for line in told if "loading" not in line]
        assert order == ["sod", "peer", "peer", "sod", "sod", "peer", "peer", "sod"]
        assert ours.versions == {"python": sys.version.split()[0]}

    def test_a_waiting_side_cannot_disturb(self) -> None:
        """A worker with a busy thread and a busy child gets no CPU time while it is not its turn."""
        body = "os.fork() or all(True for _ in iter(int, 1)) if number == 0 else None"
        with Worker(side("sod", body), limit_seconds=120) as worker:
            worker.repeat()
            group = worker.process.pid
            pids = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _group(int(p.name)) == group]
            assert len(pids) == 2
            wait_until(lambda: {state(pid) for pid in pids} == {"T"})
            before = [_cpu_ticks(pid) for pid in pids]
            time.sleep(0.3)
            assert [_cpu_ticks(pid) for pid in pids] == before
        wait_until(lambda: all(state(pid) in ("", "Z") for pid in pids))

    def test_dead_worker_is_one_line_with_its_last_words(self) -> None:
        """The exit code, the side's name and the tail of stderr; the other side is gone, too."""
        marker = "sys.exit('out of memory, say') if number == 1 else None"
        with pytest.raises(BrokenSideError) as caught:
            compare(side("sod", "pass"), side("peer", marker), 2, 120, tell=lambda _: None)
        message = str(caught.value)
        assert message.startswith("peer: ")
        assert "exit code 1" in message
        assert "out of memory, say" in message
        assert "\n" not in message
        assert not subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "numbers = iter"], capture_output=True).stdout

    @pytest.mark.slow
    def test_hanging_worker_is_given_up(self) -> None:
        """Within the limit, and it is killed."""
        began = time.monotonic()
        with Worker(side("peer", "time.sleep(600)"), limit_seconds=5.0) as worker:
            with pytest.raises(BrokenSideError, match="peer: no answer within 5 s"):
                worker.repeat()
            pid = worker.process.pid
        assert time.monotonic() - began < 120
        assert state(pid) in ("", "Z")

    @pytest.mark.parametrize("row", ['{"tokens": 1}', '{"seconds": 0.0, "tokens": 1}', "[1]", "nonsense"])
    def test_answer_that_is_no_measurement_is_refused(self, row: str) -> None:
        """A worker that answers nonsense is not averaged in."""
        code = f"import sys; print('{{}}', flush=True); sys.stdin.readline(); print({row!r}, flush=True); input()"
        with Worker(Side("peer", (sys.executable, "-c", code)), 120) as worker, pytest.raises(BrokenSideError):
            worker.repeat()

    def test_peak_memory_is_that_of_the_whole_group(self) -> None:
        """Memory that was freed again counts, and so does a child's."""
        body = "del (block := bytearray(200 << 20))[:]"
        with Worker(side("sod"), 120) as plain, Worker(side("sod", body), 120) as hungry:
            plain.repeat()
            hungry.repeat()
            assert 180 < hungry.peak_mb - plain.peak_mb < 230

    def test_variables_for_one_side_do_not_reach_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Allocator settings of whoever starts the benchmark are taken away; a side's own are set."""
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        code = "import os; print('{\"tunables\": \"%s\"}' % os.environ.get('GLIBC_TUNABLES'), flush=True); input()"
        with Worker(Side("peer", (sys.executable, "-c", code)), 120) as worker:
            assert worker.versions == {"tunables": "None"}
        with Worker(Side("peer", (sys.executable, "-c", code), {"GLIBC_TUNABLES": "mine"}), 120) as worker:
            assert worker.versions == {"tunables": "mine"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
    def test_nothing_is_left_when_the_benchmark_is_killed(self, number: signal.Signals, tmp_path: Path) -> None:
        """Not even by kill -9, though one worker is stopped and the other at work."""
        code = f"""
import argparse, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin without
sys.path[:0] = [{str(BENCHMARKS)!r}, {str(Path(__file__).parent)!r}]
from side_by_side import run
from test_benchmarks import side
body = "open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w').close(); time.sleep(600 * (number > 0))"
run(lambda: [side("sod", body), side("peer", body)], argparse.Namespace(repetitions=2, limit=600, json=None), {{}})
"""
        benchmark = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        benchmark.send_signal(number)
        benchmark.wait(timeout=120)
        wait_until(lambda: all(state(pid) in ("", "Z") for pid in pids))


class TestRun:
    """The command as a whole."""

    def test_json_has_ratios_medians_repetitions_and_circumstances(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One object with everything that is needed to quote a figure."""
        options = argparse.Namespace(repetitions=2, limit=120, json=tmp_path / "out.json")
        sides = [side("sod"), side("trl", seconds="5.0"), side("vllm", seconds="1.0")]
        found = side_by_side.run(lambda: sides, options, {"prompts": 4})
        assert json.loads(options.json.read_text()) == found
        assert (found["ratio_trl"], found["ratio_vllm"], found["ratio_trl_rollout"]) == (2.5, 0.5, 1.0)
        assert len(found["repetitions"]["trl"]) == 2
        assert len(found["repetitions"]["sod"]) == 4
        assert found["machine"]["cores"] >= 1
        assert set(found["peak_memory_mb"]) == set(found["versions"]) == {"sod", "trl", "vllm"}
        assert "2.50" in capsys.readouterr().out

    def test_broken_side_ends_the_process_with_its_line(self) -> None:
        """No traceback: the message is the exit status."""
        options = argparse.Namespace(repetitions=1, limit=120, json=None)
        with pytest.raises(SystemExit, match="peer: the worker ended with exit code 7"):
            side_by_side.run(lambda: [side("sod"), side("peer", "os._exit(7)")], options, {})


class TestEnvironments:
    """A peer's virtual environment."""

    def test_environment_is_checked_by_exact_version(self) -> None:
        """Name without version, other spelling, local version tag; and what should not be there."""
        from importlib.metadata import version

        there = version("torch").partition("+")[0]
        assert missing(sys.executable, [f"torch=={there}", "PyYAML", "pydantic_core"], []) == []
        assert missing(sys.executable, ["torch==0.1", "no-such-package"], ["rich"]) == [
            "torch==0.1",
            "no-such-package",
            "not rich",
        ]

    def test_environment_that_fits_is_used_as_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is installed: pip is not even called."""
        (tmp_path / "peer" / "bin").mkdir(parents=True)
        python = tmp_path / "peer" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(side_by_side, "TORCH", "rich")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        assert peer_python("peer", ["PyYAML"], root=tmp_path) == str(python)

    @pytest.mark.slow
    def test_failed_installation_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """pip's last words, from a real environment and a real pip without an index."""
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(BrokenSideError, match="No matching distribution found"):
            peer_python("peer", ["no-such-package"], root=tmp_path)


def wait_until(holds: Any, seconds: float = 120.0) -> None:
    """Poll a condition; fails when it does not come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_turn_weights_agree_with_a_plain_loop(tmp_path: Path) -> None:
    """`benchmarks/weights.py` compares both itself; here at a small size, where seconds say nothing."""
    import weights

    weights.main(["--rows", "16", "--tokens", "256", "--repetitions", "2", "--json", str(tmp_path / "w.json")])
    figures = json.loads((tmp_path / "w.json").read_text())
    assert {"seconds", "ratio_python_loop"} <= figures.keys()


@pytest.mark.slow
def test_our_side_of_a_step_takes_it_and_tells_its_phases(tmp_path: Path) -> None:
    """The worker of `step.py` and `multi_turn.py` on a tiny model: it is made of the trainer's own parts."""
    settings = {
        "model": str(Path(__file__).parent / "data" / "format1-run" / "student"),
        "prompts": ["(3+4)*2", "5*6"],
        "tokens": 8,
        "turns": 1,
        "temperature": 1.0,
        "recompute": False,
        "page": None,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    worker = Side("sod", (sys.executable, str(BENCHMARKS / "peers" / "sod_worker.py"), str(tmp_path / "settings.json")))
    with Worker(worker, limit_seconds=120) as running:
        row = running.repeat()
    assert row["tokens"] == 16
    assert {"phase/sample", "phase/old", "phase/teacher", "phase/update"} <= row.keys()
    assert 0.0 < row["rollout_seconds"] < row["seconds"]
