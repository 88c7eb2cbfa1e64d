"""What a recipe's models take, from their configurations: no weights are read. Everything is in bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, final

import torch
from torch import Tensor

from sod.engines.cache import COLUMN_STEP, ROW_STEP
from sod.engines.device_cache import most_tokens
from sod.engines.sampler import CACHED_LOGITS
from sod.engines.torch_engine import PREFILL_TOKENS, SCORES
from sod.models.adapters import base_source
from sod.models.architecture import head_sizes, in_one_line, read_config, refuse_unscored
from sod.models.dense import dense_terms
from sod.models.load import torch_dtype
from sod.models.score import CUDA_ROWS, action_logps, chunk_rows, teacher_scores
from sod.models.support import columns_of
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed
from sod.preflight.crossing import Crossing, rendered
from sod.preflight.rehearsal import Counts, Laps, Sizes, counted, fake_model, forward_size, update_laps
from sod.recipe import LoraSpec, ModelSpec
from sod.training.spans import span_terms

CHUNKS = 3  # of the projection in a rehearsal: what one leaves behind, two more leave no more of
FLOAT = 4  # bytes
# Floats of a logit that are alive at once in a backward pass, see `models.dense`; over spans those of both models
# (counted: 13 with gold and uld, 11 with simct).
LIVE_IN_SCORE, LIVE_IN_DENSE, LIVE_IN_SPANS = 4, 11, 13
COMPILED_KEEPS = 23.2 / 37.5  # of what plain layers keep for the backward pass


@final
@dataclass(frozen=True)
class Micro:
    """A micro-batch: so many rows of so many tokens each, of which all but the first `context` may be the model's own.

    Rows begin alike, with their context, where they are of one of `prompts`; None: they have nothing in common.
    """

    rows: int
    length: int
    context: int = 1
    prompts: int | None = None

    @classmethod
    def of(cls, budget: int, longest: int, rows: int) -> Micro:
        """The largest of a batch of so many rows up to `longest`; a row beyond the budget comes alone."""
        together = min(rows, max(1, budget // longest))
        tokens = min(max(budget, longest), rows * longest)
        return cls(together, -(-tokens // together))

    @classmethod
    def played(cls, budget: int, prompt: int, response: int, rows: int, prompts: int | None) -> list[Micro]:
        """Those of episodes that may be the largest, for prompts and responses of at most so many tokens.

        Longest prompts, which rows share and where nothing is projected; or, where not all rows then fit into the
        budget, prompts so short that they do.
        """
        shortest = min(prompt, max(1, budget // rows - response))
        found = []
        for context in dict.fromkeys((prompt, shortest)):
            micro = cls.of(budget, context + response, rows)
            found.append(cls(micro.rows, micro.length, context, prompts))
        return found

    @property
    def actions(self) -> int:
        """Tokens that are the model's own."""
        return self.rows * (self.length - self.context)

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.rows * self.length

    def batch(self, actions: int) -> TokenBatch:
        """As a batch with about so many action tokens, spread over the rows."""
        own = self.length - self.context
        each = min(own, -(-actions // self.rows))
        turns = [0] * self.context + [1] * each + [0] * (own - each)
        prompts = self.rows if self.prompts is None else min(self.rows, self.prompts)
        return supervised_batch(
            [([row % prompts] * self.context + [prompts + row] * own, turns) for row in range(self.rows)]
        )


@final
@dataclass(frozen=True)
class Planned:
    """A model of a recipe, without its weights."""

    spec: ModelSpec
    recompute: bool = False
    lora: LoraSpec | None = None

    def __hash__(self) -> int:
        lora = None if self.lora is None else self.lora.model_dump_json()
        return hash((self.spec.path, self.spec.dtype, self.recompute, lora))

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return torch_dtype(self.spec.dtype)

    @property
    def size(self) -> int:
        """Bytes of a number in its precision."""
        return self.dtype.itemsize

    @property
    def config(self) -> Any:
        """Its configuration. Raises SodError naming its path."""
        return _config(self.spec.path)

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return int(self.config.num_hidden_layers)

    def fake(self, layers: int) -> Any:
        """The model with so many layers, over fake weights."""
        return _faked(self, layers)

    @property
    def counts(self) -> Counts:
        """Its parameters."""
        return _counts(self)


@cache
def _config(path: str) -> Any:
    config = read_config(base_source(path))
    refuse_unscored(config, path)
    return config


@cache
def _faked(model: Planned, layers: int) -> Any:
    return fake_model(model.config, model.dtype, layers, model.spec.path, model.recompute, model.lora)


@cache
def _counts(model: Planned) -> Counts:
    return counted(model.fake, model.layers)


@final
@dataclass(frozen=True)
class Pull:
    """What pulls the student in an update beside its own log-probabilities: a teacher's whole distributions.

    By a dense divergence over one vocabulary, or a loss over spans of two (`crossing`, with a measure).
    """

    teacher: Planned
    divergence: Divergence | None = None
    crossing: Crossing | None = None


@cache
def laps_of(student: Planned, micro: Micro, accumulated: bool, pull: Pull | None = None) -> Laps:
    """What a forward and backward of a micro-batch take, with a dense loss by a teacher where there is one."""

    def loss(model: Any) -> Tensor:
        batch = micro.batch(CHUNKS * chunk_rows(model))
        if pull is None:
            return action_logps(model, batch).sum()
        logp_BT, value_BT = _dense(model, batch, pull)
        return logp_BT.sum() + value_BT.sum()

    with in_one_line(student.config, student.spec.path, "cannot be planned"):
        laps = update_laps(student.fake, student.layers, loss, accumulated)
    if pull is not None and pull.crossing is not None:
        return _with_all_spans(laps, student, micro, pull.teacher, pull.crossing)
    return _with_all_actions(laps, student, micro, 1 if pull is None else 2)


def _dense(model: Any, batch: TokenBatch, pull: Pull) -> tuple[Tensor, Tensor]:
    teacher = pull.teacher.fake(1)
    if pull.crossing is not None and pull.crossing.measure is not None:
        return span_terms(model, teacher, rendered(batch, pull.crossing), pull.crossing.measure)
    if pull.divergence is None:
        raise ValueError("a dense loss is by a divergence or over spans")
    return dense_terms(model, teacher, batch, batch, partial(divergence, spec=pull.divergence, temperature=1.0))


def update_of(student: Planned, micro: Micro, accumulated: bool, pull: Pull | None = None) -> Sizes:
    """The same of a model whose weights and gradients are whole and stay."""
    return laps_of(student, micro, accumulated, pull).sizes


def _with_all_spans(laps: Laps, student: Planned, micro: Micro, teacher: Planned, crossing: Crossing) -> Laps:
    """As `_with_all_actions`, where each chunk of spans also keeps its own tokens' hidden states, of both models."""
    left_out = max(0, micro.actions - CHUNKS * chunk_rows(student.fake(1)))
    own = left_out * student.config.hidden_size * student.size
    theirs = crossing.tokens(left_out) * teacher.config.hidden_size * teacher.size
    return _with_more(laps, 2 * (own + theirs), 3 * own + 2 * theirs)


def _with_all_actions(laps: Laps, student: Planned, micro: Micro, models: int) -> Laps:
    """With the hidden states of the action tokens that the rehearsal left out: as many more, and a gradient of each."""
    left_out = max(0, micro.actions - CHUNKS * chunk_rows(student.fake(1)))
    more = left_out * student.config.hidden_size * student.size
    return _with_more(laps, models * more, (models + 1) * more)


def _with_more(laps: Laps, kept: int, most: int) -> Laps:
    """With so much more that is there until the gradient comes down to the decoder."""
    return replace(laps, kept=laps.kept + kept, head=laps.head + most)


def with_own_key_heads(sizes: Sizes, student: Planned, micro: Micro) -> Sizes:
    """With keys and values of as many heads as queries have, as attention in float32 takes them on CUDA.

    See `models.fused.fit_for_kernel`; a layer keeps them, one that is recomputed for a moment.
    """
    heads, key_heads, head_dim = head_sizes(student.config)
    if student.size != FLOAT or heads == key_heads:
        return sizes
    layer = 2 * micro.tokens * (heads - key_heads) * head_dim * FLOAT
    kept = 0 if student.recompute else student.layers * layer
    return Sizes(sizes.kept + kept, sizes.most + max(kept, layer))


def on_cuda(sizes: Sizes, student: Planned, compiled: bool, pull: Pull | None) -> Sizes:
    """What the sizes of an update on a CPU become on CUDA: larger chunks of the projection; compiled, less is kept.

    The share of compiled layers was measured on Qwen3-0.6B's shape (docs/results/2026-11-26-gpu-probe.md).
    """
    model = student.fake(1)
    more_rows = max(0, CUDA_ROWS - chunk_rows(model))
    live = LIVE_IN_SCORE if pull is None else (LIVE_IN_DENSE if pull.crossing is None else LIVE_IN_SPANS)
    columns = max(columns_of(model), 0 if pull is None else columns_of(pull.teacher.fake(1)))
    chunk = more_rows * columns * FLOAT * live
    share = COMPILED_KEEPS if compiled else 1.0
    return Sizes(int(sizes.kept * share), int(sizes.kept * share) + sizes.most - sizes.kept + chunk)


@cache
def scoring_of(teacher: Planned, micro: Micro, need: ScoreNeed) -> int:
    """What the scores of a micro-batch take beside the teacher's weights, without gradients."""

    def forward(model: Any) -> object:
        batch = micro.batch(CHUNKS * chunk_rows(model))
        return teacher_scores(model, batch, micro.tokens, 1.0, need)

    kept = micro.tokens * (2 + need.k * 2) * FLOAT
    with in_one_line(teacher.config, teacher.spec.path, "cannot be planned"):
        return forward_size(teacher.fake(1), forward) + kept


@final
@dataclass(frozen=True)
class Decoding:
    """What an engine takes: its cache when all rows are full, what that takes while it grows, rows set aside, forwards.

    All in bytes.
    """

    cache: int
    growing: int
    aside: int
    forward: int


def cuda_forward(model: Planned, rows: int, prompt: int) -> int:
    """What an engine's forwards take on CUDA: more prompts together, and all rows drawn in one pass."""
    drawing = rows * columns_of(model.fake(1)) * (model.size + 4 * FLOAT)
    return max(_prefill(model, rows, prompt, PREFILL_TOKENS["cuda"]), drawing)


def decoding_of(model: Planned, rows: int, episodes: int, prompt: int, columns: int, offload: int) -> Decoding:
    """Sampling with `rows` of `episodes` together, prompts and whole texts of at most so many tokens.

    At most `offload` bytes are set aside for episodes between their turns.
    """
    token = _token_bytes(model)
    wide, high = _stepped(columns, COLUMN_STEP), _stepped(min(rows, episodes), ROW_STEP)
    cache_bytes = wide * high * token
    before = max(0, wide - COLUMN_STEP) * high * token  # the cache that the last, larger one is copied from
    return Decoding(
        cache=cache_bytes,
        growing=before,
        aside=min(offload, episodes * columns * token),
        forward=max(
            _prefill(model, min(rows, episodes), prompt, PREFILL_TOKENS["cpu"]),
            _decode(model, min(rows, episodes), columns),
        ),
    )


def fixed_cache_of(model: Planned, rows: int, longest: int, share: int) -> int:
    """Bytes of an engine's cache of a fixed size: `share`, or less where rows of so many tokens need less."""
    return min(share, most_tokens(rows, longest) * _token_bytes(model))


def plain_decoding_of(model: Planned, rows: int, episodes: int, prompt: int, columns: int, offload: int) -> Decoding:
    """The same for the plain engine, which adds a token to caches by making them anew and prefills prompt by prompt.

    Every layer counts as one that keeps all tokens: those with windows and states take less.
    """
    token, together = _token_bytes(model), min(rows, episodes)
    cache_bytes = together * columns * token
    return Decoding(
        cache=cache_bytes,
        growing=cache_bytes,
        aside=min(offload, episodes * columns * token),
        forward=max(
            _prefill(model, 1, prompt, prompt), together * columns_of(model.fake(1)) * (model.size + 4 * FLOAT)
        ),
    )


def _token_bytes(model: Planned) -> int:
    _, key_heads, head_dim = head_sizes(model.config)
    return int(2 * key_heads * head_dim * model.layers * model.size)


@cache
def _prefill(model: Planned, rows: int, prompt: int, tokens: int) -> int:
    """Of the first turn's prompts, as many as go together."""
    together = max(1, min(rows, tokens // prompt))

    def forward(fake: Any) -> object:
        token_BT = torch.zeros(together, prompt, dtype=torch.int64)
        return fake.get_decoder()(input_ids=token_BT, use_cache=False).last_hidden_state

    with in_one_line(model.config, model.spec.path, "cannot be planned"):
        return forward_size(model.fake(1), forward)


@cache
def _decode(model: Planned, rows: int, columns: int) -> int:
    """A token of every row: logits and what a draw of them takes, or attention over all columns."""
    vocabulary = columns_of(model.fake(1))
    passes = min(rows * vocabulary, CACHED_LOGITS)
    drawing = rows * vocabulary * model.size + 4 * passes * FLOAT
    scores = min(SCORES, rows * model.config.num_attention_heads * columns)
    return int(max(drawing, scores * (2 * FLOAT + 2 * model.size)))


def _stepped(value: int, step: int) -> int:
    return -(-value // step) * step
