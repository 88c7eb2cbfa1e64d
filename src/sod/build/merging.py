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

from sod.build.job import final_model
from sod.build.unmerged import nothing_to_merge, of_run, refuse_foreign
from sod.hub import is_hub_id
from sod.models.adapters import WEIGHTS, base_source, is_adapter, tokenizer_home
from sod.models.distributed_files import find_distributed, read_distributed, refuse_other_weights
from sod.models.load import Dtype, load_model, load_tokenizer, torch_dtype
from sod.models.lora import adapter_dtype, merged
from sod.models.shard_adapter import adapter_scale, added, has_wrapping
from sod.models.shards import HOME, find_shards, read_shards, shard_files
from sod.models.source import first_line
from sod.models.whole import keep_config, keep_tokenizer, outline, read_generation_config, save_whole
from sod.recipe import Notice
from sod.records import SodError
from sod.training.checkpoint import COMPLETE, MODEL, TRAINER, is_checkpoint, model_of, verify
from sod.training.shards import SHARDS

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
        raise SodError(
            f"{directory}: cannot be written ({_reason(error)}); choose a place with room, by --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reason(error: Exception) -> str:
    """Why something was not written; of a folder's files that of the first."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1]).partition(": ")[0]
    return str(getattr(error, "strerror", None) or first_line(error))


def _writer(asked: str, notice: Notice, dtype: Dtype | None) -> Callable[[Path], None]:
    """What writes the whole model into a directory, by what is at `asked`. Raises SodError as `write_merged`."""
    place = of_run(Path(asked), notice)
    path = final_model(asked, notice)
    if is_adapter(path) and not _is_beside_pieces(Path(path)):
        return lambda directory: _write_adapter(path, dtype, directory)
    if path != asked and is_hub_id(path):  # a short name that stands for one on the hub
        raise nothing_to_merge(Path(path), path)
    if path != asked or is_checkpoint(place):  # the older formats' checkpoints are model directories themselves
        return lambda directory: _write_whole(path, dtype, directory)
    if place.name == SHARDS and is_checkpoint(place.resolve().parent):
        return _own_shards_writer(place, dtype)
    refuse_foreign(place)
    shards = find_shards(place)
    if shards is not None:
        return lambda directory: _write_shards(shards, dtype, directory)
    distributed = find_distributed(place)
    if distributed is not None:
        return lambda directory: _write_distributed(distributed, dtype, directory)
    raise nothing_to_merge(place, asked)


def _own_shards_writer(place: Path, dtype: Dtype | None) -> Callable[[Path], None]:
    """For the pieces in a checkpoint of a run of ours, which must be whole. Raises SodError where it is broken."""
    checkpoint = place.resolve().parent
    verify(checkpoint)
    model = model_of(checkpoint)
    if is_adapter(str(model)):  # the pieces are the adapter's alone
        return lambda directory: _write_adapter(str(model), dtype, directory)
    return lambda directory: _write_distributed(place, dtype, directory)


def _is_beside_pieces(directory: Path) -> bool:
    """Whether only an adapter's settings are here, as trainers write them beside the pieces of the whole model."""
    return not (directory / WEIGHTS).is_file() and find_distributed(directory) is not None


def _write_adapter(path: str, dtype: Dtype | None, directory: Path) -> None:
    tokenizer, kept = load_tokenizer(path), adapter_dtype(path)
    model = merged(load_model(path, "float32")).to(kept if dtype is None else torch_dtype(dtype))
    _save(model, tokenizer, path, directory)
    base = Path(base_source(path).path)
    if base.is_dir():
        keep_config(base, model, directory)


def _write_whole(path: str, dtype: Dtype | None, directory: Path) -> None:
    """A copy, bit for bit where no other precision is asked for."""
    if dtype is None:
        try:
            shutil.copytree(path, directory, dirs_exist_ok=True, ignore=lambda folder, names: {*names} & _TRAINERS)
        except OSError as error:
            if Path(path).is_dir() and any(Path(path).glob("*.safetensors")):
                raise
            raise SodError(
                f"{path}: was removed before it was copied, as a run that goes on does with its older checkpoints; "
                "give the command again"
            ) from error
    else:
        model = load_model(path, dtype)
        _save(model, load_tokenizer(path), path, directory)
        keep_config(Path(path), model, directory)


def _save(model: Any, tokenizer: Any, path: str, directory: Path) -> None:
    model.generation_config = read_generation_config(Path(path)) or model.generation_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    keep_tokenizer(Path(tokenizer_home(path)), directory)


def _write_shards(place: Path, dtype: Dtype | None, directory: Path) -> None:
    """verl's shards."""
    files = shard_files(place)
    plan = outline(_home_of(place), files)
    state = _without_adapter(read_shards(files, plan.shapes), place)
    save_whole(plan, _in(dtype, state), directory, str(place))


def _write_distributed(place: Path, dtype: Dtype | None, directory: Path) -> None:
    refuse_other_weights(place)
    plan = outline(_home_of(place), sorted(place.glob("*.distcp")))
    state = _without_adapter(read_distributed(place, plan.shapes), place)
    save_whole(plan, _in(dtype, state), directory, str(place))


def _without_adapter(state: dict[str, Tensor], place: Path) -> dict[str, Tensor]:
    """The weights with the adapter that is among them added, where there is one."""
    return added(state, adapter_scale(place), str(place)) if has_wrapping(state) else state


def _in(dtype: Dtype | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a precision, None for the one that they have; what is no fraction stays as it is."""
    if dtype is None:
        return state
    wanted = torch_dtype(dtype)
    return {name: weight.to(wanted) if weight.is_floating_point() else weight for name, weight in state.items()}


def _home_of(place: Path) -> Path:
    """Where configuration and tokenizer of sharded weights are. Raises SodError naming where they should be."""
    above = place.resolve().parent
    homes = [*(place / name for name in _HOMES), *(above / name for name in _HOMES), above.parent]
    for home in homes:
        if (home / "config.json").is_file():
            return home
    raise SodError(
        f"{place / HOME}: no config.json for these weights, there, beside them or above; copy config.json and the "
        "tokenizer of the model that was trained into it"
    )
