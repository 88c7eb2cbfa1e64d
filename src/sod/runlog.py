"""The run directory, and the only code that reads or writes it.

    recipe.yaml                     the resolved recipe; its presence makes a directory a run directory
    manifest.json                   versions, seed, git revision, argv, start time, recipe sha256
    metrics.jsonl                   one JSON object per line, append-only
    trajectories/step-000001.jsonl  one trajectory per line, see `trajectory_row`
    checkpoints/step-000001/        written by `train.checkpoint`
    summary.json  curves.png        written at the end; profile.json with `train.profile`

A process may be killed between any two instructions: whole files are replaced atomically, and the one
appended file may end in a cut line, which readers leave out and the next writer closes off. A failed
write stops the run with one line (`SodError`) that names the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
import yaml

from sod.records import SodError, Trajectory, Turn

PACKAGES = {"sod": "sod-distill", "torch": "torch", "transformers": "transformers", "numpy": "numpy"}
STEP_NAME = re.compile(r"step-(\d{6,})")


@final
@dataclass(frozen=True)
class RunLog:
    """One run directory. Steps are optimizer steps, from 1; step 0 is before the first update."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, recipe: Mapping[str, Any], seed: int) -> RunLog:
        """Make `path` a run directory: manifest and recipe.

        Raises SodError if it already holds a run, or cannot be written.
        """
        cls.refuse_existing(path)
        run = cls(Path(path))
        with _writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        write_json_atomic(run.path / "manifest.json", _manifest(recipe, seed))
        # Last, because its presence is what makes the directory a run.
        text = yaml.safe_dump(_plain(recipe, finite=False), sort_keys=False, allow_unicode=True, width=100)
        write_text_atomic(run._recipe_file, text)
        return run

    @classmethod
    def refuse_existing(cls, path: Path | str) -> None:
        """Raises SodError if `path` already holds a run: nothing written is ever overwritten."""
        held = cls(Path(path))._recipe_file
        if held.exists():
            raise SodError(
                f"{held}: this directory already holds a run; continue it with --resume or choose another run directory"
            )

    @classmethod
    def open(cls, path: Path | str) -> RunLog:
        """An existing run directory. Raises SodError if `path` is none."""
        run = cls(Path(path))
        if not run._recipe_file.is_file():
            raise SodError(f"{run.path}: not a run directory (no recipe.yaml); name one that a run has written")
        return run

    @property
    def profile_path(self) -> Path:
        """Where the time went, if the run was asked to tell."""
        return self.path / "profile.json"

    def write_profile(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `profile.json`: a row per phase, see `models.meter.Meter.rows`. Raises SodError."""
        write_json_atomic(self.profile_path, {"phases": list(rows)})

    def profile(self) -> list[dict[str, Any]]:
        """The rows of `profile.json`; [] where there is none."""
        return list(_read_json(self.profile_path)["phases"]) if self.profile_path.exists() else []

    @property
    def curves_path(self) -> Path:
        """Where the report draws its curves."""
        return self.path / "curves.png"

    @property
    def _recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, as plain values. Raises SodError if the file is not a YAML mapping."""
        try:
            recipe = yaml.safe_load(_read_text(self._recipe_file))
        except yaml.YAMLError as error:
            raise SodError(f"{self._recipe_file}: not valid YAML: {_one_line(error)}") from error
        if not isinstance(recipe, dict):
            raise SodError(f"{self._recipe_file}: not a mapping of recipe keys; restore the run's own recipe.yaml")
        return recipe

    def manifest(self) -> dict[str, Any]:
        """What `create` recorded about the run's origin."""
        return _read_json(self.path / "manifest.json")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl. `step` is required; `kind` says what it is, "train" if absent.

        NaN and infinities become null. Raises ValueError without an integer step, SodError if the
        row cannot be written: then it may stand there in part, and the next `log` closes it off.
        """
        if not isinstance(row.get("step"), int):
            raise ValueError(f"a metrics row needs an integer step, got {row.get('step')!r}")
        line = _dump(row).encode()
        with _writing(self._metrics_file), open(self._metrics_file, "ab+") as file:
            if file.tell() > 0:  # a kill may have cut the last line
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl by step, each with its `kind`; [] before the first.

        A resumed run replays steps, so the last row of each (kind, step) wins. Cut lines are left
        out with a warning; a line that is no row raises SodError.
        """
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        for number, row in _read_lines(self._metrics_file) if self._metrics_file.exists() else ():
            if not isinstance(row.get("step"), int):
                raise SodError(f"{self._metrics_file}:{number}: a row without an integer step; delete the line")
            row.setdefault("kind", "train")
            latest[row["kind"], row["step"]] = row
        return sorted(latest.values(), key=lambda row: int(row["step"]))

    def write_trajectories(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write (or, after a resume, replace) the trajectories of one step."""
        write_text_atomic(self._trajectories_file(step), "".join(_dump(row) + "\n" for row in rows))

    def trajectories(self, step: int) -> list[dict[str, Any]]:
        """The rows `write_trajectories` wrote. Raises SodError if there are none for this step."""
        path = self._trajectories_file(step)
        if not path.exists():
            held = [step for step, _ in _numbered(self.path / "trajectories")]
            known = f"steps {held[0]} to {held[-1]} have some" if held else "no step has any"
            raise SodError(f"{path}: no trajectories of step {step}; {known}")
        return [row for _, row in _read_lines(path)]

    def checkpoint_dir(self, step: int) -> Path:
        """Where the checkpoint of `step` goes. The parent exists on return, the directory may not."""
        parent = self.path / "checkpoints"
        with _writing(parent):
            parent.mkdir(parents=True, exist_ok=True)
        return parent / f"step-{step:06d}"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, directory) of every checkpoint, oldest first. Names with a suffix are not counted."""
        return [(step, path) for step, path in _numbered(self.path / "checkpoints") if path.is_dir()]

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write (or replace) summary.json."""
        write_json_atomic(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """What `write_summary` wrote; {} while there is none."""
        path = self.path / "summary.json"
        return _read_json(path) if path.exists() else {}

    def _trajectories_file(self, step: int) -> Path:
        return self.path / "trajectories" / f"step-{step:06d}.jsonl"


def trajectory_row(
    trajectory: Trajectory,
    divergence: Sequence[float | None] | None = None,
    weight: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """A trajectory as one JSON-able row, with what the teacher made of each turn.

    `divergence` (d_k, nats) and `weight` (w_k) are aligned with `trajectory.turns`; None where the
    run has none. Token ids stay out: the row is for reading, not for training.
    Raises ValueError if a list is not as long as the turns.
    """
    turns = trajectory.turns
    blank: list[float | None] = [None] * len(turns)
    columns = {"divergence": divergence, "weight": weight}
    for name, column in columns.items():
        if column is not None and len(column) != len(turns):
            raise ValueError(
                f"{trajectory.task_id}#{trajectory.sample}: {len(column)} {name} values for {len(turns)} turns"
            )
    d, w = (blank if column is None else column for column in columns.values())
    fault = trajectory.fault
    return {
        "task_id": trajectory.task_id,
        "sample": trajectory.sample,
        "stop": trajectory.stop.value,
        "reward": trajectory.reward,
        "correct": trajectory.correct,
        "answer": trajectory.answer,
        "verdict": trajectory.verdict,
        "fault": None if fault is None else {"kind": fault.kind, "detail": fault.detail},
        "prompt_tokens": trajectory.prompt_tokens,
        "response_tokens": trajectory.response_tokens,
        "turns": [_turn_row(turn, d[i], w[i]) for i, turn in enumerate(turns)],
    }


def _turn_row(turn: Turn, divergence: float | None, weight: float | None) -> dict[str, Any]:
    return {
        "k": turn.index,
        "n_tokens": turn.stop - turn.start,
        "d_k": divergence,
        "w_k": weight,
        "text": turn.text,
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.calls],
        "results": [{"text": r.text, "error": r.error, "seconds": r.seconds} for r in turn.results],
    }


def write_evaluation(directory: Path, figures: Mapping[str, Any], trajectories: Iterable[Trajectory]) -> None:
    """Write `evaluation.json` (the figures and where they come from) and `generations.jsonl` (every episode)."""
    write_text_atomic(directory / "generations.jsonl", "".join(_dump(trajectory_row(t)) + "\n" for t in trajectories))
    write_json_atomic(directory / "evaluation.json", figures)


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """sha256 (hex) of the recipe as canonical JSON: the order of keys does not matter, values do."""
    canonical = json.dumps(_plain(recipe, finite=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write `obj` as JSON, indented; NaN and infinities become null. See `write_bytes_atomic`."""
    write_text_atomic(path, _dump(obj, indent=2) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8. See `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Create or replace `path`, and its directory: a reader sees the old bytes or the new, never a part.

    Raises SodError if that fails; what was there before still stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with no bytes
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an OSError into the line that names the file and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left on device; free some, then start again or --resume"
        else:
            reason = f"cannot be written ({error.strerror or error}); mend that, then start again or --resume"
        raise SodError(f"{path}: {reason}; nothing already written is lost") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SodError(f"{path}: cannot be read: {_one_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise SodError(f"{path}: not valid JSON ({error}); restore or delete it") from error
    if not isinstance(value, dict):
        raise SodError(f"{path}: not a JSON object; restore or delete it")
    return value


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a JSON-lines file; lines cut by a kill are left out with a warning."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            warnings.warn(f"{path}:{number}: a cut line is left out", stacklevel=2)
            continue
        if not isinstance(row, dict):
            raise SodError(f"{path}:{number}: not a JSON object; delete the line")
        yield number, row


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of the entries named step-NNNNNN, with or without .jsonl, by step."""
    if not directory.is_dir():
        return []
    matches = ((STEP_NAME.fullmatch(path.name.removesuffix(".jsonl")), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _dump(obj: Any, indent: int | None = None) -> str:
    # ASCII only: a line cut inside a character would not even decode.
    return json.dumps(_plain(obj, finite=True), allow_nan=False, indent=indent)


def _plain(value: Any, *, finite: bool) -> Any:
    """`value` in JSON's own types; with `finite`, NaN and infinities become None.

    Raises TypeError for what has no obvious form (a tensor: take `.item()` where it is made).
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, finite=finite) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r:.80}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _manifest(recipe: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Where the run came from. No host name, no user name: a manifest is meant to be shared."""
    revision, dirty = git_state(Path.cwd())
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(sys.argv),
        "seed": seed,
        "recipe_sha256": recipe_hash(recipe),
        "git": {"revision": revision, "dirty": dirty},
        "versions": {"python": sys.version.split()[0]} | {n: _version(p) for n, p in PACKAGES.items()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return None


def git_state(directory: Path) -> tuple[str | None, bool | None]:
    """(revision, whether tracked files differ from it) of the repository around `directory`.

    (None, None) outside git, without git, and before the first commit.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Untracked files do not count: the run directory itself is often one.
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
