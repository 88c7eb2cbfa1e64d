"""What is asked of a SandboxFusion service, and how its reply is understood.

The reply is untrusted: read up to a size, checked field by field. How a reply is understood:

- `SandboxError`, or a `run_result` of `Error` without an exit code: the service's own failure, whose
  text stands where a program's stderr would. A `Fault`; that text is never part of an `Execution`.
- `Failed`: the program's doing. `TimeLimitExceeded` is `timeout`; a traceback that ends in a
  `MemoryError`, or an end by signal 9 (exit code -9 or 137), is `memory`: a time limit is reported as
  such, so the kernel's out-of-memory killer is the usual sender. A program that kills itself that way
  is indistinguishable; a service that is short of memory as a whole would be blamed on its programs.
- `output_limit` is decided here, by the length of stdout; SandboxFusion itself cuts at 1 MiB silently.
- sod's own server names the status of a failed program in `message`, which SandboxFusion leaves empty.

Other differences from the local sandbox: `memory_mb` bounds the whole address space of the
interpreter there (and is ignored by a service that isolates with cgroups), processes and CPU seconds
are the service's affair, and what is kept from the programs cannot be seen from here.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sod.records import Execution, ExecutionStatus, Fault, FaultKind, Program
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.credentials import Credentials

SHOWN_CHARS = 200  # of what the service said, in a fault's detail
FAILURES: Mapping[str, ExecutionStatus] = {
    "error": "error",
    "timeout": "timeout",
    "memory": "memory",
    "output_limit": "output_limit",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MEMORY_ERROR = re.compile(r"[\w.]*MemoryError\b")


class _Result(BaseModel):
    """SandboxFusion's CommandRunResult."""

    model_config = ConfigDict(strict=True, frozen=True)

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    return_code: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    stdout: str | None = None
    stderr: str | None = None


class _Reply(BaseModel):
    """SandboxFusion's RunCodeResponse."""

    model_config = ConfigDict(strict=True, frozen=True)

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: _Result | None = None
    run_result: _Result | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


def request_body(program: Program, limits: ProgramLimits) -> bytes:
    """SandboxFusion's RunCodeRequest.

    Lone surrogates, which a model can write as JSON escapes, are no valid request: they become U+FFFD.
    """
    request = {
        "code": _encodable(program.source),
        "language": "python",
        "compile_timeout": limits.seconds,
        "run_timeout": limits.seconds,
        "memory_limit_MB": limits.memory_mb,
        "stdin": _encodable(program.stdin),
        "files": {name: base64.b64encode(content).decode() for name, content in program.files.items()},
        "fetch_files": list(program.fetch),
    }
    return json.dumps(request).encode()


def read_reply(
    data: bytes,
    program: Program,
    limits: ProgramLimits,
    credentials: Credentials = Credentials(),  # noqa: B008  # frozen
) -> Execution | Fault:
    """What a reply says; see the top of the module. A contradictory reply is a BAD_REPLY.

    A fault's detail has no value of `credentials`, whatever the service said.
    """
    try:
        reply = _Reply.model_validate_json(data)
        files = {name: base64.b64decode(reply.files[name], validate=True) for name in _fetched(reply, program)}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "reply"
        return Fault(FaultKind.BAD_REPLY, f"{where}: {first['msg'][:SHOWN_CHARS]}")
    except (binascii.Error, ValueError) as error:
        return Fault(FaultKind.BAD_REPLY, f"files: {error}")
    if reply.status == "SandboxError":
        return Fault(FaultKind.SERVER, f"SandboxError: {shown(reply.message, credentials)}")
    result = reply.run_result or reply.compile_result
    if result is None or (reply.status == "Success" and reply.run_result is None):
        return Fault(FaultKind.BAD_REPLY, f"{reply.status} without a run_result")
    if result.status == "Error" and not result.return_code:
        return Fault(FaultKind.SERVER, f"run_result of Error: {shown(result.stderr or '', credentials)}")
    stopped = result.status == "TimeLimitExceeded"
    if not stopped and result.return_code is None:
        return Fault(FaultKind.BAD_REPLY, "no return_code")
    if (reply.status == "Success") != (not stopped and result.return_code == 0):
        return Fault(FaultKind.BAD_REPLY, f"{reply.status} with return_code {result.return_code}, {result.status}")
    status, why = _status(reply, result, limits)
    return Execution(
        status,
        (result.stdout or "")[: limits.output_chars],
        _ending_in(result.stderr or "", why)[-limits.output_chars :],
        result.execution_time or 0.0,
        result.return_code if status in ("ok", "error") else None,
        files,
    )


def shown(text: str, credentials: Credentials) -> str:
    """The beginning of what the service said, without what it was shown."""
    return repr(credentials.hidden(text)[:SHOWN_CHARS])


def _status(reply: _Reply, result: _Result, limits: ProgramLimits) -> tuple[ExecutionStatus, str]:
    """The status, and the line that explains it where the program's stderr does not."""
    if len(result.stdout or "") > limits.output_chars:
        return "output_limit", f"more than {limits.output_chars} characters of output"
    if reply.status == "Success":
        return "ok", ""
    if reply.message in FAILURES:  # sod's own server, whose stderr ends in the explanation
        return FAILURES[reply.message], ""
    if result.status == "TimeLimitExceeded":
        return "timeout", f"stopped after {limits.seconds:g} s"
    code = result.return_code or 0
    last = (result.stderr or "").strip().splitlines()[-1:]
    if code in (-9, 137) or any(_MEMORY_ERROR.match(line) for line in last):
        return "memory", f"more than {limits.memory_mb} MiB"
    if code < 0 or 128 < code <= 128 + 64:
        return "error", f"process killed by signal {-code if code < 0 else code - 128}"
    return "error", "" if last else f"process exited with status {code}"


def _ending_in(stderr: str, line: str) -> str:
    """`stderr` with `line` as its last line, where there is one to add."""
    text = stderr.rstrip("\n")
    if not line or text.splitlines()[-1:] == [line]:
        return stderr
    return f"{text}\n{line}\n" if text else f"{line}\n"


def _fetched(reply: _Reply, program: Program) -> list[str]:
    return [name for name in program.fetch if name in reply.files]


def _encodable(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
