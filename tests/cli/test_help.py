"""What `sod` says of itself: versions, help that teaches, completion, and suggestions for what was mistyped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

COMMANDS = [
    ("quickstart",),
    ("train",),
    ("eval",),
    ("score",),
    ("methods",),
    ("plan",),
    ("sft",),
    ("chat",),
    ("align",),
    ("compare",),
    ("init",),
    ("recipe", "explain"),
    ("recipe", "schema"),
    ("data", "gsm8k"),
    ("data", "hints"),
    ("data", "inspect"),
    ("models", "smollm2"),
    ("models", "prune"),
    ("env", "list"),
    ("env", "play"),
    ("env", "traces"),
    ("env", "speed"),
    ("models", "merge"),
    ("models", "list"),
    ("models", "card"),
    ("teacher", "score"),
    ("sandbox", "run"),
    ("sandbox", "probe"),
    ("sandbox", "serve"),
]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def plain(text: str) -> str:
    """Without the frames, the folds and the colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", text).split())


def test_version_without_torch() -> None:
    """What a report of a bug needs, at once: nothing heavy is imported for it."""
    code = (
        "import sys; from sod.cli.main import main; sys.argv = ['sod', '--version']\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    env = os.environ | {"SOD_ALLOCATOR": "off"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert ended.returncode == 0, ended.stderr
    *versions, imported = ended.stdout.splitlines()
    told = dict(line.split(" ", 1) for line in versions)
    assert told["python"] == sys.version.split()[0]
    for package in ("torch", "transformers"):
        assert told[package] == metadata.version(package)
    assert "sod" in told
    assert not {"torch", "transformers"} & set(re.findall(r"\w+", imported))


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_what_it_is_and_what_to_do_first(flag: str, sod: Any) -> None:
    """The commands of a first hour stand in their order, before the list of all."""
    ended = sod(flag)
    said = plain(ended.out)
    assert ended.code == 0
    assert "on-policy distillation" in said.split("Options")[0]
    at = [said.index(text) for text in ("1 sod quickstart", "2 sod train", "3 sod eval", "4 sod methods", "5 sod init")]
    assert at == sorted(at)
    assert all(group in said for group in ("A first hour", "More", "--install-completion", "--version"))


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_an_example(command: tuple[str, ...], flag: str, sod: Any) -> None:
    ended = sod(*command, flag)
    assert ended.code == 0, ended.err
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    _, found, examples = plain(ended.out).rpartition("Example")
    assert found
    assert f"sod {' '.join(command)}" in examples


def test_every_command_is_among_them(sod: Any) -> None:
    """A new command is added to the list above, and so gets its example."""
    listed = re.findall(r"^│ ([a-z]+)  ", sod("-h").out, flags=re.MULTILINE)
    assert {command[0] for command in COMMANDS} >= set(listed) - {"init"}


@pytest.mark.parametrize("group", ["data", "models", "env", "sandbox"])
def test_groups_take_h_too(group: str, sod: Any) -> None:
    ended = sod(group, "-h")
    assert ended.code == 0
    assert "Usage: sod" in ended.out


def test_completion_of_a_command() -> None:
    """What bash asks and gets, of a real process."""
    env = os.environ | {"_SOD_COMPLETE": "complete_bash", "COMP_WORDS": "sod qui", "COMP_CWORD": "1"}
    ended = subprocess.run([sys.executable, "-m", "sod"], capture_output=True, text=True, env=env, timeout=300)
    assert ended.stdout.split() == ["quickstart"], ended.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str, monkeypatch: pytest.MonkeyPatch, sod: Any) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    ended = sod("--show-completion")
    assert ended.code == 0, ended.err
    assert "_SOD_COMPLETE" in ended.out


@pytest.mark.parametrize(
    ("arguments", "said", "unsaid"),
    [
        (("trian",), "Did you mean 'train'?", ""),
        (("zzz",), "No such command 'zzz'", "mean"),
        (("models", "prun"), "Did you mean 'prune'?", ""),
        (("train", "--resum", "x"), "--resume", ""),
        (("train", "--zzz", "x"), "--zzz", "mean"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_mistyped_commands_and_options(arguments: tuple[str, ...], said: str, unsaid: str, sod: Any) -> None:
    ended = sod(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not unsaid or unsaid not in ended.err
