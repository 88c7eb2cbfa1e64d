"""A run directory, as Python reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from sod.recipe import Recipe, parse_recipe
from sod.records import SodError
from sod.runlog import RunLog


@final
class Run:
    """What a run left in its directory, or has left there so far. Nothing is loaded before it is asked for."""

    def __init__(self, path: str | Path) -> None:
        """Raises SodError where `path` is no run directory."""
        self.path = Path(path)
        self._log = RunLog.open(self.path)

    def __repr__(self) -> str:
        """Its directory and how far it has come."""
        rows = self.metrics
        return f"Run({str(self.path)!r}: step {rows[-1]['step'] if rows else 0}, checkpoints {list(self.checkpoints)})"

    def _repr_png_(self) -> bytes | None:
        """Its curves, which a notebook shows; None before they are drawn."""
        return self._log.curves_path.read_bytes() if self._log.curves_path.exists() else None

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was started with; what Python passed in is there by its name."""
        return parse_recipe(self._log.recipe(), str(self.path / "recipe.yaml"))

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Where it came from: versions, seed, git revision, and the user's code in it by name and hash."""
        return self._log.manifest()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row of figures for each step (docs/metrics.md): `pandas.DataFrame(run.metrics)` is a table."""
        return self._log.metrics()

    def trajectories(self, step: int | None = None) -> list[dict[str, Any]]:
        """The episodes of a step, each a row (docs/recipes.md); of the newest step that has some where none is named.

        Raises SodError where there are none.
        """
        if step is None:
            steps = self._log.trajectory_steps()
            if not steps:
                raise SodError(f"{self.path}: no step has trajectories; train.trajectories_every says which are kept")
            step = steps[-1]
        return self._log.trajectories(step)

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The directory of each checkpoint by its step, oldest first; `model/` in it is what transformers loads."""
        return dict(self._log.checkpoints())

    @property
    def model(self) -> Path:
        """The model directory of the newest good checkpoint. Raises SodError where there is none."""
        from sod.build.job import final_model

        return Path(final_model(str(self.path)))
