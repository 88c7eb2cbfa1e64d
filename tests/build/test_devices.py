"""Runs whose models are on another device than their batches: on cards that are not there, and on real ones.

`KINDS` are two steps of every kind of run. On `cards()` an operation that mixes devices fails, so that what a real card
would refuse is found without one; the tests marked `gpu` are for what only a real one shows.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from card import CARD, CPU, OTHER_CARD, MixedDevicesError, Places, cards
from device_runs import GOES_ON, KINDS, MakeRecipe, equal, on_the_cpu, recipe_maker, run, told_nothing, weights
from sod.build import devices as build_devices
from sod.build.devices import Devices, find_devices
from sod.build.evaluation import evaluate_model
from sod.build.job import prepare_torch
from sod.engines.base import Sampling
from sod.engines.sampler import draw_tokens
from sod.models import device as device_module
from sod.models.dense import dense_terms
from sod.models.score import action_logps, check_projection
from sod.objective.divergence import Divergence, divergence
from sod.recipe import Recipe
from sod.records import SodError
from sod.teachers.local import LocalTeacher

CARDS = {"auto": CARD, "cuda": CARD, "cuda:0": CARD, "cuda:1": OTHER_CARD, "cpu": CPU}
TWO_CARDS = {"device": "cuda:1"}


@pytest.fixture(scope="module")
def make_recipe(
    tmp_path_factory: Any, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> MakeRecipe:
    """See `recipe_maker`."""
    return recipe_maker(tmp_path_factory.mktemp("devices"), chat, acting_model, random_model, conversations)


@contextmanager
def on_cards(patch: pytest.MonkeyPatch, names: Mapping[str, torch.device] = CARDS) -> Iterator[Places]:
    """The devices that recipes name are cards that are not there."""
    with patch.context() as patched, cards() as places:
        patched.setattr(build_devices, "find_device", lambda name, where: names[name])
        yield places


class TestOnCardsThatAreNotThere:
    """No operation mixes devices, and where a model is changes nothing of what is computed."""

    def same_as_on_the_cpu(self, recipe: Recipe, place: Path, patch: pytest.MonkeyPatch, sft: bool = False) -> None:
        """Crosses to a card and back, and ends with the CPU's weights."""
        with on_cards(patch) as places:
            run(recipe, place / "card", sft=sft)
        assert places.crossings > 0
        run(on_the_cpu(recipe), place / "cpu", sft=sft)
        assert equal(weights(place / "card"), weights(place / "cpu"))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_two_steps(
        self, kind: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method, sections = KINDS[kind]
        self.same_as_on_the_cpu(make_recipe(method, **sections), tmp_path, monkeypatch)

    @pytest.mark.slow
    def test_two_steps_of_supervised_training(
        self, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`sod sft`."""
        self.same_as_on_the_cpu(make_recipe("sod"), tmp_path, monkeypatch, sft=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["sod", "dense", "teacher that plays"])
    def test_student_and_teacher_on_two_cards(
        self, kind: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method, sections = KINDS[kind]
        self.same_as_on_the_cpu(make_recipe(method, **sections, teacher=TWO_CARDS), tmp_path, monkeypatch)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", GOES_ON)
    @pytest.mark.parametrize(("first", "then"), [("card", "card"), ("card", "cpu"), ("cpu", "card")])
    def test_a_run_goes_on_here_or_there(
        self,
        kind: str,
        first: str,
        then: str,
        make_recipe: MakeRecipe,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Stopped after a step on one device and resumed on another, it ends with the weights of one that was not.

        On cards that are computed with on the CPU that is bit for bit.
        """
        method, sections = KINDS[kind]
        recipe = make_recipe(method, **sections)
        for part, resume in ((first, False), (then, True)):
            with on_cards(monkeypatch) if part == "card" else nullcontext():
                chosen = recipe if part == "card" else on_the_cpu(recipe)
                run(chosen, tmp_path / "parts", resume, stop_after=None if resume else 1)
        run(on_the_cpu(recipe), tmp_path / "whole")
        assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))

    @pytest.mark.slow
    def test_an_evaluation(self, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
        """`sod eval`: the same episodes, whatever device the recipe's teacher is said to be on."""
        recipe = make_recipe("sod", teacher={"device": "cuda:7"})
        with on_cards(monkeypatch) as places:
            there = evaluate_model(recipe, str(recipe.data.train), told_nothing)
        assert places.crossings > 0
        here = evaluate_model(on_the_cpu(recipe), str(recipe.data.train), told_nothing)
        assert [one.token_ids for one in there.trajectories] == [one.token_ids for one in here.trajectories]


class TestWhatTheCardsCatch:
    """Each crossing that is left out is an error on them: so none is left out where they are silent."""

    @pytest.mark.parametrize("dense", [False, True], ids=["scored", "dense"])
    def test_a_crossing_that_is_left_out(
        self, dense: bool, model: Any, random_batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ids, targets, places of tokens, results, and the teacher's logits: one after the other stays where it is."""
        batch, jsd = random_batch(rows=2), partial(divergence, spec=Divergence(kind="jsd"), temperature=1.0)

        def loss_and_gradient(forgotten: int | None) -> int:
            """How many times something crossed."""
            with monkeypatch.context() as patch, cards():
                student, teacher = copy.deepcopy(model).to(CARD), copy.deepcopy(model).to(OTHER_CARD)
                for scored in (student, teacher):
                    action_logps(scored, batch)  # a model's first forward proves how rows may be laid out
                count = forget(patch, forgotten)
                values = dense_terms(student, teacher, batch, batch, jsd) if dense else (action_logps(student, batch),)
                sum((value * (batch.turn_BT > 0)).sum() for value in values).backward()  # type: ignore[union-attr]
                return next(count)

        times = loss_and_gradient(None)
        assert times >= 4
        for number in range(times):
            with pytest.raises(MixedDevicesError):
                loss_and_gradient(number)

    @pytest.mark.parametrize("what", ["the sampler's rows", "the ids of a model's proof"])
    def test_an_index_or_ids_made_on_the_cpu(self, what: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """`arange` without its device: where the sampler looks a token's block up, and in `check_projection`."""
        arange = torch.arange
        noise = np.arange(3, dtype=np.uint64)
        with monkeypatch.context() as patch, cards():
            there = copy.deepcopy(model).to(CARD)
            logits_BV = torch.rand(3, 404).to(CARD)

            def act() -> None:
                if what == "the sampler's rows":
                    draw_tokens(logits_BV, Sampling(), noise, noise)
                else:
                    check_projection(there, "here")

            act()
            patch.setattr(torch, "arange", lambda *given, device=None: arange(*given))
            with pytest.raises((MixedDevicesError, SodError), match="several devices"):
                act()

    def test_a_teacher_that_follows(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """From one card to another, as the average of one there would be."""
        with monkeypatch.context() as patch, cards():
            teacher = LocalTeacher(copy.deepcopy(model).to(OTHER_CARD), 1000)
            student = copy.deepcopy(model).to(CARD)
            teacher.follow(student, 0.5)
            teacher.load([torch.zeros_like(weight, device="cpu") for weight in student.parameters()])
            teacher.follow(student, 0.25)
            for mine, theirs in zip(teacher.model.parameters(), model.parameters(), strict=True):
                assert mine.device == OTHER_CARD
                torch.testing.assert_close(mine.cpu(), theirs * 0.25)
            forget(patch, 0)
            with pytest.raises(MixedDevicesError):
                teacher.follow(student, 0.5)


def forget(patch: pytest.MonkeyPatch, forgotten: int | None) -> Iterator[int]:
    """From now on the crossing of this number, counted from 0, does not happen; returns the counter."""
    count = itertools.count()

    def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if tensor.dtype == torch.int32:  # where packed rows begin: only CUDA's own attention reads that on the card
            return device_module.moved(tensor, device)
        return tensor if next(count) == forgotten else device_module.moved(tensor, device)

    for name, module in list(sys.modules.items()):
        if name.startswith("sod.") and module is not device_module and hasattr(module, "moved"):
            patch.setattr(module, "moved", moved)
    return count


class TestAsked:
    """What a recipe may ask for, and what is told of it."""

    @pytest.fixture
    def no_card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine without CUDA, wherever this runs."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.usefixtures("no_card")
    @pytest.mark.parametrize("command", ["train", "sft", "evaluate"])
    def test_cuda_where_there_is_none(self, command: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        """One line, before a model or even the data is read, and no run is left behind."""
        recipe = make_recipe("sod", student={"path": str(tmp_path / "none"), "device": "cuda"})
        commands: Mapping[str, Callable[[], object]] = {
            "train": lambda: run(recipe, tmp_path / "run"),
            "sft": lambda: run(recipe, tmp_path / "run", sft=True),
            "evaluate": lambda: evaluate_model(recipe, "none.parquet", told_nothing),
        }
        with pytest.raises(SodError, match=r"^student\.device: there is no cuda: PyTorch sees the CPU") as refusal:
            commands[command]()
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "run").exists()

    @pytest.mark.usefixtures("no_card")
    def test_two_devices_that_do_not_exist(self, make_recipe: MakeRecipe) -> None:
        """Both keys in one line."""
        recipe = make_recipe("sod", student={"device": "cuda:5"}, teacher={"device": "gpu"})
        with pytest.raises(SodError) as refusal:
            find_devices(recipe, told_nothing)
        said = str(refusal.value)
        assert said.startswith("student.device: there is no cuda:5: ")
        assert "; teacher.device: 'gpu' is no device; " in said
        assert "\n" not in said

    @pytest.mark.parametrize(
        ("student", "teacher", "found"),
        [
            ("auto", "auto", (CARD, CARD)),
            ("cpu", "auto", (CPU, CPU)),
            ("cuda:1", "auto", (OTHER_CARD, OTHER_CARD)),
            ("cuda:1", "cuda", (OTHER_CARD, CARD)),
            ("cpu", "cuda:1", (CPU, OTHER_CARD)),
            ("cuda:1", None, (OTHER_CARD, OTHER_CARD)),
        ],
    )
    def test_a_teacher_is_where_the_student_is_unless_it_is_told(
        self,
        student: str,
        teacher: str | None,
        found: tuple[torch.device, torch.device],
        make_recipe: MakeRecipe,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sections: dict[str, Any] = {"student": {"device": student}}
        recipe = make_recipe("grpo" if teacher is None else "sod", **sections)
        if recipe.teacher is not None:
            recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"device": teacher})})
        with on_cards(monkeypatch):
            assert find_devices(recipe, told_nothing) == Devices(*found)

    @pytest.mark.parametrize(
        ("flags", "student", "teacher", "said"),
        [
            ("flags\t\t: fpu avx2 avx512f", "bfloat16", "float32", "student.dtype = bfloat16: this CPU has no"),
            ("flags\t\t: fpu avx2", "bfloat16", "bfloat16", "student.dtype and teacher.dtype = bfloat16: this CPU"),
            ("flags\t\t: fpu avx2", "float32", "bfloat16", "teacher.dtype = bfloat16: this CPU has no"),
            ("flags\t\t: fpu avx2", "float32", "float32", None),
            ("flags\t\t: fpu avx512f avx512_bf16", "bfloat16", "bfloat16", None),
            ("flags\t\t: fpu amx_bf16 amx_tile", "bfloat16", "bfloat16", None),
            ("Features\t: fp asimd bf16", "bfloat16", "bfloat16", None),
            ("Features\t: fp asimd", "bfloat16", "float32", "student.dtype = bfloat16: this CPU has no"),
            ("", "bfloat16", "bfloat16", None),  # it does not say
        ],
    )
    def test_bfloat16_on_a_cpu_without_it_is_told(
        self,
        flags: str,
        student: str,
        teacher: str,
        said: str | None,
        make_recipe: MakeRecipe,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Once, with the keys that help."""
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
        asked = partial(device_module.without_bfloat16, cpuinfo=tmp_path / "cpuinfo")
        monkeypatch.setattr(build_devices, "without_bfloat16", asked)
        told: list[str] = []
        recipe = make_recipe("sod", student={"dtype": student}, teacher={"dtype": teacher})
        find_devices(on_the_cpu(recipe), told.append)
        assert len(told) == (said is not None)
        if said is not None:
            assert told[0].startswith(said)
            assert f"set {said.split(' = ')[0].split(' and ')[0]}=float32" in told[0]
            assert "\n" not in told[0]

    @pytest.mark.parametrize(
        ("devices", "deterministic", "strict"),
        [
            (("cuda:0", "cpu"), True, True),
            (("cpu", "cuda:0"), True, True),
            (("cuda:0", "cuda:0"), False, False),
            (("cpu", "cpu"), True, False),
        ],
    )
    def test_what_runs_on_cuda_repeats(
        self, devices: tuple[str, str], deterministic: bool, strict: bool, make_recipe: MakeRecipe, monkeypatch: Any
    ) -> None:
        """PyTorch is told so where a model is on CUDA, unless the recipe does not want it; TF32 is off there."""
        asked: list[bool] = []
        precisions: list[str] = []
        monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
        monkeypatch.setattr(torch, "set_float32_matmul_precision", precisions.append)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        recipe = make_recipe("sod").model_copy(update={"deterministic": deterministic})
        prepare_torch(recipe, Devices(*map(torch.device, devices)))
        assert asked == [True] * strict
        assert precisions == ["highest"] * ("cuda:0" in devices)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if strict else None)

    def test_a_resumed_run_keeps_the_random_state_of_its_checkpoint(self, make_recipe: MakeRecipe) -> None:
        """A new one begins with its seed's."""
        recipe, devices = make_recipe("sod"), Devices(CPU, CPU)
        prepare_torch(recipe, devices)
        fresh = torch.get_rng_state()
        torch.rand(3)
        restored = torch.get_rng_state()
        prepare_torch(recipe, devices, resumed=True)
        assert torch.equal(torch.get_rng_state(), restored)
        prepare_torch(recipe, devices)
        assert torch.equal(torch.get_rng_state(), fresh)
