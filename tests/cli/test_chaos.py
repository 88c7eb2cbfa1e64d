"""Training through a failing sandbox service, and with programs that attack: it neither hangs nor ends without a word.

Everything is real: the student, the HTTP traffic on loopback, the sandbox that runs the programs. What must hold is
read from the run directory: no reward of a faulted episode counts, and no text of the infrastructure reaches a model.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import pytest

from sod.runlog import RunLog
from sod.tools.python import SCHEMA
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from tools.bad_server import SECRET, BadServer, Behaviour, Plan, always, first, running, sometimes

FAILURES = tuple(b for b in get_args(Behaviour) if b not in ("good", "slow"))
ONE_QUICK = [pytest.param(f, marks=() if f == "http_500" else pytest.mark.slow) for f in FAILURES]
LIMITS = ProgramLimits(seconds=10.0, memory_mb=256)  # the client asks for less
IMPATIENT = {"attempts": 1, "grace_seconds": 0.4, "connect_seconds": 1.0, "breaker_failures": 100_000}
PATIENT = {"attempts": 4, "grace_seconds": 30.0, "backoff_seconds": 0.02, "breaker_failures": 100_000}
UNHURRIED = "tools.python.timeout_seconds=10"  # where a program that a busy machine holds up must not be stopped
STEPS, EPISODES = 3, 8


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    made = LocalSandbox(LIMITS, workers=2)
    yield made
    made.close()


@pytest.fixture
def train(sod: Any, recipe: Path, tmp_path: Path) -> Callable[..., Any]:
    """`train(url, options, *overrides)`: a training run on the service at `url`, its outcome and its directory."""

    def run(url: str, options: dict[str, Any], *overrides: str) -> tuple[Any, Path]:
        service = json.dumps({"url": url, **options})
        given = [
            f"tools.python.fusion={service}",
            "tools.python.preload=[numpy, sympy]",
            "tools.python.timeout_seconds=0.5",
            f"train.steps={STEPS}",
            "rollout.prompts=4",
            *overrides,
        ]
        directory = tmp_path / "run"
        return sod("train", recipe, *given, "--run", directory), directory

    return run


def written(directory: Path) -> list[list[dict[str, Any]]]:
    """The trajectories of every step, after the checks that hold for every run."""
    log = RunLog.open(directory)
    steps = []
    for metrics in log.metrics():
        rows = log.trajectories(metrics["step"])
        clean = [row for row in rows if row["fault"] is None]
        faulted = [row for row in rows if row["fault"] is not None]
        assert len(rows) == EPISODES
        assert metrics["faults"] == len(faulted)
        assert metrics["reward"] == pytest.approx(fmean(row["reward"] for row in clean))
        assert all(row["reward"] == 0.0 and not row["correct"] for row in faulted)
        for row in rows:
            for turn in row["turns"]:
                assert SECRET not in json.dumps([turn["text"], turn["calls"], turn["results"]])
        steps.append(rows)
    return steps


def untimed(steps: list[list[dict[str, Any]]]) -> str:
    for row in (row for rows in steps for row in rows):
        for result in (result for turn in row["turns"] for result in turn["results"]):
            result["seconds"] = 0.0
    return json.dumps(steps)


def afterwards(plan: Plan) -> Plan:
    """Good toward the probe, then by `plan`."""
    return lambda number: "good" if number == 0 else plan(number)


@pytest.mark.parametrize("failure", ONE_QUICK)
def test_a_third_of_the_requests_fails(failure: Behaviour, sandbox: LocalSandbox, train: Any) -> None:
    """Nothing is tried again and every fault is allowed: the run goes to its end on what is left."""
    plan = afterwards(sometimes(0.35, seed=2, among=(failure,)))
    with BadServer(plan, running(sandbox, LIMITS)) as server:
        ended, directory = train(server.url, IMPATIENT, "rollout.fault_retries=0", "rollout.max_fault_rate=1.0")
    assert ended.code == 0, ended.err
    steps = written(directory)
    faults = [row["fault"]["kind"] for rows in steps for row in rows if row["fault"]]
    assert len(steps) == STEPS
    assert faults
    counted = sum(m.get(f"faults/{kind}", 0) for m in RunLog.open(directory).metrics() for kind in set(faults))
    assert counted == len(faults)


@pytest.mark.parametrize("failure", FAILURES)
def test_an_outage_stops_the_run_with_one_line(failure: Behaviour, sandbox: LocalSandbox, train: Any) -> None:
    """The service goes bad after the probe: exit 1 in bounded time, and the line says what and how much.

    No step was ever over, so no run is left behind: the same command can be given again.
    """
    began = time.monotonic()
    with BadServer(first(["good"], then=failure), running(sandbox, LIMITS)) as server:
        ended, directory = train(server.url, IMPATIENT, "rollout.fault_retries=1")
    assert ended.code == 1
    (line,) = ended.err.strip().splitlines()
    assert "episodes faulted" in line.replace("every episode", "episodes")
    assert time.monotonic() - began < 300
    assert not (directory / "recipe.yaml").exists()
    assert not (directory / "metrics.jsonl").exists()


def test_nobody_listens(train: Any) -> None:
    """The probe before the first step says so, and no run directory is left behind."""
    server = BadServer()
    server.kill()
    ended, directory = train(server.url, IMPATIENT)
    assert ended.code == 1
    (line,) = ended.err.strip().splitlines()
    assert "tool python does not work: unreachable" in line
    assert not directory.exists()


@pytest.mark.slow
def test_failures_that_retries_save_change_nothing(sandbox: LocalSandbox, train: Any, tmp_path: Path) -> None:
    """30% of the requests fail at random: the same trajectories as with a service that never fails."""
    runs = []
    for rate in (0.0, 0.3):
        with BadServer(sometimes(rate, seed=5), running(sandbox, LIMITS)) as server:
            ended, directory = train(server.url, PATIENT, UNHURRIED)
        assert ended.code == 0, ended.err
        runs.append((untimed(written(directory)), server.requests))
        directory.rename(tmp_path / f"rate-{rate}")
    assert runs[0][0] == runs[1][0]
    assert runs[1][1] > runs[0][1] > 3


@pytest.mark.slow
def test_killed_in_mid_step_and_restarted(sandbox: LocalSandbox, train: Any) -> None:
    """The service dies with a request in hand and is back within the client's patience: no episode is lost."""
    answer = running(sandbox, LIMITS)
    second: list[BadServer] = []
    server = BadServer(answer=answer)

    def restart() -> None:
        server.kill()
        time.sleep(0.3)
        second.append(BadServer(answer=answer, port=server.port))

    def plan(number: int) -> Behaviour:
        if number == 3:
            threading.Thread(target=restart, daemon=True).start()
            return "slow"
        return "good"

    server.plan = plan
    try:
        ended, directory = train(server.url, {**PATIENT, "attempts": 10, "backoff_seconds": 0.3}, UNHURRIED)
    finally:
        for one in (server, *second):
            one.kill()
    assert ended.code == 0, ended.err
    assert [row["fault"] for rows in written(directory) for row in rows] == [None] * STEPS * EPISODES
    assert second[0].requests > 0


@pytest.mark.slow
def test_turns_before_a_fault_are_distilled(sandbox: LocalSandbox, train: Any) -> None:
    """With `distill_before_fault` they are in the loss, and still no reward of theirs counts."""
    plan = afterwards(sometimes(0.2, seed=1, among=("http_500",)))
    options = ("rollout.fault_retries=0", "rollout.max_fault_rate=1.0", "rollout.distill_before_fault=true")
    with BadServer(plan, running(sandbox, LIMITS)) as server:
        ended, directory = train(server.url, IMPATIENT, *options, "train.steps=6")
    assert ended.code == 0, ended.err
    several = [row for rows in written(directory) for row in rows if row["fault"] and len(row["turns"]) > 1]
    kept = sum(metrics["distilled_before_fault"] for metrics in RunLog.open(directory).metrics())
    assert kept == len(several) > 0


BOMBS = {
    "fork": ("import os\nwhile 1: os.fork()", {"exception", "timeout"}),
    "memory": ("x = 'a' * 9**12", {"memory"}),
    "loop": ("while 1: pass", {"timeout"}),
    "print": ("while 1: print(1)", {"output_limit"}),
    "disk": ("open('a', 'w').write('a' * 9**8)", {"exception", "memory"}),
}


@pytest.fixture(scope="module")
def bomber(sod: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data for, and a student that has learned by heart, one attacking program for each prompt."""
    directory = tmp_path_factory.mktemp("bomber")
    conversations = [
        {
            "tools": [SCHEMA],
            "messages": [
                {"role": "user", "content": name},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "python", "arguments": {"code": code}}}],
                },
                {"role": "tool", "content": "1", "name": "python"},
                {"role": "assistant", "content": "\\boxed{1}"},
            ],
        }
        for name, (code, _) in BOMBS.items()
    ]
    (directory / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations))
    tasks = [
        {
            "prompt": [{"role": "user", "content": name}],
            "data_source": name,
            "reward_model": {"ground_truth": "1"},
        }
        for name in BOMBS
    ]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    recipe = world.recipe(directory)
    learn = ("sft.steps=150", "sft.batch_size=5", f"data.sft={directory}/sft.jsonl")
    ended = sod("sft", recipe, *learn, "--run", directory / "sft")
    assert ended.code == 0, ended.err
    return directory


@pytest.mark.slow
def test_attacking_programs_are_tool_errors(sod: Any, world: Any, bomber: Path, tmp_path: Path) -> None:
    """A fork bomb, a memory bomb, an endless loop, endless output, a full disk: the model's own doing."""
    overrides = (
        f"student.path={bomber}/sft",
        f"data.train={bomber}/train.jsonl",
        "rollout={prompts: 5, samples: 2, max_turns: 3, max_prompt_tokens: 128, max_turn_tokens: 90, temperature: 0.3, "
        "max_response_tokens: 384}",
        "tools.python={timeout_seconds: 5.0, memory_mb: 64, max_code_chars: 200, max_output_chars: 64, preload: []}",
        "train.steps=2",
    )
    ended = sod("train", world.recipe(tmp_path), *overrides, "--run", tmp_path / "run")
    assert ended.code == 0, ended.err
    errors: dict[str, set[str | None]] = {name: set() for name in BOMBS}
    log = RunLog.open(tmp_path / "run")
    for row in (row for step in (1, 2) for row in log.trajectories(step)):
        assert row["fault"] is None
        for turn in row["turns"]:
            for call, result in zip(turn["calls"], turn["results"], strict=False):
                for name, (code, _) in BOMBS.items():
                    if call["arguments"].get("code") == code:
                        errors[name].add(result["error"])
    for name, (_, expected) in BOMBS.items():
        assert errors[name], f"the student never wrote the {name} bomb"
        assert errors[name] <= expected, name
    assert all(metrics["faults"] == 0 for metrics in log.metrics())


def test_a_service_that_never_answers_the_probe(train: Any) -> None:
    with BadServer(always("hang")) as server:
        ended, directory = train(server.url, IMPATIENT)
    assert ended.code == 1
    assert "tool python does not work: timeout" in ended.err
    assert not directory.exists()
