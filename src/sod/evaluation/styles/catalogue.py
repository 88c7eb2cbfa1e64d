"""The styles by name."""

from __future__ import annotations

from collections.abc import Mapping

from sod.evaluation.styles.lm_eval import LM_EVAL, LM_EVAL_STRICT
from sod.evaluation.styles.official import OFFICIAL
from sod.evaluation.styles.ruled import RuledStyle
from sod.evaluation.styles.sod import SOD

STYLES: Mapping[str, RuledStyle] = {style.name: style for style in (SOD, LM_EVAL, LM_EVAL_STRICT, OFFICIAL)}
