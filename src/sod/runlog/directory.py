"""One run directory: who may write what into it, and what comes back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from sod.bounded import read_yaml_file
from sod.records import SodError
from sod.runlog.files import (
    append_line,
    one_line,
    plain,
    read_json,
    read_lines,
    read_text,
    write_json_atomic,
    write_lines_atomic,
    write_text_atomic,
    writing,
)
from sod.runlog.guard import guard_hash, recipe_hash
from sod.runlog.manifest import FORMAT, new_manifest
from sod.runlog.trajectories import read_trajectory_rows

STEP_NAME = re.compile(r"step-(\d{6,})")
OLDER_METRIC_KEYS = {
    "d_first": "turn_gap_first",
    "d_last": "turn_gap_last",
    "sampler_gap": "train_inference_gap",
    "seconds/judge": "seconds/reward",
}
"""What runs of format 1 called a metric, and what it is called today."""


@final
@dataclass(frozen=True)
class RunLog:
    """One run directory. Steps are optimizer steps, from 1; step 0 is before the first update."""

    path: Path

    @classmethod
    def create(
        cls, path: Path | str, recipe: Mapping[str, Any], seed: int, code: Sequence[Mapping[str, str]] = ()
    ) -> RunLog:
        """Make `path` a run directory: manifest, with the user's own `code` (see `new_manifest`), and recipe.

        Raises SodError if it already holds a run, or cannot be written.
        """
        cls.refuse_existing(path)
        run = cls(Path(path))
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        run._remove_strays()
        write_json_atomic(run.path / "manifest.json", new_manifest(recipe, seed, code))
        # Last, because its presence is what makes the directory a run.
        text = yaml.safe_dump(plain(recipe, finite=False), sort_keys=False, allow_unicode=True, width=100)
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
        if not cls.is_at(path):
            raise SodError(f"{run.path}: not a run directory (no recipe.yaml); name one that a run has written")
        return run

    @classmethod
    def is_at(cls, path: Path | str) -> bool:
        """Whether `path` is a run directory."""
        return cls(Path(path))._recipe_file.is_file()

    def forget_unbegun(self) -> None:
        """Let the directory be no run any more where no step of it was ever written down; other files stay."""
        if not self._metrics_file.exists() and not self.checkpoints():
            for path in (self._recipe_file, self.path / "manifest.json"):
                path.unlink(missing_ok=True)

    @property
    def profile_path(self) -> Path:
        """Where the time went, if the run was asked to tell."""
        return self.path / "profile.json"

    def write_profile(self, rows: Sequence[Mapping[str, Any]], peaks: Mapping[str, Mapping[str, float]]) -> None:
        """Write `profile.json`: a row per phase, see `models.meter.Meter.rows`, and the peaks that their shares are of.

        Raises SodError.
        """
        write_json_atomic(self.profile_path, {"phases": list(rows), "peaks": peaks})

    def profile(self) -> list[dict[str, Any]]:
        """The rows of `profile.json`; [] where there is none."""
        return list(read_json(self.profile_path)["phases"]) if self.profile_path.exists() else []

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
            recipe = read_yaml_file(self._recipe_file)
        except OSError as error:
            raise SodError(f"{self._recipe_file}: cannot be read: {one_line(error)}") from error
        except ValueError as error:
            raise SodError(f"{self._recipe_file}: not valid YAML: {error}; restore the run's own recipe.yaml") from None
        if not isinstance(recipe, dict):
            raise SodError(f"{self._recipe_file}: not a mapping of recipe keys; restore the run's own recipe.yaml")
        return recipe

    def manifest(self) -> dict[str, Any]:
        """What `create` recorded about the run's origin."""
        return read_json(self.path / "manifest.json")

    def recipe_sha256(self) -> str:
        """The hash that this run's checkpoints carry, from its `recipe.yaml` as the run's own format has it.

        Raises SodError where a later version wrote the run.
        """
        manifest = self.manifest()
        version = manifest.get("format", 1)
        if version == 1:
            return recipe_hash(self.recipe())
        if version == FORMAT:
            neutral = manifest.get("neutral_keys", [])
            if not isinstance(neutral, list) or not all(isinstance(key, str) for key in neutral):
                raise SodError(f"{self.path / 'manifest.json'}: neutral_keys is no list of keys; restore the file")
            return guard_hash(self.recipe(), neutral)
        raise SodError(f"{self.path}: run format {version!r} is of a later version of sod; resume it with that one")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl. `step` is required; `kind` says what it is, "train" if absent.

        NaN and infinities become null. Raises ValueError without an integer step, SodError if the
        row cannot be written: then it may stand there in part, and the next `log` closes it off.
        """
        if not isinstance(row.get("step"), int):
            raise ValueError(f"a metrics row needs an integer step, got {row.get('step')!r}")
        append_line(self._metrics_file, row)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl by step, each with its `kind`; [] before the first.

        A resumed run replays steps, so the last row of each (kind, step) wins. Keys of older runs come back under
        today's names (`OLDER_METRIC_KEYS`). Cut lines are left out with a warning; a line that is no row raises
        SodError.
        """
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        for _, written in self._metrics_rows():
            row = {OLDER_METRIC_KEYS.get(key, key): value for key, value in written.items()}
            row.setdefault("kind", "train")
            latest[row["kind"], row["step"]] = row
        return sorted(latest.values(), key=lambda row: int(row["step"]))

    def rewind(self, step: int) -> None:
        """Make ready to go on after `step`, for the one process that writes here.

        metrics.jsonl loses the rows of later steps, lines that a kill cut short, and all but the last row of each
        (kind, step); every other line stays as it is, and the file is replaced at once. What a kill left of files and
        checkpoints half written is removed. Raises SodError as `metrics` does, and where something cannot be written.
        """
        self._remove_strays()
        if not self._metrics_file.exists():
            return
        written = read_text(self._metrics_file)
        lines = written.split("\n")
        kept: dict[tuple[str, int], str] = {}
        for number, row in self._metrics_rows():
            key = (row.get("kind", "train"), row["step"])
            kept.pop(key, None)  # the row that counts keeps its place
            if row["step"] <= step:
                kept[key] = lines[number - 1]
        text = "".join(line + "\n" for line in kept.values())
        if text != written:
            write_text_atomic(self._metrics_file, text)

    def write_trajectories(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write (or, after a resume, replace) the trajectories of one step."""
        write_lines_atomic(self._trajectories_file(step), rows)

    def trajectories(self, step: int) -> list[dict[str, Any]]:
        """The rows of one step, of either format; see `read_trajectory_rows`. Raises SodError if there are none."""
        path = self._trajectories_file(step)
        if not path.exists():
            held = self.trajectory_steps()
            known = f"steps {held[0]} to {held[-1]} have some" if held else "no step has any"
            raise SodError(f"{path}: no trajectories of step {step}; {known}")
        return read_trajectory_rows(path)

    def trajectory_steps(self) -> list[int]:
        """The steps that have trajectories, in order."""
        return [step for step, _ in _numbered(self.path / "trajectories")]

    def checkpoint_dir(self, step: int) -> Path:
        """Where the checkpoint of `step` goes. The parent exists on return, the directory may not."""
        parent = self.path / "checkpoints"
        with writing(parent):
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
        return read_json(path) if path.exists() else {}

    def _metrics_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, row) of metrics.jsonl as they stand there; nothing before the first. Raises as `metrics`."""
        if not self._metrics_file.exists():
            return
        for number, row in read_lines(self._metrics_file):
            if not isinstance(row.get("step"), int):
                raise SodError(f"{self._metrics_file}:{number}: a row without an integer step; delete the line")
            if not isinstance(row.get("kind", ""), str):
                raise SodError(f"{self._metrics_file}:{number}: kind is no text; delete the line")
            yield number, row

    def _remove_strays(self) -> None:
        """Remove what killed processes left of atomic writes, under the names they have until they are whole."""
        with writing(self.path):
            for directory in (self.path, self.path / "trajectories", self.path / "checkpoints"):
                for stray in directory.glob(".*.tmp"):
                    stray.unlink(missing_ok=True)
                for stray in directory.glob(".*.partial"):
                    shutil.rmtree(stray)

    def _trajectories_file(self, step: int) -> Path:
        return self.path / "trajectories" / f"step-{step:06d}.jsonl"


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of the entries named step-NNNNNN, with or without .jsonl, by step."""
    if not directory.is_dir():
        return []
    matches = ((STEP_NAME.fullmatch(path.name.removesuffix(".jsonl")), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)
