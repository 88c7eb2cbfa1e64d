"""SandboxFusion's HTTP API (arXiv 2412.00535) over a sandbox of ours: `sod sandbox serve`.

`POST /run_code`, `POST /run_jupyter` and `GET /v1/ping`, so that its clients can use this machine.
A failure of the sandbox is answered with HTTP 200 and `SandboxError`, as SandboxFusion does and its
client expects. Where this server differs:

- Python only: another `language` is refused with HTTP 422, like an unknown one there; so are files
  that are not base64, or whose names leave the working directory.
- The limits asked for are capped by the server's own.
- `message` of a failed program names what stopped it: `error`, `timeout`, `memory`, `output_limit`.
- In `/run_jupyter` no kernel runs: a session of the sandbox does. `display` stays empty (the value of
  a last expression is not shown), `stderr` has the traceback that `error` has too, and `cell_timeout`
  is not applied (nor is it in SandboxFusion's own notebook driver): each cell has the server's time
  limit. `total_timeout` bounds the sum of the cells' own times and is checked between them. A cell
  that ends the interpreter is the last one.

There is no authentication: whoever reaches the port can run programs.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, final

import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sod.records import Execution, Fault, Program
from sod.tools.sandbox.base import Cell, ProgramLimits, SessionSandbox
from sod.tools.sandbox.local import check_names
from sod.tools.sandbox.sessions import STATE_LOST
from sod.tools.sandbox.wire import FILES_BYTES

MAX_BODY_BYTES = 64 << 20
KILLED = -9  # the exit code that is told of a program we stopped


class RunCodeRequest(BaseModel):
    """What to run. Times in seconds, memory in MiB (below 1: the server's limit), files in base64."""

    code: str
    language: Literal["python"]
    compile_timeout: float = 10.0  # nothing is compiled
    run_timeout: float = Field(10.0, gt=0)
    memory_limit_MB: int = -1
    stdin: str | None = None
    files: dict[str, str | None] = Field(default_factory=dict)
    fetch_files: list[str] = Field(default_factory=list)


class CommandRunResult(BaseModel):
    """How a process ended; `return_code` is null after a time-out. Seconds."""

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResponse(BaseModel):
    """The answer of `/run_code`."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str = ""
    compile_result: CommandRunResult | None = None
    run_result: CommandRunResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


class RunJupyterRequest(BaseModel):
    """Cells of one session, run in order. Times in seconds, files in base64."""

    cells: list[str]
    cell_timeout: float = 0.0
    total_timeout: float = 45.0
    kernel: Literal["python3"] = "python3"
    files: dict[str, str] = Field(default_factory=dict)
    fetch_files: list[str] = Field(default_factory=list)


class CellRunResult(BaseModel):
    """What a cell wrote; `error` has at most one entry, of `ename`, `evalue` and `traceback` (lines)."""

    stdout: str
    stderr: str
    display: list[dict[str, Any]] = Field(default_factory=list)
    error: list[dict[str, Any]] = Field(default_factory=list)


class RunJupyterResponse(BaseModel):
    """The answer of `/run_jupyter`: `Success` also where a cell raised, `Failed` where not all were run."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str = ""
    driver: CommandRunResult | None = None
    cells: list[CellRunResult] = Field(default_factory=list)
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


def create_app(
    sandbox: SessionSandbox,
    limits: ProgramLimits = ProgramLimits(),  # noqa: B008  # frozen
    concurrency: int = 64,
) -> FastAPI:
    """The application over `sandbox`, which it does not close. `limits` are the sandbox's own.

    `concurrency` requests are with the sandbox at a time; the others wait, and their time limits begin
    when they are run.
    """
    app = FastAPI(title="sod sandbox")
    app.add_middleware(BodyLimit)
    places = anyio.CapacityLimiter(concurrency)

    @app.exception_handler(ValueError)
    async def bad_request(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.post("/run_code")
    async def post_run_code(request: RunCodeRequest) -> RunCodeResponse:
        return await anyio.to_thread.run_sync(partial(run_code, sandbox, limits, request), limiter=places)

    @app.post("/run_jupyter")
    async def post_run_jupyter(request: RunJupyterRequest) -> RunJupyterResponse:
        return await anyio.to_thread.run_sync(partial(run_jupyter, sandbox, limits, request), limiter=places)

    @app.get("/v1/ping")
    async def ping() -> str:
        return "pong"

    return app


@final
class BodyLimit:
    """Refuses (HTTP 413) a request body of more than MAX_BODY_BYTES, before it is all in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES} bytes")
            return message

        await self.app(scope, counted, send)


def run_code(sandbox: SessionSandbox, limits: ProgramLimits, request: RunCodeRequest) -> RunCodeResponse:
    """Run one program; blocks until it has ended. Raises ValueError for files that cannot be placed."""
    memory_mb = request.memory_limit_MB if request.memory_limit_MB > 0 else limits.memory_mb
    program = Program(
        request.code,
        request.stdin or "",
        _decoded(request.files),
        tuple(request.fetch_files),
        min(request.run_timeout, limits.seconds),
        min(memory_mb, limits.memory_mb),
    )
    (outcome,) = sandbox.execute([program])
    if isinstance(outcome, Fault):
        return RunCodeResponse(status="SandboxError", message=_told(outcome))
    good = outcome.status == "ok"
    return RunCodeResponse(
        status="Success" if good else "Failed",
        message="" if good else outcome.status,
        run_result=_result(outcome),
        files={name: base64.b64encode(content).decode() for name, content in outcome.files.items()},
    )


def run_jupyter(sandbox: SessionSandbox, limits: ProgramLimits, request: RunJupyterRequest) -> RunJupyterResponse:
    """Run the cells in a session of their own; blocks until they have ended. Raises ValueError as `run_code`."""
    files = _decoded(request.files)
    check_names(files)
    check_names(request.fetch_files)
    session = f"jupyter-{uuid.uuid4()}"
    try:
        return _run_session(sandbox, limits, request, session, files)
    finally:
        sandbox.end_sessions([session])


def _run_session(
    sandbox: SessionSandbox, limits: ProgramLimits, request: RunJupyterRequest, session: str, files: Mapping[str, bytes]
) -> RunJupyterResponse:
    for name, content in files.items():
        placed = _run_cell(sandbox, session, _PLACE.format(name=name, content=base64.b64encode(content).decode()))
        if isinstance(placed, Fault) or placed.status != "ok":
            why = _told(placed) if isinstance(placed, Fault) else placed.stderr
            return RunJupyterResponse(status="SandboxError", message=f"{name}: not written: {why}")
    cells: list[CellRunResult] = []
    driver = CommandRunResult(status="Finished", return_code=0, stdout="", stderr="")
    seconds = 0.0  # of the cells alone: waiting for a place is not their doing
    for source in request.cells:
        if seconds > request.total_timeout:
            driver = CommandRunResult(status="TimeLimitExceeded", stdout="", stderr="")
            break
        outcome = _run_cell(sandbox, session, source)
        if isinstance(outcome, Fault):
            return RunJupyterResponse(status="SandboxError", message=_told(outcome))
        cells.append(_cell_result(outcome))
        seconds += outcome.seconds
        if outcome.stderr.rstrip().endswith(STATE_LOST):
            driver = _result(outcome)
            break
    driver.execution_time = seconds
    good = driver.return_code == 0
    fetched = _fetch(sandbox, limits, session, request.fetch_files) if good else {}
    return RunJupyterResponse(status="Success" if good else "Failed", driver=driver, cells=cells, files=fetched)


# Helper cells leave no names behind. The braces are filled with `str.format`.
_PLACE = """exec('''
import base64, os
os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
with open(name, "wb") as file:
    file.write(base64.b64decode(content))
''', {{"name": {name!r}, "content": {content!r}}})"""

_FETCH = """exec('''
import base64
with open(name, "rb") as file:
    file.seek(start)
    print(base64.b64encode(file.read(size)).decode(), end="")
''', {{"name": {name!r}, "start": {start}, "size": {size}}})"""


def _fetch(sandbox: SessionSandbox, limits: ProgramLimits, session: str, names: Sequence[str]) -> dict[str, str]:
    """The named files in base64, read in pieces that fit into a cell's output; what is not there is left out."""
    size = max(3, limits.output_chars // 4 * 3)
    found: dict[str, str] = {}
    left = FILES_BYTES
    for name in names:
        content = b""
        while True:
            outcome = _run_cell(sandbox, session, _FETCH.format(name=name, start=len(content), size=size))
            piece = _piece(outcome)
            if piece is None or len(content) + len(piece) > left:
                break
            content += piece
            if len(piece) < size:
                found[name] = base64.b64encode(content).decode()
                left -= len(content)
                break
    return found


def _piece(outcome: Execution | Fault) -> bytes | None:
    """What a fetching cell printed; None where it could not read, or the session's own doings spoilt it."""
    if isinstance(outcome, Fault) or outcome.status != "ok":
        return None
    try:
        return base64.b64decode(outcome.stdout, validate=True)
    except (binascii.Error, ValueError):
        return None


def _run_cell(sandbox: SessionSandbox, session: str, source: str) -> Execution | Fault:
    return sandbox.run_cells([Cell(session, source)])[0]


def _cell_result(outcome: Execution) -> CellRunResult:
    lines = outcome.stderr.rstrip("\n").splitlines()
    if outcome.status == "ok" or not lines:
        return CellRunResult(stdout=outcome.stdout, stderr=outcome.stderr)
    name, _, value = lines[-1].partition(":")
    if outcome.status != "error" or not name.replace(".", "").isidentifier():
        name, value = outcome.status, lines[-1]
    error = {"ename": name, "evalue": value.strip(), "traceback": lines}
    return CellRunResult(stdout=outcome.stdout, stderr=outcome.stderr, error=[error])


def _result(outcome: Execution) -> CommandRunResult:
    timeout = outcome.status == "timeout"
    return CommandRunResult(
        status="TimeLimitExceeded" if timeout else "Finished",
        execution_time=outcome.seconds,
        return_code=KILLED if outcome.exit_code is None and not timeout else outcome.exit_code,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
    )


def _told(fault: Fault) -> str:
    return f"{fault.kind}: {fault.detail}"


def _decoded(files: Mapping[str, str | None]) -> dict[str, bytes]:
    """The contents; a file of null is none, as in SandboxFusion. Raises ValueError."""
    contents: dict[str, bytes] = {}
    for name, content in files.items():
        if content is not None:
            try:
                contents[name] = base64.b64decode(content, validate=True)
            except ValueError as error:
                raise ValueError(f"file {name!r} is not base64: {error}") from error
    return contents
