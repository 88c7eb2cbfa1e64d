"""Log-probabilities of given tokens, chunked over the vocabulary projection.

No tensor of `tokens x vocabulary` floats ever covers more than one chunk, forward or backward: with
gradients each chunk is recomputed in the backward pass.

Distributions are over the columns that a model's output embedding gives: the tokenizer's ids, see `sod.models.support`.

Legend: B trajectories, T tokens, N action tokens, D hidden size, V vocabulary, C values of each action token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sod.models.architecture import UnknownArchitectureError, in_one_line, named
from sod.models.compiled import fused
from sod.models.device import moved
from sod.models.forward import hidden_before_actions
from sod.models.fused import logp_of_targets
from sod.models.logits import PLAIN, LogitShape, project, shape_of
from sod.models.projection import apart, change_of_logits, rounding
from sod.models.ranks import ALONE, Ranks
from sod.models.sharded import is_sharded, within
from sod.models.support import columns_of, tokens_of
from sod.models.team import known_to_all, own_share, team_of
from sod.objective.batch import TokenBatch
from sod.objective.columns import action_numbers
from sod.objective.scores import SAMPLED_ONLY, ScoreNeed, TeacherScores

CHUNK_LOGITS = 2**23  # logits per projection: 32 MB of float32, several times over in the backward pass
CUDA_ROWS = 2048  # at least, on CUDA: fewer would mostly read the output embedding (measured with 152k tokens)


def action_logps(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (nats, float32, B x T) of the batch's action tokens; 0 at context.

    Differentiable when gradients are enabled.
    """
    return over_actions(
        model, batch, chunk_rows(model), partial(_logp, temperature=temperature, shape=shape_of(model.config))
    )[0]


def chunk_rows(model: Any) -> int:
    """Positions whose logits a chunk may hold."""
    return max(CUDA_ROWS if model.device.type == "cuda" else 64, CHUNK_LOGITS // columns_of(model))


def over_actions(model: Any, batch: TokenBatch, rows: int, values: partial[Tensor], *more_N: Tensor) -> Tensor:
    """`values` at every action token, from one forward. Shape C x B x T, float32; 0 at context. See `at_actions`."""
    value_CN = at_actions(model, batch, rows, values, *more_N)
    action_BT = batch.turn_BT > 0
    return torch.zeros(len(value_CN), *action_BT.shape).masked_scatter(action_BT, value_CN)


def at_actions(model: Any, batch: TokenBatch, rows: int, values: partial[Tensor], *more_N: Tensor) -> Tensor:
    """`values` at every action token in row-major order, from one forward. Shape C x N, float32.

    `values(head, hidden_ND, target_N, *more_N)` takes at most `rows` action tokens (the output embedding, what the
    decoder says before the token, the token, further columns) and returns C x N, all on the model's device but for the
    further columns, which are where the caller left them. With gradients, what it makes of several chunks is not kept
    but made again in the backward pass. The values returned are on the batch's device.

    Where rows are cut over a team of ranks each works on its share of the action tokens, all get the values of all, and
    `more_N` are those of the share (`team.own_share`).
    """
    return within(model, lambda: _at_hidden(model, batch, hidden_before_actions(model, batch), rows, values, *more_N))


def logps_after(model: Any, batch: TokenBatch, hidden_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """`action_logps`, from what the decoder says before each action token (`hidden_before_actions`)."""
    values = partial(_logp, temperature=temperature, shape=shape_of(model.config))
    logp_CN = _at_hidden(model, batch, hidden_ND, chunk_rows(model), values)
    action_BT = batch.turn_BT > 0
    return torch.zeros(action_BT.shape).masked_scatter(action_BT, logp_CN[0])


def _at_hidden(
    model: Any, batch: TokenBatch, hidden_ND: Tensor, rows: int, values: partial[Tensor], *more_N: Tensor
) -> Tensor:
    """`at_actions` from hidden states."""
    id_N = batch.token_BT[batch.turn_BT > 0]
    target_N = moved(own_share(model, id_N), hidden_ND.device)
    head = model.get_output_embeddings()
    projected = fused(values, head)
    parts: list[Tensor] = []
    # A single chunk is no more to keep than to make again.
    again = torch.is_grad_enabled() and len(hidden_ND) > rows
    for chunk in zip(*(column.split(rows) for column in (hidden_ND, target_N, *more_N)), strict=True):
        if again:
            parts.append(checkpoint(projected, head, *chunk, use_reentrant=False))
        else:
            parts.append(projected(head, *chunk))
    return known_to_all(moved(torch.cat(parts, dim=1), batch.token_BT.device), len(id_N), team_of(model))


def score(
    model: Any, batch: TokenBatch, micro_batch_tokens: int, temperature: float = 1.0, ranks: Ranks = ALONE
) -> Tensor:
    """`action_logps` without gradients, micro-batch by micro-batch. Shape B x T."""
    return teacher_scores(model, batch, micro_batch_tokens, temperature, ranks=ranks).logp_BT


def teacher_scores(
    model: Any,
    batch: TokenBatch,
    micro_batch_tokens: int,
    temperature: float = 1.0,
    need: ScoreNeed = SAMPLED_ONLY,
    ranks: Ranks = ALONE,
) -> TeacherScores:
    """What `need` asks for beside the log-probabilities, from one forward per micro-batch and without gradients.

    All of it at `temperature`. Each of the ranks, or each team of them, scores rows of its own, and all get the values
    of all. Raises ValueError
    where more tokens are wanted than the vocabulary has.
    """
    if need.k > tokens_of(model):
        raise ValueError(f"the {need.k} most probable of {tokens_of(model)} tokens were asked for")
    action_BT = batch.turn_BT > 0
    number_BT = action_numbers(action_BT)
    columns = partial(_columns, temperature=temperature, need=need, shape=shape_of(model.config))
    # Rows of what `_columns` returns, by what they hold.
    rows = {"logp": 1, "top1": int(need.top1), "entropy": int(need.entropy), "logps": need.k, "ids": need.k}
    value_CN = torch.zeros(sum(rows.values()), int(action_BT.sum()))
    own = batch.micro_indices(micro_batch_tokens, ranks.rows(batch.length_B.tolist()))
    # Not in inference mode: sharded weights that are put together in it could not be trained after.
    with torch.no_grad():
        for index in ranks.evened(own) if is_sharded(model) else own:
            if index is None:
                at_actions(model, batch.rows([batch.shortest]), chunk_rows(model), columns)
                continue
            micro = batch.rows(index)
            # The numbers of the micro-batch's own action tokens: its rows are in another order, its tokens fewer.
            micro_BT = number_BT[torch.tensor(index)][:, : micro.token_BT.shape[1]]
            value_CN[:, micro_BT[micro_BT >= 0]] = at_actions(model, micro, chunk_rows(model), columns)
    value_CN = ranks.summed(value_CN)
    part_CN = dict(zip(rows, value_CN.split(list(rows.values())), strict=True))

    def at_tokens(value_1N: Tensor) -> Tensor:
        """One value of each action token in its place. Shape B x T."""
        return torch.zeros(action_BT.shape).masked_scatter(action_BT, value_1N)

    return TeacherScores(
        logp_BT=at_tokens(part_CN["logp"]),
        top1_BT=at_tokens(part_CN["top1"]) if need.top1 else None,
        entropy_BT=at_tokens(part_CN["entropy"]) if need.entropy else None,
        ids_NK=part_CN["ids"].T.to(torch.int64) if need.k else None,
        logps_NK=part_CN["logps"].T.contiguous() if need.k else None,
    )


def logits(head: Any, hidden_ND: Tensor, temperature: float, shape: LogitShape = PLAIN) -> Tensor:
    """The model's logits in float32, divided by the temperature. Shape N x V."""
    logits_NV: Tensor = project(head, hidden_ND, shape).float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature


def picked(logits_NV: Tensor, *targets_N: Tensor) -> Tensor:
    """Log-probabilities of each row's targets. Shape C x N."""
    return (logits_NV.gather(1, torch.stack(targets_N, dim=1)) - logits_NV.logsumexp(1, keepdim=True)).T


def _logp(head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float, shape: LogitShape) -> Tensor:
    if hidden_ND.is_cuda:  # there the compiler makes few passes of it by itself
        return picked(logits(head, hidden_ND, temperature, shape), target_N)
    if shape.cap is None:
        # A scale is a temperature: no pass of its own.
        raw_NV = head(hidden_ND if shape.before == 1.0 else hidden_ND / shape.before)
        return logp_of_targets(raw_NV, target_N, temperature / shape.scale)[None]
    return logp_of_targets(project(head, hidden_ND, shape), target_N, temperature)[None]


def _columns(
    head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float, need: ScoreNeed, shape: LogitShape
) -> Tensor:
    """The log-probability of the target, then what `need` asks for, a row each. Shape C x N, float32.

    Token ids travel as float32 too, which holds every whole number up to 2^24 exactly.
    """
    logits_NV = logits(head, hidden_ND, temperature, shape)
    targets = [target_N, logits_NV.argmax(1)] if need.top1 else [target_N]
    logp_CN = picked(logits_NV, *targets)
    rows = [logp_CN[:1]]
    if need.top1:
        rows.append(logp_CN[1:].exp())
    if need.entropy:
        logp_NV = logits_NV.log_softmax(1)
        rows.append(-(logp_NV.exp() * logp_NV).nan_to_num(0.0).sum(1)[None])  # 0 log 0 counts as 0
    if need.k:
        best_NK, id_NK = logits_NV.topk(need.k, dim=1)
        rows += [(best_NK - logits_NV.logsumexp(1, keepdim=True)).T, id_NK.T.float()]
    return torch.cat(rows)


def check_projection(model: Any, where: str) -> None:
    """Prove on a few tokens that a causal decoder plus `logits.project` is the model's whole forward.

    Some architectures change their hidden states or logits in other ways than `sod.models.logits` knows, or let a token
    see what follows it, or another row of its batch; scoring rows in chunks, padded on the right, would be silently
    wrong. Raises SodError naming `where`, also where the forward fails.
    """
    with in_one_line(model.config, where, "cannot be scored"), torch.inference_mode():
        device = model.get_output_embeddings().weight.device
        token_BT = (torch.arange(32, device=device) * 7919 % int(model.config.vocab_size)).view(2, 16)
        whole_TD, half_TD = (
            model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
            for ids in (token_BT, token_BT[:1, :8])
        )
        changed = change_of_logits(model, token_BT[:1], where)
    gap = apart(whole_TD[:8], half_TD)
    if changed is None and not gap <= rounding(half_TD.dtype):
        changed = f"lets tokens see those after them, or other rows (which changes them by {gap:.1%})"
    if changed is not None:
        raise UnknownArchitectureError(
            where, f"{named(model.config)} {changed}, which chunked scoring does not support"
        )
