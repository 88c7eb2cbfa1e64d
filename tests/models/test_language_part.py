"""Of a model of text and images the language model is taken out; what has none is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from architectures import LINEAR, SIZES
from sod.models.load import load_model
from sod.records import SodError

TEXT: dict[str, dict[str, Any]] = {
    "gemma3": {"head_dim": 8, "sliding_window": 16},
    "mistral3": {"head_dim": 8, "model_type": "mistral", "sliding_window": None},
    "qwen3_5": LINEAR,
}
VISION: dict[str, dict[str, Any]] = {
    "gemma3": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "mistral3": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "qwen3_5": {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "out_hidden_size": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXT)
def test_the_language_model_of_a_whole_one(kind: str, tmp_path: Path) -> None:
    """Its logits are the whole model's on text, and it is saved and loaded as a model of its own."""
    config = AutoConfig.for_model(kind, text_config=SIZES | TEXT[kind], vision_config=VISION[kind])
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    model = load_model(str(tmp_path / "whole"), "float32")
    token_BT = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = whole(input_ids=token_BT, attention_mask=torch.ones_like(token_BT)).logits
        torch.testing.assert_close(model(input_ids=token_BT).logits, expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert "vision" not in " ".join(name for name, _ in model.named_parameters())
    model.save_pretrained(tmp_path / "alone")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "alone")
    assert type(alone) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))


def test_one_without_a_language_model_that_is_known(tmp_path: Path) -> None:
    AutoConfig.for_model("qwen2_5_vl").save_pretrained(tmp_path)
    with pytest.raises(SodError, match=r"'qwen2_5_vl' is not a decoder-only language model; use a model of") as caught:
        load_model(str(tmp_path), "float32")
    assert "\n" not in str(caught.value)
