"""Servers of a run are real processes here: they come up, die, come back and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from sod.launch import server as launched
from sod.launch.fleet import Fleet
from sod.launch.ports import free_port, free_ports, refuse_used
from sod.launch.server import Patience, Server, ServerPlan
from sod.records import SodError

SMALL = Path(__file__).with_name("small_server.py")
QUICK = Patience(start_seconds=30.0, restarts=2, backoff_seconds=0.05)

Starter = Callable[..., Server]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, told: list[str]) -> Iterator[Starter]:
    """Makes a server that does what the words say; it is closed after the test."""
    with ExitStack() as opened:

        def made(*words: str, port: int | None = None, patience: Patience = QUICK, **environment: str) -> Server:
            port = free_port() if port is None else port
            command = (sys.executable, "-S", str(SMALL), str(port), *words)
            server = Server(
                ServerPlan("small", command, port, environment), tmp_path / "small.log", patience, told.append
            )
            opened.callback(server.close)
            return server

        yield made


def test_a_server_comes_up_and_is_gone_after_its_end_with_a_child_that_hears_no_signal(make: Starter) -> None:
    server = make("child")
    server.start()
    server.wait_ready()
    pids = asked(server, "/pids")
    assert len(pids) == 2
    assert all(map(runs, pids))
    server.close()
    assert not any(map(runs, pids))
    assert not server.alive()
    server.close()


@pytest.mark.slow
def test_a_server_that_hears_no_signal_is_killed(make: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "GRACE_SECONDS", 0.3)
    server = make("deaf")
    server.start()
    server.wait_ready()
    pids = asked(server, "/pids")
    server.close()
    assert not any(map(runs, pids))


@pytest.mark.parametrize("code", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_server_that_ends_by_itself_comes_back_and_is_known_to_be_another(
    make: Starter, told: list[str], code: int
) -> None:
    server = make("child")
    server.start()
    server.wait_ready()
    before = asked(server, "/pids")
    end(server, code)
    until(lambda: server.starts == 2)
    server.wait_ready()
    assert not any(map(runs, before))
    assert not set(asked(server, "/pids")) & set(before)
    assert f"small ended (exit code {code})" in told[0]
    assert "1 of 2 times (launch.restarts)" in told[0]


@pytest.mark.slow
def test_a_server_that_keeps_dying_is_given_up_with_the_end_of_its_log(make: Starter, told: list[str]) -> None:
    server = make(patience=Patience(30.0, restarts=1, backoff_seconds=0.01))
    server.start()
    for start in (1, 2):
        until(lambda start=start: server.starts == start)
        server.wait_ready()
        end(server, 0)
    with pytest.raises(
        SodError, match=r"small: ended for the 2nd time in a row \(exit code 0\) and is given up"
    ) as raised:
        server.wait_ready()
    assert "launch.restarts" in str(raised.value)
    assert "starting []" in str(raised.value)
    assert server.starts == 2
    assert "is given up" in told[-1]


@pytest.mark.slow
def test_a_long_life_gives_the_restarts_back(make: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "HEALTHY_SECONDS", 0.0)
    server = make(patience=Patience(30.0, restarts=1, backoff_seconds=0.01))
    server.start()
    for start in (1, 2, 3):
        until(lambda start=start: server.starts == start)
        server.wait_ready()
        end(server, 1)
    until(lambda: server.starts == 4)


@pytest.mark.slow
def test_one_that_does_no_good_is_ended_and_started_again(make: Starter, told: list[str]) -> None:
    server = make()
    server.start()
    server.wait_ready()
    before = asked(server, "/pids")
    server.restart()
    assert not any(map(runs, before))
    until(lambda: server.starts == 2)
    server.wait_ready()
    assert told[0] == "small says that it is well, and does nothing that it is asked: it is ended"
    assert told[1].startswith("small ended (by us) and is started again"), "not by a signal of somebody else's"


@pytest.mark.slow
@pytest.mark.parametrize("served", [True, False])
def test_one_that_answers_nothing_any_more_is_ended_and_started_again(
    make: Starter, told: list[str], monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    """One that does not answer yet is loading; its time is that of its start."""
    monkeypatch.setattr(launched, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(launched, "GRACE_SECONDS", 0.3)
    server = make("child", *([] if served else ["mute"]))
    server.start()
    until(lambda: bool(server.said()))
    if not served:
        time.sleep(0.3 * 2 * (launched.SILENT_LOOKS + 2))
        assert (server.starts, told) == (1, [])
        return
    server.wait_ready()
    before = asked(server, "/pids")
    os.kill(before[0], signal.SIGSTOP)
    until(lambda: server.starts == 2)
    server.wait_ready()
    assert not any(map(runs, before))
    assert told[0].startswith("small runs, and did not answer 4 times in a row, each time for 0.3 s")
    assert told[1].startswith("small ended (by us) and is started again")
    assert "1 of 2 times (launch.restarts)" in told[1]


@pytest.mark.slow
def test_a_killed_keeper_takes_its_server_along_and_both_come_back(make: Starter, told: list[str]) -> None:
    server = make()
    server.start()
    server.wait_ready()
    (before,) = asked(server, "/pids")
    os.kill(parent(before), signal.SIGKILL)
    until(lambda: server.starts == 2)
    server.wait_ready()
    assert not runs(before)
    assert "killed; out of memory?" in told[0]


def test_one_that_ends_before_it_serves_is_not_tried_again(make: Starter) -> None:
    server = make("ends")
    server.start()
    with pytest.raises(SodError, match=r"small: ended before it served \(exit code 3\)") as raised:
        server.wait_ready()
    assert "no such model" in str(raised.value)
    assert str(server.log) in str(raised.value)
    assert server.starts == 1


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = Server(ServerPlan("vllm-1", ("/no/such/vllm",), free_port()), tmp_path / "log", QUICK, print)
    server.start()
    with pytest.raises(SodError, match="/no/such/vllm: No such file or directory"):
        server.wait_ready()


def test_a_silent_server_is_waited_for_only_so_long(make: Starter) -> None:
    server = make("silent")
    server.start()
    until(lambda: bool(server.said()))
    with pytest.raises(
        SodError, match=r"does not answer within 0\.5 s; give it longer by launch\.start_seconds"
    ) as raised:
        server.wait_ready(0.5)
    assert "starting ['silent']" in str(raised.value)
    assert server.alive()


def test_a_port_in_use_is_one_clear_line_and_starts_nothing(make: Starter) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = make(port=port)
        with pytest.raises(SodError, match=rf"launch: port {port} is in use; end what listens there, or take another"):
            server.start()
    assert server.starts == 0


def test_free_ports_are_free_and_each_another() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        refuse_used(port, "test")


@pytest.mark.slow
def test_what_is_of_this_process_alone_is_not_inherited(make: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "RANK", "MASTER_PORT", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SOME_TOKEN", "kept")
    server = make(OWN="set")
    server.start()
    server.wait_ready()
    names = ("PYTHONPATH", "RANK", "MASTER_PORT", "GLIBC_TUNABLES", "SOME_TOKEN", "OWN")
    assert [asked(server, f"/environment/{name}") for name in names] == [None, None, None, None, "kept", "set"]


def test_a_fleet_is_started_whole_or_not_at_all(make: Starter) -> None:
    good = make()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bad = make(port=other.getsockname()[1])
        with pytest.raises(SodError, match="in use"):
            Fleet([good, bad]).start()
    assert not good.alive()
    Fleet().close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_end_of_the_run_leaves_a_server_behind(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    program = (
        "import signal, sys, time; from pathlib import Path\n"
        "from sod.launch.server import Patience, Server, ServerPlan\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"server = Server(ServerPlan('small', (sys.executable, '-S', {str(SMALL)!r}, '{port}', 'child'), {port}), "
        f"Path({str(tmp_path / 'log')!r}), Patience(), print)\n"
        "server.start(); server.wait_ready(); print('up', flush=True); time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout is not None
    with run, run.stdout:
        assert run.stdout.readline() == b"up\n"
        pids = httpx.get(f"http://127.0.0.1:{port}/pids", trust_env=False).json()
        keeper = parent(pids[0])
        run.send_signal(number)
        run.wait(60)
        until(lambda: not any(map(runs, [keeper, *pids])))


def asked(server: Server, path: str) -> list[int]:
    found: list[int] = httpx.get(server.url + path, trust_env=False).json()
    return found


def end(server: Server, code: int) -> None:
    """Have it end by itself, with an exit code."""
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.url}/end?{code}", trust_env=False)


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something to be so."""
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"not so within {seconds:g} s"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process runs: it is there, and is not a dead one that nobody has asked for yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
