"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys of the recipe to set, e.g. optim.lr=1e-4 (docs/keys.md)."),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let a run's own recipe do what no recipe that came with a run may: tools.python.unsafe, modules of its "
        "own in tools.python.preload, tools.python.fusion, reward.judge, teacher.url, and code of its own: "
        "tools.NAME.call, tools.NAME.mcp, reward.call, environment.call.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write.")]
