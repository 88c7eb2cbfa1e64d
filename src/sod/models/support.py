"""The support of every distribution: the ids that the tokenizer has tokens for.

Real models have more rows in their vocabulary matrices than their tokenizer has tokens (Qwen2.5: 151,936 or 152,064
rows for 151,665 tokens), and a student and a teacher of one tokenizer may differ in it. A row without a token stands
for nothing: it must not be sampled, and what a model puts there is no part of its policy. So a model is limited once,
where it is loaded: from then on its output embedding gives the logits of the tokens alone, and whoever samples, scores,
trains or compares two models works with one distribution over the same columns.

Legend: V ids from 0 to the tokenizer's highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import linear

from sod.records import SodError


class Vocabulary(Protocol):
    """What we use of a tokenizer."""

    def get_vocab(self) -> Mapping[str, int]: ...


_listed: WeakKeyDictionary[Vocabulary, tuple[int, Mapping[str, int]]] = WeakKeyDictionary()


def vocabulary(tokenizer: Vocabulary) -> Mapping[str, int]:
    """Id by token, of a tokenizer and what was added to it; listed once, as large ones take a fifth of a second."""
    added = len(getattr(tokenizer, "added_tokens_decoder", ()))
    known = _listed.get(tokenizer)
    if known is None or known[0] != added:
        known = _listed[tokenizer] = added, MappingProxyType(dict(tokenizer.get_vocab()))
    return known[1]


@final
@dataclass(frozen=True)
class Support:
    """The ids below `size` that are not among `holes`: those that have a token. `size` is 1 more than the highest."""

    size: int
    holes: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Vocabulary) -> Support:
        """The ids of a tokenizer, its added tokens among them."""
        ids = set(vocabulary(tokenizer).values())
        size = max(ids) + 1
        return cls(size, tuple(number for number in range(size) if number not in ids))

    @property
    def tokens(self) -> int:
        """How many ids have a token."""
        return self.size - len(self.holes)


def refuse_tokens_without_rows(tokenizer: Vocabulary, rows: int, path: str) -> None:
    """Raises SodError where a token's id is beyond the `rows` of the model in `path`, naming the first such token."""
    beyond = sorted((number, token) for token, number in vocabulary(tokenizer).items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        more = f" and {len(beyond) - 1} more tokens have none either" if len(beyond) > 1 else ""
        raise SodError(
            f"{path}: the model has {rows:,} rows for tokens, so that {token!r}, token {number} of the tokenizer, has "
            f"none{more}; save the model after resize_token_embeddings({beyond[-1][0] + 1}), or take them out of the "
            "tokenizer"
        )


def rows_without_token(support: Support, rows: int, path: str) -> str | None:
    """What to tell of a model with `rows` rows that the support does not fill; None where it does."""
    if rows == support.tokens:
        return None
    left_out = rows - support.tokens
    those = f"the {left_out:,} rows without a token are" if left_out > 1 else "the row without a token is"
    return f"{path}: {rows:,} rows, {support.tokens:,} tokens: {those} left out of every distribution"


@final
class SupportHead(torch.nn.Module):
    """The output embedding of a model that is limited to a support.

    Gives one logit for each id below the support's size, minus infinity at its holes. The weight is that of the whole
    model, under its name: saving writes every row, and embeddings that were tied stay so. The gradient of a row
    without a token is zero (weight decay shrinks it all the same).
    """

    hole_V: Tensor | None

    def __init__(self, whole: torch.nn.Linear, support: Support) -> None:
        super().__init__()
        self.weight, self.bias = whole.weight, whole.bias
        self.in_features, self.out_features = whole.in_features, support.size
        self.tokens = support.tokens
        hole_V = torch.zeros(support.size, dtype=torch.bool, device=whole.weight.device)
        hole_V[list(support.holes)] = True
        self.register_buffer("hole_V", hole_V if support.holes else None, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, V in the last dimension."""
        # Columns are cut off, not rows of the weight: in the backward pass a cut weight would be padded again, which
        # for a chunk of positions moves many times as much memory.
        logits = linear(hidden, self.weight, self.bias)[..., : self.out_features]
        return logits if self.hole_V is None else logits.masked_fill(self.hole_V, -torch.inf)


def limit_to(model: Any, support: Support, where: str) -> None:
    """From now on every distribution of `model`, a Hugging Face causal LM, is one over the support.

    A model whose rows are the support stays as it is. Raises SodError naming `where` for one with fewer rows than the
    support needs, and for one whose output embedding is no plain matrix.
    """
    head = model.get_output_embeddings()
    if head.out_features < support.size:
        raise SodError(
            f"{where}: the model gives {head.out_features:,} logits and its tokenizer has ids up to "
            f"{support.size - 1}; save the model after resize_token_embeddings({support.size})"
        )
    if head.out_features == support.tokens:
        return
    if type(head) is not torch.nn.Linear:
        raise SodError(
            f"{where}: {head.out_features - support.tokens} rows of its output embedding have no token, and only those "
            f"of a plain matrix can be left out, not of a {type(head).__name__}; use a model with one"
        )
    model.set_output_embeddings(SupportHead(head, support))


def columns_of(model: Any) -> int:
    """How many logits the model gives at a position, those at holes among them."""
    return int(model.get_output_embeddings().out_features)


def tokens_of(model: Any) -> int:
    """How many tokens the model's distributions are over."""
    head = model.get_output_embeddings()
    return head.tokens if isinstance(head, SupportHead) else int(head.out_features)
