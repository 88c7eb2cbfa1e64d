"""`sod models merge`: what training left in parts, as one plain model directory.

Parts are an adapter beside its base model, FSDP's shards as verl saves them, and a directory of
torch.distributed.checkpoint. The checkpoint of a run that trains all weights is whole already and is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from sod.build.job import final_model
from sod.models.adapters import is_adapter
from sod.models.distributed_files import METADATA, find_distributed, read_distributed
from sod.models.load import Dtype, load_model, load_tokenizer, torch_dtype
from sod.models.lora import adapter_dtype, merged
from sod.models.shard_adapter import adapter_scale, added, has_wrapping
from sod.models.shards import HOME, find_shards, read_shards, shard_files
from sod.models.whole import outline, save_whole
from sod.recipe import Notice
from sod.records import SodError
from sod.training.checkpoint import COMPLETE, MODEL, TRAINER, is_checkpoint

_HOMES = (".", MODEL, HOME)
"""Where the configuration of sharded weights lies, seen from them or from the directory above."""
_TRAINERS = frozenset({COMPLETE, TRAINER})
"""What checkpoints of the older formats have beside the model's own files."""


def write_merged(asked: str, directory: Path, notice: Notice, dtype: Dtype | None = None) -> None:
    """Write what is at `asked`, a run or a directory, as a whole model with its tokenizer and chat template.

    The weights keep the precision that they were saved in, an adapter's sum has the adapter's, where no `dtype` is
    given. The directory, which must not be there or be empty, appears whole or not at all. Raises SodError naming what
    is at `asked` and cannot be merged, and where the directory cannot be written.
    """
    write, directory = _writer(asked, notice, dtype), directory.resolve()
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise SodError(f"{directory}: cannot be written ({reason}); choose a place with room, by --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _writer(asked: str, notice: Notice, dtype: Dtype | None) -> Callable[[Path], None]:
    """What writes the whole model into a directory, by what is at `asked`. Raises SodError as `write_merged`."""
    place = Path(asked)
    path = final_model(asked, notice)
    if is_adapter(path):
        return lambda directory: _write_adapter(path, dtype, directory)
    if path != asked or is_checkpoint(place):  # the older formats' checkpoints are model directories themselves
        return lambda directory: _write_whole(path, dtype, directory)
    shards = find_shards(place)
    if shards is not None:
        return lambda directory: _write_shards(shards, dtype, directory)
    distributed = find_distributed(place)
    if distributed is not None:
        return lambda directory: _write_distributed(distributed, dtype, directory)
    raise _nothing_to_merge(asked)


def _write_adapter(path: str, dtype: Dtype | None, directory: Path) -> None:
    tokenizer, kept = load_tokenizer(path), adapter_dtype(path)
    model = merged(load_model(path, "float32")).to(kept if dtype is None else torch_dtype(dtype))
    _save(model, tokenizer, path, directory)


def _write_whole(path: str, dtype: Dtype | None, directory: Path) -> None:
    """A copy, bit for bit where no other precision is asked for."""
    if dtype is None:
        shutil.copytree(path, directory, dirs_exist_ok=True, ignore=lambda folder, names: {*names} & _TRAINERS)
    else:
        _save(load_model(path, dtype), load_tokenizer(path), path, directory)


def _save(model: Any, tokenizer: Any, path: str, directory: Path) -> None:
    if (Path(path) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _write_shards(place: Path, dtype: Dtype | None, directory: Path) -> None:
    """verl's shards."""
    files = shard_files(place)
    plan = outline(_home_of(place), files)
    state = read_shards(files, plan.shapes)
    if has_wrapping(state):
        state = added(state, adapter_scale(place), str(place))
    save_whole(plan, _in(dtype, state), directory, str(place))


def _write_distributed(place: Path, dtype: Dtype | None, directory: Path) -> None:
    plan = outline(_home_of(place), sorted(place.glob("*.distcp")))
    save_whole(plan, _in(dtype, read_distributed(place, plan.shapes)), directory, str(place))


def _in(dtype: Dtype | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a precision, None for the one that they have; what is no fraction stays as it is."""
    if dtype is None:
        return state
    wanted = torch_dtype(dtype)
    return {name: weight.to(wanted) if weight.is_floating_point() else weight for name, weight in state.items()}


def _home_of(place: Path) -> Path:
    """Where configuration and tokenizer of sharded weights are. Raises SodError naming where they should be."""
    above = place.resolve().parent
    homes = [place / name for name in _HOMES] + [above / name for name in _HOMES]
    for home in homes:
        if (home / "config.json").is_file():
            return home
    raise SodError(
        f"{place / HOME}: no config.json for these weights, there, beside them or above; copy config.json and the "
        "tokenizer of the model that was trained into it"
    )


def _nothing_to_merge(asked: str) -> SodError:
    """The line for a path that holds nothing in parts."""
    place = Path(asked)
    if not place.is_dir():
        return SodError(f"{asked}: no such run or directory; correct the path")
    if (place / "config.json").is_file():
        return SodError(
            f"{asked}: a whole model without an adapter, so there is nothing to merge; use it as it is ({asked})"
        )
    steps = sorted(place.glob("global_step_*"))
    if steps:
        return SodError(f"{asked}: a folder of verl's checkpoints; name the one to merge, e.g. {steps[-1] / 'actor'}")
    return SodError(
        f"{asked}: neither a run, a checkpoint or an adapter, nor shards: no model_world_size_N_rank_I.pt (verl), no "
        f"{METADATA} (torch.distributed.checkpoint); name the directory that holds such files"
    )
