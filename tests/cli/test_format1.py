"""Runs that older versions began and left go on today.

`tests/data/format1-run` has run and checkpoint format 1, `tests/data/format2-run` run and checkpoint format 2.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.build.job import final_model
from sod.chat.content import ContentEncoder
from sod.chat.dialects.base import Piece
from sod.runlog import RunLog, recipe_hash, trajectory_of
from sod.training import checkpoint

DATA = Path(__file__).parents[1] / "data"
FIXTURE = DATA / "format1-run"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to go on with; the paths in its recipe are relative to where it stands."""
    shutil.copytree(FIXTURE, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return Path("run")


@pytest.fixture(params=["format1", "format2"])
def older_run(run: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a run of each format, in the world that they share."""
    if request.param == "format2":
        for name in ("run", "finished"):
            shutil.rmtree(name)
            shutil.copytree(DATA / "format2-run" / name, name)
    return run


def weights(directory: Path) -> torch.Tensor:
    file = checkpoint.model_of(directory) / "model.safetensors"
    return torch.cat([weight.flatten() for _, weight in sorted(load_file(file).items())])


def all_as_frame(encoder: ContentEncoder, pieces: Sequence[Piece]) -> list[int]:
    """Ids as older versions made them: of content and frame as one text."""
    return encoder.encode_apart([Piece(piece.text, frame=True) for piece in pieces])


def test_it_ends_as_if_nobody_had_killed_it(older_run: Path, sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 3 and 4 are taken under today's code: the same figures and weights, up to another machine's rounding.

    But for one thing: its tool errors quote marks (`</tool_call> without <tool_call>`), which were control tokens then.
    """
    monkeypatch.setattr(ContentEncoder, "encode", all_as_frame)
    run = older_run
    before = weights(run / "checkpoints" / "step-000002")
    ended = sod("train", "--resume", run)
    assert ended.code == 0, ended.err
    log = RunLog.open(run)
    rows = log.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    reference = [json.loads(line) for line in Path("finished", "metrics.jsonl").read_text().splitlines()]
    older = {"turn_gap_first": "d_first", "turn_gap_last": "d_last"} if "d_first" in reference[0] else {}
    compared = ("reward", "turns", "action_tokens", "teacher_gap", "weight", "loss", "grad_norm", "lr", *older)
    for row, expected in zip(rows, reference, strict=True):
        for key in compared:
            assert row[key] == pytest.approx(expected[older.get(key, key)], rel=1e-3, abs=1e-4), (row["step"], key)
    after, wanted = weights(run / "checkpoints" / "step-000004"), weights(Path("finished"))
    assert float((wanted - before).abs().mean()) > 1e-4
    assert float((after - wanted).abs().mean()) < 1e-5


def test_its_checkpoint_is_a_model_to_name(older_run: Path, sod: Any) -> None:
    """The run and its checkpoint, whose model lies beside `trainer.pt`; cut short it is told, and nothing is left."""
    older = older_run / "checkpoints" / "step-000002"
    for path in (older_run, older):
        assert final_model(str(path), pytest.fail) == str(older)
    (older / "model.safetensors").write_bytes(b"cut")
    ended = sod("train", "--resume", older_run)
    assert ended.code == 1
    assert "no good checkpoint is left (step-000002: model.safetensors has 3 bytes instead of 33824)" in ended.err


def test_it_stays_a_run_of_format_1(run: Path, sod: Any) -> None:
    """New checkpoints carry the hash that format 1 gave them, so it can be resumed again; episodes are told anew."""
    assert sod("train", "--resume", run).code == 0
    log = RunLog.open(run)
    assert "format" not in log.manifest()
    (_, newest) = log.checkpoints()[-1]
    state = torch.load(newest / checkpoint.TRAINER, weights_only=True)
    assert state["recipe_hash"] == log.manifest()["recipe_sha256"] == recipe_hash(log.recipe()) == log.recipe_sha256()
    assert [{row["format"] for row in log.trajectories(step)} for step in (1, 2, 3, 4)] == [{1}, {1}, {2}, {2}]
    for row in log.trajectories(4):
        assert trajectory_of(row).turns
        assert row["truths"]
    again = sod("train", "--resume", run)
    assert (again.code, [row["step"] for row in log.metrics()]) == (0, [1, 2, 3, 4])


def test_neutral_keys_may_change(run: Path, sod: Any) -> None:
    """They were part of format 1's hash, and still are; that does not tie a resume to them."""
    changes = ("train.checkpoint_every=1", "train.keep_checkpoints=9", "train.trajectories_every=0", "name=other")
    ended = sod("train", "--resume", run, *changes)
    assert ended.code == 0, ended.err
    assert [step for step, _ in RunLog.open(run).checkpoints()] == [2, 3, 4]
    assert not (run / "trajectories" / "step-000004.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optim.lr=0.5", ("optim.lr is 0.001 there and 0.5 here",)),
        ("rollout.decode_chunk=3", ("rollout.decode_chunk is 16 there and 3 here",)),
    ],
)
def test_what_computes_may_not(change: str, named: tuple[str, ...], run: Path, sod: Any) -> None:
    """A key that format 1 called otherwise is told under today's name."""
    before = (run / "metrics.jsonl").read_bytes()
    ended = sod("train", "--resume", run, change)
    assert ended.code == 1
    lines = ended.err.strip().splitlines()
    assert lines[-1].startswith("error: run: was started with another recipe: ")
    for name in named:
        assert name in lines[-1]
    assert (run / "metrics.jsonl").read_bytes() == before


def test_an_edited_recipe_no_longer_fits_its_checkpoints(run: Path, sod: Any) -> None:
    """Even where the edit is of a key that is neutral today: format 1 hashed all of them."""
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("name: format1", "name: format2", 1))
    ended = sod("train", "--resume", run)
    assert ended.code == 1
    assert "step-000002: this checkpoint was written under another recipe" in ended.err
