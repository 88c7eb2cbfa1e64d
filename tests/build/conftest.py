"""The bench of the tests of every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from settings_bench import Bench, hub_of, quicken
from settings_world import make_place

from support import made_once


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: Any, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> Iterator[Bench]:
    def make(directory: Path) -> None:
        make_place(directory, chat, acting_model, random_model(seed=7, sharpness=4.0), conversations)

    place = made_once(tmp_path_factory, "settings", make)
    paths = {path.name.removesuffix(".parquet"): path for path in place.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        splits = {
            ("owner/tasks", "train"): paths["train"],
            ("owner/tasks", "test"): paths["right"],
            ("owner/conversations", "train"): paths["sft"],
            ("owner/conversations", "test"): paths["fewer"],
        }
        hub_of(patch, splits)
        yield Bench(paths, tmp_path_factory.mktemp("runs"))
