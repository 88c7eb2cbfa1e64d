"""AdamW with float32 masters: against a hand-written AdamW, and against what bfloat16 alone would lose."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sod.recipe import OptimSpec
from sod.training.optim import NonFiniteError, Optimizer, learning_rate


def layer(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Linear:
    """A small random linear layer."""
    made = nn.Linear(5, 3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return made.to(dtype)


def gradients(model: nn.Module, step: int, scale: float = 1.0) -> list[torch.Tensor]:
    """Seeded gradients, also set on the model."""
    generator = torch.Generator().manual_seed(100 + step)
    made = [torch.randn(w.shape, generator=generator) * scale for w in model.parameters()]
    for weight, grad in zip(model.parameters(), made, strict=True):
        weight.grad = grad.to(weight.dtype, copy=True)  # clipping works in place
    return made


def values(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def take_step(optimizer: Optimizer, step: int) -> Any:
    optimizer.accumulate()
    return optimizer.step(step)


class TestLearningRate:
    """The schedule at every step, worked out again."""

    @pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
    def test_warm_up_is_a_straight_line(self, schedule: Any) -> None:
        """Step s of w warm-up steps has s/w of the rate, whatever follows."""
        spec = OptimSpec(lr=0.4, warmup_steps=4, schedule=schedule)
        assert [learning_rate(spec, s, 10) for s in range(1, 5)] == pytest.approx([0.1, 0.2, 0.3, 0.4])

    def test_constant(self) -> None:
        """Full from the first step after the warm-up to the last."""
        spec = OptimSpec(lr=0.4, warmup_steps=2)
        assert [learning_rate(spec, s, 10) for s in range(3, 11)] == [0.4] * 8
        assert learning_rate(OptimSpec(lr=0.4), 1, 10) == 0.4

    def test_linear(self) -> None:
        """Equal decrements; the last step still has one of them."""
        spec = OptimSpec(lr=0.8, warmup_steps=2, schedule="linear")
        assert [learning_rate(spec, s, 6) for s in range(3, 7)] == pytest.approx([0.8, 0.6, 0.4, 0.2])

    def test_cosine(self) -> None:
        """Half a cosine: 1, then symmetric about 1/2 in the middle, and never 0 at a step that counts."""
        spec = OptimSpec(lr=1.0, schedule="cosine")
        rates = [learning_rate(spec, s, 4) for s in range(1, 5)]
        root = math.sqrt(0.5)
        assert rates == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2])

    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_warm_up_that_fills_the_run(self, schedule: Any) -> None:
        """A run no longer than its warm-up never divides by zero."""
        spec = OptimSpec(lr=1.0, warmup_steps=5, schedule=schedule)
        rates = [learning_rate(spec, s, 5) for s in range(1, 6)]
        assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert learning_rate(spec, 3, 3) == pytest.approx(0.6)

    def test_step_uses_it(self) -> None:
        """The reported rate is that of the step, and the applied one: Adam's first update is lr in size."""
        model = layer()
        optimizer = Optimizer(model, OptimSpec(lr=0.1, warmup_steps=10, clip_grad=1e9), 100)
        before = values(model)
        gradients(model, 1)
        assert take_step(optimizer, 3).lr == pytest.approx(0.03)
        for old, new in zip(before, values(model), strict=True):
            assert (new - old).abs() == pytest.approx(torch.full_like(old, 0.03), rel=1e-3)


class TestAdamW:
    """The update rule."""

    def test_matches_the_paper(self) -> None:
        """Five steps of AdamW (Loshchilov & Hutter 2019, algorithm 2) written out in float64."""
        spec = OptimSpec(lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, clip_grad=1e9)
        model = layer()
        optimizer = Optimizer(model, spec, 5)
        theta = [weight.double() for weight in values(model)]
        first = [torch.zeros_like(t) for t in theta]
        second = [torch.zeros_like(t) for t in theta]
        for step in range(1, 6):
            for i, grad in enumerate(gradients(model, step)):
                g = grad.double()
                first[i] = 0.8 * first[i] + 0.2 * g
                second[i] = 0.9 * second[i] + 0.1 * g * g
                corrected = (first[i] / (1 - 0.8**step)) / ((second[i] / (1 - 0.9**step)).sqrt() + 1e-8)
                theta[i] = theta[i] - 0.05 * (corrected + 0.1 * theta[i])
            take_step(optimizer, step)
        for expected, got in zip(theta, values(model), strict=True):
            assert torch.allclose(got.double(), expected, atol=1e-6)

    def test_norm_is_reported_before_clipping(self) -> None:
        """The global norm over all weights."""
        model = layer()
        made = gradients(model, 1, scale=3.0)
        expected = math.sqrt(sum(float(g.double().square().sum()) for g in made))
        done = take_step(Optimizer(model, OptimSpec(lr=0.1, clip_grad=0.5), 1), 1)
        assert done.grad_norm == pytest.approx(expected, rel=1e-6)

    def test_clipping_scales_all_gradients_by_one_factor(self) -> None:
        """A clipped step equals an unclipped one on gradients scaled to the limit; a short gradient is left alone."""
        for clip, scale in ((0.5, None), (1e6, 1.0)):
            clipped, by_hand = layer(), layer()
            made = gradients(clipped, 1)
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in made))
            factor = scale or clip / norm
            # Adam forgets a constant factor but for its epsilon: compare the moments instead.
            one = Optimizer(clipped, OptimSpec(lr=0.1, clip_grad=clip), 1)
            take_step(one, 1)
            for weight, grad in zip(by_hand.parameters(), made, strict=True):
                weight.grad = grad * factor
            two = Optimizer(by_hand, OptimSpec(lr=0.1, clip_grad=1e9), 1)
            take_step(two, 1)
            for key in range(2):
                mine, theirs = (o.state()["adamw"]["state"][key]["exp_avg"] for o in (one, two))
                assert torch.allclose(mine, theirs, rtol=1e-5)

    def test_gradients_are_dropped_after_a_step(self) -> None:
        """The next step starts from nothing."""
        for dtype in (torch.float32, torch.bfloat16):
            model = layer(dtype)
            optimizer = Optimizer(model, OptimSpec(lr=0.1), 2)
            gradients(model, 1)
            take_step(optimizer, 1)
            assert all(weight.grad is None for weight in model.parameters())
            before = values(model)
            assert take_step(optimizer, 2).grad_norm == 0.0
            assert equal(before, values(model))


class TestNonFinite:
    """A gradient that is not finite moves nothing."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_leaves_weights_and_moments(self, bad: float, dtype: torch.dtype) -> None:
        """Refused by name; afterwards the run goes on exactly as if the step had never been tried."""
        broken, intact = layer(dtype), layer(dtype)
        one, two = (Optimizer(m, OptimSpec(lr=0.1), 3) for m in (broken, intact))
        for model, optimizer in ((broken, one), (intact, two)):
            gradients(model, 1)
            take_step(optimizer, 1)
        before = values(broken)
        gradients(broken, 2)
        next(broken.parameters()).grad[0, 0] = bad
        with pytest.raises(NonFiniteError, match="step 2: the gradient norm"):
            take_step(one, 2)
        assert equal(before, values(broken))
        for model, optimizer in ((broken, one), (intact, two)):
            gradients(model, 3)
            take_step(optimizer, 3)
        assert equal(values(broken), values(intact))

    def test_overflowing_norm_is_refused(self) -> None:
        """Finite gradients whose norm overflows float32 cannot be clipped."""
        model = layer()
        before = values(model)
        gradients(model, 1, scale=1e30)
        with pytest.raises(NonFiniteError):
            take_step(Optimizer(model, OptimSpec(lr=0.1), 1), 1)
        assert equal(before, values(model))


class TestMasters:
    """A bfloat16 model learns in float32."""

    def test_many_tiny_updates_add_up(self) -> None:
        """200 updates of 1e-4 move a weight of 1.0 to about 0.98; bfloat16's spacing there is 0.004 to 0.008."""
        model = layer(torch.bfloat16)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(1.0)
        alone = torch.ones((), dtype=torch.bfloat16)
        optimizer = Optimizer(model, OptimSpec(lr=1e-4, clip_grad=1e9), 200)
        for step in range(1, 201):
            for weight in model.parameters():
                weight.grad = torch.ones_like(weight)
            take_step(optimizer, step)
            alone -= 1e-4
        assert float(alone) == 1.0, "in bfloat16 alone nothing would move"
        for weight in model.parameters():
            assert weight.dtype == torch.bfloat16
            assert torch.equal(weight, torch.full_like(weight, 1.0 - 200e-4))

    def test_weights_are_the_rounded_float32_run(self) -> None:
        """Step by step, the model is the float32 run rounded to bfloat16."""
        low = layer(torch.bfloat16)
        high = layer(torch.bfloat16).float()
        one, two = (Optimizer(m, OptimSpec(lr=0.01, weight_decay=0.1), 20) for m in (low, high))
        for step in range(1, 21):
            gradients(low, step)
            for weight, source in zip(high.parameters(), low.parameters(), strict=True):
                weight.grad = source.grad.float()
            take_step(one, step)
            take_step(two, step)
            assert equal(values(low), [w.bfloat16() for w in values(high)])

    def test_gradients_accumulate_in_float32(self) -> None:
        """256 + 200 x 0.5 is 356; bfloat16 would stay at 256, where its spacing is 2."""
        model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
        optimizer = Optimizer(model, OptimSpec(lr=0.1, clip_grad=1e9), 1)
        for grad in [256.0] + [0.5] * 200:
            model.weight.grad = torch.full_like(model.weight, grad)
            optimizer.accumulate()
        assert optimizer.step(1).grad_norm == pytest.approx(356.0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_state_restores_bit_for_bit(self, dtype: torch.dtype, tmp_path: Any) -> None:
        """Saved after three steps into a file and loaded beside the rounded weights, the next three are the same."""
        spec = OptimSpec(lr=0.03, warmup_steps=2, schedule="cosine", weight_decay=0.01)
        whole = layer(dtype)
        optimizer = Optimizer(whole, spec, 6)
        for step in range(1, 4):
            gradients(whole, step)
            take_step(optimizer, step)
        torch.save(optimizer.state(), tmp_path / "state.pt")
        resumed = layer(dtype, seed=9)
        resumed.load_state_dict(whole.state_dict())
        other = Optimizer(resumed, spec, 6)
        other.load(torch.load(tmp_path / "state.pt", weights_only=True))
        for step in range(4, 7):
            for model, o in ((whole, optimizer), (resumed, other)):
                gradients(model, step)
                take_step(o, step)
        assert equal(values(whole), values(resumed))
