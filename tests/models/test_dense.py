"""Dense distillation terms against full logits, exact enumeration of a tiny model, the same work split otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.models import dense as dense_module
from sod.models.dense import Measure, dense_terms
from sod.models.score import action_logps, score, teacher_scores
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed

Make = Callable[..., Any]

SPECS = [
    Divergence("forward_kl"),
    Divergence("reverse_kl", top_k=5),
    Divergence("jsd", beta=0.3, top_k=5, chosen_by="student"),
]


def measuring(spec: Divergence, temperature: float = 1.0) -> Measure:
    return partial(divergence, spec=spec, temperature=temperature)


@pytest.fixture(scope="module")
def teacher(random_model: Make) -> Any:
    """Another random model, deeper and sharper than the student."""
    return random_model(seed=9, sharpness=6.0, layers=3)


def other_view(batch: TokenBatch, seed: int = 0) -> TokenBatch:
    """The same action tokens after longer prompts, of another length in every row."""
    generator = torch.Generator().manual_seed(seed)
    ledgers = []
    for row in range(len(batch)):
        length = int(batch.length_B[row])
        prompt = torch.randint(0, 300, (3 + 4 * row,), generator=generator).tolist()
        ledgers.append(
            (prompt + batch.token_BT[row, :length].tolist(), [0] * len(prompt) + batch.turn_BT[row, :length].tolist())
        )
    return supervised_batch(ledgers)


def logits_before_actions(model: Any, batch: TokenBatch, row: int) -> Tensor:
    """Of one trajectory alone, without padding, through the model's whole forward; found by a loop over its tokens."""
    length = int(batch.length_B[row])
    logits_TV = model(input_ids=batch.token_BT[row : row + 1, :length], use_cache=False).logits[0]
    return torch.stack([logits_TV[t - 1] for t in range(length) if batch.turn_BT[row, t] > 0])


def by_rows(student: Any, teacher: Any, batch: TokenBatch, view: TokenBatch, measure: Measure) -> Tensor:
    """The divergences, one trajectory at a time, from full logits."""
    value_BT = torch.zeros(batch.token_BT.shape)
    for row in range(len(batch)):
        ours_NV, theirs_NV = logits_before_actions(student, batch, row), logits_before_actions(teacher, view, row)
        places = torch.nonzero(batch.turn_BT[row] > 0).flatten()
        value_BT = value_BT.index_put((torch.tensor(row), places), measure(ours_NV, theirs_NV))
    return value_BT


def gradients(model: Any, terms: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of a sum in which every entry of both terms has a weight of its own."""
    weight_BT = torch.linspace(-1, 2, terms[0].numel()).view(terms[0].shape)
    loss = (terms[0] * weight_BT).sum() + (terms[1] * weight_BT.flip(1)).sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("spec", SPECS)
def test_equals_full_logits_row_by_row(
    model: Any, teacher: Any, random_batch: Make, spec: Divergence, temperature: float
) -> None:
    """Values and gradients, with a teacher whose prompts are longer than the student's."""
    batch = random_batch(rows=5, seed=1)
    view, measure = other_view(batch), measuring(spec, temperature)
    logp_BT, value_BT = dense_terms(model, teacher, batch, view, measure, temperature)
    assert logp_BT.dtype == value_BT.dtype == torch.float32
    torch.testing.assert_close(logp_BT, action_logps(model, batch, temperature))
    exact_BT = by_rows(model, teacher, batch, view, measure)
    torch.testing.assert_close(value_BT, exact_BT, atol=2e-5, rtol=1e-4)
    assert torch.equal(value_BT.detach() != 0, batch.turn_BT > 0)
    exact = gradients(model, (action_logps(model, batch, temperature), exact_BT))
    for ours, theirs in zip(gradients(model, (logp_BT, value_BT)), exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-3)


def test_the_temperature_of_the_log_probabilities_is_not_the_measures(
    model: Any, teacher: Any, random_batch: Make
) -> None:
    """Each acts on its own term only: nothing is divided twice."""
    batch = random_batch(rows=3, seed=4)

    def terms(of_logps: float, of_measure: float) -> list[Tensor]:
        measure = measuring(SPECS[0], of_measure)
        return [term.detach() for term in dense_terms(model, teacher, batch, batch, measure, of_logps)]

    plain, cooler, other_measure = terms(1.0, 1.0), terms(0.5, 1.0), terms(1.0, 0.5)
    assert torch.equal(cooler[1], plain[1])
    assert torch.equal(other_measure[0], plain[0])
    assert float((cooler[0] - plain[0]).abs().max()) > 0.1
    assert float((other_measure[1] - plain[1]).abs().max()) > 0.1


def test_the_teachers_own_prompt_matters(model: Any, teacher: Any, random_batch: Make) -> None:
    """Or the test above could not see a teacher that is given the student's view."""
    batch = random_batch(rows=5, seed=1)
    values = [dense_terms(model, teacher, batch, view, measuring(SPECS[0]))[1] for view in (batch, other_view(batch))]
    assert float((values[0] - values[1]).detach().abs().max()) > 0.1


def test_the_student_as_its_own_teacher(model: Any, clone: Make, random_batch: Make) -> None:
    """Divergence zero on one view; on another view the gradient is that of a frozen copy as teacher."""
    batch = random_batch(rows=4, seed=2)
    _, same_BT = dense_terms(model, model, batch, batch, measuring(SPECS[0]))
    assert float(same_BT.detach().abs().max()) < 1e-5
    view, frozen = other_view(batch), clone(model).requires_grad_(False)
    with_self, with_copy = (
        gradients(model, dense_terms(model, t, batch, view, measuring(SPECS[1]))) for t in (model, frozen)
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(with_self, with_copy, strict=True))


def test_a_teacher_with_gradients_switched_on_gets_none(model: Any, teacher: Any, random_batch: Make) -> None:
    """Even where the measure does not hold it constant."""
    assert all(weight.requires_grad for weight in teacher.parameters())
    batch = random_batch(rows=3, seed=2)
    try:
        dense_terms(model, teacher, batch, batch, lambda s_NV, t_NV: (s_NV - t_NV).square().mean(1))[1].sum().backward()
        assert all(weight.grad is None for weight in teacher.parameters())
    finally:
        model.zero_grad()


@pytest.mark.parametrize("spec", SPECS)
def test_chunk_size_changes_neither_values_nor_gradients(
    model: Any, teacher: Any, random_batch: Make, monkeypatch: pytest.MonkeyPatch, spec: Divergence
) -> None:
    batch = random_batch(rows=20, seed=3)
    terms = []
    for rows in (10_000, 7):
        monkeypatch.setattr(dense_module, "CHUNK_LOGITS", 1)
        monkeypatch.setattr(dense_module, "LEAST_ROWS", rows)
        terms.append(dense_terms(model, teacher, batch, batch, measuring(spec)))
    for whole_BT, chunked_BT in zip(*terms, strict=True):
        torch.testing.assert_close(chunked_BT, whole_BT, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(*(gradients(model, pair) for pair in terms), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("budget", [1, 60])
def test_micro_batches_padding_and_order_change_nothing(
    model: Any, teacher: Any, random_batch: Make, budget: int
) -> None:
    """Length-sorted micro-batches, each trimmed to its longest, against the whole batch: terms and summed gradient."""
    batch = random_batch(rows=7, seed=5)
    view, measure = other_view(batch), measuring(SPECS[2])
    whole = dense_terms(model, teacher, batch, view, measure)
    parts = [torch.zeros_like(term) for term in whole]
    micros = batch.micro_indices(budget)
    assert len(micros) > 1
    assert [row for index in micros for row in index] != list(range(7))
    for index in micros:
        micro = batch.rows(index)
        terms = dense_terms(model, teacher, micro, view.rows(index), measure)
        for part, term in zip(parts, terms, strict=True):
            part[torch.tensor(index), : micro.token_BT.shape[1]] = term
    for part, term in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, term, atol=2e-5, rtol=1e-4)
    ours, theirs = (gradients(model, (terms[0], terms[1])) for terms in (parts, whole))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-3)


class Largest(TorchDispatchMode):
    """Remembers the largest float tensor with the vocabulary in its shape that is made, forward or backward."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and self.vocabulary in tensor.shape:
                self.entries = max(self.entries, tensor.numel())
        return out


@pytest.mark.parametrize("spec", SPECS)
def test_no_tensor_covers_more_than_one_chunk(
    model: Any, teacher: Any, random_batch: Make, monkeypatch: pytest.MonkeyPatch, spec: Divergence
) -> None:
    """Of all that is made, forward and backward; both projections see each token twice (the second time again)."""
    batch = random_batch(rows=60, seed=3)
    vocabulary, tokens = int(model.config.vocab_size), batch.action_tokens()
    rows = 2 * int(model.config.hidden_size)  # so that a chunk is larger than the projection's weight and its gradient
    monkeypatch.setattr(dense_module, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(dense_module, "LEAST_ROWS", rows)
    assert tokens > 5 * rows
    seen: dict[str, list[int]] = {"student": [], "teacher": []}
    handles = [
        m.get_output_embeddings().register_forward_hook(lambda _m, _i, out, s=seen[name]: s.append(out.shape[0]))
        for name, m in (("student", model), ("teacher", teacher))
    ]
    try:
        with Largest(vocabulary) as largest:
            torch.stack(dense_terms(model, teacher, batch, batch, measuring(spec))).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad()
    assert largest.entries == rows * vocabulary
    for widths in seen.values():
        assert max(widths) <= rows
        assert sum(widths) == 2 * tokens


def test_no_actions_give_zeros(model: Any, teacher: Any) -> None:
    batch = supervised_batch([([1, 2, 3], [0, 0, 0])])
    for spec in SPECS:
        for term_BT in dense_terms(model, teacher, batch, batch, measuring(spec)):
            assert term_BT.tolist() == [[0.0, 0.0, 0.0]]


def test_bfloat16(random_model: Make, random_batch: Make) -> None:
    """Float32 terms and finite gradients, near those of the float32 models."""
    batch = random_batch(rows=4, seed=6)
    whole = [random_model(seed=seed, sharpness=2.0) for seed in (0, 1)]
    half = [random_model(seed=seed, sharpness=2.0).bfloat16() for seed in (0, 1)]
    exact, rounded = (dense_terms(*models, batch, batch, measuring(SPECS[0])) for models in (whole, half))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).abs().mean().detach()) < 0.1
    rounded[1].sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in half[0].parameters())


def test_views_that_do_not_match_are_refused(model: Any, teacher: Any) -> None:
    measure = measuring(SPECS[0])
    ours = supervised_batch([([1, 2, 3, 4], [0, 1, 1, 0]), ([1, 2, 3], [0, 1, 1])])
    fewer = supervised_batch([([1, 2, 3, 4], [0, 1, 1, 0]), ([1, 9, 2, 3], [0, 0, 0, 1])])
    with pytest.raises(ValueError, match="row 1: the student's batch has 2 action tokens and the teacher's 1"):
        dense_terms(model, teacher, ours, fewer, measure)
    swapped = supervised_batch([([1, 2, 3], [0, 1, 1]), ([1, 3, 2], [0, 1, 1])])
    with pytest.raises(ValueError, match="action tokens of the teacher's batch are not those"):
        dense_terms(model, teacher, ours, swapped, measure)
    with pytest.raises(ValueError, match="has 2 trajectories and the teacher's 1"):
        dense_terms(model, teacher, ours, ours.rows([0]), measure)


def tiny(vocabulary: int, hidden: int, seed: int) -> Any:
    """A random two-layer Qwen3 whose distributions depend on everything before, far from uniform."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


def test_hidden_sizes_may_differ_and_vocabularies_may_not(model: Any) -> None:
    batch = supervised_batch([([1, 2, 3, 0], [0, 1, 1, 1])])
    student, wider = tiny(4, 8, seed=0), tiny(4, 24, seed=1)
    _, value_BT = dense_terms(student, wider, batch, batch, measuring(SPECS[0]))
    torch.testing.assert_close(value_BT, by_rows(student, wider, batch, batch, measuring(SPECS[0])))
    with pytest.raises(ValueError, match=f"vocabulary has 4 tokens and the teacher's {model.config.vocab_size}"):
        dense_terms(student, model, batch, batch, measuring(SPECS[0]))


World = tuple[Any, Any, TokenBatch]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def world() -> World:
    """Student, teacher, and every sequence of three tokens over four after one prompt."""
    sequences = itertools.product(range(4), repeat=3)
    return (
        tiny(4, 16, seed=2),
        tiny(4, 24, seed=3),
        supervised_batch([([2, 0, *s], [0, 0, 1, 1, 1]) for s in sequences]),
    )


def expected_gradient(world: World, spec: Divergence, loss: Loss, hold: bool) -> list[Tensor]:
    """Of the mean of `loss(logp_BT, teacher_logp_BT, value_BT)` over all sequences, their probabilities held or not."""
    student, teacher, batch = world
    logp_BT, value_BT = dense_terms(student, teacher, batch, batch, measuring(spec))
    probability_B = logp_BT.sum(1).exp()
    assert float(probability_B.detach().sum()) == pytest.approx(1.0, abs=1e-5)
    loss_B = loss(logp_BT, score(teacher, batch, 10_000), value_BT).sum(1)
    total = ((probability_B.detach() if hold else probability_B) * loss_B).sum()
    return list(torch.autograd.grad(total, list(student.parameters())))


def dense(_logp_BT: Tensor, _teacher_BT: Tensor, value_BT: Tensor) -> Tensor:
    return value_BT


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Up to rounding: 1e-4 of the largest entry."""
    scale = max(float(gradient.abs().max()) for gradient in other)
    assert scale > 1e-2
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) < 1e-4 * scale


class TestEnumeration:
    """Expectations over every sequence with its probability, without sampling.

    Let L be the sum over states s of d(s) KL(pi(.|s) || T(.|s)), where d(s) is how often the student comes to s, and
    delta_t = log T - log pi at a sampled token. With d held constant, the gradient of L is that of a one-step policy
    gradient with advantage delta_t: the terms of KL that differentiate log pi alone sum to zero. With d differentiated
    too, L is the reverse KL of whole sequences, and the advantage is the sum of delta from t on.
    """

    def test_one_step_policy_gradient_is_that_of_the_reverse_kl_at_fixed_states(self, world: World) -> None:
        """And of no other divergence."""

        def one_step(logp_BT: Tensor, teacher_BT: Tensor, _: Tensor) -> Tensor:
            return -logp_BT * (teacher_BT - logp_BT).detach()

        reverse = Divergence("reverse_kl")
        sampled = expected_gradient(world, reverse, one_step, hold=True)
        assert same(sampled, expected_gradient(world, reverse, dense, hold=True))
        for other in (Divergence("forward_kl"), Divergence("jsd"), Divergence("reverse_kl", top_k=1)):
            assert not same(sampled, expected_gradient(world, other, dense, hold=True))

    def test_differentiating_the_states_too_is_the_policy_gradient_of_what_is_to_come(self, world: World) -> None:
        """The gradient of the sequences' reverse KL, which a per-token loss does not have: the two are told apart."""

        def to_come(logp_BT: Tensor, teacher_BT: Tensor, _: Tensor) -> Tensor:
            return -logp_BT * (teacher_BT - logp_BT).detach().flip(1).cumsum(1).flip(1)

        reverse = Divergence("reverse_kl")
        whole = expected_gradient(world, reverse, dense, hold=False)
        assert same(expected_gradient(world, reverse, to_come, hold=True), whole)
        assert not same(expected_gradient(world, reverse, dense, hold=True), whole)

    def test_expected_sum_is_the_reverse_kl_of_whole_sequences(self, world: World) -> None:
        student, teacher, batch = world
        with torch.no_grad():
            logp_BT, value_BT = dense_terms(student, teacher, batch, batch, measuring(Divergence("reverse_kl")))
        logp_B, teacher_B = logp_BT.sum(1).double(), score(teacher, batch, 10_000).sum(1).double()
        of_sequences = float((logp_B.exp() * (logp_B - teacher_B)).sum())
        assert of_sequences > 0.1
        assert float((logp_B.exp() * value_BT.sum(1)).sum()) == pytest.approx(of_sequences, rel=1e-5)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_confidence_is_the_top_probability(model: Any, random_batch: Make, budget: int, temperature: float) -> None:
    """Against the largest softmax entry, a trajectory at a time; the log-probabilities are those of `score`."""
    batch = random_batch(rows=6, seed=8)
    scores = teacher_scores(model, batch, budget, temperature, ScoreNeed(top1=True))
    logp_BT, confidence_BT = scores.logp_BT, scores.top1_BT
    assert confidence_BT is not None
    assert torch.equal(logp_BT, score(model, batch, budget, temperature))
    assert confidence_BT.dtype == torch.float32
    assert not confidence_BT.requires_grad
    expected_BT = torch.zeros_like(confidence_BT)
    with torch.no_grad():
        for row in range(len(batch)):
            top_N = (logits_before_actions(model, batch, row) / temperature).softmax(1).max(1).values
            expected_BT[row, batch.turn_BT[row] > 0] = top_N
    torch.testing.assert_close(confidence_BT, expected_BT, atol=1e-5, rtol=1e-4)
    assert float(confidence_BT.max()) <= 1.0
    assert bool((confidence_BT >= logp_BT.exp() - 1e-6)[batch.turn_BT > 0].all())
