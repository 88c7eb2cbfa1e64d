"""SandboxFusion's API over the local sandbox, asked by SandboxFusion's own client and by ours, over loopback."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import sandbox_fusion
import uvicorn
from processes import PATIENT
from sandbox_fusion import RunCodeRequest, RunCodeResponse, RunJupyterRequest, RunJupyterResponse, SummaryMapping

from sod.records import Execution, Fault, FaultKind, Program
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.fusion import FusionOptions, FusionSandbox
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.server import MAX_BODY_BYTES, create_app

LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=256, output_chars=10_000)
HASTY = replace(LIMITS, seconds=2.0)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The url of the application on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10.0)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with closing(LocalSandbox(LIMITS, workers=2)) as local:
        yield local


@pytest.fixture(scope="module")
def url(sandbox: LocalSandbox) -> Iterator[str]:
    with serving(create_app(sandbox, LIMITS)) as address:
        yield address


@pytest.fixture(scope="module")
def hasty_url() -> Iterator[str]:
    """For programs that do not end by themselves."""
    with closing(LocalSandbox(HASTY, workers=1)) as local, serving(create_app(local, HASTY)) as address:
        yield address


def run_code(url: str, code: str, **fields: Any) -> RunCodeResponse:
    return sandbox_fusion.run_code(RunCodeRequest(code=code, language="python", **fields), url, max_attempts=1)


def run_jupyter(url: str, *cells: str, **fields: Any) -> RunJupyterResponse:
    return sandbox_fusion.run_jupyter(RunJupyterRequest(cells=list(cells), **fields), url, max_attempts=1)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# SandboxFusion's client


def test_a_program_that_succeeds(url: str) -> None:
    answer = run_code(url, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (answer.status, answer.message, answer.compile_result, answer.files) == ("Success", "", None, {})
    result = answer.run_result
    assert (result.status, result.return_code, result.stdout, result.stderr) == ("Finished", 0, "out\n", "err\n")
    assert 0 <= result.execution_time < LIMITS.seconds


def test_stdin_files_and_fetch_files(url: str) -> None:
    code = "open('out.bin', 'wb').write(open('in/a.bin', 'rb').read()[::-1]); print(input())"
    files = {"in/a.bin": b64(b"\0\xff1"), "nothing": None}
    answer = run_code(url, code, stdin="a line\n", files=files, fetch_files=["out.bin", "missing"])
    assert answer.run_result.stdout == "a line\n"
    assert answer.files == {"out.bin": b64(b"1\xff\0")}


def test_how_programs_fail(url: str) -> None:
    summary = SummaryMapping(Success="good", Failed="bad", RunFailed="failed", RunTimeout="late")

    def summarised(code: str, **fields: Any) -> tuple[str, int | None, str]:
        answer = run_code(url, code, **fields)
        assert answer.status == "Failed"
        last = answer.run_result.stderr.strip().splitlines()[-1]
        return sandbox_fusion.summary_run_code_result(answer, summary), answer.run_result.return_code, last

    assert summarised("1 / 0") == ("failed", 1, "ZeroDivisionError: division by zero")
    assert summarised("def") == ("failed", 1, "SyntaxError: invalid syntax")
    assert summarised("import time; time.sleep(9)", run_timeout=1.0) == ("late", None, "stopped after 1 s")
    assert summarised("while True: print('x' * 1000)") == ("failed", -9, "more than 10000 characters of output")
    assert summarised("x = 'x' * 10**10") == ("failed", -9, "more than 256 MiB")
    assert summarised("import ctypes; ctypes.string_at(0)") == ("failed", -11, "process killed by signal 11")


def test_limits_asked_for_are_capped_by_the_servers(url: str, hasty_url: str) -> None:
    started = time.monotonic()
    answer = run_code(hasty_url, "while True: pass", run_timeout=PATIENT)
    assert answer.run_result.stderr.endswith("stopped after 2 s\n")
    assert time.monotonic() - started < PATIENT / 2
    asked = {"code": "x = 'x' * (100 << 20)", "language": "python", "memory_limit_MB": 64}
    assert httpx.post(f"{url}/run_code", json=asked).json()["message"] == "memory"
    assert httpx.post(f"{url}/run_code", json=asked | {"memory_limit_MB": -1}).json()["status"] == "Success"
    greedy = {"code": "x = 'x' * (400 << 20)", "language": "python", "memory_limit_MB": 10**6}
    assert httpx.post(f"{url}/run_code", json=greedy).json()["message"] == "memory"


def test_many_at_a_time(url: str) -> None:
    requests = [[RunCodeRequest(code=f"print({n} ** 2)", language="python"), url, 1] for n in range(100)]
    answers = sandbox_fusion.run_concurrent(sandbox_fusion.run_code, args=requests, concurrency=16)
    assert [answer.run_result.stdout for answer in answers] == [f"{n**2}\n" for n in range(100)]


def test_a_fault_of_the_sandbox_is_a_sandbox_error() -> None:
    local = LocalSandbox(LIMITS, workers=1)
    local.close()
    with serving(create_app(local, LIMITS)) as address:
        for path, asked in (("run_code", {"code": "1", "language": "python"}), ("run_jupyter", {"cells": ["1"]})):
            answer = httpx.post(f"{address}/{path}", json=asked)
            assert (answer.status_code, answer.json()["status"]) == (200, "SandboxError")
        with pytest.raises(Exception, match="Sandbox responded with error: sandbox: "):
            run_code(address, "print(1)")
        with closing(FusionSandbox(address, LIMITS, FusionOptions(attempts=1))) as ours:
            (outcome,) = ours.execute([Program("print(1)")])
        assert isinstance(outcome, Fault)
        assert outcome.kind == FaultKind.SERVER


def test_requests_that_cannot_be_right_are_refused(url: str) -> None:
    def code_of(**changes: Any) -> int:
        asked = {"code": "print(1)", "language": "python"} | changes
        return httpx.post(f"{url}/run_code", json=asked).status_code

    assert code_of() == 200
    assert code_of(language="cpp") == 422
    assert code_of(code=7) == 422
    assert code_of(run_timeout=0) == 422
    assert code_of(files={"a": "not base64!"}) == 422
    assert code_of(files={"../a": ""}) == 422
    assert code_of(fetch_files=["/etc/passwd"]) == 422
    assert httpx.post(f"{url}/run_jupyter", json={"cells": [], "files": {"/a": ""}}).status_code == 422
    assert httpx.post(f"{url}/run_jupyter", json={"cells": [], "kernel": "bash"}).status_code == 422
    assert httpx.post(f"{url}/run_code", content=b"{").status_code == 422


def test_a_body_beyond_the_limit_is_refused(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range((MAX_BODY_BYTES >> 20) + 1):
            yield b" " * (1 << 20)

    try:
        status = httpx.post(f"{url}/run_code", content=pieces(), timeout=30.0).status_code
    except httpx.WriteError:  # refused and closed while we were still sending
        status = 413
    assert status == 413
    assert run_code(url, "print(1)").status == "Success"


def test_ping(url: str) -> None:
    assert httpx.get(f"{url}/v1/ping").json() == "pong"


# Cells


def test_cells_share_their_state_and_go_on_after_an_exception(url: str) -> None:
    answer = run_jupyter(
        url, "a = 'hello'", "import sys; print(a); print('e', file=sys.stderr)", "raise KeyError('k')", "print(a * 2)"
    )
    assert answer.status == "Success"
    assert [cell.stdout for cell in answer.cells] == ["", "hello\n", "", "hellohello\n"]
    assert [cell.stderr for cell in answer.cells[:2]] == ["", "e\n"]
    assert [cell.error for cell in answer.cells if not cell.error] == [[], [], []]
    (error,) = answer.cells[2].error
    assert (error["ename"], error["evalue"], error["traceback"][-1]) == ("KeyError", "'k'", "KeyError: 'k'")
    assert all(cell.display == [] for cell in answer.cells)
    assert (answer.driver.status, answer.driver.return_code) == ("Finished", 0)


def test_cells_with_files(url: str) -> None:
    big = bytes(range(256)) * 200  # more than one cell can print
    code = "open('out/b', 'wb').write(open('in/a', 'rb').read()[::-1])"
    answer = run_jupyter(
        url,
        "import os; os.mkdir('out')",
        code,
        files={"in/a": b64(big)},
        fetch_files=["out/b", "missing", "in/a"],
    )
    assert answer.status == "Success", answer
    assert answer.files == {"out/b": b64(big[::-1]), "in/a": b64(big)}


def test_helper_cells_leave_no_names(url: str) -> None:
    plain = run_jupyter(url, "print(sorted(globals()))")
    answer = run_jupyter(url, "print(sorted(globals()))", files={"a": b64(b"x")})
    assert answer.cells[0].stdout == plain.cells[0].stdout


def test_sessions_do_not_share_state(url: str) -> None:
    run_jupyter(url, "secret = 1; open('secret', 'w').write('1')")
    answer = run_jupyter(url, "import os; print(os.path.exists('secret'))", "secret")
    assert answer.cells[0].stdout == "False\n"
    assert answer.cells[1].error[0]["ename"] == "NameError"


@pytest.mark.parametrize(
    ("cell", "status", "code"),
    [
        ("while True: pass", "TimeLimitExceeded", None),
        ("import os; os._exit(3)", "Finished", 3),
        ("while True: print('x' * 1000)", "Finished", -9),
    ],
)
def test_a_cell_that_ends_the_interpreter_is_the_last(
    url: str, hasty_url: str, cell: str, status: str, code: int | None
) -> None:
    url = hasty_url if status == "TimeLimitExceeded" else url
    answer = run_jupyter(url, "a = 1", cell, "print(a)", fetch_files=["x"])
    assert answer.status == "Failed"
    assert (answer.driver.status, answer.driver.return_code) == (status, code)
    assert len(answer.cells) == 2
    assert answer.cells[1].error


@pytest.mark.slow
def test_the_total_time_of_cells(url: str) -> None:
    answer = run_jupyter(url, *["import time; time.sleep(1.5)"] * 10, total_timeout=2.5)
    assert (answer.status, answer.driver.status, len(answer.cells)) == ("Failed", "TimeLimitExceeded", 2)


# Our client


@pytest.mark.slow
def test_our_client_gets_what_the_local_sandbox_gives(url: str, sandbox: LocalSandbox) -> None:
    programs = [
        Program("print(input())", stdin="hi"),
        Program("1 / 0"),
        Program("import sys; sys.exit(3)"),
        Program("import time; print(1); time.sleep(9)", seconds=2.0),
        Program("x = 'x' * 10**10"),
        Program("while True: print('x' * 1000)"),
        Program("import ctypes; ctypes.string_at(0)"),
        Program("open('b', 'wb').write(open('a', 'rb').read() * 2)", files={"a": b"\0\xff"}, fetch=("b", "c")),
    ]
    with closing(FusionSandbox(url, LIMITS)) as remote:
        theirs = remote.execute(programs)
    ours = sandbox.execute(programs)
    assert [r.status for r in theirs if isinstance(r, Execution)] == [
        *("ok", "error", "error", "timeout", "memory", "output_limit", "error", "ok")
    ]
    for there, here in zip(theirs, ours, strict=True):
        assert isinstance(there, Execution)
        assert isinstance(here, Execution)
        assert (there.status, there.exit_code, there.files) == (here.status, here.exit_code, here.files)
        assert there.stderr == here.stderr
        assert there.status == "output_limit" or there.stdout == here.stdout


def test_a_lone_surrogate_is_another_character_there(url: str) -> None:
    with closing(FusionSandbox(url, LIMITS)) as remote:
        (outcome,) = remote.execute([Program("print(ascii('\ud800'), input() == '\ufffd')", stdin="\udfff")])
    assert isinstance(outcome, Execution)
    assert outcome.stdout == "'\\ufffd' True\n"


@pytest.mark.slow
def test_a_thousand_requests_thirty_two_at_a_time(url: str) -> None:
    """None lost, none mixed up. Prints the seconds (`pytest -s`)."""

    def ask(number: int) -> str:
        return str(run_code(url, f"print({number})").run_result.stdout)

    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(1000)))
    theirs = time.monotonic() - started
    assert answers == [f"{n}\n" for n in range(1000)]
    started = time.monotonic()
    with closing(FusionSandbox(url, LIMITS, FusionOptions(concurrency=32, attempts=1))) as remote:
        outcomes = remote.execute([Program(f"print({n})") for n in range(1000)])
    ours = time.monotonic() - started
    assert Counter(o.status if isinstance(o, Execution) else o.detail for o in outcomes) == {"ok": 1000}
    assert [o.stdout for o in outcomes if isinstance(o, Execution)] == answers
    print(f"\n1000 requests, 32 at a time: {theirs:.1f} s by sandbox_fusion, {ours:.1f} s by FusionSandbox")
    assert max(theirs, ours) < 10 * PATIENT
