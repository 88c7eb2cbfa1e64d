"""Weights & Biases, Trackio and TensorBoard behind one small interface.

A tracker is a copy for looking at; the record of a run is its metrics.jsonl. Packages are imported
only when asked for, and everything is written below the directories that are given.
"""

from __future__ import annotations

import math
import netrc
import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, final
from urllib.parse import urlsplit

from sod.recipe import TrackerName
from sod.records import SodError
from sod.report.metrics import PANELS, Panel, drawn_in


class Tracker(Protocol):
    """Where metrics rows are copied to while a run goes on."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Pass on the finite numbers of `row` as the values of `step`; the rest is left out."""
        ...

    def finish(self) -> None:
        """Flush and close. Call it once, at the end."""
        ...


PROJECT = "sod"
"""The project that every run and every evaluation is logged to."""


def open_tracker(
    name: TrackerName, project: str, run_name: str, directory: Path, config: Mapping[str, Any], shared: Path
) -> Tracker:
    """Start a tracker whose files lie below `directory`, a run directory's own, but for those of Trackio.

    Trackio compares the runs of one database: that is in `shared`, the directory that the run directories lie in, or
    where TRACKIO_DIR says. Raises SodError if the package is not installed, or if it cannot write there.
    """
    try:
        if name == "trackio":
            return _Trackio(project, run_name, Path(os.environ.get("TRACKIO_DIR") or shared / "trackio"), config)
        directory.mkdir(parents=True, exist_ok=True)
        if name == "wandb":
            return _Wandb(project, run_name, directory, config)
        return _TensorBoard(project, run_name, directory, config)
    except OSError as error:
        reason = error.strerror or error
        raise SodError(f"{directory}: {name} cannot write here ({reason}); mend that or drop the tracker") from error


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, numpy's included; `step` is passed beside it."""
    return {key: float(value) for key, value in row.items() if key != "step" and _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _require(module: str, extra: TrackerName) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise SodError(
            f"tracker {extra}: the package is missing ({error}); pip install 'sod-distill[{extra}]'"
        ) from error


@final
class _Wandb:
    """Online with credentials, else offline; `WANDB_MODE` decides before either."""

    def __init__(self, project: str, run_name: str, directory: Path, config: Mapping[str, Any]) -> None:
        wandb = _require("wandb", "wandb")
        online = bool(os.environ.get("WANDB_MODE")) or _wandb_credentials()
        try:
            self._run = wandb.init(
                project=project,
                name=run_name,
                dir=str(directory),
                config=dict(config),
                mode=None if online else "offline",  # None: W&B's own choice
                resume="auto",  # a killed run goes on as the same one
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise SodError(f"tracker wandb: {reason}; WANDB_MODE=offline keeps the run local") from error

    def log(self, row: Mapping[str, Any], step: int) -> None:
        self._run.log(_scalars(row), step=step)

    def finish(self) -> None:
        self._run.finish()


def _wandb_credentials() -> bool:
    """Whether W&B would find a login; without one, `wandb.init` stops and asks on the terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    candidates = [os.environ.get("NETRC") or "~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates):
        try:
            if host and netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


@final
class _Trackio:
    """Local only: rows go to `<directory>/<project>.db`; no server, no Space, no account.

    All runs of a directory are one project there, so that its dashboard compares them: `TRACKIO_DIR=<directory> trackio
    show --project <project>`.
    """

    def __init__(self, project: str, run_name: str, directory: Path, config: Mapping[str, Any]) -> None:
        for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID"):
            if os.environ.get(variable):
                raise SodError(
                    f"tracker trackio writes locally, but {variable} is set; "
                    "unset it (`trackio sync` publishes a finished run)"
                )
        trackio = _import_trackio(directory)
        hub: Any = _require("huggingface_hub.constants", "trackio")
        was_offline = hub.HF_HUB_OFFLINE
        hub.HF_HUB_OFFLINE = True  # with a Hub token on this machine, `init` would ask who its owner is
        try:
            self._run = trackio.init(
                project=project,
                name=run_name,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        finally:
            hub.HF_HUB_OFFLINE = was_offline

    def log(self, row: Mapping[str, Any], step: int) -> None:
        self._run.log(_scalars(row), step=step)

    def finish(self) -> None:
        self._run.finish()


def _import_trackio(directory: Path) -> ModuleType:
    """Trackio, writing to `directory`.

    It reads TRACKIO_DIR once, at import, into constants of many modules, so a second run of one
    process (SFT, then distillation) needs a fresh import; the first run's objects keep the old one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = directory.resolve()
    loaded = sys.modules.get("trackio.utils")
    if loaded is not None and wanted != loaded.TRACKIO_DIR:
        for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
            del sys.modules[name]
    before = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = str(wanted)
    try:
        return _require("trackio", "trackio")
    finally:
        if before is None:
            del os.environ["TRACKIO_DIR"]
        else:
            os.environ["TRACKIO_DIR"] = before


def _tags(panel: Panel) -> list[str]:
    """Regular expressions of the keys that a panel shows."""
    return [f"^{re.escape(metric.key)}" + ("" if metric.family else "$") for metric in drawn_in(panel)]


@final
class _TensorBoard:
    """Event files in `<directory>/tensorboard/`. They know no projects and no configs: both become text.

    The dashboard "custom scalars" shows the panels of `curves.png`.
    """

    def __init__(self, project: str, run_name: str, directory: Path, config: Mapping[str, Any]) -> None:
        module = _require("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(log_dir=str(directory / "tensorboard"))
        lines = "\n".join(f"    {key}: {value}" for key, value in config.items())
        self._writer.add_text("recipe", f"{project} / {run_name}\n\n{lines}")
        self._writer.add_custom_scalars({"curves": {panel.title: ["Multiline", _tags(panel)] for panel in PANELS}})

    def log(self, row: Mapping[str, Any], step: int) -> None:
        for key, value in _scalars(row).items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # a killed run keeps its curves

    def finish(self) -> None:
        self._writer.close()
