"""Settings that do nothing are refused in one line, before anything is loaded, with key, reason and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sod.build.data import tell_unmet_sources
from sod.build.idle import idle_in_all, idle_in_sft, idle_keys, refuse_unread, without_idle
from sod.build.method import make_method
from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.compare.cells import method_spec
from sod.compare.study import check_request
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS
from sod.recipe import Recipe, load_recipe, shipped_file, shipped_names
from sod.records import SodError, Task

NOWHERE = {"path": "nowhere"}
CONSTANT = {"schedule": "constant", "start": 1.0}
FUSION = {"url": "http://127.0.0.1:1"}


def recipe(method: Any = "sod", **sections: Any) -> Recipe:
    """A recipe whose files are not there: what is refused is refused without them."""
    needs = make_method(Recipe.model_validate({"student": NOWHERE, "method": method}).method).needs
    teacher = NOWHERE if Need.TEACHER in needs and not needs & SELF_TEACHER else None
    files = {"train": "nowhere.jsonl", "sft": "nowhere.jsonl"}
    return Recipe.model_validate({"student": NOWHERE, "teacher": teacher, "data": files, "method": method, **sections})


def quiet(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


SERVED = {"kind": "vllm", "urls": ["http://127.0.0.1:1"]}
IN_VAIN: dict[str, tuple[Any, dict[str, Any], str]] = {
    # how it is called: method, sections, what the line says
    "servers of no engine": (
        "sod",
        {"engine": {"servers": 2}},
        "engine.servers=2 does nothing here: engine.kind=torch",
    ),
    "servers beside urls": ("sod", {"engine": {**SERVED, "servers": 2}}, "the servers of engine.urls run already"),
    "a file that nobody writes": (
        "sod",
        {"engine": {**SERVED, "push": "nccl", "push_dir": "x"}},
        "nccl writes no f",
    ),
    "chunks of servers": (
        "sod",
        {"engine": SERVED, "rollout": {"decode_chunk": 4}},
        "rollout.decode_chunk=4 does no",
    ),
    "servers of sft": ("sft", {"engine": SERVED}, "engine={kind: vllm} does nothing here: sft plays no ep"),
    "a self-teacher's teacher": ("opsd_gt", {"teacher": NOWHERE}, "teacher.path=nowhere does nothing here: opsd_gt's"),
    "a hinted self-teacher's": ("opsd_hint", {"teacher": NOWHERE}, "teacher is the student itself; set teacher=null"),
    "a teacher of rewards": ("grpo", {"teacher": NOWHERE}, "grpo has no teacher; set teacher=null"),
    "a teacher of demonstrations": ("sft", {"teacher": NOWHERE}, "sft has no teacher; set teacher=null"),
    "evaluations of sft": (
        "sft",
        {"train": {"evaluate_every": 5}},
        "train.evaluate_every=5 does nothing here: sft",
    ),
    "trajectories of sft": ("sft", {"train": {"trajectories_every": 5}}, "train.trajectories_every=5 does nothing"),
    "no trajectories of sft": ("sft", {"train": {"trajectories_every": 0}}, "train.trajectories_every=0 does nothing"),
    "a profile of sft": ("sft", {"train": {"profile": True}}, "train.profile=true does nothing"),
    "mini-batches of sft": ("sft", {"optim": {"mini_batch_prompts": 1}}, "optim.mini_batch_prompts=1 does nothing"),
    "a clip range of sft": ({"name": "sft", "clip_high": 0.3}, {}, "method.clip_high=0.3 does nothing"),
    "a temperature of sft": ("sft", {"rollout": {"temperature": 0.5}}, "rollout.temperature=0.5 does nothing"),
    "copies by another rule": (
        {"name": "opsd_gt", "teacher_rule": "ema", "teacher_every": 3},
        {},
        "method.teacher_every=3 does nothing here: method.teacher_rule is ema, not every",
    ),
    "copies of a frozen teacher": ({"name": "opsd_hint", "teacher_every": 3}, {}, "teacher_rule is frozen, not every"),
    "decay of a frozen teacher": ({"name": "opsd_gt", "teacher_decay": 0.5}, {}, "teacher_rule is frozen, not ema"),
    "a gate without a slope": (
        {"name": "gated_opd", "beta_min": 0.5, "beta_max": 0.5, "gamma": 3.0},
        {},
        "method.gamma=3 does nothing here: method.beta_min and method.beta_max are equal",
    ),
    "beta of a KL": ({"name": "opd", "divergence": {"kind": "reverse_kl", "beta": 0.3}}, {}, "divergence.beta=0.3"),
    "beta of another estimator": (
        {"name": "opd", "alignment": {"kind": "simct", "beta": 0.3}},
        {},
        "method.alignment.beta=0.3 does nothing here: only gold reads it, method.alignment.kind is simct",
    ),
    "unit score of an estimator that is not named": (
        {"name": "opd", "alignment": {"unit_score": "logit"}},
        {},
        "method.alignment.unit_score=logit does nothing here: only simct reads it, method.alignment.kind is not named; "
        "set method.alignment.kind=simct",
    ),
    "clip of a loss over spans": (
        {"name": "opd", "alignment": "simct", "clip_low": 0.1},
        {},
        "a dense divergence has no policy ratio",
    ),
    "whose top of all tokens": (
        {"name": "opd", "divergence": {"kind": "jsd", "chosen_by": "student"}},
        {},
        "method.divergence.chosen_by=student does nothing here: method.divergence.top_k=0",
    ),
    "end of a constant": (
        {"name": "sod", "kappa": {**CONSTANT, "end": 0.0}},
        {},
        "method.kappa.end=0 does nothing here: a constant keeps its start; write method.kappa=1",
    ),
    "steps of a constant": ({"name": "grpo", "rho": {**CONSTANT, "steps": 9}}, {}, "method.rho.steps=9 does nothing"),
    "a way of no length": (
        {"name": "opd", "kappa": {"start": 1, "end": 1, "steps": 9}},
        {},
        "method.kappa.steps=9 does nothing here: the way from 1 to 1 has no length",
    ),
    "no teacher's signal": (
        {"name": "opd", "kappa": 0},
        {},
        "method.kappa=0 does nothing here: nothing is left",
    ),
    "a schedule of nothing": (
        {"name": "opd", "kappa": {**CONSTANT, "start": 0.0}},
        {},
        "nothing is left for opd to learn from",
    ),
    "no reward's signal": ({"name": "grpo", "rho": 0}, {}, "method.rho=0 does nothing here: nothing is left for grpo"),
    "neither signal": ({"name": "sod", "kappa": 0, "rho": 0}, {}, "nothing is left for sod to learn from"),
    "a shut gate": ({"name": "gated_opd", "rho": 0, "beta_max": 0.0}, {}, "nothing is left for gated_opd"),
    "a clip range of one update": (
        {"name": "sod", "clip_low": 0.1},
        {"rollout": {"prompts": 4}, "optim": {"mini_batch_prompts": 4}},
        "method.clip_low=0.1 does nothing here: a step makes one update, at which the policy ratio is 1; set optim",
    ),
    "a clip range of a dense loss": (
        {"name": "opd", "divergence": "jsd", "clip_low": 0.1},
        {"optim": {"mini_batch_prompts": 1}},
        "a dense divergence has no policy ratio",
    ),
    "mini-batches above the batch": (
        "sod",
        {"rollout": {"prompts": 4}, "optim": {"mini_batch_prompts": 5}},
        "optim.mini_batch_prompts=5 does nothing here: a step has 4 groups",
    ),
    "turns before a fault for no teacher": (
        "grpo",
        {"rollout": {"distill_before_fault": True}},
        "rollout.distill_before_fault=true does nothing here: grpo has no teacher",
    ),
    "episodes ahead of a checkpoint a step": (
        "sod",
        {"rollout": {"max_staleness": 1}, "train": {"checkpoint_every": 1}},
        "rollout.max_staleness=1 does nothing here: the step after a checkpoint is played when it is its turn",
    ),
    "episodes ahead of those of a file": (
        "opd",
        {"teacher": {"scores": "s.parquet"}, "rollout": {"max_staleness": 1}},
        "rollout.max_staleness=1 does nothing here: the episodes of teacher.scores are played already",
    ),
    "servers that are to play the episodes of a file": (
        "opd",
        {"teacher": {"scores": "s.parquet"}, "engine": {"kind": "vllm"}},
        "engine={kind: vllm} does nothing here: the episodes of teacher.scores are played already",
    ),
    "no weights by importance where there are none": (
        "sod",
        {"rollout": {"importance": "off"}},
        "rollout.importance=off does nothing here: nothing is weighted without rollout.max_staleness=1",
    ),
    "weights by importance of a dense loss": (
        {"name": "opd", "divergence": "jsd"},
        {"rollout": {"importance": "token"}},
        "rollout.importance=token does nothing here: a dense divergence is not of the token that was sampled",
    ),
    "the window of no limit": (
        "sod",
        {"rollout": {"max_fault_rate": 1.0, "fault_window": 9}},
        "rollout.fault_window=9 does nothing here: rollout.max_fault_rate=1 never stops a run",
    ),
    "seconds of no math": ("sod", {"reward": {"verifier": "choice", "math_seconds": 9}}, "reward.math_seconds=9 does"),
    "workers of no math": ("sod", {"reward": {"verifier": "choice", "workers": 1}}, "reward.workers=1 does nothing"),
    "seconds of no own function": ("sod", {"reward": {"call_seconds": 9}}, "reward.call_seconds=9 does nothing"),
    "dual clip of one update": ({"name": "sod", "dual_clip": 3.0}, {}, "method.dual_clip=3 does nothing here"),
    "a start beyond the last turn": (
        {"name": "tcod_f2b", "start": 4},
        {"rollout": {"max_turns": 4}},
        "method.start=4 does nothing here: the student plays all turns of an episode (rollout.max_turns=4) from the",
    ),
    "a teacher whose turns are never replayed": (
        {"name": "tcod_b2f", "start": 9},
        {"rollout": {"max_turns": 4}},
        "method.start=9 does nothing here: the student plays all turns",
    ),
    "a turn more in the first step already": (
        {"name": "tcod_f2b", "every": 1},
        {"rollout": {"max_turns": 2}},
        "method.every=1 does nothing here: the student plays all turns",
    ),
    "a curriculum of one turn": (
        "tcod_b2f",
        {"rollout": {"max_turns": 1}},
        "method.name=tcod_b2f does nothing here: tcod_b2f is a curriculum of turns, and the student plays all turns",
    ),
    "split of a file": ("sod", {"data": {"train": "a.jsonl", "split": "test"}}, "data.split=test does nothing here"),
}


@pytest.mark.parametrize(("method", "sections", "said"), IN_VAIN.values(), ids=list(IN_VAIN))
def test_refused_before_anything_is_read(method: Any, sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SodError) as caught:
        prepare_train(recipe(method, **sections), tmp_path / "run", False, quiet)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


IN_USE: dict[str, tuple[Any, dict[str, Any]]] = {
    "copies": ({"name": "opsd_gt", "teacher_rule": "every", "teacher_every": 3}, {}),
    "decay": ({"name": "opsd_gt", "teacher_rule": "ema", "teacher_decay": 0.5}, {}),
    "beta": ({"name": "opd", "divergence": {"kind": "jsd", "beta": 0.3}}, {}),
    "chosen_by": ({"name": "opd", "divergence": {"kind": "jsd", "top_k": 4, "chosen_by": "student"}}, {}),
    "a constant": ({"name": "sod", "kappa": CONSTANT}, {}),
    "a constant that says its end": ({"name": "sod", "kappa": {**CONSTANT, "end": 1.0}}, {}),
    "a way": ({"name": "sod", "kappa": {"start": 1, "end": 0, "steps": 9}}, {}),
    "grpo by another name": ({"name": "sod", "kappa": 0}, {}),
    "an open gate": ({"name": "gated_opd", "rho": 0}, {}),
    "clip": ({"name": "sod", "clip_low": 0.1}, {"rollout": {"prompts": 4}, "optim": {"mini_batch_prompts": 2}}),
    "the whole batch": ("sod", {"rollout": {"prompts": 4}, "optim": {"mini_batch_prompts": 4}}),
    "code": ("sod", {"reward": {"by_source": {"apps": "code"}, "code_seconds": 9.0, "math_seconds": 9}}),
    "code of rows with tests": ("sod", {"reward": {"code_seconds": 9.0, "code_memory_mb": 64, "code_check": False}}),
    "what it says anyway": ({"name": "opsd_gt", "teacher_every": 10}, {"data": {"split": "train"}}),
    "split": ("sod", {"data": {"train": "owner/name", "split": "test"}}),
    "window": ("sod", {"rollout": {"max_fault_rate": 0.5, "fault_window": 9}}),
    "a curriculum": (
        {"name": "tcod_f2b", "start": 3, "every": 4},
        {"rollout": {"max_turns": 4}, "train": {"steps": 4}},
    ),
    "two turns one by one": ("tcod_b2f", {"rollout": {"max_turns": 2}, "train": {"steps": 2}}),
    "evaluations": ("sod", {"train": {"steps": 5, "evaluate_every": 5}}),
}


@pytest.mark.parametrize(("method", "sections"), IN_USE.values(), ids=list(IN_USE))
def test_what_does_something_is_left_alone(method: Any, sections: dict[str, Any]) -> None:
    spec = recipe(method, **sections)
    assert idle_keys(spec, make_method(spec.method)) == []


def test_supervised_fine_tuning(tmp_path: Path) -> None:
    """Sections of another command are no mistake; the same key in its own is."""
    assert idle_in_sft(recipe("sod", optim={"mini_batch_prompts": 1}, train={"evaluate_every": 5})) == []
    with pytest.raises(SodError, match=r"sft\.optim\.mini_batch_prompts=1 does nothing here"):
        prepare_sft(recipe(sft={"optim": {"mini_batch_prompts": 1}}), tmp_path / "run", False, quiet)


def test_a_resumed_run_is_told(tmp_path: Path) -> None:
    """It cannot leave out what it was started with."""
    told: list[str] = []
    with pytest.raises(SodError, match="no such data file"):
        prepare_train(recipe({"name": "opsd_gt", "teacher_every": 3}), tmp_path / "run", True, told.append)
    assert [line.partition(" does nothing")[0] for line in told] == ["method.teacher_every=3"]


def test_moving_to_a_service_is_told(tmp_path: Path) -> None:
    """With one override a recipe goes from this machine's sandbox to a service, and back."""
    told: list[str] = []
    with pytest.raises(SodError, match="no such data file"):
        prepare_train(recipe(tools={"python": {"fusion": FUSION, "preload": []}}), tmp_path, False, told.append)
    assert [line.partition(" does nothing")[0] for line in told] == ["tools.python.preload=[]"]


@pytest.mark.parametrize(
    ("method", "train", "said"),
    [
        (
            "sod",
            {"steps": 4, "evaluate_every": 5},
            "train.evaluate_every=5 does nothing here: train.steps=4 comes before",
        ),
        (
            {"name": "tcod_f2b", "every": 9},
            {"steps": 8},
            "method.every=9 does nothing here: train.steps=8 ends before the student plays a turn more; leave it out",
        ),
    ],
)
def test_what_a_longer_run_would_use_is_told(method: Any, train: dict[str, Any], said: str, tmp_path: Path) -> None:
    """With one override a recipe is tried for a few steps, and runs in full length."""
    told: list[str] = []
    with pytest.raises(SodError, match="no such data file"):
        prepare_train(recipe(method, train=train), tmp_path, False, told.append)
    (line,) = told
    assert line.startswith(said)


def test_a_comparison_names_the_method(tmp_path: Path) -> None:
    shared = recipe("sod", rollout={"max_turns": 1}, world={})
    with pytest.raises(SodError, match=r"^method\.name=tcod_f2b does nothing here"):
        check_request(shared, ["sod", "tcod_f2b"], [0])


def test_a_verifier_of_no_task() -> None:
    told: list[str] = []
    tasks = [Task("t", (), "1", source) for source in ("gsm8k", "gsm8k", "math")]
    spec = recipe(reward={"by_source": {"math": "math", "gsm8K": "choice"}})
    tell_unmet_sources(spec, tasks, told.append)
    (line,) = told
    assert "no task has the data_source gsm8K, so that does nothing; the tasks have gsm8k, math" in line


def test_arguments_that_the_template_does_not_read(chat: Chat) -> None:
    told: list[str] = []
    spec = recipe(chat={"template_kwargs": {"enable_thinking": False, "messages": 1}})
    with pytest.raises(SodError, match=r"^chat\.template_kwargs\.enable_thinking: the chat template reads no such"):
        refuse_unread(spec, chat, False, told.append)
    assert told == []
    refuse_unread(spec, chat, True, told.append)
    assert len(told) == 1


class TestCompare:
    """One recipe for many methods: what only some of them do not use is dropped for those."""

    SHARED = recipe(
        {"name": "sod", "clip_high": 0.3},
        train={"trajectories_every": 0, "evaluate_every": 3},
        optim={"mini_batch_prompts": 2},
        world={},
    )

    def test_dropped_for_those_that_do_not_use_it(self) -> None:
        names = [name for name in PRESETS if name != "sft"]
        check_request(self.SHARED, [*names, "sft"], [0])
        for name in PRESETS:
            own = self.SHARED.model_copy(update={"method": method_spec(self.SHARED, name)})
            method = make_method(own.method)
            fitted = without_idle(own, method)
            assert idle_keys(fitted, method) == []
            needs_it = Need.TEACHER in method.needs and not method.needs & SELF_TEACHER
            assert (fitted.teacher == own.teacher) == needs_it
            assert (fitted.train, fitted.optim) == (own.train, own.optim) or name == "sft"

    def test_refused_where_no_method_uses_it(self) -> None:
        with pytest.raises(SodError, match=r"method\.clip_high=0\.3 does nothing here"):
            check_request(self.SHARED.model_copy(update={"optim": recipe().optim}), ["sod", "opd", "start"], [0])
        with pytest.raises(SodError, match=r"train\.evaluate_every=3 does nothing here"):
            check_request(self.SHARED, ["sft", "start"], [0])
        assert idle_in_all(self.SHARED, []) == []


@pytest.mark.parametrize("name", shipped_names())
def test_the_shipped_recipes_set_nothing_in_vain(name: str) -> None:
    spec = load_recipe(shipped_file(name))
    assert idle_keys(spec, make_method(spec.method)) == idle_in_sft(spec) == []


def test_a_recipe_of_servers_can_be_shared_with_a_method_that_plays_nothing() -> None:
    """As `sod compare` shares it: no key of the section is left behind for a run to refuse."""
    shared = recipe("sft", engine=SERVED)
    method = make_method(shared.method)
    assert [idle.key for idle in idle_keys(shared, method)] == ["engine"]
    assert idle_keys(without_idle(shared, method), method) == []
