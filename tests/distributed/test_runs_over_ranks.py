"""Runs of two ranks whose other parts are elsewhere too: a served student, served teachers, staleness, stored scores.

Each is compared with the same run in one process: the same episodes, by the same versions, and the same weights.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from runs import trained
from safetensors.torch import load_file
from started import finished, start
from torch import Tensor

from engines.vllm_stand_in import StandIn
from scoring_server import ScoringServer
from sod.build.scoring import score_file
from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.models.ranks import ALONE
from sod.recipe import Recipe
from sod.runlog import RunLog
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from support import descendants

pytestmark = pytest.mark.slow

STEPS = 3
ROUNDING = 0.02
"""How far weights may differ by rounding, as a share of their way: Adam's first steps do not care how small a gradient
is.
"""
TASKS = [
    replace(chain.as_task(c, n), data_source=f"s{n % 2}")
    for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])
]
DENSE = {"name": "opd", "divergence": {"kind": "jsd", "top_k": 5}}


@dataclass(frozen=True)
class Place:
    """A student and a teacher on disk, and servers of both. `asked` is how often the teacher was, after all runs of a
    kind.
    """

    path: Path
    student: StandIn
    teacher: ScoringServer
    asked: list[int] = field(default_factory=list)

    def recipe(self, **sections: Any) -> dict[str, Any]:
        """A recipe of short episodes, with these sections changed."""
        content: dict[str, Any] = {
            "student": {"path": str(self.path / "student")},
            "teacher": {"path": str(self.path / "teacher")},
            "chat": {"template": "hermes"},
            "data": {"train": str(self.path / "train.parquet")},
            "tools": {"python": None},
            "rollout": self.rollout(),
            "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
            "method": "sod",
            "optim": {"lr": 1e-3, "micro_batch_tokens": 200},
            "train": {"steps": STEPS, "checkpoint_every": STEPS, "trajectories_every": 1},
        }
        return content | sections

    def rollout(self, **keys: Any) -> dict[str, Any]:
        """Four episodes a step."""
        sizes = {"max_prompt_tokens": 200, "max_turn_tokens": 16, "max_response_tokens": 80}
        return {"prompts": 2, "samples": 2, "max_turns": 1, **sizes, **keys}

    def engine(self) -> dict[str, Any]:
        """The served student."""
        return {"kind": "vllm", "urls": [self.student.url], "push_dir": str(self.path)}

    def served(self, cache: str, **keys: Any) -> dict[str, Any]:
        """The served teacher."""
        return {"url": self.teacher.url, "model": "t", "cache": str(self.path / cache), "seconds": 60.0, **keys}

    def cases(self, kind: str) -> dict[str, dict[str, Any]]:
        """Recipes by name; of runs of this kind, which keep answers apart from others."""
        both = {"here": {"path": str(self.path / "teacher")}, "there": self.served(f"{kind} all", sources=["s1"])}
        stale = self.rollout(max_staleness=1)
        return {
            "served student": self.recipe(engine=self.engine()),
            "served teacher": self.recipe(teacher=self.served(f"{kind} teacher"), method=DENSE),
            "stale": self.recipe(rollout=stale),
            "stale, served student": self.recipe(rollout=stale, engine=self.engine()),
            "all": self.recipe(rollout=stale, engine=self.engine(), teacher=None, teachers=both),
            "stored scores": self.recipe(
                data={}, reward={}, tools={}, teacher={"scores": str(self.path / "scores.parquet")}
            ),
        }


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, chat: Chat, acting_model: Any, random_model: Any, conversations: Any
) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("runs")
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, path / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, path / "teacher")
    write_tasks(path / "train.parquet", TASKS)
    write_conversations(path / "sft.parquet", conversations[:8])
    student = StandIn(load_model(str(path / "student"), "float32"))
    with ScoringServer(load_model(str(path / "teacher"), "float32"), chat.tokenizer) as teacher:
        found = Place(path, student, teacher)
        score_file(
            Recipe.model_validate(found.recipe()), str(path / "sft.parquet"), path / "scores.parquet", None, print
        )
        yield found
    student.close()


@dataclass(frozen=True)
class Ended:
    """A finished run."""

    directory: Path
    told: list[str]

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Of its newest checkpoint."""
        (_, newest) = RunLog.open(self.directory).checkpoints()[-1]
        return load_file(newest / "model" / "model.safetensors")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its metrics."""
        return RunLog.open(self.directory).metrics()

    def episodes(self, step: int) -> list[dict[str, Any]]:
        """The trajectories of a step."""
        return list(RunLog.open(self.directory).trajectories(step))


@pytest.fixture(scope="module")
def one(place: Place) -> dict[str, Ended]:
    """All runs in this process."""
    ended = {}
    for name, content in place.cases("one").items():
        directory = place.path / f"one {name}"
        ended[name] = Ended(directory, trained(content, directory, ALONE))
    place.asked.append(len(place.teacher.asked))
    return ended


@pytest.fixture(scope="module")
def two(one: dict[str, Ended], place: Place) -> dict[str, Ended]:
    """All runs on two ranks, which leave no process behind."""
    listed = [
        (content | {"parallel": {"shards": 2}}, str(place.path / f"two {name}"))
        for name, content in place.cases("two").items()
    ]
    (place.path / "runs.json").write_text(json.dumps(listed))
    before = set(descendants(os.getpid()))
    ended = finished(start([[str(Path(__file__).with_name("runs.py")), str(place.path / "runs.json")]] * 2))
    assert [code for code, _ in ended] == [0, 0], "\n".join(text for _, text in ended)
    assert set(descendants(os.getpid())) <= before
    place.asked.append(len(place.teacher.asked))
    found = {}
    for name, (_, directory) in zip(place.cases("two"), listed, strict=True):
        first, other = json.loads(Path(f"{directory}-told.json").read_text())
        assert other == [], name
        found[name] = Ended(Path(directory), first)
    return found


NAMES = ["served student", "served teacher", "stale", "stale, served student", "all", "stored scores"]
PLAYED = NAMES[:-1]
STALE = ["stale", "stale, served student", "all"]


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The distance between two models."""
    assert ours.keys() == theirs.keys()
    return float(sum((ours[name] - theirs[name]).square().sum() for name in ours)) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_learn_what_one_process_does(
    name: str, one: dict[str, Ended], two: dict[str, Ended], place: Place
) -> None:
    alone, both = one[name], two[name]
    assert both.told == alone.told
    moved = apart(load_file(place.path / "student" / "model.safetensors"), alone.weights)
    assert moved > 0.1
    assert apart(alone.weights, both.weights) < ROUNDING * moved
    assert [row["step"] for row in both.rows] == [1, 2, 3]
    for ours, theirs in zip(alone.rows, both.rows, strict=True):
        for key in ("reward", "faults", "retries", "staleness", "tokens"):
            assert theirs.get(key) == ours.get(key), key
        for key in ("loss", "grad_norm", "mismatch", "importance_weight"):
            assert theirs.get(key, 0.0) == pytest.approx(ours.get(key, 0.0), rel=1e-2, abs=1e-4), key


@pytest.mark.parametrize("name", PLAYED)
def test_two_ranks_play_the_same_episodes_by_the_same_versions(
    name: str, one: dict[str, Ended], two: dict[str, Ended]
) -> None:
    for step in range(1, STEPS + 1):
        for ours, theirs in zip(one[name].episodes(step), two[name].episodes(step), strict=True):
            assert theirs["token_ids"] == ours["token_ids"]
            assert theirs["versions"] == ours["versions"]
            assert theirs["teacher_logps"] == pytest.approx(ours["teacher_logps"], abs=1e-3)


@pytest.mark.parametrize("name", STALE)
def test_a_step_is_played_by_the_version_before(name: str, one: dict[str, Ended], two: dict[str, Ended]) -> None:
    for ended in (one[name], two[name]):
        versions = [{v for row in ended.episodes(step) for v in row["versions"]} for step in range(1, STEPS + 1)]
        assert versions == [{0}, {0}, {1}]
        assert [row["staleness"] for row in ended.rows] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["served student", "stale, served student", "all"])
def test_the_servers_weights_were_the_trainers(name: str, one: dict[str, Ended], two: dict[str, Ended]) -> None:
    """Before the update, those of a stale step against the version that sampled it: `mismatch` is of the other."""
    for ended in (one[name], two[name]):
        fresh = [row["train_inference_gap"] for row in ended.rows if not row.get("staleness")]
        assert fresh
        assert max(fresh) < 1e-4


def test_rank_0_alone_asks_the_served_teacher(two: dict[str, Ended], place: Place) -> None:
    """As often as one process does, its probe included."""
    alone, both = place.asked
    assert both - alone == alone > STEPS * 4
