"""The estimates of work against PyTorch's own count, and the meter's sums."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sod.clock import Clock
from sod.models import score as score_module
from sod.models.forward import packs
from sod.models.meter import Cost, Meter
from sod.models.peaks import Peaks, measured_peaks, peaks_by_role
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.models.settle import settle_of
from sod.objective.batch import TokenBatch

PEAKS = {"student": Peaks(product=4e12, copy=2e12), "teacher": Peaks(product=1e12, copy=1e12)}
WORK = 0.05  # seconds that a piece of work takes on the device below


@pytest.fixture
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position in each, so that the projection is made again; a single chunk is kept."""
    monkeypatch.setattr(score_module, "chunk_rows", lambda model: 1)


@pytest.mark.usefixtures("several_chunks")
def test_flop_of_scoring_and_of_its_gradient(model: Any, random_batch: Callable[..., TokenBatch]) -> None:
    """One row, so that there is no padding. PyTorch does not count what its fused attention does on a CPU."""
    batch = random_batch(rows=1, seed=3)
    assert packs(model)  # proven by forwards of its own where nobody has asked before
    cost = Cost.of(model)
    length = int(batch.length_B[0])
    attention = cost.pair * length * (length + 1) // 2
    with FlopCounterMode(display=False) as forward:
        logp_BT = action_logps(model, batch)
    assert cost.scoring(batch) - attention == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        logp_BT.sum().backward()
    model.zero_grad()
    assert cost.backward(batch) - 2 * attention == backward.get_total_flops()


@pytest.mark.usefixtures("several_chunks")
def test_flop_of_a_gradient_with_recomputation(model: Any, random_batch: Callable[..., TokenBatch]) -> None:
    """The layers' forward is in it a second time, but for each layer's last product: nothing needs its result again.

    Attention's share is not counted by PyTorch, as above.
    """
    batch = random_batch(rows=1, seed=3)
    cost = Cost.of(model)
    length = int(batch.length_B[0])
    attention = cost.pair * length * (length + 1) // 2
    again = copy.deepcopy(model)
    recompute_layers(again)
    logp_BT = action_logps(again, batch)
    with FlopCounterMode(display=False) as backward:
        logp_BT.sum().backward()
    last = sum(layer.mlp.down_proj.weight.numel() for layer in model.get_decoder().layers)
    assert cost.backward(batch, recompute=True) - 3 * attention - 2 * length * last == backward.get_total_flops()


def test_weights_and_bytes(model: Any) -> None:
    """Matrices only: norms are left out. A cached token has a key and a value in every layer."""
    cost = Cost.of(model)
    config = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name)
    assert cost.layer_weights == matrices - (0 if config.tie_word_embeddings else cost.head_weights)
    assert cost.head_weights == config.vocab_size * config.hidden_size
    assert cost.bytes == 4 * (cost.layer_weights + cost.head_weights)
    assert cost.token_bytes == 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def test_phases_add_up() -> None:
    meter = Meter(on=True)
    for tokens in (3, 4):
        with meter.phase("a", tokens, flop=2e9, moved=1e9):
            time.sleep(0.02)
    with meter.phase("b"):
        pass
    a, b = meter.rows(PEAKS)
    assert (a["phase"], a["calls"], a["tokens"], b["phase"], b["calls"]) == ("a", 2, 7, "b", 1)
    assert a["seconds"] >= 0.04
    assert a["share"] + b["share"] == pytest.approx(1)
    assert a["gflop_per_second"] == pytest.approx(4 / a["seconds"])
    assert a["gbyte_per_second"] == pytest.approx(2 / a["seconds"])
    assert (b["tokens_per_second"], b["gflop_per_second"]) == (0.0, 0.0)


@final
class Device:
    """Works on its own, as a CUDA device does: calls return at once, `settle` when all is done."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._given: list[Future[None]] = []
        self.waits = 0

    def work(self) -> None:
        self._given.append(self._thread.submit(time.sleep, WORK))

    def settle(self) -> None:
        self.waits += 1
        while self._given:
            self._given.pop().result()


@pytest.fixture
def device() -> Iterator[Device]:
    with ThreadPoolExecutor(1) as thread:
        yield Device(thread)


def test_a_phase_holds_its_own_work_on_a_device(device: Device) -> None:
    """Work that was given before a phase is not the phase's; what was given in it is, though the calls returned."""
    meter, clock = Meter(on=True, settle=device.settle), Clock(settle=device.settle)
    began = time.perf_counter()
    device.work()
    with clock.timed("idle"), meter.phase("idle"):
        pass
    with clock.timed("busy"):
        with meter.phase("busy"):
            device.work()
        device.work()
    whole = time.perf_counter() - began
    seconds = {name: phase.seconds for name, phase in meter.phases.items()}
    assert clock.seconds["busy"] >= 2 * WORK
    assert seconds["busy"] >= WORK
    assert clock.seconds["busy"] - seconds["busy"] >= WORK
    assert sum(seconds.values()) <= clock.total <= whole - WORK


def test_without_a_profile_nobody_waits(device: Device) -> None:
    """A wait per token would be the price of the meter, also where it is off."""
    meter = Meter(settle=device.settle)
    with meter.phase("decode"):
        device.work()
    assert device.waits == 0


def test_shares_of_the_peaks() -> None:
    """The teacher may be of another precision, on another device: its phase has peaks of its own."""
    meter = Meter(on=True)
    for phase in ("teacher", "forward"):
        meter.add(phase, seconds=2.0, flop=1e12, moved=5e11)
    by_phase = {row["phase"]: row for row in meter.rows(PEAKS)}
    shares = ("share_of_product_peak", "share_of_copy_peak")
    assert [by_phase["teacher"][share] for share in shares] == pytest.approx([0.5, 0.25])
    assert [by_phase["forward"][share] for share in shares] == pytest.approx([0.125, 0.125])


def test_a_phase_of_one_product_is_near_the_peak(model: Any) -> None:
    """A product of the peak's own kind comes to a share that is neither nothing nor far beyond all."""
    peaks = peaks_by_role({"student": model, "teacher": model})
    assert peaks["student"] is peaks["teacher"], "one device and precision is measured once"
    meter, side = Meter(on=True), 1024
    left = torch.rand(side, side)
    for _ in range(4):
        with meter.phase("product", flop=2.0 * side**3, moved=3.0 * left.nbytes):
            left @ left
    after = measured_peaks(model)  # the better of two, as a busy moment of the machine is no ceiling
    best = Peaks(max(after.product, peaks["student"].product), max(after.copy, peaks["student"].copy))
    (row,) = meter.rows({"student": best})
    assert 0 < row["share_of_product_peak"] <= 3  # peaks that were taken beside other tests are too low
    assert 0 < row["share_of_copy_peak"] <= 3


@pytest.mark.gpu
def test_a_phase_on_cuda_ends_with_its_work(random_model: Callable[..., Any]) -> None:
    """Products are given away in microseconds and take milliseconds: without a wait the share would be above 1."""
    model = random_model().to("cuda")
    peaks = {"student": measured_peaks(model)}
    assert peaks["student"].product > 1e12
    meter, side = Meter(on=True, settle=settle_of([model])), 8192
    left = torch.rand(side, side, device="cuda")
    for _ in range(4):
        with meter.phase("product", flop=2.0 * side**3):
            left @ left
    (row,) = meter.rows(peaks)
    assert 0.3 < row["share_of_product_peak"] <= 1.2


def test_off_counts_nothing() -> None:
    meter = Meter()
    with meter.phase("a", 3):
        torch.zeros(1)
    assert meter.rows(PEAKS) == []
