"""SFT as a method: no teacher, no rewards, no episodes."""

from __future__ import annotations

from sod.objective import PRESETS


def test_it_needs_nothing_that_is_played_or_scored() -> None:
    method = PRESETS["sft"]()
    assert method.supervised
    assert (method.needs_teacher, method.needs_reward, method.scores) == (False, False, "none")
    assert [name for name, preset in PRESETS.items() if preset().supervised] == ["sft"]
