"""The SandboxFusion client: replies of every kind, and services on loopback that fail in every way."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from bad_server import HANG_SECONDS, HELLO, SECRET, BadServer, Behaviour, always, first, hello, running, sometimes
from processes import PATIENT, eventually

from sod.recipe import parse_recipe
from sod.records import Execution, Fault, FaultKind, Program, SodError
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.fusion import FusionOptions, FusionSandbox, backoff, read_reply, request_body
from sod.tools.sandbox.local import LocalSandbox

LIMITS = ProgramLimits(seconds=1.0, memory_mb=256, output_chars=1000)
FAST = FusionOptions(
    connect_seconds=PATIENT,
    grace_seconds=PATIENT,
    attempts=3,
    backoff_seconds=0.01,
    backoff_max_seconds=0.05,
    breaker_failures=1000,
    max_reply_bytes=1 << 20,
)
ONCE = replace(FAST, attempts=1)
PROGRAM = Program("print('hello')")


@contextmanager
def client(server: BadServer | str, options: FusionOptions = FAST) -> Iterator[FusionSandbox]:
    with closing(FusionSandbox(server if isinstance(server, str) else server.url, LIMITS, options)) as sandbox:
        yield sandbox


def one(sandbox: FusionSandbox, program: Program = PROGRAM) -> Execution | Fault:
    (outcome,) = sandbox.execute([program])
    return outcome


def reply(status: str = "Failed", message: str = "", **result: Any) -> bytes:
    """A reply whose `run_result` is that of a failed program, but for what is given."""
    run = {"status": "Finished", "execution_time": 0.5, "return_code": 1, "stdout": "", "stderr": ""} | result
    return json.dumps({**HELLO, "status": status, "message": message, "run_result": run}).encode()


def understood(data: bytes, program: Program = PROGRAM) -> Execution | Fault:
    return read_reply(data, program, LIMITS)


# What is asked


def test_the_request_carries_the_program_and_its_own_limits() -> None:
    program = Program("print(1)", "in", {"data/a.bin": b"\0\xff"}, ("out.txt",), seconds=0.25, memory_mb=64)
    with BadServer() as server, client(server) as sandbox:
        one(sandbox, program)
        one(sandbox)
    full, plain = map(json.loads, server.bodies)
    assert full == {
        "code": "print(1)",
        "language": "python",
        "compile_timeout": 0.25,
        "run_timeout": 0.25,
        "memory_limit_MB": 64,
        "stdin": "in",
        "files": {"data/a.bin": "AP8="},
        "fetch_files": ["out.txt"],
    }
    assert (plain["run_timeout"], plain["memory_limit_MB"]) == (LIMITS.seconds, LIMITS.memory_mb)


def test_lone_surrogates_do_not_make_an_invalid_request() -> None:
    body = request_body(Program("print('\ud800')", stdin="\udfff"), LIMITS)
    assert "\ufffd" in json.loads(body)["code"]
    assert "\ufffd" in json.loads(body)["stdin"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a//b", ""])
def test_file_names_that_leave_the_working_directory_are_refused(name: str) -> None:
    with BadServer() as server, client(server) as sandbox:
        for program in (Program("1", files={name: b""}), Program("1", fetch=(name,))):
            with pytest.raises(ValueError, match="file name"):
                sandbox.execute([program])
    assert server.requests == 0


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(SodError, match="is not a url"):
        FusionSandbox(url)


# How replies are understood


def test_a_success() -> None:
    program = replace(PROGRAM, fetch=("a", "missing"))
    data = json.dumps({**HELLO, "files": {"a": "AP8=", "unasked": "AAAA"}}).encode()
    assert understood(data, program) == Execution("ok", "hello\n", "", 0.01, 0, {"a": b"\0\xff"})


def test_a_failed_program_is_its_own_doing() -> None:
    outcome = understood(reply(stderr="Traceback ...\nZeroDivisionError: division by zero\n", stdout="before"))
    assert outcome == Execution("error", "before", "Traceback ...\nZeroDivisionError: division by zero\n", 0.5, 1)
    assert understood(reply(status="Failed", return_code=3)) == Execution(
        "error", "", "process exited with status 3\n", 0.5, 3
    )


def test_an_error_with_an_exit_code_is_the_programs_and_one_without_is_the_services() -> None:
    own = understood(
        json.dumps({**HELLO, "status": "Failed", "run_result": {"status": "Error", "return_code": 1}}).encode()
    )
    assert isinstance(own, Execution)
    assert own.status == "error"
    theirs = understood(reply(status="Failed", return_code=None).replace(b"Finished", b"Error"))
    assert isinstance(theirs, Fault)
    assert theirs.kind == FaultKind.SERVER


def test_a_failed_compilation_is_the_programs_doing() -> None:
    compiled = {"status": "Finished", "return_code": 1, "stdout": "", "stderr": "SyntaxError: invalid syntax"}
    data = json.dumps({**HELLO, "status": "Failed", "compile_result": compiled, "run_result": None}).encode()
    assert understood(data) == Execution("error", "", "SyntaxError: invalid syntax", 0.0, 1)


def test_a_time_limit() -> None:
    outcome = understood(reply(return_code=None, stdout="so far").replace(b"Finished", b"TimeLimitExceeded"))
    assert outcome == Execution("timeout", "so far", "stopped after 1 s\n", 0.5, None)


@pytest.mark.parametrize(
    "result",
    [
        {"stderr": "Traceback\nMemoryError\n"},
        {"stderr": "Traceback\nnumpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB"},
        {"return_code": -9},
        {"return_code": 137, "stderr": "Killed\n"},
    ],
)
def test_memory(result: dict[str, Any]) -> None:
    outcome = understood(reply(**result))
    assert isinstance(outcome, Execution)
    assert (outcome.status, outcome.exit_code) == ("memory", None)
    assert outcome.stderr.splitlines()[-1] == "more than 256 MiB"


@pytest.mark.parametrize("code", [-11, 139])
def test_a_signal_is_named(code: int) -> None:
    outcome = understood(reply(return_code=code, stderr="half a line"))
    assert outcome == Execution("error", "", "half a line\nprocess killed by signal 11\n", 0.5, code)


def test_long_output_is_output_limit_whatever_the_service_says() -> None:
    for data in (reply("Success", stdout="x" * 1001, return_code=0), reply(stdout="x" * 1001)):
        outcome = understood(data)
        assert isinstance(outcome, Execution)
        assert (outcome.status, outcome.stdout, outcome.exit_code) == ("output_limit", "x" * 1000, None)
    exact = understood(reply("Success", stdout="x" * 1000, return_code=0, stderr="y" * 5000))
    assert isinstance(exact, Execution)
    assert (exact.status, len(exact.stdout), len(exact.stderr)) == ("ok", 1000, 1000)


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "output_limit"])
def test_our_own_server_names_the_status(status: str) -> None:
    outcome = understood(reply(message=status, return_code=-9, stderr="why\n"))
    assert isinstance(outcome, Execution)
    assert (outcome.status, outcome.stderr) == (status, "why\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"status":"Success"}',
        b"[" * 100_000,
        json.dumps({**HELLO, "status": "Great"}).encode(),
        json.dumps({**HELLO, "run_result": None}).encode(),
        json.dumps({**HELLO, "status": "Failed", "run_result": None}).encode(),
        json.dumps({**HELLO, "status": "Failed"}).encode(),
        json.dumps({**HELLO, "files": {"a": 1}}).encode(),
        json.dumps({**HELLO, "files": {"a": "no base64!"}}).encode(),
        json.dumps({**HELLO, "files": {"a": "ä"}}).encode(),
        reply("Success", return_code=1),
        reply("Success", return_code=None),
        reply("Success", return_code=True),
        reply("Success", return_code=0, stdout=["x"]),
        reply("Failed", return_code=10**400),
        reply("Failed", execution_time=math.nan),
        reply("Failed", execution_time="1"),
    ],
)
def test_junk_and_contradictions_are_bad_replies(data: bytes) -> None:
    outcome = understood(data, replace(PROGRAM, fetch=("a",)))
    assert isinstance(outcome, Fault), outcome
    assert outcome.kind == FaultKind.BAD_REPLY
    assert len(outcome.detail) < 500


# Services that fail


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("http_500", FaultKind.SERVER),
        ("sandbox_error", FaultKind.SERVER),
        ("drop", FaultKind.UNREACHABLE),
        ("cut", FaultKind.BAD_REPLY),
        ("not_json", FaultKind.BAD_REPLY),
        ("wrong_types", FaultKind.BAD_REPLY),
        ("endless", FaultKind.BAD_REPLY),
    ],
)
def test_a_failing_service_is_a_fault_after_all_attempts(behaviour: Behaviour, kind: FaultKind) -> None:
    with BadServer(always(behaviour)) as server, client(server) as sandbox:
        outcome = one(sandbox)
    assert isinstance(outcome, Fault), outcome
    assert (outcome.kind, outcome.retryable) == (kind, True)
    assert server.requests == FAST.attempts


@pytest.mark.parametrize("behaviour", ["hang", "trickle"])
def test_the_time_of_a_request_is_bounded_in_all(behaviour: Behaviour) -> None:
    with BadServer(always(behaviour)) as server, client(server, replace(ONCE, grace_seconds=0.5)) as sandbox:
        started = time.monotonic()
        outcome = one(sandbox, replace(PROGRAM, seconds=0.2))
        seconds = time.monotonic() - started
    assert isinstance(outcome, Fault)
    assert (outcome.kind, outcome.detail) == (FaultKind.TIMEOUT, "no complete answer within 0.7 s")
    assert 0.6 < seconds < HANG_SECONDS / 2


@pytest.mark.parametrize("behaviour", ["hang", "trickle", "endless", "cut", "drop", "http_500"])
def test_a_request_given_up_takes_no_place_away(behaviour: Behaviour) -> None:
    options = replace(FAST, concurrency=1, grace_seconds=0.9)
    with BadServer(first([behaviour] * 2)) as server, client(server, options) as sandbox:
        assert one(sandbox, replace(PROGRAM, seconds=0.1)) == Execution("ok", "hello\n", "", 0.01, 0)
        assert one(sandbox) == Execution("ok", "hello\n", "", 0.01, 0)
    assert server.requests == 4


def test_a_refused_connection() -> None:
    with BadServer() as server:
        pass
    with client(server) as sandbox:
        outcome = one(sandbox)
    assert isinstance(outcome, Fault)
    assert outcome.kind == FaultKind.UNREACHABLE


def test_what_is_no_http_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(1 << 16)

        thread = threading.Thread(target=greet)
        thread.start()
        with client(f"http://127.0.0.1:{listener.getsockname()[1]}", ONCE) as sandbox:
            outcome = one(sandbox)
        thread.join()
    assert isinstance(outcome, Fault)
    assert outcome.kind == FaultKind.UNREACHABLE


def test_a_mistake_of_ours_is_not_repeated() -> None:
    with BadServer(always("http_404")) as server, client(server) as sandbox:
        outcome = one(sandbox)
    assert isinstance(outcome, Fault)
    assert (outcome.kind, outcome.retryable, server.requests) == (FaultKind.SERVER, False, 1)


def test_a_retry_saves_the_program() -> None:
    with BadServer(first(["http_500", "drop"])) as server, client(server) as sandbox:
        assert one(sandbox) == Execution("ok", "hello\n", "", 0.01, 0)
    assert server.requests == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_retries_save_all_of_30_per_cent_failures(seed: int) -> None:
    options = replace(FAST, attempts=12)
    with BadServer(sometimes(0.3, seed)) as server, client(server, options) as sandbox:
        outcomes = sandbox.execute([PROGRAM] * 300)
    assert outcomes == [Execution("ok", "hello\n", "", 0.01, 0)] * 300
    assert 350 < server.requests < 550  # 429 expected


def test_the_words_of_the_infrastructure_are_never_output() -> None:
    bad: tuple[Behaviour, ...] = ("http_500", "http_404", "sandbox_error", "not_json", "wrong_types", "cut", "drop")
    with BadServer(sometimes(0.7, seed=3, among=bad)) as server, client(server, replace(FAST, attempts=2)) as sandbox:
        outcomes = sandbox.execute([PROGRAM] * 200)
    executions = [outcome for outcome in outcomes if isinstance(outcome, Execution)]
    assert 20 < len(executions) < 180  # both kinds are there
    assert all(e == Execution("ok", "hello\n", "", 0.01, 0) for e in executions)
    assert any(SECRET in outcome.detail for outcome in outcomes if isinstance(outcome, Fault))


def test_a_server_killed_within_a_request_and_restarted() -> None:
    old = BadServer(always("hang"))
    with client(old, replace(FAST, attempts=1000, backoff_seconds=0.1, backoff_max_seconds=0.2)) as sandbox:
        outcomes: list[Execution | Fault] = []
        thread = threading.Thread(target=lambda: outcomes.extend(sandbox.execute([PROGRAM] * 4)))
        thread.start()
        assert eventually(lambda: old.requests == 4)
        old.kill()
        time.sleep(0.2)  # refused for a while
        with BadServer(port=old.port) as new:
            thread.join(PATIENT)
            assert new.requests == 4
    assert outcomes == [Execution("ok", "hello\n", "", 0.01, 0)] * 4


# The circuit breaker


@pytest.mark.slow
def test_the_breaker_opens_lets_one_through_and_closes() -> None:
    options = replace(ONCE, breaker_failures=5, breaker_seconds=2.0)
    with BadServer(first(["http_500"] * 6)) as server, client(server, options) as sandbox:
        faults = [one(sandbox) for _ in range(5)]
        assert server.requests == 5
        started = time.monotonic()
        refused = sandbox.execute([PROGRAM] * 50)
        assert time.monotonic() - started < options.breaker_seconds  # none has waited for the trial
        assert server.requests == 5
        assert all(isinstance(r, Fault) and r.detail.startswith("not asked: 5 requests failed") for r in refused)
        time.sleep(options.breaker_seconds)
        half = sandbox.execute([PROGRAM] * 10)  # one trial, which fails
        assert server.requests == 6
        time.sleep(options.breaker_seconds)
        assert isinstance(one(sandbox), Execution)
        assert sandbox.execute([PROGRAM] * 10) == [Execution("ok", "hello\n", "", 0.01, 0)] * 10
    assert all(isinstance(outcome, Fault) for outcome in [*faults, *half])


def test_a_success_between_failures_keeps_the_breaker_closed() -> None:
    plan = first((["http_500"] * 4 + ["good"]) * 5)
    with BadServer(plan) as server, client(server, replace(ONCE, breaker_failures=5)) as sandbox:
        for _ in range(25):
            one(sandbox)
    assert server.requests == 25


# The rest


def test_pauses_double_up_to_a_limit_and_depend_on_the_seed_alone() -> None:
    options = FusionOptions(backoff_seconds=0.5, backoff_max_seconds=3.0, seed=1)
    for attempt, whole in enumerate((0.5, 1.0, 2.0, 3.0, 3.0), start=1):
        pauses = [backoff(options, number, attempt) for number in range(200)]
        assert all(whole / 2 <= pause < whole for pause in pauses)
        assert max(pauses) - min(pauses) > 0.4 * whole
        assert pauses == [backoff(options, number, attempt) for number in range(200)]
    assert backoff(options, 0, 1) != backoff(replace(options, seed=2), 0, 1)


def test_no_more_requests_at_a_time_than_allowed_from_all_threads_together() -> None:
    gate = threading.Event()

    def gated(body: bytes) -> bytes:
        assert gate.wait(PATIENT)
        return hello(body)

    with BadServer(answer=gated) as server, client(server, replace(FAST, concurrency=4)) as sandbox:
        threads = [threading.Thread(target=sandbox.execute, args=([PROGRAM] * 4,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: server.requests == 4)
        time.sleep(0.2)  # for a fifth, which must not come
        assert server.requests == 4
        gate.set()
        for thread in threads:
            thread.join()
    assert server.requests == 8


def test_outcomes_are_in_order() -> None:
    limits = replace(LIMITS, seconds=PATIENT)
    local = LocalSandbox(limits)
    options = replace(FAST, attempts=12)
    with (
        closing(local),
        BadServer(sometimes(0.3, 5), running(local, limits)) as server,
        client(server, options) as sandbox,
    ):
        outcomes = sandbox.execute([Program(f"print({n})") for n in range(40)])
    assert [outcome.stdout for outcome in outcomes if isinstance(outcome, Execution)] == [f"{n}\n" for n in range(40)]


def test_closing_ends_what_is_under_way() -> None:
    with BadServer(always("hang")) as server:
        sandbox = FusionSandbox(server.url, LIMITS, FAST)
        outcomes: list[Execution | Fault] = []
        thread = threading.Thread(target=lambda: outcomes.extend(sandbox.execute([PROGRAM] * 2)))
        thread.start()
        assert eventually(lambda: server.requests == 2)
        sandbox.close()
        thread.join(HANG_SECONDS / 2)
        sandbox.close()
        outcomes += sandbox.execute([PROGRAM])
    assert outcomes == [Fault(FaultKind.SANDBOX, "the sandbox is closed", retryable=False)] * 3


def test_it_says_that_it_is_remote() -> None:
    with client("http://127.0.0.1:1") as sandbox:
        assert sandbox.isolation == {"remote": True}


def test_options_are_checked() -> None:
    for changes in ({"attempts": 0}, {"concurrency": 0}, {"grace_seconds": 0.0}, {"backoff_seconds": -1.0}):
        with pytest.raises(ValueError):
            FusionOptions(**changes)


# Key and headers

KEY = "sk-1234/+secret"


@contextmanager
def recording(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[Any]]]:
    """A service that answers everything so; its url, and the headers of the requests it got."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SANDBOX_FUSION_API_KEY", KEY)
    monkeypatch.setenv("SANDBOX_FUSION_HEADERS", '{"X-Project": "project-7", "X-Team": "team one"}')
    return KEY


def test_key_and_headers_of_the_environment_are_sent(key: str) -> None:
    with recording(200, json.dumps(HELLO).encode()) as (url, seen), client(url) as sandbox:
        assert isinstance(one(sandbox), Execution)
    assert seen[0]["Authorization"] == f"Bearer {key}"
    assert (seen[0]["X-Project"], seen[0]["X-Team"]) == ("project-7", "team one")
    assert seen[0]["Content-Type"] == "application/json"


def test_without_them_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_FUSION_API_KEY", " ")
    with recording(200, json.dumps(HELLO).encode()) as (url, seen), client(url) as sandbox:
        one(sandbox)
    assert seen[0]["Authorization"] is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_to_another_host(key: str, status: int) -> None:
    with (
        recording(200, json.dumps(HELLO).encode()) as (elsewhere, seen),
        recording(status, b"", Location=f"{elsewhere}/run_code") as (url, _),
        client(url, ONCE) as sandbox,
    ):
        outcome = one(sandbox)
    assert isinstance(outcome, Fault)
    assert f"HTTP {status}" in outcome.detail
    assert seen == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, f"bad key {KEY} of project-7"),
        (500, "x" * 190 + f"Bearer {KEY}"),
        (200, json.dumps({**HELLO, "status": "SandboxError", "message": f"no such key: {KEY}"})),
        (200, json.dumps({**HELLO, "run_result": {"status": "Error", "stderr": f"{'y' * 195}{KEY}"}})),
        (200, json.dumps({**HELLO, "files": {"a": KEY}})),
    ],
)
def test_a_key_that_the_service_says_back_is_in_no_fault(key: str, status: int, body: str) -> None:
    program = replace(PROGRAM, fetch=("a",))
    with recording(status, body.encode()) as (url, _), client(url, ONCE) as sandbox:
        outcome = one(sandbox, program)
        assert key not in repr(sandbox) + repr(vars(sandbox)["_credentials"])
    assert isinstance(outcome, Fault)
    for secret in (key, key[:5], "project-7"):
        assert secret not in outcome.detail


@pytest.mark.parametrize(
    "url", [f"http://user:{KEY}@127.0.0.1", f"https://{KEY}@x", f"http://x?token={KEY}", f"http://x/#{KEY}", f"x@{KEY}"]
)
def test_a_key_in_the_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SodError, match="SANDBOX_FUSION_API_KEY") as raised:
        FusionSandbox(url)
    assert KEY not in str(raised.value)
    with pytest.raises(SodError, match="SANDBOX_FUSION_API_KEY") as raised:
        parse_recipe({"student": {"path": "x"}, "tools": {"python": {"fusion": {"url": url}}}}, "recipe.yaml")
    assert KEY not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDBOX_FUSION_API_KEY", f"{KEY} two"),
        ("SANDBOX_FUSION_API_KEY", f"{KEY}\r\nX: y"),
        ("SANDBOX_FUSION_API_KEY", f"{KEY}ä"),
        ("SANDBOX_FUSION_HEADERS", KEY),
        ("SANDBOX_FUSION_HEADERS", f'["{KEY}"]'),
        ("SANDBOX_FUSION_HEADERS", '{"X": 7}'),
        ("SANDBOX_FUSION_HEADERS", f'{{"X": "{KEY}\\n"}}'),
        ("SANDBOX_FUSION_HEADERS", f'{{"{KEY} ": "x"}}'),
        ("SANDBOX_FUSION_HEADERS", '{"Host": "x"}'),
        ("SANDBOX_FUSION_HEADERS", '{"X": "a", "x": "b"}'),
    ],
)
def test_a_variable_that_cannot_be_sent_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SodError, match=f"^{variable}: ") as raised:
        FusionSandbox("http://127.0.0.1:1")
    assert KEY not in str(raised.value)


def test_the_key_is_set_once(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_FUSION_HEADERS", '{"authorization": "Basic abc"}')
    with pytest.raises(SodError, match="both set Authorization"):
        FusionSandbox("http://127.0.0.1:1")
