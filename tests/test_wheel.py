"""The package as it is installed: the wheel alone in an empty folder, its metadata, other Pythons, `make`'s choice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from commands import ROOT

TINY = [
    "world.sft=64",
    "world.train=24",
    "world.validation=4",
    "world.test=4",
    "world.longest=3",
    "world.vocab_size=400",
    "sft.steps=4",
    "world.teacher_sft.steps=4",
    "train.steps=1",
    "rollout.prompts=2",
    "rollout.samples=2",
    "evaluation.k=1",
]
TORCH_FREE = (
    "sod, sod.cli.sandbox, sod.build.tools, sod.records, sod.seeds, sod.runlog, sod.recipe, sod.chat.render,"
    " sod.tasks.files, sod.tasks.gsm8k, sod.rewards.base, sod.tools.python, sod.tools.sandbox.pool,"
    " sod.rollout.episode, sod.report.console"
)
LIGHT = [
    "numpy",
    "pydantic",
    "PyYAML",
    "rich",
    "pyarrow",
    "httpx",
    "typer",
    "jinja2",
    "huggingface_hub",
    "tokenizers",
    "regex",
]
PYENV = Path.home() / ".pyenv" / "versions"


def run(command: list[str | Path], cwd: Path) -> str:
    """What a command prints; fails with it where the command does. No variable of ours leads it to the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installer(python: Path) -> list[str | Path]:
    """This environment's pip, installing for another Python, which needs none of its own; compiled when imported."""
    return [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in and nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ours = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ours)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", folder / "dist", "."], folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Installed without the checkout, in an empty folder: help, a recipe written out, and a very small quickstart."""
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    python, sod = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "sod"
    run([*installer(python), "--no-deps", wheel], tmp_path)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # its .pth files are not read
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run([python, "-c", "import sod; print(sod.__file__)"], empty)
    assert where.startswith(str(site))
    assert "quickstart" in run([sod, "--help"], empty)
    assert "smollm2-gsm8k" in run([sod, "init"], empty)
    assert "sod quickstart quickstart.yaml" in run([sod, "init", "quickstart"], empty)
    shutil.rmtree(empty)
    empty.mkdir()
    run([sod, "quickstart", "recipes/quickstart.yaml", *TINY], empty)
    assert (empty / "runs" / "quickstart" / "summary.json").is_file()


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    files = [path for path in (source / "sod").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert names == {str(path.relative_to(source)) for path in files}


@pytest.mark.slow
def test_metadata_is_valid_and_its_text_has_no_link_that_needs_the_checkout(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    content = next(archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Metadata.from_email(content, validate=True)
    assert "Operating System :: POSIX :: Linux" in (metadata.classifiers or [])
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.description or "")
    assert [link for link in links if not re.match(r"https://", link)] == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_later_pythons_compile_everything_and_import_what_needs_no_torch(version: str, tmp_path: Path) -> None:
    found = [*PYENV.glob(f"{version}.*/bin/python{version}"), shutil.which(f"python{version}") or ""]
    if not (python := str(found[0])) or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no Python {version} on this machine")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run([python, "-W", "error", "-m", "compileall", "-q", "src"], tmp_path)
    run([python, "-m", "venv", "--without-pip", "venv"], tmp_path)
    own = tmp_path / "venv" / "bin" / "python"
    pip = [*installer(own), "--prefer-binary", "-c", ROOT / "constraints.txt", *LIGHT]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution" in installed.stderr:
        pytest.skip(f"no package index: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    run([own, "-c", f"import sys; sys.path.insert(0, 'src'); import {TORCH_FREE}"], tmp_path)


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        ({"python3.11": 0, "python3": 0}, "python3.11"),
        ({"python3.12": 0, "python3": 0}, "python3.12"),
        ({"python3.11": 1, "python3.13": 0}, "python3.13"),
        ({"python3": 0}, "python3"),
    ],
)
def test_make_takes_any_python_that_is_recent_enough(present: dict[str, int], chosen: str, tmp_path: Path) -> None:
    made = made_by(tmp_path, present)
    assert f"{chosen} -m venv" in made.stdout


@pytest.mark.parametrize("present", [{}, {"python3": 1}])
def test_make_says_when_there_is_none(present: dict[str, int], tmp_path: Path) -> None:
    made = made_by(tmp_path, present)
    assert made.returncode != 0
    assert "no Python from 3.11 on" in made.stdout
    assert "PYTHON=/path/to/python3" in made.stdout


def made_by(folder: Path, present: dict[str, int]) -> subprocess.CompletedProcess[str]:
    """`make install` up to its first failure, where only these Pythons are found; 1: it is too old, or only a shim."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sh", "make", "touch"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, status in present.items():  # the check passes or not; whatever comes after it fails
        script = f'#!/bin/sh\n[ "$1" = -c ] && exit {status}\nexit 1\n'
        (programs / name).write_text(script, encoding="utf-8")
        (programs / name).chmod(0o755)
    return subprocess.run(
        [programs / "make", "-f", ROOT / "Makefile", "install", f"VENV={folder / 'venv'}"],
        cwd=ROOT,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
    )
