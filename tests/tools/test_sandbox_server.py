"""SandboxFusion's API over the local sandbox, asked by SandboxFusion's own client and by ours, over loopback."""

from __future__ import annotations

import base64
import json
import socket
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
from processes import PATIENT, eventually, programs
from sandbox_fusion import RunCodeRequest, RunCodeResponse, RunJupyterRequest, RunJupyterResponse, SummaryMapping

from sod.records import Execution, Fault, FaultKind, Program
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.fusion import FusionOptions, FusionSandbox
from sod.tools.sandbox.gate import MAX_BODY_BYTES
from sod.tools.sandbox.listener import make_server
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.server import create_app

LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=256, output_chars=10_000)
HASTY = replace(LIMITS, seconds=2.0)
JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The url of the application on a free port of loopback."""
    server = make_server(app, grace_seconds=5)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
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
    assert code_of(code=7) == 422
    assert code_of(files={"a": "not base64!"}) == 422
    assert code_of(files={"../a": ""}) == 422
    assert code_of(fetch_files=["/etc/passwd"]) == 422
    assert httpx.post(f"{url}/run_jupyter", json={"cells": [], "files": {"/a": ""}}).status_code == 422
    assert httpx.post(f"{url}/run_jupyter", json={"cells": [], "kernel": "bash"}).status_code == 422
    assert code_of(memory_limit_MB=3) == 422
    broken = httpx.post(f"{url}/run_code", content=b"{", headers=JSON)
    assert (broken.status_code, broken.json()) == (422, {"detail": "the body is not JSON"})


def test_a_body_beyond_the_limit_is_refused(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range((MAX_BODY_BYTES >> 20) + 1):
            yield b" " * (1 << 20)

    try:
        status = httpx.post(f"{url}/run_code", content=pieces(), headers=JSON, timeout=30.0).status_code
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
    assert [cell.display for cell in answer.cells] == [[], [], [], []]
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


# Requests that are refused, and work that is called off


@pytest.mark.parametrize("language", ["cpp", "bash", "python2", ""])
def test_a_language_that_is_not_run_here_is_named(url: str, language: str) -> None:
    answer = httpx.post(f"{url}/run_code", json={"code": "1", "language": language})
    assert answer.status_code == 422
    assert answer.json() == {"detail": f"language: {language!r} is not run here, this server runs 'python' only"}


@pytest.mark.parametrize("key", ["run_timeout", "total_timeout", "cell_timeout"])
@pytest.mark.parametrize(
    "value", ["-1", "NaN", "-Infinity", "Infinity", "1e-9", "0.05", "1e300", '"5"', "true", "null", "[]", "9" * 400]
)
def test_a_time_limit_that_is_none_is_refused_in_one_line(url: str, key: str, value: str) -> None:
    code = key == "run_timeout"
    path, program = ("run_code", '"code": "1", "language": "python"') if code else ("run_jupyter", '"cells": []')
    answer = httpx.post(f"{url}/{path}", content=f'{{{program}, "{key}": {value}}}', headers=JSON)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith(f"{key}: ")
    assert "\n" not in detail
    assert len(detail) < 100


def test_the_shortest_time_limit_is_kept(hasty_url: str) -> None:
    asked = {"code": "1", "language": "python", "run_timeout": 0}
    assert httpx.post(f"{hasty_url}/run_code", json=asked).status_code == 422
    answer = run_code(hasty_url, "while True: pass", run_timeout=0.1)
    assert answer.run_result.stderr == "stopped after 0.1 s\n"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["run_code", "run_jupyter"])
def test_the_work_of_a_client_that_hung_up_is_stopped(path: str) -> None:
    """Its worker is free again long before its time limit, and is the same worker as before."""
    endless = "while True: pass"
    asked = {"cells": [endless, endless]} if path == "run_jupyter" else {"code": endless, "language": "python"}
    limits = replace(LIMITS, seconds=1000.0)
    body = json.dumps(asked).encode()
    head = f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with closing(LocalSandbox(limits, workers=1)) as local, serving(create_app(local, limits)) as address:
        workers = local.processes()
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            assert eventually(lambda: bool(programs(local)))
        assert run_code(address, "print(1)").run_result.stdout == "1\n"
        assert eventually(lambda: not programs(local))
        assert set(workers) <= set(local.processes())


@pytest.mark.slow
def test_the_work_of_a_client_that_hung_up_before_it_began_never_begins() -> None:
    limits = replace(LIMITS, seconds=1000.0)
    slow = {"code": "import time; time.sleep(3)", "language": "python"}
    endless = {"code": "while True: pass", "language": "python"}
    with closing(LocalSandbox(limits, workers=1)) as local, serving(create_app(local, limits)) as address:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(httpx.post, f"{address}/run_code", json=slow, timeout=PATIENT)
            assert eventually(lambda: bool(programs(local)))
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/run_code", json=endless, timeout=0.5)
            assert first.result().json()["status"] == "Success"
        assert run_code(address, "print(1)").run_result.stdout == "1\n"


def test_the_documentation_is_there_where_it_was_asked_for(url: str, sandbox: LocalSandbox) -> None:
    pages = ("docs", "redoc", "openapi.json")
    assert [httpx.get(f"{url}/{page}").status_code for page in pages] == [404, 404, 404]
    with serving(create_app(sandbox, LIMITS, docs=True)) as address:
        assert [httpx.get(f"{address}/{page}").status_code for page in pages] == [200, 200, 200]


# What Jupyter shows


@pytest.mark.parametrize(
    ("cell", "shown", "stdout"),
    [
        ("a = 5\na", "5", ""),
        ("a = 5; a", "5", ""),
        ("print(1)\n'ä' + 'ö'", "'äö'", "1\n"),
        ("[1,\n 2] + [\n3]  # a list", "[1, 2, 3]", ""),
        ("'''doc\n'''", "'doc\\n'", ""),
        ("x = 'ü' ; x", "'ü'", ""),
        ("*range(2), 7", "(0, 1, 7)", ""),
        ("'\\ud800'", "'\\ud800'", ""),
        ("class A:\n    def __repr__(self):\n        print('p'); return 'A!'\nA()", "A!", "p\n"),
        ("7;", None, ""),
        ("7  ;  # no", None, ""),
        ("None", None, ""),
        ("print(2)", None, "2\n"),
        ("a = 7", None, ""),
        ("if True:\n    7", None, ""),
        ("# nothing", None, ""),
        ("", None, ""),
    ],
)
def test_the_value_of_a_last_expression_is_shown(url: str, cell: str, shown: str | None, stdout: str) -> None:
    answer = run_jupyter(url, cell, "sorted(name for name in globals() if 'shown' in name)")
    assert (answer.status, answer.cells[0].error, answer.cells[0].stderr) == ("Success", [], "")
    assert answer.cells[0].display == ([] if shown is None else [{"text/plain": shown}])
    assert answer.cells[0].stdout == stdout
    assert answer.cells[1].display == [{"text/plain": "[]"}]


def test_a_value_too_long_to_show_is_cut(url: str) -> None:
    answer = run_jupyter(url, "a = 1", "'ä' * 10**6", "a")
    text = answer.cells[1].display[0]["text/plain"]
    assert text == "'" + "ä" * (len(text) - 4) + "..."
    assert len(text) > 1000
    assert answer.cells[2].display == [{"text/plain": "1"}]


def test_tracebacks_show_cells_as_they_were_written(url: str) -> None:
    answer = run_jupyter(
        url, "def f():\n    return 1 / 0\n", "7\nf()\n", "class B:\n    def __repr__(b):\n        return f()\nB()\n"
    )
    for cell, frames in zip(answer.cells[1:], ([(2, 2), (1, 2)], [(3, 3), (1, 2)]), strict=True):
        (error,) = cell.error
        assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
        shown = [line for line in error["traceback"] if line.startswith("  File")]
        assert [line.partition(", in")[0] for line in shown] == [
            f'  File "<cell {number}>", line {line}' for number, line in frames
        ]
        assert not any("shown" in line for line in error["traceback"])
    assert answer.cells[1].error[0]["traceback"][2] == "    f()"


def test_each_cell_has_the_time_limit_that_was_asked_for(url: str) -> None:
    answer = run_jupyter(url, "a = 1", "while True: pass", "a", cell_timeout=0.5)
    assert (answer.driver.status, len(answer.cells)) == ("TimeLimitExceeded", 2)
    assert answer.cells[1].stderr.startswith("stopped after 0.5 s;")
