"""Losses between a student and a teacher of another tokenizer, over jointly aligned spans (`sod.alignment.spans`).

`chunk` needs the log-probabilities of the sampled tokens alone. The others are dense: they are given a `Chunk`, the
logits of a few spans at a time (a caller never holds those of a batch), and return one value in nats for each span.
All are differentiable in the student's logits; the teacher is constant. Where both tokenizers are the same they are
losses we know: `chunk` the teacher gap, `strict_topk` (k not less than the vocabulary), `simct` and `shared_tokens` the
reverse KL, `gold` the jsd, each to the bit; `bpm` the forward KL, up to rounding.

What differs from the papers, and from the code of their authors where that was to be had:

- `chunk` (DPCA, arXiv 2606.09456): as written, A_i = (L_T / L_S - 1) log p_i. At a 1:1 position the gap itself is
  taken, which is the same number before rounding. Where L_S is 0 (a certain span) the shares are equal.
- `strict_topk` (arXiv 2610.08448; no code was found): positions are 1:1 by bytes, not by offsets of characters, so
  parts of characters count. A 1:1 position of tokens that are not a shared pair has the value 0.
- `simct` (arXiv 2605.07711, repository sunjie279/SimCT-, kdflow/algorithms/span_ctkd.py): the paper's score of a unit
  is the mean log-probability of its tokens, that of a shared token its log-probability. The authors' code takes mean
  raw logits instead (`unit_score="logit"`), which do not compare across positions. Theirs and ours have one row for
  each unit, at its first token. Theirs closes a unit at 1:1 tokens only and decodes ids one by one, which breaks
  characters that are split between tokens; ours are the connected components of the paper, by bytes. Theirs also pairs
  the two EOS tokens, whose names differ; a caller may add that pair to the shared tokens.
- `gold` and `uld` (TRL's GOLD trainer at commit 0048aad; ULD, arXiv 2402.12030): as in TRL the merged probability of a
  token is that at the edge times those of the other realised tokens, unnormalised, and the weight of the shared tokens
  is their share of the teacher's vocabulary unless given. Theirs matches tokens by their names, which differ between
  byte-level and SentencePiece, ours by their bytes; theirs clamps each conditional probability to 1e-8, and divides the
  sums by the number of rows, which is the caller's to do here.
- `bpm` (arXiv 2607.22334; neither text nor code was found, so this follows a summary): the mass of teacher tokens
  without a prefix, and of student tokens that are nobody's prefix, is one more event on both sides. The divergence is
  the forward KL, as most of the student's tokens get no mass. Spans that begin with white space have the value 0.

Legend: N student tokens, M teacher tokens, V and W their vocabularies, S spans, C shared tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from torch import Tensor

from sod.alignment.spans import Spans
from sod.objective.columns import Axes, check_axes
from sod.objective.divergence import LOG_FLOOR, Divergence, divergence
from sod.objective.spans import shared_out

UnitScore = Literal["logp", "logit"]


@final
@dataclass(frozen=True)
class Chunk:
    """The logits of a few spans, all tokens of which are here.

    student_logits_NV, teacher_logits_MW   at temperature 1, or divided by one: the row that predicts each token
    student_id_N, teacher_id_M             the tokens
    student_start_S, ...                   the tokens of each span, as row numbers; see `Spans`
    """

    student_logits_NV: Annotated[Tensor, Axes("NV")]
    teacher_logits_MW: Annotated[Tensor, Axes("MW")]
    student_id_N: Annotated[Tensor, Axes("N")]
    teacher_id_M: Annotated[Tensor, Axes("M")]
    student_start_S: Annotated[Tensor, Axes("S")]
    student_stop_S: Annotated[Tensor, Axes("S")]
    teacher_start_S: Annotated[Tensor, Axes("S")]
    teacher_stop_S: Annotated[Tensor, Axes("S")]

    def __post_init__(self) -> None:
        check_axes(self)


def chunk(student_logp_N: Tensor, teacher_logp_M: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """DPCA's advantage of each student token (nats, 0 where there is none), and which tokens are in a span.

    Over a span the advantages sum to the teacher's log-probability of its text less the student's. Constant.
    """
    student_logp_N, teacher_logp_M = student_logp_N.detach(), teacher_logp_M.detach()
    owner_n, at_n = members(spans.student_start, spans.student_stop)
    teacher_owner_m, teacher_at_m = members(spans.teacher_start, spans.teacher_stop)
    own_n, theirs_m = student_logp_N[at_n], teacher_logp_M[teacher_at_m].to(student_logp_N.dtype)
    teacher_S = own_n.new_zeros(len(spans)).index_add(0, teacher_owner_m, theirs_m)
    gap_N, aligned_N = torch.zeros_like(student_logp_N), torch.zeros_like(student_logp_N, dtype=torch.bool)
    gap_N[at_n] = shared_out(own_n, owner_n, teacher_S) - own_n
    aligned_N[at_n] = True
    return gap_N, aligned_N


def strict_topk(part: Chunk, shared_student_C: Tensor, shared_teacher_C: Tensor, k: int = 16) -> Tensor:
    """Reverse KL over the student's `k` most probable shared tokens, renormalised, at positions of one shared token.

    0 at other spans.
    """
    own_SC, theirs_SC = _over_shared(part, shared_student_C, shared_teacher_C)
    plain_S = _shared_pairs(part, shared_student_C, shared_teacher_C)
    own_PC, theirs_PC = own_SC[plain_S], theirs_SC[plain_S]
    if k < own_PC.shape[1]:
        index_PK = own_PC.detach().topk(k, dim=1).indices
        own_PC, theirs_PC = own_PC.gather(1, index_PK), theirs_PC.gather(1, index_PK)
    return own_SC.new_zeros(len(own_SC)).masked_scatter(plain_S, _reverse_kl(own_PC, theirs_PC))


def shared_tokens(part: Chunk, shared_student_C: Tensor, shared_teacher_C: Tensor) -> Tensor:
    """SimCT's baseline: reverse KL over all shared tokens at positions of a shared token. 0 at other spans."""
    return strict_topk(part, shared_student_C, shared_teacher_C, k=len(shared_student_C))


def simct(part: Chunk, shared_student_C: Tensor, shared_teacher_C: Tensor, unit_score: UnitScore = "logp") -> Tensor:
    """Reverse KL over the shared tokens and, where a span is no shared token, that span as one more: SimCT's units.

    A unit's score is the mean log-probability of its tokens; `logit` takes the mean of their raw logits, as the
    authors' code does.
    """
    own_SC, theirs_SC = _over_shared(part, shared_student_C, shared_teacher_C)
    plain_S = _shared_pairs(part, shared_student_C, shared_teacher_C)
    unit_S = ~plain_S
    own_S, theirs_S = _unit_scores(part, unit_score)
    own_UE = torch.cat([own_SC[unit_S], own_S[unit_S].unsqueeze(1)], dim=1)
    theirs_UE = torch.cat([theirs_SC[unit_S], theirs_S[unit_S].unsqueeze(1)], dim=1)
    loss_S = own_SC.new_zeros(len(own_SC)).masked_scatter(plain_S, _reverse_kl(own_SC[plain_S], theirs_SC[plain_S]))
    return loss_S.masked_scatter(unit_S, _reverse_kl(own_UE, theirs_UE))


def gold(
    part: Chunk, shared_student_C: Tensor, shared_teacher_C: Tensor, beta: float = 0.5, matched: float | None = None
) -> Tensor:
    """TRL's GOLD: the jsd over shared tokens, and the L1 distance of the sorted probabilities of all others.

    `beta` is the teacher's share of the jsd's mixture, in (0, 1); `matched` the weight of the shared tokens' part, and
    one less that the other's (None: their share of the teacher's vocabulary).
    """
    own_SV, theirs_SW = _merged(part)
    own_SC, theirs_SC = own_SV[:, shared_student_C], theirs_SW[:, shared_teacher_C]
    mixed_SC = torch.logaddexp(theirs_SC + math.log(beta), own_SC + math.log1p(-beta))
    jsd_S = beta * _kl(theirs_SC, mixed_SC) + (1.0 - beta) * _kl(own_SC, mixed_SC)
    share = len(shared_teacher_C) / theirs_SW.shape[1] if matched is None else matched
    rest_S = _sorted_l1(_without(own_SV, shared_student_C), _without(theirs_SW, shared_teacher_C))
    return share * jsd_S + (1.0 - share) * rest_S


def uld(part: Chunk) -> Tensor:
    """Universal logit distillation: the L1 distance of both sorted distributions, merged over each span as `gold`'s."""
    own_SV, theirs_SW = _merged(part)
    return _sorted_l1(own_SV.exp(), theirs_SW.exp())


def bpm(part: Chunk, prefix_W: Tensor, blank_V: Tensor) -> Tensor:
    """Forward KL from the teacher's distribution, each token's mass given to the student's longest prefix of it.

    `prefix_W` names that token (-1: none), `blank_V` the student's tokens of white space alone: a span that begins with
    one counts 0. Vocabularies may be padded beyond both.
    """
    own_SV = _student_edge(part).log_softmax(1)
    theirs_SW = _teacher_edge(part).log_softmax(1)
    none, width = own_SV.shape[1], own_SV.shape[1] + 1
    target_W = torch.full((theirs_SW.shape[1],), none, dtype=torch.int64, device=theirs_SW.device)
    target_W[: len(prefix_W)] = torch.where(prefix_W >= 0, prefix_W, none)
    mass_SE = theirs_SW.new_zeros(len(theirs_SW), width).index_add(1, target_W, theirs_SW.exp())
    reached_E = torch.zeros(width, dtype=torch.bool, device=target_W.device)
    reached_E[target_W] = True
    rest_S1 = own_SV[:, ~reached_E[:none]].logsumexp(1, keepdim=True)
    kept_C = torch.nonzero(reached_E[:none]).flatten()
    rest = bool(reached_E[none]) or len(kept_C) < none
    own_SE = torch.cat([own_SV[:, kept_C], rest_S1], dim=1) if rest else own_SV[:, kept_C]
    mass_SE = torch.cat([mass_SE[:, kept_C], mass_SE[:, none:]], dim=1) if rest else mass_SE[:, kept_C]
    loss_S = _kl(mass_SE.log().clamp_min(LOG_FLOOR), own_SE.clamp_min(LOG_FLOOR))
    blank_S = blank_V[part.student_id_N[part.student_start_S].clamp_max(len(blank_V) - 1)]
    return loss_S.masked_fill(blank_S, 0.0)


def _exact(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _student_edge(part: Chunk) -> Tensor:
    """The student's logits at the first token of each span, float32 at least. Shape S x V."""
    return _exact(part.student_logits_NV[part.student_start_S])


def _teacher_edge(part: Chunk) -> Tensor:
    """The teacher's, constant. Shape S x W."""
    return _exact(part.teacher_logits_MW.detach()[part.teacher_start_S])


def members(start: object, stop: object) -> tuple[Tensor, Tensor]:
    """The tokens in spans: which span each is in, and its number."""
    start_S, stop_S = torch.as_tensor(start), torch.as_tensor(stop)
    size_S = stop_S - start_S
    owner_n = torch.repeat_interleave(torch.arange(len(size_S), device=size_S.device), size_S)
    first_S = size_S.cumsum(0) - size_S
    return owner_n, torch.arange(len(owner_n), device=size_S.device) - first_S[owner_n] + start_S[owner_n]


def _over_shared(part: Chunk, student_C: Tensor, teacher_C: Tensor) -> tuple[Tensor, Tensor]:
    """Both models' logits of the shared tokens at the first token of each span."""
    return _student_edge(part)[:, student_C], _teacher_edge(part)[:, teacher_C]


def _reverse_kl(own_NE: Tensor, theirs_NE: Tensor) -> Tensor:
    return divergence(own_NE, theirs_NE, Divergence("reverse_kl"))


def _shared_pairs(part: Chunk, student_C: Tensor, teacher_C: Tensor) -> Tensor:
    """Which spans are one token on each side, namely a pair of the shared ones."""
    partner_V = torch.full((part.student_logits_NV.shape[1],), -1, dtype=torch.int64, device=student_C.device)
    partner_V[student_C] = teacher_C
    own_S, theirs_S = part.student_id_N[part.student_start_S], part.teacher_id_M[part.teacher_start_S]
    one_S = (part.student_stop_S - part.student_start_S == 1) & (part.teacher_stop_S - part.teacher_start_S == 1)
    return one_S & (partner_V[own_S] == theirs_S)


def _unit_scores(part: Chunk, kind: UnitScore) -> tuple[Tensor, Tensor]:
    """Each span's score beside the logits at its first token, whose normalizer is added to a log-probability."""
    own_N = _token_values(_exact(part.student_logits_NV), part.student_id_N, kind)
    theirs_M = _token_values(_exact(part.teacher_logits_MW.detach()), part.teacher_id_M, kind)
    own_S = _span_sums(own_N, part.student_start_S, part.student_stop_S, mean=True)
    theirs_S = _span_sums(theirs_M, part.teacher_start_S, part.teacher_stop_S, mean=True)
    if kind == "logit":
        return own_S, theirs_S
    return own_S + _student_edge(part).logsumexp(1), theirs_S + _teacher_edge(part).logsumexp(1)


def _token_values(logits_NV: Tensor, id_N: Tensor, kind: UnitScore) -> Tensor:
    chosen_N = logits_NV.gather(1, id_N.unsqueeze(1)).squeeze(1)
    return chosen_N if kind == "logit" else chosen_N - logits_NV.logsumexp(1)


def _span_sums(value_N: Tensor, start_S: Tensor, stop_S: Tensor, mean: bool = False) -> Tensor:
    owner_n, at_n = members(start_S, stop_S)
    total_S = value_N.new_zeros(len(start_S)).index_add(0, owner_n, value_N[at_n])
    return total_S / (stop_S - start_S) if mean else total_S


def _merged(part: Chunk) -> tuple[Tensor, Tensor]:
    """GOLD's merged log-probabilities: at the first token of a span, times those of the span's other tokens."""
    own_S = _rest_of_span(part.student_logits_NV, part.student_id_N, part.student_start_S, part.student_stop_S)
    theirs_M = part.teacher_logits_MW.detach()
    theirs_S = _rest_of_span(theirs_M, part.teacher_id_M, part.teacher_start_S, part.teacher_stop_S)
    own_SV = _student_edge(part).log_softmax(1).clamp_min(LOG_FLOOR) + own_S.unsqueeze(1)
    return own_SV, _teacher_edge(part).log_softmax(1).clamp_min(LOG_FLOOR) + theirs_S.unsqueeze(1)


def _rest_of_span(logits_NV: Tensor, id_N: Tensor, start_S: Tensor, stop_S: Tensor) -> Tensor:
    return _span_sums(_token_values(_exact(logits_NV), id_N, "logp"), start_S + 1, stop_S)


def _kl(log_left_NE: Tensor, log_right_NE: Tensor) -> Tensor:
    return (log_left_NE.exp() * (log_left_NE - log_right_NE)).sum(1)


def _without(logp_SV: Tensor, shared_C: Tensor) -> Tensor:
    """The probabilities of the tokens that are not shared."""
    kept_V = torch.ones(logp_SV.shape[1], dtype=torch.bool, device=logp_SV.device)
    kept_V[shared_C] = False
    return logp_SV[:, kept_V].exp()


def _sorted_l1(own_SV: Tensor, theirs_SW: Tensor) -> Tensor:
    """The distance of two sets of probabilities, each from the highest on, the shorter one filled with 0."""
    width = max(own_SV.shape[1], theirs_SW.shape[1])
    own_SE = _filled(own_SV.sort(dim=1, descending=True).values, width)
    return (own_SE - _filled(theirs_SW.sort(dim=1, descending=True).values, width)).abs().sum(1)


def _filled(value_SV: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(value_SV, (0, width - value_SV.shape[1]))
