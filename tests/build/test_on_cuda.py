"""What only a real CUDA device shows of runs on it: skipped where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from card import CPU
from device_runs import GOES_ON, KINDS, MakeRecipe, equal, on_the_cpu, recipe_maker, run, weights
from sod.build.training import prepare_train
from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.dense import dense_terms
from sod.models.score import action_logps, teacher_scores
from sod.objective import ScoreNeed
from sod.objective.divergence import Divergence, divergence
from sod.runlog import RunLog

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def make_recipe(
    tmp_path_factory: Any, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> MakeRecipe:
    """See `recipe_maker`."""
    return recipe_maker(tmp_path_factory.mktemp("devices"), chat, acting_model, random_model, conversations)


class TestOnCuda:
    """What only a real device shows."""

    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        """Runs on CUDA change what PyTorch may do in the whole process."""
        yield
        torch.use_deterministic_algorithms(False)

    @pytest.mark.parametrize("kind", KINDS)
    def test_two_steps(self, kind: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        """Every kind of run moves the weights, and its first step has the CPU's figures, in float32."""
        method, sections = KINDS[kind]
        recipe = make_recipe(method, **sections)
        run(recipe, tmp_path / "cuda")
        moved = weights(tmp_path / "cuda")
        assert all(bool(torch.isfinite(weight).all()) for weight in moved.values())
        assert not equal(moved, load_file(Path(recipe.student.path) / "model.safetensors"))
        run(on_the_cpu(recipe), tmp_path / "cpu")
        (there, *_), (here, *_) = (RunLog.open(tmp_path / name).metrics() for name in ("cuda", "cpu"))
        if recipe.student.dtype == "float32":
            for name in ("loss", "grad_norm", "reward", "action_tokens"):
                assert there.get(name) == pytest.approx(here.get(name), rel=1e-3, abs=1e-5), name

    @pytest.mark.parametrize("kind", GOES_ON)
    def test_a_resumed_run_is_the_uninterrupted_one(self, kind: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        """Bit for bit."""
        method, sections = KINDS[kind]
        recipe = make_recipe(method, **sections)
        run(recipe, tmp_path / "whole")
        run(recipe, tmp_path / "parts", stop_after=1)
        told: list[str] = []
        with closing(prepare_train(recipe, tmp_path / "parts", True, told.append)) as job:
            job.start([])
        assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
        assert not [text for text in told if "the run goes on on" in text]

    def test_a_run_that_goes_on_elsewhere_is_told(self, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        """Begun on CUDA, resumed on the CPU."""
        recipe = make_recipe("sod")
        run(recipe, tmp_path / "run", stop_after=1)
        told: list[str] = []
        with closing(prepare_train(on_the_cpu(recipe), tmp_path / "run", True, told.append)) as job:
            job.start([])
        assert [text for text in told if "written on cuda, and the run goes on on cpu" in text]

    def test_the_engine_samples_the_tokens_of_the_cpu(self, model: Any, chat: Any) -> None:
        """In float32, with and without truncation."""
        requests = [SampleRequest(str(n), [n + 3, 7, 9 + n], 24, noise_key=n) for n in range(6)]
        for sampling in (Sampling(), Sampling(0.7, 0.9, 20), Sampling(0.0)):
            here, there = (
                TorchEngine(copy.deepcopy(model).to(device), chat.stop_ids).generate(requests, sampling)
                for device in ("cpu", "cuda")
            )
            assert [one.token_ids for one in there] == [one.token_ids for one in here]
            for one, other in zip(there, here, strict=True):
                assert one.logps == pytest.approx(other.logps, abs=1e-4)

    def test_scores_are_those_of_the_cpu(self, model: Any, random_batch: Callable[..., Any]) -> None:
        """Log-probabilities, gradients, what a teacher is asked, and dense terms across devices: 1e-4 nats."""
        batch, there = random_batch(rows=6), copy.deepcopy(model).to("cuda")
        jsd = partial(divergence, spec=Divergence(kind="jsd"), temperature=1.0)
        need = ScoreNeed(top1=True, entropy=True, k=3)
        for one, other in (
            (action_logps(there, batch), action_logps(model, batch)),
            *zip(
                dense_terms(there, model, batch, batch, jsd), dense_terms(model, model, batch, batch, jsd), strict=True
            ),
        ):
            assert one.device == CPU
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
        asked, expected = (teacher_scores(one, batch, 100, 1.0, need) for one in (there, model))
        for name in ("logp_BT", "top1_BT", "entropy_BT", "ids_NK", "logps_NK"):
            torch.testing.assert_close(getattr(asked, name), getattr(expected, name), atol=1e-4, rtol=0)
        here = copy.deepcopy(model)
        for one in (there, here):
            action_logps(one, batch).sum().backward()
        for one, other in zip(there.parameters(), here.parameters(), strict=True):
            torch.testing.assert_close(one.grad.cpu(), other.grad, atol=1e-3, rtol=1e-3)
