"""TRL's side of `multi_turn.py`: one optimizer step of `DistillationTrainer` with a tool.

    python trl_multi_turn.py SETTINGS.json OVERRIDES

`max_completion_length` bounds the whole episode here; a turn is bounded by `max_new_tokens`, as on our side.
"""

from __future__ import annotations

from typing import Any

from trl_worker import load_tokenizer, read_settings, train_on_command


def main() -> None:
    settings = read_settings()
    calls = 0

    def read_page(document: str, page: int) -> str:
        """Read one page of a document.

        Args:
            document: Its name.
            page: The page, from 1.

        Returns:
            The text.
        """
        nonlocal calls
        calls += 1
        return str(settings["page"])

    def counted() -> dict[str, Any]:
        nonlocal calls
        made, calls = calls, 0
        return {"tool_calls": made}

    train_on_command(
        settings,
        load_tokenizer(settings["model"]),
        tools=(read_page,),
        figures=counted,
        max_completion_length=settings["max_response_tokens"],
        max_tool_calling_iterations=settings["turns"] - 1,
        generation_kwargs={"max_new_tokens": settings["max_turn_tokens"]},
    )


if __name__ == "__main__":
    main()
