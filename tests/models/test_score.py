"""Chunked log-probabilities of given tokens against the model's own full logits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sod.models import score as score_module
from sod.models.score import action_logps, check_projection, score, teacher_scores
from sod.objective.batch import TokenBatch
from sod.objective.scores import ScoreNeed
from sod.records import SodError

Make = Callable[..., Any]


def by_full_logits(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Row by row without padding, through the model's whole forward."""
    rows = []
    for row in range(len(batch)):
        token_T = batch.token_BT[row, : batch.length_B[row]]
        logp_TV = (model(input_ids=token_T[None]).logits[0].float() / temperature).log_softmax(-1)
        picked = torch.cat([torch.zeros(1), logp_TV[:-1].gather(1, token_T[1:, None]).squeeze(1)])
        picked = picked.masked_fill(batch.turn_BT[row, : len(token_T)] == 0, 0.0)
        rows.append(torch.nn.functional.pad(picked, (0, batch.token_BT.shape[1] - len(token_T))))
    return torch.stack(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_equals_log_softmax_of_the_full_logits(model: Any, random_batch: Make, temperature: float) -> None:
    batch = random_batch(rows=8, seed=1)
    ours_BT = action_logps(model, batch, temperature).detach()
    assert ours_BT.dtype == torch.float32
    torch.testing.assert_close(ours_BT, by_full_logits(model, batch, temperature).detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(ours_BT != 0, batch.turn_BT > 0)


def gradients(model: Any, logp_BT: Tensor) -> list[Tensor]:
    weight_BT = torch.linspace(-1, 2, logp_BT.numel()).view(logp_BT.shape)
    return list(torch.autograd.grad((logp_BT * weight_BT).sum(), list(model.parameters())))


def test_tiny_chunks_change_neither_values_nor_gradients(
    model: Any, random_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the full logits' own gradient, with 64 tokens a chunk and several chunks."""
    batch = random_batch(rows=30, seed=3)
    assert batch.action_tokens() > 3 * 64
    exact_BT = by_full_logits(model, batch, 0.8)
    exact = gradients(model, exact_BT)
    for limit in (2**25, 1):
        monkeypatch.setattr(score_module, "CHUNK_LOGITS", limit)
        ours_BT = action_logps(model, batch, 0.8)
        torch.testing.assert_close(ours_BT, exact_BT, atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(gradients(model, ours_BT), exact, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_no_projection_covers_more_than_one_chunk(
    model: Any, random_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watches the output embedding: never more than 64 rows at once, forward or recomputed backward."""
    monkeypatch.setattr(score_module, "CHUNK_LOGITS", 1)
    batch = random_batch(rows=30, seed=3)
    widths: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: widths.append(out.shape[0]))
    try:
        action_logps(model, batch).sum().backward()
    finally:
        handle.remove()
        model.zero_grad()
    assert max(widths) <= 64
    assert sum(widths) == 2 * batch.action_tokens()


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_score_is_action_logps_in_any_micro_batches(model: Any, random_batch: Make, budget: int) -> None:
    batch = random_batch(rows=7, seed=5)
    got_BT = score(model, batch, budget, temperature=0.9)
    assert not got_BT.requires_grad
    torch.testing.assert_close(got_BT, action_logps(model, batch, 0.9).detach(), atol=1e-5, rtol=1e-5)


def test_a_batch_without_actions_scores_zero(model: Any) -> None:
    from sod.objective.batch import supervised_batch

    assert action_logps(model, supervised_batch([([1, 2, 3], [0, 0, 0])])).tolist() == [[0.0, 0.0, 0.0]]


def test_bfloat16(random_model: Make, random_batch: Make) -> None:
    """Runs, returns float32, has gradients, and agrees with float32 at bfloat16's precision."""
    batch = random_batch(rows=4, seed=6)
    whole, half = random_model(seed=0, sharpness=2.0), random_model(seed=0, sharpness=2.0).bfloat16()
    logp_BT = action_logps(half, batch)
    assert logp_BT.dtype == torch.float32
    assert float((logp_BT - action_logps(whole, batch)).abs().mean().detach()) < 0.1
    logp_BT.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in half.parameters())


class ScaledLogits(torch.nn.Module):
    """A model that does what Granite, Cohere and Gemma do: changes its logits after the projection."""

    def __init__(self, inner: Any, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        self.change = change

    def get_decoder(self) -> Any:
        return self.inner.get_decoder()

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        out = self.inner(**inputs)
        out.logits = self.change(out.logits)
        return out


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(scale, torch.float32) for scale in (0.125, 0.5, 0.99999, 1.00001, 1.001, 2.0)]
    + [(scale, torch.bfloat16) for scale in (0.125, 0.99, 1.005, 2.0)],  # 1.001 rounds away, in the model itself
)
def test_scaled_logits_are_refused(random_model: Make, scale: float, dtype: torch.dtype) -> None:
    """Of any size, in both precisions, and whatever the weights: with these the logits are all but 0."""
    faint = random_model(seed=0, sharpness=1e-6).to(dtype)
    with pytest.raises(SodError, match=r"some/model: architecture 'qwen3' changes its logits"):
        check_projection(ScaledLogits(faint, lambda logits: logits * scale), "some/model")


def test_scaled_hidden_states_are_refused(clone: Make, model: Any) -> None:
    """As MiniCPM does it: before the projection, which the decoder's last hidden state is not."""

    class ScaledHidden(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            hidden_BTD = self.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
            return SimpleNamespace(logits=self.lm_head(hidden_BTD * 1.001))

    scaled = clone(model)
    scaled.__class__ = ScaledHidden
    with pytest.raises(SodError, match="changes its hidden states before the output projection"):
        check_projection(scaled, "some/model")


def test_a_model_that_sees_what_follows_is_refused(model: Any, clone: Make) -> None:
    """Its attention is no longer causal: every token is a function of the last one as well."""
    seeing = clone(model)
    seeing.get_decoder().norm.register_forward_hook(lambda _module, _inputs, output: output + output[:, -1:])
    with pytest.raises(SodError, match="lets tokens see those after them"):
        check_projection(seeing, "some/model")


def fails(*_: Any) -> None:
    raise ZeroDivisionError("first line\nsecond line")


def test_a_forward_that_fails_is_one_line(model: Any, clone: Make) -> None:
    broken = clone(model)
    broken.get_decoder().register_forward_pre_hook(fails)
    said = r"^some/model: architecture 'qwen3' cannot be scored \(ZeroDivisionError: first line\); use a"
    with pytest.raises(SodError, match=said):
        check_projection(broken, "some/model")


def test_capped_and_broken_logits_are_refused(model: Any) -> None:
    """A soft cap, and NaN (which no comparison may let through), each called what it is."""
    for cap in (2.0, 30.0, 1000.0):
        with pytest.raises(SodError, match="changes its logits"):
            check_projection(ScaledLogits(model, lambda logits, cap=cap: cap * torch.tanh(logits / cap)), "some/model")
    with pytest.raises(SodError, match="not finite"):
        check_projection(ScaledLogits(model, lambda logits: logits * torch.nan), "some/model")


def test_honest_models_pass(model: Any, random_model: Make) -> None:
    """In both precisions; a shift of all logits is no change of the distribution."""
    check_projection(model, "here")
    check_projection(random_model().bfloat16(), "here")
    check_projection(ScaledLogits(model, lambda logits: logits + 3.0), "here")


@pytest.mark.parametrize("budget", [1, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_that_may_be_asked_of_a_teacher(model: Any, random_batch: Any, budget: int, temperature: float) -> None:
    """Top-1, entropy and the k most probable tokens against the softmax of plain forwards, row by row."""
    batch = random_batch(rows=5, seed=8)
    scores = teacher_scores(model, batch, budget, temperature, ScoreNeed(top1=True, entropy=True, k=3))
    assert torch.equal(scores.logp_BT, score(model, batch, budget, temperature))
    assert scores.top1_BT is not None
    assert scores.entropy_BT is not None
    assert scores.ids_NK is not None
    assert scores.logps_NK is not None
    first = 0
    for row in range(len(batch)):
        tokens = batch.token_BT[row, : int(batch.length_B[row])]
        with torch.no_grad():
            logp_TV = (model(input_ids=tokens[None]).logits[0].double() / temperature).log_softmax(-1)
        at = torch.nonzero(batch.turn_BT[row] > 0).flatten()
        before_NV = logp_TV[at - 1]
        best = before_NV.topk(3)
        mine = slice(first, first + len(at))
        torch.testing.assert_close(scores.top1_BT[row, at].double(), best.values[:, 0].exp(), atol=1e-5, rtol=1e-4)
        entropy_N = -(before_NV.exp() * before_NV).sum(1)
        torch.testing.assert_close(scores.entropy_BT[row, at].double(), entropy_N, atol=1e-4, rtol=1e-4)
        assert torch.equal(scores.ids_NK[mine], best.indices)
        torch.testing.assert_close(scores.logps_NK[mine].double(), best.values, atol=1e-4, rtol=1e-4)
        first += len(at)
    context_BT = batch.turn_BT == 0
    assert scores.top1_BT[context_BT].count_nonzero() == scores.entropy_BT[context_BT].count_nonzero() == 0


def test_only_what_is_asked_for_is_there(model: Any, random_batch: Any) -> None:
    scores = teacher_scores(model, random_batch(rows=2, seed=1), 1000, need=ScoreNeed(entropy=True))
    assert scores.entropy_BT is not None
    assert (scores.top1_BT, scores.ids_NK, scores.logps_NK) == (None, None, None)


def test_more_tokens_than_there_are(model: Any, random_batch: Any) -> None:
    with pytest.raises(ValueError, match="most probable of"):
        teacher_scores(model, random_batch(rows=2, seed=1), 1000, need=ScoreNeed(k=10**6))
