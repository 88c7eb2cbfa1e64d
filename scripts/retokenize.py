"""A model with another tokenizer, to begin training from: the same body, and embeddings made of the old ones.

    python scripts/retokenize.py MODEL TOKENIZER OUT

Each of TOKENIZER's tokens gets the mean of the embeddings of MODEL's tokens that spell its bytes; control tokens that
both have keep theirs. What OUT holds knows its new tokens only roughly: it is a start for SFT, by which a teacher with
another tokenizer can be made where none is at hand. For models whose input and output embeddings are tied.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sod.alignment.pieces import Pieces, pieces_of
from sod.cli.allocator import reexecute_with_tunables
from sod.records import SodError


def main() -> None:
    """Read MODEL and TOKENIZER, write OUT."""
    from pathlib import Path

    from sod.build.job import final_model
    from sod.chat.render import Chat
    from sod.models.load import load_model, load_tokenizer, save_model
    from sod.report.console import notice
    from sod.tools.python import SCHEMA

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a checkpoint of one, a model directory or a hub id")
    parser.add_argument("tokenizer", help="a directory or hub id with the other tokenizer")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.tokenizer)
    path = final_model(options.model, notice)
    model = load_model(path, "bfloat16")
    give(model, load_tokenizer(path), tokenizer)
    chat = Chat(tokenizer, [SCHEMA])
    save_model(model, tokenizer, str(tokenizer.chat_template or chat.template), chat.end_id, options.out)
    print(f"{options.out}: {options.model} with the {len(tokenizer):,} tokens of {options.tokenizer}")


def give(model: Any, old: Any, new: Any) -> None:
    """Exchange the tokenizer of a model: its embeddings are of the `new` one's tokens now.

    Raises SodError where input and output embeddings are not tied.
    """
    if not model.config.tie_word_embeddings:
        raise SodError("the model's input and output embeddings are not tied; take one whose are")
    rows = spelled(pieces_of(new), pieces_of(old), old)
    weight_VD = model.get_input_embeddings().weight.detach()
    made_WD = means(weight_VD, rows)
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(made_WD)
    config = model.config
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, new.eos_token_id, new.pad_token_id


def spelled(new: Pieces, old: Pieces, tokenizer: Any) -> list[Sequence[int]]:
    """For each new token the old ones that spell it: its own where it is a control token of both, those of its text,
    or of its bytes where it is a part of a character. An id without a token is spelled by all of them."""
    controls = {piece: id for id, piece in enumerate(old.table[:-1]) if old.control[id] and piece}
    single = {piece: id for id, piece in enumerate(old.table[:-1]) if len(piece) == 1 and not old.control[id]}
    rows: list[Sequence[int]] = []
    for id, piece in enumerate(new.table[:-1]):
        if new.control[id] and piece in controls:
            rows.append([controls[piece]])
            continue
        try:
            found = tokenizer.encode(piece.decode(), add_special_tokens=False)
        except UnicodeDecodeError:
            found = [single[bytes([byte])] for byte in piece if bytes([byte]) in single]
        rows.append(found or range(len(old.table) - 1))
    return rows


def means(weight_VD: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """The mean of these rows of a matrix, for each of several lists. As many rows as lists, the matrix's dtype."""
    sizes = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([id for row in rows for id in row])
    owner = torch.repeat_interleave(torch.arange(len(rows)), sizes)
    total = torch.zeros(len(rows), weight_VD.shape[1]).index_add(0, owner, weight_VD[ids].float())
    return (total / sizes.unsqueeze(1)).to(weight_VD.dtype)


if __name__ == "__main__":
    reexecute_with_tunables()
    main()
