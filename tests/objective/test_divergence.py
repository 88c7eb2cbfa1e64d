"""Divergences of two distributions against torch.distributions, explicit sums, finite differences, their own laws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from sod.objective.divergence import Divergence, divergence

FORWARD, REVERSE, JSD = Divergence("forward_kl"), Divergence("reverse_kl"), Divergence("jsd", beta=0.3)
DENSE = [FORWARD, REVERSE, JSD]
TOP = [
    Divergence(spec.kind, spec.beta, k, by)
    for spec, k, by in itertools.product(DENSE, (1, 3), ("teacher", "student"))
]  # fmt: skip


def random_logits(rows: int = 5, vocabulary: int = 8, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)
    return student, teacher


def by_distributions(spec: Divergence, teacher_NE: Tensor, student_NE: Tensor) -> Tensor:
    """The divergence of given probabilities, by torch.distributions."""
    p, q = Categorical(probs=teacher_NE), Categorical(probs=student_NE)
    if spec.kind == "forward_kl":
        return kl_divergence(p, q)
    if spec.kind == "reverse_kl":
        return kl_divergence(q, p)
    m = Categorical(probs=spec.beta * teacher_NE + (1 - spec.beta) * student_NE)
    return spec.beta * kl_divergence(p, m) + (1 - spec.beta) * kl_divergence(q, m)


def merged(probs_V: Tensor, kept: list[int]) -> Tensor:
    """The kept tokens' probabilities and the sum of all others."""
    others = [v for v in range(len(probs_V)) if v not in kept]
    return torch.stack([*(probs_V[v] for v in kept), probs_V[others].sum()])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("spec", DENSE)
def test_full_vocabulary_against_torch_distributions(spec: Divergence, temperature: float) -> None:
    student, teacher = random_logits()
    p_NV, q_NV = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    torch.testing.assert_close(divergence(student, teacher, spec, temperature), by_distributions(spec, p_NV, q_NV))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("spec", TOP)
def test_top_k_is_the_divergence_of_the_merged_events(spec: Divergence, temperature: float) -> None:
    """Row by row, with plain Python's sort to choose."""
    student, teacher = random_logits(seed=1)
    p_NV, q_NV = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = []
    for p_V, q_V in zip(p_NV, q_NV, strict=True):
        choosing = (p_V if spec.chosen_by == "teacher" else q_V).tolist()
        kept = sorted(range(len(choosing)), key=lambda v: -choosing[v])[: spec.top_k]
        expected.append(by_distributions(spec, merged(p_V, kept), merged(q_V, kept)))
    torch.testing.assert_close(divergence(student, teacher, spec, temperature), torch.stack(expected))


def test_values_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2); the teacher's top token against the rest: (1/2, 1/2), (1/4, 3/4)."""
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert float(divergence(q, p, FORWARD)) == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert float(divergence(q, p, Divergence("forward_kl", top_k=1))) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    half = Divergence("jsd", beta=0.5)  # m = (3/8, 1/4, 3/8)
    by_hand = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    assert float(divergence(q, p, half)) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("spec", DENSE + TOP)
def test_gradient_against_finite_differences(spec: Divergence) -> None:
    """In float64; the student's choice is locally constant, so it must not disturb."""
    student, teacher = random_logits(rows=3, vocabulary=6, seed=2)
    assert torch.autograd.gradcheck(
        lambda logits: divergence(logits, teacher, spec, 0.8), (student.clone().requires_grad_(),)
    )


@pytest.mark.parametrize("spec", [FORWARD, TOP[0], TOP[2]])
def test_the_teacher_is_a_constant(spec: Divergence) -> None:
    student, teacher = random_logits()
    student.requires_grad_()
    teacher.requires_grad_()
    divergence(student, teacher, spec).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad.abs().max()) > 1e-3


def test_forward_kl_has_the_gradient_of_cross_entropy_with_soft_targets() -> None:
    """An independent road: the teacher's entropy is a constant."""
    student, teacher = random_logits()
    student.requires_grad_()
    (ours,) = torch.autograd.grad(divergence(student, teacher, FORWARD).sum(), student)
    entropy = torch.nn.functional.cross_entropy(student, teacher.softmax(1), reduction="sum")
    torch.testing.assert_close(ours, torch.autograd.grad(entropy, student)[0])


LOGITS = st.lists(st.floats(-30, 30), min_size=6, max_size=6)
# No two as near as rounding: which of two equal tokens belongs to the top k is anybody's choice.
DISTINCT = st.lists(st.integers(-120, 120).map(lambda n: n / 4), min_size=6, max_size=6, unique=True)
SPECS = st.builds(
    Divergence,
    kind=st.sampled_from(["forward_kl", "reverse_kl", "jsd"]),
    beta=st.floats(0.05, 0.95),
    top_k=st.integers(0, 7),
    chosen_by=st.sampled_from(["teacher", "student"]),
)


def of_rows(student: list[float], teacher: list[float], spec: Divergence) -> float:
    one, other = (torch.tensor([row], dtype=torch.float64) for row in (student, teacher))
    return float(divergence(one, other, spec))


@settings(deadline=None)
@given(LOGITS, LOGITS, SPECS)
def test_never_negative_and_zero_for_equals(student: list[float], teacher: list[float], spec: Divergence) -> None:
    assert of_rows(student, teacher, spec) > -1e-12
    assert abs(of_rows(student, student, spec)) < 1e-12
    assert abs(of_rows(student, [logit + 3.0 for logit in student], spec)) < 1e-12


@settings(deadline=None)
@given(DISTINCT, DISTINCT, SPECS)
def test_zero_only_for_equals(student: list[float], teacher: list[float], spec: Divergence) -> None:
    """Pinsker: KL >= |p - q|^2 / 2 (the sum of absolute differences), on the events that are told apart.

    For the jsd, m lies between p and q: beta (1 - beta)^2 + (1 - beta) beta^2 = beta (1 - beta) times that.
    """
    p_V, q_V = (torch.tensor(row, dtype=torch.float64).softmax(0) for row in (teacher, student))
    if 0 < spec.top_k < 6:
        kept = (p_V if spec.chosen_by == "teacher" else q_V).topk(spec.top_k).indices.tolist()
        p_V, q_V = merged(p_V, kept), merged(q_V, kept)
    share = spec.beta * (1 - spec.beta) if spec.kind == "jsd" else 1.0
    least = share * float((p_V - q_V).abs().sum()) ** 2 / 2
    assert of_rows(student, teacher, spec) >= least - 1e-12


@settings(deadline=None)
@given(DISTINCT, DISTINCT, SPECS)
def test_top_k_is_a_lower_bound_that_grows_with_k(student: list[float], teacher: list[float], spec: Divergence) -> None:
    """And is the full divergence from k = V - 1 on, where the tail is one token. Ties could choose sets not nested."""

    def at(top_k: int) -> float:
        return of_rows(student, teacher, Divergence(spec.kind, spec.beta, top_k, spec.chosen_by))

    values = [at(k) for k in (1, 2, 3, 4, 5)]
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(values))
    assert values[-1] == pytest.approx(at(0), rel=1e-9, abs=1e-12)
    assert at(6) == at(7) == at(0)


@settings(deadline=None)
@given(LOGITS, LOGITS, st.floats(0.05, 0.95))
def test_jsd_swaps_its_sides_with_beta_and_is_bounded(student: list[float], teacher: list[float], beta: float) -> None:
    """JSD(beta)(p, q) = JSD(1 - beta)(q, p), so 1/2 is symmetric; at most the entropy of the coin (beta, 1 - beta)."""
    value = of_rows(student, teacher, Divergence("jsd", beta=beta))
    assert value == pytest.approx(of_rows(teacher, student, Divergence("jsd", beta=1 - beta)), rel=1e-9, abs=1e-12)
    half = Divergence("jsd", beta=0.5)
    assert of_rows(student, teacher, half) == pytest.approx(of_rows(teacher, student, half), rel=1e-12, abs=1e-14)
    assert value <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-12


@pytest.mark.parametrize("top_k", [0, 3])
def test_jsd_goes_to_the_kls_at_its_ends(top_k: int) -> None:
    """jsd / beta -> KL(teacher || student) at 0, jsd / (1 - beta) -> KL(student || teacher) at 1, with linear error."""
    student, teacher = random_logits(seed=4, scale=1.0)
    forward, reverse = (divergence(student, teacher, Divergence(k, top_k=top_k)) for k in ("forward_kl", "reverse_kl"))
    assert float((forward - reverse).abs().min()) > 1e-3  # the two ends are told apart
    errors = []
    for small in (1e-3, 1e-4):
        near_0 = divergence(student, teacher, Divergence("jsd", beta=small, top_k=top_k)) / small
        near_1 = divergence(student, teacher, Divergence("jsd", beta=1 - small, top_k=top_k)) / small
        errors.append([float((near_0 - forward).abs().max()), float((near_1 - reverse).abs().max())])
    for before, after in zip(*errors, strict=True):
        assert after < 3e-3
        assert after == pytest.approx(before / 10, rel=0.1)


@pytest.mark.parametrize("spec", DENSE + TOP)
def test_tokens_without_mass_give_finite_values_and_gradients(spec: Divergence) -> None:
    """Logits of minus infinity on either side or both, a tail without mass, and a certainty of float32's precision."""
    low = -math.inf
    student = torch.tensor([[1.0, low, 2.0, 0.0, 3.0], [1.0, 2.0, low, low, low], [0.0, 500.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[low, low, 0.0, 1.0, 2.0], [2.0, 1.0, low, low, low], [500.0, 0.0, 0.0, 0.0, 0.0]])
    for ours, theirs in ((student, teacher), (teacher, student), (student, student)):
        logits = ours.clone().requires_grad_()
        value_N = divergence(logits, theirs, spec)
        assert bool(torch.isfinite(value_N).all())
        assert bool((value_N > -1e-6).all())
        value_N.sum().backward()
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())


def test_a_token_impossible_on_both_sides_counts_nothing() -> None:
    """The same value and gradient as without it."""
    student, teacher = random_logits()
    barred = torch.full((len(student), 1), -math.inf, dtype=torch.float64)
    for spec in DENSE:
        plain, padded = student.clone().requires_grad_(), torch.cat([student, barred], 1).requires_grad_()
        without = divergence(plain, teacher, spec)
        value = divergence(padded, torch.cat([teacher, barred], 1), spec)
        torch.testing.assert_close(value, without)
        (gradient,) = torch.autograd.grad(value.sum(), padded)
        torch.testing.assert_close(gradient[:, :-1], torch.autograd.grad(without.sum(), plain)[0])
        assert gradient[:, -1].tolist() == [0.0] * len(student)


def test_what_only_the_teacher_can_say_costs_the_floor() -> None:
    """Half of the teacher's mass where the student has none: 0.5 * 10,000 nats in the forward KL, and not infinity."""
    student, teacher = torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]])
    assert float(divergence(student, teacher, FORWARD)) == pytest.approx(5_000, rel=1e-3)
    assert float(divergence(student, teacher, REVERSE)) == pytest.approx(math.log(2))


def test_a_small_tail_is_summed_not_subtracted() -> None:
    """In float32 the chosen token holds 1 - 1e-8 of the teacher's mass: 1 minus it would be 0 or rounding."""
    teacher, student = torch.zeros(1, 101), torch.zeros(1, 101)
    teacher[0, 0], student[0, 0] = math.log(1e10), math.log(1e4)
    p, q = 1e-8 / (1 + 1e-8), 1e-2 / (1 + 1e-2)
    exact = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert float(divergence(student, teacher, Divergence("reverse_kl", top_k=1))) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (logits.to(dtype) for logits in random_logits(vocabulary=50))
    for spec in DENSE + TOP:
        value_N = divergence(student, teacher, spec, 0.7)
        assert value_N.dtype == torch.float32
        torch.testing.assert_close(
            value_N, divergence(student.double(), teacher.double(), spec, 0.7).float(), rtol=1e-4, atol=1e-6
        )


def test_nan_is_not_hidden() -> None:
    student, teacher = torch.tensor([[0.0, math.nan, 1.0]]), torch.zeros(1, 3)
    for spec in [*DENSE, Divergence("forward_kl", top_k=1)]:
        assert bool(divergence(student, teacher, spec).isnan().all())
        assert bool(divergence(teacher, student, spec).isnan().all())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "kl"}, "kind 'kl' is none of forward_kl, reverse_kl, jsd"),
        ({"kind": "jsd", "beta": 0.0}, "between 0 and 1"),
        ({"kind": "jsd", "beta": 1.0}, "between 0 and 1"),
        ({"kind": "jsd", "beta": math.nan}, "between 0 and 1"),
        ({"kind": "jsd", "top_k": -1}, "top_k must be 0"),
        ({"kind": "reverse_kl", "chosen_by": "both"}, "'both' is none of teacher, student"),
    ],
)
def test_bad_choices_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Divergence(**fields)


def test_bad_arguments_are_refused() -> None:
    for shapes in (((2, 3), (2, 4)), ((2, 3), (1, 3)), ((3,), (3,)), ((1, 2, 3), (1, 2, 3))):
        with pytest.raises(ValueError, match="two N x V matrices of one shape"):
            divergence(torch.zeros(shapes[0]), torch.zeros(shapes[1]), FORWARD)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            divergence(torch.zeros(1, 3), torch.zeros(1, 3), FORWARD, temperature)
