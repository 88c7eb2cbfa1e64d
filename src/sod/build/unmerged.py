"""What `sod models merge` is given and cannot merge, told in one line that names what was found there."""

from __future__ import annotations

import re
from pathlib import Path

from sod.hub import is_hub_id
from sod.models.adapters import is_adapter
from sod.models.distributed_files import METADATA, find_distributed
from sod.models.shards import HOME, find_shards
from sod.models.source import first_line
from sod.recipe import Notice
from sod.records import SodError

TRACKER = "latest_checkpointed_iteration.txt"
_NUMBERED = re.compile(r"(global_step_|checkpoint[-_]|step[-_])(\d+)")
_INSIDE = ("actor", HOME, "lora_adapter", "critic")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MEGATRON = ("common.pt", "mp_rank_*", "iter_*/common.pt", "iter_*/mp_rank_*", "dist_ckpt", "actor/dist_ckpt")
_DEEPSPEED = ("zero_to_fp32.py", "*zero_pp_rank_*", "mp_rank_*_model_states.pt", "global_step*/*zero_pp_rank_*")


def of_run(place: Path, notice: Notice) -> Path:
    """The newest checkpoint, where `place` is the folder of a run of verl that says which; else `place`.

    Raises SodError where it is not there.
    """
    tracker = place / TRACKER
    if not tracker.is_file() or not any(place.glob("global_step_*")):
        return place
    try:
        newest = place / f"global_step_{int(tracker.read_text(encoding='utf-8'))}"
    except (OSError, ValueError) as error:
        raise SodError(f"{tracker}: holds no number of a step ({first_line(error):.80}); name a checkpoint") from error
    if not newest.is_dir():
        raise SodError(f"{tracker}: names {newest.name}, which is not there; {_suggested(place)}")
    notice(f"{place}: its newest checkpoint is taken, as {TRACKER} says: {newest}")
    return newest


def refuse_foreign(place: Path) -> None:
    """Raises SodError for the checkpoints of other trainers, which are not put together here."""
    if _is_whole(place):
        return
    megatron = _first(place, _MEGATRON)
    if megatron is not None and _is_whole(place / HOME):
        raise SodError(
            f"{place}: a checkpoint of Megatron ({megatron}), with the whole model beside it: {place / HOME}"
        )
    if megatron is not None:
        raise SodError(
            f"{place}: a checkpoint of Megatron ({megatron}), which is not merged here; convert it with Megatron's own "
            "tools, or verl's merger (python -m verl.model_merger merge --backend megatron)"
        )
    deepspeed = _first(place, _DEEPSPEED)
    if deepspeed is not None:
        raise SodError(
            f"{place}: shards of DeepSpeed ({deepspeed}), which are not merged here; its zero_to_fp32.py, which it "
            "writes beside them, puts them together"
        )


def nothing_to_merge(place: Path, asked: str) -> SodError:
    """The line for a path that holds nothing in parts."""
    if place.is_file():
        return SodError(f"{asked}: no such run or directory, but a file; name the directory that it is in")
    if not place.is_dir() and is_hub_id(asked):
        return SodError(f"{asked}: no such run or directory; one on the hub is whole, and can be named as it is")
    if not place.is_dir():
        return SodError(f"{asked}: no such run or directory; correct the path")
    cut_off = _first(place, ("*.distcp", "[!o]*/*.distcp", "*/*.distcp"))
    if cut_off is not None:
        return SodError(
            f"{asked}: {cut_off} is there, and no {METADATA} beside it, which is written last: saving was cut off, or "
            f"{METADATA} was not copied; copy it, or use an earlier checkpoint"
        )
    if _is_whole(place):
        return SodError(
            f"{asked}: a whole model without an adapter, so there is nothing to merge; use it as it is ({asked})"
        )
    inside = [place / name for name in _INSIDE if _holds_something(place / name)]
    if inside:
        return SodError(f"{asked}: holds nothing to merge itself; use or merge {' or '.join(map(str, inside))}")
    if _checkpoints(place):
        return SodError(f"{asked}: a folder of checkpoints; {_suggested(place)}")
    return SodError(
        f"{asked}: neither a run, a checkpoint or an adapter, nor shards: no model_world_size_N_rank_I.pt (verl), no "
        f"{METADATA} (torch.distributed.checkpoint); name the directory that holds such files"
    )


def _first(place: Path, patterns: tuple[str, ...]) -> str | None:
    """What lies in a directory under the first of these names that is there."""
    found = (path for pattern in patterns for path in sorted(place.glob(pattern)))
    return next((str(path.relative_to(place)) for path in found), None)


def _is_whole(place: Path) -> bool:
    return (place / "config.json").is_file() and _first(place, _WEIGHTS) is not None


def _holds_something(place: Path) -> bool:
    parts = find_shards(place) or find_distributed(place)
    return parts is not None or _is_whole(place) or is_adapter(str(place))


def _checkpoints(place: Path) -> list[Path]:
    """The folders of checkpoints in a run's, by their number."""
    matches = [(path, _NUMBERED.fullmatch(path.name)) for path in place.iterdir() if path.is_dir()]
    return [path for _, path in sorted((int(match[2]), path) for path, match in matches if match)]


def _suggested(place: Path) -> str:
    """Which of a run's checkpoints to name."""
    found = _checkpoints(place)
    whole = [path for path in found if find_shards(path) or find_distributed(path)]
    newest = (whole or found)[-1:]
    actor = [path / "actor" if path.name.startswith("global_step_") else path for path in newest]
    return f"name the one to merge, e.g. {actor[0]}" if actor else "name another checkpoint"
