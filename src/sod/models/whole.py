"""A model from its configuration and a state dict: checked against each other, then written as a plain directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import transformers
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, logging

from sod.models.architecture import in_one_line, whole_config
from sod.models.source import find_model, first_line, read_object
from sod.records import SodError

_BESIDE = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken"})
"""Suffixes of what belongs to a model beside its weights: configuration, tokenizer, templates, processors."""
_NOT_BESIDE = (
    *(".index.json", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json"),
    *("fsdp_config.json", "lora_train_meta.json", "adapter_config.json", "requirements.txt", "iteration.txt"),
)
"""Ends of the names of what trainers write beside them. An adapter's would make the whole model one."""
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
)
_DTYPES = ("dtype", "torch_dtype")
_CRITICS = ("score.", "v_head.", "pretrained_model.", "value_head.")
"""How names of a critic's weights begin that no model which writes text has."""


@final
@dataclass(frozen=True)
class Outline:
    """A model without weights, by the configuration in the directory `home`, and the shapes of its weights by name."""

    home: Path
    model: Any
    shapes: Mapping[str, tuple[int, ...]]


def outline(home: Path, weights: list[Path]) -> Outline:
    """The outline of the model whose configuration and tokenizer are in `home`; `weights` are the files it is to fill.

    Raises SodError naming `home` for what is missing there, for an architecture that transformers does not have, and
    for a configuration that claims more than the files can hold.
    """
    find_model(str(home), "tokenizer.json")
    config = whole_config(find_model(str(home), "config.json", weights))
    kind = _kind(config, home)
    with in_one_line(config, str(home), "cannot be made from its configuration"), torch.device("meta"):
        model = kind(config)
    if model.can_generate():
        model.generation_config = read_generation_config(home) or model.generation_config
    return Outline(home, model, {name: tuple(weight.shape) for name, weight in model.state_dict().items()})


def read_generation_config(home: Path) -> GenerationConfig | None:
    """That of a model's directory, None where there is none. Raises SodError naming the file."""
    path = home / GENERATION_CONFIG_NAME
    if not path.is_file():
        return None
    read_object(path, str(path))
    try:
        return GenerationConfig.from_pretrained(str(home))
    except Exception as error:  # transformers raises whatever its classes make of the values
        raise SodError(f"{path}: transformers cannot use it ({first_line(error):.160}); correct it") from error


def keep_config(home: Path, model: Any, directory: Path) -> None:
    """Write the model's config.json, which transformers has just written, as it was in `home`, but for the precision.

    transformers writes it in the words of its own version, which earlier ones, and what is built on them, misread: of
    `rope_parameters` they know nothing and take the default for `rope_theta`. May raise OSError and SodError.
    """
    before = {**read_object(home / CONFIG_NAME, f"{home}/{CONFIG_NAME}")}
    if before.get("model_type") != model.config.model_type:
        return  # the language model of one of several parts
    dtype = str(model.dtype).removeprefix("torch.")
    key = "torch_dtype" if str(before.get("transformers_version", "5")).startswith("4") else "dtype"
    before.setdefault(next((known for known in _DTYPES if known in before), key), dtype)
    for section in (before, *(value for value in before.values() if isinstance(value, dict))):
        section.update({known: dtype for known in _DTYPES if known in section})
    if getattr(model.config, "quantization_config", None) is None:
        before.pop("quantization_config", None)
    before["architectures"] = [type(model).__name__]
    text = json.dumps(before, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")


def keep_tokenizer(home: Path, directory: Path) -> None:
    """Put the tokenizer's files, which transformers has just written, back to what they are in `home`, where here.

    May raise OSError.
    """
    for name in _TOKENIZER:
        if (home / name).is_file():
            shutil.copy(home / name, directory)


def save_whole(plan: Outline, state: dict[str, Tensor], directory: Path, asked: str) -> None:
    """Write the weights of `state`, which is used up, with all that lies beside the configuration.

    Each weight keeps its precision; config.json names that of most numbers. Raises SodError naming `asked` where
    weights and configuration do not fit together. May raise OSError.
    """
    _refuse_critic(plan, state, asked)
    tied = _untied(plan, state, asked)
    if set(state) == plan.shapes.keys() - tied:
        _refuse_shapes(plan, state, asked)
        model = plan.model.to(_main_dtype(state))  # config.json says so
    else:
        model = _renamed(plan, state, asked)
        state = {name: weight for name, weight in model.state_dict().items() if name not in tied}
    for file in plan.home.iterdir():
        if file.is_file() and file.suffix in _BESIDE and not file.name.endswith(_NOT_BESIDE):
            shutil.copy(file, directory)
    model.save_pretrained(directory, state_dict=state)
    keep_config(plan.home, model, directory)


def _kind(config: Any, home: Path) -> Any:
    """The class of transformers that the configuration names; without a name, the causal language model."""
    names = getattr(config, "architectures", None) or [None]
    if not isinstance(names, list) or not isinstance(names[0], str | None):
        raise SodError(f"{home}/config.json: architectures is not a list of names; correct it")
    named = names[0] and names[0].removeprefix("FSDP")  # fully_shard makes a class of that name
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) if named is None else getattr(transformers, named, None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise SodError(
            f"{home}/config.json: architecture {named or config.model_type!r} is not one of transformers "
            f"{transformers.__version__}; install a version that has it"
        )
    return kind


def _refuse_critic(plan: Outline, state: Mapping[str, Tensor], asked: str) -> None:
    strange = next((name for name in state if name.startswith(_CRITICS) and name not in plan.shapes), None)
    if strange is not None:
        raise SodError(
            f"{asked}: a critic ({strange}), which gives values and writes no text, where {plan.home}/config.json "
            "describes a model that does; name the actor's directory"
        )


def _untied(plan: Outline, state: dict[str, Tensor], asked: str) -> set[str]:
    """The names that stand for another weight, taken out of `state`. Raises SodError where they are other numbers."""
    pairs: Mapping[str, str] = getattr(plan.model, "all_tied_weights_keys", None) or {}
    for copy, source in pairs.items():
        if copy in state and source not in state:
            state[source] = state[copy]
        own = state.pop(copy, None)
        if own is not None and not torch.equal(own, state[source]):
            raise SodError(
                f"{asked}: {copy} and {source} are other numbers, and config.json says that they are one; set "
                f"tie_word_embeddings to false in {plan.home}/config.json"
            )
    return set(pairs)


def _refuse_shapes(plan: Outline, state: Mapping[str, Tensor], asked: str) -> None:
    for name, weight in state.items():
        if tuple(weight.shape) != plan.shapes[name]:
            raise SodError(
                f"{asked}: {name} is of shape {tuple(weight.shape)}, and {plan.home}/config.json describes "
                f"{plan.shapes[name]}; put the config.json of this model there"
            )


def _renamed(plan: Outline, state: dict[str, Tensor], asked: str) -> Any:
    """The model filled with weights of other names, as other versions of transformers had; transformers knows those."""
    try:
        with _no_reports():
            model, report = type(plan.model).from_pretrained(
                None,
                config=plan.model.config,
                state_dict=state,
                dtype=_main_dtype(state),
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever its classes make of the weights
        raise SodError(f"{asked}: its weights are not those that config.json describes: {first_line(error)}") from error
    missing, other = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    misshapen = sorted(map(str, report["mismatched_keys"]))
    if missing or other or misshapen:
        problem = f"{missing[0]} is missing" if missing else f"{(other or misshapen)[0]} is not in it"
        raise SodError(
            f"{asked}: its weights are not those that {plan.home}/config.json describes ({problem}); put the "
            "config.json of this model there"
        )
    model.generation_config = plan.model.generation_config
    return model


@contextmanager
def _no_reports() -> Iterator[None]:
    """transformers prints a table of the names that do not fit, of which a line of ours names the first."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _main_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """That of most numbers."""
    sizes: dict[torch.dtype, int] = {}
    for weight in state.values():
        if weight.is_floating_point():
            sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
