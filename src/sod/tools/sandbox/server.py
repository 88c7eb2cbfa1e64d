"""SandboxFusion's HTTP API (arXiv 2412.00535) over a sandbox of ours: `sod sandbox serve`.

`POST /run_code`, `POST /run_jupyter` and `GET /v1/ping`, so that its clients can use this machine.
A failure of the sandbox is answered with HTTP 200 and `SandboxError`, as SandboxFusion does and its
client expects; a request that cannot be right with HTTP 4xx and one line in `detail`. Where this
server differs:

- Python only: another `language` is refused by name; so are files that are not base64, or whose names
  leave the working directory, and time limits that no program could keep or that are no times at all.
- The limits asked for are capped by the server's own.
- `message` of a failed program names what stopped it: `error`, `timeout`, `memory`, `output_limit`.
- In `/run_jupyter` no kernel runs: a session of the sandbox does (see `notebook.py`). `display` has the
  `repr` of a last expression's value, nothing richer; `stderr` has the traceback that `error` has too.
  `cell_timeout` bounds each cell. `total_timeout` bounds the sum of the cells' own times and is checked
  between them. A cell that ends the interpreter is the last one.
- The work of a client that hung up is stopped.

Who may ask is decided before the application: see `gate.py`.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, field_validator

from sod.records import Execution, Fault, Program
from sod.tools.sandbox.base import ProgramLimits, Recall, SessionSandbox
from sod.tools.sandbox.gate import Entrance, Gate
from sod.tools.sandbox.local import check_names
from sod.tools.sandbox.notebook import Notebook, told
from sod.tools.sandbox.sessions import STATE_LOST

KILLED = -9  # the exit code that is told of a program we stopped
LEAST_SECONDS = 0.1  # a program must have begun by then: the time it has is counted from before its limits are set
MOST_SECONDS = 86_400.0
LEAST_MEMORY_MB = 16
CALL_OFF_SECONDS = 0.1


def _time(seconds: float) -> float:
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:  # not a number is neither
        raise ValueError(f"from {LEAST_SECONDS:g} to {MOST_SECONDS:g} seconds")
    return seconds


def _time_or_none(seconds: float) -> float:
    return seconds if seconds == 0 else _time(seconds)


Seconds = Annotated[float, Field(strict=True), AfterValidator(_time)]


class RunCodeRequest(BaseModel):
    """What to run. Times in seconds, memory in MiB (below 1: the server's limit), files in base64."""

    code: str
    language: str
    compile_timeout: float = 10.0  # nothing is compiled
    run_timeout: Seconds = 10.0
    memory_limit_MB: int = -1
    stdin: str | None = None
    files: dict[str, str | None] = Field(default_factory=dict)
    fetch_files: list[str] = Field(default_factory=list)

    @field_validator("language")
    @classmethod
    def _is_run_here(cls, language: str) -> str:
        if language != "python":
            raise ValueError(f"{language[:40]!r} is not run here, this server runs 'python' only")
        return language

    @field_validator("memory_limit_MB")
    @classmethod
    def _lets_python_begin(cls, memory: int) -> int:
        if 0 < memory < LEAST_MEMORY_MB:
            raise ValueError(f"at least {LEAST_MEMORY_MB}, or below 1 for the server's limit")
        return memory


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
    cell_timeout: Annotated[float, AfterValidator(_time_or_none)] = Field(0.0, strict=True)
    total_timeout: Seconds = 45.0
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
    entrance: Entrance = Entrance(),  # noqa: B008  # frozen
    docs: bool = False,
) -> FastAPI:
    """The application over `sandbox`, which it does not close. `limits` are the sandbox's own.

    `concurrency` requests are with the sandbox at a time; the others wait, and their time limits begin
    when they are run. `docs`: whether `/docs`, `/redoc` and `/openapi.json` are there.
    """
    if docs:
        app = FastAPI(title="sod sandbox")
    else:
        app = FastAPI(title="sod sandbox", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, entrance=entrance)
    places = anyio.CapacityLimiter(concurrency)

    @app.exception_handler(RequestValidationError)
    async def bad_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _first_problem(error)}, status_code=422)

    @app.exception_handler(ValueError)
    async def bad_request(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.post("/run_code")
    async def post_run_code(asked: RunCodeRequest, request: Request) -> RunCodeResponse:
        recall = Recall()
        with _called_off_at_hang_up(request, recall):
            return await anyio.to_thread.run_sync(partial(run_code, sandbox, limits, asked, recall), limiter=places)

    @app.post("/run_jupyter")
    async def post_run_jupyter(asked: RunJupyterRequest, request: Request) -> RunJupyterResponse:
        recall = Recall()
        with _called_off_at_hang_up(request, recall):
            return await anyio.to_thread.run_sync(partial(run_jupyter, sandbox, limits, asked, recall), limiter=places)

    @app.get("/v1/ping")
    async def ping() -> str:
        return "pong"

    return app


@contextmanager
def _called_off_at_hang_up(request: Request, recall: Recall) -> Iterator[None]:
    """Within the block, wait for the client to go away, and then call off its work."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        while True:  # again and again: what was about to begin then may have begun now
            await anyio.to_thread.run_sync(recall.call_off)
            await asyncio.sleep(CALL_OFF_SECONDS)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _first_problem(error: RequestValidationError) -> str:
    """What is wrong with a request, in one line that says nothing back."""
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return "the body is not JSON"
    where = ".".join(str(part) for part in problem["loc"][1:]) or "body"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def run_code(
    sandbox: SessionSandbox, limits: ProgramLimits, request: RunCodeRequest, recall: Recall | None = None
) -> RunCodeResponse:
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
    (outcome,) = sandbox.execute([program], recall)
    if isinstance(outcome, Fault):
        return RunCodeResponse(status="SandboxError", message=told(outcome))
    good = outcome.status == "ok"
    return RunCodeResponse(
        status="Success" if good else "Failed",
        message="" if good else outcome.status,
        run_result=_result(outcome),
        files={name: base64.b64encode(content).decode() for name, content in outcome.files.items()},
    )


def run_jupyter(
    sandbox: SessionSandbox, limits: ProgramLimits, request: RunJupyterRequest, recall: Recall
) -> RunJupyterResponse:
    """Run the cells in a session of their own; blocks until they have ended. Raises ValueError as `run_code`."""
    files = _decoded(request.files)
    check_names(files)
    check_names(request.fetch_files)
    session = f"jupyter-{uuid.uuid4()}"
    notebook = Notebook(sandbox, session, limits.output_chars, recall, request.cell_timeout or None)
    try:
        return _run_notebook(notebook, request, files)
    finally:
        sandbox.end_sessions([session])


def _run_notebook(notebook: Notebook, request: RunJupyterRequest, files: Mapping[str, bytes]) -> RunJupyterResponse:
    for name, content in files.items():
        if why := notebook.place(name, content):
            return RunJupyterResponse(status="SandboxError", message=f"{name}: not written: {why}")
    cells: list[CellRunResult] = []
    driver = CommandRunResult(status="Finished", return_code=0, stdout="", stderr="")
    seconds = 0.0  # of the cells alone: waiting for a place is not their doing
    for source in request.cells:
        if seconds > request.total_timeout:
            driver = CommandRunResult(status="TimeLimitExceeded", stdout="", stderr="")
            break
        outcome, value = notebook.run(source)
        if isinstance(outcome, Fault):
            return RunJupyterResponse(status="SandboxError", message=told(outcome))
        cells.append(_cell_result(outcome, value))
        seconds += outcome.seconds
        if outcome.stderr.rstrip().endswith(STATE_LOST):
            driver = _result(outcome)
            break
    driver.execution_time = seconds
    good = driver.return_code == 0
    fetched = notebook.fetch(request.fetch_files) if good else {}
    return RunJupyterResponse(status="Success" if good else "Failed", driver=driver, cells=cells, files=fetched)


def _cell_result(outcome: Execution, value: str | None) -> CellRunResult:
    lines = outcome.stderr.rstrip("\n").splitlines()
    if outcome.status == "ok" or not lines:
        display = [] if value is None else [{"text/plain": value}]
        return CellRunResult(stdout=outcome.stdout, stderr=outcome.stderr, display=display)
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
