"""A server that a run starts, watches and ends: a process under a keeper, spoken to by HTTP.

A server that ended by itself, with whatever exit code, is started again after a pause that doubles, up to a number of
times; one that has served and answers nothing any more is ended first. Who speaks to it sees a connection break, waits
by `wait_ready`, and finds `starts` higher than before: whatever the server was told by then (weights above all) has to
be told again.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import httpx

from sod.launch.ports import refuse_used
from sod.pipes import end
from sod.records import SodError
from sod.runlog.files import writing

KEEPER: Final = Path(__file__).with_name("keeper.py")
GRACE_SECONDS: Final = 10.0
"""How long a server may take to end when it is asked to; then it is killed."""
PROBE_SECONDS: Final = 0.25
"""Between two looks whether it answers."""
ANSWER_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 15.0
"""Between two looks whether one that has served still answers, and how long each waits for that."""
SILENT_LOOKS: Final = 4
"""So many in a row without an answer, about two minutes, and it is ended."""
HEALTHY_SECONDS: Final = 600.0
"""A server that has run for so long has its restarts all back: only what dies again and again is given up."""
READ_BYTES, SHOWN_LINES, SHOWN_CHARS = 1 << 16, 12, 2_000
_ERROR: Final = re.compile(r"\b\w+(?:Error|Exception): .+")
NOT_INHERITED: Final = frozenset(
    {"VLLM_API_KEY", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "GLIBC_TUNABLES", "SOD_ALLOCATOR"}
    | {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"}
    | {"ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
)
"""Variables that say something of this process alone: its Python, its allocator, its rank; and vLLM's own key, which a
run would not know: its servers listen on this machine alone.
"""


@final
@dataclass(frozen=True)
class ServerPlan:
    """What a server is: `command` begins with its program, `environment` is set beside what this process has.

    It listens on `port` of this machine and answers GET `health` with HTTP 200 once it serves. `where` begins every
    message about what the user can change, `devices` says where it computes.
    """

    name: str
    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"
    where: str = "launch"
    devices: tuple[str, ...] = ("cpu",)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def refuse_used_port(self) -> None:
        """Raises SodError where somebody listens there."""
        refuse_used(self.port, self.where)


@final
@dataclass(frozen=True)
class Patience:
    """How long a server may take to answer for the first time, how often it is started again, and the pause before the
    first of these (seconds; doubled for each that follows, a minute at most).
    """

    start_seconds: float = 600.0
    restarts: int = 3
    backoff_seconds: float = 1.0


@final
class Server:
    """One server, started once and ended by `close`; its output goes to the end of `log`.

    Safe to use from several threads. `notice` hears, in a thread of ours, of every restart.
    """

    def __init__(self, plan: ServerPlan, log: Path, patience: Patience, notice: Callable[[str], None]) -> None:
        self.plan, self.log, self.patience = plan, log, patience
        self.starts = 0
        """How often it was started: who told it something remembers at which start."""
        self._notice = notice
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._log_began = 0
        self._failures = 0
        """Ends in a row, none of them after a long life."""
        self._served_start = 0
        """The last of its starts that served; 0 where none has."""
        self._ended_by_us: subprocess.Popen[bytes] | None = None
        """The last of its processes that was ended because it did no good."""
        self._given_up: str | None = None
        self._closing = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def name(self) -> str:
        """In messages and its log's name."""
        return self.plan.name

    @property
    def url(self) -> str:
        """Its address."""
        return self.plan.url

    def start(self) -> None:
        """Start it, and watch it from then on; it may answer later. Raises SodError where its port is in use."""
        self.plan.refuse_used_port()
        self._spawn()
        self._supervisor = threading.Thread(target=self._supervise, name=f"watches {self.name}", daemon=True)
        self._supervisor.start()
        threading.Thread(target=self._look_after, name=f"looks after {self.name}", daemon=True).start()

    def alive(self) -> bool:
        """Whether its process runs."""
        process = self._process
        return process is not None and process.poll() is None

    def ready(self) -> bool:
        """Whether it answers that it serves."""
        try:
            return self._answers(ANSWER_SECONDS)
        except TimeoutError:
            return False

    def wait_ready(self, seconds: float | None = None) -> None:
        """Return once it serves. None: as long as its patience says.

        Raises SodError, with the end of its log, where it has been given up and where it takes longer.
        """
        patience = self.patience.start_seconds if seconds is None else seconds
        until = time.monotonic() + patience
        while not self.ready():
            self.refuse_given_up()
            if time.monotonic() >= until:
                raise SodError(
                    f"{self.name}: does not answer within {patience:g} s; give it longer by launch.start_seconds, or "
                    f"see {self.log}{self.said()}"
                )
            time.sleep(PROBE_SECONDS)

    @property
    def is_given_up(self) -> bool:
        """Whether it ended and is not started again."""
        return self._given_up is not None

    def refuse_given_up(self) -> None:
        """Raises SodError where it ended and is not started again."""
        if self._given_up is not None:
            raise SodError(self._given_up)

    def restart(self) -> None:
        """End one that lives and does no good; it is started again as one that ended by itself, which this counts as.

        Returns when its process is gone.
        """
        if self.alive() and not self._closing.is_set():
            self._notice(f"{self.name} says that it is well, and does nothing that it is asked: it is ended")
            self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            self._ended_by_us = process
            _ended(process)

    def close(self) -> None:
        """End it and all that it started. Safe to call twice."""
        self._closing.set()
        if self._process is not None:
            _ended(self._process)
        if self._supervisor is not None and self._supervisor is not threading.current_thread():
            self._supervisor.join()

    def said(self) -> str:
        """The last lines of its log, for a message, and before them the error that they go back to; nothing where
        there are none.
        """
        try:
            with open(self.log, "rb") as file:
                file.seek(max(self._log_began, file.seek(0, os.SEEK_END) - READ_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.rstrip() for line in text.split("\n") if line.strip()]
        last = "\n".join(lines[-SHOWN_LINES:])[-SHOWN_CHARS:]
        cause = next(filter(None, map(_ERROR.search, lines)), None)
        if cause is not None and cause[0] not in last:
            return f"; {cause[0][:SHOWN_CHARS]}; it said at last:\n{last}"
        return f"; it said at last:\n{last}" if last else ""

    def _spawn(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        with writing(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            output = open(self.log, "ab")  # noqa: SIM115  closed below, as soon as the process has it
            self._log_began = output.tell()
        with output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), str(GRACE_SECONDS), *self.plan.command],
                env={**inherited, **self.plan.environment},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for the run, which ends its servers in order
            )
        self._began = time.monotonic()
        self.starts += 1

    def _answers(self, seconds: float) -> bool:
        """Whether it answers that it serves. Raises TimeoutError where it is there and does not answer in time."""
        if not self.alive():
            return False
        start = self.starts
        try:
            with httpx.Client(trust_env=False, timeout=seconds) as client:
                well = client.get(self.url + self.plan.health).status_code == httpx.codes.OK
        except httpx.TimeoutException:
            raise TimeoutError from None
        except (httpx.HTTPError, OSError):
            return False
        if well:
            self._served_start = start
        return well

    def _look_after(self) -> None:
        """End one that has served and answers nothing any more, for which whoever asks it would wait for long.

        A machine that sleeps, or a run that is stopped for a while, makes no look, and so no silence.
        """
        looks, start = 0, 0
        while not self._closing.wait(LOOK_SECONDS) and not self.is_given_up:
            if self.starts != start:
                looks, start = 0, self.starts
            try:
                self._answers(LOOK_SECONDS)
                looks = 0
            except TimeoutError:
                looks += self._served_start == start
            if looks == SILENT_LOOKS and not self._closing.is_set():
                self._notice(
                    f"{self.name} runs, and did not answer {looks} times in a row, each time for {LOOK_SECONDS:g} s: "
                    "it is ended"
                )
                self._end()

    def _supervise(self) -> None:
        """Wait for its end, and start it again, until it is closed or given up."""
        while self._process is not None:
            code = self._process.wait()
            end(self._process)
            if code < 0:  # the keeper was killed
                _kill_group(self._process.pid)
            if self._closing.is_set():
                return
            if time.monotonic() - self._began > HEALTHY_SECONDS:
                self._failures = 0
            self._failures += 1
            how = "by us" if self._process is self._ended_by_us else _in_words(code)
            if not self._served_start or self._failures > self.patience.restarts:
                self._give_up(self._why_given_up(how))
                return
            pause = min(60.0, self.patience.backoff_seconds * 2 ** (self._failures - 1))
            self._notice(
                f"{self.name} ended ({how}) and is started again in {pause:g} s, "
                f"{self._failures} of {self.patience.restarts} times (launch.restarts); see {self.log}"
            )
            if self._closing.wait(pause):
                return
            self._start_again()

    def _start_again(self) -> None:
        try:
            self._spawn()
        except (SodError, OSError) as error:
            self._give_up(f"{self.name}: cannot be started again: {error}")
            self._process = None
            return
        if self._closing.is_set():  # closed while it was being started
            assert self._process is not None
            _ended(self._process)

    def _give_up(self, why: str) -> None:
        self._given_up = why
        if self._served_start:  # else it is waited for, and who waits is told
            self._notice(why)

    def _why_given_up(self, how: str) -> str:
        if not self._served_start:
            return f"{self.name}: ended before it served ({how}); see {self.log}{self.said()}"
        return (
            f"{self.name}: ended for the {_nth(self._failures)} time in a row ({how}) and is given up; "
            f"mend what ends it, or set launch.restarts higher; see {self.log}{self.said()}"
        )


def _ended(process: subprocess.Popen[bytes]) -> None:
    """End a keeper and what it keeps: in order while there is time, else by force."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()  # the keeper's sign
    try:
        process.wait(GRACE_SECONDS + 5.0)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        process.wait()


def _kill_group(keeper: int) -> None:
    """Kill what is left of a session whose keeper cannot do that."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper, signal.SIGKILL)


def _in_words(code: int) -> str:
    """An exit code of a keeper."""
    if code == -signal.SIGKILL or code == 128 + signal.SIGKILL:
        return "killed; out of memory?"
    number = -code if code < 0 else code - 128
    return f"signal {number}" if number in range(1, 65) else f"exit code {code}"


def _nth(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
