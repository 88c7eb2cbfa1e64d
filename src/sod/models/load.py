"""Models and tokenizers in and out of directories, with errors that name the directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from sod.models.score import check_projection
from sod.records import SodError

transformers_logging.disable_progress_bar()  # our own progress display is enough

Dtype = Literal["float32", "bfloat16"]


def torch_dtype(name: Dtype) -> torch.dtype:
    """`float32` or `bfloat16` as a torch dtype."""
    return torch.float32 if name == "float32" else torch.bfloat16


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a local directory or hub id. Raises SodError naming `path`."""
    _refuse_missing(path, "tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise SodError(f"{path}: cannot load a tokenizer: {_first_line(error)}") from error


def load_model(path: str, dtype: Dtype) -> Any:
    """The causal language model of a local directory or hub id, in eval mode.

    Raises SodError naming `path` when it is missing, cut short, or does something to its logits that
    chunked scoring does not know.
    """
    _refuse_missing(path, "config.json")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(dtype), output_loading_info=True)
    except Exception as error:  # safetensors, transformers and torch each raise kinds of their own
        raise SodError(f"{path}: cannot load a model: {_first_line(error)}") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would leave them random
        missing = sorted(report["missing_keys"])
        raise SodError(f"{path}: {len(missing)} weights are missing, e.g. {missing[0]}; the file is not whole")
    model.eval()
    check_projection(model, path)
    return model


def save_model(model: Any, tokenizer: Any, template: str | None, end_id: int, directory: Path) -> None:
    """Write model and tokenizer so that plain `from_pretrained` (and vLLM) reads them as they were trained.

    The chat template in use and the end-of-turn token are written with them. May raise OSError.
    """
    if template is not None:
        tokenizer.chat_template = template
    model.generation_config = GenerationConfig(eos_token_id=end_id, pad_token_id=model.config.pad_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def check_compatible(student: Any, teacher: Any, student_path: str, teacher_path: str) -> None:
    """Refuse a teacher whose tokens are not the student's: log-probabilities would be of other tokens.

    Compares tokenizers only, so it runs before any weights are read. Raises SodError.
    """
    ours: Mapping[str, int] = student.get_vocab()
    theirs: Mapping[str, int] = teacher.get_vocab()
    if ours != theirs:
        different = [t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t)]
        example = min(different, key=lambda t: (ours.get(t, 1 << 40), t))
        raise SodError(
            f"{teacher_path}: the teacher's vocabulary differs from the student's ({student_path}) in "
            f"{len(different)} tokens, e.g. {example!r} is {ours.get(example)} there and {theirs.get(example)} here; "
            "use a teacher of the same tokenizer"
        )
    if student.eos_token_id != teacher.eos_token_id:
        raise SodError(
            f"{teacher_path}: the teacher's EOS is {teacher.eos_token!r} ({teacher.eos_token_id}), the student's "
            f"({student_path}) {student.eos_token!r} ({student.eos_token_id}); make them equal in tokenizer_config.json"
        )


def _refuse_missing(path: str, needed: str) -> None:
    directory = Path(path)
    looks_like_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not directory.parent.exists()
    if directory.is_dir():
        if not (directory / needed).is_file():
            raise SodError(f"{path}: not a model directory ({needed} is missing)")
        if needed == "config.json":
            try:
                json.loads((directory / needed).read_text(encoding="utf-8"))
            except ValueError as error:
                raise SodError(f"{path}/{needed}: cut short or not JSON: {error}") from error
    elif not looks_like_hub_id:
        raise SodError(f"{path}: no such model directory")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
