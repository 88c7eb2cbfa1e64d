"""Trackers write for real, below the directory they are given, and are read back."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sod.records import SodError
from sod.report.metrics import PANELS
from sod.report.trackers import TrackerName, open_tracker
from wandb_files import wandb_history

CONFIG = {"method": "sod", "optim": {"lr": 1e-6}}
ROWS: dict[int, dict[str, Any]] = {
    1: {"step": 1, "kind": "train", "loss": 0.5, "seconds/rollout": 2, "gap": math.nan, "ok": True, "none": None},
    2: {"step": 2, "kind": "train", "loss": np.float32(0.25), "gap": math.inf, "list": [1.0]},
}
PASSED_ON = {1: {"loss": 0.5, "seconds/rollout": 2.0}, 2: {"loss": 0.25}}
# What this machine or this user has set up must not decide where a test writes.
FOREIGN = (
    "WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_DIR", "NETRC",
    "TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID",
)  # fmt: skip


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FOREIGN:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def write(name: TrackerName, directory: Path, run_name: str = "run-1") -> None:
    tracker = open_tracker(name, "proj", run_name, directory, CONFIG, directory)
    for step, row in ROWS.items():
        tracker.log(row, step)
    tracker.finish()


# --- tensorboard -------------------------------------------------------------------------------------


@needs("tensorboard")
def test_tensorboard_events_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "seconds/rollout"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    (text,) = events.Tensors("recipe/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "proj / run-1" in shown
    assert "    optim: {'lr': 1e-06}" in shown


@needs("tensorboard")
def test_tensorboard_has_the_panels_of_the_curves(tmp_path: Path) -> None:
    """Its dashboard of custom scalars groups the keys as `curves.png` does; tags are regular expressions there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    write("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert list(charts) == [panel.title for panel in PANELS]
    keys = ["loss", "losses", "eval/avg_at_k", "eval/pass_at_k", "reward", "accuracy", "seconds", "seconds/tools"]
    shown = {title: [key for key in keys if any(re.search(tag, key) for tag in tags)] for title, tags in charts.items()}
    assert shown["loss"] == ["loss"]
    assert shown["reward and accuracy"] == ["eval/avg_at_k", "reward", "accuracy"]
    assert shown["seconds per step"] == ["seconds/tools"]


@needs("tensorboard")
def test_tensorboard_keeps_its_curves_when_killed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code = (
        "import os, sys, pathlib; from sod.report.trackers import open_tracker\n"
        "tracker = open_tracker('tensorboard', 'p', 'r', pathlib.Path(sys.argv[1]), {}, pathlib.Path())\n"
        "tracker.log({'loss': 0.5}, 1); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [0.5]


# --- trackio -----------------------------------------------------------------------------------------


def trackio_rows(directory: Path) -> list[tuple[str, int, dict[str, Any]]]:
    with sqlite3.connect(directory / "trackio" / "proj.db") as db:
        rows = db.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    return [(run, step, json.loads(metrics)) for run, step, metrics in rows]


@needs("trackio")
def test_trackio_rows_read_back_from_sqlite(tmp_path: Path) -> None:
    write("trackio", tmp_path)
    assert trackio_rows(tmp_path) == [("run-1", step, values) for step, values in PASSED_ON.items()]
    with sqlite3.connect(tmp_path / "trackio" / "proj.db") as db:
        (config,) = db.execute("SELECT config FROM configs").fetchone()
    assert json.loads(config)["optim"] == {"lr": 1e-6}
    assert "TRACKIO_DIR" not in os.environ


@needs("trackio")
def test_runs_side_by_side_are_one_project(tmp_path: Path) -> None:
    """Runs whose directories lie in one are in one database, so that the dashboard compares them."""
    for name in ("sft", "distil"):
        tracker = open_tracker("trackio", "proj", name, tmp_path / name / "trackers" / "trackio", CONFIG, tmp_path)
        tracker.log(ROWS[1], 1)
        tracker.finish()
    assert {run for run, _, _ in trackio_rows(tmp_path)} == {"sft", "distil"}
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("proj.db")] == [Path("trackio/proj.db")]


@needs("trackio")
def test_the_users_trackio_directory_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "mine" / "trackio"))
    write("trackio", tmp_path / "run")
    assert {run for run, _, _ in trackio_rows(tmp_path / "mine")} == {"run-1"}
    assert not (tmp_path / "run").exists()
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "mine" / "trackio")


@needs("trackio")
def test_two_places_of_one_process_are_two_databases(tmp_path: Path) -> None:
    write("trackio", tmp_path / "sft", run_name="sft")
    write("trackio", tmp_path / "distil", run_name="distil")
    assert {run for run, _, _ in trackio_rows(tmp_path / "sft")} == {"sft"}
    assert {run for run, _, _ in trackio_rows(tmp_path / "distil")} == {"distil"}


@needs("trackio")
def test_a_resumed_run_goes_on_as_the_same_trackio_run(tmp_path: Path) -> None:
    write("trackio", tmp_path)
    write("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "proj.db") as db:
        assert db.execute("SELECT count(DISTINCT run_id), count(*) FROM metrics").fetchone() == (1, 4)


@needs("trackio")
def test_trackio_opens_no_connection_even_with_a_hub_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    def listen(self: socket.socket, *_: Any) -> None:
        raise AssertionError("a server was opened")

    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "listen", listen)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: refuse(None, a))  # type: ignore[arg-type]
    before = constants.HF_HUB_OFFLINE
    write("trackio", tmp_path)
    assert asked == []
    assert before == constants.HF_HUB_OFFLINE
    assert len(trackio_rows(tmp_path)) == 2


@needs("trackio")
@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID"])
def test_trackio_refuses_to_be_sent_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "me/space")
    with pytest.raises(SodError, match=f"{variable} is set; unset it"):
        open_tracker("trackio", "proj", "run-1", tmp_path, CONFIG, tmp_path)


# --- wandb -------------------------------------------------------------------------------------------


@needs("wandb")
def test_wandb_without_a_login_writes_offline(tmp_path: Path) -> None:
    write("wandb", tmp_path)
    history = wandb_history(tmp_path)
    assert history == PASSED_ON


@needs("wandb")
@pytest.mark.parametrize(
    ("variable", "value", "mode"),
    [
        (None, None, "offline"),
        ("WANDB_API_KEY", "x" * 40, None),
        ("WANDB_IDENTITY_TOKEN_FILE", "/some/token", None),
        ("WANDB_MODE", "online", None),
        ("NETRC", "machine api.wandb.ai login user password x\n", None),
        ("NETRC", "machine elsewhere.org login user password x\n", "offline"),
        ("NETRC", "not a netrc\n", "offline"),
    ],
)
def test_wandb_is_offline_only_without_a_login_and_without_a_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, value: str, mode: str | None
) -> None:
    import wandb

    if variable == "NETRC":
        (tmp_path / "netrc").write_text(value)
        value = str(tmp_path / "netrc")
    if variable is not None:
        monkeypatch.setenv(variable, value)
    seen: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: seen.update(arguments))
    open_tracker("wandb", "proj", "run-1", tmp_path / "run", CONFIG, tmp_path)
    assert seen["mode"] == mode
    assert seen["dir"] == str(tmp_path / "run")
    assert (seen["project"], seen["name"], seen["config"]) == ("proj", "run-1", CONFIG)


@needs("wandb")
def test_a_wandb_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too-short")  # refused on sight, before any connection
    with pytest.raises(SodError, match=r"tracker wandb: .*WANDB_MODE=offline keeps the run local") as info:
        open_tracker("wandb", "proj", "run-1", tmp_path, CONFIG, tmp_path)
    assert "\n" not in str(info.value)


# --- all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: TrackerName) -> None:
    for module in [module for module in sys.modules if module.startswith((name, "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # what import then meets is what a missing package is
    with pytest.raises(SodError, match=rf"pip install 'sod-distill\[{name}\]'") as info:
        open_tracker(name, "proj", "run-1", tmp_path, CONFIG, tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_directory_that_cannot_be_is_one_line(tmp_path: Path, name: TrackerName) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SodError, match=rf"{name} cannot write here") as info:
        open_tracker(name, "proj", "run-1", tmp_path / "file" / "run", CONFIG, tmp_path / "file" / "shared")
    assert "\n" not in str(info.value)


def test_importing_trackers_imports_no_tracker() -> None:
    code = "import sys, sod.report.trackers\n"
    code += "assert not {'wandb', 'trackio', 'tensorboard', 'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
