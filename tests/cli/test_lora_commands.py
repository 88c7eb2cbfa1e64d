"""`student.lora` and `sod models merge` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.models.adapters import is_adapter
from sod.runlog import RunLog

SHORT = ("train.steps=2", "rollout.max_response_tokens=64")
WORLD = (
    *(
        "world.sft=64",
        "world.train=24",
        "world.validation=4",
        "world.test=4",
        "world.longest=3",
        "world.vocab_size=400",
    ),
    *("world.teacher_sft.steps=4", "sft.steps=4", "train.steps=2", "rollout.prompts=2", "rollout.samples=2"),
    *("rollout.max_turns=2", "rollout.max_response_tokens=96", "evaluation.k=1"),
)


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.slow
def test_a_run_with_an_adapter_is_evaluated_merged_and_gone_on_with(
    recipe: Path, tmp_path: Path, world: Any, sod: Any
) -> None:
    """The commands of docs/lora.md, in their order."""
    run, merged = tmp_path / "lora", tmp_path / "merged"
    trained = sod("train", recipe, "student.lora.rank=4", *SHORT, "--run", run)
    assert trained.code == 0, trained.err
    assert "of them trained (LoRA of rank 4)" in " ".join(trained.out.split())
    written = sod("models", "merge", run, "--out", merged)
    assert written.code == 0, written.err
    said = []
    for model in (run, merged):
        out = tmp_path / f"eval-{model.name}"
        ended = sod("eval", model, "--data", world.data("test"), "-k", "2", "--recipe", recipe, "--out", out)
        assert ended.code == 0, ended.err
        rows = (out / "generations.jsonl").read_text(encoding="utf-8").splitlines()
        said.append([json.loads(row)["token_ids"] for row in rows])
    assert said[0] == said[1]
    assert len(said[0]) == 12
    pruned = sod("models", "prune", run, "--layers", "1", "--out", tmp_path / "pruned")
    assert pruned.code == 0, pruned.err
    assert not is_adapter(str(tmp_path / "pruned"))
    again = sod("train", recipe, f"student.path={run}", "student.lora.rank=4", *SHORT, "--run", tmp_path / "again")
    assert again.code == 0, again.err
    kept = json.loads((RunLog.open(tmp_path / "again").checkpoints()[-1][1] / "model/adapter_config.json").read_text())
    assert Path(kept["base_model_name_or_path"]).parts[-4] == "student-sft"
    assert sod("models", "merge", run, "--out", merged).err.startswith(f"error: {merged}: not empty")


@pytest.mark.slow
def test_a_quickstart_with_an_adapter(tmp_path: Path, sod: Any) -> None:
    """The world's models are trained whole, the student then by its adapter."""
    ended = sod("quickstart", "quickstart", *WORLD, "student.lora.rank=8", "--out", tmp_path / "qs")
    assert ended.code == 0, ended.err
    adapters = {
        name: is_adapter(str(RunLog.open(tmp_path / "qs" / name).checkpoints()[-1][1] / "model"))
        for name in ("teacher-sft", "student-sft", "sod")
    }
    assert adapters == {"teacher-sft": False, "student-sft": False, "sod": True}
    assert json.loads((tmp_path / "qs/summary.json").read_text())["sod"]["tasks"] == 4


def test_what_is_refused_is_told_in_one_line(recipe: Path, tmp_path: Path, world: Any, sod: Any) -> None:
    out = tmp_path / "out"
    whole = RunLog.open(world.student).checkpoints()[-1][1] / "model"
    for arguments, told in (
        (("models", "merge", whole, "--out", out), "a whole model without an adapter"),
        (("models", "merge", tmp_path / "gone", "--out", out), "gone"),
        (
            ("train", recipe, "student.lora.targets=[query]", "--run", out),
            "student.lora.targets: 'query' matches nothing",
        ),
        (("train", recipe, "student.lora.rank=0", "--run", out), "student.lora.rank=0"),
        (("train", recipe, "student.lora.rnk=4", "--run", out), "did you mean student.lora.rank"),
        (("eval", world.student, "--data", world.data("test"), "student.lora.rank=4"), "student.lora.rank: `sod eval`"),
    ):
        ended = sod(*arguments)
        assert ended.code == 1
        assert told in ended.err
        assert len(lines(ended.err)) == 1, ended.err
        assert not out.exists() or not any(out.iterdir())
