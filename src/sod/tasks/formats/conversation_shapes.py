"""The shapes in which conversations for SFT come. The first that recognises a row reads it."""

from __future__ import annotations

from sod.tasks.base import Conversation
from sod.tasks.formats.base import Shape
from sod.tasks.formats.sft_glaive import GLAIVE
from sod.tasks.formats.sft_messages import MESSAGES, SHAREGPT
from sod.tasks.formats.sft_pairs import ALPACA, PAIRS
from sod.tasks.formats.sft_preference import PREFERENCE
from sod.tasks.formats.sft_toolace import TOOLACE
from sod.tasks.formats.sft_trajectory import TRAJECTORY
from sod.tasks.formats.sft_xlam import XLAM

CONVERSATION_SHAPES: tuple[Shape[Conversation], ...] = (
    TRAJECTORY,
    PREFERENCE,
    GLAIVE,
    TOOLACE,
    XLAM,
    SHAREGPT,
    MESSAGES,
    ALPACA,
    PAIRS,
)
