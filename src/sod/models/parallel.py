"""A model over several processes (FSDP2), by torch's `fully_shard`.

The plan, for all of the trainer:

- **Weights.** Each rank holds a piece of every weight, in float32, and of its moments. They compute in the precision
  of `student.dtype` (torch's MixedPrecisionPolicy, in the place of the optimizer's own masters), and gradients are
  reduced in float32. Weights under an adapter, which are not trained, stay in `student.dtype`.
- **The step.** Rank 0 plays, rewards and asks served teachers, and hands the batch to all. From there on every rank
  does the same with the whole batch, small as it is beside weights: baselines, weights of turns, advantages and the
  denominator are computed on each, over all rows, so that nothing has to be agreed on. What costs time, forwards and
  backwards, each rank does for its own rows, dealt by tokens (`ranks.dealt`), and the values are summed up.
- **Long rows.** With `parallel.sequence` neighbouring ranks are a team that shares its rows: each has some of the
  tokens of every row, and exchanges them for heads in attention (`sod.models.spread`). The weights' pieces are those of
  all ranks as before, teams are dealt rows as ranks are, and of what a team computes alike the first's part counts.
- **In step.** Every forward of a sharded model is common to all ranks. A rank with fewer micro-batches than another
  runs one more row, whose loss counts nothing (`ranks.Ranks.evened`).
- **One gradient.** Torch averages over ranks, and our losses are parts of a sum: each is multiplied by the number of
  ranks. Norm and clip are those of the whole gradient, so that all ranks refuse it, or none.
- **A whole copy.** Rank 0 keeps the model once more, in `student.dtype`: its engine samples with it, and checkpoints
  hold it as a plain Hugging Face directory. It takes the bytes of the model on that rank (`student.device`).
- **Teachers** in this process are whole on every rank, and each scores its own rows: 8 GB for 4B weights in bfloat16.
  One that has no room beside the student is served instead.

Deviations from a plain wrap of the whole model, each for a reason found by trying: `score` and `dense` project outside
of the model's own forward, hence `sharded.within`; what is scored without gradients runs under `no_grad`, as weights
put together in inference mode cannot be trained after; gloo cannot be told another divisor, hence the factor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import MethodType
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from sod.models.forward import packs
from sod.models.ranks import LAUNCHED, Ranks, refuse_other_weights
from sod.models.recompute import decoder_layers
from sod.models.sequence import cut_rows
from sod.models.sharded import Sharding, mark_sharded, whole_tensor
from sod.models.team import Team
from sod.records import SodError

PATIENCE = timedelta(hours=12)
"""How long ranks wait for one another: as long as a rollout on rank 0 may take. One that dies is noticed at once."""
MEETING = timedelta(minutes=15)
"""How long ranks wait for all others to be started."""
_RUN = "sod_within"
_LAUNCH = "start all ranks with torchrun, or one process without RANK"


class CardError(SodError):
    """Ranks that have no card each."""

    on_all_ranks = True


def join() -> Ranks:
    """Meet the other processes that the launcher has started; CUDA's current device becomes this one's.

    Raises SodError where the environment that a launcher sets is not whole, or not all others come.
    """
    number, count, local = (_from_launcher(name) for name in (LAUNCHED, "WORLD_SIZE", "LOCAL_RANK"))
    if number >= count:
        raise SodError(f"RANK={number}: of WORLD_SIZE={count} ranks the last is {count - 1}; {_LAUNCH}")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards:
        torch.cuda.set_device(local % cards)
    try:
        if not distributed.is_initialized():
            store, _, _ = next(rendezvous("env://", number, count, timeout=MEETING))
            store.set_timeout(PATIENCE)
            backend = "cpu:gloo,cuda:nccl" if cards else "gloo"
            distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SodError(f"cannot meet the other ranks ({said:.200}); {_LAUNCH}") from error
    return Ranks(number, count, local)


def _from_launcher(name: str) -> int:
    """A number that a launcher has set. Raises SodError where it has not."""
    text = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
    if not text.isdecimal():
        raise SodError(f"{LAUNCHED} is set, and {name} is {repr(text) if text else 'not'}; {_LAUNCH}")
    return int(text)


def prove_cards(ranks: Ranks) -> None:
    """Have the CUDA devices that `join` has chosen pass a number around, before anything is loaded on them.

    All ranks call it; without CUDA it does nothing. Raises SodError where two ranks are on one card, which NCCL
    refuses, and where NCCL cannot connect them.
    """
    if not torch.cuda.is_available():
        return
    device = torch.device("cuda", torch.cuda.current_device())
    refuse_one_card(ranks.everybodys(str(torch.cuda.get_device_properties(device).uuid)))
    try:
        total = torch.ones(1, device=device)
        distributed.all_reduce(total)
        if int(total) != ranks.count:
            raise RuntimeError(f"{ranks.count} ones add up to {int(total)}")
    except RuntimeError as error:
        said = str(error).strip().splitlines()
        raise SodError(
            f"the ranks' cards cannot pass tensors to one another over NCCL ({said[-1]:.200}); NCCL_DEBUG=INFO says "
            "more; student.device=cpu does without"
        ) from error


def refuse_one_card(cards: list[str]) -> None:
    """`cards` are those of all ranks, by number. Raises CardError where one is there twice."""
    for number, card in enumerate(cards):
        other = cards.index(card)
        if other != number:
            raise CardError(
                f"ranks {other} and {number} are on one CUDA card, and each needs its own; set "
                f"parallel.shards={len(set(cards))}, as many as there are cards, or student.device=cpu"
            )


def teamed(ranks: Ranks, sequence: int) -> Ranks:
    """The ranks in teams of `sequence` neighbours, which share rows; all ranks call it, and it must divide them."""
    if sequence == 1:
        return ranks
    link, _ = distributed.new_subgroups(group_size=sequence, timeout=PATIENCE)
    return replace(ranks, team=Team(sequence, ranks.number % sequence, link))


def leave() -> None:
    """Part from the other processes, where there are any, which do so too."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def break_off() -> None:
    """Part from the other processes after a failure here: they may wait for what this one will never send.

    NCCL's own end would wait for them in turn, gloo's does not.
    """
    if not distributed.is_initialized():
        return
    if torch.cuda.is_available():
        distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cuda")).abort()
    else:
        distributed.destroy_process_group()


def shard(model: Any, ranks: Ranks) -> None:
    """Leave a piece of each of the model's weights here, in place; all ranks call it with the same weights.

    What is trained becomes float32. `model` is a Hugging Face causal LM on this rank's device; its layers may already
    be set to recompute, or be compiled. Raises SodError for an architecture whose layers transformers does not mark,
    and where ranks have read other weights.
    """
    computing = model.dtype
    refuse_other_weights(model, ranks, "student")
    packs(model)  # proven while the weights are whole
    cut_rows(model, ranks, "student")
    mesh = init_device_mesh(model.device.type, (ranks.count,))
    policy = MixedPrecisionPolicy(param_dtype=computing, reduce_dtype=torch.float32)
    for part in (*decoder_layers(model, "parallel.shards"), model):
        _to_float32(part)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    setattr(model, _RUN, MethodType(_run, model))
    register_fsdp_forward_method(model, _RUN)
    mark_sharded(model, Sharding(_runner(model), computing))


def gather_into(whole: Any | None, model: Any) -> None:
    """Copy the trained weights of a sharded model into `whole`, a plain model of the same names, on rank 0.

    One weight at a time is put together, so that it takes no more than the largest of them. All ranks call it, the
    others with None.
    """
    weights = {} if whole is None else dict(whole.named_parameters())
    model.reshard()  # after a forward without a backward some are together, in the precision that it computes in
    with torch.no_grad():
        for name, piece in model.named_parameters():
            if not piece.requires_grad:
                continue
            value = whole_tensor(piece)
            if whole is not None:
                weights[name].copy_(value)


def like_pieces(tensor: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    """A whole tensor, in pieces as `piece` is; itself where that is whole. Nothing is sent: each rank has all of it."""
    if not isinstance(piece, DTensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    moved = tensor.to(piece.device)
    return distribute_tensor(moved, piece.device_mesh, piece.placements, src_data_rank=None)


def _to_float32(part: Any) -> None:
    """What is trained, and not yet in pieces."""
    for weight in part.parameters():
        if weight.requires_grad and not isinstance(weight, DTensor):
            weight.data = weight.data.float()


def _run(model: Any, work: Callable[[], Any]) -> Any:
    return work()


def _runner(model: Any) -> Callable[[Callable[[], Any]], Any]:
    """`model` runs work as its forward. Without a reference of the model to itself, which would keep it for ever."""
    from weakref import ref

    weak = ref(model)

    def run(work: Callable[[], Any]) -> Any:
        alive = weak()
        return getattr(alive, _RUN)(work)

    return run
