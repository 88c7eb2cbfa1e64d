"""One training step: mini-batches, micro-batches, refusals, and that it can be repeated."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import pytest
import torch

from sod.build.method import make_method
from sod.engines.torch_engine import TorchEngine
from sod.models.dense import dense_terms
from sod.models.meter import Meter
from sod.models.score import score
from sod.objective.batch import TokenBatch, pack
from sod.objective.divergence import divergence as dense
from sod.objective.methods import advantage
from sod.objective.needs import Need
from sod.objective.presets import PRESETS
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.recipe import Recipe
from sod.records import Episode, Fault, FaultKind, SodError, Trajectory
from sod.report.metrics import metric_of
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.rollout.prefix import prefix_of
from sod.runlog import trajectory_of
from sod.tasks import chain
from sod.tasks.privileged import privileged_prompt
from sod.teachers.local import LocalTeacher
from sod.training import step as step_module
from sod.training.optim import NonFiniteError, Optimizer
from sod.training.sft import Example, sft_step
from sod.training.step import Run, gather, learn, sampling_of, taught, train_step, updater
from support import math_reward

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]


@pytest.fixture
def make_run(acting_model: Any, random_model: Any, chat: Any, python_tool: Any, tmp_path: Path) -> Callable[..., Run]:
    """`make_run(optim={...}, method=...)`: live objects around copies of the acting student."""

    def make(
        optim: dict[str, Any] | None = None,
        method: Any = "sod",
        rollout: Any = None,
        tool: Any = None,
        expert: Any = None,
        judged: Any = None,
    ) -> Run:
        recipe = Recipe.model_validate(
            {
                "student": {"path": "in memory"},
                "method": method,
                "optim": {"lr": 1e-3, **(optim or {})},
                "rollout": {"prompts": 3, "samples": 2, **(rollout or {})},
            }
        )
        student = copy.deepcopy(acting_model)
        spec = recipe.rollout
        collector = Collector(
            TorchEngine(student, chat.stop_ids),
            chat,
            {"python": tool or python_tool},
            EpisodeLimits(3, 24, 120),
            math_reward(),
            seed=0,
            fault_retries=spec.fault_retries,
            max_fault_rate=spec.max_fault_rate,
        )
        optimizer = Optimizer(student, recipe.optim, 10)
        chosen = make_method(recipe.method)
        if chosen.context is None:
            teacher = LocalTeacher(random_model(seed=8, sharpness=3.0), 256)
        else:
            teacher = LocalTeacher(copy.deepcopy(acting_model), 256)
        run = Run(recipe, TASKS, student, teacher, collector, chosen, optimizer, tmp_path / "dumps", teacher)
        if (context := chosen.context) is not None:
            run.privileged = lambda task: chat.prompt_ids(privileged_prompt(task, context))
        if Need.TEACHER_EPISODES in chosen.needs:
            run.expert = Collector(
                TorchEngine(expert or acting_model, chat.stop_ids),
                chat,
                {"python": python_tool},
                EpisodeLimits(3, 24, 120),
                judged or math_reward(),
                seed=0,
            )
        return run

    return make


def right(episodes: Sequence[Episode], failed: Collection[str] = ()) -> list[Trajectory]:
    """A reward function for the teacher's episodes: right but on the tasks that `failed`."""
    return [replace(e.trajectory, correct=e.task.id not in failed) for e in episodes]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in run.student.state_dict().items()}


def ready(run: Run, batch: TokenBatch) -> TokenBatch:
    """A batch with old and teacher log-probabilities and the advantage of the run's method."""
    assert run.teacher is not None
    batch = batch.scored(score(run.student, batch, 10_000), taught(run.teacher, run.method, batch, batch))
    signal = advantage(run.method, batch)
    return batch.aimed(signal.advantage_BT, signal.distil_BT)


def update(run: Run, batch: TokenBatch, step: int) -> dict[str, float]:
    return updater(run).update(batch, step).figures


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def tensors_of(record: Any) -> dict[str, torch.Tensor]:
    """The tensors of a record and of the teacher's scores in it, by name."""
    found = {known.name: getattr(record, known.name) for known in fields(record)}
    if found.get("teacher") is not None:
        found |= {f"teacher.{name}": value for name, value in tensors_of(found["teacher"]).items()}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def count_steps(run: Run) -> int:
    """Optimizer steps so far, from the moments' own counter."""
    return max(int(state["step"]) for state in run.optimizer.state()["adamw"]["state"].values())


class TestUpdate:
    """From a batch with its advantage to the new weights."""

    @pytest.mark.parametrize(("groups", "steps"), [(1, 3), (2, 2), (3, 1), (None, 1), (8, 1)])
    def test_mini_batches_are_optimizer_steps(
        self, groups: int | None, steps: int, make_run: Any, random_batch: Any
    ) -> None:
        """Three groups make one step for each `mini_batch_prompts` of them."""
        run = make_run({"mini_batch_prompts": groups})
        done = update(run, ready(run, random_batch(6, seed=2)), 1)
        assert done["updates"] == steps == count_steps(run)

    def test_first_mini_batch_is_the_first_groups(self, make_run: Any, random_batch: Any) -> None:
        """One step on the first group and one on the rest equals two updates with those rows by hand."""
        run, by_hand = make_run({"mini_batch_prompts": 2}), make_run()
        batch = ready(run, random_batch(8, seed=2))
        update(run, batch, 1)
        update(by_hand, batch.rows([0, 1, 2, 3]), 1)
        update(by_hand, batch.rows([4, 5, 6, 7]), 1)
        assert distance(weights(run), weights(by_hand)) == 0.0
        assert distance(weights(run), weights(make_run())) > 1e-4

    @pytest.mark.parametrize(
        ("groups", "method"),
        [
            (None, {"name": "sod"}),
            (2, {"name": "sod"}),
            (None, {"name": "sod", "loss_aggregation": "seq-mean-token-mean"}),
            (2, {"name": "sod", "loss_aggregation": "turn-mean"}),
            (2, {"name": "sod", "divergence": "jsd", "loss_aggregation": "turn-mean"}),
            (None, {"name": "sage", "divergence": {"kind": "forward_kl", "top_k": 4}}),
        ],
    )
    def test_micro_batches_do_not_change_the_weights(
        self, groups: int | None, method: dict[str, Any], make_run: Any, random_batch: Any
    ) -> None:
        """One denominator: whatever the token budget, the same weights to 1e-6.

        Adam's first step hides the scale of a gradient, so gradients (in the moments) are compared too. The rate
        is small because Adam makes a whole step of a gradient that is nothing but rounding.
        """
        results = []
        for budget in (1, 40, 10_000):
            optim = {"lr": 1e-5, "micro_batch_tokens": budget, "mini_batch_prompts": groups, "clip_grad": 1e9}
            run = make_run(optim, method)
            batch = ready(run, random_batch(8, seed=4))
            done = update(run, batch, 1)
            moments = [s["exp_avg"].flatten() for s in run.optimizer.state()["adamw"]["state"].values()]
            results.append((done, torch.cat(moments), weights(run)))
        (first, gradient, after), *others = results
        assert float(gradient.abs().max()) > 1e-3
        assert distance(after, weights(make_run())) > 9e-6
        for done, moment, result in others:
            assert done["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
            assert done["loss"] == pytest.approx(first["loss"], abs=1e-6)
            assert float((moment - gradient).abs().max()) < 1e-6
            assert distance(result, after) < 1e-6

    def test_on_policy_loss_is_minus_the_mean_advantage(self, make_run: Any, random_batch: Any) -> None:
        """With one update the ratio is 1: the loss is -mean(A), nothing is clipped and the KL is 0."""
        run = make_run()
        batch = ready(run, random_batch(6, seed=5))
        assert batch.targets is not None
        done = update(run, batch, 1)
        mean = float(batch.targets.advantage_BT.double().sum()) / batch.action_tokens()
        assert done["loss"] == pytest.approx(-mean, rel=1e-4)
        assert done["clip_fraction"] == 0.0
        assert abs(done["kl"]) < 1e-6

    def test_dual_clip_bounds_a_token_that_has_become_likelier_than_it_should(
        self, make_run: Any, random_batch: Any
    ) -> None:
        """Old log-probabilities 2 nats below today's: without it every token pushes e^2 times, with it none does."""
        free, bound = make_run(), make_run(method={"name": "sod", "dual_clip": 3.0})
        batch = ready(free, random_batch(4, seed=5))
        assert batch.scores is not None
        batch = batch.aimed(torch.where(batch.turn_BT > 0, -1.0, 0.0)).scored(batch.scores.old_BT - 2.0)
        plain, dual = update(free, batch, 1), update(bound, batch, 1)
        assert plain["loss"] == pytest.approx(math.exp(2.0), rel=1e-4)
        assert (plain["dual_clip_fraction"], plain["grad_norm"] > 0) == (0.0, True)
        assert dual["loss"] == pytest.approx(3.0)
        assert (dual["dual_clip_fraction"], dual["grad_norm"]) == (pytest.approx(1.0), 0.0)

    def test_gradient_moves_towards_the_advantage(self, make_run: Any, random_batch: Any) -> None:
        """Tokens with a positive advantage become likelier, those with a negative one less likely."""
        run = make_run({"lr": 3e-4})
        batch = ready(run, random_batch(6, seed=6))
        sign_BT = torch.where(torch.arange(6)[:, None] % 2 == 0, 1.0, -1.0).expand(batch.token_BT.shape)
        batch = batch.aimed(sign_BT * (batch.turn_BT > 0))
        assert batch.scores is not None
        update(run, batch, 1)
        moved_BT = score(run.student, batch, 10_000) - batch.scores.old_BT
        assert float((moved_BT * sign_BT).sum()) > 0


class TestOneForward:
    """Old log-probabilities from the update's own forward."""

    @pytest.mark.parametrize(
        "method",
        [
            "grpo",
            {"name": "sod", "divergence": {"kind": "forward_kl", "top_k": 4}, "loss_aggregation": "turn-mean"},
            *(
                pytest.param(method, marks=pytest.mark.slow)
                for method in (
                    *(name for name, make in PRESETS.items() if name not in ("sft", "grpo", "sage")),
                    {"name": "sod", "dual_clip": 3.0},
                    {"name": "opd", "divergence": "jsd"},
                    {"name": "opsd_hint", "divergence": "reverse_kl"},
                )
            ),
        ],
        ids=str,
    )
    def test_equals_a_forward_before_it(self, method: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Gradient, weights, figures, and what is kept of every token, for real episodes in several micro-batches."""
        batch, found = None, []
        for source in ("update", "trainer"):
            monkeypatch.setattr(step_module, "old_logps_source", lambda *_, source=source: source)
            run = make_run({"micro_batch_tokens": 300, "clip_grad": 1e9}, method, {"top_k": 5})
            batch = batch or gather(run, 1).batch.filled(reward_B=torch.tensor([1.0, -1.0, 0.5, 1.0, -1.0, 0.0]))
            assert len(batch.micro_indices(300)) > 1
            learned = learn(run, batch, 1)
            moments = [s["exp_avg"].flatten() for s in run.optimizer.state()["adamw"]["state"].values()]
            found.append((learned, torch.cat(moments), weights(run)))
        (ours, gradient, after), (theirs, expected, others) = found
        assert float(expected.abs().max()) > 1e-4
        assert float((gradient - expected).abs().max()) < 1e-6
        assert distance(after, others) < 1e-4
        assert ours.updates == pytest.approx(theirs.updates, rel=1e-5, abs=1e-6)
        for name in ("scores", "targets"):
            mine, other = tensors_of(getattr(ours.batch, name)), tensors_of(getattr(theirs.batch, name))
            assert list(mine) == list(other)
            for column, value in mine.items():
                torch.testing.assert_close(value, other[column], atol=1e-5, rtol=1e-5)
        assert (ours.signal.weight_BK is None) == (theirs.signal.weight_BK is None)
        if ours.signal.weight_BK is not None:
            torch.testing.assert_close(ours.signal.weight_BK, theirs.signal.weight_BK, atol=1e-5, rtol=1e-5)

    def test_the_ratio_is_one_whatever_the_clip_range(self, make_run: Any) -> None:
        """With hardly any room nothing is clipped, and the loss is minus the mean advantage."""
        run = make_run(method={"name": "opd", "clip_low": 1e-12, "clip_high": 1e-12}, rollout={"top_k": 5})
        learned = learn(run, gather(run, 1).batch, 1)
        assert learned.updates["clip_fraction"] == learned.updates["kl"] == 0.0
        assert learned.updates["grad_norm"] > 1e-3
        mean = float(learned.signal.advantage_BT.double().sum()) / learned.batch.action_tokens()
        assert learned.updates["loss"] == pytest.approx(-mean, rel=1e-4)

    def test_not_with_several_updates(self, make_run: Any, random_batch: Any) -> None:
        run = make_run({"mini_batch_prompts": 1})
        batch = random_batch(4, seed=2).scored(None, old_source="update")
        with pytest.raises(ValueError, match="2 updates need old log-probabilities"):
            update(run, batch, 1)

    def test_rows_without_actions_add_nothing(self, make_run: Any, random_batch: Any) -> None:
        """Not even where a micro-batch has no others."""
        results = []
        for extra in (False, True):
            run = make_run({"micro_batch_tokens": 1}, "opd")
            batch = random_batch(4, seed=7)
            if extra:
                batch = batch.filled(turn_BT=batch.turn_BT.index_fill(0, torch.tensor([1]), 0))
            else:
                batch = batch.rows([0, 2, 3])
            scores = run.teacher.score(batch, (), run.method.score_need)
            results.append(update(run, batch.scored(None, scores, "update"), 1))
        assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-7)

    def test_dump_knows_scores_and_advantage(self, make_run: Any, random_batch: Any) -> None:
        run = make_run(method="grpo")
        batch = random_batch(4, seed=2)
        batch = batch.filled(reward_B=torch.tensor([math.inf, 0.0, 1.0, 0.0])).scored(None, old_source="update")
        before = weights(run)
        with pytest.raises(NonFiniteError, match="gradient norm is nan"):
            update(run, batch, 3)
        assert distance(weights(run), before) == 0.0
        kept = torch.load(run.dumps / "step-000003.pt", weights_only=True)
        torch.testing.assert_close(kept["old_BT"], score(run.student, batch, 10_000), atol=1e-5, rtol=1e-5)
        assert bool(kept["advantage_BT"].isnan().any())


class TestNonFinite:
    """What is not finite stops the run before the weights move, and is kept for whoever looks into it."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_batch_is_dumped_and_named(self, bad: float, make_run: Any, random_batch: Any) -> None:
        """The message names the step and the file, and the file holds the very batch."""
        run = make_run()
        batch = ready(run, random_batch(4, seed=3))
        assert batch.targets is not None
        row, position = (int(i) for i in torch.nonzero(batch.turn_BT > 0)[3])
        batch.targets.advantage_BT[row, position] = bad
        before = weights(run)
        with pytest.raises(NonFiniteError) as caught:
            update(run, batch, 12)
        path = run.dumps / "step-000012.pt"
        assert str(path) in str(caught.value)
        assert "step 12" in str(caught.value)
        assert distance(weights(run), before) == 0.0
        assert not run.optimizer.state()["adamw"]["state"]
        kept = torch.load(path, weights_only=True)
        assert torch.equal(kept["token_BT"], batch.token_BT)
        assert torch.equal(
            kept["advantage_BT"],
            batch.targets.advantage_BT,
        ) or math.isnan(bad)
        assert not math.isfinite(kept["advantage_BT"][row, position])

    @pytest.mark.parametrize("whose", ["student", "teacher"])
    @pytest.mark.parametrize("rollout", [{}, {"top_k": 5}], ids=["engine", "update"])
    def test_nan_weight_ends_in_one_line(self, whose: str, rollout: Any, make_run: Any) -> None:
        """A NaN that appears among the weights during a run is a SodError: a line, not a traceback."""
        run = make_run(rollout=rollout)
        model = run.student if whose == "student" else run.teacher.model
        with torch.no_grad():
            model.get_decoder().norm.weight[0] = math.nan
        before = weights(run)
        with pytest.raises(SodError):
            train_step(run, 1)
        for name, weight in weights(run).items():
            assert torch.equal(weight.nan_to_num(), before[name].nan_to_num())

    def test_every_episode_faulted(self, make_run: Any) -> None:
        """With every fault allowed there is still nothing to train on: a SodError, as `train_step` says."""

        class Down:
            """A tool whose sandbox is gone for good."""

            name = "python"
            keeps_state = False

            def start(self, episodes: Any) -> None:
                """Has nothing to prepare."""

            def run(self, requests: Any) -> list[Fault]:
                return [Fault(FaultKind.SANDBOX, "down")] * len(requests)

            def finish(self, episodes: Any) -> None:
                """Keeps nothing."""

        run = make_run(rollout={"max_fault_rate": 1.0, "prompts": 1, "samples": 1, "fault_retries": 0}, tool=Down())
        before = weights(run)
        for step in range(1, 9):  # an episode without a call cannot fault; one of these has a call
            try:
                train_step(run, step)
            except SodError:
                break
            before = weights(run)
        else:
            pytest.fail("no episode had a call")
        assert distance(weights(run), before) == 0.0


class TestTrainStep:
    """The whole step."""

    def test_an_engine_with_other_weights_is_found_out(self, make_run: Any, random_model: Any) -> None:
        """Its log-probabilities are taken as the old ones in float32, so they are checked before any weight moves."""
        run = make_run()
        run.rollout.engine.sync(random_model(seed=5, sharpness=2.0))
        before = weights(run)
        with pytest.raises(SodError, match=r"step 1: the engine's log-probabilities are .* from the trainer's"):
            train_step(run, 1)
        assert distance(weights(run), before) == 0.0

    @pytest.mark.parametrize(
        ("rollout", "optim", "method", "source"),
        [
            ({}, {}, "sod", "engine"),
            ({"top_k": 5}, {}, "sod", "update"),
            ({"top_p": 0.9}, {"mini_batch_prompts": 3}, "sod", "update"),
            ({"top_k": 5}, {"mini_batch_prompts": 2}, "sod", "trainer"),
            ({"top_k": 5}, {}, "sage", "trainer"),
        ],
    )
    def test_whose_old_logps(self, rollout: Any, optim: Any, method: str, source: str, make_run: Any) -> None:
        """The engine's in float32; under a truncated distribution the trainer's, from a forward of their own only
        where there are several updates or weights look at the whole batch.
        """
        run = make_run(optim, method, rollout)
        run.meter = Meter(on=True)
        gathered = gather(run, 1)
        learned = learn(run, gathered.batch, 1)
        scores = learned.batch.scores
        assert scores is not None
        assert scores.old_source == source
        assert ("old" in run.meter.phases) == (source == "trainer")
        assert run.meter.phases["forward"].tokens == int(learned.batch.length_B.sum())
        assert (learned.updates["train_inference_gap"] < 1e-4) == (source == "engine")
        before = score(make_run().student, gathered.batch, 10_000)
        torch.testing.assert_close(scores.old_BT, before, atol=1e-4, rtol=1e-4)

    def test_repeatable(self, make_run: Any) -> None:
        """Two runs from the same weights give the same metrics (except timings), episodes and weights."""
        runs = [make_run(), make_run()]
        for step in (1, 2):
            one, two = (train_step(run, step) for run in runs)
            timeless = [
                {k: v for k, v in r.metrics.items() if not k.startswith(("seconds", "tokens_per_second"))}
                for r in (one, two)
            ]
            assert timeless[0] == timeless[1]
            assert [t["turns"][0]["text"] for t in one.trajectories] == [
                t["turns"][0]["text"] for t in two.trajectories
            ]
        assert distance(*(weights(run) for run in runs)) == 0.0

    def test_moves_and_samples_with_the_moved_weights(self, make_run: Any) -> None:
        """The step changes the student, and the next rollout is sampled from the changed one."""
        run = make_run({"lr": 1e-2})
        before = weights(run)
        train_step(run, 1)
        assert distance(weights(run), before) > 1e-4
        assert train_step(run, 2).metrics["train_inference_gap"] < 1e-4

    def test_grpo_needs_no_teacher(self, make_run: Any) -> None:
        """Without a teacher there is no gap to report, and the step still runs."""
        run = make_run(method="grpo")
        run.teacher = None
        report = train_step(run, 1)
        assert not {"teacher_gap", "turn_gap_first", "weight", "seconds/teacher"} & set(report.metrics)
        assert all(turn["d_k"] is None and turn["w_k"] is None for t in report.trajectories for turn in t["turns"])

    def test_rows_hold_what_teacher_and_method_made_of_every_token(
        self, make_run: Any, full_logps: Any, chat: Any
    ) -> None:
        """Each row comes back as its trajectory, with the teacher's own scores of it and OPD's advantage from both."""
        run = make_run(method="opd")
        run.tools = chat.tools
        report = train_step(run, 1)
        assert len(report.trajectories) == 6
        prompts = {task.id: task.prompt for task in TASKS}
        for row in report.trajectories:
            played = trajectory_of(json.loads(json.dumps(row)))
            prompt = prompts[played.task_id]
            assert [message["content"] for message in row["prompt"]] == [message.content for message in prompt]
            assert list(row["prompt_ids"]) == chat.prompt_ids(prompt)
            assert row["tools"] == chat.tools
            theirs = full_logps(run.teacher.model, played.token_ids)
            for at, turn in enumerate(played.turn_ids):
                given = (row["teacher_logps"][at], row["advantages"][at])
                if not turn:
                    assert given == (None, None)
                    continue
                assert given[0] == pytest.approx(theirs[at], abs=1e-4)
                assert given[1] == pytest.approx(given[0] - played.sampled_logps[at], abs=1e-4)

    def test_distillation_closes_the_gap(self, make_run: Any) -> None:
        """On-policy distillation does what it is for: 12 steps of OPD bring the student closer to its teacher."""
        run = make_run({"lr": 5e-3}, method="opd")
        gaps = [train_step(run, step).metrics["teacher_gap"] for step in range(1, 13)]
        assert sum(gaps[-3:]) / 3 > sum(gaps[:3]) / 3 + 0.2


@final
class FaultyTeacher:
    """A real teacher in this process that fails for some rows, as one behind a network does."""

    offers = LocalTeacher.offers

    def __init__(self, teacher: LocalTeacher, lost: Sequence[int]) -> None:
        self.teacher = teacher
        self.lost = lost

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        scores = self.teacher.score(batch, episodes, need)
        lost = self.lost if self.lost else range(len(batch))
        faults = {row: Fault(FaultKind.UNREACHABLE, "gone") for row in lost}
        return replace(
            scores, logp_BT=scores.logp_BT.index_fill(0, torch.tensor(list(faults)), math.nan), faults=faults
        )

    def state(self) -> None:
        """Nothing to keep."""

    def load(self, state: Any) -> None:
        """Nothing to restore."""


class TestTeacherFaults:
    """What a teacher could not score is set apart, as an episode whose tool failed is."""

    def test_they_leave_the_batch_and_are_counted(self, make_run: Any) -> None:
        """As if they had not been played: the update is that of the other rows; the log still shows the episodes."""
        run, by_hand = (make_run(rollout={"max_fault_rate": 0.9}) for _ in range(2))
        run.teacher = FaultyTeacher(run.teacher, [1, 4])
        report = train_step(run, 1)
        gathered = gather(by_hand, 1)
        learn(by_hand, gathered.batch.rows([0, 2, 3, 5]), 1)
        assert distance(weights(run), weights(by_hand)) == 0.0
        assert distance(weights(run), weights(make_run())) > 1e-4
        figures = {key: report.metrics[key] for key in ("faults", "faults/unreachable", "distilled_before_fault")}
        assert figures == {"faults": 2.0, "faults/unreachable": 2.0, "distilled_before_fault": 0.0}
        scored = [row["teacher_logps"] is not None for row in report.trajectories]
        assert scored == [True, False, True, True, False, True]

    def test_too_many_stop_the_run(self, make_run: Any) -> None:
        """By the same limit as the tools' faults, before any weight moves."""
        run = make_run(rollout={"max_fault_rate": 0.1, "fault_window": 8})
        run.teacher = FaultyTeacher(run.teacher, [0, 1])
        before = weights(run)
        with pytest.raises(SodError, match=r"2 of the last 6 episodes faulted, more than rollout\.max_fault_rate=0\.1"):
            train_step(run, 1)
        assert distance(weights(run), before) == 0.0

    def test_nothing_scored_at_all(self, make_run: Any) -> None:
        run = make_run(rollout={"max_fault_rate": 1.0})
        run.teacher = FaultyTeacher(run.teacher, [])
        with pytest.raises(SodError, match="the teacher could not score any trajectory: unreachable: gone"):
            train_step(run, 1)


class TestMethods:
    """Every preset with real models, tools and episodes."""

    @pytest.mark.parametrize("name", [name for name in PRESETS if name != "sft"])
    def test_a_step(self, name: str, make_run: Any) -> None:
        """Finite figures; the student moves, unless the method has nothing to say.

        The rewards of so small a student are all equal: `grpo` alone then must not move a weight.
        """
        run = make_run(method=name)
        before = weights(run)
        report = train_step(run, 1)
        assert [key for key, value in report.metrics.items() if not math.isfinite(value)] == []
        assert [key for key in report.metrics if metric_of(key) is None] == []  # the table of metrics has them all
        assert report.metrics["flat_groups"] == 1.0
        assert (report.metrics["kappa"], report.metrics["rho"]) == (run.method.kappa(1), run.method.rho(1))
        assert ("teacher_confidence" in report.metrics) == (name == "sage")
        moved = distance(weights(run), before)
        if name == "grpo":
            assert (moved, report.metrics["grad_norm"], report.metrics["loss"]) == (0.0, 0.0, 0.0)
        else:
            assert moved > 1e-4
            assert report.metrics["grad_norm"] > 1e-3

    def test_a_teacher_that_knows_nothing_more_gives_nothing(self, make_run: Any, chat: Any) -> None:
        """Self-distillation with the student's own prompt: the gap is rounding, and the gradient with it."""
        run = make_run(method="opsd_gt")
        run.privileged = lambda task: chat.prompt_ids(task.prompt)
        metrics = train_step(run, 1).metrics
        assert abs(metrics["teacher_gap"]) < 1e-5
        assert metrics["turn_gap_first"] < 1e-5
        assert metrics["grad_norm"] < 1e-4
        told = train_step(make_run(method="opsd_gt"), 1).metrics
        assert told["turn_gap_first"] > 1e-2

    def test_unequal_rewards_move_grpo(self, make_run: Any, random_batch: Any) -> None:
        """The other side of the zero above."""
        run = make_run(method="grpo")
        batch = random_batch(6, seed=2)
        assert len({tuple(row) for row in batch.reward_B.view(-1, 2).tolist()}) > 1
        before = weights(run)
        assert update(run, ready(run, batch), 1)["grad_norm"] > 1e-3
        assert distance(weights(run), before) > 1e-4

    @pytest.mark.parametrize(
        "divergence",
        [
            "jsd",
            *(
                pytest.param(divergence, marks=pytest.mark.slow)
                for divergence in (
                    "forward_kl",
                    "reverse_kl",
                    {"kind": "jsd", "top_k": 8},
                    {"kind": "forward_kl", "top_k": 8},
                )
            ),
        ],
        ids=str,
    )
    def test_a_dense_divergence_falls(self, divergence: Any, make_run: Any) -> None:
        """Ten steps on the student's own episodes bring the two distributions closer, by the very measure.

        Measured on episodes of the first weights, because what is played changes with the weights.
        """
        run = make_run({"lr": 5e-3}, {"name": "opd", "divergence": divergence}, {"prompts": 2, "temperature": 0.9})
        run.teacher.temperature = 0.9
        probe = pack(run.rollout.collect(TASKS[:4], 2, sampling_of(run.recipe), "probe", 1).groups)
        measure = partial(dense, spec=run.method.divergence)

        def measured() -> float:
            with torch.no_grad():
                _, value_BT = dense_terms(run.student, run.teacher.model, probe, probe, measure, 0.9)
            return float(value_BT.sum()) / probe.action_tokens()

        before = measured()
        losses = [train_step(run, step).metrics["loss"] for step in range(1, 11)]
        assert min(losses) > 0
        assert measured() < 0.8 * before

    def test_a_dense_divergence_reads_the_privileged_prompt(self, make_run: Any, chat: Any) -> None:
        """With the student's own prompt the loss is 0, with the answer in it it is not."""
        losses = {}
        for told in (False, True):
            run = make_run(method={"name": "opsd_hint", "divergence": "forward_kl"})
            if not told:
                run.privileged = lambda task: chat.prompt_ids(task.prompt)
            losses[told] = train_step(run, 1).metrics["loss"]
        assert abs(losses[False]) < 1e-5
        assert losses[True] > 1e-3

    def test_front_to_back_grows_by_a_turn(self, make_run: Any) -> None:
        """One turn at first, two from step 2 on, then as many as the limits allow."""
        run = make_run(method="tcod_f2b")
        most = [max(len(t["turns"]) for t in train_step(run, step).trajectories) for step in (1, 2, 3, 4, 6)]
        assert most == [1, 2, 2, 3, 3]

    def test_back_to_front_starts_after_the_teachers_turns(self, make_run: Any, acting_model: Any) -> None:
        """The student's prompt is the teacher's episode without its last turns; none is left in the end.

        Its own turns are numbered from 1 and nothing of the teacher's counts as sampled.
        """
        run = make_run(method="tcod_b2f", judged=right)
        shown = run.expert.collect(TASKS[:3], 1, sampling_of(run.recipe), "probe", 1)
        assert max(len(group.trajectories[0].turns) for group in shown.groups) == 3
        replayed: dict[int, list[int]] = {}  # turns of the teacher's, by step
        for step, left in ((1, 1), (4, 3)):
            seen: list[Any] = []
            collect = run.rollout.collect

            def noted(*given: Any, seen: list[Any] = seen, collect: Any = collect, **more: Any) -> Any:
                seen.append((given, more["prefixes"], collect(*given, **more)))
                return seen[-1][2]

            run.rollout.collect = noted
            train_step(run, step)
            run.rollout.collect = collect
            ((tasks, *_), prefixes, played) = seen[0]
            again = make_run(method="tcod_b2f").expert.collect(tasks, 1, sampling_of(run.recipe), "expert", step)
            for task, prefix, group, teachers in zip(tasks, prefixes, played.groups, again.groups, strict=True):
                (theirs,) = teachers.trajectories
                assert theirs.task_id == task.id
                assert prefix == prefix_of(theirs, max(0, len(theirs.turns) - left))
                for mine in group.trajectories:
                    start = len(prefix.token_ids)
                    assert mine.token_ids[:start] == prefix.token_ids
                    assert mine.prompt_tokens == start
                    assert set(mine.turn_ids[:start]) == {0}
                    assert mine.turns[0].index == 1
            replayed[step] = [prefix.turns for prefix in prefixes]
        assert max(replayed[1]) == 2
        assert replayed[4] == [0] * 3

    def test_back_to_front_replays_successes_only(self, make_run: Any) -> None:
        """After a failed attempt of the teacher's the student begins at the prompt; both shares are told."""
        failed = {task.id for task in TASKS[::2]}
        run = make_run(method="tcod_b2f", judged=lambda episodes: right(episodes, failed))
        begun: dict[str, int] = {}
        collect = run.rollout.collect

        def noted(tasks: Any, *given: Any, **more: Any) -> Any:
            begun.update({task.id: prefix.turns for task, prefix in zip(tasks, more["prefixes"], strict=True)})
            return collect(tasks, *given, **more)

        run.rollout.collect = noted
        first, second = train_step(run, 1).metrics, train_step(run, 2).metrics  # all six tasks
        assert {task for task, turns in begun.items() if turns} == {task.id for task in TASKS} - failed
        assert first["teacher_accuracy"] + second["teacher_accuracy"] == 1.0
        assert first["replayed"] + second["replayed"] == 1.0
        assert "replayed" not in train_step(make_run(method="opd"), 1).metrics

    def test_back_to_front_without_an_expert(self, make_run: Any) -> None:
        """Told, not skipped."""
        run = make_run(method="tcod_b2f")
        run.expert = None
        with pytest.raises(ValueError, match="needs the teacher's episodes"):
            train_step(run, 1)

    @pytest.mark.parametrize(
        ("rule", "moves"),
        [
            ({}, [0, 0, 0]),
            ({"teacher_rule": "every", "teacher_every": 2}, [0, 1, 1]),
            ({"teacher_rule": "ema", "teacher_decay": 0.5}, [1, 1, 1]),
        ],
    )
    def test_a_self_teacher_follows_its_rule(self, rule: dict[str, Any], moves: list[int], make_run: Any) -> None:
        """Frozen, a copy after every second step, or a float32 average of all students so far."""
        run = make_run(method={"name": "opsd_gt", **rule})
        first = average = [p.detach().clone() for p in run.teacher.model.parameters()]
        for step, moved in zip((1, 2, 3), moves, strict=True):
            train_step(run, step)
            now = [p.detach().clone() for p in run.teacher.model.parameters()]
            students = [p.detach().clone() for p in run.student.parameters()]
            assert any(not torch.equal(a, b) for a, b in zip(now, first, strict=True)) == bool(moved)
            if rule.get("teacher_rule") == "ema":
                average = [0.5 * a + 0.5 * s for a, s in zip(average, students, strict=True)]
                assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(now, average, strict=True))
            elif rule and step == 2:
                assert all(torch.equal(a, b) for a, b in zip(now, students, strict=True))


def test_sft_step(acting_model: Any, chat: Any, conversations: Any) -> None:
    """The loss is the mean negative log-likelihood per assistant token, whatever the micro-batch; it falls."""
    examples = [Example(*chat.encode_conversation(c.messages)) for c in conversations[:8]]
    losses = {}
    for budget in (1, 10_000):
        model = copy.deepcopy(acting_model)
        spec = Recipe.model_validate({"student": {"path": "x"}, "optim": {"lr": 1e-3, "micro_batch_tokens": budget}})
        optimizer = Optimizer(model, spec.optim, 5)
        reports = [sft_step(model, optimizer, examples, 8, spec.optim, seed=0, step=s) for s in range(1, 6)]
        losses[budget] = [report.metrics["loss"] for report in reports]
        assert [key for key in reports[0].metrics if metric_of(key) is None] == []
        assert reports[0].trajectories == []
    total = count = 0.0
    for ids, turns in ((example.token_ids, example.turn_ids) for example in examples):
        with torch.no_grad():
            logp_TV = acting_model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logp_TV[t - 1, token]) for t, (token, k) in enumerate(zip(ids, turns, strict=True)) if k)
        count += sum(1 for k in turns if k)
    assert losses[1][0] == pytest.approx(total / count, rel=1e-5)
    assert losses[1] == pytest.approx(losses[10_000], rel=1e-4)
    assert losses[1][-1] < losses[1][0]
