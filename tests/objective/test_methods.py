"""What holds for every method: no preset without a test file, limits, refusals and what it asks for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objective.enumeration import batch_of, make_world
from sod.objective import (
    PRESETS,
    Divergence,
    Method,
    Schedule,
    Signal,
    TeacherRule,
    TokenBatch,
    advantage,
    constant,
    knobs,
    linear,
    make,
    supervised_batch,
)
from sod.objective.needs import Need
from sod.objective.scores import ScoreNeed, TeacherScores
from support import with_token_columns

TAUGHT = [name for name, preset in PRESETS.items() if Need.TEACHER in preset().needs]
WORLD = make_world(longest=4, turns=3)


def batch(alike: bool = False) -> TokenBatch:
    """Twelve episodes of the tiny world with one to three touching turns, in groups of three."""
    world = make_world(longest=4, turns=3, alike=alike)
    made = batch_of(world, world.episodes[::7][:12])
    return made.filled(group_B=torch.arange(12) // 3)


def signal_of(name: str, batch: TokenBatch, **knobs: Any) -> Signal:
    return advantage(PRESETS[name](**knobs), batch, step=3)


def test_every_preset_has_its_test_file() -> None:
    """A method nobody has proved is not offered: each is made by name in `methods/`."""
    text = "".join(path.read_text() for path in Path(__file__).with_name("methods").glob("test_*.py"))
    assert len(PRESETS) == 16
    assert [name for name in PRESETS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_they_are_called(name: str) -> None:
    method = PRESETS[name]()
    assert method.name == name
    assert method.paper
    assert PRESETS[name].__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_equal_to_the_student_leaves_the_reward(name: str) -> None:
    """Every teacher's term is 0 at every token, in the advantage of the whole batch."""
    same = batch(alike=True)
    method = PRESETS[name]()
    expected_BT = advantage(PRESETS["grpo"](rho=method.rho), same, step=3).advantage_BT
    torch.testing.assert_close(signal_of(name, same).advantage_BT, expected_BT, atol=1e-7, rtol=0, check_dtype=False)


@pytest.mark.parametrize("name", PRESETS)
def test_equal_rewards_leave_the_teacher(name: str) -> None:
    """Exactly, although 0.1 has no exact mean; `grpo` and `sft` then have nothing at all."""
    flat = batch().filled(reward_B=torch.full((12,), 0.1))
    signal = signal_of(name, flat)
    without = {"rho": 0.0} if "rho" in knobs(name) else {}
    assert torch.equal(signal.advantage_BT, signal_of(name, flat, **without).advantage_BT)
    assert (signal.advantage_BT.count_nonzero() == 0) == (name in ("grpo", "sft"))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_order_and_padding_do_not_matter(name: str, seed: int) -> None:
    """Shuffled rows and six more columns of NaN: the same advantage at the same tokens. Without them: its order."""
    whole = batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    moved = padded(whole.rows(order), 6)
    expected, got = signal_of(name, whole), signal_of(name, moved)
    width = moved.token_BT.shape[1] - 6
    torch.testing.assert_close(got.advantage_BT[:, :width], expected.advantage_BT[order][:, :width], atol=1e-12, rtol=0)
    assert got.advantage_BT[:, width:].count_nonzero() == 0
    assert got.advantage_BT[moved.turn_BT == 0].count_nonzero() == 0


def padded(batch: TokenBatch, extra: int) -> TokenBatch:
    """Wider by columns that must not be read."""

    def wider(name: str, column_BT: Tensor) -> Tensor:
        junk = math.nan if column_BT.is_floating_point() else 0
        return torch.nn.functional.pad(column_BT, (0, extra), value=junk)

    return with_token_columns(batch, wider)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "sage"])
def test_a_group_does_not_depend_on_the_others(name: str) -> None:
    """Alone or packed with other groups. SAGE's scale is over the batch: the one exception, shown in its own file."""
    whole = batch()
    together_BT = signal_of(name, whole).advantage_BT
    for group in range(4):
        rows = torch.nonzero(whole.group_B == group).flatten()
        alone_BT = signal_of(name, whole.rows(rows)).advantage_BT
        torch.testing.assert_close(alone_BT, together_BT[rows][:, : alone_BT.shape[1]], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_context_between_turns_does_not_matter(name: str) -> None:
    """Turns that touch have the same advantages as turns with tool output between them."""
    touching = batch()
    apart = spaced(touching)
    one_BT, two_BT = (signal_of(name, b).advantage_BT for b in (touching, apart))
    torch.testing.assert_close(one_BT[touching.turn_BT > 0], two_BT[apart.turn_BT > 0], atol=1e-12, rtol=0)


def spaced(batch: TokenBatch) -> TokenBatch:
    """Every column twice: the first time as context that must not be read."""

    def twice(name: str, column_BT: Tensor) -> Tensor:
        junk = math.nan if column_BT.is_floating_point() else 0
        return torch.stack([torch.full_like(column_BT, junk), column_BT], dim=2).flatten(1)

    return with_token_columns(batch, twice).filled(length_B=batch.length_B * 2)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_dense_divergence_takes_the_teachers_part_over(name: str) -> None:
    """`kappa w_k` becomes its factor, and only the reward term stays in the advantage."""
    whole = batch()
    sampled = signal_of(name, whole)
    method = make(name, {}, divergence=Divergence("jsd"))
    dense = advantage(method, whole, step=3)
    assert sampled.distil_BT is None
    assert dense.distil_BT is not None
    assert dense.weight_BK is not None
    assert whole.scores is not None
    assert whole.scores.teacher is not None
    gap_BT = whole.scores.teacher.logp_BT - whole.scores.old_BT
    torch.testing.assert_close(
        dense.advantage_BT + dense.distil_BT * gap_BT, sampled.advantage_BT, atol=1e-6, rtol=1e-6
    )
    if method.rho.never:
        assert dense.advantage_BT.count_nonzero() == 0
    assert method.level == "full"


def test_what_of_the_teacher_is_needed() -> None:
    """The least that does: nothing, the sampled token, its top-1, its top k, all."""
    levels = {name: PRESETS[name]().level for name in PRESETS}
    assert {name for name, level in levels.items() if level is None} == {"sft", "grpo"}
    assert {name for name, level in levels.items() if level == "top1"} == {"sage"}
    assert {name for name in PRESETS if PRESETS[name]().score_need == ScoreNeed(top1=True)} == {"sage"}
    for spec, level in (
        (Divergence("jsd"), "full"),
        (Divergence("jsd", top_k=8), "topk"),
        (Divergence("jsd", top_k=8, chosen_by="student"), "full"),
    ):
        assert make("opd", {}, divergence=spec).level == level


def test_what_of_the_rewards_is_needed() -> None:
    """Where their coefficient is not 0 for good, or gates the teacher."""
    rewarded = {name for name in PRESETS if Need.REWARD in PRESETS[name]().needs}
    assert rewarded == {*("grpo", "opd_grpo", "gated_opd", "sod", "sod_no_clip", "error_decay", "error_mask", "atod")}
    assert Need.REWARD not in PRESETS["sod"](rho=0.0).needs
    assert {Need.REWARD, Need.GROUP} <= PRESETS["sod"](rho=linear(0.0, 1.0, 5)).needs


@pytest.mark.parametrize("name", PRESETS)
def test_scores_that_are_missing_are_told(name: str) -> None:
    whole = batch()
    with pytest.raises(ValueError, match="old log-probabilities must be scored"):
        signal_of(name, dataclasses.replace(whole, scores=None))
    assert whole.scores is not None
    untaught = whole.scored(whole.scores.old_BT)
    if name in TAUGHT:
        with pytest.raises(ValueError, match=f"{name} needs the teacher"):
            signal_of(name, untaught)
    else:
        assert signal_of(name, untaught).stats is None


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("who", "column"), [("student", "old_BT"), ("teacher", "logp_BT")])
def test_a_bad_log_probability_is_named(name: str, bad: float, who: str, column: str) -> None:
    """Trajectory, turn and position, whichever method looks at it."""
    whole = batch()
    row = next(row for row in range(12) if int(whole.turn_BT[row].max()) > 1)
    position = int(torch.nonzero(whole.turn_BT[row] == 2)[0])

    def broken(known: str, column_BT: Tensor) -> Tensor:
        changed_BT = column_BT.clone()
        if known == column:
            changed_BT[row, position] = bad
        return changed_BT

    with pytest.raises(
        ValueError, match=rf"{who} log-probability is {bad} at trajectory {row}, turn 2, position {position}"
    ):
        signal_of(name, with_token_columns(whole, broken))


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_without_turns_is_refused(name: str) -> None:
    """K = 0: there is nothing to weigh."""
    empty = supervised_batch([([1, 2], [0, 0])])
    zeros_BT = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="no turn in this batch"):
        signal_of(name, empty.scored(zeros_BT, TeacherScores(zeros_BT)))


def test_knobs_and_their_defaults() -> None:
    def defaults(name: str) -> dict[str, Any]:
        return {knob: declared.default for knob, declared in knobs(name).items()}

    assert defaults("sod") == {"kappa": 1.0, "rho": 1.0, "delta": 0.2, "epsilon": 1e-6}
    assert defaults("sft") == {}
    assert defaults("atod") == {"kappa": linear(1.0, 0.1, 80), "rho": linear(1.0, 2.0, 80)}
    with pytest.raises(TypeError, match="delta"):
        make("opd", {"delta": 1.0})
    with pytest.raises(KeyError):
        make("sodd", {})


def test_make_sets_what_goes_with_every_method() -> None:
    """Clip range, loss_aggregation and divergence; the knobs stay the preset's."""
    method = make(
        "sod", {"kappa": 0.5}, clip_low=0.1, clip_high=0.3, loss_aggregation="turn-mean", divergence=Divergence("jsd")
    )
    assert (method.kappa, method.rho) == (constant(0.5), constant(1.0))
    assert (method.clip_low, method.clip_high, method.loss_aggregation) == (0.1, 0.3, "turn-mean")
    schedule = Schedule("cosine", 1.0, 0.0, 7)
    assert make("opd", {"kappa": schedule}).kappa == schedule


class TestTeacherRule:
    """How far a self-teacher moves after a step."""

    @pytest.mark.parametrize(
        ("rule", "pulls"),
        [
            (TeacherRule(), [0.0] * 6),
            (TeacherRule("every", every=3), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
            (TeacherRule("every", every=1), [1.0] * 6),
            (TeacherRule("ema", decay=0.75), [0.25] * 6),
            (TeacherRule("ema", decay=0.0), [1.0] * 6),
        ],
    )
    def test_pull(self, rule: TeacherRule, pulls: list[float]) -> None:
        """Steps 1 to 6; 0 is not at all, 1 a copy."""
        assert [rule.pull(step) for step in range(1, 7)] == pulls

    @pytest.mark.parametrize(
        "make_rule",
        [
            lambda: TeacherRule("every", every=0),
            lambda: TeacherRule("ema", decay=1.0),
            lambda: TeacherRule("ema", decay=-0.1),
            lambda: TeacherRule("ema", decay=math.nan),
        ],
    )
    def test_out_of_range(self, make_rule: Callable[[], TeacherRule]) -> None:
        with pytest.raises(ValueError, match="a teacher follows every n >= 1 steps"):
            make_rule()

    def test_unknown_kind(self) -> None:
        """Not silently a moving average."""
        with pytest.raises(ValueError, match="'sometimes'"):
            PRESETS["opsd_gt"](teacher_rule="sometimes")


def test_method_without_parts_is_nothing() -> None:
    """The defaults of a method of one's own: no teacher, no rewards, zero everywhere."""
    signal = advantage(Method("mine", "-"), batch())
    assert signal.advantage_BT.count_nonzero() == 0
    assert (signal.weight_BK, signal.reward_advantage_B, signal.distil_BT) == (None, None, None)
