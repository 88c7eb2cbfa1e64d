"""What a run prints: a summary, a legend, and step lines that fit, in terminals and in pipes of real processes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from pathlib import Path
from typing import Any

import pytest

from warm import run_warm, start_warm

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def train(world: Any, directory: Path, *more: str) -> list[str]:
    """The lines that `sod train` writes into a pipe."""
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    ended = run_warm(["-m", "sod", "train", world.recipe(directory), *more, "--run", "the-run"], directory, env)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "\r" not in ended.stdout
    return ended.stdout.splitlines()


def steps_of(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"sod \d/3 ", line)]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 60])
def test_step_lines_fit_a_narrow_terminal(
    columns: int, world: Any, tmp_path: Path, sod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line a step, no longer than that, with a labelled ETA; all lines but file names keep to it too."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    ended = sod("train", world.recipe(tmp_path), "--run", "the-run")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    steps = steps_of(lines)
    assert len(steps) == 3
    for line in steps:
        assert re.fullmatch(r"sod \d/3  reward [-+]\d\.\d{3}  acc .*  \d+\.\d\ds  ETA \d+:\d\d", line)
    assert [line for line in lines if len(line) > columns and " " in line.strip() and str(tmp_path) not in line] == []
    assert "" not in lines


@pytest.mark.slow
def test_a_pipe_gets_whole_lines_a_summary_and_a_legend(world: Any, tmp_path: Path) -> None:
    """What the run is made of stands first, each name of a step line is explained before it, and only once."""
    lines = train(world, tmp_path, "method.epsilon=0.5", "train.evaluate_every=2")
    facts = dict(re.fullmatch(r"  ([a-z ]+?)  +(.*)", line).groups() for line in lines[1:12])  # type: ignore[union-attr]
    assert lines[0] == "sod starts"
    assert facts["method"] == "sod, epsilon=0.5"
    loaded = re.escape(world.student) + r"/checkpoints/step-0+70/model"
    assert re.fullmatch(loaded + r": [\d.]+ K parameters, float32 on cpu, Qwen3ForCausalLM", facts["student"])
    assert facts["teacher"].startswith(world.teacher)
    assert facts["data"] == f"{world.data('reachable')}: 24 tasks"
    assert facts["held out"].endswith("validation.parquet: 4 tasks, every 2 steps")
    assert "hermes template" in facts["chat"]
    assert re.search(r"isolation: (full|reduced|unsafe)", facts["tools"])
    assert facts["run directory"] == "the-run"
    steps = steps_of(lines)
    assert len(steps) == 3
    for label in ("reward", "acc", "gap", "w", "tool-err", "turns", "d1", "dK", "grad", "lr", "tok/s"):
        assert all(f"  {label} " in line for line in steps), label
        assert sum(line.startswith(f"  {label} ") for line in lines) == 1, label
    assert [" eval " in line for line in steps] == [False, True, True]
    assert all("(" in line and "sample" in line for line in steps), "the seconds of the phases"


@pytest.mark.slow
def test_a_real_terminal(world: Any, tmp_path: Path) -> None:
    """A pseudo-terminal of 70 columns, whose size nothing but the terminal says: no step's line is wider."""
    text = CONTROL.sub("", in_a_terminal(world, tmp_path, 70))
    steps = [line.strip() for line in re.split(r"[\r\n]+", text) if re.match(r"sod \d/3  reward", line)]
    assert len(steps) == 3, text
    assert all(50 < len(line) <= 70 for line in steps)
    assert all("ETA" in line for line in steps)


def in_a_terminal(world: Any, directory: Path, columns: int) -> str:
    """What `sod train` writes into a terminal of so many columns."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"TERM": "xterm"}
    arguments = ["-m", "sod", "train", world.recipe(directory), "--run", directory / "run"]
    process = start_warm(arguments, directory, env, terminal=child)
    os.close(child)
    read = b""
    try:
        while chunk := os.read(parent, 65_536):
            read += chunk
    except OSError:  # Linux's way to say that the other side is closed
        pass
    assert process.wait(timeout=600) == 0, read
    os.close(parent)
    return read.decode()
