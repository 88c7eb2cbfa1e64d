"""Log-probabilities of given tokens, chunked over the vocabulary projection.

No tensor of `tokens x vocabulary` floats ever covers more than one chunk, forward or backward: with
gradients each chunk is recomputed in the backward pass.

Legend: B trajectories, T tokens, N action tokens, D hidden size, V vocabulary, C values of each action token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sod.objective.batch import TokenBatch
from sod.records import SodError

CHUNK_LOGITS = 2**23  # logits per projection: 32 MB of float32, several times over in the backward pass


def action_logps(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (nats, float32, B x T) of the batch's action tokens; 0 at context.

    Right padding needs no attention mask: under causal attention no real token sees what follows it.
    Differentiable when gradients are enabled.
    """
    return over_actions(model, batch, chunk_rows(model), partial(_logp, temperature=temperature))[0]


def chunk_rows(model: Any) -> int:
    """Positions whose logits a chunk may hold."""
    return max(64, CHUNK_LOGITS // int(model.config.vocab_size))


def over_actions(model: Any, batch: TokenBatch, rows: int, project: Callable[..., Tensor], *more_N: Tensor) -> Tensor:
    """`project` at every action token, from one forward. Shape C x B x T, float32; 0 at context.

    `project(head, hidden_ND, target_N, *more_N)` takes at most `rows` action tokens in row-major order (the output
    embedding, what the decoder says before the token, the token, further columns) and returns C x N. With gradients,
    what it makes is not kept but made again in the backward pass.
    """
    hidden_BTD = model.get_decoder()(input_ids=batch.token_BT, use_cache=False).last_hidden_state
    action_BT = batch.turn_BT > 0
    # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first).
    hidden_ND = hidden_BTD[:, :-1][action_BT[:, 1:]]
    target_N = batch.token_BT[action_BT]
    head = model.get_output_embeddings()
    parts: list[Tensor] = []
    for chunk in zip(*(column.split(rows) for column in (hidden_ND, target_N, *more_N)), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(project, head, *chunk, use_reentrant=False))
        else:
            parts.append(project(head, *chunk))
    value_CN = torch.cat(parts, dim=1)
    return torch.zeros(len(value_CN), *action_BT.shape).masked_scatter(action_BT, value_CN)


def score(model: Any, batch: TokenBatch, micro_batch_tokens: int, temperature: float = 1.0) -> Tensor:
    """`action_logps` without gradients, micro-batch by micro-batch. Shape B x T."""
    return _score(model, batch, micro_batch_tokens, 1, partial(_logp, temperature=temperature))[0]


def score_with_confidence(
    model: Any, batch: TokenBatch, micro_batch_tokens: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`score` and, from the same forward, the probability of the model's most probable token at that place.

    Both float32, B x T, 0 at context; the confidence at an action token is in (0, 1], at the same temperature.
    """
    project = partial(_logp_and_confidence, temperature=temperature)
    logp_BT, confidence_BT = _score(model, batch, micro_batch_tokens, 2, project)
    return logp_BT, confidence_BT


def _score(model: Any, batch: TokenBatch, budget: int, columns: int, project: Callable[..., Tensor]) -> Tensor:
    out_CBT = torch.zeros(columns, *batch.token_BT.shape)
    with torch.inference_mode():
        for index in batch.micro_indices(budget):
            micro = batch.rows(index)
            values_CBT = over_actions(model, micro, chunk_rows(model), project)
            out_CBT[:, torch.tensor(index), : micro.token_BT.shape[1]] = values_CBT
    return out_CBT


def logits(head: Any, hidden_ND: Tensor, temperature: float) -> Tensor:
    """The projection in float32, divided by the temperature. Shape N x V."""
    logits_NV: Tensor = head(hidden_ND).float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature


def picked(logits_NV: Tensor, *targets_N: Tensor) -> Tensor:
    """Log-probabilities of each row's targets. Shape C x N."""
    return (logits_NV.gather(1, torch.stack(targets_N, dim=1)) - logits_NV.logsumexp(1, keepdim=True)).T


def _logp(head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> Tensor:
    return picked(logits(head, hidden_ND, temperature), target_N)


def _logp_and_confidence(head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> Tensor:
    logits_NV = logits(head, hidden_ND, temperature)
    logp_N, most_N = picked(logits_NV, target_N, logits_NV.argmax(1))
    return torch.stack([logp_N, most_N.exp()])


def check_projection(model: Any, where: str) -> None:
    """Prove on a few tokens that decoder plus output embedding is the model's whole forward.

    Some architectures scale or cap their logits after the projection; scoring them in chunks this way
    would be silently wrong. Raises SodError naming `where`.
    """
    token_BT = torch.arange(4)[None] % int(model.config.vocab_size)
    batch = TokenBatch(
        token_BT=token_BT,
        turn_BT=torch.tensor([[0, 1, 1, 1]]),
        length_B=torch.tensor([4]),
        group_B=torch.zeros(1, dtype=torch.int64),
        reward_B=torch.zeros(1),
        sampled_BT=torch.zeros(1, 4),
    )
    with torch.inference_mode():
        ours_BT = action_logps(model, batch)
        full_BTV = model(input_ids=token_BT, use_cache=False).logits.float().log_softmax(-1)
    theirs_BT = full_BTV[:, :-1].gather(2, token_BT[:, 1:, None]).squeeze(2)
    if not bool(torch.isfinite(full_BTV).all()):
        raise SodError(f"{where}: the model's output is not finite (NaN or infinite weights?)")
    worst = float((ours_BT[:, 1:] - theirs_BT).abs().max())
    if not worst < 0.05:
        raise SodError(
            f"{where}: architecture {model.config.model_type!r} changes its logits after the output projection "
            f"(off by {worst:.3f} nats), which chunked scoring does not support"
        )
