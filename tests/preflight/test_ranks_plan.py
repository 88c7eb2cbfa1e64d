"""What is planned of a run over several ranks: the memory of each against a real one, seconds, pushes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distributed.started import environments
from preflight.conftest import PROGRAM
from sod.build.allocation import TUNABLES
from sod.build.recipe import read_recipe
from sod.models.peaks import Peaks
from sod.preflight.estimate import estimated, rank_parts, readable
from sod.preflight.models import Micro
from sod.preflight.parts import SAMPLING, SCORING, UPDATE, Estimate
from sod.preflight.pieces import Spread, cut, spread_of
from sod.preflight.step import least_seconds, push_text, pushed_bytes, step_lines
from sod.recipe import Recipe

WITHIN = 0.15
QWEN = {"family": "qwen3", "layers": 6, "hidden": 256, "ffn": 768}
LLAMA = {"family": "llama", "layers": 4, "hidden": 512, "ffn": 1408, "tied": False}
SMALL = {"family": "qwen3", "layers": 3, "hidden": 32, "ffn": 64}
MakeRecipe = Callable[..., Path]


def read(file: Path, *changes: str) -> Recipe:
    """The recipe as `sod plan` has it."""
    return readable(read_recipe(file, changes, print), False, print)


def bytes_of(estimate: Estimate) -> dict[str, int]:
    return {part.name: part.bytes for part in estimate.parts}


LONG: dict[str, Any] = {"response": 400, "optim": {"micro_batch_tokens": 4096}}
SHAPES: dict[str, dict[str, Any]] = {
    "short answers to one prompt": {"response": 60, "optim": {"micro_batch_tokens": 1024}},
    "recomputed, a teacher's distributions": LONG
    | {
        "optim": {"micro_batch_tokens": 4096, "recompute": True},
        "method": {"name": "opd", "divergence": "jsd"},
    },
    "several micro-batches, half of each row": LONG
    | {"optim": {"micro_batch_tokens": 1024}, "parallel": {"shards": 2, "sequence": 2}},
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_of_each_rank(shape: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Rank 0 has a whole copy, and samples; the other has its pieces, a teacher, and activations."""
    asked = {"student": LLAMA, "teacher": QWEN, "rollout": {"prompts": 1}, "parallel": {"shards": 2}} | SHAPES[shape]
    file = make_recipe(**asked)
    recipe = read(file)
    spread = spread_of(recipe)
    planned = [
        Estimate(tuple(rank_parts(recipe, False, one))).peak("cpu") for one in (spread, replace(spread, first=False))
    ]
    tunables = {"GLIBC_TUNABLES": TUNABLES, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(PROGRAM), str(file), str(tmp_path / "run"), "train"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, env=os.environ | own | tunables, **pipes) for own in environments(2)]
    ended = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended
    for number, (peak, (out, _)) in enumerate(zip(planned, ended, strict=True)):
        measured = int(out.splitlines()[-1].split()[0])
        print(f"rank {number}: {peak.bytes >> 20} MiB in {peak.phase}, measured {measured >> 20}")
        assert measured > 2**27, "too small to tell"
        assert abs(peak.bytes - measured) <= WITHIN * measured, number


@pytest.mark.slow
def test_pieces_get_smaller_and_what_is_whole_does_not(make_recipe: MakeRecipe) -> None:
    """Moments are spread; the teacher is on every rank, a whole copy on the first; rows are dealt out."""
    file = make_recipe(student=SMALL, teacher=SMALL, response=60, optim={"micro_batch_tokens": 1024})
    one, two, four = (
        bytes_of(estimated(read(file, f"parallel.shards={shards}"))) if shards > 1 else bytes_of(estimated(read(file)))
        for shards in (1, 2, 4)
    )
    assert two["rank 0: student: moments in pieces"] == pytest.approx(one["student: moments"] / 2, abs=8)
    assert four["rank 0: student: moments in pieces"] == pytest.approx(one["student: moments"] / 4, abs=8)
    assert four["ranks 1 to 3: student: moments in pieces"] == 3 * four["rank 0: student: moments in pieces"]
    assert two["rank 0: student: whole copy"] == one["student: weights"]
    assert not any("whole copy" in name for name in two if name.startswith("rank 1"))
    assert two["rank 1: teacher: weights"] == two["rank 0: teacher: weights"] == one["teacher: weights"]
    assert not any("engine" in name for name in two if name.startswith("rank 1"))


@pytest.mark.slow
def test_a_team_has_a_part_of_each_row(make_recipe: MakeRecipe) -> None:
    file = make_recipe(student=SMALL, teacher=SMALL, response=400, optim={"micro_batch_tokens": 512})
    kept = {}
    for sequence in (1, 2):
        found = bytes_of(estimated(read(file, "parallel.shards=2", f"parallel.sequence={sequence}")))
        (kept[sequence],) = [size for name, size in found.items() if name.startswith("rank 0: activations")]
    assert 0.4 * kept[1] < kept[2] < 0.8 * kept[1]  # what does not grow with the tokens is kept by both
    assert cut(Micro(3, 101), Spread(4, 2)) == Micro(3, 51)
    assert (Spread(8, 1).rows(20), Spread(8, 4).rows(20)) == (3, 10)


@pytest.mark.slow
def test_seconds_and_pushes(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    file = make_recipe(student=SMALL, teacher=SMALL, response=60)
    rates = {("cpu", "float32"): Peaks(product=1e9, copy=1e9)}
    found = least_seconds(read(file), rates)
    assert list(found) == [SAMPLING, SCORING, UPDATE]
    assert found[UPDATE] == pytest.approx(3 * found[SCORING])  # forward and backward of the same shape
    assert least_seconds(read(file, "optim.recompute=true"), rates)[UPDATE] == pytest.approx(4 * found[SCORING])
    twice = {("cpu", "float32"): Peaks(product=2e9, copy=2e9)}
    assert least_seconds(read(file), twice)[UPDATE] == pytest.approx(found[UPDATE] / 2)
    assert push_text(read(file)) is None
    served = read(file, "engine.kind=vllm", "engine.urls=[http://a:1,http://b:2]")
    assert SAMPLING not in least_seconds(served, rates)
    weights = {part.name: part.bytes for part in estimated(served).parts}["student: weights"]
    assert weights < pushed_bytes(served) < 2 * weights  # tied embeddings go twice
    told, pushed = step_lines(served)
    assert told.startswith("a step takes at least ")
    assert told.endswith("what servers do is not counted")
    assert pushed.endswith("of weights go to each of its 2 servers (engine.push=file)")


@pytest.mark.slow
def test_a_run_that_plays_nothing_samples_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Its episodes are in a file."""
    file = make_recipe(student=SMALL, teacher=SMALL, response=60)
    recipe = read(file)
    assert recipe.teacher is not None
    stored = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"path": None, "scores": str(tmp_path / "scores")})}
    )
    rates = {("cpu", "float32"): Peaks(product=1e9, copy=1e9)}
    assert list(least_seconds(stored, rates)) == [UPDATE]
    assert estimated(recipe).phases == [SAMPLING, SCORING, UPDATE]
    assert estimated(stored).phases == [UPDATE]
