"""`sod sandbox`: run one program, serve a sandbox over HTTP, see what a sandbox keeps in and how fast it is."""

from __future__ import annotations

import ipaddress
import json
import math
import signal
import socket
import statistics
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sod.recipe import FusionSpec, PythonSpec, refuse_key_in_url
from sod.records import Execution, Fault, Program, SodError
from sod.report.console import notice, out, rows_table

if TYPE_CHECKING:
    from sod.tools.sandbox.base import ProgramLimits, Sandbox
    from sod.tools.sandbox.gate import Entrance
    from sod.tools.sandbox.local import LocalSandbox

sandbox_app = typer.Typer(no_args_is_help=True, help="Run programs in a sandbox, here or over HTTP.")

BACKLOG = 2048  # connections that wait to be accepted
SHUTDOWN_GRACE_SECONDS = 5  # beyond a program's time limit, before requests under way are given up

UrlOption = Annotated[
    str, typer.Option("--url", help="A SandboxFusion service, e.g. http://127.0.0.1:8080; else this machine.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.001, help="Wall clock of one program (seconds).")]
MemoryOption = Annotated[int, typer.Option("--memory-mb", min=1, help="Memory of one program (MiB).")]
OutputOption = Annotated[int, typer.Option("--output-chars", min=1, help="Characters of stdout, and of stderr.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Programs that run at a time.")]
PreloadOption = Annotated[
    list[str] | None, typer.Option("--preload", help="Module to import beforehand; repeatable (default: numpy, sympy).")
]
UnsafeOption = Annotated[bool, typer.Option("--unsafe", help="Go on where this machine permits no isolation.")]


@sandbox_app.command(epilog="Example: `sod sandbox run --code-file program.py --timeout 2`")
def run(
    code_file: Annotated[Path, typer.Option("--code-file", help="Python source (UTF-8).")],
    timeout: TimeoutOption = 5.0,
    memory_mb: MemoryOption = 512,
    output_chars: OutputOption = 65_536,
    url: UrlOption = "",
    preload: PreloadOption = None,
    unsafe: UnsafeOption = False,
) -> None:
    """Run one program; print how it ended as one JSON object. Exit code 0 where it was run, however it ended."""
    from sod.tools.sandbox.base import ProgramLimits

    source = _read_source(code_file)
    limits = ProgramLimits(seconds=timeout, memory_mb=memory_mb, output_chars=output_chars)
    with closing(_open(url, limits, 1, preload, unsafe)) as sandbox:
        (outcome,) = sandbox.execute([Program(source)])
    if isinstance(outcome, Execution):
        seconds = round(outcome.seconds, 4)
        _print_json(status=outcome.status, stdout=outcome.stdout, stderr=outcome.stderr, seconds=seconds)
        return
    why = _one_line(outcome)
    _print_json(status="fault", stdout="", stderr="", seconds=0.0, detail=why)
    raise SodError(f"{url or 'sandbox'}: {why}")


@sandbox_app.command(epilog="Example: `sod sandbox probe --workers 4`")
def probe(
    url: UrlOption = "",
    workers: WorkersOption = 2,
    timeout: TimeoutOption = 5.0,
    memory_mb: MemoryOption = 512,
    preload: PreloadOption = None,
    unsafe: UnsafeOption = False,
) -> None:
    """Try a sandbox out: what it keeps from programs (of this machine's only), and how fast it is."""
    from sod.tools.sandbox.base import ProgramLimits

    limits = ProgramLimits(seconds=timeout, memory_mb=memory_mb)
    if url:
        _refuse_local_options(preload, unsafe)
        with closing(open_remote(url, limits)) as remote:
            figures = _remote_figures(remote, url)
        out.print(rows_table(f"{url}: throughput", ("what", "measured"), figures))
        notice("what a remote sandbox keeps from programs cannot be seen from here; probe it on its own machine")
        return
    from sod.tools.sandbox.probe import CALLS, EPISODES
    from sod.tools.sandbox.probe import probe as try_out

    with closing(open_local(limits, workers, preload, unsafe)) as sandbox:
        found = try_out(sandbox)
    walls = [(name, _yes(value)) for name, value in found.isolation.items()]
    out.print(rows_table(f"isolation: {found.level}", ("what is set up", "in force"), walls))
    tried = [(name, _yes(value)) for name, value in found.kept.items()]
    out.print(rows_table("what programs tried", ("attempt", "kept from it"), tried))
    figures = [
        ("one program, median", f"{found.median_ms:.1f} ms"),
        ("one program, 95th percentile", f"{found.p95_ms:.1f} ms"),
        (f"{EPISODES} threads, {CALLS} programs each", f"{found.burst_seconds:.2f} s"),
        (f"memory of it all, {found.sessions} sessions open", _mebibytes(found.total_mb)),
    ]
    out.print(rows_table(f"throughput: {workers} workers", ("what", "measured"), figures))


@sandbox_app.command(epilog="Example: `sod sandbox serve --port 8080 --workers 8`")
def serve(
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen at; beyond loopback only with a key in SANDBOX_FUSION_API_KEY."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one.")] = 8080,
    workers: WorkersOption = 2,
    timeout: TimeoutOption = 10.0,
    memory_mb: MemoryOption = 512,
    output_chars: OutputOption = 65_536,
    preload: PreloadOption = None,
    unsafe: UnsafeOption = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name that requests may ask for as their Host; repeatable."),
    ] = None,
    docs: Annotated[bool, typer.Option("--docs", help="Serve /docs, /redoc and /openapi.json too.")] = False,
) -> None:
    """Serve SandboxFusion's API until SIGINT or SIGTERM; requests under way are finished first.

    Requests need the bearer token that the environment variable SANDBOX_FUSION_API_KEY holds, if it is set.
    """
    from sod.tools.sandbox.base import ProgramLimits
    from sod.tools.sandbox.credentials import key_from_environment

    try:
        from sod.tools.sandbox.listener import make_server
        from sod.tools.sandbox.server import create_app
    except ImportError as error:
        raise SodError(f"{error.name} is missing: pip install 'sod-distill[server]'") from error
    token = key_from_environment()
    limits = ProgramLimits(seconds=timeout, memory_mb=memory_mb, output_chars=output_chars)
    with ExitStack() as opened:
        listener = opened.enter_context(closing(_listen(host, port)))
        entrance = _entrance(listener, host, allow_host or [], token)
        sandbox = opened.enter_context(closing(open_local(limits, workers, preload, unsafe)))
        app = create_app(sandbox, limits, max(64, 2 * workers), entrance, docs)
        server = make_server(app, math.ceil(timeout) + SHUTDOWN_GRACE_SECONDS)

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn hands the signal on once it has shut down: it must not end us before the sandbox is closed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        out.print(f"serving on {where}, {workers} workers; Ctrl-C ends it", markup=False)
        server.run(sockets=[listener])
    out.print("stopped", markup=False)


def _entrance(listener: socket.socket, host: str, names: list[str], token: str) -> Entrance:
    """Who may ask the server that listens there. Raises SodError where that takes a token and there is none."""
    from sod.tools.sandbox.credentials import KEY_VARIABLE
    from sod.tools.sandbox.gate import Entrance

    beyond = not ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    if beyond and not token:
        raise SodError(
            f"--host {host} lies beyond loopback, where whoever reaches it could run programs: set {KEY_VARIABLE} to a "
            f"token, e.g. export {KEY_VARIABLE}=$(python -c 'import secrets; print(secrets.token_hex(32))'), "
            "or leave --host out"
        )
    own = [host, socket.gethostname()] if beyond else [host]
    hosts = frozenset(name.lower().removesuffix(".") for name in (*own, *names))
    return Entrance(hosts, beyond, token)


def open_local(limits: ProgramLimits, workers: int, preload: list[str] | None, unsafe: bool) -> LocalSandbox:
    """The sandbox of this machine, with the recipe's own modules where none are named. Raises SodError."""
    from sod.build.tools import make_local_sandbox

    given = {} if preload is None else {"preload": preload}
    return make_local_sandbox(PythonSpec(workers=workers, unsafe=unsafe, **given), limits)


def open_remote(url: str, limits: ProgramLimits) -> Sandbox:
    """A SandboxFusion service. Raises SodError for what is no url."""
    from sod.build.tools import make_sandbox

    try:
        refuse_key_in_url(url)
    except ValueError as error:
        raise SodError(str(error)) from None
    return make_sandbox(PythonSpec(fusion=FusionSpec(url=url)), limits)


def _open(url: str, limits: ProgramLimits, workers: int, preload: list[str] | None, unsafe: bool) -> Sandbox:
    if not url:
        return open_local(limits, workers, preload, unsafe)
    _refuse_local_options(preload, unsafe)
    return open_remote(url, limits)


def _refuse_local_options(preload: list[str] | None, unsafe: bool) -> None:
    if preload or unsafe:
        raise SodError("--preload and --unsafe are for this machine's sandbox; leave them out with --url")


def _remote_figures(sandbox: Sandbox, url: str) -> list[tuple[str, str]]:
    """Times of trivial programs: one at a time, then many at once. Raises SodError for any fault."""
    from sod.tools.sandbox.probe import CALLS, EPISODES, EXECUTIONS, TRIVIAL, healthy

    if (fault := healthy(sandbox)) is not None:
        raise SodError(f"{url}: {_one_line(fault)}")

    def seconds(count: int) -> float:
        started = time.monotonic()
        for outcome in sandbox.execute([Program(TRIVIAL)] * count):
            if isinstance(outcome, Fault):
                raise SodError(f"{url}: {_one_line(outcome)}")
        return time.monotonic() - started

    single = sorted(1000 * seconds(1) for _ in range(EXECUTIONS))
    burst = seconds(EPISODES * CALLS)
    return [
        ("one program, median", f"{statistics.median(single):.1f} ms"),
        ("one program, 95th percentile", f"{statistics.quantiles(single, n=20)[-1]:.1f} ms"),
        (f"{EPISODES * CALLS} programs at once", f"{burst:.2f} s"),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _mebibytes(value: float | None) -> str:
    return "not to be seen by this user" if value is None else f"{value:.0f} MiB"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SodError(f"{host} port {port}: {error.strerror or error}; choose another --host or --port") from error


def _read_source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SodError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SodError(f"{path}: not UTF-8 at byte {error.start}") from error


def _print_json(**fields: object) -> None:
    print(json.dumps(fields))


def _one_line(fault: Fault) -> str:
    return " ".join(f"{fault.kind}: {fault.detail}".split())
