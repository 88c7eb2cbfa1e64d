"""SFT as a method: no teacher, no rewards, no episodes."""

from __future__ import annotations

from sod.objective import PRESETS, Need


def test_it_needs_nothing_that_is_played_or_scored() -> None:
    method = PRESETS["sft"]()
    assert (method.needs, method.level) == ({Need.DEMONSTRATIONS}, None)
    assert [name for name, preset in PRESETS.items() if Need.DEMONSTRATIONS in preset().needs] == ["sft"]
