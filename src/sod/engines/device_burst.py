"""Bursts: several tokens of every row without the host in between.

All that a token needs and leaves is in buffers on the device: the token before it, its position, its noise, how many
tokens its turn may still get, and the record of what was drawn. The host fills them before a burst and reads the
record after it. A row that ends inside a burst stays where it is: it runs its last token again, which changes nothing.

The same step runs operation by operation, on a CPU too, or as a CUDA graph with compiled layers.

Legend: B rows, K tokens of a burst, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from sod.engines.base import Sampling
from sod.engines.device_cache import FixedStorage, row_bucket
from sod.engines.device_draw import draw
from sod.engines.device_graphs import Step, captured
from sod.engines.device_layers import Run, compiled_layers, decoder_layers, running
from sod.engines.device_noise import signed, uniforms
from sod.engines.device_window import StaticWindow
from sod.engines.turns import Row
from sod.models.logits import project, shape_of
from sod.models.source import first_line
from sod.records import SodError
from sod.report.console import notice

BURST = 8  # tokens: a stop is seen after so many at most
GRAPHS = 64  # kept; those not used for longest go first

Draw = Callable[[Tensor, Tensor, Tensor, Sampling], tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True)
class Bucket:
    """What a step is made for."""

    rows: int
    columns: int
    sampling: Sampling


@final
@dataclass(frozen=True)
class Way:
    """How a step runs: its layers (None: as the model calls them), and the drawing of tokens.

    `beyond` names what it has that the next way to try does without.
    """

    beyond: str
    layer: Run | None
    draw: Draw


def ways_of(device: torch.device) -> list[Way]:
    """The ways to try on a device, the fastest first; the last is always the step as it is written."""
    plain = Way("CUDA graphs", None, draw)
    if device.type != "cuda":
        return [plain]
    layer = compiled_layers()
    return [
        Way("a compiled sampler", layer, torch.compile(draw, fullgraph=True)),
        Way("compiled layers", layer, draw),
        plain,
    ]


@final
@dataclass(frozen=True)
class Buffers:
    """What a burst reads and writes. They stay where they are."""

    token_B: Tensor  # the last one of each row: not in its cache yet
    position_B: Tensor  # where it stands
    left_B: Tensor  # tokens that the turn may still get; 0: it is over
    key_B: Tensor  # of the sampling noise
    noise_KB: Tensor  # float64
    drawn_KB: Tensor  # tokens; -1 where the turn was over
    logp_KB: Tensor
    number_1: Tensor  # of the next token in this burst
    row_B: Tensor
    stop_V: Tensor

    @classmethod
    def of(cls, device: torch.device, rows: int, vocabulary: int, stop_ids: frozenset[int]) -> Buffers:
        """For so many rows at most."""

        def whole(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        stop_V = torch.zeros(vocabulary, dtype=torch.bool)
        stop_V[[token for token in stop_ids if token < vocabulary]] = True
        return cls(
            token_B=whole(rows),
            position_B=whole(rows),
            left_B=whole(rows),
            key_B=whole(rows),
            noise_KB=torch.zeros(BURST, rows, dtype=torch.float64, device=device),
            drawn_KB=whole(BURST, rows),
            logp_KB=torch.zeros(BURST, rows, device=device),
            number_1=whole(1),
            row_B=torch.arange(rows, device=device),
            stop_V=stop_V.to(device),
        )


@final
class Bursts:
    """Samples bursts with one model on one storage."""

    def __init__(self, model: Any, stop_ids: frozenset[int], max_rows: int, storage: FixedStorage) -> None:
        self._model, self._storage = model, storage
        self._device = storage.shape.device
        self._weights = _addresses(model)
        self._layers = decoder_layers(model)
        self._ways = ways_of(self._device)
        self._graphs = self._device.type == "cuda"
        self._ready: OrderedDict[Bucket, Step] = OrderedDict()
        rows, vocabulary = row_bucket(max_rows), model.get_output_embeddings().weight.shape[0]
        with torch.inference_mode(False):
            self._buffers = Buffers.of(self._device, rows, vocabulary, stop_ids)
            # From here one copy goes to the device. It is written to again only after the burst was read back.
            self._staged_4B = torch.zeros(4, rows, dtype=torch.int64, pin_memory=self._graphs)
            self._pool = torch.cuda.graph_pool_handle() if self._graphs else None

    def serves(self, model: Any) -> bool:
        """Whether this is the model that the steps were made for, its weights where they were."""
        return model is self._model and _addresses(model) == self._weights

    def run(self, rows: Sequence[Row], tokens: int, sampling: Sampling) -> list[tuple[list[int], list[float]]]:
        """Up to so many tokens (`BURST` at most) of each row, and their log-probabilities.

        A row's list ends with its stop token or at its limit. Its cache must hold all tokens but the last.
        """
        columns = max(row.length + min(row.left, tokens) for row in rows)
        self._storage.settle(len(rows), columns)
        bucket = Bucket(row_bucket(len(rows)), self._storage.columns, sampling)
        with torch.inference_mode(False), torch.no_grad(), _on(self._device):
            self._fill(rows, bucket)
            step = self._step_for(bucket)
            for _ in range(tokens):
                step()
            return self._read(len(rows), tokens)

    def _fill(self, rows: Sequence[Row], bucket: Bucket) -> None:
        """Bring what the rows are to the device; the rows that only fill up the bucket are over."""
        staged, buffers = self._staged_4B, self._buffers
        staged.zero_()
        staged[:, : len(rows)] = torch.tensor(
            [[row.last_token, row.length - 1, row.left, signed(row.request.noise_key)] for row in rows]
        ).T
        for target, source in zip(
            (buffers.token_B, buffers.position_B, buffers.left_B, buffers.key_B), staged, strict=True
        ):
            target.copy_(source, non_blocking=True)
        later_K1 = torch.arange(1, BURST + 1, device=self._device)[:, None]
        buffers.noise_KB.copy_(uniforms(buffers.key_B, buffers.position_B + later_K1))
        buffers.number_1.zero_()

    def _read(self, rows: int, tokens: int) -> list[tuple[list[int], list[float]]]:
        """What was drawn. Here the host waits."""
        buffers = self._buffers
        # Float64 holds both, tokens and float32 log-probabilities, as they are: one copy.
        both = torch.stack([buffers.drawn_KB[:tokens, :rows].double(), buffers.logp_KB[:tokens, :rows].double()])
        drawn, logps = both.transpose(1, 2).cpu().unbind()
        count_B = (drawn >= 0).sum(dim=1).tolist()
        return [
            (token_K[:count], logp_K[:count])
            for token_K, logp_K, count in zip(drawn.long().tolist(), logps.tolist(), count_B, strict=True)
        ]

    # --- one token --------------------------------------------------------------------------------

    def _step(self, bucket: Bucket, way: Way) -> None:
        """Run and draw one token of every row. Nothing comes from the host."""
        all_rows, rows = self._buffers, slice(bucket.rows)
        token_B, position_B, left_B = all_rows.token_B[rows], all_rows.position_B[rows], all_rows.left_B[rows]
        row_B = all_rows.row_B[rows]
        window = StaticWindow(self._storage.keys[:, rows], self._storage.values[:, rows], row_B, position_B)
        with running(self._layers, way.layer) if way.layer and self._layers else nullcontext():
            hidden_B1D = self._model.get_decoder()(
                input_ids=token_B[:, None],
                position_ids=position_B[:, None],
                attention_mask=token_B[:, None, None, None],  # taken as it is; the window ignores it
                use_cache=False,
                window=window,
            ).last_hidden_state
        logits_BV = project(self._model.get_output_embeddings(), hidden_B1D[:, -1], shape_of(self._model.config))
        noise_B = all_rows.noise_KB[:, rows].index_select(0, all_rows.number_1)[0]
        new_B, logp_B = way.draw(logits_BV, noise_B, row_B, bucket.sampling)
        live_B = left_B > 0
        all_rows.drawn_KB[:, rows].index_copy_(0, all_rows.number_1, new_B.masked_fill(~live_B, -1)[None])
        all_rows.logp_KB[:, rows].index_copy_(0, all_rows.number_1, logp_B[None])
        token_B.copy_(torch.where(live_B, new_B, token_B))
        position_B.add_(live_B)
        left_B.copy_((left_B - 1).masked_fill(~live_B | all_rows.stop_V[new_B], 0))
        all_rows.number_1.add_(1)

    def _step_for(self, bucket: Bucket) -> Step:
        if not self._graphs:
            return partial(self._step, bucket, self._ways[0])
        if bucket not in self._ready:
            while len(self._ready) >= GRAPHS:
                self._ready.popitem(last=False)
            self._ready[bucket] = self._made(bucket)
        self._ready.move_to_end(bucket)
        return self._ready[bucket]

    def _made(self, bucket: Bucket) -> Step:
        """A graph of the step, by the first way that goes; else the step itself."""
        left_B = self._buffers.left_B
        kept_B = left_B.clone()
        left_B.zero_()  # with all turns over, a step changes nothing
        try:
            while self._graphs:
                try:
                    return captured(partial(self._step, bucket, self._ways[0]), self._device, self._pool)
                except (SodError, MemoryError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # compilers and architectures raise what they like
                    self._go_without(first_line(error))
            return partial(self._step, bucket, self._ways[0])
        finally:
            left_B.copy_(kept_B)
            self._buffers.number_1.zero_()

    def _go_without(self, reason: str) -> None:
        """Try the next way from now on; after the last one, no graphs."""
        notice(f"rollout: decoding on {self._device} without {self._ways[0].beyond}, more slowly: {reason}")
        if len(self._ways) > 1:
            self._ways.pop(0)
        else:
            self._graphs = False


def _addresses(model: Any) -> list[int]:
    """Where the weights are: graphs read them there."""
    return [part.data_ptr() for part in (*model.parameters(), *model.buffers())]


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def plain_index_writes() -> Iterator[None]:
    """Without PyTorch's deterministic algorithms: they would sort every index that the cache is written at.

    Every row writes its own column, and all else in a step repeats by itself, so the results repeat anyway.
    """
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
