"""The bench of the tests of every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from settings_bench import Bench, hub_of, quicken
from settings_world import make_place


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: Any, chat: Any, acting_model: Any, random_model: Callable[..., Any], conversations: Any
) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("settings")
    models, files = make_place(place, chat, acting_model, random_model(seed=7, sharpness=4.0), conversations)
    paths = {name: place / name for name in models} | {name: place / f"{name}.parquet" for name in files}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        splits = {
            ("owner/tasks", "train"): paths["train"],
            ("owner/tasks", "test"): paths["right"],
            ("owner/conversations", "train"): paths["sft"],
            ("owner/conversations", "test"): paths["fewer"],
        }
        hub_of(patch, splits)
        yield Bench(paths, place)
