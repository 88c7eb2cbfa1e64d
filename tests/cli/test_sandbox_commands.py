"""`sod sandbox run`, `serve` and `probe`, through the real entry point."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import descendants

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    def write(source: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(source, encoding="utf-8")
        return path

    return write


@pytest.fixture
def server(start_anew: Start) -> tuple[str, subprocess.Popen[str]]:
    """A `sod sandbox serve` of its own process, and its url."""
    return served(start_anew)


def served(start: Start, *options: str) -> tuple[str, subprocess.Popen[str]]:
    process = start("sandbox", "serve", "--port", "0", "--workers", "1", *options)
    line = process.stdout.readline() if process.stdout else ""
    found = re.match(r"serving on (http://127\.0\.0\.1:\d+),", line)
    assert found, (line, process.communicate() if process.poll() is not None else "")
    return found[1], process


@pytest.fixture
def nobody() -> Iterator[str]:
    """The url of a port that nobody listens at, nor will during the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def assert_one_error(ended: Any, *named: str) -> None:
    *notes, line = ended.err.strip().splitlines()
    assert ended.code == 1
    assert line.startswith("error: ")
    assert all(note.startswith("isolation of programs is") for note in notes)
    assert all(name in line for name in named), line


@pytest.mark.parametrize(
    ("source", "seconds", "status", "stdout", "last"),
    [
        ("print('ä')", 60, "ok", "ä\n", ""),
        ("print(1)\n1 / 0", 60, "error", "1\n", "ZeroDivisionError: division by zero"),
        ("import time; time.sleep(600)", 0.5, "timeout", "", "stopped after 0.5 s"),
        ("x = 'x' * 10**10", 60, "memory", "", "more than 512 MiB"),
        ("print('x' * 10**6)", 60, "output_limit", "x" * 65_536, "more than 65536 characters of output"),
    ],
)
def test_run_prints_how_the_program_ended(
    sod: Any, program: Any, source: str, seconds: float, status: str, stdout: str, last: str
) -> None:
    ended = sod("sandbox", "run", "--code-file", program(source), "--timeout", seconds)
    assert ended.code == 0
    shown = json.loads(ended.out)
    assert set(shown) == {"status", "stdout", "stderr", "seconds"}
    assert (shown["status"], shown["stdout"]) == (status, stdout)
    assert shown["stderr"].strip().splitlines()[-1:] == ([last] if last else [])
    assert 0 < shown["seconds"] < 60


def test_preloaded_modules(sod: Any, program: Any) -> None:
    """numpy and sympy are there before the program begins, unless others are named."""
    path = program("import sys; print([name in sys.modules for name in ('numpy', 'sympy', 'yaml')])")
    for options, loaded in (((), [True, True, False]), (("--preload", "yaml"), [False, False, True])):
        ended = sod("sandbox", "run", "--code-file", path, *options)
        assert json.loads(ended.out)["stdout"] == f"{loaded}\n"


def test_run_on_a_served_sandbox(sod: Any, program: Any, server: Any) -> None:
    url, _ = server
    ended = sod("sandbox", "run", "--code-file", program("print(6 * 7)"), "--url", url)
    assert (ended.code, json.loads(ended.out)["stdout"]) == (0, "42\n")
    ended = sod("sandbox", "run", "--code-file", program("1 / 0"), "--url", f"{url}/")
    assert (ended.code, json.loads(ended.out)["status"]) == (0, "error")


def test_run_without_a_service_is_a_fault(sod: Any, program: Any, nobody: str) -> None:
    ended = sod("sandbox", "run", "--code-file", program("print(1)"), "--url", nobody)
    shown = json.loads(ended.out)
    assert (shown["status"], shown["stdout"], shown["stderr"]) == ("fault", "", "")
    assert_one_error(ended, nobody, "unreachable")


def test_run_refuses_bad_input(sod: Any, program: Any, tmp_path: Path) -> None:
    good = program("print(1)")
    (tmp_path / "latin.py").write_bytes(b"print('\xe4')")
    assert_one_error(sod("sandbox", "run", "--code-file", tmp_path / "none.py"), "none.py: No such file")
    assert_one_error(sod("sandbox", "run", "--code-file", tmp_path), str(tmp_path))
    assert_one_error(sod("sandbox", "run", "--code-file", tmp_path / "latin.py"), "not UTF-8 at byte 7")
    assert_one_error(sod("sandbox", "run", "--code-file", good, "--url", "nowhere"), "'nowhere' is not a url")
    assert_one_error(sod("sandbox", "run", "--code-file", good, "--preload", "no_such_module"), "no_such_module")
    assert_one_error(sod("sandbox", "run", "--code-file", good, "--url", "http://x", "--unsafe"), "--unsafe")


def test_serve_refuses_a_port_in_use(sod: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert_one_error(sod("sandbox", "serve", "--port", port), f"127.0.0.1 port {port}: Address already in use")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_serve_finishes_what_is_under_way_then_ends(start_anew: Start, wait: Any, number: signal.Signals) -> None:
    url, process = served(start_anew)
    assert httpx.get(f"{url}/v1/ping").json() == "pong"
    workers = set(descendants(process.pid))
    assert workers
    answers: list[httpx.Response] = []
    asked = {"code": "import time; print(1, flush=True); time.sleep(1); print(2)", "language": "python"}
    thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/run_code", json=asked, timeout=120)))
    thread.start()
    wait(lambda: set(descendants(process.pid)) - workers, process)  # the program runs
    process.send_signal(number)
    thread.join(120)
    assert answers[0].json()["run_result"]["stdout"] == "1\n2\n"
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "stopped\n")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v1/ping")


@pytest.mark.slow
def test_probe_shows_what_is_kept_and_how_fast_it_is(sod: Any) -> None:
    ended = sod("sandbox", "probe", "--workers", "1")
    assert ended.code == 0, ended.err
    for name in ("filesystem", "pid_namespace", "unprivileged", "time limit", "memory limit"):
        assert re.search(rf"{name}\W+(yes|NO)\W", ended.out), ended.out
    assert re.search(r"one program, median\W+\d+\.\d ms", ended.out), ended.out
    assert re.search(r"64 threads, 5 programs each\W+\d+\.\d\d s", ended.out), ended.out


@pytest.mark.slow
def test_probe_of_a_service(sod: Any, server: Any, nobody: str) -> None:
    url, _ = server
    ended = sod("sandbox", "probe", "--url", url)
    assert ended.code == 0, ended.err
    assert re.search(r"320 programs at once\W+\d+\.\d\d s", ended.out), ended.out
    assert "cannot be seen from here" in ended.err
    assert_one_error(sod("sandbox", "probe", "--url", nobody), nobody, "unreachable")
    assert_one_error(sod("sandbox", "probe", "--url", "nowhere"), "'nowhere' is not a url")


TOKEN = "token-of-the-tests"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_serve_beyond_loopback_needs_a_token(sod: Any, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for value in ("", "  "):
        monkeypatch.setenv("SANDBOX_FUSION_API_KEY", value)
        ended = sod("sandbox", "serve", "--port", "0", "--host", host)
        assert_one_error(ended, f"--host {host}", "export SANDBOX_FUSION_API_KEY=")
        assert ended.out == ""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_server_s_token_is_the_client_s_key(
    sod: Any, start_anew: Start, program: Any, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("SANDBOX_FUSION_API_KEY", TOKEN)
    options = ("--workers", "1", "--host", host, "--allow-host", "box.example")
    process = start_anew("sandbox", "serve", "--port", "0", *options)
    line = process.stdout.readline() if process.stdout else ""
    url = f"http://127.0.0.1:{line.partition(',')[0].rpartition(':')[2]}"
    path = program("import os; print(os.environ.get('SANDBOX_FUSION_API_KEY'))")
    ended = sod("sandbox", "run", "--code-file", path, "--url", url)
    assert (ended.code, json.loads(ended.out)["stdout"]) == (0, "None\n")
    for wrong in ("", "another"):
        monkeypatch.setenv("SANDBOX_FUSION_API_KEY", wrong)
        ended = sod("sandbox", "run", "--code-file", path, "--url", url)
        assert_one_error(ended, "HTTP 401", "SANDBOX_FUSION_API_KEY")
        assert TOKEN not in ended.out + ended.err
    proof = {"Authorization": f"Bearer {TOKEN}"}
    statuses = [
        httpx.get(f"{url}/v1/ping", headers={"Host": name, **proof}).status_code
        for name in ("box.example", "x.example")
    ]
    assert statuses == [200, 403]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert TOKEN not in line + out + err


@pytest.mark.slow
def test_serve_shows_its_documentation_where_asked(start_anew: Start) -> None:
    url, _ = served(start_anew, "--docs")
    assert httpx.get(f"{url}/openapi.json").json()["info"]["title"] == "sod sandbox"


def test_a_key_in_the_url_is_refused(sod: Any, program: Any) -> None:
    for url in ("http://user:secret@127.0.0.1:1", "http://127.0.0.1:1?key=secret"):
        ended = sod("sandbox", "run", "--code-file", program("print(1)"), "--url", url)
        assert_one_error(ended, "SANDBOX_FUSION_API_KEY")
        assert "secret" not in ended.out + ended.err
