"""Models and tokenizers in and out of directories, with errors that name the directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from sod.models.adapters import base_source, is_adapter, tokenizer_home
from sod.models.architecture import language_options, read_config, refuse_unscored
from sod.models.lora import has_adapter, load_adapter, save_adapter
from sod.models.memory import short_of_memory
from sod.models.score import check_projection
from sod.models.source import Source, find_model, first_line
from sod.models.support import Support, limit_to, vocabulary
from sod.records import SodError

transformers_logging.disable_progress_bar()  # our own progress display is enough

Dtype = Literal["float32", "bfloat16"]
HEAD = "lm_head.weight"


def torch_dtype(name: Dtype) -> torch.dtype:
    """`float32` or `bfloat16` as a torch dtype."""
    return torch.float32 if name == "float32" else torch.bfloat16


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a local directory or hub id, which decodes what there is: no space is tidied away.

    Raises SodError naming `path`.
    """
    source = find_model(tokenizer_home(path), "tokenizer.json")
    with one_line(f"{path}: cannot load a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
    # Llama 3's files ask for it. Some versions of transformers do as they ask, others warn that they do not.
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def vocabulary_rows(path: str) -> int | None:
    """How many rows for tokens the model's configuration promises; None where it does not say. Reads no weights.

    Raises SodError naming `path`.
    """
    rows = getattr(read_config(base_source(path)).get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def load_model(
    path: str,
    dtype: Dtype,
    support: Support | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Any:
    """The causal language model of a local directory or hub id, in eval mode, on a device; of an adapter, its base
    model with it.

    Of a model of text and images it is the language model alone. Its distributions are over the `support`, that of its
    tokenizer; without one, over all rows of its output embedding.
    Raises SodError naming `path` when it is missing, cut short, or of an architecture that chunked scoring does not
    know (before its weights are read where its configuration tells), and where it has fewer rows than the support.
    """
    source = base_source(path)
    refuse_unscored(read_config(source), path)
    with one_line(f"{path}: cannot load a model"):
        model, missing = _read_model(source, dtype)
    if missing:  # transformers would leave them random
        raise SodError(f"{path}: {len(missing)} weights are missing, e.g. {missing[0]}; the file is not whole")
    model.to(device).eval()
    check_projection(model, path)
    if support is not None:
        limit_to(model, support, path)
    if is_adapter(path):
        load_adapter(model, path)
    return model


def _read_model(source: Source, dtype: Dtype) -> tuple[Any, list[str]]:
    """A causal language model, or the one in a model of text and images, and the weights that were not there."""
    alone = language_options(source)
    options = {"dtype": torch_dtype(dtype), "output_loading_info": True, **source.options}
    loaded: Any = AutoModelForCausalLM.from_pretrained(source.path, **options, **alone)
    if alone and loaded[1]["missing_keys"] == {HEAD}:
        # Whether embeddings are tied may stand in the configuration of the whole alone.
        alone["config"].tie_word_embeddings = True
        loaded = AutoModelForCausalLM.from_pretrained(source.path, **options, **alone)
    model, report = loaded
    if alone:
        model._weight_conversions = None  # else it would be saved under the names that it has in the whole
    return model, sorted(report["missing_keys"])


def save_model(model: Any, tokenizer: Any, template: str | None, end_id: int | list[int], directory: Path) -> None:
    """Write model and tokenizer so that plain `from_pretrained` (and vLLM) reads them as they were trained.

    Of a model with an adapter only that is written, as peft reads it. The chat template in use and the end-of-turn
    token, or tokens, are written with them. May raise OSError.
    """
    if template is not None:
        tokenizer.chat_template = template
    model.generation_config = GenerationConfig(eos_token_id=end_id, pad_token_id=model.config.pad_token_id)
    if has_adapter(model):
        save_adapter(model, directory)
    else:
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def check_compatible(student: Any, teacher: Any, student_path: str, teacher_path: str) -> None:
    """Refuse a teacher whose tokens are not the student's: log-probabilities would be of other tokens.

    Compares tokenizers only, so it runs before any weights are read. Their special tokens may have other roles: a base
    model and its instruct version end in different EOS tokens, and turns end in the chat's (`Chat.end_id`), which both
    have. Raises SodError.
    """
    ours, theirs = vocabulary(student), vocabulary(teacher)
    if ours != theirs:
        different = [t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t)]
        example = min(different, key=lambda t: (ours.get(t, 1 << 40), t))
        raise SodError(
            f"{teacher_path}: the teacher's vocabulary differs from the student's ({student_path}) in "
            f"{len(different)} tokens, e.g. {example!r} is {ours.get(example)} there and {theirs.get(example)} here; "
            "use a teacher of the same tokenizer"
        )


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turns whatever a library says about files that it cannot read into the one line `what`: reason."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers' and safetensors' own panics are no Exception
        if short_of_memory(error):
            raise
        raise SodError(f"{what}: {first_line(error)}") from error
