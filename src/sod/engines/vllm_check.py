"""Whether a server samples with the trainer's weights: what comes after a few texts, compared with the trainer's own.

The texts are random tokens, other ones for every push. A server that was sent weights and has others (an output
embedding that was not loaded again, say) is off by tenths of a nat to several; rounding in float32 makes 1e-5, in
bfloat16 a few hundredths. Every other text is looked at with another temperature, which shows a server that tells of
the distribution before it.

Legend: Q texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sod.engines.base import Sampling
from sod.engines.sampler import log_probs
from sod.models.logits import project, shape_of
from sod.records import SodError
from sod.seeds import derive

TEXTS = 8
TOKENS = 24  # of each

PLAIN, SHARPER = Sampling(1.0), Sampling(0.5)
TOLERANCE = {torch.float32: 1e-3}
ROUGH = 0.1  # nats/token in bfloat16
UNLIKE = 1e3  # nats: what a token that the trainer does not have, or cannot sample, counts


@final
@dataclass(frozen=True)
class Question:
    """A text, and the trainer's log-probabilities of what may come next."""

    token_ids: tuple[int, ...]
    sampling: Sampling
    logp_V: Tensor


def questions(model: Any, allowed: Sequence[int], label: str) -> list[Question]:
    """Texts of `allowed` tokens, drawn by `label`, with what the model makes of them now. One forward pass."""
    generator = torch.Generator().manual_seed(derive(0, "check", label))
    drawn_QT = torch.randint(len(allowed), (TEXTS, TOKENS), generator=generator)
    token_QT = torch.tensor(allowed)[drawn_QT]
    with torch.no_grad():
        hidden_QD = model.get_decoder()(input_ids=token_QT.to(model.device)).last_hidden_state[:, -1]
        logits_QV = project(model.get_output_embeddings(), hidden_QD, shape_of(model.config)).float().cpu()
    found = []
    for number, (text, logits_V) in enumerate(zip(token_QT.tolist(), logits_QV, strict=True)):
        sampling = SHARPER if number % 2 else PLAIN
        found.append(Question(tuple(text), sampling, log_probs(logits_V[None], sampling)[0]))
    return found


def gap_of(question: Question, answer: Mapping[int, float]) -> float:
    """How far a server's log-probabilities are from the trainer's: the mean over the tokens that it named, in nats."""
    away = 0.0
    for token_id, logp in answer.items():
        known = 0 <= token_id < len(question.logp_V)
        expected = float(question.logp_V[token_id]) if known else -torch.inf
        away += min(UNLIKE, abs(logp - expected))
    return away / max(1, len(answer))


@final
@dataclass(frozen=True)
class Gaps:
    """Mean distances (nats/token) of a server from the trainer, at temperature 1 and at a lower one."""

    plain: float
    sharper: float

    @classmethod
    def of(cls, asked: Sequence[Question], answers: Sequence[Mapping[int, float]]) -> Gaps:
        """Those of the answers to all questions."""
        away: dict[Sampling, list[float]] = {PLAIN: [], SHARPER: []}
        for question, answer in zip(asked, answers, strict=True):
            away[question.sampling].append(gap_of(question, answer))
        return cls(*(sum(gaps) / len(gaps) for gaps in (away[PLAIN], away[SHARPER])))

    def refuse(self, url: str, tolerance: float) -> None:
        """Raises SodError naming the server where it is further off than `tolerance`."""
        if self.plain <= tolerance < self.sharper:
            raise SodError(
                f"{url}: gives log-probabilities of the distribution before temperature and truncation, not of the one "
                "that it samples from; start it with --logprobs-mode processed_logprobs"
            )
        if not max(self.plain, self.sharper) <= tolerance:
            raise SodError(
                f"{url}: took the weights and is {max(self.plain, self.sharper):.2g} nats/token from the trainer's "
                f"log-probabilities, more than {tolerance:g} (engine.tolerance); serve the model of student.path, in "
                "the precision of student.dtype, there"
            )


def default_tolerance(model: Any) -> float:
    """What a server may be off, in nats/token, by the model's precision."""
    return TOLERANCE.get(model.dtype, ROUGH)
