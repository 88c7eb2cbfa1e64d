"""The tokens of two tokenizers over one text: their bytes, the spans both agree on, and losses over those spans."""
