"""What is said where a command is stopped at once: by Ctrl-C before a run's first step, or by the second one."""

from __future__ import annotations

import signal
import sys

import pytest
import typer

from sod.cli import main as command


def test_it_is_said_that_a_command_was_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether typer was running by then, which makes an exit code of it, or not yet."""
    app = typer.Typer()

    @app.command()
    def work() -> None:
        signal.raise_signal(signal.SIGINT)

    def too_early(**options: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setenv("SOD_ALLOCATOR", "off")
    monkeypatch.setattr(sys, "argv", ["sod"])
    for started in (app, too_early):
        monkeypatch.setattr(command, "app", started)
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 130
        assert capsys.readouterr().err.strip() == "stopped at once; what was written before is kept"
