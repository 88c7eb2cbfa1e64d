"""Runs of two ranks that train an adapter, gone on with by one and by four: the same adapter, merged to the same."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import trained
from safetensors.torch import load_file
from started import finished, start
from torch import Tensor

from sod.build.merging import write_merged
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.ranks import ALONE
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks

pytestmark = pytest.mark.slow

COMMANDS = ("train", "sft")
STEPS, SAVED = 5, 2
TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]


@dataclass(frozen=True)
class Place:
    """Where runs of `content` are."""

    path: Path
    content: Mapping[str, Any]

    def run(self, ranks: int, prefix: str) -> None:
        """Both commands over so many ranks, each in a directory of this prefix: new, or what stands there."""
        runs = [(self.content, str(self.path / f"{prefix}-{command}"), command) for command in COMMANDS]
        if ranks == 1:
            for content, directory, command in runs:
                assert not _failures(trained(content, Path(directory), ALONE, command))
            return
        (self.path / "runs.json").write_text(json.dumps(runs))
        ended = finished(start([[str(Path(__file__).with_name("runs.py")), str(self.path / "runs.json")]] * ranks))
        assert [code for code, _ in ended] == [0] * ranks, "\n".join(text for _, text in ended)
        for _, directory, _ in runs:
            first, *others = json.loads(Path(f"{directory}-told.json").read_text())
            assert not _failures(first)
            assert others == [[]] * (ranks - 1)

    def interrupted(self, prefix: str) -> None:
        """Copies of the runs of two ranks as a kill after step `SAVED` would have left them."""
        for command in COMMANDS:
            run = self.path / f"{prefix}-{command}"
            shutil.copytree(self.path / f"two-{command}", run)
            for step, directory in RunLog.open(run).checkpoints():
                if step > SAVED:
                    shutil.rmtree(directory)

    def adapter(self, name: str) -> dict[str, Tensor]:
        """What was trained, as the newest checkpoint of a run has it."""
        step, newest = RunLog.open(self.path / name).checkpoints()[-1]
        assert step == STEPS
        return load_file(newest / "model" / "adapter_model.safetensors")

    def merged(self, name: str) -> dict[str, Tensor]:
        """The whole model that `sod models merge` makes of a run."""
        directory = self.path / f"{name}-merged"
        write_merged(str(self.path / name), directory, pytest.fail)
        return load_file(directory / "model.safetensors")


def _failures(told: list[str]) -> list[str]:
    return [line for line in told if "Error: " in line]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, chat: Chat, acting_model: Any, random_model: Any, conversations: Any
) -> Place:
    path = tmp_path_factory.mktemp("adapters")
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, path / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, path / "teacher")
    write_tasks(path / "train.parquet", TASKS)
    write_conversations(path / "sft.parquet", conversations[:8])
    optim = {"lr": 1e-3, "micro_batch_tokens": 200}
    content = {
        "student": {"path": str(path / "student"), "lora": {"rank": 2}},
        "teacher": {"path": str(path / "teacher")},
        "chat": {"template": "hermes"},
        "data": {"train": str(path / "train.parquet"), "sft": str(path / "sft.parquet")},
        "tools": {"python": None},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "max_turns": 1,
            "max_prompt_tokens": 200,
            "max_turn_tokens": 16,
            "max_response_tokens": 80,
        },
        "reward": {"overlong_buffer": 70},
        "method": "sod",
        "optim": optim,
        "sft": {"steps": STEPS, "batch_size": 3, "checkpoint_every": 1, "optim": optim},
        "train": {"steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": STEPS},
    }
    made = Place(path, content)
    made.run(2, "two")
    for prefix, ranks in (("one", 1), ("four", 4)):
        made.interrupted(prefix)
        made.run(ranks, prefix)
    return made


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest distance between tensors of the same names."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("ranks", ["one", "four"])
def test_an_adapter_saved_by_two_ranks_is_gone_on_with(ranks: str, command: str, place: Place) -> None:
    whole, resumed = f"two-{command}", f"{ranks}-{command}"
    start = load_file(RunLog.open(place.path / whole).checkpoints()[SAVED - 1][1] / "model/adapter_model.safetensors")
    assert apart(place.adapter(whole), start) > 1e-3
    assert apart(place.adapter(whole), place.adapter(resumed)) < 1e-5
    assert [row["step"] for row in RunLog.open(place.path / resumed).metrics()] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_gone_on_with_merges_to_the_same(command: str, place: Place) -> None:
    before = load_file(place.path / "student" / "model.safetensors")
    models = [place.merged(f"{prefix}-{command}") for prefix in ("two", "one", "four")]
    assert apart(models[0], before) > 1e-4
    assert apart(models[0], models[1]) < 1e-5
    assert apart(models[0], models[2]) < 1e-5
