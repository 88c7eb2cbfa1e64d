"""Two ranks learn what one process learns: scores, gradients, updates, refusals, stops, checkpoints.

Everything here runs real processes on gloo; what is expected is the same code in this process.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import KINDS, resumed, steps

from sod.models.memory import OutOfMemoryError
from sod.models.parallel import refuse_one_card
from sod.models.ranks import ALONE, LostRankError, Ranks, RankZeroError, dealt, naming_lost_ranks
from sod.records import SodError
from sod.runlog import RunLog
from sod.training.checkpoint import verify
from sod.training.optim import NonFiniteError
from sod.training.shards import METADATA, SHARDS, read_shards

slow = pytest.mark.slow


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest distance between tensors of the same names."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_have_the_gradient_of_one_process(kind: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    ours, theirs = one["gradients"][kind], two["gradients"][kind]
    assert apart(ours["gradient"], theirs["gradient"]) < 1e-6
    assert max(float(value.abs().max()) for value in ours["gradient"].values()) > 1e-3
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-6)
    assert torch.allclose(theirs["logp"], ours["logp"], atol=5e-6)
    assert torch.allclose(theirs["teacher"], ours["teacher"], atol=5e-6)


@slow
def test_two_ranks_update_as_one_process_does(one: dict[str, Any], two: dict[str, Any], place: Path) -> None:
    start = steps(ALONE, place, last=0)["weights"]
    assert apart(one["steps"]["weights"], start) > 1e-2
    assert apart(one["steps"]["weights"], two["steps"]["weights"]) < 1e-5
    for ours, theirs in zip(one["steps"]["figures"], two["steps"]["figures"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)
        assert ours["grad_norm"] > 0.5  # so that the clip has something to do


@slow
def test_a_sharded_model_computes_in_its_own_precision_over_float32(one: dict[str, Any], two: dict[str, Any]) -> None:
    ours, theirs = one["sampled"], two["sampled"]
    assert (ours["stored"], theirs["stored"]) == ("torch.bfloat16", "torch.float32")
    assert torch.allclose(theirs["logp"], ours["logp"], atol=0.15)
    assert not torch.allclose(theirs["logp"], ours["float32"], atol=1e-3)


@slow
@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_in_bfloat16_ranks_learn_much_the_same(kind: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    """Masters are rounded to bfloat16 in the one, weights as they are gathered in the other."""
    for ours, theirs in zip(one["halves"][kind], two["halves"][kind], strict=True):
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=0.1)
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=0.02)
    assert two["halves"][f"{kind} types"] == {"torch.float32"}


@slow
def test_what_is_not_finite_on_one_rank_is_refused_by_all(two: dict[str, Any]) -> None:
    refused = two["refused"]
    for kind, words in (("gradient", "the gradient norm is"), ("score", "is nan")):
        first, second = refused["said"][kind]
        for said in (first, second):
            assert said.startswith("NonFiniteError: step 1: ")
            assert words in said
    assert (refused["same"], refused["after"]) == (True, "")
    assert refused["dumped"] == ["step-000001-rank-1.pt", "step-000001.pt"]


@slow
def test_one_rank_that_is_asked_to_stop_stops_all_after_the_same_step(two: dict[str, Any], place: Path) -> None:
    run = place / "run-of-2"
    assert two["interrupted"]["said"] == [f"143: stopped after step 3 of 6; go on with --resume {run}"] * 2
    assert two["interrupted"]["logged"] == [1, 2, 3]
    ((step, saved),) = RunLog.open(run).checkpoints()
    assert step == verify(saved) == 3
    assert {path.name for path in (saved / SHARDS).iterdir()} == {METADATA, "__0_0.distcp", "__1_0.distcp"}


@slow
def test_what_two_ranks_saved_is_gone_on_with_by_another_number(
    one: dict[str, Any], four: dict[str, Any], place: Path
) -> None:
    for found in (resumed(ALONE, place), four["resumed"]):
        assert found["done"] == 3
        assert apart(found["weights"], one["steps"]["weights"]) < 1e-5


@slow
def test_what_one_process_saved_is_gone_on_with_by_two_ranks(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert two["resumed-from-1"]["done"] == 3
    assert apart(two["resumed-from-1"]["weights"], one["steps"]["weights"]) < 1e-5


@slow
def test_rank_0_asks_a_served_teacher_for_all(two: dict[str, Any]) -> None:
    assert two["asked"]["total"] == [str(-2.0 * two["asked"]["tokens"])] * 2
    assert two["asked"]["said"] == ["the server is gone"] * 2


class Trap:
    """What a pickle may hold that does harm when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@slow
def test_a_strangers_description_of_shards_runs_nothing(two: dict[str, Any], place: Path, tmp_path: Path) -> None:
    ((_, saved),) = RunLog.open(place / "run-of-2").checkpoints()
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    (copy / SHARDS / METADATA).write_bytes(pickle.dumps(Trap(tmp_path / "harm")))
    with pytest.raises(ValueError, match=r"not what torch\.distributed\.checkpoint writes, or damaged"):
        read_shards(copy, None)  # type: ignore[arg-type]
    assert not (tmp_path / "harm").exists()


def test_rows_are_dealt_by_tokens() -> None:
    lengths = [60, 20, 20, 20, 5, 5]
    hands = dealt(lengths, 2)
    assert sorted(row for hand in hands for row in hand) == list(range(6))
    assert [sum(lengths[row] for row in hand) for hand in hands] == [65, 65]
    assert dealt([7], 3) == [[0], [], []]


def test_one_process_hands_nothing_out() -> None:
    value = torch.ones(2)
    assert ALONE.summed(value) is value
    assert (ALONE.rows([3, 9, 1]), list(ALONE.evened("ab")), ALONE.most(4)) == ([0, 1, 2], ["a", "b"], 4)
    with pytest.raises(SodError, match="as it is"):
        ALONE.shared(lambda: (_ for _ in ()).throw(SodError("as it is")))


def test_what_all_ranks_find_wrong_rank_0_says() -> None:
    second = Ranks(number=1, count=2)
    for ranks, kind in ((ALONE, NonFiniteError), (Ranks(0, 2), NonFiniteError), (second, RankZeroError)):
        with pytest.raises(kind, match="not finite"), ranks.in_common():
            raise NonFiniteError("not finite")
    with pytest.raises(OutOfMemoryError), second.in_common():
        raise OutOfMemoryError("of this rank alone")


def test_ranks_that_share_a_card_are_refused() -> None:
    refuse_one_card(["a", "b", "c"])
    with pytest.raises(SodError, match=r"ranks 1 and 3 are on one CUDA card.* parallel.shards=3, ") as refused:
        refuse_one_card(["a", "b", "c", "b"])
    assert refused.value.on_all_ranks  # type: ignore[attr-defined]  # so that rank 0 alone says it


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4519", True),
        ("NCCL error, remote process exited or there was a network error\nncclRemoteError: A call failed", True),
        ("NCCL communicator was aborted on rank 1.", True),
        ("NCCL error\nncclInvalidUsage: Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000", False),
        ("NCCL error\nncclUnhandledCudaError: Call to CUDA function failed.", False),
    ],
)
def test_only_what_is_said_of_a_rank_that_is_gone_is_taken_for_it(said: str, lost: bool) -> None:
    with pytest.raises(LostRankError if lost else RuntimeError) as raised, naming_lost_ranks():
        raise RuntimeError(said)
    assert isinstance(raised.value, LostRankError) is lost
