"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: a small trained change of a model whose weights stay.

peft's layers are put into the Hugging Face model itself (`inject_adapter_in_model`), so that it stays one: whatever
scores, samples, recomputes or limits a model works on it as before. peft is imported where it is needed alone: it is an
optional package, and slow to import.

Adapters are in the model's own precision; the optimizer keeps float32 masters of them, as it does of whole models.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from sod.models.adapters import CONFIG, WEIGHTS, base_source, read_adapter
from sod.models.architecture import in_one_line, read_config
from sod.models.source import first_line
from sod.recipe import LoraSpec
from sod.records import SodError
from sod.seeds import derive

NAME = "default"  # of the adapter inside a model; files do not have it
MARK = ".lora_"  # in the names of an adapter's weights
PREFIX = "base_model.model."  # of their names in peft's files
BASE = "base_model.sha256"  # the file beside them that says which weights they were trained on
SAMPLED = 64  # numbers of each weight that `fingerprint` looks at
HARMLESS = frozenset(
    {"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "init_lora_weights"}
    | {"lora_alpha", "lora_dropout", "peft_type", "peft_version", "r", "revision", "target_modules", "task_type"}
    | {"alpha_pattern", "layers_pattern", "layers_to_transform", "rank_pattern", "use_rslora", "exclude_modules"}
)
"""Settings of a saved adapter that may have any value; all others must be peft's defaults."""


# --- what is adapted -------------------------------------------------------------------------------


def skeleton(path: str) -> Any:
    """The model at `path` without weights (on the meta device), by its configuration. Raises SodError naming it."""
    config = read_config(base_source(path))
    with in_one_line(config, path, "cannot be made from its configuration"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def chosen_targets(model: Any, spec: LoraSpec, where: str) -> list[str]:
    """The names of the linear layers that get an adapter, as peft matches them: whole names or their last parts.

    Raises SodError naming the key and a few layers of the model, that of `where`, for a name that matches none of the
    decoder's, or something else beside them.
    """
    inside = {id(module) for module in model.get_decoder().modules()}
    modules = dict(model.named_modules())
    linear = [name for name, m in modules.items() if isinstance(m, torch.nn.Linear | Conv1D) and id(m) in inside]
    last = sorted({name.rpartition(".")[2] for name in linear})
    if spec.targets is None:
        unsafe = [name for name in last if not set(_matching(name, modules)) <= set(linear)]
        return [*(name for name in last if name not in unsafe), *(n for n in linear if n.rpartition(".")[2] in unsafe)]
    for target in spec.targets:
        found = _matching(target, modules)
        if not found or not set(found) <= set(linear):
            what = "matches nothing" if not found else "is no linear layer of the decoder"
            raise SodError(f"student.lora.targets: {target!r} {what} in {where}; it has {', '.join(last)}")
    return list(spec.targets)


def _matching(target: str, modules: Mapping[str, Any]) -> list[str]:
    """Names of modules that peft takes a target for."""
    return [name for name in modules if name == target or name.endswith(f".{target}")]


def refuse_other_adapter(path: str, spec: LoraSpec) -> None:
    """Raises SodError where the adapter in `path` is not one that `spec` describes, and so cannot be trained on."""
    config = read_adapter(path).config
    wanted: dict[str, Any] = {"r": spec.rank, "lora_alpha": spec.scale_alpha}
    has, named = config.get("target_modules"), set(chosen_targets(skeleton(path), spec, path))
    differing = [
        f"{key} {config.get(key)} there, {value} here" for key, value in wanted.items() if config.get(key) != value
    ]
    if not isinstance(has, list) or set(has) != named:
        theirs = ", ".join(sorted(has)) if isinstance(has, list) else has
        differing.append(f"targets {theirs} there, {', '.join(sorted(named))} here")
    if differing:
        raise SodError(
            f"student.lora: {path} holds an adapter of another kind ({'; '.join(differing)}); set rank, alpha and "
            "targets to its own, or merge it first (`sod models merge`)"
        )


# --- in and out of a model -------------------------------------------------------------------------


def has_adapter(model: Any) -> bool:
    """Whether a model carries an adapter."""
    return any(MARK in name for name, _ in model.named_parameters())


def own_weights(model: Any) -> list[Any]:
    """The weights that a model does not share: those of its adapter, or all where it has none."""
    named = list(model.named_parameters())
    adapter = [weight for name, weight in named if MARK in name]
    return adapter or [weight for _, weight in named]


def new_adapter(model: Any, spec: LoraSpec, seed: int, where: str) -> None:
    """Freeze `model`, in place, and give it an adapter to train: one that changes nothing yet, drawn by `seed`.

    Raises SodError as `chosen_targets`.
    """
    from peft import LoraConfig

    targets = chosen_targets(model, spec, where)
    chosen = [m for n, m in model.named_modules() if any(n == t or n.endswith(f".{t}") for t in targets)]
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.scale_alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in chosen),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
    )
    with torch.random.fork_rng(_cuda_devices()):
        torch.manual_seed(derive(seed, "lora"))
        _inject(model, config)


def load_adapter(model: Any, path: str, dropout: float = 0.0) -> None:
    """Freeze `model`, in place, and give it the adapter saved in `path`. Raises SodError naming that, as `set_adapter`.

    Its own dropout is what it was trained with before; `dropout` is that of what comes.
    """
    from peft import LoraConfig

    saved = read_adapter(path)
    defaults = asdict(LoraConfig())
    strange = [key for key, value in saved.config.items() if key not in HARMLESS and value != defaults.get(key)]
    strange = [key for key in strange if saved.config[key] or key in defaults]  # what a later peft has and does not use
    if strange or not isinstance(saved.config.get("init_lora_weights", True), bool):
        raise SodError(
            f"{path}/{CONFIG}: {(strange or ['init_lora_weights'])[0]} makes it more than a plain low-rank adapter; "
            "merge it into its model with peft (merge_and_unload), and name the directory that this gives"
        )
    known = {key: value for key, value in saved.config.items() if key in HARMLESS and key in defaults}
    with _one_line(path):
        config = LoraConfig(**(known | {"lora_dropout": dropout, "inference_mode": False, "auto_mapping": None}))
        config.base_model_name_or_path = model.name_or_path
        _inject(model, config)
    set_adapter(model, path)


def set_adapter(model: Any, path: str) -> None:
    """Set the adapter's weights to those saved in `path`.

    Raises SodError naming it where they are not those of such an adapter, or were trained on another base model.
    """
    saved, base = _read_weights(path), Path(path) / BASE
    if base.is_file() and base.read_text(encoding="utf-8", errors="replace").strip() != fingerprint(model):
        raise SodError(
            f"{path}: was trained on other weights than {model.name_or_path} has now; put those back, or set "
            f"base_model_name_or_path in {CONFIG} to where they are"
        )
    mine = _saved_names(model)
    shapes = {name: weight.shape for name, weight in saved.items()}
    if shapes != {name: weight.shape for name, weight in mine.items()}:
        other = sorted(shapes.keys() ^ mine.keys()) or [n for n in mine if mine[n].shape != shapes[n]]
        raise SodError(
            f"{path}/{WEIGHTS}: is not the adapter of {model.name_or_path} that {CONFIG} describes ({other[0]})"
        )
    with torch.no_grad():
        for name, weight in mine.items():
            weight.copy_(saved[name])


def adapter_dtype(path: str) -> torch.dtype:
    """The precision of the adapter saved in `path`. Raises SodError naming it where it cannot be read."""
    return next(iter(_read_weights(path).values())).dtype


def save_adapter(model: Any, directory: Path) -> None:
    """Write a model's adapter as peft reads it, with the name of its base model. May raise OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in _saved_names(model).items()}
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    (directory / BASE).write_text(f"{fingerprint(model)}\n", encoding="utf-8")
    config = model.peft_config[NAME].to_dict() | {"inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (directory / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True), encoding="utf-8")
    model.generation_config.save_pretrained(directory)


def fingerprint(model: Any) -> str:
    """sha256 (hex) of a sample of the weights under an adapter, the same in every precision that they are loaded in."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if MARK not in name:
            every = max(1, weight.numel() // SAMPLED)
            sample = weight.detach().reshape(-1)[::every][:SAMPLED].to("cpu", torch.bfloat16)
            digest.update(f"{name.replace('.base_layer.', '.')} {tuple(weight.shape)}".encode())
            digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _read_weights(path: str) -> dict[str, Tensor]:
    """The weights in an adapter directory by their names there."""
    try:
        with safe_open(Path(path) / WEIGHTS, "pt") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError) as error:
        raise SodError(f"{path}/{WEIGHTS}: cannot be read ({first_line(error)}); restore the file") from error
    if not saved:
        raise SodError(f"{path}/{WEIGHTS}: holds no weights; restore the file")
    return saved


def _inject(model: Any, config: Any) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, NAME)
    for _, layer in _adapted_layers(model):
        if config.lora_dropout > 0.0:
            layer.lora_dropout[NAME] = UpdateDropout(config.lora_dropout)
    for name, weight in model.named_parameters():
        weight.requires_grad_(MARK in name)
        if MARK in name:
            weight.data = weight.data.to(model.dtype)  # peft makes them float32
    model.eval()


def _saved_names(model: Any) -> dict[str, Tensor]:
    """The adapter's weights under their names in peft's files."""
    named = ((name, weight) for name, weight in model.named_parameters() if MARK in name)
    return {PREFIX + name.replace(f".{NAME}.", "."): weight for name, weight in named}


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """Turns what peft makes of settings that it does not understand into one line."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise SodError(f"{path}/{CONFIG}: peft cannot use it ({first_line(error)}); correct it") from error


# --- the model without it, and the two in one ------------------------------------------------------


def shared_copy(model: Any) -> Any:
    """The model as it is now, over the same frozen weights, with an adapter of its own: frozen, in eval mode.

    Training the one leaves the other as it is. Only the adapter takes memory.
    """
    shared = {id(weight): weight for name, weight in model.named_parameters() if MARK not in name}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def second_model(model: Any) -> Any:
    """The model as it is now with weights of its own, frozen, in eval mode; with an adapter, of the adapter alone."""
    return shared_copy(model) if has_adapter(model) else copy.deepcopy(model).requires_grad_(False).eval()


def take_weights(model: Any, source: Any) -> None:
    """Set the weights of `model`, a `second_model`, to those that `source` has now."""
    with torch.no_grad():
        for own, theirs in zip(own_weights(model), own_weights(source), strict=True):
            own.copy_(theirs)


def without_adapter(model: Any) -> Any:
    """Take the adapter out of `model`, in place, and return it: its base model, frozen or not as it was."""
    for name, layer in _adapted_layers(model):
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    return model


def merged(model: Any) -> Any:
    """Add the adapter to the weights of `model`, in place, and return it: a plain model, all of it to be trained.

    The sum is made in float32 and rounded once.
    """
    with torch.no_grad():
        for _, layer in _adapted_layers(model):
            layer.lora_A.float()
            layer.lora_B.float()
            weight = layer.get_base_layer().weight
            weight.copy_(weight.float() + layer.get_delta_weight(NAME))
    return without_adapter(model).requires_grad_(True)


def merged_state(model: Any) -> dict[str, Tensor]:
    """The weights that `merged` would give, under their names in the plain model. The model stays as it is.

    Those that have no adapter are the model's own tensors. Tied ones are there under each of their names.
    """
    if not has_adapter(model):
        return dict(model.state_dict())
    state = {
        name.replace(".base_layer.", "."): weight for name, weight in model.state_dict().items() if MARK not in name
    }
    with torch.no_grad():
        for name, layer in _adapted_layers(model):
            weight = layer.get_base_layer().weight
            change = layer.get_delta_weight(NAME).float()
            state[f"{name}.weight"] = (weight.float() + change).to(weight.dtype)
    return state


@final
class UpdateDropout(torch.nn.Dropout):
    """Dropout of forwards that a gradient is taken from, and of no others: what is sampled, scored or proven has none.

    Nor does such a forward draw from the generator, so that those of an update have the noise that they would have
    without it.
    """

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value) if torch.is_grad_enabled() else value


@contextmanager
def dropping(model: Any, seed: int, step: int) -> Iterator[None]:
    """Inside, forwards and backwards of an update have the adapter's dropout; nothing happens for a model without.

    The noise is drawn by (seed, step) and by the order of the forwards. Torch's own generators are as they were after.
    """
    layers = [module for module in model.modules() if isinstance(module, UpdateDropout)]
    if not layers:
        yield
        return
    with torch.random.fork_rng(_cuda_devices()):
        torch.manual_seed(derive(seed, "dropout", step))
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


def _cuda_devices() -> list[int]:
    """The CUDA devices whose generators `torch.manual_seed` sets too."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _adapted_layers(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
