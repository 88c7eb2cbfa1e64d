"""`sod models merge`: an adapter and its base model as one plain model directory."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from sod.models.adapters import is_adapter
from sod.models.load import load_model, load_tokenizer
from sod.models.lora import adapter_dtype, merged
from sod.records import SodError


def write_merged(path: str, directory: Path, asked: str) -> None:
    """Write the adapter directory `path` with its base model as a whole model, in the adapter's precision.

    Its tokenizer and generation config go with it. Raises SodError naming `asked`, as the user called it, where it is
    no adapter. May raise OSError.
    """
    if not is_adapter(path):
        raise SodError(
            f"{asked}: a whole model without an adapter, so there is nothing to merge; use it as it is ({path})"
        )
    tokenizer, dtype = load_tokenizer(path), adapter_dtype(path)
    model = merged(load_model(path, "float32")).to(dtype)
    if (Path(path) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
