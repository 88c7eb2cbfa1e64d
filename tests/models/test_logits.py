"""Scales and soft caps of logits: scored, sampled and trained as the model's own forward has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from architectures import LATENT, tiny_config, tiny_model
from sod.models.dense import dense_terms
from sod.models.logits import LogitShape, project, shape_of
from sod.models.score import action_logps, check_projection, teacher_scores
from sod.models.support import Support, limit_to
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed
from sod.records import SodError

FAMILIES: dict[str, tuple[dict[str, Any], LogitShape]] = {
    "granite": ({"logits_scaling": 4.0}, LogitShape(divisor=4.0)),
    "cohere": ({"logit_scale": 0.25}, LogitShape(factor=0.25)),
    "hyperclovax": ({"logits_scaling": 0.25, "head_dim": 8}, LogitShape(factor=0.25)),
    "minicpm3": ({**LATENT, "dim_model_base": 8}, LogitShape(before=4.0)),
    "gemma2": ({"head_dim": 8, "final_logit_softcapping": 5.0}, LogitShape(cap=5.0)),
    "nanochat": ({"final_logit_softcapping": 5.0}, LogitShape(cap=5.0)),
}
QUICK = ("granite", "minicpm3", "gemma2")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in FAMILIES]


def tiny(kind: str) -> Any:
    return tiny_model(tiny_config(kind, num_hidden_layers=2, **FAMILIES[kind][0]))


def batch() -> TokenBatch:
    """Rows of three lengths, of which most tokens are the model's own."""
    rows = [[(7 * row + 3 * at) % 190 + 3 for at in range(length)] for row, length in enumerate((17, 9, 23))]
    return supervised_batch([(ids, [0, 0] + [1] * (len(ids) - 2)) for ids in rows])


def whole_logps(model: Any, temperature: float = 1.0) -> torch.Tensor:
    """By the model's own forward, row by row. Shape N x V, in the order of the action tokens."""
    some = batch()
    logps = []
    for row, length in enumerate(some.length_B.tolist()):
        logits_TV = model(input_ids=some.token_BT[row : row + 1, :length], use_cache=False).logits[0]
        logps.append((logits_TV[1:-1].float() / temperature).log_softmax(-1))
    return torch.cat(logps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_and_gradients_are_the_models_own(kind: str, temperature: float) -> None:
    """Log-probabilities, top-1, entropy and the k most probable, and the gradient of all weights."""
    model, some = tiny(kind), batch()
    assert shape_of(model.config) == FAMILIES[kind][1]
    check_projection(model, "here")
    target_N = some.token_BT[some.turn_BT > 0]
    whole_NV = whole_logps(model, temperature)
    plain_N = whole_NV.gather(1, target_N[:, None])[:, 0]
    plain_N.sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    logp_BT = action_logps(model, some, temperature)
    torch.testing.assert_close(logp_BT[some.turn_BT > 0], plain_N, atol=1e-4, rtol=1e-4)
    logp_BT.sum().backward()
    for name, weight in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(weight.grad, expected[name], atol=1e-3, rtol=1e-3)
    scores = teacher_scores(model, some, 40, temperature, ScoreNeed(top1=True, entropy=True, k=4))
    assert scores.top1_BT is not None
    assert scores.entropy_BT is not None
    assert scores.logps_NK is not None
    torch.testing.assert_close(scores.logp_BT, logp_BT.detach(), atol=1e-4, rtol=1e-4)
    best_N = whole_NV.exp().amax(1).detach()
    torch.testing.assert_close(scores.top1_BT[some.turn_BT > 0], best_N, atol=1e-4, rtol=1e-4)
    entropy_N = -(whole_NV.exp() * whole_NV).sum(1).detach()
    torch.testing.assert_close(scores.entropy_BT[some.turn_BT > 0], entropy_N, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores.logps_NK, whole_NV.topk(4).values.detach(), atol=1e-4, rtol=1e-4)


def test_dense_terms_take_each_models_own_logits() -> None:
    """A capped student and a scaled teacher."""
    student, teacher, some = tiny("gemma2"), tiny("granite"), batch()
    measure = partial(divergence, spec=Divergence("forward_kl"), temperature=1.0)
    logp_BT, value_BT = dense_terms(student, teacher, some, some, measure)
    ours_NV, theirs_NV = whole_logps(student).detach(), whole_logps(teacher).detach()
    kl_N = (theirs_NV.exp() * (theirs_NV - ours_NV)).sum(1)
    torch.testing.assert_close(value_BT[some.turn_BT > 0].detach(), kl_N, atol=1e-4, rtol=1e-3)
    target_N1 = some.token_BT[some.turn_BT > 0][:, None]
    torch.testing.assert_close(
        logp_BT[some.turn_BT > 0].detach(), ours_NV.gather(1, target_N1)[:, 0], atol=1e-4, rtol=1e-4
    )


def test_a_cap_makes_no_token_of_a_hole() -> None:
    """Rows of the output embedding without a token stay impossible, and give no NaN in the gradient."""
    model, some = tiny("gemma2"), batch()
    whole_NV = whole_logps(model).detach()
    holes = (5, 150)
    limit_to(model, Support(198, holes), "here")
    logits_NV = project(model.get_output_embeddings(), torch.randn(3, 32), shape_of(model.config))
    assert bool(torch.isneginf(logits_NV[:, list(holes)]).all())
    kept = [token for token in range(198) if token not in holes]
    target_N = some.token_BT[some.turn_BT > 0]
    logp_BT = action_logps(model, some)
    expected_N = (whole_NV.gather(1, target_N[:, None]) - whole_NV[:, kept].logsumexp(1, keepdim=True))[:, 0]
    real_N = ~torch.isin(target_N, torch.tensor(holes))
    torch.testing.assert_close(logp_BT[some.turn_BT > 0][real_N], expected_N[real_N], atol=1e-4, rtol=1e-4)
    logp_BT[some.turn_BT > 0][real_N].sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("kind", "key", "told"), [("granite", "logits_scaling", 8.0), ("gemma2", "final_logit_softcapping", 6.0)]
)
def test_a_scale_that_the_configuration_does_not_tell_is_refused(kind: str, key: str, told: float) -> None:
    """The configuration says one thing, the forward does another."""
    model = tiny(kind)
    does = getattr(model.config, key)

    def lies(_module: Any, _args: Any, kwargs: Any) -> None:
        setattr(model.config, key, does)

    def tells(_module: Any, _args: Any, out: Any) -> Any:
        setattr(model.config, key, told)
        return out

    model.register_forward_pre_hook(lies, with_kwargs=True)
    model.register_forward_hook(tells)
    with pytest.raises(SodError, match=r"changes its logits .*, otherwise than its configuration tells"):
        check_projection(model, "here")


def test_in_bfloat16() -> None:
    """Caps and scales are proven there as well."""
    for kind in QUICK:
        check_projection(tiny(kind).bfloat16(), "here")
