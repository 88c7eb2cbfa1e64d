"""TRL's side of `step.py`: one optimizer step of `DistillationTrainer`, completions of one fixed length.

    python trl_step.py SETTINGS.json OVERRIDES

`min_new_tokens` is how transformers is told not to stop early: it keeps the end-of-turn token from being sampled.
"""

from __future__ import annotations

from trl_worker import load_tokenizer, read_settings, train_on_command


def main() -> None:
    settings = read_settings()
    train_on_command(
        settings,
        load_tokenizer(settings["model"]),
        tools=(),
        max_completion_length=settings["tokens"],
        generation_kwargs={"min_new_tokens": settings["tokens"]},
    )


if __name__ == "__main__":
    main()
